//! Readers of a cluster: they ask for rows while all goes wrong, of whoever they believe to lead or
//! of anybody.
//!
//! Purpose: what a client may conclude from an answer. Invariants checked: a linearizable read
//! includes all that was acknowledged before it was asked, and all that any answer showed before;
//! a causal read includes the position that it names; every answer is what the model says at the
//! answered position; nothing that was shown is lost; when faults have stopped everybody is
//! answered. A reader does as the server does (`shell/src/net/guest/queries.rs`): a linearizable
//! read asks for the lead until a quorum confirms it, and then reads as any other.

use std::collections::BTreeMap;

use verity_core::ids::{Position, TenantId};
use verity_core::limits::LEAD_CONFIRM_NS;
use verity_core::node::{LeadAnswer, LeadAsked, Progress, ProofRead, Read, ReadError};
use verity_core::query::{SqlState, Value};
use verity_core::time::{MILLISECOND_NS, SECOND_NS};

use super::Cluster;
use crate::overrides::Switch;
use crate::random::Random;
use crate::report::{Failure, FailureKind};
use crate::sql::{Parameters, Query, TableSpec};

/// What an answer promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    Linearizable,
    /// As linearizable, with a proof.
    Proved,
    /// At least this position.
    Causal(u64),
    Eventual,
}

impl Promise {
    fn asks_lead(self) -> bool {
        matches!(self, Promise::Linearizable | Promise::Proved)
    }
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Asks somebody next.
    Asks,
    Leads(LeadAsked),
    Rows(Box<Read>),
    Proof(Box<ProofRead>),
}

#[derive(Debug)]
pub(super) struct Reading {
    promise: Promise,
    pub query: Query,
    pub text: String,
    pub parameters: Vec<Value>,
    /// All that it asks about was there at this position.
    drawn_at: u64,
    /// Nobody else is asked.
    only: Option<usize>,
    pub at: usize,
    /// What the answer must include; of this attempt.
    pub floor: Option<u64>,
    /// Records of the head that a proof must at least be of.
    pub head_floor: u64,
    pub stage: Stage,
    /// `None`: after an input of the node.
    due_ns: Option<u64>,
    give_up_ns: u64,
    attempts: u64,
}

/// Who reads, and what was shown to anybody.
#[derive(Debug)]
pub(super) struct Readers {
    random: Random,
    pub asked: BTreeMap<u64, Reading>,
    /// Newest position of all answers.
    shown: Option<u64>,
    pause_ns_mean: Option<u64>,
    next_ns: u64,
}

/// Of a cluster, at the same time.
const READERS: usize = 3;
const ROWS_PATIENCE_NS: u64 = 2 * SECOND_NS;
/// While faults go on, a reader gives up after so many.
const ATTEMPTS_MAX: u64 = 12;

impl Readers {
    pub fn new(mut random: Random) -> Readers {
        let pause_ns_mean = *random.pick(&[None, Some(4), Some(4), Some(20), Some(100)]);
        Readers {
            asked: BTreeMap::new(),
            shown: None,
            pause_ns_mean: pause_ns_mean.map(|ms: u64| ms * MILLISECOND_NS),
            next_ns: 0,
            random,
        }
    }

    /// When somebody wants to read.
    pub fn next_ns(&self) -> Option<u64> {
        (self.pause_ns_mean.is_some() && self.asked.len() < READERS).then_some(self.next_ns)
    }

    /// The next reading that has something to do.
    pub fn due(&self) -> Option<(u64, u64)> {
        let due = self
            .asked
            .iter()
            .map(|(serial, reading)| (reading.due_ns.unwrap_or(reading.give_up_ns), *serial));
        due.min()
    }

    /// A node took an input: who waits there looks again.
    pub fn wake(&mut self, index: usize, now_ns: u64, of_disk: bool) {
        for reading in self.asked.values_mut() {
            let looks = match reading.stage {
                Stage::Asks => false,
                // Peers have a part in both.
                Stage::Leads(_) | Stage::Proof(_) => true,
                Stage::Rows(_) => of_disk,
            };
            if reading.at == index && looks && reading.due_ns.is_none() {
                reading.due_ns = Some(now_ns);
            }
        }
    }

