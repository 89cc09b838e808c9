//! Logical hashes against a tree of vectors that follows `docs/PROOFS.md` word by word.

use sha2::{Digest, Sha256};

use super::*;
use crate::crypto::commitment::LeafSaltKey;

const SALT_KEYS: [u8; 4] = [11, 12, 13, 14];

impl LeafSalts for BTreeMap<TenantId, LeafSaltKey> {
    fn leaf_salt_key(&self, tenant: TenantId) -> Option<&LeafSaltKey> {
        self.get(&tenant)
    }
}

fn salts() -> BTreeMap<TenantId, LeafSaltKey> {
    let key =
        |tenant: u64| (TenantId::new(tenant), LeafSaltKey::new([SALT_KEYS[tenant as usize]; 32]));
    (0..4).map(key).collect()
}

type Hash = [u8; 32];

fn sha(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

fn rfc_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha(&[]),
        [leaf] => *leaf,
        _ => {
            let mut left = 1;
            while left * 2 < leaves.len() {
                left *= 2;
            }
            sha(&[&[1], &rfc_root(&leaves[..left]), &rfc_root(&leaves[left..])])
        }
    }
}

/// What the value of an entry is hashed as.
#[derive(Clone, Copy)]
enum Kind {
    Plain,
    Rows,
    /// The value here is the digest.
    Roots,
}

#[derive(Clone)]
enum Page {
    Leaf(Vec<(Vec<u8>, Vec<u8>)>),
    Inner(Vec<(Vec<u8>, Page)>),
}

const FULL: usize = 4_064;

impl Page {
    fn used(&self) -> usize {
        match self {
            Page::Leaf(entries) => entries.iter().map(leaf_size).sum(),
            Page::Inner(children) => children.iter().map(|child| 76 + child.0.len()).sum(),
        }
    }

    fn level(&self) -> u8 {
        match self {
            Page::Leaf(_) => 0,
            Page::Inner(children) => children[0].1.level() + 1,
        }
    }

    fn count(&self) -> u64 {
        match self {
            Page::Leaf(entries) => entries.len() as u64,
            Page::Inner(children) => children.iter().map(|child| child.1.count()).sum(),
        }
    }

    fn hash(&self, tree: TreeRef, kind: Kind) -> Hash {
        let entries: Vec<Hash> = match self {
            Page::Leaf(entries) => entries
                .iter()
                .map(|(key, value)| {
                    let salt_key = [SALT_KEYS[tree.tenant.get() as usize]; 32];
                    let mut named = tree.tree.get().to_le_bytes().to_vec();
                    named.extend(key);
                    let salts = *blake3::keyed_hash(&salt_key, &named).as_bytes();
                    let digest = match kind {
                        Kind::Plain => sha(&[&[9], &salts[16..], value]),
                        Kind::Rows => sha(&[&[8], &value[40..72], &value[..8], &value[8..40]]),
                        Kind::Roots => value[..32].try_into().unwrap(),
                    };
                    sha(&[&[0], &salts[..16], &tree.tree.get().to_le_bytes(), key, &digest])
                })
                .collect(),
            Page::Inner(children) => children
                .iter()
                .map(|(_, child)| {
                    sha(&[&[6], &child.hash(tree, kind), &child.count().to_le_bytes()])
                })
                .collect(),
        };
        let count = (entries.len() as u16).to_le_bytes();
        sha(&[&[7, self.level()], &count, &rfc_root(&entries)])
    }
}

fn leaf_size(entry: &(Vec<u8>, Vec<u8>)) -> usize {
    10 + entry.0.len() + stored(entry.1.len())
}

fn stored(size: usize) -> usize {
    if size > 1_024 { 32 } else { size }
}

/// Where a list of sizes is cut.
fn cut(sizes: &[usize], new: usize, replaces: bool) -> usize {
    if new + 1 == sizes.len() && !replaces {
        return new;
    }
    let larger = |at: usize| {
        let left: usize = sizes[..at].iter().sum();
        left.max(sizes.iter().sum::<usize>() - left)
    };
    (1..sizes.len()).rev().min_by_key(|&at| larger(at)).unwrap()
}

enum Done {
    /// Nothing more to do above.
    Nothing,
    /// The merge rule is due.
    Smaller,
    Split(Vec<u8>, Page),
}

