//! The holder of the master key: wraps and unwraps tenants' keys, as the shell does from a file.
//!
//! Fault model: it may be unavailable for a while, or hold another master key. What it returns for
//! a damaged or foreign wrapping is always `WrongMasterKey`, never a wrong key.

use verity_core::io::{KeyError, KeyPurpose, SecretKey, WrappedKey};

use crate::random::Random;

#[derive(Clone, Debug)]
pub struct MasterKey {
    key: [u8; 32],
    random: Random,
}

impl MasterKey {
    #[must_use]
    pub fn new(mut random: Random) -> MasterKey {
        MasterKey { key: random.seed_bytes(), random }
    }

    /// Nonce [12] ‖ ciphertext [32] ‖ tag [16], by a keyed BLAKE3 stream: the simulator need not
    /// use the shell's cipher, only its shape.
    pub fn wrap(&mut self, purpose: KeyPurpose, secret: &SecretKey) -> WrappedKey {
        let mut bytes = [0; 60];
        self.random.fill(&mut bytes[..12]);
        let nonce: [u8; 12] = bytes[..12].try_into().unwrap_or([0; 12]);
        let stream = self.stream(&nonce);
        for (index, byte) in secret.0.iter().enumerate() {
            bytes[12 + index] = byte ^ stream[index];
        }
        let tag = self.tag(purpose, &bytes[..44]);
        bytes[44..].copy_from_slice(&tag);
        WrappedKey(bytes)
    }

    pub fn unwrap(&self, purpose: KeyPurpose, wrapped: &WrappedKey) -> Result<SecretKey, KeyError> {
        let bytes = &wrapped.0;
        if self.tag(purpose, &bytes[..44]) != bytes[44..] {
            return Err(KeyError::WrongMasterKey);
        }
        let nonce: [u8; 12] = bytes[..12].try_into().unwrap_or([0; 12]);
        let stream = self.stream(&nonce);
        let mut secret = [0; 32];
        for (index, byte) in secret.iter_mut().enumerate() {
            *byte = bytes[12 + index] ^ stream[index];
        }
        Ok(SecretKey(secret))
    }

    fn stream(&self, nonce: &[u8; 12]) -> [u8; 32] {
        *blake3::keyed_hash(&self.key, nonce).as_bytes()
    }

    fn tag(&self, purpose: KeyPurpose, bytes: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(bytes).update(&[purpose as u8]);
        let mut tag = [0; 16];
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::MasterKey;
    use crate::random::Random;
    use verity_core::io::{KeyError, KeyPurpose, SecretKey};

    #[test]
    fn a_damaged_wrapping_opens_no_key() {
        let mut master = MasterKey::new(Random::new(1));
        let secret = SecretKey([7; 32]);
        let wrapped = master.wrap(KeyPurpose::Kek, &secret);
        assert_eq!(master.unwrap(KeyPurpose::Kek, &wrapped), Ok(secret));
        for index in 0..60 {
            let mut damaged = wrapped;
            damaged.0[index] ^= 1;
            assert_eq!(master.unwrap(KeyPurpose::Kek, &damaged), Err(KeyError::WrongMasterKey));
        }
    }
}
