//! A disk that is full: a clear error, nothing acknowledged is lost, and it goes on with more room.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::run::{Run, command, verity};

#[test]
fn a_full_disk_stops_and_more_room_goes_on() {
    on_a_small_disk("48M", fill);
}

#[test]
fn a_disk_that_is_nearly_full_is_waited_for_aloud() {
    on_a_small_disk("96M", wait);
}

#[test]
fn on_a_full_disk_a_select_says_why_it_fails() {
    on_a_small_disk("96M", select);
}

#[test]
fn where_a_new_directory_has_no_room_nothing_is_made() {
    on_a_small_disk("40M", no_room);
}

/// Where the disk has room, and the process may not have it.
#[test]
fn a_format_that_meets_its_end_leaves_nothing_half_made() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut limited = Command::new("bash");
    let script = "ulimit -f 4096; exec \"$@\"";
    limited.args(["-c", script, "bash", env!("CARGO_BIN_EXE_verity"), "format", "--data"]);
    let told = Run::new(limited.arg(&data).output().unwrap()).fails(1, "Nothing was made");
    assert!(told.stderr.contains("a quota or a limit"), "{told:#?}");
    let left = |path: &Path| -> Vec<_> {
        let entries = std::fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!((left(dir.path()), left(&data)), (vec!["data".into()], vec!["lock".into()]));
    verity(&["format", "--journal", "8MiB", "--data", data.to_str().unwrap()]).ok();
}

/// A file system of its own, where mounting is allowed.
fn on_a_small_disk(size: &str, test: fn(&Path, &str)) {
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let target = mount.to_str().unwrap();
    let run = |program: &str, args: &[&str]| {
        Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
    };
    if !run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", target]) {
        crate::run::skipped("mounting is not allowed here");
        return;
    }
    let result = std::panic::catch_unwind(|| test(dir.path(), target));
    assert!(run("umount", &[target]));
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn resize(target: &str, size: &str) {
    let option = format!("remount,size={size}");
    let remounted = Command::new("mount").args(["-o", &option, target]).output().unwrap();
    assert!(remounted.status.success(), "{remounted:?}");
}

fn write_rows(csv: &Path, rows: u32) {
    let mut text = "id,filler\n".to_string();
    (0..rows).for_each(|n| text.push_str(&format!("{n},{}\n", "x".repeat(200))));
    std::fs::write(csv, text).unwrap();
}

fn fill(dir: &Path, target: &str) {
    let data = format!("{target}/data");
    let key = dir.join("key");
    std::fs::write(&key, "5".repeat(64)).unwrap();
    let key = key.to_str().unwrap();
    let common = ["--data", &data, "--master-key", key];
    let with = |args: &[&str]| -> Run { verity(&[args, &common[..]].concat()) };
    with(&["format", "--journal", "8MiB"]).ok();
    let csv = dir.join("rows.csv");
    write_rows(&csv, 80_000);
    let csv = csv.to_str().unwrap();
    let import = ["import", csv, "--table", "rows", "--primary-key", "id"];
    let full = with(&import);
    assert_eq!(full.code, Some(1), "{full:#?}");
    // The kernel's word, or ours: a slow machine looks at the free space before a write fails.
    let words = full.stderr.to_lowercase();
    assert!(words.contains("no space") || words.contains("disk is nearly full"), "{full:#?}");
    resize(target, "400M");
    with(&import).ok();
    let counted = with(&["sql", "--json", "-c", "SELECT COUNT(*) FROM rows"]).ok();
    assert_eq!(counted.objects()[0]["rows"][0][0], 80_000);
    with(&["verify"]).ok();
}

