//! Disks that are put back as they were.

use verity_core::time::SECOND_NS;

use super::{NODES, RING_MIB, Scene};
use crate::cluster::Cluster;
use crate::report::{Failure, FailureKind};

impl Scene {
    /// Somebody who does not lead stops, its disk is copied, and it is there again.
    fn copy_follower(&mut self) -> Result<usize, Failure> {
        self.write()?;
        self.cluster.drive(Cluster::converged)?;
        let who = self.follower();
        self.cluster.send_away(who)?;
        self.cluster.keep_disk(who);
        self.cluster.call_back();
        self.cluster.drive(Cluster::converged)?;
        Ok(who)
    }

    pub(super) fn pass(&mut self, ns: u64) -> Result<(), Failure> {
        let until_ns = self.cluster.now_ns + ns;
        self.cluster.drive(|cluster| cluster.now_ns >= until_ns)
    }
}

/// Node A has told both others more than its older disk holds. Then it and the primary commit what
/// the third never heard of, the primary goes away, and A comes back with the older disk: with the
/// third it would be a quorum that has none of it. Nobody may lead before the primary is back.
pub(crate) fn older_disk() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        let who = scene.copy_follower()?;
        for _ in 0..4 {
            scene.write()?;
        }
        // What they heard of one another goes to their disks once a second.
        scene.pass(3 * SECOND_NS)?;
        let primary = scene.primary(|_| true)?;
        let third = (0..NODES).find(|&index| index != who && index != primary).unwrap_or(0);
        scene.isolate(third, true);
        for _ in 0..4 {
            scene.write()?;
        }
        scene.cluster.crash(who)?;
        scene.cluster.members[who].boot_at_ns = None;
        scene.cluster.send_away(primary)?;
        scene.cluster.put_back(who);
        scene.cluster.members[who].boot_at_ns = Some(scene.cluster.now_ns + 1);
        scene.isolate(third, false);
        let until_ns = scene.cluster.now_ns + 20 * SECOND_NS;
        let leads = |cluster: &Cluster| cluster.members.iter().any(|member| member.is_primary());
        scene.cluster.drive(|cluster| leads(cluster) || cluster.now_ns > until_ns)?;
        if leads(&scene.cluster) {
            let detail = "somebody leads with an older disk and one that never knew more";
            return Err(Failure::new(FailureKind::Wrong, detail));
        }
        scene.cluster.call_back();
        scene.end(&["ReplicaUncertain"])
    })
}

/// The older disk is of before the rings went round: it takes a checkpoint, and is killed amid
/// that.
pub(crate) fn older_disk_synced() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        let who = scene.copy_follower()?;
        scene.write_mib(RING_MIB + 2)?;
        scene.cluster.crash(who)?;
        scene.cluster.put_back(who);
        let mut effects = 1;
        while scene.sync_for(who, effects)? {
            scene.cluster.crash(who)?;
            effects = 2 * effects + 20;
        }
        scene.end(&["SyncFinished"])
    })
}
