//! Reads: a SELECT at a snapshot, in slices, on the caller's turn.
//!
//! A [`Read`] holds everything between two slices: the bound statement, the snapshot, pins. It
//! reads the last fully applied transaction of its tenant, or what `AS OF` says. `AS OF` a position
//! inside a transaction reads the transaction before it, and [`ReadResult::position`] says so. It
//! is bound to what that one left: tables that a transaction under way creates, alters or drops are
//! as before it (`Kernel::catalog_shown`) until it is whole.
//!
//! Fault model: a damaged page or record ends the read with an error that names what is lost; it
//! never stops the node and never shortens an answer.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::event::Event;
use crate::ids::{IdempotencyId, Position, TenantId};
use crate::io::Effects;
use crate::kernel::trees::IDEMPOTENCY;
use crate::kernel::{Commitment, open_event};
use crate::log::{LogFault, LogHead, LogPins};
use crate::node::api::Progress;
use crate::node::running::Running;
use crate::query;
use crate::query::eval::Context;
use crate::query::parse::AsOfSyntax;
use crate::query::read::{EventRead, ReadProgress, ReadTask, ReadWorld, Row, Stop};
use crate::query::source::RowSource;
use crate::query::{
    AsOf, Catalog, PointScratch, Prepared, SqlError, SqlState, Value, prepare_one, read_point,
};
use crate::store::{Fault, Pins, StoreError, TreeRef};
use crate::time::{Clock, Timestamp};

/// Why a read has no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadError {
    Sql(SqlError),
    TenantUnknown(TenantId),
    /// The node is opening, or has halted: [`crate::node::Node::halted`] says why.
    NotReady,
    /// A page that the answer needs is damaged or cannot be opened.
    Store(StoreError),
    /// A record that the answer needs is damaged; what and where.
    Log(String),
}

impl core::fmt::Display for ReadError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ReadError::Sql(error) => write!(f, "{error}"),
            ReadError::TenantUnknown(tenant) => {
                write!(f, "tenant {tenant} does not exist; `verity tenant create` makes one")
            }
            ReadError::NotReady => f.write_str("the node does not serve reads now"),
            ReadError::Store(error) => write!(f, "{error}"),
            ReadError::Log(error) => f.write_str(error),
        }
    }
}

impl core::error::Error for ReadError {}

impl From<SqlError> for ReadError {
    fn from(error: SqlError) -> ReadError {
        ReadError::Sql(error)
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadResult {
    pub prepared: Arc<Prepared>,
    pub rows: Vec<Row>,
    /// The snapshot that was read: the last position of a transaction.
    pub position: Position,
    /// The position that `AS OF` named, when it lies inside a transaction.
    pub asked: Option<Position>,
}

/// A SELECT on its way. Drive it with [`crate::node::Node::read`].
#[derive(Debug)]
pub struct Read {
    pub(super) tenant: TenantId,
    pub(super) statement: Statement,
    parameters: Vec<Value>,
    stage: Stage,
    /// The catalog that it reads by, when that is not today's.
    pub(super) past: Option<Arc<Catalog>>,
    /// There is no such table now: what to say unless there was one then.
    pub(super) gone: Option<SqlError>,
    asked: Option<Position>,
    /// The answer includes this position.
    seen: Option<Position>,
    rows: Vec<Row>,
    /// Of `Running::reads_bytes`.
    bytes: usize,
    pins: Pins,
    log_pins: LogPins,
    /// Of the node's part that it reads from; 0: none yet.
    incarnation: u64,
}

#[derive(Debug)]
pub(super) enum Statement {
    Text(String),
    /// Only bound, never run: a statement of any kind.
    Bind(String),
    Prepared(Arc<Prepared>),
}

/// The answer of a lookup by primary key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointRead {
    pub found: bool,
    /// The snapshot that was read.
    pub position: Position,
}

/// What an idempotency id remembers, on its way. Drive it with
/// [`crate::node::Node::read_commitment`].
#[derive(Debug)]
pub struct CommitmentRead {
    tenant: TenantId,
    id: IdempotencyId,
    pins: Pins,
    incarnation: u64,
    found: Option<Result<Option<Commitment>, ReadError>>,
}

impl CommitmentRead {
    #[must_use]
    pub fn new(tenant: TenantId, id: IdempotencyId) -> CommitmentRead {
        CommitmentRead { tenant, id, pins: Pins::new(), incarnation: 0, found: None }
    }

    /// The answer, after [`Progress::Ready`]: `None` when nothing is remembered.
    pub fn finish(self) -> Result<Option<Commitment>, ReadError> {
        self.found.unwrap_or(Err(ReadError::NotReady))
    }

