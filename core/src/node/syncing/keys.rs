//! Keys of the tenants of the checkpoint that is being fetched.
//!
//! The tree of tenants is the system's: its pages open, and name each tenant's KEK by its hash. A
//! tenant whose keys of that hash are not durable here waits with all of its trees, and with it the
//! end of the pages, until a peer has given them. Invariant: a checkpoint is installed only when
//! every tenant in it has its keys.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use rand_core::Rng;

use super::Syncing;
use crate::crypto::KekHash;
use crate::event::Event;
use crate::ids::{ReplicaId, TenantId};
use crate::io::{Effects, Page};
use crate::kernel::trees::{TENANTS_TREE, TenantEntry, tenant_of_key};
use crate::keyring::{Keep, KeyringError, KeyringEvent};
use crate::limits::{KEYS_ASK_NS, KEYS_ASKED_MAX};
use crate::node::api::Halt;
use crate::node::halt::keyring_halt;
use crate::node::syncing::damaged;
use crate::store::walk::{Wanted, leaf_entries};
use crate::time::{Clock, Instant};
use crate::vsr::message::{KeysName, Payload};

/// Tenants of the checkpoint, as far as it was walked.
#[derive(Debug, Default)]
pub(super) struct KeysWanted {
    /// Their keys are durable here, if they are not missing.
    known: BTreeMap<TenantId, KekHash>,
    missing: BTreeMap<TenantId, KekHash>,
    /// Pages of tenants whose keys are not at hand, or not known to be the right ones.
    held: BTreeMap<TenantId, Vec<Wanted>>,
    asked_at: Option<Instant>,
}

impl KeysWanted {
    /// Nothing waits for keys.
    pub fn is_done(&self) -> bool {
        self.missing.is_empty() && self.held.is_empty()
    }

    /// Puts a page away whose key is not known to be at hand; else gives it back.
    pub fn hold(&mut self, wanted: Wanted) -> Option<Wanted> {
        let tenant = wanted.tree.tenant;
        // Those of format are the same everywhere.
        if tenant <= TenantId::DEFAULT
            || (self.known.contains_key(&tenant) && !self.missing.contains_key(&tenant))
        {
            return Some(wanted);
        }
        self.held.entry(tenant).or_default().push(wanted);
        None
    }

    /// A page whose keys have come.
    pub fn release(&mut self) -> Option<Wanted> {
        let KeysWanted { known, missing, held, .. } = self;
        let ready = |tenant: &TenantId| known.contains_key(tenant) && !missing.contains_key(tenant);
        let tenant = *held.keys().find(|tenant| ready(tenant))?;
        let pages = held.get_mut(&tenant)?;
        let page = pages.pop();
        if pages.is_empty() {
            held.remove(&tenant);
        }
        page
    }
}

impl Syncing {
    /// A page of the checkpoint, opened: what it says of tenants.
    pub(super) fn note_tenants(
        &mut self,
        wanted: &Wanted,
        page: &Page,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        if wanted.tree != TENANTS_TREE {
            return Ok(());
        }
        for (key, value) in leaf_entries(page) {
            let entry = TenantEntry::decode(value).map_err(|error| damaged("grid", error))?;
            let (tenant, kek_hash) = (tenant_of_key(key), entry.kek_hash);
            self.keys.known.insert(tenant, kek_hash);
            #[cfg(verity_zoo)]
            if crate::zoo::is("sync_keys_unasked") {
                continue;
            }
            if self.keyring().kek_hash(tenant) != Some(kek_hash) {
                effects.event(Event::KeysAwaited { tenant });
                self.keys.missing.insert(tenant, kek_hash);
            }
        }
        Ok(())
    }

    pub(super) fn ask_for_keys(&mut self, now: Clock) {
        let asked = self.keys.asked_at;
        if self.keys.missing.is_empty()
            || asked.is_some_and(|at| now.monotonic.since_ns(at) < KEYS_ASK_NS)
        {
            return;
        }
        self.keys.asked_at = Some(now.monotonic);
        let state = *self.state();
        for (tenant, kek_hash) in self.keys.missing.iter().take(KEYS_ASKED_MAX) {
            let keys = KeysName { tenant: *tenant, kek_hash: *kek_hash };
            for peer in (0..state.replica_count).map(ReplicaId::new) {
                if peer != state.replica {
                    self.outbox.push((peer, Payload::RequestKeys(keys)));
                }
            }
        }
    }

    pub(super) fn on_keys(&mut self, keys: KeysName, entries: &[u8], effects: &mut Effects) {
        let KeysName { tenant, kek_hash } = keys;
        if self.keys.missing.get(&tenant) != Some(&kek_hash) {
            return;
        }
        match self.keyring().keep(tenant, kek_hash, entries, effects) {
            Keep::Held => drop(self.keys.missing.remove(&tenant)),
            // They are asked for again until they are durable.
            Keep::Started | Keep::Busy | Keep::Refused | Keep::Full => {}
        }
    }

    pub(super) fn on_request_keys(&mut self, from: ReplicaId, keys: KeysName) {
        let mut nonce = [0; 12];
        self.random.fill_bytes(&mut nonce);
        let entries = self.keyring().keys_to_send(keys.tenant, keys.kek_hash, nonce);
        if let Some(entries) = entries {
            self.outbox.push((from, Payload::Keys { keys, entries }));
        }
    }

    pub(super) fn on_keyring(
        &mut self,
        event: Result<KeyringEvent, KeyringError>,
    ) -> Result<(), Halt> {
        match event.map_err(keyring_halt)? {
            KeyringEvent::Pending => Ok(()),
            KeyringEvent::Kept { tenant, kek_hash } => {
                if self.keys.missing.get(&tenant) == Some(&kek_hash) {
                    self.keys.missing.remove(&tenant);
                    // The others wait no longer than they must.
                    self.keys.asked_at = None;
                }
                Ok(())
            }
            KeyringEvent::Minted { .. }
            | KeyringEvent::Created
            | KeyringEvent::Opened { .. }
            | KeyringEvent::Healed => unreachable!("nobody asked the keyring for that"),
        }
    }
}
