//! A client of a cluster: the same calls as an open database, over the network.
//!
//! Purpose: finds the primary, and tries again what did not get through, without doing it twice.
//! One agent (`agent.rs`), a thread of the client's own, keeps one connection and all requests that
//! wait; callers leave theirs and sleep, or poll. `docs/NETWORK.md` has the rules.
//!
//! Invariants: a write has one idempotency id and one sequence of bytes for all its tries. A call
//! ends: with its answer, or with its deadline. What may have been done is never reported as not
//! done ([`Error::OutcomeUnknown`]).
//!
//! Fault model: servers that are gone, slow, stopped, deposed, or answer anything.

mod agent;
mod call;
#[cfg(test)]
mod fake;
mod flow;

use std::collections::BTreeMap;
use std::fmt;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use verity_core::ids::{IdempotencyId, Position, PrincipalId, TenantId};
use verity_core::kernel::{Commitment, ExpectedVersion, Operation, Reply, Request};
use verity_core::limits::FRAME_PAYLOAD_SIZE_MAX;
use verity_core::node::{CURRENT_RELEASE, ProofOf, Proved};
use verity_core::proof::Policy;
use verity_core::query::Value;
use verity_core::wire::hello::Hello;

use crate::database::{ID_VALID_MS, Outcome, Rows, Verity};
use crate::error::Error;
use crate::net::frames::payload;
use crate::net::payload::{Answer, Ask, Asked, ProofPart, Prove, Query, ReplicaReport};
use crate::net::{Broken, dial, handshake};
use crate::random::RandomPool;
use crate::stream::{RowStream, StreamOutcome};
use crate::verified::Reader;

use agent::Agent;
use call::{Call, Done, STREAM_WINDOW};
pub(crate) use flow::Flow;

/// What a server says when it is asked for the rows of a write without RETURNING.
const NO_RETURNING: &str = "42809";
/// How long a call is tried when nothing is said.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(30);

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    deadline: Duration,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions { deadline: DEADLINE_DEFAULT }
    }
}

impl ClientOptions {
    #[must_use]
    pub fn new() -> ClientOptions {
        ClientOptions::default()
    }

    /// How long a call is tried before it fails.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> ClientOptions {
        self.deadline = deadline;
        self
    }

    /// As [`Verity::connect`].
    pub fn connect<A: AsRef<str>>(
        &self,
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<Client, Error> {
        let addresses: Vec<String> =
            addresses.into_iter().map(|address| address.as_ref().trim().to_string()).collect();
        if addresses.is_empty() || addresses.iter().any(String::is_empty) {
            return Err(Error::Options("connect to what? Name host:port of replicas".to_string()));
        }
        let agent = Arc::new(Agent::new(addresses, self.deadline));
        let working = Arc::clone(&agent);
        let thread = std::thread::Builder::new()
            .name("verity-client".to_string())
            .spawn(move || working.run())
            .map_err(|error| Error::Options(format!("cannot start a thread: {error}")))?;
        let shared = Shared {
            agent,
            random: RandomPool::default(),
            seen: Mutex::default(),
            thread: Mutex::new(Some(thread)),
        };
        Ok(Client { shared: Arc::new(shared), tenant: TenantId::DEFAULT, anywhere: false })
    }
}

impl Verity {
    /// A client of the cluster whose replicas are at these addresses (`host:port`), or of one
    /// server. Nothing is dialled before the first call.
    pub fn connect<A: AsRef<str>>(addresses: impl IntoIterator<Item = A>) -> Result<Client, Error> {
        ClientOptions::new().connect(addresses)
    }
}

/// A cluster, as one tenant sees it. Cheap to clone; all clones share one connection.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    tenant: TenantId,
    anywhere: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

struct Shared {
    agent: Arc<Agent>,
    random: RandomPool,
    /// Positions that were seen of each tenant's log, as a count.
    seen: Mutex<BTreeMap<TenantId, u64>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.agent.stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _panicked_already = thread.join();
        }
    }
}

impl Client {
    /// The same cluster as another tenant sees it.
    #[must_use]
    pub fn tenant(&self, tenant: TenantId) -> Client {
        Client { tenant, ..self.clone() }
    }

