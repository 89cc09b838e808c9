//! Files that are cut short or have a bit flipped: told, never believed, never a panic.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use verity_core::io::{Effect, Effects};
use verity_core::node::CURRENT_RELEASE;
use verity_core::superblock::{OpenOptions, Superblock, SuperblockEvent, SuperblockState};

use crate::run::{Database, Run, copy_directory, verity};

const ROWS: i64 = 4_000;

fn filled() -> Database {
    let database = Database::new();
    let file = database.path("rows.csv");
    let mut csv = "id,name\n".to_string();
    (0..ROWS).for_each(|n| csv.push_str(&format!("{n},person number {n}\n")));
    std::fs::write(&file, csv).unwrap();
    let import = ["import", file.to_str().unwrap(), "--table", "rows", "--primary-key", "id"];
    database.run(&import).ok();
    database
}

/// Verifies, then opens: either may refuse; neither may panic, hang or count wrong.
fn judge(copy: &Path, what: &str) -> (Run, Run) {
    let path = copy.to_str().unwrap();
    let verified = verity(&["verify", "--json", "--data", path]);
    let counted = verity(&["sql", "--json", "--data", path, "-c", "SELECT COUNT(*) FROM rows"]);
    if counted.code == Some(0) {
        let count = counted.objects()[0]["rows"][0][0].as_i64();
        assert_eq!(count, Some(ROWS), "{what}: {counted:#?}");
    } else {
        assert!(counted.stderr.contains("error"), "{what}: {counted:#?}");
    }
    (verified, counted)
}

fn fresh_copy(database: &Database) -> std::path::PathBuf {
    let copy = database.path("copy");
    if copy.exists() {
        std::fs::remove_dir_all(&copy).unwrap();
    }
    copy_directory(&database.data(), &copy);
    let key = database.path("copy.master-key");
    std::fs::copy(database.path("data.master-key"), key).unwrap();
    copy
}

