//! Clients ask for proofs of what they read: every proof that is answered verifies and says what
//! the model says, and no proof that was changed in any way verifies.

use verity_core::node::{Progress, ProofError, ProofOf, ProofRead, Proved};

use super::World;
use super::clients::tenant_id;
use crate::ledger::Answered;
use crate::proofs::check;
use crate::report::{Failure, FailureKind};
use crate::sql::{Parameters, Query};

/// When a proof that yielded goes on.
const YIELD_NS: u64 = 10_000;

#[derive(Debug)]
pub(super) struct Proving {
    client: usize,
    tenant: usize,
    query: Query,
    read: ProofRead,
    sent_at: Option<u64>,
}

impl World {
    pub(super) fn begin_proving(
        &mut self,
        client: usize,
        tenant: usize,
        query: Query,
    ) -> Result<(), Failure> {
        let model = &self.ledgers[tenant].model;
        let Some(spec) = model.spec_at(&query.table, query.as_of).cloned() else {
            return Ok(());
        };
        if self.node.is_none() {
            return Ok(());
        }
        let mut parameters = Parameters::new(true);
        let text = query.sql(&spec, &mut parameters);
        let sent_at = self.ledgers[tenant].head();
        let of = ProofOf::Sql { text, parameters: parameters.values };
        // Sometimes linked to the head that was seen last, as a reader who pins heads asks.
        let since = self.seen_head.filter(|_| self.prove_random.coin()).map(|seen| seen.size);
        let read = ProofRead::new(tenant_id(tenant), of).since(since);
        self.clients[client].busy = true;
        self.provings.push(Proving { client, tenant, query, read, sent_at });
        self.drive_provings()
    }

    pub(super) fn drive_provings(&mut self) -> Result<(), Failure> {
        let mut index = 0;
        while index < self.provings.len() {
            let clock = self.clock.clock();
            let Some(node) = &mut self.node else { return Ok(()) };
            match node.read_proof(clock, &mut self.provings[index].read, &mut self.effects) {
                Progress::Ready => {
                    let proving = self.provings.remove(index);
                    self.proved(proving)?;
                }
                Progress::Yielded | Progress::Behind => {
                    // It may wait for what another one reads: time must pass.
                    self.poke_at_ns = Some(self.clock.now_ns() + YIELD_NS);
                    index += 1;
                }
                Progress::Waiting => index += 1,
            }
        }
        Ok(())
    }

    pub(super) fn provings_lose_node(&mut self) {
        for proving in std::mem::take(&mut self.provings) {
            self.release(Some(proving.client));
        }
    }

    fn proved(&mut self, proving: Proving) -> Result<(), Failure> {
        self.last_progress_ns = self.clock.now_ns();
        let Proving { client, tenant, query, read, sent_at } = proving;
        self.release(Some(client));
        let proved = match read.finish() {
            Ok(proved) => proved,
            Err(error) => return self.not_proved(&query, &error),
        };
        let wrong = |detail: String| Failure::new(FailureKind::Wrong, detail);
        let answered = self.check_proof(&query, &proved).map_err(wrong)?;
        self.count(|report| report.proofs += 1);
        let (position, size) = (answered.position, proved.file.len());
        self.note(|| format!("proved {} rows at {position}, {size} bytes", answered.rows.len()));
        self.ledgers[tenant].answer(sent_at, answered).map_err(wrong)
    }

    /// What the proof answers: of a head that continues the one seen before.
    fn check_proof(&mut self, query: &Query, proved: &Proved) -> Result<Answered, String> {
        let checked = check(query, proved, 1, &mut self.prove_random)?;
        let head = checked.head;
        if let Some(seen) = self.seen_head
            && (head.size < seen.size || (head.size == seen.size && head.root != seen.root))
        {
            return Err(format!("the head {head:?} does not continue {seen:?}"));
        }
        self.seen_head = Some(head);
        Ok(checked.answered)
    }

    fn not_proved(&mut self, query: &Query, error: &ProofError) -> Result<(), Failure> {
        let text = error.to_string();
        self.note(|| format!("not proved: {text}"));
        match error {
            ProofError::NotReady | ProofError::NotProvable | ProofError::Attest(_) => Ok(()),
            ProofError::Sql(error) if error.retryable() => Ok(()),
            // What a table was before it was made, or a table that is gone, has no proof; nor has
            // an answer of more pages than a small cache has.
            ProofError::Sql(_) | ProofError::Prove(_) | ProofError::Memory => {
                self.count(|report| report.proofs_refused += 1);
                Ok(())
            }
            ProofError::Store(_) => {
                if self.disk.atlas.fatal_zones().next().is_some() {
                    self.ended_by_damage = true;
                    self.count(|report| report.damage_detected = Some(text));
                }
                Ok(())
            }
            ProofError::TenantUnknown(_)
            | ProofError::Key(_)
            | ProofError::Fork { .. }
            | ProofError::Superseded { .. }
            | ProofError::TooFewCosigners { .. } => {
                Err(Failure::new(FailureKind::Wrong, format!("{text}: {query:?}")))
            }
        }
    }
}
