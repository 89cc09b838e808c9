//! Directed runs of a cluster: what seeds meet once in a blue moon, played on purpose.
//!
//! Purpose: three nodes on disks that work, over a network that loses nothing; one thing goes
//! wrong, and it is the same at every run. Invariants: all that a run of seeds checks is checked
//! here, too; a scene in which the thing it is about did not happen fails, whatever else holds.
//!
//! Start reading at [`Scene`].

mod astray;
mod clocks;
mod cosigning;
mod older;
mod reads;
mod replaced;
mod room;
mod segments;
mod tenants;

pub(crate) use astray::{reads_misdirected, sync_writes_lost, writes_lost, writes_misdirected};
pub(crate) use clocks::clocks;
pub(crate) use cosigning::{cosigned, cosigned_doubled, cosigned_superseded};
pub(crate) use older::{older_disk, older_disk_synced};
pub(crate) use reads::{reads_causal, reads_of_deposed};
pub(crate) use replaced::{replaced_killed, replaced_knower_down, replaced_stands_in};
pub(crate) use room::disk_full;
pub(crate) use segments::{
    segments_killed, segments_lost, segments_peer_damaged, segments_repaired, segments_scrubbed,
    segments_synced, segments_unreadable, segments_unwritable,
};
pub(crate) use tenants::{
    tenants_keys_put_back, tenants_killed, tenants_made_twice, tenants_maker_lost, tenants_missed,
    tenants_synced,
};

use verity_core::io::FileId;
use verity_core::limits::{ClusterConstants, PAGE_SIZE};
use verity_core::time::{MILLISECOND_NS, SECOND_NS};

use super::{Cluster, Due, Net, constants};
use crate::disk::{DiskFaults, SectorId};
use crate::random::Random;
use crate::rebuild;
use crate::report::{Failure, FailureKind};
use crate::sql::{ColumnSpec, Conflict, Datum, DatumType, Expected, Statement, TableSpec};
use crate::swarm::Options;

const RING_MIB: u64 = 4;
const NODES: usize = 3;
/// So few that a log has several segments.
const SEGMENT_POSITIONS: u64 = 400;
const TABLE: &str = "t";
/// Of a write: rows all over the table, so that each checkpoint changes most of it, and records
/// that fill the ring and cost no page.
const ROWS: u64 = 24;
const ROW_BYTES: usize = 200;
const RECORD_BYTES: usize = 60_000;
const WRITES_MAX: u64 = 400;

/// A cluster in which one thing happens after the other.
struct Scene {
    cluster: Cluster,
    rows: u64,
}

impl Scene {
    /// All nodes are up, and one leads.
    fn new() -> Result<Scene, Failure> {
        Scene::among(NODES, &[])
    }

    /// The same, with links that are cut from the beginning.
    fn with_cut(cut: &[(usize, usize)]) -> Result<Scene, Failure> {
        Scene::among(NODES, cut)
    }

    /// Of so many nodes.
    fn among(nodes: usize, cut: &[(usize, usize)]) -> Result<Scene, Failure> {
        let root = Random::new(0).stream("directed cluster");
        let random = root.stream("plan");
        let constants =
            ClusterConstants { segment_positions: SEGMENT_POSITIONS, ..constants(RING_MIB, 4) };
        let mut cluster = Cluster::of(0, nodes, constants, &Options::default(), &root, random)?;
        cluster.net = Net { drop_ppm: 0, duplicate_ppm: 0, corrupt_ppm: 0, delay_ns_mean: 50_000 };
        cluster.rotten.clear();
        cluster.segment_rot_ppm = 0;
        for (from, to) in cut {
            cluster.cut[*from][*to] = true;
        }
        for index in 0..nodes {
            cluster.members[index].disk.set_faults(DiskFaults::NONE);
            cluster.boot(index);
        }
        let mut scene = Scene { cluster, rows: 0 };
        let column = |name: &str, column_type, nullable| ColumnSpec {
            name: name.to_owned(),
            column_type,
            nullable,
            default: None,
            by_chance: false,
        };
        let columns =
            vec![column("id", DatumType::BigInt, false), column("body", DatumType::Text, true)];
        let table = TableSpec { name: TABLE.to_owned(), columns, key: vec![0] };
        scene.answer(vec![Statement::Create(table)])?;
        Ok(scene)
    }

    fn answer(&mut self, statements: Vec<Statement>) -> Result<(), Failure> {
        self.cluster.ask(statements);
        self.cluster.drive(|cluster| cluster.pending.is_empty())?;
        self.cluster.settle()
    }

    fn write(&mut self) -> Result<(), Failure> {
        let statements = self.next_write();
        self.answer(statements)
    }

