//! What a server answers.

use capnp::message::Builder;
use capnp::serialize;
use capnp::struct_list;
use verity_core::crypto::InternalHash;
use verity_core::ids::{
    ClusterId, Generation, IdempotencyId, Op, Position, Release, ReplicaId, StreamId, TenantId,
    TreeId, View,
};
use verity_core::kernel::{
    Commitment, OperationResult, Outcome, Reply, RequestError, ResultDetail, Results, RetryReason,
};
use verity_core::query::Value;
use verity_core::query::cbor::{Decoder, Encoder};
use verity_core::time::Timestamp;

use super::proofs::{ProofPart, read_proof_part, write_proof_part};
use super::values::{fixed, read_rows, read_texts, write_rows, write_texts};
use super::{Room, TooLong, length, options, to_frame};
use crate::net::schema::Retry as WireRetry;
use crate::net::schema::{answer, commitment, error, reply, result, rows, status};
use crate::stream::Head;

const NOBODY: u8 = 255;

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Reply(Reply),
    Rows(RowsPart),
    /// The outcome of the id that was asked for.
    Commitment(Commitment),
    /// No outcome of it is remembered.
    Unknown,
    Status(ReplicaReport),
    Refused(Refusal),
    Proof(ProofPart),
}

/// Rows of a query; several of them in order are its answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowsPart {
    /// With the first part alone.
    pub head: Option<Head>,
    pub rows: Vec<Vec<Value>>,
    /// More parts follow. Without rows such a one is no part, but a sign of life.
    pub more: bool,
}

impl RowsPart {
    #[must_use]
    pub fn is_sign_of_life(&self) -> bool {
        self.more && self.rows.is_empty()
    }
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub sqlstate: String,
    pub message: String,
    pub retry: Retry,
    /// Who leads, as far as is known.
    pub primary: Option<ReplicaId>,
    /// The refusal as the log keeps it; may be empty.
    pub facts: Vec<u8>,
}

/// What to do with a refused request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Never,
    Same,
    Elsewhere,
    ById,
}

/// How one replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaReport {
    pub cluster: ClusterId,
    pub replica: ReplicaId,
    pub replica_count: u8,
    pub release: Release,
    /// opening, recovering, boot, view change, following, primary, failed.
    pub phase: String,
    pub view: View,
    /// Who leads the view, when it has begun.
    pub primary: Option<ReplicaId>,
    pub op: Op,
    pub commit: Op,
    pub applied: Op,
    pub checkpoint: Op,
    pub generation: Generation,
    /// An op that no reachable replica can give: what a stuck cluster lacks.
    pub missing: Option<Op>,
    pub free_bytes: Option<u64>,
    /// To the other replicas.
    pub links: Vec<LinkReport>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkReport {
    pub replica: ReplicaId,
    pub connected: bool,
    /// Frames that found no connection or no room, since the process began.
    pub dropped: u64,
}

impl Refusal {
    #[must_use]
    pub fn of(error: &RequestError, primary: Option<ReplicaId>) -> Refusal {
        let retry = match error {
            RequestError::Retry(RetryReason::Interrupted) => Retry::ById,
            RequestError::Retry(RetryReason::NotPrimary | RetryReason::NotReady) => {
                Retry::Elsewhere
            }
            error if error.retryable() => Retry::Same,
            _final => Retry::Never,
        };
        let mut facts = Vec::new();
        let outcome = Outcome { request: InternalHash([0; 32]), result: Err(error.clone()) };
        outcome.encode(&mut Encoder::new(&mut facts));
        Refusal {
            sqlstate: error.sqlstate().to_string(),
            message: error.to_string(),
            retry,
            primary,
            facts,
        }
    }

    /// The typed refusal, where this release knows it.
    #[must_use]
    pub fn typed(&self) -> Option<RequestError> {
        if self.facts.is_empty() {
            return None;
        }
        Outcome::decode(&mut Decoder::new(&self.facts)).ok()?.result.err()
    }
}

impl Answer {
    /// The whole frame of the answer to request `id`.
    pub fn encode(&self, id: u64) -> Result<Vec<u8>, TooLong> {
        let mut message = Builder::new_default();
        let mut to: answer::Builder<'_> = message.init_root();
        to.set_id(id);
        match self {
            Answer::Reply(reply) => write_reply(reply, to.init_reply()),
            Answer::Rows(part) => write_part(part, to.init_rows()),
            Answer::Commitment(commitment) => {
                write_commitment(commitment, to.init_commitment());
            }
            Answer::Unknown => to.set_unknown(()),
            Answer::Status(report) => write_report(report, to.init_status()),
            Answer::Refused(refusal) => write_refusal(refusal, to.init_error()),
            Answer::Proof(part) => write_proof_part(part, to.init_proof()),
        }
        to_frame(&message)
    }

