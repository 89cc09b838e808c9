//! What a person wants to see of a run: who lived when, who led, what went between them, what went
//! wrong.
//!
//! Purpose: the material of a page with a lane for each node. Invariants: recording draws nothing
//! and changes nothing, so that the run is the one that was asked for; of each kind the last
//! so-many are kept, for a failure is at the end, and what was dropped is counted.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use verity_core::event::Event;
use verity_core::node::Status;
use verity_core::vsr::replica::Phase;

/// Of each kind of entry; of what is rare, more than any run has. About 60 bytes of a page each.
const ENTRIES_MAX: usize = 20_000;
const TEXT_MAX: usize = 240;
/// Marks of the core that come with every request or page, or that are shown in another way.
const OFTEN: [&str; 16] = [
    "PrepareProposed",
    "Committed",
    "TransactionApplied",
    "TransactionRefused",
    "PageFault",
    "PageSplit",
    "PageMerged",
    "OverflowWritten",
    "ApplyStalled",
    "ApplyPaused",
    "ReadStalled",
    "RowsFound",
    "CheckpointRecord",
    "SyncPageFetched",
    "SuperblockUpdated",
    "CheckpointDurable",
];

/// The last entries, and how many came before them.
#[derive(Clone, Debug)]
pub struct Last<T> {
    entries: VecDeque<T>,
    pub dropped: u64,
}

impl<T> Default for Last<T> {
    fn default() -> Last<T> {
        Last { entries: VecDeque::new(), dropped: 0 }
    }
}

impl<T> Last<T> {
    fn push(&mut self, entry: T) {
        if self.entries.len() == ENTRIES_MAX {
            self.entries.pop_front();
            self.dropped += 1;
        }
        self.entries.push_back(entry);
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Something that happened on a lane.
#[derive(Clone, Debug)]
pub struct Mark {
    pub at_ns: u64,
    pub lane: usize,
    /// `boot`, the name of a fault, the name of a mark of the core.
    pub name: &'static str,
    pub text: String,
}

/// What a node is, from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub role: Role,
    pub view: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Down,
    /// It reads what its disk has.
    Opening,
    Primary,
    Backup,
    ViewChange,
    /// It fetches a peer's checkpoint.
    Syncing,
}

impl Role {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Down => "down",
            Role::Opening => "opening",
            Role::Primary => "primary",
            Role::Backup => "backup",
            Role::ViewChange => "view change",
            Role::Syncing => "syncing",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Delivered,
    /// Delivered with a bit flipped.
    Damaged,
    /// Never left, because of a cut or for nothing.
    Lost,
    /// Cut off on its way.
    Cut,
    /// Nobody was there.
    Nobody,
    /// The run ended first.
    UnderWay,
}

impl Fate {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fate::Delivered => "delivered",
            Fate::Damaged => "damaged",
            Fate::Lost => "lost",
            Fate::Cut => "cut off",
            Fate::Nobody => "nobody there",
            Fate::UnderWay => "under way",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Frame {
    pub from: usize,
    pub to: usize,
    pub sent_ns: u64,
    pub end_ns: u64,
    pub kind: String,
    pub fate: Fate,
}

/// A client's request, from its first sending to its last word.
#[derive(Clone, Debug)]
pub struct Asked {
    pub from_ns: u64,
    pub end_ns: u64,
    /// Row of the clients' lane.
    pub row: usize,
    /// Who gave the last word.
    pub lane: Option<usize>,
    pub answered: bool,
    pub text: String,
}

/// A stretch of time between two lanes, or of one.
#[derive(Clone, Debug)]
pub struct Span {
    pub from_ns: u64,
    pub end_ns: u64,
    pub lane: usize,
    pub to: Option<usize>,
}

#[derive(Clone, Debug, Default)]
pub struct Timeline {
    pub lanes: Vec<String>,
    pub end_ns: u64,
    /// Births and deaths.
    pub life: Last<Mark>,
    pub standings: Last<(u64, usize, Standing)>,
    /// Time, lane, op that is applied.
    pub applied: Last<(u64, usize, u64)>,
    pub checkpoints: Last<(u64, usize, u64)>,
    pub faults: Last<Mark>,
    pub events: Last<Mark>,
    pub frames: Last<Frame>,
    pub requests: Last<Asked>,
    pub cuts: Last<Span>,
    pub isolations: Last<Span>,
    pub notes: Last<(u64, String)>,
    now_ns: u64,
    places: BTreeMap<usize, (Standing, u64, u64)>,
    disks: BTreeMap<usize, BTreeMap<&'static str, u64>>,
    /// By number of the packet.
    under_way: BTreeMap<u64, Frame>,
    open_cuts: BTreeMap<(usize, usize), u64>,
    open_isolations: BTreeMap<usize, u64>,
    open_requests: BTreeMap<u64, (u64, usize)>,
}

/// Who records; without a timeline it does nothing.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Option<Rc<RefCell<Timeline>>>);

impl Recorder {
    pub const OFF: Recorder = Recorder(None);

