//! Oracles that need no expected answer: several questions about one state must fit together.
//!
//! - **TLP**: the rows that pass a filter are those for which another predicate is true, false or
//!   unknown besides.
//! - **NoREC**: as many rows pass a filter as the predicate, evaluated for every row, is true for.
//! - **PQS**: a row of the model for which the model's own evaluator says that the predicate holds
//!   (or its negation, or that it is unknown) is found by it.
//! - **DQE**: an UPDATE or DELETE that was acknowledged changed as many rows as SELECT counts by
//!   the same filter just before.
//!
//! All questions of one oracle are asked as of one position, each with its own plan and at its own
//! time. Predicates know neither the data nor the indexes. Every answer is also compared with the
//! model, as any other. A crash loses the questions that are open.

use super::World;
use super::clients::Ask;
use crate::model::Effect;
use crate::report::{Failure, FailureKind};
use crate::sql::{Datum, Predicate, Query, Select, Statement, TableSpec};

type Rows = Vec<Vec<Datum>>;

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// All, then the three parts.
    Tlp,
    /// The count, then the truth for every row.
    NoRec,
    Pqs {
        pivot: Vec<Datum>,
    },
    Dqe {
        rows: u64,
    },
}

/// Questions under way.
#[derive(Debug)]
pub(super) struct Oracle {
    kind: Kind,
    queries: Vec<Query>,
    answers: Vec<Option<Rows>>,
}

impl World {
    /// A client's turn: the questions of one oracle.
    pub(super) fn begin_oracle(&mut self, tenant: usize) -> Result<(), Failure> {
        let ledger = &self.ledgers[tenant];
        let (Some(head), settled) = (ledger.head(), ledger.settled_head()) else { return Ok(()) };
        let tables = ledger.model.table_names();
        if tables.is_empty() {
            return Ok(());
        }
        let table = self.oracle_random.pick(&tables).clone();
        let (Some(spec), Some(created)) =
            (ledger.model.spec(&table).cloned(), ledger.model.created_at(&table))
        else {
            unreachable!("the name came from the model")
        };
        let past = self.oracle_random.coin();
        let position = if past { self.oracle_random.range(created, head) } else { head };
        let predicate = self.oracle_workload.blind_predicate(tenant, &spec);
        match self.oracle_random.below(3) {
            0 => {
                let base = self.oracle_workload.blind_predicate(tenant, &spec);
                let parts = [
                    predicate.clone(),
                    Predicate::Not(Box::new(predicate.clone())),
                    Predicate::IsUnknown(Box::new(predicate)),
                ];
                let and = |part| Predicate::And(Box::new(base.clone()), Box::new(part));
                let mut filters = vec![base.clone()];
                filters.extend(parts.map(and));
                let whole = |filter| whole(&spec, filter, position);
                self.ask_oracle(tenant, Kind::Tlp, filters.into_iter().map(whole).collect())
            }
            1 => {
                let of = |select, filter| {
                    let table = table.clone();
                    Query { table, select, filter, as_of: Some(position) }
                };
                let count = of(Select::Count, Some(predicate.clone()));
                let truth = of(Select::Truth(predicate), None);
                self.ask_oracle(tenant, Kind::NoRec, vec![count, truth])
            }
            _ => {
                // Of a row with values drawn by chance the model does not know all.
                let knows = spec.known().len() == spec.columns.len();
                let settled = settled.filter(|settled| knows && *settled >= created);
                let Some(position) = settled else { return Ok(()) };
                let all = Query { filter: None, ..whole(&spec, predicate.clone(), position) };
                let Ok(rows) = self.ledgers[tenant].model.answer(&all, position) else {
                    return Ok(());
                };
                if rows.is_empty() {
                    return Ok(());
                }
                let pivot = self.oracle_random.pick(&rows).clone();
                let rectified = predicate.rectified(&pivot);
                let query = whole(&spec, rectified, position);
                self.ask_oracle(tenant, Kind::Pqs { pivot }, vec![query])
            }
        }
    }

    /// A write that was acknowledged: does SELECT mean the same rows?
    pub(super) fn ask_dqe(
        &mut self,
        tenant: usize,
        statements: &[Statement],
        effects: &[Effect],
        position: u64,
    ) -> Result<(), Failure> {
        let ([statement], [Effect::Rows(rows @ 1..)]) = (statements, effects) else {
            return Ok(());
        };
        let (Statement::Update { table, filter, .. } | Statement::Delete { table, filter }) =
            statement
        else {
            return Ok(());
        };
        if !self.oracle_random.chance(DQE_PPM) {
            return Ok(());
        }
        // As of a position inside the transaction is as of the one before it.
        let before = position.checked_sub(1);
        let (table, filter) = (table.clone(), filter.clone());
        let query = Query { table, select: Select::Count, filter, as_of: before };
        self.ask_oracle(tenant, Kind::Dqe { rows: *rows }, vec![query])
    }