    /// Whether what it holds is of this part of the node.
    pub(super) fn is_of(&mut self, incarnation: u64) -> bool {
        super::bind_to(&mut self.incarnation, incarnation)
    }

    /// What it holds went with the part of the node that it was of.
    pub(super) fn forget(&mut self) -> Progress {
        self.pins = Pins::new();
        self.refuse()
    }

    pub(super) fn refuse(&mut self) -> Progress {
        self.found = Some(Err(ReadError::NotReady));
        Progress::Ready
    }
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a hot read must not allocate for its stage")]
enum Stage {
    Bind,
    /// Looks for the newest record at or before a time: it is in `low..high`, if anywhere.
    Search {
        prepared: Arc<Prepared>,
        time: Timestamp,
        low: u64,
        high: u64,
    },
    /// From a position to the transaction end at or before it.
    Snapshot {
        prepared: Arc<Prepared>,
        position: Position,
    },
    Run(ReadTask),
    Done(Result<(Arc<Prepared>, Position), ReadError>),
}

/// Why a stage stopped.
pub(super) enum Halt {
    Page,
    Record,
    Yield,
    /// What it needs is not applied yet.
    Behind,
    Failed(ReadError),
}

impl From<Fault> for Halt {
    fn from(_: Fault) -> Halt {
        Halt::Page
    }
}

impl From<ReadError> for Halt {
    fn from(error: ReadError) -> Halt {
        Halt::Failed(error)
    }
}

impl From<LogFault> for Halt {
    fn from(fault: LogFault) -> Halt {
        match fault {
            LogFault::Missing => Halt::Record,
            LogFault::NoSuchPosition { .. } | LogFault::Damaged(_) => {
                Halt::Failed(ReadError::Log(fault.to_string()))
            }
        }
    }
}

impl Read {
    #[must_use]
    pub fn sql(tenant: TenantId, text: &str, parameters: Vec<Value>) -> Read {
        Read::new(tenant, Statement::Text(String::from(text)), parameters)
    }

    /// Parses and binds one statement of any kind; [`ReadResult::prepared`] is the answer.
    #[must_use]
    pub fn bind(tenant: TenantId, text: &str) -> Read {
        Read::new(tenant, Statement::Bind(String::from(text)), Vec::new())
    }

    /// A statement that was bound before; bound anew when the schema has changed since.
    #[must_use]
    pub fn prepared(tenant: TenantId, prepared: Arc<Prepared>, parameters: Vec<Value>) -> Read {
        Read::new(tenant, Statement::Prepared(prepared), parameters)
    }

    fn new(tenant: TenantId, statement: Statement, parameters: Vec<Value>) -> Read {
        Read {
            tenant,
            statement,
            parameters,
            stage: Stage::Bind,
            past: None,
            gone: None,
            asked: None,
            seen: None,
            rows: Vec::new(),
            bytes: 0,
            pins: Pins::new(),
            log_pins: LogPins::default(),
            incarnation: 0,
        }
    }

    /// Not before this position is there to be read ([`Progress::Behind`] until then): a causal
    /// read of who has seen it.
    #[must_use]
    pub fn seen(self, position: Position) -> Read {
        Read { seen: Some(position), ..self }
    }

    /// Rows that are ready so far, in order; a caller that streams takes them after every slice.
    pub fn take_rows(&mut self) -> Vec<Row> {
        core::mem::take(&mut self.rows)
    }

    /// What is known before the first row: the statement as it is bound, the snapshot, and the
    /// position that `AS OF` named, as in [`ReadResult`]. `None`: not yet, or it failed.
    #[must_use]
    pub fn begun(&self) -> Option<(&Arc<Prepared>, Position, Option<Position>)> {
        match &self.stage {
            Stage::Run(task) => Some((task.prepared(), task.position(), self.asked)),
            Stage::Done(Ok((prepared, position))) => Some((prepared, *position, self.asked)),
            Stage::Bind | Stage::Search { .. } | Stage::Snapshot { .. } | Stage::Done(Err(_)) => {
                None
            }
        }
    }

    /// The answer, after [`Progress::Ready`].
    pub fn finish(self) -> Result<ReadResult, ReadError> {
        match self.stage {
            Stage::Done(Ok((prepared, position))) => {
                Ok(ReadResult { prepared, rows: self.rows, position, asked: self.asked })
            }
            Stage::Done(Err(error)) => Err(error),
            Stage::Bind | Stage::Search { .. } | Stage::Snapshot { .. } | Stage::Run(_) => {
                Err(ReadError::NotReady)
            }
        }
    }

