//! Disks that are lost as a whole, and empty ones in their places.

use verity_core::time::SECOND_NS;

use super::{NODES, RING_MIB, Scene};
use crate::cluster::{Cluster, Due};
use crate::report::{Failure, FailureKind};

/// Killed after so many turns, a run through the journal of a young cluster is over.
const KILLS_MAX: u64 = 5_000;

impl Scene {
    /// It stops, and its disk is lost.
    fn replace(&mut self, who: usize) -> Result<(), Failure> {
        if self.cluster.members[who].node.is_some() {
            self.cluster.crash(who)?;
        }
        self.cluster.replace(who)
    }

    /// Runs until so many effects of its disk were answered while it was marked; false: it is a
    /// member before that.
    fn replaced_for(&mut self, who: usize, effects: u64) -> Result<bool, Failure> {
        let mut left = effects;
        let until_ns = self.cluster.now_ns + 240 * SECOND_NS;
        while left > 0 {
            if self.cluster.converged() {
                return Ok(false);
            }
            let due = self.cluster.next_due().map(|(_, due)| due);
            left -= u64::from(due == Some(Due::Disk(who)));
            self.cluster.turn()?;
            self.check_marked(who)?;
            if self.cluster.now_ns > until_ns {
                return Err(Failure::new(FailureKind::Stuck, "a replaced node gets nowhere"));
            }
        }
        Ok(true)
    }

    /// Without the mark it has the log of a view.
    fn check_marked(&self, who: usize) -> Result<(), Failure> {
        let Some(state) = self.cluster.state_on_disk(who) else { return Ok(()) };
        if !state.replaced && state.log_view.get() == 0 {
            let detail = format!("node {who} has no log of a view, and no mark");
            return Err(Failure::new(FailureKind::Wrong, detail));
        }
        Ok(())
    }
}

/// A disk is lost, and its node is killed again and again on its way back, each time a little
/// later: where the others' journals have all there ever was, and where it takes a checkpoint.
pub(crate) fn replaced_killed() -> Result<(), String> {
    Scene::play(|| replaced_killed_after(|effects| effects + 1 + effects / 16).map(drop))
}

fn replaced_killed_after(later: impl Fn(u64) -> u64) -> Result<u64, Failure> {
    let mut kills = 0;
    for behind in [false, true] {
        let mut scene = Scene::new()?;
        for _ in 0..8 {
            scene.write()?;
        }
        if behind {
            scene.write_mib(RING_MIB + 2)?;
        }
        scene.cluster.drive(Cluster::converged)?;
        let who = scene.follower();
        scene.replace(who)?;
        let mut effects = 1;
        while scene.replaced_for(who, effects)? {
            scene.cluster.crash(who)?;
            effects = later(effects);
            kills += 1;
            assert!(kills < KILLS_MAX, "each time it gets further");
        }
        // Killed right behind INSTALL, the last step of all, a node cannot say that it is done.
        let marks: &[&str] = if behind { &["SyncPageFetched"] } else { &["ReplicaUncertain"] };
        scene.end(marks)?;
    }
    Ok(kills)
}

/// Nodes 1 and 2 commit what node 0 never heard of, as it never heard a word of node 2. Node 2
/// loses its disk and node 1 is down: nobody may lead. Then node 1 is there again.
pub(crate) fn replaced_knower_down() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::with_cut(&[(2, 0)])?;
        let cluster = &mut scene.cluster;
        cluster.drive(|cluster| cluster.members[1].is_primary())?;
        for _ in 0..4 {
            scene.write()?;
        }
        scene.isolate(0, true);
        for _ in 0..4 {
            scene.write()?;
        }
        scene.cluster.send_away(1)?;
        scene.replace(2)?;
        scene.isolate(0, false);
        let until_ns = scene.cluster.now_ns + 20 * SECOND_NS;
        let leads = |cluster: &Cluster| cluster.members.iter().any(|member| member.is_primary());
        scene.cluster.drive(|cluster| leads(cluster) || cluster.now_ns > until_ns)?;
        if leads(&scene.cluster) {
            let detail = "somebody leads without the node that knows what was acknowledged";
            return Err(Failure::new(FailureKind::Wrong, detail));
        }
        if !scene.cluster.members[2].is_replaced() {
            let detail = "an empty disk counts before anybody who knows was heard";
            return Err(Failure::new(FailureKind::Wrong, detail));
        }
        scene.cluster.call_back();
        scene.end(&["ReplicaUncertain"])
    })
}

/// A disk is lost, its node is a member again; then each of the others goes away for good.
pub(crate) fn replaced_stands_in() -> Result<(), String> {
    Scene::play(|| {
        for nth in [0, 1] {
            let mut scene = Scene::new()?;
            scene.write_mib(2)?;
            let who = scene.follower();
            scene.replace(who)?;
            scene.write()?;
            scene.cluster.drive(Cluster::converged)?;
            let other = (0..NODES).filter(|&index| index != who).nth(nth).unwrap_or(0);
            scene.cluster.send_away(other)?;
            scene.write()?;
            scene.cluster.drive(|cluster| cluster.converged_without(other))?;
            scene.cluster.call_back();
            scene.end(&["ReplicaUncertain"])?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::replaced_killed_after;

    #[test]
    fn a_replaced_node_survives_a_kill_at_every_effect() {
        match replaced_killed_after(|effects| effects + 1) {
            Ok(kills) => assert!(kills > 200, "{kills} kills"),
            Err(failure) => panic!("{failure}"),
        }
    }
}
