//! The pages of the checkpoint, and the heads of the logs in it.
//!
//! The walk goes from the roots down. A page is looked for on the own disk first: most of what
//! an older checkpoint had is part of the newer one. Invariant: a page is written only when its
//! tag, which its parent holds, opens it.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::{Purpose, Stage, Syncing, damaged, is_late, store_checkpoint};
use crate::event::Event;
use crate::ids::TenantId;
use crate::io::{Address, Effect, Effects, FileId, IoError, IoId, Page, Pages};
use crate::kernel::trees::{HEADS_TREE, tenant_of_key};
use crate::limits::{
    PAGE_SIZE, SYNC_PAGES_MAX, SYNC_READS_MAX, SYNC_REQUESTS_MAX, SYNC_WANTED_MAX,
};
use crate::log::LogHead;
use crate::node::api::Halt;
use crate::node::halt::store_halt;
use crate::store::walk::{Walker, Wanted};
use crate::store::{Cursor, Direction, Pins, Store, StoreCheckpoint, StoreConfig, StoreError};
use crate::time::{Clock, Instant};
use crate::vsr::message::{PageName, Payload};

/// Pages on their way.
#[derive(Debug)]
pub(super) struct Grid {
    walker: Walker,
    /// Not on the own disk.
    wanted: VecDeque<Wanted>,
    asked: Vec<Asked>,
    /// The source gave what is no use: not at once again.
    refused: bool,
    pause: Option<Instant>,
}

#[derive(Debug)]
struct Asked {
    serial: u64,
    at: Instant,
    pages: Vec<Wanted>,
}

impl Grid {
    pub fn new(from: &StoreCheckpoint) -> Grid {
        Grid {
            walker: Walker::new(from),
            wanted: VecDeque::new(),
            asked: Vec::new(),
            refused: false,
            pause: None,
        }
    }
}

/// The tree of heads, being read.
#[derive(Debug)]
pub(super) struct Heads {
    pub store: Store,
    pins: Pins,
    cursor: Cursor,
    heads: Vec<(TenantId, LogHead)>,
    /// A page is not what was fetched, or cannot be read.
    damaged: bool,
}

impl Heads {
    /// True: the error is one that ends when the page is fetched again.
    fn takes(&mut self, error: StoreError) -> Result<(), Halt> {
        let mends = matches!(error, StoreError::Corrupt { .. } | StoreError::Io(IoError::Device));
        #[cfg(verity_zoo)]
        let mends = mends && !crate::zoo::is("sync_reads_once");
        self.damaged |= mends;
        if mends { Ok(()) } else { Err(store_halt(error)) }
    }
}

impl Syncing {
    pub(super) fn run_pages(&mut self, now: Clock, effects: &mut Effects) -> Result<(), Halt> {
        // Another checkpoint waits until nothing of this one is in flight.
        if self.next.is_some() {
            return Ok(());
        }
        self.look_at_pages(effects);
        self.ask_for_keys(now);
        self.ask_for_pages(now);
        let Stage::Pages(grid) = &mut self.stage else { unreachable!("asked by the caller") };
        let all = grid.wanted.is_empty() && grid.asked.is_empty() && self.io.is_empty();
        if all && grid.walker.is_done() && self.keys.is_done() {
            self.stage = Stage::SyncingGrid;
            let io = self.io(Purpose::SyncGrid);
            effects.push(Effect::Sync { io, file: FileId::Grid });
        }
        Ok(())
    }

    /// What the walk reached, as the own disk has it.
    fn look_at_pages(&mut self, effects: &mut Effects) {
        loop {
            let Stage::Pages(grid) = &mut self.stage else { unreachable!("asked by the caller") };
            let asked: usize = grid.asked.iter().map(|asked| asked.pages.len()).sum();
            let busy = self.io.len() >= SYNC_READS_MAX;
            if busy || grid.wanted.len() + asked >= SYNC_WANTED_MAX {
                return;
            }
            let Some(wanted) = self.keys.release().or_else(|| grid.walker.wanted()) else { return };
            let Some(wanted) = self.keys.hold(wanted) else { continue };
            let at = address(&wanted);
            let io = self.io(Purpose::LookAt(Box::new(wanted)));
            effects.push(Effect::Read { io, at, pages: Pages::zeroed(1) });
        }
    }

    pub(super) fn on_looked_at(
        &mut self,
        wanted: Wanted,
        page: Option<&Page>,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        let Stage::Pages(grid) = &mut self.stage else {
            unreachable!("pages are looked at while pages are fetched")
        };
        let Some(keyring) = &self.keyring else { unreachable!("only lent for a moment") };
        let Some(page) = page.filter(|page| Walker::holds(keyring, &wanted, page)) else {
            grid.wanted.push_back(wanted);
            return Ok(());
        };
        let mut page = page.clone();
        let given = grid.walker.give(keyring, &wanted, &mut page);
        given.map_err(|damage| damaged("grid", damage))?;
        self.note_tenants(&wanted, &page, effects)
    }

