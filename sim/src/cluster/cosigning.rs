//! Heads of the cluster's log that nodes cosign: each frame that carries a cosignature is judged as
//! it leaves, and in the end every head is held against the log.
//!
//! Purpose: what a cosignature claims. Invariants checked: whoever signs has applied the
//! attestation of the head; its superblock, as a power cut would leave it, holds the head; it never
//! goes back to a shorter one, unless its disk did; one size has one root, whoever names it; and
//! each head is one that the log had.

use std::collections::BTreeMap;

use verity_core::crypto::ChainHash;
use verity_core::ids::{Op, TenantId};
use verity_core::vsr::message::{HeadName, Message, Payload};

use super::members::durable_superblock_of;
use super::{CLUSTER, Cluster};
use crate::report::{Failure, FailureKind};

/// Longer frames hold no cosignature.
const FRAME_MAX: usize = 512;

/// What was said of heads.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// Of each size, and who named it first.
    roots: BTreeMap<u64, (ChainHash, usize)>,
    /// Which op attested it.
    ops: BTreeMap<u64, Op>,
    /// The newest that each node signed for a peer, of its disk.
    signed: BTreeMap<usize, u64>,
}

impl Heads {
    /// Another disk, or an older one, knows nothing of what was signed.
    pub fn forget(&mut self, who: usize) {
        self.signed.remove(&who);
    }

    pub fn name(&mut self, who: usize, size: u64, root: ChainHash) -> Result<(), String> {
        let (known, first) = self.roots.entry(size).or_insert((root, who));
        if *known == root {
            return Ok(());
        }
        Err(format!(
            "two histories: of {size} records node {who} names the root {root:?}, node {first} \
             {known:?}"
        ))
    }

    fn signs(&mut self, who: usize, size: u64) -> Result<(), String> {
        let newest = self.signed.entry(who).or_default();
        if size < *newest {
            return Err(format!("node {who} cosigns {size} records after {newest}"));
        }
        *newest = size;
        Ok(())
    }
}

impl Cluster {
    pub(super) fn check_cosignature(&mut self, who: usize, frame: &[u8]) -> Result<(), String> {
        if frame.len() > FRAME_MAX {
            return Ok(());
        }
        let Ok(message) = Message::decode(frame, CLUSTER, self.members.len() as u8) else {
            return Ok(());
        };
        match message.payload {
            Payload::RequestCosignature { head, op } => {
                self.heads.ops.insert(head.size, op);
                self.heads.name(who, head.size, head.root)
            }
            Payload::Cosignature { head, .. } => {
                self.seen.cosignatures += 1;
                self.check_signs(who, head)
            }
            _ => Ok(()),
        }
    }

    fn check_signs(&mut self, who: usize, head: HeadName) -> Result<(), String> {
        self.heads.name(who, head.size, head.root)?;
        self.heads.signs(who, head.size)?;
        let member = &self.members[who];
        let applied = member.node.as_ref().and_then(|node| node.status()).map(|it| it.applied);
        let attested = self.heads.ops.get(&head.size).copied();
        if attested.is_none() || applied < attested {
            return Err(format!(
                "node {who} cosigns {} records, which op {attested:?} attests, and has applied \
                 {applied:?}",
                head.size
            ));
        }
        self.check_cosigned(who, head.size)
    }

    /// A power cut now would leave the head in the superblock of who signs it.
    pub(super) fn check_cosigned(&mut self, who: usize, size: u64) -> Result<(), String> {
        let state = durable_superblock_of(&self.members[who].disk);
        let Some(cosigned) = state.map(|state| state.cosigned) else {
            return Err(format!("node {who} cosigns and has no superblock"));
        };
        if cosigned.size < size {
            return Err(format!(
                "node {who} cosigns {size} records, and its superblock knows of {}",
                cosigned.size
            ));
        }
        self.heads.name(who, cosigned.size, cosigned.hash)
    }

    /// Every head that anybody named is one of the log that all have. Those behind the newest
    /// checkpoint are on no disk yet.
    pub(super) fn compare_heads(&mut self) -> Result<(), Failure> {
        let Some(first) = self.members.iter().find(|member| member.checkpoint.is_some()) else {
            return Ok(());
        };
        let mut wrong = None;
        let mut found = 0;
        super::agreement::each_record(&first.disk, TenantId::SYSTEM, |view| {
            let size = view.record.metadata.position.get();
            let Some((root, who)) = self.heads.roots.get(&size) else { return };
            found += 1;
            if *root != view.frontier.root() && wrong.is_none() {
                wrong = Some(format!("node {who} named a head of {size} records of no log"));
            }
        });
        self.seen.heads_compared += found;
        match wrong {
            None => Ok(()),
            Some(detail) => Err(Failure::new(FailureKind::Twin, detail)),
        }
    }
}
