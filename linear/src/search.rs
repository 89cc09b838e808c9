//! The search for an order.
//!
//! Wing and Gong: calls and returns stand in a list in order of time. Whatever is called before the
//! first return that is left may come next; it is taken out of the list with its return and the
//! model takes its step. Where nothing can come next, the last one taken is put back and the next
//! candidate tried. Nothing left: there is an order.
//!
//! Lowe: what can still happen depends only on which operations were taken and on the state. A pair
//! of both that was met before leads nowhere new. Of a pair 128 bits are remembered (a random
//! number for each operation, exclusive or, and a hash of the state): that two of n pairs meet has
//! a chance of n² / 2^129, 10^-25 at the default limits.
//!
//! A read that may come next comes next, and nothing else is tried there: whatever order there is
//! stays one with it in front.
//!
//! Operations of unknown outcome would each double the pairs. Four things keep them few, and each
//! keeps an order if there is one, as an order that uses as few of them as possible has them all:
//!
//! - They have no return in the list: the order is there without them.
//! - Of equal ones the earliest is used first.
//! - One that changes nothing is not used.
//! - One is not used if what comes right after it would have done the same without it.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::{Broken, Limits, Model, Operation, Verdict};

/// Is there an order of this history that the model allows?
pub fn check<M: Model>(model: &M, history: &[Operation<M::Op>], limits: Limits) -> Verdict {
    Search::new(model, history, limits).run()
}

/// A call or a return of an answered operation.
#[derive(Clone, Copy)]
struct Entry {
    operation: usize,
    time: u64,
    /// The place of its return; none: it is a return.
    returns: Option<usize>,
}

/// Places in the list of entries; 0 stands before the first.
struct Links {
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl Links {
    fn new(count: usize) -> Links {
        let next = (1..=count).chain([0]).collect();
        let previous = [count].into_iter().chain(0..count).collect();
        Links { next, previous }
    }

    fn remove(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    /// Undoes the last `remove` that is not undone.
    fn restore(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = at;
        self.previous[next] = at;
    }
}

/// What is tried next.
#[derive(Clone, Copy)]
enum Candidate {
    /// The call at this place, or the return that ends the calls.
    Answered(usize),
    /// An operation of unknown outcome: of this class the earliest that is left.
    Unknown(usize),
}

/// Equal operations of unknown outcome, in order of their calls.
struct Class {
    operations: Vec<usize>,
    used: usize,
}

/// What was taken, and where things stood before.
struct Taken<S> {
    candidate: Candidate,
    state: S,
    without: Option<S>,
}

struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Operation<M::Op>],
    limits: Limits,
    /// From place 1 on.
    entries: Vec<Entry>,
    links: Links,
    classes: Vec<Class>,
    taken: Vec<Taken<M::State>>,
    /// Of what is in `taken`, the numbers of operations, together.
    set: u128,
    seen: HashSet<u128>,
    steps: u64,
    placed: usize,
    broken: Option<Broken>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, history: &'a [Operation<M::Op>], limits: Limits) -> Search<'a, M> {
        let mut events = Vec::new();
        let mut unknown = Vec::new();
        for (index, operation) in history.iter().enumerate() {
            match operation.returned {
                Some(returned) => {
                    assert!(operation.invoked <= returned, "{operation:?} ends before it begins");
                    events.push((operation.invoked, false, index));
                    events.push((returned, true, index));
                }
                None => unknown.push(index),
            }
        }
        // Of the same moment the calls first: they overlap.
        events.sort_unstable();
        let mut calls = vec![0; history.len()];
        let mut entries = vec![Entry { operation: 0, time: 0, returns: None }];
        for (at, (time, returns, operation)) in (1..).zip(&events) {
            match returns {
                false => calls[*operation] = at,
                true => entries[calls[*operation]].returns = Some(at),
            }
            entries.push(Entry { operation: *operation, time: *time, returns: None });
        }
        unknown.sort_by_key(|index| history[*index].invoked);
        let mut classes: Vec<Class> = Vec::new();
        for index in unknown {
            let same = |class: &&mut Class| history[class.operations[0]].op == history[index].op;
            match classes.iter_mut().find(same) {
                Some(class) => class.operations.push(index),
                None => classes.push(Class { operations: vec![index], used: 0 }),
            }
        }
        Search {
            model,
            history,
            limits,
            links: Links::new(events.len()),
            entries,
            classes,
            taken: Vec::new(),
            set: 0,
            seen: HashSet::new(),
            steps: 0,
            placed: 0,
            broken: None,
        }
    }

