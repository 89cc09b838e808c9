//! The open database: what programs call.
//!
//! Invariants: a call that changes data returns when the change is durable; what it changed is seen
//! by every call that begins after it returned. A write carries an idempotency id, drawn here
//! unless the caller gives one, so that its outcome can be asked for later.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use verity_core::ids::{IdempotencyId, Position, PrincipalId, TenantId};
use verity_core::kernel::{Commitment, ExpectedVersion, Operation, Reply, Request};
use verity_core::node::{ProofOf, Proved, Status};
use verity_core::proof::Policy;
use verity_core::query::{TableSchema, Value};

use crate::disk::lock::DirectoryLock;
use crate::driver::Driver;
use crate::error::Error;
use crate::options::Options;
use crate::random::RandomPool;
use crate::reads;
use crate::statement::Statement;
use crate::stream::{RowStream, StreamOutcome};
use crate::verified::Reader;

/// How long an idempotency id is good for retries.
pub(crate) const ID_VALID_MS: u64 = 24 * 3600 * 1000;
/// How often a statement that met a change of schema, or a full queue, is sent again.
const RETRIES_MAX: u32 = 8;

/// An open database, as one tenant sees it. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct Verity {
    shared: Arc<Shared>,
    tenant: TenantId,
}

impl fmt::Debug for Verity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verity").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

struct Shared {
    driver: Arc<Driver>,
    random: RandomPool,
    background: Mutex<Option<JoinHandle<()>>>,
    /// Released last.
    _lock: DirectoryLock,
}

/// What a SELECT gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
    /// The snapshot it was read at: the end of a transaction.
    pub position: Position,
    /// The position that `AS OF` named, when it lies inside a transaction: what was read is the
    /// state before that transaction.
    pub asked: Option<Position>,
}

/// What a statement of either kind gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Rows(Rows),
    Committed(Reply),
}

impl Verity {
    /// Opens the database in a directory with default [`Options`]; formats a new one.
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Verity, Error> {
        Options::new().open(path)
    }

    pub(crate) fn start(driver: Arc<Driver>, lock: DirectoryLock) -> Result<Verity, Error> {
        let background = Arc::clone(&driver);
        let thread = std::thread::Builder::new()
            .name("verity".to_string())
            .spawn(move || background.run_background())
            .map_err(|error| Error::Options(format!("cannot start a thread: {error}")))?;
        let background = Mutex::new(Some(thread));
        let shared =
            Arc::new(Shared { driver, random: RandomPool::default(), background, _lock: lock });
        Ok(Verity { shared, tenant: TenantId::DEFAULT })
    }

    /// The same database as another tenant sees it.
    #[must_use]
    pub fn tenant(&self, tenant: TenantId) -> Verity {
        Verity { shared: Arc::clone(&self.shared), tenant }
    }

    pub(crate) fn driver(&self) -> &Driver {
        &self.shared.driver
    }

    pub(crate) fn tenant_id(&self) -> TenantId {
        self.tenant
    }

    /// Runs statements that write, as one transaction: all or nothing.
    ///
    /// A change of schema that got in between is met by binding again; the other calls leave that
    /// to the caller ([`Error::retryable`]).
    pub fn execute(&self, sql: &str, params: &[Value]) -> Result<Reply, Error> {
        let once = || {
            let (text, params) = (sql.to_string(), params.to_vec());
            self.transaction(vec![Operation::Sql { text, params }])
        };
        for _ in 0..RETRIES_MAX {
            match once() {
                Err(error) if error.retryable() => {}
                result => return result,
            }
        }
        once()
    }

    /// Runs one SELECT.
    pub fn query(&self, sql: &str, params: &[Value]) -> Result<Rows, Error> {
        match reads::try_query(self, sql, params)? {
            Some(rows) => Ok(rows),
            None => Err(Error::WrongKind(reads::CHANGES_DATA)),
        }
    }

    /// As [`Verity::query`], for an answer of any size: rows are read as they are taken.
    ///
    /// ```
    /// # fn main() -> Result<(), verity::Error> {
    /// # let dir = std::env::temp_dir().join(format!("verity-stream-{}", std::process::id()));
    /// # let database = verity::Verity::open(&dir)?;
    /// database.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[])?;
    /// database.execute("INSERT INTO t (id) VALUES (1), (2), (3)", &[])?;
    /// let rows = database.query_stream("SELECT id FROM t ORDER BY id", &[])?;
    /// assert_eq!(rows.columns(), ["id"]); // known before the first row, as is the position
    /// let mut sum = 0;
    /// for row in rows {
    ///     if let [verity::Value::Integer(id)] = row?[..] {
    ///         sum += id;
    ///     }
    /// }
    /// assert_eq!(sum, 6);
    /// # database.close()?;
    /// # std::fs::remove_dir_all(&dir).ok();
    /// # std::fs::remove_file(verity::master_key_beside(&dir)).ok();
    /// # Ok(())
    /// # }
    /// ```
    pub fn query_stream(&self, sql: &str, params: &[Value]) -> Result<RowStream, Error> {
        match reads::try_stream(self, sql, params)? {
            Some(rows) => Ok(rows),
            None => Err(Error::WrongKind(reads::CHANGES_DATA)),
        }
    }

