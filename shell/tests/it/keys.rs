//! Master keys that are missing, malformed or wrong; directories that are locked, read-only, of
//! another cluster or of a newer release.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use verity_core::ids::{ClusterId, Release};
use verity_core::io::{Effect, Effects};
use verity_core::limits::{PAGE_SIZE, SUPERBLOCK_COPIES};
use verity_core::superblock::{Superblock, SuperblockEvent, SuperblockState, copy_offset};

use crate::run::{Database, Run, command, copy_directory};

#[test]
fn the_default_key_is_private_and_beside_the_data() {
    let database = Database::new();
    let path = database.path("data.master-key");
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_missing_or_wrong_key_changes_nothing() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t VALUES (1)").ok();
    let key = database.path("data.master-key");
    let kept = database.path("kept");
    std::fs::rename(&key, &kept).unwrap();
    database.sql("SELECT COUNT(*) FROM t").fails(2, "master key file");
    let verified = database.verify().fails(2, "");
    assert!(verified.stdout.contains("master key file"), "{verified:#?}");

    std::fs::write(&key, "f".repeat(64)).unwrap();
    let before = snapshot(&database);
    let csv = database.path("t.csv");
    std::fs::write(&csv, "id\n2\n").unwrap();
    for words in [
        &["sql", "-c", "SELECT COUNT(*) FROM t"][..],
        &["import", "--table", "t", csv.to_str().unwrap()],
        &["export", "--out", "/dev/null"],
        &["verify"],
        &["inspect", "--record", "1:0"],
        &["rebuild", "--check"],
        &["rebuild"],
    ] {
        let run = database.run(words);
        assert_eq!(run.code, Some(2), "{words:?}: {run:#?}");
        assert!(run.objects()[0].is_object(), "{words:?}: {run:#?}");
        if matches!(words[0], "sql" | "import") {
            assert!(run.stderr.contains("master key does not open"), "{run:#?}");
            assert_eq!(run.objects()[0]["sqlstate"], "28000", "{run:#?}");
        }
        assert!(before == snapshot(&database), "{words:?}: a wrong key changed a file");
    }

    std::fs::remove_file(&key).unwrap();

    let named = ["sql", "-c", "SELECT COUNT(*) FROM t", "--master-key", kept.to_str().unwrap()];
    database.run(&named).ok();
    let content = std::fs::read_to_string(&kept).unwrap();
    let run = command()
        .args(["sql", "-c", "SELECT COUNT(*) FROM t", "--data"])
        .arg(database.data())
        .env("VERITY_MASTER_KEY", content.trim())
        .output()
        .unwrap();
    Run::new(run).ok();
}

#[test]
fn verify_says_what_an_open_does_about_the_copies_of_keys() {
    let database = Database::new();
    let file = database.data().join("keys");
    let whole = std::fs::read(&file).unwrap();
    let half = whole.len() / 2;
    let told = |lost: &[std::ops::Range<usize>]| {
        let mut bytes = whole.clone();
        for range in lost {
            bytes[range.clone()].fill(0xff);
        }
        std::fs::write(&file, bytes).unwrap();
        database.verify().fails(1, "").stdout
    };
    for lost in [0..half, half..whole.len()] {
        assert!(told(std::slice::from_ref(&lost)).contains("the next open repairs it"), "{lost:?}");
        database.sql("SELECT 1").ok();
        database.verify().ok();
    }
    let both = told(&[0..half, half..whole.len()]);
    assert!(!both.contains("the next open repairs it"), "{both}");
    assert!(both.contains("an open is refused"), "{both}");
    let run = database.sql("SELECT 1");
    assert_ne!(run.code, Some(0), "{run:#?}");
}

