//! Clients: they send, wait, lose patience, send again with the same id, and read.
//!
//! A request is *final* when it has an answer that no other copy of it can contradict: an
//! acknowledgement at once; a refusal only when no copy is on its way, because a refusal before
//! apply is not remembered.

use verity_core::ids::{IdempotencyId, PrincipalId, TenantId};
use verity_core::kernel::{
    ExpectedVersion, Operation, OperationResult, Reply, Request, RequestError, ResultDetail,
};
use verity_core::node::{Progress as ReadProgress, Read, ReadError};
use verity_core::query::SqlState;

use super::World;
use super::asking::Told;
use crate::ledger::{Answered, Committed, Refused, shorten};
use crate::model::{Effect, Refusal, TenantModel};
use crate::overrides::Switch;
use crate::report::{Failure, FailureKind};
use crate::sql::{Datum, Expected, Parameters, Query, Statement};

#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    pub next_at_ns: u64,
    pub busy: bool,
}

/// A request without a final answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub tenant: usize,
    pub client: Option<usize>,
    pub statements: Vec<Statement>,
    pub request: Request,
    /// Copies on their way.
    pub copies: u64,
    /// When to send it (again).
    pub send_at_ns: Option<u64>,
    pub sent_at: Option<u64>,
    pub refused: Option<Refused>,
    /// An answered request that is sent once more: the answer must be the same.
    pub expect: Option<(u64, Vec<Effect>)>,
    pub attempts: u64,
    /// Its id was used for another request and answered: it must be refused.
    pub id_is_used: bool,
    /// Makes the tenant; it has no statements then.
    pub creates_tenant: bool,
}

/// Whose question a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Client(usize),
    /// Of the last checks: asked again until it is answered.
    Audit,
    /// Lost when it is not answered.
    Oracle {
        id: u64,
        part: usize,
    },
}

impl Ask {
    fn client(self) -> Option<usize> {
        match self {
            Ask::Client(client) => Some(client),
            Ask::Audit | Ask::Oracle { .. } => None,
        }
    }
}

pub(super) struct Reading {
    pub ask: Ask,
    pub tenant: usize,
    pub query: Query,
    pub read: Read,
    pub sent_at: Option<u64>,
}

impl core::fmt::Debug for Reading {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Reading({:?})", self.query)
    }
}

impl Pending {
    pub fn new(
        tenant: usize,
        client: Option<usize>,
        statements: Vec<Statement>,
        request: Request,
    ) -> Pending {
        Pending {
            tenant,
            client,
            statements,
            request,
            copies: 0,
            send_at_ns: None,
            sent_at: None,
            refused: None,
            expect: None,
            attempts: 0,
            id_is_used: false,
            creates_tenant: false,
        }
    }

    pub fn describe(&self) -> String {
        format!(
            "tenant {} {} copies {} attempts {} refused {:?} {}",
            self.tenant + 1,
            self.request.idempotency,
            self.copies,
            self.attempts,
            self.refused,
            shorten(&format!("{:?}", self.statements)),
        )
    }
}

pub(super) fn tenant_id(tenant: usize) -> TenantId {
    TenantId::new(tenant as u64 + 1)
}

