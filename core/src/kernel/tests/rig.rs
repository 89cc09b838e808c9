//! Store, logs and kernel on an in-memory disk; a driver that does what a node does.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::crypto::keys::{DataKey, KekHash, TenantKeys};
use crate::crypto::{ChainHash, PageKey};
use crate::ids::{
    ColumnId, Generation, IdempotencyId, KeyId, Op, OriginId, Position, PrincipalId, SchemaVersion,
    TableId, TenantId, View,
};
use crate::io::{Effect, Effects, FileId, Owner, Pages, SecretKey};
use crate::kernel::batch::{SealedRequest, pack};
use crate::kernel::envelope::EnvelopeWriter;
use crate::kernel::prepare::seal;
use crate::kernel::{
    Applied, EntrySalts, FindStep, Finding, Found, Kernel, Keys, OpenedEvent, Operation, Prepare,
    PrepareError, PrepareKind, Rebuild, RebuildReport, RebuildStall, RecoveryEvidence,
    RecoveryReason, Reply, Request, RequestError, SharedOfProofs, Stall, World, open_event,
};
use crate::limits::ClusterConstants;
use crate::log::{LogCheckpoint, LogHead, LogPins, Logs};
use crate::query::{Catalog, Column, ColumnType, Command, Expr, TableSchema, Value};
use crate::store::{Fault, HashStop, PageKeys, Pins, Store, StoreCheckpoint, StoreConfig};
use crate::time::Timestamp;

pub const T1: TenantId = TenantId::DEFAULT;
pub const HASH: KekHash = KekHash([7; 32]);
/// 2026-11-21, in ms.
pub const NOW_MS: u64 = 1_795_000_000_000;

/// Keys of every tenant below 10, all from one seed.
#[derive(Debug)]
pub struct TestKeys(pub BTreeMap<TenantId, TenantKeys>);

impl TestKeys {
    pub fn new() -> TestKeys {
        let mut keys = TestKeys(BTreeMap::new());
        keys.add((0..10).map(TenantId::new));
        keys
    }

    pub fn add(&mut self, tenants: impl Iterator<Item = TenantId>) {
        self.0.extend(tenants.map(|tenant| {
            let key = DataKey::new(SecretKey([(tenant.get() as u8).wrapping_add(1); 32]));
            let (origin, id) = (OriginId::new(9), KeyId::new(1));
            (tenant, TenantKeys::derive(origin, tenant, id, &key, Generation::new(1)))
        }));
    }
}

impl PageKeys for TestKeys {
    fn page_key(&self, tenant: TenantId) -> Option<&PageKey> {
        self.0.get(&tenant).map(TenantKeys::page)
    }
}

impl Keys for TestKeys {
    fn newest(&self, tenant: TenantId) -> Option<&TenantKeys> {
        self.0.get(&tenant)
    }

    fn named(&self, tenant: TenantId, key: KeyId) -> Option<&TenantKeys> {
        self.0.newest(tenant).filter(|keys| keys.id() == key)
    }
}

#[derive(Debug, Default)]
pub struct Disk {
    files: BTreeMap<FileId, Vec<u8>>,
}

impl Disk {
    fn read(&self, file: FileId, offset: u64, pages: &mut Pages) {
        let bytes = pages.as_bytes_mut();
        bytes.fill(0);
        let Some(content) = self.files.get(&file) else { return };
        let from = (offset as usize).min(content.len());
        let size = bytes.len().min(content.len() - from);
        bytes[..size].copy_from_slice(&content[from..from + size]);
    }

    fn write(&mut self, file: FileId, offset: u64, pages: &Pages) {
        let content = self.files.entry(file).or_default();
        let end = offset as usize + pages.size_bytes();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(pages.as_bytes());
    }

    pub fn holds(&self, needle: &[u8]) -> bool {
        self.files.values().any(|file| file.windows(needle.len()).any(|at| at == needle))
    }
}

/// How hard the driver makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Ample,
    /// Everything unpinned is evicted after every op and at every stall.
    None,
    /// Evicted or not, by a stream of bits.
    Random(u64),
}

/// A prepare as a journal keeps it.
#[derive(Clone)]
struct Journaled {
    timestamp: Timestamp,
    kind: PrepareKind,
    requests: u32,
    checkpoint_durable: Op,
    body: Vec<u8>,
}

