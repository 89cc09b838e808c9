//! Proofs on demand: attest, prove, cosign; all readers that wait share one attestation.
//!
//! A [`ProofRead`] asks for an attestation unless the newest is of the very state now, then holds
//! back the ops behind it (a bounded number of turns) while proofs are made of that state. What is
//! proved waits for cosignatures of its head ([`super::cosigning`]), and holds nothing meanwhile.
//!
//! Fault model: damage ends the read with an error that names it.

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::ids::{Position, TenantId};
use crate::io::{Effects, KeyError};
use crate::kernel::{
    Attestation, ProveStop, Proving, Reply, RequestError, SharedOfProofs, canonical_query,
    history_query,
};
use crate::limits::PROOF_SQUEEZED_MAX;
use crate::log::LogPins;
use crate::node::api::{Halt, Progress};
use crate::node::attesting::{TICKET, attest};
use crate::node::cosigning::Signed;
use crate::node::requests::Work;
use crate::node::running::Running;
use crate::proof::{CanonicalQuery, ProofFile, QueryKind};
use crate::query::{SqlError, Value, prepare_one};
use crate::store::{Pins, StoreError};
use crate::time::{Clock, Instant};

/// What a proof is wanted of.
#[derive(Clone, Debug, PartialEq)]
pub enum ProofOf {
    /// The answer of a SELECT.
    Sql {
        text: String,
        parameters: Vec<Value>,
    },
    /// All versions of the one row that a SELECT names by its whole key.
    HistoryOf {
        text: String,
        parameters: Vec<Value>,
    },
    Query(QueryKind),
}

/// A proof file, and who must be believed for it to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    pub file: Vec<u8>,
    pub query: Vec<u8>,
    /// C2SP `tlog-policy` of this cluster: f + 1 of the replicas whose keys are known.
    pub policy: String,
}

/// Why there is no proof.
#[derive(Clone, Debug, PartialEq)]
pub enum ProofError {
    NotReady,
    TenantUnknown(TenantId),
    Sql(SqlError),
    /// The statement is none that can be proved.
    NotProvable,
    Attest(RequestError),
    Prove(ProveStop),
    Store(StoreError),
    /// The replica's cosigning key cannot be had.
    Key(KeyError),
    /// It needs more pages at once than memory holds.
    Memory,
    /// The head does not continue the last one that this replica cosigned.
    Fork {
        cosigned: u64,
        size: u64,
    },
    /// The head is not the newest any more, and is not signed.
    Superseded {
        size: u64,
        newest: u64,
    },
    /// Too few replicas cosigned the head in time: ask again.
    TooFewCosigners {
        cosigners: usize,
        needed: usize,
    },
}

impl core::fmt::Display for ProofError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ProofError::NotReady => f.write_str("the node does not serve proofs now"),
            ProofError::TenantUnknown(tenant) => write!(f, "tenant {tenant} does not exist"),
            ProofError::Sql(error) => write!(f, "{error}"),
            ProofError::NotProvable => f.write_str(
                "this statement cannot be proved: ask for plain columns or COUNT(*) of one table, \
                 with comparisons, IN, BETWEEN, IS NULL, AND, OR, NOT, in the order of its key",
            ),
            ProofError::Attest(error) => write!(f, "the state could not be attested: {error}"),
            ProofError::Prove(error) => write!(f, "{error}"),
            ProofError::Store(error) => write!(f, "{error}"),
            ProofError::Key(_) => f.write_str("the replica's cosigning key cannot be unwrapped"),
            ProofError::Memory => f.write_str(
                "the proof needs more pages at once than memory holds: ask for less, or give the \
                 node more memory",
            ),
            ProofError::Fork { cosigned, size } => write!(
                f,
                "the log of {size} records does not continue the head of {cosigned} records that \
                 this replica cosigned: it is not signed"
            ),
            ProofError::Superseded { size, newest } => write!(
                f,
                "the head of {size} records is not the newest any more, of {newest}: ask again"
            ),
            ProofError::TooFewCosigners { cosigners, needed } => write!(
                f,
                "{cosigners} of the {needed} replicas that must cosign a proof did so in time: \
                 ask again when more of them are there"
            ),
        }
    }
}

