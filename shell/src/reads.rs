//! Reads on the caller's thread: the core runs them slice by slice, this module waits in between.
//!
//! Invariant: a read holds pages in memory until it is finished or cancelled, so every path out of
//! here ends in one or the other.

use std::sync::Arc;
use std::task::{Context, Poll};

use verity_core::ids::{IdempotencyId, Position};
use verity_core::kernel::{Commitment, Operation, ProveStop, Reply, RequestError};
use verity_core::node::{
    CommitmentRead, ProofError, ProofOf, ProofRead, Proved, Read, ReadError, ReadResult,
};
use verity_core::query::bind_write::{BoundInsert, CellPlan};
use verity_core::query::{OnConflict, Prepared, SqlState, Statement, TableSchema, Value};

use crate::database::{Rows, Verity};
use crate::driver::Driver;
use crate::error::Error;
use crate::stream::{Head, More, RowStream, Source};

/// A read that is cancelled when it is given up.
struct Running<'a> {
    driver: &'a Driver,
    read: Option<Read>,
}

impl Running<'_> {
    fn finish(mut self) -> Result<ReadResult, Error> {
        let Some(read) = self.read.take() else { unreachable!("taken once, here") };
        read.finish().map_err(|error| to_error(self.driver, error))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(read) = &mut self.read {
            self.driver.cancel(read);
        }
    }
}

fn run(driver: &Driver, read: Read) -> Result<ReadResult, Error> {
    let mut running = Running { driver, read: Some(read) };
    if let Some(read) = &mut running.read {
        driver.read(read)?;
    }
    running.finish()
}

fn to_error(driver: &Driver, error: ReadError) -> Error {
    match error {
        ReadError::Sql(error) => Error::Request(RequestError::Sql(error)),
        ReadError::TenantUnknown(tenant) => Error::Request(RequestError::TenantUnknown(tenant)),
        ReadError::NotReady => driver.why_halted(),
        error @ (ReadError::Store(_) | ReadError::Log(_)) => Error::Unreadable(error.to_string()),
    }
}

fn to_rows(result: ReadResult) -> Rows {
    Rows {
        columns: result.prepared.columns.iter().map(|column| column.name.clone()).collect(),
        rows: result.rows,
        position: result.position,
        asked: result.asked,
    }
}

/// Parses and binds one statement of either kind.
pub fn prepare(database: &Verity, sql: &str) -> Result<Arc<Prepared>, Error> {
    run(database.driver(), Read::bind(database.tenant_id(), sql)).map(|result| result.prepared)
}

/// Runs a SELECT that is bound already.
pub fn query(database: &Verity, prepared: &Arc<Prepared>, params: &[Value]) -> Result<Rows, Error> {
    refuse_write(prepared)?;
    let read = Read::prepared(database.tenant_id(), Arc::clone(prepared), params.to_vec());
    run(database.driver(), read).map(to_rows)
}

pub async fn query_async(
    database: Verity,
    prepared: Arc<Prepared>,
    params: Vec<Value>,
) -> Result<Rows, Error> {
    refuse_write(&prepared)?;
    let read = Read::prepared(database.tenant_id(), prepared, params);
    poll(&database, read).await
}

/// What is said where rows are asked of a write.
pub const CHANGES_DATA: &str = "the statement changes data; call `execute` for it";

fn refuse_write(prepared: &Prepared) -> Result<(), Error> {
    if prepared.is_write() {
        return Err(Error::WrongKind(CHANGES_DATA));
    }
    Ok(())
}

/// The read of one SELECT from its text; `None` when it is no SELECT.
pub fn select(database: &Verity, sql: &str, params: &[Value]) -> Result<Option<Read>, Error> {
    let (tenant, params) = (database.tenant_id(), params.to_vec());
    Ok(match in_the_past(prepare(database, sql))? {
        None => Some(Read::sql(tenant, sql, params)),
        Some(prepared) if prepared.is_write() => None,
        Some(prepared) => Some(Read::prepared(tenant, prepared, params)),
    })
}

/// Runs one SELECT from its text; `None` when it is no SELECT.
pub fn try_query(database: &Verity, sql: &str, params: &[Value]) -> Result<Option<Rows>, Error> {
    let Some(read) = select(database, sql, params)? else { return Ok(None) };
    run(database.driver(), read).map(|result| Some(to_rows(result)))
}

