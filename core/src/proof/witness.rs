//! What a witness says to a head: C2SP `tlog-witness`, without the network around it.
//!
//! A witness remembers, of each log that it knows, the last head that it cosigned. It cosigns a
//! newer one only with the RFC 6962 proof that this continues the one it remembers. So whoever
//! demands its cosignature is never shown two histories.
//!
//! Invariants: what is remembered never goes back; the caller makes [`Cosigned::head`] durable
//! before it hands out [`Cosigned::line`], and lets no other request in between. Fault model: the
//! request is of anybody.

use alloc::string::String;
use alloc::vec::Vec;

use crate::crypto::note::{Checkpoint, KeyKind, SignedNote, Verifier};
use crate::crypto::signature::SigningKey;
use crate::crypto::{ChainHash, merkle};
use crate::limits::WITNESS_PROOF_LINES_MAX;
use crate::stdx::base64;

/// A head that may be cosigned, and the cosignature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigned {
    pub head: Checkpoint,
    /// A signature line of a note.
    pub line: String,
}

/// Why a head is not cosigned; each has its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WitnessRefusal {
    /// Not a request of this protocol.
    Malformed,
    /// No log of this origin is known.
    UnknownOrigin,
    /// The log's key did not sign.
    NotSigned,
    /// The client takes another head for the last one; this is its size.
    Conflict { size: u64 },
    /// The log shows two heads of one size.
    Fork { size: u64 },
    /// The newer head is not shown to continue the older one.
    Inconsistent,
}

impl WitnessRefusal {
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            WitnessRefusal::Malformed => 400,
            WitnessRefusal::UnknownOrigin => 404,
            WitnessRefusal::NotSigned => 403,
            WitnessRefusal::Conflict { .. } | WitnessRefusal::Fork { .. } => 409,
            WitnessRefusal::Inconsistent => 422,
        }
    }
}

/// Who cosigns, and whose heads.
#[derive(Clone, Debug)]
pub struct Witness {
    name: String,
    key: SigningKey,
    logs: Vec<Verifier>,
}

impl Witness {
    /// `name` has neither spaces nor plus signs; see [`Verifier::new`].
    #[must_use]
    pub fn new(name: &str, key: SigningKey, logs: Vec<Verifier>) -> Witness {
        Witness { name: String::from(name), key, logs }
    }

    /// What policies list.
    #[must_use]
    pub fn verifier(&self) -> Verifier {
        Verifier::new(&self.name, KeyKind::Cosigner, self.key.verifying_key())
    }

    /// Answers `add-checkpoint`. `last`: what is remembered of the log of an origin.
    pub fn add_checkpoint(
        &self,
        request: &str,
        time_s: u64,
        last: impl FnOnce(&str) -> Option<Checkpoint>,
    ) -> Result<Cosigned, WitnessRefusal> {
        let (old, proof, note) = parse(request).ok_or(WitnessRefusal::Malformed)?;
        let note = SignedNote::parse(note).map_err(|_| WitnessRefusal::Malformed)?;
        let head = &note.checkpoint;
        let mut keys = self.logs.iter().filter(|log| log.name == head.origin).peekable();
        if keys.peek().is_none() {
            return Err(WitnessRefusal::UnknownOrigin);
        }
        if !keys.any(|log| note.signed_by(log)) {
            return Err(WitnessRefusal::NotSigned);
        }
        if old > head.size {
            return Err(WitnessRefusal::Malformed);
        }
        let last = last(&head.origin);
        let size = last.as_ref().map_or(0, |last| last.size);
        if old != size {
            return Err(WitnessRefusal::Conflict { size });
        }
        match &last {
            Some(last) if last.size == head.size && last.root != head.root => {
                return Err(WitnessRefusal::Fork { size });
            }
            Some(last) if last.size > 0 => {
                let roots = (&last.root, &head.root);
                merkle::verify_consistency(last.size, head.size, roots.0, roots.1, &proof)
                    .map_err(|_| WitnessRefusal::Inconsistent)?;
            }
            Some(_) | None if proof.is_empty() => {}
            Some(_) | None => return Err(WitnessRefusal::Inconsistent),
        }
        // What is signed is the whole text: extension lines, of which nothing is said, included.
        let line = note.cosign(&self.name, &self.key, time_s);
        Ok(Cosigned { head: head.clone(), line })
    }
}

/// What a client sends.
#[must_use]
pub fn add_checkpoint_request(old: u64, proof: &[ChainHash], note: &str) -> String {
    let mut request = alloc::format!("old {old}\n");
    for hash in proof {
        request += &base64::encode(&hash.0);
        request.push('\n');
    }
    request + "\n" + note
}

