//! What peers ask of this node's disk: its newest checkpoint, pages of the grid, blocks of
//! segments (`docs/VSR.md`, "State sync"); and what this node asks of them: pages and blocks that
//! do not verify.
//!
//! Purpose: answers are read from the disk as they are, and checked by whoever asked. Invariants:
//! at most [`SYNC_SERVED_MAX`] requests are worked on at a time, the rest is dropped and asked for
//! again; a page is not written while it is read for a peer; of a segment only blocks that will
//! never be written again are read.
//!
//! Fault model: messages come late, twice or never. What the device does not give (EIO) the peer
//! does not get.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::ids::{Op, ReplicaId};
use crate::io::{Address, Effect, Effects, FileId, IoError, IoId, Owner, Page, Pages};
use crate::limits::{
    PAGE_SIZE, REPAIR_PATIENCE_NS, SYNC_ANSWER_NS, SYNC_ASK_NS, SYNC_PAGES_MAX, SYNC_SERVED_MAX,
};
use crate::log::BlocksWanted;
use crate::node::api::Halt;
use crate::node::halt::store_halt;
use crate::node::running::{Phase, Running};
use crate::superblock::PageRef;
use crate::time::{Clock, Instant};
use crate::vsr::message::{BlockPlace, Message, Offer, PageName, Payload};

/// The node's own effects have smaller slots.
const FIRST_SLOT: u64 = 1 << 32;

/// Requests of peers that are being worked on.
#[derive(Debug, Default)]
pub(super) struct Serving {
    served: BTreeMap<u64, Served>,
    /// Reads in flight: for which request, and which page of it.
    reads: BTreeMap<IoId, (u64, usize)>,
    next: u64,
    /// Peers were last asked for their checkpoints.
    asked_at: Option<Instant>,
    /// Damaged pages were asked of so many peers.
    turns: u8,
    /// One of them has not what is missing here.
    refused: bool,
}

#[derive(Debug)]
struct Served {
    to: ReplicaId,
    /// As the peer counts its requests.
    serial: u64,
    what: What,
    left: usize,
}

#[derive(Debug)]
enum What {
    Pages(Vec<(PageName, Option<Page>)>),
    Blocks(BlockPlace, Option<Pages>),
}

impl Running {
    /// A message that is not for consensus.
    pub(super) fn on_peer(&mut self, now: Clock, message: Message, effects: &mut Effects) {
        let Message { from, view, payload, .. } = message;
        match payload {
            Payload::RequestCheckpoint => self.offer_checkpoint(from),
            Payload::Checkpoint(offer) => self.on_offer(now, &offer),
            Payload::RequestPages { serial, pages } => {
                self.serve_pages(from, serial, pages, effects);
            }
            Payload::RequestBlocks { serial, checkpoint, place, count } => {
                self.serve_blocks(from, serial, checkpoint, place, count, effects);
            }
            Payload::Pages { pages, .. } => self.on_pages(&pages, effects),
            Payload::Blocks { serial, blocks, .. } => {
                self.logs.on_blocks(serial, &blocks, effects);
            }
            Payload::KeepKeys { keys, entries } => {
                self.on_keep_keys(from, view, keys, &entries, effects);
            }
            Payload::KeysKept(keys) => self.on_keys_kept(from, view, keys),
            Payload::RequestKeys(keys) => self.on_request_keys(from, keys),
            Payload::Keys { keys, entries } => self.on_keys(keys, &entries, effects),
            Payload::RequestCosignature { head, op } => {
                self.on_request_cosignature(now, from, head, op);
            }
            Payload::Cosignature { head, cosignature } => {
                self.on_cosignature(from, head, cosignature, effects);
            }
            Payload::Ping { .. }
            | Payload::Pong { .. }
            | Payload::Prepare { .. }
            | Payload::PrepareOk { .. }
            | Payload::Commit { .. }
            | Payload::StartViewChange
            | Payload::DoViewChange(_)
            | Payload::StartView(_)
            | Payload::RequestStartView { .. }
            | Payload::RequestHeaders { .. }
            | Payload::Headers(_)
            | Payload::RequestPrepare { .. } => unreachable!("consensus keeps its own messages"),
        }
    }

