//! A rebuild that is kept: as `verity rebuild` makes it, with what the journal has behind it.

use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::rig::*;
use crate::ids::{Generation, OriginId, TenantId};
use crate::io::{Effects, FileId};
use crate::kernel::trees::{HEADS_TREE, tenant_of_key};
use crate::kernel::{Kernel, Rebuild, RebuildError, RebuildStall};
use crate::limits::ClusterConstants;
use crate::log::{LogHead, LogPins, Logs};
use crate::store::{Cursor, Direction, Pins, Store, StoreCheckpoint, StoreConfig};

const SMALL: ClusterConstants =
    ClusterConstants { dirty_pages_max: 512, ..ClusterConstants::SMALL };

/// The second state, behind the pages of the first one.
struct Second {
    store: Store,
    logs: Logs,
    pins: (Pins, LogPins),
    effects: Effects,
}

impl Second {
    fn serve(&mut self, rig: &mut Rig, stall: RebuildStall) -> Result<(), RebuildStall> {
        match stall {
            RebuildStall::Live => panic!("there is no live state"),
            RebuildStall::Log => self.logs.fetch(&mut self.pins.1, &mut self.effects),
            RebuildStall::Scratch => self.store.fetch(&mut self.pins.0, &mut self.effects),
            RebuildStall::ScratchCheckpoint(op) => {
                self.store.checkpoint_begin(op);
                self.write(rig);
                self.store.checkpoint_durable_applied(op);
            }
            RebuildStall::Failed(_) => return Err(stall),
        }
        self.pump(rig);
        Ok(())
    }

    fn pump(&mut self, rig: &mut Rig) {
        let Second { store, logs, effects, .. } = self;
        pump(store, logs, &rig.keys, &mut rig.disk, effects);
    }

    fn write(&mut self, rig: &mut Rig) -> StoreCheckpoint {
        loop {
            assert_eq!(self.store.checkpoint_step(&rig.keys, &mut self.effects), Ok(()));
            self.pump(rig);
            if let Some(done) = self.store.checkpoint_done() {
                return done;
            }
        }
    }
}

/// What `verity rebuild` does: the superblock names the new grid, or nothing has changed. `by` says
/// how many pages may be dirty at a time.
fn replace(rig: &mut Rig, by: ClusterConstants) -> Result<(), RebuildStall> {
    let (old, generation) = rig.superblock.unwrap();
    let heads = heads(rig);
    let kernel = Kernel::new(by, generation);
    let config = StoreConfig::new(FileId::Grid, &rig.constants, 64);
    let mut second = Second {
        store: Store::behind(config, old.grid_pages),
        logs: Logs::new(rig.constants.segment_positions, OriginId::new(9)),
        pins: (Pins::new(), LogPins::default()),
        effects: Effects::new(),
    };
    for (tenant, head) in &heads {
        second.logs.open(*tenant, head.clone());
    }
    let mut rebuild = Rebuild::to_keep(&rig.constants);
    loop {
        let Second { store, logs, pins, .. } = &mut second;
        match rebuild.step(&kernel, None, logs, &rig.keys, store) {
            Ok(Some(_report)) => break,
            Ok(None) => {
                store.unpin(&mut pins.0);
                logs.release(&mut pins.1);
            }
            Err(stall) => second.serve(rig, stall)?,
        }
    }
    while let Err(stall) = rebuild.finish(&kernel, &heads, &rig.keys, &mut second.store) {
        second.serve(rig, stall)?;
    }
    second.store.give_up(old.grid_pages);
    second.store.checkpoint_begin(old.op);
    let new = second.write(rig);
    assert_eq!(new.op, old.op);
    rig.superblock = Some((new, generation));
    Ok(())
}

/// Of the last checkpoint: only a checkpoint changes that tree.
fn heads(rig: &mut Rig) -> Vec<(TenantId, LogHead)> {
    rig.read(|store| {
        let mut heads = Vec::new();
        let mut cursor = Cursor::all(Direction::Forward);
        let _ = store.scan(HEADS_TREE, &mut cursor, |key, value| {
            heads.push((tenant_of_key(key), LogHead::decode(value).unwrap()));
            ControlFlow::Continue(())
        })?;
        Ok(heads)
    })
}

/// Rows and checkpoints, then what lies in the journal behind the last checkpoint.
fn filled(grid_pages_max: u32) -> Rig {
    let mut rig = Rig::with(Memory::Ample, ClusterConstants { grid_pages_max, ..SMALL });
    let create = create_table(&rig.catalog(T1), "people", true);
    rig.commands(&[create]).unwrap();
    for batch in 0..7 {
        insert(&mut rig, batch);
        rig.durable = rig.superblock.map(|(checkpoint, _)| checkpoint.op);
        rig.checkpoint();
    }
    // The last one is being written meanwhile: none of these knows that it is durable.
    for batch in 7..10 {
        insert(&mut rig, batch);
    }
    rig
}

/// Each row has a page of its own.
fn insert(rig: &mut Rig, batch: i64) {
    let name = "n".repeat(3_000);
    let rows: Vec<_> = (0..100).map(|row| (batch * 100 + row, name.as_str(), row)).collect();
    rig.request(&request(alloc::vec![insert_rows("people", &rows)])).unwrap();
}

/// The pages of the state before are in use until an op of the tail knows better, and what finds no
/// room is on no record: so there must be room for all of it, or there is no new grid.
#[test]
fn what_is_replayed_onto_a_new_grid_finds_room() {
    let mut roomy = filled(16 << 10);
    let by = roomy.constants;
    replace(&mut roomy, by).unwrap();
    let both = roomy.superblock.unwrap().0.grid_pages;
    let (mut replaced, mut refused) = (0, 0);
    for more in (300..500).step_by(20).chain((1_700..2_300).step_by(100)) {
        let mut rig = filled(both + more);
        let before = [TenantId::SYSTEM, T1].map(|tenant| rig.head(tenant));
        let rows = rig.rows("people");
        assert_eq!(rows.len(), 1_000);
        let by = rig.constants;
        match replace(&mut rig, by) {
            Ok(()) => replaced += 1,
            Err(RebuildStall::Failed(RebuildError::GridFull { .. })) => refused += 1,
            Err(stall) => panic!("{stall:?}"),
        }
        rig.crash();
        assert!(rig.rows("people") == rows, "{more} pages more than two states: rows are lost");
        assert_eq!([TenantId::SYSTEM, T1].map(|tenant| rig.head(tenant)), before);
        rig.durable = None;
        insert(&mut rig, 10);
        rig.checkpoint();
        assert_eq!(rig.rebuild().unwrap().difference, None);
    }
    assert!(replaced > 1 && refused > 1, "{replaced} replaced, {refused} refused");
}

/// A log of few ops and many records: there are more of a rebuild's own checkpoints than ops.
#[test]
fn a_rebuild_may_take_more_checkpoints_than_there_were_ops() {
    let mut rig = filled(16 << 10);
    rig.durable = None;
    rig.checkpoint();
    let rows = rig.rows("people");
    let (checkpoint, generation) = rig.superblock.unwrap();
    assert!(generation > Generation::ZERO && checkpoint.op.get() < 30);
    replace(&mut rig, ClusterConstants { dirty_pages_max: 16, ..SMALL }).unwrap();
    rig.crash();
    assert!(rig.rows("people") == rows);
    for batch in 10..14 {
        insert(&mut rig, batch);
        rig.checkpoint();
        rig.crash();
    }
    assert_eq!(rig.rebuild().unwrap().difference, None);
}
