//! Sealers of tenants, so that callers seal their own requests while the node works.
//!
//! Invariant: before a caller is answered, a sealer that its request has outdated is gone. So
//! whoever has seen a change of schema never seals by the schema before it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use verity_core::ids::TenantId;
use verity_core::kernel::{Request, SealedRequest, Sealer};
use verity_core::node::Node;
use verity_core::time::Timestamp;

use crate::random::RandomPool;

/// Tenants whose callers seal; those of others leave it to the node.
const SEALERS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Sealers {
    of: RwLock<BTreeMap<TenantId, Arc<Sealer>>>,
    nonces: RandomPool,
}

/// What a caller hands to the node.
#[derive(Debug)]
pub(super) enum Asked {
    Request(Request),
    Sealed(SealedRequest),
}

impl Sealers {
    fn get(&self, tenant: TenantId) -> Option<Arc<Sealer>> {
        self.of.read().unwrap_or_else(PoisonError::into_inner).get(&tenant).map(Arc::clone)
    }

    /// Sealed, if it is a plain request and a sealer is at hand; else as it is.
    pub fn seal(&self, request: Request, now: Timestamp) -> Asked {
        let Some(sealer) = self.get(request.tenant) else { return Asked::Request(request) };
        // No randomness: the node has its own.
        let Ok(nonce) = self.nonces.draw() else { return Asked::Request(request) };
        match sealer.seal(&request, now, nonce) {
            Some(sealed) => Asked::Sealed(sealed),
            None => Asked::Request(request),
        }
    }

    /// A request of this tenant came unsealed.
    pub fn learn(&self, node: &Node, tenant: TenantId) {
        if self.get(tenant).is_some() {
            return;
        }
        let Some(sealer) = node.sealer(tenant) else { return };
        let mut of = self.of.write().unwrap_or_else(PoisonError::into_inner);
        if of.len() < SEALERS_MAX {
            of.insert(tenant, Arc::new(sealer));
        }
    }

    /// Drops what is outdated.
    pub fn check(&self, node: &Node) {
        let of = self.of.read().unwrap_or_else(PoisonError::into_inner);
        if of.values().all(|sealer| node.sealer_holds(sealer)) {
            return;
        }
        drop(of);
        let mut of = self.of.write().unwrap_or_else(PoisonError::into_inner);
        of.retain(|_, sealer| node.sealer_holds(sealer));
    }
}
