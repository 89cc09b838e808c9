//! State from the logs alone, and its comparison with the live state.
//!
//! Purpose: `State = Apply(Initial, Log)`, checked or used. Every record of every tenant is read
//! from its log, opened, and given to the same `apply_record` that live apply uses, into a second
//! store that starts empty. Then all trees that are functions of records are compared with the live
//! ones, entry by entry; or there is no live state to trust, and the second store becomes it:
//! [`Rebuild::finish`] adds the heads of the logs, which are a function of the checkpoint.
//!
//! Invariants: the outcome does not depend on batching, caches, or which ops the records came in.
//! Beside the trees it checks each record's commitment against its payload. Nothing of the live
//! state changes; the caller applies no prepare meanwhile.
//!
//! `sides` drives it: it fetches what a step misses and carries completions to their owners.
//!
//! Fault model: the three sources of pages stall independently ([`RebuildStall`]); damage in a log
//! is told by position, a difference by tenant, tree and key.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;

use super::drafts::{DraftContext, row_commitment};
use super::events::{EventError, OpenedEvent, open_event};
use super::payload::Subject;
use super::record::{
    OpenRecord, RecordProgress, RecordScratch, announce, apply_record, apply_to_catalog,
    decode_row_of, put_head,
};
use super::trees::{ATTESTED, OF_EVERY_TENANT, TENANTS};
use super::{EntrySalts, Kernel, Keys};
use crate::crypto::commitment::record_commitment;
use crate::crypto::{ChainHash, InternalDomain, InternalHash, InternalHasher};
use crate::ids::{KeyId, Op, Position, TenantId, TreeId};
use crate::limits::{
    ClusterConstants, LARGEST_ROW_PAGES_DIRTIED, PAGES_DIRTIED_MARGIN, REBUILD_BATCH,
    REBUILD_RECORDS_PER_STEP,
};
use crate::log::{LogFault, LogHead, LogScan, Logs};
use crate::query::Catalog;
use crate::store::{Cursor, Direction, HashStop, REBUILD_OPS, Store, TreeRef};

mod sides;

pub use sides::{SideError, Sides};

/// What a step needs before it can go on.
#[derive(Debug)]
pub enum RebuildStall {
    /// Pages of the live store.
    Live,
    /// Blocks of a log.
    Log,
    /// Pages of the scratch store.
    Scratch,
    /// The scratch store has too many dirty pages: checkpoint it with this op, as durable, and go
    /// on.
    ScratchCheckpoint(Op),
    Failed(RebuildError),
}

/// Why the state cannot be rebuilt at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RebuildError {
    Log {
        tenant: TenantId,
        position: Position,
        fault: LogFault,
    },
    Event(EventError),
    /// The payload is not what the record's clear metadata commits to.
    Commitment {
        tenant: TenantId,
        position: Position,
    },
    /// The grid may not grow as far as a second state beside the first one needs, with what is to
    /// be replayed onto it.
    GridFull {
        pages_free: u32,
    },
}

/// The first thing that the live state and the rebuilt one do not share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub tenant: TenantId,
    pub tree: TreeId,
    pub key: Vec<u8>,
    /// The entry is in the live state, in the rebuilt one, or in both with different values.
    pub live: bool,
    pub rebuilt: bool,
}

/// All of it was compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuildReport {
    pub tenants: u64,
    pub records: u64,
    pub entries: u64,
    /// Over (tenant, tree, key, value) of the rebuilt state, in order.
    pub digest: InternalHash,
    pub difference: Option<Difference>,
    /// State roots of the rebuilt tenants, the system's first.
    pub roots: Vec<(TenantId, ChainHash)>,
}