    /// Whoever was asked is gone.
    pub fn lose(&mut self, index: usize, now_ns: u64) {
        for reading in self.asked.values_mut() {
            if reading.at == index && !matches!(reading.stage, Stage::Asks) {
                reading.stage = Stage::Asks;
                reading.due_ns = Some(now_ns + 1);
            }
        }
    }

    /// Whoever was the only one to be asked need not be any more.
    pub fn asked_of_anybody(&mut self) {
        for reading in self.asked.values_mut() {
            reading.only = None;
        }
    }

    /// What must be there to be read from now on.
    pub fn known(&self, head: Option<u64>) -> Option<u64> {
        self.shown.max(head)
    }

    pub fn show(&mut self, position: u64) {
        self.shown = self.shown.max(Some(position));
    }
}

impl Cluster {
    /// Somebody wants rows.
    pub(super) fn new_reading(&mut self) {
        let mean_ns = self.readers.pause_ns_mean.unwrap_or(SECOND_NS);
        self.readers.next_ns = self.now_ns + 1 + self.readers.random.exponential(mean_ns);
        let head = self.ledger.settled_head().unwrap_or(0);
        let model = &self.ledger.model;
        let Some(query) = self.queries.query(0, model, head) else { return };
        let Some(spec) = model.spec_at(&query.table, query.as_of).cloned() else {
            unreachable!("the query is of the model")
        };
        let known = self.readers.known(self.ledger.head());
        let promise = match self.readers.random.below(10) {
            0..5 => Promise::Linearizable,
            5..7 => Promise::Eventual,
            7..9 => Promise::Causal(known.unwrap_or(0)),
            _ => Promise::Causal(self.readers.random.range(0, known.unwrap_or(0))),
        };
        let proves = self.provers.random.chance(self.provers.want_ppm);
        let promise =
            if proves && self.board.lets(Switch::Prove) { Promise::Proved } else { promise };
        self.want_rows(promise, query, &spec, None);
    }

    pub(super) fn want_rows(
        &mut self,
        promise: Promise,
        query: Query,
        spec: &TableSpec,
        only: Option<usize>,
    ) {
        let mut parameters = Parameters::new(self.readers.random.coin());
        let text = query.sql(spec, &mut parameters);
        if !self.board.lets(Switch::Read) {
            return;
        }
        self.serial += 1;
        let serial = self.serial;
        let reading = Reading {
            promise,
            query,
            text,
            parameters: parameters.values,
            drawn_at: self.ledger.settled_head().unwrap_or(0),
            only,
            at: 0,
            floor: None,
            head_floor: 0,
            stage: Stage::Asks,
            due_ns: Some(self.now_ns),
            give_up_ns: u64::MAX,
            attempts: 0,
        };
        self.readers.asked.insert(serial, reading);
        self.recorder.at(self.now_ns, |timeline| timeline.asked(serial));
    }