#[test]
fn a_key_file_that_holds_no_key_is_told_as_that() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t VALUES (1)").ok();
    let (key, kept) = (database.path("data.master-key"), database.path("kept"));
    std::fs::rename(&key, &kept).unwrap();
    let before = snapshot(&database);
    let data = database.data();
    let told = |why: &str| {
        let words = format!("{}: {why}", key.display());
        for command in ["verify", "sql", "inspect", "record", "rebuild", "check", "export"] {
            let mut arguments = match command {
                "sql" => vec!["sql", "-c", "SELECT COUNT(*) FROM t"],
                "record" => vec!["inspect", "--record", "1:0"],
                "check" => vec!["rebuild", "--check"],
                "export" => vec!["export", "--out", "/dev/null"],
                plain => vec![plain],
            };
            arguments.extend(["--data", data.to_str().unwrap()]);
            for json in [false, true] {
                if json {
                    arguments.push("--json");
                }
                let run = crate::run::verity(&arguments);
                assert_eq!(run.code, Some(2), "{why}, {command}: {run:#?}");
                let all = [run.stdout.as_str(), run.stderr.as_str()].concat();
                assert!(all.contains(&words), "{words}, {command}: {run:#?}");
                assert!(all.contains("nothing was changed"), "{why}, {command}: {run:#?}");
                assert!(!all.contains("no master key was given"), "{why}, {command}: {run:#?}");
            }
        }
        assert!(before == snapshot(&database), "{why}: a file was changed");
    };
    let cases: [(&[u8], &str); 6] = [
        (b"", "a master key is 32 raw bytes or 64 hexadecimal digits, this has 0 bytes"),
        (b"abc", "a master key is 32 raw bytes or 64 hexadecimal digits, this has 3 bytes"),
        (&[b'a'; 65], "a master key is 32 raw bytes or 64 hexadecimal digits, this has 65 bytes"),
        (&[b'a'; 5_000], "a master key is 32 raw bytes or 64 hexadecimal digits, this has 5000"),
        (&[b'g'; 64], "the master key's character 0 is no hexadecimal digit"),
        (&[b'0'; 64], "the master key is all zeros"),
    ];
    for (content, why) in cases {
        std::fs::write(&key, content).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        told(why);
    }
    std::fs::remove_file(&key).unwrap();
    std::fs::create_dir(&key).unwrap();
    told("Is a directory");
    std::fs::remove_dir(&key).unwrap();
    std::os::unix::fs::symlink(&key, &key).unwrap();
    told("Too many levels of symbolic links");
    std::fs::remove_file(&key).unwrap();
    std::fs::rename(&kept, &key).unwrap();
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 1);
    database.verify().ok();
}