    /// Reads are answered by whichever replica is connected, as of a state that was: never one
    /// before what this client has seen.
    #[must_use]
    pub fn read_anywhere(&self) -> Client {
        Client { anywhere: true, ..self.clone() }
    }

    /// Runs statements that write, as one transaction: all or nothing.
    pub fn execute(&self, sql: &str, params: &[Value]) -> Result<Reply, Error> {
        self.transaction(vec![sql_operation(sql, params)])
    }

    /// Runs one SELECT.
    pub fn query(&self, sql: &str, params: &[Value]) -> Result<Rows, Error> {
        let call = self.start(self.ask(sql, params, 0, 0))?;
        self.rows(self.shared.agent.wait(&call))
    }

    /// As [`Client::query`], for an answer of any size: rows are sent as they are taken. When the
    /// connection is lost amid them they end with an error ([`Error::RowsCut`]); before the first
    /// one, other servers are tried. The deadline is that of each wait. Four streams of a client
    /// (with all of its clones) run at a time; a fifth begins when one of them ends or is dropped.
    pub fn query_stream(&self, sql: &str, params: &[Value]) -> Result<RowStream, Error> {
        self.stream(sql, params, 0)?.begin()
    }

    /// As [`Client::query_stream`], without blocking until the first row.
    pub fn query_stream_async(
        &self,
        sql: &str,
        params: &[Value],
    ) -> impl Future<Output = Result<RowStream, Error>> + Send + use<> {
        let flow = self.stream(sql, params, 0);
        async move { flow?.begin_async().await }
    }

    fn stream(&self, sql: &str, params: &[Value], returning: u64) -> Result<Flow, Error> {
        let call = self.start(self.ask(sql, params, returning, STREAM_WINDOW))?;
        Ok(Flow::new(self.clone(), call))
    }

    /// Runs one statement of either kind. With RETURNING, a write gives rows; they are fetched when
    /// it has committed.
    pub fn run(&self, sql: &str, params: &[Value]) -> Result<Outcome, Error> {
        if !changes_data(sql) {
            return self.query(sql, params).map(Outcome::Rows);
        }
        match self.run_stream(sql, params)? {
            StreamOutcome::Rows(rows) => rows.gather().map(Outcome::Rows),
            StreamOutcome::Committed(reply) => Ok(Outcome::Committed(reply)),
        }
    }

    /// As [`Client::run`], with rows as [`Client::query_stream`] gives them.
    pub fn run_stream(&self, sql: &str, params: &[Value]) -> Result<StreamOutcome, Error> {
        if !changes_data(sql) {
            return self.query_stream(sql, params).map(StreamOutcome::Rows);
        }
        let reply = self.execute(sql, params)?;
        let Some(position) = reply.position.filter(|_| has_word(sql, "returning")) else {
            return Ok(StreamOutcome::Committed(reply));
        };
        match self.stream(sql, params, position.get() + 1).and_then(Flow::begin) {
            // What is read there is somebody else's.
            Ok(rows) if reply.rows_affected() == 0 => Ok(rows.of_nothing(position)),
            Ok(rows) => Ok(rows.of_commit(position)),
            // The word stands somewhere else in it.
            Err(Error::Server { sqlstate, .. }) if sqlstate == NO_RETURNING => {
                return Ok(StreamOutcome::Committed(reply));
            }
            Err(error) => Err(Error::Server {
                sqlstate: error.sqlstate().to_string(),
                message: format!(
                    "the write committed at position {position}; its rows cannot be had: {error}"
                ),
            }),
        }
        .map(StreamOutcome::Rows)
    }