fn put(page: &mut Page, key: &[u8], value: &[u8]) -> Done {
    match page {
        Page::Leaf(entries) => {
            let found = entries.binary_search_by(|entry| entry.0.as_slice().cmp(key));
            let entry = (key.to_vec(), value.to_vec());
            let at = match found {
                Ok(at) if stored(entries[at].1.len()) == stored(value.len()) => {
                    entries[at] = entry;
                    return Done::Nothing;
                }
                Ok(at) => {
                    let smaller = stored(value.len()) < stored(entries[at].1.len());
                    entries[at] = entry;
                    if smaller {
                        return Done::Smaller;
                    }
                    at
                }
                Err(at) => {
                    entries.insert(at, entry);
                    at
                }
            };
            if entries.iter().map(leaf_size).sum::<usize>() <= FULL {
                return Done::Nothing;
            }
            let sizes: Vec<usize> = entries.iter().map(leaf_size).collect();
            let right = entries.split_off(cut(&sizes, at, found.is_ok()));
            let (left, first) = (&entries.last().unwrap().0, &right[0].0);
            let shared = left.iter().zip(first).take_while(|(a, b)| a == b).count();
            Done::Split(first[..=shared].to_vec(), Page::Leaf(right))
        }
        Page::Inner(children) => {
            let at = children.partition_point(|child| child.0.as_slice() <= key).max(1) - 1;
            match put(&mut children[at].1, key, value) {
                Done::Nothing => Done::Nothing,
                Done::Smaller if merge(children, at) => Done::Smaller,
                Done::Smaller => Done::Nothing,
                Done::Split(separator, right) => {
                    children.insert(at + 1, (separator, right));
                    let sizes: Vec<usize> =
                        children.iter().map(|child| 76 + child.0.len()).collect();
                    if sizes.iter().sum::<usize>() <= FULL {
                        return Done::Nothing;
                    }
                    let mut right = children.split_off(cut(&sizes, at + 1, false));
                    let separator = core::mem::take(&mut right[0].0);
                    Done::Split(separator, Page::Inner(right))
                }
            }
        }
    }
}

fn remove(page: &mut Page, key: &[u8]) -> bool {
    match page {
        Page::Leaf(entries) => {
            let Ok(at) = entries.binary_search_by(|entry| entry.0.as_slice().cmp(key)) else {
                return false;
            };
            entries.remove(at);
            true
        }
        Page::Inner(children) => {
            let at = children.partition_point(|child| child.0.as_slice() <= key).max(1) - 1;
            remove(&mut children[at].1, key) && merge(children, at)
        }
    }
}

/// The merge rule for the child at `at`; did the parent lose an entry?
fn merge(children: &mut Vec<(Vec<u8>, Page)>, at: usize) -> bool {
    let used = children[at].1.used();
    if used >= FULL / 4 {
        return false;
    }
    if used == 0 {
        children.remove(at);
        if at == 0 && !children.is_empty() {
            children[0].0.clear();
        }
        return true;
    }
    let inner = children[at].1.level() > 0;
    let fits = |left: usize| {
        let (left, right) = (&children[left], &children[left + 1]);
        let separator = if inner { right.0.len() } else { 0 };
        left.1.used() + right.1.used() + separator <= FULL
    };
    let left = if at > 0 && fits(at - 1) {
        at - 1
    } else if at + 1 < children.len() && fits(at) {
        at
    } else {
        return false;
    };
    let (separator, right) = children.remove(left + 1);
    match (&mut children[left].1, right) {
        (Page::Leaf(into), Page::Leaf(from)) => into.extend(from),
        (Page::Inner(into), Page::Inner(mut from)) => {
            from[0].0 = separator;
            into.extend(from);
        }
        _ => panic!("neighbours have one level"),
    }
    true
}

/// A whole tree by the rules.
#[derive(Clone, Default)]
struct Shape {
    root: Option<Page>,
}

