//! Commands, expressions and schemas as deterministic CBOR.
//!
//! Every enum is an array whose first item is its code; codes are never reused. A command is
//! `[version, code, …]`. Fault model: any bytes; decoding is bounded by the input's own size and by
//! `EXPRESSION_DEPTH_MAX`, and never panics (fuzzed).

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::ids::{ColumnId, Position, SchemaVersion, StreamId, TableId, TreeId};
use crate::limits::{
    COLUMNS_MAX, EXPRESSION_DEPTH_MAX, IDENTIFIER_SIZE_MAX, INDEXES_MAX, SQL_TOKENS_MAX,
};
use crate::query::cbor::{DecodeError, Decoder, Encoder, MAJOR_TAG};
use crate::query::codec::{decode_value, encode_value};
use crate::query::command::{
    Assignment, Command, ConflictTarget, CreateIndex, Delete, Insert, InsertRows, OnConflict,
    Update,
};
use crate::query::expr::{ArithmeticOp, CompareOp, Expr, Function};
use crate::query::index::Index;
use crate::query::schema::{Catalog, Check, Column, TableSchema};
use crate::query::value::{ColumnType, Value};

/// Raised when the meaning of a command changes; old ones stay readable.
const COMMAND_VERSION: u64 = 1;
const SCHEMA_FORMAT: u64 = 2;
/// Marks a cell of an INSERT that is an expression and not a value ("self-described" is taken).
const TAG_EXPRESSION: u64 = 40_001;

type Result<T> = core::result::Result<T, DecodeError>;

// Expressions ------------------------------------------------------------------------------------

mod code {
    pub const LITERAL: u64 = 0;
    pub const COLUMN: u64 = 1;
    pub const PARAMETER: u64 = 2;
    pub const EXCLUDED: u64 = 3;
    pub const NOT: u64 = 4;
    pub const NEGATE: u64 = 5;
    pub const AND: u64 = 6;
    pub const OR: u64 = 7;
    pub const COMPARE: u64 = 8;
    pub const ARITHMETIC: u64 = 9;
    pub const IS_NULL: u64 = 10;
    pub const IS_TRUTH: u64 = 11;
    pub const IS_DISTINCT: u64 = 12;
    pub const BETWEEN: u64 = 13;
    pub const IN: u64 = 14;
    pub const LIKE: u64 = 15;
    pub const CASE: u64 = 16;
    pub const CAST: u64 = 17;
    pub const CALL: u64 = 18;
}

pub fn encode_expr(e: &mut Encoder<'_>, expr: &Expr) {
    match expr {
        Expr::Literal(value) => {
            e.array(2).uint(code::LITERAL);
            encode_value(e, value);
        }
        Expr::Column(id) => {
            e.array(2).uint(code::COLUMN).uint(u64::from(id.get()));
        }
        Expr::Parameter(index) => {
            e.array(2).uint(code::PARAMETER).uint(u64::from(*index));
        }
        Expr::Excluded(id) => {
            e.array(2).uint(code::EXCLUDED).uint(u64::from(id.get()));
        }
        Expr::Not(value) => {
            e.array(2).uint(code::NOT);
            encode_expr(e, value);
        }
        Expr::Negate(value) => {
            e.array(2).uint(code::NEGATE);
            encode_expr(e, value);
        }
        Expr::And(list) => {
            e.array(2).uint(code::AND);
            encode_list(e, list);
        }
        Expr::Or(list) => {
            e.array(2).uint(code::OR);
            encode_list(e, list);
        }
        Expr::Compare { op, left, right } => {
            e.array(4).uint(code::COMPARE).uint(*op as u64);
            encode_expr(e, left);
            encode_expr(e, right);
        }
        Expr::Arithmetic { op, left, right } => {
            e.array(4).uint(code::ARITHMETIC).uint(*op as u64);
            encode_expr(e, left);
            encode_expr(e, right);
        }
        Expr::IsNull { value, negated } => {
            e.array(3).uint(code::IS_NULL);
            encode_expr(e, value);
            e.bool(*negated);
        }
        Expr::IsTruth { value, truth, negated } => {
            e.array(4).uint(code::IS_TRUTH);
            encode_expr(e, value);
            e.option(*truth, |e, truth| {
                e.bool(truth);
            });
            e.bool(*negated);
        }
        Expr::IsDistinct { left, right, negated } => {
            e.array(4).uint(code::IS_DISTINCT);
            encode_expr(e, left);
            encode_expr(e, right);
            e.bool(*negated);
        }
        Expr::Between { value, low, high, negated } => {
            e.array(5).uint(code::BETWEEN);
            encode_expr(e, value);
            encode_expr(e, low);
            encode_expr(e, high);
            e.bool(*negated);
        }
        Expr::In { value, list, negated } => {
            e.array(4).uint(code::IN);
            encode_expr(e, value);
            encode_list(e, list);
            e.bool(*negated);
        }
        Expr::Like { value, pattern, escape, ignore_case, negated } => {
            e.array(6).uint(code::LIKE);
            encode_expr(e, value);
            encode_expr(e, pattern);
            e.option(*escape, |e, escape| {
                e.uint(u64::from(u32::from(escape)));
            });
            e.bool(*ignore_case).bool(*negated);
        }
        Expr::Case { operand, whens, otherwise } => {
            e.array(4).uint(code::CASE);
            e.option(operand.as_ref(), |e, operand| encode_expr(e, operand));
            e.array(whens.len() * 2);
            for (when, then) in whens {
                encode_expr(e, when);
                encode_expr(e, then);
            }
            e.option(otherwise.as_ref(), |e, otherwise| encode_expr(e, otherwise));
        }
        Expr::Cast { value, to } => {
            e.array(3).uint(code::CAST);
            encode_expr(e, value);
            encode_type(e, *to);
        }
        Expr::Call { function, arguments } => {
            e.array(3).uint(code::CALL).uint(*function as u64);
            encode_list(e, arguments);
        }
    }
}

