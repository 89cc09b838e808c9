//! The consensus of a node: the pipeline of one replica, or a replica of a cluster.
//!
//! Purpose: one set of calls for the rest of the node. A directory of one replica runs [`Vsr`],
//! whose path from a request to its reply knows no messages; one of three or five runs [`Replica`].
//! What only a cluster has (frames, what the superblock must hold, whether we lead) is nothing for
//! one replica.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::crypto::InternalHash;
use crate::ids::{Generation, Op, Release, ReplicaId, View};
use crate::io::{Effects, IoError, IoId, Pages};
use crate::journal::{Operation, Prepare, PrepareBuffer, PrepareHeader};
use crate::limits::{CLOCK_FIRST_MAX_NS, CLOCK_JUMP_MAX_NS};
use crate::superblock::{PeerEvidence, SuperblockState};
use crate::time::{Clock, Instant, Timestamp};
use crate::vsr::message::{Message, Payload};
use crate::vsr::replica::{
    Discarded, Lead, MessageError, Replica, ReplicaStatus, SuperblockWanted,
};
use crate::vsr::{Busy, Committed, ViewWanted, Vsr, VsrError, VsrStatus};

#[derive(Debug)]
pub(super) enum Consensus {
    One(Box<Vsr>),
    Cluster(Box<Replica>),
}

impl Consensus {
    /// Starts to read the journal. `nonce` differs at each boot.
    pub fn open(
        state: &SuperblockState,
        release: Release,
        serves_cluster: bool,
        nonce: u64,
        effects: &mut Effects,
    ) -> Result<Consensus, VsrError> {
        if state.replica_count > 1 && serves_cluster {
            let replica = Replica::open(state, release, nonce, effects);
            return Ok(Consensus::Cluster(Box::new(replica)));
        }
        Ok(Consensus::One(Box::new(Vsr::open(state, release, effects)?)))
    }

    /// The journal is read whole.
    pub fn is_open(&self) -> bool {
        match self {
            Consensus::One(vsr) => vsr.view_wanted().is_some(),
            Consensus::Cluster(replica) => replica.is_open(),
        }
    }

    pub fn is_cluster(&self) -> bool {
        match self {
            Consensus::One(_) => false,
            Consensus::Cluster(_) => true,
        }
    }

    // ---- what only a cluster has

    /// A frame of a peer; one that cannot be understood is refused and changes nothing. What is for
    /// the node itself is given back.
    pub fn on_frame(
        &mut self,
        now: Clock,
        frame: &[u8],
        effects: &mut Effects,
    ) -> Result<Option<Message>, MessageError> {
        match self {
            Consensus::One(_) => Ok(None),
            Consensus::Cluster(replica) => replica.on_frame(now, frame, effects),
        }
    }

    /// Whether the disk has no room for requests: a primary makes way for one whose disk has.
    pub fn set_full(&mut self, now: Clock, full: bool) {
        if let Consensus::Cluster(replica) = self {
            replica.set_full(now, full);
        }
    }

    /// A peer closed its link to us.
    pub fn on_link_closed(&mut self, now: Clock, peer: ReplicaId) {
        match self {
            Consensus::One(_) => {}
            Consensus::Cluster(replica) => replica.on_link_closed(now, peer),
        }
    }

    /// Sends what the node itself has to say to a peer.
    pub fn say(&mut self, to: ReplicaId, payload: Payload) {
        match self {
            Consensus::One(_) => {}
            Consensus::Cluster(replica) => replica.say(to, payload),
        }
    }

    pub fn ask_for_checkpoints(&mut self) {
        match self {
            Consensus::One(_) => {}
            Consensus::Cluster(replica) => replica.ask_for_checkpoints(),
        }
    }

    /// A peer has a checkpoint that we are below, and nothing has moved for a while.
    pub fn sync_wanted(&self, now: Clock) -> Option<Op> {
        match self {
            Consensus::One(_) => None,
            Consensus::Cluster(replica) => replica.sync_wanted(now),
        }
    }

    /// Whether the journal has all that a checkpoint covers.
    pub fn holds_all_to(&self, op: Op, checksum: InternalHash) -> bool {
        match self {
            Consensus::One(_) => true,
            Consensus::Cluster(replica) => replica.holds_all_to(op, checksum),
        }
    }

