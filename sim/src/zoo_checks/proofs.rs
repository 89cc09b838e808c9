//! Checks of proofs: a server that lies with the whole database in its hands, and none of the keys.
//!
//! Each check makes honest proofs at a node, changes them the way a liar can who keeps every hash
//! right, and demands a refusal. `forge` does the changing.

mod forge;

use verity_core::crypto::ChainHash;
use verity_core::ids::{IdempotencyId, Position, TenantId};
use verity_core::kernel::Request;
use verity_core::node::ProofOf;
use verity_core::proof::{
    Answer, AnswerCell, AsOf, CanonicalQuery, EntryValue, Evidence, Moment, Node, Opening, Policy,
    ProofFile, QueryKind, Range, Reject, Scan, Seen, Value, Verified, verify, verify_file,
};

use super::solo::{Rig, TENANT, text, warm};
use forge::{Place, counts_for, places, without};

const ROWS: u64 = 120;

/// A node with rows that were changed and deleted, all trees more than one page high.
struct World {
    rig: Rig,
    policy: Policy,
    /// Position of the last insert, before anything was changed.
    filled: u64,
    /// Of one of the requests.
    id: IdempotencyId,
    other_id: IdempotencyId,
}

impl World {
    fn new() -> Result<World, String> {
        let mut rig = warm()?;
        let (mut id, mut filled) = (IdempotencyId::NONE, 0);
        for key in 0..ROWS {
            let request = rig.request(&format!("INSERT INTO t VALUES ({key}, 'row {key}')"));
            if key == ROWS / 2 {
                id = request.idempotency;
            }
            filled = write(&mut rig, &request)?;
        }
        for key in (0..ROWS).step_by(2) {
            rig.write(&format!("UPDATE t SET name = 'changed {key}' WHERE id = {key}"))?;
        }
        for key in (0..ROWS).step_by(10) {
            rig.write(&format!("DELETE FROM t WHERE id = {key}"))?;
        }
        rig.write("CREATE TABLE late (id BIGINT PRIMARY KEY)")?;
        rig.write("ALTER TABLE t ADD COLUMN age BIGINT DEFAULT 1007")?;
        for key in (1..ROWS).step_by(2) {
            rig.write(&format!("UPDATE t SET age = {} WHERE id = {key}", key % 20))?;
        }
        rig.write("CREATE INDEX by_age ON t (age)")?;
        let of = ProofOf::Query(QueryKind::Event { position: Position::ZERO });
        let policy = rig.solo.prove(TENANT, of, None)?.policy;
        let policy = Policy::parse(&policy).map_err(text)?;
        let mut other_id = id;
        other_id.0[15] ^= 0x55;
        Ok(World { rig, policy, filled, id, other_id })
    }

    /// An honest proof, which holds.
    fn prove(&mut self, of: ProofOf) -> Result<(ProofFile, Verified), String> {
        self.prove_since(of, None)
    }

    fn prove_since(
        &mut self,
        of: ProofOf,
        since: Option<u64>,
    ) -> Result<(ProofFile, Verified), String> {
        let proved = self.rig.solo.prove(TENANT, of, since)?;
        let verified = verify(&proved.query, &proved.file, &self.policy)
            .map_err(|reject| format!("an honest proof is refused: {reject}"))?;
        let file = ProofFile::decode(&proved.file).map_err(text)?;
        Ok((file, verified))
    }

    fn prove_sql(&mut self, sql: &str) -> Result<(ProofFile, Verified), String> {
        self.prove(ProofOf::Sql { text: sql.to_owned(), parameters: Vec::new() })
    }

    /// The lie is refused, and changed something.
    fn refused(&self, what: &str, honest: &ProofFile, lie: &ProofFile) -> Result<Reject, String> {
        if honest == lie {
            return Err(format!("{what}: nothing was changed"));
        }
        match verify(&lie.query.encode(), &lie.encode(), &self.policy) {
            Ok(_) => Err(format!("{what}: the lie holds")),
            Err(reject) => Ok(reject),
        }
    }
}

