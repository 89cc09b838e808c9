//! Random bytes for ids and nonces, drawn from the operating system many at a time.
//!
//! Invariant: no byte is given out twice.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::disk::master_key::{self, MasterKeyProblem};

/// Bytes of one draw from the operating system.
const RANDOM_POOL_SIZE: usize = 640;

#[derive(Default)]
pub struct RandomPool {
    left: Mutex<Vec<u8>>,
}

impl fmt::Debug for RandomPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RandomPool(..)")
    }
}

impl RandomPool {
    pub fn draw<const N: usize>(&self) -> Result<[u8; N], MasterKeyProblem> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.len() < N {
            *left = master_key::random::<RANDOM_POOL_SIZE>()?.to_vec();
        }
        let rest = left.len() - N;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&left[rest..]);
        left.truncate(rest);
        Ok(bytes)
    }
}
