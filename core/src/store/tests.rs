//! The store against an ordered map, a lying disk, and itself under other caches and paces.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::{Bound, ControlFlow};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

mod bounds;
mod hashing;

use super::walk::{Damage, Walker};
use super::*;
use crate::io::{Address, Effect, IoId, Page, Pages};
use crate::limits::PAGE_SIZE;
use crate::time::Instant;
use zerocopy::FromZeros;

type Keys = BTreeMap<TenantId, PageKey>;

fn keys() -> Keys {
    (0..4u8).map(|tenant| (TenantId::new(tenant.into()), PageKey::new(&[tenant + 1; 32]))).collect()
}

const T1: TenantId = TenantId::new(1);
const TREE: TreeRef = TreeRef::new(T1, TreeId::new(16));

/// A disk in memory: what was written, page by page.
#[derive(Clone, Default)]
struct Disk {
    pages: Vec<[u8; PAGE_SIZE]>,
}

impl Disk {
    fn page_mut(&mut self, page: usize) -> &mut [u8; PAGE_SIZE] {
        while self.pages.len() <= page {
            self.pages.push([0; PAGE_SIZE]);
        }
        &mut self.pages[page]
    }

    fn read(&mut self, at: Address, pages: &mut Pages) {
        for (index, page) in pages.as_mut_slice().iter_mut().enumerate() {
            page.0 = *self.page_mut(at.offset as usize / PAGE_SIZE + index);
        }
    }

    fn write(&mut self, at: Address, pages: &Pages) {
        for (index, page) in pages.as_slice().iter().enumerate() {
            *self.page_mut(at.offset as usize / PAGE_SIZE + index) = page.0;
        }
    }
}

/// How a world treats its store; nothing here may change a result.
#[derive(Clone, Copy)]
struct Habits {
    seed: u64,
    clean_frames: u32,
    evict_all: bool,
    /// Chance in 16 that a turn steps the checkpoint.
    pace: u32,
}

struct World {
    store: Store,
    disk: Disk,
    keys: Keys,
    effects: Effects,
    in_flight: Vec<Effect>,
    random: ChaCha8Rng,
    habits: Habits,
    pins: Pins,
    faults: u64,
    done: Option<StoreCheckpoint>,
    /// Levels at which pages split, and merged.
    splits: BTreeSet<u8>,
    merges: BTreeSet<u8>,
}

const DIRTY_MAX: u32 = 2_048;

fn config(clean: u32) -> StoreConfig {
    StoreConfig {
        file: FileId::Grid,
        frames_max: 2 * DIRTY_MAX + clean,
        dirty_pages_max: DIRTY_MAX,
        grid_pages_max: 1 << 16,
    }
}

impl World {
    fn new(habits: Habits) -> World {
        World {
            store: Store::new(config(habits.clean_frames)),
            disk: Disk::default(),
            keys: keys(),
            effects: Effects::new(),
            in_flight: Vec::new(),
            random: ChaCha8Rng::seed_from_u64(habits.seed),
            habits,
            pins: Pins::new(),
            faults: 0,
            done: None,
            splits: BTreeSet::new(),
            merges: BTreeSet::new(),
        }
    }

    fn drain(&mut self) {
        for effect in self.effects.drain() {
            match effect {
                Effect::Event(Event::PageSplit { level }) => drop(self.splits.insert(level)),
                Effect::Event(Event::PageMerged { level }) => drop(self.merges.insert(level)),
                Effect::Event(_) => {}
                other => self.in_flight.push(other),
            }
        }
    }

