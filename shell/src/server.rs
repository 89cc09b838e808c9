//! One replica as a process: the node, its disk, its links, and the port it listens on.
//!
//! Invariants: the directory is locked as for `Verity::open`; there is one way into the node, the
//! driver. Links are there before the node is, so that nothing it says finds nobody.
//!
//! Fault model: whatever `docs/NETWORK.md` lists; a node that halts ends the process, and says why.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use verity_core::io::Effects;
use verity_core::limits::{
    CLIENT_BUFFER_BYTES, CLIENT_BUFFERS_BYTES_MAX, CLIENTS_MAX, FRAME_PAYLOAD_SIZE_MAX,
    LINK_QUEUE_BYTES_MAX,
};
use verity_core::node::{CURRENT_RELEASE, Memory, MemoryPlan, MemoryTooSmall, Node, Seed, Status};
use verity_core::superblock::SuperblockState;
use verity_core::wire::hello::{Hello, Role};

use crate::disk::lock::DirectoryLock;
use crate::disk::master_key;
use crate::driver::Driver;
use crate::error::Error;
use crate::format;
use crate::net::guest::Host;
use crate::net::links::Links;
use crate::net::listen::Listener;
use crate::options::Options;

/// Buffers and stacks of connections, beside the queues of links.
const CONNECTIONS_BYTES: u64 =
    (CLIENT_BUFFERS_BYTES_MAX + CLIENTS_MAX * CLIENT_BUFFER_BYTES + (8 << 20)) as u64;
/// How long a graceful end may take.
const END_MAX: Duration = Duration::from_secs(10);

/// Where the replicas of a cluster are.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// `host:port` of all replicas, in the order of their numbers.
    pub addresses: Vec<String>,
    /// Where this one listens, if not at its own place in `addresses`.
    pub listen: Option<String>,
}

/// A running replica. Dropped without [`Server::stop`], it ends as in a crash.
#[derive(Debug)]
pub struct Server {
    driver: Arc<Driver>,
    links: Arc<Links>,
    listener: Listener,
    background: Option<JoinHandle<()>>,
    replica: Hello,
    path: PathBuf,
    /// Released last.
    _lock: DirectoryLock,
}

impl Server {
    /// Opens the directory and serves it. Whether the node opens well is known later:
    /// [`Server::halted`].
    pub fn start(
        options: &Options,
        path: impl AsRef<Path>,
        at: &ServerOptions,
    ) -> Result<Server, Error> {
        let path = path.as_ref();
        options.check_address_space()?;
        if !format::is_formatted(path)? {
            return Err(Error::NotFormatted { path: path.to_path_buf() });
        }
        let lock = DirectoryLock::exclusive(path).map_err(Error::Lock)?;
        format::found::check_before_open(path)?;
        let state = format::found::superblock(path)
            .map_err(|error| Error::Unreadable(format!("superblock: {error}")))?;
        let count = at.addresses.len();
        if count != usize::from(state.replica_count) {
            return Err(Error::Options(format!(
                "{} is one of {} replicas: --addresses must name all of them in the order of \
                 their numbers, and names {count}",
                path.display(),
                state.replica_count
            )));
        }
        // Before anything else is started that would have to be ended.
        let own = &at.addresses[usize::from(state.replica.get())];
        let address = at.listen.as_ref().unwrap_or(own);
        let listener = TcpListener::bind(address).map_err(|error| {
            Error::Options(format!("cannot listen at {address}: {error}; see --listen"))
        })?;
        let mut config = options.config();
        config.replica = state.replica;
        config.cluster = Some(state.cluster);
        config.serves_cluster = state.replica_count > 1;
        config.scrub = true;
        config.memory = without_network(config.memory, &state)?;
        let hello = Hello {
            role: Role::Replica,
            from: Some(state.replica),
            replica_count: state.replica_count,
            cluster: state.cluster,
            release: CURRENT_RELEASE,
            ..Hello::of_client(CURRENT_RELEASE)
        };
        let mut disk = options.open_disk(path)?;
        let thread = |error| Error::Options(format!("cannot start a thread: {error}"));
        let seed = Seed(master_key::random().map_err(Error::MasterKey)?);
        let links = Links::start(state.replica, &hello, &at.addresses).map_err(thread)?;
        let links = Arc::new(links);
        disk.link(Arc::clone(&links));
        let mut effects = Effects::new();
        let node = Node::open(&config, &seed, &mut effects);
        let driver = Arc::new(Driver::new(node, disk, effects));
        let host = Host::new(hello, Arc::clone(&driver), Arc::clone(&links));
        let listener = match Listener::start(listener, host) {
            Ok(listener) => listener,
            Err(error) => {
                links.stop();
                return Err(thread(error));
            }
        };
        driver.serve();
        // From here on its end ends all of them.
        let mut server = Server {
            driver,
            links,
            listener,
            background: None,
            replica: hello,
            path: path.to_path_buf(),
            _lock: lock,
        };
        let background = Arc::clone(&server.driver);
        let background = std::thread::Builder::new()
            .name("verity".to_string())
            .spawn(move || background.run_background())
            .map_err(thread)?;
        server.background = Some(background);
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    #[cfg(test)]
    pub(crate) fn host(&self) -> Arc<Host> {
        self.listener.host()
    }

    /// Number of the cluster, of this replica, and how many there are.
    #[must_use]
    pub fn identity(&self) -> format::Identity {
        format::Identity {
            cluster: Some(self.replica.cluster),
            replica: self.replica.from.unwrap_or_default(),
            replica_count: self.replica.replica_count,
        }
    }

    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.driver.status()
    }

    /// Why it serves no more, when it does not.
    #[must_use]
    pub fn halted(&self) -> Option<Error> {
        let error = self.driver.halted()?;
        Some(format::found::stale_superblock(&self.path, error))
    }

    /// Answers what was asked and ends. `Ok(false)`: it could not end in time, so it ended as in a
    /// crash, which loses nothing that was acknowledged.
    pub fn stop(mut self) -> Result<bool, Error> {
        let ended = self.driver.shut_down_within(END_MAX);
        self.end();
        ended
    }

    fn end(&mut self) {
        self.driver.stop();
        self.listener.stop();
        self.links.stop();
        if let Some(thread) = self.background.take() {
            let _panicked_already = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the superblock says, before anything is opened.
/// The node's share of the memory, when links and connections have theirs.
fn without_network(memory: Memory, state: &SuperblockState) -> Result<Memory, Error> {
    let Memory::Process(bytes) = memory else { return Ok(memory) };
    let link = (LINK_QUEUE_BYTES_MAX + 2 * FRAME_PAYLOAD_SIZE_MAX) as u64;
    let network = u64::from(state.replica_count - 1) * link + CONNECTIONS_BYTES;
    let rest = Memory::Process(bytes.saturating_sub(network));
    match MemoryPlan::new(rest, &state.constants) {
        Ok(_) => Ok(rest),
        Err(MemoryTooSmall { asked_bytes: _, least_bytes }) => {
            let error = MemoryTooSmall { asked_bytes: bytes, least_bytes: least_bytes + network };
            Err(Error::Options(error.to_string()))
        }
    }
}
