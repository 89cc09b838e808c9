//! Three replicas, all that was ever sent, and what was committed: the states that are visited.
//!
//! What was sent stays: each message may be received at any time, again, or never. Invariants: what
//! was committed once is in the log of every later view, and is never anything else
//! ([`World::broken`]).

use std::collections::BTreeSet;

use stateright::{Model, Property};

use crate::choose::{Chosen, Vote, choose};
use crate::replica::{Disk, Header, Log, Name, Replica, Slot, Status};
use crate::{Bounds, F, OPS, REPLICAS, Rules};

/// The property that is checked in every state.
pub const COMMITTED_STAYS: &str = "what was committed stays";
/// Some state has it, if the model does anything.
pub const LAST_VIEW_COMMITS: &str = "the last view commits";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    Prepare {
        view: u8,
        op: u8,
        header: Header,
    },
    PrepareOk {
        view: u8,
        op: u8,
        id: u8,
        from: u8,
    },
    Commit {
        view: u8,
        op: u8,
    },
    DoViewChange(Vote),
    /// To everybody, or an answer to a request of this replica and boot.
    StartView {
        view: u8,
        chosen: Chosen,
        to: Option<(u8, u8)>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub replicas: [Replica; REPLICAS],
    pub sent: BTreeSet<Message>,
    /// What was committed, by op, and in which view first; id 0: nothing.
    pub committed: [(u8, u8); OPS],
    pub broken: bool,
    crashes: u8,
    rots: u8,
    rotten: Option<u8>,
    older_disks: u8,
    lost_disks: u8,
    /// A disk that may come back.
    kept: Option<(u8, Disk)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Propose(u8),
    Prepare(u8, Message),
    PrepareOks(u8, u8),
    Commit(u8, u8),
    /// Asks for this view.
    Leave(u8, u8),
    Choose(u8, Chosen),
    /// Asks the primary of its view for a `start_view`.
    Ask(u8),
    StartView(u8, Chosen, bool),
    Record(u8),
    Erase(u8, u8),
    FetchHeader(u8, u8),
    Fetch(u8, u8),
    Installed(u8),
    Crash(u8),
    /// A crash, and this slot can be read no more: its body, or both.
    Rot(u8, u8, bool),
    Keep(u8),
    /// It comes back as it was kept.
    OlderDisk(u8),
    /// Its disk is lost, and it starts with an empty one. Which peer answers, where one is enough.
    LoseDisk(u8, u8),
}

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub struct World {
    pub bounds: Bounds,
    pub rules: Rules,
}

fn primary(view: u8) -> u8 {
    view % REPLICAS as u8
}

impl State {
    fn at(&self, replica: u8) -> &Replica {
        &self.replicas[replica as usize]
    }

    fn at_mut(&mut self, replica: u8) -> &mut Replica {
        &mut self.replicas[replica as usize]
    }

    fn commit(&mut self, replica: u8, to: u8) {
        let Replica { disk, view, .. } = *self.at(replica);
        for op in 1..=to {
            let id = disk.checksum(op).unwrap_or(0);
            let known = &mut self.committed[op as usize - 1];
            self.broken |= known.0 != 0 && known.0 != id;
            *known = if known.0 == 0 { (id, view) } else { (id, known.1.min(view)) };
        }
        self.at_mut(replica).commit = to;
    }

    fn send_vote(&mut self, from: u8) {
        let Replica { disk, view, certain, commit, .. } = *self.at(from);
        let mut names = [Name::Nothing; OPS];
        let mut bodies = [false; OPS];
        for op in 1..=OPS as u8 {
            names[op as usize - 1] = disk.name(op);
            bodies[op as usize - 1] = matches!(disk.slot(op), Slot::Held(_));
        }
        let log_view = disk.log_view;
        let vote = Vote { view, from, log_view, commit, certain, names, bodies };
        self.sent.insert(Message::DoViewChange(vote));
    }

