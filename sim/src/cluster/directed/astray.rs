//! Directed runs of a cluster in which a disk answers that all is well, and it is not.

use std::sync::Arc;

use verity_core::io::FileId;
use verity_core::journal::PrepareHeader;
use verity_core::limits::{PAGE_SIZE, PREPARE_HEADER_SIZE};

use super::segments::{BAD, Rotten};
use super::{NODES, RING_MIB, Scene};
use crate::atlas::Zone;
use crate::cluster::Cluster;
use crate::cluster::astray::Plan;
use crate::disk::Sector;
use crate::report::{Failure, FailureKind};

const RING: fn(Zone) -> bool = |zone| zone == Zone::JournalRing;
const GRID: fn(Zone) -> bool = |zone| zone == Zone::Grid;
const LOGS: fn(Zone) -> bool = |zone| matches!(zone, Zone::Segment | Zone::Index);
const SEGMENTS: fn(Zone) -> bool = |zone| zone == Zone::Segment;

/// Of a node that comes back, applies what its ring holds, reads its tables and repairs its logs,
/// many a read gives something else.
pub(crate) fn reads_misdirected() -> Result<(), String> {
    Scene::play(|| {
        // Of logs fewer: where repairs are in vain again and again, readers are told.
        let kinds = [
            (RING, 30, "JournalRottenPrepare"),
            (GRID, 30, "PageCorrupt"),
            (LOGS, 3, "BlockCorrupt"),
        ];
        for (zones, left, mark) in kinds {
            let mut scene = Scene::new()?;
            let who = scene.send_follower_away()?;
            scene.cluster.rotten.push(who);
            let rotten = scene.rot_blocks(who, 0, 3, BAD)?;
            scene.cluster.call_back();
            scene.cluster.drive(Cluster::converged)?;
            for _ in 0..6 {
                scene.write()?;
            }
            scene.cluster.drive(Cluster::converged)?;
            scene.cluster.crash(who)?;
            scene.lead_astray(Plan {
                who,
                zones,
                writes: false,
                lost: false,
                every: 2,
                left,
                met: 0,
            });
            scene.cluster.drive(Cluster::converged)?;
            scene.read_all(who, &rotten)?;
            scene.led_astray()?;
            scene.cluster.scrub()?;
            Rotten::are_good(&scene, &rotten)?;
            scene.end(&[mark])?;
        }
        Ok(())
    })
}

pub(crate) fn writes_lost() -> Result<(), String> {
    Scene::play(|| writes_go_astray(true))
}

pub(crate) fn writes_misdirected() -> Result<(), String> {
    Scene::play(|| {
        writes_go_astray(false)?;
        headers_hit()
    })
}

/// Repairs of blocks first; then prepares, pages of a checkpoint and blocks of a log. Each time the
/// node is killed, and has its state from what its disk holds.
fn writes_go_astray(lost: bool) -> Result<(), Failure> {
    // Of a prepare that an open finds rotten nothing is marked.
    for (zones, marks) in [(RING, &[][..]), (GRID, &["PageCorrupt"]), (SEGMENTS, &[])] {
        let mut scene = Scene::new()?;
        let who = scene.send_follower_away()?;
        scene.cluster.rotten.push(who);
        let rotten = scene.rot_blocks(who, 0, 3, BAD)?;
        scene.cluster.call_back();
        scene.cluster.drive(Cluster::converged)?;
        scene.lead_astray(Plan {
            who,
            zones: SEGMENTS,
            writes: true,
            lost,
            every: 1,
            left: 2,
            met: 0,
        });
        let repairs = |scene: &Scene| scene.cluster.seen.event("SegmentBlocksRepaired");
        let before = repairs(&scene);
        scene.read_all(who, &rotten)?;
        scene.led_astray()?;
        let times = repairs(&scene) - before;
        if lost && times > rotten.len() as u64 {
            let detail = format!("{times} repairs of {} blocks: not all were", rotten.len());
            return Err(Failure::new(FailureKind::Lost, detail));
        }
        let every = if lost && !zones(Zone::JournalRing) { 2 } else { 1 };
        scene.lead_astray(Plan { who, zones, writes: true, lost, every, left: 5, met: 0 });
        match zones(Zone::JournalRing) {
            // What no checkpoint covers yet.
            true => (0..9).try_for_each(|_| scene.write())?,
            false => scene.write_mib(2)?,
        }
        scene.led_astray()?;
        scene.cluster.crash(who)?;
        scene.cluster.drive(Cluster::converged)?;
        scene.write_mib(1)?;
        scene.read_all(who, &[])?;
        scene.cluster.scrub()?;
        scene.end(marks)?;
    }
    Ok(())
}