    /// What the superblock must say of this replica when it takes that checkpoint from a peer.
    pub fn erasure_by_sync(&self, op: Op, checksum: InternalHash) -> Option<PeerEvidence> {
        match self {
            Consensus::One(_) => None,
            Consensus::Cluster(replica) => Some(replica.erasure_by_sync(op, checksum)),
        }
    }

    pub fn take_outbox(&mut self) -> Vec<(ReplicaId, Vec<u8>)> {
        match self {
            Consensus::One(_) => Vec::new(),
            Consensus::Cluster(replica) => replica.take_outbox(),
        }
    }

    pub fn superblock_wanted(&mut self, now: Clock) -> Option<SuperblockWanted> {
        match self {
            Consensus::One(_) => None,
            Consensus::Cluster(replica) => replica.superblock_wanted(now),
        }
    }

    /// The view that this replica leads: proposals may begin, with a recovery op.
    pub fn leads(&self) -> Option<View> {
        match self {
            Consensus::One(_) => None,
            Consensus::Cluster(replica) => replica.leads(),
        }
    }

    /// What a linearizable read waits for; `None`: this replica does not lead.
    pub fn ask_lead(&mut self, now: Clock) -> Option<Lead> {
        match self {
            Consensus::One(_) => None,
            Consensus::Cluster(replica) => replica.ask_lead(now),
        }
    }

    pub fn confirms_lead(&self, lead: &Lead) -> Option<bool> {
        match self {
            Consensus::One(_) => None,
            Consensus::Cluster(replica) => replica.confirms(lead),
        }
    }

    pub fn lead_confirmed_at(&self) -> Option<Instant> {
        match self {
            Consensus::One(_) => None,
            Consensus::Cluster(replica) => replica.lead_confirmed_at(),
        }
    }

    pub fn discarded(&self) -> Option<Discarded> {
        match self {
            Consensus::One(_) => None,
            Consensus::Cluster(replica) => replica.discarded(),
        }
    }

    pub fn replica_status(&self) -> Option<ReplicaStatus> {
        match self {
            Consensus::One(_) => None,
            Consensus::Cluster(replica) => Some(replica.status()),
        }
    }

    // ---- what only one replica has

    pub fn view_wanted(&self) -> Option<ViewWanted> {
        match self {
            Consensus::One(vsr) => vsr.view_wanted(),
            Consensus::Cluster(_) => None,
        }
    }

    /// The superblock holds the view, or what was wanted.
    pub fn view_durable(&mut self, now: Clock, view: View, effects: &mut Effects) {
        match self {
            Consensus::One(vsr) => vsr.view_durable(view),
            Consensus::Cluster(replica) => replica.superblock_durable(now, effects),
        }
    }

    pub fn ready_to_propose(&self) -> bool {
        match self {
            Consensus::One(vsr) => vsr.ready_to_propose(),
            Consensus::Cluster(replica) => replica.leads().is_some(),
        }
    }

    pub fn checkpoint_first(&self) -> bool {
        match self {
            Consensus::One(vsr) => vsr.checkpoint_first(),
            Consensus::Cluster(_) => false,
        }
    }

    // ---- what both have

    pub fn status(&self) -> VsrStatus {
        match self {
            Consensus::One(vsr) => vsr.status(),
            Consensus::Cluster(replica) => replica.pipeline_status(),
        }
    }

    pub fn memory_bytes(&self) -> usize {
        match self {
            Consensus::One(vsr) => vsr.memory_bytes(),
            Consensus::Cluster(replica) => replica.memory_bytes(),
        }
    }

    pub fn buffer(&mut self) -> Option<PrepareBuffer> {
        match self {
            Consensus::One(vsr) => vsr.buffer(),
            Consensus::Cluster(_) => Some(PrepareBuffer::new()),
        }
    }

    pub fn recycle(&mut self, buffer: PrepareBuffer) {
        match self {
            Consensus::One(vsr) => vsr.recycle(buffer),
            Consensus::Cluster(_) => {}
        }
    }

    pub fn check_propose(&self, operation: Operation, body_bytes: usize) -> Result<(), Busy> {
        match self {
            Consensus::One(vsr) => vsr.check_propose(operation, body_bytes),
            Consensus::Cluster(replica) => replica.check_propose(operation, body_bytes),
        }
    }