    fn ask_oracle(
        &mut self,
        tenant: usize,
        kind: Kind,
        queries: Vec<Query>,
    ) -> Result<(), Failure> {
        self.serial += 1;
        let id = self.serial;
        let answers = vec![None; queries.len()];
        self.oracles.insert(id, Oracle { kind, queries: queries.clone(), answers });
        for (part, query) in queries.into_iter().enumerate() {
            self.ask(Ask::Oracle { id, part }, tenant, query)?;
        }
        Ok(())
    }

    /// One of the questions has its answer.
    pub(super) fn oracle_answered(
        &mut self,
        id: u64,
        part: usize,
        rows: Rows,
    ) -> Result<(), Failure> {
        let Some(oracle) = self.oracles.get_mut(&id) else { return Ok(()) };
        oracle.answers[part] = Some(rows);
        if oracle.answers.iter().any(Option::is_none) {
            return Ok(());
        }
        let Some(oracle) = self.oracles.remove(&id) else { unreachable!("just seen") };
        let answers: Vec<Rows> = oracle.answers.into_iter().flatten().collect();
        if let Err(text) = oracle.kind.check(&answers) {
            let detail = format!("{:?}: {text}: {:?}", oracle.kind, oracle.queries);
            return Err(Failure::new(FailureKind::Wrong, crate::ledger::shorten(&detail)));
        }
        let name = oracle.kind.name();
        self.count(|report| *report.oracles.entry(name).or_default() += 1);
        Ok(())
    }
}

/// Acknowledged writes that SELECT is asked about, of a million.
const DQE_PPM: u64 = 100_000;

/// All columns of the rows that pass.
fn whole(spec: &TableSpec, filter: Predicate, position: u64) -> Query {
    let columns = (0..spec.columns.len()).collect();
    let select = Select::Columns { columns, order: None, by: Vec::new(), limit: None };
    Query { table: spec.name.clone(), select, filter: Some(filter), as_of: Some(position) }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Kind::Tlp => "TLP",
            Kind::NoRec => "NoREC",
            Kind::Pqs { .. } => "PQS",
            Kind::Dqe { .. } => "DQE",
        }
    }

    fn check(&self, answers: &[Rows]) -> Result<(), String> {
        let holds = match self {
            Kind::Tlp => {
                let mut all = answers[0].clone();
                let mut parts: Rows = answers[1..].concat();
                all.sort();
                parts.sort();
                all == parts
            }
            Kind::NoRec => {
                let truths = answers[1].iter().filter(|row| row[0] == Datum::Boolean(true));
                answers[0] == [[Datum::Integer(truths.count() as i64)]]
            }
            Kind::Pqs { pivot } => answers[0].contains(pivot),
            Kind::Dqe { rows } => answers[0] == [[Datum::Integer(*rows as i64)]],
        };
        if holds { Ok(()) } else { Err(format!("{answers:?}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Datum, Kind};

    #[test]
    fn each_oracle_can_fail() {
        let one = |value: i64| vec![vec![Datum::Integer(value)]];
        let all = vec![vec![Datum::Integer(1)], vec![Datum::Integer(2)]];
        assert!(Kind::Tlp.check(&[all.clone(), one(2), one(1), vec![]]).is_ok());
        assert!(Kind::Tlp.check(&[all.clone(), one(2), vec![], vec![]]).is_err(), "one is missing");
        assert!(Kind::Tlp.check(&[all.clone(), one(2), one(1), one(1)]).is_err(), "one is twice");
        let truths = vec![vec![Datum::Boolean(true)], vec![Datum::Null]];
        assert!(Kind::NoRec.check(&[one(1), truths.clone()]).is_ok());
        assert!(Kind::NoRec.check(&[one(2), truths]).is_err());
        let pqs = Kind::Pqs { pivot: vec![Datum::Integer(2)] };
        assert!(pqs.check(&[all]).is_ok());
        assert!(pqs.check(&[one(1)]).is_err());
        assert!(Kind::Dqe { rows: 3 }.check(&[one(3)]).is_ok());
        assert!(Kind::Dqe { rows: 3 }.check(&[one(2)]).is_err());
    }
}
