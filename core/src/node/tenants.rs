//! Keys of new tenants: no op is applied without the keys that it decides for (`docs/VSR.md`, "Keys
//! of new tenants").
//!
//! Purpose: a primary has f others keep the keys of a tenant before it proposes the creation;
//! whoever applies one without its keys asks for them, and waits. Invariants: keys are replaced
//! only while they are undecided, on the word of the primary of the view in which this replica is,
//! or when an op that was applied decides for others; nothing is applied while keys are missing.
//!
//! Fault model: messages come late, twice or never; views change; a process ends amid a write of
//! the keys file. A device error stops the replica.
//!
//! Start reading at [`Running::keys_for`] (who creates), [`Running::keys_are_here`] (who applies).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use rand_core::Rng;

use crate::crypto::KekHash;
use crate::event::Event;
use crate::ids::{ReplicaId, TenantId, View};
use crate::io::Effects;
use crate::kernel::{Limit, Operation, Request, RequestError, RetryReason};
use crate::keyring::{Keep, KeyringError, KeyringEvent, Mint};
use crate::limits::{KEYS_ASK_NS, KEYS_ASKED_MAX, KEYS_PATIENCE_NS, KEYS_SAY_NS, TENANTS_MAX};
use crate::node::api::Halt;
use crate::node::format::draw_secrets;
use crate::node::halt::keyring_halt;
use crate::node::running::Running;
use crate::store::Pins;
use crate::time::{Clock, Instant};
use crate::vsr::message::{KeysName, Payload};
use crate::vsr::replica::Phase as ReplicaPhase;

mod check;

use check::Check;

/// What a node knows of keys that it lacks, or that others are to keep.
#[derive(Debug, Default)]
pub(super) struct TenantKeysWork {
    check: Check,
    /// Nothing was missing since the node opened: what is read is read with its keys.
    complete: bool,
    /// Decided by what was applied, and not durable here.
    awaited: BTreeMap<TenantId, KekHash>,
    asked_at: Option<Instant>,
    /// Tenants that this node is about to create, in the view that it leads.
    keeping: BTreeMap<TenantId, Keeping>,
    keeping_view: View,
    /// Whom to tell when what is being written is durable.
    keeper_of: Option<(ReplicaId, View)>,
}

/// Keys that others are to keep.
#[derive(Debug)]
struct Keeping {
    kek_hash: KekHash,
    since: Instant,
    said_at: Option<Instant>,
    kept_by: BTreeSet<ReplicaId>,
}

/// Whether a request may be sealed.
#[derive(Debug)]
pub(super) enum KeysStep {
    Ready,
    Later,
    Refused(RequestError),
}

impl Running {
    /// The keys of tenants that a request creates: durable here, and kept by f others, before it is
    /// sealed.
    pub(super) fn keys_for(
        &mut self,
        request: &mut Request,
        pins: &mut Pins,
        now: Clock,
        effects: &mut Effects,
    ) -> Result<KeysStep, Halt> {
        if request.tenant != TenantId::SYSTEM {
            return Ok(KeysStep::Ready);
        }
        for operation in &mut request.operations {
            let Operation::CreateTenant { tenant, kek_hash } = operation else { continue };
            if self.vsr.is_cluster() {
                match self.kernel.catalog(&self.store, *tenant) {
                    Ok(None) => {}
                    // It is refused when it is applied, whatever keys it names.
                    Ok(Some(_)) => continue,
                    Err(_fault) => {
                        self.store.fetch(pins, effects);
                        return Ok(KeysStep::Later);
                    }
                }
            }
            let Some(known) = self.keyring.kek_hash(*tenant) else {
                return self.mint(*tenant, effects);
            };
            *kek_hash = known;
            let keys = KeysName { tenant: *tenant, kek_hash: known };
            match self.kept_elsewhere(keys, now) {
                KeysStep::Ready => {}
                step @ (KeysStep::Later | KeysStep::Refused(_)) => return Ok(step),
            }
        }
        Ok(KeysStep::Ready)
    }

