//! Signed notes: the heads of logs as other people's tools read them.
//!
//! C2SP `signed-note`, `tlog-checkpoint` and `tlog-cosignature` (v1), Ed25519 only:
//!
//! ```text
//! origin ⏎ size ⏎ base64(root) ⏎ ⏎ — name base64(key id ‖ signature) ⏎ …
//! key id    = SHA-256(name ‖ ⏎ ‖ algorithm ‖ public key)[..4]
//! verifier  = name+hex(key id)+base64(algorithm ‖ public key)
//! algorithm = 0x01 of a log: signature over the text up to the empty line
//!             0x04 of a cosigner: time u64 big endian ‖ signature over
//!             "cosignature/v1" ⏎ "time " seconds ⏎ and the text
//! ```
//!
//! Invariants: signing is deterministic; lines with extensions may follow the root and are covered
//! by every signature. Lines of keys that are not asked for mean nothing, so that other kinds of
//! signatures (post-quantum ones) can stand beside ours.
//!
//! Fault model: a note is text of a stranger: bounded, and refused unless every line has the form.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::crypto::hash::ChainHash;
use crate::crypto::signature::{SIGNATURE_SIZE, Signature, SigningKey, VerifyingKey};
use crate::limits::{NOTE_SIGNATURES_MAX, NOTE_SIZE_MAX};
use crate::stdx::base64;

/// What a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// The log itself.
    Log,
    /// A replica or a witness, which says when.
    Cosigner,
}

impl KeyKind {
    const fn algorithm(self) -> u8 {
        match self {
            KeyKind::Log => 0x01,
            KeyKind::Cosigner => 0x04,
        }
    }
}

/// A public key with its name: what policies list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    pub name: String,
    pub kind: KeyKind,
    pub key: VerifyingKey,
}

/// Why text is no note, or no verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteError {
    TooLong,
    /// No empty line between text and signatures, or a line that is not a signature.
    Malformed,
    /// Origin, size and root are not the first three lines.
    NotACheckpoint,
    TooManySignatures,
    /// Not `name+id+key`, or the id is not the key's.
    BadVerifier,
}

impl fmt::Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoteError::TooLong => "the note is too long",
            NoteError::Malformed => "not a signed note",
            NoteError::NotACheckpoint => "the note is not a checkpoint of a log",
            NoteError::TooManySignatures => "the note has too many signatures",
            NoteError::BadVerifier => "not a verifier key (name+id+key)",
        })
    }
}

impl core::error::Error for NoteError {}

impl Verifier {
    #[must_use]
    pub fn new(name: &str, kind: KeyKind, key: VerifyingKey) -> Verifier {
        assert!(name_fits(name), "names of keys have no space and no plus");
        Verifier { name: name.to_string(), kind, key }
    }

    /// `name+hex(key id)+base64(algorithm ‖ public key)`.
    pub fn parse(text: &str) -> Result<Verifier, NoteError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::BadVerifier);
        };
        let key = base64::decode(key).ok_or(NoteError::BadVerifier)?;
        let (kind, key) = match key.split_first() {
            Some((0x01, key)) => (KeyKind::Log, key),
            Some((0x04, key)) => (KeyKind::Cosigner, key),
            Some(_) | None => return Err(NoteError::BadVerifier),
        };
        let key: &[u8; 32] = key.try_into().map_err(|_| NoteError::BadVerifier)?;
        let key = VerifyingKey::new(key).map_err(|_| NoteError::BadVerifier)?;
        if !name_fits(name) {
            return Err(NoteError::BadVerifier);
        }
        let verifier = Verifier { name: name.to_string(), kind, key };
        if id == hex(&verifier.id()) { Ok(verifier) } else { Err(NoteError::BadVerifier) }
    }

    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        let hash = ChainHash::of(&[
            self.name.as_bytes(),
            b"\n",
            &[self.kind.algorithm()],
            &self.key.to_bytes(),
        ]);
        let [a, b, c, d, ..] = hash.0;
        [a, b, c, d]
    }

    /// The line of a signature: after the note's text.
    fn line(&self, signature: &[u8]) -> String {
        let mut bytes = self.id().to_vec();
        bytes.extend_from_slice(signature);
        format!("\u{2014} {} {}\n", self.name, base64::encode(&bytes))
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = alloc::vec![self.kind.algorithm()];
        key.extend_from_slice(&self.key.to_bytes());
        write!(f, "{}+{}+{}", self.name, hex(&self.id()), base64::encode(&key))
    }
}