    /// As [`Verity::query_stream`], without blocking until the first row but to bind.
    pub fn query_stream_async(
        &self,
        sql: &str,
        params: &[Value],
    ) -> impl Future<Output = Result<RowStream, Error>> + Send + use<> {
        reads::stream_async(self.clone(), reads::select(self, sql, params))
    }

    /// Runs one statement of either kind. With RETURNING, a write gives rows.
    pub fn run(&self, sql: &str, params: &[Value]) -> Result<Outcome, Error> {
        if reads::returns_rows(self, sql)? {
            let reply = self.execute(sql, params)?;
            let rows = reads::returned(self, sql, params, &reply)?;
            return rows.gather().map(Outcome::Rows);
        }
        match reads::try_query(self, sql, params)? {
            Some(rows) => Ok(Outcome::Rows(rows)),
            None => self.execute(sql, params).map(Outcome::Committed),
        }
    }

    /// As [`Verity::run`], with rows as [`Verity::query_stream`] gives them.
    pub fn run_stream(&self, sql: &str, params: &[Value]) -> Result<StreamOutcome, Error> {
        if reads::returns_rows(self, sql)? {
            let reply = self.execute(sql, params)?;
            return reads::returned(self, sql, params, &reply).map(StreamOutcome::Rows);
        }
        match reads::try_stream(self, sql, params)? {
            Some(rows) => Ok(StreamOutcome::Rows(rows)),
            None => self.execute(sql, params).map(StreamOutcome::Committed),
        }
    }

    /// Parses and binds a statement once, to run it many times.
    pub fn prepare(&self, sql: &str) -> Result<Statement, Error> {
        Statement::new(self, sql)
    }

    /// Inserts rows into a table without any SQL to parse, as one transaction.
    pub fn insert_rows(
        &self,
        table: &str,
        columns: &[&str],
        rows: Vec<Vec<Value>>,
    ) -> Result<Reply, Error> {
        self.transaction(vec![insert_rows(table, columns, rows)])
    }

    /// Appends raw records to a stream, if its version is as expected.
    pub fn append(
        &self,
        stream: &str,
        expected: ExpectedVersion,
        records: Vec<Vec<u8>>,
    ) -> Result<Reply, Error> {
        let stream = stream.to_string();
        self.transaction(vec![Operation::Append { stream, expected, records }])
    }

    /// Several operations as one transaction.
    pub fn transaction(&self, operations: Vec<Operation>) -> Result<Reply, Error> {
        let id = self.new_id()?;
        self.transaction_with_id(id, operations)
    }

    /// As [`Verity::transaction`], under an id of the caller: sent twice, it is applied once, and
    /// the second answer is that of the first.
    pub fn transaction_with_id(
        &self,
        id: IdempotencyId,
        operations: Vec<Operation>,
    ) -> Result<Reply, Error> {
        self.driver().call(self.request(id, operations))
    }

    /// Creates a tenant with a log, tables and keys of its own.
    pub fn create_tenant(&self, tenant: TenantId) -> Result<Reply, Error> {
        let kek_hash = verity_core::crypto::KekHash([0; 32]);
        let operations = vec![Operation::CreateTenant { tenant, kek_hash }];
        let request =
            Request { tenant: TenantId::SYSTEM, ..self.request(self.new_id()?, operations) };
        self.driver().call(request)
    }

    /// A new idempotency id, good for a day by the node's time: that of its newest transaction,
    /// where the clock of this machine was set back behind it.
    pub fn new_id(&self) -> Result<IdempotencyId, Error> {
        let random = self.shared.random.draw().map_err(Error::MasterKey)?;
        let now_ms = self.driver().now_for_ids().as_ms();
        Ok(IdempotencyId::new(now_ms + ID_VALID_MS, random))
    }

    /// What became of the request with this id: `None` if it was never applied.
    pub fn commitment(&self, id: IdempotencyId) -> Result<Option<Commitment>, Error> {
        reads::commitment(self, id)
    }

    /// The answer of a SELECT as a file that proves itself, under the policy that comes with it.
    pub fn prove(&self, sql: &str, params: &[Value]) -> Result<Proved, Error> {
        let of = ProofOf::Sql { text: sql.to_string(), parameters: params.to_vec() };
        reads::prove(self, of, None)
    }

