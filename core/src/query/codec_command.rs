//! Commands as deterministic CBOR: `[version, code, …]`.
//!
//! Codes are never reused. Fault model: as `codec_expr`: any bytes, bounded by their own size,
//! never a panic (fuzzed).

use alloc::borrow::ToOwned;
use alloc::vec::Vec;

use crate::ids::{ColumnId, Position, SchemaVersion, TableId, TreeId};
use crate::limits::{COLUMNS_MAX, SQL_TOKENS_MAX};
use crate::query::cbor::{DecodeError, Decoder, Encoder, MAJOR_TAG};
use crate::query::codec::{decode_value_with, encode_value};
use crate::query::codec_expr::{decode_column_id, decode_expr, encode_expr};
use crate::query::codec_schema::{
    decode_column, decode_index_columns, decode_name, encode_column, encode_column_ids,
};
use crate::query::command::{
    Assignment, Command, ConflictTarget, CreateIndex, Delete, FoundRows, Insert, InsertRows,
    OnConflict, Update,
};
use crate::query::expr::Expr;
use crate::query::schema::TableSchema;
use crate::query::texts::Texts;
use crate::query::value::Value;

/// Raised when the meaning of a command changes; old ones stay readable.
const COMMAND_VERSION: u64 = 1;
/// Marks a cell of an INSERT that is an expression and not a value ("self-described" is taken).
const TAG_EXPRESSION: u64 = 40_001;

type Result<T> = core::result::Result<T, DecodeError>;

impl Command {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut encoder = Encoder::new(out);
        let e = &mut encoder;
        match self {
            Command::Nothing => {
                e.array(2).uint(COMMAND_VERSION).uint(0);
            }
            Command::CreateTable { schema, if_not_exists } => {
                e.array(4).uint(COMMAND_VERSION).uint(1).bool(*if_not_exists);
                schema.encode_into(e);
            }
            Command::DropTable { table, schema_version } => {
                e.array(4).uint(COMMAND_VERSION).uint(2);
                encode_target(e, *table, *schema_version);
            }
            Command::CreateIndex(create) => {
                e.array(8).uint(COMMAND_VERSION).uint(6);
                encode_target(e, create.table, create.schema_version);
                e.text(&create.name).bool(create.unique).bool(create.if_not_exists);
                encode_column_ids(e, &create.columns);
            }
            Command::DropIndex { table, entries } => {
                e.array(4).uint(COMMAND_VERSION).uint(7);
                e.uint(u64::from(table.get())).uint(u64::from(entries.get()));
            }
            Command::CancelJob { job } => {
                e.array(3).uint(COMMAND_VERSION).uint(9).uint(u64::from(job.get()));
            }
            Command::AddColumn { table, schema_version, column } => {
                e.array(5).uint(COMMAND_VERSION).uint(8);
                encode_target(e, *table, *schema_version);
                encode_column(e, column);
            }
            Command::Insert(insert) => {
                e.array(8).uint(COMMAND_VERSION).uint(3);
                encode_target(e, insert.table, insert.schema_version);
                e.array(insert.columns.len());
                for id in &insert.columns {
                    e.uint(u64::from(id.get()));
                }
                e.uint(u64::from(insert.rows.count)).bytes(&insert.rows.cells);
                encode_on_conflict(e, &insert.on_conflict);
            }
            Command::Update(update) => {
                let fields = 6 + 2 * usize::from(update.found.is_some());
                e.array(fields).uint(COMMAND_VERSION).uint(4);
                encode_target(e, update.table, update.schema_version);
                encode_assignments(e, &update.assignments);
                e.option(update.predicate.as_ref(), |e, predicate| encode_expr(e, predicate));
                encode_found(e, update.found.as_ref());
            }
            Command::Delete(delete) => {
                let fields = 5 + 2 * usize::from(delete.found.is_some());
                e.array(fields).uint(COMMAND_VERSION).uint(5);
                encode_target(e, delete.table, delete.schema_version);
                e.option(delete.predicate.as_ref(), |e, predicate| encode_expr(e, predicate));
                encode_found(e, delete.found.as_ref());
            }
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Command> {
        let mut decoder = Decoder::new(bytes);
        let command = Command::decode_from(&mut decoder)?;
        decoder.finish()?;
        Ok(command)
    }

    /// Where a command is one item of a larger message.
    pub fn decode_from(d: &mut Decoder<'_>) -> Result<Command> {
        Ok(match SentCommand::decode_from(d)? {
            SentCommand::Insert(insert) => Command::Insert(insert.to_insert()),
            SentCommand::Other(command) => command,
        })
    }
}

/// A command as it is read: the rows of an INSERT stay as they came.
#[derive(Debug)]
pub enum SentCommand<'a> {
    Insert(InsertSent<'a>),
    /// Any other.
    Other(Command),
}

/// An [`Insert`] as it travels.
#[derive(Clone, Debug)]
pub struct InsertSent<'a> {
    pub table: TableId,
    pub schema_version: SchemaVersion,
    columns: Decoder<'a>,
    columns_count: usize,
    pub count: u32,
    pub cells: &'a [u8],
    pub on_conflict: OnConflict,
}

