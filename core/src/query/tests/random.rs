//! Random values, expressions and commands from a seed.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::ids::{ColumnId, Position, SchemaVersion, StreamId, TableId, TreeId};
use crate::query::command::FoundRows;
use crate::query::datetime::{DATE_MAX, DATE_MIN};
use crate::query::expr::{ArithmeticOp, CompareOp, Function};
use crate::query::{
    Assignment, Check, Column, ColumnType, Command, ConflictTarget, CreateIndex, Decimal, Delete,
    Expr, Index, Insert, InsertRows, OnConflict, TableSchema, Update, Value,
};

pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(ChaCha8Rng::seed_from_u64(seed))
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u64() % bound as u64) as usize
    }

    pub fn bool(&mut self) -> bool {
        self.below(2) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        // Few distinct bytes, so that prefixes and zeros meet.
        (0..self.below(most + 1)).map(|_| [0, 1, 97, 0xff][self.below(4)]).collect()
    }

    pub fn text(&mut self, most: usize) -> String {
        (0..self.below(most + 1)).map(|_| self.pick(&['\0', 'a', 'b', 'é', '😀', '%'])).collect()
    }

    pub fn integer(&mut self) -> i64 {
        let raw = self.0.next_u64() as i64;
        match self.below(4) {
            0 => raw,
            1 => raw >> 48,
            2 => self.pick(&[i64::MIN, i64::MAX, 0, -1, 1, 23, 24, 255, 256]),
            _ => raw % 10,
        }
    }

    pub fn value_of(&mut self, column_type: ColumnType) -> Value {
        match column_type {
            ColumnType::Boolean => Value::Boolean(self.bool()),
            ColumnType::SmallInt => Value::Integer(i64::from(self.integer() as i16)),
            ColumnType::Integer => Value::Integer(i64::from(self.integer() as i32)),
            ColumnType::BigInt => Value::Integer(self.integer()),
            ColumnType::Double => {
                let special =
                    [0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.5, 5e-324, f64::MAX];
                Value::Double(if self.bool() {
                    self.pick(&special)
                } else {
                    f64::from_bits(self.0.next_u64())
                })
            }
            ColumnType::Decimal { precision, scale } => {
                let digits = 10_i128.pow(u32::from(precision));
                let raw = i128::from(self.integer()) * i128::from(self.integer());
                Value::Decimal(Decimal::new(raw % digits, scale).unwrap())
            }
            ColumnType::Text => Value::Text(self.text(12)),
            ColumnType::Varchar(most) => Value::Text(self.text(most as usize)),
            ColumnType::Blob => Value::Blob(self.bytes(12)),
            ColumnType::Date => {
                Value::Date(DATE_MIN + self.below((DATE_MAX - DATE_MIN) as usize + 1) as i32)
            }
            ColumnType::Timestamp => Value::Timestamp(self.integer()),
            ColumnType::Uuid => Value::Uuid(core::array::from_fn(|_| self.below(3) as u8 * 127)),
            ColumnType::Json => {
                Value::Json(self.pick(&["null", "[1, 2]", "{\"a\":\"é\"}", " 1.5 "]).into())
            }
        }
    }

    pub fn column_type(&mut self) -> ColumnType {
        let precision = self.below(38) as u8 + 1;
        self.pick(&[
            ColumnType::Boolean,
            ColumnType::SmallInt,
            ColumnType::Integer,
            ColumnType::BigInt,
            ColumnType::Double,
            ColumnType::Decimal { precision, scale: precision / 2 },
            ColumnType::Text,
            ColumnType::Varchar(5),
            ColumnType::Blob,
            ColumnType::Date,
            ColumnType::Timestamp,
            ColumnType::Uuid,
            ColumnType::Json,
        ])
    }

    pub fn value(&mut self) -> Value {
        if self.below(8) == 0 {
            return Value::Null;
        }
        let column_type = self.column_type();
        self.value_of(column_type)
    }

    fn boxed(&mut self, depth: usize) -> Box<Expr> {
        Box::new(self.expr(depth))
    }

    fn list(&mut self, least: usize, depth: usize) -> Vec<Expr> {
        (0..least + self.below(3)).map(|_| self.expr(depth)).collect()
    }

    pub fn expr(&mut self, depth: usize) -> Expr {
        if depth == 0 {
            return match self.below(3) {
                0 => Expr::Column(ColumnId::new(self.below(3) as u32 + 1)),
                _ => Expr::Literal(self.value()),
            };
        }
        let depth = depth - 1;
        let negated = self.bool();
        match self.below(15) {
            0 => Expr::Not(self.boxed(depth)),
            1 => Expr::Negate(self.boxed(depth)),
            2 => Expr::And(self.list(2, depth)),
            3 => Expr::Or(self.list(2, depth)),
            4 | 5 => Expr::Compare {
                op: self.pick(&CompareOp::ALL),
                left: self.boxed(depth),
                right: self.boxed(depth),
            },
            6 => Expr::Arithmetic {
                op: self.pick(&ArithmeticOp::ALL),
                left: self.boxed(depth),
                right: self.boxed(depth),
            },
            7 => Expr::IsNull { value: self.boxed(depth), negated },
            8 => Expr::IsTruth {
                value: self.boxed(depth),
                truth: self.pick(&[None, Some(true), Some(false)]),
                negated,
            },
            9 => Expr::IsDistinct { left: self.boxed(depth), right: self.boxed(depth), negated },
            10 => Expr::Between {
                value: self.boxed(depth),
                low: self.boxed(depth),
                high: self.boxed(depth),
                negated,
            },
            11 => Expr::In { value: self.boxed(depth), list: self.list(1, depth), negated },
            12 => Expr::Like {
                value: self.boxed(depth),
                pattern: self.boxed(depth),
                escape: self.pick(&[None, Some('!'), Some('é')]),
                ignore_case: self.bool(),
                negated,
            },
            13 => {
                let function = self.pick(Function::ALL);
                let (least, most) = function.arity();
                let mut arguments = self.list(least, depth);
                arguments.truncate(most);
                Expr::Call { function, arguments }
            }
            _ => match self.below(2) {
                0 => Expr::Cast { value: self.boxed(depth), to: self.column_type() },
                _ => Expr::Case {
                    operand: self.bool().then(|| self.boxed(depth)),
                    whens: (0..1 + self.below(2))
                        .map(|_| (self.expr(depth), self.expr(depth)))
                        .collect(),
                    otherwise: self.bool().then(|| self.boxed(depth)),
                },
            },
        }
    }

    fn assignments(&mut self) -> Vec<Assignment> {
        (1..=self.below(4) as u32)
            .map(|id| Assignment {
                column: ColumnId::new(id),
                value: self.bool().then(|| self.expr(2)),
            })
            .collect()
    }

    pub fn schema(&mut self) -> TableSchema {
        let count = 3 + self.below(5) as u32;
        let columns: Vec<Column> = (1..=count)
            .map(|id| Column {
                id: ColumnId::new(id),
                name: alloc::format!("column {id} \"ü\""),
                column_type: self.column_type(),
                nullable: self.bool(),
                default: (self.below(3) == 0).then(|| Expr::Literal(self.value())),
                initial: self.value(),
                added_at: Position::new(self.below(1000) as u64),
            })
            .collect();
        let key = self.below(3) as u32;
        TableSchema {
            id: TableId::new(self.below(100) as u32),
            name: "a table".into(),
            columns,
            primary_key: (1..=key).rev().map(ColumnId::new).collect(),
            checks: (0..self.below(2))
                .map(|_| Check { name: "c".into(), text: "x > 1".into(), expr: self.expr(2) })
                .collect(),
            stream: StreamId::new(self.below(100) as u32),
            rows: TreeId::new(16),
            history: TreeId::new(17),
            indexes: (0..self.below(3) as u32)
                .map(|at| Index {
                    name: alloc::format!("index {at}"),
                    columns: (1..=1 + self.below(2) as u32).rev().map(ColumnId::new).collect(),
                    unique: self.bool(),
                    entries: TreeId::new(18 + 2 * at),
                    ended: TreeId::new(19 + 2 * at),
                    ready_at: self.bool().then(|| Position::new(self.below(1000) as u64)),
                })
                .collect(),
            schema_version: SchemaVersion::new(self.below(100) as u32),
            created_at: Position::new(self.below(1000) as u64),
        }
    }

    fn conflict_target(&mut self) -> ConflictTarget {
        match self.below(3) {
            0 => ConflictTarget::Any,
            1 => ConflictTarget::PrimaryKey,
            _ => ConflictTarget::Index(TreeId::new(16 + self.below(100) as u32)),
        }
    }

    fn found(&mut self) -> Option<FoundRows> {
        let position = Position::new(self.below(1 << 20) as u64);
        let count = self.below(5) as u8;
        let keys = (0..count).map(|key| [key, self.below(256) as u8].into()).collect();
        self.bool().then_some(FoundRows { position, keys })
    }

    pub fn command(&mut self) -> Command {
        let table = TableId::new(self.below(1 << 20) as u32);
        let schema_version = SchemaVersion::new(self.below(1 << 20) as u32);
        let predicate = self.bool().then(|| self.expr(3));
        match self.below(10) {
            0 => Command::Nothing,
            1 => Command::CreateTable { schema: self.schema(), if_not_exists: self.bool() },
            2 => Command::DropTable { table, schema_version },
            3 => {
                let mut rows = InsertRows::default();
                for _ in 0..self.below(4) {
                    rows.count += 1;
                    rows.push_value(&self.value());
                    rows.push_expr(&self.expr(2));
                    rows.push_default();
                }
                Command::Insert(Insert {
                    table,
                    schema_version,
                    columns: (1..=3).map(ColumnId::new).collect(),
                    rows,
                    on_conflict: match self.below(3) {
                        0 => OnConflict::Fail,
                        1 => OnConflict::DoNothing(self.conflict_target()),
                        _ => OnConflict::DoUpdate {
                            target: self.conflict_target(),
                            assignments: self.assignments(),
                            predicate,
                        },
                    },
                })
            }
            4 => Command::Update(Update {
                table,
                schema_version,
                assignments: self.assignments(),
                predicate,
                found: self.found(),
            }),
            5 => Command::CreateIndex(CreateIndex {
                table,
                schema_version,
                name: "an index".into(),
                columns: (1..=1 + self.below(3) as u32).map(ColumnId::new).collect(),
                unique: self.bool(),
                if_not_exists: self.bool(),
            }),
            6 => Command::DropIndex { table, entries: TreeId::new(self.below(1 << 20) as u32) },
            7 => {
                // Which column it becomes is known when it is applied.
                let column = Column { id: ColumnId::new(1), ..self.schema().columns.remove(0) };
                Command::AddColumn { table, schema_version, column }
            }
            8 => Command::CancelJob { job: TreeId::new(self.below(1 << 20) as u32) },
            _ => Command::Delete(Delete { table, schema_version, predicate, found: self.found() }),
        }
    }
}