#[test]
fn flipped_bits_are_found() {
    let database = filled();
    let segment = "log/1/00000000.segment";
    let length = |name: &str| std::fs::metadata(database.data().join(name)).unwrap().len();
    // File, offset, must `verify` say broken?
    let cases = [
        ("superblock", 40, true),
        ("superblock", verity_core::superblock::copy_offset(1) + 200, true),
        ("keys", 10, true),
        ("keys", 100, true),
        (segment, 20, true),
        (segment, 4096 + 2, true),
        (segment, 4096 + 6, true),
        (segment, 4096 + 30, true),
        (segment, 4096 + 90, true),
        (segment, length(segment) / 2, true),
        (segment, length(segment) - 4096, true),
        ("log/1/00000000.index", 4096 + 100, false),
        ("log/0/00000000.segment", 4096 + 50, true),
        ("journal", 10, false),
        ("journal", length("journal") / 2, false),
        ("grid", 4096 * 2 + 77, false),
        ("grid", length("grid") / 2, false),
        ("grid", length("grid") - 5, false),
    ];
    let mut grid_found = 0;
    for (name, offset, must) in cases {
        let copy = fresh_copy(&database);
        let file = std::fs::File::options().read(true).write(true).open(copy.join(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
        let what = format!("{name} byte {offset}");
        let (verified, _) = judge(&copy, &what);
        if must {
            assert_eq!(verified.code, Some(1), "{what}: {verified:#?}");
            let reason = verified.objects()[0]["findings"].to_string();
            assert!(reason.contains("damage"), "{what}: {verified:#?}");
        } else {
            assert!(matches!(verified.code, Some(0 | 1)), "{what}: {verified:#?}");
        }
        grid_found += u32::from(name == "grid" && verified.code == Some(1));
    }
    assert!(grid_found > 0, "no page of the grid that is in use was hit");
}

/// Flips bits of one byte of a file.
fn flip(path: &Path, offset: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

#[test]
fn inspect_tells_what_it_found_by_its_exit_code() {
    let database = filled();
    let inspect = |data: &Path| verity(&["inspect", "--json", data.to_str().unwrap()]);
    let told = inspect(&database.data()).ok().objects().remove(0);
    assert_eq!(told["verdict"], "holds");
    assert!(told["findings"].is_array(), "{told}");
    for (name, offset) in [("log/1/00000000.segment", 4096 + 30), ("superblock", 40)] {
        let copy = fresh_copy(&database);
        flip(&copy.join(name), offset);
        let run = inspect(&copy).fails(1, "");
        let told = run.objects().remove(0);
        assert_eq!(told["verdict"], "broken");
        let findings = told["findings"].as_array().unwrap();
        let damage: Vec<_> = findings.iter().filter(|one| one["severity"] == "damage").collect();
        assert!(damage.iter().any(|one| one["reason"].is_string()), "{run:#?}");
        let text = verity(&["inspect", copy.to_str().unwrap()]).fails(1, "");
        assert!(text.stdout.contains("damage"), "{text:#?}");
    }
    // Nothing of a superblock is left: that is damage, too.
    let copy = fresh_copy(&database);
    std::fs::write(copy.join("superblock"), [7; 16384]).unwrap();
    let run = inspect(&copy).fails(1, "");
    assert_eq!(run.objects()[0]["findings"][0]["part"], "superblock", "{run:#?}");
    // Without the key the pages are not looked at: it could not be told.
    let copy = fresh_copy(&database);
    std::fs::remove_file(database.path("copy.master-key")).unwrap();
    let run = inspect(&copy).fails(2, "");
    assert_eq!(run.objects()[0]["verdict"], "could_not_tell", "{run:#?}");
}

#[test]
fn one_record_is_read_through_its_chain() {
    let database = filled();
    let data = database.data();
    let read = |data: &Path, place: &str| {
        verity(&["inspect", "--json", "--record", place, data.to_str().unwrap()])
    };
    let all = database.sql("SELECT position FROM __events").ok();
    let count = all.objects()[0]["rows"].as_array().unwrap().len() as u64;
    let mut kinds = std::collections::BTreeSet::new();
    for position in [0, 1, count / 2, count - 1] {
        let run = read(&data, &format!("1:{position}")).ok();
        let told = &run.objects()[0];
        assert_eq!(told["position"], position, "{run:#?}");
        assert!(told["data_hex"].is_string(), "{run:#?}");
        // From one checkpoint record to the next: 1,000 records, and what is left of a batch.
        assert!(told["records_read"].as_u64().unwrap() <= 1_600, "{run:#?}");
        kinds.insert(told["kind"].as_str().unwrap().to_string());
    }
    assert!(kinds.contains("row_put"), "{kinds:?}");
    read(&data, "0:0").ok();
    read(&data, "1:1000000").fails(2, "has no position 1000000");
    read(&data, "9:0").fails(2, "has no position 0");
    read(&data, "1").fails(2, "1:4711");
    let text = verity(&["inspect", "--record", "1:1", data.to_str().unwrap()]).ok();
    assert!(text.stdout.contains("its chain was followed"), "{text:#?}");

    // A record that is damaged, and one that is whole beside it.
    let copy = fresh_copy(&database);
    flip(&copy.join("log/1/00000000.segment"), 4096 * 3 + 40);
    let verified = verity(&["verify", "--json", "--data", copy.to_str().unwrap()]).fails(1, "");
    let findings = verified.objects()[0]["findings"].clone();
    let mut damaged = findings.as_array().unwrap().iter().filter(|one| one["severity"] == "damage");
    let position = damaged.next().unwrap()["position"].as_u64().unwrap();
    let run = read(&copy, &format!("1:{position}")).fails(1, "does not verify");
    let told = &run.objects()[0];
    assert_eq!(
        (&told["position"], &told["damaged_position"]),
        (&position.into(), &position.into())
    );
    assert!(told["reason"].as_str().unwrap().contains(&format!("position {position}")), "{told}");
    // Its own checksum is right, but the chain between it and the checkpoint records is not.
    read(&copy, &format!("1:{}", position - 1)).fails(1, "does not verify");
    read(&copy, &format!("1:{}", count - 1)).ok();
    std::fs::remove_file(database.path("copy.master-key")).unwrap();
    read(&copy, "1:1").fails(2, "master key");
}

#[test]
fn a_record_that_only_the_journal_has_is_read_without_replaying_on_disk() {
    let (database, _) = killed();
    let newest = {
        let copy = fresh_copy(&database);
        let sql = "SELECT MAX(position) FROM __events WHERE table_name = 'rows'";
        let run = verity(&["sql", "--json", "--data", copy.to_str().unwrap(), "-c", sql]).ok();
        run.objects()[0]["rows"][0][0].as_i64().unwrap()
    };
    let copy = fresh_copy(&database);
    let before = bytes_of(&copy);
    let path = copy.to_str().unwrap();
    let read =
        |position: i64| verity(&["inspect", "--json", "--record", &format!("1:{position}"), path]);
    let run = read(newest).ok();
    assert_eq!(run.objects()[0]["kind"], "row_put", "{run:#?}");
    // The record that closing the replay appends is on no disk.
    for position in newest + 1..newest + 3 {
        read(position).fails(2, "has no position");
    }
    assert!(bytes_of(&copy) == before, "something was written");
}

#[test]
fn truncated_and_missing_files_are_told() {
    let database = filled();
    let segment = "log/1/00000000.segment";
    for name in ["superblock", "journal", "grid", "keys", segment, "log/1/00000000.index"] {
        let length = std::fs::metadata(database.data().join(name)).unwrap().len();
        for keep in [Some(0), Some(1), Some(4096), Some(length / 2), Some(length - 1), None] {
            let copy = fresh_copy(&database);
            match keep {
                Some(keep) => {
                    let file = std::fs::File::options().write(true).open(copy.join(name)).unwrap();
                    file.set_len(keep).unwrap();
                }
                None => std::fs::remove_file(copy.join(name)).unwrap(),
            }
            let what = format!("{name} of {length} bytes cut to {keep:?}");
            let (verified, _) = judge(&copy, &what);
            // Zeros behind what is in use are read where a file ends, too: nothing is lost. An
            // index says nothing that its segment does not.
            let holds = match (name, keep) {
                ("superblock" | "keys", Some(keep)) => keep == length - 1,
                ("grid", Some(keep)) => keep >= length / 2,
                (name, _) => name == "log/1/00000000.index",
            };
            assert_eq!(verified.code, Some(i32::from(!holds)), "{what}: {verified:#?}");
            let findings = verified.objects()[0]["findings"].clone();
            let mut found = findings.as_array().unwrap().iter();
            let damage = found.find(|finding| finding["severity"] == "damage");
            let part = if name == segment { "log" } else { name };
            let told = damage.map(|finding| finding["part"].as_str().unwrap());
            assert_eq!(told, (!holds).then_some(part), "{what}: {verified:#?}");
        }
    }
    for keep in [0, 4096, 8192] {
        let copy = fresh_copy(&database);
        let file = std::fs::File::options().write(true).open(copy.join(segment)).unwrap();
        file.set_len(keep).unwrap();
        let (verified, _) = judge(&copy, "segment");
        assert_eq!(verified.code, Some(1), "{verified:#?}");
    }
}

/// What is written meanwhile is in the journal; it must not follow a hole as if nothing were
/// missing.
#[test]
fn a_log_that_was_cut_is_not_written_on_in_silence() {
    let database = filled();
    let length = std::fs::metadata(database.data().join("log/1/00000000.segment")).unwrap().len();
    for keep in [0, 4096, length - 4096] {
        let copy = fresh_copy(&database);
        let segment = copy.join("log/1/00000000.segment");
        std::fs::File::options().write(true).open(&segment).unwrap().set_len(keep).unwrap();
        let insert = "INSERT INTO rows VALUES (-1, 'after the cut')";
        let run = verity(&["sql", "--data", copy.to_str().unwrap(), "-c", insert]);
        assert_eq!(run.code, Some(1), "cut to {keep}: {run:#?}");
        assert!(run.stderr.contains("somebody cut it"), "cut to {keep}: {run:#?}");
        assert_eq!(std::fs::metadata(&segment).unwrap().len(), keep, "nothing follows the hole");
    }
}

/// Any page of an index, its header among them: one warning, and the next command has none.
#[test]
fn an_index_that_rots_is_made_whole_by_whoever_uses_it() {
    let database = filled();
    let good = std::fs::read(database.data().join("log/1/00000000.index")).unwrap();
    let every = "SELECT COUNT(*) FROM HISTORY OF rows WHERE name LIKE 'person%'";
    let used = |page: usize| good[page * 4_096..][..4_096].iter().any(|byte| *byte != 0);
    let pages: Vec<usize> = (0..good.len() / 4_096).filter(|page| used(*page)).collect();
    let entries = pages.iter().filter(|page| **page <= 1_000_000 / 102).count();
    assert!(entries > 40 && pages.len() > entries, "{pages:?}");
    let cases = [0, 1, entries / 2, entries - 1].map(|nth| (pages[nth], every));
    let insert = "INSERT INTO rows VALUES (-1, 'person before all')";
    for (page, statement) in [&cases[..], &[(0, insert), (pages[entries - 1], insert)]].concat() {
        let copy = fresh_copy(&database);
        let path = copy.to_str().unwrap();
        let index = copy.join("log/1/00000000.index");
        flip(&index, page as u64 * 4_096 + 33);
        let verified = verity(&["verify", "--data", path]).ok();
        assert!(
            verified.stdout.contains("1 page(s) that are damaged"),
            "page {page}: {verified:#?}"
        );
        let run = verity(&["sql", "--data", path, "-c", statement]).ok();
        let warnings = run.stderr.matches("log/1/00000000.index is damaged").count();
        assert_eq!(warnings, 1, "page {page}, {statement}: {run:#?}");
        if statement == every {
            assert!(std::fs::read(&index).unwrap() == good, "page {page}: not what it was");
        }
        let verified = verity(&["verify", "--data", path]).ok();
        assert!(!verified.stdout.contains("index"), "page {page}: {verified:#?}");
        let again = verity(&["sql", "--data", path, "-c", every]).ok();
        assert!(again.stderr.is_empty(), "page {page}: {again:#?}");
    }
}

/// Zeros behind the last record are no data: verify says so, and the next write puts them back.
#[test]
fn padding_that_was_cut_off_is_told_and_put_back() {
    let database = filled();
    for tenant in [0, 1] {
        let copy = fresh_copy(&database);
        let path = copy.to_str().unwrap();
        let segment = copy.join(format!("log/{tenant}/00000000.segment"));
        let bytes = std::fs::read(&segment).unwrap();
        let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
        assert!(zeros > 20, "the last block has no padding worth a test: {zeros}");
        for cut in [1, zeros - 8, zeros + 30] {
            std::fs::write(&segment, &bytes[..bytes.len() - cut]).unwrap();
            verity(&["verify", "--data", path]).fails(1, "");
            if cut > zeros {
                let insert = "INSERT INTO rows VALUES (-9, 'never')";
                let run = verity(&["sql", "--data", path, "-c", insert]);
                assert!(run.code == Some(1) && run.stderr.contains("somebody cut"), "{run:#?}");
                continue;
            }
            let copy = database.path("again");
            let _ = std::fs::remove_dir_all(&copy);
            copy_directory(std::path::Path::new(path), &copy);
            let key = database.path("again.master-key");
            std::fs::copy(database.path("data.master-key"), key).unwrap();
            let path = copy.to_str().unwrap();
            let insert = "INSERT INTO rows VALUES (-1, 'after the cut')";
            let run = verity(&["sql", "--data", path, "-c", insert]).ok();
            assert!(run.stderr.contains(&format!("was cut by {cut} bytes")), "{run:#?}");
            let run = verity(&["sql", "--data", path, "-c", "SELECT COUNT(*) FROM rows"]).ok();
            assert!(run.stderr.is_empty(), "{run:#?}");
            verity(&["verify", "--data", path]).ok();
        }
    }
}

#[test]
fn a_segment_of_another_tenant_in_its_place_is_found() {
    let database = filled();
    let copy = fresh_copy(&database);
    std::fs::copy(copy.join("log/0/00000000.segment"), copy.join("log/1/00000000.segment"))
        .unwrap();
    let (verified, _) = judge(&copy, "foreign segment");
    assert_eq!(verified.code, Some(1), "{verified:#?}");
}

/// Acknowledged rows that only the journal holds: no checkpoint came, and the process was killed.
/// And how many a copy of it gives.
fn killed() -> (Database, i64) {
    use std::io::{BufRead, BufReader};
    let database = Database::new();
    database.sql("CREATE TABLE rows (id BIGINT PRIMARY KEY)").ok();
    let path = database.path("script.sql");
    let script: String =
        (0..5_000).map(|id| format!("INSERT INTO rows VALUES ({id});\n")).collect();
    std::fs::write(&path, script).unwrap();
    let mut child = crate::run::command()
        .args(["sql", "--json", "--data"])
        .arg(database.data())
        .stdin(std::fs::File::open(&path).unwrap())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..20 {
        assert!(lines.next().unwrap().unwrap().contains("position"));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let copy = fresh_copy(&database);
    let counted = verity(&[
        "sql",
        "--json",
        "--data",
        copy.to_str().unwrap(),
        "-c",
        "SELECT COUNT(*) FROM rows",
    ]);
    let rows = counted.ok().objects()[0]["rows"][0][0].as_i64().unwrap();
    assert!(rows >= 20, "{rows} rows");
    (database, rows)
}

/// Every file but the lock, of folders too.
fn bytes_of(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            all.extend(bytes_of(&entry.path()));
        } else if entry.file_name() != "lock" {
            all.push((entry.path(), std::fs::read(entry.path()).unwrap()));
        }
    }
    all.sort();
    all
}

/// What the next open makes whole is told, and left as it is.
#[test]
fn verify_repairs_nothing() {
    let (database, rows) = killed();
    let good = bytes_of(&database.data());
    assert!(good.iter().any(|(path, _)| path.ends_with("log/1/00000000.segment")), "no logs");
    // The header of one of the last prepares, whose redundant one reached the disk.
    let journal = std::fs::read(database.data().join("journal")).unwrap();
    let ring = journal.len() / 17;
    let headers = journal.chunks(256).take(ring / 256).enumerate();
    let used: Vec<usize> = headers
        .filter(|(_, slot)| !slot.starts_with(b"vacant\0\0"))
        .map(|(number, _)| number)
        .collect();
    assert!(used.len() > 10, "{used:?}");
    let torn = (ring + 4096 * used[used.len() - 5]) as u64 + 5;
    let cases = [
        ("superblock", verity_core::superblock::copy_offset(1) + 200),
        ("keys", 10),
        ("log/1/00000000.index", 33),
        ("journal", torn),
    ];
    for (name, offset) in cases {
        let copy = fresh_copy(&database);
        flip(&copy.join(name), offset);
        let before = bytes_of(&copy);
        let path = copy.to_str().unwrap();
        let verified = verity(&["verify", "--json", "--data", path]);
        let told = &verified.objects()[0];
        assert!(!told["findings"].as_array().unwrap().is_empty(), "{name}: {verified:#?}");
        assert!(bytes_of(&copy) == before, "{name}: something was written");
        let counted = verity(&["sql", "--json", "--data", path, "-c", "SELECT COUNT(*) FROM rows"]);
        assert_eq!(counted.ok().objects()[0]["rows"][0][0], rows, "{name}");
        let damaged = before.iter().find(|(path, _)| *path == copy.join(name)).unwrap();
        let after = std::fs::read(copy.join(name)).unwrap();
        let mended = after[usize::try_from(offset).unwrap()];
        assert!(mended != damaged.1[usize::try_from(offset).unwrap()], "{name}: not repaired");
    }
}

/// Refused with these words, by everything that opens; nothing is written.
fn refused_untouched(copy: &Path, verdict: i32, words: &str) {
    let path = copy.to_str().unwrap();
    let before = bytes_of(copy);
    let verified = verity(&["verify", "--json", "--data", path]);
    assert_eq!(verified.code, Some(verdict), "{verified:#?}");
    for sql in ["SELECT COUNT(*) FROM rows", "INSERT INTO rows VALUES (99)"] {
        let run = verity(&["sql", "--data", path, "-c", sql]);
        assert!(run.code == Some(1) && run.stderr.contains(words), "{run:#?}");
    }
    assert!(bytes_of(copy) == before, "something was written");
}

#[test]
fn a_journal_that_was_cut_is_no_empty_journal() {
    let (database, rows) = killed();
    let length = std::fs::metadata(database.data().join("journal")).unwrap().len();
    for keep in [Some(0), Some(4096), Some(length - 4096), None] {
        let copy = fresh_copy(&database);
        let journal = copy.join("journal");
        match keep {
            Some(keep) => {
                std::fs::File::options().write(true).open(journal).unwrap().set_len(keep).unwrap();
            }
            None => std::fs::remove_file(journal).unwrap(),
        }
        let words = if keep.is_some() { "bytes of" } else { "is missing" };
        refused_untouched(&copy, 1, words);
    }
    assert_eq!(database.number("SELECT COUNT(*) FROM rows"), rows);
}

#[test]
fn an_older_superblock_that_was_put_back_is_told_as_what_it_is() {
    let database = filled();
    let old = std::fs::read(database.data().join("superblock")).unwrap();
    for round in 0..3 {
        let sql = format!("UPDATE rows SET name = 'round {round}' WHERE id < 2000");
        database.sql(&sql).ok();
    }
    let copy = fresh_copy(&database);
    std::fs::write(copy.join("superblock"), &old).unwrap();
    let words = "an older superblock was put back";
    let verified = verity(&["verify", "--json", "--data", copy.to_str().unwrap()]).fails(1, "");
    assert!(verified.stdout.contains(words), "{verified:#?}");
    refused_untouched(&copy, 1, words);
    let path = copy.to_str().unwrap();
    let before = bytes_of(&copy);
    let run = verity(&["start", "--addresses", "127.0.0.1:0", path]).fails(1, words);
    assert!(run.stderr.contains("nothing was changed"), "{run:#?}");
    verity(&["rebuild", "--check", path]).fails(1, words);
    verity(&["rebuild", path]).fails(1, words);
    assert!(bytes_of(&copy) == before, "something was written");
    // As a program sees it.
    let error = verity::Verity::open(&copy).unwrap_err();
    assert!(matches!(error, verity::Error::SuperblockStale(_)), "{error}");
    assert_eq!(error.sqlstate(), "XX001");
}

/// Puts back all that says how far the logs go, and looks whether anyone notices.
fn put_back(database: &Database, old: &[(std::path::PathBuf, Vec<u8>)]) {
    let copy = fresh_copy(database);
    let data = database.data();
    for (path, bytes) in old.iter().filter(|(path, _)| path.parent() == Some(&data)) {
        std::fs::write(copy.join(path.file_name().unwrap()), bytes).unwrap();
    }
    let words = "of which neither checkpoint nor journal knows";
    let verified = verity(&["verify", "--json", "--data", copy.to_str().unwrap()]).fails(1, "");
    let findings = verified.objects()[0]["findings"].clone();
    let mut found = findings.as_array().unwrap().iter();
    let found = found.find(|finding| finding["tenant"] == 1 && finding["severity"] == "damage");
    assert!(found.unwrap()["reason"].as_str().unwrap().contains(words), "{verified:#?}");
    assert!(found.unwrap()["position"].as_u64().unwrap() > 0, "{verified:#?}");
}

#[test]
fn logs_that_know_more_than_checkpoint_and_journal_are_told() {
    // The journal that comes back is empty.
    let database = filled();
    let old = bytes_of(&database.data());
    database.sql("INSERT INTO rows VALUES (-1, 'acknowledged')").ok();
    put_back(&database, &old);
    // It holds prepares, but not all.
    let (database, rows) = killed();
    let old = bytes_of(&database.data());
    database.verify().ok();
    database.sql("INSERT INTO rows VALUES (-1)").ok();
    put_back(&database, &old);
    assert_eq!(database.number("SELECT COUNT(*) FROM rows"), rows + 1);
}

#[test]
fn what_is_left_without_a_superblock_is_not_formatted_over() {
    let (database, rows) = killed();
    for how in 0..3 {
        let copy = fresh_copy(&database);
        let superblock = copy.join("superblock");
        let length = std::fs::metadata(&superblock).unwrap().len() as usize;
        match how {
            0 => std::fs::remove_file(superblock).unwrap(),
            1 => std::fs::write(superblock, []).unwrap(),
            _ => std::fs::write(superblock, vec![0; length]).unwrap(),
        }
        // With a log the node itself says what is gone; without one nothing else would.
        std::fs::remove_dir_all(copy.join("log")).unwrap();
        refused_untouched(&copy, 1, "what is left of a database");
        let path = copy.to_str().unwrap();
        verity(&["format", path]).fails(1, "what is left of a database");
    }
    assert_eq!(database.number("SELECT COUNT(*) FROM rows"), rows);
}

#[test]
fn a_damaged_newest_write_is_never_taken_for_whole_or_for_none() {
    let (database, rows) = killed();
    // The newest prepare: the last page of the ring, from its start on, that is not zeros.
    let journal = std::fs::read(database.data().join("journal")).unwrap();
    let last = journal.chunks(4096).rposition(|page| page.iter().any(|&byte| byte != 0)).unwrap();
    for byte in [5, 100, 300] {
        let copy = fresh_copy(&database);
        let file = std::fs::File::options().read(true).write(true).open(copy.join("journal"));
        let (file, at) = (file.unwrap(), last as u64 * 4096 + byte);
        let mut found = [0];
        file.read_exact_at(&mut found, at).unwrap();
        file.write_all_at(&[found[0] ^ 0x10], at).unwrap();
        let path = copy.to_str().unwrap();
        let verified = verity(&["verify", "--json", "--data", path]);
        // Its redundant header may have reached the disk. Then a damaged header is put back from
        // it, and a damaged body is known to be rotten.
        let restored = verified.stdout.contains("the next open restores it");
        let code = verified.code;
        let told = if restored { code == Some(0) } else { matches!(code, Some(1 | 2)) };
        assert!(told, "byte {byte}: {verified:#?}");
        let counted = verity(&["sql", "--json", "--data", path, "-c", "SELECT COUNT(*) FROM rows"]);
        let there = (counted.code == Some(0)).then(|| counted.objects()[0]["rows"][0][0].as_i64());
        if restored {
            assert_eq!(there, Some(Some(rows)), "byte {byte}: {counted:#?}");
        } else if let Some(there) = there {
            assert!(counted.stderr.contains("does not verify"), "byte {byte}: {counted:#?}");
            assert_eq!(there, Some(rows - 1));
        }
    }
}

#[test]
fn what_cannot_be_read_is_not_called_broken() {
    let database = filled();
    let data = database.data();
    let shell = |script: &str| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script, "sh"]).arg(env!("CARGO_BIN_EXE_verity")).arg(&data);
        Run::new(command.output().unwrap())
    };
    let few = shell("ulimit -n 4; exec \"$1\" verify --data \"$2\"");
    assert_eq!(few.code, Some(2), "{few:#?}");
    let nobody = shell("exec \"$1\" verify --data \"$2\" >/dev/full");
    assert_eq!(nobody.code, Some(2), "{nobody:#?}");
    // A limit on the size of files is an error, neither the end of the process nor one without end.
    let small = shell("ulimit -f 1; exec timeout 60 \"$1\" sql --data \"$2.new\" -c 'SELECT 1'");
    assert!(small.code == Some(1) && small.stderr.contains("error"), "{small:#?}");
    database.verify().ok();
}

