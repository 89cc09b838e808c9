//! Tests of the key hierarchy.

use alloc::format;
use alloc::vec::Vec;

use super::*;
use crate::ids::Position;

fn keys(origin: u128, tenant: u64, id: u32, key: u8, generation: u64) -> TenantKeys {
    TenantKeys::derive(
        OriginId::new(origin),
        TenantId::new(tenant),
        KeyId::new(id),
        &DataKey::new(SecretKey([key; 32])),
        Generation::new(generation),
    )
}

fn sealed(key: &RecordKey) -> [u8; 16] {
    key.seal(Position::new(1), b"", &mut [7; 8]).0
}

#[test]
fn master_key_takes_raw_and_hexadecimal() {
    let raw = MasterKey::parse(&[0xab; 32]).unwrap();
    let hex = "aB".repeat(32);
    assert!(MasterKey::parse(hex.as_bytes()).unwrap() == raw);
    assert!(MasterKey::parse(format!("{hex}\n").as_bytes()).unwrap() == raw);
    assert!(MasterKey::parse(format!("{hex}\r\n").as_bytes()).unwrap() == raw);
    assert_eq!(format!("{raw:?}"), "MasterKey(..)");
}

#[test]
fn master_key_says_what_is_wrong() {
    let refused = |bytes: &[u8]| MasterKey::parse(bytes).unwrap_err();
    for length_bytes in [0, 1, 31, 33, 63, 67, 128] {
        let bytes: Vec<u8> = core::iter::repeat_n(b'a', length_bytes).collect();
        assert_eq!(refused(&bytes), MasterKeyError::Length { length_bytes });
    }
    let mut hex = [b'0'; 64];
    assert_eq!(refused(&hex), MasterKeyError::Zero);
    assert_eq!(refused(&[0; 32]), MasterKeyError::Zero);
    hex[9] = b'g';
    assert_eq!(refused(&hex), MasterKeyError::NotHexadecimal { offset: 9 });
    hex[9] = 0xff;
    assert_eq!(refused(&hex), MasterKeyError::NotHexadecimal { offset: 9 });
}

/// Whatever names a subkey changes it.
#[test]
fn subkeys_differ_by_everything_in_their_info() {
    let base = keys(1, 2, 3, 4, 5);
    let generation = Generation::new(5);
    let expected = sealed(&base.record(generation));
    assert_eq!(sealed(&keys(1, 2, 3, 4, 5).record(generation)), expected);
    for other in
        [keys(9, 2, 3, 4, 5), keys(1, 9, 3, 4, 5), keys(1, 2, 9, 4, 5), keys(1, 2, 3, 9, 5)]
    {
        assert_ne!(sealed(&other.record(generation)), expected);
    }
    assert_ne!(sealed(&base.record(Generation::new(6))), expected);
    let request = base.request().seal([1; 12], b"", &mut [7; 8]);
    let mut nonce = [0; 12];
    nonce[0] = 1;
    assert_ne!(base.request().seal(nonce, b"", &mut [7; 8]).0, expected);
    assert_ne!(request.0, expected);
}

#[test]
fn a_key_of_another_generation_is_the_same_however_it_is_reached() {
    let mut moving = keys(1, 2, 3, 4, 0);
    let fixed = keys(1, 2, 3, 4, 6);
    for generation in [0, 6, 7, 0] {
        let generation = Generation::new(generation);
        let expected = sealed(&fixed.record(generation));
        assert_eq!(sealed(&moving.record(generation)), expected);
        moving.enter(generation);
        assert!(matches!(moving.record(generation), OfGeneration::Current(_)));
        assert_eq!(sealed(&moving.record(generation)), expected);
    }
}

