//! `verity rebuild`: a directory whose grid is damaged is whole again, with the same answers; from a
//! damaged log nothing is derived; a kill at any moment leaves the old state or the new one.

use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::run::{Database, Run, command, copy_directory, prepares, verity, wait_for_prepares};

const QUERIES: [&str; 4] = [
    "SELECT COUNT(*), MIN(id), MAX(id) FROM rows",
    "SELECT name FROM rows WHERE id = 777",
    "SELECT COUNT(*) FROM rows AS OF POSITION 2500",
    "SELECT * FROM notes ORDER BY id",
];

/// Two tables, history, two tenants, and prepares after the last checkpoint.
fn filled() -> Database {
    let database = Database::new();
    let file = database.path("rows.csv");
    let mut csv = "id,name\n".to_string();
    (0..6_000).for_each(|n| csv.push_str(&format!("{n},person number {n}\n")));
    std::fs::write(&file, csv).unwrap();
    let import = ["import", file.to_str().unwrap(), "--table", "rows", "--primary-key", "id"];
    database.run(&import).ok();
    let long = "x".repeat(9_000);
    database
        .sql(&format!(
            "CREATE TABLE notes (id BIGINT PRIMARY KEY, note TEXT);
         INSERT INTO notes VALUES (1, 'a'), (2, '{long}');
         UPDATE notes SET note = 'b' WHERE id = 1;
         DELETE FROM rows WHERE id < 10"
        ))
        .ok();
    database.run(&["tenant", "create", "7"]).ok();
    database.run(&["sql", "--tenant", "7", "-c", "CREATE TABLE t (id BIGINT PRIMARY KEY)"]).ok();
    database
}

fn answers(data: &Path) -> Vec<serde_json::Value> {
    QUERIES
        .iter()
        .map(|sql| {
            let run = verity(&["sql", "--json", "--data", data.to_str().unwrap(), "-c", sql]).ok();
            run.objects()[0]["rows"].clone()
        })
        .collect()
}

fn digest(data: &Path) -> String {
    let run = verity(&["rebuild", "--check", "--json", data.to_str().unwrap()]).ok();
    run.objects()[0]["digest"].as_str().unwrap().to_string()
}

fn rebuild(data: &Path) -> Run {
    verity(&["rebuild", "--json", data.to_str().unwrap()])
}

fn verdict(data: &Path) -> Option<i32> {
    verity(&["verify", "--data", data.to_str().unwrap()]).code
}

/// A copy of the directory, with its key, to be damaged.
fn copy(database: &Database, name: &str) -> std::path::PathBuf {
    copy_of(database, &database.data(), name)
}

fn copy_of(database: &Database, data: &Path, name: &str) -> std::path::PathBuf {
    let copy = database.path(name);
    copy_directory(data, &copy);
    std::fs::copy(database.path("data.master-key"), database.path(&format!("{name}.master-key")))
        .unwrap();
    copy
}

/// Flips a bit in every page of the grid from the given one on.
fn spoil(data: &Path, from: u64) {
    let file = std::fs::File::options().read(true).write(true).open(data.join("grid")).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    assert!(pages > from);
    for page in from..pages {
        let mut byte = [0];
        file.read_exact_at(&mut byte, page * 4096 + 99).unwrap();
        file.write_all_at(&[byte[0] ^ 1], page * 4096 + 99).unwrap();
    }
}

fn is_whole(data: &Path, run: Run, answers_before: &[serde_json::Value], digest_before: &str) {
    let run = run.ok();
    assert_eq!(run.objects()[0]["rebuilt"], true, "{run:#?}");
    assert_eq!(verdict(data), Some(0), "verify after {run:#?}");
    assert_eq!(run.objects()[0]["digest"], digest_before, "{run:#?}");
    assert_eq!(digest(data), digest_before);
    assert_eq!(answers(data), answers_before);
    // And it goes on: the old grid's pages are used again, the next checkpoint holds.
    let path = data.to_str().unwrap();
    let insert = "INSERT INTO notes VALUES (3, 'after')";
    verity(&["sql", "--data", path, "-c", insert]).ok();
    assert_eq!(verdict(data), Some(0), "verify after a write");
    verity(&["rebuild", "--check", path]).ok();
}