    fn next_write(&mut self) -> Vec<Statement> {
        let row = |number: u64| {
            let id = number * 7_919 % 1_000_003;
            vec![Datum::Integer(id as i64), Datum::Text("r".repeat(ROW_BYTES))]
        };
        let rows = (self.rows..self.rows + ROWS).map(row).collect();
        self.rows += ROWS;
        let insert = Statement::Insert {
            table: TABLE.to_owned(),
            columns: vec![0, 1],
            rows,
            bulk: true,
            conflict: Conflict::Fail,
        };
        let append = Statement::Append {
            stream: "s".to_owned(),
            expected: Expected::Any,
            records: vec![vec![self.rows as u8; RECORD_BYTES]],
        };
        vec![insert, append]
    }

    /// Writes until this is so.
    fn write_until(&mut self, done: impl Fn(&Cluster) -> bool) -> Result<(), Failure> {
        for _ in 0..WRITES_MAX {
            if done(&self.cluster) {
                return Ok(());
            }
            self.write()?;
        }
        Err(Failure::new(FailureKind::Budget, "what was written for never came"))
    }

    /// So many MiB of prepares are part of checkpoints beyond those that are now.
    fn write_mib(&mut self, mib: u64) -> Result<(), Failure> {
        let until = self.cluster.checkpoints_end() + (mib << 20);
        self.write_until(|cluster| cluster.checkpoints_end() >= until)
    }

    /// Somebody who does not lead.
    fn follower(&self) -> usize {
        (0..NODES).rev().find(|&index| !self.cluster.members[index].is_primary()).unwrap_or(0)
    }

    /// Somebody who does not lead has what all have, checkpoints among it, and goes away.
    fn send_follower_away(&mut self) -> Result<usize, Failure> {
        self.write_mib(2)?;
        self.cluster.drive(Cluster::converged)?;
        let who = self.follower();
        self.cluster.send_away(who)?;
        Ok(who)
    }

    /// It was up, and is away until nobody's ring has what it needs.
    fn miss_a_ring(&mut self) -> Result<usize, Failure> {
        let who = self.send_follower_away()?;
        self.write_mib(RING_MIB + 2)?;
        Ok(who)
    }

    /// Runs until so many effects of its sync were answered; false: the sync ended before.
    fn sync_for(&mut self, who: usize, effects: u64) -> Result<bool, Failure> {
        let ended = self.cluster.seen.syncs + 1;
        let mut left = effects;
        let until_ns = self.cluster.now_ns + 120 * SECOND_NS;
        while left > 0 {
            // Killed amid the last write of a sync, it may have all the same.
            if self.cluster.seen.syncs == ended || self.cluster.converged() {
                return Ok(false);
            }
            let syncs = self.cluster.members[who].is_syncing();
            let due = self.cluster.next_due().map(|(_, due)| due);
            left -= u64::from(syncs && due == Some(Due::Disk(who)));
            self.cluster.turn()?;
            if self.cluster.now_ns > until_ns {
                return Err(Failure::new(FailureKind::Stuck, "a sync does not go on"));
            }
        }
        Ok(true)
    }

    /// All have the same, and what the scene is about took place.
    fn end(mut self, marks: &[&str]) -> Result<(), Failure> {
        self.write()?;
        self.cluster.agree()?;
        match marks.iter().find(|mark| self.cluster.seen.event(mark) == 0) {
            None => Ok(()),
            Some(mark) => {
                let detail = format!("{mark} never happened: this scene shows nothing");
                Err(Failure::new(FailureKind::Budget, detail))
            }
        }
    }

    fn play(scene: impl FnOnce() -> Result<(), Failure>) -> Result<(), String> {
        scene().map_err(|failure| failure.to_string())
    }
}

/// A node fetches a checkpoint, and is killed amid that again and again, each time a little later,
/// from the first effect to the last.
pub(crate) fn sync_killed() -> Result<(), String> {
    Scene::play(|| sync_killed_after(|effects| effects + 1 + effects / 16).map(drop))
}

/// How often it was killed.
fn sync_killed_after(later: impl Fn(u64) -> u64) -> Result<u64, Failure> {
    let mut scene = Scene::new()?;
    let who = scene.miss_a_ring()?;
    scene.cluster.call_back();
    let (mut effects, mut kills) = (1, 0_u64);
    while scene.sync_for(who, effects)? {
        scene.cluster.crash(who)?;
        effects = later(effects);
        kills += 1;
    }
    scene.end(&["SyncPageFetched", "SyncBlocksFetched"])?;
    Ok(kills)
}