fn write(rig: &mut Rig, request: &Request) -> Result<u64, String> {
    let reply = rig.send(request)?.map_err(text)?;
    reply.position.map(Position::get).ok_or_else(|| "a write has no position".to_owned())
}

fn scan_of(file: &mut ProofFile) -> Result<(&mut Scan, &mut Evidence), String> {
    match &mut file.query.kind {
        QueryKind::Rows { scan, .. } | QueryKind::Count { scan } => Ok((scan, &mut file.evidence)),
        QueryKind::History { .. } | QueryKind::Event { .. } | QueryKind::Commitment { .. } => {
            Err("not a scan".to_owned())
        }
    }
}

/// Every tree of the evidence in which rows could be missing.
fn answer_trees(file: &ProofFile) -> Vec<(Place, &Node)> {
    let mut trees = Vec::new();
    match &file.evidence {
        Evidence::Scan { rows, history, .. } => {
            let nodes = |nodes: &[Option<Node>]| nodes.len();
            for (at, node) in rows.iter().enumerate() {
                trees.extend(node.as_ref().map(|node| (Place::Rows(at), node)));
            }
            if let Some(history) = history {
                assert_eq!(nodes(rows), nodes(history), "one each for every range");
                for (at, node) in history.iter().enumerate() {
                    trees.extend(node.as_ref().map(|node| (Place::History(at), node)));
                }
            }
        }
        Evidence::History { row, versions, .. } => {
            trees.extend(row.as_ref().map(|node| (Place::Current, node)));
            trees.extend(versions.as_ref().map(|node| (Place::Versions, node)));
        }
        Evidence::Commitment { node } => {
            trees.extend(node.as_ref().map(|node| (Place::Outcome, node)));
        }
        Evidence::Index { entries, rows, .. } => {
            trees.extend(entries.as_ref().map(|node| (Place::Entries, node)));
            trees.extend(rows.as_ref().map(|node| (Place::Found, node)));
        }
        Evidence::Event { .. } => {}
    }
    trees
}

/// What is proved with trees: ranges, absences, limits, the past, counts, outcomes.
fn queries(world: &World) -> Vec<ProofOf> {
    let filled = world.filled;
    let sql = |text: String| ProofOf::Sql { text, parameters: Vec::new() };
    vec![
        sql("SELECT id, name FROM t WHERE id >= 33 AND id < 41".to_owned()),
        sql("SELECT id, name FROM t WHERE id >= 31 AND id <= 77".to_owned()),
        sql("SELECT id FROM t WHERE id >= 112".to_owned()),
        sql("SELECT id FROM t WHERE id < 6".to_owned()),
        sql("SELECT id FROM t WHERE id = 35".to_owned()),
        sql("SELECT id FROM t WHERE id = 40".to_owned()),
        sql("SELECT id FROM t WHERE id = 1000".to_owned()),
        sql("SELECT id FROM t WHERE id = -1".to_owned()),
        sql("SELECT id FROM t ORDER BY id LIMIT 5".to_owned()),
        sql("SELECT id FROM t ORDER BY id DESC LIMIT 5 OFFSET 2".to_owned()),
        sql("SELECT id FROM t WHERE name = 'row 33' ORDER BY id LIMIT 1".to_owned()),
        sql("SELECT COUNT(*) FROM t WHERE name = 'row 33' AND id < 50".to_owned()),
        sql("SELECT COUNT(*) FROM t".to_owned()),
        sql("SELECT COUNT(*) FROM t WHERE id >= 30 AND id < 90".to_owned()),
        sql(format!("SELECT id, name FROM t AS OF POSITION {filled} WHERE id = 36")),
        sql(format!("SELECT id, name FROM t AS OF POSITION {filled} WHERE id = 40")),
        sql(format!("SELECT id, name FROM t AS OF POSITION {filled} WHERE id > 30 AND id < 51")),
        sql("SELECT id, name, age FROM t WHERE age = 7".to_owned()),
        sql("SELECT id FROM t WHERE age >= 17 AND age < 19 AND name <> 'row 98'".to_owned()),
        sql("SELECT id FROM t WHERE age > 40".to_owned()),
        sql("SELECT COUNT(*) FROM t WHERE age = 3".to_owned()),
        ProofOf::HistoryOf {
            text: "SELECT id FROM t WHERE id = 40".to_owned(),
            parameters: Vec::new(),
        },
        ProofOf::Query(QueryKind::Commitment { id: world.id }),
        ProofOf::Query(QueryKind::Commitment { id: world.other_id }),
    ]
}

