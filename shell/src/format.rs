//! Makes a new database in an empty directory.
//!
//! Invariants: nothing is written into a directory that holds anything else. The superblock comes
//! last (`verity_core::node::format`), so a format that was cut off leaves no database, and is
//! simply run again; it is known by its mark ([`found`]). A replica of several takes what all
//! share from the cluster's [`secret`].

pub mod found;
pub mod regain;
pub mod secret;

use std::path::{Path, PathBuf};
use std::time::Duration;

use verity_core::ids::{ClusterId, ReplicaId};
use verity_core::io::{Effects, Input, IoError};
use verity_core::limits::{ClusterConstants, REPLICA_COUNTS, SPACE_RESERVE_BYTES};
use verity_core::node::format::{Format, FormatOptions};
use verity_core::node::{CURRENT_RELEASE, Halt, Seed};

use crate::disk::lock::DirectoryLock;
use crate::disk::master_key::{self, MasterKey, MasterKeySource};
use crate::disk::{Disk, IoBackend, paths};
use crate::error::Error;
use found::Found;
use secret::{ClusterSecret, Shared};

/// What was made.
#[derive(Debug)]
pub struct Formatted {
    pub cluster: ClusterId,
    /// The master key file, when a new one was made.
    pub key_file_made: Option<PathBuf>,
}

/// Whose directory it becomes.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// `None` draws one.
    pub cluster: Option<ClusterId>,
    pub replica: ReplicaId,
    /// 1, 3 or 5.
    pub replica_count: u8,
}

impl Identity {
    /// A cluster of its own, of one replica.
    pub const ALONE: Identity =
        Identity { cluster: None, replica: ReplicaId::new(0), replica_count: 1 };

    fn validate(&self) -> Result<(), Error> {
        let Identity { replica, replica_count, .. } = self;
        if !REPLICA_COUNTS.contains(replica_count) {
            return Err(Error::Options(format!(
                "a cluster has 1, 3 or 5 replicas, not {replica_count}"
            )));
        }
        if replica.get() >= *replica_count {
            return Err(Error::Options(format!(
                "there is no replica {replica} of {replica_count}: they are numbered from 0"
            )));
        }
        Ok(())
    }
}

/// Files that a format that was cut off may have left.
const OUR_FILES: [&str; 7] =
    [paths::LOCK_FILE, "superblock", "journal", "grid", "keys", "scratch", found::MARK];

/// Whether the directory holds a database, whole or damaged; an error where it holds what is left
/// of one.
pub fn is_formatted(path: &Path) -> Result<bool, Error> {
    match found::look(path)? {
        Found::Nothing | Found::CutOff => Ok(false),
        Found::Database => Ok(true),
        Found::Remains => Err(Error::SuperblockLost { path: path.to_path_buf() }),
    }
}

/// `replaces`: in place of a replica of a cluster that lives, whose disk is lost.
pub fn format(
    path: &Path,
    backend: IoBackend,
    source: &MasterKeySource,
    constants: ClusterConstants,
    identity: Identity,
    secret: Option<&ClusterSecret>,
    replaces: bool,
) -> Result<Formatted, Error> {
    identity.validate()?;
    if replaces && identity.replica_count == 1 {
        return Err(Error::Options(
            "a replica is replaced from its peers, and a database of one replica has none: \
             restore the directory from a copy"
                .to_string(),
        ));
    }
    if secret.is_none() && identity.replica_count > 1 {
        return Err(Error::Options(
            "the replicas of a cluster share its keys: name the file that carries them with \
             --secret FILE; the first format makes it, the others read a copy"
                .to_string(),
        ));
    }
    if is_formatted(path)? {
        return Err(Error::AlreadyFormatted { path: path.to_path_buf() });
    }
    let directory = |error| Error::Directory { path: path.to_path_buf(), error };
    // Before anything is made.
    check_room(path, &constants)?;
    std::fs::create_dir_all(path).map_err(directory)?;
    for entry in std::fs::read_dir(path).map_err(directory)? {
        let name = entry.map_err(directory)?.file_name().to_string_lossy().into_owned();
        if !OUR_FILES.contains(&name.as_str()) {
            return Err(Error::NotEmpty { path: path.to_path_buf(), found: name });
        }
    }
    let _lock = DirectoryLock::exclusive(path).map_err(Error::Lock)?;
    // Whoever had the lock before may have formatted, and written.
    if is_formatted(path)? {
        return Err(Error::AlreadyFormatted { path: path.to_path_buf() });
    }
    let (master_key, key_file_made) =
        MasterKey::load_or_create(source, path).map_err(Error::MasterKey)?;
    let made = Made { path, key_file: key_file_made.as_deref() };
    let disk = Disk::open(path, backend, master_key).map_err(Error::Disk)?;
    let own = Seed(master_key::random().map_err(Error::MasterKey)?);
    let shared = secret.map(|secret| &secret.shared);
    let options = FormatOptions {
        cluster: identity.cluster,
        replica: identity.replica,
        replica_count: identity.replica_count,
        release: CURRENT_RELEASE,
        constants,
    };
    let marked = found::mark(path).map_err(directory);
    let cluster = match marked.and_then(|()| run(disk, options, replaces, shared, &own)) {
        Ok(cluster) => cluster,
        Err(error) if is_no_space(&error) => {
            made.remove();
            return Err(no_room(path, &options.constants));
        }
        Err(error) => return Err(error),
    };
    found::unmark(path)?;
    Ok(Formatted { cluster, key_file_made })
}

