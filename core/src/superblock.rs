//! The superblock: four copies of the root of everything, and what is this replica's own.
//!
//! Purpose: one 4 KiB [`SuperblockState`] names the last durable checkpoint (and through it every
//! page), the view, and what this replica keeps for itself. Everything else on disk is found from
//! here and checked against here.
//!
//! **Write order.** An update gets the next sequence number and the checksum of the state before
//! it, then goes to copies 0, 1, 2, 3, one after the other; each is written durably, read back and
//! compared before the next is touched. Only then [`SuperblockEvent::Updated`] says that it counts.
//! Everything the new state names (pages, log blocks, files) is durable *before* copy 0 is written;
//! nothing the old state needs (pages it frees, ring space below its checkpoint) is reused *until*
//! `Updated`.
//!
//! **Opening.** Copies that fail their checksum, or sit in another copy's place, do not count. The
//! rest are grouped by (sequence, checksum):
//!
//! 1. The highest sequence with at least two equal copies wins. A single copy above it is an update
//!    that a crash cut short. By the write order either choice is safe: the newer names only
//!    durable things, and nobody relied on it yet; the older one's pages and ring were not reused.
//!    The quorum is taken, because a lone copy may also be one that a faulty disk brought back.
//! 2. No two agree, but one is named as `previous` by the other (a crash in an update that met rot
//!    in the same moment): the newer. It may have been effective, then only it is right; if it was
//!    not, it is complete all the same.
//! 3. No two agree and they are not linked: [`SuperblockError::CopiesDisagree`].
//! 4. One copy left: [`SuperblockError::OneCopyLeft`], unless the operator accepts it. Nothing can
//!    tell whether it is the newest. None: [`SuperblockError::AllCopiesLost`].
//!
//! A copy that the device does not give (EIO) is one that does not count, and is written again:
//! that is how a disk mends a sector. But where the rules refuse and a copy could not be read,
//! [`SuperblockError::Unreadable`] says that, for it may be whole; and where a copy may not be read
//! (rights), whatever the others say, for nothing is known of the disk then. Both write nothing.
//!
//! After the decision every copy that differs is rewritten (damaged ones first, so that the number
//! of good copies never falls) and only then the node may go on. Sequence numbers of abandoned
//! updates are never used again. The journal adds one more check: a header in the ring that knows a
//! newer view or checkpoint than the superblock proves that the newest copies were lost.
//!
//! Invariants: `sequence` grows by one with each update of one history; a copy number that is not
//! its place is damage; a state of another cluster, replica, newer format or newer release is
//! refused before a byte is written.
//!
//! Fault model: any copy may be torn, rotten, unreadable (EIO), stale or misdirected. Two or more
//! lost between two opens leave the rest to the rules above. Losing all four is an error.
//!
//! Start reading at [`Superblock`], then `decide` in `superblock/quorum.rs`; the byte table is in
//! `superblock/layout.rs` and `docs/DATA_FILE.md`.

mod layout;
mod quorum;
#[cfg(test)]
pub(crate) mod tests;

use alloc::boxed::Box;

use crate::crypto::hash::{ChainHash, InternalHash};
use crate::crypto::seal::Tag;
use crate::event::Event;
use crate::ids::{
    ClusterId, Generation, GridId, Op, OriginId, PageNumber, Release, ReplicaId, View,
};
use crate::io::{Address, Effect, Effects, FileId, IoError, IoId, Owner, Pages, WrappedKey};
use crate::limits::{
    ClusterConstants, PAGE_SIZE, REPLICA_PEERS_MAX, SUPERBLOCK_COPIES, SUPERBLOCK_COPY_SPACING,
};
use crate::time::Timestamp;

pub use layout::{FORMAT_VERSION, decode_checkpoint, encode_checkpoint};
pub use quorum::{CopiesReport, CopyVerdict, Decision, decode_copies, judge_copies};

/// How a parent names and checks a page: where it is, at which checkpoint it was written (together
/// the nonce of its seal), and the tag that opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRef {
    pub page: PageNumber,
    pub checkpoint_op: Op,
    pub tag: Tag,
}

impl PageRef {
    /// Page 0 is never allocated.
    pub const NONE: PageRef =
        PageRef { page: PageNumber::ZERO, checkpoint_op: Op::ZERO, tag: Tag([0; 16]) };

    #[must_use]
    pub fn is_none(&self) -> bool {
        self.page == PageNumber::ZERO
    }
}