fn encode_list(e: &mut Encoder<'_>, list: &[Expr]) {
    e.array(list.len());
    list.iter().for_each(|item| encode_expr(e, item));
}

pub fn decode_expr(d: &mut Decoder<'_>) -> Result<Expr> {
    decode_expr_at(d, 0)
}

fn decode_expr_at(d: &mut Decoder<'_>, depth: usize) -> Result<Expr> {
    if depth == EXPRESSION_DEPTH_MAX {
        return d.error("expression is nested too deep");
    }
    let below = depth + 1;
    let fields = d.array()?;
    let code = d.uint()?;
    let expected = match code {
        code::LITERAL..=code::OR => 2,
        code::IS_NULL | code::CAST | code::CALL => 3,
        code::BETWEEN => 5,
        code::LIKE => 6,
        code::COMPARE..=code::CASE => 4,
        _ => return d.error("unknown expression"),
    };
    if fields != expected {
        return d.error("expression has another number of fields");
    }
    let one = |d: &mut Decoder<'_>| decode_expr_at(d, below).map(Box::new);
    Ok(match code {
        code::LITERAL => Expr::Literal(decode_value(d)?),
        code::COLUMN => Expr::Column(decode_column_id(d)?),
        code::PARAMETER => Expr::Parameter(d.u16()?),
        code::EXCLUDED => Expr::Excluded(decode_column_id(d)?),
        code::NOT => Expr::Not(one(d)?),
        code::NEGATE => Expr::Negate(one(d)?),
        code::AND => Expr::And(decode_list(d, below, 2)?),
        code::OR => Expr::Or(decode_list(d, below, 2)?),
        code::COMPARE => {
            Expr::Compare { op: decode_code(d, &CompareOp::ALL)?, left: one(d)?, right: one(d)? }
        }
        code::ARITHMETIC => Expr::Arithmetic {
            op: decode_code(d, &ArithmeticOp::ALL)?,
            left: one(d)?,
            right: one(d)?,
        },
        code::IS_NULL => Expr::IsNull { value: one(d)?, negated: d.bool()? },
        code::IS_TRUTH => {
            Expr::IsTruth { value: one(d)?, truth: d.option(Decoder::bool)?, negated: d.bool()? }
        }
        code::IS_DISTINCT => Expr::IsDistinct { left: one(d)?, right: one(d)?, negated: d.bool()? },
        code::BETWEEN => {
            Expr::Between { value: one(d)?, low: one(d)?, high: one(d)?, negated: d.bool()? }
        }
        code::IN => {
            Expr::In { value: one(d)?, list: decode_list(d, below, 1)?, negated: d.bool()? }
        }
        code::LIKE => Expr::Like {
            value: one(d)?,
            pattern: one(d)?,
            escape: d.option(|d| match char::from_u32(d.u32()?) {
                Some(escape) => Ok(escape),
                None => d.error("not a character"),
            })?,
            ignore_case: d.bool()?,
            negated: d.bool()?,
        },
        code::CASE => {
            let operand = d.option(one)?;
            let count = d.array()?;
            if count == 0 || !count.is_multiple_of(2) {
                return d.error("CASE needs pairs");
            }
            let mut whens = Vec::new();
            for _ in 0..count / 2 {
                whens.push((decode_expr_at(d, below)?, decode_expr_at(d, below)?));
            }
            Expr::Case { operand, whens, otherwise: d.option(one)? }
        }
        code::CAST => Expr::Cast { value: one(d)?, to: decode_type(d)? },
        code::CALL => {
            let Some(function) = Function::from_code(d.u8()?) else {
                return d.error("unknown function");
            };
            let (least, most) = function.arity();
            let arguments = decode_list(d, below, least)?;
            if arguments.len() > most {
                return d.error("too many arguments");
            }
            Expr::Call { function, arguments }
        }
        _ => unreachable!("codes were checked above"),
    })
}