    /// As [`Verity::prove`], of anything that has proofs. `since`: the size of an older head, which
    /// the proof's own is then shown to continue.
    pub fn prove_of(&self, of: ProofOf, since: Option<u64>) -> Result<Proved, Error> {
        reads::prove(self, of, since)
    }

    /// Reads that are verified by this policy before their rows are given; what cannot be proved is
    /// refused. The policy must come from elsewhere than this directory.
    #[must_use]
    pub fn verified(&self, policy: Policy) -> Reader<Verity> {
        Reader::new(self.clone(), self.tenant, policy)
    }

    /// The newest snapshot: the last position of the last transaction.
    pub fn position(&self) -> Result<Position, Error> {
        reads::position(self)
    }

    /// A table's columns and types; `None` when there is no such table.
    pub fn table(&self, name: &str) -> Result<Option<Arc<TableSchema>>, Error> {
        reads::table(self, name)
    }

    /// As [`Verity::execute`], without blocking. The request is on its way when this returns.
    pub fn execute_async(
        &self,
        sql: &str,
        params: &[Value],
    ) -> impl Future<Output = Result<Reply, Error>> + Send + use<> {
        let operation = Operation::Sql { text: sql.to_string(), params: params.to_vec() };
        self.transaction_async(vec![operation])
    }

    /// As [`Verity::insert_rows`], without blocking. The request is on its way when this returns.
    pub fn insert_rows_async(
        &self,
        table: &str,
        columns: &[&str],
        rows: Vec<Vec<Value>>,
    ) -> impl Future<Output = Result<Reply, Error>> + Send + use<> {
        self.transaction_async(vec![insert_rows(table, columns, rows)])
    }

    /// As [`Verity::transaction`], without blocking. The request is on its way when this returns.
    pub fn transaction_async(
        &self,
        operations: Vec<Operation>,
    ) -> impl Future<Output = Result<Reply, Error>> + Send + use<> {
        let slot =
            self.new_id().and_then(|id| self.driver().call_async(self.request(id, operations)));
        let shared = Arc::clone(&self.shared);
        async move {
            let slot = slot?;
            std::future::poll_fn(|context| match shared.driver.poll_reply(&slot, context.waker()) {
                Some(reply) => std::task::Poll::Ready(reply),
                None => std::task::Poll::Pending,
            })
            .await
        }
    }

    /// As [`Verity::query`], without blocking: each poll runs a bounded slice of the read.
    pub fn query_async(
        &self,
        sql: &str,
        params: &[Value],
    ) -> impl Future<Output = Result<Rows, Error>> + Send + use<> {
        let prepared = reads::in_the_past(reads::prepare(self, sql));
        let (database, text, params) = (self.clone(), sql.to_string(), params.to_vec());
        async move {
            match prepared? {
                Some(prepared) => reads::query_async(database, prepared, params).await,
                None => reads::query_text_async(database, text, params).await,
            }
        }
    }

    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.driver().status()
    }

    /// Takes a last checkpoint and closes the database, whatever other handles there are: their
    /// calls are refused from now on.
    pub fn close(self) -> Result<(), Error> {
        self.shared.close()
    }

    /// Stops at once, without a last checkpoint, as if the process were killed. Nothing that was
    /// acknowledged is lost; the next open replays it. For tests and benchmarks.
    pub fn abandon(self) {
        self.shared.driver.stop();
        self.shared.join();
    }

    fn request(&self, idempotency: IdempotencyId, operations: Vec<Operation>) -> Request {
        let principal = PrincipalId::ZERO;
        Request { tenant: self.tenant, principal, idempotency, after: None, operations }
    }
}

fn insert_rows(table: &str, columns: &[&str], rows: Vec<Vec<Value>>) -> Operation {
    let columns = columns.iter().map(|name| (*name).to_string()).collect();
    Operation::InsertRows { table: table.to_string(), columns, rows }
}

impl Shared {
    fn close(&self) -> Result<(), Error> {
        let result = self.driver.shutdown();
        self.join();
        result
    }

    fn join(&self) {
        let thread = self.background.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _panicked_already = thread.join();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.driver.is_stopped() {
            return;
        }
        if let Err(error) = self.close() {
            tracing::error!("closing the database: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_made_by_the_later_of_two_clocks() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().cluster_constants(crate::ClusterConstants::SMALL);
        let database = options.open(dir.path().join("data")).unwrap();
        database.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
        let node = database.driver().with_node(verity_core::node::Node::time);
        assert!(database.driver().now_for_ids() >= node && node.0 > 0);
        // As where the clock of the machine was set back by ten days.
        let later = node.as_ms() + 10 * ID_VALID_MS;
        database.driver().see_time(verity_core::time::Timestamp(later * 1_000_000));
        assert_eq!(database.new_id().unwrap().not_after_ms(), later + ID_VALID_MS);
    }
}
