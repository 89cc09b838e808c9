//! A tenant's tables without a log: the smallest thing that applies commands, for tests of reads.
//!
//! It keeps every past state as a plain map, so that reads of the past have an independent model.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use crate::crypto::PageKey;
use crate::ids::{ColumnId, Op, Position, PrincipalId, SchemaVersion, StreamId, TableId, TenantId};
use crate::io::{Effect, Effects, FileId, Pages};
use crate::limits::{ClusterConstants, PAGE_SIZE};
use crate::query::access::{KeyConditions, KeyRange};
use crate::query::bind::Source;
use crate::query::bind_write::cell_value;
use crate::query::codec_command::Cell;
use crate::query::eval::{Context, Env, RowView, eval, eval_truth};
use crate::query::key::{encode_key, hidden_key, history_key};
use crate::query::source::RowScan;
use crate::query::stored::{StoredPrefix, StoredRow, encode_stored};
use crate::query::texts::Texts;
use crate::query::{
    AsOf, Catalog, Command, EventRead, EventRow, Expr, ReadProgress, ReadTask, ReadWorld,
    RowSource, SqlError, Stop, TableSchema, Value, prepare,
};
use crate::store::{Pins, Store, StoreConfig, TreeRef};
use crate::time::Timestamp;

pub const TENANT: TenantId = TenantId::new(1);

type Rows = BTreeMap<(TableId, Vec<u8>), Vec<Value>>;

pub struct Database {
    pub store: Store,
    pub catalog: Catalog,
    /// Next position.
    pub next: Position,
    /// State after each position, for tests that ask for it: it takes memory.
    pub keep_past: bool,
    pub past: BTreeMap<Position, Rows>,
    pub now: Rows,
    /// Records of changes, kept with the past.
    events: BTreeMap<Position, EventRow>,
    keys: BTreeMap<TenantId, PageKey>,
    disk: BTreeMap<u64, Vec<u8>>,
    /// Forget every page after each step of a read.
    pub evict: bool,
    pub faults: usize,
}

fn context() -> Context {
    Context::new(Timestamp(1_795_226_704_500_000_000), [7; 32])
}

/// A log that has something at every position but the first.
fn event(position: Position) -> EventRead {
    if position == Position::ZERO {
        return EventRead::Absent;
    }
    EventRead::Row(EventRow {
        position,
        transaction_first: position,
        transaction_last: position,
        kind: "insert".into(),
        stream: StreamId::new(1),
        timestamp: Timestamp(position.get() * 1_000_000_000),
        op: Op::new(position.get()),
        principal: PrincipalId::ZERO,
        schema_version: SchemaVersion::new(1),
        columns: Some([(ColumnId::new(1), Value::Integer(position.get() as i64))].into()),
        payload: None,
    })
}

impl Database {
    pub fn new() -> Database {
        let config = StoreConfig::new(FileId::Grid, &ClusterConstants::DEFAULT, 1 << 14);
        let mut store = Store::new(config);
        store.create_tenant(TENANT).unwrap();
        Database {
            store,
            catalog: Catalog::new(),
            next: Position::new(1),
            keep_past: false,
            past: BTreeMap::new(),
            now: Rows::new(),
            events: BTreeMap::new(),
            keys: (0..2).map(|id| (TenantId::new(id), PageKey::new(&[id as u8; 32]))).collect(),
            disk: BTreeMap::new(),
            evict: false,
            faults: 0,
        }
    }

    pub fn head(&self) -> Position {
        self.next.previous().unwrap()
    }

