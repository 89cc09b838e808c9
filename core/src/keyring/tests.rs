//! Tests of the keys file.

mod travel;

use alloc::collections::VecDeque;
use alloc::vec;

use super::*;
use crate::crypto::keys::MasterKey;
use crate::crypto::seal::{unwrap_key, wrap_key};
use crate::ids::Position;
use crate::io::Address;
use crate::keyring::format::{EXTENT_SIZE, extent_offset, image_size};
use crate::limits::PAGE_SIZE;
use crate::tests::golden::golden;

const CLUSTER: ClusterId = ClusterId::new(11);
const ORIGIN: OriginId = OriginId::new(22);

/// A file, a master key, and faults to come.
#[derive(Clone)]
struct World {
    file: Vec<u8>,
    master: MasterKey,
    /// Writes until the power fails; the last of them keeps only so many bytes.
    writes_left: Option<(usize, usize)>,
    /// Writes that the disk acknowledges and forgets.
    writes_lost: bool,
    unreadable: Vec<u64>,
    refusal: IoError,
    bad_told: usize,
    unavailable: bool,
    writes: usize,
    nonce: u32,
    unwraps_in_flight_max: usize,
}

/// What a run came to; `None` is a crash.
type Outcome = Option<Result<KeyringEvent, KeyringError>>;

impl World {
    fn new() -> World {
        World {
            file: vec![0; 6 * EXTENT_SIZE],
            master: MasterKey::parse(&[7; 32]).unwrap(),
            writes_left: None,
            writes_lost: false,
            unreadable: Vec::new(),
            refusal: IoError::Device,
            bad_told: 0,
            unavailable: false,
            writes: 0,
            nonce: 0,
            unwraps_in_flight_max: 0,
        }
    }

    /// Performs effects until there are none left.
    fn run(&mut self, keyring: &mut Keyring, effects: &mut Effects) -> Outcome {
        let mut queue: VecDeque<Effect> = effects.drain().collect();
        let mut outcome = None;
        while let Some(effect) = queue.pop_front() {
            let unwraps =
                queue.iter().filter(|effect| matches!(effect, Effect::Unwrap { .. })).count();
            self.unwraps_in_flight_max = self.unwraps_in_flight_max.max(unwraps + 1);
            let event = match effect {
                Effect::Create { io, file } => {
                    assert_eq!(file, FileId::Keys);
                    keyring.on_done(io, Ok(()), effects)
                }
                Effect::Read { io, at, mut pages } => {
                    let result = self.read(at, &mut pages);
                    keyring.on_read_done(io, pages, result, effects)
                }
                Effect::Write { io, at, pages, durable } => {
                    assert!(durable);
                    if !self.write(at, &pages) {
                        return None;
                    }
                    keyring.on_write_done(io, pages, Ok(()), effects)
                }
                Effect::Wrap { io, purpose, key } => {
                    self.nonce += 1;
                    let mut nonce = [0; 12];
                    nonce[..4].copy_from_slice(&self.nonce.to_le_bytes());
                    let wrapped = wrap_key(&self.master, nonce, purpose, &key);
                    let answer =
                        if self.unavailable { Err(KeyError::Unavailable) } else { Ok(wrapped) };
                    keyring.on_wrapped(io, answer, effects)
                }
                Effect::Unwrap { io, purpose, key } => {
                    let mut answer = unwrap_key(&self.master, purpose, &key);
                    if self.unavailable {
                        answer = Err(KeyError::Unavailable);
                    }
                    keyring.on_unwrapped(io, answer, effects)
                }
                Effect::Send { .. } => panic!("the keyring talks to nobody"),
                Effect::Event(event) => {
                    self.bad_told += usize::from(matches!(event, Event::KeyringCopyBad { .. }));
                    continue;
                }
                Effect::Sync { .. } | Effect::Remove { .. } => {
                    panic!("the keyring asks for neither")
                }
            };
            queue.extend(effects.drain());
            match event {
                Ok(KeyringEvent::Pending) => {}
                Ok(event) => {
                    assert_eq!(outcome, None, "one outcome");
                    outcome = Some(Ok(event));
                }
                Err(error) => return Some(Err(error)),
            }
        }
        assert!(keyring.idle(), "no effect is left, so nothing is waited for");
        outcome
    }

