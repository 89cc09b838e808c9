//! From a module's typed error to the reason why the node stops.
//!
//! Invariant: a device error stays a device error (the operator looks at the disk); everything else
//! keeps its own words, which name what is lost and what to do.

use alloc::string::ToString;

use crate::io::KeyError;
use crate::journal::JournalError;
use crate::kernel::KernelError;
use crate::keyring::KeyringError;
use crate::log::LogError;
use crate::node::api::Halt;
use crate::store::StoreError;
use crate::superblock::SuperblockError;
use crate::vsr::VsrError;

pub(super) fn superblock_halt(error: SuperblockError) -> Halt {
    match error {
        SuperblockError::Io { error, .. } | SuperblockError::Unreadable { error, .. } => {
            Halt::Io { error, what: "superblock" }
        }
        SuperblockError::AllCopiesLost
        | SuperblockError::OneCopyLeft { .. }
        | SuperblockError::CopiesDisagree { .. }
        | SuperblockError::WrongCluster { .. }
        | SuperblockError::WrongReplica { .. }
        | SuperblockError::NewerFormat { .. }
        | SuperblockError::NewerRelease { .. }
        | SuperblockError::ReadBackMismatch { .. } => {
            Halt::Data { what: "superblock", detail: error.to_string() }
        }
    }
}

pub(super) fn journal_halt(error: JournalError) -> Halt {
    match error {
        JournalError::Io { error, .. } => Halt::Io { error, what: "journal" },
        JournalError::Rotten { .. }
        | JournalError::SuperblockStale { .. }
        | JournalError::NewerRelease { .. } => {
            Halt::Data { what: "journal", detail: error.to_string() }
        }
    }
}

pub(super) fn vsr_halt(error: VsrError) -> Halt {
    match error {
        VsrError::Journal(error) => journal_halt(error),
        VsrError::NoPeers { .. } => Halt::Data { what: "cluster", detail: error.to_string() },
    }
}

pub(super) fn keyring_halt(error: KeyringError) -> Halt {
    match error {
        KeyringError::WrongMasterKey { .. } => Halt::Key(KeyError::WrongMasterKey),
        KeyringError::MasterKeyUnavailable { .. } => Halt::Key(KeyError::Unavailable),
        KeyringError::Io(error) | KeyringError::Unreadable { error, .. } => {
            Halt::Io { error, what: "keys file" }
        }
        KeyringError::BothCopiesBad { .. }
        | KeyringError::NewerFormat { .. }
        | KeyringError::OtherCluster { .. }
        | KeyringError::OtherOrigin { .. }
        | KeyringError::WrongKek { .. }
        | KeyringError::WrongDataKey { .. }
        | KeyringError::Disorder { .. }
        | KeyringError::NotKept { .. }
        | KeyringError::Full { .. } => Halt::Data { what: "keys", detail: error.to_string() },
    }
}

pub(super) fn store_halt(error: StoreError) -> Halt {
    match error {
        StoreError::Io(error) => Halt::Io { error, what: "grid" },
        StoreError::Corrupt { .. } | StoreError::KeyMissing { .. } => {
            Halt::Data { what: "grid", detail: error.to_string() }
        }
    }
}

pub(super) fn log_halt(error: LogError) -> Halt {
    Halt::Io { error: error.error, what: "log" }
}

pub(super) fn kernel_halt(error: &KernelError) -> Halt {
    Halt::Data { what: "state", detail: error.to_string() }
}
