//! What the replicas of one cluster share, carried from one format to the others in a file.
//!
//! Purpose: number of the cluster, count of replicas, limits that steer state, and the seed of
//! origin and tenants' keys; or, where the file was destroyed and is written anew from what a
//! replica has ([`regain`](super::regain)), these themselves: the seed is in no directory.
//! Invariants: the file is made once, with mode 0600, and never written over; a damaged one is
//! refused, not guessed at. Who has it has the keys of tenants 0 and 1: it is a secret like a
//! master key.
//!
//! ```text
//! verity-cluster-secret 1
//! cluster 0123…            32 hexadecimal digits
//! replicas 3
//! journal_ring_bytes 268435456      and the other limits
//! seed 89ab…               64 hexadecimal digits
//! checksum 4567…           SHA-256 of all lines above
//! ```
//!
//! Version 2 has, in place of the seed:
//!
//! ```text
//! origin 0123…             32 hexadecimal digits
//! kek_0 89ab…              64 hexadecimal digits: the KEK of tenant 0
//! data_key_0 89ab…         its first data key
//! kek_1 …
//! data_key_1 …
//! ```

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use verity_core::crypto::hash::ChainHash;
use verity_core::ids::{ClusterId, OriginId};
use verity_core::io::SecretKey;
use verity_core::limits::{ClusterConstants, REPLICA_COUNTS};
use verity_core::node::format::SharedKeys;

use crate::disk::master_key;
use crate::error::Error;

const FIRST_LINE: &str = "verity-cluster-secret 1";
const FIRST_LINE_REGAINED: &str = "verity-cluster-secret 2";
const FILE_BYTES_MAX: u64 = 4_096;

/// Of one cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret {
    pub cluster: ClusterId,
    pub replica_count: u8,
    pub constants: ClusterConstants,
    pub(crate) shared: Shared,
}

/// Where origin and keys of tenants come from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Shared {
    Seed([u8; 32]),
    Keys(RegainedKeys),
}

/// Origin and keys themselves.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RegainedKeys {
    pub origin: OriginId,
    /// Of tenants 0 and 1: KEK and first data key.
    pub tenants: [[SecretKey; 2]; 2],
}

impl RegainedKeys {
    pub fn shared(&self) -> SharedKeys {
        let tenants = self.tenants.clone().map(|[kek, data_key]| (kek, data_key));
        SharedKeys { origin: self.origin, tenants }
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterSecret").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl ClusterSecret {
    /// Draws what is not given.
    pub fn draw(
        cluster: Option<ClusterId>,
        replica_count: u8,
        constants: ClusterConstants,
    ) -> Result<ClusterSecret, Error> {
        if !REPLICA_COUNTS.contains(&replica_count) {
            return Err(Error::Options(format!(
                "a cluster has 1, 3 or 5 replicas, not {replica_count}"
            )));
        }
        constants.validate().map_err(|what| Error::Options(what.to_string()))?;
        let number: [u8; 16] = master_key::random().map_err(Error::MasterKey)?;
        let drawn = ClusterId::new(u128::from_le_bytes(number) | 1);
        let cluster = cluster.unwrap_or(drawn);
        let seed = master_key::random().map_err(Error::MasterKey)?;
        Ok(ClusterSecret { cluster, replica_count, constants, shared: Shared::Seed(seed) })
    }

    /// What the file holds; `None`: there is none.
    pub fn load(path: &Path) -> Result<Option<ClusterSecret>, Error> {
        let failed = |error: &dyn fmt::Display| {
            Error::Options(format!("the cluster's secret {}: {error}", path.display()))
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        let mode = file.metadata().map_err(|error| failed(&error))?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(
                "the cluster's secret {} may be read by others (mode {:o}); chmod 600 it",
                path.display(),
                mode & 0o777
            );
        }
        let mut text = String::new();
        let read = file.take(FILE_BYTES_MAX).read_to_string(&mut text);
        read.map_err(|error| failed(&error))?;
        match parse(&text) {
            Some(secret) => Ok(Some(secret)),
            None => Err(failed(
                &"it is damaged or no such file; copy it anew from where the first replica was \
                  formatted",
            )),
        }
    }

    /// Writes a file that was not there.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let write = || {
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(self.text().as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error: std::io::Error| {
            Error::Options(format!("cannot make the cluster's secret {}: {error}", path.display()))
        })
    }

    fn text(&self) -> String {
        let first_line = match &self.shared {
            Shared::Seed(_) => FIRST_LINE,
            Shared::Keys(_) => FIRST_LINE_REGAINED,
        };
        let mut text = format!(
            "{first_line}\ncluster {:032x}\nreplicas {}\n",
            self.cluster.get(),
            self.replica_count
        );
        for (name, value) in limits_by_name(&self.constants) {
            let _cannot_fail = writeln!(text, "{name} {value}");
        }
        let _cannot_fail = match &self.shared {
            Shared::Seed(seed) => writeln!(text, "seed {}", hex(seed)),
            Shared::Keys(RegainedKeys {
                origin,
                tenants: [[kek_0, data_key_0], [kek_1, data_key_1]],
            }) => {
                writeln!(
                    text,
                    "origin {:032x}\nkek_0 {}\ndata_key_0 {}\nkek_1 {}\ndata_key_1 {}",
                    origin.get(),
                    hex(&kek_0.0),
                    hex(&data_key_0.0),
                    hex(&kek_1.0),
                    hex(&data_key_1.0),
                )
            }
        };
        let checksum = hex(&ChainHash::of(&[text.as_bytes()]).0);
        let _cannot_fail = writeln!(text, "checksum {checksum}");
        text
    }
}