/// A rebuild under way.
#[derive(Debug)]
pub struct Rebuild {
    /// Still to be replayed; the system first, as it creates the others.
    tenants: Option<VecDeque<TenantId>>,
    replay: Option<Replay>,
    /// Trees still to be compared.
    trees: VecDeque<TreeRef>,
    compare: Option<Compare>,
    hasher: InternalHasher,
    scratch: RecordScratch,
    value: Vec<u8>,
    room: Room,
    /// Heads that [`Rebuild::finish`] has put.
    heads: usize,
    report: RebuildReport,
}

/// Room in the scratch store: of its dirty pages, which a checkpoint makes, and of the grid.
#[derive(Debug)]
struct Room {
    checkpoints: u64,
    /// Pages of the grid that stay free: no more may be taken.
    reserve: u32,
}

/// One tenant's log on its way into the scratch store.
#[derive(Debug)]
struct Replay {
    tenant: TenantId,
    head: LogHead,
    scan: LogScan,
    catalog: Arc<Catalog>,
    event: Option<(OpenedEvent, ChainHash)>,
    progress: RecordProgress,
}

/// One tree, entry by entry.
#[derive(Debug)]
struct Compare {
    tree: TreeRef,
    live: Side,
    rebuilt: Side,
}

#[derive(Debug)]
struct Side {
    cursor: Cursor,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// The batch is full, or the tree has no more.
    ready: bool,
}

impl Default for Rebuild {
    fn default() -> Rebuild {
        Rebuild::new()
    }
}

impl Rebuild {
    /// `scratch`, given to each step, starts as an empty store, and is thrown away afterwards.
    #[must_use]
    pub fn new() -> Rebuild {
        Rebuild::with_reserve(0)
    }

    /// `scratch` is to be the state: its last checkpoint is that of the log. What the journal has
    /// behind that is replayed while the pages of the state before are still in use. That nothing
    /// there is refused which was acknowledged, nor the other way round, is not left to chance: the
    /// grid must have room for more than any journal can change before the next checkpoint.
    #[must_use]
    pub fn to_keep(constants: &ClusterConstants) -> Rebuild {
        Rebuild::with_reserve(constants.pages_of_a_tail())
    }

    fn with_reserve(reserve: u32) -> Rebuild {
        Rebuild {
            room: Room { checkpoints: 0, reserve },
            heads: 0,
            tenants: None,
            replay: None,
            trees: VecDeque::new(),
            compare: None,
            hasher: InternalHasher::new(InternalDomain::StateDigest),
            scratch: RecordScratch::default(),
            value: Vec::new(),
            report: RebuildReport {
                tenants: 0,
                records: 0,
                entries: 0,
                digest: InternalHash::ZERO,
                difference: None,
                roots: Vec::new(),
            },
        }
    }

