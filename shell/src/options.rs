//! How a database is opened.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use verity_core::ids::ReplicaId;
use verity_core::io::Effects;
use verity_core::limits::ClusterConstants;
use verity_core::node::{Config, Halt, Memory, MemoryPlan, Node, Seed};

use crate::disk::lock::DirectoryLock;
use crate::disk::master_key::{self, MasterKey, MasterKeySource};
use crate::disk::{Disk, IoBackend};
use crate::driver::Driver;
use crate::error::Error;
use crate::format::secret::ClusterSecret;
use crate::{Verity, format};

/// How long after a write its state is attested when nothing is said.
const ATTEST_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// Address space that a process takes and does not use: code that is never run, stacks and arenas
/// as they are reserved.
const UNCOUNTED_BYTES: u64 = 128 << 20;

/// Builder of an open database.
///
/// ```
/// # fn main() -> Result<(), verity::Error> {
/// # let dir = std::env::temp_dir().join(format!("verity-doc-options-{}", std::process::id()));
/// let options = verity::Options::new()
///     .memory(256 << 20)
///     .io(verity::IoBackend::Threads)
///     .cluster_constants(verity::ClusterConstants::SMALL);
/// let database = options.open(&dir)?;
/// database.close()?;
/// # std::fs::remove_dir_all(&dir).ok();
/// # std::fs::remove_file(dir.with_extension("master-key")).ok();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    memory: Memory,
    io: IoBackend,
    master_key: MasterKeySource,
    constants: ClusterConstants,
    create: bool,
    accept_clock: bool,
    accept_single_superblock_copy: bool,
    evict_everything: bool,
    attest_after: Option<Duration>,
}

impl Default for Options {
    fn default() -> Options {
        Options::new()
    }
}

impl Options {
    #[must_use]
    pub fn new() -> Options {
        Options {
            memory: Memory::DEFAULT,
            io: IoBackend::Auto,
            master_key: MasterKeySource::Beside,
            constants: ClusterConstants::DEFAULT,
            create: true,
            accept_clock: false,
            accept_single_superblock_copy: false,
            evict_everything: false,
            attest_after: Some(ATTEST_AFTER_DEFAULT),
        }
    }