    /// Completes one effect in flight, any.
    fn complete(&mut self) -> Result<(), StoreError> {
        self.drain();
        if self.in_flight.is_empty() {
            return Ok(());
        }
        let at = self.random.next_u32() as usize % self.in_flight.len();
        match self.in_flight.swap_remove(at) {
            Effect::Read { io, at, mut pages } => {
                self.disk.read(at, &mut pages);
                self.store.on_read_done(&self.keys, io, pages, Ok(()), &mut self.effects)
            }
            Effect::Write { io, at, pages, .. } => {
                self.disk.write(at, &pages);
                self.store.on_write_done(io, pages, Ok(()))
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn run<T>(&mut self, stage: impl FnMut(&mut Store) -> Result<T, Fault>) -> T {
        self.try_run(stage).expect("no damage in this test")
    }

    fn try_run<T>(
        &mut self,
        mut stage: impl FnMut(&mut Store) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        for _ in 0..1_000 {
            if let Ok(value) = stage(&mut self.store) {
                self.store.unpin(&mut self.pins);
                if self.habits.evict_all {
                    self.store.evict_all();
                }
                if self.random.next_u32() % 16 < self.habits.pace {
                    self.store.checkpoint_step(&self.keys, &mut self.effects)?;
                    self.complete()?;
                }
                return Ok(value);
            }
            self.faults += 1;
            self.store.fetch(&mut self.pins, &mut self.effects);
            loop {
                match self.store.ready(&self.pins) {
                    Ok(true) => break,
                    Ok(false) => self.complete()?,
                    Err(error) => {
                        self.store.unpin(&mut self.pins);
                        return Err(error);
                    }
                }
            }
            if self.habits.evict_all {
                self.store.evict_all();
            }
        }
        panic!("a stage never succeeds");
    }

    fn finish_checkpoint(&mut self) -> StoreCheckpoint {
        loop {
            self.store.checkpoint_step(&self.keys, &mut self.effects).unwrap();
            self.complete().unwrap();
            if let Some(done) = self.store.checkpoint_done() {
                self.done = Some(done);
                return done;
            }
        }
    }

    fn checkpoint(&mut self, op: u64) -> StoreCheckpoint {
        self.store.checkpoint_begin(Op::new(op));
        self.finish_checkpoint()
    }

    fn reopen(&mut self) {
        self.in_flight.clear();
        self.effects = Effects::new();
        self.pins = Pins::new();
        let config = config(self.habits.clean_frames);
        self.store = match &self.done {
            Some(from) => Store::open(config, from, &mut self.effects),
            None => Store::new(config),
        };
        while !self.store.is_open() {
            self.complete().unwrap();
        }
    }

    fn all(&mut self, tree: TreeRef) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut cursor = Cursor::all(Direction::Forward);
        self.run(|store| {
            let flow = store.scan(tree, &mut cursor, |key, value| {
                assert!(all.insert(key.to_vec(), value.to_vec()).is_none());
                ControlFlow::Continue(())
            })?;
            assert!(flow.is_continue());
            Ok(())
        });
        all
    }
}

/// Walks a checkpoint on disk; the pages reached.
fn walk(disk: &Disk, from: &StoreCheckpoint) -> (Walker, Vec<Damage>) {
    let keys = keys();
    let mut walker = Walker::new(from);
    let mut damages = Vec::new();
    while let Some(wanted) = walker.wanted() {
        let mut page = Pages::zeroed(1);
        if let Some(bytes) = disk.pages.get(wanted.at.page.get() as usize) {
            page.as_mut_slice()[0].0 = *bytes;
        }
        if let Err(damage) = walker.give(&keys, &wanted, &mut page.as_mut_slice()[0]) {
            damages.push(damage);
        }
    }
    (walker, damages)
}

/// Every page below the end is reached, free, or staged for this checkpoint.
fn check_checkpoint(world: &World, from: &StoreCheckpoint) {
    let (walker, damages) = walk(&world.disk, from);
    assert_eq!(damages, []);
    let mut fresh = World::new(world.habits);
    fresh.disk = world.disk.clone();
    fresh.done = Some(*from);
    fresh.reopen();
    let staged: BTreeSet<PageNumber> = fresh.store.free_set.staged().collect();
    for page in 1..from.grid_pages {
        let page = PageNumber::new(page);
        let used = walker.reached(page);
        assert_eq!(
            fresh.store.free_set.is_acquired(page),
            used || staged.contains(&page),
            "{page:?} leaked or lost"
        );
        assert!(!(used && staged.contains(&page)), "{page:?} is in use and staged");
    }
}

#[derive(Clone, Copy, Debug)]
enum KeyStyle {
    Random,
    Sequential,
    /// Long common prefixes, up to the largest size.
    Long,
    /// Few distinct keys.
    Few,
}

fn draw_key(random: &mut ChaCha8Rng, style: KeyStyle, next: &mut u64) -> Vec<u8> {
    match style {
        KeyStyle::Random => {
            random.next_u64().to_be_bytes()[..1 + random.next_u32() as usize % 8].to_vec()
        }
        KeyStyle::Sequential => {
            *next += 1;
            let back =
                if random.next_u32().is_multiple_of(4) { random.next_u64() % *next } else { 0 };
            (*next - back).to_be_bytes().to_vec()
        }
        KeyStyle::Long => {
            let mut key = vec![7; random.next_u32() as usize % KEY_SIZE_MAX];
            if random.next_u32().is_multiple_of(2) {
                key.resize(KEY_SIZE_MAX - 2, 7);
            }
            key.extend((random.next_u32() as u16 % 300).to_be_bytes());
            key.truncate(KEY_SIZE_MAX);
            key
        }
        KeyStyle::Few => vec![random.next_u32() as u8 % 16; random.next_u32() as usize % 3],
    }
}

fn draw_value(random: &mut ChaCha8Rng) -> Vec<u8> {
    let size = match random.next_u32() % 64 {
        0 => random.next_u32() as usize % 60_000,
        1..6 => random.next_u32() as usize % 6_000,
        6..20 => random.next_u32() as usize % 1_100,
        _ => random.next_u32() as usize % 200,
    };
    vec![random.next_u32() as u8; size]
}

/// One op of a script: the same for every world that plays it.
#[derive(Clone, Debug)]
enum Op1 {
    Put(TreeRef, Vec<u8>, Vec<u8>),
    Remove(TreeRef, Vec<u8>),
    Checkpoint,
    Durable,
}

/// `often`: a checkpoint every few ops, so that nearly all pages are clean, and evictable.
fn script(seed: u64, length: usize, often: bool) -> Vec<Op1> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let styles = [KeyStyle::Random, KeyStyle::Sequential, KeyStyle::Long, KeyStyle::Few];
    let trees = trees();
    let mut next = [0; 6];
    let mut live: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut ops = Vec::new();
    let mut shrinking = false;
    for _ in 0..length {
        if random.next_u32().is_multiple_of(400) {
            shrinking = !shrinking;
        }
        let tree = random.next_u32() as usize % trees.len();
        if often && random.next_u32().is_multiple_of(3) {
            ops.push(Op1::Checkpoint);
            ops.push(Op1::Durable);
        }
        match random.next_u32() % 100 {
            0 => ops.push(Op1::Checkpoint),
            1 | 2 => ops.push(Op1::Durable),
            roll if roll < if shrinking { 60 } else { 20 } && !live.is_empty() => {
                let at = random.next_u32() as usize % live.len();
                let (tree, key) = live.swap_remove(at);
                ops.push(Op1::Remove(trees[tree], key));
            }
            3..6 => {
                let key = draw_key(&mut random, styles[tree % 4], &mut next[tree]);
                ops.push(Op1::Remove(trees[tree], key));
            }
            _ => {
                let key = draw_key(&mut random, styles[tree % 4], &mut next[tree]);
                live.push((tree, key.clone()));
                ops.push(Op1::Put(trees[tree], key, draw_value(&mut random)));
            }
        }
    }
    ops
}

fn trees() -> Vec<TreeRef> {
    let tree = |tenant, tree| TreeRef::new(TenantId::new(tenant), TreeId::new(tree));
    vec![tree(1, 16), tree(1, 17), tree(2, 16), tree(0, 1), tree(2, 1), tree(1, 3)]
}

type Model = BTreeMap<TreeRef, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Plays a script; crashes (reopens at the last checkpoint and replays) where `crash` says so.
struct Player {
    world: World,
    model: Model,
    /// Index of the op at which the last durable and the running checkpoint were begun.
    base: usize,
    running: Option<usize>,
    /// Ops at which the crash-free run learned that a checkpoint was done, and announced it.
    durable: BTreeMap<usize, Op>,
    /// The model as it was when a checkpoint began, by the index of the op after.
    models: BTreeMap<usize, Model>,
}

impl Player {
    fn new(habits: Habits) -> Player {
        let mut world = World::new(habits);
        create_trees(&mut world);
        Player {
            world,
            model: empty_model(),
            base: 0,
            running: None,
            durable: BTreeMap::new(),
            models: BTreeMap::new(),
        }
    }