fn wait(dir: &Path, target: &str) {
    let data = format!("{target}/data");
    let key = dir.join("key");
    std::fs::write(&key, "5".repeat(64)).unwrap();
    let common = ["--data", &data, "--master-key", key.to_str().unwrap()];
    let with = |args: &[&str]| -> Run { verity(&[args, &common[..]].concat()) };
    with(&["format", "--journal", "8MiB"]).ok();
    with(&["sql", "-c", "CREATE TABLE rows (id BIGINT PRIMARY KEY, filler TEXT)"]).ok();
    let csv = dir.join("rows.csv");
    write_rows(&csv, 5_000);
    // Less than what is kept for a checkpoint.
    resize(target, "32M");
    let mut child = command()
        .args(["import", "--table", "rows"])
        .arg(&csv)
        .args(common)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut told: Vec<String> = Vec::new();
    while !told.iter().any(|line| line.contains("waiting: ")) {
        told.push(lines.next().unwrap_or_else(|| panic!("it ended without a word: {told:?}")));
    }
    let word = told.concat();
    assert!(word.contains("disk is nearly full") && word.contains("after 60 s"), "{word}");
    assert!(child.try_wait().unwrap().is_none(), "told while it waits");
    // With room it goes on by itself.
    resize(target, "400M");
    told.extend(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0), "{told:?}");
    assert_eq!(told.iter().filter(|line| line.contains("waiting: ")).count(), 1, "{told:?}");
    let counted = with(&["sql", "--json", "-c", "SELECT COUNT(*) FROM rows"]).ok();
    assert_eq!(counted.objects()[0]["rows"][0][0], 5_000);
}

fn select(dir: &Path, target: &str) {
    let data = format!("{target}/data");
    let key = dir.join("key");
    std::fs::write(&key, "5".repeat(64)).unwrap();
    let common = ["--data", &data, "--master-key", key.to_str().unwrap()];
    let with = |args: &[&str]| -> Run { verity(&[args, &common[..]].concat()) };
    with(&["format", "--journal", "8MiB"]).ok();
    let rows = "CREATE TABLE rows (id BIGINT PRIMARY KEY); INSERT INTO rows VALUES (1), (2), (3)";
    with(&["sql", "-c", rows]).ok();
    let mut filler = std::fs::File::create(format!("{target}/filler")).unwrap();
    let full = std::iter::repeat_with(|| filler.write_all(&[1; 4_096])).find(Result::is_err);
    assert_eq!(full.unwrap().unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let count = ["sql", "--json", "-c", "SELECT COUNT(*) FROM rows"];
    // An open that failed has left something to replay to the next one.
    for _ in 0..3 {
        let run = with(&count).fails(1, "no space left on device");
        let words = "Every open writes, for a SELECT, too";
        assert!(run.stderr.contains(words) && run.stderr.contains("Make room"), "{run:#?}");
        with(&["verify"]).ok();
        with(&["inspect"]).ok();
    }
    drop(filler);
    std::fs::remove_file(format!("{target}/filler")).unwrap();
    let counted = with(&count).ok();
    assert_eq!(counted.objects()[0]["rows"][0][0], 3);
    with(&["verify"]).ok();
}

fn no_room(dir: &Path, target: &str) {
    let data = format!("{target}/of/data");
    let key = dir.join("key");
    std::fs::write(&key, "5".repeat(64)).unwrap();
    let run = |args: &[&str]| verity(&[args, &["--json", "--data", &data]].concat());
    let left = || std::fs::read_dir(target).unwrap().count();
    let needed = (8 << 20) / 16 * 17 + (38 << 20);
    for args in [
        &["format", "--journal", "8MiB"][..],
        &["format"],
        &["sql", "-c", "SELECT 1"],
        &["format", "--profile", "compact", "--master-key", key.to_str().unwrap()],
    ] {
        let told = run(args).fails(1, "Nothing was made");
        let told = &told.objects()[0];
        let (words, code) = (told["error"].as_str().unwrap(), &told["sqlstate"]);
        assert!(words.contains(&data) && code == "53100", "{told}");
        let small = args.contains(&"8MiB");
        assert!(words.contains(&format!("it needs {needed} bytes")) == small, "{told}");
        assert!(words.ends_with("--journal SIZE`") && words.contains(" are free. "), "{told}");
        assert_eq!(left(), 0, "{args:?}");
    }
    // What it names is enough, also for what is written then.
    resize(target, &needed.to_string());
    run(&["format", "--journal", "8MiB"]).ok();
    run(&["sql", "-c", "CREATE TABLE t (id BIGINT PRIMARY KEY)"]).ok();
}