impl Shape {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        let Some(root) = &mut self.root else {
            self.root = Some(Page::Leaf(vec![(key.to_vec(), value.to_vec())]));
            return;
        };
        match put(root, key, value) {
            Done::Nothing => {}
            Done::Smaller => self.shrink(),
            Done::Split(separator, right) => {
                let left = self.root.take().unwrap();
                self.root = Some(Page::Inner(vec![(vec![], left), (separator, right)]));
            }
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(root) = &mut self.root
            && remove(root, key)
        {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        match &mut self.root {
            Some(Page::Leaf(entries)) if entries.is_empty() => self.root = None,
            Some(Page::Inner(children)) if children.len() == 1 => {
                let (_, child) = children.pop().unwrap();
                self.root = Some(child);
            }
            _ => {}
        }
    }

    fn hash(&self, tree: TreeRef, kind: Kind) -> Hash {
        match &self.root {
            Some(root) => root.hash(tree, kind),
            None => sha(&[&[7, 0, 0, 0], &sha(&[])]),
        }
    }

    fn digest(&self, tree: TreeRef, kind: Kind) -> Hash {
        let height = self.root.as_ref().map_or(0, Page::level);
        let count = self.root.as_ref().map_or(0, Page::count);
        let hash = self.hash(tree, kind);
        sha(&[&[10], &2_u16.to_le_bytes(), &[height], &count.to_le_bytes(), &hash])
    }
}

fn hash_all(world: &mut World) {
    let salts = salts();
    world.run(|store| match store.hash_step(&salts, usize::MAX) {
        Ok(done) => {
            assert!(done);
            Ok(())
        }
        Err(HashStop::Fault(fault)) => Err(fault),
        Err(HashStop::KeyMissing { .. }) => panic!(),
    });
}

fn hash_frozen(world: &mut World) {
    let salts = salts();
    world.run(|store| match store.hash_frozen(&salts, usize::MAX) {
        Ok(done) => {
            assert!(done);
            Ok(())
        }
        Err(HashStop::Fault(fault)) => Err(fault),
        Err(HashStop::KeyMissing { .. }) => panic!(),
    });
}

/// A stored row of the size given: begun at, record hash, commitment, and more.
fn row(random: &mut ChaCha8Rng, size: usize) -> Vec<u8> {
    let mut row = vec![0; size.max(72)];
    random.fill_bytes(&mut row);
    row
}

#[test]
fn hashes_are_those_of_the_written_rules() {
    let styles = [KeyStyle::Random, KeyStyle::Sequential, KeyStyle::Long, KeyStyle::Few];
    let rows = TreeRef::new(T1, TreeId::new(17));
    let plain = TREE;
    let mut seen_high = 0;
    for (seed, style) in styles.into_iter().cycle().take(8).enumerate() {
        let mut world = World::new(habits(seed as u64, 64, seed % 2 == 1, 8));
        let salts = salts();
        world.run(|store| store.create_tenant(T1));
        world.run(|store| store.create_tree(plain));
        world.run(|store| store.create_rows_tree(rows));
        let mut random = ChaCha8Rng::seed_from_u64(900 + seed as u64);
        let (mut shapes, mut next, mut op) = ([Shape::default(), Shape::default()], 0, 0);
        let mut keys: Vec<(usize, Vec<u8>)> = Vec::new();
        for step in 0..3_000 {
            let growing = step % 1_500 < 900;
            if keys.is_empty() || random.next_u32() % 8 < if growing { 7 } else { 1 } {
                let which = random.next_u32() as usize % 2;
                let key = draw_key(&mut random, style, &mut next);
                let value = if which == 0 {
                    draw_value(&mut random)
                } else {
                    let size = draw_value(&mut random).len();
                    row(&mut random, size)
                };
                world.run(|store| store.put([plain, rows][which], &key, &value));
                shapes[which].put(&key, &value);
                keys.push((which, key));
            } else {
                let at = random.next_u32() as usize % keys.len();
                let (which, key) = keys.swap_remove(at);
                world.run(|store| store.remove([plain, rows][which], &key));
                shapes[which].remove(&key);
            }
            // A few pages at any time, which must change nothing.
            if random.next_u32().is_multiple_of(20) {
                let pages = random.next_u32() as usize % 8;
                let _ = world.store.hash_step(&salts, pages);
            }
            if random.next_u32().is_multiple_of(400) && !world.store.checkpoint_under_way() {
                op += 1;
                if random.next_u32().is_multiple_of(4) {
                    hash_all(&mut world);
                    world.store.checkpoint_begin(Op::new(op));
                } else {
                    world.store.checkpoint_begin_then_hash(Op::new(op));
                }
            }
            // Frozen pages are hashed, sealed and written while copies of them change.
            if world.store.checkpoint_under_way() && random.next_u32().is_multiple_of(4) {
                let pages = random.next_u32() as usize % 6;
                let _ = world.store.hash_frozen(&salts, pages);
            }
            if random.next_u32().is_multiple_of(100) && world.store.checkpoint_under_way() {
                hash_frozen(&mut world);
                let done = world.finish_checkpoint();
                world.store.checkpoint_durable_applied(done.op);
            }
            if random.next_u32().is_multiple_of(250) {
                hash_all(&mut world);
                check(&mut world, &shapes);
            }
        }
        seen_high = seen_high.max(shapes[0].root.as_ref().map_or(0, Page::level));
        hash_all(&mut world);
        check(&mut world, &shapes);
        if world.store.checkpoint_under_way() {
            hash_frozen(&mut world);
            world.finish_checkpoint();
        }
        // The last is hashed when it is frozen, and read back.
        world.run(|store| store.put(TREE, b"last", b"value"));
        shapes[0].put(b"last", b"value");
        world.store.checkpoint_begin_then_hash(Op::new(op + 1));
        hash_frozen(&mut world);
        world.finish_checkpoint();
        assert!(world.store.all_hashed());
        check(&mut world, &shapes);
        let root = world.run(|store| store.state_root(T1));
        world.reopen();
        assert_eq!(world.run(|store| store.state_root(T1)), root, "as the disk has it");
        assert_eq!(audit(&mut world, T1), Ok(root));
        let system = world.run(|store| store.state_root(TenantId::SYSTEM));
        assert_eq!(audit(&mut world, TenantId::SYSTEM), Ok(system));
    }
    assert!(seen_high >= 2, "trees were {seen_high} levels high");
}

fn check(world: &mut World, shapes: &[Shape; 2]) {
    let rows = TreeRef::new(T1, TreeId::new(17));
    let plain_hash = world.run(|store| store.tree_hash(TREE));
    assert_eq!(plain_hash.hash.0, shapes[0].hash(TREE, Kind::Plain));
    let rows_hash = world.run(|store| store.tree_hash(rows));
    assert_eq!(rows_hash.hash.0, shapes[1].hash(rows, Kind::Rows));
    let mut forest = Shape::default();
    forest.put(&16_u32.to_be_bytes(), &padded(shapes[0].digest(TREE, Kind::Plain)));
    forest.put(&17_u32.to_be_bytes(), &padded(shapes[1].digest(rows, Kind::Rows)));
    let root = world.run(|store| store.state_root(T1));
    assert_eq!(root.0, forest.hash(TreeRef::new(T1, FOREST), Kind::Roots));
}

/// The root of a tree takes 80 bytes in its forest.
fn padded(digest: Hash) -> Vec<u8> {
    let mut value = digest.to_vec();
    value.resize(80, 0);
    value
}

/// The state root as the pages of the checkpoint give it.
fn audit(world: &mut World, tenant: TenantId) -> Result<ChainHash, AuditStop> {
    audit_but(world, tenant, &[])
}

/// All rows are believed but this one.
struct AllBut<'a>(&'a [u8]);

