//! Directed runs of a cluster in which blocks of segments rot.
//!
//! Invariants watched at every turn: a damaged block is what it was, or what it should be, and
//! nothing else; what is told to be repaired survives a power cut of that moment.

use std::sync::Arc;

use verity_core::ids::{SegmentNumber, TenantId};
use verity_core::io::{FileId, IoError};
use verity_core::limits::PAGE_SIZE;
use verity_core::node::{Progress, Read, ReadError};
use verity_core::time::SECOND_NS;

use super::{NODES, Scene, TABLE};
use crate::cluster::{Cluster, Due};
use crate::disk::{Planned, Sector, SectorId};
use crate::report::{Failure, FailureKind};
use crate::sql::{Parameters, Query};
use crate::workload::Workload;

pub(super) const BAD: [u8; PAGE_SIZE] = [0xA5; PAGE_SIZE];

/// While one read waits.
const REPAIRS_MAX: u64 = 50;

/// A block that rotted on a node, as it should be.
pub(super) struct Rotten {
    who: usize,
    id: SectorId,
    good: Sector,
    bad: Sector,
}

fn segment(number: u32) -> FileId {
    FileId::Segment { tenant: TenantId::DEFAULT, number: SegmentNumber::new(number) }
}

/// Blocks of the segments of a follower rot while it is down; then it is asked as of positions
/// whose records lie in them.
pub(crate) fn segments_repaired() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        let who = scene.send_follower_away()?;
        let mut rotten = Vec::new();
        for number in 0..2 {
            rotten.extend(scene.rot_blocks(who, number, 5, BAD)?);
        }
        scene.cluster.call_back();
        scene.cluster.drive(Cluster::converged)?;
        scene.read_all(who, &rotten)?;
        Rotten::are_good(&scene, &rotten)?;
        scene.end(&["BlockCorrupt", "SegmentBlocksRepaired"])
    })
}

/// A node fetches a checkpoint, and there are damaged blocks in its own segments; in those of the
/// only peer there are others. What the peer has not is on its own disk, behind what is damaged.
pub(crate) fn segments_synced() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        let who = scene.miss_a_ring()?;
        scene.cluster.call_back();
        let mut peers = (0..NODES).filter(|&index| index != who);
        let (Some(away), Some(peer)) = (peers.next(), peers.next()) else {
            unreachable!("two of three")
        };
        scene.cluster.send_away(away)?;
        let before = scene.cluster.seen.syncs;
        // From then on it serves nobody, so that nobody mends what rots.
        scene.cluster.drive(|cluster| cluster.seen.event("SyncStarted") > 0)?;
        scene.rot_blocks(who, 0, 5, BAD)?;
        scene.rot_blocks(peer, 0, 2, BAD)?;
        scene.cluster.drive(|cluster| cluster.seen.syncs > before)?;
        scene.cluster.call_back();
        scene.cluster.drive(Cluster::converged)?;
        scene.cluster.scrub()?;
        scene.end(&["SyncRefused", "SyncFinished"])
    })
}

/// The same blocks rotted on one of the peers, too; each of the two in turn.
pub(crate) fn segments_peer_damaged() -> Result<(), String> {
    Scene::play(|| {
        let mut refused = 0;
        for nth in 0..NODES - 1 {
            let mut scene = Scene::new()?;
            let who = scene.send_follower_away()?;
            let peers: Vec<usize> = (0..NODES).filter(|&index| index != who).collect();
            let mut rotten = scene.rot_blocks(who, 0, 5, BAD)?;
            rotten.extend(scene.rot_blocks(peers[nth], 0, 5, [0x5A; PAGE_SIZE])?);
            scene.cluster.call_back();
            scene.cluster.drive(Cluster::converged)?;
            scene.read_all(who, &rotten)?;
            scene.read_all(peers[nth], &rotten)?;
            Rotten::are_good(&scene, &rotten)?;
            refused += scene.cluster.seen.event("SegmentBlocksRefused");
            scene.end(&["SegmentBlocksRepaired"])?;
        }
        // One of the two was asked first.
        if refused > 0 {
            return Ok(());
        }
        Err(Failure::new(FailureKind::Budget, "nobody was refused: this scene shows nothing"))
    })
}