/// A limit, of either width.
enum Field<'a> {
    Long(&'a mut u64),
    Short(&'a mut u32),
}

impl Field<'_> {
    fn get(&self) -> u64 {
        match self {
            Field::Long(value) => **value,
            Field::Short(value) => u64::from(**value),
        }
    }

    fn set(&mut self, new: u64) -> Option<()> {
        match self {
            Field::Long(value) => **value = new,
            Field::Short(value) => **value = u32::try_from(new).ok()?,
        }
        Some(())
    }
}

/// Every limit by its name, in the order of the file.
pub fn limits_by_name(constants: &ClusterConstants) -> [(&'static str, u64); 10] {
    let mut constants = *constants;
    fields(&mut constants).map(|(name, field)| (name, field.get()))
}

/// The same, to be set.
fn fields(constants: &mut ClusterConstants) -> [(&'static str, Field<'_>); 10] {
    let ClusterConstants {
        journal_ring_bytes,
        grid_pages_max,
        dirty_pages_max,
        transaction_events_max,
        transaction_pages_read_max,
        transaction_pages_dirtied_max,
        transaction_bytes_max,
        segment_positions,
        checkpoint_record_interval,
        shutdown_records_max,
    } = constants;
    [
        ("journal_ring_bytes", Field::Long(journal_ring_bytes)),
        ("grid_pages_max", Field::Short(grid_pages_max)),
        ("dirty_pages_max", Field::Short(dirty_pages_max)),
        ("transaction_events_max", Field::Short(transaction_events_max)),
        ("transaction_pages_read_max", Field::Short(transaction_pages_read_max)),
        ("transaction_pages_dirtied_max", Field::Short(transaction_pages_dirtied_max)),
        ("transaction_bytes_max", Field::Short(transaction_bytes_max)),
        ("segment_positions", Field::Long(segment_positions)),
        ("checkpoint_record_interval", Field::Short(checkpoint_record_interval)),
        ("shutdown_records_max", Field::Short(shutdown_records_max)),
    ]
}

fn parse(text: &str) -> Option<ClusterSecret> {
    let checked = text.find("checksum ")?;
    let mut lines = text.lines();
    let regained = match lines.next()? {
        FIRST_LINE => false,
        FIRST_LINE_REGAINED => true,
        _other => return None,
    };
    let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let cluster = ClusterId::new(u128::from_str_radix(value("cluster")?, 16).ok()?);
    let replica_count = value("replicas")?.parse().ok()?;
    let mut constants = ClusterConstants::DEFAULT;
    for (name, mut field) in fields(&mut constants) {
        field.set(value(name)?.parse().ok()?)?;
    }
    let shared = if regained {
        let origin = OriginId::new(u128::from_str_radix(value("origin")?, 16).ok()?);
        let mut key = |name: &str| from_hex(value(name)?).map(SecretKey);
        let tenants = [[key("kek_0")?, key("data_key_0")?], [key("kek_1")?, key("data_key_1")?]];
        Shared::Keys(RegainedKeys { origin, tenants })
    } else {
        Shared::Seed(from_hex(value("seed")?)?)
    };
    let checksum = value("checksum")?;
    let right = hex(&ChainHash::of(&[&text.as_bytes()[..checked]]).0) == checksum;
    let sound = REPLICA_COUNTS.contains(&replica_count) && constants.validate().is_ok();
    (right && sound).then_some(ClusterSecret { cluster, replica_count, constants, shared })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_every_change_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert_eq!(ClusterSecret::load(&path).unwrap(), None);
        let drawn = ClusterSecret::draw(None, 3, ClusterConstants::COMPACT).unwrap();
        let key = |byte| SecretKey([byte; 32]);
        let tenants = [[key(1), key(2)], [key(3), key(4)]];
        let keys = RegainedKeys { origin: OriginId::new(5), tenants };
        let regained = ClusterSecret { shared: Shared::Keys(keys), ..drawn.clone() };
        check(&drawn, &path);
        check(&regained, &dir.path().join("regained"));
    }

    fn check(secret: &ClusterSecret, path: &Path) {
        secret.save(path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ClusterSecret::load(path).unwrap().as_ref(), Some(secret));
        assert!(secret.save(path).is_err(), "never written over");
        let text = secret.text();
        for at in 0..text.len() - 1 {
            let mut bad = text.clone().into_bytes();
            bad[at] ^= 1;
            let Ok(bad) = String::from_utf8(bad) else { continue };
            assert_eq!(parse(&bad), None, "byte {at}");
            assert_eq!(parse(&text[..at]), None, "cut at {at}");
        }
    }
}