/// As by the kernel for a process that was killed, whose last writes the disk does not finish.
#[test]
fn a_file_that_stays_held_is_waited_for_and_named() {
    use std::io::{BufRead, BufReader};
    let database = Database::new();
    let held = std::fs::File::open(database.data().join("superblock")).unwrap();
    held.lock().unwrap();
    let mut child = crate::run::command()
        .args(["sql", "-c", "SELECT 1", "--data"])
        .arg(database.data())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told = lines.next().unwrap();
    assert!(told.contains("waiting for") && told.contains("superblock"), "{told}");
    assert!(child.try_wait().unwrap().is_none(), "told while it waits");
    let rest: Vec<String> = lines.collect();
    let rest = rest.join("\n");
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
    assert!(rest.contains("still held after 30 s") && rest.contains("fuser"), "{rest}");
    assert!(!rest.contains("temporarily unavailable"), "{rest}");
    drop(held);
    database.sql("SELECT 1").ok();
}

/// Makes it a replica of three that was stopped while it fetched a checkpoint: the mark is in the
/// superblock, half of the grid and of a log is of another moment.
fn cut_sync_short(data: &Path) {
    let open = |name: &str| File::options().read(true).write(true).open(data.join(name)).unwrap();
    let file = open("superblock");
    let options = OpenOptions {
        cluster: None,
        replica: None,
        release: CURRENT_RELEASE,
        accept_single_copy: false,
    };
    let mut effects = Effects::new();
    let mut superblock = Superblock::open(options, &mut effects);
    let mut marked = false;
    while !marked {
        for effect in effects.drain().collect::<Vec<Effect>>() {
            let event = match effect {
                Effect::Read { io, at, mut pages } => {
                    file.read_exact_at(pages.as_bytes_mut(), at.offset).unwrap();
                    superblock.on_read_done(io, pages, Ok(()), &mut effects)
                }
                Effect::Write { io, at, pages, durable: _ } => {
                    file.write_all_at(pages.as_bytes(), at.offset).unwrap();
                    superblock.on_write_done(io, pages, Ok(()), &mut effects)
                }
                Effect::Event(_) => continue,
                other => panic!("a superblock reads and writes: {other:?}"),
            };
            match event.unwrap() {
                None => {}
                Some(SuperblockEvent::Opened) => {
                    let state = *superblock.state().unwrap();
                    let state = SuperblockState { syncing: true, replica_count: 3, ..state };
                    superblock.update(state, &mut effects);
                }
                Some(SuperblockEvent::Updated) => marked = true,
            }
        }
    }
    for name in ["grid", "log/1/00000000.segment"] {
        let file = open(name);
        let half = file.metadata().unwrap().len() / 2;
        file.write_all_at(&vec![0x5A; usize::try_from(half).unwrap()], half).unwrap();
    }
}