#[test]
fn a_damaged_or_missing_grid_is_made_anew() {
    let database = filled();
    let (before, digest_before) = (answers(&database.data()), digest(&database.data()));

    // A page that holds rows: the heads of the logs are still there.
    let damaged = copy(&database, "leaf");
    let file = std::fs::File::options().read(true).write(true).open(damaged.join("grid")).unwrap();
    let found = (2..file.metadata().unwrap().len() / 4096).find(|page| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, page * 4096 + 50).unwrap();
        file.write_all_at(&[byte[0] ^ 4], page * 4096 + 50).unwrap();
        let run = verity(&["verify", "--json", "--data", damaged.to_str().unwrap()]);
        let heads_hold = !run.stdout.contains("cannot be told without the checkpoint");
        if run.code == Some(1) && heads_hold {
            return true;
        }
        file.write_all_at(&byte, page * 4096 + 50).unwrap();
        false
    });
    assert!(found.is_some(), "no page of rows was found");
    let run = rebuild(&damaged);
    assert_eq!(run.objects()[0]["heads_from"], "grid", "{run:#?}");
    is_whole(&damaged, run, &before, &digest_before);

    // Every page: the logs themselves say how far they go.
    let damaged = copy(&database, "all");
    spoil(&damaged, 1);
    assert_ne!(verdict(&damaged), Some(0));
    let run = verity(&["sql", "--data", damaged.to_str().unwrap(), "-c", "SELECT 1"]);
    assert!(run.stderr.contains("verity rebuild"), "{run:#?}");
    let check = verity(&["rebuild", "--check", damaged.to_str().unwrap()]);
    check.fails(1, "verity rebuild");
    let run = rebuild(&damaged);
    assert_eq!(run.objects()[0]["heads_from"], "logs", "{run:#?}");
    is_whole(&damaged, run, &before, &digest_before);
    // What the old grid had is used before the file grows.
    let grid_pages = || {
        let run = verity(&["inspect", "--json", damaged.to_str().unwrap()]).ok();
        run.objects()[0]["checkpoint"]["grid_pages"].as_u64()
    };
    let pages = grid_pages();
    let file = database.path("more.csv");
    let mut csv = "id,name\n".to_string();
    (10_000..13_000).for_each(|n| csv.push_str(&format!("{n},later {n}\n")));
    std::fs::write(&file, csv).unwrap();
    let (file, path) = (file.to_str().unwrap(), damaged.to_str().unwrap());
    verity(&["import", "--data", path, "--table", "rows", file]).ok();
    assert_eq!(grid_pages(), pages);

    // No grid at all, and no index.
    let damaged = copy(&database, "gone");
    std::fs::remove_file(damaged.join("grid")).unwrap();
    assert_ne!(verdict(&damaged), Some(0));
    is_whole(&damaged, rebuild(&damaged), &before, &digest_before);

    // Whole ones as well, again and again.
    let whole = copy(&database, "whole");
    for _ in 0..3 {
        rebuild(&whole).ok();
        assert_eq!(verdict(&whole), Some(0));
    }
    is_whole(&whole, rebuild(&whole), &before, &digest_before);
}

#[test]
fn indexes_are_made_anew() {
    let database = filled();
    let data = database.data();
    let index = data.join("log/1/00000000.index");
    let before = std::fs::read(&index).unwrap();
    std::fs::remove_file(&index).unwrap();
    std::fs::write(data.join("log/0/00000000.index"), b"nonsense").unwrap();
    let run = verity(&["verify", "--json", "--data", data.to_str().unwrap()]).ok();
    assert!(run.stdout.contains("index"), "{run:#?}");
    let run = rebuild(&data).ok();
    assert_eq!(run.objects()[0]["indexes"], 3, "{run:#?}");
    let run = verity(&["verify", "--json", "--data", data.to_str().unwrap()]).ok();
    assert_eq!(run.objects()[0]["findings"], serde_json::json!([]), "{run:#?}");
    assert!(std::fs::read(&index).unwrap() == before, "the index is a function of the log");
}

#[test]
fn from_a_damaged_log_nothing_is_derived() {
    let database = filled();
    for (name, offset) in [
        ("log/1/00000000.segment", 50_000),
        ("log/0/00000000.segment", 4_096 + 60),
        ("keys", 100),
        ("keys", 65_536 + 100),
    ] {
        let damaged = copy(&database, "damaged");
        let file = std::fs::File::options().read(true).write(true).open(damaged.join(name));
        let file = file.unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 2], offset).unwrap();
        if name == "keys" {
            // One copy is enough.
            rebuild(&damaged).ok();
        } else {
            // With the heads, and without.
            let before = std::fs::read(damaged.join("superblock")).unwrap();
            rebuild(&damaged).fails(1, "position");
            spoil(&damaged, 1);
            rebuild(&damaged).fails(1, "nothing was changed");
            assert!(before == std::fs::read(damaged.join("superblock")).unwrap());
        }
        std::fs::remove_dir_all(&damaged).unwrap();
    }
    // Records lost at the end, at the border of a block: the index knows of them.
    let damaged = copy(&database, "damaged");
    spoil(&damaged, 1);
    let segment = std::fs::File::options().write(true).open(damaged.join("log/1/00000000.segment"));
    let segment = segment.unwrap();
    let length = segment.metadata().unwrap().len();
    segment.set_len(length / 4096 / 2 * 4096).unwrap();
    rebuild(&damaged).fails(1, "position");
}

