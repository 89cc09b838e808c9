//! Who has what: asking peers for headers and prepares, and answering them.
//!
//! Everything is asked for by op and checksum, so that an answer needs no trust in its sender; only
//! the next ops of the current view are asked for by op alone, and joined to our own head.

use alloc::vec::Vec;

use super::{Phase, Replica, due};
use crate::crypto::hash::InternalHash;
use crate::ids::{Op, ReplicaId, View};
use crate::io::{Effects, Pages};
use crate::journal::PrepareHeader;
use crate::limits::{
    MESSAGE_HEADERS_MAX, PREPARE_SIZE_MAX, VSR_REPAIR_NS, VSR_REPAIRS_MAX, VSR_SYNC_NS,
};
use crate::time::Clock;
use crate::vsr::message::{Payload, bytes_of};

/// Why a prepare is being read back.
#[derive(Debug, Default)]
pub(super) struct ReadFor {
    pub deliver: bool,
    pub peers: Vec<ReplicaId>,
}

impl Replica {
    /// The checkpoint to be fetched from peers, when what we need is in nobody's ring any more: a
    /// peer has it, we are below, and nothing has moved for a while. The node fetches its pages and
    /// segments, writes it to the superblock, and opens the replica anew. One peer is enough: it
    /// may be the only one that is whole, and only committed ops are checkpointed.
    #[must_use]
    pub fn sync_wanted(&self, now: Clock) -> Option<Op> {
        let (_, _, since) = self.progress?;
        let stalled = now.monotonic.since_ns(since) > VSR_SYNC_NS;
        let newest = self.peers.iter().map(|peer| peer.checkpoint_durable).max()?;
        (stalled && self.applied < newest).then_some(newest)
    }

    /// Whether our own journal holds every op that a checkpoint covers and we have not applied, and
    /// they are the same: then there is nothing to fetch.
    #[must_use]
    pub fn holds_all_to(&self, op: Op, checksum: InternalHash) -> bool {
        let journal = self.journal();
        let from = self.applied.max(journal.checkpoint_op());
        journal.whole_to(from) >= op && journal.checksum(op) == Some(checksum)
    }

    pub(super) fn repair_tick(&mut self, now: Clock) {
        let at = (self.journal().head_op(), self.applied);
        if self.progress.is_none_or(|(head, applied, _)| (head, applied) != at) {
            self.progress = Some((at.0, at.1, now.monotonic));
        }
        if !self.wants_anything() || self.replica_count == 1 {
            if self.phase == Phase::Normal {
                self.missing = None;
            }
            return;
        }
        // Whoever is behind asks for more as soon as it has what it asked for: at the pace of a
        // timer, peers that go on would leave it behind for ever.
        if self.asked_to.is_some_and(|to| self.journal().head_op() >= to) {
            self.asked_to = None;
            self.timers.repair = None;
        }
        if !due(&mut self.timers.repair, now, VSR_REPAIR_NS) {
            return;
        }
        if let Some((op, checksum)) =
            self.install.as_ref().and_then(super::install::Install::header_wanted)
        {
            let to = self.peer(0);
            let count = MESSAGE_HEADERS_MAX as u64;
            self.send(to, Payload::RequestHeaders { op, count, checksum });
        }
        let mut wanted: Vec<(Op, InternalHash)> = Vec::new();
        let journal = self.journal();
        let known = |op| journal.checksum(op).map(|checksum| (op, checksum));
        wanted.extend(journal.rotten().filter_map(known));
        let head = journal.head_op();
        if let Some(install) = &self.install {
            let missing = install.wanted.range(head.next()..);
            wanted.extend(missing.map(|(&op, header)| (op, header.checksum)));
        }
        if self.phase == Phase::Normal && !self.is_primary() {
            let last = self.primary_head.max(self.commit_max);
            let missing = (head.next().get()..=last.get()).map(Op::new);
            wanted.extend(missing.map(|op| (op, InternalHash::ZERO)));
        }
        wanted.retain(|(op, _)| !self.bodies.contains_key(op));
        wanted.truncate(VSR_REPAIRS_MAX);
        self.missing = wanted.first().map(|&(op, _)| op);
        self.asked_to = wanted.last().map(|&(op, _)| op).filter(|op| *op > head);
        for (index, (op, checksum)) in wanted.into_iter().enumerate() {
            // New ops are asked of the primary every other time: it has them first.
            let primary = checksum == InternalHash::ZERO && self.round.is_multiple_of(2);
            let to = if primary { self.primary_of(self.view) } else { self.peer(index) };
            self.send(to, Payload::RequestPrepare { op, checksum });
        }
        // Headers of holes, by what the op above says of them.
        self.ask_for_holes();
        self.round = self.round.wrapping_add(1);
    }

