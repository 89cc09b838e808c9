//! Directed runs of a cluster in which a tenant is created while something goes wrong.

use verity_core::ids::TenantId;
use verity_core::io::FileId;

use super::Scene;
use crate::cluster::tenants::TenantStep;
use crate::cluster::{Cluster, Due};
use crate::report::{Failure, FailureKind};

const TENANT: TenantId = TenantId::new(2);
/// Kills amid creations, each a little later than the one before.
const KILLS: u64 = 48;

/// A node hears nobody while a tenant is created, and has then to apply what its keys seal.
pub(crate) fn tenants_missed() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        scene.write()?;
        scene.cluster.drive(Cluster::converged)?;
        let who = scene.follower();
        scene.isolate(who, true);
        scene.create(TENANT)?;
        scene.isolate(who, false);
        scene.end(&["KeyMinted", "KeyKept", "KeysAwaited"])
    })
}

/// Whoever made a tenant's keys is gone as soon as the tenant is acknowledged.
pub(crate) fn tenants_maker_lost() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        scene.write()?;
        scene.cluster.drive(Cluster::converged)?;
        let maker = scene.primary(|_| true)?;
        scene.step(TenantStep::Create(TENANT))?;
        scene.cluster.send_away(maker)?;
        scene.step(TenantStep::Table(TENANT))?;
        scene.step(TenantStep::Row(TENANT, 0))?;
        scene.cluster.call_back();
        scene.end(&["KeyMinted", "KeyKept"])
    })
}

/// Two nodes make keys for one tenant: the first is cut off before anybody has them.
pub(crate) fn tenants_made_twice() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        scene.write()?;
        scene.cluster.drive(Cluster::converged)?;
        let first = scene.primary(|_| true)?;
        scene.isolate(first, true);
        scene.cluster.favourite = first;
        scene.create(TENANT)?;
        if scene.cluster.seen.event("KeyMinted") < 2 {
            return Err(Failure::new(FailureKind::Budget, "one made them: this shows nothing"));
        }
        scene.isolate(first, false);
        scene.end(&["KeyKept", "KeysAwaited"])
    })
}

/// A tenant is created while a node is away for so long that it must fetch a checkpoint.
pub(crate) fn tenants_synced() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        scene.send_follower_away()?;
        scene.create(TENANT)?;
        scene.write_mib(super::RING_MIB + 2)?;
        scene.cluster.call_back();
        scene.end(&["SyncFinished", "KeysAwaited"])
    })
}

/// The keys file of a node is put back as it was before a tenant that its checkpoint knows.
pub(crate) fn tenants_keys_put_back() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        scene.write()?;
        scene.cluster.drive(Cluster::converged)?;
        let who = scene.follower();
        let keys = scene.cluster.members[who].disk.sectors_of(FileId::Keys);
        let keys: Vec<_> = keys.collect();
        scene.create(TENANT)?;
        scene.write_mib(2)?;
        scene.cluster.drive(Cluster::converged)?;
        scene.cluster.send_away(who)?;
        for (number, sector) in keys {
            scene.cluster.members[who].disk.put((FileId::Keys, number), sector);
        }
        scene.cluster.call_back();
        scene.end(&["KeysAwaited"])
    })
}

/// Tenants are created one after the other, and amid each of them a node is killed, each time a
/// little later.
pub(crate) fn tenants_killed() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        scene.write()?;
        for kill in 0..KILLS {
            scene.cluster.drive(Cluster::converged)?;
            let who = if kill % 2 == 0 { scene.primary(|_| true)? } else { scene.follower() };
            let tenant = TenantId::new(TENANT.get() + kill);
            scene.cluster.ask_step(TenantStep::Create(tenant));
            let mut left = kill / 2;
            while left > 0 && !scene.cluster.pending.is_empty() {
                let due = scene.cluster.next_due().map(|(_, due)| due);
                left -= u64::from(due == Some(Due::Disk(who)) || due == Some(Due::Key(who)));
                scene.cluster.turn()?;
            }
            scene.cluster.crash(who)?;
            scene.cluster.drive(|cluster| cluster.pending.is_empty())?;
            scene.step(TenantStep::Table(tenant))?;
            scene.step(TenantStep::Row(tenant, 0))?;
        }
        scene.end(&["KeyMinted", "KeyKept"])
    })
}

impl Scene {
    fn step(&mut self, step: TenantStep) -> Result<(), Failure> {
        self.cluster.ask_step(step);
        self.cluster.drive(|cluster| cluster.pending.is_empty())
    }

    /// A tenant with a table and some rows.
    fn create(&mut self, tenant: TenantId) -> Result<(), Failure> {
        self.step(TenantStep::Create(tenant))?;
        self.step(TenantStep::Table(tenant))?;
        (0..5).try_for_each(|row| self.step(TenantStep::Row(tenant, row)))
    }
}