/// Entries are left out one by one, with every hash above them right. Then the answer is another
/// one, or the proof has a hole; a hole that leaves the answer as it is may only be at its edge.
pub(super) fn proof_holes() -> Result<(), String> {
    let mut world = World::new()?;
    let mut holes = 0;
    for of in queries(&world) {
        let (file, verified) = world.prove(of.clone())?;
        for (place, node) in answer_trees(&file) {
            for at in 0..places(node) {
                let lie = without(&file, place, at)?;
                let what = format!("{of:?}: {place:?} without its entry {at}");
                if lie == file {
                    return Err(format!("{what}: nothing was changed"));
                }
                match verify(&lie.query.encode(), &lie.encode(), &world.policy) {
                    Ok(found) if found.answer == verified.answer => {}
                    Ok(_) => return Err(format!("{what}: another answer holds")),
                    Err(Reject::TreeMismatch { .. }) => {
                        return Err(format!("{what}: the forger miscalculated"));
                    }
                    Err(_) => holes += 1,
                }
            }
        }
        holes += pairs_left_out(&world, &file, &verified)?;
    }
    if holes < 60 { Err(format!("only {holes} holes were refused")) } else { Ok(()) }
}

/// An entry of an index and a row are left out together: how often that was refused.
fn pairs_left_out(world: &World, file: &ProofFile, honest: &Verified) -> Result<usize, String> {
    let Evidence::Index { entries: Some(entries), rows: Some(rows), .. } = &file.evidence else {
        return Ok(0);
    };
    let mut refused = 0;
    for entry in 0..places(entries) {
        let lie = without(file, Place::Entries, entry)?;
        for row in 0..places(rows) {
            let lie = without(&lie, Place::Found, row)?;
            match verify(&lie.query.encode(), &lie.encode(), &world.policy) {
                Ok(found) if found.answer == honest.answer => {}
                Ok(_) => return Err(format!("without entry {entry} and row {row}: it holds")),
                Err(_) => refused += 1,
            }
        }
    }
    Ok(refused)
}

/// Pages are shown as counts, which hides what is in them.
pub(super) fn proof_counts() -> Result<(), String> {
    let mut world = World::new()?;
    let mut refused = 0;
    for of in queries(&world) {
        let (file, verified) = world.prove(of.clone())?;
        for (place, _) in answer_trees(&file) {
            for lie in counts_for(&file, place)? {
                match verify(&lie.query.encode(), &lie.encode(), &world.policy) {
                    Ok(found) if found.answer == verified.answer => {}
                    Ok(_) => return Err(format!("{of:?}: {place:?} with a count: another answer")),
                    Err(Reject::TreeMismatch { .. }) => {
                        return Err(format!("{of:?}: {place:?}: the forger miscalculated"));
                    }
                    Err(_) => refused += 1,
                }
            }
        }
    }
    if refused < 10 {
        return Err(format!("only {refused} counts were refused"));
    }
    // The count of all rows in place of a range's.
    let (all, _) = world.prove_sql("SELECT COUNT(*) FROM t")?;
    let (part, _) = world.prove_sql("SELECT COUNT(*) FROM t WHERE id >= 30 AND id < 90")?;
    let lie = ProofFile { query: part.query.clone(), ..all };
    world.refused("the count of all for that of a range", &part, &lie).map(drop)
}