    /// The answer and the number of the request. A commitment does not repeat the id it is of.
    pub fn decode(payload: &[u8]) -> capnp::Result<(u64, Answer)> {
        let mut bytes = payload;
        let message = serialize::read_message_from_flat_slice(&mut bytes, options(payload))?;
        let from: answer::Reader<'_> = message.get_root()?;
        let room = &mut Room::of(payload);
        let answer = match from.which()? {
            answer::Which::Reply(reply) => Answer::Reply(read_reply(reply?, room)?),
            answer::Which::Rows(part) => Answer::Rows(read_part(part?, room)?),
            answer::Which::Commitment(commitment) => {
                Answer::Commitment(read_commitment(commitment?, room)?)
            }
            answer::Which::Unknown(()) => Answer::Unknown,
            answer::Which::Status(report) => Answer::Status(read_report(report?, room)?),
            answer::Which::Error(refusal) => Answer::Refused(read_refusal(refusal?)?),
            answer::Which::Proof(part) => Answer::Proof(read_proof_part(part?)?),
        };
        Ok((from.get_id(), answer))
    }
}

/// A position as the count of records up to it; 0: none.
#[must_use]
pub fn count_of(position: Option<Position>) -> u64 {
    position.map_or(0, |position| position.get().saturating_add(1))
}

fn write_reply(reply: &Reply, mut to: reply::Builder<'_>) {
    to.set_op(reply.op.get());
    to.set_timestamp(reply.timestamp.0);
    to.set_positions(count_of(reply.position));
    to.set_replayed(reply.replayed);
    write_results(&reply.results, to.init_results(length(reply.results.len())));
}

fn read_reply(from: reply::Reader<'_>, room: &mut Room) -> capnp::Result<Reply> {
    Ok(Reply {
        op: Op::new(from.get_op()),
        timestamp: Timestamp(from.get_timestamp()),
        position: Position::new(from.get_positions()).previous(),
        results: read_results(from.get_results()?, room)?,
        replayed: from.get_replayed(),
    })
}

fn write_results(results: &[OperationResult], mut to: struct_list::Builder<'_, result::Owned>) {
    for (at, result) in (0..).zip(results) {
        let mut to = to.reborrow().get(at);
        to.set_operation(result.operation);
        to.set_rows_affected(result.rows_affected);
        let mut detail = to.init_detail();
        match result.detail {
            ResultDetail::Rows => detail.set_rows(()),
            ResultDetail::Schema => detail.set_schema(()),
            ResultDetail::Appended { stream, version } => {
                let mut appended = detail.init_appended();
                appended.set_stream(stream.get());
                appended.set_version(version);
            }
            ResultDetail::TenantCreated(tenant) => detail.set_tenant_created(tenant.get()),
            ResultDetail::Job(job) => detail.set_job(job.get()),
        }
    }
}

fn read_results(
    from: struct_list::Reader<'_, result::Owned>,
    room: &mut Room,
) -> capnp::Result<Results> {
    room.take(from.len())?;
    let one = |result: result::Reader<'_>| {
        let detail = match result.get_detail().which()? {
            result::detail::Which::Rows(()) => ResultDetail::Rows,
            result::detail::Which::Schema(()) => ResultDetail::Schema,
            result::detail::Which::Appended(appended) => {
                let appended = appended?;
                let stream = StreamId::new(appended.get_stream());
                ResultDetail::Appended { stream, version: appended.get_version() }
            }
            result::detail::Which::TenantCreated(tenant) => {
                ResultDetail::TenantCreated(TenantId::new(tenant))
            }
            result::detail::Which::Job(job) => ResultDetail::Job(TreeId::new(job)),
        };
        let (operation, rows_affected) = (result.get_operation(), result.get_rows_affected());
        Ok(OperationResult { operation, rows_affected, detail })
    };
    from.iter().map(one).collect()
}

fn write_part(part: &RowsPart, mut to: rows::Builder<'_>) {
    to.set_more(part.more);
    if let Some(Head { columns, position, asked: of }) = &part.head {
        to.set_first(true);
        to.set_position(position.get());
        let mut asked = to.reborrow().init_asked();
        match of {
            None => asked.set_same(()),
            Some(position) => asked.set_inside(position.get()),
        }
        write_texts(columns, to.reborrow().init_columns(length(columns.len())));
    }
    write_rows(&part.rows, to.init_rows(length(part.rows.len())));
}

fn read_part(from: rows::Reader<'_>, room: &mut Room) -> capnp::Result<RowsPart> {
    let mut head = None;
    if from.get_first() {
        let asked = match from.get_asked().which()? {
            rows::asked::Which::Same(()) => None,
            rows::asked::Which::Inside(position) => Some(Position::new(position)),
        };
        let columns = read_texts(from.get_columns()?, room)?;
        head = Some(Head { columns, position: Position::new(from.get_position()), asked });
    }
    Ok(RowsPart { head, rows: read_rows(from.get_rows()?, room)?, more: from.get_more() })
}