    /// Bytes for the whole process, its own code included; the cache of pages gets what is left of
    /// them. What this program itself keeps, the rows of answers included, is not counted. Too few
    /// for the directory are refused by [`Options::open`], with the least that would do.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Options {
        self.memory = Memory::Process(bytes);
        self
    }

    #[must_use]
    pub fn io(mut self, backend: IoBackend) -> Options {
        self.io = backend;
        self
    }

    #[must_use]
    pub fn master_key(mut self, source: MasterKeySource) -> Options {
        self.master_key = source;
        self
    }

    /// Limits that steer state; they count only when the directory is formatted.
    #[must_use]
    pub fn cluster_constants(mut self, constants: ClusterConstants) -> Options {
        self.constants = constants;
        self
    }

    /// Forgets every page that is not in use after each turn. For tests: what a cache holds must
    /// never show in an answer.
    #[doc(hidden)]
    #[must_use]
    pub fn evict_everything(mut self, evict: bool) -> Options {
        self.evict_everything = evict;
        self
    }

    /// Whether [`Options::open`] formats a directory that is missing or empty. It does by default.
    #[must_use]
    pub fn create(mut self, create: bool) -> Options {
        self.create = create;
        self
    }

    /// How long after a write the state is attested, so that a proof of it needs no new
    /// attestation; it is attested at the end too. `None`: only when a proof is asked for. One
    /// second by default.
    #[must_use]
    pub fn attest_after(mut self, after: Option<Duration>) -> Options {
        self.attest_after = after;
        self
    }

    /// The operator's word that this machine's clock is right, though it is half a year or more
    /// ahead of the last time on record. Without it such an open is refused.
    #[must_use]
    pub fn accept_clock(mut self, accept: bool) -> Options {
        self.accept_clock = accept;
        self
    }

    /// The operator's word that no newer data can exist than what the only copy of the superblock
    /// that is left names. Without it such an open is refused.
    #[must_use]
    pub fn accept_single_superblock_copy(mut self, accept: bool) -> Options {
        self.accept_single_superblock_copy = accept;
        self
    }

    /// Opens the database in a directory; formats it first when there is none.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Verity, Error> {
        let path = path.as_ref();
        self.validate()?;
        self.check_address_space()?;
        if !format::is_formatted(path)? {
            if !self.create {
                return Err(Error::NotFormatted { path: path.to_path_buf() });
            }
            self.check_memory()?;
            self.format(path)?;
        }
        let lock = DirectoryLock::exclusive(path).map_err(Error::Lock)?;
        format::found::check_before_open(path)?;
        let disk = self.open_disk(path)?;
        let seed = Seed(master_key::random().map_err(Error::MasterKey)?);
        let mut effects = Effects::new();
        let node = Node::open(&self.config(), &seed, &mut effects);
        let driver = Arc::new(Driver::new(node, disk, effects));
        driver.start().map_err(|error| match error {
            Error::Halted { halt: halt @ Halt::Memory(_), .. } => Error::Options(halt.to_string()),
            error => format::found::stale_superblock(path, error),
        })?;
        Verity::start(driver, lock)
    }

    /// Is the memory enough for a directory that is formatted with these options?
    pub fn check_memory(&self) -> Result<(), Error> {
        self.check_address_space()?;
        match MemoryPlan::new(self.memory, &self.constants) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::Options(error.to_string())),
        }
    }

    /// Does this process get as much memory as it is to use? An allocation that is refused later
    /// would abort it.
    pub(crate) fn check_address_space(&self) -> Result<(), Error> {
        let Memory::Process(bytes) = self.memory else { return Ok(()) };
        let limits = [(Resource::As, "address space", 'v'), (Resource::Data, "data", 'd')];
        for (resource, name, letter) in limits {
            let Some(limit) = getrlimit(resource).current else { continue };
            let least = bytes.saturating_add(UNCOUNTED_BYTES);
            if limit >= least {
                continue;
            }
            let (limit_mib, mib) = (limit >> 20, bytes >> 20);
            let most_mib = limit.saturating_sub(UNCOUNTED_BYTES) >> 20;
            return Err(Error::Options(format!(
                "this process may have {limit_mib} MiB of {name} (ulimit -{letter}), too little \
                 for a memory of {mib} MiB: raise the limit (ulimit -{letter} {}), or give at \
                 most {most_mib} MiB of memory",
                least.div_ceil(1 << 10),
            )));
        }
        Ok(())
    }

    /// Makes a new database in a missing or empty directory.
    pub fn format(&self, path: impl AsRef<Path>) -> Result<format::Formatted, Error> {
        self.format_as(path, format::Identity::ALONE)
    }

    /// The same as the one replica of a cluster with this number.
    pub fn format_as(
        &self,
        path: impl AsRef<Path>,
        identity: format::Identity,
    ) -> Result<format::Formatted, Error> {
        self.validate()?;
        let (path, key, constants) = (path.as_ref(), &self.master_key, self.constants);
        format::format(path, self.io, key, constants, identity, None, false)
    }

    /// Makes one replica of several; what they share is in the secret.
    pub fn format_replica(
        &self,
        path: impl AsRef<Path>,
        replica: ReplicaId,
        secret: &ClusterSecret,
    ) -> Result<format::Formatted, Error> {
        self.format_shared(path, replica, secret, false)
    }

    /// Makes an empty directory in place of a lost one. It knows that it is that, and counts for
    /// nothing in its cluster before its peers have told it what it needs to know.
    pub fn replace_replica(
        &self,
        path: impl AsRef<Path>,
        replica: ReplicaId,
        secret: &ClusterSecret,
    ) -> Result<format::Formatted, Error> {
        self.format_shared(path, replica, secret, true)
    }

    fn format_shared(
        &self,
        path: impl AsRef<Path>,
        replica: ReplicaId,
        secret: &ClusterSecret,
        replaces: bool,
    ) -> Result<format::Formatted, Error> {
        let identity = format::Identity {
            cluster: Some(secret.cluster),
            replica,
            replica_count: secret.replica_count,
        };
        let (path, key, constants) = (path.as_ref(), &self.master_key, secret.constants);
        format::format(path, self.io, key, constants, identity, Some(secret), replaces)
    }

    /// What the core needs to know.
    #[must_use]
    pub fn config(&self) -> Config {
        let mut config = Config::new(ReplicaId::new(0));
        config.memory = self.memory;
        config.accept_clock = self.accept_clock;
        config.accept_single_superblock_copy = self.accept_single_superblock_copy;
        config.evict_everything = self.evict_everything;
        let after_ns = |after: Duration| u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        config.attest_after_ns = self.attest_after.map(after_ns);
        config
    }

    #[must_use]
    pub fn master_key_source(&self) -> &MasterKeySource {
        &self.master_key
    }

    pub(crate) fn open_disk(&self, path: &Path) -> Result<Disk, Error> {
        let master_key = MasterKey::load(&self.master_key, path).map_err(Error::MasterKey)?;
        let disk = Disk::open(path, self.io, master_key).map_err(Error::Disk)?;
        tracing::debug!("I/O through {}", disk.backend());
        Ok(disk)
    }

    /// A disk of its own, for [`crate::hardware`].
    pub(crate) fn open_disk_for_measuring(&self, path: &Path) -> Result<Disk, Error> {
        let key = MasterKeySource::Content(vec![b'1'; 64]);
        let key = MasterKey::load(&key, path).map_err(Error::MasterKey)?;
        Disk::open(path, self.io, key).map_err(Error::Disk)
    }

    fn validate(&self) -> Result<(), Error> {
        self.constants.validate().map_err(|what| Error::Options(what.to_string()))
    }
}
