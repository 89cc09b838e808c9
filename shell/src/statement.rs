//! A statement that is parsed and bound once and runs many times.
//!
//! Invariant: a statement outlives schema changes: when the tables it was bound to have changed, it
//! is bound again, once per call.

use std::sync::{Arc, Mutex, PoisonError};

use verity_core::kernel::{Operation, Reply};
use verity_core::query::{Prepared, Value};

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

#[derive(Clone, Debug)]
struct Bound {
    prepared: Arc<Prepared>,
    /// For an INSERT of plain values: rows can be sent without text.
    insert: Option<Arc<Insert>>,
}

impl Bound {
    fn new(database: &Verity, sql: &str) -> Result<Bound, Error> {
        let prepared = reads::prepare(database, sql)?;
        let insert = Insert::of(&prepared).map(Arc::new);
        Ok(Bound { prepared, insert })
    }
}

impl Statement {
    pub(crate) fn new(database: &Verity, sql: &str) -> Result<Statement, Error> {
        let bound = Mutex::new(Bound::new(database, sql)?);
        Ok(Statement { database: database.clone(), sql: sql.to_string(), bound })
    }

    /// Names of the columns that a SELECT gives.
    #[must_use]
    pub fn columns(&self) -> Vec<String> {
        self.bound().prepared.columns.iter().map(|column| column.name.clone()).collect()
    }

    /// Runs a statement that writes.
    pub fn execute(&self, params: &[Value]) -> Result<Reply, Error> {
        match self.bound().insert {
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
        let Some(insert) = self.bound().insert else {
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
        let operation = insert.rows_operation(rows);
        self.send(vec![operation])
    }

    fn send(&self, operations: Vec<Operation>) -> Result<Reply, Error> {
        self.database.transaction(operations)
    }

    /// Runs a SELECT.
    pub fn query(&self, params: &[Value]) -> Result<Rows, Error> {
        let prepared = self.bound().prepared;
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
        let prepared = self.bound().prepared;
        reads::query_async(self.database.clone(), prepared, params.to_vec())
    }

    fn bound(&self) -> Bound {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn bind_again(&self) -> Result<Arc<Prepared>, Error> {
        let bound = Bound::new(&self.database, &self.sql)?;
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = bound.clone();
        Ok(bound.prepared)
    }
}