impl core::error::Error for ProofError {}

/// A proof on its way. Drive it with [`crate::node::Node::read_proof`].
#[derive(Debug)]
pub struct ProofRead {
    tenant: TenantId,
    of: ProofOf,
    /// What is asked of the state attested there.
    query: Option<(Attestation, CanonicalQuery)>,
    /// Size of an older head that the proof must show to be continued.
    since: Option<u64>,
    pins: Pins,
    log_pins: LogPins,
    counted: bool,
    /// Its turn to hold pages; 0: it holds none.
    turn: u64,
    incarnation: u64,
    /// Proved, and not signed yet.
    made: Option<Made>,
    done: Option<Result<Proved, ProofError>>,
}

#[derive(Debug)]
struct Made {
    of: Attestation,
    file: ProofFile,
    /// When it was proved.
    since: Instant,
}

impl ProofRead {
    #[must_use]
    pub fn new(tenant: TenantId, of: ProofOf) -> ProofRead {
        let (pins, log_pins) = (Pins::new(), LogPins::default());
        ProofRead {
            tenant,
            of,
            query: None,
            since: None,
            pins,
            log_pins,
            incarnation: 0,
            counted: false,
            turn: 0,
            made: None,
            done: None,
        }
    }

    /// The proof also shows that its head continues the one of this size.
    #[must_use]
    pub fn since(mut self, size: Option<u64>) -> ProofRead {
        self.since = size;
        self
    }

    /// After [`Progress::Ready`].
    pub fn finish(self) -> Result<Proved, ProofError> {
        self.done.unwrap_or(Err(ProofError::NotReady))
    }

    /// Whether what it holds is of this part of the node.
    pub(super) fn is_of(&mut self, incarnation: u64) -> bool {
        super::bind_to(&mut self.incarnation, incarnation)
    }

    /// What it holds went with the part of the node that it was of.
    pub(super) fn forget(&mut self) -> Progress {
        (self.pins, self.log_pins) = (Pins::new(), LogPins::default());
        (self.counted, self.turn, self.made) = (false, 0, None);
        self.refuse()
    }

    pub(super) fn refuse(&mut self) -> Progress {
        self.done = Some(Err(ProofError::NotReady));
        Progress::Ready
    }
}

/// What the node keeps for proofs.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    failed: Option<RequestError>,
    /// Reads that wait, for an attestation or for pages.
    waiting: u32,
    /// Turns for which ops behind the attestation are still held back.
    hold: u32,
    shared: RefCell<SharedOfProofs>,
    /// The one proof that holds pages: two could keep each other from ever having all of theirs.
    holder: u64,
    turns: u64,
}

impl Proofs {
    /// The state was attested: ops behind that wait for this many turns while proofs are made.
    pub fn hold(&mut self, turns: u32) {
        self.hold = turns;
    }

    /// The node's request for an attestation was answered. Of those that wait for it one is told of
    /// an error; nobody else hears of it, and it is tried again.
    pub fn attested(&mut self, answer: Result<Reply, RequestError>) {
        self.failed = answer.err().filter(|_| self.waiting > 0);
    }
}

enum Stop {
    Wait,
    Yield,
    Failed(ProofError),
}

impl From<ProofError> for Stop {
    fn from(error: ProofError) -> Stop {
        Stop::Failed(error)
    }
}

