//! Twins: two nodes from one disk, fed the same requests, with other caches, other latencies and
//! another seed. What they checkpoint must be the same bytes, and so must what they answer.

use verity_core::io::FileId;

use super::World;
use crate::disk::DiskFaults;
use crate::replica::BootOptions;
use crate::report::{Failure, FailureKind};
use crate::solo::Solo;

impl World {
    /// Called when no process runs and all is durable.
    pub(super) fn compare_twins(&mut self) -> Result<(), Failure> {
        // Jobs go on between requests, where timing puts them: not the same in both.
        self.workload.keep_schema();
        let count = self.random.range(10, 40);
        let mut requests = Vec::new();
        for _ in 0..count {
            let tenant = self.random.index(self.ledgers.len());
            if !self.tenants_ready.contains(&tenant) {
                continue;
            }
            let statements = self.workload.transaction(tenant, &self.ledgers[tenant].model);
            let serial = self.request(None, tenant, statements);
            if let Some(pending) = self.pending.remove(&serial) {
                requests.push(pending.request);
            }
        }
        let wall = self.clock.clock().wall;
        let slow = DiskFaults { read_ns_mean: 900_000, write_ns_mean: 10_000, ..DiskFaults::NONE };
        let plans = [
            (DiskFaults::NONE, BootOptions::new(4_096, false)),
            (slow, BootOptions::new(160, true)),
        ];
        let mut ends: Vec<(Solo, Vec<String>)> = Vec::new();
        for (faults, options) in plans {
            let random = self.random.stream("twin disk");
            let mut solo = Solo::new(self.disk.fork(random, faults), self.master.clone());
            solo.wall = wall;
            let seed = self.random.seed_bytes();
            let mut answers = Vec::new();
            let halted = |halt| Failure::new(FailureKind::Halted, format!("twin: {halt}"));
            solo.open(options, seed).map_err(halted)?;
            for request in &requests {
                let reply = solo.request(request.clone()).map_err(halted)?;
                answers.push(format!("{reply:?}"));
            }
            solo.shutdown().map_err(halted)?;
            ends.push((solo, answers));
        }
        let [(one, one_answers), (two, two_answers)] = &ends[..] else {
            unreachable!("there are two plans")
        };
        for (index, (one, two)) in one_answers.iter().zip(two_answers).enumerate() {
            if one != two {
                let detail = format!("request {index}: {one} and {two}: {:?}", requests[index]);
                return Err(Failure::new(FailureKind::Twin, crate::ledger::shorten(&detail)));
            }
        }
        compare_files(one, two)
    }
}

fn compare_files(one: &Solo, two: &Solo) -> Result<(), Failure> {
    let compared = |file: &FileId| match file {
        FileId::Grid | FileId::Segment { .. } => true,
        // Seals of requests, keys and views are a replica's own; indexes can be rebuilt.
        FileId::Superblock
        | FileId::Journal
        | FileId::Keys
        | FileId::Index { .. }
        | FileId::Scratch => false,
    };
    let files: Vec<FileId> = one.disk.files().filter(compared).collect();
    let others: Vec<FileId> = two.disk.files().filter(compared).collect();
    if files != others {
        let detail = format!("files {files:?} and {others:?}");
        return Err(Failure::new(FailureKind::Twin, detail));
    }
    for file in files {
        let sectors = one.disk.sectors(file).max(two.disk.sectors(file));
        for sector in 0..sectors {
            let id = (file, sector);
            if one.disk.newest(id) != two.disk.newest(id) {
                let detail = format!("{file:?} differs at sector {sector} of {sectors}");
                return Err(Failure::new(FailureKind::Twin, detail));
            }
        }
    }
    Ok(())
}