    fn read(&mut self, at: Address, pages: &mut Pages) -> Result<(), IoError> {
        assert_eq!(at.file, FileId::Keys);
        if self.unreadable.contains(&at.offset) {
            return Err(self.refusal);
        }
        // Past the end of the file there are zeros, as the shell gives them.
        let begin = self.file.len().min(at.offset as usize);
        let end = self.file.len().min(begin + pages.size_bytes());
        pages.as_bytes_mut()[..end - begin].copy_from_slice(&self.file[begin..end]);
        Ok(())
    }

    /// False when the power fails in it.
    fn write(&mut self, at: Address, pages: &Pages) -> bool {
        assert_eq!(at.file, FileId::Keys);
        self.writes += 1;
        let begin = at.offset as usize;
        let mut kept = pages.size_bytes();
        let mut alive = true;
        if let Some((left, torn)) = &mut self.writes_left {
            *left -= 1;
            if *left == 0 {
                kept = kept.min(*torn);
                alive = false;
            }
        }
        if !self.writes_lost {
            self.file[begin..begin + kept].copy_from_slice(&pages.as_bytes()[..kept]);
        }
        alive
    }

    fn create(&mut self) -> Keyring {
        let mut effects = Effects::new();
        let mut keyring = Keyring::create(CLUSTER, ORIGIN, &mut effects);
        assert_eq!(self.run(&mut keyring, &mut effects), Some(Ok(KeyringEvent::Created)));
        keyring
    }

    fn try_open(&mut self) -> Result<(Keyring, bool), KeyringError> {
        let mut effects = Effects::new();
        let mut keyring = Keyring::open(CLUSTER, ORIGIN, Generation::new(3), &mut effects);
        match self.run(&mut keyring, &mut effects).unwrap()? {
            KeyringEvent::Opened { heal_wanted } => Ok((keyring, heal_wanted)),
            other => panic!("{other:?}"),
        }
    }

    fn open(&mut self) -> Keyring {
        let (keyring, heal_wanted) = self.try_open().unwrap();
        assert!(!heal_wanted);
        keyring
    }

    fn mint(&mut self, keyring: &mut Keyring, tenant: u64) -> Outcome {
        let mut effects = Effects::new();
        let started = keyring.mint(TenantId::new(tenant), secrets(tenant), &mut effects);
        assert_eq!(started, Ok(Mint::Started));
        self.run(keyring, &mut effects)
    }

    fn heal(&mut self, keyring: &mut Keyring) {
        let mut effects = Effects::new();
        keyring.heal(&mut effects);
        assert_eq!(self.run(keyring, &mut effects), Some(Ok(KeyringEvent::Healed)));
    }

    /// A world whose file holds the keys of so many tenants.
    fn with_tenants(count: u64) -> World {
        let mut world = World::new();
        let mut keyring = world.create();
        for tenant in 0..count {
            let Some(Ok(KeyringEvent::Minted { .. })) = world.mint(&mut keyring, tenant) else {
                panic!("tenant {tenant} was not minted");
            };
        }
        world
    }
}

fn secrets(tenant: u64) -> MintSecrets {
    let mut random = [0; MintSecrets::RANDOM_SIZE];
    for (at, byte) in random.iter_mut().enumerate() {
        *byte = (tenant as usize * 31 + at * 7 + 1) as u8 ^ (tenant >> 3) as u8;
    }
    MintSecrets::new(&random)
}

/// What only the right keys give.
fn sealed(keyring: &Keyring, tenant: u64) -> Option<[u8; 16]> {
    let keys = keyring.tenant(TenantId::new(tenant))?;
    assert_eq!((keys.tenant(), keys.id()), (TenantId::new(tenant), KeyId::new(1)));
    let record = keys.record(Generation::new(3));
    Some(record.seal(Position::new(1), b"", &mut [7; 8]).0)
}