    /// The log of a primary, as it sends it.
    fn chosen(&self, replica: u8) -> Chosen {
        let Replica { disk, commit, .. } = *self.at(replica);
        let mut log = Log::default();
        for op in 1..=disk.head() {
            log[op as usize - 1] = disk.slot(op).header().unwrap_or_default();
        }
        Chosen { log, head: disk.head(), commit }
    }

    fn send_ok(&mut self, from: u8) {
        let replica = *self.at(from);
        let op = replica.whole_to(replica.commit);
        if op > 0 {
            let id = replica.disk.checksum(op).unwrap_or(0);
            self.sent.insert(Message::PrepareOk { view: replica.view, op, id, from });
            self.remember(from, (replica.disk.log_view, op));
        }
    }

    /// Peers have heard of this acknowledgement. Of one that nobody heard of nobody can warn: a
    /// primary's own, until its next ping.
    fn remember(&mut self, from: u8, said: (u8, u8)) {
        for peer in &mut self.replicas {
            peer.seen[from as usize] = peer.seen[from as usize].max(said);
        }
    }

    fn crash(&mut self, replica: u8, rules: Rules) {
        self.at_mut(replica).crash();
        if rules == Rules::TrustsOlderDisk {
            return;
        }
        // Rule 9. All others answer.
        let seen = self.replicas.iter().map(|peer| peer.seen[replica as usize]).max();
        let this = self.at_mut(replica);
        let own = (this.disk.log_view, this.disk.head());
        if let Some(seen) = seen
            && seen > own
        {
            this.certain = false;
            this.warned = seen.0;
            let view = this.view.max(seen.0);
            this.raise_view(view, rules);
        }
    }

    /// The log of the view is on disk.
    fn installed(&mut self, at: u8, rules: Rules) {
        let this = self.at_mut(at);
        let Status::Installing { head, commit, fresh, .. } = this.status else { return };
        this.disk.log_view = this.view;
        this.disk.view = this.view;
        this.disk.erasure = None;
        this.disk.replaced = false;
        this.certain |= fresh || rules == Rules::CertainByOldStartView;
        this.status = Status::Normal;
        let view = this.view;
        let leads = primary(view) == at;
        // What was committed in an earlier view is in the log of every later one.
        for op in 1..=OPS as u8 {
            let (id, since) = self.committed[op as usize - 1];
            let same = self.at(at).disk.checksum(op) == Some(id);
            self.broken |= leads && id != 0 && since < view && !same;
        }
        let to = commit.min(head).max(self.at(at).commit);
        self.commit(at, to);
        if leads {
            let chosen = self.chosen(at);
            self.sent.insert(Message::StartView { view, chosen, to: None });
            self.remember(at, (view, chosen.head));
        } else {
            self.send_ok(at);
        }
    }

    fn older_disk(&mut self, at: u8, rules: Rules) {
        let Some((_, disk)) = self.kept else { return };
        self.older_disks += 1;
        self.at_mut(at).disk = disk;
        self.crash(at, rules);
        self.boots_anew(at, None, rules);
    }

    fn lose_disk(&mut self, at: u8, answers: u8, rules: Rules) {
        self.lost_disks += 1;
        let replaced = rules != Rules::CountsReplaced;
        self.at_mut(at).disk = Disk { replaced, ..Disk::default() };
        // What peers remember of the lost one is left out: some of it nobody does.
        self.at_mut(at).crash();
        let only = (rules == Rules::ReplacedAsksOne).then_some(answers);
        self.boots_anew(at, only, rules);
    }

    /// Rule 16. All others answer, or one of them: who does is in some view, and counts no vote any
    /// more that was sent before.
    fn boots_anew(&mut self, at: u8, only: Option<u8>, rules: Rules) {
        let answers = |peer: u8| only.is_none_or(|only| only == peer);
        if rules != Rules::CountsOldVotes {
            let by = |message: &Message| match message {
                Message::DoViewChange(vote) => vote.from == at && answers(primary(vote.view)),
                _ => false,
            };
            self.sent.retain(|message| !by(message));
        }
        let peers = self.replicas.iter().enumerate();
        let view = peers.filter(|(peer, _)| answers(*peer as u8)).map(|(_, peer)| peer.view).max();
        if let Some(view) = view.filter(|view| *view > self.at(at).view) {
            self.at_mut(at).raise_view(view, rules);
        }
    }