/// As [`try_query`], with rows to come.
pub fn try_stream(
    database: &Verity,
    sql: &str,
    params: &[Value],
) -> Result<Option<RowStream>, Error> {
    let Some(read) = select(database, sql, params)? else { return Ok(None) };
    Slices::begin(database, read).map(Some)
}

/// As [`try_stream`], without blocking but to bind.
pub async fn stream_async(
    database: Verity,
    read: Result<Option<Read>, Error>,
) -> Result<RowStream, Error> {
    match read? {
        Some(read) => Slices::begin_async(&database, read).await,
        None => Err(Error::WrongKind(CHANGES_DATA)),
    }
}

/// A read whose rows are taken slice by slice.
pub struct Slices {
    database: Verity,
    /// `None`: it has ended.
    read: Option<Read>,
}

impl Drop for Slices {
    fn drop(&mut self) {
        if let Some(read) = &mut self.read {
            self.database.driver().cancel(read);
        }
    }
}

impl Slices {
    /// Until there are rows: what fails before the first one has no other answer than its error.
    fn begin(database: &Verity, read: Read) -> Result<RowStream, Error> {
        let mut slices = Slices { database: database.clone(), read: Some(read) };
        loop {
            let Some(read) = &mut slices.read else { unreachable!("taken at its end") };
            let ready = database.driver().read_slice(read)?;
            match slices.begun(ready)? {
                Ok(stream) => return Ok(stream),
                Err(not_yet) => slices = not_yet,
            }
        }
    }

    async fn begin_async(database: &Verity, read: Read) -> Result<RowStream, Error> {
        let mut slices = Some(Slices { database: database.clone(), read: Some(read) });
        std::future::poll_fn(|context| {
            let Some(mut running) = slices.take() else { unreachable!("it was put back") };
            let Some(read) = &mut running.read else { unreachable!("taken at its end") };
            let ready = match database.driver().poll_read(read, context.waker()) {
                Some(Err(error)) => return Poll::Ready(Err(error)),
                ready => ready.is_some(),
            };
            match running.begun(ready) {
                Ok(Ok(stream)) => Poll::Ready(Ok(stream)),
                Ok(Err(not_yet)) => {
                    slices = Some(not_yet);
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Err(error)),
            }
        })
        .await
    }

    fn begun(mut self, ready: bool) -> Result<Result<RowStream, Slices>, Error> {
        if ready {
            let Rows { columns, rows, position, asked } = to_rows(self.finish()?);
            return Ok(Ok(RowStream::new(Head { columns, position, asked }, rows, None)));
        }
        let Some(read) = &mut self.read else { unreachable!("taken at its end") };
        let rows = read.take_rows();
        let head = read.begun().filter(|_| !rows.is_empty()).map(|(prepared, position, asked)| {
            let columns = prepared.columns.iter().map(|column| column.name.clone()).collect();
            Head { columns, position, asked }
        });
        Ok(match head {
            Some(head) => Ok(RowStream::new(head, rows, Some(Source::Here(Box::new(self))))),
            None => Err(self),
        })
    }

    pub fn more(&mut self) -> More {
        loop {
            let Some(read) = &mut self.read else { return Ok(None) };
            if self.database.driver().read_slice(read)? {
                return self.finish().map(|result| Some(result.rows));
            }
            let rows = read.take_rows();
            if !rows.is_empty() {
                return Ok(Some(rows));
            }
        }
    }

    pub fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<More> {
        let Some(read) = &mut self.read else { return Poll::Ready(Ok(None)) };
        match self.database.driver().poll_read(read, context.waker()) {
            Some(Ok(())) => Poll::Ready(self.finish().map(|result| Some(result.rows))),
            Some(Err(error)) => Poll::Ready(Err(error)),
            None => match read.take_rows() {
                rows if rows.is_empty() => Poll::Pending,
                rows => Poll::Ready(Ok(Some(rows))),
            },
        }
    }

    fn finish(&mut self) -> Result<ReadResult, Error> {
        let Some(read) = self.read.take() else { unreachable!("taken once, at its end") };
        read.finish().map_err(|error| to_error(self.database.driver(), error))
    }
}