    /// Asks for pages that did not verify, of one peer after the other. One that nobody has any
    /// more takes a whole checkpoint to mend.
    pub(super) fn repair_pages(&mut self, now: Clock) {
        self.serving.refused &= self.store.is_repairing();
        let wanted = self.store.repairs_wanted(now.monotonic, SYNC_ANSWER_NS);
        let state = self.superblock_state();
        for pages in wanted.chunks(SYNC_PAGES_MAX) {
            self.serving.turns = self.serving.turns.wrapping_add(1);
            let further = 1 + self.serving.turns % (state.replica_count - 1);
            let to = ReplicaId::new((state.replica.get() + further) % state.replica_count);
            let name = |at: &PageRef| PageName { page: at.page, checkpoint_op: at.checkpoint_op };
            let pages = pages.iter().map(name).collect();
            self.vsr.say(to, Payload::RequestPages { serial: 0, pages });
        }
        let overdue = self.store.repairs_overdue(now.monotonic, REPAIR_PATIENCE_NS);
        if overdue && self.serving.refused && !self.is_ending() {
            self.sync_offered = true;
        }
    }

    /// Asks for blocks of segments that did not verify, of one peer after the other.
    pub(super) fn repair_segments(&mut self, now: Clock, effects: &mut Effects) {
        let state = self.superblock_state();
        let peers = u64::from(state.replica_count) - 1;
        let Some(wanted) = self.logs.blocks_wanted(now.monotonic, peers, effects) else { return };
        let BlocksWanted { tenant, segment, block, count, serial, turn } = wanted;
        let further = 1 + (turn % peers) as u8;
        let to = ReplicaId::new((state.replica.get() + further) % state.replica_count);
        let (checkpoint, place) = (state.checkpoint.op, BlockPlace { tenant, segment, block });
        self.vsr.say(to, Payload::RequestBlocks { serial, checkpoint, place, count });
    }

    fn on_pages(&mut self, pages: &[(PageName, Page)], effects: &mut Effects) {
        let mut good = !pages.is_empty();
        for (name, page) in pages {
            good &= self.store.repair(&self.keyring, name.page, page, effects);
        }
        self.serving.refused |= !good;
    }

    fn is_ending(&self) -> bool {
        match self.phase {
            Phase::ShuttingDown { .. } | Phase::Stopped => true,
            Phase::Replay
            | Phase::View
            | Phase::Following
            | Phase::Recovery { .. }
            | Phase::Serving => false,
        }
    }

    fn offer_checkpoint(&mut self, to: ReplicaId) {
        let state = self.superblock_state();
        if !state.checkpoint.free_set.root.is_none() {
            self.vsr.say(to, Payload::Checkpoint(Box::new(Offer::of(&state))));
        }
    }

    /// A replica that needs ops which are in nobody's ring any more asks for checkpoints; with the
    /// first that helps, the node stops what it does and fetches.
    pub(super) fn ask_for_checkpoints(&mut self, now: Clock) {
        if self.vsr.sync_wanted(now).is_none() {
            return;
        }
        let asked = self.serving.asked_at;
        if asked.is_none_or(|at| now.monotonic.since_ns(at) >= SYNC_ASK_NS) {
            self.serving.asked_at = Some(now.monotonic);
            self.vsr.ask_for_checkpoints();
        }
    }

    fn on_offer(&mut self, now: Clock, offer: &Offer) {
        let wanted = self.vsr.sync_wanted(now).filter(|_| !self.is_ending());
        let checkpoint = &offer.checkpoint;
        let newer = wanted.is_some() && checkpoint.op > self.vsr.status().applied;
        if newer && !self.vsr.holds_all_to(checkpoint.op, checkpoint.prepare_checksum) {
            self.sync_offered = true;
        }
    }

    fn serve_pages(
        &mut self,
        to: ReplicaId,
        serial: u64,
        names: Vec<PageName>,
        effects: &mut Effects,
    ) {
        if self.serving.served.len() >= SYNC_SERVED_MAX {
            return;
        }
        let request = self.serving.number();
        let mut left = 0;
        for (nth, name) in names.iter().enumerate() {
            if let Some(io) = self.store.serve_page(name.page, effects) {
                self.serving.reads.insert(io, (request, nth));
                left += 1;
            }
        }
        let what = What::Pages(names.into_iter().map(|name| (name, None)).collect());
        self.serving.served.insert(request, Served { to, serial, what, left });
        self.answer_peer(request);
    }