fn parse(request: &str) -> Option<(u64, Vec<ChainHash>, &str)> {
    let (head, note) = request.split_once("\n\n")?;
    let mut lines = head.split('\n');
    let old = lines.next()?.strip_prefix("old ")?;
    if old != "0" && old.starts_with(['0', '+']) {
        return None;
    }
    let old = old.parse().ok()?;
    let mut proof = Vec::new();
    for line in lines {
        if proof.len() == WITNESS_PROOF_LINES_MAX {
            return None;
        }
        proof.push(ChainHash(base64::decode(line)?.try_into().ok()?));
    }
    Some((old, proof, note))
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::vec;

    use super::*;
    use crate::crypto::Frontier;

    const ORIGIN: &str = "log.test/one";

    fn leaf(at: u64, history: u8) -> ChainHash {
        merkle::leaf_hash(&[at as u8, if at < 5 { 0 } else { history }])
    }

    fn root(begin: u64, end: u64, history: u8) -> ChainHash {
        let mut frontier = Frontier::new();
        (begin..end).for_each(|at| frontier.push_leaf_hash(leaf(at, history)));
        frontier.root()
    }

    fn note(size: u64, history: u8, key: &SigningKey) -> String {
        let root = root(0, size, history);
        let head = Checkpoint { origin: ORIGIN.into(), size, root };
        format!("{}\n{}", head.text(), head.sign(key))
    }

    fn proof(older: u64, newer: u64, history: u8) -> Vec<ChainHash> {
        let node = |level: u8, at: u64| -> Result<ChainHash, ()> {
            Ok(root(at << level, (at + 1) << level, history))
        };
        merkle::consistency_proof(older, newer, node).unwrap()
    }

    #[test]
    fn cosigns_what_continues_and_nothing_else() {
        let log_key = SigningKey::new(&[1; 32]);
        let log = Verifier::new(ORIGIN, KeyKind::Log, log_key.verifying_key());
        let witness = Witness::new("witness.test", SigningKey::new(&[2; 32]), vec![log]);
        let mut last: Option<Checkpoint> = None;
        let mut ask = |old: u64, proof: &[ChainHash], note: &str| {
            let request = add_checkpoint_request(old, proof, note);
            let answer = witness.add_checkpoint(&request, 7, |origin| {
                assert_eq!(origin, ORIGIN);
                last.clone()
            })?;
            last = Some(answer.head.clone());
            let signed = SignedNote::parse(&format!("{note}{}", answer.line)).unwrap();
            assert_eq!(signed.cosigned_by(&witness.verifier()), Some(7));
            Ok(answer.head.size)
        };
        let honest = |size| note(size, 0, &log_key);
        assert_eq!(ask(0, &proof(3, 6, 0), &honest(6)), Err(WitnessRefusal::Inconsistent));
        assert_eq!(ask(0, &[], &honest(6)), Ok(6));
        assert_eq!(ask(0, &[], &honest(9)), Err(WitnessRefusal::Conflict { size: 6 }));
        assert_eq!(ask(0, &[], &honest(3)), Err(WitnessRefusal::Conflict { size: 6 }));
        assert_eq!(ask(6, &[], &honest(9)), Err(WitnessRefusal::Inconsistent));
        assert_eq!(ask(6, &proof(5, 9, 0), &honest(9)), Err(WitnessRefusal::Inconsistent));
        assert_eq!(
            ask(6, &proof(6, 9, 1), &note(9, 1, &log_key)),
            Err(WitnessRefusal::Inconsistent)
        );
        assert_eq!(ask(6, &[], &note(6, 1, &log_key)), Err(WitnessRefusal::Fork { size: 6 }));
        assert_eq!(ask(6, &[], &honest(3)), Err(WitnessRefusal::Malformed));
        assert_eq!(ask(6, &[], &honest(6)), Ok(6));
        assert_eq!(ask(6, &proof(6, 9, 0), &honest(9)), Ok(9));
        let forged = note(12, 0, &SigningKey::new(&[3; 32]));
        assert_eq!(ask(9, &proof(9, 12, 0), &forged), Err(WitnessRefusal::NotSigned));
        let other = honest(12).replace(ORIGIN, "log.test/two");
        assert_eq!(ask(9, &[], &other), Err(WitnessRefusal::UnknownOrigin));
        for bad in ["", "old", "old 09\n\nx", "old 9\nx\n\nx", "old 9\n\nnot a note"] {
            let answer = witness.add_checkpoint(bad, 7, |_| None);
            assert_eq!(answer, Err(WitnessRefusal::Malformed), "{bad:?}");
        }
        let many = vec![ChainHash::ZERO; WITNESS_PROOF_LINES_MAX + 1];
        assert_eq!(ask(9, &many, &honest(12)), Err(WitnessRefusal::Malformed));
        assert_eq!(ask(9, &proof(9, 12, 0), &honest(12)), Ok(12));
    }
}
