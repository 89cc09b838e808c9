//! Tenants that come to be while a cluster runs: created, written to, and read on every node.
//!
//! What is asked is so simple that it needs no model: each tenant has one table, rows are numbered,
//! and an answer is final. Checked: whatever is acknowledged is there, on every node, under keys
//! that only the nodes know: no key and no text of a tenant is in a frame or on a disk.

use std::collections::BTreeMap;

use verity_core::crypto::KekHash;
use verity_core::ids::{IdempotencyId, PrincipalId, TenantId};
use verity_core::io::{Effect, KeyPurpose};
use verity_core::kernel::{Operation, Request, RequestError};
use verity_core::node::{Progress, Read, ReadResult};
use verity_core::query::Value;

use super::Cluster;
use crate::canary::{self, Search};
use crate::random::Random;
use crate::report::{Failure, FailureKind};

/// What is asked of a tenant, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TenantStep {
    Create(TenantId),
    Table(TenantId),
    Row(TenantId, u64),
}

impl TenantStep {
    fn tenant(self) -> TenantId {
        match self {
            TenantStep::Create(tenant) | TenantStep::Table(tenant) | TenantStep::Row(tenant, _) => {
                tenant
            }
        }
    }
}

#[derive(Debug, Default)]
struct Life {
    /// Requests on their way.
    asked: u64,
    created: bool,
    /// Two clients asked for it at once: one of them is refused.
    twice: bool,
    table: bool,
    rows: u64,
    canary: String,
}

#[derive(Debug)]
pub(super) struct Tenants {
    random: Random,
    count_max: u64,
    step_ppm: u64,
    twice_ppm: u64,
    lives: BTreeMap<TenantId, Life>,
    /// KEKs that somebody had wrapped.
    secrets: Vec<[u8; 32]>,
}

/// Frames above it hold pages, blocks or prepares, which are looked for on the disks.
const FRAME_SEARCHED_MAX: usize = 16 * 1024;
const FIRST: u64 = 2;

impl Tenants {
    /// None but those that are asked for.
    pub fn none(random: Random) -> Tenants {
        let (lives, secrets) = (BTreeMap::new(), Vec::new());
        Tenants { random, count_max: 0, step_ppm: 0, twice_ppm: 0, lives, secrets }
    }

    /// So many as a run has.
    pub fn draw(&mut self) {
        self.count_max = *self.random.pick(&[0, 1, 2, 4]);
        self.step_ppm = *self.random.pick(&[30_000, 150_000]);
        self.twice_ppm = *self.random.pick(&[0, 300_000]);
    }

    pub fn all(&self) -> Vec<TenantId> {
        self.lives.iter().filter(|(_, life)| life.created).map(|(tenant, _)| *tenant).collect()
    }

    /// A secret that must not be seen.
    pub fn note(&mut self, effect: &Effect) {
        if let Effect::Wrap { purpose: KeyPurpose::Kek, key, .. } = effect
            && !self.secrets.contains(&key.0)
        {
            self.secrets.push(key.0);
        }
    }

    /// What of it is in these bytes.
    fn seen_in(&self, bytes: &[u8]) -> Option<&'static str> {
        let holds = |secret: &[u8; 32]| {
            bytes.windows(32).any(|window| window[0] == secret[0] && window == secret)
        };
        if self.secrets.iter().any(holds) {
            return Some("a tenant's KEK");
        }
        let canaries: Vec<String> = self.lives.values().map(|life| life.canary.clone()).collect();
        (!canaries.is_empty() && Search::new(&canaries).find(bytes).is_some())
            .then_some("a tenant's text")
    }

    pub fn check_frame(&self, frame: &[u8]) -> Option<&'static str> {
        if self.secrets.is_empty() || frame.len() > FRAME_SEARCHED_MAX {
            return None;
        }
        self.seen_in(frame)
    }

    /// What is asked next, if anything, and whether two ask it.
    fn next_step(&mut self) -> Option<(TenantStep, bool)> {
        if self.count_max == 0 || !self.random.chance(self.step_ppm) {
            return None;
        }
        let count = self.lives.len() as u64;
        if count < self.count_max && (count == 0 || self.random.chance(300_000)) {
            let twice = self.random.chance(self.twice_ppm);
            return Some((TenantStep::Create(TenantId::new(FIRST + count)), twice));
        }
        let tenant = TenantId::new(FIRST + self.random.below(count));
        let life = self.lives.get(&tenant)?;
        match life {
            Life { asked: 1.., .. } | Life { created: false, .. } => None,
            Life { table: false, .. } => Some((TenantStep::Table(tenant), false)),
            Life { rows, .. } => Some((TenantStep::Row(tenant, *rows), false)),
        }
    }
}

impl Cluster {
    /// Now and then somebody asks for a tenant, or something of one.
    pub(super) fn new_tenant_step(&mut self) {
        if let Some((step, twice)) = self.tenants.next_step() {
            for _ in 0..1 + u64::from(twice) {
                self.ask_step(step);
            }
        }
    }