    pub fn can_propose(&self, operation: Operation, body_bytes: usize) -> bool {
        self.check_propose(operation, body_bytes).is_ok()
    }

    pub fn propose(
        &mut self,
        now: Clock,
        operation: Operation,
        body: PrepareBuffer,
        requests: u16,
        effects: &mut Effects,
    ) -> Op {
        match self {
            Consensus::One(vsr) => vsr.propose(now, operation, body, requests, effects),
            Consensus::Cluster(replica) => replica.propose(now, operation, body, requests, effects),
        }
    }

    /// The header of the last prepare that was proposed here; of a cluster nothing is executed
    /// ahead of its commit.
    pub fn head_header(&self) -> Option<PrepareHeader> {
        match self {
            Consensus::One(vsr) => vsr.head_header().copied(),
            Consensus::Cluster(_) => None,
        }
    }

    pub fn next_committed(&mut self, effects: &mut Effects) -> Option<Committed> {
        match self {
            Consensus::One(vsr) => vsr.next_committed(effects),
            Consensus::Cluster(replica) => replica.next_committed(effects),
        }
    }

    pub fn applied(&mut self, op: Op, prepare: Prepare) {
        match self {
            Consensus::One(vsr) => vsr.applied(op, prepare),
            Consensus::Cluster(replica) => replica.applied(op, prepare),
        }
    }

    pub fn checkpoint_wanted(&self, dirty_pages: u32, dirty_pages_max: u32) -> bool {
        match self {
            Consensus::One(vsr) => vsr.checkpoint_wanted(dirty_pages, dirty_pages_max),
            Consensus::Cluster(replica) => replica.checkpoint_wanted(dirty_pages, dirty_pages_max),
        }
    }

    pub fn checkpoint_durable(&mut self, op: Op) {
        match self {
            Consensus::One(vsr) => vsr.checkpoint_durable(op),
            Consensus::Cluster(replica) => replica.checkpoint_durable(op),
        }
    }

    /// What a checkpoint may say in the superblock of what is committed.
    pub fn commit(&self) -> Op {
        match self {
            Consensus::One(vsr) => vsr.commit(),
            Consensus::Cluster(replica) => replica.committed_here(),
        }
    }

    pub fn generation(&self) -> Generation {
        match self {
            Consensus::One(vsr) => vsr.generation(),
            Consensus::Cluster(replica) => replica.generation(),
        }
    }

    pub fn tick(&mut self, now: Clock, effects: &mut Effects) {
        match self {
            Consensus::One(vsr) => vsr.tick(now, effects),
            Consensus::Cluster(replica) => {
                if replica.deadline().is_some_and(|at| at <= now.monotonic) {
                    replica.tick(now, effects);
                }
            }
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Consensus::One(vsr) => vsr.deadline(),
            Consensus::Cluster(replica) => replica.deadline(),
        }
    }

    /// Whether a recovery op may believe the clock without the operator's word.
    pub fn clock_is_plausible(&self, now: Clock) -> bool {
        match self {
            Consensus::One(vsr) => vsr.clock_is_plausible(now),
            Consensus::Cluster(replica) => {
                let last = replica.pipeline_status().timestamp;
                let latest = if last == Timestamp(0) {
                    Timestamp(CLOCK_FIRST_MAX_NS)
                } else {
                    last.plus_ns(CLOCK_JUMP_MAX_NS)
                };
                replica.wall(now) <= latest
            }
        }
    }

    pub fn on_done(
        &mut self,
        io: IoId,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), VsrError> {
        match self {
            Consensus::One(vsr) => vsr.on_done(io, result, effects),
            Consensus::Cluster(replica) => replica.on_done(io, result, effects),
        }
    }

    pub fn on_read_done(
        &mut self,
        now: Clock,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), VsrError> {
        match self {
            Consensus::One(vsr) => vsr.on_read_done(io, pages, result, effects),
            Consensus::Cluster(replica) => replica.on_read_done(now, io, pages, result, effects),
        }
    }

    pub fn on_write_done(
        &mut self,
        now: Clock,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), VsrError> {
        match self {
            Consensus::One(vsr) => vsr.on_write_done(io, pages, result, effects),
            Consensus::Cluster(replica) => replica.on_write_done(now, io, pages, result, effects),
        }
    }
}
