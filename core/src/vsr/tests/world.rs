//! One replica's consensus on a fake disk, with a superblock that is always whole.

use alloc::collections::BTreeMap;

use crate::crypto::hash::{ChainHash, InternalHash};
use crate::ids::{ClusterId, Generation, GridId, Op, OriginId, Release, ReplicaId, View};
use crate::io::{Effects, WrappedKey};
use crate::journal::fake_disk::{Completion, FakeDisk, Keep, Random};
use crate::journal::{Operation, PrepareHeader};
use crate::limits::{ClusterConstants, JOURNAL_RING_BYTES_MIN, REPLICA_PEERS_MAX};
use crate::superblock::{
    CheckpointState, CosignedHead, FORMAT_VERSION, ForestRoot, FreeSetRoot, PageRef, PeerEvidence,
    SuperblockState,
};
use crate::time::{Clock, Instant, SECOND_NS, Timestamp};
use crate::vsr::{Committed, Vsr, VsrError};

pub(in crate::vsr) const RELEASE: Release = Release::new(1);

pub(in crate::vsr) fn formatted() -> SuperblockState {
    let cluster = ClusterId::new(7);
    SuperblockState {
        format_version: FORMAT_VERSION,
        sequence: 1,
        previous: InternalHash::ZERO,
        cluster,
        origin: OriginId::new(9),
        grid: GridId::ZERO,
        syncing: false,
        replaced: false,
        replica: ReplicaId::ZERO,
        replica_count: 1,
        release: RELEASE,
        constants: ClusterConstants {
            journal_ring_bytes: JOURNAL_RING_BYTES_MIN,
            ..ClusterConstants::SMALL
        },
        view: View::ZERO,
        log_view: View::ZERO,
        generation: Generation::ZERO,
        committed: Op::ZERO,
        checkpoint: CheckpointState {
            op: Op::ZERO,
            prepare_checksum: PrepareHeader::root(cluster).checksum,
            journal_offset: 0,
            timestamp: Timestamp(SECOND_NS),
            generation: Generation::ZERO,
            recovery_count: 0,
            system_forest: ForestRoot {
                root: PageRef::NONE,
                height: 0,
                count: 0,
                hash: ChainHash::ZERO,
            },
            free_set: FreeSetRoot { root: PageRef::NONE, pages: 0, runs: 0 },
            grid_pages: 1,
        },
        signing_key: WrappedKey([0; 60]),
        cosigned: CosignedHead::default(),
        peers: [PeerEvidence::default(); REPLICA_PEERS_MAX],
    }
}

pub(super) struct World {
    pub disk: FakeDisk,
    /// What the superblock holds.
    pub state: SuperblockState,
    pub vsr: Option<Vsr>,
    pub now: Clock,
    pub random: Random,
    pub effects: Effects,
    /// Every op ever applied, hence acknowledged.
    pub applied: BTreeMap<Op, PrepareHeader>,
}

impl World {
    pub fn new(seed: u64) -> World {
        World {
            disk: FakeDisk::formatted(),
            state: formatted(),
            vsr: None,
            now: Clock { monotonic: Instant(0), wall: Timestamp(10 * SECOND_NS) },
            random: Random(seed),
            effects: Effects::new(),
            applied: BTreeMap::new(),
        }
    }

    /// Open, replayed, recovery committed.
    pub fn started(seed: u64) -> World {
        let mut world = World::new(seed);
        world.start();
        world
    }

    pub fn start(&mut self) {
        self.open();
        self.run_io();
        while let Some(committed) = self.next_committed_with_io() {
            self.apply(committed);
        }
        self.view_durable();
        let op = self.propose(Operation::Recovery, 8);
        self.commit(op);
    }

    pub fn vsr(&mut self) -> &mut Vsr {
        self.vsr.as_mut().unwrap()
    }

    pub fn open(&mut self) {
        self.vsr = Some(Vsr::open(&self.state, RELEASE, &mut self.effects).unwrap());
        self.disk.submit(&mut self.effects);
    }