/// Rows from before a column was added have its first value since, and NULL before.
pub(super) fn proof_columns() -> Result<(), String> {
    let mut world = World::new()?;
    let filled = world.filled;
    let now = "SELECT age FROM t WHERE id = 2".to_owned();
    let then = format!("SELECT age FROM t AS OF POSITION {filled} WHERE id = 2");
    for (sql, wanted) in [(now, Some(1007_i64)), (then, None)] {
        let (_, verified) = world.prove_sql(&sql)?;
        let bytes = wanted.map_or(Vec::new(), |wanted| wanted.to_be_bytes().to_vec());
        let tag = if wanted.is_some() { 2 } else { 0 };
        let cell = AnswerCell::Value(Value { tag, bytes });
        if verified.answer != Answer::Rows(vec![vec![cell]]) {
            return Err(format!("{sql}: {:?}", verified.answer));
        }
    }
    Ok(())
}

/// A tree is said to be empty.
pub(super) fn proof_empty() -> Result<(), String> {
    let mut world = World::new()?;
    for of in queries(&world) {
        let (file, _) = world.prove(of.clone())?;
        for (place, _) in answer_trees(&file) {
            let mut lie = file.clone();
            *forge::tree(&mut lie, place)? = None;
            world.refused(&format!("{of:?}: {place:?} is empty"), &file, &lie)?;
        }
    }
    Ok(())
}

/// Another schema beside the same rows: a column's name, its type, the key.
pub(super) fn proof_schema() -> Result<(), String> {
    let mut world = World::new()?;
    let (file, verified) = world.prove_sql("SELECT id, name FROM t WHERE id = 35")?;
    let schema = verified.schema_encoded.ok_or("a table has a schema")?;
    for at in 0..schema.len() {
        let mut lie = file.clone();
        let (_, evidence) = scan_of(&mut lie)?;
        let Evidence::Scan { catalog, .. } = evidence else { return Err("a scan".to_owned()) };
        forge::each_entry(catalog, &mut |entry| {
            if let EntryValue::Plain { bytes, .. } = &mut entry.value {
                bytes[at] ^= 1;
            }
        });
        world.refused(&format!("byte {at} of the schema"), &file, &lie)?;
    }
    Ok(())
}

/// Heads that the wrong ones sign for, or too few.
pub(super) fn proof_signatures() -> Result<(), String> {
    let mut world = World::new()?;
    let (file, verified) = world.prove_sql("SELECT id FROM t WHERE id = 35")?;
    let lines: Vec<&str> = file.note.lines().collect();
    let &[origin, size, root, "", log, replica] = lines.as_slice() else {
        return Err(format!("a note of another form: {lines:?}"));
    };
    let note = |lines: &[&str]| format!("{origin}\n{size}\n{root}\n\n{}\n", lines.join("\n"));
    if note(&[log, replica]) != file.note {
        return Err("the note is not put together right".to_owned());
    }
    let forged = log.len() - 20;
    let letter = if log.as_bytes()[forged] == b'A' { "B" } else { "A" };
    let other_log = format!("{}{letter}{}", &log[..forged], &log[forged + 1..]);
    let forged = replica.len() - 20;
    let letter = if replica.as_bytes()[forged] == b'A' { "B" } else { "A" };
    let other_replica = format!("{}{letter}{}", &replica[..forged], &replica[forged + 1..]);
    let other_size = format!("{origin}\n{}\n{root}\n\n{log}\n{replica}\n", verified.size + 1);
    let lies = [
        ("nobody cosigned", note(&[log])),
        ("the log did not sign", note(&[replica])),
        ("the log signed something else", note(&[other_log.as_str(), replica])),
        ("the replica cosigned something else", note(&[log, other_replica.as_str()])),
        ("another size", other_size),
        ("another origin", format!("x{}", file.note)),
    ];
    for (what, note) in lies {
        world.refused(what, &file, &ProofFile { note, ..file.clone() })?;
    }
    Ok(())
}

