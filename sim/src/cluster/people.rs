//! The clients of a cluster: they ask whoever answered last, try another when that one does not
//! lead, and send a request again, with the same id, until it has one answer that no copy can
//! contradict.

use std::collections::BTreeMap;

use verity_core::ids::{IdempotencyId, PrincipalId, TenantId};
use verity_core::kernel::{Reply, Request, RequestError, RetryReason};
use verity_core::node::{Progress, Read, ReadResult};

use super::Cluster;
use super::tenants::TenantStep;
use crate::ledger::{Answered, Committed, Refused, shorten};
use crate::model::Effect;
use crate::report::{Failure, FailureKind};
use crate::sql::{Datum, Parameters, Query, Statement};
use crate::workload::Workload;
use crate::world::clients::{effects_of, operations, refusal_of};

/// A request without a final answer.
#[derive(Debug)]
pub(super) struct Pending {
    statements: Vec<Statement>,
    request: Request,
    /// Of a tenant that the model does not know.
    step: Option<TenantStep>,
    /// Copies at each member that were not answered.
    copies: BTreeMap<usize, u64>,
    pub send_at_ns: Option<u64>,
    /// Highest position known when it was first sent.
    sent_at: Option<u64>,
    refused: Option<Refused>,
    /// It was acknowledged: every other copy must be answered the same.
    answer: Option<(u64, Vec<Effect>)>,
    attempts: u64,
}

impl Pending {
    pub fn describe(&self) -> String {
        shorten(&format!("{self:?}"))
    }
}

/// How long a client waits for an answer before it asks another.
const PATIENCE_NS: u64 = 3_000_000_000;

impl Cluster {
    pub(super) fn new_request(&mut self) {
        self.quota -= 1;
        self.seen.asked += 1;
        self.next_client_ns = self.now_ns + 1 + self.people.exponential(400_000);
        let statements = self.workload.transaction(0, &self.ledger.model);
        self.ask(statements);
        self.new_tenant_step();
    }

    /// A new request of these statements.
    pub(super) fn ask(&mut self, statements: Vec<Statement>) {
        let always = self.people.coin();
        let mut random_bytes = [0; 10];
        self.people.fill(&mut random_bytes);
        let now_ms = self.true_ms();
        let request = Request {
            tenant: TenantId::DEFAULT,
            principal: PrincipalId::new(1),
            idempotency: IdempotencyId::new(now_ms + 24 * 3_600_000, random_bytes),
            after: None,
            operations: operations(&self.ledger.model, &statements, always),
        };
        self.wait_for(statements, request, None);
    }

    /// A request that is sent until it is answered.
    pub(super) fn wait_for(
        &mut self,
        statements: Vec<Statement>,
        request: Request,
        step: Option<TenantStep>,
    ) {
        for statement in &statements {
            if let Statement::Drop { table } = statement {
                self.dropping.insert(table.clone());
            }
        }
        self.serial += 1;
        let pending = Pending {
            statements,
            request,
            step,
            copies: BTreeMap::new(),
            send_at_ns: Some(self.now_ns),
            sent_at: self.ledger.head(),
            refused: None,
            answer: None,
            attempts: 0,
        };
        self.pending.insert(self.serial, pending);
    }

    pub(super) fn send(&mut self, serial: u64) -> Result<(), Failure> {
        let Some(pending) = self.pending.get_mut(&serial) else { return Ok(()) };
        // Asked again while a copy is still out: the favourite does not answer.
        if pending.attempts > 0 && pending.attempts.is_multiple_of(3) {
            self.favourite = self.people.index(self.members.len());
        }
        let to = self.favourite;
        pending.attempts += 1;
        self.recorder.at(self.now_ns, |timeline| timeline.asked(serial));
        let member = &mut self.members[to];
        if member.node.is_none() {
            pending.send_at_ns = Some(self.now_ns + 1 + self.people.exponential(20_000_000));
            self.favourite = self.people.index(self.members.len());
            return Ok(());
        }
        let clock = member.clock(self.now_ns);
        pending.send_at_ns = Some(self.now_ns + PATIENCE_NS);
        *pending.copies.entry(to).or_default() += 1;
        let ticket = member.submit(pending.request.clone(), clock);
        self.tickets.insert((to, ticket), serial);
        self.after(to)
    }