    /// Records replayed and entries compared so far.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.report.records, self.report.entries)
    }

    /// A bounded slice of work. `Some`: done; the first difference ends it early. Without a live
    /// state nothing is compared, and every log must be open.
    pub fn step(
        &mut self,
        kernel: &Kernel,
        live: Option<&Store>,
        logs: &Logs,
        keys: &dyn Keys,
        scratch: &mut Store,
    ) -> Result<Option<RebuildReport>, RebuildStall> {
        if self.tenants.is_none() && self.report.tenants == 1 && self.replay.is_none() {
            // The system's log is replayed: it says which others there are.
            let tenants = kernel.tenants(scratch).map_err(|_| RebuildStall::Scratch)?;
            self.report.tenants += tenants.len() as u64;
            self.tenants = Some(tenants.into());
        }
        if self.replay.is_none() {
            let next = match &self.tenants {
                Some(tenants) => tenants.front().copied(),
                None => Some(TenantId::SYSTEM),
            };
            if let Some(tenant) = next {
                let head = match live {
                    Some(live) => kernel.log_head(live, logs, tenant),
                    None => Ok(logs.head(tenant).cloned().unwrap_or_else(LogHead::empty)),
                };
                let head = head.map_err(|_| RebuildStall::Live)?;
                self.replay = Some(Replay {
                    tenant,
                    scan: LogScan::new(tenant, Position::ZERO, head.next),
                    head,
                    catalog: Arc::new(Catalog::new()),
                    event: None,
                    progress: RecordProgress::default(),
                });
            }
        }
        if let Some(replay) = &mut self.replay {
            for _ in 0..REBUILD_RECORDS_PER_STEP {
                if replay.event.is_none() {
                    self.room.ask(LARGEST_ROW_PAGES_DIRTIED, kernel, keys, scratch)?;
                }
                let done =
                    replay.record(logs, keys, scratch, &mut self.scratch, &mut self.value)?;
                if done {
                    self.finish_replay();
                    return Ok(None);
                }
                self.report.records += 1;
            }
            return Ok(None);
        }
        if self.report.roots.is_empty() {
            hash_scratch(scratch, keys)?;
            let mut tenants = kernel.tenants(scratch).map_err(|_| RebuildStall::Scratch)?;
            tenants.insert(0, TenantId::SYSTEM);
            let mut roots = Vec::with_capacity(tenants.len());
            for tenant in tenants {
                let root = scratch.state_root(tenant).map_err(|_| RebuildStall::Scratch)?;
                roots.push((tenant, root));
            }
            self.report.roots = roots;
        }
        self.compare(live, scratch)
    }

    fn finish_replay(&mut self) {
        let Some(replay) = self.replay.take() else { unreachable!("it was just run") };
        match &mut self.tenants {
            Some(tenants) => drop(tenants.pop_front()),
            None => self.report.tenants = 1,
        }
        let tenant = replay.tenant;
        self.trees.extend(OF_EVERY_TENANT.map(|tree| TreeRef::new(tenant, tree)));
        if tenant == TenantId::SYSTEM {
            self.trees.push_back(TreeRef::new(tenant, TENANTS));
            self.trees.push_back(TreeRef::new(tenant, ATTESTED));
        }
        for schema in replay.catalog.tables() {
            self.trees.extend(schema.trees().into_iter().map(|tree| TreeRef::new(tenant, tree)));
        }
    }

    /// Of a rebuild to keep, after its last step: the heads of the logs at the checkpoint, and all
    /// hashes. Restartable; then the store is ready for that checkpoint.
    pub fn finish(
        &mut self,
        kernel: &Kernel,
        heads: &[(TenantId, LogHead)],
        keys: &dyn Keys,
        scratch: &mut Store,
    ) -> Result<(), RebuildStall> {
        while let Some((tenant, head)) = heads.get(self.heads) {
            self.room.ask(PAGES_DIRTIED_MARGIN, kernel, keys, scratch)?;
            put_head(scratch, *tenant, &head.encode()).map_err(|_| RebuildStall::Scratch)?;
            self.heads += 1;
        }
        hash_scratch(scratch, keys)?;
        self.room.of_the_grid(0, scratch)
    }

    fn compare(
        &mut self,
        live: Option<&Store>,
        scratch: &Store,
    ) -> Result<Option<RebuildReport>, RebuildStall> {
        let Some(compare) = &mut self.compare else {
            let Some(tree) = self.trees.pop_front() else {
                self.report.digest = self.hasher.finish();
                return Ok(Some(self.report.clone()));
            };
            self.hasher.update(&tree.tenant.get().to_le_bytes());
            self.hasher.update(&tree.tree.get().to_le_bytes());
            self.compare = Some(Compare { tree, live: Side::new(), rebuilt: Side::new() });
            return Ok(None);
        };
        let tree = compare.tree;
        compare.rebuilt.fill(scratch, tree).map_err(|_| RebuildStall::Scratch)?;
        if let Some(live) = live {
            let difference = if live.tree_exists(tree).map_err(|_| RebuildStall::Live)? {
                compare.live.fill(live, tree).map_err(|_| RebuildStall::Live)?;
                compare.difference()
            } else {
                let TreeRef { tenant, tree } = tree;
                Some(Difference { tenant, tree, key: Vec::new(), live: false, rebuilt: true })
            };
            if difference.is_some() {
                self.report.difference = difference;
                return Ok(Some(self.report.clone()));
            }
        }
        let exhausted = compare.rebuilt.entries.len() < REBUILD_BATCH;
        for (key, value) in &compare.rebuilt.entries {
            for part in [key, value] {
                self.hasher.update(&(part.len() as u32).to_le_bytes());
                self.hasher.update(part);
            }
        }
        self.report.entries += compare.rebuilt.entries.len() as u64;
        compare.live.take();
        compare.rebuilt.take();
        if exhausted {
            self.compare = None;
        }
        Ok(None)
    }
}

