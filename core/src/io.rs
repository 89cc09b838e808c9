//! The whole boundary of the core: what comes in, what goes out.
//!
//! Purpose: everything the core knows of the world is an [`Input`]; everything it does to the world
//! is an [`Effect`]. Buffers *move* with an effect and come back with its completion, in any order.
//!
//! Fault model: a read may return anything; a write may be torn, lost or misdirected; completions
//! may carry [`IoError`]. Nothing here is trusted: each module checks what it reads against its
//! parent. Architecture Invariant: there is no other way in or out, and no trait for storage.

use alloc::vec::Vec;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::event::Event;
use crate::ids::{ReplicaId, SegmentNumber, TenantId};
use crate::limits::PAGE_SIZE;

mod blocks;

pub use blocks::BlockByBlock;

/// 4 KiB, aligned for O_DIRECT.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; PAGE_SIZE]);

impl core::fmt::Debug for Page {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Page")
    }
}

/// An owned run of pages: the only buffer that crosses the boundary to a disk.
#[derive(Clone, Debug, Default)]
pub struct Pages(Vec<Page>);

impl Pages {
    #[must_use]
    pub fn zeroed(count: usize) -> Pages {
        let mut pages = Vec::with_capacity(count);
        pages.resize_with(count, Page::new_zeroed);
        Pages(pages)
    }

    /// No pages yet, and room for `count` of them.
    #[must_use]
    pub fn with_capacity(count: usize) -> Pages {
        Pages(Vec::with_capacity(count))
    }

    /// Drops pages from the end, or adds zeroed ones; the rest keep their content.
    pub fn resize(&mut self, count: usize) {
        self.0.resize_with(count, Page::new_zeroed);
    }

    /// Copies bytes and pads the last page with zeros.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Pages {
        let mut pages = Pages::zeroed(bytes.len().div_ceil(PAGE_SIZE));
        pages.as_bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        pages
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.0.len() * PAGE_SIZE
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice().as_bytes()
    }

    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().as_mut_bytes()
    }

    #[must_use]
    pub fn as_slice(&self) -> &[Page] {
        &self.0
    }

    pub fn as_mut_slice(&mut self) -> &mut [Page] {
        &mut self.0
    }
}

/// A file of the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileId {
    Superblock,
    Journal,
    Grid,
    Keys,
    Segment {
        tenant: TenantId,
        number: SegmentNumber,
    },
    Index {
        tenant: TenantId,
        number: SegmentNumber,
    },
    /// A second grid that `rebuild` fills and drops; never part of a checkpoint.
    Scratch,
}

/// A place in a file; `offset` is in bytes and a multiple of the page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub file: FileId,
    pub offset: u64,
}

impl Address {
    #[must_use]
    pub fn new(file: FileId, offset: u64) -> Address {
        assert!(offset.is_multiple_of(PAGE_SIZE as u64), "I/O is page aligned");
        Address { file, offset }
    }
}

/// Which module waits for a completion; the node routes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    Superblock,
    Journal,
    Keyring,
    Store,
    Log,
    Node,
}

/// Names one effect until its completion. Unique among those in flight of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoId {
    pub owner: Owner,
    pub slot: u64,
}

/// What a disk can answer. Both stop the replica; neither changes an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoError {
    /// EIO: a latent sector error or worse.
    Device,
    /// ENOSPC or EDQUOT.
    NoSpace,
    /// EROFS or EACCES.
    ReadOnly,
}

impl core::fmt::Display for IoError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            IoError::Device => "device error (EIO)",
            IoError::NoSpace => "no space left on device (ENOSPC)",
            IoError::ReadOnly => {
                "no access: a read-only file system, or rights that are missing (EROFS, EACCES)"
            }
        })
    }
}

/// A key encryption key in the clear, on its way to or from the holder of the master key.
#[derive(Clone, PartialEq, Eq, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct SecretKey(pub [u8; 32]);

impl core::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// A key sealed under the master key: nonce [12] ‖ ciphertext [32] ‖ tag [16].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrappedKey(pub [u8; 60]);

/// What a key under the master key is for. A wrapped key opens only as what it was wrapped as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPurpose {
    /// A tenant's key encryption key.
    Kek,
    /// This replica's signing key.
    Cosigning,
}

