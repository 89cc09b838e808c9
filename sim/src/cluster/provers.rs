//! Readers of a cluster who want proof: of whoever leads, under f + 1 signatures.
//!
//! Purpose: what a proof of a cluster shows. Invariants checked: it holds under a policy of f + 1
//! of the replicas, its copies do not; its answer is as new as a linearizable read's, and what the
//! model says; its head is no shorter than any that was shown before it was asked for, and of the
//! one history; whoever made it had its own cosignature in its superblock first.

use verity_core::ids::TenantId;
use verity_core::kernel::ProveStop;
use verity_core::node::{ProofError, ProofOf, ProofRead};
use verity_core::proof::Seen as SeenHead;

use super::Cluster;
use super::readers::{Reading, Stage};
use crate::proofs::{Checked, check};
use crate::random::Random;
use crate::report::{Failure, FailureKind};

/// Who wants proof, and which head was shown last.
#[derive(Debug)]
pub(super) struct Provers {
    pub random: Random,
    /// Of all readings, so many in a million.
    pub want_ppm: u64,
    newest: Option<SeenHead>,
}

impl Provers {
    pub fn none(random: Random) -> Provers {
        Provers { random, want_ppm: 0, newest: None }
    }

    pub fn draw(mut random: Random) -> Provers {
        let want_ppm = *random.pick(&[0, 100_000, 400_000]);
        Provers { want_ppm, ..Provers::none(random) }
    }
}

impl Cluster {
    pub(super) fn begin_proof(&mut self, reading: &mut Reading) {
        let (text, parameters) = (reading.text.clone(), reading.parameters.clone());
        // Sometimes linked to the head that was seen last, as a reader who pins heads asks.
        let newest = self.provers.newest;
        let since = newest.filter(|_| self.provers.random.coin()).map(|seen| seen.size);
        let of = ProofOf::Sql { text, parameters };
        let read = ProofRead::new(TenantId::DEFAULT, of).since(since);
        reading.head_floor = newest.map_or(0, |seen| seen.size);
        reading.stage = Stage::Proof(Box::new(read));
    }

    /// A proof is there, or an error.
    pub(super) fn proof_ends(&mut self, serial: u64, mut reading: Reading) -> Result<(), Failure> {
        let Stage::Proof(read) = std::mem::replace(&mut reading.stage, Stage::Asks) else {
            unreachable!("it just ended")
        };
        let at = reading.at;
        let proved = match read.finish() {
            Ok(proved) => proved,
            Err(error) => return self.not_proved(serial, reading, &error),
        };
        let wrong =
            |detail: String| Failure::new(FailureKind::Wrong, format!("node {at}: {detail}"));
        let needed = self.members.len() / 2 + 1;
        let checked = check(&reading.query, &proved, needed, &mut self.provers.random);
        let Checked { answered, head } = checked.map_err(wrong)?;
        if head.size < reading.head_floor {
            let detail =
                format!("{head:?} is older than one shown before, of {}", reading.head_floor);
            return Err(wrong(detail));
        }
        self.heads.name(at, head.size, head.root).map_err(wrong)?;
        self.check_cosigned(at, head.size).map_err(wrong)?;
        if self.provers.newest.is_none_or(|seen| seen.size < head.size) {
            self.provers.newest = Some(head);
        }
        self.seen.proofs += 1;
        let position = answered.position;
        self.shown(serial, &reading, position);
        self.ledger.answer(reading.floor, answered).map_err(wrong)
    }

    /// What has no proof is asked for no more; what failed is asked for again.
    fn not_proved(
        &mut self,
        serial: u64,
        mut reading: Reading,
        error: &ProofError,
    ) -> Result<(), Failure> {
        let at = reading.at;
        let ends = match error {
            ProofError::NotReady | ProofError::Attest(_) => false,
            ProofError::TooFewCosigners { .. } => {
                self.seen.proofs_uncosigned += 1;
                false
            }
            ProofError::Prove(ProveStop::Damaged(_)) if self.seen.blocks_rotten > 0 => false,
            ProofError::Sql(error) => !error.retryable(),
            ProofError::NotProvable | ProofError::Memory | ProofError::Prove(_) => true,
            ProofError::TenantUnknown(_)
            | ProofError::Store(_)
            | ProofError::Key(_)
            | ProofError::Superseded { .. }
            | ProofError::Fork { .. } => {
                let detail = format!("node {at} does not prove {reading:?}: {error}");
                return Err(Failure::new(FailureKind::Wrong, detail));
            }
        };
        if ends {
            self.seen.proofs_refused += 1;
            let text = format!("not proved: {error}");
            self.recorder.at(self.now_ns, |timeline| timeline.answered(serial, at, false, text));
            return Ok(());
        }
        self.ask_again(&mut reading);
        self.readers.asked.insert(serial, reading);
        Ok(())
    }
}