    fn run(mut self) -> Verdict {
        let mut state = self.model.initial();
        // The state before the operation that was taken last, if nobody knows what came of that.
        let mut without: Option<M::State> = None;
        let mut candidate = self.first(&state);
        loop {
            if self.links.next[0] == 0 {
                return Verdict::Linearizable;
            }
            let Some((found, after)) = self.next(candidate, &state, without.as_ref()) else {
                if self.steps >= self.limits.steps_max {
                    return Verdict::CouldNotTell;
                }
                self.note(&state);
                let Some(last) = self.taken.pop() else {
                    return match self.broken {
                        Some(broken) => Verdict::NotLinearizable(broken),
                        None => unreachable!("the first answer to a dead end is to note it"),
                    };
                };
                self.put_back(last.candidate);
                candidate = match self.is_read(last.candidate) {
                    true => Candidate::Unknown(self.classes.len()),
                    false => self.behind(last.candidate),
                };
                (state, without) = (last.state, last.without);
                continue;
            };
            self.take(found);
            let before = std::mem::replace(&mut state, after);
            let known = matches!(found, Candidate::Answered(_));
            let now = (!known).then(|| before.clone());
            let before_that = std::mem::replace(&mut without, now);
            self.taken.push(Taken { candidate: found, state: before, without: before_that });
            if self.seen.len() >= self.limits.configurations_max {
                return Verdict::CouldNotTell;
            }
            let configuration = self.set ^ hash(&state, 0) ^ hash(&without, 2);
            candidate = match self.seen.insert(configuration) {
                true => self.first(&state),
                // Nothing new comes of it: as if everything had been tried.
                false => Candidate::Unknown(self.classes.len()),
            };
        }
    }

    /// Where to begin: at a read, if one may come next.
    fn first(&mut self, state: &M::State) -> Candidate {
        let mut at = self.links.next[0];
        while self.entries[at].returns.is_some() {
            let candidate = Candidate::Answered(at);
            if self.is_read(candidate) {
                self.steps += 1;
                let op = &self.history[self.entries[at].operation].op;
                if self.model.step(state, op).is_some() {
                    return candidate;
                }
            }
            at = self.links.next[at];
        }
        Candidate::Answered(self.links.next[0])
    }

    fn is_read(&self, candidate: Candidate) -> bool {
        match candidate {
            Candidate::Answered(at) => {
                self.model.only_reads(&self.history[self.entries[at].operation].op)
            }
            Candidate::Unknown(_) => false,
        }
    }

    /// The first candidate, from this one on, that the model allows, and the state after it.
    fn next(
        &mut self,
        mut candidate: Candidate,
        state: &M::State,
        without: Option<&M::State>,
    ) -> Option<(Candidate, M::State)> {
        loop {
            let operation = match candidate {
                Candidate::Answered(at) if self.entries[at].returns.is_none() => {
                    candidate = Candidate::Unknown(0);
                    continue;
                }
                Candidate::Answered(at) => self.entries[at].operation,
                Candidate::Unknown(class) => {
                    let class = self.classes.get(class)?;
                    match class.operations.get(class.used) {
                        Some(index) if self.history[*index].invoked <= self.horizon() => *index,
                        Some(_) | None => {
                            candidate = self.behind(candidate);
                            continue;
                        }
                    }
                }
            };
            self.steps += 1;
            if self.steps >= self.limits.steps_max {
                return None;
            }
            let op = &self.history[operation].op;
            if let Some(after) = self.model.step(state, op) {
                let idle = matches!(candidate, Candidate::Unknown(_)) && after == *state;
                let needless =
                    || without.is_some_and(|s| self.model.step(s, op).as_ref() == Some(&after));
                if !idle && !needless() {
                    return Some((candidate, after));
                }
            }
            candidate = self.behind(candidate);
        }
    }

    fn behind(&self, candidate: Candidate) -> Candidate {
        match candidate {
            Candidate::Answered(at) => Candidate::Answered(self.links.next[at]),
            Candidate::Unknown(class) => Candidate::Unknown(class + 1),
        }
    }

    /// The first return that is left: what is called after it cannot come next.
    fn first_return(&self) -> usize {
        let mut at = self.links.next[0];
        while self.entries[at].returns.is_some() {
            at = self.links.next[at];
        }
        at
    }

    fn horizon(&self) -> u64 {
        self.entries[self.first_return()].time
    }

    fn take(&mut self, candidate: Candidate) {
        let operation = match candidate {
            Candidate::Answered(at) => {
                self.links.remove(at);
                if let Some(returns) = self.entries[at].returns {
                    self.links.remove(returns);
                }
                self.placed += 1;
                self.entries[at].operation
            }
            Candidate::Unknown(class) => {
                let class = &mut self.classes[class];
                class.used += 1;
                class.operations[class.used - 1]
            }
        };
        self.set ^= number(operation);
    }

    fn put_back(&mut self, candidate: Candidate) {
        let operation = match candidate {
            Candidate::Answered(at) => {
                if let Some(returns) = self.entries[at].returns {
                    self.links.restore(returns);
                }
                self.links.restore(at);
                self.placed -= 1;
                self.entries[at].operation
            }
            Candidate::Unknown(class) => {
                let class = &mut self.classes[class];
                class.used -= 1;
                class.operations[class.used]
            }
        };
        self.set ^= number(operation);
    }

    /// The longest order so far is what tells a reader where to look.
    fn note(&mut self, state: &M::State) {
        if self.broken.as_ref().is_none_or(|broken| broken.placed < self.placed) {
            let stuck = self.entries[self.first_return()].operation;
            let state = format!("{state:?}");
            self.broken = Some(Broken { placed: self.placed, stuck, state });
        }
    }
}

/// A number for an operation, as good as random.
fn number(operation: usize) -> u128 {
    hash(&operation, 4)
}

/// 128 bits; another function for each salt that is a multiple of 2.
fn hash(value: &impl Hash, salt: u64) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        value.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(salt) << 64 | half(salt + 1)
}