pub struct Rig {
    pub store: Store,
    pub logs: Logs,
    pub kernel: Kernel,
    pub keys: TestKeys,
    pub disk: Disk,
    pub constants: ClusterConstants,
    memory: Memory,
    pub op: u64,
    pub now_ms: u64,
    /// Rows of large writes are looked for beforehand.
    pub finds: bool,
    checkpointed: Op,
    /// What prepares say is durable, if they lag behind the last checkpoint.
    pub durable: Option<Op>,
    nonce: u64,
    pub stalls: u64,
    /// One for all proofs, as a node has it.
    pub shared: RefCell<SharedOfProofs>,
    journal: Vec<Journaled>,
    pub superblock: Option<(StoreCheckpoint, Generation)>,
}

impl Rig {
    pub fn new(memory: Memory) -> Rig {
        Rig::with(memory, ClusterConstants::SMALL)
    }

    pub fn with(memory: Memory, constants: ClusterConstants) -> Rig {
        let mut rig = Rig {
            store: Store::new(StoreConfig::new(FileId::Grid, &constants, 64)),
            logs: Logs::new(constants.segment_positions, OriginId::new(9)),
            kernel: Kernel::new(constants, Generation::ZERO),
            keys: TestKeys::new(),
            disk: Disk::default(),
            constants,
            memory,
            op: 0,
            finds: false,
            now_ms: NOW_MS,
            checkpointed: Op::ZERO,
            durable: None,
            nonce: 0,
            stalls: 0,
            shared: RefCell::default(),
            journal: Vec::new(),
            superblock: None,
        };
        rig.recover();
        rig
    }

    pub fn recover(&mut self) -> Applied {
        let evidence = RecoveryEvidence {
            view: View::new(self.op + 1),
            committed: Op::new(self.op),
            recovery_point: self.checkpointed,
            discarded: None,
            unrecorded_views: 0,
            reason: RecoveryReason::Restart,
            tenants: vec![(T1, HASH)],
            last_time: Timestamp(self.now_ms * 1_000_000),
            clock_accepted: false,
        };
        self.apply(PrepareKind::Recovery, 0, &evidence.to_body())
    }

    pub fn checkpoint(&mut self) {
        self.apply(PrepareKind::Checkpoint, 0, &[]);
    }

    pub fn apply(&mut self, kind: PrepareKind, requests: u32, body: &[u8]) -> Applied {
        self.now_ms += 1;
        let journaled = Journaled {
            timestamp: Timestamp(self.now_ms * 1_000_000),
            kind,
            requests,
            checkpoint_durable: self.durable.unwrap_or(self.checkpointed),
            body: body.to_vec(),
        };
        self.journal.push(journaled.clone());
        self.apply_journaled(&journaled)
    }

    /// Memory is lost; what the last checkpoint wrote is opened, and the journal replayed above it.
    pub fn crash(&mut self) {
        let Some((checkpoint, generation)) = self.superblock else { panic!("no checkpoint yet") };
        let config = StoreConfig::new(FileId::Grid, &self.constants, 64);
        let mut effects = Effects::new();
        self.store = Store::open(config, &checkpoint, &mut effects);
        self.logs = Logs::new(self.constants.segment_positions, OriginId::new(9));
        self.kernel = Kernel::new(self.constants, generation);
        pump(&mut self.store, &mut self.logs, &self.keys, &mut self.disk, &mut effects);
        assert!(self.store.is_open());
        self.op = self.checkpointed.get();
        for at in self.checkpointed.get() as usize..self.journal.len() {
            let journaled = self.journal[at].clone();
            self.apply_journaled(&journaled);
        }
    }