/// Blocks of all segments rot on a follower, headers among them, and nobody ever reads them.
pub(crate) fn segments_scrubbed() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        let who = scene.send_follower_away()?;
        let mut rotten = Vec::new();
        for number in 0..2 {
            rotten.extend(scene.rot_blocks(who, number, 5, BAD)?);
            let id = (segment(number), 0);
            let disk = &mut scene.cluster.members[who].disk;
            let Some(good) = disk.newest(id).map(Arc::clone) else { continue };
            let bad: Sector = BAD.into();
            disk.put(id, Arc::clone(&bad));
            rotten.push(Rotten { who, id, good, bad });
        }
        scene.cluster.call_back();
        scene.cluster.drive(Cluster::converged)?;
        scene.cluster.scrub()?;
        Rotten::are_good(&scene, &rotten)?;
        scene.end(&["BlockCorrupt", "SegmentBlocksRepaired"])
    })
}

/// A node is killed at every effect of a repair.
pub(crate) fn segments_killed() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        let who = scene.send_follower_away()?;
        let rotten = scene.rot_blocks(who, 0, 3, BAD)?;
        scene.cluster.call_back();
        scene.cluster.drive(Cluster::converged)?;
        let (mut effects, mut kills) = (1, 0_u64);
        while scene.read_for(who, effects, &rotten)? {
            scene.cluster.crash(who)?;
            Rotten::is_watched(&scene.cluster, &rotten)?;
            effects += 1;
            kills += 1;
            scene.cluster.drive(Cluster::converged)?;
            // Each time anew, until it gets to the end.
            for block in &rotten {
                if kills.is_multiple_of(4) {
                    scene.cluster.members[who].disk.put(block.id, Arc::clone(&block.bad));
                }
            }
        }
        if kills < 10 {
            return Err(Failure::new(FailureKind::Budget, format!("{kills} kills show nothing")));
        }
        Rotten::are_good(&scene, &rotten)?;
        scene.end(&["SegmentBlocksRepaired"])
    })
}

/// The same blocks rot everywhere: who reads there is told so, and the nodes go on. Then one node
/// has them again.
pub(crate) fn segments_lost() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        let who = scene.send_follower_away()?;
        let mut rotten = Vec::new();
        for index in 0..NODES {
            rotten.extend(scene.rot_blocks(index, 0, 1, BAD)?);
        }
        scene.cluster.call_back();
        scene.cluster.drive(Cluster::converged)?;
        let mut told = 0;
        for position in 30..400 {
            match scene.read_as_of(who, position, &rotten)? {
                Ok(()) => {}
                Err(ReadError::Log(text)) if text.contains("segment 0") => told += 1,
                Err(error) => {
                    let detail = format!("a record that nobody has: {error}");
                    return Err(Failure::new(FailureKind::Wrong, detail));
                }
            }
        }
        let failed = scene.cluster.seen.event("SegmentRepairFailed");
        if told == 0 || failed == 0 {
            let detail = format!("{told} reads were told, {failed} repairs were given up");
            return Err(Failure::new(FailureKind::Budget, detail));
        }
        scene.write()?;
        let Some(block) = rotten.iter().find(|block| block.who != who) else { return Ok(()) };
        let (peer, id, good) = (block.who, block.id, Arc::clone(&block.good));
        scene.cluster.members[peer].disk.put(id, good);
        let until_ns = scene.cluster.now_ns + 20 * SECOND_NS;
        scene.cluster.drive(|cluster| cluster.now_ns >= until_ns)?;
        for index in 0..NODES {
            scene.read_all(index, &rotten)?;
        }
        Rotten::are_good(&scene, &rotten)?;
        scene.end(&["SegmentBlocksRepaired"])
    })
}

/// Blocks of the segments of a follower, of their indexes too, answer EIO; so do, at one of its
/// peers, the blocks behind each of them. It is asked, and reads all of its logs, and never stops.
pub(crate) fn segments_unreadable() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        let who = scene.send_follower_away()?;
        scene.make_unreadable(who)?;
        scene.cluster.call_back();
        scene.cluster.drive(Cluster::converged)?;
        scene.read_all(who, &[])?;
        scene.cluster.scrub()?;
        if scene.cluster.seen.disk_stops > 0 {
            let detail = "a block that could not be read ended a process";
            return Err(Failure::new(FailureKind::Halted, detail));
        }
        scene.end(&["BlocksUnreadable", "SegmentBlocksRepaired"])
    })
}