#[test]
fn of_a_replica_that_was_fetching_a_checkpoint_nothing_can_be_told() {
    let database = filled();
    let copy = fresh_copy(&database);
    cut_sync_short(&copy);
    let path = copy.to_str().unwrap();
    let before = std::fs::read(copy.join("superblock")).unwrap();
    let words = "fetching a checkpoint from its peers";
    for command in ["verify", "inspect"] {
        let run = verity(&[command, "--json", "--data", path]);
        assert_eq!(run.code, Some(2), "{run:#?}");
        let told = &run.objects()[0];
        let findings = told["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["part"] == "checkpoint");
        assert!(found.unwrap()["reason"].as_str().unwrap().contains(words), "{run:#?}");
        // The checkpoint of before is none any more.
        match command {
            "verify" => assert!(told["checkpoint_op"].is_null(), "{run:#?}"),
            _ => assert_eq!(told["syncing"], true, "{run:#?}"),
        }
        let said = verity(&[command, "--data", path]);
        assert!(said.code == Some(2) && format!("{said:?}").contains(words), "{said:#?}");
    }
    let record = ["inspect", "--record", "1:0", "--data", path];
    verity(&record).fails(2, words);
    verity(&["rebuild", "--check", "--data", path]).fails(2, words);
    verity(&["rebuild", "--data", path]).fails(2, "Start the replica, its peers repair it");
    verity(&["sql", "--data", path, "-c", "SELECT COUNT(*) FROM rows"]).fails(1, words);
    assert_eq!(std::fs::read(copy.join("superblock")).unwrap(), before, "something was written");
}
