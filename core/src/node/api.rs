//! What a caller of the node sees besides requests: configuration, tickets, progress, status.

use alloc::string::String;

use crate::ids::{ClusterId, Generation, Op, OriginId, Release, ReplicaId, View};
use crate::io::{IoError, KeyError};
use crate::journal::TornTail;
use crate::limits::{CLOCK_FIRST_MAX_NS, CLOCK_JUMP_MAX_NS};
use crate::node::ScrubStatus;
use crate::node::memory::{Memory, MemoryTooSmall};
use crate::query::datetime::write_timestamp;
use crate::time::Timestamp;
use crate::vsr::replica::ReplicaStatus;

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
    /// The budget that the clean cache gets what is left of.
    pub memory: Memory,
    /// Evict every unpinned page after every turn. Results must not change; only speed does.
    pub evict_everything: bool,
    /// The operator's word that a superblock with one surviving copy may be opened.
    pub accept_single_superblock_copy: bool,
    /// The operator's word that the wall clock is right, however far it is ahead of what is
    /// recorded.
    pub accept_clock: bool,
    /// Attest the state this long after something was applied, and at shutdown; `None`: only when
    /// a proof is asked for.
    pub attest_after_ns: Option<u64>,
    /// The caller carries frames between the replicas of a cluster. Without it a directory of
    /// several replicas is refused.
    pub serves_cluster: bool,
    /// Read all logs in the background, again and again, for damage that nobody reads.
    pub scrub: bool,
}

impl Config {
    #[must_use]
    pub fn new(replica: ReplicaId) -> Config {
        Config {
            cluster: None,
            replica,
            release: CURRENT_RELEASE,
            memory: Memory::DEFAULT,
            evict_everything: false,
            accept_single_superblock_copy: false,
            accept_clock: false,
            attest_after_ns: None,
            serves_cluster: false,
            scrub: false,
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
    /// Another task holds what this one needs, or what it needs is not applied here yet; call
    /// again later.
    Behind,
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
    /// The wall clock is too far ahead of what is recorded to be believed without the operator's
    /// word; `last` is none before the first prepare. Nothing was written but a view number.
    Clock { last: Option<Timestamp>, wall: Timestamp },
    /// The directory was fetching a checkpoint of a peer when its last process ended: there is none
    /// in it, and only peers have one. Nothing was changed.
    Syncing,
    /// The memory given does not suffice for this directory's constants. Nothing was written.
    Memory(MemoryTooSmall),
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
            Halt::Clock { last, wall } => write_clock(f, *last, *wall),
            Halt::Syncing => f.write_str(
                "this replica was fetching a checkpoint from its peers and has none until that is \
                 done: start it among them",
            ),
            Halt::Memory(error) => error.fmt(f),
            Halt::Shutdown => f.write_str("shut down"),
        }
    }
}

fn write_clock(
    f: &mut core::fmt::Formatter<'_>,
    last: Option<Timestamp>,
    wall: Timestamp,
) -> core::fmt::Result {
    let time = |f: &mut core::fmt::Formatter<'_>, time: Timestamp| match i64::try_from(time.0) {
        Ok(ns) => write_timestamp(ns, f),
        Err(_) => write!(f, "{} s after 1970", time.0 / crate::time::SECOND_NS),
    };
    let days = |ns: u64| ns / crate::time::SECOND_NS / (24 * 3600);
    f.write_str("the clock of this machine says ")?;
    time(f, wall)?;
    match last {
        Some(last) => {
            f.write_str(", and the last time on record is ")?;
            time(f, last)?;
            let (ahead, bound) = (days(wall.0.saturating_sub(last.0)), days(CLOCK_JUMP_MAX_NS));
            write!(f, ", {ahead} days before: more than {bound} days are not believed unasked")?;
        }
        None => {
            f.write_str(", later than ")?;
            time(f, Timestamp(CLOCK_FIRST_MAX_NS))?;
            f.write_str(": not believed unasked")?;
        }
    }
    f.write_str(
        ". Recorded time never goes back, so a wrong clock would do lasting harm. Set the clock \
         and open again; if it is right, open once with --accept-clock",
    )
}

/// The grid, and what of it is in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GridStatus {
    pub pages_in_use: u32,
    /// Pages in memory beside those that changed, at most.
    pub clean_pages_max: u32,
    /// Read from the disk since the node opened.
    pub pages_read: u64,
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
    /// Op of the last checkpoint begun: above `checkpoint` while it is being written.
    pub checkpoint_begun: Op,
    /// Bytes of the journal's ring that a restart would have to read, and of the whole ring.
    pub journal_used_bytes: u64,
    pub journal_ring_bytes: u64,
    /// What the open dropped from the end of the journal: a write that was on its way when the last
    /// process stopped; or, where some of it was there (`damaged`), one that was damaged since.
    /// None of a replica among others: its peers know.
    pub torn_tail: Option<TornTail>,
    pub grid: GridStatus,
    /// Free bytes on the file system, when the shell has told.
    pub free_bytes: Option<u64>,
    /// It takes writes; and it answers reads.
    pub ready: bool,
    pub reads: bool,
    /// Of a replica among others.
    pub replica_status: Option<ReplicaStatus>,
    /// The checkpoint of a peer that is being fetched; 0: none is offered yet.
    pub syncing: Option<Op>,
    /// Its directory took the place of a lost one, and has no log of a view yet.
    pub replaced: bool,
    /// Of a node that scrubs its logs.
    pub scrub: ScrubStatus,
    pub halted: Option<Halt>,
}
