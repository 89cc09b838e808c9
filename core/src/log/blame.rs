//! What is to blame for a record that is not where it should be: the index, or the segment.
//!
//! Invariants: an index is made anew before its segment is called damaged by what was read through
//! it; a segment that was gone through once is not gone through again for that. Where there are
//! peers a damaged segment is repaired (`mend`), which makes the index anew, too.

use super::damage::{Damage, DamageReason};
use super::read::{LogFault, Place};
use super::{LogHead, Logs};
use crate::event::Event;

impl Logs {
    /// Asks for a rebuild of the index, once: if that failed, the segment itself is damaged.
    pub(super) fn distrust_index(
        &self,
        at: &Place,
        head: &LogHead,
        reason: DamageReason,
    ) -> LogFault {
        let key = (at.tenant, at.segment);
        if let Some(damage) = self.unbuildable.get(&key) {
            return LogFault::Damaged(damage.clone().into());
        }
        if self.rebuilt.contains(&key) && reason == DamageReason::Hash && at.offset > 0 {
            return self.damaged(at, head, reason);
        }
        self.misses.borrow_mut().rebuilds.insert(key, head.clone());
        LogFault::Missing
    }

    /// What is read is not what was written: the segment is repaired, where there are peers.
    pub(super) fn damaged(&self, at: &Place, head: &LogHead, reason: DamageReason) -> LogFault {
        let Place { tenant, segment, offset, position } = *at;
        let key = (tenant, segment);
        let mut misses = self.misses.borrow_mut();
        let (alone, found) = (!self.repairs_are_possible(), self.unbuildable.get(&key));
        if alone && found.is_none() && !self.rebuilt.contains(&key) {
            // An index that is whole, but of another history, leads to the wrong place: the segment
            // is gone through before it is blamed.
            misses.rebuilds.insert(key, head.clone());
            misses.suspects.insert(key);
            return LogFault::Missing;
        }
        // What was found when the segment was gone through was told then.
        let told = alone && found.is_some_and(|found| found.offset == offset);
        if !told {
            misses.events.push(Event::BlockCorrupt { tenant, number: segment.get(), offset });
        }
        if self.may_mend(tenant, segment) {
            misses.rebuilds.insert(key, head.clone());
            misses.mends.insert(key);
            return LogFault::Missing;
        }
        let damage = Damage { tenant, segment, offset, position, reason, checkpointed: true };
        LogFault::Damaged(damage.into())
    }
}