fn decode_list(d: &mut Decoder<'_>, depth: usize, least: usize) -> Result<Vec<Expr>> {
    let count = d.array()?;
    if count < least {
        return d.error("too few items");
    }
    let mut list = Vec::new();
    for _ in 0..count {
        list.push(decode_expr_at(d, depth)?);
    }
    Ok(list)
}

fn decode_code<T: Copy>(d: &mut Decoder<'_>, all: &[T]) -> Result<T> {
    let code = d.u8()?;
    match all.get(usize::from(code)) {
        Some(value) => Ok(*value),
        None => d.error("unknown code"),
    }
}

/// Column 0 is the hidden key, which no expression can name.
fn decode_column_id(d: &mut Decoder<'_>) -> Result<ColumnId> {
    let id = d.u32()?;
    if id == 0 || id as usize > COLUMNS_MAX {
        return d.error("column id is out of range");
    }
    Ok(ColumnId::new(id))
}

// Types and schemas ------------------------------------------------------------------------------

fn encode_type(e: &mut Encoder<'_>, column_type: ColumnType) {
    match column_type {
        ColumnType::Boolean => e.array(1).uint(0),
        ColumnType::SmallInt => e.array(1).uint(1),
        ColumnType::Integer => e.array(1).uint(2),
        ColumnType::BigInt => e.array(1).uint(3),
        ColumnType::Double => e.array(1).uint(4),
        ColumnType::Decimal { precision, scale } => {
            e.array(3).uint(5).uint(u64::from(precision)).uint(u64::from(scale))
        }
        ColumnType::Text => e.array(1).uint(6),
        ColumnType::Varchar(size) => e.array(2).uint(7).uint(u64::from(size)),
        ColumnType::Blob => e.array(1).uint(8),
        ColumnType::Date => e.array(1).uint(9),
        ColumnType::Timestamp => e.array(1).uint(10),
        ColumnType::Uuid => e.array(1).uint(11),
        ColumnType::Json => e.array(1).uint(12),
    };
}

fn decode_type(d: &mut Decoder<'_>) -> Result<ColumnType> {
    let fields = d.array()?;
    let (column_type, expected) = match d.uint()? {
        0 => (ColumnType::Boolean, 1),
        1 => (ColumnType::SmallInt, 1),
        2 => (ColumnType::Integer, 1),
        3 => (ColumnType::BigInt, 1),
        4 => (ColumnType::Double, 1),
        5 => {
            let (precision, scale) = (d.u8()?, d.u8()?);
            if !(1..=38).contains(&precision) || scale > precision {
                return d.error("DECIMAL is out of range");
            }
            (ColumnType::Decimal { precision, scale }, 3)
        }
        6 => (ColumnType::Text, 1),
        7 => (ColumnType::Varchar(d.u32()?), 2),
        8 => (ColumnType::Blob, 1),
        9 => (ColumnType::Date, 1),
        10 => (ColumnType::Timestamp, 1),
        11 => (ColumnType::Uuid, 1),
        12 => (ColumnType::Json, 1),
        _ => return d.error("unknown type"),
    };
    if fields == expected { Ok(column_type) } else { d.error("type has other fields") }
}

fn decode_name(d: &mut Decoder<'_>) -> Result<alloc::string::String> {
    let name = d.text()?;
    if name.is_empty() || name.len() > IDENTIFIER_SIZE_MAX {
        return d.error("bad name");
    }
    Ok(name.to_owned())
}

