//! Journals that are lost, swapped, or damaged where both copies of a header are: what was
//! acknowledged is never dropped without a word.

use std::path::{Path, PathBuf};

use crate::run::{Database, copy_directory, verity};

const ROWS: i64 = 300;

/// A database that was closed once.
fn filled() -> Database {
    let database = Database::new();
    database.sql("CREATE TABLE rows (name TEXT)").ok();
    database
}

/// Its image of a moment at which `ROWS` more rows were acknowledged, which are in the journal
/// alone.
fn killed(database: &Database, name: &str) -> PathBuf {
    let image = database.path(name);
    let open = verity::Verity::open(database.data()).unwrap();
    let insert = open.prepare("INSERT INTO rows (name) VALUES (?)").unwrap();
    for _ in 0..ROWS {
        insert.execute(&[verity::Value::text(name)]).unwrap();
    }
    copy_directory(&database.data(), &image);
    let key = database.path(&format!("{name}.master-key"));
    std::fs::copy(database.path("data.master-key"), key).unwrap();
    open.close().unwrap();
    image
}

/// What `verify` finds, and its exit code.
fn verify(data: &Path) -> (Option<i32>, String) {
    let run = verity(&["verify", "--data", data.to_str().unwrap()]);
    (run.code, run.stdout)
}

fn count(data: &Path) -> crate::run::Run {
    let text = "SELECT COUNT(*) FROM rows";
    verity(&["sql", "--json", "--data", data.to_str().unwrap(), "-c", text])
}

#[test]
fn a_journal_that_is_not_that_of_the_checkpoint_is_told() {
    let database = filled();
    let older = killed(&database, "older");
    let older = std::fs::read(older.join("journal")).unwrap();
    let foreign = std::fs::read(killed(&filled(), "foreign").join("journal")).unwrap();
    let length = older.len();
    let noise = |at: usize| ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    let noise: Vec<u8> = (0..length).map(noise).collect();
    let journals =
        [("zeros", vec![0; length]), ("noise", noise), ("other", foreign), ("before", older)];
    for (what, journal) in journals {
        let image = killed(&database, what);
        std::fs::write(image.join("journal"), &journal).unwrap();
        let told = "newer than all that this journal holds";
        let (code, found) = verify(&image);
        assert!(code == Some(1) && found.contains(told), "{what}: {found}");
        count(&image).fails(1, told);
        let found = std::fs::read(image.join("journal")).unwrap();
        assert!(found == journal, "{what}: nothing is written over what was found");
    }
}

/// Nobody can say what was there: not that it holds, and not without a word.
#[test]
fn a_tail_that_was_lost_with_its_headers_cannot_be_told() {
    let database = filled();
    let image = killed(&database, "image");
    assert_eq!(verify(&image).0, Some(0));
    let mut journal = std::fs::read(image.join("journal")).unwrap();
    // The newest ten prepares: in the ring by their op, each a page.
    let area = journal.len() / 17;
    let op = |page: &[u8]| u64::from_le_bytes(page[112..120].try_into().unwrap());
    let used = |page: &[u8]| page[..32].iter().any(|&byte| byte != 0);
    let pages = || (area..area * 17).step_by(4096);
    let newest = pages().filter(|&at| used(&journal[at..])).map(|at| op(&journal[at..])).max();
    let lost: Vec<usize> = pages()
        .filter(|&at| used(&journal[at..]) && op(&journal[at..]) + 10 > newest.unwrap())
        .collect();
    assert_eq!(lost.len(), 10);
    for at in lost {
        journal[at..at + 4096].fill(0);
        let slot = (at - area) / 4096 * 256;
        journal[slot..slot + 256].fill(0);
    }
    std::fs::write(image.join("journal"), &journal).unwrap();
    let (code, found) = verify(&image);
    assert!(code == Some(2) && found.contains("nothing shows that it was ever whole"), "{found}");
    let torn = || {
        let inspected = verity(&["inspect", "--json", image.to_str().unwrap()]);
        inspected.objects()[0]["torn_tail"].clone()
    };
    let told = torn();
    assert_eq!((told["op"].as_u64(), &told["damaged"]), (newest.map(|op| op - 9), &true.into()));
    // Who embeds the database is told, too.
    let again = database.path("again");
    copy_directory(&image, &again);
    std::fs::copy(database.path("data.master-key"), database.path("again.master-key")).unwrap();
    for dropped in [Some(newest.unwrap() - 9), None] {
        let open = verity::Verity::open(&again).unwrap();
        let torn = open.status().unwrap().torn_tail;
        assert_eq!(torn.map(|torn| (torn.op.get(), torn.damaged)), dropped.map(|op| (op, true)));
        open.close().unwrap();
    }
    let counted = count(&image).ok();
    assert_eq!(counted.objects()[0]["rows"][0][0].as_i64(), Some(ROWS - 10));
    assert!(counted.stderr.contains("journal"), "{counted:#?}");
    assert!(torn().is_null());
}