    fn ask_for_holes(&mut self) {
        let journal = self.journal();
        let hole = journal
            .rotten()
            .filter(|&op| journal.header(op).is_none())
            .find_map(|op| journal.checksum(op).map(|checksum| (op, checksum)));
        if let Some((op, checksum)) = hole {
            let to = self.peer(0);
            let count = MESSAGE_HEADERS_MAX as u64;
            self.send(to, Payload::RequestHeaders { op, count, checksum });
        }
    }

    fn wants_anything(&self) -> bool {
        let journal = self.journal();
        let behind = self.phase == Phase::Normal
            && !self.is_primary()
            && self.primary_head.max(self.commit_max) > journal.head_op();
        self.install.is_some() || behind || journal.rotten().next().is_some()
    }

    /// Another peer for each request of a round, and for each round.
    fn peer(&self, index: usize) -> ReplicaId {
        let others: Vec<ReplicaId> = self.others().collect();
        // Every round of new ops is an odd one: half of it counts on.
        others[(self.round / 2 + self.round + index) % others.len()]
    }

    /// Up to `count` known headers that end with the one of `op`, in op order, without a gap.
    pub(super) fn headers_to(&self, op: Op, count: usize) -> Vec<PrepareHeader> {
        let mut headers = Vec::new();
        let mut at = Some(op);
        while let Some(op) = at
            && headers.len() < count
            && let Some(header) = self.journal().header(op)
        {
            headers.push(header);
            at = op.previous();
        }
        headers.reverse();
        headers
    }

    pub(super) fn on_request_headers(
        &mut self,
        from: ReplicaId,
        op: Op,
        count: u64,
        checksum: InternalHash,
    ) {
        if self.checksum_of(op) != Some(checksum) {
            return;
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(MESSAGE_HEADERS_MAX);
        let headers = self.headers_to(op, count);
        if !headers.is_empty() {
            self.send(from, Payload::Headers(headers));
        }
    }

    pub(super) fn on_headers(&mut self, _now: Clock, headers: Vec<PrepareHeader>) {
        // Holes first: a header counts when its checksum is the one that is known.
        for header in headers.iter().rev() {
            let journal = self.journal();
            let hole = journal.header(header.op).is_none()
                && journal.checksum(header.op) == Some(header.checksum)
                && header.op > journal.checkpoint_op();
            if hole {
                self.journal_mut().set_header(header);
            }
        }
        if let Some(install) = &mut self.install {
            install.take_headers(headers.into_iter());
        }
    }

    pub(super) fn on_request_prepare(
        &mut self,
        from: ReplicaId,
        view: View,
        op: Op,
        checksum: InternalHash,
        effects: &mut Effects,
    ) {
        let Some(header) = self.journal().header(op) else { return };
        let known = if checksum == InternalHash::ZERO {
            self.phase == Phase::Normal && view == self.view
        } else {
            checksum == header.checksum
        };
        if !known || !self.journal().is_held(op) {
            return;
        }
        if let Some(prepare) = self.ready.get(&op)
            && prepare.header().checksum == header.checksum
        {
            let (commit, bytes) = (self.commit, bytes_of(prepare));
            self.send(from, Payload::Prepare { commit, bytes });
            return;
        }
        self.read_back(op, effects, |read| {
            if !read.peers.contains(&from) {
                read.peers.push(from);
            }
        });
    }

    /// Starts to read an op, or joins a read under way.
    pub(super) fn read_back(
        &mut self,
        op: Op,
        effects: &mut Effects,
        also: impl FnOnce(&mut ReadFor),
    ) {
        if let Some(read) = self.reads.get_mut(&op) {
            also(read);
            return;
        }
        let pages = Pages::with_capacity(PREPARE_SIZE_MAX / crate::limits::PAGE_SIZE);
        if self.journal_mut().read(op, pages, effects) {
            let mut read = ReadFor::default();
            also(&mut read);
            self.reads.insert(op, read);
        }
    }

    /// Prepares that were read: to whoever asked.
    pub(super) fn collect_read(&mut self) {
        while let Some(back) = self.journal_mut().next_read() {
            let op = back.header.op;
            let Some(read) = self.reads.remove(&op) else { unreachable!("it was asked for") };
            let Ok(prepare) = back.outcome else { continue };
            if self.checksum_of(op) != Some(back.header.checksum) {
                continue;
            }
            for peer in read.peers {
                let (commit, bytes) = (self.commit, bytes_of(&prepare));
                self.send(peer, Payload::Prepare { commit, bytes });
            }
            if read.deliver && op > self.delivered {
                self.ready.insert(op, prepare);
            }
        }
    }
}
