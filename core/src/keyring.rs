//! The file `data/keys`: every tenant's wrapped keys, in two copies. They live nowhere else.
//!
//! Purpose: mint keys, keep them durable, unwrap them at open, hand out [`TenantKeys`]. Format in
//! [`format`](self::format); who holds what in `docs/CRYPTO.md`.
//!
//! Invariants:
//! - A key that [`KeyringEvent::Minted`] told of is in *both* copies, each durable and read back
//!   before the next is touched: either copy alone opens everything that was ever acknowledged.
//! - The newer copy is never the first to be overwritten.
//! - Nothing is written before the master key has opened every KEK that the file holds.
//! - Keys are random bytes that the caller draws; nothing here invents any.
//!
//! Fault model: a copy may be torn, lost, stale, rotten or unreadable: the other one opens. Both
//! bad, a foreign cluster's file or a wrong master key are typed errors that name the file. After
//! an error the keyring is not to be used again: the node halts.
//!
//! One thing at a time: create, open, heal, mint or keep; only unwrapping at open runs in parallel.
//!
//! Start reading at [`Keyring::open`].

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::OnceCell;

use crate::crypto::keys::{DataKey, Kek, KekHash, TenantKeys};
use crate::event::Event;
use crate::ids::{ClusterId, Generation, GridId, KeyId, OriginId, TenantId};
use crate::io::{
    Effect, Effects, FileId, IoError, IoId, KeyError, KeyPurpose, Owner, Pages, SecretKey,
    WrappedKey,
};
use crate::limits::{KEYS_MAX, KEYS_PER_TENANT_MAX, UNWRAPS_IN_FLIGHT_MAX};

mod copies;
mod error;
pub mod format;
mod travel;

pub use error::{CopyFault, KeyringError};
pub use travel::Keep;

use copies::{Loaded, Loading, Saving};
use format::{Entry, Image, KeyKind};

/// Random bytes for one tenant's first keys; drawn by the caller, used once.
#[derive(Debug)]
pub struct MintSecrets {
    pub kek: SecretKey,
    pub data_key: SecretKey,
    /// Nonce of the data key's wrapping under the KEK.
    pub nonce: [u8; 12],
}

impl MintSecrets {
    pub const RANDOM_SIZE: usize = 32 + 32 + 12;

    #[must_use]
    pub fn new(random: &[u8; MintSecrets::RANDOM_SIZE]) -> MintSecrets {
        let mut secrets =
            MintSecrets { kek: SecretKey([0; 32]), data_key: SecretKey([0; 32]), nonce: [0; 12] };
        secrets.kek.0.copy_from_slice(&random[..32]);
        secrets.data_key.0.copy_from_slice(&random[32..64]);
        secrets.nonce.copy_from_slice(&random[64..]);
        secrets
    }
}

/// What a completion led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyringEvent {
    /// More completions are to come.
    Pending,
    /// The empty file exists and is durable.
    Created,
    /// Every tenant's keys are at hand. With `heal_wanted` one copy is stale or damaged: call
    /// [`Keyring::heal`], unless nothing may be written.
    Opened { heal_wanted: bool },
    /// Both copies are good again.
    Healed,
    /// The tenant's keys are durable and at hand.
    Minted { tenant: TenantId, kek_hash: KekHash },
    /// So are these, which another replica made.
    Kept { tenant: TenantId, kek_hash: KekHash },
}

impl KeyringEvent {
    /// Whose keys are new.
    fn tenant(&self) -> Option<TenantId> {
        match self {
            KeyringEvent::Minted { tenant, .. } | KeyringEvent::Kept { tenant, .. } => {
                Some(*tenant)
            }
            KeyringEvent::Pending
            | KeyringEvent::Created
            | KeyringEvent::Opened { .. }
            | KeyringEvent::Healed => None,
        }
    }
}

/// What [`Keyring::mint`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mint {
    /// [`KeyringEvent::Minted`] will tell.
    Started,
    /// The tenant has keys already (its creation was cut short by a crash): they are kept.
    Exists(KekHash),
}

#[derive(Debug)]
pub struct Keyring {
    cluster: ClusterId,
    origin: OriginId,
    generation: Generation,
    grid: GridId,
    sequence: u64,
    tenants: BTreeMap<TenantId, Ring>,
    state: State,
    /// Slot of the next effect.
    slot_next: u64,
    /// The copy to overwrite first: never the only good one.
    copy_older: usize,
    heal_wanted: bool,
}