/// Root of the system tenant's forest, from which every tree of every tenant is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForestRoot {
    pub root: PageRef,
    /// Levels above the leaves.
    pub height: u8,
    /// Entries in the tree.
    pub count: u64,
    /// Logical (Merkle) hash of the root.
    pub hash: ChainHash,
}

/// Where the set of free pages is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSetRoot {
    pub root: PageRef,
    /// Pages the encoded set takes.
    pub pages: u32,
    /// Runs of free pages it holds.
    pub runs: u64,
}

/// The state after one op, complete enough to restart from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointState {
    /// Everything up to and including this op is in the grid and the segments.
    pub op: Op,
    /// Header checksum of that op's prepare: the parent of op + 1.
    pub prepare_checksum: InternalHash,
    /// Where that op's prepare ends in the journal, and op + 1 begins.
    pub journal_offset: u64,
    /// Timestamp of that op: the next one's is later.
    pub timestamp: Timestamp,
    /// Recovery records applied up to and including that op: the generation of op + 1.
    pub generation: Generation,
    /// Entries of recovery in the system log since format.
    pub recovery_count: u64,
    pub system_forest: ForestRoot,
    pub free_set: FreeSetRoot,
    /// Pages of the grid ever used: every page at or above is untouched.
    pub grid_pages: u32,
}

/// The newest that this replica saw of a peer; what makes a peer that came back with an older disk
/// count as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PeerEvidence {
    pub log_view: View,
    /// The highest op the peer acknowledged.
    pub op: Op,
}

/// The last head of the cluster log that this replica cosigned. Zeros until it cosigns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CosignedHead {
    pub size: u64,
    pub hash: ChainHash,
}

/// One version of the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuperblockState {
    pub format_version: u32,
    /// Grows with each update. Set by [`Superblock::update`].
    pub sequence: u64,
    /// Checksum of the version before this one. Set by [`Superblock::update`].
    pub previous: InternalHash,
    pub cluster: ClusterId,
    pub origin: OriginId,
    /// Whose keys seal the pages of the checkpoint.
    pub grid: GridId,
    /// A peer's checkpoint is being fetched: what the grid and the segments hold is no checkpoint,
    /// and this replica neither votes nor serves until one is whole.
    pub syncing: bool,
    /// Made empty for a replica whose disk was lost: what that one promised is not known here, and
    /// until the log of a view is installed this replica counts for nothing.
    pub replaced: bool,
    pub replica: ReplicaId,
    pub replica_count: u8,
    /// The newest release that wrote here.
    pub release: Release,
    pub constants: ClusterConstants,
    /// No prepare of a later view was ever written by this replica.
    pub view: View,
    pub log_view: View,
    /// Recovery records known when this was written.
    pub generation: Generation,
    /// This op and all before it are committed: one that is damaged is rotten, never torn.
    pub committed: Op,
    pub checkpoint: CheckpointState,
    /// The replica's cosigning key, wrapped by the master key.
    pub signing_key: WrappedKey,
    pub cosigned: CosignedHead,
    /// What was seen of the peers. At this replica's own place: the record of an erasure, that
    /// nothing above the op counts of what it acknowledged in that log view.
    pub peers: [PeerEvidence; REPLICA_PEERS_MAX],
}

impl SuperblockState {
    /// What `previous` of the next version will hold.
    #[must_use]
    pub fn checksum(&self) -> InternalHash {
        layout::checksum(self)
    }
}

/// Why the superblock could not be opened or updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuperblockError {
    /// No copy is good: restore from a backup or, in a cluster, replace the replica.
    AllCopiesLost,
    /// Only `copy` is good, at `sequence`: nothing confirms that it is the newest. Opens only when
    /// the operator accepts it.
    OneCopyLeft { copy: u8, sequence: u64 },
    /// So many copies could not be read, and without them nothing can be decided. Nothing was
    /// written: they may be whole.
    Unreadable { copies: u8, error: IoError },
    /// Good copies that neither agree nor follow one another.
    CopiesDisagree { sequence_min: u64, sequence_max: u64 },
    /// The directory belongs to another cluster.
    WrongCluster { found: ClusterId, expected: ClusterId },
    /// The directory belongs to another replica.
    WrongReplica { found: ReplicaId, expected: ReplicaId },
    /// Written in a format that this release does not know: use the newer release.
    NewerFormat { found: u32, known: u32 },
    /// Written by a newer release: use that one.
    NewerRelease { found: Release, known: Release },
    /// What was written is not what is read back: the disk lies. Nothing relied on the update.
    ReadBackMismatch { copy: u8 },
    /// The disk failed while writing or reading back `copy`.
    Io { copy: u8, error: IoError },
}

