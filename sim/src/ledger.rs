//! What one tenant's clients were told, held against the model.
//!
//! Purpose: outcomes arrive in any order and some only after a crash and a retry; they are put in
//! order of position and given to the model when nothing is pending any more (*settled*). Checks:
//! every acknowledged transaction is one the model accepts at its position, with the same results;
//! every refusal is one that the model gives at some state the request could have seen; every read
//! equals the model at its position; positions are unique and ops and times grow with them.

use std::collections::BTreeMap;

use verity_core::ids::IdempotencyId;

use crate::model::{Effect, Refusal, TenantModel};
use crate::sql::{Datum, Query, Select, Statement};

/// A transaction that was acknowledged.
#[derive(Clone, Debug)]
pub struct Committed {
    pub id: IdempotencyId,
    pub statements: Vec<Statement>,
    /// `None`: nobody was told, it was found in the log.
    pub effects: Option<Vec<Effect>>,
    pub op: u64,
    pub timestamp_ns: u64,
}

impl Committed {
    /// Without an id and without a change a transaction leaves no record: its position is that of
    /// the one before it.
    fn leaves_no_record(&self) -> bool {
        let nothing =
            |effects: &Vec<Effect>| effects.iter().all(|effect| *effect == Effect::Rows(0));
        self.id.is_none() && self.effects.as_ref().is_some_and(nothing)
    }
}

/// Where a transaction belongs: at its own position, or, if it left no record, behind that of
/// another, in order of its op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    position: u64,
    /// 0: its own position.
    op: u64,
    nth: u64,
}

/// Why the database said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The model must say the same at some state.
    Because(Refusal),
    /// Not in the model: limits, expired ids. Nothing may have happened.
    Other(String),
}

/// A read that was answered.
#[derive(Clone, Debug)]
pub struct Answered {
    pub query: Query,
    pub position: u64,
    pub rows: Vec<Vec<Datum>>,
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub model: TenantModel,
    /// By last position; not yet given to the model.
    unsettled: BTreeMap<Place, Committed>,
    /// With the highest position known when the request was sent.
    refused: Vec<(Option<u64>, Vec<Statement>, Refusal)>,
    answered: Vec<Answered>,
    /// Reads that were told that there is no such table, with what they had to include.
    not_there: Vec<(Option<u64>, Query)>,
    chance: Chance,
    /// Highest position that was acknowledged.
    head: Option<u64>,
    settled_head: Option<u64>,
    last_op: u64,
    last_timestamp_ns: u64,
    /// Of every acknowledged transaction: what the log must hold, once.
    pub acknowledged: BTreeMap<u64, Acknowledged>,
    pub refusals: u64,
    pub reads: u64,
}

/// What the log is searched for at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub id: IdempotencyId,
    pub op: u64,
    /// Row changes and appended records.
    pub events: u64,
}

impl Ledger {
    /// Highest position that was acknowledged to anyone.
    #[must_use]
    pub fn head(&self) -> Option<u64> {
        self.head
    }

    /// Up to here the model knows all.
    #[must_use]
    pub fn settled_head(&self) -> Option<u64> {
        self.settled_head
    }

    /// Whether a transaction that ends here was acknowledged.
    #[must_use]
    pub fn knows(&self, position: u64) -> bool {
        self.acknowledged.contains_key(&position)
            || self.unsettled.contains_key(&Place { position, op: 0, nth: 0 })
    }

    pub fn commit(&mut self, position: u64, committed: Committed) -> Result<(), String> {
        let place = if committed.leaves_no_record() {
            let nth = self.unsettled.len() as u64;
            Place { position, op: committed.op, nth }
        } else {
            Place { position, op: 0, nth: 0 }
        };
        let is_settled = |head| position < head || (position == head && place.op == 0);
        if self.settled_head.is_some_and(is_settled) {
            return Err(format!(
                "transaction {} is acknowledged at position {position}, but a later one was \
                 acknowledged and everything before it was known",
                committed.id
            ));
        }
        self.head = self.head.max(Some(position));
        let id = committed.id;
        if let Some(other) = self.unsettled.insert(place, committed) {
            return Err(format!("{} and {id} are both at position {position}", other.id));
        }
        Ok(())
    }

    pub fn refuse(&mut self, sent_at: Option<u64>, statements: Vec<Statement>, refused: Refused) {
        self.refusals += 1;
        match refused {
            Refused::Because(refusal) => self.refused.push((sent_at, statements, refusal)),
            Refused::Other(_) => {}
        }
    }

