//! Forgery that keeps every hash right: a tree shown otherwise than the prover shows it.
//!
//! A page's entries are hashed as an RFC 6962 tree, so whoever has an entry can show its hash
//! instead, and whoever has a page can show its hash and count instead. Nothing else can be done
//! without breaking SHA-256.

use verity_core::crypto::{ChainHash, merkle, tree as hashes};
use verity_core::ids::{TableId, TreeId};
use verity_core::proof::{Entry, EntryValue, Evidence, Item, Node, ProofFile, QueryKind, Schema};

/// A tree of the evidence.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Rows(usize),
    History(usize),
    Current,
    Versions,
    Outcome,
    /// Of an index.
    Entries,
    /// The rows that an index finds.
    Found,
}

pub(super) fn tree(file: &mut ProofFile, place: Place) -> Result<&mut Option<Node>, String> {
    match (&mut file.evidence, place) {
        (Evidence::Scan { rows, .. }, Place::Rows(at)) => Ok(&mut rows[at]),
        (Evidence::Scan { history: Some(history), .. }, Place::History(at)) => Ok(&mut history[at]),
        (Evidence::History { row, .. }, Place::Current) => Ok(row),
        (Evidence::History { versions, .. }, Place::Versions) => Ok(versions),
        (Evidence::Commitment { node }, Place::Outcome) => Ok(node),
        (Evidence::Index { entries, .. }, Place::Entries) => Ok(entries),
        (Evidence::Index { rows, .. }, Place::Found) => Ok(rows),
        (evidence, place) => Err(format!("{place:?} is not in {evidence:?}")),
    }
}

/// How many entries are shown.
pub(super) fn places(node: &Node) -> usize {
    node.shown.iter().fold(0, |count, (_, item)| {
        count
            + match item {
                Item::Entry(_) => 1,
                Item::Child { node, .. } => places(node),
                Item::Counted { .. } => 0,
            }
    })
}

pub(super) fn each_entry(node: &mut Node, visit: &mut impl FnMut(&mut Entry)) {
    for (_, item) in &mut node.shown {
        match item {
            Item::Entry(entry) => visit(entry),
            Item::Child { node, .. } => each_entry(node, visit),
            Item::Counted { .. } => {}
        }
    }
}

/// The proof with one entry shown by its hash alone, counted from the left.
pub(super) fn without(file: &ProofFile, place: Place, at: usize) -> Result<ProofFile, String> {
    let mut lie = file.clone();
    let forger = Forger::of(file, place)?;
    let Some(node) = tree(&mut lie, place)? else { return Err("an empty tree".to_owned()) };
    let mut nth = 0;
    let (page, _) = forger.page(node, &mut |item| match item {
        Item::Entry(_) => {
            nth += 1;
            nth - 1 != at
        }
        Item::Counted { .. } | Item::Child { .. } => true,
    });
    *node = page;
    Ok(lie)
}

/// The proof with one page in place of which its count is shown, for each page below the top.
pub(super) fn counts_for(file: &ProofFile, place: Place) -> Result<Vec<ProofFile>, String> {
    let forger = Forger::of(file, place)?;
    let mut lies = Vec::new();
    for at in 0.. {
        let mut lie = file.clone();
        let Some(node) = tree(&mut lie, place)? else { break };
        let (mut nth, mut done) = (0, false);
        forger.count(node, at, &mut nth, &mut done);
        if !done {
            break;
        }
        lies.push(lie);
    }
    Ok(lies)
}

struct Forger {
    tree: TreeId,
    table: Option<TableId>,
}

impl Forger {
    fn of(file: &ProofFile, place: Place) -> Result<Forger, String> {
        let (catalog, table) = match (&file.evidence, &file.query.kind) {
            (
                Evidence::Scan { catalog, .. } | Evidence::Index { catalog, .. },
                QueryKind::Rows { scan, .. } | QueryKind::Count { scan },
            ) => (catalog, scan.table),
            (Evidence::History { catalog, .. }, QueryKind::History { table, .. }) => {
                (catalog, *table)
            }
            _ => return Ok(Forger { tree: TreeId::new(2), table: None }),
        };
        let mut schema = None;
        each_entry(&mut catalog.clone(), &mut |entry| {
            if let EntryValue::Plain { bytes, .. } = &entry.value {
                schema = Schema::decode(bytes).ok();
            }
        });
        let schema = schema.ok_or("the schema is not shown")?;
        let tree = match (place, &file.evidence) {
            (Place::Entries, Evidence::Index { index, .. }) => {
                return Ok(Forger { tree: *index, table: None });
            }
            (Place::Rows(_) | Place::Current | Place::Found | Place::Entries, _) => schema.rows,
            (Place::History(_) | Place::Versions | Place::Outcome, _) => schema.history,
        };
        Ok(Forger { tree, table: Some(table) })
    }