impl World {
    /// A client without work draws some.
    pub(super) fn client_turn(&mut self, index: usize) -> Result<(), Failure> {
        let tenant = self.random.index(self.ledgers.len());
        let think_ns = self.random.exponential(self.plan.think_ns_mean);
        self.clients[index].next_at_ns = self.clock.now_ns() + 1 + think_ns;
        if !self.tenants_ready.contains(&tenant) {
            if !self.tenants_asked.contains(&tenant) {
                self.request_tenant(index, tenant);
            }
            return Ok(());
        }
        if self.random.chance(self.plan.ask_ppm) && self.board.lets(Switch::Ask) {
            return self.begin_asking(index, tenant);
        }
        if self.prove_random.chance(self.plan.prove_ppm) && self.board.lets(Switch::Prove) {
            let ledger = &self.ledgers[tenant];
            if let Some(head) = ledger.head()
                && let Some(query) = self.workload.query(tenant, &ledger.model, head)
            {
                return self.begin_proving(index, tenant, query);
            }
        }
        if self.oracle_random.chance(self.plan.oracle_ppm) && self.board.lets(Switch::Oracle) {
            return self.begin_oracle(tenant);
        }
        if self.random.chance(self.plan.read_ppm) && self.board.lets(Switch::Read) {
            let ledger = &self.ledgers[tenant];
            let head = ledger.head();
            if let Some(head) = head
                && let Some(query) = self.workload.query(tenant, &ledger.model, head)
            {
                return self.ask(Ask::Client(index), tenant, query);
            }
        }
        self.quota -= 1;
        self.count(|report| report.asked += 1);
        let statements = self.workload.transaction(tenant, &self.ledgers[tenant].model);
        let is_found = !statements.iter().any(Statement::changes_schema);
        let serial = self.request(Some(index), tenant, statements);
        if is_found
            && self.may_be_anonymous(tenant)
            && let Some(pending) = self.pending.get_mut(&serial)
        {
            pending.request.idempotency = IdempotencyId::NONE;
        } else {
            self.name_another(serial, tenant);
        }
        self.send(serial);
        Ok(())
    }

    /// Makes a request of statements; [`World::send`] sends it.
    pub(super) fn request(
        &mut self,
        client: Option<usize>,
        tenant: usize,
        statements: Vec<Statement>,
    ) -> u64 {
        let mut random_bytes = [0; 10];
        self.random.fill(&mut random_bytes);
        let now_ms = self.clock.clock().wall.as_ms();
        let not_after = now_ms + self.random.range(60_000, 3 * 24 * 3_600_000);
        let operations = self.operations(tenant, &statements);
        let request = Request {
            tenant: tenant_id(tenant),
            principal: PrincipalId::new(1 + client.unwrap_or(0) as u64),
            idempotency: IdempotencyId::new(not_after, random_bytes),
            after: None,
            operations,
        };
        self.serial += 1;
        let mut pending = Pending::new(tenant, client, statements, request);
        pending.sent_at = self.ledgers[tenant].head();
        if let Some(client) = client {
            self.clients[client].busy = true;
        }
        self.pending.insert(self.serial, pending);
        self.count(|report| report.requests += 1);
        self.serial
    }

    pub(super) fn operations(&mut self, tenant: usize, statements: &[Statement]) -> Vec<Operation> {
        let always = self.random.coin();
        operations(&self.ledgers[tenant].model, statements, always)
    }

    /// Sends a copy of a request to the node, if one runs.
    pub(super) fn send(&mut self, serial: u64) {
        let clock = self.clock.clock();
        let Some(node) = &mut self.node else { return };
        let Some(pending) = self.pending.get_mut(&serial) else { return };
        pending.send_at_ns = None;
        pending.copies += 1;
        pending.attempts += 1;
        // Some callers seal their own requests, beside the node; it must never show.
        let mut sealed = None;
        if serial % 4 == 1 {
            let mut nonce = [0; 12];
            nonce[..8].copy_from_slice(&serial.to_le_bytes());
            nonce[8..].copy_from_slice(&(pending.attempts as u32).to_le_bytes());
            sealed = node.submit_sealed(clock, &pending.request, nonce, &mut self.effects);
        }
        let ticket = match sealed {
            Some(ticket) => ticket,
            None => node.submit(clock, pending.request.clone(), &mut self.effects),
        };
        // Some callers use the wait for the disk, at once or later; it must never show.
        if serial.is_multiple_of(3) {
            node.work_ahead();
        }
        let attempts = if pending.request.idempotency.is_none() { 0 } else { pending.attempts };
        self.tickets.insert(ticket.0, serial);
        if attempts == 1
            && self.random.chance(self.plan.impatience_ppm)
            && self.board.lets(Switch::Impatience)
        {
            let patience_ns = self.random.exponential(2_000_000);
            let at_ns = self.clock.now_ns() + patience_ns;
            if let Some(pending) = self.pending.get_mut(&serial) {
                pending.send_at_ns = Some(at_ns);
            }
        }
        self.note(|| format!("send {serial}"));
        self.record(|timeline| timeline.asked(serial));
    }

