//! Installing the log of a view: join it to our own, erase what it excludes, fetch what is missing.
//!
//! The same for a primary that chose the log and for a backup that was told of it. Steps: *link*
//! (downward by checksums, until our own journal has the op), *merge* (headers into holes, erase
//! from the first conflict on), *append* (fetched prepares, in op order), *done* (all ops above the
//! commit durable): then the log view may become the view.

use alloc::collections::BTreeMap;

use super::{Phase, Replica};
use crate::crypto::hash::InternalHash;
use crate::event::Event;
use crate::ids::{Op, View};
use crate::io::Effects;
use crate::journal::PrepareHeader;
use crate::superblock::PeerEvidence;
use crate::time::Clock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Link,
    Merge,
    Append,
}

#[derive(Debug)]
pub(super) struct Install {
    pub head: Op,
    pub commit: Op,
    step: Step,
    /// Linked so far: from `low` to the head by checksums; below `low` comes `expect`.
    low: Op,
    expect: InternalHash,
    pub wanted: BTreeMap<Op, PrepareHeader>,
    /// Headers that were sent, by op and checksum, not linked yet.
    sent: BTreeMap<(Op, InternalHash), PrepareHeader>,
}

impl Install {
    pub fn new(
        head: Op,
        head_checksum: InternalHash,
        commit: Op,
        headers: impl Iterator<Item = PrepareHeader>,
    ) -> Install {
        Install {
            head,
            commit,
            step: Step::Link,
            low: head.next(),
            expect: head_checksum,
            wanted: BTreeMap::new(),
            sent: headers.map(|header| ((header.op, header.checksum), header)).collect(),
        }
    }

    /// The header that is needed next: op and checksum.
    pub fn header_wanted(&self) -> Option<(Op, InternalHash)> {
        let below = self.low.previous()?;
        (self.step == Step::Link).then_some((below, self.expect))
    }

    pub fn take_headers(&mut self, headers: impl Iterator<Item = PrepareHeader>) {
        for header in headers {
            if header.op < self.low && self.sent.len() < crate::limits::VSR_HEADERS_HELD_MAX {
                self.sent.insert((header.op, header.checksum), header);
            }
        }
    }

    pub fn is_appending(&self) -> bool {
        self.step == Step::Append
    }
}

impl Replica {
    pub(super) fn install_step(&mut self, now: Clock, effects: &mut Effects) {
        // Rule 8: nothing of a view before the superblock holds it.
        if self.phase != Phase::ViewChange || self.durable_view != self.view {
            return;
        }
        let Some(mut install) = self.install.take() else { return };
        if install.step == Step::Link && self.link(&mut install) {
            install.step = Step::Merge;
        }
        if install.step == Step::Merge && self.journal().writes_idle() {
            let keep = self.kept(&install);
            if self.erasure_on_record(keep) {
                self.erasure_wanted = None;
                self.merge(&install, keep, effects);
                self.installed = true;
                install.step = Step::Append;
            } else {
                self.erasure_wanted = Some(PeerEvidence { log_view: self.log_view, op: keep });
            }
        }
        let appending = install.step == Step::Append && !self.journal().erasing();
        self.install = Some(install);
        if !appending {
            return;
        }
        self.append_ready(effects);
        self.raise_floor();
        if !self.install_durable() {
            return;
        }
        if !self.certain {
            if self.journal().tail_is_damaged() {
                self.journal_mut().erase_damaged_tail(effects);
                return;
            }
            // Certain when the superblock says whose log this is: under the log view of before, an
            // op of a view between would be preferred to what is named here.
            self.whole_in = Some(self.view);
            self.heal();
        }
        if self.log_view == self.view {
            self.enter_normal(now, effects);
        }
    }

    /// Joins the chosen log downward to our own journal. True: it is joined, at an op whose header
    /// is known wherever our own log is to be cut there. A hole is named only by the op above it:
    /// were that erased and the hole with it, an acknowledged op would be nacked; so its header
    /// comes first.
    fn link(&self, install: &mut Install) -> bool {
        loop {
            let Some(below) = install.low.previous() else { return true };
            let journal = self.journal();
            if let Some(own) = journal.checksum(below) {
                if own == install.expect {
                    let known = journal.header(below).is_some()
                        || below <= journal.checkpoint_op()
                        || self.kept(install) > below;
                    #[cfg(test)]
                    let known = known || self.has_bug(super::tests::Bug::JoinsAtAHole);
                    if known {
                        return true;
                    }
                } else {
                    assert!(
                        below > self.floor,
                        "the log of view {} contradicts op {below}, which is committed here",
                        self.view
                    );
                }
            }
            let Some(header) = install.sent.remove(&(below, install.expect)) else {
                return false;
            };
            install.wanted.insert(below, header);
            (install.low, install.expect) = (below, header.parent);
        }
    }