    pub fn source(&self, position: Position) -> RowSource<'_> {
        RowSource { store: &self.store, tenant: TENANT, catalog: &self.catalog, position }
    }

    /// Runs every statement of a text; gives the rows of the last SELECT.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Vec<Value>>, SqlError> {
        self.query_with(sql, &[])
    }

    pub fn query_with(
        &mut self,
        sql: &str,
        parameters: &[Value],
    ) -> Result<Vec<Vec<Value>>, SqlError> {
        let mut rows = Vec::new();
        for prepared in prepare(&self.catalog, sql)? {
            if prepared.is_write() {
                self.apply(&prepared.lower(parameters)?)?;
                continue;
            }
            let position = match prepared.as_of(parameters, self.head())? {
                Some(AsOf::Position(position)) => position,
                Some(AsOf::Timestamp(_)) => unreachable!("this database has no times"),
                None => self.head(),
            };
            let mut task = ReadTask::new(
                Arc::new(prepared),
                TENANT,
                parameters.to_vec(),
                position,
                context(),
            )?;
            rows = self.finish(&mut task)?;
        }
        Ok(rows)
    }

    pub fn finish(&mut self, task: &mut ReadTask) -> Result<Vec<Vec<Value>>, SqlError> {
        let mut rows = Vec::new();
        loop {
            let progress = self.step(task)?;
            rows.extend(task.take_rows());
            if progress == ReadProgress::Done {
                return Ok(rows);
            }
        }
    }

    /// One slice, with as many page faults on the way as it takes.
    pub fn step(&mut self, task: &mut ReadTask) -> Result<ReadProgress, SqlError> {
        let mut pins = Pins::new();
        loop {
            let recorded = &self.events;
            let mut events = |position| match recorded.get(&position) {
                Some(row) => EventRead::Row(row.clone()),
                None => event(position),
            };
            let mut world =
                ReadWorld { store: &self.store, catalog: &self.catalog, events: &mut events };
            let outcome = task.step(&mut world);
            match outcome {
                Ok(progress) => {
                    self.store.unpin(&mut pins);
                    if self.evict {
                        self.store.evict_all();
                    }
                    return Ok(progress);
                }
                Err(Stop::Sql(error)) => {
                    self.store.unpin(&mut pins);
                    return Err(error);
                }
                Err(Stop::EventFault) => unreachable!("events are made up"),
                Err(Stop::Fault(_)) => {
                    self.faults += 1;
                    let mut effects = Effects::new();
                    self.store.fetch(&mut pins, &mut effects);
                    self.complete(&mut effects);
                    assert!(self.store.ready(&pins).unwrap());
                }
            }
        }
    }

    fn complete(&mut self, effects: &mut Effects) {
        let mut queue: VecDeque<Effect> = effects.drain().collect();
        while let Some(effect) = queue.pop_front() {
            let mut more = Effects::new();
            match effect {
                Effect::Read { io, at, pages } => {
                    let bytes: Vec<u8> = (0..pages.count() as u64)
                        .flat_map(|page| self.disk[&(at.offset + page * PAGE_SIZE as u64)].clone())
                        .collect();
                    let pages = Pages::from_bytes(&bytes);
                    self.store.on_read_done(&self.keys, io, pages, Ok(()), &mut more).unwrap();
                }
                Effect::Write { io, at, pages, .. } => {
                    for (page, bytes) in pages.as_bytes().chunks(PAGE_SIZE).enumerate() {
                        self.disk.insert(at.offset + (page * PAGE_SIZE) as u64, bytes.to_vec());
                    }
                    self.store.on_write_done(io, pages, Ok(())).unwrap();
                }
                Effect::Event(_) => {}
                other => panic!("the store does not {other:?}"),
            }
            queue.extend(more.drain());
        }
    }

    /// Everything to disk, so that every page can be forgotten.
    pub fn checkpoint(&mut self, op: u64) {
        self.store.checkpoint_begin(Op::new(op));
        loop {
            let mut effects = Effects::new();
            self.store.checkpoint_step(&self.keys, &mut effects).unwrap();
            self.complete(&mut effects);
            if self.store.checkpoint_done().is_some() {
                break;
            }
        }
        self.store.checkpoint_durable_applied(Op::new(op));
        self.store.evict_all();
    }

    pub fn apply(&mut self, command: &Command) -> Result<(), SqlError> {
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        match Command::decode(&bytes).unwrap() {
            Command::Nothing => {}
            Command::CreateTable { mut schema, .. } => {
                schema.created_at = self.next;
                for column in &mut schema.columns {
                    column.added_at = self.next;
                }
                for tree in schema.trees() {
                    self.store.create_tree(TreeRef::new(TENANT, tree)).unwrap();
                }
                self.catalog.create(schema);
                self.passed();
            }
            Command::DropTable { table, .. } => {
                self.catalog.drop_table(table).unwrap();
                self.passed();
            }
            Command::CreateIndex(_)
            | Command::DropIndex { .. }
            | Command::CancelJob { .. }
            | Command::AddColumn { .. } => {
                unreachable!("the kernel's tests have indexes")
            }
            Command::Insert(insert) => {
                let schema = self.catalog.table(insert.table).unwrap().clone();
                let mut reader = insert.rows.reader();
                for _ in 0..insert.rows.count {
                    let context = context();
                    let env = Env::constant(&[], &context);
                    let mut row: Vec<Value> = schema
                        .columns
                        .iter()
                        .map(|column| match &column.default {
                            Some(default) => eval(default, &env),
                            None => Ok(Value::Null),
                        })
                        .collect::<Result<_, _>>()?;
                    for id in &insert.columns {
                        let at = schema.ordinal(*id);
                        match reader.cell(&mut Texts::default()).unwrap() {
                            Cell::Value(value) => row[at] = value,
                            Cell::Expr(expr) => row[at] = eval(&expr, &env)?,
                            Cell::Default => {}
                        }
                    }
                    for (value, column) in row.iter_mut().zip(&schema.columns) {
                        *value = cell_value(core::mem::take(value), column)?;
                    }
                    let key = match schema.hidden_key() {
                        true => hidden_key(self.next).to_vec(),
                        false => encode_key(&schema, &row)?,
                    };
                    assert!(!self.now.contains_key(&(schema.id, key.clone())), "tests insert once");
                    self.put(&schema, key, Some(row));
                }
                reader.finish().unwrap();
            }
            Command::Update(update) => {
                let schema = self.catalog.table(update.table).unwrap().clone();
                for (key, old) in self.matching(&schema, update.predicate.as_ref())? {
                    let context = context();
                    let env = Env::constant(&[], &context).with_row(RowView::Values(&old));
                    let mut row = old.clone();
                    for assignment in &update.assignments {
                        let value = assignment.value.as_ref().unwrap();
                        let column = schema.column(assignment.column);
                        row[schema.ordinal(assignment.column)] =
                            cell_value(eval(value, &env)?, column)?;
                    }
                    self.put(&schema, key, Some(row));
                }
            }
            Command::Delete(delete) => {
                let schema = self.catalog.table(delete.table).unwrap().clone();
                for (key, _) in self.matching(&schema, delete.predicate.as_ref())? {
                    self.put(&schema, key, None);
                }
            }
        }
        Ok(())
    }

    #[allow(clippy::type_complexity, reason = "a test")]
    fn matching(
        &self,
        schema: &Arc<TableSchema>,
        predicate: Option<&Expr>,
    ) -> Result<Vec<(Vec<u8>, Vec<Value>)>, SqlError> {
        let conditions = KeyConditions::new(&Source::Table(schema.clone()), predicate);
        let context = context();
        let env = Env::constant(&[], &context);
        let ranges = match crate::query::access::narrows(&conditions) {
            true => conditions.ranges(schema, &env)?,
            false => [KeyRange::all()].into(),
        };
        let mut scan = RowScan::new(ranges, false);
        let mut found = Vec::new();
        let mut failure = None;
        let source = self.source(Position::new(u64::MAX - 1));
        while source
            .scan(schema, &mut scan, &mut |key, row| {
                let env = env.with_row(RowView::Stored(row));
                match predicate.map_or(Ok(Some(true)), |predicate| eval_truth(predicate, &env)) {
                    Ok(Some(true)) => found.push((key.to_vec(), row.values())),
                    Ok(_) => {}
                    Err(error) => failure = Some(error),
                }
                ControlFlow::Continue(())
            })
            .unwrap()
            .is_break()
        {}
        match failure {
            Some(error) => Err(error),
            None => Ok(found),
        }
    }

    fn put(&mut self, schema: &TableSchema, key: Vec<u8>, row: Option<Vec<Value>>) {
        let rows = TreeRef::new(TENANT, schema.rows);
        let history = TreeRef::new(TENANT, schema.history);
        let old = self.store.get(rows, &key).unwrap().map(|bytes| bytes.into_owned());
        if self.keep_past {
            self.record(schema, &key, row.as_deref(), old.is_some());
        }
        if let Some(old) = old {
            let _ = StoredRow::new(&old);
            self.store.put(history, &history_key(&key, self.next), &old).unwrap();
        }
        match row {
            Some(row) => {
                let prefix = StoredPrefix { begun_at: self.next, ..StoredPrefix::default() };
                let mut bytes = Vec::new();
                encode_stored(&prefix, &row, &mut bytes);
                self.store.put(rows, &key, &bytes).unwrap();
                self.now.insert((schema.id, key), row);
            }
            None => {
                self.store.remove(rows, &key).unwrap();
                self.now.remove(&(schema.id, key));
            }
        }
        self.catalog.set_changed_at(schema.id, self.next);
        self.passed();
    }

    fn record(&mut self, schema: &TableSchema, key: &[u8], row: Option<&[Value]>, existed: bool) {
        let mut columns = Vec::new();
        match (row, schema.hidden_key()) {
            (_, true) => {
                let key = i64::from_be_bytes(key.try_into().unwrap());
                columns.push((ColumnId::new(0), Value::Integer(key)));
            }
            (None, false) => {
                let values = crate::query::key::decode_key(schema, key).unwrap();
                columns.extend(schema.primary_key.iter().copied().zip(values));
            }
            (Some(_), false) => {}
        }
        let row = row.unwrap_or_default().iter().cloned();
        columns.extend((1..).map(ColumnId::new).zip(row));
        let kind = match (columns.len() > schema.primary_key.len(), existed) {
            (true, false) => "insert",
            (true, true) => "update",
            (false, _) => "delete",
        };
        let EventRead::Row(made_up) = event(self.next) else { unreachable!("not the first") };
        let (kind, stream) = (kind.into(), schema.stream);
        let event = EventRow { kind, stream, columns: Some(columns), ..made_up };
        self.events.insert(self.next, event);
    }

    fn passed(&mut self) {
        if self.keep_past {
            self.past.insert(self.next, self.now.clone());
        }
        self.next = self.next.next();
    }
}