    pub(super) fn take_replies(&mut self) -> Result<(), Failure> {
        while let Some((ticket, result)) = self.node.as_mut().and_then(|node| node.next_reply()) {
            let Some(serial) = self.tickets.remove(&ticket.0) else {
                let detail = format!("a reply to ticket {ticket:?}, which is not pending");
                return Err(Failure::new(FailureKind::Wrong, detail));
            };
            self.last_progress_ns = self.clock.now_ns();
            self.fruitless_boots = 0;
            self.note(|| format!("reply {serial} {}", describe(&result)));
            match result {
                Ok(reply) => self.acknowledged(serial, &reply)?,
                Err(error) => self.refused(serial, error)?,
            }
        }
        Ok(())
    }

    fn acknowledged(&mut self, serial: u64, reply: &Reply) -> Result<(), Failure> {
        let Some(mut pending) = self.pending.remove(&serial) else {
            return Ok(()); // a second copy of one that is final
        };
        let text = format!("acknowledged at {:?}, op {}", reply.position, reply.op);
        self.record(|timeline| timeline.answered(serial, 0, true, text));
        let tenant = pending.tenant;
        let wrong = |detail: String| Failure::new(FailureKind::Wrong, detail);
        if pending.id_is_used {
            return Err(wrong(format!(
                "the id was used, and yet: {reply:?}: {}",
                pending.describe()
            )));
        }
        if pending.creates_tenant {
            self.tenants_ready.insert(tenant);
            self.release(pending.client);
            return Ok(());
        }
        let Some(position) = reply.position else {
            return Err(wrong(format!("no position in the reply to {}", pending.describe())));
        };
        let position = position.get();
        let effects = effects_of(&reply.results);
        if let Some(expected) = &pending.expect {
            if *expected != (position, effects.clone()) {
                return Err(wrong(format!(
                    "sent again, {} was answered at {position} with {effects:?}; the first time \
                     {expected:?}",
                    pending.describe()
                )));
            }
            return Ok(());
        }
        let id = pending.request.idempotency;
        let committed = Committed {
            id,
            statements: pending.statements.clone(),
            effects: Some(effects.clone()),
            op: reply.op.get(),
            timestamp_ns: reply.timestamp.0,
        };
        self.ledgers[tenant].commit(position, committed).map_err(wrong)?;
        self.check_order(id, position)?;
        self.ask_dqe(tenant, &pending.statements, &effects, position)?;
        self.count(|report| report.commits += 1);
        self.release(pending.client);
        if id.is_none() {
            return Ok(());
        }
        self.remember(tenant, Told { id, position, op: reply.op.get(), effects: effects.clone() });
        if self.random.chance(self.plan.resend_ppm) && self.board.lets(Switch::Resend) {
            pending.expect = Some((position, effects));
            pending.client = None;
            pending.copies = 0;
            pending.send_at_ns =
                Some(self.clock.now_ns() + 1 + self.random.exponential(30_000_000));
            self.serial += 1;
            self.pending.insert(self.serial, pending);
        }
        Ok(())
    }