#[test]
fn keys_survive_a_restart() {
    let mut world = World::new();
    let mut keyring = world.create();
    let tenants = [0, 1, 5, 3];
    for tenant in tenants {
        let minted = world.mint(&mut keyring, tenant);
        let kek_hash = keyring.kek_hash(TenantId::new(tenant)).unwrap();
        let tenant = TenantId::new(tenant);
        assert_eq!(minted, Some(Ok(KeyringEvent::Minted { tenant, kek_hash })));
    }
    let reopened = world.open();
    assert!(reopened.tenants().eq([0, 1, 3, 5].map(TenantId::new)));
    for tenant in tenants {
        assert!(sealed(&keyring, tenant).is_some());
        assert_eq!(sealed(&reopened, tenant), sealed(&keyring, tenant));
        let tenant = TenantId::new(tenant);
        assert_eq!(reopened.kek_hash(tenant), keyring.kek_hash(tenant));
        assert!(reopened.tenant_key(tenant, KeyId::new(1)).is_some());
        assert!(reopened.tenant_key(tenant, KeyId::new(2)).is_none());
        assert!(reopened.tenant_key(tenant, KeyId::ZERO).is_none());
    }
    assert!(sealed(&reopened, 2).is_none());
    assert!(reopened.kek_hash(TenantId::new(2)).is_none());
}

/// Both copies, an extent of each and what is behind it.
#[test]
fn golden_keys() {
    let world = World::with_tenants(40);
    let size = image_size(2 * 40);
    assert!(size > PAGE_SIZE && size < EXTENT_SIZE);
    let (first, second) = (extent_offset(0, 0) as usize, extent_offset(1, 0) as usize);
    let written = golden("keys", &world.file[first..first + size]);
    assert!(written == world.file[second..second + size], "two copies of one image");
    let rest = [&world.file[first + size..second], &world.file[second + size..]];
    assert!(rest.into_iter().flatten().all(|&byte| byte == 0));
    let mut file = alloc::vec![0; world.file.len()];
    file[second..second + size].copy_from_slice(&written);
    let (keyring, heal_wanted) = World { file, ..world.clone() }.try_open().unwrap();
    assert!(heal_wanted, "the first copy is not there");
    let live = world.clone().open();
    for tenant in 0..40 {
        assert!(sealed(&keyring, tenant).is_some());
        assert_eq!(sealed(&keyring, tenant), sealed(&live, tenant));
    }
}

#[test]
fn minting_again_keeps_the_first_keys() {
    let mut world = World::with_tenants(2);
    let mut keyring = world.open();
    let before = (sealed(&keyring, 1), world.writes);
    let mut effects = Effects::new();
    let again = keyring.mint(TenantId::new(1), secrets(99), &mut effects);
    assert_eq!(again, Ok(Mint::Exists(keyring.kek_hash(TenantId::new(1)).unwrap())));
    assert!(effects.is_empty());
    assert_eq!((sealed(&keyring, 1), world.writes), before);
}

#[test]
fn no_key_is_in_the_file_in_the_clear() {
    let world = World::with_tenants(3);
    for tenant in 0..3 {
        let secrets = secrets(tenant);
        for secret in [&secrets.kek, &secrets.data_key, &SecretKey([7; 32])] {
            assert!(!world.file.windows(8).any(|window| window == &secret.0[..8]));
        }
    }
}

#[test]
fn a_wrong_master_key_is_told_and_nothing_is_written() {
    let mut world = World::with_tenants(40);
    world.writes = 0;
    let before = world.file.clone();
    let right = core::mem::replace(&mut world.master, MasterKey::parse(&[8; 32]).unwrap());
    let Err(KeyringError::WrongMasterKey { .. }) = world.try_open().map(|_| ()) else {
        panic!("a wrong master key opens nothing");
    };
    world.master = right;
    world.unavailable = true;
    let Err(KeyringError::MasterKeyUnavailable { .. }) = world.try_open().map(|_| ()) else {
        panic!("no answer opens nothing");
    };
    assert!(world.writes == 0 && world.file == before);
}

