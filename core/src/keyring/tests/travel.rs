//! Tests of keys on their way between replicas.

use super::*;
use crate::keyring::Keep;

const TENANT: TenantId = TenantId::new(5);

/// Two replicas that share the keys of tenant 0, and a tenant that the first has made.
fn replicas() -> (World, Keyring, World, Keyring, KekHash) {
    let mut here = World::with_tenants(1);
    let mut there = World { master: MasterKey::parse(&[8; 32]).unwrap(), ..World::new() };
    let mut other = there.create();
    assert!(matches!(there.mint(&mut other, 0), Some(Ok(KeyringEvent::Minted { .. }))));
    let mut keyring = here.open();
    here.mint(&mut keyring, TENANT.get());
    let kek_hash = keyring.kek_hash(TENANT).unwrap();
    (here, keyring, there, other, kek_hash)
}

fn keep(world: &mut World, keyring: &mut Keyring, kek_hash: KekHash, bytes: &[u8]) -> Keep {
    let mut effects = Effects::new();
    let kept = keyring.keep(TENANT, kek_hash, bytes, &mut effects);
    if kept == Keep::Started {
        assert_eq!(keyring.kek_hash(TENANT), None, "not durable yet");
        let busy = keyring.keep(TenantId::new(9), kek_hash, bytes, &mut Effects::new());
        assert_eq!(busy, Keep::Busy);
        let event = KeyringEvent::Kept { tenant: TENANT, kek_hash };
        assert_eq!(world.run(keyring, &mut effects), Some(Ok(event)));
    }
    kept
}

#[test]
fn keys_that_travelled_are_the_same_and_stay() {
    let (_, keyring, mut there, mut other, kek_hash) = replicas();
    let bytes = keyring.keys_to_send(TENANT, kek_hash, [3; 12]).unwrap();
    assert!(keyring.keys_to_send(TENANT, KekHash([1; 32]), [3; 12]).is_none());
    assert!(other.keys_to_send(TENANT, kek_hash, [3; 12]).is_none());
    // Neither the KEK nor the data key can be seen.
    let secrets = secrets(TENANT.get());
    for secret in [secrets.kek.0, secrets.data_key.0] {
        assert!(!bytes.windows(8).any(|window| secret.starts_with(window)));
    }
    assert_eq!(keep(&mut there, &mut other, kek_hash, &bytes), Keep::Started);
    assert_eq!(keep(&mut there, &mut other, kek_hash, &bytes), Keep::Held);
    for keyring in [&other, &there.open()] {
        assert_eq!(keyring.kek_hash(TENANT), Some(kek_hash));
        assert_eq!(sealed(keyring, TENANT.get()), sealed(&other, TENANT.get()));
    }
    assert_eq!(sealed(&keyring, TENANT.get()), sealed(&other, TENANT.get()));
    // Whoever has them by now can send them on.
    assert!(there.open().keys_to_send(TENANT, kek_hash, [4; 12]).is_some());
}

#[test]
fn no_changed_byte_of_keys_is_kept() {
    let (_, keyring, mut there, mut other, kek_hash) = replicas();
    let bytes = keyring.keys_to_send(TENANT, kek_hash, [3; 12]).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_eq!(keep(&mut there, &mut other, kek_hash, &changed), Keep::Refused, "byte {at}");
    }
    assert_eq!(keep(&mut there, &mut other, KekHash([1; 32]), &bytes), Keep::Refused);
    for bytes in [&bytes[..bytes.len() - 1], &bytes[..bytes.len() / 2], &bytes[128..], &[]] {
        assert_eq!(keep(&mut there, &mut other, kek_hash, bytes), Keep::Refused);
    }
    // Of another cluster, whose tenant 0 has other keys.
    let mut strange = World::new();
    let mut stranger = strange.create();
    let mut effects = Effects::new();
    stranger.mint(TenantId::SYSTEM, secrets(77), &mut effects).unwrap();
    strange.run(&mut stranger, &mut effects);
    assert_eq!(keep(&mut strange, &mut stranger, kek_hash, &bytes), Keep::Refused);
}

#[test]
fn undecided_keys_are_replaced_and_decided_ones_never() {
    let (_, keyring, mut there, mut other, kek_hash) = replicas();
    let bytes = keyring.keys_to_send(TENANT, kek_hash, [3; 12]).unwrap();
    // Its own, made under another number.
    let mut effects = Effects::new();
    other.mint(TENANT, secrets(99), &mut effects).unwrap();
    there.run(&mut other, &mut effects);
    let own = other.kek_hash(TENANT).unwrap();
    let own_bytes = other.keys_to_send(TENANT, own, [5; 12]).unwrap();
    assert_ne!(own, kek_hash);
    assert!(!other.decide(TENANT, kek_hash), "others were chosen, and are not here");
    assert_eq!(keep(&mut there, &mut other, kek_hash, &bytes), Keep::Started);
    assert!(other.decide(TENANT, kek_hash));
    assert_eq!(keep(&mut there, &mut other, own, &own_bytes), Keep::Refused);
    assert_eq!(there.open().kek_hash(TENANT), Some(kek_hash));
}

/// The power fails in each write of a file in which keys take the place of others, torn at many
/// sizes: what opens has the ones or the others, whole.
#[test]
fn a_crash_while_keys_are_replaced_leaves_the_old_or_the_new() {
    let (_, keyring, mut base, mut other, kek_hash) = replicas();
    let bytes = keyring.keys_to_send(TENANT, kek_hash, [3; 12]).unwrap();
    let mut effects = Effects::new();
    other.mint(TENANT, secrets(99), &mut effects).unwrap();
    base.run(&mut other, &mut effects);
    let own = other.kek_hash(TENANT).unwrap();
    let mut seen = [0; 2];
    for writes in 1..=2 {
        for torn in (0..=4096).step_by(64) {
            let mut world = base.clone();
            let mut keyring = world.open();
            let mut effects = Effects::new();
            assert_eq!(keyring.keep(TENANT, kek_hash, &bytes, &mut effects), Keep::Started);
            world.writes_left = Some((writes, torn));
            assert_eq!(world.run(&mut keyring, &mut effects), None);
            world.writes_left = None;
            let (keyring, _) = world.try_open().unwrap();
            let found = keyring.kek_hash(TENANT).unwrap();
            assert!(found == own || found == kek_hash);
            seen[usize::from(found == kek_hash)] += 1;
            assert!(sealed(&keyring, TENANT.get()).is_some());
        }
    }
    assert!(seen[0] > 5 && seen[1] > 5, "{seen:?}");
}