impl TableSchema {
    /// Value of the catalog tree's entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut Encoder::new(&mut out));
        out
    }

    fn encode_into(&self, e: &mut Encoder<'_>) {
        e.array(12).uint(SCHEMA_FORMAT).uint(u64::from(self.id.get())).text(&self.name);
        e.uint(u64::from(self.schema_version.get())).uint(self.created_at.get());
        e.uint(u64::from(self.stream.get()));
        e.uint(u64::from(self.rows.get())).uint(u64::from(self.history.get()));
        e.array(self.columns.len());
        for column in &self.columns {
            encode_column(e, column);
        }
        e.array(self.primary_key.len());
        for id in &self.primary_key {
            e.uint(u64::from(id.get()));
        }
        e.array(self.checks.len());
        for check in &self.checks {
            e.array(3).text(&check.name).text(&check.text);
            encode_expr(e, &check.expr);
        }
        e.array(self.indexes.len());
        for index in &self.indexes {
            e.array(6).text(&index.name).bool(index.unique);
            e.uint(u64::from(index.entries.get())).uint(u64::from(index.ended.get()));
            e.option(index.ready_at.as_ref(), |e, position| {
                e.uint(position.get());
            });
            encode_column_ids(e, &index.columns);
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<TableSchema> {
        let mut decoder = Decoder::new(bytes);
        let schema = TableSchema::decode_from(&mut decoder)?;
        decoder.finish()?;
        Ok(schema)
    }

    fn decode_from(d: &mut Decoder<'_>) -> Result<TableSchema> {
        d.record(12)?;
        if d.uint()? != SCHEMA_FORMAT {
            return d.error("schema of another format");
        }
        let id = TableId::new(d.u32()?);
        let name = decode_name(d)?;
        let schema_version = SchemaVersion::new(d.u32()?);
        let created_at = Position::new(d.uint()?);
        let stream = StreamId::new(d.u32()?);
        let (rows, history) = (TreeId::new(d.u32()?), TreeId::new(d.u32()?));
        let count = d.array()?;
        if count == 0 || count > COLUMNS_MAX {
            return d.error("bad number of columns");
        }
        let mut columns: Vec<Column> = Vec::new();
        for id in 1..=count as u32 {
            let column = decode_column(d, ColumnId::new(id))?;
            if columns.iter().any(|other| other.name == column.name) {
                return d.error("two columns of one name");
            }
            columns.push(column);
        }
        let in_table = |id: ColumnId| id.get() >= 1 && id.get() as usize <= count;
        let mut primary_key = Vec::new();
        for _ in 0..d.array()? {
            let id = ColumnId::new(d.u32()?);
            if !in_table(id) || primary_key.contains(&id) {
                return d.error("bad primary key");
            }
            primary_key.push(id);
        }
        let mut checks = Vec::new();
        for _ in 0..d.array()? {
            d.record(3)?;
            checks.push(Check {
                name: decode_name(d)?,
                text: d.text()?.to_owned(),
                expr: decode_expr(d)?,
            });
        }
        let indexes = decode_indexes(d, count)?;
        let exprs = columns.iter().filter_map(|column| column.default.as_ref());
        for expr in exprs.chain(checks.iter().map(|check| &check.expr)) {
            if !columns_within(expr, count) {
                return d.error("an expression names another table's column");
            }
        }
        Ok(TableSchema {
            id,
            name,
            columns,
            primary_key,
            checks,
            stream,
            rows,
            history,
            indexes,
            schema_version,
            created_at,
        })
    }
}

pub(crate) fn encode_column(e: &mut Encoder<'_>, column: &Column) {
    e.array(6).text(&column.name);
    encode_type(e, column.column_type);
    e.bool(column.nullable);
    e.option(column.default.as_ref(), |e, default| encode_expr(e, default));
    encode_value(e, &column.initial);
    e.uint(column.added_at.get());
}

fn decode_column(d: &mut Decoder<'_>, id: ColumnId) -> Result<Column> {
    d.record(6)?;
    Ok(Column {
        id,
        name: decode_name(d)?,
        column_type: decode_type(d)?,
        nullable: d.bool()?,
        default: d.option(decode_expr)?,
        initial: decode_value(d)?,
        added_at: Position::new(d.uint()?),
    })
}

fn encode_column_ids(e: &mut Encoder<'_>, columns: &[ColumnId]) {
    e.array(columns.len());
    for id in columns {
        e.uint(u64::from(id.get()));
    }
}

/// At least one, each once.
fn decode_index_columns(d: &mut Decoder<'_>, count: usize) -> Result<Vec<ColumnId>> {
    let mut columns = Vec::new();
    for _ in 0..d.array()? {
        let id = decode_column_id(d)?;
        if id.get() as usize > count || columns.contains(&id) {
            return d.error("bad columns of an index");
        }
        columns.push(id);
    }
    if columns.is_empty() {
        return d.error("an index without columns");
    }
    Ok(columns)
}

fn decode_indexes(d: &mut Decoder<'_>, columns: usize) -> Result<Vec<Index>> {
    let count = d.array()?;
    if count > INDEXES_MAX {
        return d.error("too many indexes");
    }
    let mut indexes = Vec::with_capacity(count);
    for _ in 0..count {
        d.record(6)?;
        indexes.push(Index {
            name: decode_name(d)?,
            unique: d.bool()?,
            entries: TreeId::new(d.u32()?),
            ended: TreeId::new(d.u32()?),
            ready_at: d.option(Decoder::uint)?.map(Position::new),
            columns: decode_index_columns(d, columns)?,
        });
    }
    Ok(indexes)
}

fn columns_within(expr: &Expr, count: usize) -> bool {
    let mut within = true;
    expr.visit(&mut |node| match node {
        Expr::Column(id) => within &= id.get() as usize <= count,
        Expr::Excluded(_) | Expr::Parameter(_) => within = false,
        _ => {}
    });
    within
}

impl Catalog {
    /// Value of the catalog tree's `Counters` entry.
    #[must_use]
    pub fn encode_counters(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut e = Encoder::new(&mut out);
        e.array(5).uint(SCHEMA_FORMAT).uint(u64::from(self.version.get()));
        e.uint(u64::from(self.next_table.get())).uint(u64::from(self.next_stream.get()));
        e.uint(u64::from(self.next_tree.get()));
        out
    }

    pub fn decode_counters(&mut self, bytes: &[u8]) -> Result<()> {
        let mut d = Decoder::new(bytes);
        d.record(5)?;
        if d.uint()? != SCHEMA_FORMAT {
            return d.error("catalog of another format");
        }
        self.version = SchemaVersion::new(d.u32()?);
        self.next_table = TableId::new(d.u32()?);
        self.next_stream = StreamId::new(d.u32()?);
        self.next_tree = TreeId::new(d.u32()?);
        d.finish()
    }
}

// Commands ---------------------------------------------------------------------------------------

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
                e.array(6).uint(COMMAND_VERSION).uint(4);
                encode_target(e, update.table, update.schema_version);
                encode_assignments(e, &update.assignments);
                e.option(update.predicate.as_ref(), |e, predicate| encode_expr(e, predicate));
            }
            Command::Delete(delete) => {
                e.array(5).uint(COMMAND_VERSION).uint(5);
                encode_target(e, delete.table, delete.schema_version);
                e.option(delete.predicate.as_ref(), |e, predicate| encode_expr(e, predicate));
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
            3 => (Command::Insert(decode_insert(d)?), 8),
            4 => {
                let (table, schema_version) = decode_target(d)?;
                let assignments = decode_assignments(d)?;
                let predicate = d.option(decode_expr)?;
                (Command::Update(Update { table, schema_version, assignments, predicate }), 6)
            }
            5 => {
                let (table, schema_version) = decode_target(d)?;
                let predicate = d.option(decode_expr)?;
                (Command::Delete(Delete { table, schema_version, predicate }), 5)
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
        if fields == expected { Ok(command) } else { d.error("command has other fields") }
    }
}

