//! Clients that name other requests: some must follow one (`after`), some use an id that was used
//! for something else.
//!
//! A request that must follow one that is remembered runs; one that must follow an id that nobody
//! ever used never does; and between the two, one that must follow a request under way comes after
//! it in the log, whatever was sent again and whoever crashed. Another request under a used id
//! never runs and never gets the first one's answer.

use verity_core::ids::IdempotencyId;
use verity_core::limits::IDEMPOTENCY_KEPT_MS;

use super::World;
use crate::overrides::Switch;
use crate::report::{Failure, FailureKind};
use crate::sql::{Expected, Statement};

/// What is known of the request that another one must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// Acknowledged, at this position.
    At(u64),
    UnderWay,
    /// Refused for good, or lost patience: it may be remembered as refused.
    Gone,
    NeverUsed,
}

/// One request must come after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    first: IdempotencyId,
    second: IdempotencyId,
    tenant: usize,
    /// Where the second one was applied, if it was.
    second_at: Option<u64>,
    known: First,
}

impl World {
    /// Draws whether a new request, not sent yet, names another one.
    pub(super) fn name_another(&mut self, serial: u64, tenant: usize) {
        let reuses = self.order_random.chance(self.plan.reuse_ppm);
        if self.board.also(Switch::Reuse, reuses) {
            self.use_id_again(serial, tenant);
        } else if !reuses
            && self.order_random.chance(self.plan.after_ppm)
            && self.board.lets(Switch::After)
        {
            self.follow(serial, tenant);
        }
    }

    fn use_id_again(&mut self, serial: u64, tenant: usize) {
        let known = self.told[tenant].len();
        if known == 0 {
            return;
        }
        let id = self.told[tenant][self.order_random.index(known)].id;
        let Some(pending) = self.pending.get_mut(&serial) else { return };
        // So that it cannot be, by chance, the request that has the id.
        pending.statements.push(Statement::Append {
            stream: format!("another-{serial}"),
            expected: Expected::Any,
            records: vec![serial.to_le_bytes().to_vec()],
        });
        let statements = pending.statements.clone();
        let operations = self.operations(tenant, &statements);
        let Some(pending) = self.pending.get_mut(&serial) else { return };
        pending.request.operations = operations;
        pending.request.idempotency = id;
        pending.id_is_used = true;
    }

    fn follow(&mut self, serial: u64, tenant: usize) {
        let under_way = self.pending.iter().find(|(other, pending)| {
            **other != serial
                && pending.tenant == tenant
                && !pending.request.idempotency.is_none()
                && pending.expect.is_none()
                && !pending.id_is_used
                && !pending.creates_tenant
        });
        let under_way = under_way.map(|(_, pending)| pending.request.idempotency);
        let known = self.told[tenant].len();
        let (first, known) = match (self.order_random.below(5), under_way) {
            (0, _) => {
                let mut random_bytes = [0; 10];
                self.order_random.fill(&mut random_bytes);
                let now_ms = self.clock.clock().wall.as_ms();
                (IdempotencyId::new(now_ms, random_bytes), First::NeverUsed)
            }
            (1..=3, Some(id)) => (id, First::UnderWay),
            (_, _) if known > 0 => {
                let told = &self.told[tenant][self.order_random.index(known)];
                (told.id, First::At(told.position))
            }
            (_, _) => return,
        };
        let Some(pending) = self.pending.get_mut(&serial) else { return };
        pending.request.after = Some(first);
        let second = pending.request.idempotency;
        self.orders.push(Order { first, second, tenant, second_at: None, known });
    }

    /// An acknowledgement: it may be the first one of an order, or the second.
    pub(super) fn check_order(&mut self, id: IdempotencyId, position: u64) -> Result<(), Failure> {
        let mut checked = 0;
        let mut wrong = None;
        self.orders.retain_mut(|order| {
            if order.first == id {
                order.known = First::At(position);
            }
            if order.second == id {
                order.second_at = Some(position);
            }
            match (order.known, order.second_at) {
                (First::At(first_at), Some(second_at)) => {
                    checked += 1;
                    if second_at <= first_at {
                        wrong = Some(*order);
                    }
                    false
                }
                (First::NeverUsed, Some(_)) => {
                    wrong = Some(*order);
                    false
                }
                // Refused in the log: that is remembered too.
                (First::Gone, Some(_)) => false,
                (First::UnderWay, Some(_)) | (_, None) => true,
            }
        });
        self.count(|report| report.orders += checked);
        match wrong {
            None => Ok(()),
            Some(order) => {
                let detail = format!("a request ran before the one it must follow: {order:?}");
                Err(Failure::new(FailureKind::Wrong, detail))
            }
        }
    }

    /// A request ended without being applied.
    pub(super) fn forget_order(&mut self, id: IdempotencyId) {
        let ended = |order: &Order| order.first == id && order.second_at.is_some();
        self.orders.retain(|order| order.second != id && !ended(order));
        for order in &mut self.orders {
            if order.first == id && order.known == First::UnderWay {
                order.known = First::Gone;
            }
        }
    }

    /// Whether a refusal for want of the first request is to be retried.
    pub(super) fn may_follow_later(&mut self, second: IdempotencyId) -> Result<bool, Failure> {
        let Some(order) = self.orders.iter().find(|order| order.second == second).copied() else {
            return Ok(false);
        };
        match order.known {
            First::UnderWay => Ok(true),
            First::Gone => Ok(false),
            First::NeverUsed => {
                self.count(|report| report.orders += 1);
                Ok(false)
            }
            First::At(position) => {
                let kept_until = order.first.not_after_ms().saturating_add(IDEMPOTENCY_KEPT_MS);
                if kept_until < self.wall_ms_max {
                    return Ok(false);
                }
                let detail = format!(
                    "tenant {}: a request must follow {}, acknowledged at {position}, and is \
                     refused because that is unknown",
                    order.tenant + 1,
                    order.first,
                );
                Err(Failure::new(FailureKind::Lost, detail))
            }
        }
    }
}