    /// A reader does what it does next.
    pub(super) fn go_on_reading(&mut self, serial: u64) -> Result<(), Failure> {
        let Some(mut reading) = self.readers.asked.remove(&serial) else { return Ok(()) };
        let now_ns = self.now_ns;
        let late = now_ns >= reading.give_up_ns;
        match &mut reading.stage {
            Stage::Asks => return self.ask_somebody(serial, reading),
            Stage::Leads(asked) => {
                let Some(node) = &self.members[reading.at].node else {
                    unreachable!("who is gone was lost")
                };
                match node.lead(asked) {
                    LeadAnswer::Confirmed => {
                        // A thread may sleep between the two.
                        let sleeps = self.readers.random.chance(100_000);
                        let pause_ns = self.readers.random.exponential(20 * MILLISECOND_NS);
                        self.begin_rows(&mut reading);
                        reading.due_ns = Some(now_ns + if sleeps { pause_ns } else { 0 });
                    }
                    LeadAnswer::Waiting if !late => reading.due_ns = None,
                    LeadAnswer::Waiting | LeadAnswer::Lost => self.ask_again(&mut reading),
                }
            }
            Stage::Rows(_) | Stage::Proof(_) => {
                let at = reading.at;
                let is_proof = matches!(reading.stage, Stage::Proof(_));
                match self.slice(&mut reading, late) {
                    None => self.ask_again(&mut reading),
                    Some(Progress::Ready) => {
                        self.after(at)?;
                        let ends = if is_proof { Cluster::proof_ends } else { Cluster::read_ends };
                        return ends(self, serial, reading);
                    }
                    Some(Progress::Yielded) => reading.due_ns = Some(now_ns + 1),
                    Some(Progress::Behind) => reading.due_ns = Some(now_ns + 2 * MILLISECOND_NS),
                    Some(Progress::Waiting) => reading.due_ns = None,
                }
                self.readers.asked.insert(serial, reading);
                return self.after(at);
            }
        }
        self.readers.asked.insert(serial, reading);
        Ok(())
    }

    /// One slice of what a node works at; `None`: it is late, and was given up.
    fn slice(&mut self, reading: &mut Reading, late: bool) -> Option<Progress> {
        let member = &mut self.members[reading.at];
        let progress = match &mut reading.stage {
            Stage::Rows(read) => member.read(self.now_ns, read),
            Stage::Proof(read) => member.read_proof(self.now_ns, read),
            Stage::Asks | Stage::Leads(_) => unreachable!("nothing is read there"),
        };
        if progress == Progress::Ready || !late {
            return Some(progress);
        }
        match &mut reading.stage {
            Stage::Rows(read) => member.cancel(read),
            Stage::Proof(read) => member.cancel_proof(read),
            Stage::Asks | Stage::Leads(_) => {}
        }
        None
    }

    fn ask_somebody(&mut self, serial: u64, mut reading: Reading) -> Result<(), Failure> {
        let in_peace = self.next_trouble_ns.is_none();
        if reading.attempts == ATTEMPTS_MAX && !in_peace {
            let at = reading.at;
            self.recorder.at(self.now_ns, |timeline| {
                timeline.answered(serial, at, false, "a read, given up".to_owned());
            });
            return Ok(());
        }
        reading.attempts += 1;
        let anybody = self.readers.random.index(self.members.len());
        let believes = reading.promise.asks_lead() && self.readers.random.coin();
        let somebody = if believes { self.favourite } else { anybody };
        reading.at = reading.only.unwrap_or(somebody);
        let at = reading.at;
        let clock = self.members[at].clock(self.now_ns);
        if self.members[at].node.is_none() {
            self.ask_again(&mut reading);
        } else if reading.promise.asks_lead() {
            reading.floor = self.readers.known(self.ledger.head());
            match self.members[at].ask_lead(clock) {
                Some(asked) => {
                    reading.stage = Stage::Leads(asked);
                    reading.due_ns = Some(self.now_ns);
                    reading.give_up_ns = self.now_ns + LEAD_CONFIRM_NS;
                }
                None => self.ask_again(&mut reading),
            }
        } else {
            reading.floor = match reading.promise {
                Promise::Causal(position) => Some(position),
                Promise::Linearizable | Promise::Proved | Promise::Eventual => None,
            };
            self.begin_rows(&mut reading);
        }
        self.readers.asked.insert(serial, reading);
        if self.members[at].node.is_some() { self.after(at) } else { Ok(()) }
    }

    fn begin_rows(&mut self, reading: &mut Reading) {
        reading.due_ns = Some(self.now_ns);
        reading.give_up_ns = self.now_ns + ROWS_PATIENCE_NS;
        if reading.promise == Promise::Proved {
            return self.begin_proof(reading);
        }
        let read = Read::sql(TenantId::DEFAULT, &reading.text, reading.parameters.clone());
        reading.stage = Stage::Rows(Box::new(match reading.promise {
            Promise::Causal(position) => read.seen(Position::new(position)),
            Promise::Linearizable | Promise::Proved | Promise::Eventual => read,
        }));
    }

