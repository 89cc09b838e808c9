//! Keys on their way between replicas of a cluster (`docs/VSR.md`, "Keys of new tenants").
//!
//! Purpose: what of a tenant travels, and what is believed of what comes. Invariants: a KEK travels
//! sealed under a key that only replicas of this cluster have, data keys as they lie in the file;
//! nothing is kept that does not have the hash it is named by; keys that are decided, by an op that
//! was applied or by state that was opened, are never replaced.
//!
//! Start reading at [`Keyring::keys_to_send`], [`Keyring::keep`].

use alloc::vec::Vec;

use super::format::{Entry, KeyKind, decode_entries, encode_entries};
use super::{DataSlot, Keyring, KeyringEvent};
use crate::crypto::keys::{Kek, KekHash};
use crate::ids::{KeyId, TenantId};
use crate::io::Effects;
use crate::limits::{KEYS_MAX, KEYS_PER_TENANT_MAX};

/// What became of keys that came from another replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// They are durable here already.
    Held,
    /// [`KeyringEvent::Kept`] will tell.
    Started,
    /// The keyring does something else: to be sent again.
    Busy,
    /// They are not what they are named, or the tenant's own keys are decided.
    Refused,
    /// There is no room for another tenant's keys.
    Full,
}

impl Keyring {
    /// A tenant's keys for another replica, if the ones of this hash are durable here. The nonce
    /// must be random.
    #[must_use]
    pub fn keys_to_send(
        &self,
        tenant: TenantId,
        kek_hash: KekHash,
        nonce: [u8; 12],
    ) -> Option<Vec<u8>> {
        if self.kek_hash(tenant) != Some(kek_hash) {
            return None;
        }
        let transfer = self.tenant(TenantId::SYSTEM)?.transfer();
        let ring = self.tenants.get(&tenant)?;
        let origin = ring.kek.origin;
        let wrapped = transfer.wrap(nonce, origin, tenant, &kek_hash, ring.secret.as_ref()?);
        let mut entries = Vec::from([Entry { kind: KeyKind::KekOnTheWay, wrapped, ..ring.kek }]);
        entries.extend(ring.data_keys.iter().map(|slot| slot.entry));
        Some(encode_entries(&entries))
    }

    /// Takes the keys of a tenant that another replica sent, in place of undecided ones. The caller
    /// answers for that: they may still be somebody's.
    pub fn keep(
        &mut self,
        tenant: TenantId,
        kek_hash: KekHash,
        bytes: &[u8],
        effects: &mut Effects,
    ) -> Keep {
        if self.kek_hash(tenant) == Some(kek_hash) {
            return Keep::Held;
        }
        if !self.idle() {
            return Keep::Busy;
        }
        if self.tenants.get(&tenant).is_some_and(|ring| ring.decided) {
            return Keep::Refused;
        }
        let Some((kek, data_keys)) = self.open_keys(tenant, kek_hash, bytes) else {
            return Keep::Refused;
        };
        let before = self.tenants.get(&tenant).map_or(0, |ring| 1 + ring.data_keys.len());
        if self.entry_count() - before + 1 + data_keys.len() > KEYS_MAX {
            return Keep::Full;
        }
        let then = KeyringEvent::Kept { tenant, kek_hash };
        self.wrap(kek, tenant, data_keys, then, effects);
        Keep::Started
    }

    /// An op that was applied, or state that was opened, names this KEK for the tenant. False: it
    /// is not durable here.
    #[must_use]
    pub fn decide(&mut self, tenant: TenantId, kek_hash: KekHash) -> bool {
        let held = self.kek_hash(tenant) == Some(kek_hash);
        if let Some(ring) = self.tenants.get_mut(&tenant) {
            assert!(held || !ring.decided, "a tenant is decided once");
            ring.decided |= held;
        }
        held
    }

    fn open_keys(
        &self,
        tenant: TenantId,
        kek_hash: KekHash,
        bytes: &[u8],
    ) -> Option<(Kek, Vec<DataSlot>)> {
        let entries = decode_entries(bytes)?;
        let of_it = |entry: &Entry| {
            let Entry { tenant: of, origin, kek_hash: hash, .. } = *entry;
            of == tenant && origin == self.origin && hash == kek_hash
        };
        let (first, rest) = entries.split_first()?;
        let sizes = 1..KEYS_PER_TENANT_MAX;
        if first.kind != KeyKind::KekOnTheWay
            || !sizes.contains(&rest.len())
            || !entries.iter().all(of_it)
        {
            return None;
        }
        let transfer = self.tenant(TenantId::SYSTEM)?.transfer();
        let kek = transfer.unwrap(self.origin, tenant, &kek_hash, &first.wrapped).ok()?;
        let mut last = KeyId::ZERO;
        let mut data_keys = Vec::with_capacity(rest.len());
        for entry in rest {
            if entry.kind != KeyKind::DataKey || entry.key <= last {
                return None;
            }
            last = entry.key;
            let secret = kek.unwrap(entry.origin, tenant, entry.key, &entry.wrapped).ok()?;
            data_keys.push(DataSlot::new(*entry, secret));
        }
        Some((kek, data_keys))
    }
}