/// What a format has made that cannot come to its end, while it has the lock.
struct Made<'a> {
    path: &'a Path,
    key_file: Option<&'a Path>,
}

impl Made<'_> {
    /// The mark goes last: what is left by a removal that was cut off is known by it.
    fn remove(&self) {
        let ours = OUR_FILES.iter().filter(|name| **name != paths::LOCK_FILE);
        let files = ours.map(|name| self.path.join(name));
        for file in self.key_file.map(Path::to_path_buf).into_iter().chain(files) {
            let _was_not_made = std::fs::remove_file(file);
        }
    }
}

fn is_no_space(error: &Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match error {
        Error::Halted { halt: Halt::Io { error: IoError::NoSpace, .. }, .. } => true,
        Error::Directory { error, .. } => matches!(error.kind(), StorageFull | QuotaExceeded),
        _other_errors => false,
    }
}

/// Superblock, keys, what the first open makes, and what the file system needs for itself.
const BESIDE_JOURNAL_BYTES: u64 = 6 << 20;

/// What a new directory takes, and must leave, so that the first write is not refused: the journal
/// is written whole at format.
fn bytes_needed(constants: &ClusterConstants) -> u64 {
    let ring = constants.journal_ring_bytes;
    ring.saturating_add(ring / 16)
        .saturating_add(BESIDE_JOURNAL_BYTES)
        .saturating_add(SPACE_RESERVE_BYTES)
}

/// Better refused than found out by filling the disk.
fn check_room(path: &Path, constants: &ClusterConstants) -> Result<(), Error> {
    match free_bytes(path) {
        Some(free) if free < bytes_needed(constants) => Err(no_room(path, constants)),
        Some(_) | None => Ok(()),
    }
}

fn no_room(path: &Path, constants: &ClusterConstants) -> Error {
    Error::NoRoom {
        path: path.to_path_buf(),
        journal_bytes: constants
            .journal_ring_bytes
            .saturating_add(constants.journal_ring_bytes / 16),
        needed_bytes: bytes_needed(constants),
        free_bytes: free_bytes(path).unwrap_or(0),
    }
}

/// Where the directory is, or will be, with what a format that was cut off has left, for that is
/// written over; `None`: nobody can say.
fn free_bytes(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let path = std::path::absolute(path).ok()?;
    let there = path.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    let left = |name: &&str| path.join(name).metadata().map_or(0, |file| file.blocks() * 512);
    let left: u64 = OUR_FILES.iter().map(left).sum();
    Some(stat.f_bavail.saturating_mul(stat.f_frsize).saturating_add(left))
}