/// The next op was never there: a damaged slot is no sign of it. Nor can it be told from one whose
/// page was lost too, so the verdict stays.
#[test]
fn a_vacant_slot_that_is_damaged_names_the_slot() {
    let database = filled();
    database.sql("INSERT INTO rows VALUES ('kept')").ok();
    let inspected = database.run(&["inspect"]).ok();
    let told = inspected.objects().remove(0);
    assert_eq!(told["prepares_after_checkpoint"], 0);
    let offset = told["checkpoint"]["journal_offset"].as_u64().unwrap();
    let slot = usize::try_from(offset / 4096 * 256).unwrap();
    let path = database.data().join("journal");
    let mut journal = std::fs::read(&path).unwrap();
    assert!(journal[slot..].starts_with(b"vacant\0\0"), "{offset}");
    journal[slot + 3] ^= 1;
    std::fs::write(&path, journal).unwrap();
    let (code, found) = verify(&database.data());
    assert_eq!(code, Some(2), "{found}");
    assert!(found.contains("the header slot or the prepare of op"), "{found}");
    assert!(found.contains("never was such an op, and only the slot is damaged"), "{found}");
    let counted = count(&database.data()).ok();
    assert_eq!(counted.objects()[0]["rows"][0][0].as_i64(), Some(1));
    assert!(counted.stderr.contains("only the slot is damaged"), "{counted:#?}");
    assert_eq!(verify(&database.data()).0, Some(0), "it was written again");
}

/// An open mends it, so it is no more than a note; but a disk that loses bits is worth one.
#[test]
fn a_redundant_header_that_is_damaged_is_noted() {
    let database = filled();
    let image = killed(&database, "image");
    let whole = verify(&image);
    assert!(whole.0 == Some(0) && !whole.1.contains("redundant"), "{}", whole.1);
    let path = image.join("journal");
    let journal = std::fs::read(&path).unwrap();
    let area = journal.len() / 17;
    let op = |page: &[u8]| u64::from_le_bytes(page[112..120].try_into().unwrap());
    let slots: Vec<usize> =
        (0..area).step_by(256).filter(|&at| !journal[at..].starts_with(b"vacant\0\0")).collect();
    let middle = slots[slots.len() / 2];
    let number = op(&journal[middle..]);
    for (count, told) in [
        (1, format!("the redundant header of op {number} is damaged")),
        (3, format!("the redundant headers of op {number} and of 2 more are damaged")),
    ] {
        let mut damaged = journal.clone();
        for slot in 0..count {
            damaged[middle + slot * 256 + 200] ^= 4;
        }
        std::fs::write(&path, &damaged).unwrap();
        let (code, found) = verify(&image);
        assert!(code == Some(0) && found.contains(&told), "{found}");
    }
    // What is noted is mended.
    let counted = count(&image).ok();
    assert_eq!(counted.objects()[0]["rows"][0][0].as_i64(), Some(ROWS));
    assert!(!verify(&image).1.contains("redundant"));
}