    /// `sent_at`: the highest acknowledged position when the read began; it must be included.
    pub fn answer(&mut self, sent_at: Option<u64>, answered: Answered) -> Result<(), String> {
        self.reads += 1;
        if let Some(sent_at) = sent_at
            && answered.query.as_of.is_none()
            && answered.position < sent_at
        {
            return Err(format!(
                "stale read: position {} was acknowledged before a read that answered as of {}",
                sent_at, answered.position
            ));
        }
        self.answered.push(answered);
        Ok(())
    }

    /// A read was told that there is no such table.
    pub fn no_table(&mut self, sent_at: Option<u64>, query: Query) {
        self.not_there.push((sent_at, query));
    }

    /// Nothing is pending: gives everything to the model in order, and compares.
    pub fn settle(&mut self) -> Result<(), String> {
        self.drop_explained_refusals();
        let unsettled = std::mem::take(&mut self.unsettled);
        for (place, committed) in unsettled {
            self.settle_one(place, committed)?;
            self.drop_explained_refusals();
        }
        if let Some((sent_at, statements, refusal)) = self.refused.first() {
            return Err(format!(
                "refused with {refusal:?} after position {sent_at:?}, but no state since then \
                 refuses it: {statements:?}"
            ));
        }
        for answered in std::mem::take(&mut self.answered) {
            self.compare(&answered)?;
        }
        for (sent_at, query) in std::mem::take(&mut self.not_there) {
            let missing = match query.as_of {
                Some(position) => {
                    self.model.answer(&query, position) == Err(Refusal::UndefinedTable)
                }
                None => self.model.was_missing(&query.table, sent_at),
            };
            if !missing {
                return Err(format!(
                    "a read behind {sent_at:?} was told that there is no such table: {query:?}"
                ));
            }
        }
        Ok(())
    }

    fn settle_one(&mut self, place: Place, committed: Committed) -> Result<(), String> {
        let Place { position, .. } = place;
        let Committed { id, statements, effects, op, timestamp_ns } = committed;
        if op < self.last_op || timestamp_ns < self.last_timestamp_ns {
            return Err(format!("position {position}: op {op} or its time goes back"));
        }
        self.last_op = op;
        self.last_timestamp_ns = timestamp_ns;
        let prediction = match self.model.apply(&statements, position) {
            Ok(prediction) => prediction,
            Err(refusal) => {
                return Err(format!(
                    "position {position} op {op}: acknowledged, but the model refuses it with \
                     {refusal:?}: {statements:?}"
                ));
            }
        };
        for (statement, effect) in statements.iter().zip(effects.iter().flatten()) {
            if let (Statement::CreateIndex { index, .. }, Effect::Job) = (statement, effect) {
                self.model.doubt_index(&index.name);
            }
        }
        // Whether an index is there at once or a job builds it, no answer shows.
        let as_predicted = |effect| if effect == Effect::Job { Effect::Schema } else { effect };
        let effects: Option<Vec<Effect>> =
            effects.map(|effects| effects.into_iter().map(as_predicted).collect());
        if let Some(effects) = effects
            && prediction.effects != effects
        {
            return Err(format!(
                "position {position} op {op}: answered {effects:?}, the model says {:?}: \
                 {statements:?}",
                prediction.effects
            ));
        }
        self.settled_head = Some(position);
        if place.op > 0 {
            return Ok(()); // of such a one the log says nothing
        }
        let entry = Acknowledged { id, op, events: prediction.events };
        self.acknowledged.insert(position, entry);
        Ok(())
    }

    /// Drops those refusals that the model also gives in its present state.
    fn drop_explained_refusals(&mut self) {
        let model = &self.model;
        self.refused.retain(|(_, statements, refusal)| {
            let explained = match model.predict(statements) {
                Ok(_) => false,
                Err(predicted) => same_reason(&predicted, refusal),
            };
            !explained && !refused_while_binding(model, statements, refusal)
        });
    }

    fn compare(&mut self, answered: &Answered) -> Result<(), String> {
        let query = &answered.query;
        let position = query.as_of.unwrap_or(answered.position);
        let expected = self.model.answer(query, position);
        if expected.as_ref() == Ok(&answered.rows) {
            return Ok(());
        }
        if let (Ok(expected), Some(spec)) =
            (&expected, self.model.spec_at(&query.table, Some(position)))
            && self.chance.agrees(&spec.key, query, expected, &answered.rows)
        {
            return Ok(());
        }
        Err(format!(
            "read at position {position}: {:?}\n  answered {}\n  expected {}",
            answered.query,
            shorten(&format!("{:?}", answered.rows)),
            shorten(&format!("{expected:?}")),
        ))
    }
}

