//! Format: from an empty directory to one that opens.
//!
//! Order: files, journal (every byte written once, so that no later write meets a never-written
//! block), keys of the system tenant and of tenant 1, this replica's signing key, and the
//! superblock last. Before the superblock is there nothing is a database; a crash on the way is
//! cured by formatting again. The first open writes the first op, a recovery record with reason
//! `format`.

use alloc::string::ToString;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::crypto::hash::ChainHash;
use crate::ids::{ClusterId, Generation, GridId, Op, OriginId, Release, ReplicaId, TenantId, View};
use crate::io::{Effect, Effects, FileId, Input, IoError, IoId, KeyPurpose, Owner, SecretKey};
use crate::journal::{JournalFormat, PrepareHeader};
use crate::keyring::{Keyring, KeyringEvent, Mint, MintSecrets};
use crate::limits::{ClusterConstants, REPLICA_PEERS_MAX};
use crate::node::api::{Halt, Seed};
use crate::node::halt::{journal_halt, keyring_halt, superblock_halt};
use crate::superblock::{
    CheckpointState, CosignedHead, FORMAT_VERSION, ForestRoot, FreeSetRoot, PageRef, PeerEvidence,
    Superblock, SuperblockError, SuperblockEvent, SuperblockState,
};
use crate::time::Timestamp;

/// What is chosen once, for the life of the directory.
#[derive(Clone, Copy, Debug)]
pub struct FormatOptions {
    /// `None` draws one.
    pub cluster: Option<ClusterId>,
    pub replica: ReplicaId,
    pub replica_count: u8,
    pub release: Release,
    pub constants: ClusterConstants,
}

/// What the replicas of a cluster share, as one of them has it: where the seed that all of it came
/// from is gone.
#[derive(Clone, Debug)]
pub struct SharedKeys {
    pub origin: OriginId,
    /// Of tenants 0 and 1: KEK and first data key.
    pub tenants: [(SecretKey, SecretKey); 2],
}

/// Formats a directory, driven like a node: push effects, feed completions.
#[derive(Debug)]
pub struct Format {
    options: FormatOptions,
    random: ChaCha20Rng,
    /// Of what no other replica may know: its signing key.
    own: Option<ChaCha20Rng>,
    replaces: bool,
    shared: Option<SharedKeys>,
    cluster: ClusterId,
    origin: OriginId,
    phase: Phase,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, for as long as a format takes")]
enum Phase {
    Files { left: u8 },
    Journal(JournalFormat),
    Keys { keyring: Keyring, next: TenantId },
    SigningKey,
    Superblock(Superblock),
    Done,
}

/// Files that exist from the start, in the order of their slots.
const FILES: [FileId; 3] = [FileId::Superblock, FileId::Journal, FileId::Grid];
const SIGNING_KEY_SLOT: u64 = 16;

impl Format {
    pub fn start(
        options: FormatOptions,
        seed: &Seed,
        effects: &mut Effects,
    ) -> Result<Format, Halt> {
        options.constants.validate().map_err(|detail| Halt::Data {
            what: "cluster constants",
            detail: detail.to_string(),
        })?;
        if !matches!(options.replica_count, 1 | 3 | 5)
            || options.replica.get() >= options.replica_count
        {
            return Err(Halt::Data {
                what: "replica count",
                detail: "a cluster has 1, 3 or 5 replicas, numbered from 0".to_string(),
            });
        }
        let mut random = ChaCha20Rng::from_seed(seed.0);
        let mut draw = || u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
        let (drawn, origin) = (ClusterId::new(draw()), OriginId::new(draw()));
        for (slot, file) in FILES.into_iter().enumerate() {
            effects.push(Effect::Create { io: own(slot as u64), file });
        }
        Ok(Format {
            options,
            random,
            own: None,
            replaces: false,
            shared: None,
            cluster: options.cluster.unwrap_or(drawn),
            origin,
            phase: Phase::Files { left: FILES.len() as u8 },
        })
    }

    /// For a replica of several: cluster, origin and keys of tenants come from the seed that all
    /// share, its signing key from this one.
    #[must_use]
    pub fn with_own_seed(mut self, own: &Seed) -> Format {
        self.own = Some(ChaCha20Rng::from_seed(own.0));
        self
    }