    fn refused(&mut self, serial: u64, error: RequestError) -> Result<(), Failure> {
        let now_ns = self.clock.now_ns();
        let Some(pending) = self.pending.get_mut(&serial) else { return Ok(()) };
        pending.copies = pending.copies.saturating_sub(1);
        let (id, id_is_used) = (pending.request.idempotency, pending.id_is_used);
        let retry = match &error {
            RequestError::AfterUnknown { .. } => self.may_follow_later(id)?,
            RequestError::Sql(error) => error.retryable(),
            error => error.retryable(),
        };
        if id_is_used && matches!(error, RequestError::IdempotencyReused { .. }) {
            self.count(|report| report.reused_ids += 1);
        }
        let Some(pending) = self.pending.get_mut(&serial) else { return Ok(()) };
        if retry {
            pending.send_at_ns = Some(now_ns + 1 + self.random.exponential(3_000_000));
            return Ok(());
        }
        if pending.expect.is_some() {
            let detail = format!("answered before, refused now with {error}: {pending:?}");
            return Err(Failure::new(FailureKind::Lost, shorten(&detail)));
        }
        let refusal = match &error {
            RequestError::AfterUnknown { .. } => Ok(Refused::Other(error.to_string())),
            // Whatever else is wrong with it may be named first.
            error if id_is_used => Ok(Refused::Other(error.to_string())),
            error => refusal_of(error),
        };
        let refused = match refusal {
            Ok(refused) => refused,
            Err(why) => {
                let detail = format!("{why}: {error}: {}", pending.describe());
                return Err(Failure::new(FailureKind::Wrong, detail));
            }
        };
        let text = format!("refused: {error}");
        pending.refused = Some(refused);
        self.record(|timeline| timeline.answered(serial, 0, false, text));
        self.finish_refused(serial);
        Ok(())
    }

    /// A refusal is final when no copy is left that could still be acknowledged.
    fn finish_refused(&mut self, serial: u64) {
        let Some(pending) = self.pending.get(&serial) else { return };
        if pending.copies > 0 || pending.refused.is_none() {
            return;
        }
        let Some(pending) = self.pending.remove(&serial) else { return };
        if !pending.id_is_used {
            self.forget_order(pending.request.idempotency);
        }
        if let Some(refused) = pending.refused {
            self.ledgers[pending.tenant].refuse(pending.sent_at, pending.statements, refused);
        }
        self.release(pending.client);
    }

    pub(super) fn release(&mut self, client: Option<usize>) {
        if let Some(client) = client {
            let think_ns = self.random.exponential(self.plan.think_ns_mean);
            self.clients[client].busy = false;
            self.clients[client].next_at_ns = self.clock.now_ns() + 1 + think_ns;
        }
    }

    /// A process runs again: nobody waits for longer than his pause.
    pub(super) fn wake_clients(&mut self) {
        let now_ns = self.clock.now_ns();
        for pending in self.pending.values_mut() {
            pending.send_at_ns = pending.send_at_ns.max(Some(now_ns));
        }
    }

    /// The node died: every request without an answer is sent again once one runs; reads are lost.
    pub(super) fn clients_lose_node(&mut self) {
        self.tickets.clear();
        self.askings_lose_node();
        self.provings_lose_node();
        self.doubt_anonymous();
        let now_ns = self.clock.now_ns();
        for pending in self.pending.values_mut() {
            pending.copies = 0;
            pending.refused = None;
            pending.send_at_ns = Some(now_ns + 1);
        }
        for reading in std::mem::take(&mut self.readings) {
            self.release(reading.ask.client());
            if reading.ask == Ask::Audit {
                self.unread.push((reading.tenant, reading.query));
            }
        }
        self.oracles.clear();
    }

    pub(super) fn ask(&mut self, ask: Ask, tenant: usize, query: Query) -> Result<(), Failure> {
        let model = &self.ledgers[tenant].model;
        let Some(spec) = model.spec_at(&query.table, query.as_of).cloned() else {
            return Ok(());
        };
        let always = self.random.coin();
        let mut parameters = Parameters::new(always);
        let text = query.sql(&spec, &mut parameters);
        let sent_at = self.ledgers[tenant].head();
        if self.node.is_none() {
            return Ok(());
        }
        let read = Read::sql(tenant_id(tenant), &text, parameters.values);
        if let Some(client) = ask.client() {
            self.clients[client].busy = true;
        }
        self.readings.push(Reading { ask, tenant, query, read, sent_at });
        self.drive_reads()
    }

    /// A read that found no node, or another schema, is asked again if nobody else will.
    fn read_again(&mut self, ask: Ask, tenant: usize, query: Query) {
        match ask {
            Ask::Client(_) => {}
            Ask::Audit => self.unread.push((tenant, query)),
            Ask::Oracle { id, .. } => {
                self.oracles.remove(&id);
            }
        }
    }