impl<'a> InsertSent<'a> {
    /// Columns given, in the order of each row.
    pub fn columns(&self) -> impl ExactSizeIterator<Item = ColumnId> + use<'a> {
        let mut columns = self.columns.clone();
        (0..self.columns_count).map(move |_| {
            let Ok(id) = decode_column_id(&mut columns) else { unreachable!("decoded before") };
            id
        })
    }

    #[must_use]
    pub fn reader(&self) -> CellReader<'a> {
        CellReader { decoder: Decoder::new(self.cells) }
    }

    fn to_insert(&self) -> Insert {
        let InsertSent { table, schema_version, count, cells, on_conflict, .. } = self.clone();
        let rows = InsertRows { count, cells: cells.to_owned() };
        Insert { table, schema_version, columns: self.columns().collect(), rows, on_conflict }
    }
}

impl<'a> SentCommand<'a> {
    pub fn decode_from(d: &mut Decoder<'a>) -> Result<SentCommand<'a>> {
        let fields = d.array()?;
        if d.uint()? != COMMAND_VERSION {
            return d.error("command of another version");
        }
        let (command, expected) = match d.uint()? {
            0 => (Command::Nothing, 2),
            1 => {
                let if_not_exists = d.bool()?;
                (Command::CreateTable { schema: TableSchema::decode_from(d)?, if_not_exists }, 4)
            }
            2 => {
                let (table, schema_version) = decode_target(d)?;
                (Command::DropTable { table, schema_version }, 4)
            }
            3 => {
                let insert = decode_insert(d)?;
                return match fields {
                    8 => Ok(SentCommand::Insert(insert)),
                    _ => d.error("command has other fields"),
                };
            }
            4 => {
                let (table, schema_version) = decode_target(d)?;
                let assignments = decode_assignments(d)?;
                let predicate = d.option(decode_expr)?;
                let found = if fields == 8 { Some(decode_found(d)?) } else { None };
                let expected = 6 + 2 * usize::from(found.is_some());
                let update = Update { table, schema_version, assignments, predicate, found };
                (Command::Update(update), expected)
            }
            5 => {
                let (table, schema_version) = decode_target(d)?;
                let predicate = d.option(decode_expr)?;
                let found = if fields == 7 { Some(decode_found(d)?) } else { None };
                let expected = 5 + 2 * usize::from(found.is_some());
                let delete = Delete { table, schema_version, predicate, found };
                (Command::Delete(delete), expected)
            }
            6 => {
                let (table, schema_version) = decode_target(d)?;
                let create = CreateIndex {
                    table,
                    schema_version,
                    name: decode_name(d)?,
                    unique: d.bool()?,
                    if_not_exists: d.bool()?,
                    columns: decode_index_columns(d, COLUMNS_MAX)?,
                };
                (Command::CreateIndex(create), 8)
            }
            7 => {
                let (table, entries) = (TableId::new(d.u32()?), TreeId::new(d.u32()?));
                (Command::DropIndex { table, entries }, 4)
            }
            8 => {
                let (table, schema_version) = decode_target(d)?;
                let column = decode_column(d, ColumnId::new(1))?;
                (Command::AddColumn { table, schema_version, column }, 5)
            }
            9 => (Command::CancelJob { job: TreeId::new(d.u32()?) }, 3),
            _ => return d.error("unknown command"),
        };
        if fields != expected {
            return d.error("command has other fields");
        }
        Ok(SentCommand::Other(command))
    }
}

fn encode_target(e: &mut Encoder<'_>, table: TableId, version: SchemaVersion) {
    e.uint(u64::from(table.get())).uint(u64::from(version.get()));
}

fn decode_target(d: &mut Decoder<'_>) -> Result<(TableId, SchemaVersion)> {
    Ok((TableId::new(d.u32()?), SchemaVersion::new(d.u32()?)))
}

/// Two more fields, or none.
fn encode_found(e: &mut Encoder<'_>, found: Option<&FoundRows>) {
    let Some(found) = found else { return };
    e.uint(found.position.get()).array(found.keys.len());
    for key in &found.keys {
        e.bytes(key);
    }
}

fn decode_found(d: &mut Decoder<'_>) -> Result<FoundRows> {
    let position = Position::new(d.uint()?);
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for _ in 0..d.array()? {
        let key = d.bytes()?;
        if keys.last().is_some_and(|last| last.as_slice() >= key) {
            return d.error("keys do not ascend");
        }
        keys.push(key.to_owned());
    }
    Ok(FoundRows { position, keys })
}

fn decode_insert<'a>(d: &mut Decoder<'a>) -> Result<InsertSent<'a>> {
    let (table, schema_version) = decode_target(d)?;
    let columns_count = d.array()?;
    if columns_count > COLUMNS_MAX {
        return d.error("too many columns");
    }
    let columns = d.clone();
    let mut given = [false; COLUMNS_MAX];
    for _ in 0..columns_count {
        let id = decode_column_id(d)?;
        if core::mem::replace(&mut given[id.get() as usize - 1], true) {
            return d.error("a column is given twice");
        }
    }
    let (count, cells) = (d.u32()?, d.bytes()?);
    // A cell takes a byte at least; rows without cells are all defaults.
    let most = cells.len().checked_div(columns_count).unwrap_or(SQL_TOKENS_MAX);
    if count as usize > most {
        return d.error("more rows than cells");
    }
    let on_conflict = decode_on_conflict(d)?;
    Ok(InsertSent { table, schema_version, columns, columns_count, count, cells, on_conflict })
}

