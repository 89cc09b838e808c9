//! A reader that verifies before it returns rows, and a prover that lies to it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use verity::proof::{
    LogStart, Policy, ProofFile, ProofOf, Reject, SignedHeads, redact, verify_file,
};
use verity::verified::{Prover, Reader, VerifyError};
use verity::verify::Silent;
use verity::{ClusterConstants, Error, Options, TenantId, Value, Verity};
use verity_core::crypto::ChainHash;

fn open(dir: &std::path::Path, name: &str) -> Verity {
    let constants = ClusterConstants { journal_ring_bytes: 16 << 20, ..ClusterConstants::DEFAULT };
    let database = Options::new().cluster_constants(constants).open(dir.join(name)).unwrap();
    database.execute("CREATE TABLE people (id BIGINT PRIMARY KEY, name TEXT)", &[]).unwrap();
    for id in 0..20 {
        let row = vec![Value::Integer(id), Value::text(&format!("name {id}"))];
        database.insert_rows("people", &["id", "name"], vec![row]).unwrap();
    }
    database
}

/// What the prover does to an honest proof.
#[derive(Clone, Debug)]
enum Lie {
    None,
    /// Answers something else.
    Sql(&'static str),
    /// Flips a bit.
    Flip(usize),
    Cut(usize),
    /// A file of before.
    Replay(Vec<u8>),
    /// Does not link its head to the one that was seen.
    Unlinked,
    HideNames,
    /// Another tenant's rows.
    OtherTenant,
}

#[derive(Clone)]
struct Liar {
    database: Verity,
    lie: Rc<RefCell<Lie>>,
    asked: Rc<Cell<u64>>,
}

impl Prover for Liar {
    fn prove(&self, tenant: TenantId, of: ProofOf, since: Option<u64>) -> Result<Vec<u8>, Error> {
        self.asked.set(self.asked.get() + 1);
        let honest = |of, since| Prover::prove(&self.database, tenant, of, since);
        let sql = |text: &str| ProofOf::Sql { text: text.to_string(), parameters: vec![] };
        match &*self.lie.borrow() {
            Lie::None => honest(of, since),
            Lie::Sql(text) => honest(sql(text), since),
            Lie::Flip(bit) => {
                let mut file = honest(of, since)?;
                let bit = bit % (8 * file.len());
                file[bit / 8] ^= 1 << (bit % 8);
                Ok(file)
            }
            Lie::Cut(at) => {
                let mut file = honest(of, since)?;
                let at = at % file.len();
                file.truncate(at);
                Ok(file)
            }
            Lie::Replay(file) => Ok(file.clone()),
            Lie::Unlinked => honest(of, None),
            Lie::HideNames => {
                let file = ProofFile::decode(&honest(of, since)?).unwrap();
                let name = verity::proof::ColumnId::new(2);
                Ok(redact(&file, &[name], &[verity::proof::ColumnId::new(1)]).unwrap().encode())
            }
            Lie::OtherTenant => Prover::prove(&self.database, TenantId::new(2), of, since),
        }
    }
}

#[test]
fn a_reader_believes_no_liar_and_gives_the_rows_of_the_honest() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path(), "data");
    // A tenant whose table has the same shape and other rows.
    database.create_tenant(TenantId::new(2)).unwrap();
    let second = database.tenant(TenantId::new(2));
    second.execute("CREATE TABLE people (id BIGINT PRIMARY KEY, name TEXT)", &[]).unwrap();
    second.execute("INSERT INTO people VALUES (3, 'somebody else')", &[]).unwrap();
    let proved = database.prove("SELECT id FROM people", &[]).unwrap();
    let policy = Policy::parse(&proved.policy).unwrap();
    let (lie, asked) = (Rc::new(RefCell::new(Lie::None)), Rc::new(Cell::new(0)));
    let liar = Liar { database: database.clone(), lie: Rc::clone(&lie), asked: Rc::clone(&asked) };
    let pin = dir.path().join("pin");
    let reader = Reader::new(liar.clone(), TenantId::DEFAULT, policy.clone());
    let reader = reader.pinned(&pin).unwrap();
    let wanted = "SELECT id, name FROM people WHERE id >= $1 AND id < 7";
    let params = [Value::Integer(3)];
    let ask = |told: Lie| {
        *lie.borrow_mut() = told;
        reader.query(wanted, &params)
    };
    let honest = || {
        let found = ask(Lie::None).unwrap();
        let answer = database.query(wanted, &params).unwrap();
        assert_eq!((found.rows.rows, found.rows.columns), (answer.rows, answer.columns));
        assert_eq!(found.rows.position, answer.position);
        assert!(found.verified.fresh);
    };
    honest();
    let first = reader.seen().unwrap();
    // Other answers, each of them proved.
    for other in [
        "SELECT id, name FROM people WHERE id >= 4 AND id < 7",
        "SELECT id, name FROM people WHERE id >= 3 AND id < 7 LIMIT 2",
        "SELECT id, name FROM people WHERE id >= 3 AND id < 7 ORDER BY id DESC",
        "SELECT name, id FROM people WHERE id >= 3 AND id < 7",
        "SELECT COUNT(*) FROM people WHERE id >= 3 AND id < 7",
    ] {
        let refused = ask(Lie::Sql(other)).unwrap_err();
        assert!(matches!(refused, VerifyError::AnotherAnswer(_)), "{other}: {refused}");
    }
    let refused = ask(Lie::OtherTenant).unwrap_err();
    assert!(matches!(refused, VerifyError::AnotherAnswer(_)), "{refused}");
    let refused = ask(Lie::HideNames).unwrap_err();
    assert!(matches!(refused, VerifyError::Redacted), "{refused}");
    for at in (0..60_000).step_by(401) {
        let refused = ask(Lie::Flip(at)).unwrap_err();
        assert!(matches!(refused, VerifyError::Refused(_)), "bit {at}: {refused}");
        let refused = ask(Lie::Cut(at)).unwrap_err();
        assert!(matches!(refused, VerifyError::Refused(_)), "cut at {at}: {refused}");
    }
    honest();
    assert_eq!(reader.seen(), Some(first), "no lie moved what was seen");
    assert!(asked.get() > 300);
    // A newer head must be shown to continue what was seen; an older one is a rollback.
    let of = ProofOf::Sql { text: wanted.to_string(), parameters: params.to_vec() };
    let old = database.prove_of(of, None).unwrap().file;
    database.execute("UPDATE people SET name = 'new' WHERE id = 5", &[]).unwrap();
    let refused = ask(Lie::Unlinked).unwrap_err();
    assert!(matches!(refused, VerifyError::Refused(Reject::Fork { .. })), "{refused}");
    honest();
    assert!(reader.seen().unwrap().size > first.size);
    let refused = ask(Lie::Replay(old.clone())).unwrap_err();
    assert!(matches!(refused, VerifyError::Refused(Reject::Rollback { .. })), "{refused}");
    // What was seen outlives the reader.
    *lie.borrow_mut() = Lie::Replay(old.clone());
    let again = Reader::new(liar.clone(), TenantId::DEFAULT, policy.clone());
    assert!(again.query(wanted, &params).is_ok(), "who has seen nothing may be shown the past");
    let again = Reader::new(liar.clone(), TenantId::DEFAULT, policy.clone()).pinned(&pin).unwrap();
    let refused = again.query(wanted, &params).unwrap_err();
    assert!(matches!(refused, VerifyError::Refused(Reject::Rollback { .. })), "{refused}");
    // Another cluster's proof, and its file of what was seen.
    let others = open(dir.path(), "others");
    let theirs = others.prove("SELECT id FROM people", &[]).unwrap();
    let their_policy = Policy::parse(&theirs.policy).unwrap();
    let stranger = others.verified(policy);
    let refused = stranger.query(wanted, &params).unwrap_err();
    assert!(matches!(refused, VerifyError::Refused(Reject::AnotherCluster)), "{refused}");
    let reader = others.verified(their_policy);
    assert!(matches!(reader.pinned(&pin), Err(VerifyError::Pin(_))));
    // What cannot be proved is not answered; the past and counts are.
    let reader = database.verified(Policy::parse(&proved.policy).unwrap()).max_age(3600);
    let sum = reader.query("SELECT SUM(id) FROM people", &[]).unwrap_err();
    assert!(matches!(sum, VerifyError::Unproved(_)), "{sum}");
    for sql in [
        "SELECT COUNT(*) FROM people",
        "SELECT name FROM people AS OF POSITION 9 WHERE id = 5",
        "SELECT * FROM people WHERE id = 1000",
    ] {
        let found = reader.query(sql, &[]).unwrap().rows;
        assert_eq!(found, database.query(sql, &[]).unwrap(), "{sql}");
    }
    // Whoever is asked says anew that the head is the newest; what was said long ago is not fresh.
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    let policy = Policy::parse(&proved.policy).unwrap();
    database.verified(policy.clone()).max_age(1).query(wanted, &params).unwrap();
    let refused = Reader::new(liar, TenantId::DEFAULT, policy).max_age(1).query(wanted, &params);
    assert!(matches!(refused, Err(VerifyError::NotFresh)), "{refused:?}");
}

