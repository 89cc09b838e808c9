//! What a transaction dirties was foreseen: bounds of pages, held against what the store does.

use super::*;

/// What one transaction was to dirty at most, and what it did.
struct Bounded {
    /// Of the walk along the changes.
    bound: u64,
    overflow: u64,
    forests: u64,
    /// The most at any time of it, for that is what the cache must hold.
    peak: u64,
}

impl Bounded {
    fn foreseen(&self) -> u64 {
        self.bound + self.overflow + self.forests
    }

    #[track_caller]
    fn check(&self, what: core::fmt::Arguments<'_>) {
        let Bounded { bound, overflow, forests, peak } = self;
        assert!(
            *peak <= self.foreseen(),
            "{what}: {peak} dirtied, {bound} + {overflow} + {forests} foreseen",
        );
    }
}

fn key(at: u64) -> Vec<u8> {
    at.to_be_bytes().to_vec()
}

fn put(key: Vec<u8>, size: usize) -> TreeChange {
    TreeChange { key, put: Some(size) }
}

fn remove(key: Vec<u8>) -> TreeChange {
    TreeChange { key, put: None }
}

fn fresh_world(seed: u64) -> World {
    let mut world = World::new(Habits { seed, clean_frames: 512, evict_all: false, pace: 0 });
    create_trees(&mut world);
    world
}

/// Makes the changes, as one transaction would.
fn apply(world: &mut World, changes: &[TreeChange]) -> Bounded {
    let mut walk = BoundWalk::default();
    let bound = world.run(|store| store.pages_bound(TREE, changes, &mut walk));
    let forests = world.run(|store| store.forest_pages_at_most(T1, 1, 0));
    let overflow = changes.iter().filter_map(|change| change.put).map(overflow_pages).sum();
    let before = world.store.dirty_pages();
    let mut peak = 0;
    for change in changes {
        match change.put {
            Some(size) => {
                let value = vec![1; size];
                world.run(|store| store.put(TREE, &change.key, &value).map(drop));
            }
            None => assert!(world.run(|store| store.remove(TREE, &change.key))),
        }
        peak = peak.max(u64::from(world.store.dirty_pages().saturating_sub(before)));
    }
    Bounded { bound, overflow, forests, peak }
}

/// Where the keys of a random transaction lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    End,
    /// At the end, downwards.
    Downwards,
    Anywhere,
    OneSpot,
    /// What is there.
    Present,
}

/// Draws transactions on one tree, whose keys it remembers.
struct Draws {
    keys: BTreeSet<Vec<u8>>,
    value_max: usize,
    key_max: usize,
    next: u64,
}

impl Draws {
    fn new(seed: u64) -> Draws {
        let value_max = [60, 300, 900, 1_024, 9_000][seed as usize % 5];
        let key_max = [8, 8, 40, 500][seed as usize % 4];
        Draws { keys: BTreeSet::new(), value_max, key_max, next: 1 << 40 }
    }

    fn number(&mut self, place: Place, random: u64, below_end: u64) -> u64 {
        match place {
            Place::End => {
                self.next += 1;
                self.next
            }
            Place::Downwards => self.next + 1_000_000 - below_end,
            Place::Anywhere => random % 100_000,
            Place::OneSpot => 50_000 << 8 | (random % 256),
            Place::Present => {
                let at = random as usize % self.keys.len().max(1);
                let number = |key: &Vec<u8>| u64::from_be_bytes(key[..8].try_into().unwrap());
                self.keys.iter().nth(at).map_or(7, number)
            }
        }
    }

    fn changes(&mut self, random: &mut ChaCha8Rng, place: Place, count: u32) -> Vec<TreeChange> {
        let mut changes = Vec::new();
        for _ in 0..count {
            let drawn = random.next_u64();
            let below_end = u64::from(count) + changes.len() as u64;
            let number = self.number(place, drawn, below_end);
            let mut key = key(number);
            key.resize(8 + number as usize % (self.key_max - 7), 0x55);
            let puts = (drawn >> 40) % 8 > u64::from(place == Place::Present) * 3;
            if puts {
                self.keys.insert(key.clone());
                changes.push(put(key, (drawn >> 20) as usize % (self.value_max + 1)));
            } else if self.keys.remove(&key) {
                changes.push(remove(key));
            }
        }
        changes
    }
}