    /// Our own log as far as it is that of the view: what conflicts with it, or lies beyond it, is
    /// to be erased.
    fn kept(&self, install: &Install) -> Op {
        let journal = self.journal();
        let mut keep = journal.head_op();
        let conflict = install.wanted.iter().find(|&(&op, header)| {
            op <= keep && journal.checksum(op).is_some_and(|own| own != header.checksum)
        });
        if let Some((op, _)) = conflict {
            let Some(below) = op.previous() else { unreachable!("op 0 is never sent") };
            keep = below;
        }
        // Rule 5: with log view = view, what lies beyond the head is of that very log.
        if self.log_view != self.view {
            keep = keep.min(install.head);
        }
        #[cfg(test)]
        if self.has_bug(super::tests::Bug::OldStartViewTruncates) {
            keep = keep.min(install.head);
        }
        keep
    }

    /// Rule 5: whether ops above `keep` may be erased. The superblock says first that nothing above
    /// it counts of what was acknowledged in our log view: a crash in the erasure, or between it
    /// and the new log view, must not look like an older disk.
    fn erasure_on_record(&self, keep: Op) -> bool {
        let nothing = keep >= self.journal().head_op();
        let record = self.durable_peers[usize::from(self.me.get())];
        let recorded = record.log_view == self.log_view && record.op <= keep;
        #[cfg(test)]
        let recorded = recorded
            || self.has_bug(super::tests::Bug::ErasesUnrecorded)
            || self.has_bug(super::tests::Bug::OldStartViewTruncates);
        nothing || recorded
    }

    /// Whether our disk, whose log ends at `head`, is excused from holding what was acknowledged in
    /// `log_view`: it was erased on purpose, to no less than this.
    pub(super) fn erasure_explains(&self, log_view: View, head: Op) -> bool {
        let record = self.durable_peers[usize::from(self.me.get())];
        record.log_view == log_view && log_view == self.log_view && record.op <= head
    }

    /// What the superblock must say of this replica when it takes a checkpoint from a peer: where
    /// its own log was another one, what it acknowledged above is excluded.
    #[must_use]
    pub fn erasure_by_sync(&self, op: Op, checksum: InternalHash) -> PeerEvidence {
        let own = self.durable_peers[usize::from(self.me.get())];
        match self.journal().checksum(op) {
            Some(known) if known != checksum => PeerEvidence { log_view: self.log_view, op },
            Some(_) | None => own,
        }
    }

    /// Headers into holes; erases what is not kept.
    fn merge(&mut self, install: &Install, keep: Op, effects: &mut Effects) {
        for header in install.wanted.values().take_while(|header| header.op <= keep) {
            self.journal_mut().set_header(header);
        }
        if keep < self.journal().head_op() {
            assert!(keep >= self.commit, "nothing committed is erased");
            #[cfg(test)]
            let planted = self.has_bug(super::tests::Bug::OldStartViewTruncates);
            #[cfg(not(test))]
            let planted = false;
            assert!(planted || self.log_view < self.view, "acknowledged in this very view");
            assert!(
                self.journal().header(keep).is_some() || keep == self.journal().checkpoint_op(),
                "what names a hole is not erased before its header is known"
            );
            effects.event(Event::LogTruncated { op: keep });
            self.ready.retain(|&op, _| op <= keep);
            self.journal_mut().truncate(keep, effects);
        }
    }

    /// Nothing is being written any more, and all ops above the commit are durable here.
    fn install_durable(&self) -> bool {
        let Some(install) = &self.install else { return false };
        let journal = self.journal();
        install.step == Step::Append
            && !journal.erasing()
            && journal.written_to() >= install.head
            && journal.whole_to(install.commit.max(journal.checkpoint_op())) >= install.head
    }

    /// The log view may become the view.
    pub(super) fn install_complete(&self) -> bool {
        let healed = self.certain || self.whole_in == Some(self.view);
        let complete = self.phase == Phase::ViewChange && healed && self.install_durable();
        #[cfg(test)]
        if self.has_bug(super::tests::Bug::LogViewBeforeLog) {
            return self.phase == Phase::ViewChange && self.install.is_some();
        }
        complete
    }

    /// A log that is whole here, of a log view that is durable, names all that we acknowledged.
    pub(super) fn heal(&mut self) {
        let whole = self.whole_in == Some(self.log_view);
        #[cfg(test)]
        let whole = whole || self.has_bug(super::tests::Bug::HealsEarly) && self.whole_in.is_some();
        self.certain |= whole;
    }

    /// Our own log is the right one as far as it goes: what is committed in it is known to be.
    pub(super) fn raise_floor(&mut self) {
        let known = self.commit_max.min(self.journal().head_op());
        self.floor = self.floor.max(known);
    }
}