impl core::fmt::Display for SuperblockError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            SuperblockError::AllCopiesLost => f.write_str(
                "all four copies of the superblock are lost: restore this directory from a backup",
            ),
            SuperblockError::OneCopyLeft { copy, sequence } => write!(
                f,
                "only copy {copy} of the superblock (sequence {sequence}) is left and nothing \
                 confirms that it is the newest: if no newer data can exist, open with \
                 --accept-single-superblock-copy",
            ),
            SuperblockError::Unreadable { copies, error } => write!(
                f,
                "{copies} of the four copies of the superblock cannot be read ({error}): it is not \
                 known what they hold; nothing was written",
            ),
            SuperblockError::CopiesDisagree { sequence_min, sequence_max } => write!(
                f,
                "the copies of the superblock (sequences {sequence_min} to {sequence_max}) belong \
                 to different histories: restore this directory from a backup",
            ),
            SuperblockError::WrongCluster { found, expected } => {
                write!(
                    f,
                    "the directory is of cluster {:032x}, not of {:032x}",
                    found.get(),
                    expected.get()
                )
            }
            SuperblockError::WrongReplica { found, expected } => {
                write!(f, "the directory is of replica {found}, not of {expected}")
            }
            SuperblockError::NewerFormat { found, known } => write!(
                f,
                "the directory has format version {found}, this release knows up to {known}: use \
                 the newer release",
            ),
            SuperblockError::NewerRelease { found, known } => write!(
                f,
                "the directory was written by release {found}, this is release {known}: use the \
                 newer release",
            ),
            SuperblockError::ReadBackMismatch { copy } => write!(
                f,
                "copy {copy} of the superblock reads back differently from what was written: \
                 check the disk",
            ),
            SuperblockError::Io { copy, error } => {
                write!(f, "copy {copy} of the superblock: {error}")
            }
        }
    }
}

/// What an opener knows beforehand.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Refuse any other cluster; `None` takes what is there.
    pub cluster: Option<ClusterId>,
    /// Refuse any other replica; `None` takes what is there.
    pub replica: Option<ReplicaId>,
    /// Release of this software.
    pub release: Release,
    /// The operator's word that a single surviving copy is the newest.
    pub accept_single_copy: bool,
}

/// What a completion brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuperblockEvent {
    /// A state was chosen and all four copies hold it: see [`Superblock::state`].
    Opened,
    /// All four copies hold what [`Superblock::update`] (or `format`) was given.
    Updated,
}

/// Byte offset of a copy in its file.
#[must_use]
pub fn copy_offset(copy: u8) -> u64 {
    assert!(usize::from(copy) < SUPERBLOCK_COPIES);
    u64::from(copy) * SUPERBLOCK_COPY_SPACING
}

/// Owner of `FileId::Superblock`: opens it, and updates it one copy at a time.
#[derive(Debug)]
pub struct Superblock {
    phase: Phase,
    /// The last state that all four copies hold.
    state: Option<SuperblockState>,
    /// Highest sequence number ever seen, abandoned updates included.
    sequence_max: u64,
}

#[derive(Debug)]
enum Phase {
    /// What was read of each copy so far.
    Reading {
        options: OpenOptions,
        copies: [Option<Result<Pages, IoError>>; SUPERBLOCK_COPIES],
    },
    Writing(Box<Writing>),
    Idle,
    Failed,
}

/// Rewrites `copies[..]`, one after the other.
#[derive(Debug)]
struct Writing {
    state: SuperblockState,
    copies: [u8; SUPERBLOCK_COPIES],
    count: usize,
    /// Index into `copies` of the one being written or read back.
    at: usize,
    step: Step,
    reason: SuperblockEvent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Write,
    ReadBack,
}

impl Superblock {
    /// Writes the first state of a new directory; the file must exist. Ends in `Updated`.
    #[must_use]
    pub fn format(state: SuperblockState, effects: &mut Effects) -> Superblock {
        let mut superblock = Superblock { phase: Phase::Idle, state: None, sequence_max: 0 };
        assert!(!state.replaced || state.replica_count > 1, "one replica alone has no peers");
        let state = SuperblockState {
            format_version: layout::version_of(&state),
            sequence: 1,
            previous: InternalHash::ZERO,
            ..state
        };
        let all = [0, 1, 2, 3];
        superblock.rewrite(state, all, SUPERBLOCK_COPIES, SuperblockEvent::Updated, effects);
        superblock
    }