impl Running {
    /// One slice of a proof; and what the turn that it may cause came to.
    pub(super) fn read_proof(
        &mut self,
        now: Clock,
        read: &mut ProofRead,
        effects: &mut Effects,
    ) -> (Progress, Result<(), Halt>) {
        if read.done.is_some() {
            return (Progress::Ready, Ok(()));
        }
        if read.made.is_some() {
            return (self.sign_proof(now, read, effects), Ok(()));
        }
        if !read.counted {
            self.proofs.waiting += 1;
            read.counted = true;
        }
        match self.store.ready(&read.pins) {
            Ok(true) if self.logs.fetched(&read.log_pins) => {}
            Ok(_) => return (Progress::Waiting, Ok(())),
            Err(error) => {
                self.end_proof(read, Err(ProofError::Store(error)));
                return (Progress::Ready, self.turn(now, effects));
            }
        }
        if self.proofs.holder != 0 && self.proofs.holder != read.turn {
            return (Progress::Behind, Ok(()));
        }
        match self.attested(read) {
            Ok(attestation) => match self.make_proof(&attestation, read, effects) {
                Ok(file) => {
                    // Ops wait for pages, never for signatures.
                    self.give_back_proof(read);
                    let made = Made { of: attestation, file, since: now.monotonic };
                    read.made = Some(made);
                    let progress = self.sign_proof(now, read, effects);
                    return (progress, self.turn(now, effects));
                }
                Err(Stop::Failed(error)) => self.end_proof(read, Err(error)),
                Err(Stop::Yield) => return (Progress::Yielded, Ok(())),
                Err(Stop::Wait) => return (Progress::Waiting, Ok(())),
            },
            Err(Stop::Failed(error)) => self.end_proof(read, Err(error)),
            Err(Stop::Wait | Stop::Yield) => {
                if self.attesting.ask() {
                    self.submit(TICKET, Work::Request(attest()));
                    let outcome = self.turn(now, effects);
                    return (Progress::Waiting, outcome);
                }
                return (Progress::Waiting, Ok(()));
            }
        }
        (Progress::Ready, self.turn(now, effects))
    }

    /// Gives back what an unfinished proof holds.
    pub(super) fn end_proof(&mut self, read: &mut ProofRead, outcome: Result<Proved, ProofError>) {
        self.give_back_proof(read);
        read.done = Some(outcome);
    }

    /// What is proved waits for its note.
    fn sign_proof(&mut self, now: Clock, read: &mut ProofRead, effects: &mut Effects) -> Progress {
        let Some(made) = &mut read.made else { unreachable!("made before") };
        let outcome = match self.signed(now, &made.of, made.since, effects) {
            Ok(None) => return Progress::Waiting,
            Ok(Some(Signed { note, .. })) => {
                made.file.note = note;
                let policy = self.cosigners_policy();
                Ok(Proved { file: made.file.encode(), query: made.file.query.encode(), policy })
            }
            // Another proof was quicker with a newer head: this one is made again, of that.
            Err(ProofError::Superseded { .. }) => {
                read.made = None;
                return Progress::Yielded;
            }
            Err(ProofError::Fork { cosigned, size }) if self.is_overtaken(cosigned, size) => {
                read.made = None;
                return Progress::Yielded;
            }
            Err(error) => Err(error),
        };
        read.made = None;
        read.done = Some(outcome);
        Progress::Ready
    }

    /// Is the head older than the last cosigned one, which this log has attested, too?
    fn is_overtaken(&self, cosigned: u64, size: u64) -> bool {
        let newest = self.kernel.attestation().map_or(0, |newest| newest.size);
        size < cosigned && cosigned <= newest
    }

    fn give_back_proof(&mut self, read: &mut ProofRead) {
        self.store.unpin(&mut read.pins);
        self.logs.release(&mut read.log_pins);
        self.holds_nothing(read);
        if core::mem::take(&mut read.counted) {
            self.proofs.waiting -= 1;
        }
    }

    fn holds_nothing(&mut self, read: &mut ProofRead) {
        if core::mem::take(&mut read.turn) != 0 {
            self.proofs.holder = 0;
        }
    }

    /// The attestation of the state as it is now.
    fn attested(&mut self, read: &mut ProofRead) -> Result<Attestation, Stop> {
        let applied = self.vsr.status().applied;
        // What was changed since is not hashed, whoever changed it.
        let still = self.applying.is_none() && self.store.all_hashed();
        match self.kernel.attestation() {
            Some(attestation) if attestation.op == applied && still => Ok(*attestation),
            Some(_) | None => {
                self.store.unpin(&mut read.pins);
                self.logs.release(&mut read.log_pins);
                self.holds_nothing(read);
                match self.proofs.failed.take() {
                    Some(error) => Err(ProofError::Attest(error).into()),
                    None => Err(Stop::Wait),
                }
            }
        }
    }