/// A node and the primary commit what the third never heard of; then another write goes over the
/// redundant headers of that, and the primary is away. The prepares are whole: they count.
fn headers_hit() -> Result<(), Failure> {
    let mut scene = Scene::new()?;
    scene.write_mib(1)?;
    scene.cluster.drive(Cluster::converged)?;
    let primary = scene.primary(|_| true)?;
    let who = scene.follower();
    let third = (0..NODES).find(|&index| index != who && index != primary).unwrap_or(0);
    scene.isolate(third, true);
    for _ in 0..4 {
        scene.write()?;
    }
    scene.cluster.drive(|cluster| cluster.converged_without(third))?;
    scene.cluster.crash(who)?;
    scene.cluster.members[who].boot_at_ns = None;
    scene.cluster.send_away(primary)?;
    scene.hit_headers(who)?;
    scene.cluster.members[who].boot_at_ns = Some(scene.cluster.now_ns + 1);
    scene.isolate(third, false);
    scene.write()?;
    scene.cluster.call_back();
    scene.end(&[])
}

/// The first pages of a state sync are never written, and that is seen only when they are read.
pub(crate) fn sync_writes_lost() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        let who = scene.miss_a_ring()?;
        scene.cluster.rotten.push(who);
        scene.write_mib(RING_MIB)?;
        scene.lead_astray(Plan {
            who,
            zones: GRID,
            writes: true,
            lost: true,
            every: 1,
            left: 20,
            met: 0,
        });
        scene.cluster.call_back();
        scene.cluster.drive(|cluster| cluster.seen.event("SyncFinished") > 0)?;
        scene.led_astray()?;
        scene.end(&["PageCorrupt", "SyncFinished"])
    })
}

impl Scene {
    fn lead_astray(&mut self, plan: Plan) {
        self.cluster.astray.plan = Some(plan);
    }

    /// Something of what was planned came.
    fn led_astray(&mut self) -> Result<(), Failure> {
        match self.cluster.astray.plan.take() {
            Some(plan) if plan.met == 0 => {
                let detail = format!("{plan:?}: this scene shows nothing");
                Err(Failure::new(FailureKind::Budget, detail))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Other headers lie where the newest of a node should.
    fn hit_headers(&mut self, who: usize) -> Result<(), Failure> {
        let disk = &mut self.cluster.members[who].disk;
        let ring_begins = |disk: &crate::disk::Disk, sector| {
            disk.atlas.zone((FileId::Journal, sector)) == Zone::JournalRing
        };
        let newest = |sector: &Sector| {
            let slots = sector.chunks(PREPARE_HEADER_SIZE);
            slots.filter_map(|slot| PrepareHeader::decode(slot).ok()).map(|header| header.op).max()
        };
        let sectors: Vec<(u64, Sector)> = disk.sectors_of(FileId::Journal).collect();
        let headers = sectors.iter().take_while(|(number, _)| !ring_begins(disk, *number));
        let mut with_ops: Vec<_> = headers
            .filter_map(|(number, sector)| Some((newest(sector)?, *number, sector)))
            .collect();
        with_ops.sort_by_key(|(op, _, _)| *op);
        let [.., (_, _, other), (_, number, _)] = &with_ops[..] else {
            return Err(Failure::new(FailureKind::Budget, "one sector has all headers"));
        };
        assert!(other.len() == PAGE_SIZE);
        disk.put((FileId::Journal, *number), Arc::clone(other));
        Ok(())
    }
}
