//! What all nodes must have in common at the end: the view, the ops, the pages of a checkpoint, the
//! logs.

use std::sync::Arc;

use verity_core::ids::{Op, SegmentNumber, TenantId};
use verity_core::io::FileId;
use verity_core::kernel::RebuildReport;
use verity_core::limits::PAGE_SIZE;
use verity_core::log::{
    Damage, HEADER_SIZE, RecordView, SegmentExtent, SegmentStart, SegmentVerifier,
};
use verity_core::node::ScrubStatus;

use super::members::Member;
use super::{Cluster, Grids};
use crate::disk::{Disk, DiskFaults};
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
            let settled = status.op == status.applied && replica.certain && written && status.reads;
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

    /// Where in the log of prepares the newest checkpoint of all ends.
    pub(super) fn checkpoints_end(&self) -> u64 {
        let checkpoints = self.members.iter().filter_map(|member| member.checkpoint);
        checkpoints.map(|checkpoint| checkpoint.journal_offset).max().unwrap_or(0)
    }

    pub(super) fn call_back(&mut self) {
        if let Some(who) = self.away.take() {
            self.members[who].boot_at_ns = Some(self.now_ns + 1);
            let note = format!("node {who} is called back");
            self.recorder.at(self.now_ns, |timeline| timeline.note(note));
        }
    }

    pub(super) fn describe(&self) -> String {
        let mut text = format!("seed {} at {} ms\n", self.seed, self.now_ns / 1_000_000);
        for (index, member) in self.members.iter().enumerate() {
            let status = member.node.as_ref().map(|node| (node.status(), node.halted()));
            text.push_str(&format!("  {index}: {status:?}\n"));
        }
        for pending in self.pending.values().take(3) {
            text.push_str(&format!("  waits: {}\n", pending.describe()));
        }
        text
    }

    /// Everybody has read all of its logs, and found no damage any more. (What nobody could help
    /// with a moment ago is given up for some seconds, many tours of logs as short as these.)
    pub(super) fn scrub(&mut self) -> Result<(), Failure> {
        let scrubbed = |cluster: &Cluster| -> Vec<ScrubStatus> {
            let of = |member: &Member| Some(member.node.as_ref()?.status()?.scrub);
            cluster.members.iter().map(|member| of(member).unwrap_or_default()).collect()
        };
        for _ in 0..SCRUBS_MAX {
            let begun = scrubbed(self);
            // The tour under way may have begun before.
            let ended = |cluster: &Cluster| {
                let ended = |(then, now): (&ScrubStatus, ScrubStatus)| now.tours >= then.tours + 2;
                begun.iter().zip(scrubbed(cluster)).all(ended)
            };
            // With a cold cache each step waits for pages: of a long log a tour takes minutes, and
            // goes on.
            while !ended(self) {
                let before = scrubbed(self);
                self.drive(|cluster| {
                    let goes_on =
                        |(then, now): (&ScrubStatus, ScrubStatus)| now.blocks > then.blocks;
                    let unfinished = begun.iter().zip(&before).zip(scrubbed(cluster));
                    let mut late =
                        unfinished.filter(|((begun, then), _)| then.tours < begun.tours + 2);
                    ended(cluster) || late.all(|((_, then), now)| goes_on((then, now)))
                })?;
            }
            let found = |(then, now): (&ScrubStatus, ScrubStatus)| now.damaged > then.damaged;
            if !begun.iter().zip(scrubbed(self)).any(found) {
                return Ok(());
            }
        }
        Err(Failure::new(FailureKind::Stuck, "scrubbing finds damage again and again"))
    }

    /// What the checkpoint covers of the segments verifies to its last byte, and is the same bytes
    /// everywhere.
    pub(super) fn compare_segments(&self) -> Result<(), Failure> {
        let failed = |detail| Err(Failure::new(FailureKind::Twin, detail));
        let first = [TenantId::SYSTEM, TenantId::DEFAULT];
        for tenant in first.into_iter().chain(self.tenants.all()) {
            let mut known: Option<(usize, Vec<u8>, Option<Damage>)> = None;
            for (index, member) in self.members.iter().enumerate() {
                let Some(checkpoint) = member.checkpoint else { continue };
                let (here, blocks, fault) = covered(&member.disk, tenant, checkpoint.op);
                for (file, blocks) in blocks {
                    if let Some(block) = member.disk.unreadable(file).find(|&at| at < blocks) {
                        return failed(format!(
                            "node {index} has scrubbed, and block {block} of {file:?} cannot be \
                             read"
                        ));
                    }
                }
                let Some((other, there, other_fault)) = &known else {
                    known = Some((index, here, fault));
                    continue;
                };
                if here == *there {
                    continue;
                }
                let blocks = here.chunks(PAGE_SIZE).zip(there.chunks(PAGE_SIZE));
                let block = blocks.take_while(|(here, there)| here == there).count();
                return failed(format!(
                    "the logs of tenant {tenant} on nodes {other} and {index} differ in block \
                     {block} of all, of {} and {}; node {other}: {other_fault:?}; node {index}: \
                     {fault:?}",
                    there.len() / PAGE_SIZE,
                    here.len() / PAGE_SIZE
                ));
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
            // A repair that a kill cut short may be in the machine's memory alone: a power cut
            // would bring the damage back, to be repaired again.
            for id in self.copies.lost_of(index) {
                if let Some(sector) = member.disk.newest(id) {
                    disk.put(id, Arc::clone(sector));
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

/// Pairs of tours after which no damage may be found any more.
const SCRUBS_MAX: u64 = 100;

/// Every record of a log on a disk, as far as it verifies.
pub(super) fn each_record(disk: &Disk, tenant: TenantId, mut each: impl FnMut(&RecordView<'_>)) {
    let mut before = None;
    for number in 0.. {
        let number = SegmentNumber::new(number);
        let file = FileId::Segment { tenant, number };
        if !disk.exists(file) {
            return;
        }
        let start = SegmentStart { tenant, number, before };
        let mut verifier = SegmentVerifier::new(start, SegmentExtent::Unknown);
        let pushed = verifier.push(&disk.contents(file), |view| {
            each(view);
            Ok(())
        });
        let Ok(last) = pushed.and_then(|()| verifier.finish()) else { return };
        before = Some(last);
    }
}

/// The blocks of a log that hold what ops up to this one wrote, as far as they verify, how many of
/// each file, and why not further.
fn covered(disk: &Disk, tenant: TenantId, op: Op) -> (Vec<u8>, Vec<(FileId, u64)>, Option<Damage>) {
    let (mut blocks, mut ends) = (Vec::new(), Vec::new());
    let mut before = None;
    for number in 0.. {
        let number = SegmentNumber::new(number);
        let file = FileId::Segment { tenant, number };
        if !disk.exists(file) {
            break;
        }
        let bytes = disk.contents(file);
        let start = SegmentStart { tenant, number, before };
        let mut verifier = SegmentVerifier::new(start, SegmentExtent::Unknown);
        let mut end = 0;
        let pushed = verifier.push(&bytes, |view| {
            if view.record.metadata.op <= op {
                let size = HEADER_SIZE + view.record.data.len();
                end = view.offset as usize + size;
            }
            Ok(())
        });
        let end = end.next_multiple_of(PAGE_SIZE).min(bytes.len());
        blocks.extend_from_slice(&bytes[..end]);
        ends.push((file, (end / PAGE_SIZE) as u64));
        match pushed.and_then(|()| verifier.finish()) {
            Ok(last) => before = Some(last),
            Err(damage) => return (blocks, ends, Some(damage)),
        }
    }
    (blocks, ends, None)
}