impl Room {
    /// For so many pages more: a checkpoint, as a live node takes one, at half of the budget.
    fn ask(
        &mut self,
        pages: u32,
        kernel: &Kernel,
        keys: &dyn Keys,
        scratch: &mut Store,
    ) -> Result<(), RebuildStall> {
        if scratch.dirty_pages() > kernel.constants.dirty_pages_max / 2 {
            hash_scratch(scratch, keys)?;
            self.checkpoints += 1;
            let op = Op::new(REBUILD_OPS + self.checkpoints);
            return Err(RebuildStall::ScratchCheckpoint(op));
        }
        self.of_the_grid(pages, scratch)
    }

    fn of_the_grid(&self, pages: u32, scratch: &Store) -> Result<(), RebuildStall> {
        let pages_free = scratch.grid_pages_free();
        if pages.saturating_add(self.reserve) > pages_free {
            return Err(RebuildStall::Failed(RebuildError::GridFull { pages_free }));
        }
        Ok(())
    }
}

/// Every hash of the scratch store, as a live node has them at a checkpoint.
fn hash_scratch(scratch: &mut Store, keys: &dyn Keys) -> Result<(), RebuildStall> {
    match scratch.hash_step(&EntrySalts(keys), usize::MAX) {
        Ok(_) => Ok(()),
        Err(HashStop::Fault(_)) => Err(RebuildStall::Scratch),
        Err(HashStop::KeyMissing { tenant }) => {
            let error = EventError::KeyMissing { tenant, key: KeyId::new(1) };
            Err(RebuildStall::Failed(RebuildError::Event(error)))
        }
    }
}

impl Replay {
    /// One record further; true: there is none.
    fn record(
        &mut self,
        logs: &Logs,
        keys: &dyn Keys,
        store: &mut Store,
        scratch: &mut RecordScratch,
        value: &mut Vec<u8>,
    ) -> Result<bool, RebuildStall> {
        if self.event.is_none() {
            let position = self.scan.position();
            let tenant = self.tenant;
            let record = match self.scan.next(logs, &self.head) {
                Ok(Some(record)) => record,
                Ok(None) => return Ok(true),
                Err(LogFault::Missing) => return Err(RebuildStall::Log),
                Err(fault) => {
                    let error = RebuildError::Log { tenant, position, fault };
                    return Err(RebuildStall::Failed(error));
                }
            };
            let hash = record.hash();
            let event = open_event(keys, record)
                .map_err(|error| RebuildStall::Failed(RebuildError::Event(error)))?;
            if !self.commits(keys, &event, value) {
                let error = RebuildError::Commitment { tenant, position };
                return Err(RebuildStall::Failed(error));
            }
            self.event = Some((event, hash));
        }
        let Some((event, hash)) = &self.event else { unreachable!("just set") };
        let Ok((payload, outcome)) = event.payload() else {
            unreachable!("decoded when it was opened");
        };
        let metadata = &event.record.metadata;
        let record = OpenRecord { metadata, hash: *hash, payload: &payload, made: None, outcome };
        announce(&mut self.catalog, metadata, &payload);
        apply_record(store, &self.catalog, &record, &mut self.progress, scratch)
            .map_err(|_| RebuildStall::Scratch)?;
        if payload.changes_catalog() {
            apply_to_catalog(Arc::make_mut(&mut self.catalog), &payload);
        }
        self.progress = RecordProgress::default();
        self.event = None;
        Ok(false)
    }