    /// Starts to read the four copies. Ends in `Opened` or an error.
    #[must_use]
    pub fn open(options: OpenOptions, effects: &mut Effects) -> Superblock {
        for copy in 0..SUPERBLOCK_COPIES as u8 {
            effects.push(Effect::Read {
                io: read_id(copy),
                at: Address::new(FileId::Superblock, copy_offset(copy)),
                pages: Pages::zeroed(1),
            });
        }
        let copies = [None, None, None, None];
        let phase = Phase::Reading { options, copies };
        Superblock { phase, state: None, sequence_max: 0 }
    }

    /// The state that all four copies hold; `None` before `Opened` or the first `Updated`.
    #[must_use]
    pub fn state(&self) -> Option<&SuperblockState> {
        self.state.as_ref()
    }

    /// Whether [`Superblock::update`] may be called.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Starts to replace the state in all four copies; ends in `Updated`. Nothing may rely on it
    /// before, and all it names must be durable already. `sequence` and `previous` are set here.
    pub fn update(&mut self, state: SuperblockState, effects: &mut Effects) {
        assert!(self.is_idle(), "one update at a time, after open");
        let Some(last) = &self.state else { unreachable!("idle means opened or formatted") };
        assert_eq!(state.cluster, last.cluster, "a directory never changes its cluster");
        assert_eq!(state.replica, last.replica, "a directory never changes its replica");
        assert_eq!(state.constants, last.constants, "cluster constants are chosen at format");
        assert!(state.view >= last.view, "views never go back");
        assert!(state.log_view >= last.log_view, "log views never go back");
        assert!(state.log_view <= state.view);
        assert!(state.committed >= last.committed, "what is committed stays so");
        assert!(state.checkpoint.op >= last.checkpoint.op, "checkpoints never go back");
        assert!(state.checkpoint.op <= state.committed, "only what is committed is checkpointed");
        assert!(state.checkpoint.journal_offset >= last.checkpoint.journal_offset);
        assert!(state.generation >= last.generation);
        assert!(!state.syncing || state.replica_count > 1, "one replica alone has no peers");
        assert!(!state.replaced || last.replaced, "only a format says that a disk was lost");
        let state = SuperblockState {
            format_version: layout::version_of(&state),
            sequence: self.sequence_max + 1,
            previous: last.checksum(),
            ..state
        };
        let all = [0, 1, 2, 3];
        self.rewrite(state, all, SUPERBLOCK_COPIES, SuperblockEvent::Updated, effects);
    }

