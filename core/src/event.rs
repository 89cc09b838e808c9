//! What happened, as data: trace line, metric and coverage mark in one enum.
//!
//! The shell turns an [`Event`] into `tracing` lines and counters; the simulator into marks that
//! tests demand to have seen ([`Event::name`] is the mark). Invariant: no event carries plaintext
//! of a tenant.

use crate::ids::{Op, Position, ReplicaId, TenantId};

macro_rules! events {
    ($( $(#[$doc:meta])* $name:ident $({ $($field:ident : $type:ty),* $(,)? })? ),* $(,)?) => {
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Event {
            $( $(#[$doc])* $name $({ $($field : $type),* })? ),*
        }

        impl Event {
            /// Every mark there is, for coverage reports.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $( Event::$name $({ $($field: _),* })? => stringify!($name) ),*
                }
            }
        }
    };
}

events! {
    // superblock
    SuperblockCopyBad { copy: u8 },
    SuperblockOpened { sequence: u64, copies_good: u8 },
    SuperblockUpdated { sequence: u64 },
    // keyring
    KeyringCopyBad { copy: u8 },
    KeyringOpened { sequence: u64, copies_good: u8 },
    KeyringHealed { sequence: u64 },
    KeyMinted { tenant: TenantId },
    /// Keys that another replica made are durable here, too.
    KeyKept { tenant: TenantId },
    /// A tenant's keys are missing here: peers are asked, and nothing is applied until one has
    /// them.
    KeysAwaited { tenant: TenantId },
    // journal
    JournalRecovered { op_max: Op },
    JournalWrapped { op: Op },
    /// A damaged prepare at the tail, of which nothing shows that it was ever acknowledged;
    /// dropped.
    JournalTornTail { op: Op },
    /// A damaged prepare that evidence shows was acknowledged.
    JournalRottenPrepare { op: Op },
    JournalHeaderRepaired { op: Op },
    /// The device cannot read this page of the journal.
    JournalPageUnreadable { offset: u64 },
    // vsr
    PrepareProposed { op: Op, requests: u32 },
    Committed { op: Op },
    PipelineFull { op: Op },
    JournalFull { op: Op },
    /// The wall clock is further ahead than one prepare may step.
    ClockStepLimited { op: Op, ahead_ns: u64 },
    // vsr, in a cluster
    /// This replica may have acknowledged more than its disk holds.
    ReplicaUncertain { op: Op },
    ViewStarted { view: u64, op: Op },
    /// A log that a later view excluded is erased above this op.
    LogTruncated { op: Op },
    PrepareRepaired { op: Op },
    /// A frame of a peer that could not be understood.
    FrameRefused,
    /// A head that a peer asked for is not one to sign, or what it answered is no signature of it.
    CosignatureRefused {
        replica: ReplicaId,
    },
    // state sync
    /// This checkpoint of a peer is being fetched.
    SyncStarted { op: Op },
    /// Its pages changed hands meanwhile: a newer one is fetched.
    SyncGivenUp { op: Op },
    /// A page or block of a peer was not the one that was asked for.
    SyncRefused { op: Op },
    SyncPageFetched { page: u32 },
    SyncBlocksFetched { tenant: TenantId, number: u32, block: u64 },
    SyncFinished { op: Op },
    // store
    PageFault { page: u32 },
    PageCorrupt { page: u32 },
    /// Written again, with a peer's copy.
    PageRepaired { page: u32 },
    PageSplit { level: u8 },
    PageMerged { level: u8 },
    OverflowWritten { pages: u32 },
    // log
    SegmentRotated { tenant: TenantId, number: u32 },
    IndexRebuilt { tenant: TenantId, number: u32 },
    BlockCorrupt { tenant: TenantId, number: u32, offset: u64 },
    /// Blocks of a segment or its index that the device did not give count as damaged.
    BlocksUnreadable { tenant: TenantId, number: u32, blocks: u64 },
    /// Bad blocks of a segment are good again, with a peer's, on the disk.
    SegmentBlocksRepaired { tenant: TenantId, number: u32, block: u64, count: u64 },
    /// A peer has them not, or they are not what belongs here.
    SegmentBlocksRefused { tenant: TenantId, number: u32, block: u64 },
    /// No peer could help: given up for a while.
    SegmentRepairFailed { tenant: TenantId, number: u32, block: u64 },
    CheckpointRecord { tenant: TenantId, position: Position },
    // kernel
    /// `chain` begins the hash of its last record: whoever applies the op again must come to it.
    TransactionApplied { tenant: TenantId, op: Op, records: u32, last: Position, chain: [u8; 8] },
    TransactionRefused { tenant: TenantId, op: Op },
    IdempotentReplay { tenant: TenantId, op: Op },
    IdempotencyTrimmed { tenant: TenantId, count: u32 },
    TenantCreated { tenant: TenantId },
    RecoveryRecorded { op: Op },
    // node
    CheckpointStarted { op: Op },
    CheckpointDurable { op: Op },
    ReplayStarted { from: Op, to: Op },
    ReplayFinished { op: Op },
    ApplyStalled { op: Op },
    /// Between two slices of a prepare.
    ApplyPaused { op: Op },
    /// Changed pages wait for those of the checkpoint under way to be written.
    CheckpointAwaited { op: Op },
    ReadStalled,
    /// Of a large UPDATE or DELETE, before it was proposed.
    RowsFound { rows: u64 },
    /// The search for them begins again, or is given up.
    RowsChangedMeanwhile { tries: u32 },
    /// The rows that came with a write were not those of its table any more.
    RowsFoundStale { op: Op, writes: u32 },
    /// An earlier process left a job, which goes on.
    JobResumed { tenant: TenantId },
    Halted,
    ShutdownComplete,
}