/// One tenant's keys.
#[derive(Debug)]
struct Ring {
    kek: Entry,
    /// What `kek` wraps, once it was unwrapped: other replicas may need it.
    secret: Option<Kek>,
    /// An op that was applied, or state that was opened, names this KEK: it is never replaced.
    decided: bool,
    /// In order of key id, the newest last.
    data_keys: Vec<DataSlot>,
}

#[derive(Debug)]
struct DataSlot {
    entry: Entry,
    /// Known once the KEK was unwrapped.
    secret: Option<DataKey>,
    /// Derived at first use: three ready ciphers take kilobytes, and most tenants sleep.
    keys: OnceCell<Box<TenantKeys>>,
}

#[derive(Debug)]
enum State {
    Creating { slot: u64 },
    Loading { slot: u64, loading: Loading },
    Unwrapping { waiting: Vec<TenantId>, in_flight: Vec<(u64, TenantId)> },
    Idle,
    Wrapping { slot: u64, ring: Box<Ring>, then: KeyringEvent },
    Saving { slot: u64, saving: Saving, then: KeyringEvent },
    Failed,
}

impl Keyring {
    /// At format: makes the file, without keys; mint those of the system tenant next.
    #[must_use]
    pub fn create(cluster: ClusterId, origin: OriginId, effects: &mut Effects) -> Keyring {
        let mut keyring = Keyring::new(cluster, origin, Generation::ZERO);
        let slot = keyring.slot();
        effects.push(Effect::Create { io: io(slot), file: FileId::Keys });
        keyring.state = State::Creating { slot };
        keyring
    }

    /// Reads both copies, takes the newer good one, unwraps every KEK; [`KeyringEvent::Opened`]
    /// tells when. Cluster and origin are what the superblock says.
    #[must_use]
    pub fn open(
        cluster: ClusterId,
        origin: OriginId,
        generation: Generation,
        effects: &mut Effects,
    ) -> Keyring {
        let mut keyring = Keyring::new(cluster, origin, generation);
        let slot = keyring.slot();
        let loading = Loading::start(io(slot), effects);
        keyring.state = State::Loading { slot, loading };
        keyring
    }

    /// Page keys are those of this grid, as the superblock names it. Before any key is used.
    #[must_use]
    pub fn of_grid(mut self, grid: GridId) -> Keyring {
        self.grid = grid;
        for slot in self.tenants.values_mut().flat_map(|ring| &mut ring.data_keys) {
            slot.keys = OnceCell::new();
        }
        self
    }

    fn new(cluster: ClusterId, origin: OriginId, generation: Generation) -> Keyring {
        Keyring {
            cluster,
            origin,
            generation,
            grid: GridId::ZERO,
            sequence: 0,
            tenants: BTreeMap::new(),
            state: State::Idle,
            slot_next: 0,
            copy_older: 0,
            heal_wanted: false,
        }
    }

    /// Whether a mint or a heal may begin.
    #[must_use]
    pub fn idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// The newest keys of a tenant: what new bytes are sealed with.
    #[must_use]
    pub fn tenant(&self, tenant: TenantId) -> Option<&TenantKeys> {
        let ring = self.tenants.get(&tenant)?;
        ring.data_keys.last()?.keys(self.generation, self.grid)
    }

    /// The keys of a tenant that a record names.
    #[must_use]
    pub fn tenant_key(&self, tenant: TenantId, id: KeyId) -> Option<&TenantKeys> {
        let ring = self.tenants.get(&tenant)?;
        let at = ring.data_keys.binary_search_by_key(&id, |slot| slot.entry.key).ok()?;
        ring.data_keys[at].keys(self.generation, self.grid)
    }

    /// Of keys that are durable and stay: nobody may act on a key that a crash would still take
    /// away, or that others are about to replace.
    #[must_use]
    pub fn kek_hash(&self, tenant: TenantId) -> Option<KekHash> {
        let changes = match &self.state {
            State::Wrapping { then, .. } | State::Saving { then, .. } => then.tenant(),
            State::Creating { .. }
            | State::Loading { .. }
            | State::Unwrapping { .. }
            | State::Idle
            | State::Failed => None,
        };
        let ring = self.tenants.get(&tenant).filter(|_| changes != Some(tenant));
        ring.map(|ring| ring.kek.kek_hash)
    }

    /// Of the directory, as its superblock names it.
    #[must_use]
    pub fn origin(&self) -> OriginId {
        self.origin
    }

    /// Tenants that have keys, in order.
    pub fn tenants(&self) -> impl Iterator<Item = TenantId> {
        self.tenants.keys().copied()
    }