#[test]
fn a_mint_that_the_master_key_holder_refuses_writes_nothing() {
    let mut world = World::with_tenants(1);
    let mut keyring = world.open();
    world.writes = 0;
    world.unavailable = true;
    let refused = world.mint(&mut keyring, 1);
    let tenant = TenantId::new(1);
    assert_eq!(refused, Some(Err(KeyringError::MasterKeyUnavailable { tenant })));
    assert_eq!(world.writes, 0);
}

/// Power fails in every write of a mint, keeping every kind of prefix. What was acknowledged before
/// is there afterwards, and the file can be healed and used.
#[test]
fn a_crash_in_any_write_keeps_what_was_acknowledged() {
    // Ten tenants fit one page with the header; three hundred need two extents.
    for count in [0, 10, 300] {
        let base = World::with_tenants(count);
        let expected: Vec<_> = {
            let keyring = base.clone().open();
            (0..count).map(|tenant| sealed(&keyring, tenant)).collect()
        };
        let extents = image_size(2 + 2 * count as usize).div_ceil(EXTENT_SIZE);
        let mut unacknowledged_seen = false;
        for writes in 1..=2 * extents {
            for torn in [0, 1, 31, 32, 127, 128, 130, 300, 512, 4095, 4096, 5000, usize::MAX] {
                let mut world = base.clone();
                let mut keyring = world.open();
                world.writes_left = Some((writes, torn));
                assert_eq!(world.mint(&mut keyring, count), None, "a crash");
                let early = keyring.kek_hash(TenantId::new(count));
                assert!(early.is_none(), "nobody may act on keys that are not durable");
                world.writes_left = None;
                let (mut keyring, heal_wanted) = world.try_open().unwrap();
                unacknowledged_seen |= sealed(&keyring, count).is_some();
                for tenant in 0..count {
                    assert_eq!(sealed(&keyring, tenant), expected[tenant as usize]);
                }
                if heal_wanted {
                    world.heal(&mut keyring);
                }
                let mut keyring = world.open();
                if keyring.kek_hash(TenantId::new(count)).is_none() {
                    assert!(matches!(world.mint(&mut keyring, count), Some(Ok(_))));
                }
                let reopened = world.open();
                assert_eq!(sealed(&reopened, count), sealed(&keyring, count));
            }
        }
        assert!(unacknowledged_seen, "a crash between the copies leaves the newer one");
    }
}

/// A bit of each byte class of one copy flips: the other copy opens with everything. Both copies:
/// an error.
#[test]
fn either_copy_alone_is_enough() {
    for count in [10, 300] {
        let base = World::with_tenants(count);
        let expected: Vec<_> = {
            let keyring = base.clone().open();
            (0..count).map(|tenant| sealed(&keyring, tenant)).collect()
        };
        let size = image_size(2 * count as usize);
        // All of the header and two entries, then a sample, then the last byte of padding.
        let samples = (0..384).chain((384..size).step_by(509)).chain([size - 1]);
        for at in samples {
            let offset = |copy| extent_offset(copy, at / EXTENT_SIZE) as usize + at % EXTENT_SIZE;
            let mut world = base.clone();
            let copy = at % 2;
            world.file[offset(copy)] ^= 1 << (at % 8);
            let (mut keyring, heal_wanted) = world.try_open().unwrap();
            assert!(heal_wanted, "byte {at} counts");
            if at % 64 == 0 {
                for tenant in 0..count {
                    assert_eq!(sealed(&keyring, tenant), expected[tenant as usize]);
                }
                let mut healed = world.clone();
                healed.heal(&mut keyring);
                healed.file[offset(1 - copy)] ^= 1;
                assert!(healed.try_open().is_ok(), "the healed copy alone is enough");
            }
            world.file[offset(1 - copy)] ^= 1 << (at % 8);
            let Err(error) = world.try_open() else { panic!("byte {at} of both copies") };
            let KeyringError::BothCopiesBad { faults } = error else { panic!("{error:?}") };
            assert_eq!(faults[0], faults[1]);
        }
    }
}