fn encode_on_conflict(e: &mut Encoder<'_>, on_conflict: &OnConflict) {
    match on_conflict {
        OnConflict::Fail => {
            e.array(1).uint(0);
        }
        OnConflict::DoNothing(target) => {
            e.array(2).uint(1);
            encode_conflict_target(e, *target);
        }
        OnConflict::DoUpdate { target, assignments, predicate } => {
            e.array(4).uint(2);
            encode_conflict_target(e, *target);
            encode_assignments(e, assignments);
            e.option(predicate.as_ref(), |e, predicate| encode_expr(e, predicate));
        }
    }
}

fn decode_on_conflict(d: &mut Decoder<'_>) -> Result<OnConflict> {
    let fields = d.array()?;
    let (on_conflict, expected) = match d.uint()? {
        0 => (OnConflict::Fail, 1),
        1 => (OnConflict::DoNothing(decode_conflict_target(d)?), 2),
        2 => {
            let target = decode_conflict_target(d)?;
            let assignments = decode_assignments(d)?;
            (OnConflict::DoUpdate { target, assignments, predicate: d.option(decode_expr)? }, 4)
        }
        _ => return d.error("unknown conflict action"),
    };
    if fields == expected { Ok(on_conflict) } else { d.error("conflict action has other fields") }
}

/// 0: any, 1: the primary key, else the tree of the index.
fn encode_conflict_target(e: &mut Encoder<'_>, target: ConflictTarget) {
    e.uint(match target {
        ConflictTarget::Any => 0,
        ConflictTarget::PrimaryKey => 1,
        ConflictTarget::Index(entries) => u64::from(entries.get()),
    });
}

fn decode_conflict_target(d: &mut Decoder<'_>) -> Result<ConflictTarget> {
    Ok(match d.u32()? {
        0 => ConflictTarget::Any,
        1 => ConflictTarget::PrimaryKey,
        entries => ConflictTarget::Index(TreeId::new(entries)),
    })
}

fn encode_assignments(e: &mut Encoder<'_>, assignments: &[Assignment]) {
    e.array(assignments.len() * 2);
    for assignment in assignments {
        e.uint(u64::from(assignment.column.get()));
        e.option(assignment.value.as_ref(), |e, value| encode_expr(e, value));
    }
}

fn decode_assignments(d: &mut Decoder<'_>) -> Result<Vec<Assignment>> {
    let count = d.array()?;
    if !count.is_multiple_of(2) || count / 2 > COLUMNS_MAX {
        return d.error("bad assignments");
    }
    let mut assignments: Vec<Assignment> = Vec::new();
    for _ in 0..count / 2 {
        let column = decode_column_id(d)?;
        if assignments.iter().any(|other| other.column == column) {
            return d.error("a column is assigned twice");
        }
        assignments.push(Assignment { column, value: d.option(decode_expr)? });
    }
    Ok(assignments)
}

// Cells of an INSERT -----------------------------------------------------------------------------

/// One cell of an INSERT.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Value(Value),
    /// Needs the time, the seed or nothing known before apply.
    Expr(Expr),
    /// DEFAULT
    Default,
}

impl InsertRows {
    pub fn push_value(&mut self, value: &Value) {
        encode_value(&mut Encoder::new(&mut self.cells), value);
    }

    pub fn push_expr(&mut self, expr: &Expr) {
        let mut encoder = Encoder::new(&mut self.cells);
        encoder.tag(TAG_EXPRESSION);
        encode_expr(&mut encoder, expr);
    }

    pub fn push_default(&mut self) {
        Encoder::new(&mut self.cells).tag(TAG_EXPRESSION).null();
    }

    #[must_use]
    pub fn reader(&self) -> CellReader<'_> {
        CellReader { decoder: Decoder::new(&self.cells) }
    }
}

/// Reads cells one after the other.
#[derive(Debug)]
pub struct CellReader<'a> {
    decoder: Decoder<'a>,
}

impl CellReader<'_> {
    pub fn cell(&mut self, texts: &mut Texts) -> Result<Cell> {
        let d = &mut self.decoder;
        if let (MAJOR_TAG, 25) = d.peek()? {
            let mut ahead = d.clone();
            if ahead.tag()? == TAG_EXPRESSION {
                *d = ahead;
                if d.is_null() {
                    d.null()?;
                    return Ok(Cell::Default);
                }
                return decode_expr(d).map(Cell::Expr);
            }
        }
        decode_value_with(d, texts).map(Cell::Value)
    }

    /// All cells must have been read.
    pub fn finish(&self) -> Result<()> {
        self.decoder.finish()
    }
}