    /// Opens and reads the whole journal.
    pub fn try_open(&mut self) -> Result<(), VsrError> {
        self.open();
        while !self.disk.pending.is_empty() {
            let index = self.random.below(self.disk.pending.len());
            self.try_complete(index)?;
        }
        Ok(())
    }

    pub fn view_durable(&mut self) {
        let wanted = self.vsr().view_wanted().unwrap();
        self.state.view = wanted.view;
        self.state.log_view = wanted.log_view;
        self.state.committed = wanted.committed;
        self.vsr().view_durable(wanted.view);
    }

    pub fn propose(&mut self, operation: Operation, size: usize) -> Op {
        let mut buffer = self.vsr().buffer().unwrap();
        let fill = self.random.next().to_le_bytes();
        let (mut left, now) = (size, self.now);
        while left > 0 {
            let part = left.min(fill.len());
            buffer.push(&fill[..part]);
            left -= part;
        }
        let Some(vsr) = &mut self.vsr else { panic!("open") };
        let op = vsr.propose(now, operation, buffer, 1, &mut self.effects);
        self.disk.submit(&mut self.effects);
        op
    }

    pub fn try_complete(&mut self, index: usize) -> Result<(), VsrError> {
        let Some(vsr) = &mut self.vsr else { panic!("open") };
        match self.disk.complete(index) {
            Completion::Read { io, pages, result } => {
                vsr.on_read_done(io, pages, result, &mut self.effects)?;
            }
            Completion::Write { io, pages, result } => {
                vsr.on_write_done(io, pages, result, &mut self.effects)?;
            }
            Completion::Done { io } => vsr.on_done(io, Ok(()), &mut self.effects)?,
        }
        self.disk.submit(&mut self.effects);
        Ok(())
    }

    pub fn complete(&mut self, index: usize) {
        self.try_complete(index).unwrap();
    }

    /// Completes all that is in flight, in random order.
    pub fn run_io(&mut self) {
        while !self.disk.pending.is_empty() {
            let index = self.random.below(self.disk.pending.len());
            self.complete(index);
        }
    }

    pub fn next_committed(&mut self) -> Option<Committed> {
        let Some(vsr) = &mut self.vsr else { panic!("open") };
        let committed = vsr.next_committed(&mut self.effects);
        self.disk.submit(&mut self.effects);
        committed
    }

    pub fn next_committed_with_io(&mut self) -> Option<Committed> {
        let committed = self.next_committed();
        if committed.is_some() {
            return committed;
        }
        self.run_io();
        self.next_committed()
    }

    pub fn apply(&mut self, committed: Committed) {
        let header = committed.header;
        assert_eq!(committed.prepare.header(), &header);
        let before = self.applied.insert(header.op, header);
        assert!(before.is_none_or(|before| before == header), "an acknowledged op changed");
        self.vsr().applied(header.op, committed.prepare);
    }

    /// Runs until `op` is applied.
    pub fn commit(&mut self, op: Op) -> PrepareHeader {
        while !self.applied.contains_key(&op) {
            let committed = self.next_committed_with_io().unwrap();
            self.apply(committed);
        }
        self.applied[&op]
    }

    /// The superblock gets the checkpoint after `op`.
    pub fn checkpoint_durable(&mut self, op: Op) {
        let header = self.applied[&op];
        self.state.checkpoint = CheckpointState {
            op,
            prepare_checksum: header.checksum,
            journal_offset: header.journal_end(),
            timestamp: header.timestamp,
            generation: header.generation,
            ..self.state.checkpoint
        };
        self.state.committed = self.vsr().commit();
        self.vsr().checkpoint_durable(op);
    }

    pub fn tick(&mut self) {
        let Some(vsr) = &mut self.vsr else { panic!("open") };
        vsr.tick(self.now, &mut self.effects);
        self.disk.submit(&mut self.effects);
    }

    pub fn crash(&mut self, keep: impl FnMut() -> Keep) {
        self.vsr = None;
        self.disk.crash(keep);
    }

    pub fn crash_keeping_all(&mut self) {
        self.crash(|| Keep::New);
    }
}
