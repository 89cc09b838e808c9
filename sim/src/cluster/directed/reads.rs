//! Directed runs of a cluster in which somebody reads what others have left behind.

use verity_core::time::SECOND_NS;

use super::{Scene, TABLE};
use crate::cluster::Cluster;
use crate::cluster::members::Member;
use crate::cluster::readers::Promise;
use crate::report::{Failure, FailureKind};
use crate::workload::Workload;

/// Without a word to its peers the primary goes on to believe that it leads; another does, and
/// acknowledges a write. Then the first is asked.
pub(crate) fn reads_of_deposed() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        scene.write()?;
        scene.cluster.drive(Cluster::converged)?;
        let old = scene.primary(|_| true)?;
        scene.isolate(old, true);
        scene.cluster.drive(|cluster| {
            let others = cluster.members.iter().enumerate().filter(|(index, _)| *index != old);
            others.filter(|(_, member)| member.is_primary()).count() == 1
        })?;
        scene.cluster.favourite = scene.primary(|index| index != old)?;
        scene.write()?;
        if !scene.cluster.members[old].is_primary() {
            return Err(Failure::new(FailureKind::Budget, "it knows: this scene shows nothing"));
        }
        scene.ask_in_vain(old, Promise::Linearizable)?;
        scene.end(&[])
    })
}

/// A replica hears nobody, and misses a write. Who has seen that asks it.
pub(crate) fn reads_causal() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        scene.write()?;
        scene.cluster.drive(Cluster::converged)?;
        let who = scene.follower();
        scene.isolate(who, true);
        scene.write()?;
        let head = scene.cluster.ledger.head().unwrap_or(0);
        scene.ask_in_vain(who, Promise::Causal(head))?;
        scene.end(&[])
    })
}

impl Scene {
    pub(super) fn primary(&self, among: impl Fn(usize) -> bool) -> Result<usize, Failure> {
        let members = self.cluster.members.iter();
        let leads = |(index, member): (usize, &Member)| among(index) && member.is_primary();
        let mut found = members.enumerate().map(leads);
        found.position(|leads| leads).ok_or_else(|| Failure::new(FailureKind::Stuck, "none leads"))
    }

    fn want(&mut self, who: usize, promise: Promise) {
        let Some(spec) = self.cluster.ledger.model.spec(TABLE).cloned() else {
            unreachable!("the scene begins with it")
        };
        self.cluster.want_rows(promise, Workload::whole(&spec, None), &spec, Some(who));
    }

    /// While it is cut off it has no answer, and then it has one.
    fn ask_in_vain(&mut self, who: usize, promise: Promise) -> Result<(), Failure> {
        self.want(who, promise);
        let until_ns = self.cluster.now_ns + SECOND_NS;
        self.cluster.drive(|cluster| cluster.now_ns >= until_ns)?;
        if self.cluster.readers.asked.is_empty() {
            let detail = format!("node {who} hears nobody, and answers {promise:?}");
            return Err(Failure::new(FailureKind::Wrong, detail));
        }
        self.isolate(who, false);
        // Whoever does not lead any more says so for ever.
        self.cluster.readers.asked_of_anybody();
        self.cluster.drive(|cluster| cluster.readers.asked.is_empty())
    }
}