    pub(super) fn ask_again(&mut self, reading: &mut Reading) {
        reading.stage = Stage::Asks;
        let pause_ns = self.readers.random.exponential(20 * MILLISECOND_NS);
        reading.due_ns = Some(self.now_ns + 1 + pause_ns);
    }

    fn read_ends(&mut self, serial: u64, mut reading: Reading) -> Result<(), Failure> {
        let Stage::Rows(read) = std::mem::replace(&mut reading.stage, Stage::Asks) else {
            unreachable!("it just ended")
        };
        let at = reading.at;
        let result = match read.finish() {
            Ok(result) => result,
            Err(error) if self.is_of_dropped(&reading, &error) => {
                self.recorder.at(self.now_ns, |timeline| {
                    timeline.answered(serial, at, false, format!("{error}"));
                });
                // Who lags behind may not have got to the table, and need not.
                let known_at = reading.query.as_of.unwrap_or(reading.drawn_at);
                if reading.floor >= Some(known_at) {
                    self.ledger.no_table(reading.floor, reading.query);
                }
                return Ok(());
            }
            Err(error) => {
                self.may_be_refused(&reading, &error)?;
                self.ask_again(&mut reading);
                self.readers.asked.insert(serial, reading);
                return Ok(());
            }
        };
        let count = match reading.promise {
            Promise::Linearizable => &mut self.seen.reads_linearizable,
            Promise::Causal(_) => &mut self.seen.reads_causal,
            Promise::Eventual => &mut self.seen.reads_eventual,
            Promise::Proved => unreachable!("that is no plain read"),
        };
        *count += 1;
        self.shown(serial, &reading, result.position.get());
        self.take_answer(reading.at, reading.floor, reading.query, &result)
    }

    /// Somebody was shown a position.
    pub(super) fn shown(&mut self, serial: u64, reading: &Reading, position: u64) {
        let (at, promise) = (reading.at, reading.promise);
        // Reads are no progress while somebody writes: one writer whom nobody answers must be seen.
        if self.pending.is_empty() {
            self.last_progress_ns = self.now_ns;
        }
        self.trace.note(self.now_ns, || format!("{at} shows {position}, {promise:?}"));
        if reading.query.as_of.is_none() {
            self.readers.show(position);
        }
        self.recorder.at(self.now_ns, |timeline| {
            timeline.answered(serial, at, true, format!("{promise:?} read as of {position}"));
        });
    }

    /// There is no such table, and somebody asked for that.
    fn is_of_dropped(&self, reading: &Reading, error: &ReadError) -> bool {
        let ReadError::Sql(error) = error else { return false };
        error.code == SqlState::UndefinedTable && self.dropping.contains(&reading.query.table)
    }

    /// A node may not be ready, may not have got there, or may have lost blocks that hold records.
    fn may_be_refused(&self, reading: &Reading, error: &ReadError) -> Result<(), Failure> {
        let may_be_young = reading.floor.is_none_or(|floor| floor < reading.drawn_at);
        let allowed = match error {
            ReadError::NotReady => true,
            ReadError::TenantUnknown(_) => may_be_young,
            ReadError::Sql(sql) => {
                let young = matches!(
                    sql.code,
                    SqlState::UndefinedTable
                        | SqlState::UndefinedColumn
                        | SqlState::InvalidPosition
                );
                let again = self.dropping.contains(&reading.query.table);
                sql.retryable() || ((young || again) && may_be_young)
            }
            ReadError::Log(_) => self.seen.blocks_rotten > 0,
            ReadError::Store(_) => false,
        };
        if allowed {
            return Ok(());
        }
        let detail = format!("node {} refuses {reading:?}: {error}", reading.at);
        Err(Failure::new(FailureKind::Wrong, detail))
    }
}