    fn step(&mut self, index: usize, op: &Op1, check: bool) {
        let world = &mut self.world;
        match op {
            Op1::Put(tree, key, value) => {
                let replaced = world.run(|store| store.put(*tree, key, value));
                let Some(model) = self.model.get_mut(tree) else { panic!() };
                let before = model.insert(key.clone(), value.clone());
                assert_eq!(replaced, before.is_some());
                if check {
                    let got = world.run(|store| Ok(store.get(*tree, key)?.map(|v| v.to_vec())));
                    assert_eq!(got.as_deref(), Some(value.as_slice()));
                }
            }
            Op1::Remove(tree, key) => {
                let removed = world.run(|store| store.remove(*tree, key));
                let Some(model) = self.model.get_mut(tree) else { panic!() };
                assert_eq!(removed, model.remove(key).is_some());
            }
            Op1::Checkpoint => {
                // As the node does: the one before is done, and announced, first.
                if let Some(begun) = self.running.take() {
                    world.finish_checkpoint();
                    self.base = begun + 1;
                }
                if let Some(done) = world.done {
                    world.store.checkpoint_durable_applied(done.op);
                }
                world.store.checkpoint_begin(Op::new(index as u64 + 1));
                self.running = Some(index);
                self.models.insert(index + 1, self.model.clone());
            }
            // A function of the script, not of who is how far: all worlds finish first.
            Op1::Durable => {
                if let Some(begun) = self.running.take() {
                    let done = world.finish_checkpoint();
                    assert_eq!(done.op, Op::new(begun as u64 + 1));
                    self.base = begun + 1;
                    self.durable.insert(index, done.op);
                }
                if let Some(done) = world.done {
                    world.store.checkpoint_durable_applied(done.op);
                }
            }
        }
    }

