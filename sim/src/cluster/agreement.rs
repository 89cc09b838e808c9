//! What all nodes must have in common at the end: the view, the ops, the pages of a checkpoint, the
//! logs.

use std::collections::BTreeMap;

use verity_core::ids::{Op, SegmentNumber};
use verity_core::io::FileId;
use verity_core::kernel::RebuildReport;

use super::members::Member;
use super::{Cluster, Grids};
use crate::disk::{DiskFaults, Sector};
use crate::rebuild;
use crate::report::{Failure, FailureKind};

impl Cluster {
    /// All nodes follow one view, have applied the same ops and written the same checkpoint.
    pub(super) fn converged(&self) -> bool {
        self.have_converged(None)
    }

    /// All nodes but this one.
    pub(super) fn converged_without(&self, who: usize) -> bool {
        self.have_converged(Some(who))
    }

    fn have_converged(&self, but: Option<usize>) -> bool {
        let place = |member: &Member| {
            let status = member.node.as_ref()?.status()?;
            let replica = status.replica_status?;
            let written = status.checkpoint == status.checkpoint_begun;
            let settled = status.op == status.applied && replica.certain && written;
            settled.then_some((status.view, status.applied, status.checkpoint))
        };
        let members = self.members.iter().enumerate().filter(|(index, _)| Some(*index) != but);
        let places: Vec<_> = members.map(|(_, member)| place(member)).collect();
        let primaries = self.members.iter().filter(|member| member.is_primary()).count();
        primaries == 1 && places[0].is_some() && places.iter().all(|other| *other == places[0])
    }

    /// The same checkpoint is the same pages everywhere, byte by byte. What no page names is of no
    /// account: a node that fetched its checkpoint never wrote it. Of a node whose disk rots, a
    /// damaged page that nobody has read may still be there.
    pub(super) fn compare_grids(&mut self) -> Result<Grids, Failure> {
        let mut grids = Grids::new();
        let rots = |index: &usize| self.rotten.contains(index);
        let (last, first): (Vec<usize>, Vec<usize>) = (0..self.members.len()).partition(rots);
        for index in first.into_iter().chain(last) {
            let member = &self.members[index];
            let Some(checkpoint) = &member.checkpoint else { continue };
            let disk = member.disk.fork(self.random.stream("grid"), DiskFaults::NONE);
            let Some((other, known)) = grids.get(&checkpoint.op) else {
                let grid = rebuild::pages_of(disk, self.master.clone());
                match grid {
                    Ok(grid) => drop(grids.insert(checkpoint.op, (index, grid))),
                    Err(_) if self.rotten.contains(&index) => {}
                    Err(text) => {
                        let detail = format!("the grid of node {index}: {text}");
                        return Err(Failure::new(FailureKind::Twin, detail));
                    }
                }
                continue;
            };
            let differs = known.iter().find(|(number, page)| {
                let here = disk.newest((FileId::Grid, u64::from(**number)));
                here.is_none_or(|here| here[..] != page.0)
                    && !self.damaged.contains(&(index, **number))
            });
            if let Some((page, _)) = differs {
                let detail = format!(
                    "the grids of nodes {other} and {index} differ in page {page} after the \
                     checkpoint of op {}",
                    checkpoint.op
                );
                return Err(Failure::new(FailureKind::Twin, detail));
            }
        }
        Ok(grids)
    }

    /// Segments that others follow are the same bytes everywhere. (The last one of a log goes on,
    /// and what of it is in a checkpoint [`Cluster::compare_logs`] verifies to the last byte.)
    pub(super) fn compare_segments(&self) -> Result<(), Failure> {
        let mut known: BTreeMap<FileId, (usize, BTreeMap<u64, Sector>)> = BTreeMap::new();
        for (index, member) in self.members.iter().enumerate() {
            for file in member.disk.files() {
                let FileId::Segment { tenant, number } = file else { continue };
                let next = SegmentNumber::new(number.get() + 1);
                if !member.disk.exists(FileId::Segment { tenant, number: next }) {
                    continue;
                }
                let here: BTreeMap<u64, Sector> = member.disk.sectors_of(file).collect();
                let (other, there) = known.entry(file).or_insert_with(|| (index, here.clone()));
                let blocks = here.keys().chain(there.keys());
                if let Some(block) = blocks.copied().find(|at| here.get(at) != there.get(at)) {
                    let detail = format!(
                        "nodes {other} and {index} differ in block {block} of segment {number} of \
                         tenant {tenant}"
                    );
                    return Err(Failure::new(FailureKind::Twin, detail));
                }
            }
        }
        Ok(())
    }

    /// Every node's log, chain, tree and all, gives the state that its checkpoint holds, and it is
    /// the same log everywhere.
    pub(super) fn compare_logs(&mut self, grids: &Grids) -> Result<(), Failure> {
        let mut first: Option<RebuildReport> = None;
        for (index, member) in self.members.iter().enumerate() {
            if member.checkpoint.is_none_or(|checkpoint| checkpoint.op == Op::ZERO) {
                continue;
            }
            let mut disk = member.disk.fork(self.random.stream("copy"), DiskFaults::NONE);
            // Pages that nobody has read are not repaired.
            let known = member.checkpoint.and_then(|checkpoint| grids.get(&checkpoint.op));
            for (_, number) in self.damaged.range((index, 0)..=(index, u32::MAX)) {
                if let Some(page) = known.and_then(|(_, grid)| grid.get(number)) {
                    disk.put((FileId::Grid, u64::from(*number)), page.0.into());
                }
            }
            let report = rebuild::check(disk, self.master.clone()).map_err(|text| {
                Failure::new(FailureKind::Rebuild, format!("node {index}: {text}"))
            })?;
            self.seen.rebuilds += 1;
            match &first {
                None => first = Some(report),
                Some(known) if *known == report => {}
                Some(known) => {
                    let detail = format!("node {index} has another log: {report:?}, not {known:?}");
                    return Err(Failure::new(FailureKind::Twin, detail));
                }
            }
        }
        Ok(())
    }
}