/// Why a key could not be wrapped or unwrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The master key does not open it: the wrong key, or a damaged copy.
    WrongMasterKey,
    /// The holder of the master key (file, PKCS#11 token) does not answer.
    Unavailable,
}

/// All that the core learns of the world.
#[derive(Debug)]
pub enum Input {
    /// Time has passed; at least one a `deadline`.
    Tick,
    /// A short read past the end of a file is filled with zeros by the shell; so is one of a
    /// segment or index that is missing.
    ReadDone {
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
    },
    WriteDone {
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
    },
    /// Of `Sync`, `Create` and `Remove`.
    Done {
        io: IoId,
        result: Result<(), IoError>,
    },
    Wrapped {
        io: IoId,
        key: Result<WrappedKey, KeyError>,
    },
    Unwrapped {
        io: IoId,
        key: Result<SecretKey, KeyError>,
    },
    /// Free bytes on the file system of the data directory, told now and then.
    Space {
        free_bytes: u64,
    },
    /// A whole frame from another replica of the cluster, whose identity the link has shown.
    Received {
        from: ReplicaId,
        frame: Vec<u8>,
    },
    /// That replica closed the link on which it sends to us, and has not dialled anew: perhaps its
    /// process has ended. A hint, which may be false.
    LinkClosed {
        peer: ReplicaId,
    },
}

/// All that the core does to the world.
#[derive(Debug)]
pub enum Effect {
    Read {
        io: IoId,
        at: Address,
        pages: Pages,
    },
    /// `durable`: done only when a power cut can no longer undo it (O_DSYNC).
    Write {
        io: IoId,
        at: Address,
        pages: Pages,
        durable: bool,
    },
    /// Done when every completed write to the file, and its length, is durable.
    Sync {
        io: IoId,
        file: FileId,
    },
    /// Creates the file, and its directory, if missing; done when the directory entry is durable.
    Create {
        io: IoId,
        file: FileId,
    },
    /// Removes the file if present; done when that is durable.
    Remove {
        io: IoId,
        file: FileId,
    },
    Wrap {
        io: IoId,
        purpose: KeyPurpose,
        key: SecretKey,
    },
    Unwrap {
        io: IoId,
        purpose: KeyPurpose,
        key: WrappedKey,
    },
    /// A frame to another replica of the cluster. It may be lost, and come late, twice or never:
    /// there is no completion.
    Send {
        to: ReplicaId,
        frame: Vec<u8>,
    },
    Event(Event),
}

impl Effect {
    /// Whether an input will answer it.
    #[must_use]
    pub fn completes(&self) -> bool {
        match self {
            Effect::Read { .. }
            | Effect::Write { .. }
            | Effect::Sync { .. }
            | Effect::Create { .. }
            | Effect::Remove { .. }
            | Effect::Wrap { .. }
            | Effect::Unwrap { .. } => true,
            Effect::Send { .. } | Effect::Event(_) => false,
        }
    }
}

impl Input {
    /// Whether it answers an effect.
    #[must_use]
    pub fn is_completion(&self) -> bool {
        match self {
            Input::ReadDone { .. }
            | Input::WriteDone { .. }
            | Input::Done { .. }
            | Input::Wrapped { .. }
            | Input::Unwrapped { .. } => true,
            Input::Tick
            | Input::Space { .. }
            | Input::Received { .. }
            | Input::LinkClosed { .. } => false,
        }
    }
}

/// The queue of effects of one turn, in order of issue.
#[derive(Debug, Default)]
pub struct Effects {
    queue: Vec<Effect>,
}

impl Effects {
    #[must_use]
    pub fn new() -> Effects {
        Effects::default()
    }

    pub fn push(&mut self, effect: Effect) {
        self.queue.push(effect);
    }

    pub fn event(&mut self, event: Event) {
        self.queue.push(Effect::Event(event));
    }

    pub fn drain(&mut self) -> alloc::vec::Drain<'_, Effect> {
        self.queue.drain(..)
    }

    /// Effects from this place in the queue on that will have a completion.
    #[must_use]
    pub fn completions_from(&self, place: usize) -> u64 {
        let queue = self.queue.get(place..).unwrap_or(&[]);
        queue.iter().filter(|effect| effect.completes()).count() as u64
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }
}