    fn check_all(&mut self) {
        for tree in trees() {
            let model = self.model[&tree].clone();
            assert_eq!(self.world.all(tree), model);
            let count = self.world.run(|store| store.count(tree));
            assert_eq!(count, model.len() as u64);
        }
    }
}

fn empty_model() -> Model {
    trees().into_iter().map(|tree| (tree, BTreeMap::new())).collect()
}

fn create_trees(world: &mut World) {
    world.run(|store| store.create_tenant(T1));
    world.run(|store| store.create_tenant(TenantId::new(2)));
    for tree in trees() {
        world.run(|store| store.create_tree(tree));
    }
}

fn habits(seed: u64, clean_frames: u32, evict_all: bool, pace: u32) -> Habits {
    Habits { seed, clean_frames, evict_all, pace }
}

#[test]
fn agrees_with_an_ordered_map_with_a_fault_at_every_page() {
    (0..3).for_each(agree_with_a_map);
}

fn agree_with_a_map(seed: u64) {
    std::println!("seed {seed}");
    let mut player = Player::new(habits(seed, 64, true, 8));
    for (index, op) in script(seed, 2_000, true).iter().enumerate() {
        player.step(index, op, true);
        if index % 500 == 499 {
            player.check_all();
        }
    }
    assert!(player.world.faults > 1_000, "{} faults", player.world.faults);
    let begun = player.running.is_some();
    let done = if begun { player.world.finish_checkpoint() } else { player.world.done.unwrap() };
    player.world.done = Some(done);
    check_checkpoint(&player.world, &done);
    let done = player.world.checkpoint(1_000_000);
    check_checkpoint(&player.world, &done);
    player.world.reopen();
    player.check_all();
}

#[test]
fn every_kind_of_key_grows_and_shrinks_to_nothing() {
    (0..4).for_each(grow_and_shrink);
}

fn grow_and_shrink(seed: u64) {
    let styles = [KeyStyle::Random, KeyStyle::Sequential, KeyStyle::Long, KeyStyle::Few];
    let style = styles[seed as usize % styles.len()];
    let mut world = World::new(habits(seed, 64, seed % 2 == 1, 4));
    create_trees(&mut world);
    let before = world.store.free_set.acquired();
    let mut random = ChaCha8Rng::seed_from_u64(300 + seed);
    let (mut model, mut next, mut op) = (BTreeMap::new(), 0, 0);
    for phase in 0..4 {
        for _ in 0..2_000 {
            let key = draw_key(&mut random, style, &mut next);
            if random.next_u32() % 8 < if phase % 2 == 0 { 7 } else { 2 } {
                let size = random.next_u32() as usize % if phase == 0 { 1_100 } else { 90 };
                let value = vec![phase as u8; size];
                world.run(|store| store.put(TREE, &key, &value));
                model.insert(key, value);
            } else {
                // A neighbour, which exists more often than the key itself.
                let key = model.range(key..).next().map(|(key, _)| key.clone());
                let Some(key) = key else { continue };
                assert!(world.run(|store| store.remove(TREE, &key)));
                model.remove(&key);
            }
            if random.next_u32().is_multiple_of(300) && !world.store.checkpoint_under_way() {
                op += 1;
                let done = world.checkpoint(op);
                world.store.checkpoint_durable_applied(done.op);
            }
        }
        assert_eq!(world.all(TREE), model);
    }
    let keys: Vec<_> = model.keys().cloned().collect();
    let middle = keys.len() / 2;
    for key in keys[middle..].iter().chain(keys[..middle].iter().rev()) {
        assert!(world.run(|store| store.remove(TREE, key)));
    }
    assert_eq!(world.run(|store| store.count(TREE)), 0);
    for _ in 0..3 {
        op += 1;
        let done = world.checkpoint(op);
        check_checkpoint(&world, &done);
        world.store.checkpoint_durable_applied(done.op);
    }
    // The free set's own page is the only one more than at the start.
    assert_eq!(world.store.free_set.acquired(), before + 1);
    if matches!(style, KeyStyle::Long) {
        assert!(world.splits.len() > 2 && world.merges.len() > 1, "tall trees were met");
    }
}

#[test]
fn twins_with_other_caches_and_paces_write_the_same_bytes() {
    // 1003: a merge took unresolved references out of a frozen page.
    (1_000..1_004).for_each(compare_twins);
}

fn compare_twins(seed: u64) {
    std::println!("seed {seed}");
    let ops = script(seed, 3_000, seed.is_multiple_of(2));
    let mut left = Player::new(habits(seed, 64, true, 16));
    let mut right = Player::new(habits(seed + 1, 4_000, false, 1));
    let mut compared = 0;
    for (index, op) in ops.iter().enumerate() {
        left.step(index, op, false);
        right.step(index, op, false);
        assert_eq!(left.world.store.dirty_pages(), right.world.store.dirty_pages());
        if matches!(op, Op1::Durable) && left.durable.contains_key(&index) {
            compare_checkpoints(&left.world, &right.world);
            compared += 1;
        }
    }
    assert!(compared > 5);
    left.check_all();
    right.check_all();
}

fn compare_checkpoints(left: &World, right: &World) {
    let (Some(a), Some(b)) = (left.done, right.done) else { panic!("both are done") };
    assert_eq!(a, b);
    let (walker, damages) = walk(&left.disk, &a);
    assert_eq!(damages, []);
    for page in 1..a.grid_pages {
        if walker.reached(PageNumber::new(page)) {
            assert!(
                left.disk.pages[page as usize] == right.disk.pages[page as usize],
                "page {page}"
            );
        }
    }
}

#[test]
fn a_crash_anywhere_replays_to_the_same_grid() {
    (2_000..2_003).for_each(crash_anywhere);
}

fn crash_anywhere(seed: u64) {
    std::println!("seed {seed}");
    let ops = script(seed, 2_500, seed.is_multiple_of(2));
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut steady = Player::new(habits(seed, 512, false, 4));
    let mut crashing = Player::new(habits(seed, 512, false, 4));
    let mut crashes = 0;
    let mut at = 0;
    let mut reached = 0;
    while at < ops.len() {
        if at == reached {
            steady.step(at, &ops[at], false);
            reached += 1;
        }
        crashing.step(at, &ops[at], false);
        at += 1;
        if matches!(ops[at - 1], Op1::Durable)
            && at == reached
            && let (Some(a), Some(b)) = (steady.world.done, crashing.world.done)
        {
            assert_eq!(a, b);
        }
        if random.next_u32().is_multiple_of(60) {
            crashes += 1;
            crashing.world.reopen();
            crashing.running = None;
            at = crashing.base;
            if crashing.world.done.is_none() {
                create_trees(&mut crashing.world);
                at = 0;
            }
            crashing.model = crashing.models.get(&at).cloned().unwrap_or_else(empty_model);
        }
    }
    assert!(crashes > 10);
    crashing.check_all();
    if let Some(done) = crashing.world.done {
        check_checkpoint(&crashing.world, &done);
    }
}

/// Each seed in every way: `VERITY_SEEDS=A..B cargo test -p verity-core --lib store_campaign --
/// --ignored --nocapture`. The last seed that is named is the one that failed.
#[test]
#[ignore = "as many seeds as it is given"]
fn store_campaign() {
    let range = std::env::var("VERITY_SEEDS").unwrap_or_else(|_| "10000..10004".into());
    let bounds = range.split_once("..").map(|(first, last)| (first.parse(), last.parse()));
    let Some((Ok(first), Ok(last))) = bounds else { panic!("VERITY_SEEDS=A..B") };
    assert!(first < last, "VERITY_SEEDS={range} names none");
    for seed in first..last {
        for play in [agree_with_a_map, grow_and_shrink, compare_twins, crash_anywhere] {
            play(seed);
        }
    }
    std::println!("{} seeds from {first} held", last - first);
}

#[test]
fn rank_nth_and_ranges_agree_with_the_model() {
    let mut world = World::new(habits(1, 64, true, 0));
    create_trees(&mut world);
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut model = BTreeMap::new();
    for _ in 0..3_000 {
        let key = (random.next_u32() % 100_000).to_be_bytes().to_vec();
        let value = vec![1; random.next_u32() as usize % 90];
        world.run(|store| store.put(TREE, &key, &value));
        model.insert(key, value);
    }
    world.checkpoint(1);
    let sorted: Vec<_> = model.iter().collect();
    for _ in 0..500 {
        let key = (random.next_u32() % 100_000).to_be_bytes();
        let rank = model.range(..key.to_vec()).count() as u64;
        assert_eq!(world.run(|store| store.rank(TREE, &key)), rank);
        let nth = random.next_u64() % (model.len() as u64 + 2);
        let got = world.run(|store| {
            Ok(store.nth(TREE, nth)?.map(|(key, value)| (key.to_vec(), value.to_vec())))
        });
        let expected = sorted.get(nth as usize).map(|(k, v)| ((*k).clone(), (*v).clone()));
        assert_eq!(got, expected);
    }
    for round in 0..400 {
        let bound = |random: &mut ChaCha8Rng| {
            let key = (random.next_u32() % 100_000).to_be_bytes().to_vec();
            match random.next_u32() % 5 {
                0 => Bound::Unbounded,
                1 | 2 => Bound::Included(key),
                _ => Bound::Excluded(key),
            }
        };
        let (low, high) = (bound(&mut random), bound(&mut random));
        let limit = if round % 2 == 0 { usize::MAX } else { random.next_u32() as usize % 50 };
        for direction in [Direction::Forward, Direction::Reverse] {
            let inside = |key: &Vec<u8>| {
                use core::ops::RangeBounds;
                (low.as_ref(), high.as_ref()).contains(&key)
            };
            let mut expected: Vec<_> = model.keys().filter(|key| inside(key)).cloned().collect();
            if direction == Direction::Reverse {
                expected.reverse();
            }
            expected.truncate(limit);
            let slice = |bound: &Bound<Vec<u8>>| bound.clone();
            let (low, high) = (slice(&low), slice(&high));
            let mut cursor = Cursor::new(
                low.as_ref().map(Vec::as_slice),
                high.as_ref().map(Vec::as_slice),
                direction,
            );
            let mut got: Vec<Vec<u8>> = Vec::new();
            if limit > 0 {
                let _ = world.run(|store| {
                    store.scan(TREE, &mut cursor, |key, _| {
                        got.push(key.to_vec());
                        if got.len() == limit {
                            ControlFlow::Break(())
                        } else {
                            ControlFlow::Continue(())
                        }
                    })
                });
            }
            assert_eq!(got, expected);
        }
    }
}

#[test]
fn sequential_inserts_leave_full_pages_and_removal_gives_them_back() {
    let mut world = World::new(habits(1, 512, false, 0));
    create_trees(&mut world);
    let before = world.store.free_set.acquired();
    for key in 0..20_000u64 {
        world.run(|store| store.put(TREE, &key.to_be_bytes(), &[7; 250]));
    }
    let pages = world.store.free_set.acquired() - before;
    // 15 entries of 268 bytes a leaf, 54 children an inner page.
    assert!(pages < 20_000 / 15 + 20_000 / 15 / 40 + 5, "{pages} pages");
    for key in (0..20_000u64).rev().step_by(2).chain((0..20_000).step_by(2)) {
        assert!(world.run(|store| store.remove(TREE, &key.to_be_bytes())));
    }
    assert_eq!(world.run(|store| store.count(TREE)), 0);
    assert_eq!(world.store.free_set.acquired(), before);
}

#[test]
fn dropping_a_tree_frees_all_of_it() {
    let mut world = World::new(habits(1, 64, true, 0));
    create_trees(&mut world);
    world.checkpoint(1);
    world.store.checkpoint_durable_applied(Op::new(1));
    let empty = world.store.free_set.acquired();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for key in 0..3_000u32 {
        let value = draw_value(&mut random);
        world.run(|store| store.put(TREE, &key.to_be_bytes(), &value));
        if key == 1_500 {
            let done = world.checkpoint(2);
            world.store.checkpoint_durable_applied(done.op);
        }
    }
    let mut steps = 0;
    while world.run(|store| store.drop_step(TREE)) != Dropped::Done {
        steps += 1;
        assert!(!world.run(|store| store.tree_exists(TREE)));
        if steps % 50 == 0 {
            let done = world.checkpoint(2 + steps);
            world.store.checkpoint_durable_applied(done.op);
            world.reopen();
            world.store.checkpoint_durable_applied(done.op);
        }
    }
    assert!(steps > 100);
    for op in 10_000..10_002 {
        let done = world.checkpoint(op);
        world.store.checkpoint_durable_applied(done.op);
    }
    check_checkpoint(&world, &world.done.unwrap());
    assert_eq!(world.store.free_set.acquired(), empty);
    world.run(|store| store.create_tree(TREE));
    assert_eq!(world.run(|store| store.count(TREE)), 0);
}

#[test]
fn a_damaged_page_is_named_and_never_believed() {
    let mut world = World::new(habits(1, 64, true, 0));
    create_trees(&mut world);
    for key in 0..2_000u32 {
        world.run(|store| store.put(TREE, &key.to_be_bytes(), &[7; 100]));
    }
    let done = world.checkpoint(1);
    let whole = world.disk.clone();
    let mut named = 0;
    for page in 1..done.grid_pages as usize {
        world.disk = whole.clone();
        let (walker, _) = walk(&whole, &done);
        if !walker.reached(PageNumber::new(page as u32)) {
            continue;
        }
        world.disk.pages[page][page * 31 % PAGE_SIZE] ^= 4;
        let (_, damages) = walk(&world.disk, &done);
        assert_eq!(damages.len(), 1);
        let Damage::Page(StoreError::Corrupt { page: found, .. }) = damages[0] else { panic!() };
        assert_eq!(found.get() as usize, page);
        // A read that needs it gets the typed error; all other reads are right.
        for key in (0..2_000u32).step_by(97) {
            let read =
                world.try_run(|store| Ok(store.get(TREE, &key.to_be_bytes())?.map(|v| v.to_vec())));
            match read {
                Ok(value) => assert_eq!(value, Some(vec![7; 100])),
                Err(StoreError::Corrupt { page: found, .. }) => {
                    assert_eq!(found.get() as usize, page);
                    named += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(named > 20);
    // A page of the checkpoint before, put back, is as bad: its tag is another.
    world.disk = whole.clone();
    world.run(|store| store.put(TREE, &5u32.to_be_bytes(), &[8; 100]));
    world.store.checkpoint_durable_applied(Op::new(1));
    let second = world.checkpoint(2);
    let mut stale = world.disk.clone();
    for (page, bytes) in whole.pages.iter().enumerate() {
        stale.pages[page] = *bytes;
    }
    let (_, damages) = walk(&world.disk, &second);
    assert_eq!(damages, []);
    assert!(stale.pages.len() >= whole.pages.len());
}

/// A damaged page is asked of a peer; what does not open it is refused, what does is written, and
/// whoever waits goes on.
#[test]
fn a_damaged_page_is_repaired_and_whoever_waits_goes_on() {
    let mut world = World::new(habits(1, 64, true, 0));
    create_trees(&mut world);
    for key in 0..2_000u32 {
        world.run(|store| store.put(TREE, &key.to_be_bytes(), &[7; 100]));
    }
    let done = world.checkpoint(1);
    let peer = world.disk.clone();
    world.store.repair_from_peers();
    for page in 1..done.grid_pages as usize {
        world.disk.pages[page][100] ^= 4;
    }
    let mut repaired = 0;
    let now = |ms: u64| Instant(ms * 1_000_000);
    for key in (0..2_000u32).step_by(97) {
        let get = |store: &Store| {
            Ok::<_, Fault>(store.get(TREE, &key.to_be_bytes())?.map(|value| value.to_vec()))
        };
        let value = loop {
            match get(&world.store) {
                Ok(value) => break value,
                Err(_) => world.store.fetch(&mut world.pins, &mut world.effects),
            }
            while !world.store.ready(&world.pins).unwrap() {
                world.complete().unwrap();
                let wanted = world.store.repairs_wanted(now(repaired), 1);
                for at in wanted {
                    let number = at.page.get() as usize;
                    let mut page = Page::new_zeroed();
                    page.0 = world.disk.pages[number];
                    let World { store, keys, effects, .. } = &mut world;
                    assert!(!store.repair(keys, at.page, &page, effects), "damaged there too");
                    page.0 = peer.pages[number];
                    assert!(store.repair(keys, at.page, &page, effects));
                    assert!(!store.repair(keys, at.page, &page, effects), "once");
                    repaired += 1;
                }
            }
        };
        assert_eq!(value, Some(vec![7; 100]));
        world.store.unpin(&mut world.pins);
        world.store.evict_all();
    }
    assert!(repaired > 20, "{repaired}");
    assert!(!world.store.is_repairing());
    let (_, damages) = walk(&world.disk, &done);
    assert!(damages.len() < done.grid_pages as usize - repaired as usize);
}

/// What a peer is given is on the disk, and stays as it is while it is read.
#[test]
fn a_page_is_not_written_while_it_is_read_for_a_peer() {
    let mut world = World::new(habits(1, 64, false, 0));
    create_trees(&mut world);
    for key in 0..500u32 {
        world.run(|store| store.put(TREE, &key.to_be_bytes(), &[7; 100]));
    }
    let serve = |world: &mut World, page: u32| {
        world.store.serve_page(PageNumber::new(page), &mut world.effects)
    };
    assert_eq!(serve(&mut world, 3), None, "only in memory");
    let first = world.checkpoint(1);
    assert_eq!(serve(&mut world, 0), None);
    assert_eq!(serve(&mut world, first.grid_pages), None, "free");
    // Every page of the checkpoint changes, so its pages are given out again two checkpoints later.
    for op in 2..5 {
        for key in 0..500u32 {
            world.run(|store| store.put(TREE, &key.to_be_bytes(), &[op as u8; 100]));
        }
        let reads: Vec<IoId> =
            (1..first.grid_pages).filter_map(|page| serve(&mut world, page)).collect();
        world.drain();
        let held: Vec<Effect> = world.in_flight.drain(..).collect();
        let reading = |effect: &Effect| match effect {
            Effect::Read { at, .. } => at.offset / PAGE_SIZE as u64,
            other => panic!("{other:?}"),
        };
        let being_read: BTreeSet<u64> = held.iter().map(reading).collect();
        world.store.checkpoint_begin(Op::new(op));
        for _ in 0..200 {
            world.store.checkpoint_step(&world.keys, &mut world.effects).unwrap();
            world.drain();
            for effect in &world.in_flight {
                let Effect::Write { at, pages, .. } = effect else { panic!("{effect:?}") };
                let first = at.offset / PAGE_SIZE as u64;
                let written = first..first + pages.count() as u64;
                assert!(written.into_iter().all(|page| !being_read.contains(&page)));
            }
            world.complete().unwrap();
        }
        for io in reads {
            assert!(world.store.is_served(io));
            assert!(world.store.served(io, Ok(())).unwrap());
        }
        let done = world.finish_checkpoint();
        world.store.checkpoint_durable_applied(done.op);
    }
    check_checkpoint(&world, &world.done.unwrap());
}

#[test]
fn two_tasks_share_a_read_and_errors_reach_both() {
    let mut world = World::new(habits(1, 64, true, 0));
    create_trees(&mut world);
    for key in 0..500u32 {
        world.run(|store| store.put(TREE, &key.to_be_bytes(), &[7; 100]));
    }
    world.checkpoint(1);
    world.store.evict_all();
    let (mut one, mut two) = (Pins::new(), Pins::new());
    let key = 250u32.to_be_bytes();
    loop {
        let (a, b) = (world.store.contains(TREE, &key), world.store.contains(TREE, &key));
        assert_eq!(a, b);
        if a == Ok(true) {
            break;
        }
        // Misses of the first run are the first task's; the second runs again after.
        world.store.fetch(&mut one, &mut world.effects);
        assert!(world.store.contains(TREE, &key).is_err());
        world.store.fetch(&mut two, &mut world.effects);
        world.drain();
        assert_eq!(world.in_flight.len(), 1, "one read for both");
        assert_eq!(world.store.ready(&one), Ok(false));
        world.complete().unwrap();
        world.store.evict_all();
        assert_eq!((world.store.ready(&one), world.store.ready(&two)), (Ok(true), Ok(true)));
    }
    world.store.unpin(&mut one);
    world.store.evict_all();
    assert_eq!(world.store.contains(TREE, &key), Ok(true), "still pinned by the other");
    world.store.unpin(&mut two);
    world.store.evict_all();
    assert!(world.store.contains(TREE, &key).is_err());
    // A device error reaches the task, and the replica.
    world.store.fetch(&mut one, &mut world.effects);
    world.drain();
    let Some(Effect::Read { io, pages, .. }) = world.in_flight.pop() else { panic!() };
    let io: IoId = io;
    let error = Err(StoreError::Io(IoError::Device));
    let result = Err(IoError::Device);
    assert_eq!(
        world.store.on_read_done(&world.keys, io, pages, result, &mut world.effects),
        error.map(|_: bool| ())
    );
    assert_eq!(world.store.ready(&one), error);
    world.store.unpin(&mut one);
}

#[test]
fn digest_covers_contents_not_shape() {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> =
        (0..2_000u32).map(|key| (key.to_be_bytes().to_vec(), draw_value(&mut random))).collect();
    let digest = |pairs: &[(Vec<u8>, Vec<u8>)], slice: usize| {
        let mut world = World::new(habits(1, 64, slice == 1, 0));
        create_trees(&mut world);
        for (at, (key, value)) in pairs.iter().enumerate() {
            world.run(|store| store.put(TREE, key, value));
            if at == 700 {
                world.checkpoint(1);
            }
        }
        let mut task = DigestTask::new(TREE);
        loop {
            if let Some(hash) = world.run(|store| store.digest(&mut task, slice)) {
                return hash;
            }
        }
    };
    let first = digest(&pairs, 1);
    pairs.reverse();
    assert_eq!(digest(&pairs, 100_000), first);
    if let Some(last) = pairs.last_mut() {
        last.1.push(1);
    }
    assert_ne!(digest(&pairs, 7), first);
}

/// Shape, page layout, sealing and allocation in one number. If it changes, data directories of
/// earlier releases are no longer read, or replicas of two releases no longer agree: then it needs
/// a new format or shape version, not a new number here.
#[test]
fn the_grid_of_a_known_script_never_changes() {
    let mut player = Player::new(habits(1, 512, false, 4));
    for (index, op) in script(42, 1_500, false).iter().enumerate() {
        player.step(index, op, false);
    }
    if player.running.is_some() {
        player.world.finish_checkpoint();
    }
    let done = player.world.checkpoint(10_000);
    let (walker, damages) = walk(&player.world.disk, &done);
    assert_eq!(damages, []);
    let mut hasher = crate::crypto::InternalHasher::new(crate::crypto::InternalDomain::Fingerprint);
    for page in 1..done.grid_pages {
        if walker.reached(PageNumber::new(page)) {
            hasher.update(&page.to_le_bytes());
            hasher.update(&player.world.disk.pages[page as usize]);
        }
    }
    let expected = expect_test::expect![
        "(235, 529) [120, 47, 251, 185, 190, 194, 253, 27, 199, 2, 180, 63, 187, 208, 230, 153, 140, 135, 23, 7, 199, 217, 201, 14, 89, 175, 195, 65, 100, 212, 229, 39]"
    ];
    expected.assert_eq(&std::format!("{:?} {:?}", walker.progress(), hasher.finish().0));
}

/// What passes the check of a page can be read without a panic, whatever it is.
#[test]
fn pages_that_pass_their_check_can_be_read() {
    let mut page = [0; PAGE_SIZE];
    page::init(&mut page, crate::ids::PageNumber::new(9), page::Kind::Leaf, 0, TREE);
    for (index, key) in [b"alpha".as_slice(), b"alpine", b"beta"].into_iter().enumerate() {
        let fixed = page::leaf_fixed(false, 5);
        page::insert(&mut page, index, &page::Entry { fixed: &fixed, key, tail: b"value" });
    }
    assert_eq!(page::check(&page), Ok(()));
    let seed = page;
    bolero::check!().with_iterations(20_000).with_max_len(24).for_each(|script: &[u8]| {
        let mut page = seed;
        for step in script.chunks_exact(3) {
            // The header and the slots, mostly: that is where offsets are.
            let at = usize::from(step[0]) % 64 + usize::from(step[1] % 2) * (PAGE_SIZE - 64);
            page[at] = step[2];
        }
        if page::check(&page).is_err() {
            return;
        }
        let _ = page::header(&page);
        let entries = matches!(page::header(&page), Some(header)
            if matches!(header.kind, page::Kind::Leaf | page::Kind::Inner));
        if !entries {
            return;
        }
        for index in 0..page::count(&page) {
            let _ = (page::key(&page, index).len(), page::entry_size(&page, index));
        }
        for key in [b"".as_slice(), b"alp", b"alpha", b"alpine", b"zz"] {
            let (index, exact) = page::lower_bound(&page, key);
            assert!(index <= page::count(&page) && (!exact || page::key(&page, index) == key));
        }
    });
}