#[test]
fn bytes_past_the_image_mean_nothing() {
    let mut world = World::with_tenants(1);
    world.file[image_size(2)..EXTENT_SIZE].fill(0xaa);
    world.open();
}

#[test]
fn an_unreadable_copy_is_a_bad_copy() {
    for copy in [0, 1] {
        let mut world = World::with_tenants(300);
        for extent in [0, 1] {
            world.unreadable = vec![extent_offset(copy, extent)];
            let (keyring, heal_wanted) = world.try_open().unwrap();
            assert!(heal_wanted && sealed(&keyring, 299).is_some());
        }
        assert_eq!(world.bad_told, 2);
        world.unreadable.push(extent_offset(1 - copy, 0));
        let error = world.try_open().map(|_| ()).unwrap_err();
        assert_eq!(error, KeyringError::Unreadable { copy: 0, error: IoError::Device });
    }
}

/// Nothing is called unusable that may be whole, and nothing is to be written over.
#[test]
fn a_copy_that_cannot_be_read_is_not_lost() {
    let good = World::with_tenants(2);
    for copy in [0, 1] {
        let mut world = good.clone();
        world.unreadable = vec![extent_offset(copy, 0)];
        let told = |world: &mut World, error: IoError| {
            world.refusal = error;
            let copy = copy as u8;
            let refused = world.try_open().map(|_| ()).unwrap_err();
            assert_eq!(refused, KeyringError::Unreadable { copy, error });
            assert_eq!(world.bad_told, 0, "nothing is written again");
        };
        // Rights that are missing: the other copy does not make up for them.
        told(&mut world, IoError::ReadOnly);
        world.file[extent_offset(1 - copy, 0) as usize + 100] ^= 1;
        told(&mut world, IoError::Device);
    }
}

#[test]
fn an_empty_or_foreign_file_is_told_apart() {
    let faults = [CopyFault::NotKeys; 2];
    let error = World::new().try_open().map(|_| ()).unwrap_err();
    assert_eq!(error, KeyringError::BothCopiesBad { faults });

    let mut world = World::with_tenants(1);
    let mut effects = Effects::new();
    let other = ClusterId::new(12);
    let mut keyring = Keyring::open(other, ORIGIN, Generation::ZERO, &mut effects);
    let outcome = world.run(&mut keyring, &mut effects);
    let error = KeyringError::OtherCluster { found: CLUSTER, expected: other };
    assert_eq!(outcome, Some(Err(error)));
    let other = OriginId::new(12);
    let mut keyring = Keyring::open(CLUSTER, other, Generation::ZERO, &mut effects);
    let outcome = world.run(&mut keyring, &mut effects);
    let error = KeyringError::OtherOrigin { found: ORIGIN, expected: other };
    assert_eq!(outcome, Some(Err(error)));
}

#[test]
fn a_copy_of_a_newer_release_stops_even_beside_a_good_one() {
    let mut world = World::with_tenants(1);
    let begin = extent_offset(1, 0) as usize;
    let image = &mut world.file[begin..begin + image_size(2)];
    image[40] = 2;
    reseal(image);
    let error = world.try_open().map(|_| ()).unwrap_err();
    assert_eq!(error, KeyringError::NewerFormat { version: 2 });
}

