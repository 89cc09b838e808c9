//! Ed25519 (RFC 8032): heads of logs and cosignatures.
//!
//! Purpose: a deterministic signature, so that every replica makes the same bytes, and one rule of
//! verification, so that no two verifiers disagree. The rule: cofactorless equation, `S` below the
//! group order, and neither `A` nor `R` of small order or, being compared as bytes, non-canonical
//! (`verify_strict`). `core/tests/corpora_crypto.rs` pins which edge cases pass.
//!
//! Fault model: keys and signatures come from strangers; what is wrong with them is a typed error.

use core::fmt;

use ed25519_dalek::Signer;

pub const SIGNATURE_SIZE: usize = 64;

/// A secret key; wiped when dropped.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

/// A public key: a point of the curve, not of small order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; SIGNATURE_SIZE]);

/// Why a signature is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureError {
    /// The bytes are no point of the curve, or one of small order.
    BadKey,
    /// The signature is not the key's over this message.
    BadSignature,
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SignatureError::BadKey => "not a valid Ed25519 public key",
            SignatureError::BadSignature => "the signature is not this key's over this message",
        })
    }
}

impl core::error::Error for SignatureError {}

impl SigningKey {
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> SigningKey {
        SigningKey(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }

    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl VerifyingKey {
    pub fn new(bytes: &[u8; 32]) -> Result<VerifyingKey, SignatureError> {
        let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(bytes) else {
            return Err(SignatureError::BadKey);
        };
        if key.is_weak() { Err(SignatureError::BadKey) } else { Ok(VerifyingKey(key)) }
    }

    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        let result = self.0.verify_strict(message, &signature);
        result.map_err(|_| SignatureError::BadSignature)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifyingKey(")?;
        self.to_bytes()[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(")?;
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_deterministic_and_bind_key_and_message() {
        let key = SigningKey::new(&[1; 32]);
        let signature = key.sign(b"head");
        assert_eq!(signature, key.sign(b"head"));
        let public = VerifyingKey::new(&key.verifying_key().to_bytes()).unwrap();
        assert_eq!(public.verify(b"head", &signature), Ok(()));
        assert_eq!(public.verify(b"Head", &signature), Err(SignatureError::BadSignature));
        let other = SigningKey::new(&[2; 32]).verifying_key();
        assert_eq!(other.verify(b"head", &signature), Err(SignatureError::BadSignature));
        for at in 0..SIGNATURE_SIZE {
            let mut bad = signature;
            bad.0[at] ^= 1;
            assert!(public.verify(b"head", &bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn points_of_small_order_are_no_keys() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(VerifyingKey::new(&identity), Err(SignatureError::BadKey));
        assert_eq!(VerifyingKey::new(&[0; 32]), Err(SignatureError::BadKey));
    }
}