/// Without rights for a file nothing is called lost or damaged: the file is named, and the cause.
#[test]
fn files_that_may_not_be_read_are_named() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t VALUES (1)").ok();
    let (data, binary) = (database.data(), database.path("verity"));
    std::fs::copy(env!("CARGO_BIN_EXE_verity"), &binary).unwrap();
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(database.dir.path(), 0o755);
    // To a superuser everything is readable.
    const NOBODY: &str = "65534";
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        command.arg(&binary).args(arguments).stdin(std::process::Stdio::null()).output()
    };
    let mut chown = std::process::Command::new("chown");
    let key = database.path("data.master-key");
    let chowned = chown.args(["-R", NOBODY]).arg(&data).arg(key).status();
    if !chowned.is_ok_and(|status| status.success())
        || !run(&["--version"]).is_ok_and(|output| output.status.success())
    {
        crate::run::skipped("becoming another user is not allowed here");
        return;
    }
    let path = data.to_str().unwrap();
    let verity = |arguments: &[&str]| Run::new(run(arguments).unwrap());
    let names = ["superblock", "journal", "grid", "keys", "log", "log/1"];
    let names = [&names[..], &["log/1/00000000.segment", "log/1/00000000.index"]].concat();
    for (nth, name) in names.iter().enumerate() {
        let file = data.join(name);
        let before = file.metadata().unwrap().permissions().mode();
        let content = snapshot(&database);
        mode(&file, 0);
        let runs = [
            verity(&["verify", "--json", "--data", path]),
            verity(&["inspect", "--json", path]),
            verity(&["rebuild", path]),
            verity(&["sql", "--data", path, "-c", &format!("INSERT INTO t VALUES (-{nth})")]),
        ];
        mode(&file, before);
        // Without its root nothing was opened, so nothing was written.
        assert!(!["superblock", "keys"].contains(name) || content == snapshot(&database), "{name}");
        for (nth, run) in runs.iter().enumerate() {
            let all = [run.stdout.as_str(), run.stderr.as_str()].concat();
            let named = all.contains(file.to_str().unwrap());
            assert!(named && all.contains("Permission denied"), "{name}: {run:#?}");
            assert!(!all.contains("not writable"), "{name}: {run:#?}");
            for wrong in ["lost:", "backup", "restore", "escrow", "written again", "no usable"] {
                assert!(!all.to_lowercase().contains(wrong), "{name}, {wrong}: {run:#?}");
            }
            let codes = if nth < 2 { 2..=2 } else { 1..=2 };
            assert!(run.code.is_some_and(|code| codes.contains(&code)), "{name}: {run:#?}");
            assert!(!all.contains(r#""severity":"damage""#), "{name}: {run:#?}");
        }
        verity(&["verify", "--data", path]).ok();
    }
    verity(&["sql", "--data", path, "-c", "SELECT COUNT(*) FROM t"]).ok();
}

/// A device that gives nothing of a file: no word of loss, nothing written, and the next open of
/// what is whole has everything.
#[test]
fn files_that_a_device_does_not_give_are_not_lost() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t VALUES (1)").ok();
    let data = database.data();
    let path = data.to_str().unwrap();
    for name in ["superblock", "keys"] {
        let (file, kept) = (data.join(name), database.path("kept"));
        std::fs::rename(&file, &kept).unwrap();
        let before = snapshot(&database);
        // Of its own memory a process is given nothing at the addresses that are in a file.
        std::os::unix::fs::symlink("/proc/self/mem", &file).unwrap();
        let verity = |arguments: &[&str]| crate::run::verity(arguments);
        let runs = [
            verity(&["verify", "--json", "--data", path]),
            verity(&["inspect", "--json", path]),
            verity(&["rebuild", path]),
            verity(&["rebuild", "--check", path]),
            verity(&["sql", "--data", path, "-c", "INSERT INTO t VALUES (2)"]),
        ];
        std::fs::remove_file(&file).unwrap();
        assert!(before == snapshot(&database), "{name}: a file was changed");
        std::fs::rename(&kept, &file).unwrap();
        for (nth, run) in runs.iter().enumerate() {
            let all = [run.stdout.as_str(), run.stderr.as_str()].concat();
            assert!(all.contains(file.to_str().unwrap()), "{name}: {run:#?}");
            assert!(all.contains("Input/output error"), "{name}: {run:#?}");
            assert!(!all.contains("without the master key"), "{name}: {run:#?}");
            for wrong in ["lost", "backup", "restore", "escrow", "written again", "no usable"] {
                assert!(!all.to_lowercase().contains(wrong), "{name}, {wrong}: {run:#?}");
            }
            assert!(!all.contains(r#""severity":"damage""#), "{name}: {run:#?}");
            let code = if nth < 4 { 2 } else { 1 };
            assert_eq!(run.code, Some(code), "{name}: {run:#?}");
        }
    }
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 1);
    database.verify().ok();
}

/// All files but the lock.
fn snapshot(database: &Database) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut stack = vec![database.data()];
    while let Some(directory) = stack.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                stack.push(path);
            } else if path.file_name().unwrap() != "lock" {
                files.push((path.display().to_string(), std::fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn a_second_process_is_told_who_has_the_directory() {
    let database = Database::new();
    let open = verity::Verity::open(database.data()).unwrap();
    let pid = std::process::id().to_string();
    database.sql("SELECT 1").fails(1, &pid);
    database.verify().fails(2, "in use by another process");
    open.close().unwrap();
    database.sql("SELECT 1").ok();
}

#[test]
fn a_read_only_directory_is_an_error_and_no_damage() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t VALUES (1)").ok();
    let mount = database.path("mount");
    std::fs::create_dir(&mount).unwrap();
    let mounted = |args: &[&str]| {
        std::process::Command::new("mount").args(args).output().is_ok_and(|o| o.status.success())
    };
    let target = mount.to_str().unwrap();
    let source = database.data();
    if !mounted(&["--bind", source.to_str().unwrap(), target])
        || !mounted(&["-o", "remount,ro,bind", target])
    {
        crate::run::skipped("mounting is not allowed here");
        return;
    }
    let key = database.path("data.master-key");
    let run = crate::run::verity(&[
        "sql",
        "--data",
        target,
        "--master-key",
        key.to_str().unwrap(),
        "-c",
        "SELECT 1",
    ]);
    let verified =
        crate::run::verity(&["verify", "--data", target, "--master-key", key.to_str().unwrap()]);
    let unmounted = std::process::Command::new("umount").arg(target).output().unwrap();
    assert!(unmounted.status.success());
    run.fails(1, "Read-only file system");
    verified.ok();
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 1);
}

#[test]
fn another_cluster_and_a_newer_release_are_refused() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t VALUES (1)").ok();
    let copy = database.path("newer");
    copy_directory(&database.data(), &copy);
    std::fs::copy(database.path("data.master-key"), database.path("newer.master-key")).unwrap();
    let path = copy.to_str().unwrap();
    rewrite(&copy, |state| state.release = Release::new(1_000));
    crate::run::verity(&["sql", "--data", path, "-c", "SELECT 1"]).fails(1, "newer release");
    crate::run::verity(&["verify", "--data", path]).fails(2, "");
    crate::run::verity(&["rebuild", path]).fails(2, "newer release");

    let copy = database.path("other");
    copy_directory(&database.data(), &copy);
    std::fs::copy(database.path("data.master-key"), database.path("other.master-key")).unwrap();
    rewrite(&copy, |state| state.cluster = ClusterId::new(state.cluster.get() ^ 1));
    let path = copy.to_str().unwrap();
    crate::run::verity(&["sql", "--data", path, "-c", "SELECT 1"]).fails(1, "cluster");
    let run = crate::run::verity(&["verify", "--data", path]);
    assert_eq!(run.code, Some(1), "{run:#?}");
}