    fn serve_blocks(
        &mut self,
        to: ReplicaId,
        serial: u64,
        checkpoint: Op,
        place: BlockPlace,
        count: u64,
        effects: &mut Effects,
    ) {
        if self.serving.served.len() >= SYNC_SERVED_MAX {
            return;
        }
        let BlockPlace { tenant, segment, block } = place;
        let has = self.superblock_state().checkpoint.op >= checkpoint
            && self.logs.are_on_disk(tenant, segment, block, count)
            && self.logs.serve_begins(tenant, segment);
        let request = self.serving.number();
        let left = usize::from(has);
        let what = What::Blocks(place, None);
        self.serving.served.insert(request, Served { to, serial, what, left });
        if has {
            let io = IoId { owner: Owner::Node, slot: FIRST_SLOT + request };
            self.serving.reads.insert(io, (request, 0));
            let at =
                Address::new(FileId::Segment { tenant, number: segment }, block * PAGE_SIZE as u64);
            effects.push(Effect::Read { io, at, pages: Pages::zeroed(count as usize) });
        }
        self.answer_peer(request);
    }

    /// A page of the grid was read; false: not for a peer.
    pub(super) fn on_served_page(
        &mut self,
        io: IoId,
        pages: &Pages,
        result: Result<(), IoError>,
    ) -> Result<bool, Halt> {
        if !self.store.is_served(io) {
            return Ok(false);
        }
        let readable = self.store.served(io, result).map_err(store_halt)?;
        let Some((request, nth)) = self.serving.reads.remove(&io) else {
            unreachable!("each read is of a request")
        };
        let Some(served) = self.serving.served.get_mut(&request) else {
            unreachable!("a request stays until its last read")
        };
        if let (What::Pages(all), Some(page)) = (&mut served.what, pages.as_slice().first()) {
            all[nth].1 = readable.then(|| page.clone());
        }
        served.left -= 1;
        self.answer_peer(request);
        Ok(true)
    }

    /// Blocks of a segment were read.
    pub(super) fn on_served_blocks(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        let Some(&(request, _)) = self.serving.reads.get(&io) else {
            unreachable!("each read is of a request")
        };
        let Some(served) = self.serving.served.get_mut(&request) else {
            unreachable!("a request stays until its last read")
        };
        let What::Blocks(BlockPlace { tenant, segment, block }, read) = &mut served.what else {
            unreachable!("pages of the grid are the store's")
        };
        match result {
            Ok(()) => *read = Some(pages),
            // What cannot be read here this node repairs when it meets it; the peer may have the
            // blocks before, or none.
            Err(IoError::Device) if pages.count() > 1 => {
                let file = FileId::Segment { tenant: *tenant, number: *segment };
                let at = Address::new(file, *block * PAGE_SIZE as u64);
                let pages = Pages::zeroed(pages.count() / 2);
                effects.push(Effect::Read { io, at, pages });
                return Ok(());
            }
            Err(IoError::Device) => {}
            Err(error) => return Err(Halt::Io { error, what: "log" }),
        }
        self.serving.reads.remove(&io);
        served.left -= 1;
        let (tenant, segment) = (*tenant, *segment);
        self.logs.serve_ends(tenant, segment, effects);
        self.answer_peer(request);
        Ok(())
    }

    /// Once all that a request needs was read.
    fn answer_peer(&mut self, request: u64) {
        let whole = self.serving.served.get(&request).is_some_and(|served| served.left == 0);
        if !whole {
            return;
        }
        let Some(served) = self.serving.served.remove(&request) else { return };
        let (serial, checkpoint_durable) = (served.serial, self.superblock_state().checkpoint.op);
        let payload = match served.what {
            What::Pages(pages) => {
                let read = |(name, page): (PageName, Option<Page>)| Some((name, page?));
                let pages = pages.into_iter().filter_map(read).collect();
                Payload::Pages { serial, checkpoint_durable, pages }
            }
            What::Blocks(_, pages) => {
                let blocks = pages.map_or(Vec::new(), |pages| pages.as_bytes().to_vec());
                Payload::Blocks { serial, checkpoint_durable, blocks }
            }
        };
        self.vsr.say(served.to, payload);
    }
}

impl Serving {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}
