//! What a recovery record says: the evidence of a new view, on the record for good.
//!
//! The first op of every view (with one replica: of every open) carries a [`RecoveryEvidence`] as
//! its body, in clear: it holds numbers only. Apply adds the generation, which grows by one, and
//! writes it into tenant 0's log. It also names the tenants that must exist from then on: that is
//! how the first open creates tenant 1.

use alloc::vec::Vec;

use crate::crypto::KekHash;
use crate::ids::{Generation, Op, TenantId, View};
use crate::query::cbor::{DecodeError, Decoder, Encoder};
use crate::time::Timestamp;

/// What the new primary knew when it opened a view; tenant 0's log keeps it for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryRecord {
    pub generation: Generation,
    pub previous: Generation,
    pub evidence: RecoveryEvidence,
    pub time: Timestamp,
}

/// The part of a recovery record that the primary collected: body of a `Recovery` prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryEvidence {
    pub view: View,
    /// Newest op that the evidence proves committed.
    pub committed: Op,
    /// The state that was opened: op of the checkpoint that replay started from.
    pub recovery_point: Op,
    /// Prepares that this change of view discarded, first and last.
    pub discarded: Option<(Op, Op)>,
    /// Views between the last recorded one and this, without a record of their own.
    pub unrecorded_views: u64,
    pub reason: RecoveryReason,
    /// Tenants that must exist from here on, with the hashes of their keys.
    pub tenants: Vec<(TenantId, KekHash)>,
    /// Time of the op before. The record's own time may be any way later: the time this database
    /// was not open.
    pub last_time: Timestamp,
    /// The step from there was too long to be believed without the operator's word, and it was
    /// given.
    pub clock_accepted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecoveryReason {
    Format = 0,
    Restart = 1,
    QuorumLoss = 2,
    Corruption = 3,
    Operator = 4,
}

impl RecoveryReason {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RecoveryReason::Format => "format",
            RecoveryReason::Restart => "restart",
            RecoveryReason::QuorumLoss => "quorum loss",
            RecoveryReason::Corruption => "corruption",
            RecoveryReason::Operator => "operator",
        }
    }

    fn from_code(code: u8) -> Option<RecoveryReason> {
        Some(match code {
            0 => RecoveryReason::Format,
            1 => RecoveryReason::Restart,
            2 => RecoveryReason::QuorumLoss,
            3 => RecoveryReason::Corruption,
            4 => RecoveryReason::Operator,
            5.. => return None,
        })
    }
}

impl RecoveryEvidence {
    /// The body of a `Recovery` prepare.
    #[must_use]
    pub fn to_body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.encode(&mut Encoder::new(&mut body));
        body
    }

    pub fn from_body(body: &[u8]) -> Result<RecoveryEvidence, DecodeError> {
        let mut decoder = Decoder::new(body);
        let evidence = RecoveryEvidence::decode(&mut decoder)?;
        decoder.finish()?;
        Ok(evidence)
    }

    fn encode(&self, encoder: &mut Encoder<'_>) {
        encoder.array(9);
        encoder.uint(self.view.get()).uint(self.committed.get()).uint(self.recovery_point.get());
        encoder.option(self.discarded, |encoder, (first, last)| {
            encoder.array(2).uint(first.get()).uint(last.get());
        });
        encoder.uint(self.unrecorded_views).uint(self.reason as u64);
        encoder.array(self.tenants.len());
        for (tenant, hash) in &self.tenants {
            encoder.array(2).uint(tenant.get()).bytes(&hash.0);
        }
        encoder.uint(self.last_time.0).uint(u64::from(self.clock_accepted));
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<RecoveryEvidence, DecodeError> {
        decoder.record(9)?;
        Ok(RecoveryEvidence {
            view: View::new(decoder.uint()?),
            committed: Op::new(decoder.uint()?),
            recovery_point: Op::new(decoder.uint()?),
            discarded: decoder.option(|decoder| {
                decoder.record(2)?;
                Ok((Op::new(decoder.uint()?), Op::new(decoder.uint()?)))
            })?,
            unrecorded_views: decoder.uint()?,
            reason: {
                let code = decoder.u8()?;
                match RecoveryReason::from_code(code) {
                    Some(reason) => reason,
                    None => return decoder.error("unknown reason of a recovery"),
                }
            },
            tenants: {
                let count = decoder.array()?;
                let mut tenants = Vec::with_capacity(count);
                for _ in 0..count {
                    decoder.record(2)?;
                    tenants.push((TenantId::new(decoder.uint()?), KekHash(decoder.fixed()?)));
                }
                tenants
            },
            last_time: Timestamp(decoder.uint()?),
            clock_accepted: match decoder.uint()? {
                0 => false,
                1 => true,
                2.. => return decoder.error("neither yes nor no"),
            },
        })
    }
}

impl RecoveryRecord {
    pub(super) fn encode(&self, encoder: &mut Encoder<'_>) {
        encoder.array(4).uint(self.generation.get()).uint(self.previous.get());
        self.evidence.encode(encoder);
        encoder.uint(self.time.0);
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<RecoveryRecord, DecodeError> {
        decoder.record(4)?;
        Ok(RecoveryRecord {
            generation: Generation::new(decoder.uint()?),
            previous: Generation::new(decoder.uint()?),
            evidence: RecoveryEvidence::decode(decoder)?,
            time: Timestamp(decoder.uint()?),
        })
    }
}
