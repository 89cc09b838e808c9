//! Clients ask what idempotency ids remember: ids that were answered, that are under way, that
//! nobody ever used, and that are old enough to be forgotten.

use verity_core::ids::IdempotencyId;
use verity_core::limits::IDEMPOTENCY_KEPT_MS;
use verity_core::node::{CommitmentRead, Progress, ReadError};

use super::World;
use super::clients::{effects_of, tenant_id};
use crate::model::Effect;
use crate::report::{Failure, FailureKind};

/// An acknowledgement that a client remembers too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub id: IdempotencyId,
    pub position: u64,
    pub op: u64,
    pub effects: Vec<Effect>,
}

/// What the answer must be.
#[derive(Clone, Debug)]
enum Expect {
    /// This; or nothing, once the id may be forgotten.
    Told(Told),
    /// Nobody used the id.
    Nothing,
    /// It is under way: whatever is answered.
    Anything,
}

#[derive(Debug)]
pub(super) struct Asking {
    client: usize,
    id: IdempotencyId,
    expect: Expect,
    read: CommitmentRead,
}

/// Acknowledgements of a tenant that are kept.
const TOLD_MAX: usize = 64;

impl World {
    pub(super) fn remember(&mut self, tenant: usize, told: Told) {
        if self.told[tenant].len() < TOLD_MAX {
            self.told[tenant].push(told);
        } else {
            let place = self.random.index(TOLD_MAX);
            self.told[tenant][place] = told;
        }
    }

    pub(super) fn begin_asking(&mut self, client: usize, tenant: usize) -> Result<(), Failure> {
        let under_way = self.pending.values().find(|pending| {
            let id = pending.request.idempotency;
            pending.tenant == tenant && !id.is_none() && !pending.creates_tenant
        });
        let under_way = under_way.map(|pending| pending.request.idempotency);
        let known = self.told[tenant].len();
        let (id, expect) = match (self.random.below(4), under_way) {
            (0, _) => {
                let mut random_bytes = [0; 10];
                self.random.fill(&mut random_bytes);
                let now_ms = self.clock.clock().wall.as_ms();
                (IdempotencyId::new(now_ms, random_bytes), Expect::Nothing)
            }
            (1, Some(id)) => (id, Expect::Anything),
            (_, _) if known > 0 => {
                let told = self.told[tenant][self.random.index(known)].clone();
                (told.id, Expect::Told(told))
            }
            (_, _) => return Ok(()),
        };
        self.clients[client].busy = true;
        let read = CommitmentRead::new(tenant_id(tenant), id);
        self.askings.push(Asking { client, id, expect, read });
        self.drive_askings()
    }

    pub(super) fn drive_askings(&mut self) -> Result<(), Failure> {
        let mut index = 0;
        while index < self.askings.len() {
            let Some(node) = &mut self.node else { return Ok(()) };
            match node.read_commitment(&mut self.askings[index].read, &mut self.effects) {
                Progress::Ready => {
                    let asking = self.askings.remove(index);
                    self.asked(asking)?;
                }
                Progress::Yielded | Progress::Behind => {
                    self.poke_at_ns = Some(self.clock.now_ns() + 1);
                    index += 1;
                }
                Progress::Waiting => index += 1,
            }
        }
        Ok(())
    }

    pub(super) fn askings_lose_node(&mut self) {
        for asking in std::mem::take(&mut self.askings) {
            self.release(Some(asking.client));
        }
    }

    fn asked(&mut self, asking: Asking) -> Result<(), Failure> {
        self.last_progress_ns = self.clock.now_ns();
        let Asking { client, id, expect, read } = asking;
        self.release(Some(client));
        let found = match read.finish() {
            Ok(found) => found,
            Err(ReadError::NotReady) => return Ok(()),
            Err(error) => {
                let damaged = self.disk.atlas.fatal_zones().next().is_some();
                if damaged || self.blamable_faults() != self.faults_at_boot {
                    return Ok(()); // reported; the node itself halts on what it cannot bear
                }
                let detail = format!("asked for {id}: {error}");
                return Err(Failure::new(FailureKind::Wrong, detail));
            }
        };
        self.note(|| format!("asked {id}: {}", found.is_some()));
        self.count(|report| report.commitments += 1);
        let told = match expect {
            Expect::Anything => return Ok(()),
            Expect::Nothing => None,
            Expect::Told(told) => Some(told),
        };
        let forgettable = id.not_after_ms().saturating_add(IDEMPOTENCY_KEPT_MS) < self.wall_ms_max;
        let Some(commitment) = found else {
            if told.is_none() || forgettable {
                return Ok(());
            }
            let detail = format!("{id} was acknowledged and is not remembered: {told:?}");
            return Err(Failure::new(FailureKind::Lost, detail));
        };
        let remembered = commitment.outcome.result.map(|results| Told {
            id: commitment.id,
            position: commitment.position.get(),
            op: commitment.op.get(),
            effects: effects_of(&results),
        });
        if remembered.as_ref().ok() == told.as_ref() && told.is_some() {
            return Ok(());
        }
        let detail = format!("{id} is remembered as {remembered:?}, told was {told:?}");
        Err(Failure::new(FailureKind::Wrong, detail))
    }
}