    /// Calls every unfinished read once.
    pub(super) fn drive_reads(&mut self) -> Result<(), Failure> {
        let mut index = 0;
        while index < self.readings.len() {
            let clock = self.clock.clock();
            let Some(node) = &mut self.node else { return Ok(()) };
            let reading = &mut self.readings[index];
            match node.read(clock, &mut reading.read, &mut self.effects) {
                ReadProgress::Ready => {
                    let reading = self.readings.remove(index);
                    self.answered(reading)?;
                }
                ReadProgress::Yielded | ReadProgress::Behind => {
                    self.poke_at_ns = Some(self.clock.now_ns() + 1);
                    index += 1;
                }
                ReadProgress::Waiting => index += 1,
            }
        }
        self.drive_provings()?;
        self.drive_askings()
    }

    fn answered(&mut self, reading: Reading) -> Result<(), Failure> {
        self.last_progress_ns = self.clock.now_ns();
        let Reading { ask, tenant, query, read, sent_at } = reading;
        self.release(ask.client());
        let wrong = |detail: String| Failure::new(FailureKind::Wrong, detail);
        match read.finish() {
            Ok(result) => {
                let position = result.position.get();
                let mut rows = result
                    .rows
                    .iter()
                    .map(|row| row.iter().map(Datum::from_core).collect())
                    .collect::<Result<Vec<Vec<Datum>>, String>>()
                    .map_err(|text| wrong(format!("{query:?}: {text}")))?;
                if !query.is_ordered() {
                    rows.sort();
                }
                self.note(|| format!("read {} rows at {position}", rows.len()));
                if let Ask::Oracle { id, part } = ask {
                    self.oracle_answered(id, part, rows.clone())?;
                }
                let answered = Answered { query, position, rows };
                self.ledgers[tenant].answer(sent_at, answered).map_err(wrong)
            }
            Err(error) => {
                let text = error.to_string();
                self.note(|| format!("read failed: {text}"));
                let retry = match &error {
                    ReadError::Sql(error) => error.retryable(),
                    ReadError::NotReady => true,
                    ReadError::TenantUnknown(_) | ReadError::Store(_) | ReadError::Log(_) => false,
                };
                if retry {
                    self.read_again(ask, tenant, query);
                    return Ok(());
                }
                // As of before a table of that name was made again, that is what is told.
                let between = |code| code == SqlState::InvalidPosition && query.as_of.is_some();
                if let ReadError::Sql(error) = &error
                    && (error.code == SqlState::UndefinedTable || between(error.code))
                {
                    if let Ask::Oracle { id, .. } = ask {
                        self.oracles.remove(&id);
                    }
                    self.ledgers[tenant].no_table(sent_at, query);
                    return Ok(());
                }
                if self.disk.atlas.fatal_zones().next().is_some() {
                    self.ended_by_damage = true;
                    self.count(|report| report.damage_detected = Some(text));
                    return Ok(());
                }
                if self.blamable_faults() != self.faults_at_boot {
                    return Ok(()); // a transient fault, reported
                }
                Err(wrong(format!("read failed with {text}: {query:?}")))
            }
        }
    }
}