    fn ask_for_pages(&mut self, now: Clock) {
        let to = self.fetched().from;
        let Stage::Pages(grid) = &mut self.stage else { unreachable!("asked by the caller") };
        for at in (0..grid.asked.len()).rev() {
            if is_late(now, grid.asked[at].at) {
                let late = grid.asked.swap_remove(at);
                grid.wanted.extend(late.pages);
                self.doubt = true;
            }
        }
        if core::mem::take(&mut grid.refused) {
            grid.pause = Some(now.monotonic.plus_ns(crate::limits::VSR_REPAIR_NS));
            self.doubt = true;
        }
        if grid.pause.is_some_and(|until| now.monotonic < until) {
            return;
        }
        grid.pause = None;
        while grid.asked.len() < SYNC_REQUESTS_MAX && !grid.wanted.is_empty() {
            let count = grid.wanted.len().min(SYNC_PAGES_MAX);
            let pages: Vec<Wanted> = grid.wanted.drain(..count).collect();
            self.serial += 1;
            let serial = self.serial;
            let names = pages.iter().map(name_of).collect();
            grid.asked.push(Asked { serial, at: now.monotonic, pages });
            self.outbox.push((to, Payload::RequestPages { serial, pages: names }));
        }
    }

    /// Pages of a peer.
    pub(super) fn on_pages(
        &mut self,
        serial: u64,
        pages: Vec<(PageName, Page)>,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        let Stage::Pages(grid) = &mut self.stage else { return Ok(()) };
        let Some(at) = grid.asked.iter().position(|asked| asked.serial == serial) else {
            return Ok(()); // late, or twice
        };
        let asked = grid.asked.swap_remove(at);
        let mut writes = Vec::new();
        for wanted in asked.pages {
            let name = name_of(&wanted);
            let sent = pages.iter().find(|(other, _)| *other == name).map(|(_, page)| page);
            let Stage::Pages(grid) = &mut self.stage else { unreachable!("seen above") };
            let Some(keyring) = &self.keyring else { unreachable!("only lent for a moment") };
            let Some(page) = sent.filter(|page| Walker::holds(keyring, &wanted, page)) else {
                effects.event(Event::SyncRefused { op: wanted.at.checkpoint_op });
                grid.wanted.push_back(wanted);
                grid.refused = true;
                continue;
            };
            let mut open = page.clone();
            let given = grid.walker.give(keyring, &wanted, &mut open);
            given.map_err(|damage| damaged("grid", damage))?;
            self.note_tenants(&wanted, &open, effects)?;
            effects.event(Event::SyncPageFetched { page: name.page.get() });
            let mut pages = Pages::zeroed(1);
            pages.as_bytes_mut().copy_from_slice(&page.0);
            writes.push((address(&wanted), pages));
        }
        let Stage::Pages(grid) = &self.stage else { unreachable!("seen above") };
        if !grid.refused {
            self.doubt = false;
        }
        for (at, pages) in writes {
            let io = self.io(Purpose::WritePage);
            effects.push(Effect::Write { io, at, pages, durable: false });
        }
        Ok(())
    }

    /// The grid is that of the checkpoint.
    pub(super) fn begin_heads(&mut self, effects: &mut Effects) {
        let from = store_checkpoint(&self.fetched().offer);
        let constants = self.state().constants;
        let config = StoreConfig::new(FileId::Grid, &constants, self.plan.clean_pages);
        self.stage = Stage::Heads(Heads {
            store: Store::open(config, &from, effects),
            pins: Pins::new(),
            cursor: Cursor::all(Direction::Forward),
            heads: Vec::new(),
            damaged: false,
        });
    }

    pub(super) fn on_store_read(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        let Stage::Heads(heads) = &mut self.stage else {
            unreachable!("only the heads are read from a grid")
        };
        let Some(keyring) = &self.keyring else { unreachable!("only lent for a moment") };
        let read = heads.store.on_read_done(keyring, io, pages, result, effects);
        read.or_else(|error| heads.takes(error))
    }

    /// A write may have been lost, a read gone astray: whatever the own disk does not give is
    /// fetched again.
    fn look_anew(&mut self) {
        let Stage::Heads(heads) = &self.stage else { unreachable!("asked by the caller") };
        if !heads.store.is_reading() {
            self.begin_pages();
        }
    }

    pub(super) fn run_heads(&mut self, effects: &mut Effects) -> Result<(), Halt> {
        let Stage::Heads(heads) = &mut self.stage else { unreachable!("asked by the caller") };
        loop {
            if let Err(error) = heads.store.ready(&heads.pins) {
                heads.takes(error)?;
            }
            if heads.damaged {
                self.look_anew();
                return Ok(());
            }
            let Heads { store, pins, cursor, heads, damaged: _ } = &mut *heads;
            if !store.is_open() || !store.ready(pins).map_err(store_halt)? {
                return Ok(());
            }
            let exists = store.tree_exists(HEADS_TREE);
            if exists == Ok(false) {
                break;
            }
            let mut bad = false;
            let scanned = match exists {
                Err(fault) => Err(fault),
                Ok(_) => {
                    store.scan(HEADS_TREE, cursor, |key, value| match LogHead::decode(value) {
                        Ok(head) => {
                            heads.push((tenant_of_key(key), head));
                            ControlFlow::Continue(())
                        }
                        Err(_) => {
                            bad = true;
                            ControlFlow::Break(())
                        }
                    })
                }
            };
            if bad {
                return Err(damaged("grid", "an entry of the tree of heads is none"));
            }
            match scanned {
                Ok(_) => break,
                Err(_fault) => store.fetch(pins, effects),
            }
        }
        heads.store.unpin(&mut heads.pins);
        let heads = core::mem::take(&mut heads.heads);
        self.begin_segments(heads, effects)
    }
}

fn address(wanted: &Wanted) -> Address {
    Address::new(FileId::Grid, u64::from(wanted.at.page.get()) * PAGE_SIZE as u64)
}

fn name_of(wanted: &Wanted) -> PageName {
    PageName { page: wanted.at.page, checkpoint_op: wanted.at.checkpoint_op }
}