    fn apply_journaled(&mut self, journaled: &Journaled) -> Applied {
        self.op += 1;
        let prepare = Prepare {
            op: Op::new(self.op),
            timestamp: journaled.timestamp,
            kind: journaled.kind,
            requests: journaled.requests,
            checkpoint_durable: journaled.checkpoint_durable,
            seed: [self.op as u8; 32],
            body: &journaled.body,
        };
        let mut effects = Effects::new();
        let mut pins = Pins::new();
        let mut progress = (u64::MAX, u64::MAX);
        let mut fruitless = 0;
        self.kernel.slice(self.op.is_multiple_of(2));
        let applied = loop {
            let mut world =
                World { store: &mut self.store, logs: &mut self.logs, keys: &self.keys };
            let result = self.kernel.apply(&mut world, &prepare, &mut effects);
            self.stalls += u64::from(result.as_ref().is_err_and(|stall| *stall != Stall::Slice));
            match result {
                Ok(applied) => break applied,
                Err(Stall::Fault(_)) => {
                    let now = self.kernel.progress();
                    fruitless += 1;
                    if now != progress {
                        self.store.unpin(&mut pins);
                        (progress, fruitless) = (now, 0);
                    }
                    assert!(fruitless < 20_000, "it needs more pages at once than there are");
                    self.store.fetch(&mut pins, &mut effects);
                    self.maybe_evict();
                    pump(&mut self.store, &mut self.logs, &self.keys, &mut self.disk, &mut effects);
                    assert_eq!(self.store.ready(&pins), Ok(true));
                }
                Err(Stall::Slice | Stall::Created) => {}
                Err(Stall::LogRoom) => self.logs.flush_step(&mut effects),
                Err(Stall::PageRoom) => unreachable!("a checkpoint is written before the next op"),
                Err(Stall::Halt(error)) => panic!("{error}"),
            }
        };
        self.store.unpin(&mut pins);
        self.logs.flush_step(&mut effects);
        pump(&mut self.store, &mut self.logs, &self.keys, &mut self.disk, &mut effects);
        if applied.checkpoint {
            self.store.checkpoint_begin_then_hash(prepare.op);
            let mut pins = Pins::new();
            loop {
                match self.store.hash_frozen(&EntrySalts(&self.keys), 5) {
                    Ok(_) => self.store.unpin(&mut pins),
                    Err(HashStop::Fault(_)) => self.store.fetch(&mut pins, &mut effects),
                    Err(HashStop::KeyMissing { tenant }) => panic!("no key of {tenant}"),
                }
                assert_eq!(self.store.checkpoint_step(&self.keys, &mut effects), Ok(()));
                pump(&mut self.store, &mut self.logs, &self.keys, &mut self.disk, &mut effects);
                if let Some(done) = self.store.checkpoint_done() {
                    self.superblock = Some((done, self.kernel.generation()));
                    break;
                }
            }
            while self.logs.checkpoint_step(&mut effects) == LogCheckpoint::Working {
                pump(&mut self.store, &mut self.logs, &self.keys, &mut self.disk, &mut effects);
            }
            self.logs.checkpoint_done(prepare.op);
            self.checkpointed = prepare.op;
        }
        self.maybe_evict();
        applied
    }

    pub fn maybe_evict(&mut self) {
        let evict = match &mut self.memory {
            Memory::Ample => false,
            Memory::None => true,
            Memory::Random(state) => {
                *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *state >> 63 == 1
            }
        };
        if evict {
            self.store.evict_all();
            self.logs.evict_all();
        }
    }

