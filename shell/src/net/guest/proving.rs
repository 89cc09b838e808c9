//! Proofs for one client: made of the newest state by who leads, sent in parts.
//!
//! Invariants: a proof is asked for after a quorum has confirmed that this replica leads. What is
//! sent is charged to the budget that the buffers of clients share. A proof whose client is gone is
//! given up, for it holds pages that others wait for.
//!
//! Fault model: a lead that is lost while the state is attested, and comes back to nobody; proofs
//! that are larger than what is left of memory; answers that nobody reads.

use verity_core::kernel::RetryReason;
use verity_core::limits::{ANSWER_ROWS_BYTES, PROOF_SERVED_BYTES_MAX};
use verity_core::node::{ProofRead, Proved};

use super::queries::Progress;
use super::{Guest, retry};
use crate::driver::Driver;
use crate::error::Error;
use crate::net::Broken;
use crate::net::budget::Charge;
use crate::net::payload::{Answer, ProofPart, Prove};
use crate::reads::unproved;

impl Guest {
    pub(super) fn prove(
        &self,
        id: u64,
        asked: &Prove,
        progress: &mut Progress,
    ) -> Result<Result<(), Error>, Broken> {
        if let Err(error) = self.confirm_lead() {
            return Ok(Err(error));
        }
        let proved = match self.make_proof(id, asked, progress)? {
            Ok(proved) => proved,
            Err(error) => return Ok(Err(error)),
        };
        let size = proved.file.len();
        if size > PROOF_SERVED_BYTES_MAX {
            let why = format!(
                "the proof has {size} bytes, at most {PROOF_SERVED_BYTES_MAX} are sent: ask for \
                 less of it at a time"
            );
            return Ok(Err(Error::Unproved { sqlstate: "54000", why }));
        }
        let Some(_held) = Charge::of(&self.host.budget, size) else {
            return Ok(Err(retry(RetryReason::QueueFull)));
        };
        for part in proved.file.chunks(ANSWER_ROWS_BYTES) {
            let file = part.to_vec();
            self.send(id, &Answer::Proof(ProofPart { file, more: true, ..ProofPart::default() }))?;
        }
        let Proved { file: _, query, policy } = proved;
        let last = ProofPart { file: Vec::new(), more: false, query, policy };
        self.send(id, &Answer::Proof(last))?;
        Ok(Ok(()))
    }

    fn make_proof(
        &self,
        id: u64,
        asked: &Prove,
        progress: &mut Progress,
    ) -> Result<Result<Proved, Error>, Broken> {
        let driver = &self.host.driver;
        let read = ProofRead::new(asked.tenant, asked.of.clone()).since(asked.since);
        let mut running = Running { driver, read: Some(read) };
        loop {
            let Some(read) = &mut running.read else { unreachable!("taken at the end") };
            match driver.proof_slice(read) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => return Ok(Err(error)),
            }
            if self.queries.has_ended() {
                return Err(Broken::Closed);
            }
            // Without a quorum the state is not attested: another replica may lead by now.
            if !driver.leads_lately() {
                return Ok(self.confirm_lead().and(Err(retry(RetryReason::NotReady))));
            }
            progress.tell(self, id)?;
        }
        let Some(read) = running.read.take() else { unreachable!("taken once, here") };
        let not_now = || retry(RetryReason::NotReady);
        Ok(read.finish().map_err(|error| unproved(error).unwrap_or_else(not_now)))
    }
}

/// A proof that is cancelled when it is given up.
struct Running<'a> {
    driver: &'a Driver,
    read: Option<ProofRead>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(read) = &mut self.read {
            self.driver.cancel_proof(read);
        }
    }
}