    /// Origin and keys of tenants are these, and come from no seed.
    #[must_use]
    pub fn with_shared_keys(mut self, shared: SharedKeys) -> Format {
        assert!(self.options.cluster.is_some(), "who shares keys has a cluster");
        self.origin = shared.origin;
        self.shared = Some(shared);
        self
    }

    /// In place of a disk that is lost: what that one promised is not known, and the directory says
    /// so until it has the log of a view (`docs/VSR.md`, "A replaced replica").
    #[must_use]
    pub fn replacing(mut self) -> Format {
        assert!(self.options.replica_count > 1, "a replica alone has nobody to ask");
        self.replaces = true;
        self
    }

    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    /// Bytes of the journal written so far, and in all: what takes the time.
    #[must_use]
    pub fn progress(&self) -> Option<(u64, u64)> {
        match &self.phase {
            Phase::Journal(journal) => Some(journal.progress()),
            Phase::Files { .. }
            | Phase::Keys { .. }
            | Phase::SigningKey
            | Phase::Superblock(_)
            | Phase::Done => None,
        }
    }

    /// Takes one completion. An error ends the format; the directory is no database then.
    pub fn step(&mut self, input: Input, effects: &mut Effects) -> Result<(), Halt> {
        match input {
            Input::Tick
            | Input::Space { .. }
            | Input::Received { .. }
            | Input::LinkClosed { .. } => Ok(()),
            Input::Done { io, result } => self.on_done(io, result, effects),
            Input::WriteDone { io, pages, result } => match &mut self.phase {
                Phase::Journal(journal) => {
                    journal.on_write_done(io, pages, result, effects).map_err(journal_halt)
                }
                Phase::Keys { keyring, .. } => {
                    let event = keyring.on_write_done(io, pages, result, effects);
                    let event = event.map_err(keyring_halt)?;
                    self.on_keyring(event, effects)
                }
                Phase::Superblock(superblock) => {
                    let event = superblock.on_write_done(io, pages, result, effects);
                    self.on_superblock(event)
                }
                Phase::Files { .. } | Phase::SigningKey | Phase::Done => unexpected(io),
            },
            Input::ReadDone { io, pages, result } => match &mut self.phase {
                Phase::Superblock(superblock) => {
                    let event = superblock.on_read_done(io, pages, result, effects);
                    self.on_superblock(event)
                }
                Phase::Keys { keyring, .. } => {
                    let event = keyring.on_read_done(io, pages, result, effects);
                    let event = event.map_err(keyring_halt)?;
                    self.on_keyring(event, effects)
                }
                Phase::Files { .. } | Phase::Journal(_) | Phase::SigningKey | Phase::Done => {
                    unexpected(io)
                }
            },
            Input::Wrapped { io, key } => match &mut self.phase {
                Phase::Keys { keyring, .. } => {
                    let event = keyring.on_wrapped(io, key, effects).map_err(keyring_halt)?;
                    self.on_keyring(event, effects)
                }
                Phase::SigningKey => {
                    let signing_key = key.map_err(Halt::Key)?;
                    let state = self.first_state(signing_key);
                    self.phase = Phase::Superblock(Superblock::format(state, effects));
                    Ok(())
                }
                Phase::Files { .. } | Phase::Journal(_) | Phase::Superblock(_) | Phase::Done => {
                    unexpected(io)
                }
            },
            Input::Unwrapped { io, .. } => unexpected(io),
        }
    }

    fn on_done(
        &mut self,
        io: IoId,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        match &mut self.phase {
            Phase::Files { left } => {
                result.map_err(|error| Halt::Io { error, what: "creating the data files" })?;
                *left -= 1;
                if *left == 0 {
                    let ring = self.options.constants.journal_ring_bytes;
                    self.phase = Phase::Journal(JournalFormat::start(ring, effects));
                }
                Ok(())
            }
            Phase::Journal(journal) => {
                journal.on_done(io, result).map_err(journal_halt)?;
                let keyring = Keyring::create(self.cluster, self.origin, effects);
                self.phase = Phase::Keys { keyring, next: TenantId::SYSTEM };
                Ok(())
            }
            Phase::Keys { keyring, .. } => {
                let event = keyring.on_done(io, result, effects).map_err(keyring_halt)?;
                self.on_keyring(event, effects)
            }
            Phase::SigningKey | Phase::Superblock(_) | Phase::Done => unexpected(io),
        }
    }