    /// Must the op behind the attestation wait for proofs?
    pub(super) fn proofs_hold(&mut self) -> bool {
        let applied = self.vsr.status().applied;
        let attested = self.kernel.attestation().is_some_and(|last| last.op == applied);
        // A state that is not hashed any more serves no proof: the next attestation must come.
        let serves = attested && self.store.all_hashed();
        let holds = serves && self.proofs.waiting > 0 && self.proofs.hold > 0;
        if holds {
            self.proofs.hold -= 1;
        }
        holds
    }

    fn make_proof(
        &mut self,
        attestation: &Attestation,
        read: &mut ProofRead,
        effects: &mut Effects,
    ) -> Result<ProofFile, Stop> {
        let asked = read.query.take().filter(|(of, _)| of == attestation);
        let query = match asked {
            Some((_, query)) => query,
            None => match self.query_of(read) {
                Ok(query) => query?,
                Err(stop) => return Err(self.stopped_at(stop, read, effects)),
            },
        };
        let Running { kernel, store, logs, keyring, proofs, .. } = self;
        let proving = Proving { kernel, store, logs, keys: keyring, shared: &proofs.shared };
        match proving.prove(&query, String::new(), read.since) {
            Ok(file) => Ok(file),
            Err(stop) => {
                read.query = Some((*attestation, query));
                Err(self.stopped_at(stop, read, effects))
            }
        }
    }

    /// All that was missed is fetched, of trees and of logs; other stops end the proof.
    fn stopped_at(&mut self, stop: ProveStop, read: &mut ProofRead, effects: &mut Effects) -> Stop {
        match stop {
            ProveStop::Fault | ProveStop::LogFault => {}
            ProveStop::TooLarge | ProveStop::NotThere(_) | ProveStop::Damaged(_) => {
                return ProofError::Prove(stop).into();
            }
        }
        if read.turn == 0 {
            self.proofs.turns += 1;
            read.turn = self.proofs.turns;
            self.proofs.holder = read.turn;
        }
        self.logs.fetch(&mut read.log_pins, effects);
        self.store.fetch(&mut read.pins, effects);
        if self.store.squeezed(&read.pins) > PROOF_SQUEEZED_MAX {
            return ProofError::Memory.into();
        }
        // What another task has read already brings no completion.
        if self.store.ready(&read.pins) == Ok(true) && self.logs.fetched(&read.log_pins) {
            Stop::Yield
        } else {
            Stop::Wait
        }
    }

    /// What is asked, in canonical form.
    fn query_of(
        &mut self,
        read: &ProofRead,
    ) -> Result<Result<CanonicalQuery, ProofError>, ProveStop> {
        let tenant = read.tenant;
        let Some(catalog) = self.kernel.catalog(&self.store, tenant)? else {
            return Ok(Err(ProofError::TenantUnknown(tenant)));
        };
        let (text, parameters, history) = match &read.of {
            ProofOf::Query(kind) => return Ok(Ok(CanonicalQuery { tenant, kind: kind.clone() })),
            ProofOf::Sql { text, parameters } => (text, parameters, false),
            ProofOf::HistoryOf { text, parameters } => (text, parameters, true),
        };
        let prepared = match prepare_one(&catalog, text) {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Err(ProofError::Sql(error))),
        };
        if let Err(error) = prepared.check_parameters(parameters) {
            return Ok(Err(ProofError::Sql(error)));
        }
        let head = self.kernel.log_head(&self.store, &self.logs, tenant)?;
        let newest = head.last().unwrap_or(Position::ZERO);
        let as_of = match prepared.as_of(parameters, newest) {
            Ok(as_of) => as_of,
            Err(error) => return Ok(Err(ProofError::Sql(error))),
        };
        let mut query = canonical_query(tenant, &prepared, parameters, as_of);
        if history {
            query = query.and_then(|query| history_query(&query));
        }
        Ok(query.ok_or(ProofError::NotProvable))
    }
}