    fn nonce(&mut self) -> [u8; 12] {
        self.nonce += 1;
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.nonce.to_le_bytes());
        nonce
    }

    /// Sealed, or the answer that the primary gives without a prepare.
    pub fn prepare(
        &mut self,
        request: &Request,
    ) -> Result<SealedRequest, Box<Result<Reply, RequestError>>> {
        let nonce = self.nonce();
        let now = Timestamp(self.now_ms * 1_000_000);
        let mut pins = Pins::new();
        let mut found = if self.finds { Found::default() } else { Found::given_up() };
        loop {
            let (store, keys) = (&self.store, &self.keys);
            let result = self.kernel.prepare_request(store, keys, request, now, nonce, &mut found);
            match result {
                Ok(sealed) => {
                    self.store.unpin(&mut pins);
                    return Ok(sealed);
                }
                Err(PrepareError::Refused(error)) => {
                    self.store.unpin(&mut pins);
                    return Err(Box::new(Err(error)));
                }
                Err(PrepareError::Remembered(answer)) => {
                    self.store.unpin(&mut pins);
                    return Err(answer);
                }
                Err(PrepareError::Find(finding)) => {
                    let mut finding = *finding;
                    while !self.find(&mut finding, &mut pins) {}
                    found.push(finding.into_rows());
                }
                Err(PrepareError::Fault(_)) => self.fetch(&mut pins),
            }
        }
    }

    /// A slice of a search. True: it is done.
    pub fn find(&mut self, finding: &mut Finding, pins: &mut Pins) -> bool {
        match self.kernel.find_step(&self.store, &self.logs, finding, usize::MAX) {
            Ok(FindStep::Done) => true,
            Ok(FindStep::More) => false,
            Ok(FindStep::Changed) => {
                finding.restart();
                false
            }
            Ok(FindStep::Hopeless) => panic!("it cannot be found"),
            Err(_fault) => {
                self.fetch(pins);
                false
            }
        }
    }

    pub fn fetch(&mut self, pins: &mut Pins) {
        let mut effects = Effects::new();
        self.store.fetch(pins, &mut effects);
        pump(&mut self.store, &mut self.logs, &self.keys, &mut self.disk, &mut effects);
    }

    /// One request in a prepare of its own.
    pub fn request(&mut self, request: &Request) -> Result<Reply, RequestError> {
        match self.prepare(request) {
            Ok(sealed) => self.batch(&[sealed]).remove(0),
            Err(answer) => *answer,
        }
    }

    pub fn batch(&mut self, sealed: &[SealedRequest]) -> Vec<Result<Reply, RequestError>> {
        let (mut body, mut count) = (Vec::new(), 0);
        for request in sealed {
            assert!(pack(&mut body, &mut count, request));
        }
        let applied = self.apply(PrepareKind::Requests, count, &body);
        assert_eq!(applied.replies.len(), sealed.len());
        applied.replies
    }

    /// Commands as a primary would have lowered them.
    pub fn seal_commands(&mut self, request: &Request, commands: &[Command]) -> SealedRequest {
        let mut writer = EnvelopeWriter::new();
        let mut bytes = Vec::new();
        for (index, command) in commands.iter().enumerate() {
            writer.command(index as u32, command);
            command.encode(&mut bytes);
        }
        let nonce = self.nonce();
        let keys = &self.keys.0[&request.tenant];
        let fingerprint = keys.fingerprint().of(&[&bytes]);
        seal(request, writer, &fingerprint, keys.requests(), nonce).unwrap()
    }

    pub fn commands(&mut self, commands: &[Command]) -> Result<Reply, RequestError> {
        self.commands_as(IdempotencyId::NONE, commands)
    }

    pub fn commands_as(
        &mut self,
        idempotency: IdempotencyId,
        commands: &[Command],
    ) -> Result<Reply, RequestError> {
        let request = Request { idempotency, ..request(vec![]) };
        let sealed = self.seal_commands(&request, commands);
        self.batch(&[sealed]).remove(0)
    }

    pub fn catalog(&mut self, tenant: TenantId) -> Catalog {
        let mut pins = Pins::new();
        loop {
            match self.kernel.catalog(&self.store, tenant) {
                Ok(catalog) => {
                    self.store.unpin(&mut pins);
                    return (*catalog.unwrap()).clone();
                }
                Err(_) => self.fetch(&mut pins),
            }
        }
    }

    /// All rows of a table, in order of key, as text.
    pub fn rows(&mut self, table: &str) -> Vec<String> {
        use crate::query::stored::StoredRow;
        use crate::store::{Cursor, Direction, TreeRef};
        let schema = self.catalog(T1).table_named(table).unwrap().clone();
        let rows = RefCell::new(Vec::new());
        let mut pins = Pins::new();
        let mut cursor = Cursor::all(Direction::Forward);
        loop {
            let tree = TreeRef::new(T1, schema.rows);
            let scanned = self.store.scan(tree, &mut cursor, |_, value| {
                let values = StoredRow::new(value).values();
                let texts: Vec<String> = values.iter().map(Value::to_string).collect();
                rows.borrow_mut().push(texts.join("|"));
                core::ops::ControlFlow::Continue(())
            });
            match scanned {
                Ok(_) => break,
                Err(_) => self.fetch(&mut pins),
            }
        }
        self.store.unpin(&mut pins);
        rows.into_inner()
    }

    pub fn head(&mut self, tenant: TenantId) -> LogHead {
        let mut pins = Pins::new();
        loop {
            match self.kernel.log_head(&self.store, &self.logs, tenant) {
                Ok(head) => {
                    self.store.unpin(&mut pins);
                    return head;
                }
                Err(_) => self.fetch(&mut pins),
            }
        }
    }

    pub fn attest(&mut self) -> Reply {
        let attest = Request { tenant: TenantId::SYSTEM, ..request(vec![Operation::Attest]) };
        self.request(&attest).unwrap()
    }

    /// One slice of the job whose turn it is. False: there is none.
    pub fn job_slice(&mut self) -> bool {
        let mut pins = Pins::new();
        while self.kernel.find_jobs(&self.store, T1).is_err() {
            self.fetch(&mut pins);
        }
        self.store.unpin(&mut pins);
        let Some((tenant, job)) = self.kernel.next_job(None) else { return false };
        let step = Request { tenant, ..request(vec![Operation::JobStep { job }]) };
        self.request(&step).unwrap();
        true
    }

    pub fn finish_jobs(&mut self) -> u32 {
        let mut slices = 0;
        while self.job_slice() {
            slices += 1;
            assert!(slices < 10_000, "jobs end");
        }
        slices
    }

    /// Pages in use, when nothing waits for a checkpoint any more.
    pub fn pages_in_use(&mut self) -> u32 {
        for _ in 0..3 {
            self.checkpoint();
        }
        self.store.pages_in_use()
    }

    /// Runs a read until it has all pages.
    pub fn read<T>(&mut self, mut stage: impl FnMut(&Store) -> Result<T, Fault>) -> T {
        let mut pins = Pins::new();
        loop {
            match stage(&self.store) {
                Ok(value) => {
                    self.store.unpin(&mut pins);
                    return value;
                }
                Err(_) => self.fetch(&mut pins),
            }
        }
    }

    /// Pages and blocks that a stage missed.
    pub fn fetch_both(&mut self, pins: &mut Pins, log_pins: &mut LogPins) {
        let mut effects = Effects::new();
        self.store.fetch(pins, &mut effects);
        self.logs.fetch(log_pins, &mut effects);
        pump(&mut self.store, &mut self.logs, &self.keys, &mut self.disk, &mut effects);
    }

    pub fn state_root(&mut self, tenant: TenantId) -> ChainHash {
        self.read(|store| store.state_root(tenant))
    }

    pub fn event(&mut self, tenant: TenantId, position: Position) -> OpenedEvent {
        let head = self.head(tenant);
        let mut pins = LogPins::default();
        loop {
            match self.logs.read(tenant, &head, position) {
                Ok(record) => {
                    self.logs.release(&mut pins);
                    return open_event(&self.keys, record).unwrap();
                }
                Err(_) => {
                    let mut effects = Effects::new();
                    self.logs.fetch(&mut pins, &mut effects);
                    pump(&mut self.store, &mut self.logs, &self.keys, &mut self.disk, &mut effects);
                }
            }
        }
    }

    pub fn position(&self, tenant: TenantId) -> u64 {
        self.logs.head(tenant).map_or(0, |head| head.next.get())
    }

    /// Rebuilds from the logs and compares.
    pub fn rebuild(&mut self) -> Result<RebuildReport, RebuildStall> {
        let mut scratch = Store::new(StoreConfig::new(FileId::Scratch, &self.constants, 64));
        let mut rebuild = Rebuild::new();
        let mut effects = Effects::new();
        let (mut live_pins, mut scratch_pins, mut log_pins) =
            (Pins::new(), Pins::new(), LogPins::default());
        loop {
            let keys = &self.keys;
            let stepped =
                rebuild.step(&self.kernel, Some(&self.store), &self.logs, keys, &mut scratch);
            match stepped {
                Ok(Some(report)) => {
                    self.store.unpin(&mut live_pins);
                    self.logs.release(&mut log_pins);
                    return Ok(report);
                }
                Ok(None) => {
                    self.store.unpin(&mut live_pins);
                    scratch.unpin(&mut scratch_pins);
                    self.logs.release(&mut log_pins);
                }
                Err(RebuildStall::Live) => {
                    self.store.fetch(&mut live_pins, &mut effects);
                    pump(&mut self.store, &mut self.logs, keys, &mut self.disk, &mut effects);
                }
                Err(RebuildStall::Log) => {
                    self.logs.fetch(&mut log_pins, &mut effects);
                    pump(&mut self.store, &mut self.logs, keys, &mut self.disk, &mut effects);
                    assert!(self.logs.fetched(&log_pins));
                }
                Err(RebuildStall::Scratch) => {
                    scratch.fetch(&mut scratch_pins, &mut effects);
                    pump(&mut scratch, &mut self.logs, keys, &mut self.disk, &mut effects);
                }
                Err(RebuildStall::ScratchCheckpoint(op)) => {
                    scratch.checkpoint_begin(op);
                    loop {
                        assert_eq!(scratch.checkpoint_step(keys, &mut effects), Ok(()));
                        pump(&mut scratch, &mut self.logs, keys, &mut self.disk, &mut effects);
                        if scratch.checkpoint_done().is_some() {
                            break;
                        }
                    }
                    scratch.checkpoint_durable_applied(op);
                }
                Err(stall @ RebuildStall::Failed(_)) => return Err(stall),
            }
            if self.memory != Memory::Ample {
                self.store.evict_all();
                scratch.evict_all();
                self.logs.evict_all();
            }
        }
    }
}