/// The head of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: ChainHash,
}

impl Checkpoint {
    /// What is signed.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, base64::encode(&self.root.0))
    }

    /// The line of the log's own signature.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> String {
        let verifier = Verifier::new(&self.origin, KeyKind::Log, key.verifying_key());
        verifier.line(&key.sign(self.text().as_bytes()).0)
    }

    /// The line of a cosigner, who saw this head at `time_s` seconds after 1970.
    #[must_use]
    pub fn cosign(&self, name: &str, key: &SigningKey, time_s: u64) -> String {
        Cosignature::new(&self.text(), key, time_s).line(name)
    }
}

/// A cosignature before it has a name: who saw a head, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cosignature {
    pub key: VerifyingKey,
    /// Seconds after 1970.
    pub time_s: u64,
    pub signature: Signature,
}

impl Cosignature {
    /// Of a checkpoint's text.
    #[must_use]
    pub fn new(text: &str, key: &SigningKey, time_s: u64) -> Cosignature {
        let signature = key.sign(&cosigned(text, time_s));
        Cosignature { key: key.verifying_key(), time_s, signature }
    }

    #[must_use]
    pub fn verifies(&self, text: &str) -> bool {
        self.key.verify(&cosigned(text, self.time_s), &self.signature).is_ok()
    }

    /// As it stands in a note.
    #[must_use]
    pub fn line(&self, name: &str) -> String {
        let mut signature = self.time_s.to_be_bytes().to_vec();
        signature.extend_from_slice(&self.signature.0);
        Verifier::new(name, KeyKind::Cosigner, self.key).line(&signature)
    }
}

fn cosigned(text: &str, time_s: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {time_s}\n{text}").into_bytes()
}

/// A checkpoint and its signatures, none of them checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedNote {
    pub checkpoint: Checkpoint,
    /// All that is signed, extension lines included.
    text: String,
    /// Name, key id, signature.
    signatures: Vec<(String, [u8; 4], Vec<u8>)>,
}

impl SignedNote {
    pub fn parse(note: &str) -> Result<SignedNote, NoteError> {
        if note.len() > NOTE_SIZE_MAX {
            return Err(NoteError::TooLong);
        }
        if note.chars().any(|letter| letter.is_control() && letter != '\n') {
            return Err(NoteError::Malformed);
        }
        let at = note.rfind("\n\n").ok_or(NoteError::Malformed)?;
        let (text, lines) = (&note[..=at], &note[at + 2..]);
        let mut signatures = Vec::new();
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Malformed)?;
        for line in lines.split('\n') {
            let line = line.strip_prefix("\u{2014} ").ok_or(NoteError::Malformed)?;
            let (name, bytes) = line.split_once(' ').ok_or(NoteError::Malformed)?;
            let bytes = base64::decode(bytes).ok_or(NoteError::Malformed)?;
            let Some((id, signature)) = bytes.split_first_chunk::<4>() else {
                return Err(NoteError::Malformed);
            };
            if !name_fits(name) || signature.is_empty() {
                return Err(NoteError::Malformed);
            }
            if signatures.len() == NOTE_SIGNATURES_MAX {
                return Err(NoteError::TooManySignatures);
            }
            signatures.push((name.to_string(), *id, signature.to_vec()));
        }
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteError::NotACheckpoint);
        };
        let canonical = size == "0" || !size.starts_with(['0', '+']);
        let (Some(size), Some(root)) = (
            size.parse().ok().filter(|_| canonical),
            base64::decode(root).and_then(|root| <[u8; 32]>::try_from(root).ok()),
        ) else {
            return Err(NoteError::NotACheckpoint);
        };
        if origin.is_empty() {
            return Err(NoteError::NotACheckpoint);
        }
        let checkpoint = Checkpoint { origin: origin.to_string(), size, root: ChainHash(root) };
        Ok(SignedNote { checkpoint, text: text.to_string(), signatures })
    }

    /// The line of a cosigner, who saw this head at `time_s` seconds after 1970; as
    /// [`Checkpoint::cosign`], for a text that may have extension lines.
    #[must_use]
    pub fn cosign(&self, name: &str, key: &SigningKey, time_s: u64) -> String {
        Cosignature::new(&self.text, key, time_s).line(name)
    }

    /// Did the log sign it?
    #[must_use]
    pub fn signed_by(&self, verifier: &Verifier) -> bool {
        verifier.kind == KeyKind::Log
            && self.of(verifier).any(|signature| {
                <[u8; SIGNATURE_SIZE]>::try_from(signature).is_ok_and(|signature| {
                    let text = self.text.as_bytes();
                    verifier.key.verify(text, &Signature(signature)).is_ok()
                })
            })
    }

    /// The latest time at which the cosigner says it saw the head, in seconds after 1970.
    #[must_use]
    pub fn cosigned_by(&self, verifier: &Verifier) -> Option<u64> {
        if verifier.kind != KeyKind::Cosigner {
            return None;
        }
        self.of(verifier)
            .filter_map(|signature| {
                let (time, signature) = signature.split_first_chunk::<8>()?;
                let time_s = u64::from_be_bytes(*time);
                let signature = Signature(signature.try_into().ok()?);
                let message = cosigned(&self.text, time_s);
                verifier.key.verify(&message, &signature).is_ok().then_some(time_s)
            })
            .max()
    }

    fn of<'a>(&'a self, verifier: &'a Verifier) -> impl Iterator<Item = &'a [u8]> {
        let id = verifier.id();
        self.signatures
            .iter()
            .filter(move |(name, key_id, _)| *name == verifier.name && *key_id == id)
            .map(|(_, _, signature)| signature.as_slice())
    }
}

