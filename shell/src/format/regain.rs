//! The cluster's secret, written anew from what one of its replicas has.
//!
//! Purpose: the file of the secret is to be destroyed when all replicas are formatted, and who
//! replaces one later needs it. The seed in it is nowhere else; what came of it is in every
//! directory, wrapped under that replica's master key. Invariants: only files are read, nothing is
//! changed, and no lock is taken: the replica may be running. A superblock or keys that are being
//! written meanwhile are whole in their other copies.

use std::path::Path;

use verity_core::crypto::keys::Kek;
use verity_core::ids::TenantId;
use verity_core::io::{KeyPurpose, SecretKey};
use verity_core::keyring::format::{Entry, Image, KeyKind};

use super::found;
use super::secret::{ClusterSecret, RegainedKeys, Shared};
use crate::disk::master_key::{MasterKey, MasterKeySource};
use crate::error::Error;
use crate::offline::Offline;
use crate::verify::parts;

/// What the replicas of this directory's cluster share.
pub fn regain(path: &Path, source: &MasterKeySource) -> Result<ClusterSecret, Error> {
    let failed = |what: &dyn std::fmt::Display| {
        Error::Options(format!("the secret cannot be had from {}: {what}", path.display()))
    };
    let state = found::superblock(path).map_err(|error| failed(&error))?;
    if state.replica_count == 1 {
        return Err(failed(&"it is a database of one replica, which shares nothing"));
    }
    let master_key = MasterKey::load(source, path).map_err(Error::MasterKey)?;
    let image = parts::key_image(&mut Offline::new(path, None)).map_err(|fault| failed(&fault))?;
    if (image.cluster, image.origin) != (state.cluster, state.origin) {
        return Err(failed(&"superblock and keys are of different databases"));
    }
    let keys_of = |tenant| {
        keys_of(&image, tenant, &master_key)
            .map_err(|what| failed(&format!("keys of tenant {tenant}: {what}")))
    };
    let tenants = [keys_of(TenantId::SYSTEM)?, keys_of(TenantId::DEFAULT)?];
    Ok(ClusterSecret {
        cluster: state.cluster,
        replica_count: state.replica_count,
        constants: state.constants,
        shared: Shared::Keys(RegainedKeys { origin: state.origin, tenants }),
    })
}

fn keys_of(
    image: &Image,
    tenant: TenantId,
    master_key: &MasterKey,
) -> Result<[SecretKey; 2], &'static str> {
    let entries = || image.entries.iter().filter(|entry| entry.tenant == tenant);
    let kek = entries().find(|entry| entry.kind == KeyKind::Kek).ok_or("there is no KEK")?;
    let data_keys: Vec<&Entry> = entries().filter(|entry| entry.kind == KeyKind::DataKey).collect();
    let [data_key] = data_keys.as_slice() else {
        return Err("there is not exactly one data key");
    };
    let opened = master_key.unwrap(KeyPurpose::Kek, &kek.wrapped);
    let secret = opened.map_err(|_| "the master key does not open them")?;
    let kek = Kek::new(secret);
    let unwrapped = kek.unwrap(image.origin, tenant, data_key.key, &data_key.wrapped);
    let data_key = unwrapped.map_err(|_| "the KEK does not open the data key")?;
    Ok([kek.secret().clone(), data_key.secret().clone()])
}
