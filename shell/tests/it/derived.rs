//! Files of a log that nothing rests on: indexes that are not the segment's own, segments that no
//! checkpoint names. Told as what they are; never as damage of the log.

use std::path::Path;

use serde_json::Value as Json;

use crate::run::{Database, Run, copy_directory, verity};

const INDEX: &str = "log/1/00000000.index";

/// A table of so many rows, each as long as asked for.
fn filled(rows: usize, length: usize) -> Database {
    let database = Database::new();
    let file = database.path("rows.csv");
    let mut csv = "id,name\n".to_string();
    (0..rows).for_each(|n| csv.push_str(&format!("{n},{}\n", "x".repeat(length))));
    std::fs::write(&file, csv).unwrap();
    let import = ["import", file.to_str().unwrap(), "--table", "rows", "--primary-key", "id"];
    database.run(&import).ok();
    database
}

fn findings(run: &Run) -> Vec<Json> {
    run.objects()[0]["findings"].as_array().unwrap().clone()
}

/// What `verify` says of a part; everything that it says is a note.
#[track_caller]
fn notes(data: &Path, part: &str) -> Vec<String> {
    let run = verity(&["verify", "--json", "--data", data.to_str().unwrap()]).ok();
    let all = findings(&run);
    assert!(all.iter().all(|one| one["severity"] == "note" && one["part"] == part), "{run:#?}");
    all.iter().map(|one| one["reason"].as_str().unwrap().to_string()).collect()
}

/// `verify` notes it once; whoever uses it says once that it is made anew, and reads what is there.
#[track_caller]
fn is_made_anew(data: &Path, rows: u64, noted: &str) {
    let told = notes(data, "index");
    assert!(told.len() == 1 && told[0].contains(INDEX) && told[0].contains(noted), "{told:?}");
    let path = data.to_str().unwrap();
    let events = "SELECT COUNT(*) FROM __events";
    for warnings in [1, 0] {
        let run = verity(&["sql", "--json", "--data", path, "-c", events]).ok();
        assert!(run.objects()[0]["rows"][0][0].as_u64().unwrap() >= rows, "{run:#?}");
        assert_eq!(run.stderr.matches("is made anew").count(), warnings, "{run:#?}");
        assert!(!run.stderr.contains("is damaged at"), "{run:#?}");
    }
    assert_eq!(notes(data, "index"), [""; 0]);
    verity(&["inspect", "--record", "1:5", path]).ok();
}

#[test]
fn an_index_of_another_directory_is_no_damage_of_the_segment() {
    let (ours, other) = (filled(500, 20), filled(500, 31));
    std::fs::copy(other.data().join(INDEX), ours.data().join(INDEX)).unwrap();
    is_made_anew(&ours.data(), 500, "damaged or of another directory");
}

/// A copy was put back, and the log went on from there otherwise: the pages are this directory's.
#[test]
fn an_index_of_the_same_directory_that_went_another_way_is_no_damage_of_the_segment() {
    let ours = filled(100, 20);
    let copy = ours.path("copy");
    copy_directory(&ours.data(), &copy);
    std::fs::copy(ours.path("data.master-key"), ours.path("copy.master-key")).unwrap();
    for (data, length) in [(ours.data(), 50), (copy.clone(), 77)] {
        let rows: Vec<String> =
            (1_000..1_300).map(|n| format!("({n}, '{}')", "y".repeat(length))).collect();
        let insert = format!("INSERT INTO rows VALUES {}", rows.join(","));
        verity(&["sql", "--data", data.to_str().unwrap(), "-c", &insert]).ok();
    }
    std::fs::copy(copy.join(INDEX), ours.data().join(INDEX)).unwrap();
    is_made_anew(&ours.data(), 400, "not where it says");
}

#[test]
fn a_segment_that_no_checkpoint_names_is_told_for_what_it_is() {
    // Made, and never written to; nothing is in the journal that would fill it.
    let ours = filled(50, 20);
    let empty = ours.data().join("log/1/00000001.segment");
    std::fs::write(&empty, "").unwrap();
    let told = notes(&ours.data(), "log");
    assert!(told.len() == 1 && told[0].contains("log/1/00000001.segment"), "{told:?}");
    assert!(told[0].contains("holds no whole record") && !told[0].contains("replay"), "{told:?}");
    std::fs::remove_file(&empty).unwrap();

    // Of another directory: its ops are ones that this checkpoint covers.
    let other = Database::new();
    let data = other.data();
    verity(&["tenant", "create", "2", "--data", data.to_str().unwrap()]).ok();
    other.run(&["sql", "--tenant", "2", "-c", "CREATE TABLE t (n BIGINT PRIMARY KEY)"]).ok();
    for n in 0..3 {
        let insert = format!("INSERT INTO t VALUES ({n})");
        other.run(&["sql", "--tenant", "2", "-c", &insert]).ok();
    }
    for _ in 0..20 {
        ours.sql("UPDATE rows SET name = 'z' WHERE id = 1").ok();
    }
    copy_directory(&data.join("log/2"), &ours.data().join("log/2"));
    let told = notes(&ours.data(), "log");
    assert!(told.len() == 1 && told[0].contains("is no part of these logs"), "{told:?}");
    // What is younger than all that checkpoint and journal know is no left-over.
    let young = Database::new();
    copy_directory(&data.join("log/2"), &young.data().join("log/2"));
    young.sql("SELECT 1").ok();
    let run = young.verify();
    let told = findings(&run);
    let beyond = |one: &Json| {
        one["severity"] == "damage"
            && one["tenant"] == 2
            && one["reason"].to_string().contains("op")
    };
    assert!(run.code == Some(1) && told.iter().any(beyond), "{run:#?}");
}

/// Killed before the first checkpoint that knows the log: the journal has it all.
#[test]
fn a_segment_that_is_replayed_is_said_to_be() {
    let database = Database::new();
    let data = database.data();
    verity(&["tenant", "create", "2", "--data", data.to_str().unwrap()]).ok();
    let mut sql = database.conversation(&["--tenant", "2"]);
    sql.ask("CREATE TABLE t (n BIGINT PRIMARY KEY, x TEXT);\n");
    let filler = "x".repeat(2_000);
    for batch in 0..20 {
        let row = |n: i32| format!("({}, '{filler}')", batch * 100 + n);
        let rows: Vec<String> = (0..100).map(row).collect();
        // Each is answered before the next is written.
        let answer = sql.ask(&format!("INSERT INTO t VALUES {};\n", rows.join(",")));
        assert_eq!(answer["rows_affected"], 100);
    }
    sql.kill();
    assert!(data.join("log/2/00000000.segment").metadata().unwrap().len() > 0);
    let run = verity(&["verify", "--json", "--data", data.to_str().unwrap()]);
    let told = findings(&run);
    let replayed = |one: &Json| {
        let reason = one["reason"].as_str().unwrap();
        reason.starts_with("log/2/00000000.segment") && reason.contains("which is replayed")
    };
    assert!(told.iter().any(replayed), "{run:#?}");
    assert!(told.iter().all(|one| one["severity"] != "damage"), "{run:#?}");
    let count = ["sql", "--tenant", "2", "-c", "SELECT COUNT(*) FROM t"];
    assert_eq!(database.run(&count).ok().objects()[0]["rows"][0][0], 2_000);
    assert_eq!(findings(&database.verify().ok()), Vec::<Json>::new());
}