impl StoredRows for AllBut<'_> {
    fn holds(&self, _: TreeRef, stored: &[u8]) -> bool {
        stored != self.0
    }
}

fn audit_but(world: &mut World, tenant: TenantId, bad: &[u8]) -> Result<ChainHash, AuditStop> {
    let (salts, mut audit) = (salts(), Audit::of(tenant));
    loop {
        let mut stop = None;
        let done = world.run(|store| match store.audit_step(&mut audit, &salts, &AllBut(bad)) {
            Ok(done) => Ok(done),
            Err(AuditStop::Fault(fault)) => Err(fault),
            Err(other) => {
                stop = Some(other);
                Ok(true)
            }
        });
        match stop {
            Some(stop) => return Err(stop),
            None if done => return Ok(audit.root().unwrap()),
            None => {}
        }
    }
}

/// Whoever holds the keys can seal any page: one that does not hold what was hashed is found.
#[test]
fn a_page_with_another_content_than_its_hash_is_found() {
    for lie in 0..4 {
        let mut world = World::new(habits(lie, 64, lie % 2 == 0, 0));
        create_trees(&mut world);
        for key in 0..3_000_u32 {
            world.run(|store| store.put(TREE, &key.to_be_bytes(), &[1; 50]));
        }
        hash_all(&mut world);
        let root = world.run(|store| store.state_root(T1));
        let path = world.store.path_in_memory(TREE, &77_u32.to_be_bytes());
        let (leaf, index) = path.leaf();
        match lie {
            0 => {}
            1 => {
                let bytes = world.store.bytes_mut(leaf);
                let value = page::value_range(bytes, index);
                bytes[value.start] ^= 1;
            }
            2 => {
                let height = world.store.tree_root(TREE).unwrap().height;
                let above = path.steps[usize::from(height) - 1];
                let bytes = world.store.bytes_mut(above.page);
                page::set_child_hash(bytes, above.index, &[9; 32]);
            }
            _ => world.store.root_mut(TREE).hash = [9; 32],
        }
        world.checkpoint(1);
        world.reopen();
        let found = audit(&mut world, T1);
        if lie == 0 {
            assert_eq!(found, Ok(root));
        } else {
            let Err(AuditStop::Mismatch { tree, .. }) = found else { panic!("{lie} {found:?}") };
            // A tree's own hash is what the forest's page holds.
            assert_eq!(tree, if lie == 3 { TreeRef::new(T1, FOREST) } else { TREE });
        }
    }
}