fn name_fits(name: &str) -> bool {
    !name.is_empty() && !name.contains(|letter: char| letter.is_whitespace() || letter == '+')
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "example.org/log".into(), size: 7, root: ChainHash::of(&[b"x"]) }
    }

    #[test]
    fn what_was_signed_verifies_and_nothing_else() {
        let (log, replica) = (SigningKey::new(&[1; 32]), SigningKey::new(&[2; 32]));
        let text = checkpoint().text();
        let lines =
            checkpoint().sign(&log) + &checkpoint().cosign("replica-0", &replica, 1_795_000_000);
        let note = SignedNote::parse(&format!("{text}\n{lines}")).unwrap();
        assert_eq!(note.checkpoint, checkpoint());
        let of_log = Verifier::new("example.org/log", KeyKind::Log, log.verifying_key());
        let of_replica = Verifier::new("replica-0", KeyKind::Cosigner, replica.verifying_key());
        assert!(note.signed_by(&of_log));
        assert_eq!(note.cosigned_by(&of_replica), Some(1_795_000_000));
        for verifier in [&of_log, &of_replica] {
            assert_eq!(Verifier::parse(&verifier.to_string()).as_ref(), Ok(verifier));
        }
        let swapped = Verifier::new("replica-0", KeyKind::Cosigner, log.verifying_key());
        assert_eq!(note.cosigned_by(&swapped), None);
        assert!(!note.signed_by(&of_replica));
        let other = text.replace("\n7\n", "\n8\n");
        let forged = SignedNote::parse(&format!("{other}\n{lines}")).unwrap();
        assert!(!forged.signed_by(&of_log) && forged.cosigned_by(&of_replica).is_none());
        let extended = SignedNote::parse(&format!("{text}extension\n\n{lines}")).unwrap();
        assert!(!extended.signed_by(&of_log), "extensions are signed too");
    }

    #[test]
    fn text_of_another_form_is_refused() {
        let line = checkpoint().sign(&SigningKey::new(&[1; 32]));
        let text = checkpoint().text();
        let whole = format!("{text}\n{line}");
        assert!(SignedNote::parse(&whole).is_ok());
        for bad in [
            String::new(),
            text.clone(),
            format!("{text}\n"),
            format!("{text}{line}"),
            format!("{whole}x"),
            whole.trim_end().into(),
            whole.replace("\n7\n", "\n07\n"),
            whole.replace("\n7\n", "\n+7\n"),
            whole.replace("\n7\n", "\n7\r\n"),
            whole.replace('\u{2014}', "-"),
            format!("\n{whole}"),
        ] {
            assert!(SignedNote::parse(&bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a+b", "a b+00000000+AA==", "example+12345678+AQ=="] {
            assert!(Verifier::parse(bad).is_err());
        }
    }
}