#[test]
fn data_keys_open_under_their_kek_for_their_tenant_only() {
    let kek = Kek::new(SecretKey([1; 32]));
    let data = DataKey::new(SecretKey([2; 32]));
    let (origin, tenant, id) = (OriginId::new(3), TenantId::new(4), KeyId::new(5));
    let wrapped = kek.wrap([6; 12], origin, tenant, id, &data);
    assert!(kek.unwrap(origin, tenant, id, &wrapped) == Ok(data));
    assert!(kek.unwrap(OriginId::new(9), tenant, id, &wrapped).is_err());
    assert!(kek.unwrap(origin, TenantId::new(9), id, &wrapped).is_err());
    assert!(kek.unwrap(origin, tenant, KeyId::new(9), &wrapped).is_err());
    assert!(Kek::new(SecretKey([9; 32])).unwrap(origin, tenant, id, &wrapped).is_err());
}

#[test]
fn kek_hash_names_key_and_tenant() {
    let kek = Kek::new(SecretKey([1; 32]));
    let hash = kek.hash(TenantId::new(1));
    assert_eq!(hash, kek.hash(TenantId::new(1)));
    assert_ne!(hash, kek.hash(TenantId::new(2)));
    assert_ne!(hash, Kek::new(SecretKey([2; 32])).hash(TenantId::new(1)));
    assert!(!hash.0.windows(4).any(|window| window == [1; 4]));
}

#[test]
fn each_rebuild_has_page_keys_of_its_own() {
    let keys = keys(1, 2, 3, 4, 0);
    let other_tenant = self::keys(1, 2, 4, 4, 0);
    let sealed = |key: &PageKey| {
        let mut page = crate::io::Pages::zeroed(1);
        let op = crate::ids::Op::new(7);
        key.seal(crate::ids::PageNumber::new(5), op, &mut page.as_mut_slice()[0]).0
    };
    let first = sealed(&keys.scratch_page(&[1; 16]));
    assert_eq!(first, sealed(&keys.scratch_page(&[1; 16])));
    assert_ne!(first, sealed(&keys.scratch_page(&[2; 16])));
    assert_ne!(first, sealed(keys.page()));
    assert_ne!(first, sealed(&other_tenant.scratch_page(&[1; 16])));
}

#[test]
fn a_key_under_the_master_key_opens_only_as_what_it_was_wrapped_as() {
    use crate::crypto::seal::{unwrap_key, wrap_key};
    use crate::io::{KeyError, KeyPurpose};
    let master = MasterKey::parse(&[7; 32]).unwrap();
    let (kek, cosigning) = (KeyPurpose::Kek, KeyPurpose::Cosigning);
    for (purpose, other) in [(kek, cosigning), (cosigning, kek)] {
        let wrapped = wrap_key(&master, [1; 12], purpose, &SecretKey([9; 32]));
        assert_eq!(unwrap_key(&master, purpose, &wrapped), Ok(SecretKey([9; 32])));
        assert_eq!(unwrap_key(&master, other, &wrapped), Err(KeyError::WrongMasterKey));
    }
}

#[test]
fn a_kek_on_its_way_opens_only_as_what_it_is_named() {
    let transfer = |origin, key| keys(origin, 0, 1, key, 0).transfer();
    let (origin, tenant) = (OriginId::new(3), TenantId::new(4));
    let kek = Kek::new(SecretKey([1; 32]));
    let hash = kek.hash(tenant);
    let wrapped = transfer(3, 7).wrap([6; 12], origin, tenant, &hash, &kek);
    assert!(transfer(3, 7).unwrap(origin, tenant, &hash, &wrapped) == Ok(kek.clone()));
    assert!(transfer(3, 8).unwrap(origin, tenant, &hash, &wrapped).is_err());
    assert!(transfer(2, 7).unwrap(origin, tenant, &hash, &wrapped).is_err());
    assert!(transfer(3, 7).unwrap(OriginId::new(9), tenant, &hash, &wrapped).is_err());
    assert!(transfer(3, 7).unwrap(origin, TenantId::new(9), &hash, &wrapped).is_err());
    assert!(transfer(3, 7).unwrap(origin, tenant, &KekHash([9; 32]), &wrapped).is_err());
    // Sealed under a name that is not its own: it opens, and is refused.
    let wrong = transfer(3, 7).wrap([6; 12], origin, tenant, &KekHash([9; 32]), &kek);
    assert!(transfer(3, 7).unwrap(origin, tenant, &KekHash([9; 32]), &wrong).is_err());
}
