//! One replica: what is on its disk, and what it makes of that.

use crate::{OPS, Rules};

/// Of one op: the view that proposed it (from 1, so that 0 is the root), and the op below it.
/// Nobody proposes an op twice in a view, so the two are what a checksum would tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Header {
    pub id: u8,
    pub parent: u8,
}

/// A place of the journal: redundant header and prepare together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    #[default]
    Empty,
    /// Header and body.
    Held(Header),
    /// The header alone.
    Rotten(Header),
    /// Neither can be read.
    Damaged,
}

/// What a replica says of an op in its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    #[default]
    Nothing,
    Header(Header),
    /// No header; the op above names its checksum.
    Hole(u8),
    /// No header, and none above it.
    Nameless,
}

pub type Log = [Header; OPS];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    ViewChange,
    /// The log of the view, before it is all on disk.
    Installing {
        log: Log,
        head: u8,
        commit: u8,
        recorded: bool,
        fresh: bool,
    },
    Normal,
}

/// What a crash leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Disk {
    pub view: u8,
    pub log_view: u8,
    pub slots: [Slot; OPS],
    /// "In this log view nothing above this op counts."
    pub erasure: Option<(u8, u8)>,
    /// It took the place of a lost one.
    pub replaced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replica {
    pub disk: Disk,
    /// As in memory: on disk at once, unless rule 8 is broken.
    pub view: u8,
    pub status: Status,
    /// It asked for this view since it started: nobody is primary twice in one view.
    pub offering: bool,
    pub certain: bool,
    /// The log view in which peers say that it acknowledged more than its disk has.
    pub warned: u8,
    pub commit: u8,
    /// Counts starts: the nonce of requests.
    pub boot: u8,
    /// Of each peer: the log view in which it acknowledged last, and to which op.
    pub seen: [(u8, u8); crate::REPLICAS],
}

impl Slot {
    pub fn header(self) -> Option<Header> {
        match self {
            Slot::Held(header) | Slot::Rotten(header) => Some(header),
            Slot::Empty | Slot::Damaged => None,
        }
    }
}

impl Disk {
    pub fn slot(&self, op: u8) -> Slot {
        self.slots[op as usize - 1]
    }

    pub fn slot_mut(&mut self, op: u8) -> &mut Slot {
        &mut self.slots[op as usize - 1]
    }

    /// The last op with a header.
    pub fn head(&self) -> u8 {
        (1..=OPS as u8).rev().find(|&op| self.slot(op).header().is_some()).unwrap_or(0)
    }

    pub fn name(&self, op: u8) -> Name {
        match self.slot(op) {
            Slot::Held(header) | Slot::Rotten(header) => Name::Header(header),
            Slot::Damaged if op < self.head() => match self.slot(op + 1).header() {
                Some(above) => Name::Hole(above.parent),
                None => Name::Nameless,
            },
            Slot::Empty | Slot::Damaged => Name::Nothing,
        }
    }

    /// The checksum of an op, as far as it is known; that of op 0 is 0.
    pub fn checksum(&self, op: u8) -> Option<u8> {
        match op {
            0 => Some(0),
            _ => match self.name(op) {
                Name::Header(header) => Some(header.id),
                Name::Hole(id) => Some(id),
                Name::Nothing | Name::Nameless => None,
            },
        }
    }

    /// Rule 1: what an open finds. Whether the replica is certain.
    pub fn open(&mut self) -> bool {
        if let Some((log_view, op)) = self.erasure
            && log_view == self.log_view
        {
            self.slots[op as usize..].fill(Slot::Empty);
        }
        // Where no header is at all nothing was acknowledged, nor above it.
        if let Some(first) = self.slots.iter().position(|slot| *slot == Slot::Empty) {
            self.slots[first..].fill(Slot::Empty);
        }
        let last = self.slots.iter().rev().find(|slot| **slot != Slot::Empty);
        last != Some(&Slot::Damaged)
    }
}

impl Replica {
    pub fn new() -> Replica {
        Replica {
            disk: Disk::default(),
            view: 0,
            status: Status::Normal,
            offering: false,
            certain: true,
            warned: 0,
            commit: 0,
            boot: 0,
            seen: Default::default(),
        }
    }

    pub fn crash(&mut self) {
        self.certain = self.disk.open() && !self.disk.replaced;
        self.view = self.disk.view;
        self.status = Status::ViewChange;
        self.offering = false;
        self.warned = 0;
        self.commit = 0;
        self.boot += 1;
        self.seen = Default::default();
    }

    /// Rule 8.
    pub fn raise_view(&mut self, view: u8, rules: Rules) {
        self.view = view;
        if rules != Rules::ViewNotDurable {
            self.disk.view = view;
        }
        self.status = Status::ViewChange;
    }

    /// The last view of which it may have acknowledged something.
    pub fn spoken(&self) -> u8 {
        if self.disk.replaced { u8::MAX } else { self.disk.log_view.max(self.warned) }
    }

    pub fn is_normal(&self) -> bool {
        self.status == Status::Normal
    }

    /// To which op all is durable here: what `prepare_ok` says.
    pub fn whole_to(&self, commit: u8) -> u8 {
        let whole = |&op: &u8| op <= commit || matches!(self.disk.slot(op), Slot::Held(_));
        (1..=self.disk.head()).take_while(whole).last().unwrap_or(0)
    }

    /// Rule 5, while installing: the last op that stays; `None`: nothing is to be erased.
    pub fn cut(&self, log: &Log, head: u8, rules: Rules) -> Option<u8> {
        if self.disk.log_view == self.view && rules != Rules::ErasesOwnView {
            return None;
        }
        let conflicts = |&op: &u8| {
            let there = self.disk.slot(op) != Slot::Empty;
            let other = |id| id != log[op as usize - 1].id;
            there && (op > head || self.disk.checksum(op).is_some_and(other))
        };
        (1..=OPS as u8).find(conflicts).map(|op| op - 1)
    }
}

impl Default for Replica {
    fn default() -> Replica {
        Replica::new()
    }
}