    /// Is the payload what the record's metadata commits to?
    fn commits(&self, keys: &dyn Keys, event: &OpenedEvent, value: &mut Vec<u8>) -> bool {
        let metadata = &event.record.metadata;
        let tenant = self.tenant;
        let Some(tenant_keys) = keys.named(tenant, metadata.key) else { return false };
        let salt = tenant_keys.salt(metadata.generation);
        let Ok((payload, _)) = event.payload() else { return false };
        let position = metadata.position;
        let expected = match payload.subject() {
            Subject::Row { table, row } => {
                let Some(schema) = self.catalog.table(table) else { return false };
                let Some(row) = decode_row_of(schema, row) else { return false };
                let context = DraftContext { tenant, first: position, salt: &salt };
                row_commitment(&context, position, schema, &row, value)
            }
            Subject::Appended { stream, record } => {
                record_commitment(&salt, tenant, position, stream, record)
            }
            Subject::Plaintext => {
                record_commitment(&salt, tenant, position, metadata.stream, event.plaintext())
            }
        };
        expected == metadata.commitment
    }
}

impl Compare {
    fn difference(&self) -> Option<Difference> {
        let (live, rebuilt) = (&self.live.entries, &self.rebuilt.entries);
        let same = live.iter().zip(rebuilt).take_while(|(live, rebuilt)| live == rebuilt).count();
        let (live, rebuilt) = (live.get(same), rebuilt.get(same));
        let (key, in_live, in_rebuilt) = match (live, rebuilt) {
            (None, None) => return None,
            (Some((key, _)), None) => (key, true, false),
            (None, Some((key, _))) => (key, false, true),
            (Some((live, _)), Some((rebuilt, _))) => {
                (live.min(rebuilt), live <= rebuilt, rebuilt <= live)
            }
        };
        Some(Difference {
            tenant: self.tree.tenant,
            tree: self.tree.tree,
            key: key.clone(),
            live: in_live,
            rebuilt: in_rebuilt,
        })
    }
}

impl Side {
    fn new() -> Side {
        let cursor = Cursor::all(Direction::Forward);
        Side { cursor, entries: Vec::with_capacity(REBUILD_BATCH), ready: false }
    }

    fn fill(&mut self, store: &Store, tree: TreeRef) -> Result<(), crate::store::Fault> {
        if self.ready {
            return Ok(());
        }
        let Side { cursor, entries, ready } = self;
        let _ = store.scan(tree, cursor, |key, value| {
            entries.push((key.to_vec(), value.to_vec()));
            if entries.len() == REBUILD_BATCH {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        *ready = true;
        Ok(())
    }

    fn take(&mut self) {
        self.entries.clear();
        self.ready = false;
    }
}

impl fmt::Display for RebuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RebuildError::Log { tenant, position, fault } => {
                write!(f, "log of tenant {tenant} at {position}: {fault}")
            }
            RebuildError::Event(error) => write!(f, "{error}"),
            RebuildError::Commitment { tenant, position } => write!(
                f,
                "the record at {position} of tenant {tenant} does not hold what it commits to"
            ),
            RebuildError::GridFull { pages_free } => write!(
                f,
                "the grid has no room for a second state beside the first one, and for what the \
                 journal adds to it ({pages_free} pages are left); restore a copy of the directory"
            ),
        }
    }
}

impl core::error::Error for RebuildError {}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.live, self.rebuilt) {
            (true, true) => "has another value when rebuilt",
            (true, false) => "is not there when rebuilt",
            (false, true) => "is there only when rebuilt",
            (false, false) => unreachable!("a difference is on one side at least"),
        };
        write!(f, "tenant {}, tree {}, key ", self.tenant, self.tree)?;
        self.key.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, " {what}")
    }
}
