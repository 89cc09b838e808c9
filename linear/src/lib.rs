//! Is what clients saw a history of one thing at a time?
//!
//! Purpose: a history says when each operation was asked for, when it was answered and what came of
//! it. It is linearizable when every operation can be given one moment between the two such that,
//! taken in that order, each answer is what a [`Model`] would have given. `cargo x chaos` records
//! such histories of real clusters; `tests/corpora` proves this checker on other people's.
//!
//! An operation whose outcome nobody knows has no end: it may have its moment at any time after it
//! was asked for, or never ([`Operation::returned`]).
//!
//! Start reading at [`check`]. The search is Wing and Gong's (1993), with what Lowe adds to it
//! ("Testing for linearizability", 2017): what was seen before is not looked at again. Histories
//! of independent keys are to be checked key by key ([`check_keys`]), which is as good (Herlihy and
//! Wing's locality) and far cheaper.
//!
//! Invariant: [`Verdict::CouldNotTell`] is a verdict. Time and memory are bounded by [`Limits`],
//! and a search that was cut short says neither yes nor no.

#![forbid(unsafe_code)]

pub mod models;
mod search;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;

pub use search::check;

/// What the thing under test would do if it did one thing at a time.
pub trait Model {
    /// What was asked and what was answered, in one.
    type Op: Eq + Debug;
    type State: Clone + Eq + Hash + Debug;

    fn initial(&self) -> Self::State;

    /// The state after it, or none if the answer is not what this state gives.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;

    /// True: it leaves every state as it was. (False is always safe, and slower.)
    fn only_reads(&self, op: &Self::Op) -> bool;
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<Op> {
    /// Any clock that all clients share: only the order counts. What begins when another one ends
    /// is taken to overlap it.
    pub invoked: u64,
    /// None: nobody knows what came of it. Then `op` says what happened if it did; what only reads
    /// and was never answered says nothing, and is to be left out.
    pub returned: Option<u64>,
    pub op: Op,
}

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Steps of the model: what it takes of time.
    pub steps_max: u64,
    /// Configurations that are remembered, 16 bytes each and as much again for their table.
    pub configurations_max: usize,
}

impl Default for Limits {
    /// Some ten seconds of a register, and 128 MiB.
    fn default() -> Limits {
        Limits { steps_max: 50_000_000, configurations_max: 4_000_000 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    NotLinearizable(Broken),
    /// The limits were reached.
    CouldNotTell,
}

impl Verdict {
    pub fn is_linearizable(&self) -> bool {
        *self == Verdict::Linearizable
    }
}

/// Where no order could be found: the longest that was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Answered operations that it could place.
    pub placed: usize,
    /// Index, in the history, of the first one to end that it could not.
    pub stuck: usize,
    /// The state in which it could not, as the model shows it.
    pub state: String,
}

/// One history for each key, in the order they came.
pub fn by_key<K: Ord, Op>(
    history: impl IntoIterator<Item = Operation<(K, Op)>>,
) -> BTreeMap<K, Vec<Operation<Op>>> {
    let mut keys: BTreeMap<K, Vec<Operation<Op>>> = BTreeMap::new();
    for Operation { invoked, returned, op: (key, op) } in history {
        keys.entry(key).or_default().push(Operation { invoked, returned, op });
    }
    keys
}

/// Checks the histories of all keys: linearizable are they only together. With the verdict comes
/// the key that it is about, if it is not that all are.
///
/// A key that is broken mostly shows soon, one that cannot be told takes all that [`Limits`] allow:
/// all are looked at with a hundredth of that first.
pub fn check_keys<'a, K, M: Model>(
    model: &M,
    keys: &'a BTreeMap<K, Vec<Operation<M::Op>>>,
    limits: Limits,
) -> (Verdict, Option<&'a K>) {
    let soon = Limits {
        steps_max: limits.steps_max / 100,
        configurations_max: limits.configurations_max / 100,
    };
    let mut left: Vec<_> = keys.iter().collect();
    for limits in [soon, limits] {
        let mut not_told = Vec::new();
        for (key, history) in left {
            match check(model, history, limits) {
                Verdict::Linearizable => {}
                broken @ Verdict::NotLinearizable(_) => return (broken, Some(key)),
                Verdict::CouldNotTell => not_told.push((key, history)),
            }
        }
        left = not_told;
    }
    match left.first() {
        None => (Verdict::Linearizable, None),
        Some((key, _)) => (Verdict::CouldNotTell, Some(key)),
    }
}

#[cfg(test)]
mod tests;