/// A node that fetches a checkpoint hears nobody until its peers have written over that.
pub(crate) fn sync_moves_on() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        let who = scene.miss_a_ring()?;
        scene.cluster.call_back();
        let fetched = |cluster: &Cluster| cluster.seen.event("SyncPageFetched") > 0;
        scene.cluster.drive(fetched)?;
        scene.isolate(who, true);
        scene.write_mib(RING_MIB + 2)?;
        scene.isolate(who, false);
        scene.end(&["SyncGivenUp", "SyncFinished"])
    })
}

/// A node fetches a checkpoint, and one of its two peers is gone for good amid that. Until it has
/// the checkpoint there is no quorum, and then there is one.
pub(crate) fn sync_loses_peer() -> Result<(), String> {
    Scene::play(|| {
        for (nth, effects) in [(0, 1), (1, 1), (0, 40), (1, 40), (0, 200), (1, 200)] {
            let mut scene = Scene::new()?;
            let who = scene.miss_a_ring()?;
            scene.cluster.call_back();
            let sync_goes_on = scene.sync_for(who, effects)?;
            let peer = (0..NODES).filter(|&index| index != who).nth(nth).unwrap_or(0);
            scene.cluster.send_away(peer)?;
            let before = scene.cluster.seen.syncs;
            scene.write()?;
            if !sync_goes_on || scene.cluster.seen.syncs == before {
                let detail = format!("no sync went on without node {peer}");
                return Err(Failure::new(FailureKind::Budget, detail));
            }
            scene.cluster.call_back();
            scene.end(&["SyncFinished"])?;
        }
        Ok(())
    })
}

/// A node reads an old prepare for a peer from a disk that takes its time; meanwhile the ring goes
/// round to where that prepare is.
pub(crate) fn ring_read() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        let who = scene.send_follower_away()?;
        // Nearly a ring: what it needs first is what is written over next.
        let prepare = RECORD_BYTES as u64 + ROWS * ROW_BYTES as u64;
        for _ in 0..((RING_MIB << 20) / prepare) * 3 / 4 {
            scene.write()?;
        }
        scene.cluster.drive(|cluster| cluster.converged_without(who))?;
        for index in (0..NODES).filter(|&index| index != who) {
            // Slow beside a write, and no reason for another view.
            let slow = DiskFaults { read_ns_mean: 300 * MILLISECOND_NS, ..DiskFaults::NONE };
            scene.cluster.members[index].disk.set_faults(slow);
        }
        scene.cluster.call_back();
        let until_ns = scene.cluster.now_ns + 500 * MILLISECOND_NS;
        scene.cluster.drive(|cluster| cluster.now_ns >= until_ns)?;
        for _ in 0..(RING_MIB << 20) / prepare / 2 {
            scene.write()?;
        }
        for index in 0..NODES {
            scene.cluster.members[index].disk.set_faults(DiskFaults::NONE);
        }
        scene.end(&["JournalWrapped"])
    })
}

/// All pages of a node's tables rot while it is down, and then it is asked for the rows.
pub(crate) fn pages_repaired() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        let who = scene.send_follower_away()?;
        scene.rot_pages(who)?;
        scene.cluster.call_back();
        scene.end(&["PageCorrupt", "PageRepaired"])
    })
}

impl Scene {
    fn isolate(&mut self, who: usize, isolated: bool) {
        for other in (0..NODES).filter(|&other| other != who) {
            self.cluster.cut[who][other] = isolated;
            self.cluster.cut[other][who] = isolated;
        }
    }

    /// Every page that the trees reach, but for those that an open needs.
    fn rot_pages(&mut self, who: usize) -> Result<(), Failure> {
        let cluster = &mut self.cluster;
        let failed = |text| Failure::new(FailureKind::Twin, text);
        let disk = cluster.members[who].disk.fork(Random::new(0), DiskFaults::NONE);
        let pages = rebuild::pages_of(disk, cluster.master.clone()).map_err(failed)?;
        let Some(checkpoint) = cluster.members[who].checkpoint else {
            return Err(failed("a checkpoint was written".to_owned()));
        };
        let kept = [checkpoint.free_set.root.page.get(), checkpoint.system_forest.root.page.get()];
        for number in pages.keys().filter(|number| !kept.contains(number)) {
            let victim: SectorId = (FileId::Grid, u64::from(*number));
            cluster.members[who].disk.put(victim, [0xA5; PAGE_SIZE].into());
            cluster.damaged.insert((who, *number));
        }
        cluster.rotten.push(who);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::sync_killed_after;

    #[test]
    fn a_state_sync_survives_a_kill_at_every_effect() {
        match sync_killed_after(|effects| effects + 1) {
            Ok(kills) => assert!(kills > 400, "{kills} kills"),
            Err(failure) => panic!("{failure}"),
        }
    }
}