/// `own` is the seed of what no other replica may know.
fn run(
    mut disk: Disk,
    options: FormatOptions,
    replaces: bool,
    shared: Option<&Shared>,
    own: &Seed,
) -> Result<ClusterId, Error> {
    let bell = disk.doorbell();
    let mut effects = Effects::new();
    let mut inputs: Vec<Input> = Vec::new();
    let halted = |disk: &Disk, halt: Halt| Error::Halted {
        halt,
        problem: disk.problem().map(str::to_string),
    };
    let seed = match shared {
        Some(Shared::Seed(seed)) => Seed(*seed),
        Some(Shared::Keys(_)) | None => Seed(own.0),
    };
    let mut format =
        Format::start(options, &seed, &mut effects).map_err(|halt| halted(&disk, halt))?;
    match shared {
        Some(Shared::Seed(_)) => format = format.with_own_seed(own),
        Some(Shared::Keys(keys)) => format = format.with_shared_keys(keys.shared()),
        None => {}
    }
    if replaces {
        format = format.replacing();
    }
    while !format.is_done() {
        disk.execute(&mut effects);
        bell.submit();
        disk.poll(&mut inputs);
        if inputs.is_empty() {
            bell.submit_and_wait(Duration::from_millis(50));
            disk.poll(&mut inputs);
        }
        for input in inputs.drain(..) {
            format.step(input, &mut effects).map_err(|halt| halted(&disk, halt))?;
        }
    }
    Ok(format.cluster())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use crate::verify::{self, Silent, Verdict};
    use verity_core::limits::{PAGE_SIZE, SUPERBLOCK_COPIES};
    use verity_core::superblock::copy_offset;

    fn small(path: &Path, backend: IoBackend) -> Result<Formatted, Error> {
        let source = MasterKeySource::Content(vec![b'7'; 64]);
        format(path, backend, &source, ClusterConstants::SMALL, Identity::ALONE, None, false)
    }

    fn verdict(path: &Path) -> Verdict {
        let source = MasterKeySource::Content(vec![b'7'; 64]);
        let key = MasterKey::load(&source, path).unwrap();
        verify::check(path, Ok(key), &mut Silent).unwrap().verdict()
    }

    #[test]
    fn what_is_formatted_holds_and_is_not_formatted_again() {
        for backend in [IoBackend::Auto, IoBackend::Threads] {
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path().join("data");
            assert!(!is_formatted(&data).unwrap());
            small(&data, backend).unwrap();
            assert!(is_formatted(&data).unwrap());
            assert_eq!(verdict(&data), Verdict::Holds);
            let again = small(&data, backend).unwrap_err();
            assert!(matches!(again, Error::AlreadyFormatted { .. }), "{again}");
        }
    }

    #[test]
    fn a_format_that_was_cut_off_is_run_again() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("superblock"), vec![0; 4096]).unwrap();
        std::fs::write(data.join("journal"), b"half").unwrap();
        let lost = small(&data, IoBackend::Auto).unwrap_err();
        assert!(matches!(lost, Error::SuperblockLost { .. }), "without its mark it may be lost");
        assert_eq!(std::fs::read(data.join("journal")).unwrap(), b"half");
        found::mark(&data).unwrap();
        small(&data, IoBackend::Auto).unwrap();
        assert!(!data.join(found::MARK).exists());
        assert_eq!(verdict(&data), Verdict::Holds);
    }

    /// The copies of the superblock are written one after the other: a kill may fall between two.
    #[test]
    fn a_format_that_was_cut_off_amid_the_superblock_is_run_again() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut cluster = small(&data, IoBackend::Auto).unwrap().cluster;
        let superblock = data.join("superblock");
        for copies in 0..=u8::try_from(SUPERBLOCK_COPIES).unwrap() {
            let mut bytes = std::fs::read(&superblock).unwrap();
            let written = match copies.checked_sub(1) {
                Some(last) => usize::try_from(copy_offset(last)).unwrap() + PAGE_SIZE,
                None => 0,
            };
            bytes[written..].fill(0);
            std::fs::write(&superblock, &bytes).unwrap();
            found::mark(&data).unwrap();
            assert!(!is_formatted(&data).unwrap(), "{copies} copies");
            let again = small(&data, IoBackend::Auto).unwrap().cluster;
            assert_ne!(std::mem::replace(&mut cluster, again), again);
            assert_eq!(verdict(&data), Verdict::Holds);
        }
    }

    #[test]
    fn a_mark_on_a_database_that_was_opened_is_no_reason_to_format_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let options = || {
            let key = MasterKeySource::Content(vec![b'7'; 64]);
            Options::new().cluster_constants(ClusterConstants::SMALL).master_key(key)
        };
        small(&data, IoBackend::Auto).unwrap();
        options().open(&data).unwrap().close().unwrap();
        found::mark(&data).unwrap();
        assert!(is_formatted(&data).unwrap());
        options().open(&data).unwrap().close().unwrap();
        assert!(!data.join(found::MARK).exists());
    }

    #[test]
    fn damage_in_superblock_and_keys_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        small(&data, IoBackend::Auto).unwrap();
        for (name, offset) in [("superblock", 100), ("keys", 60)] {
            let path = data.join(name);
            let whole = std::fs::read(&path).unwrap();
            let mut bad = whole.clone();
            bad[offset] ^= 4;
            std::fs::write(&path, bad).unwrap();
            assert_eq!(verdict(&data), Verdict::Broken, "{name}");
            std::fs::write(&path, whole).unwrap();
            assert_eq!(verdict(&data), Verdict::Holds, "{name}");
        }
    }

    #[test]
    fn other_peoples_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let refused = small(dir.path(), IoBackend::Auto).unwrap_err();
        assert!(matches!(refused, Error::NotEmpty { .. }), "{refused}");
    }
}