    /// Whether what it holds is of this part of the node.
    pub(super) fn is_of(&mut self, incarnation: u64) -> bool {
        super::bind_to(&mut self.incarnation, incarnation)
    }

    /// What it holds went with the part of the node that it was of.
    pub(super) fn forget(&mut self) -> Progress {
        (self.pins, self.log_pins, self.bytes) = (Pins::new(), LogPins::default(), 0);
        self.refuse()
    }

    pub(super) fn refuse(&mut self) -> Progress {
        self.stage = Stage::Done(Err(ReadError::NotReady));
        Progress::Ready
    }
}

impl Running {
    /// A lookup by primary key of what is in memory; `None`: take the long way.
    pub(super) fn read_point(
        &mut self,
        tenant: TenantId,
        prepared: &Prepared,
        parameters: &[Value],
        scratch: &mut PointScratch,
        out: &mut Vec<Value>,
    ) -> Option<PointRead> {
        let query::Statement::Select(select) = &prepared.statement else { return None };
        let Running { kernel, store, logs, ended_at, .. } = self;
        let (newest, catalog) = kernel.snapshot_at_hand(store, logs, tenant)?;
        let position = match &select.as_of {
            None => newest,
            Some((AsOfSyntax::Position(_), _)) => match prepared.as_of(parameters, newest) {
                Ok(Some(AsOf::Position(asked))) if asked == newest => newest,
                // Whether a transaction ended there is in the log: the long way has looked.
                Ok(Some(AsOf::Position(asked))) if *ended_at == Some((tenant, asked)) => asked,
                Ok(_) | Err(_) => return None,
            },
            Some(_) => return None,
        };
        let source = RowSource { store, tenant, catalog, position };
        let found = read_point(prepared, &source, parameters, scratch, out);
        match found {
            Ok(found) => found.map(|found| PointRead { found, position }),
            Err(_fault) => {
                // The long way fetches what it misses itself.
                self.store.forget_misses();
                None
            }
        }
    }

    /// Looks an idempotency id up.
    pub(super) fn read_commitment(
        &mut self,
        read: &mut CommitmentRead,
        effects: &mut Effects,
    ) -> Progress {
        let found = match self.store.ready(&read.pins) {
            Ok(false) => return Progress::Waiting,
            // What is being applied may be there already, and no snapshot shows it yet.
            Ok(true) if self.kernel.is_amid(read.tenant) => return Progress::Waiting,
            Err(error) => Err(ReadError::Store(error)),
            Ok(true) => match self.find_commitment(read.tenant, read.id) {
                Ok(found) => found,
                Err(_fault) => {
                    self.store.fetch(&mut read.pins, effects);
                    return match self.store.ready(&read.pins) {
                        Ok(false) => Progress::Waiting,
                        Ok(true) | Err(_) => Progress::Yielded,
                    };
                }
            },
        };
        self.store.unpin(&mut read.pins);
        read.found = Some(found);
        Progress::Ready
    }

    fn find_commitment(
        &mut self,
        tenant: TenantId,
        id: IdempotencyId,
    ) -> Result<Result<Option<Commitment>, ReadError>, Fault> {
        if self.kernel.catalog(&self.store, tenant)?.is_none() {
            return Ok(Err(ReadError::TenantUnknown(tenant)));
        }
        let tree = TreeRef::new(tenant, IDEMPOTENCY);
        let Some(value) = self.store.get(tree, &id.0)? else { return Ok(Ok(None)) };
        let decoded = Commitment::decode(id, &value);
        Ok(decoded.map(Some).map_err(|error| ReadError::Log(error.to_string())))
    }

    /// One slice of a read.
    pub(super) fn read(&mut self, now: Clock, read: &mut Read, effects: &mut Effects) -> Progress {
        loop {
            if let Stage::Done(_) = read.stage {
                return Progress::Ready;
            }
            match self.store.ready(&read.pins) {
                Ok(true) if self.logs.fetched(&read.log_pins) => {}
                Ok(_) => return Progress::Waiting,
                Err(error) => {
                    self.end_read(read, Err(ReadError::Store(error)));
                    return Progress::Ready;
                }
            }
            match self.read_stage(now, read) {
                Ok(()) => {}
                Err(Halt::Yield) => return Progress::Yielded,
                Err(Halt::Behind) => return Progress::Behind,
                Err(Halt::Page) => {
                    effects.event(Event::ReadStalled);
                    self.store.fetch(&mut read.pins, effects);
                    // What another task has read already brings no completion: look again later.
                    if self.store.ready(&read.pins) == Ok(true) {
                        return Progress::Yielded;
                    }
                }
                Err(Halt::Record) => {
                    effects.event(Event::ReadStalled);
                    self.logs.fetch(&mut read.log_pins, effects);
                    if self.logs.fetched(&read.log_pins) {
                        return Progress::Yielded;
                    }
                }
                Err(Halt::Failed(error)) => self.end_read(read, Err(error)),
            }
        }
    }