/// Records that are in no log, or say something else.
pub(super) fn proof_records() -> Result<(), String> {
    let mut world = World::new()?;
    for position in [0, 1, 7, world.filled] {
        let kind = QueryKind::Event { position: Position::new(position) };
        let (file, _) = world.prove(ProofOf::Query(kind))?;
        let what = |what: &str| format!("{what} of the record at {position}");
        let mut lie = file.clone();
        let Evidence::Event { record, .. } = &mut lie.evidence else { return Err(what("kind")) };
        record.data[0] ^= 1;
        world.refused(&what("data"), &file, &lie)?;
        let mut lie = file.clone();
        let Evidence::Event { inclusion, .. } = &mut lie.evidence else { return Err(what("kind")) };
        let hash = inclusion.last_mut().ok_or("a log of one record")?;
        hash.0[9] ^= 1;
        world.refused(&what("inclusion"), &file, &lie)?;
        let mut lie = file.clone();
        let Evidence::Event { opening, .. } = &mut lie.evidence else { return Err(what("kind")) };
        match opening {
            Some(Opening::Payload { payload, .. }) => payload[0] ^= 1,
            Some(Opening::Row { table, .. }) => *table = verity_core::ids::TableId::new(99),
            None => return Err(what("opening")),
        }
        world.refused(&what("content"), &file, &lie)?;
    }
    let (file, _) = world.prove_sql("SELECT id FROM t WHERE id = 35")?;
    let mut lie = file.clone();
    let Opening::Payload { payload, .. } = &mut lie.head.opening else {
        return Err("a checkpoint record has a payload".to_owned());
    };
    let last = payload.len() - 1;
    payload[last] ^= 1;
    world.refused("the attested record's content", &file, &lie)?;
    Ok(())
}

/// The past of another moment than the one asked for.
pub(super) fn proof_moments() -> Result<(), String> {
    let mut world = World::new()?;
    let filled = world.filled;
    let at = |position: u64| format!("SELECT id, name FROM t AS OF POSITION {position}");
    let (early, answer) = world.prove_sql(&at(filled))?;
    let (late, other) = world.prove_sql(&at(filled + 3))?;
    if answer.answer == other.answer {
        return Err("two moments have one answer".to_owned());
    }
    let mut lie = early.clone();
    scan_of(&mut lie)?.0.as_of = Some(AsOf::Position(Position::new(filled + 3)));
    world.refused("an earlier moment", &early, &lie)?;
    // The record of the right moment beside the trees as they are shown for the wrong one.
    let mut lie = late.clone();
    let Evidence::Scan { moment, .. } = &early.evidence else { return Err("a scan".to_owned()) };
    let earlier = moment.clone();
    let Evidence::Scan { moment, .. } = &mut lie.evidence else { return Err("a scan".to_owned()) };
    *moment = earlier;
    world.refused("another moment's record", &late, &lie)?;
    // A time: the next record is left out, or the moment is too early or too late.
    let next = Position::new(filled + 1);
    let time = |file: &ProofFile| match &file.evidence {
        Evidence::Event { record, .. } => record.timestamp_ns(),
        Evidence::Scan { .. }
        | Evidence::History { .. }
        | Evidence::Commitment { .. }
        | Evidence::Index { .. } => 0,
    };
    let kind = QueryKind::Event { position: next };
    let (event, _) = world.prove(ProofOf::Query(kind))?;
    let (_, honest) = world.prove_sql(&at(filled))?;
    let Answer::Rows(rows) = &honest.answer else { return Err("rows".to_owned()) };
    if rows.len() != ROWS as usize {
        return Err(format!("{} rows of {ROWS}", rows.len()));
    }
    let mut lie = early.clone();
    let (scan, evidence) = scan_of(&mut lie)?;
    scan.as_of = Some(AsOf::Timestamp(time(&event) + 1));
    let Evidence::Scan { moment: Some(Moment { next: shown, .. }), .. } = evidence else {
        return Err("a moment".to_owned());
    };
    *shown = None;
    world.refused("a time after the moment", &early, &lie)?;
    // A table that was not there yet.
    let (_, honest) = world.prove_sql("SELECT id FROM late")?;
    let created = honest.schema.as_ref().map(|schema| schema.created_at.get());
    let created = created.filter(|created| *created > 0).ok_or("a table made later")?;
    let sql = format!("SELECT id FROM late AS OF POSITION {created}");
    let (later, _) = world.prove_sql(&sql)?;
    let kind = QueryKind::Event { position: Position::new(created - 1) };
    let (before, _) = world.prove(ProofOf::Query(kind))?;
    let Evidence::Event { record, inclusion, .. } = before.evidence else {
        return Err("an event".to_owned());
    };
    let mut lie = later.clone();
    let (scan, evidence) = scan_of(&mut lie)?;
    scan.as_of = Some(AsOf::Position(Position::new(created - 1)));
    if let Evidence::Scan { moment: Some(moment), .. } = evidence {
        moment.last.record = record;
        moment.last.inclusion = inclusion;
    }
    world.refused("a table before it was made", &later, &lie)?;
    Ok(())
}