    fn on_keyring(&mut self, event: KeyringEvent, effects: &mut Effects) -> Result<(), Halt> {
        match event {
            KeyringEvent::Pending => Ok(()),
            KeyringEvent::Created | KeyringEvent::Minted { .. } => self.mint_next(effects),
            KeyringEvent::Opened { .. } | KeyringEvent::Healed | KeyringEvent::Kept { .. } => {
                unreachable!("format opens no keyring")
            }
        }
    }

    /// Keys of tenant 0, then of tenant 1, then the signing key.
    fn mint_next(&mut self, effects: &mut Effects) -> Result<(), Halt> {
        let Phase::Keys { keyring, next } = &mut self.phase else {
            unreachable!("the keyring speaks only in its phase");
        };
        if *next > TenantId::DEFAULT {
            let mut secret = SecretKey([0; 32]);
            self.own.as_mut().unwrap_or(&mut self.random).fill_bytes(&mut secret.0);
            effects.push(Effect::Wrap {
                io: own(SIGNING_KEY_SLOT),
                purpose: KeyPurpose::Cosigning,
                key: secret,
            });
            self.phase = Phase::SigningKey;
            return Ok(());
        }
        let tenant = *next;
        *next = TenantId::new(tenant.get() + 1);
        let mut secrets = draw_secrets(&mut self.random);
        if let Some(shared) = &self.shared {
            let (kek, data_key) = match tenant {
                TenantId::SYSTEM => shared.tenants[0].clone(),
                _default => shared.tenants[1].clone(),
            };
            secrets = MintSecrets { kek, data_key, ..secrets };
        }
        match keyring.mint(tenant, secrets, effects).map_err(keyring_halt)? {
            Mint::Started => Ok(()),
            Mint::Exists(_) => unreachable!("the file was created empty"),
        }
    }

    fn on_superblock(
        &mut self,
        event: Result<Option<SuperblockEvent>, SuperblockError>,
    ) -> Result<(), Halt> {
        match event.map_err(superblock_halt)? {
            None => Ok(()),
            Some(SuperblockEvent::Updated) => {
                self.phase = Phase::Done;
                Ok(())
            }
            Some(SuperblockEvent::Opened) => unreachable!("format opens no superblock"),
        }
    }

    fn first_state(&self, signing_key: crate::io::WrappedKey) -> SuperblockState {
        let root = PrepareHeader::root(self.cluster);
        SuperblockState {
            format_version: FORMAT_VERSION,
            sequence: 0,
            previous: crate::crypto::hash::InternalHash::ZERO,
            cluster: self.cluster,
            origin: self.origin,
            grid: GridId::ZERO,
            syncing: false,
            replaced: self.replaces,
            replica: self.options.replica,
            replica_count: self.options.replica_count,
            release: self.options.release,
            constants: self.options.constants,
            view: View::ZERO,
            log_view: View::ZERO,
            generation: Generation::ZERO,
            committed: Op::ZERO,
            checkpoint: CheckpointState {
                op: Op::ZERO,
                prepare_checksum: root.checksum,
                journal_offset: 0,
                timestamp: Timestamp(0),
                generation: Generation::ZERO,
                recovery_count: 0,
                system_forest: ForestRoot {
                    root: PageRef::NONE,
                    height: 0,
                    count: 0,
                    hash: ChainHash::ZERO,
                },
                free_set: FreeSetRoot { root: PageRef::NONE, pages: 0, runs: 0 },
                grid_pages: 0,
            },
            signing_key,
            cosigned: CosignedHead::default(),
            peers: [PeerEvidence::default(); REPLICA_PEERS_MAX],
        }
    }
}

/// Secrets of a new tenant, from the node's only source of randomness.
pub(super) fn draw_secrets(random: &mut ChaCha20Rng) -> MintSecrets {
    let mut bytes = [0; MintSecrets::RANDOM_SIZE];
    random.fill_bytes(&mut bytes);
    MintSecrets::new(&bytes)
}

pub(super) fn own(slot: u64) -> IoId {
    IoId { owner: Owner::Node, slot }
}

fn unexpected(io: IoId) -> Result<(), Halt> {
    unreachable!("a completion that nothing asked for: {io:?}")
}
