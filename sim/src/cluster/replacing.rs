//! Disks that are lost as a whole, and empty ones in their places.
//!
//! Invariants: only of nodes whose disks may lose data, which are fewer than a quorum; and only
//! where every block that rotted elsewhere has a copy left. Nobody's disk is lost once faults have
//! stopped.

use verity_core::node::{CURRENT_RELEASE, FormatOptions};

use super::{CLUSTER, Cluster};
use crate::overrides::Switch;
use crate::report::Failure;

impl Cluster {
    /// A node that just stopped may have stopped because its disk is gone.
    pub(super) fn lose_disk(&mut self, index: usize) -> Result<(), Failure> {
        let may = self.next_trouble_ns.is_some() && self.rotten.contains(&index);
        if may
            && self.replacing.chance(self.replace_ppm)
            && self.copies.allows_all(index)
            && self.board.lets(Switch::LoseDisk)
        {
            self.replace(index)?;
        }
        Ok(())
    }

    pub(super) fn replace(&mut self, index: usize) -> Result<(), Failure> {
        self.copies.lose_all(index);
        self.damaged.retain(|(of, _)| *of != index);
        for (name, count) in &self.members[index].disk.stats().faults {
            *self.lost_faults.entry(*name).or_default() += count;
        }
        let met = self.members[index].disk.met();
        self.lost_met = self.lost_met.iter().chain(met.iter()).collect();
        self.seen.replaced += 1;
        self.trace.note(self.now_ns, || format!("{index} lost its disk"));
        self.recorder.at(self.now_ns, |timeline| {
            timeline.fault(index, "disk lost", "an empty one takes its place");
        });
        let options = FormatOptions {
            cluster: Some(CLUSTER),
            replica: self.members[index].replica(),
            replica_count: self.members.len() as u8,
            release: CURRENT_RELEASE,
            constants: self.constants,
        };
        let random = self.replacing.stream(&format!("disk {}", self.seen.replaced));
        self.heads.forget(index);
        self.members[index].replace(options, self.format_seed, random, &mut self.master)?;
        self.members[index].disk.switch_off(self.overrides.off);
        Ok(())
    }
}
