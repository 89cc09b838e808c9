//! A disk that is full: a clear error, nothing acknowledged is lost, and it goes on with more room.

use std::process::Command;

use crate::run::{Run, verity};

#[test]
fn a_full_disk_stops_and_more_room_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let target = mount.to_str().unwrap();
    let run = |program: &str, args: &[&str]| {
        Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
    };
    if !run("mount", &["-t", "tmpfs", "-o", "size=24M", "tmpfs", target]) {
        eprintln!("skipped: mounting is not allowed here");
        return;
    }
    let result = std::panic::catch_unwind(|| fill(dir.path(), target));
    assert!(run("umount", &[target]));
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn fill(dir: &std::path::Path, target: &str) {
    let data = format!("{target}/data");
    let key = dir.join("key");
    std::fs::write(&key, "5".repeat(64)).unwrap();
    let key = key.to_str().unwrap();
    let common = ["--data", &data, "--master-key", key];
    let with = |args: &[&str]| -> Run { verity(&[args, &common[..]].concat()) };
    with(&["format", "--journal", "8MiB"]).ok();
    let csv = dir.join("rows.csv");
    let mut text = "id,filler\n".to_string();
    (0..40_000).for_each(|n| text.push_str(&format!("{n},{}\n", "x".repeat(200))));
    std::fs::write(&csv, text).unwrap();
    let csv = csv.to_str().unwrap();
    let import = ["import", csv, "--table", "rows", "--primary-key", "id"];
    let full = with(&import);
    assert_eq!(full.code, Some(1), "{full:#?}");
    // The kernel's word, or ours: a slow machine looks at the free space before a write fails.
    let words = full.stderr.to_lowercase();
    assert!(words.contains("no space") || words.contains("disk is nearly full"), "{full:#?}");
    let remounted =
        Command::new("mount").args(["-o", "remount,size=200M", target]).output().unwrap();
    assert!(remounted.status.success());
    with(&import).ok();
    let counted = with(&["sql", "--json", "-c", "SELECT COUNT(*) FROM rows"]).ok();
    assert_eq!(counted.objects()[0]["rows"][0][0], 40_000);
    with(&["verify"]).ok();
}