    #[must_use]
    pub fn new(on: bool) -> Recorder {
        Recorder(on.then(Rc::default))
    }

    /// What was recorded so far, with all that is open ended now.
    #[must_use]
    pub fn so_far(&self) -> Option<Timeline> {
        let timeline = self.0.as_ref()?.try_borrow().ok()?;
        let mut timeline = timeline.clone();
        timeline.end();
        Some(timeline)
    }

    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Records at this time. The closure must call nothing that may panic.
    pub fn at(&self, now_ns: u64, record: impl FnOnce(&mut Timeline)) {
        if let Some(timeline) = &self.0 {
            let mut timeline = timeline.borrow_mut();
            timeline.now_ns = timeline.now_ns.max(now_ns);
            record(&mut timeline);
        }
    }
}

impl Timeline {
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push((self.now_ns, shortened(text.into())));
    }

    pub fn life(&mut self, lane: usize, name: &'static str, text: impl Into<String>) {
        let text = shortened(text.into());
        self.life.push(Mark { at_ns: self.now_ns, lane, name, text });
        let role = if name == "boot" { Role::Opening } else { Role::Down };
        self.standing(lane, Standing { role, view: 0 });
    }

    pub fn fault(&mut self, lane: usize, name: &'static str, text: impl Into<String>) {
        let text = shortened(text.into());
        self.faults.push(Mark { at_ns: self.now_ns, lane, name, text });
    }

    /// Faults that a disk has counted: what is new among them happened now.
    pub fn disk_faults(&mut self, lane: usize, counted: &BTreeMap<&'static str, u64>) {
        let known = self.disks.entry(lane).or_default();
        if known == counted {
            return;
        }
        let before = std::mem::replace(known, counted.clone());
        for (name, count) in counted {
            let more = count - before.get(name).copied().unwrap_or(0).min(*count);
            match more {
                0 => {}
                1 => self.fault(lane, name, ""),
                _ => self.fault(lane, name, format!("{more} times")),
            }
        }
    }

    /// Marks of the core that are rare enough to be looked at one by one.
    pub fn event(&mut self, lane: usize, event: &Event) {
        let name = event.name();
        if !OFTEN.contains(&name) {
            let text = shortened(format!("{event:?}"));
            self.events.push(Mark { at_ns: self.now_ns, lane, name, text });
        }
    }

    /// What a node says of itself after a step.
    pub fn status(&mut self, lane: usize, status: Option<&Status>, leads: bool) {
        let Some(status) = status else {
            return self.standing(lane, Standing { role: Role::Opening, view: 0 });
        };
        let changes = status.replica_status.as_ref().is_some_and(|replica| {
            replica.view != replica.log_view || replica.phase != Phase::Normal
        });
        let role = if status.syncing.is_some() {
            Role::Syncing
        } else if leads {
            Role::Primary
        } else if changes {
            Role::ViewChange
        } else if status.replica_status.is_some() {
            Role::Backup
        } else {
            Role::Opening
        };
        self.standing(lane, Standing { role, view: status.view.get() });
        let now_ns = self.now_ns;
        let Some((_, applied, checkpoint)) = self.places.get_mut(&lane) else { return };
        if *applied != status.applied.get() {
            *applied = status.applied.get();
            self.applied.push((now_ns, lane, *applied));
        }
        if *checkpoint != status.checkpoint.get() {
            *checkpoint = status.checkpoint.get();
            self.checkpoints.push((now_ns, lane, *checkpoint));
        }
    }

    fn standing(&mut self, lane: usize, standing: Standing) {
        let first = (Standing { role: Role::Down, view: 0 }, 0, 0);
        let place = self.places.entry(lane).or_insert(first);
        if place.0 != standing {
            place.0 = standing.clone();
            self.standings.push((self.now_ns, lane, standing));
        }
    }

    pub fn lost(&mut self, from: usize, to: usize, kind: String) {
        let (sent_ns, end_ns) = (self.now_ns, self.now_ns);
        self.frames.push(Frame { from, to, sent_ns, end_ns, kind, fate: Fate::Lost });
    }

    /// A packet with this number is on its way.
    pub fn sent(&mut self, packet: u64, from: usize, to: usize, kind: String, damaged: bool) {
        let fate = if damaged { Fate::Damaged } else { Fate::Delivered };
        let (sent_ns, end_ns) = (self.now_ns, self.now_ns);
        self.under_way.insert(packet, Frame { from, to, sent_ns, end_ns, kind, fate });
    }