/// A row is judged by all of its bytes, also of those that lie in pages of their own.
#[test]
fn a_row_that_was_not_committed_to_is_found() {
    let rows = TreeRef::new(T1, TreeId::new(18));
    for size in [72, 200, 1_500, 9_000] {
        let mut world = World::new(habits(size as u64, 64, false, 0));
        create_trees(&mut world);
        world.run(|store| store.create_rows_tree(rows));
        let stored = |key: u32| [&[key as u8; 72][..], &alloc::vec![9; size - 72]].concat();
        for key in 0..100_u32 {
            world.run(|store| store.put(rows, &key.to_be_bytes(), &stored(key)));
        }
        hash_all(&mut world);
        let root = world.run(|store| store.state_root(T1));
        world.checkpoint(1);
        world.reopen();
        assert_eq!(audit(&mut world, T1), Ok(root));
        let found = audit_but(&mut world, T1, &stored(77));
        assert!(
            matches!(found, Err(AuditStop::Mismatch { tree, .. }) if tree == rows),
            "{found:?}"
        );
    }
}

/// The forest's word that a tree holds rows is whoever's word who sealed it.
#[test]
fn values_that_are_too_short_for_rows_are_found() {
    for size in [0, 8, 71, 72, 2_000] {
        let mut world = World::new(habits(size as u64, 64, false, 0));
        create_trees(&mut world);
        for key in 0..100_u32 {
            world.run(|store| store.put(TREE, &key.to_be_bytes(), &alloc::vec![1; size]));
        }
        hash_all(&mut world);
        world.store.root_mut(TREE).rows = true;
        world.checkpoint(1);
        world.reopen();
        let found = audit(&mut world, T1);
        assert!(
            matches!(found, Err(AuditStop::Mismatch { tree, .. }) if tree == TREE),
            "{found:?}"
        );
    }
}

/// Any change anywhere changes the state root, and taking it back restores it.
#[test]
fn a_state_root_tells_every_change() {
    let mut world = World::new(habits(1, 64, false, 0));
    create_trees(&mut world);
    for key in 0..500_u32 {
        world.run(|store| store.put(TREE, &key.to_be_bytes(), &[1; 50]));
    }
    let root = |world: &mut World| {
        hash_all(world);
        let other = world.run(|store| store.state_root(TenantId::new(2)));
        let system = world.run(|store| store.state_root(TenantId::SYSTEM));
        (world.run(|store| store.state_root(T1)), other, system)
    };
    let before = root(&mut world);
    world.run(|store| store.put(TREE, &77_u32.to_be_bytes(), &[2; 50]));
    let changed = root(&mut world);
    assert_ne!(changed.0, before.0);
    assert_eq!((changed.1, changed.2), (before.1, before.2), "other tenants are not concerned");
    world.run(|store| store.put(TREE, &77_u32.to_be_bytes(), &[1; 50]));
    assert_eq!(root(&mut world), before);
    world.run(|store| store.put(TREE, &1_000_u32.to_be_bytes(), &[1; 50]));
    assert_ne!(root(&mut world).0, before.0);
    world.run(|store| store.remove(TREE, &1_000_u32.to_be_bytes()));
    assert_eq!(root(&mut world), before);
    world.run(|store| store.create_tree(TreeRef::new(T1, TreeId::new(40))));
    assert_ne!(root(&mut world).0, before.0, "an empty tree is something too");
    world.run(|store| store.drop_step(TreeRef::new(T1, TreeId::new(40))));
    assert_eq!(root(&mut world), before);
    // The system's heads of checkpoints and forests count as empty.
    let heads = TreeRef::new(TenantId::SYSTEM, TreeId::new(5));
    world.run(|store| store.create_tree(heads));
    let with_heads = root(&mut world);
    world.run(|store| store.put(heads, b"k", b"v"));
    assert_eq!(root(&mut world), with_heads);
}