#[test]
fn a_log_that_is_gone_is_not_taken_for_an_empty_one() {
    let database = filled();
    let (before, digest_before) = (answers(&database.data()), digest(&database.data()));
    // While the grid knows the heads, a missing log is damage.
    let damaged = copy(&database, "grid");
    std::fs::remove_dir_all(damaged.join("log/1")).unwrap();
    rebuild(&damaged).fails(1, "nothing was changed");
    // Without it nobody can tell.
    std::fs::remove_file(damaged.join("grid")).unwrap();
    rebuild(&damaged).fails(2, "--accept-missing-logs");
    std::fs::remove_dir_all(damaged.join("log/0")).unwrap();
    rebuild(&damaged).fails(1, "tenant 0 is missing");
    std::fs::remove_dir_all(damaged.join("log")).unwrap();
    rebuild(&damaged).fails(1, "tenant 0 is missing");

    // A tenant that never wrote: the operator says so.
    database.run(&["tenant", "create", "9"]).ok();
    let damaged = copy(&database, "quiet");
    let digest_with_tenant = digest(&damaged);
    assert_ne!(digest_with_tenant, digest_before);
    spoil(&damaged, 1);
    rebuild(&damaged).fails(2, "tenant 9 has no log");
    let path = damaged.to_str().unwrap();
    let run = verity(&["rebuild", "--json", "--accept-missing-logs", path]);
    is_whole(&damaged, run, &before, &digest_with_tenant);
}

#[test]
fn it_says_why_it_cannot() {
    let database = filled();
    let data = database.data();
    let open = verity::Verity::open(&data).unwrap();
    rebuild(&data).fails(2, "in use by another process");
    open.close().unwrap();
    let key = database.path("data.master-key");
    std::fs::rename(&key, database.path("kept")).unwrap();
    rebuild(&data).fails(2, "master key");
    std::fs::write(&key, "a".repeat(64)).unwrap();
    rebuild(&data).fails(2, "master key");
    rebuild(&database.path("nowhere")).fails(2, "holds no database");
    let fresh = Database::new();
    let run = rebuild(&fresh.data()).ok();
    assert_eq!(run.objects()[0]["rebuilt"], false, "{run:#?}");
}

/// Prepares after the checkpoint, from a process that was killed, are replayed onto the new grid.
#[test]
fn what_came_after_the_checkpoint_is_replayed() {
    let database = filled();
    let data = database.data();
    let file = database.path("more.csv");
    let mut csv = "id,name\n".to_string();
    (10_000..60_000).for_each(|n| csv.push_str(&format!("{n},late {n}\n")));
    std::fs::write(&file, csv).unwrap();
    let mut import = command()
        .args(["import", file.to_str().unwrap(), "--table", "rows", "--data"])
        .arg(&data)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    assert!(wait_for_prepares(&mut import, &data, 12), "the import was over too soon");
    import.kill().unwrap();
    import.wait().unwrap();
    assert!(prepares(&data) > 0);
    let expected = {
        let other = copy(&database, "other");
        answers(&other)
    };
    spoil(&data, 1);
    let run = rebuild(&data).ok();
    assert!(run.objects()[0]["prepares_after_checkpoint"].as_u64() > Some(0), "{run:#?}");
    assert_eq!(answers(&data), expected);
    assert_eq!(verdict(&data), Some(0));
    verity(&["rebuild", "--check", data.to_str().unwrap()]).ok();
}

#[test]
fn a_kill_at_any_moment_leaves_the_old_state_or_the_new_one() {
    let database = filled();
    let (before, digest_before) = (answers(&database.data()), digest(&database.data()));
    for damaged in [false, true] {
        let data = copy(&database, if damaged { "damaged" } else { "whole" });
        if damaged {
            spoil(&data, 1);
        }
        kill_rebuilds(&database, &data, damaged);
        is_whole(&data, rebuild(&data), &before, &digest_before);
    }
}

fn kill_rebuilds(database: &Database, data: &Path, damaged: bool) {
    let superblock = || std::fs::read(data.join("superblock")).unwrap();
    let grid_length = || std::fs::metadata(data.join("grid")).unwrap().len();
    let (old, length) = (superblock(), grid_length());
    // What is seen from outside when the kill comes: nothing, pages, an index, the superblock.
    let moments: [&dyn Fn() -> bool; 4] = [
        &|| true,
        &|| grid_length() > length,
        &|| data.join("log/0/00000000.index.new").exists(),
        &|| superblock() != old,
    ];
    for (number, moment) in moments.iter().enumerate() {
        let mut child = command()
            .args(["rebuild", data.to_str().unwrap()])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while !moment() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let again = copy_of(database, data, "again");
        if !damaged {
            // A superblock that was being written is repaired by the next open.
            verity(&["sql", "--data", again.to_str().unwrap(), "-c", QUERIES[0]]).ok();
            assert_eq!(verdict(&again), Some(0), "moment {number}");
        }
        rebuild(&again).ok();
        std::fs::remove_dir_all(again).unwrap();
    }
}
