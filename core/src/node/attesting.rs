//! When the state is attested: some time after news, before the end, or because a proof waits.
//!
//! Applying an attestation hashes whatever has changed since the last one, in one piece, on every
//! replica: tens of milliseconds under load. So when one is due, pages are hashed first, a few in
//! each turn, while commits go on; what they change meanwhile is little, and left to the
//! attestation. Hashing ahead changes no result.
//!
//! Invariants: one attestation is asked for at a time. Hashing ahead ends: it may hash twice as
//! many pages as were not hashed when it began. Fault model: what keeps pages from being hashed
//! ahead (a value that is not in memory, a key that is missing) is left to the attestation, which
//! fetches the one and names the other.

use crate::ids::{IdempotencyId, PrincipalId, TenantId};
use crate::journal::{Operation as Prepared, PrepareHeader};
use crate::kernel::{EntrySalts, Operation, Reply, Request, RequestError};
use crate::limits::PROOF_HOLD_TURNS;
use crate::node::api::Ticket;
use crate::node::requests::{Waiting, Work};
use crate::node::running::{Phase, Running};
use crate::time::{Clock, Instant};

/// Of the node's own attestations; callers' tickets begin at 1, and 0 is of jobs.
pub(super) const TICKET: Ticket = Ticket(u64::MAX);
/// Pages hashed in one go, about 10 µs each: what a commit waits longer at most.
const HASHED_AT_ONCE: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Attesting {
    /// The request is on its way.
    asked: bool,
    /// Requests were applied that no attestation covers.
    news: bool,
    /// When the next attestation by time is due.
    due: Option<Instant>,
    /// How many pages may still be hashed before the one that is due.
    pub ahead: Option<usize>,
    /// The last thing before a shutdown was tried.
    at_shutdown: bool,
}

impl Attesting {
    /// Whether one must be submitted: none is on its way.
    pub fn ask(&mut self) -> bool {
        !core::mem::replace(&mut self.asked, true)
    }
}

/// The request for an attestation.
pub(super) fn attest() -> Request {
    Request {
        tenant: TenantId::SYSTEM,
        principal: PrincipalId::ZERO,
        idempotency: IdempotencyId::NONE,
        after: None,
        operations: alloc::vec![Operation::Attest],
    }
}

impl Running {
    /// An op was applied: was it an attestation, or is it news?
    pub(super) fn note_attested(&mut self, now: Clock, header: &PrepareHeader) {
        self.note_head(now);
        if self.kernel.attestation().is_some_and(|last| last.op == header.op) {
            self.proofs.hold(PROOF_HOLD_TURNS);
            self.attesting.news = false;
            self.attesting.due = None;
            self.attesting.ahead = None;
        } else if header.operation == Prepared::Requests {
            self.attesting.news = true;
        }
    }

    /// Attests by time and before a shutdown, if the node is told to. True: something moved.
    pub(super) fn attest_in_time(&mut self, now: Clock) -> bool {
        let Some(after_ns) = self.config.attest_after_ns else { return false };
        // A full disk is for a checkpoint: the news wait until there is room, or another open.
        if !self.attesting.news || self.attesting.asked || self.disk_is_full() {
            return false;
        }
        match self.phase {
            Phase::Serving | Phase::Following => {
                let due = *self.attesting.due.get_or_insert(now.monotonic.plus_ns(after_ns));
                if now.monotonic < due || !self.hash_before_attesting() {
                    return false;
                }
                // It is the primary that asks.
                if self.phase == Phase::Following {
                    return false;
                }
                self.attesting.due = None;
                self.attesting.ahead = None;
            }
            // Once: a state that cannot be attested must not keep a node from its end.
            Phase::ShuttingDown { op: None }
                if !self.attesting.at_shutdown
                    && self.is_idle()
                    && self.may_propose_in_the_end() =>
            {
                self.attesting.at_shutdown = true;
            }
            Phase::Replay
            | Phase::View
            | Phase::Recovery { .. }
            | Phase::ShuttingDown { .. }
            | Phase::Stopped => return false,
        }
        self.attesting.asked = true;
        self.waiting.push_back(Waiting::new(TICKET, Work::Request(attest()), 0));
        true
    }

    /// Hashes a few of the pages that have changed. True: enough is hashed.
    fn hash_before_attesting(&mut self) -> bool {
        let left = *self.attesting.ahead.get_or_insert_with(|| {
            let checkpoint = self.store.checkpoint_progress();
            let frozen = checkpoint.pages - checkpoint.hashed;
            2 * (self.store.dirty_pages() as usize + frozen)
        });
        let pages = left.min(HASHED_AT_ONCE);
        self.attesting.ahead = Some(left - pages);
        match self.store.hash_step(&EntrySalts(&self.keyring), pages) {
            Ok(all) => all || pages == 0,
            Err(_) => {
                self.store.forget_misses();
                self.attesting.ahead = Some(0);
                true
            }
        }
    }

    /// When an attestation by time is due. While pages are hashed for it, that is past: the driver
    /// does not wait.
    pub(super) fn attestation_due(&self) -> Option<Instant> {
        let waits = self.phase == Phase::Serving && !self.attesting.asked && !self.disk_is_full();
        self.attesting.due.filter(|_| waits)
    }

    /// The answer to the node's own request, which no caller may see.
    pub(super) fn on_attest_answer(&mut self, answer: Result<Reply, RequestError>) {
        self.attesting.asked = false;
        self.proofs.attested(answer);
    }
}