    pub(super) fn take_replies(&mut self, from: usize) -> Result<(), Failure> {
        loop {
            let node = self.members[from].node.as_mut();
            let Some((ticket, result)) = node.and_then(|node| node.next_reply()) else {
                return Ok(());
            };
            let Some(serial) = self.tickets.remove(&(from, ticket.0)) else {
                let detail = format!("a reply of node {from} to a ticket that nobody has");
                return Err(Failure::new(FailureKind::Wrong, detail));
            };
            let Some(pending) = self.pending.get_mut(&serial) else {
                unreachable!("a request stays until its last copy is answered")
            };
            if let Some(copies) = pending.copies.get_mut(&from) {
                *copies -= 1;
            }
            pending.copies.retain(|_, copies| *copies > 0);
            match result {
                Ok(reply) => self.acknowledged(from, serial, &reply)?,
                Err(error) => self.refused(from, serial, &error)?,
            }
            self.finish(serial);
        }
    }

    fn acknowledged(&mut self, from: usize, serial: u64, reply: &Reply) -> Result<(), Failure> {
        let wrong = |detail: String| Failure::new(FailureKind::Wrong, detail);
        self.check_time(reply.timestamp.0)?;
        self.highest_op = self.highest_op.max(reply.op);
        self.favourite = from;
        self.last_progress_ns = self.now_ns;
        let Some(pending) = self.pending.get_mut(&serial) else { return Ok(()) };
        let Some(position) = reply.position else {
            return Err(wrong(format!("no position in the reply to {}", pending.describe())));
        };
        let effects = if pending.step.is_some() { Vec::new() } else { effects_of(&reply.results) };
        let answer = (position.get(), effects);
        match &pending.answer {
            Some(known) if *known != answer => {
                return Err(wrong(format!("answered {answer:?} now: {}", pending.describe())));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        if let Some(step) = pending.step {
            pending.answer = Some(answer);
            pending.send_at_ns = None;
            self.step_done(step);
            return Ok(());
        }
        let committed = Committed {
            id: pending.request.idempotency,
            statements: pending.statements.clone(),
            effects: Some(answer.1.clone()),
            op: reply.op.get(),
            timestamp_ns: reply.timestamp.0,
        };
        pending.answer = Some(answer);
        pending.send_at_ns = None;
        self.ledger.commit(position.get(), committed).map_err(wrong)?;
        self.seen.acknowledged += 1;
        let text = format!("acknowledged at {position}, op {}", reply.op);
        self.recorder.at(self.now_ns, |timeline| timeline.answered(serial, from, true, text));
        Ok(())
    }

    fn refused(&mut self, from: usize, serial: u64, error: &RequestError) -> Result<(), Failure> {
        let wait_ns = 1 + self.people.exponential(5_000_000);
        let Some(pending) = self.pending.get_mut(&serial) else { return Ok(()) };
        if matches!(error, RequestError::Retry(RetryReason::NotPrimary)) && self.favourite == from {
            self.favourite = self.people.index(self.members.len());
        }
        let interrupted = matches!(error, RequestError::Retry(RetryReason::Interrupted));
        self.seen.interrupted += u64::from(interrupted);
        if pending.answer.is_some() {
            return Ok(()); // a copy that was late
        }
        let sql_retry = matches!(error, RequestError::Sql(sql) if sql.retryable());
        if error.retryable() || interrupted || sql_retry {
            pending.send_at_ns = Some(self.now_ns + wait_ns);
            return Ok(());
        }
        self.last_progress_ns = self.now_ns;
        if let Some(step) = pending.step {
            // A copy of what is refused for good.
            if pending.refused.is_none() {
                pending.refused = Some(Refused::Other(error.to_string()));
                pending.send_at_ns = None;
                self.step_refused(step, error)?;
            }
            return Ok(());
        }
        let refused = refusal_of(error).map_err(|why| {
            let detail = format!("{why}: {error}: {}", pending.describe());
            Failure::new(FailureKind::Wrong, detail)
        })?;
        pending.refused = Some(refused);
        let text = format!("refused: {error}");
        self.recorder.at(self.now_ns, |timeline| timeline.answered(serial, from, false, text));
        pending.send_at_ns = None;
        Ok(())
    }

    /// A request is over when it has an answer and no copy is left.
    fn finish(&mut self, serial: u64) {
        let Some(pending) = self.pending.get(&serial) else { return };
        if !pending.copies.is_empty() || (pending.answer.is_none() && pending.refused.is_none()) {
            return;
        }
        let Some(pending) = self.pending.remove(&serial) else { return };
        if let (None, Some(refused), None) = (pending.answer, pending.refused, pending.step) {
            self.ledger.refuse(pending.sent_at, pending.statements, refused);
        }
    }

    /// A node died: what it had is sent again, unless it is answered.
    pub(super) fn lose_copies(&mut self, at: usize) {
        self.readers.lose(at, self.now_ns);
        self.tickets.retain(|(member, _), _| *member != at);
        let now_ns = self.now_ns;
        let serials: Vec<u64> = self.pending.keys().copied().collect();
        for serial in serials {
            if let Some(pending) = self.pending.get_mut(&serial)
                && pending.copies.remove(&at).is_some()
                && pending.answer.is_none()
                && pending.refused.is_none()
            {
                pending.send_at_ns = Some(now_ns + 1);
            }
            self.finish(serial);
        }
    }

    /// Every table, whole, on every node; of those that were dropped what was there last.
    pub(super) fn final_reads(&mut self) -> Result<(), Failure> {
        for (table, _, dropped) in self.ledger.model.gone() {
            let last = Some(dropped - 1);
            let Some(spec) = self.ledger.model.spec_at(&table, last).cloned() else {
                unreachable!("it was there then")
            };
            for index in 0..self.members.len() {
                let query = Workload::whole(&spec, last);
                let mut parameters = Parameters::new(false);
                let text = query.sql(&spec, &mut parameters);
                let read = Read::sql(TenantId::DEFAULT, &text, parameters.values);
                self.read(index, query, read)?;
            }
        }
        for table in self.ledger.model.table_names() {
            let Some(spec) = self.ledger.model.spec(&table).cloned() else {
                unreachable!("the name came from the model")
            };
            for index in 0..self.members.len() {
                let query = Workload::whole(&spec, None);
                let mut parameters = Parameters::new(false);
                let text = query.sql(&spec, &mut parameters);
                let read = Read::sql(TenantId::DEFAULT, &text, parameters.values);
                self.read(index, query, read)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, index: usize, query: Query, mut read: Read) -> Result<(), Failure> {
        let wrong = |detail: String| Failure::new(FailureKind::Wrong, detail);
        for _ in 0..100_000 {
            let progress = self.members[index].read(self.now_ns, &mut read);
            self.after(index)?;
            match progress {
                Progress::Ready => {
                    let result = read.finish().map_err(|error| {
                        wrong(format!("node {index} does not answer {query:?}: {error}"))
                    })?;
                    let known = self.readers.known(self.ledger.head());
                    return self.take_answer(index, known, query, &result);
                }
                Progress::Yielded | Progress::Behind => self.now_ns += 1,
                Progress::Waiting => self.turn()?,
            }
        }
        Err(Failure::new(FailureKind::Stuck, "a read never ends"))
    }

    /// What a node answered is what the model says, and as new as it must be.
    pub(super) fn take_answer(
        &mut self,
        index: usize,
        floor: Option<u64>,
        query: Query,
        result: &ReadResult,
    ) -> Result<(), Failure> {
        let wrong = |detail: String| Failure::new(FailureKind::Wrong, detail);
        let position = result.position.get();
        let rows = result.rows.iter();
        let mut rows = rows
            .map(|row| row.iter().map(Datum::from_core).collect())
            .collect::<Result<Vec<Vec<Datum>>, String>>()
            .map_err(wrong)?;
        if !query.is_ordered() {
            rows.sort();
        }
        let answered = Answered { query, position, rows };
        self.ledger.answer(floor, answered).map_err(|text| wrong(format!("node {index}: {text}")))
    }
}
