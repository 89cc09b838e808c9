//! A directed run of a cluster whose disks fill.

use verity_core::io::Input;

use super::Scene;
use crate::cluster::Cluster;
use crate::report::{Failure, FailureKind};

const FULL: Input = Input::Space { free_bytes: 1 << 20 };
const ROOMY: Input = Input::Space { free_bytes: 1 << 40 };

/// The primary's disk is full: writes are answered all the same, by another.
pub(crate) fn disk_full() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        scene.write()?;
        scene.cluster.drive(Cluster::converged)?;
        let full = scene.primary(|_| true)?;
        scene.cluster.give(full, FULL)?;
        scene.write()?;
        if scene.cluster.members[full].is_primary() {
            return Err(Failure::new(FailureKind::Budget, "it leads: this scene shows nothing"));
        }
        scene.cluster.give(full, ROOMY)?;
        scene.end(&["ViewStarted"])
    })
}