    /// Routes a completed read of `Owner::Superblock`.
    pub fn on_read_done(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<Option<SuperblockEvent>, SuperblockError> {
        assert_eq!(io.owner, Owner::Superblock);
        let outcome = match &self.phase {
            Phase::Reading { .. } => self.copy_read(io, pages, result, effects),
            Phase::Writing(_) => self.copy_read_back(io, &pages, result, effects),
            Phase::Idle => unreachable!("a read that was not asked for"),
            Phase::Failed => return Ok(None),
        };
        if outcome.is_err() {
            self.phase = Phase::Failed;
        }
        outcome
    }

    /// Routes a completed write of `Owner::Superblock`.
    pub fn on_write_done(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<Option<SuperblockEvent>, SuperblockError> {
        assert_eq!(io.owner, Owner::Superblock);
        let writing = match &mut self.phase {
            Phase::Writing(writing) => writing,
            Phase::Failed => return Ok(None),
            Phase::Reading { .. } | Phase::Idle => unreachable!("a write that was not issued"),
        };
        assert_eq!(writing.step, Step::Write);
        let copy = writing.copies[writing.at];
        assert_eq!(io, write_id(copy));
        if let Err(error) = result {
            self.phase = Phase::Failed;
            return Err(SuperblockError::Io { copy, error });
        }
        writing.step = Step::ReadBack;
        // Another pattern than the one expected: a read that does nothing must not pass.
        let mut pages = pages;
        pages.as_bytes_mut().fill(0xa5);
        let at = Address::new(FileId::Superblock, copy_offset(copy));
        effects.push(Effect::Read { io: read_id(copy), at, pages });
        Ok(None)
    }

    fn copy_read(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<Option<SuperblockEvent>, SuperblockError> {
        let Phase::Reading { options, copies } = &mut self.phase else {
            unreachable!("matched by the caller")
        };
        let Ok(copy) = usize::try_from(io.slot) else { unreachable!("slots are small") };
        assert!(copy < SUPERBLOCK_COPIES && copies[copy].is_none(), "each copy is read once");
        copies[copy] = Some(result.map(|()| pages));
        let [Some(first), Some(second), Some(third), Some(fourth)] = &*copies else {
            return Ok(None);
        };
        let options = *options;
        let answers = [first, second, third, fourth];
        let report = judge_copies(&answers.map(|answer| match answer {
            Ok(pages) => Ok(pages.as_bytes()),
            Err(error) => Err(*error),
        }));
        let decision = report.decide(options.accept_single_copy)?;
        check_identity(&decision.state, &options)?;
        // Told once it is certain that they are written again.
        for (copy, verdict) in report.verdicts.iter().enumerate() {
            if !verdict.is_good() {
                effects.event(Event::SuperblockCopyBad { copy: copy as u8 });
            }
        }
        self.sequence_max = decision.sequence_max;
        effects.event(Event::SuperblockOpened {
            sequence: decision.state.sequence,
            copies_good: decision.copies_agreeing,
        });
        if decision.repair_count == 0 {
            self.phase = Phase::Idle;
            self.state = Some(decision.state);
            return Ok(Some(SuperblockEvent::Opened));
        }
        let (state, count) = (decision.state, decision.repair_count);
        self.rewrite(state, decision.repair, count, SuperblockEvent::Opened, effects);
        Ok(None)
    }

    fn copy_read_back(
        &mut self,
        io: IoId,
        pages: &Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<Option<SuperblockEvent>, SuperblockError> {
        let Phase::Writing(writing) = &mut self.phase else {
            unreachable!("matched by the caller")
        };
        assert_eq!(writing.step, Step::ReadBack);
        let copy = writing.copies[writing.at];
        assert_eq!(io, read_id(copy));
        result.map_err(|error| SuperblockError::Io { copy, error })?;
        if pages.as_bytes() != layout::encode(&writing.state, copy).as_bytes() {
            return Err(SuperblockError::ReadBackMismatch { copy });
        }
        writing.at += 1;
        writing.step = Step::Write;
        #[cfg(verity_zoo)]
        if crate::zoo::is("superblock_one_copy") {
            writing.at = writing.count;
        }
        if writing.at < writing.count {
            write_copy(writing, effects);
            return Ok(None);
        }
        let (state, reason) = (writing.state, writing.reason);
        self.phase = Phase::Idle;
        self.state = Some(state);
        self.sequence_max = self.sequence_max.max(state.sequence);
        if reason == SuperblockEvent::Updated {
            effects.event(Event::SuperblockUpdated { sequence: state.sequence });
        }
        Ok(Some(reason))
    }

    fn rewrite(
        &mut self,
        state: SuperblockState,
        copies: [u8; SUPERBLOCK_COPIES],
        count: usize,
        reason: SuperblockEvent,
        effects: &mut Effects,
    ) {
        assert!((1..=SUPERBLOCK_COPIES).contains(&count));
        let writing = Writing { state, copies, count, at: 0, step: Step::Write, reason };
        write_copy(&writing, effects);
        self.phase = Phase::Writing(Box::new(writing));
    }
}

fn check_identity(state: &SuperblockState, options: &OpenOptions) -> Result<(), SuperblockError> {
    if let Some(expected) = options.cluster
        && state.cluster != expected
    {
        return Err(SuperblockError::WrongCluster { found: state.cluster, expected });
    }
    if let Some(expected) = options.replica
        && state.replica != expected
    {
        return Err(SuperblockError::WrongReplica { found: state.replica, expected });
    }
    if state.release > options.release {
        let (found, known) = (state.release, options.release);
        return Err(SuperblockError::NewerRelease { found, known });
    }
    Ok(())
}

fn write_copy(writing: &Writing, effects: &mut Effects) {
    let copy = writing.copies[writing.at];
    let pages = layout::encode(&writing.state, copy);
    debug_assert_eq!(pages.size_bytes(), PAGE_SIZE);
    let at = Address::new(FileId::Superblock, copy_offset(copy));
    effects.push(Effect::Write { io: write_id(copy), at, pages, durable: true });
}

fn read_id(copy: u8) -> IoId {
    IoId { owner: Owner::Superblock, slot: u64::from(copy) }
}

fn write_id(copy: u8) -> IoId {
    IoId { owner: Owner::Superblock, slot: (SUPERBLOCK_COPIES as u64) + u64::from(copy) }
}