    pub fn arrived(&mut self, packet: u64, cut: bool, up: bool) {
        let Some(mut frame) = self.under_way.remove(&packet) else { return };
        frame.end_ns = self.now_ns;
        if cut {
            frame.fate = Fate::Cut;
        } else if !up {
            frame.fate = Fate::Nobody;
        }
        self.frames.push(frame);
    }

    /// Whether the link from one to the other is cut, from now on.
    pub fn cut(&mut self, from: usize, to: usize, cut: bool) {
        let now_ns = self.now_ns;
        if cut {
            self.open_cuts.entry((from, to)).or_insert(now_ns);
        } else if let Some(from_ns) = self.open_cuts.remove(&(from, to)) {
            self.cuts.push(Span { from_ns, end_ns: now_ns, lane: from, to: Some(to) });
        }
    }

    /// Who is isolated, from now on.
    pub fn isolated(&mut self, who: Option<usize>) {
        let now_ns = self.now_ns;
        let ended = self.open_isolations.iter().find(|(lane, _)| Some(**lane) != who);
        if let Some((lane, from_ns)) = ended.map(|(lane, from_ns)| (*lane, *from_ns)) {
            self.open_isolations.remove(&lane);
            self.isolations.push(Span { from_ns, end_ns: now_ns, lane, to: None });
        }
        if let Some(lane) = who {
            self.open_isolations.entry(lane).or_insert(now_ns);
        }
    }

    /// A request with this number is sent for the first time, or again.
    pub fn asked(&mut self, request: u64) {
        if self.open_requests.contains_key(&request) {
            return;
        }
        let taken: Vec<usize> = self.open_requests.values().map(|(_, row)| *row).collect();
        let row = (0..).find(|row| !taken.contains(row)).unwrap_or(0);
        self.open_requests.insert(request, (self.now_ns, row));
    }

    /// It has its last word.
    pub fn answered(&mut self, request: u64, lane: usize, answered: bool, text: String) {
        let Some((from_ns, row)) = self.open_requests.remove(&request) else { return };
        let (end_ns, text) = (self.now_ns, shortened(text));
        self.requests.push(Asked { from_ns, end_ns, row, lane: Some(lane), answered, text });
    }

    fn end(&mut self) {
        self.end_ns = self.now_ns;
        for (_, frame) in std::mem::take(&mut self.under_way) {
            self.frames.push(Frame { end_ns: self.now_ns, fate: Fate::UnderWay, ..frame });
        }
        for (from, to) in self.open_cuts.keys().copied().collect::<Vec<_>>() {
            self.cut(from, to, false);
        }
        self.isolated(None);
        for (_, (from_ns, row)) in std::mem::take(&mut self.open_requests) {
            let text = "without an answer".to_owned();
            let (lane, end_ns) = (None, self.now_ns);
            self.requests.push(Asked { from_ns, end_ns, row, lane, answered: false, text });
        }
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{ENTRIES_MAX, Fate, Recorder};

    #[test]
    fn the_last_are_kept_and_the_others_counted() {
        let recorder = Recorder::new(true);
        let all = ENTRIES_MAX as u64 + 5;
        for time in 0..all {
            recorder.at(time, |timeline| timeline.note(format!("{time}")));
        }
        let Some(timeline) = recorder.so_far() else { panic!("it records") };
        assert_eq!((timeline.notes.len(), timeline.notes.dropped), (ENTRIES_MAX, 5));
        assert_eq!(timeline.notes.iter().last().map(|note| note.0), Some(all - 1));
        assert!(Recorder::default().so_far().is_none());
    }

    #[test]
    fn what_is_open_ends_with_the_run() {
        let recorder = Recorder::new(true);
        recorder.at(5, |timeline| {
            timeline.sent(1, 0, 1, "Prepare".to_owned(), false);
            timeline.sent(2, 0, 1, "Prepare".to_owned(), true);
            timeline.cut(1, 0, true);
            timeline.isolated(Some(2));
            timeline.asked(7);
            timeline.asked(8);
        });
        recorder.at(9, |timeline| {
            timeline.arrived(1, false, true);
            timeline.answered(7, 0, true, String::new());
        });
        recorder.at(20, |timeline| timeline.asked(9));
        let Some(timeline) = recorder.so_far() else { panic!("it records") };
        let fates: Vec<Fate> = timeline.frames.iter().map(|frame| frame.fate).collect();
        assert_eq!(fates, [Fate::Delivered, Fate::UnderWay]);
        let spans = timeline.cuts.iter().chain(timeline.isolations.iter());
        assert!(spans.map(|span| (span.from_ns, span.end_ns)).eq([(5, 20), (5, 20)]));
        let rows: Vec<usize> = timeline.requests.iter().map(|request| request.row).collect();
        assert_eq!(rows, [0, 1, 0], "a row is free again when its request is answered");
        assert_eq!(timeline.end_ns, 20);
    }
}
