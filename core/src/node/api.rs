//! What a caller of the node sees besides requests: configuration, tickets, progress, status.

use alloc::string::String;

use crate::ids::{ClusterId, Generation, Op, OriginId, Release, ReplicaId, View};
use crate::io::{IoError, KeyError};

/// The only source of randomness of a node: nonces of sealed requests and minted keys come from it.
/// The shell draws it from the operating system, the simulator from its own seed.
#[derive(Clone)]
pub struct Seed(pub [u8; 32]);

impl core::fmt::Debug for Seed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// What may differ between two opens of the same data. Nothing here steers state.
#[derive(Clone, Debug)]
pub struct Config {
    /// Refuse data of any other cluster; `None` takes what the directory holds.
    pub cluster: Option<ClusterId>,
    pub replica: ReplicaId,
    pub release: Release,
    /// Clean pages kept in memory; dirty pages have a budget of their own (cluster constants).
    pub cache_pages: u32,
    /// Evict every unpinned page after every turn. Results must not change; only speed does.
    pub evict_everything: bool,
    /// The operator's word that a superblock with one surviving copy may be opened.
    pub accept_single_superblock_copy: bool,
}

impl Config {
    pub const CACHE_PAGES_DEFAULT: u32 = 64 << 10;

    #[must_use]
    pub fn new(replica: ReplicaId) -> Config {
        Config {
            cluster: None,
            replica,
            release: CURRENT_RELEASE,
            cache_pages: Config::CACHE_PAGES_DEFAULT,
            evict_everything: false,
            accept_single_superblock_copy: false,
        }
    }
}

/// Release of this build; a data directory of a newer one is refused.
pub const CURRENT_RELEASE: Release = Release::new(1);

/// Names one submitted request until its reply is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What a slice of a read achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The task holds its answer.
    Ready,
    /// The slice is used up; call again when others had their turn.
    Yielded,
    /// Pages are being read; call again after the next completion.
    Waiting,
}

/// Why a node stopped. It acknowledges nothing afterwards; what it acknowledged is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The disk failed; nothing was answered that is not durable.
    Io { error: IoError, what: &'static str },
    /// The holder of the master key refused or does not answer.
    Key(KeyError),
    /// What the disk holds cannot be trusted or is not ours. The text names what is lost and what
    /// to do next.
    Data { what: &'static str, detail: String },
    /// A graceful shutdown is complete.
    Shutdown,
}

impl core::fmt::Display for Halt {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Halt::Io { error, what } => write!(f, "{what}: {error}"),
            Halt::Key(KeyError::WrongMasterKey) => f.write_str(
                "the master key does not open this data directory's keys; nothing was changed. \
                 Give the key that was used at format",
            ),
            Halt::Key(KeyError::Unavailable) => {
                f.write_str("the holder of the master key does not answer; nothing was changed")
            }
            Halt::Data { what, detail } => write!(f, "{what}: {detail}"),
            Halt::Shutdown => f.write_str("shut down"),
        }
    }
}

/// What `verity status` shows of this replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub cluster: ClusterId,
    pub origin: OriginId,
    pub replica: ReplicaId,
    pub release: Release,
    pub view: View,
    pub generation: Generation,
    /// Highest op proposed, committed, applied; op of the last durable checkpoint.
    pub op: Op,
    pub commit: Op,
    pub applied: Op,
    pub checkpoint: Op,
    /// Free bytes on the file system, when the shell has told.
    pub free_bytes: Option<u64>,
    pub ready: bool,
    pub halted: Option<Halt>,
}