    /// The page with the items for which `keep` holds, and its hash. A child of which nothing is
    /// kept is hidden whole.
    fn page(&self, node: &Node, keep: &mut impl FnMut(&Item) -> bool) -> (Node, ChainHash) {
        let mut shown = node.shown.as_slice();
        let mut given = node.hashes.iter();
        let part = self.part(0..node.entries, &mut shown, &mut given, keep);
        let hash = hashes::node_hash(node.level, node.entries, &part.hash);
        let hashes = if part.shown.is_empty() { vec![part.hash] } else { part.hashes };
        (Node { level: node.level, entries: node.entries, shown: part.shown, hashes }, hash)
    }

    fn part<'a>(
        &self,
        range: core::ops::Range<u16>,
        shown: &mut &'a [(u16, Item)],
        given: &mut core::slice::Iter<'a, ChainHash>,
        keep: &mut impl FnMut(&Item) -> bool,
    ) -> Part {
        let hidden = |hash| Part { hash, shown: Vec::new(), hashes: Vec::new() };
        let Some(((place, item), rest)) = shown.split_first().filter(|(one, _)| one.0 < range.end)
        else {
            let Some(hash) = given.next() else { unreachable!("the proof is honest") };
            return hidden(*hash);
        };
        if range.end - range.start == 1 {
            *shown = rest;
            let (hash, item) = self.item(item, keep);
            let shown = item.into_iter().map(|item| (*place, item)).collect();
            return Part { hash, shown, hashes: Vec::new() };
        }
        let middle = range.start + (1 << (range.end - range.start - 1).ilog2());
        let left = self.part(range.start..middle, shown, given, keep);
        let right = self.part(middle..range.end, shown, given, keep);
        let hash = merkle::node_hash(&left.hash, &right.hash);
        if left.shown.is_empty() && right.shown.is_empty() {
            return hidden(hash);
        }
        let mut whole = Part { hash, shown: Vec::new(), hashes: Vec::new() };
        for side in [left, right] {
            if side.shown.is_empty() {
                whole.hashes.push(side.hash);
            } else {
                whole.hashes.extend(side.hashes);
                whole.shown.extend(side.shown);
            }
        }
        whole
    }

    fn item(&self, item: &Item, keep: &mut impl FnMut(&Item) -> bool) -> (ChainHash, Option<Item>) {
        match item {
            Item::Entry(entry) => {
                let kept = keep(item).then(|| item.clone());
                (self.entry_hash(entry), kept)
            }
            Item::Counted { count, hash } => {
                (hashes::inner_hash(hash, *count), keep(item).then(|| item.clone()))
            }
            Item::Child { count, node } => {
                let (page, hash) = self.page(node, keep);
                let kept = (!page.shown.is_empty())
                    .then(|| Item::Child { count: *count, node: Box::new(page) });
                (hashes::inner_hash(&hash, *count), kept)
            }
        }
    }

    /// Shows the count of the page of this number instead of the page.
    fn count(&self, node: &mut Node, at: usize, nth: &mut usize, done: &mut bool) {
        for (_, item) in &mut node.shown {
            let Item::Child { count, node } = item else { continue };
            if *nth == at {
                let (_, hash) = self.page(node, &mut |_| true);
                *item = Item::Counted { count: *count, hash };
                *done = true;
                *nth += 1;
                return;
            }
            *nth += 1;
            self.count(node, at, nth, done);
            if *done {
                return;
            }
        }
    }

    fn entry_hash(&self, entry: &Entry) -> ChainHash {
        let digest = match &entry.value {
            EntryValue::Hidden(digest) => *digest,
            EntryValue::Plain { salt, bytes } => hashes::value_digest(salt, bytes),
            EntryValue::Row { begun_at, record, row } => {
                let Some(table) = self.table else { unreachable!("rows are of a table") };
                hashes::row_digest(&row.commitment(table), *begun_at, record)
            }
            EntryValue::Tree(root) => hashes::tree_digest(1, root.height, root.entries, &root.hash),
        };
        hashes::entry_hash(&entry.salt, self.tree, &entry.key, &digest)
    }
}

/// A part of a page: its hash, what is shown of it, and the hashes of the parts between.
struct Part {
    hash: ChainHash,
    shown: Vec<(u16, Item)>,
    hashes: Vec<ChainHash>,
}