/// What a client asks for; `always`: every value is a parameter.
pub(crate) fn operations(
    model: &TenantModel,
    statements: &[Statement],
    always: bool,
) -> Vec<Operation> {
    let mut operations: Vec<Operation> = Vec::new();
    for statement in statements {
        let made = |name: &str| {
            statements.iter().find_map(|statement| {
                let Statement::Create(spec) = statement else { return None };
                (spec.name == name).then_some(spec)
            })
        };
        let spec = statement.table().and_then(|table| model.spec(table).or(made(table)));
        let spec = spec.cloned();
        match statement {
            Statement::Append { stream, expected, records } => {
                operations.push(Operation::Append {
                    stream: stream.clone(),
                    expected: match expected {
                        Expected::Any => ExpectedVersion::Any,
                        Expected::None => ExpectedVersion::None,
                        Expected::Exists => ExpectedVersion::Exists,
                        Expected::Exact(version) => ExpectedVersion::Exact(*version),
                    },
                    records: records.clone(),
                });
            }
            Statement::Insert { table, columns, rows, bulk: true, conflict: _ } => {
                let names = spec.map(|spec| spec.names()).unwrap_or_default();
                operations.push(Operation::InsertRows {
                    table: table.clone(),
                    columns: columns.iter().map(|place| names[*place].clone()).collect(),
                    rows: rows.iter().map(|row| row.iter().map(Datum::to_core).collect()).collect(),
                });
            }
            Statement::Create(_)
            | Statement::Drop { .. }
            | Statement::CreateIndex { .. }
            | Statement::DropIndex { .. }
            | Statement::AddColumn { .. }
            | Statement::Insert { .. }
            | Statement::Update { .. }
            | Statement::Delete { .. } => {
                let mut parameters = Parameters::new(always);
                // One text of several statements, where they need no parameters of their own.
                let Some(text) = statement.sql(spec.as_ref(), &mut parameters) else {
                    unreachable!("these have a text")
                };
                match operations.last_mut() {
                    Some(Operation::Sql { text: before, params })
                        if parameters.values.is_empty() && params.is_empty() =>
                    {
                        before.push_str("; ");
                        before.push_str(&text);
                    }
                    Some(_) | None => {
                        let params = parameters.values;
                        operations.push(Operation::Sql { text, params });
                    }
                }
            }
        }
    }
    operations
}

fn describe(result: &Result<Reply, RequestError>) -> String {
    match result {
        Ok(reply) => format!("op {} position {:?}", reply.op, reply.position),
        Err(error) => shorten(&format!("refused {error}")),
    }
}

pub(crate) fn effects_of(results: &[OperationResult]) -> Vec<Effect> {
    let effect = |result: &OperationResult| match result.detail {
        ResultDetail::Rows => Effect::Rows(result.rows_affected),
        ResultDetail::Schema | ResultDetail::TenantCreated(_) => Effect::Schema,
        ResultDetail::Job(_) => Effect::Job,
        ResultDetail::Appended { version, .. } => Effect::Appended(version),
    };
    results.iter().map(effect).collect()
}

/// What the model must say too, what it cannot know, or an error for what nobody may answer.
pub(crate) fn refusal_of(error: &RequestError) -> Result<Refused, &'static str> {
    let other = || Ok(Refused::Other(error.to_string()));
    match error {
        RequestError::Sql(sql) => match sql.code {
            SqlState::DuplicateTable => Ok(Refused::Because(Refusal::DuplicateTable)),
            SqlState::UndefinedTable => Ok(Refused::Because(Refusal::UndefinedTable)),
            SqlState::DuplicateColumn => Ok(Refused::Because(Refusal::DuplicateColumn)),
            SqlState::NotNullViolation => Ok(Refused::Because(Refusal::NotNull)),
            SqlState::UniqueViolation => Ok(Refused::Because(Refusal::DuplicateKey)),
            SqlState::CardinalityViolation => Ok(Refused::Because(Refusal::RowTwice)),
            SqlState::LimitExceeded | SqlState::StatementTooComplex => other(),
            _ => Err("a refusal that no statement of this workload deserves"),
        },
        RequestError::WrongExpectedVersion { actual, .. } => {
            Ok(Refused::Because(Refusal::WrongVersion { actual: *actual }))
        }
        RequestError::IdempotencyExpired { .. }
        | RequestError::IdempotencyUnknown { .. }
        | RequestError::IdempotencyTooFarAhead { .. }
        | RequestError::LimitExceeded { .. }
        | RequestError::GridFull { .. }
        | RequestError::TooLarge { .. } => other(),
        RequestError::StreamNameInvalid { .. }
        | RequestError::IdempotencyReused { .. }
        | RequestError::AfterUnknown { .. }
        | RequestError::Empty
        | RequestError::TenantUnknown(_)
        | RequestError::TenantExists(_)
        | RequestError::NotPermitted { .. }
        | RequestError::KeyMissing(_)
        | RequestError::Retry(_) => Err("a refusal that no request of this workload deserves"),
    }
}
