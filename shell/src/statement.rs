//! A statement that is parsed and bound once and runs many times.
//!
//! Invariant: a statement outlives schema changes: when the tables it was bound to have changed, it
//! is bound again, once per call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use verity_core::kernel::{Operation, Reply};
use verity_core::node::PointRead;
use verity_core::query::{PointScratch, Prepared, Value};

use crate::database::{Rows, Verity};
use crate::error::Error;
use crate::reads::{self, Insert};

/// Made by [`Verity::prepare`].
#[derive(Debug)]
pub struct Statement {
    database: Verity,
    sql: String,
    bound: Mutex<Bound>,
}

#[derive(Debug)]
struct Bound {
    plan: Plan,
    point: PointScratch,
}

#[derive(Clone, Debug)]
struct Plan {
    prepared: Arc<Prepared>,
    /// For an INSERT of plain values: rows can be sent without text.
    insert: Option<Arc<Insert>>,
}

impl Plan {
    fn new(database: &Verity, sql: &str) -> Result<Plan, Error> {
        let prepared = reads::prepare(database, sql)?;
        let insert = Insert::of(&prepared).map(Arc::new);
        Ok(Plan { prepared, insert })
    }
}

impl Statement {
    pub(crate) fn new(database: &Verity, sql: &str) -> Result<Statement, Error> {
        let plan = Plan::new(database, sql)?;
        let bound = Mutex::new(Bound { plan, point: PointScratch::default() });
        Ok(Statement { database: database.clone(), sql: sql.to_string(), bound })
    }

    /// Whether it changes data, so that [`Statement::execute`] runs it.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.bound().plan.prepared.is_write()
    }

    /// Whether it is a write with RETURNING, which [`Verity::run`] runs.
    #[must_use]
    pub fn returns_rows(&self) -> bool {
        self.bound().plan.prepared.returning.is_some()
    }

    /// Names of the columns that a SELECT gives.
    #[must_use]
    pub fn columns(&self) -> Vec<String> {
        self.plan().prepared.columns.iter().map(|column| column.name.clone()).collect()
    }

    /// Runs a statement that writes.
    pub fn execute(&self, params: &[Value]) -> Result<Reply, Error> {
        match self.plan().insert {
            Some(insert) if params.len() >= insert.parameters => {
                self.send(vec![insert.operation(params)])
            }
            Some(_) | None => {
                self.send(vec![Operation::Sql { text: self.sql.clone(), params: params.to_vec() }])
            }
        }
    }

    /// Runs an INSERT for many rows of parameters, as one transaction.
    pub fn execute_batch(&self, rows: Vec<Vec<Value>>) -> Result<Reply, Error> {
        self.send(vec![self.batch(rows)?])
    }

    /// As [`Statement::execute_batch`], without blocking. The request is on its way when this
    /// returns.
    pub fn execute_batch_async(
        &self,
        rows: Vec<Vec<Value>>,
    ) -> impl Future<Output = Result<Reply, Error>> + Send + use<> {
        let sent = self.batch(rows).map(|batch| self.database.transaction_async(vec![batch]));
        async move { sent?.await }
    }

    fn batch(&self, rows: Vec<Vec<Value>>) -> Result<Operation, Error> {
        let Some(insert) = self.plan().insert else {
            return Err(Error::WrongKind(
                "only INSERT INTO table (columns) VALUES (?, …) takes many rows of parameters",
            ));
        };
        if let Some(short) = rows.iter().find(|row| row.len() < insert.parameters) {
            return Err(Error::Options(format!(
                "each row needs {} parameters, one has {}",
                insert.parameters,
                short.len()
            )));
        }
        Ok(insert.rows_operation(rows))
    }

    fn send(&self, operations: Vec<Operation>) -> Result<Reply, Error> {
        self.database.transaction(operations)
    }

    /// Reads the first row of a SELECT into `row`, whose memory is used again; false: there is
    /// none. For a SELECT of plain columns by the whole primary key this is the shortest way there
    /// is.
    pub fn query_row(&self, params: &[Value], row: &mut Vec<Value>) -> Result<bool, Error> {
        if let Some(read) = self.read_point(params, row) {
            return Ok(read.found);
        }
        row.clear();
        let first = self.query(params)?.rows.into_iter().next();
        let found = first.is_some();
        row.extend(first.into_iter().flatten());
        Ok(found)
    }

    fn read_point(&self, params: &[Value], row: &mut Vec<Value>) -> Option<PointRead> {
        let Bound { plan, point } = &mut *self.bound();
        let database = &self.database;
        database.driver().read_point(database.tenant_id(), &plan.prepared, params, point, row)
    }

    /// Runs a SELECT.
    pub fn query(&self, params: &[Value]) -> Result<Rows, Error> {
        let mut row = Vec::new();
        if let Some(PointRead { found, position }) = self.read_point(params, &mut row) {
            let rows = if found { vec![row] } else { Vec::new() };
            return Ok(Rows { columns: self.columns(), rows, position, asked: None });
        }
        let prepared = self.plan().prepared;
        match reads::query(&self.database, &prepared, params) {
            Err(error) if error.retryable() => {
                reads::query(&self.database, &self.bind_again()?, params)
            }
            result => result,
        }
    }

    /// As [`Statement::query`], without blocking.
    pub fn query_async(
        &self,
        params: &[Value],
    ) -> impl Future<Output = Result<Rows, Error>> + Send + use<> {
        let prepared = self.plan().prepared;
        reads::query_async(self.database.clone(), prepared, params.to_vec())
    }

    fn bound(&self) -> MutexGuard<'_, Bound> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self) -> Plan {
        self.bound().plan.clone()
    }

    fn bind_again(&self) -> Result<Arc<Prepared>, Error> {
        let plan = Plan::new(&self.database, &self.sql)?;
        self.bound().plan = plan.clone();
        Ok(plan.prepared)
    }
}