fn write_commitment(commitment: &Commitment, mut to: commitment::Builder<'_>) {
    to.set_position(commitment.position.get());
    to.set_op(commitment.op.get());
    to.set_timestamp(commitment.time.0);
    match &commitment.outcome.result {
        Ok(results) => write_results(results, to.init_results(length(results.len()))),
        Err(error) => write_refusal(&Refusal::of(error, None), to.init_refused()),
    }
}

fn read_commitment(from: commitment::Reader<'_>, room: &mut Room) -> capnp::Result<Commitment> {
    let result = match from.which()? {
        commitment::Which::Results(results) => Ok(read_results(results?, room)?),
        commitment::Which::Refused(refusal) => {
            let refusal = read_refusal(refusal?)?;
            Err(refusal.typed().ok_or_else(|| super::bad("a refusal of a newer release"))?)
        }
    };
    Ok(Commitment {
        id: IdempotencyId::NONE,
        outcome: Outcome { request: InternalHash([0; 32]), result },
        position: Position::new(from.get_position()),
        op: Op::new(from.get_op()),
        time: Timestamp(from.get_timestamp()),
    })
}

fn write_refusal(refusal: &Refusal, mut to: error::Builder<'_>) {
    to.set_sqlstate(refusal.sqlstate.as_str());
    to.set_message(refusal.message.as_str());
    to.set_retry(match refusal.retry {
        Retry::Never => WireRetry::Never,
        Retry::Same => WireRetry::Same,
        Retry::Elsewhere => WireRetry::Elsewhere,
        Retry::ById => WireRetry::ById,
    });
    to.set_primary(refusal.primary.map_or(NOBODY, ReplicaId::get));
    to.set_facts(&refusal.facts);
}

fn read_refusal(from: error::Reader<'_>) -> capnp::Result<Refusal> {
    Ok(Refusal {
        sqlstate: from.get_sqlstate()?.to_string()?,
        message: from.get_message()?.to_string()?,
        retry: match from.get_retry()? {
            WireRetry::Never => Retry::Never,
            WireRetry::Same => Retry::Same,
            WireRetry::Elsewhere => Retry::Elsewhere,
            WireRetry::ById => Retry::ById,
        },
        primary: read_replica(from.get_primary()),
        facts: from.get_facts()?.to_vec(),
    })
}

fn read_replica(number: u8) -> Option<ReplicaId> {
    (number != NOBODY).then_some(ReplicaId::new(number))
}

fn write_report(report: &ReplicaReport, mut to: status::Builder<'_>) {
    to.set_cluster(&report.cluster.get().to_be_bytes());
    to.set_replica(report.replica.get());
    to.set_replica_count(report.replica_count);
    to.set_release(report.release.get());
    to.set_phase(report.phase.as_str());
    to.set_view(report.view.get());
    to.set_primary(report.primary.map_or(NOBODY, ReplicaId::get));
    to.set_op(report.op.get());
    to.set_commit(report.commit.get());
    to.set_applied(report.applied.get());
    to.set_checkpoint(report.checkpoint.get());
    to.set_generation(report.generation.get());
    to.set_missing(report.missing.map_or(0, Op::get));
    to.set_free_bytes(report.free_bytes.unwrap_or(0));
    let mut links = to.init_links(length(report.links.len()));
    for (at, link) in (0..).zip(&report.links) {
        let mut to = links.reborrow().get(at);
        to.set_replica(link.replica.get());
        to.set_connected(link.connected);
        to.set_dropped(link.dropped);
    }
}

fn read_report(from: status::Reader<'_>, room: &mut Room) -> capnp::Result<ReplicaReport> {
    let cluster = u128::from_be_bytes(fixed(from.get_cluster()?, "a cluster has 16 bytes")?);
    let links = from.get_links()?;
    room.take(links.len())?;
    let links = links.iter().map(|link| LinkReport {
        replica: ReplicaId::new(link.get_replica()),
        connected: link.get_connected(),
        dropped: link.get_dropped(),
    });
    Ok(ReplicaReport {
        cluster: ClusterId::new(cluster),
        replica: ReplicaId::new(from.get_replica()),
        replica_count: from.get_replica_count(),
        release: Release::new(from.get_release()),
        phase: from.get_phase()?.to_string()?,
        view: View::new(from.get_view()),
        primary: read_replica(from.get_primary()),
        op: Op::new(from.get_op()),
        commit: Op::new(from.get_commit()),
        applied: Op::new(from.get_applied()),
        checkpoint: Op::new(from.get_checkpoint()),
        generation: Generation::new(from.get_generation()),
        missing: Some(Op::new(from.get_missing())).filter(|op| *op != Op::ZERO),
        free_bytes: Some(from.get_free_bytes()).filter(|bytes| *bytes != 0),
        links: links.collect(),
    })
}