fn encode_target(e: &mut Encoder<'_>, table: TableId, version: SchemaVersion) {
    e.uint(u64::from(table.get())).uint(u64::from(version.get()));
}

fn decode_target(d: &mut Decoder<'_>) -> Result<(TableId, SchemaVersion)> {
    Ok((TableId::new(d.u32()?), SchemaVersion::new(d.u32()?)))
}

fn decode_insert(d: &mut Decoder<'_>) -> Result<Insert> {
    let (table, schema_version) = decode_target(d)?;
    let count = d.array()?;
    if count > COLUMNS_MAX {
        return d.error("too many columns");
    }
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let id = decode_column_id(d)?;
        if columns.contains(&id) {
            return d.error("a column is given twice");
        }
        columns.push(id);
    }
    let rows = InsertRows { count: d.u32()?, cells: d.bytes()?.to_owned() };
    // A cell takes a byte at least; rows without cells are all defaults.
    let most = rows.cells.len().checked_div(columns.len()).unwrap_or(SQL_TOKENS_MAX);
    if rows.count as usize > most {
        return d.error("more rows than cells");
    }
    let on_conflict = decode_on_conflict(d)?;
    Ok(Insert { table, schema_version, columns, rows, on_conflict })
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
    pub fn cell(&mut self) -> Result<Cell> {
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
        decode_value(d).map(Cell::Value)
    }

    /// All cells must have been read.
    pub fn finish(&self) -> Result<()> {
        self.decoder.finish()
    }
}