    /// Gives back what the read pins; it may be dropped then at any stage.
    pub(super) fn end_read(
        &mut self,
        read: &mut Read,
        outcome: Result<(Arc<Prepared>, Position), ReadError>,
    ) {
        self.store.unpin(&mut read.pins);
        self.logs.release(&mut read.log_pins);
        self.reads_bytes -= core::mem::take(&mut read.bytes);
        read.stage = Stage::Done(outcome);
    }

    fn read_stage(&mut self, now: Clock, read: &mut Read) -> Result<(), Halt> {
        match &mut read.stage {
            Stage::Bind => self.bind(now, read),
            Stage::Search { .. } => self.search(read),
            Stage::Snapshot { prepared, position } => {
                let (prepared, position) = (prepared.clone(), *position);
                let head = self.kernel.log_head(&self.store, &self.logs, read.tenant)?;
                let record = self.logs.read(read.tenant, &head, position)?;
                let metadata = record.metadata;
                let snapshot = if metadata.transaction_last == position {
                    self.ended_at = Some((read.tenant, position));
                    Some(position)
                } else {
                    metadata.transaction_first.previous()
                };
                let Some(snapshot) = snapshot else {
                    return Err(before_everything("position").into());
                };
                read.asked = (snapshot != position).then_some(position);
                self.start(now, read, prepared, snapshot)
            }
            Stage::Run(_) => self.run_read(read),
            Stage::Done(_) => Ok(()),
        }
    }

    fn bind(&mut self, now: Clock, read: &mut Read) -> Result<(), Halt> {
        let tenant = read.tenant;
        let catalog = self.kernel.catalog_shown(&self.store, tenant)?;
        if let Some(seen) = read.seen {
            let newest = match catalog {
                Some(_) => self.kernel.snapshot(&self.store, &self.logs, tenant)?,
                None => None, // it may be one of those things
            };
            let behind = newest < Some(seen);
            #[cfg(verity_zoo)]
            let behind = behind && !crate::zoo::is("causal_read_early");
            if behind {
                self.store.unpin(&mut read.pins);
                return Err(Halt::Behind);
            }
        }
        let Some(catalog) = catalog else {
            return Err(ReadError::TenantUnknown(tenant).into());
        };
        let prepared = match &read.statement {
            Statement::Prepared(prepared) if prepared.still_holds(&catalog) => prepared.clone(),
            Statement::Prepared(_) => {
                let error = SqlError::new(
                    SqlState::SchemaChanged,
                    "the schema changed since the statement was prepared",
                );
                return Err(ReadError::Sql(error.hint("prepare it again")).into());
            }
            Statement::Bind(text) => Arc::new(prepare_one(&catalog, text).map_err(ReadError::Sql)?),
            Statement::Text(text) => match prepare_one(&catalog, text) {
                Ok(prepared) => Arc::new(prepared),
                Err(error) => {
                    let text = text.clone();
                    self.bind_past(read, &catalog, &text, error)?
                }
            },
        };
        if let Statement::Bind(_) = read.statement {
            let newest = self.kernel.snapshot(&self.store, &self.logs, tenant)?;
            self.end_read(read, Ok((prepared, newest.unwrap_or(Position::ZERO))));
            return Ok(());
        }
        if prepared.is_write() {
            let error =
                SqlError::new(SqlState::FeatureNotSupported, "a read cannot change anything");
            return Err(ReadError::Sql(error.hint("execute it as a write")).into());
        }
        prepared.check_parameters(&read.parameters).map_err(ReadError::Sql)?;
        let newest = self.kernel.snapshot(&self.store, &self.logs, tenant)?;
        let head = newest.unwrap_or(Position::ZERO);
        match prepared.as_of(&read.parameters, head).map_err(ReadError::Sql)? {
            None => self.start(now, read, prepared, head),
            Some(AsOf::Position(position)) if position == head => {
                self.start(now, read, prepared, head)
            }
            Some(AsOf::Position(position)) => {
                read.stage = Stage::Snapshot { prepared, position };
                Ok(())
            }
            Some(AsOf::Timestamp(time)) => {
                let high = newest.map_or(0, |newest| newest.get() + 1);
                read.stage = Stage::Search { prepared, time, low: 0, high };
                Ok(())
            }
        }
    }

