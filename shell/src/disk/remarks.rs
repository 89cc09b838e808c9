//! What the core remarks on, as lines of the log.
//!
//! Invariants: what an operator may have to act on is a warning, in words that name the file and
//! say what becomes of it; the rest is detail, for who asks for it with `--log`, as the core has
//! it.

use verity_core::event::Event;

pub fn trace(event: &Event) {
    if let Some(words) = warning(event) {
        return tracing::warn!("{words}");
    }
    match event {
        Event::RecoveryRecorded { .. }
        | Event::ViewStarted { .. }
        | Event::TenantCreated { .. }
        | Event::KeyMinted { .. }
        | Event::KeyKept { .. }
        | Event::ReplayStarted { .. }
        | Event::ReplayFinished { .. }
        | Event::SegmentRotated { .. }
        | Event::SyncStarted { .. }
        | Event::SyncGivenUp { .. }
        | Event::SyncFinished { .. }
        | Event::ShutdownComplete => tracing::info!("{event:?}"),
        Event::CheckpointStarted { .. } | Event::CheckpointDurable { .. } | Event::Halted => {
            tracing::debug!("{event:?}");
        }
        other => tracing::trace!("{other:?}"),
    }
}

/// None: nobody need act on it.
fn warning(event: &Event) -> Option<String> {
    Some(match event {
        Event::JournalTornTail { op } => format!(
            "the header slot or the prepare of op {op}, behind all others of the journal, does \
             not verify; what there may be of it is dropped: it was being written when the process \
             or the machine stopped, and was never acknowledged; or it is damaged since; or there \
             never was such an op, and only the slot is damaged"
        ),
        Event::SuperblockCopyBad { copy } => format!(
            "copy {copy} of the superblock is damaged, or the device does not give it; it is \
             written again from a good one"
        ),
        Event::IndexRebuilt { tenant, number } => format!(
            "log/{tenant}/{number:08}.index is damaged, missing or of another log; it is made anew \
             from its segment, nothing is lost"
        ),
        Event::JournalRottenPrepare { op } => {
            format!("journal: the prepare of op {op}, which was acknowledged, is damaged")
        }
        Event::JournalPageUnreadable { offset } => {
            format!("journal: the device does not give the page at byte {offset}")
        }
        Event::KeysAwaited { tenant } => format!(
            "keys: the keys of tenant {tenant} are not here; the other replicas are asked, and \
             nothing is applied until one of them gives them"
        ),
        Event::PageCorrupt { page } => format!("grid: page {page} is damaged"),
        Event::BlockCorrupt { tenant, number, offset } => {
            format!("log/{tenant}/{number:08}.segment is damaged at byte {offset}")
        }
        Event::BlocksUnreadable { tenant, number, blocks } => format!(
            "log/{tenant}/{number:08}: the device does not give {blocks} block(s) of the segment \
             or of its index; they count as damaged, and are repaired"
        ),
        Event::SegmentBlocksRepaired { tenant, number, block, count } => format!(
            "log/{tenant}/{number:08}.segment: {count} block(s) from block {block} on are repaired \
             with those of a peer"
        ),
        Event::SegmentRepairFailed { tenant, number, block } => format!(
            "log/{tenant}/{number:08}.segment: no peer could give block {block}; it is tried again \
             later"
        ),
        Event::ReplicaUncertain { op } => format!(
            "this disk, whose last op is {op}, may lack what this replica had told the others: it \
             counts for nothing among them until it has their log"
        ),
        _no_warning => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use verity_core::ids::{Op, TenantId};

    #[test]
    fn warnings_are_sentences() {
        let tenant = TenantId::new(3);
        let warnings = [
            Event::JournalTornTail { op: Op::new(7) },
            Event::SuperblockCopyBad { copy: 2 },
            Event::IndexRebuilt { tenant, number: 4 },
            Event::JournalRottenPrepare { op: Op::new(7) },
            Event::JournalPageUnreadable { offset: 4096 },
            Event::KeysAwaited { tenant },
            Event::PageCorrupt { page: 9 },
            Event::BlockCorrupt { tenant, number: 4, offset: 8192 },
            Event::BlocksUnreadable { tenant, number: 4, blocks: 3 },
            Event::SegmentBlocksRepaired { tenant, number: 4, block: 2, count: 1 },
            Event::SegmentRepairFailed { tenant, number: 4, block: 2 },
        ];
        for event in warnings {
            let words = warning(&event).unwrap();
            assert!(!words.contains(['{', '}', '(']) || words.contains("block(s)"), "{words}");
            assert!(!words.contains(event.name()), "{words}");
        }
        assert_eq!(warning(&Event::ShutdownComplete), None);
    }
}