/// `None`: it may read a table that is no more, or that had another's name then. Which one is known
/// only when the text runs, so it must run as a text.
pub fn in_the_past(prepared: Result<Arc<Prepared>, Error>) -> Result<Option<Arc<Prepared>>, Error> {
    match prepared {
        Ok(prepared) => {
            let past = match &prepared.statement {
                Statement::Select(select) => select.as_of.is_some(),
                _other_statements => false,
            };
            Ok((!past).then_some(prepared))
        }
        Err(error) => match error.sql() {
            Some(sql) if sql.code == SqlState::UndefinedTable => Ok(None),
            Some(_) | None => Err(error),
        },
    }
}

pub async fn query_text_async(
    database: Verity,
    sql: String,
    params: Vec<Value>,
) -> Result<Rows, Error> {
    let read = Read::sql(database.tenant_id(), &sql, params);
    poll(&database, read).await
}

async fn poll(database: &Verity, read: Read) -> Result<Rows, Error> {
    let driver = database.driver();
    let mut running = Running { driver, read: Some(read) };
    std::future::poll_fn(|context| {
        let Some(read) = &mut running.read else { unreachable!("taken when it is finished") };
        match driver.poll_read(read, context.waker()) {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    })
    .await?;
    running.finish().map(to_rows)
}

/// Whether it is a write with RETURNING.
pub fn returns_rows(database: &Verity, sql: &str) -> Result<bool, Error> {
    // Binding costs; most statements do not have the word.
    if !sql.as_bytes().windows(9).any(|word| word.eq_ignore_ascii_case(b"returning")) {
        return Ok(false);
    }
    let prepared = prepare(database, sql)?;
    Ok(prepared.is_write() && prepared.returning.is_some())
}

/// The rows of RETURNING, of a statement that has committed.
pub fn returned(
    database: &Verity,
    sql: &str,
    params: &[Value],
    reply: &Reply,
) -> Result<RowStream, Error> {
    loop {
        let prepared = prepare(database, sql)?;
        let Some(returning) = &prepared.returning else {
            return Err(Error::WrongKind("the statement has no RETURNING"));
        };
        let position = reply.position.unwrap_or(Position::ZERO);
        if reply.rows_affected() == 0 {
            let columns = returning.columns.iter().map(|column| column.name.clone()).collect();
            let head = Head { columns, position, asked: None };
            return Ok(RowStream::new(head, Vec::new(), None));
        }
        let mut params = params.to_vec();
        params.truncate(usize::from(prepared.parameters));
        params.push(Value::Integer(i64::try_from(position.get()).unwrap_or(i64::MAX)));
        let read = Read::prepared(database.tenant_id(), Arc::clone(returning), params);
        match Slices::begin(database, read) {
            // The schema changed in between: bind again, the rows are in the log.
            Err(error) if error.retryable() => {}
            result => return result.map(|rows| rows.of_commit(position)),
        }
    }
}

/// The newest snapshot of the tenant.
pub fn position(database: &Verity) -> Result<Position, Error> {
    let read = Read::sql(database.tenant_id(), "SELECT 1", Vec::new());
    run(database.driver(), read).map(|result| result.position)
}

/// The schema of a table, as binding finds it.
pub fn table(database: &Verity, name: &str) -> Result<Option<Arc<TableSchema>>, Error> {
    let sql = format!("DELETE FROM \"{}\"", name.replace('"', "\"\""));
    match prepare(database, &sql) {
        Ok(prepared) => match &prepared.statement {
            Statement::Delete(schema, _) => Ok(Some(Arc::clone(schema))),
            other => unreachable!("a DELETE binds to a DELETE: {other:?}"),
        },
        Err(error) => match error.sql() {
            Some(sql) if sql.code == SqlState::UndefinedTable => Ok(None),
            Some(_) | None => Err(error),
        },
    }
}

pub fn commitment(database: &Verity, id: IdempotencyId) -> Result<Option<Commitment>, Error> {
    let driver = database.driver();
    let mut read = CommitmentRead::new(database.tenant_id(), id);
    driver.read_commitment(&mut read)?;
    read.finish().map_err(|error| to_error(driver, error))
}

pub fn prove(database: &Verity, of: ProofOf, since: Option<u64>) -> Result<Proved, Error> {
    let driver = database.driver();
    let mut read = ProofRead::new(database.tenant_id(), of).since(since);
    driver.read_proof(&mut read)?;
    read.finish().map_err(|error| unproved(error).unwrap_or_else(|| driver.why_halted()))
}

/// Why there is no proof; `None`: the node serves none now.
pub fn unproved(error: ProofError) -> Option<Error> {
    Some(match error {
        ProofError::Sql(error) => Error::Request(RequestError::Sql(error)),
        ProofError::TenantUnknown(tenant) => Error::Request(RequestError::TenantUnknown(tenant)),
        ProofError::Attest(error) => Error::Request(error),
        ProofError::NotReady => return None,
        error @ (ProofError::Prove(
            ProveStop::Damaged(_) | ProveStop::Fault | ProveStop::LogFault,
        )
        | ProofError::Store(_)) => Error::Unreadable(error.to_string()),
        error @ ProofError::NotProvable => no_proof("0A000", &error),
        error @ ProofError::Prove(ProveStop::TooLarge) => no_proof("54000", &error),
        error @ ProofError::Prove(ProveStop::NotThere(_)) => no_proof("02000", &error),
        error @ ProofError::Key(_) => no_proof("28000", &error),
        error @ ProofError::Memory => no_proof("53200", &error),
        error @ (ProofError::TooFewCosigners { .. } | ProofError::Superseded { .. }) => {
            no_proof("57P03", &error)
        }
        error @ ProofError::Fork { .. } => no_proof("XX001", &error),
    })
}

fn no_proof(sqlstate: &'static str, why: &ProofError) -> Error {
    Error::Unproved { sqlstate, why: why.to_string() }
}

/// An INSERT of parameters and constants only: its rows go to the core without text.
#[derive(Debug)]
pub struct Insert {
    table: String,
    columns: Vec<String>,
    cells: Vec<CellPlan>,
    pub parameters: usize,
}

impl Insert {
    #[must_use]
    pub fn of(prepared: &Prepared) -> Option<Insert> {
        let Statement::Insert(BoundInsert { schema, columns, rows, on_conflict }) =
            &prepared.statement
        else {
            return None;
        };
        let [cells] = rows.as_slice() else { return None };
        let plain = |cell: &CellPlan| matches!(cell, CellPlan::Value(_) | CellPlan::Parameter(_));
        if *on_conflict != OnConflict::Fail || prepared.is_explained() || !cells.iter().all(plain) {
            return None;
        }
        Some(Insert {
            table: schema.name.clone(),
            columns: columns.iter().map(|id| schema.column(*id).name.clone()).collect(),
            cells: cells.clone(),
            parameters: usize::from(prepared.parameters),
        })
    }

    /// The parameters are the row, in order: nothing to pick.
    fn is_identity(&self) -> bool {
        self.cells.len() == self.parameters
            && self.cells.iter().enumerate().all(|(at, cell)| match cell {
                CellPlan::Parameter(index) => usize::from(*index) == at,
                CellPlan::Value(_) | CellPlan::Expr(_) | CellPlan::Default => false,
            })
    }

    #[must_use]
    pub fn operation(&self, params: &[Value]) -> Operation {
        self.rows(vec![self.row(params)])
    }

    /// One operation for many rows of parameters.
    #[must_use]
    pub fn rows_operation(&self, params: Vec<Vec<Value>>) -> Operation {
        if self.is_identity() && params.iter().all(|row| row.len() == self.parameters) {
            return self.rows(params);
        }
        self.rows(params.iter().map(|row| self.row(row)).collect())
    }

    fn row(&self, params: &[Value]) -> Vec<Value> {
        let cell = |cell: &CellPlan| match cell {
            CellPlan::Parameter(index) => params[usize::from(*index)].clone(),
            CellPlan::Value(value) => value.clone(),
            CellPlan::Expr(_) | CellPlan::Default => unreachable!("`of` takes no others"),
        };
        self.cells.iter().map(cell).collect()
    }

    fn rows(&self, rows: Vec<Vec<Value>>) -> Operation {
        Operation::InsertRows { table: self.table.clone(), columns: self.columns.clone(), rows }
    }
}