    fn mint(&mut self, tenant: TenantId, effects: &mut Effects) -> Result<KeysStep, Halt> {
        if !self.keyring.idle() {
            return Ok(KeysStep::Later);
        }
        let secrets = draw_secrets(&mut self.random);
        match self.keyring.mint(tenant, secrets, effects) {
            Ok(Mint::Started) => Ok(KeysStep::Later),
            Ok(Mint::Exists(_)) => unreachable!("it had no keys a moment ago"),
            Err(KeyringError::Full { keys_max }) => {
                let (value, max) = (keys_max as u64, TENANTS_MAX as u64);
                let limit = Limit::Tenants;
                Ok(KeysStep::Refused(RequestError::LimitExceeded { limit, value, max }))
            }
            Err(error) => Err(keyring_halt(error)),
        }
    }

    /// Of a cluster: whether f others have said, in the view that this node leads, that they have
    /// them. They are asked until they have.
    fn kept_elsewhere(&mut self, keys: KeysName, now: Clock) -> KeysStep {
        if !self.vsr.is_cluster() {
            return KeysStep::Ready;
        }
        let Some(view) = self.leading else { return KeysStep::Later };
        #[cfg(verity_zoo)]
        if crate::zoo::is("tenant_keys_unkept") {
            return KeysStep::Ready;
        }
        let others_needed = (usize::from(self.superblock_state().replica_count) - 1) / 2;
        let work = &mut self.tenant_keys;
        if work.keeping_view != view {
            (work.keeping_view, work.keeping) = (view, BTreeMap::new());
        }
        let kek_hash = keys.kek_hash;
        let begun =
            Keeping { kek_hash, since: now.monotonic, said_at: None, kept_by: BTreeSet::new() };
        let keeping = work.keeping.entry(keys.tenant).or_insert(begun);
        assert_eq!(keeping.kek_hash, kek_hash, "one hash for a tenant in a view");
        if keeping.kept_by.len() >= others_needed {
            return KeysStep::Ready;
        }
        if now.monotonic.since_ns(keeping.since) > KEYS_PATIENCE_NS {
            work.keeping.remove(&keys.tenant);
            return KeysStep::Refused(RequestError::Retry(RetryReason::NotReady));
        }
        let said = keeping.said_at;
        if said.is_none_or(|at| now.monotonic.since_ns(at) >= KEYS_SAY_NS) {
            keeping.said_at = Some(now.monotonic);
            let kept_by = keeping.kept_by.clone();
            self.say_keep(keys, &kept_by);
        }
        KeysStep::Later
    }

    fn say_keep(&mut self, keys: KeysName, but: &BTreeSet<ReplicaId>) {
        let Some(entries) = self.keys_to_send(keys) else { return };
        for peer in self.peers() {
            if !but.contains(&peer) {
                self.vsr.say(peer, Payload::KeepKeys { keys, entries: entries.clone() });
            }
        }
    }

    fn keys_to_send(&mut self, keys: KeysName) -> Option<Vec<u8>> {
        let mut nonce = [0; 12];
        self.random.fill_bytes(&mut nonce);
        self.keyring.keys_to_send(keys.tenant, keys.kek_hash, nonce)
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let state = self.superblock_state();
        let all = (0..state.replica_count).map(ReplicaId::new);
        all.filter(move |peer| *peer != state.replica)
    }

    /// The view that this node is in, if it has its log.
    fn normal_view(&self) -> Option<View> {
        let status = self.vsr.replica_status()?;
        (status.phase == ReplicaPhase::Normal).then_some(status.view)
    }

    /// The primary of our view is about to create a tenant.
    pub(super) fn on_keep_keys(
        &mut self,
        from: ReplicaId,
        view: View,
        keys: KeysName,
        entries: &[u8],
        effects: &mut Effects,
    ) {
        let count = u64::from(self.superblock_state().replica_count);
        let of_primary = u64::from(from.get()) == view.get() % count;
        let here = self.normal_view() == Some(view);
        // What was decided before this open is known only when all tenants were looked at.
        if !here || !of_primary || !self.tenant_keys.complete {
            return;
        }
        if self.keyring.kek_hash(keys.tenant) == Some(keys.kek_hash) {
            self.vsr.say(from, Payload::KeysKept(keys));
            return;
        }
        if self.disk_is_full() {
            return;
        }
        #[cfg(verity_zoo)]
        if crate::zoo::is("tenant_keys_unwritten") {
            self.vsr.say(from, Payload::KeysKept(keys));
            return;
        }
        match self.keyring.keep(keys.tenant, keys.kek_hash, entries, effects) {
            Keep::Started => self.tenant_keys.keeper_of = Some((from, view)),
            // It is said again, or given up.
            Keep::Held | Keep::Busy | Keep::Refused | Keep::Full => {}
        }
    }