/// The same, and the first write after that fails, which is the repair's: the process ends, and the
/// next one repairs.
pub(crate) fn segments_unwritable() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        let who = scene.send_follower_away()?;
        scene.make_unreadable(who)?;
        scene.cluster.call_back();
        scene.cluster.drive(|cluster| cluster.seen.event("BlocksUnreadable") > 0)?;
        scene.cluster.members[who].disk.plan_failure(Planned::Write, 0, IoError::Device);
        scene.cluster.drive(|cluster| cluster.seen.disk_stops > 0)?;
        scene.cluster.drive(Cluster::converged)?;
        scene.cluster.scrub()?;
        scene.end(&["BlocksUnreadable", "SegmentBlocksRepaired"])
    })
}

impl Rotten {
    /// Whether no block is anything but bad or good.
    fn is_watched(cluster: &Cluster, rotten: &[Rotten]) -> Result<(), Failure> {
        for Rotten { who, id, good, bad } in rotten {
            let disk = &cluster.members[*who].disk;
            let Some(here) = disk.newest(*id) else { continue };
            // A write that was cut short is a bit of both.
            let known = |at: usize| here[at] == good[at] || here[at] == bad[at];
            if !(0..PAGE_SIZE).all(known) {
                let detail = format!("node {who} has bytes in {id:?} that belong nowhere");
                return Err(Failure::new(FailureKind::Twin, detail));
            }
        }
        Ok(())
    }

    pub(super) fn are_good(scene: &Scene, rotten: &[Rotten]) -> Result<(), Failure> {
        for Rotten { who, id, good, .. } in rotten {
            let disk = &scene.cluster.members[*who].disk;
            let durable = disk.fork(crate::random::Random::new(0), super::DiskFaults::NONE);
            if durable.newest(*id) != Some(good) {
                let detail = format!("block {id:?} of node {who} is not repaired");
                return Err(Failure::new(FailureKind::Twin, detail));
            }
        }
        Ok(())
    }
}

impl Scene {
    /// So many blocks of a segment that a checkpoint covers rot, spread over it.
    pub(super) fn rot_blocks(
        &mut self,
        who: usize,
        number: u32,
        count: u64,
        bytes: [u8; PAGE_SIZE],
    ) -> Result<Vec<Rotten>, Failure> {
        let disk = &mut self.cluster.members[who].disk;
        let file = segment(number);
        let sectors = disk.sectors(file);
        if !disk.exists(segment(number + 1)) || sectors < 4 * count {
            let detail = format!("segment {number} of node {who} is not sealed");
            return Err(Failure::new(FailureKind::Budget, detail));
        }
        let mut rotten = Vec::new();
        for nth in 0..count {
            let id = (file, 1 + (2 * nth + 1) * (sectors - 2) / (2 * count));
            let Some(good) = disk.newest(id).map(Arc::clone) else { continue };
            let mut bad = bytes;
            // Part of it, at times: what is left must stay.
            let from = (nth as usize % 3) * 1_000;
            bad[..from].copy_from_slice(&good[..from]);
            let bad: Sector = bad.into();
            disk.put(id, Arc::clone(&bad));
            rotten.push(Rotten { who, id, good, bad });
        }
        Ok(rotten)
    }

    /// Blocks of two segments, and of their indexes, of a node; and of one peer those behind them.
    fn make_unreadable(&mut self, who: usize) -> Result<(), Failure> {
        let peer = (0..NODES).find(|&index| index != who).unwrap_or(0);
        for number in 0..2 {
            let sectors = self.cluster.members[who].disk.sectors(segment(number));
            if sectors < 20 {
                let detail = format!("segment {number} of node {who} has {sectors} blocks");
                return Err(Failure::new(FailureKind::Budget, detail));
            }
            for sector in [0, 3, 4, sectors / 2, sectors - 3] {
                let id = (segment(number), sector);
                self.cluster.members[who].disk.make_unreadable(id);
                let behind = (segment(number), sector + 1);
                if sector != 3 {
                    self.cluster.members[peer].disk.make_unreadable(behind);
                }
            }
            let number = SegmentNumber::new(number);
            let index = FileId::Index { tenant: TenantId::DEFAULT, number };
            for sector in 0..2 {
                self.cluster.members[who].disk.make_unreadable((index, sector));
            }
        }
        Ok(())
    }

    /// As of every position of the first three segments.
    pub(super) fn read_all(&mut self, who: usize, rotten: &[Rotten]) -> Result<(), Failure> {
        let end = self.cluster.ledger.head().unwrap_or(0);
        for position in 30..end.min(1_200) {
            if let Err(error) = self.read_as_of(who, position, rotten)? {
                let detail = format!("node {who}, position {position}: {error}");
                return Err(Failure::new(FailureKind::Wrong, detail));
            }
        }
        Ok(())
    }