    /// Inserts rows into a table without any SQL to parse, as one transaction.
    pub fn insert_rows(
        &self,
        table: &str,
        columns: &[&str],
        rows: Vec<Vec<Value>>,
    ) -> Result<Reply, Error> {
        let columns = columns.iter().map(|name| (*name).to_string()).collect();
        self.transaction(vec![Operation::InsertRows { table: table.to_string(), columns, rows }])
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

    /// Creates a tenant with a log, tables and keys of its own.
    pub fn create_tenant(&self, tenant: TenantId) -> Result<Reply, Error> {
        let kek_hash = verity_core::crypto::KekHash([0; 32]);
        let operations = vec![Operation::CreateTenant { tenant, kek_hash }];
        self.tenant(TenantId::SYSTEM).transaction(operations)
    }

    /// Several operations as one transaction.
    pub fn transaction(&self, operations: Vec<Operation>) -> Result<Reply, Error> {
        self.transaction_with_id(self.new_id()?, operations)
    }

    /// As [`Client::transaction`], under an id of the caller: sent twice, it is applied once, and
    /// the second answer is that of the first. With [`IdempotencyId::NONE`] it is sent once, and
    /// nothing remembers it: when the connection is lost before its answer,
    /// [`Error::OutcomeUnknown`] is all that can be said.
    pub fn transaction_with_id(
        &self,
        id: IdempotencyId,
        operations: Vec<Operation>,
    ) -> Result<Reply, Error> {
        let call = self.start(self.request(id, operations)?)?;
        self.reply(self.shared.agent.wait(&call))
    }

    /// A new idempotency id, good for a day.
    pub fn new_id(&self) -> Result<IdempotencyId, Error> {
        let random = self.shared.random.draw().map_err(Error::MasterKey)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        Ok(IdempotencyId::new(now_ms + ID_VALID_MS, random))
    }

    /// What became of the request with this id: `None` if it was never applied.
    pub fn commitment(&self, id: IdempotencyId) -> Result<Option<Commitment>, Error> {
        let call = self.start(Ask::Commitment { tenant: self.tenant, id })?;
        match self.shared.agent.wait(&call) {
            Done::Answer(Answer::Commitment(found)) => Ok(Some(Commitment { id, ..found })),
            Done::Answer(Answer::Unknown) => Ok(None),
            Done::Failed(error) => Err(error),
            Done::Answer(_) | Done::Rows(_) | Done::Streamed => Err(unexpected()),
        }
    }

    /// As [`Client::execute`], without blocking. The request is on its way when this returns.
    pub fn execute_async(
        &self,
        sql: &str,
        params: &[Value],
    ) -> impl Future<Output = Result<Reply, Error>> + Send + use<> {
        self.transaction_async(vec![sql_operation(sql, params)])
    }

    /// As [`Client::transaction`], without blocking. The request is on its way when this returns.
    pub fn transaction_async(
        &self,
        operations: Vec<Operation>,
    ) -> impl Future<Output = Result<Reply, Error>> + Send + use<> {
        let call = self
            .new_id()
            .and_then(|id| self.request(id, operations))
            .and_then(|ask| self.start(ask));
        let client = self.clone();
        async move { client.reply(done(call?).await) }
    }

    /// As [`Client::query`], without blocking.
    pub fn query_async(
        &self,
        sql: &str,
        params: &[Value],
    ) -> impl Future<Output = Result<Rows, Error>> + Send + use<> {
        let call = self.start(self.ask(sql, params, 0, 0));
        let client = self.clone();
        async move { client.rows(done(call?).await) }
    }

    /// As [`Verity::prove_of`], by whoever leads. Statements, records and idempotency ids have
    /// proofs over the network.
    pub fn prove_of(&self, of: ProofOf, since: Option<u64>) -> Result<Proved, Error> {
        if !Prove::is_for_clients(&of) {
            return Err(Error::WrongKind("this query is not for clients over the network"));
        }
        let call = self.start(Ask::Prove(Prove { tenant: self.tenant, of, since }))?;
        match self.shared.agent.wait(&call) {
            Done::Answer(Answer::Proof(ProofPart { file, more: _, query, policy })) => {
                Ok(Proved { file, query, policy })
            }
            Done::Failed(error) => Err(error),
            Done::Answer(_) | Done::Rows(_) | Done::Streamed => Err(unexpected()),
        }
    }

    /// Reads that are verified here, by this policy, before their rows are given: nothing that a
    /// server says is believed. The policy must come from elsewhere than these servers.
    #[must_use]
    pub fn verified(&self, policy: Policy) -> Reader<Client> {
        Reader::new(self.clone(), self.tenant, policy)
    }

    /// `returning`, `window`: as in [`Query`].
    fn ask(&self, sql: &str, params: &[Value], returning: u64, window: u32) -> Ask {
        let seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ask::Query(Query {
            tenant: self.tenant,
            text: sql.to_string(),
            params: params.to_vec(),
            seen: seen.get(&self.tenant).copied().unwrap_or(0),
            anywhere: self.anywhere,
            returning,
            window,
        })
    }

    fn request(&self, id: IdempotencyId, operations: Vec<Operation>) -> Result<Ask, Error> {
        let for_clients = |operation: &Operation| match operation {
            Operation::Sql { .. }
            | Operation::InsertRows { .. }
            | Operation::Append { .. }
            | Operation::CreateTenant { .. } => true,
            Operation::JobStep { .. } | Operation::Attest => false,
        };
        if !operations.iter().all(for_clients) {
            return Err(Error::WrongKind("this operation is not for clients over the network"));
        }
        let (tenant, principal) = (self.tenant, PrincipalId::ZERO);
        Ok(Ask::Execute(Request { tenant, principal, idempotency: id, after: None, operations }))
    }

    fn start(&self, ask: Ask) -> Result<Arc<Call>, Error> {
        self.shared.agent.submit(ask)
    }

    fn reply(&self, done: Done) -> Result<Reply, Error> {
        match done {
            Done::Answer(Answer::Reply(reply)) => {
                self.see(reply.position);
                Ok(reply)
            }
            Done::Failed(error) => Err(error),
            Done::Answer(_) | Done::Rows(_) | Done::Streamed => Err(unexpected()),
        }
    }

    fn rows(&self, done: Done) -> Result<Rows, Error> {
        match done {
            Done::Rows(rows) => {
                // A read of the past says nothing of what there is to see.
                if rows.asked.is_none() && !rows.rows.is_empty() {
                    self.see(Some(rows.position));
                }
                Ok(rows)
            }
            Done::Failed(error) => Err(error),
            Done::Answer(_) | Done::Streamed => Err(unexpected()),
        }
    }

    fn see(&self, position: Option<Position>) {
        let Some(position) = position else { return };
        let mut seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seen.entry(self.tenant).or_default();
        *count = (*count).max(position.get().saturating_add(1));
    }
}

async fn done(call: Arc<Call>) -> Done {
    std::future::poll_fn(|context| match call.poll(context.waker()) {
        Some(done) => Poll::Ready(done),
        None => Poll::Pending,
    })
    .await
}

fn sql_operation(sql: &str, params: &[Value]) -> Operation {
    Operation::Sql { text: sql.to_string(), params: params.to_vec() }
}

fn unexpected() -> Error {
    Error::Unreachable { why: "the server answered another question".to_string() }
}

fn has_word(sql: &str, word: &str) -> bool {
    sql.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

/// By its first word: servers answer reads and writes apart.
fn changes_data(sql: &str) -> bool {
    let mut rest = sql.trim_start();
    loop {
        rest = if let Some(comment) = rest.strip_prefix("--") {
            comment.split_once('\n').map_or("", |(_, after)| after)
        } else if let Some(comment) = rest.strip_prefix("/*") {
            comment.split_once("*/").map_or("", |(_, after)| after)
        } else {
            break;
        }
        .trim_start();
    }
    let word = rest.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    ["INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER"]
        .iter()
        .any(|known| word.eq_ignore_ascii_case(known))
}

/// Asks one server how it stands, and no other.
pub fn replica_report(address: &str, longest: Duration) -> Result<ReplicaReport, Error> {
    let ask = || -> Result<Answer, Broken> {
        let mut stream: &TcpStream = &dial(address, longest)?;
        let me = Hello::of_client(CURRENT_RELEASE);
        let (_, mut reader) = handshake::greet(stream, &me, longest)?;
        reader.allow(FRAME_PAYLOAD_SIZE_MAX);
        stream.set_read_timeout(Some(longest))?;
        let Ok(frame) = (Asked { id: 1, ask: Ask::Status }).encode() else {
            unreachable!("it is short")
        };
        std::io::Write::write_all(&mut stream, &frame)?;
        let frame = reader.next(&mut stream)?;
        let answer = Answer::decode(payload(frame));
        Ok(answer.map_err(|_| Broken::Protocol("an answer that cannot be understood"))?.1)
    };
    match ask() {
        Ok(Answer::Status(report)) => Ok(report),
        Ok(_) => Err(unexpected()),
        Err(why) => Err(Error::Unreachable { why: format!("{address}: {why}") }),
    }
}

#[cfg(test)]
mod tests;