/// A superblock as another release or cluster would have written it.
fn rewrite(data: &std::path::Path, change: impl Fn(&mut SuperblockState)) {
    let file = std::fs::File::options().read(true).write(true).open(data.join("superblock"));
    let file = file.unwrap();
    let mut copies = vec![[0; PAGE_SIZE]; SUPERBLOCK_COPIES];
    for (number, copy) in copies.iter_mut().enumerate() {
        file.read_exact_at(copy, copy_offset(u8::try_from(number).unwrap())).unwrap();
    }
    let decoded = verity_core::superblock::decode_copies(&std::array::from_fn(|n| &copies[n][..]));
    let mut state = decoded.decide(false).unwrap().state;
    change(&mut state);
    let mut effects = Effects::new();
    let mut superblock = Superblock::format(state, &mut effects);
    loop {
        let pending: Vec<Effect> = effects.drain().collect();
        for effect in pending {
            let event = match effect {
                Effect::Write { io, at, pages, .. } => {
                    file.write_all_at(pages.as_bytes(), at.offset).unwrap();
                    superblock.on_write_done(io, pages, Ok(()), &mut effects)
                }
                Effect::Read { io, at, mut pages } => {
                    file.read_exact_at(pages.as_bytes_mut(), at.offset).unwrap();
                    superblock.on_read_done(io, pages, Ok(()), &mut effects)
                }
                Effect::Event(_) => Ok(None),
                other => panic!("{other:?}"),
            };
            if event.unwrap() == Some(SuperblockEvent::Updated) {
                return;
            }
        }
    }
}