    fn query(&self, position: u64) -> Result<(Query, Read), Failure> {
        let Some(spec) = self.cluster.ledger.model.spec(TABLE) else {
            return Err(Failure::new(FailureKind::Budget, "no table"));
        };
        let query = Workload::whole(spec, Some(position));
        let mut parameters = Parameters::new(false);
        let text = query.sql(spec, &mut parameters);
        Ok((query, Read::sql(TenantId::DEFAULT, &text, parameters.values)))
    }

    /// What a node says of a table as of a position, as the model has it.
    fn read_as_of(
        &mut self,
        who: usize,
        position: u64,
        rotten: &[Rotten],
    ) -> Result<Result<(), ReadError>, Failure> {
        let (query, mut read) = self.query(position)?;
        let repaired = self.cluster.seen.event("SegmentBlocksRepaired");
        let until_ns = self.cluster.now_ns + 60 * SECOND_NS;
        while self.cluster.now_ns < until_ns {
            if self.cluster.seen.event("SegmentBlocksRepaired") > repaired + REPAIRS_MAX {
                let detail = "repairs that repair nothing go on without end";
                return Err(Failure::new(FailureKind::Stuck, detail));
            }
            match self.step_read(who, &mut read, rotten)? {
                Progress::Ready => match read.finish() {
                    Ok(result) => {
                        let head = self.cluster.ledger.head();
                        self.cluster.take_answer(who, head, query, &result)?;
                        return Ok(Ok(()));
                    }
                    Err(error) => return Ok(Err(error)),
                },
                Progress::Yielded | Progress::Behind => self.cluster.now_ns += 1,
                Progress::Waiting => self.watched_turn(rotten)?,
            }
        }
        Err(Failure::new(FailureKind::Stuck, "a read never ends"))
    }

    fn step_read(
        &mut self,
        who: usize,
        read: &mut Read,
        rotten: &[Rotten],
    ) -> Result<Progress, Failure> {
        let progress = self.cluster.members[who].read(self.cluster.now_ns, read);
        self.cluster.after(who)?;
        Rotten::is_watched(&self.cluster, rotten)?;
        Ok(progress)
    }

    /// A turn; if it ends a repair, a power cut now leaves what was repaired.
    fn watched_turn(&mut self, rotten: &[Rotten]) -> Result<(), Failure> {
        let repaired = self.cluster.seen.event("SegmentBlocksRepaired");
        self.cluster.turn()?;
        Rotten::is_watched(&self.cluster, rotten)?;
        if self.cluster.seen.event("SegmentBlocksRepaired") == repaired {
            return Ok(());
        }
        for Rotten { who, id, good, .. } in rotten {
            let disk = &self.cluster.members[*who].disk;
            let durable = disk.fork(crate::random::Random::new(0), super::DiskFaults::NONE);
            if disk.newest(*id) == Some(good) && durable.newest(*id) != Some(good) {
                let detail = format!("node {who} calls {id:?} repaired, and a power cut undoes it");
                return Err(Failure::new(FailureKind::Lost, detail));
            }
        }
        Ok(())
    }

    /// Reads until so many effects of the node's disk were answered since the read began to wait
    /// for a repair; false: the read ended before.
    fn read_for(&mut self, who: usize, effects: u64, rotten: &[Rotten]) -> Result<bool, Failure> {
        let mut left = effects;
        let corrupt = self.cluster.seen.event("BlockCorrupt");
        for position in 30..390 {
            let (_, mut read) = self.query(position)?;
            let until_ns = self.cluster.now_ns + 60 * SECOND_NS;
            while self.cluster.now_ns < until_ns {
                match self.step_read(who, &mut read, rotten)? {
                    Progress::Ready => break,
                    Progress::Yielded | Progress::Behind => self.cluster.now_ns += 1,
                    Progress::Waiting => {
                        let due = self.cluster.next_due().map(|(_, due)| due);
                        let repairs = self.cluster.seen.event("BlockCorrupt") > corrupt;
                        if repairs && due == Some(Due::Disk(who)) {
                            left -= 1;
                        }
                        if left == 0 {
                            return Ok(true);
                        }
                        self.watched_turn(rotten)?;
                    }
                }
            }
        }
        Ok(false)
    }
}