    pub(super) fn on_keys_kept(&mut self, from: ReplicaId, view: View, keys: KeysName) {
        let work = &mut self.tenant_keys;
        if self.leading != Some(view) || work.keeping_view != view {
            return;
        }
        if let Some(keeping) = work.keeping.get_mut(&keys.tenant)
            && keeping.kek_hash == keys.kek_hash
        {
            keeping.kept_by.insert(from);
        }
    }

    pub(super) fn on_request_keys(&mut self, from: ReplicaId, keys: KeysName) {
        if let Some(entries) = self.keys_to_send(keys) {
            self.vsr.say(from, Payload::Keys { keys, entries });
        }
    }

    /// Keys that may be those that are missing here.
    pub(super) fn on_keys(&mut self, keys: KeysName, entries: &[u8], effects: &mut Effects) {
        if self.tenant_keys.awaited.get(&keys.tenant) == Some(&keys.kek_hash) {
            // One that is busy, or was given something else, asks again.
            let _ = self.keyring.keep(keys.tenant, keys.kek_hash, entries, effects);
        }
    }

    pub(super) fn on_keyring(
        &mut self,
        event: Result<KeyringEvent, KeyringError>,
    ) -> Result<(), Halt> {
        match event.map_err(keyring_halt)? {
            // Requests that wait for keys look at the keyring themselves.
            KeyringEvent::Pending | KeyringEvent::Minted { .. } => {}
            KeyringEvent::Kept { tenant, kek_hash } => {
                let told = self.tenant_keys.keeper_of.take();
                if let Some((to, view)) = told
                    && self.normal_view() == Some(view)
                {
                    self.vsr.say(to, Payload::KeysKept(KeysName { tenant, kek_hash }));
                }
                self.settle_awaited();
            }
            KeyringEvent::Created | KeyringEvent::Opened { .. } | KeyringEvent::Healed => {
                unreachable!("the keyring is open already")
            }
        }
        Ok(())
    }

    /// What was applied has created these tenants, or was opened with them.
    pub(super) fn tenants_decided(
        &mut self,
        tenants: &[(TenantId, KekHash)],
        effects: &mut Effects,
    ) {
        for (tenant, kek_hash) in tenants {
            self.tenant_keys.keeping.remove(tenant);
            #[cfg(verity_zoo)]
            if crate::zoo::is("tenant_keys_not_awaited") {
                continue;
            }
            if !self.keyring.decide(*tenant, *kek_hash) {
                effects.event(Event::KeysAwaited { tenant: *tenant });
                self.tenant_keys.awaited.insert(*tenant, *kek_hash);
                self.tenant_keys.asked_at = None;
            }
        }
    }

    /// Whether the next op may be applied.
    pub(super) fn keys_are_here(&self) -> bool {
        let work = &self.tenant_keys;
        !self.vsr.is_cluster() || (work.check.is_done() && work.awaited.is_empty())
    }

    /// Whether there are keys for all that may be read.
    pub(super) fn keys_are_complete(&self) -> bool {
        !self.vsr.is_cluster() || self.tenant_keys.complete
    }

    /// What is durable now is not awaited any more.
    fn settle_awaited(&mut self) {
        let Running { keyring, tenant_keys: work, .. } = self;
        work.awaited.retain(|tenant, kek_hash| !keyring.decide(*tenant, *kek_hash));
        work.complete |= work.check.is_done() && work.awaited.is_empty();
    }

    /// Asks all peers for keys that are missing here.
    pub(super) fn ask_for_keys(&mut self, now: Clock) {
        let asked = self.tenant_keys.asked_at;
        if self.tenant_keys.awaited.is_empty()
            || asked.is_some_and(|at| now.monotonic.since_ns(at) < KEYS_ASK_NS)
        {
            return;
        }
        self.settle_awaited();
        self.tenant_keys.asked_at = Some(now.monotonic);
        let awaited = self.tenant_keys.awaited.iter().take(KEYS_ASKED_MAX);
        let wanted: Vec<KeysName> = awaited
            .map(|(tenant, kek_hash)| KeysName { tenant: *tenant, kek_hash: *kek_hash })
            .collect();
        for keys in wanted {
            for peer in self.peers() {
                self.vsr.say(peer, Payload::RequestKeys(keys));
            }
        }
    }
}