/// Someone who can write the file, but has no key, moves entries: caught by what they bind.
#[test]
fn entries_moved_between_tenants_are_caught() {
    let swap = |ranges: [(usize, usize); 2], size: usize| {
        let mut world = World::with_tenants(2);
        for copy in [0, 1] {
            let begin = extent_offset(copy, 0) as usize;
            let image = &mut world.file[begin..begin + image_size(4)];
            for offset in 0..size {
                image.swap(ranges[0].0 + ranges[0].1 + offset, ranges[1].0 + ranges[1].1 + offset);
            }
            reseal(image);
        }
        world.try_open().map(|_| ()).unwrap_err()
    };
    let (kek_0, data_0, kek_1, data_1) = (128, 256, 384, 512);
    let hash_and_wrapped = 32 + 60;
    // KEKs with their hashes: the hash binds the tenant.
    let error = swap([(kek_0, 32), (kek_1, 32)], hash_and_wrapped);
    assert!(matches!(error, KeyringError::WrongKek { .. }), "{error:?}");
    // Wrapped KEKs only.
    let error = swap([(kek_0, 64), (kek_1, 64)], 60);
    assert!(matches!(error, KeyringError::WrongKek { .. }), "{error:?}");
    // Wrapped data keys.
    let error = swap([(data_0, 64), (data_1, 64)], 60);
    assert!(matches!(error, KeyringError::WrongDataKey { .. }), "{error:?}");
    // Whole entries: order is part of the format.
    let error = swap([(kek_0, 0), (kek_1, 0)], 128);
    assert!(matches!(error, KeyringError::Disorder { .. }), "{error:?}");
    // A data key in a KEK's place.
    let error = swap([(kek_0, 64), (data_0, 64)], 60);
    assert!(matches!(error, KeyringError::WrongMasterKey { .. }), "{error:?}");
}

#[test]
fn entries_that_make_no_sense_are_refused() {
    for (at, value) in [(140, 3), (140, 0), (136, 1), (141, 1), (128 + 124, 1), (256 + 12, 1)] {
        let mut world = World::with_tenants(1);
        for copy in [0, 1] {
            let begin = extent_offset(copy, 0) as usize;
            let image = &mut world.file[begin..begin + image_size(2)];
            image[at] = value;
            reseal(image);
        }
        let error = world.try_open().map(|_| ()).unwrap_err();
        let fault = CopyFault::BadEntry { at: (at / 128 - 1) as u32 };
        assert_eq!(error, KeyringError::BothCopiesBad { faults: [fault; 2] });
    }
}

#[test]
fn a_disk_that_loses_writes_is_caught_at_once() {
    let mut world = World::with_tenants(1);
    let mut keyring = world.open();
    world.writes_lost = true;
    assert!(matches!(world.mint(&mut keyring, 1), Some(Err(KeyringError::NotKept { .. }))));
    world.writes_lost = false;
    assert!(sealed(&world.open(), 0).is_some());
}

#[test]
fn unwrapping_is_bounded() {
    let mut world = World::with_tenants(300);
    world.open();
    assert_eq!(world.unwraps_in_flight_max, UNWRAPS_IN_FLIGHT_MAX);
}

#[test]
fn entering_a_generation_changes_no_key() {
    let mut world = World::with_tenants(1);
    let mut keyring = world.open();
    let before = sealed(&keyring, 0);
    keyring.enter(Generation::new(4));
    assert_eq!(sealed(&keyring, 0), before);
}

#[test]
fn the_file_is_as_small_as_its_content() {
    assert_eq!(image_size(0), PAGE_SIZE);
    assert_eq!(image_size(31), PAGE_SIZE);
    assert_eq!(image_size(32), 2 * PAGE_SIZE);
    assert_eq!(image_size(KEYS_MAX), 32 * 1024 * 1024 + PAGE_SIZE);
    assert_eq!(extent_offset(1, 2), 5 * EXTENT_SIZE as u64);
}

/// Makes the checksum fit again, as a tamperer can: it has no key.
fn reseal(image: &mut [u8]) {
    use crate::crypto::hash::{InternalDomain, InternalHash};
    let checksum = InternalHash::of(InternalDomain::KeysFile, &[&image[32..]]);
    image[..32].copy_from_slice(&checksum.0);
}
