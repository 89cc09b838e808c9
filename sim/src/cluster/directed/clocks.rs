//! Clocks that go wrong, one after the other and together.

use verity_core::time::{MILLISECOND_NS, SECOND_NS};

use super::Scene;
use crate::cluster::Cluster;
use crate::report::{Failure, FailureKind};

const HOURS_NS: i64 = 6 * 3_600 * SECOND_NS as i64;
/// Right clocks are up to 200 ms apart.
const CLOSE_NS: i64 = SECOND_NS as i64;

impl Scene {
    /// Time passes, and a write is answered; how far ahead of the truth its time is.
    fn time_of_write(&mut self) -> Result<i64, Failure> {
        let until_ns = self.cluster.now_ns + 500 * MILLISECOND_NS;
        self.cluster.drive(|cluster| cluster.now_ns >= until_ns)?;
        self.write()?;
        Ok(self.cluster.seen.time_ahead_ns)
    }

    fn keeps_time(&mut self, what: &str) -> Result<(), Failure> {
        let ahead_ns = self.time_of_write()?;
        if ahead_ns.abs() <= CLOSE_NS {
            return Ok(());
        }
        let detail = format!("{what}: an answer is {ahead_ns} ns ahead of the truth");
        Err(Failure::new(FailureKind::Wrong, detail))
    }
}

/// The clock of who leads steps ahead, freezes and steps back, and two right ones outvote it; so do
/// they when it leads anew. Then two clocks are hours ahead, are believed, an hour an op, and are
/// set right again: time stands nearly still until the truth has caught up, and never goes back.
pub(crate) fn clocks() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        scene.keeps_time("at first")?;
        let who = scene.primary(|_| true)?;
        let now_ns = scene.cluster.now_ns;
        scene.cluster.members[who].wall.step(now_ns, HOURS_NS);
        scene.keeps_time("a step ahead")?;
        let now_ns = scene.cluster.now_ns;
        scene.cluster.members[who].wall.freeze(now_ns, 20 * SECOND_NS);
        for _ in 0..10 {
            scene.keeps_time("a clock that stands")?;
        }
        let now_ns = scene.cluster.now_ns;
        scene.cluster.members[who].wall.step(now_ns, -2 * HOURS_NS);
        scene.keeps_time("a step back")?;
        scene.cluster.crash(who)?;
        scene.cluster.drive(Cluster::converged)?;
        scene.keeps_time("another leads")?;
        let now_ns = scene.cluster.now_ns;
        scene.cluster.heal_clocks();
        for index in 0..2 {
            let ahead_ns = scene.cluster.members[index].wall.ahead_ns(now_ns);
            scene.cluster.members[index].wall.step(now_ns, HOURS_NS - ahead_ns);
        }
        let mut before = scene.cluster.seen.time_ahead_ns;
        let hour_ns = 3_600 * SECOND_NS as i64;
        // Samples of before count until better ones come.
        for _ in 0..60 {
            if before >= HOURS_NS - CLOSE_NS {
                break;
            }
            let ahead_ns = scene.time_of_write()?;
            if ahead_ns > before + 2 * hour_ns {
                let detail = format!("one write took time from {before} to {ahead_ns} ns ahead");
                return Err(Failure::new(FailureKind::Wrong, detail));
            }
            before = ahead_ns;
        }
        if before < HOURS_NS - CLOSE_NS {
            let detail = format!("two clocks of three are not believed: {before} ns ahead");
            return Err(Failure::new(FailureKind::Budget, detail));
        }
        let now_ns = scene.cluster.now_ns;
        for index in 0..2 {
            scene.cluster.members[index].wall.step(now_ns, -HOURS_NS);
        }
        for _ in 0..4 {
            let ahead_ns = scene.time_of_write()?;
            if ahead_ns >= before {
                let detail = "time runs on though all clocks are behind it";
                return Err(Failure::new(FailureKind::Wrong, detail));
            }
            before = ahead_ns;
        }
        scene.end(&[])
    })
}