    /// Timestamps never go back along a log: a binary search, one record a step.
    fn search(&mut self, read: &mut Read) -> Result<(), Halt> {
        let tenant = read.tenant;
        let head: LogHead = self.kernel.log_head(&self.store, &self.logs, tenant)?;
        let Stage::Search { prepared, time, low, high } = &mut read.stage else {
            unreachable!("called in this stage");
        };
        while *low < *high {
            let middle = *low + (*high - *low) / 2;
            let record = self.logs.read(tenant, &head, Position::new(middle))?;
            if record.metadata.timestamp <= *time {
                *low = middle + 1;
            } else {
                *high = middle;
            }
        }
        let Some(position) = Position::new(*low).previous() else {
            return Err(before_everything("time").into());
        };
        read.stage = Stage::Snapshot { prepared: prepared.clone(), position };
        self.logs.release(&mut read.log_pins);
        Ok(())
    }

    fn start(
        &mut self,
        now: Clock,
        read: &mut Read,
        prepared: Arc<Prepared>,
        position: Position,
    ) -> Result<(), Halt> {
        let prepared = self.bind_at(read, prepared, position)?;
        if prepared.views_catalog() {
            // All of its slices show the same one.
            read.past = self.kernel.catalog_viewed(&self.store, read.tenant)?;
        }
        // A read may say `now()`; nothing it draws is kept, so its seed need not be secret.
        let context = Context::new(now.wall, [0; 32]);
        let parameters = core::mem::take(&mut read.parameters);
        let task = ReadTask::new(prepared, read.tenant, parameters, position, context);
        read.stage = Stage::Run(task.map_err(ReadError::Sql)?);
        self.store.unpin(&mut read.pins);
        self.logs.release(&mut read.log_pins);
        Ok(())
    }

    fn run_read(&mut self, read: &mut Read) -> Result<(), Halt> {
        let tenant = read.tenant;
        let Some(catalog) = self.kernel.catalog_shown(&self.store, tenant)? else {
            return Err(ReadError::TenantUnknown(tenant).into());
        };
        let head = self.kernel.log_head(&self.store, &self.logs, tenant)?;
        let Stage::Run(task) = &mut read.stage else { unreachable!("called in this stage") };
        let (logs, keyring) = (&self.logs, &self.keyring);
        let mut damage = None;
        let mut events = |position| match logs.read(tenant, &head, position) {
            Ok(record) => match open_event(keyring, record).and_then(|event| event.to_row()) {
                Ok(row) => EventRead::Row(row),
                Err(error) => {
                    damage = Some(error.to_string());
                    EventRead::Fault
                }
            },
            Err(LogFault::Missing) => EventRead::Fault,
            Err(LogFault::NoSuchPosition { .. }) => EventRead::Absent,
            Err(error @ LogFault::Damaged(_)) => {
                damage = Some(error.to_string());
                EventRead::Fault
            }
        };
        let catalog = read.past.as_ref().unwrap_or(&catalog);
        let mut world = ReadWorld { store: &self.store, catalog, events: &mut events };
        let others = self.reads_bytes - read.bytes;
        task.limit_memory((self.memory.reads as usize).saturating_sub(others));
        let outcome = task.step(&mut world);
        read.bytes = task.memory_bytes();
        self.reads_bytes = others + read.bytes;
        if let Some(damage) = damage {
            return Err(ReadError::Log(damage).into());
        }
        match outcome {
            Ok(progress) => {
                read.rows.append(&mut task.take_rows());
                self.store.unpin(&mut read.pins);
                self.logs.release(&mut read.log_pins);
                match progress {
                    ReadProgress::More => Err(Halt::Yield),
                    ReadProgress::Done => {
                        let outcome = (task.prepared().clone(), task.position());
                        self.end_read(read, Ok(outcome));
                        Ok(())
                    }
                }
            }
            Err(Stop::Fault(fault)) => Err(fault.into()),
            Err(Stop::EventFault) => Err(Halt::Record),
            Err(Stop::Sql(error)) => Err(ReadError::Sql(error).into()),
        }
    }
}

fn before_everything(what: &str) -> ReadError {
    let message = alloc::format!("no transaction had ended at this {what}");
    ReadError::Sql(SqlError::new(SqlState::InvalidPosition, message))
}