/// What chance came to, as it was first read: every later answer must show the same.
#[derive(Debug, Default)]
struct Chance {
    values: BTreeMap<u64, Datum>,
    numbers: BTreeMap<Datum, u64>,
}

impl Chance {
    /// Rows that hold what was drawn: all else is as expected; and where rows can be told from one
    /// another by their key, each draw is what it was before, and no other draw.
    fn agrees(
        &mut self,
        key: &[usize],
        query: &Query,
        expected: &[Vec<Datum>],
        rows: &[Vec<Datum>],
    ) -> bool {
        let Select::Columns { columns, .. } = &query.select else { return false };
        let is_drawn = |at: &usize| expected.iter().any(|row| row[*at].is_chance());
        let (drawn, others): (Vec<usize>, Vec<usize>) =
            (0..columns.len()).partition(|at| is_drawn(at));
        let of = |row: &Vec<Datum>, places: &[usize]| -> Vec<Datum> {
            places.iter().map(|at| row[*at].clone()).collect()
        };
        let known = |rows: &[Vec<Datum>]| {
            let mut known: Vec<Vec<Datum>> = rows.iter().map(|row| of(row, &others)).collect();
            if !query.is_ordered() {
                known.sort();
            }
            known
        };
        if drawn.is_empty() || known(expected) != known(rows) {
            return false;
        }
        let place = |column: &usize| columns.iter().position(|selected| selected == column);
        let named: Option<Vec<usize>> = key.iter().map(place).collect();
        let Some(named) = named.filter(|named| !named.is_empty()) else { return true };
        let by_key: BTreeMap<Vec<Datum>, &Vec<Datum>> =
            rows.iter().map(|row| (of(row, &named), row)).collect();
        expected.iter().all(|row| {
            let Some(found) = by_key.get(&of(row, &named)) else { return false };
            drawn.iter().all(|at| self.same(&row[*at], &found[*at]))
        })
    }

    fn same(&mut self, expected: &Datum, found: &Datum) -> bool {
        let Datum::Chance { uuid, number } = expected else { return expected == found };
        if let Some(value) = self.values.get(number) {
            return value == found;
        }
        let fits = match found {
            Datum::Uuid(_) => *uuid,
            Datum::Fraction(_) | Datum::Double(_) => !*uuid,
            _ => false,
        };
        self.values.insert(*number, found.clone());
        fits && self.numbers.insert(found.clone(), *number).is_none()
    }
}

/// Names are looked up before anything is done: what is wrong with them is told first.
fn refused_while_binding(model: &TenantModel, statements: &[Statement], told: &Refusal) -> bool {
    let schema = statements.iter().filter(|statement| statement.changes_schema());
    let schema: Vec<Statement> = schema.cloned().collect();
    let of_names = matches!(
        told,
        Refusal::UndefinedTable | Refusal::DuplicateTable | Refusal::DuplicateColumn
    );
    let no_table = *told == Refusal::UndefinedTable && model.lacks_table(statements);
    of_names && (no_table || model.doubts(&schema) || schema_refused(model, &schema, told))
}

fn schema_refused(model: &TenantModel, schema: &[Statement], told: &Refusal) -> bool {
    model.predict(schema).is_err_and(|predicted| predicted == *told)
}

/// A transaction may break several rules at once; which one is named first is not specified. The
/// version of a stream is.
fn same_reason(predicted: &Refusal, told: &Refusal) -> bool {
    let constraint = |refusal: &Refusal| {
        matches!(refusal, Refusal::NotNull | Refusal::DuplicateKey | Refusal::RowTwice)
    };
    // A NULL where none may be is seen while binding, before anything else is looked at.
    predicted == told || *told == Refusal::NotNull || (constraint(predicted) && constraint(told))
}

pub(crate) fn shorten(text: &str) -> String {
    const MAX: usize = 2_000;
    if text.len() <= MAX {
        return text.to_owned();
    }
    let mut end = MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}… ({} bytes)", &text[..end], text.len())
}

#[cfg(test)]
mod tests {
    use super::{Answered, Committed, Ledger, Refused};
    use crate::model::{Effect, Refusal};
    use crate::sql::{ColumnSpec, Conflict, Datum, DatumType, Query, Select, Statement, TableSpec};
    use verity_core::ids::IdempotencyId;

    fn create() -> Statement {
        let column = ColumnSpec {
            name: "c0".to_owned(),
            column_type: DatumType::BigInt,
            nullable: false,
            default: None,
            by_chance: false,
        };
        Statement::Create(TableSpec { name: "t".to_owned(), columns: vec![column], key: vec![0] })
    }