/// Proofs whose pages are not in memory wait for each other: all come to an end, with few turns.
#[test]
fn many_threads_prove_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path(), "data");
    database.clone().close().unwrap();
    drop(database);
    let database = Options::new().open(dir.path().join("data")).unwrap();
    let policy = Policy::parse(&database.prove("SELECT id FROM people", &[]).unwrap().policy);
    let policy = policy.unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_i64 {
            let (database, policy) = (&database, &policy);
            scope.spawn(move || {
                let reader = database.verified(policy.clone());
                for at in 0..20 {
                    let id = Value::Integer(thread * 1_000 + at + 100);
                    let row = vec![vec![id.clone(), Value::text("x")]];
                    database.insert_rows("people", &["id", "name"], row).unwrap();
                    let found = reader.query("SELECT name FROM people WHERE id = $1", &[id]);
                    assert_eq!(found.unwrap().rows.rows, vec![vec![Value::text("x")]]);
                }
            });
        }
    });
    database.close().unwrap();
}

/// Hands out one file, whatever is asked.
struct Replay(Vec<u8>);

impl Prover for Replay {
    fn prove(&self, _: TenantId, _: ProofOf, _: Option<u64>) -> Result<Vec<u8>, Error> {
        Ok(self.0.clone())
    }
}

/// A state of before is in the newest head too, as is everything. It is not given for the newest.
#[test]
fn an_older_state_under_the_newest_head_is_not_given() {
    use verity_core::crypto::merkle::{inclusion_proof, leaf_hash, root_of};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let database = open(dir.path(), "data");
    let sql = "SELECT name FROM people WHERE id = 5";
    let of = || ProofOf::Sql { text: sql.to_string(), parameters: vec![] };
    let old = database.prove_of(of(), None).unwrap();
    database.execute("UPDATE people SET name = 'new' WHERE id = 5", &[]).unwrap();
    let new = database.prove_of(of(), None).unwrap();
    database.close().unwrap();
    let policy = Policy::parse(&old.policy).unwrap();
    let heads = SignedHeads::read(&new.file, &policy).unwrap();
    let mut lie = ProofFile::decode(&old.file).unwrap();
    let note = ProofFile::decode(&new.file).unwrap().note;
    // The cluster's log, to show the older record in its newer tree.
    let start = LogStart { tenant: TenantId::new(0), head: None, note: note.clone() };
    let mut log = Vec::new();
    let (size, root) = (heads.size, heads.root);
    verity::export::export(&path, &start, size, &root, &mut Silent, &mut log).unwrap();
    let (mut leaves, mut chain) = (Vec::new(), ChainHash::ZERO);
    let mut rest = &log[start.encode().len()..];
    while !rest.is_empty() {
        let data = u32::from_le_bytes(rest[134..138].try_into().unwrap()) as usize;
        let (record, more) = rest.split_at(138 + data);
        chain = ChainHash::of(&[&chain.0, record]);
        leaves.push(leaf_hash(&chain.0));
        rest = more;
    }
    assert_eq!(root_of(&leaves), root);
    let position = lie.head.record.position().get();
    let inclusion = inclusion_proof(position, size, |level, at| {
        let width = 1 << level;
        Ok::<_, ()>(root_of(&leaves[at as usize * width..(at as usize + 1) * width]))
    });
    (lie.head.inclusion, lie.note) = (inclusion.unwrap(), note);
    let verified = verify_file(&lie, &policy).unwrap();
    assert!(!verified.fresh, "it holds, and is not the newest");
    let reader = |file| Reader::new(Replay(file), TenantId::DEFAULT, policy.clone());
    let refused = reader(lie.encode()).query(sql, &[]).unwrap_err();
    assert!(matches!(refused, VerifyError::NotFresh), "{refused}");
    let found = reader(new.file).query(sql, &[]).unwrap().rows.rows;
    assert_eq!(found, vec![vec![Value::text("new")]]);
}