    /// Keeps the keys of `generation` ready. Older ones still work, a little slower.
    pub fn enter(&mut self, generation: Generation) {
        self.generation = generation;
        for slot in self.tenants.values_mut().flat_map(|ring| &mut ring.data_keys) {
            if let Some(keys) = slot.keys.get_mut() {
                keys.enter(generation);
            }
        }
    }

    /// Mints a tenant's KEK and first data key. Only when [`Keyring::idle`].
    pub fn mint(
        &mut self,
        tenant: TenantId,
        secrets: MintSecrets,
        effects: &mut Effects,
    ) -> Result<Mint, KeyringError> {
        assert!(self.idle(), "the keyring does one thing at a time");
        if let Some(ring) = self.tenants.get(&tenant) {
            return Ok(Mint::Exists(ring.kek.kek_hash));
        }
        if self.entry_count() + 2 > KEYS_MAX {
            return Err(KeyringError::Full { keys_max: KEYS_MAX });
        }
        let kek = Kek::new(secrets.kek);
        let data_key = DataKey::new(secrets.data_key);
        let kek_hash = kek.hash(tenant);
        let id = FIRST_DATA_KEY;
        let wrapped = kek.wrap(secrets.nonce, self.origin, tenant, id, &data_key);
        let origin = self.origin;
        let entry = Entry { tenant, key: id, kind: KeyKind::DataKey, origin, kek_hash, wrapped };
        let data_keys = Vec::from([DataSlot::new(entry, data_key)]);
        self.wrap(kek, tenant, data_keys, KeyringEvent::Minted { tenant, kek_hash }, effects);
        Ok(Mint::Started)
    }

    /// Asks the holder of the master key to wrap a new KEK; then all is saved.
    fn wrap(
        &mut self,
        kek: Kek,
        tenant: TenantId,
        data_keys: Vec<DataSlot>,
        then: KeyringEvent,
        effects: &mut Effects,
    ) {
        let kek_hash = kek.hash(tenant);
        // The KEK's own wrapping is not known yet; the entry is not used before it is.
        let wrapped = WrappedKey([0; 60]);
        let (key, origin) = (KeyId::ZERO, self.origin);
        let entry = Entry { tenant, key, kind: KeyKind::Kek, origin, kek_hash, wrapped };
        let slot = self.slot();
        let (purpose, key) = (KeyPurpose::Kek, kek.secret().clone());
        effects.push(Effect::Wrap { io: io(slot), purpose, key });
        let ring = Ring { kek: entry, secret: Some(kek), decided: false, data_keys };
        self.state = State::Wrapping { slot, ring: Box::new(ring), then };
    }

    /// Rewrites both copies, the bad one first. Only when [`Keyring::idle`].
    pub fn heal(&mut self, effects: &mut Effects) {
        assert!(self.idle(), "the keyring does one thing at a time");
        self.save(KeyringEvent::Healed, effects);
    }