/// A proof of one query under the name of another.
pub(super) fn proof_of_another() -> Result<(), String> {
    let mut world = World::new()?;
    let mut proofs = Vec::new();
    for of in queries(&world) {
        proofs.push(world.prove(of)?);
    }
    let mut refused = 0;
    for (file, _) in &proofs {
        for (other, honest) in &proofs {
            if file.query == other.query {
                continue;
            }
            if verify(&other.query.encode(), &file.encode(), &world.policy).is_ok() {
                return Err(format!("{:?} is taken for {:?}", file.query, other.query));
            }
            let lie = ProofFile { query: other.query.clone(), ..file.clone() };
            match verify(&other.query.encode(), &lie.encode(), &world.policy) {
                // A column that is asked for and hidden is said to be.
                Ok(found) if found.answer == honest.answer || found.redacted => {}
                Ok(_) => return Err(format!("{:?} answers {:?}", file.query, other.query)),
                Err(_) => refused += 1,
            }
        }
        for tenant in [0, 2, u64::MAX] {
            let query = CanonicalQuery { tenant: TenantId::new(tenant), ..file.query.clone() };
            world.refused("another tenant", file, &ProofFile { query, ..file.clone() })?;
        }
    }
    // A point that is in the range of another proof, and is not there.
    let (file, _) = world.prove_sql("SELECT id FROM t WHERE id = 35")?;
    let mut lie = file.clone();
    let (scan, _) = scan_of(&mut lie)?;
    let Some(Range::Point(key)) = scan.ranges.first_mut() else { return Err("a point".to_owned()) };
    let last = key.len() - 1;
    key[last] ^= 1;
    world.refused("another key", &file, &lie)?;
    if refused < 200 { Err(format!("only {refused} were refused")) } else { Ok(()) }
}

/// Heads that are older than one that was seen, or of another history.
pub(super) fn proof_pins() -> Result<(), String> {
    let mut world = World::new()?;
    let sql = "SELECT id FROM t WHERE id = 35";
    let (old, first) = world.prove_sql(sql)?;
    world.rig.write("INSERT INTO t VALUES (5000, 'later', 1)")?;
    let since = ProofOf::Sql { text: sql.to_owned(), parameters: Vec::new() };
    let (new, second) = world.prove_since(since, Some(first.size))?;
    let pinned = |size: u64, root: ChainHash| {
        let mut policy = world.policy.clone();
        policy.seen = Some(Seen { size, root });
        policy
    };
    let mut fork = second.root;
    fork.0[0] ^= 1;
    let mut other_past = first.root;
    other_past.0[0] ^= 1;
    let no_link = {
        let mut file = new.clone();
        file.head.since = None;
        file
    };
    let mut other_link = new.clone();
    if let Some(since) = &mut other_link.head.since {
        since.root = other_past;
    }
    let cases = [
        ("the same head", &old, pinned(first.size, first.root), true),
        ("a newer head with its link", &new, pinned(first.size, first.root), true),
        ("an older head", &old, pinned(second.size, second.root), false),
        ("a fork of one size", &new, pinned(second.size, fork), false),
        ("a newer head without a link", &no_link, pinned(first.size, first.root), false),
        ("a newer head of another past", &new, pinned(first.size, other_past), false),
        ("a link that does not hold", &other_link, pinned(first.size, other_past), false),
    ];
    for (what, file, policy, holds) in cases {
        if verify_file(file, &policy).is_ok() != holds {
            return Err(format!("{what}: {}", if holds { "refused" } else { "holds" }));
        }
    }
    Ok(())
}