    fn votes(&self, view: u8) -> [Vec<Option<Vote>>; REPLICAS] {
        let mut votes: [Vec<Option<Vote>>; REPLICAS] = Default::default();
        votes.iter_mut().for_each(|of| of.push(None));
        for message in &self.sent {
            if let Message::DoViewChange(vote) = message
                && vote.view == view
            {
                votes[vote.from as usize].push(Some(*vote));
            }
        }
        votes
    }

    /// What the primary of a view may choose, from whichever votes reach it first.
    fn choices(&self, view: u8, rules: Rules) -> BTreeSet<Chosen> {
        let [first, second, third] = self.votes(view);
        let mut choices = BTreeSet::new();
        for a in &first {
            for b in &second {
                for c in &third {
                    let votes: Vec<Vote> = [a, b, c].into_iter().flatten().copied().collect();
                    choices.extend(choose(&votes, rules));
                }
            }
        }
        choices
    }

    fn install(&mut self, replica: u8, chosen: Chosen, fresh: bool) {
        let Chosen { log, head, commit } = chosen;
        let this = self.at_mut(replica);
        this.status = Status::Installing { log, head, commit, recorded: false, fresh };
    }
}

impl World {
    fn prepares(&self, state: &State, at: u8, actions: &mut Vec<Action>) {
        let this = state.at(at);
        for message in &state.sent {
            let Message::Prepare { view, op, header } = message else { continue };
            let next = *op == this.disk.head() + 1 && this.disk.slot(*op) == Slot::Empty;
            let joins = this.disk.checksum(*op - 1) == Some(header.parent);
            if *view == this.view && next && joins {
                actions.push(Action::Prepare(at, *message));
            }
        }
        for message in &state.sent {
            if let Message::Commit { view, op } = message
                && *view == this.view
                && *op > this.commit
                && *op <= this.disk.head()
            {
                actions.push(Action::Commit(at, *op));
            }
        }
    }

    fn leads(&self, state: &State, at: u8, actions: &mut Vec<Action>) {
        let this = state.at(at);
        let head = this.disk.head();
        if this.commit == head && head < self.bounds.ops {
            actions.push(Action::Propose(at));
        }
        for op in this.commit + 1..=this.whole_to(this.commit) {
            let acknowledged = |from: u8| {
                state.sent.iter().any(|message| match message {
                    Message::PrepareOk { view, op: to, id, from: by } => {
                        *view == this.view
                            && *by == from
                            && *to >= op
                            && this.disk.checksum(*to) == Some(*id)
                    }
                    _ => false,
                })
            };
            let others = (0..REPLICAS as u8).filter(|&from| from != at && acknowledged(from));
            let needed = if self.rules == Rules::CommitsAlone { 0 } else { F };
            if others.count() >= needed {
                actions.push(Action::PrepareOks(at, op));
            }
        }
    }

    fn installs(&self, state: &State, at: u8, actions: &mut Vec<Action>) {
        let this = state.at(at);
        let Status::Installing { log, head, commit, recorded, .. } = this.status else { return };
        let own = this.disk.log_view == this.view;
        let others = || state.replicas.iter().enumerate().filter(|(j, _)| *j != at as usize);
        let has_header = |op: u8| {
            others().any(|(_, peer)| peer.disk.slot(op).header() == Some(log[op as usize - 1]))
        };
        let has_body = |op: u8| {
            others().any(|(_, peer)| peer.disk.slot(op) == Slot::Held(log[op as usize - 1]))
        };
        if recorded {
            let Some((_, last)) = this.disk.erasure else { unreachable!("it was recorded") };
            let left = (last + 1..=OPS as u8).filter(|&op| this.disk.slot(op) != Slot::Empty);
            let before = actions.len();
            actions.extend(left.map(|op| Action::Erase(at, op)));
            if actions.len() > before {
                return;
            }
        } else if let Some(last) = this.cut(&log, head, self.rules) {
            let hole = last > 0 && this.disk.slot(last) == Slot::Damaged;
            if !hole || self.rules == Rules::CutsToHole {
                actions.push(Action::Record(at));
            } else if has_header(last) {
                actions.push(Action::FetchHeader(at, last));
            }
            return;
        }
        let mut whole = true;
        for op in 1..=head {
            let held = matches!(this.disk.slot(op), Slot::Held(_));
            whole &= held || op <= commit && this.disk.slot(op).header().is_some();
            if !held && has_body(op) && (op == 1 || this.disk.slot(op - 1) != Slot::Empty) {
                actions.push(Action::Fetch(at, op));
            }
        }
        if whole && (own || this.disk.head() == head) {
            actions.push(Action::Installed(at));
        }
    }