    pub(super) fn ask_step(&mut self, step: TenantStep) {
        let tenant = step.tenant();
        let mut random_bytes = [0; 10];
        self.tenants.random.fill(&mut random_bytes);
        let canary = canary::draw(&mut self.tenants.random);
        let life = self.tenants.lives.entry(tenant).or_default();
        life.twice |= life.asked > 0;
        life.asked += 1;
        if life.canary.is_empty() {
            life.canary = canary;
        }
        let sql = |text: &str, params| Operation::Sql { text: text.to_owned(), params };
        let (of, operation) = match step {
            TenantStep::Create(tenant) => {
                let kek_hash = KekHash([0; 32]);
                (TenantId::SYSTEM, Operation::CreateTenant { tenant, kek_hash })
            }
            TenantStep::Table(tenant) => {
                (tenant, sql("CREATE TABLE t (id BIGINT PRIMARY KEY, body TEXT)", vec![]))
            }
            TenantStep::Row(tenant, row) => {
                let params = vec![Value::Integer(row as i64), Value::text(&life.canary.repeat(4))];
                (tenant, sql("INSERT INTO t (id, body) VALUES (?, ?)", params))
            }
        };
        let now_ms = self.true_ms();
        let request = Request {
            tenant: of,
            principal: PrincipalId::new(1),
            idempotency: IdempotencyId::new(now_ms + 24 * 3_600_000, random_bytes),
            after: None,
            operations: vec![operation],
        };
        self.wait_for(Vec::new(), request, Some(step));
    }

    /// It is done.
    pub(super) fn step_done(&mut self, step: TenantStep) {
        let Some(life) = self.tenants.lives.get_mut(&step.tenant()) else { return };
        life.asked -= 1;
        match step {
            TenantStep::Create(_) => life.created = true,
            TenantStep::Table(_) => life.table = true,
            TenantStep::Row(_, row) => life.rows = row + 1,
        }
    }

    /// It is refused for good: of two who create a tenant one is.
    pub(super) fn step_refused(
        &mut self,
        step: TenantStep,
        error: &RequestError,
    ) -> Result<(), Failure> {
        let twice = self.tenants.lives.get(&step.tenant()).is_some_and(|life| life.twice);
        match (step, error) {
            (TenantStep::Create(tenant), RequestError::TenantExists(found))
                if twice && tenant == *found =>
            {
                self.step_done(step);
                Ok(())
            }
            _ => Err(Failure::new(FailureKind::Wrong, format!("{step:?} is refused: {error}"))),
        }
    }

    /// Every node has all rows of all tenants.
    pub(super) fn read_tenants(&mut self) -> Result<(), Failure> {
        for tenant in self.tenants.all() {
            let Some(Life { table: true, rows, canary, .. }) = self.tenants.lives.get(&tenant)
            else {
                continue;
            };
            let body = Value::text(&canary.repeat(4));
            let row = |row: u64| vec![Value::Integer(row as i64), body.clone()];
            let expected: Vec<Vec<Value>> = (0..*rows).map(row).collect();
            for index in 0..self.members.len() {
                let found = self.read_tenant(index, tenant)?;
                if found.rows != expected {
                    let detail = format!(
                        "node {index} has {} rows of tenant {tenant}, not {}",
                        found.rows.len(),
                        expected.len()
                    );
                    return Err(Failure::new(FailureKind::Wrong, detail));
                }
                self.seen.tenants_read += 1;
            }
        }
        Ok(())
    }

    fn read_tenant(&mut self, index: usize, tenant: TenantId) -> Result<ReadResult, Failure> {
        let mut read = Read::sql(tenant, "SELECT id, body FROM t ORDER BY id", Vec::new());
        for _ in 0..100_000 {
            let progress = self.members[index].read(self.now_ns, &mut read);
            self.after(index)?;
            match progress {
                Progress::Ready => {
                    return read.finish().map_err(|error| {
                        let detail = format!("node {index} does not answer {tenant}: {error}");
                        Failure::new(FailureKind::Wrong, detail)
                    });
                }
                Progress::Yielded | Progress::Behind => self.now_ns += 1,
                Progress::Waiting => self.turn()?,
            }
        }
        Err(Failure::new(FailureKind::Stuck, "a read of a tenant never ends"))
    }

    /// No key and no text of a tenant lies on any disk.
    pub(super) fn search_disks(&self) -> Result<(), Failure> {
        if self.tenants.lives.is_empty() {
            return Ok(());
        }
        for (index, member) in self.members.iter().enumerate() {
            for file in member.disk.files() {
                if let Some(what) = self.tenants.seen_in(&member.disk.contents(file)) {
                    let detail = format!("{what} lies open in {file:?} of node {index}");
                    return Err(Failure::new(FailureKind::Wrong, detail));
                }
            }
        }
        Ok(())
    }
}