/// Answers effects until there are none.
pub fn pump(
    store: &mut Store,
    logs: &mut Logs,
    keys: &TestKeys,
    disk: &mut Disk,
    effects: &mut Effects,
) {
    while !effects.is_empty() {
        let turn: Vec<Effect> = effects.drain().collect();
        for effect in turn {
            match effect {
                Effect::Read { io, at, mut pages } => {
                    disk.read(at.file, at.offset, &mut pages);
                    match io.owner {
                        Owner::Store => {
                            let done = store.on_read_done(keys, io, pages, Ok(()), effects);
                            assert_eq!(done, Ok(()));
                        }
                        Owner::Log => {
                            let done = logs.on_read_done(io, pages, Ok(()), effects);
                            assert!(done.is_ok());
                        }
                        owner => panic!("{owner:?}"),
                    }
                }
                Effect::Write { io, at, pages, durable: _ } => {
                    disk.write(at.file, at.offset, &pages);
                    match io.owner {
                        Owner::Store => {
                            assert_eq!(store.on_write_done(io, pages, Ok(())), Ok(()));
                        }
                        Owner::Log => {
                            assert!(logs.on_write_done(io, pages, Ok(()), effects).is_ok());
                        }
                        owner => panic!("{owner:?}"),
                    }
                }
                Effect::Sync { io, .. } | Effect::Create { io, .. } | Effect::Remove { io, .. } => {
                    assert!(logs.on_done(io, Ok(()), effects).is_ok());
                }
                Effect::Wrap { .. } | Effect::Unwrap { .. } => panic!("no keys are minted here"),
                Effect::Send { .. } => panic!("the kernel talks to nobody"),
                Effect::Event(_) => {}
            }
        }
    }
}

