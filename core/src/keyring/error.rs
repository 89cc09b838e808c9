//! What can go wrong with `data/keys`, and what to do about it.

use core::fmt;

use crate::ids::{ClusterId, KeyId, OriginId, TenantId};
use crate::io::{IoError, KeyError};

/// Why one copy is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFault {
    /// The disk did not give it.
    Unreadable(IoError),
    /// No keys file begins here: never written, or overwritten by something else.
    NotKeys,
    /// It claims more keys than there can be.
    TooManyKeys { count: u32 },
    /// Torn or rotten.
    Checksum,
    /// Good, but written by a newer release.
    NewerFormat { version: u32 },
    /// The checksum holds, yet an entry makes no sense: a bug of whoever wrote it.
    BadEntry { at: u32 },
}

impl fmt::Display for CopyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopyFault::Unreadable(error) => write!(f, "{error}"),
            CopyFault::NotKeys => f.write_str("not a keys file"),
            CopyFault::TooManyKeys { count } => write!(f, "claims {count} keys"),
            CopyFault::Checksum => f.write_str("checksum does not hold"),
            CopyFault::NewerFormat { version } => write!(f, "format {version} of a newer release"),
            CopyFault::BadEntry { at } => write!(f, "entry {at} makes no sense"),
        }
    }
}

/// Why the keyring cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyringError {
    /// Neither copy is usable.
    BothCopiesBad { faults: [CopyFault; 2] },
    /// A copy could not be read, and the other one does not stand for it. Nothing was written: it
    /// may be whole.
    Unreadable { copy: u8, error: IoError },
    /// A good copy was written by a newer release.
    NewerFormat { version: u32 },
    /// Of another cluster.
    OtherCluster { found: ClusterId, expected: ClusterId },
    /// The file is of before a restore or a forced recovery, or of a copy of this cluster.
    OtherOrigin { found: OriginId, expected: OriginId },
    /// The master key given does not open the keys. Nothing was written.
    WrongMasterKey { tenant: TenantId },
    /// The holder of the master key does not answer. Nothing was written.
    MasterKeyUnavailable { tenant: TenantId },
    /// The master key opened a KEK that is not this tenant's: entries were moved.
    WrongKek { tenant: TenantId },
    /// The tenant's KEK does not open its data key: entries were moved.
    WrongDataKey { tenant: TenantId, key: KeyId },
    /// Entries are not in order.
    Disorder { tenant: TenantId, key: KeyId },
    /// What was written durably is not what is read back: the disk loses writes.
    NotKept { copy: u8 },
    /// No room for another tenant's keys.
    Full { keys_max: usize },
    /// The disk refused.
    Io(IoError),
}

impl KeyringError {
    pub(super) fn of_master_key(error: KeyError, tenant: TenantId) -> KeyringError {
        match error {
            KeyError::WrongMasterKey => KeyringError::WrongMasterKey { tenant },
            KeyError::Unavailable => KeyringError::MasterKeyUnavailable { tenant },
        }
    }
}

impl fmt::Display for KeyringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys file: ")?;
        match self {
            KeyringError::BothCopiesBad { faults: [first, second] } => write!(
                f,
                "no usable copy (first: {first}; second: {second}); \
                 restore the file from escrow, the data cannot be read without it"
            ),
            KeyringError::Unreadable { copy, error } => write!(
                f,
                "copy {copy} cannot be read ({error}): it is not known what it holds; nothing was \
                 written"
            ),
            KeyringError::NewerFormat { version } => {
                write!(f, "format {version} was written by a newer release; start that one")
            }
            KeyringError::OtherCluster { found, expected } => {
                let (found, expected) = (found.get(), expected.get());
                write!(
                    f,
                    "of cluster {found:032x}, this is {expected:032x}; put the right one back"
                )
            }
            KeyringError::OtherOrigin { found, expected } => {
                let (found, expected) = (found.get(), expected.get());
                write!(f, "of origin {found:032x}, the data is of origin {expected:032x}")
            }
            KeyringError::WrongMasterKey { tenant } => write!(
                f,
                "the master key does not open the key of tenant {tenant}; \
                 give the one it was created with; nothing was changed"
            ),
            KeyringError::MasterKeyUnavailable { tenant } => write!(
                f,
                "the holder of the master key does not answer (key of tenant {tenant}); \
                 nothing was changed"
            ),
            KeyringError::WrongKek { tenant } => {
                write!(f, "the key in the place of tenant {tenant} is not its own: tampering")
            }
            KeyringError::WrongDataKey { tenant, key } => {
                write!(f, "key {key} of tenant {tenant} is not wrapped by its KEK: tampering")
            }
            KeyringError::Disorder { tenant, key } => {
                write!(f, "key {key} of tenant {tenant} is out of order: tampering")
            }
            KeyringError::NotKept { copy } => {
                write!(f, "copy {copy} is not what was just written durably: the disk loses writes")
            }
            KeyringError::Full { keys_max } => {
                write!(f, "full with {keys_max} keys; no more tenants can be created")
            }
            KeyringError::Io(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for KeyringError {}
