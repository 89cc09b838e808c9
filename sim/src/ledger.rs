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
use crate::sql::{Datum, Query, Statement};

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

    fn compare(&self, answered: &Answered) -> Result<(), String> {
        let position = answered.query.as_of.unwrap_or(answered.position);
        let expected = self.model.answer(&answered.query, position);
        if expected.as_ref() == Ok(&answered.rows) {
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

/// Names are looked up before anything is done: what is wrong with them is told first.
fn refused_while_binding(model: &TenantModel, statements: &[Statement], told: &Refusal) -> bool {
    let schema = statements.iter().filter(|statement| statement.changes_schema());
    let schema: Vec<Statement> = schema.cloned().collect();
    let of_names = matches!(
        told,
        Refusal::UndefinedTable | Refusal::DuplicateTable | Refusal::DuplicateColumn
    );
    of_names && (model.doubts(&schema) || schema_refused(model, &schema, told))
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