/// The coarse bound is no smaller, and what is in memory plays no part.
fn compare_bounds(world: &mut World, changes: &[TreeChange]) {
    let puts = changes.iter().filter(|change| change.put.is_some()).count() as u64;
    let removals = changes.len() as u64 - puts;
    let most = world.run(|store| store.pages_at_most(TREE, puts, removals));
    let mut walk = BoundWalk::default();
    let bound = world.run(|store| store.pages_bound(TREE, changes, &mut walk));
    assert!(bound <= most, "{bound} {most}");
    world.store.evict_all();
    let mut walk = BoundWalk::default();
    let again = world.run(|store| store.pages_bound(TREE, changes, &mut walk));
    assert_eq!(again, bound);
}

/// Random transactions on trees of many shapes.
#[test]
fn no_transaction_dirties_more_than_its_bound() {
    use Place::{Anywhere, Downwards, End, OneSpot, Present};
    let (mut seen, mut tight) = (0, 0);
    for seed in 0..24 {
        let mut world = fresh_world(seed);
        let mut draws = Draws::new(seed);
        for op in 1..=14 {
            let place =
                [End, Downwards, Anywhere, OneSpot, Present][world.random.next_u32() as usize % 5];
            let count = 1 + world.random.next_u32() % [4, 300, 40][op % 3];
            let changes = draws.changes(&mut world.random, place, count);
            compare_bounds(&mut world, &changes);
            let bounded = apply(&mut world, &changes);
            bounded.check(format_args!("seed {seed}, op {op}, {place:?}"));
            seen += 1;
            tight += usize::from(bounded.peak * 3 >= bounded.foreseen());
            // Small budgets of this test: a checkpoint after each.
            world.checkpoint(op as u64);
        }
    }
    // A bound that is always far off would be of no use.
    assert!(tight * 3 > seen, "{tight} of {seen} within a factor of three");
}

/// Loads that run beside each other put runs of ascending keys between what others have put: leaves
/// of many sizes, and none of them is merged.
#[test]
fn a_run_of_keys_among_small_leaves_dirties_few_pages() {
    let mut world = fresh_world(7);
    // Most rows go again: what is left are leaves of a few entries.
    for at in 0..6_000 {
        world.run(|store| store.put(TREE, &key(at * 50), &[1; 200]).map(drop));
    }
    world.checkpoint(1);
    for at in (0..6_000).filter(|at| at % 60 > 3) {
        world.run(|store| store.remove(TREE, &key(at * 50)));
        if at % 500 == 0 {
            world.checkpoint(2 + at);
        }
    }
    world.checkpoint(10_000);
    let changes: Vec<_> = (0..1_000).map(|at| put(key(at * 300 + 7), 200)).collect();
    let bounded = apply(&mut world, &changes);
    bounded.check(format_args!("a run"));
    let Bounded { bound, peak, .. } = bounded;
    assert!(bound < 4 * peak, "{bound} foreseen, {peak} dirtied");
}

/// A leaf is split, one half loses entries and goes into the neighbour, which is split for it.
#[test]
fn a_half_that_merges_elsewhere_was_foreseen() {
    let mut world = fresh_world(7);
    // 208 bytes an entry, 19 a leaf.
    for at in 0..19 * 6 {
        world.run(|store| store.put(TREE, &key(at * 10), &[1; 190]).map(drop));
    }
    let (second, third) = (19, 2 * 19);
    for at in 0..5 {
        world.run(|store| store.remove(TREE, &key((second + at) * 10)));
    }
    world.checkpoint(1);
    let splits = put(key((third + 9) * 10 + 5), 190);
    let mut changes = Vec::new();
    changes.extend((1..7).map(|at| remove(key((third + at) * 10))));
    changes.extend((1..3).map(|at| put(key((third + at) * 10 + 5), 190)));
    changes.insert(0, splits);
    let mut walk = BoundWalk::default();
    let bound = world.run(|store| store.pages_bound(TREE, &changes, &mut walk));
    // The first change dirties a leaf, its halves' parent, and forests: these are not of the bound.
    let first = apply(&mut world, &changes[..1]);
    first.check(format_args!("the split"));
    let forests = first.peak - 3;
    assert!(forests <= first.forests);
    let rest = apply(&mut world, &changes[1..]);
    let dirtied = first.peak - forests + rest.peak;
    assert_eq!(dirtied, 4);
    assert!(dirtied <= bound, "{dirtied} dirtied, {bound} foreseen");
}