    fn insert(key: i64) -> Statement {
        let rows = vec![vec![Datum::Integer(key)]];
        Statement::Insert {
            table: "t".to_owned(),
            columns: vec![0],
            rows,
            bulk: false,
            conflict: Conflict::Fail,
        }
    }

    fn committed(statement: Statement, effect: Effect, op: u64) -> Committed {
        Committed {
            id: IdempotencyId([op as u8; 16]),
            statements: vec![statement],
            effects: Some(vec![effect]),
            op,
            timestamp_ns: op,
        }
    }

    fn count(rows: i64, position: u64) -> Answered {
        let query =
            Query { table: "t".to_owned(), select: Select::Count, filter: None, as_of: None };
        Answered { query, position, rows: vec![vec![Datum::Integer(rows)]] }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.commit(2, committed(insert(7), Effect::Rows(1), 3)).unwrap();
        ledger.commit(0, committed(create(), Effect::Schema, 2)).unwrap();
        ledger
    }

    #[test]
    fn outcomes_settle_in_order_of_position() {
        let mut ledger = ledger();
        ledger.answer(Some(2), count(1, 2)).unwrap();
        ledger.refuse(Some(0), vec![insert(7)], Refused::Because(Refusal::DuplicateKey));
        ledger.settle().unwrap();
        assert!(ledger.commit(1, committed(insert(8), Effect::Rows(1), 3)).is_err(), "too late");
    }

    #[test]
    fn what_chance_came_to_stays() {
        let column = |name: &str, column_type, by_chance| ColumnSpec {
            name: name.to_owned(),
            column_type,
            nullable: false,
            default: None,
            by_chance,
        };
        let columns =
            vec![column("k", DatumType::BigInt, false), column("u", DatumType::Uuid, true)];
        let table = TableSpec { name: "t".to_owned(), columns, key: vec![0] };
        let drawn = Datum::Chance { uuid: true, number: 0 };
        let row = |key: i64| vec![Datum::Integer(key), drawn.clone()];
        let insert = Statement::Insert {
            table: "t".to_owned(),
            columns: vec![0, 1],
            rows: vec![row(1), row(2)],
            bulk: false,
            conflict: Conflict::Fail,
        };
        let ledger = || {
            let mut ledger = Ledger::default();
            ledger
                .commit(0, committed(Statement::Create(table.clone()), Effect::Schema, 2))
                .unwrap();
            ledger.commit(2, committed(insert.clone(), Effect::Rows(2), 3)).unwrap();
            ledger
        };
        // Rows in the order of what was drawn, as answers without an order are compared.
        let read = |one: u8, two: u8| {
            let select =
                Select::Columns { columns: vec![1, 0], order: None, by: Vec::new(), limit: None };
            let query = Query { table: "t".to_owned(), select, filter: None, as_of: None };
            let row = |key, byte| vec![Datum::Uuid([byte; 16]), Datum::Integer(key)];
            let mut rows = vec![row(1, one), row(2, two)];
            rows.sort();
            Answered { query, position: 2, rows }
        };
        let settles = |reads: &[(u8, u8)]| {
            let mut ledger = ledger();
            for (one, two) in reads {
                ledger.answer(None, read(*one, *two)).unwrap();
            }
            ledger.settle().is_ok()
        };
        assert!(settles(&[(9, 5), (9, 5)]));
        assert!(!settles(&[(9, 5), (9, 6)]), "another value");
        assert!(!settles(&[(9, 5), (5, 9)]), "another row's");
        assert!(!settles(&[(9, 9)]), "two draws are one");
    }

    #[test]
    fn each_lie_is_caught() {
        let mut wrong_rows = ledger();
        wrong_rows.answer(None, count(2, 2)).unwrap();
        assert!(wrong_rows.settle().is_err());
        assert!(ledger().answer(Some(2), count(0, 0)).is_err(), "stale");
        let mut wrong_refusal = ledger();
        let refused = Refused::Because(Refusal::DuplicateKey);
        wrong_refusal.refuse(None, vec![insert(8)], refused);
        assert!(wrong_refusal.settle().is_err());
        let mut wrong_effect = ledger();
        wrong_effect.commit(3, committed(insert(9), Effect::Rows(2), 4)).unwrap();
        assert!(wrong_effect.settle().is_err());
        let mut duplicate = ledger();
        assert!(duplicate.commit(2, committed(insert(9), Effect::Rows(1), 4)).is_err());
        let mut doubled = ledger();
        doubled.commit(3, committed(insert(7), Effect::Rows(1), 4)).unwrap();
        assert!(doubled.settle().is_err());
    }
}