    pub fn on_done(
        &mut self,
        io: IoId,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<KeyringEvent, KeyringError> {
        let state = self.take_state();
        let State::Creating { slot } = state else { unreachable!("no file was to be created") };
        assert_eq!((io.owner, io.slot), (Owner::Keyring, slot), "one effect at a time");
        result.map_err(KeyringError::Io)?;
        self.save(KeyringEvent::Created, effects);
        Ok(KeyringEvent::Pending)
    }

    pub fn on_read_done(
        &mut self,
        id: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<KeyringEvent, KeyringError> {
        match self.take_state() {
            State::Loading { slot, mut loading } => {
                assert_eq!((id.owner, id.slot), (Owner::Keyring, slot), "one effect at a time");
                let slot = self.slot();
                match loading.on_read_done(pages, result, io(slot), effects) {
                    None => {
                        self.state = State::Loading { slot, loading };
                        Ok(KeyringEvent::Pending)
                    }
                    Some(loaded) => self.loaded(loaded?, effects),
                }
            }
            State::Saving { slot, saving, then } => {
                assert_eq!((id.owner, id.slot), (Owner::Keyring, slot), "one effect at a time");
                result.map_err(KeyringError::Io)?;
                let slot = self.slot();
                match saving.on_read_done(&pages, io(slot), effects)? {
                    Some(saving) => {
                        self.state = State::Saving { slot, saving, then };
                        Ok(KeyringEvent::Pending)
                    }
                    None => Ok(self.saved(then, effects)),
                }
            }
            State::Creating { .. }
            | State::Unwrapping { .. }
            | State::Idle
            | State::Wrapping { .. }
            | State::Failed => unreachable!("no read is in flight"),
        }
    }

    pub fn on_write_done(
        &mut self,
        id: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<KeyringEvent, KeyringError> {
        let State::Saving { slot, saving, then } = self.take_state() else {
            unreachable!("no write is in flight");
        };
        assert_eq!((id.owner, id.slot), (Owner::Keyring, slot), "one effect at a time");
        result.map_err(KeyringError::Io)?;
        let slot = self.slot();
        let saving = saving.on_write_done(pages, io(slot), effects);
        self.state = State::Saving { slot, saving, then };
        Ok(KeyringEvent::Pending)
    }

    pub fn on_wrapped(
        &mut self,
        id: IoId,
        key: Result<WrappedKey, KeyError>,
        effects: &mut Effects,
    ) -> Result<KeyringEvent, KeyringError> {
        let State::Wrapping { slot, mut ring, then } = self.take_state() else {
            unreachable!("no key is being wrapped");
        };
        assert_eq!((id.owner, id.slot), (Owner::Keyring, slot), "one effect at a time");
        let tenant = ring.kek.tenant;
        ring.kek.wrapped = match key {
            Ok(wrapped) => wrapped,
            Err(error) => return Err(KeyringError::of_master_key(error, tenant)),
        };
        let before = self.tenants.insert(tenant, *ring);
        let replaces = matches!(then, KeyringEvent::Kept { .. });
        assert!(before.as_ref().is_none_or(|_| replaces), "a tenant's keys are minted once");
        assert!(before.is_none_or(|ring| !ring.decided), "decided keys are never replaced");
        self.save(then, effects);
        Ok(KeyringEvent::Pending)
    }

    pub fn on_unwrapped(
        &mut self,
        id: IoId,
        key: Result<SecretKey, KeyError>,
        effects: &mut Effects,
    ) -> Result<KeyringEvent, KeyringError> {
        let State::Unwrapping { waiting, mut in_flight } = self.take_state() else {
            unreachable!("no key is being unwrapped");
        };
        assert_eq!(id.owner, Owner::Keyring);
        let Some(at) = in_flight.iter().position(|(slot, _)| *slot == id.slot) else {
            unreachable!("a completion belongs to an effect in flight");
        };
        let (_, tenant) = in_flight.swap_remove(at);
        match key {
            Ok(secret) => self.unlock(tenant, Kek::new(secret))?,
            Err(error) => return Err(KeyringError::of_master_key(error, tenant)),
        }
        Ok(self.unwrap_more(waiting, in_flight, effects))
    }

    /// The better copy is known: adopt it, then ask for every KEK.
    fn loaded(
        &mut self,
        loaded: Loaded,
        effects: &mut Effects,
    ) -> Result<KeyringEvent, KeyringError> {
        let image = loaded.image;
        if image.cluster != self.cluster {
            let (found, expected) = (image.cluster, self.cluster);
            return Err(KeyringError::OtherCluster { found, expected });
        }
        if image.origin != self.origin {
            let (found, expected) = (image.origin, self.origin);
            return Err(KeyringError::OtherOrigin { found, expected });
        }
        self.sequence = image.sequence;
        self.copy_older = loaded.copy_older;
        self.heal_wanted = loaded.heal_wanted;
        self.adopt(image.entries)?;
        let waiting = self.tenants.keys().rev().copied().collect();
        Ok(self.unwrap_more(waiting, Vec::new(), effects))
    }

    /// Entries come in the order they are written in: per tenant the KEK, then its data keys.
    fn adopt(&mut self, entries: Vec<Entry>) -> Result<(), KeyringError> {
        for entry in entries {
            let (tenant, key) = (entry.tenant, entry.key);
            let disorder = KeyringError::Disorder { tenant, key };
            match entry.kind {
                KeyKind::Kek => {
                    let last = self.tenants.last_key_value().map(|(tenant, _)| *tenant);
                    if last.is_some_and(|last| last >= tenant) {
                        return Err(disorder);
                    }
                    self.tenants.insert(tenant, Ring::locked(entry));
                }
                KeyKind::KekOnTheWay => unreachable!("refused by whoever decoded the file"),
                KeyKind::DataKey => {
                    let Some(mut ring) = self.tenants.last_entry() else { return Err(disorder) };
                    let newest = ring.get().data_keys.last().map(|slot| slot.entry.key);
                    let full = ring.get().data_keys.len() + 1 == KEYS_PER_TENANT_MAX;
                    if *ring.key() != tenant || full || newest.is_some_and(|last| last >= key) {
                        return Err(disorder);
                    }
                    let slot = DataSlot { entry, secret: None, keys: OnceCell::new() };
                    ring.get_mut().data_keys.push(slot);
                }
            }
        }
        Ok(())
    }

    fn unwrap_more(
        &mut self,
        mut waiting: Vec<TenantId>,
        mut in_flight: Vec<(u64, TenantId)>,
        effects: &mut Effects,
    ) -> KeyringEvent {
        while in_flight.len() < UNWRAPS_IN_FLIGHT_MAX
            && let Some(tenant) = waiting.pop()
        {
            let slot = self.slot();
            let Some(ring) = self.tenants.get(&tenant) else {
                unreachable!("tenants that wait are tenants of the file");
            };
            effects.push(Effect::Unwrap {
                io: io(slot),
                purpose: KeyPurpose::Kek,
                key: ring.kek.wrapped,
            });
            in_flight.push((slot, tenant));
        }
        if !in_flight.is_empty() {
            self.state = State::Unwrapping { waiting, in_flight };
            return KeyringEvent::Pending;
        }
        self.state = State::Idle;
        let copies_good = if self.heal_wanted { 1 } else { 2 };
        effects.event(Event::KeyringOpened { sequence: self.sequence, copies_good });
        KeyringEvent::Opened { heal_wanted: self.heal_wanted }
    }

    /// Opens a tenant's data keys with its KEK, which must be the one the file names.
    fn unlock(&mut self, tenant: TenantId, kek: Kek) -> Result<(), KeyringError> {
        let Some(ring) = self.tenants.get_mut(&tenant) else {
            unreachable!("tenants that wait are tenants of the file");
        };
        if kek.hash(tenant) != ring.kek.kek_hash {
            return Err(KeyringError::WrongKek { tenant });
        }
        for slot in &mut ring.data_keys {
            let entry = &slot.entry;
            let opened = kek.unwrap(entry.origin, tenant, entry.key, &entry.wrapped);
            let Ok(secret) = opened else {
                return Err(KeyringError::WrongDataKey { tenant, key: entry.key });
            };
            slot.secret = Some(secret);
        }
        ring.secret = Some(kek);
        Ok(())
    }

    fn save(&mut self, then: KeyringEvent, effects: &mut Effects) {
        self.sequence += 1;
        let entries = self.tenants.values().flat_map(Ring::entries).copied().collect();
        let (cluster, origin, sequence) = (self.cluster, self.origin, self.sequence);
        let image = Image { cluster, origin, sequence, entries };
        let slot = self.slot();
        let saving = Saving::start(&image, self.copy_older, io(slot), effects);
        self.state = State::Saving { slot, saving, then };
    }

    fn saved(&mut self, then: KeyringEvent, effects: &mut Effects) -> KeyringEvent {
        self.state = State::Idle;
        self.heal_wanted = false;
        match then {
            KeyringEvent::Minted { tenant, .. } => effects.event(Event::KeyMinted { tenant }),
            KeyringEvent::Kept { tenant, .. } => effects.event(Event::KeyKept { tenant }),
            KeyringEvent::Healed => {
                effects.event(Event::KeyringHealed { sequence: self.sequence });
            }
            KeyringEvent::Created | KeyringEvent::Pending | KeyringEvent::Opened { .. } => {}
        }
        then
    }

    fn entry_count(&self) -> usize {
        self.tenants.values().map(|ring| 1 + ring.data_keys.len()).sum()
    }

    fn slot(&mut self) -> u64 {
        let slot = self.slot_next;
        self.slot_next += 1;
        slot
    }

    /// Leaves `Failed` behind, which every way out but an error replaces.
    fn take_state(&mut self) -> State {
        core::mem::replace(&mut self.state, State::Failed)
    }
}

/// Key id 0 is the KEK itself.
const FIRST_DATA_KEY: KeyId = KeyId::new(1);

fn io(slot: u64) -> IoId {
    IoId { owner: Owner::Keyring, slot }
}

impl Ring {
    fn locked(kek: Entry) -> Ring {
        Ring { kek, secret: None, decided: false, data_keys: Vec::new() }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        core::iter::once(&self.kek).chain(self.data_keys.iter().map(|slot| &slot.entry))
    }
}

impl DataSlot {
    fn new(entry: Entry, secret: DataKey) -> DataSlot {
        DataSlot { entry, secret: Some(secret), keys: OnceCell::new() }
    }

    fn keys(&self, generation: Generation, grid: GridId) -> Option<&TenantKeys> {
        let secret = self.secret.as_ref()?;
        let Entry { origin, tenant, key, .. } = self.entry;
        let derive = || {
            let keys = TenantKeys::derive(origin, tenant, key, secret, generation);
            Box::new(if grid == GridId::ZERO { keys } else { keys.of_grid(grid) })
        };
        Some(self.keys.get_or_init(derive))
    }
}

#[cfg(test)]
mod tests;