pub fn request(operations: Vec<Operation>) -> Request {
    Request {
        tenant: T1,
        principal: PrincipalId::new(5),
        idempotency: IdempotencyId::NONE,
        after: None,
        operations,
    }
}

pub fn id(not_after_ms: u64, number: u8) -> IdempotencyId {
    IdempotencyId::new(not_after_ms, [number; 10])
}

pub fn column(id: u32, name: &str, column_type: ColumnType, nullable: bool) -> Column {
    let id = ColumnId::new(id);
    let (initial, added_at) = (Value::Null, crate::ids::Position::ZERO);
    Column { id, name: name.to_string(), column_type, nullable, default: None, initial, added_at }
}

/// `CREATE TABLE name (id BIGINT [PRIMARY KEY], name TEXT, age BIGINT)`.
pub fn create_table(catalog: &Catalog, name: &str, keyed: bool) -> Command {
    let schema = TableSchema {
        id: catalog.next_table,
        name: name.to_string(),
        columns: vec![
            column(1, "id", ColumnType::BigInt, false),
            column(2, "name", ColumnType::Text, false),
            column(3, "age", ColumnType::BigInt, true),
        ],
        primary_key: if keyed { vec![ColumnId::new(1)] } else { vec![] },
        checks: vec![],
        stream: catalog.next_stream,
        rows: catalog.next_tree,
        history: catalog.next_tree.next(),
        indexes: vec![],
        schema_version: catalog.version.next(),
        created_at: crate::ids::Position::ZERO,
    };
    Command::CreateTable { schema, if_not_exists: false }
}

pub fn insert_rows(table: &str, rows: &[(i64, &str, i64)]) -> Operation {
    Operation::InsertRows {
        table: table.to_string(),
        columns: vec!["id".to_string(), "name".to_string(), "age".to_string()],
        rows: rows
            .iter()
            .map(|(id, name, age)| {
                vec![Value::Integer(*id), Value::text(name), Value::Integer(*age)]
            })
            .collect(),
    }
}

pub fn table_ids(catalog: &Catalog, name: &str) -> (TableId, SchemaVersion) {
    let schema = catalog.table_named(name).unwrap();
    (schema.id, schema.schema_version)
}

pub fn column_expr(id: u32) -> Expr {
    Expr::Column(ColumnId::new(id))
}