    fn waits(&self, state: &State, at: u8, actions: &mut Vec<Action>) {
        let this = state.at(at);
        if primary(this.view) == at {
            if this.offering {
                let choices = state.choices(this.view, self.rules);
                actions.extend(choices.into_iter().map(|chosen| Action::Choose(at, chosen)));
            }
            return;
        }
        for message in &state.sent {
            if let Message::StartView { view, chosen, to } = message
                && *view == this.view
            {
                let fresh = *to == Some((at, this.boot));
                // What it said in the log of that very view, it may have said after this was sent.
                let first = this.spoken() < this.view
                    || this.disk.replaced && self.rules == Rules::ReplacedByOldStartView;
                let believes = this.certain || self.rules == Rules::CertainByOldStartView;
                if first || fresh || believes {
                    actions.push(Action::StartView(at, *chosen, fresh || first));
                }
            }
        }
        let leader = state.at(primary(this.view));
        let asks = leader.is_normal() && leader.view == this.view;
        if asks && this.spoken() >= this.view {
            actions.push(Action::Ask(at));
        }
    }

    fn faults(&self, state: &State, at: u8, actions: &mut Vec<Action>) {
        if state.crashes < self.bounds.crashes {
            actions.push(Action::Crash(at));
            if state.rots < self.bounds.rots && state.rotten.is_none_or(|rotten| rotten == at) {
                for op in 1..=OPS as u8 {
                    match state.at(at).disk.slot(op) {
                        Slot::Held(_) => {
                            actions.push(Action::Rot(at, op, false));
                            actions.push(Action::Rot(at, op, true));
                        }
                        Slot::Rotten(_) => actions.push(Action::Rot(at, op, true)),
                        Slot::Empty | Slot::Damaged => {}
                    }
                }
            }
        }
        if state.older_disks < self.bounds.older_disks {
            match state.kept {
                None => actions.push(Action::Keep(at)),
                Some((of, disk)) if of == at && disk != state.at(at).disk => {
                    actions.push(Action::OlderDisk(at));
                }
                Some(_) => {}
            }
        }
        // One more than f at a time has to wait for the first; and two of them have nobody to ask.
        let whole = state.replicas.iter().all(|peer| !peer.disk.replaced && peer.certain);
        if state.lost_disks < self.bounds.lost_disks && whole {
            let peers = (0..REPLICAS as u8).filter(|&peer| peer != at);
            let ways = if self.rules == Rules::ReplacedAsksOne { REPLICAS } else { 1 };
            actions.extend(peers.take(ways).map(|peer| Action::LoseDisk(at, peer)));
        }
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            replicas: [Replica::new(); REPLICAS],
            sent: BTreeSet::new(),
            committed: [(0, 0); OPS],
            broken: false,
            crashes: 0,
            rots: 0,
            rotten: None,
            older_disks: 0,
            lost_disks: 0,
            kept: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken {
            return;
        }
        for at in 0..REPLICAS as u8 {
            let this = state.at(at);
            match this.status {
                Status::Normal if primary(this.view) == at => self.leads(state, at, actions),
                Status::Normal => self.prepares(state, at, actions),
                Status::Installing { .. } => self.installs(state, at, actions),
                Status::ViewChange => self.waits(state, at, actions),
            }
            if this.view < self.bounds.views {
                actions.push(Action::Leave(at, this.view + 1));
                let later = |message: &Message| match message {
                    Message::DoViewChange(vote) => Some(vote.view),
                    Message::StartView { view, .. } => Some(*view),
                    _ => None,
                };
                let later: BTreeSet<u8> = state.sent.iter().filter_map(later).collect();
                let later = later.into_iter().filter(|&view| view > this.view + 1);
                actions.extend(later.map(|view| Action::Leave(at, view)));
            }
            self.faults(state, at, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Propose(at) => {
                let this = state.at_mut(at);
                let (view, op) = (this.view, this.disk.head() + 1);
                let parent = this.disk.checksum(op - 1).unwrap_or(0);
                let header = Header { id: view + 1, parent };
                *this.disk.slot_mut(op) = Slot::Held(header);
                state.sent.insert(Message::Prepare { view, op, header });
                state.remember(at, (view, op));
            }
            Action::Prepare(at, message) => {
                let Message::Prepare { op, header, .. } = message else { return None };
                *state.at_mut(at).disk.slot_mut(op) = Slot::Held(header);
                state.send_ok(at);
            }
            Action::PrepareOks(at, op) => {
                state.commit(at, op);
                let view = state.at(at).view;
                state.sent.insert(Message::Commit { view, op });
            }
            Action::Commit(at, op) => state.commit(at, op),
            Action::Leave(at, view) => {
                let this = state.at_mut(at);
                this.raise_view(view, self.rules);
                this.offering = true;
                state.send_vote(at);
            }
            Action::Choose(at, chosen) => state.install(at, chosen, true),
            Action::Ask(at) => {
                let (boot, view) = (state.at(at).boot, state.at(at).view);
                let chosen = state.chosen(primary(view));
                let to = Some((at, boot));
                state.sent.insert(Message::StartView { view, chosen, to });
            }
            Action::StartView(at, chosen, fresh) => state.install(at, chosen, fresh),
            Action::Record(at) => {
                let rules = self.rules;
                let this = state.at_mut(at);
                let Status::Installing { log, head, ref mut recorded, .. } = this.status else {
                    return None;
                };
                *recorded = true;
                let last = this.cut(&log, head, rules)?;
                this.disk.erasure = Some((this.disk.log_view, last));
                if rules == Rules::LogViewFirst {
                    this.disk.log_view = this.view;
                }
            }
            Action::Erase(at, op) => *state.at_mut(at).disk.slot_mut(op) = Slot::Empty,
            Action::FetchHeader(at, op) | Action::Fetch(at, op) => {
                let this = state.at_mut(at);
                let Status::Installing { log, .. } = this.status else { return None };
                let header = log[op as usize - 1];
                *this.disk.slot_mut(op) = match action {
                    Action::Fetch(..) => Slot::Held(header),
                    _ => Slot::Rotten(header),
                };
            }
            Action::Installed(at) => state.installed(at, self.rules),
            Action::Crash(at) => {
                state.crashes += 1;
                state.crash(at, self.rules);
            }
            Action::Rot(at, op, both) => {
                state.crashes += 1;
                state.rots += 1;
                state.rotten = Some(at);
                let slot = state.at_mut(at).disk.slot_mut(op);
                *slot = match slot.header() {
                    Some(header) if !both => Slot::Rotten(header),
                    _ => Slot::Damaged,
                };
                state.crash(at, self.rules);
            }
            Action::Keep(at) => state.kept = Some((at, state.at(at).disk)),
            Action::OlderDisk(at) => state.older_disk(at, self.rules),
            Action::LoseDisk(at, answers) => state.lose_disk(at, answers, self.rules),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<World>> {
        vec![
            Property::always(COMMITTED_STAYS, |_, state: &State| !state.broken),
            Property::sometimes(LAST_VIEW_COMMITS, |model: &World, state: &State| {
                state.replicas.iter().any(|this| {
                    let last = this.view == model.bounds.views && this.is_normal();
                    last && this.commit == model.bounds.ops
                })
            }),
        ]
    }
}
