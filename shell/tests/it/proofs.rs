//! Proofs from the command line: made by one process, checked by another that has only files.

use crate::run::{Database, verity};

/// In words that fit: nothing is damaged, and nothing is said twice.
#[test]
fn what_has_no_proof_is_told_why() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY, x TEXT)").ok();
    let told = |of: &[&str], why: &str| {
        let data = database.data();
        let data = ["--data", data.to_str().unwrap(), "--out", "/nowhere/x"];
        let run = verity(&[&["prove"], of, &data].concat()).fails(1, why);
        let first = run.stderr.lines().find(|line| line.starts_with("error")).unwrap();
        assert!(!first.contains("damaged") && !first.contains("error: error"), "{run:#?}");
    };
    told(&["-c", "SELECT lower(x) FROM t"], "this statement cannot be proved");
    told(&["-c", "SELECT id FROM nowhere"], "error 42P01: ");
    told(&["-c", "SELECT id FROM t", "--tenant", "7"], "error: tenant 7 does not exist");
    told(&["--event", "99"], "the position is not there");
}

#[test]
fn a_proof_holds_without_the_database_and_a_forged_one_does_not() {
    let database = Database::new();
    database
        .run(&[
            "sql",
            "-c",
            "CREATE TABLE visits (id BIGINT PRIMARY KEY, who TEXT, cost DECIMAL(8,2)); \
             INSERT INTO visits VALUES (1, 'Ada', 12.50), (2, 'Grace', 7.00), (3, 'Edsger', 9.99); \
             UPDATE visits SET cost = 13.00 WHERE id = 1",
        ])
        .ok();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let (file, policy) = (path("visits.proof"), path("policy"));
    let sql = "SELECT id, who FROM visits WHERE id >= 2";
    database.run(&["prove", "-c", sql, "--out", &file, "--policy-out", &policy]).ok();
    // Whoever verifies reads nothing but the two files.
    let run = verity(&["verify", &file, "--policy", &policy, "--sql", sql, "--json"]).ok();
    let answer = &run.objects()[0];
    assert_eq!(answer["verdict"], "valid");
    assert_eq!(answer["rows"], serde_json::json!([[2, "Grace"], [3, "Edsger"]]));
    assert_eq!(answer["query_is_yours"], true);
    let other = "SELECT id, who FROM visits WHERE id >= 1";
    verity(&["verify", &file, "--policy", &policy, "--sql", other]).fails(1, "another query");
    verity(&["verify", &file]).fails(2, "--policy");
    let old = ["verify", &file, "--policy", &policy, "--max-age", "0", "--json"];
    let started = std::time::Instant::now();
    while verity(&old).ok().objects()[0]["verdict"] != "valid_not_fresh" {
        assert!(started.elapsed().as_secs() < 60, "it never gets old");
    }
    // A redacted copy.
    let copy = path("redacted.proof");
    verity(&["redact", &file, "--columns", "who", "--out", &copy]).ok();
    let run = verity(&["verify", &copy, "--policy", &policy, "--sql", sql, "--json"]).ok();
    assert_eq!(run.objects()[0]["redacted"], true);
    assert!(!run.stdout.contains("Grace"));
    assert!(!String::from_utf8_lossy(&std::fs::read(&copy).unwrap()).contains("Grace"));
    verity(&["redact", &file, "--columns", "id", "--out", &copy]).fails(1, "key");
    // A head that was seen: kept, and an older one refused; the newer one must be linked to it.
    let pin = path("pin");
    verity(&["verify", &file, "--policy", &policy, "--pin", &pin]).ok();
    let size = std::fs::read_to_string(&pin).unwrap().lines().nth(1).unwrap().to_string();
    database.run(&["sql", "-c", "INSERT INTO visits VALUES (4, 'Barbara', 1.00)"]).ok();
    let newer = path("newer.proof");
    database.run(&["prove", "-c", sql, "--out", &newer]).ok();
    let pinned = ["verify", &newer, "--policy", &policy, "--pin", &pin];
    verity(&pinned).fails(1, "not shown to continue");
    database.run(&["prove", "-c", sql, "--out", &newer, "--since", &size]).ok();
    verity(&pinned).ok();
    verity(&["verify", &file, "--policy", &policy, "--pin", &pin]).fails(1, "seen before");
    // A row's history, a record, the past.
    let row = "SELECT * FROM visits WHERE id = 1";
    database.run(&["prove", "--sql", row, "--history", "--out", &newer]).ok();
    let check = ["verify", &newer, "--policy", &policy, "--sql", row, "--history", "--json"];
    let versions = verity(&check).ok().objects()[0]["rows"].clone();
    assert_eq!(versions, serde_json::json!([[1, "Ada", "12.50"], [1, "Ada", "13.00"]]));
    database.run(&["prove", "--event", "1", "--out", &newer]).ok();
    verity(&["verify", &newer, "--policy", &policy, "--event", "1"]).ok();
    verity(&["verify", &newer, "--policy", &policy, "--event", "2"]).fails(1, "another query");
    let past = "SELECT cost FROM visits AS OF POSITION 3 WHERE id = 1";
    database.run(&["prove", "--sql", past, "--out", &newer]).ok();
    let check = ["verify", &newer, "--policy", &policy, "--sql", past, "--json"];
    assert_eq!(verity(&check).ok().objects()[0]["rows"], serde_json::json!([["12.50"]]));
    drop(database);
    // A forged one.
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(5).position(|at| at == b"Grace").unwrap();
    bytes[at] = b'T';
    std::fs::write(&copy, bytes).unwrap();
    let run = verity(&["verify", &copy, "--policy", &policy, "--json"]).fails(1, "refused");
    assert_eq!(run.objects()[0]["verdict"], "refused");
    // Other keys.
    let others = Database::new();
    others.run(&["sql", "-c", "CREATE TABLE t (id BIGINT PRIMARY KEY)"]).ok();
    let (theirs, their_policy) = (path("t.proof"), path("their-policy"));
    let prove =
        ["prove", "-c", "SELECT id FROM t", "--out", &theirs, "--policy-out", &their_policy];
    others.run(&prove).ok();
    verity(&["verify", &theirs, "--policy", &their_policy]).ok();
    verity(&["verify", &file, "--policy", &their_policy]).fails(1, "another cluster");
    let nothing = path("nothing");
    let prove = ["prove", "--data", &nothing, "-c", "SELECT 1", "--out", &theirs];
    verity(&prove).fails(1, "holds no database");
    assert!(!std::path::Path::new(&nothing).exists(), "to prove is not to make");
}

/// Ends the process that listens.
struct Listening(std::process::Child);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_witness_cosigns_what_continues_and_refuses_a_rollback() {
    use std::io::{BufRead, BufReader};
    let database = Database::new();
    database.run(&["sql", "-c", "CREATE TABLE t (id BIGINT PRIMARY KEY)"]).ok();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let (file, policy) = (path("t.proof"), path("policy"));
    let prove = ["prove", "-c", "SELECT id FROM t", "--out", &file, "--policy-out", &policy];
    database.run(&prove).ok();
    let text = std::fs::read_to_string(&policy).unwrap();
    let log = text.lines().next().unwrap().strip_prefix("log ").unwrap().to_string();
    let listen = || {
        let state = path("witness");
        let mut command = crate::run::command();
        command.args(["witness", "--state", &state, "--name", "witness.test/w", "--log-key", &log]);
        command.args(["--listen", "127.0.0.1:0", "--json"]).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let (url, key) = (said["url"].as_str().unwrap(), said["key"].as_str().unwrap());
        (Listening(child), url.to_string(), key.to_string())
    };
    let (witness, url, key) = listen();
    let replica = text.lines().nth(1).unwrap();
    let name = replica.split(' ').nth(1).unwrap();
    let both =
        format!("log {log}\n{replica}\nwitness w {key}\ngroup both all {name} w\nquorum both\n");
    std::fs::write(&policy, both).unwrap();
    verity(&["verify", &file, "--policy", &policy]).fails(1, "too few");
    let witnessed = |out: &str| {
        database.run(&["prove", "-c", "SELECT id FROM t", "--out", out, "--witness", &url])
    };
    witnessed(&file).ok();
    verity(&["verify", &file, "--policy", &policy]).ok();
    // A newer head is linked to what the witness knows, also after it was started again.
    database.run(&["sql", "-c", "INSERT INTO t VALUES (1)"]).ok();
    let old = std::fs::read(&file).unwrap();
    witnessed(&file).ok();
    verity(&["verify", &file, "--policy", &policy]).ok();
    let state = path("witness");
    let second = ["witness", "--state", &state, "--name", "witness.test/w", "--log-key", &log];
    verity(&[&second[..], &["--listen", "127.0.0.1:0"]].concat()).fails(1, "in use");
    drop(witness);
    let (_witness, url, again) = listen();
    assert_eq!(again, key, "its key is kept");
    // A rollback: the head of before, for which it is asked as if it knew nothing.
    let old = verity::proof::ProofFile::decode(&old).unwrap();
    let note: Vec<&str> = old.note.lines().collect();
    let request = verity::proof::add_checkpoint_request(0, &[], &(note[..5].join("\n") + "\n"));
    let answer = verity::witness::ask(&url, &request).unwrap();
    assert_eq!(answer.status, 409, "{answer:?}");
    let size: u64 = answer.body.trim_end().parse().unwrap();
    assert!(size > note[1].parse().unwrap());
    for (path, status) in [("/add-checkpoint", 400), ("/other", 404)] {
        let at = url.strip_prefix("http://").unwrap();
        let mut stream = std::net::TcpStream::connect(at).unwrap();
        std::io::Write::write_all(
            &mut stream,
            format!("POST {path} HTTP/1.1\r\nContent-Length: 3\r\n\r\nold").as_bytes(),
        )
        .unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

/// A log as one file, and a directory against a signed head: without keys, without the database.
#[test]
fn an_exported_log_holds_and_a_changed_directory_does_not_match_its_head() {
    let database = Database::new();
    let sql = "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT); \
               INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')";
    database.run(&["sql", "-c", sql]).ok();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let (log, policy) = (path("log"), path("policy"));
    let made = database.run(&["export", "--out", &log, "--policy-out", &policy]).ok();
    let records = made.objects()[0]["records"].as_u64().unwrap();
    let check = |file: &str| verity(&["verify", file, "--policy", &policy, "--json"]);
    let of_tenant = |file: &str, tenant: &str| {
        verity(&["verify", file, "--policy", &policy, "--json", "--tenant", tenant])
    };
    let told = check(&log).ok().objects()[0].clone();
    assert_eq!((&told["verdict"], told["records"].as_u64()), (&"valid".into(), Some(records)));
    assert!(records > 3, "{told}");
    let system = path("system");
    database.run(&["export", "--tenant", "0", "--out", &system]).ok();
    assert_eq!(of_tenant(&system, "0").ok().objects()[0]["tenant"], 0);
    // Whose log is wanted is for the reader to say.
    check(&system).fails(1, "refused: the log is that of tenant 0");
    of_tenant(&log, "0").fails(1, "refused: the log is that of tenant 1");
    of_tenant(&log, "2").fails(1, "refused: the log is that of tenant 1");
    // Cosigned a moment ago, and no more than that.
    let aged = |age: &str| verity(&["verify", &log, "--policy", &policy, "--max-age", age]);
    assert!(aged("3600").ok().stdout.contains("valid: all"));
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert!(aged("0").ok().stdout.contains("valid, not fresh: all"));
    // No byte of the file can be changed, left out or added.
    let whole = std::fs::read(&log).unwrap();
    let lie = path("lie");
    let refuse = |bytes: &[u8]| {
        std::fs::write(&lie, bytes).unwrap();
        check(&lie).fails(1, "refused");
    };
    for at in (0..whole.len()).step_by(whole.len() / 23).filter(|at| *at >= 13) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        refuse(&bytes);
        refuse(&whole[..at]);
    }
    refuse(&[whole.as_slice(), &[0]].concat());
    verity(&["verify", &log]).fails(2, "--policy");
    verity(&["verify", &log, "--policy", &policy, "--event", "1"]).fails(2, "no query");
    // The directory is the one that was signed for; more may follow.
    let held = ["verify", "--policy", &policy, "--head", &log];
    let told = database.run(&held).ok().objects()[0].clone();
    assert_eq!((&told["verdict"], &told["head_fresh"]), (&"holds".into(), &true.into()), "{told}");
    let aged = [held.as_slice(), &["--max-age", "0"]].concat();
    assert_eq!(database.run(&aged).ok().objects()[0]["head_fresh"], false);
    let mut tenants: Vec<u64> = Vec::new();
    for signed in told["signed"].as_array().unwrap() {
        tenants.push(signed["tenant"].as_u64().unwrap());
    }
    assert_eq!(tenants, [0, 1], "{told}");
    database.run(&["verify", "--policy", &policy]).fails(2, "--head");
    let old = path("old");
    copy(&database.data(), std::path::Path::new(&old));
    let key = format!("{}.master-key", database.data().display());
    let pin = path("pin");
    verity(&["verify", &log, "--policy", &policy, "--pin", &pin]).ok();
    database.run(&["sql", "-c", "INSERT INTO t VALUES (4, 'four')"]).ok();
    database.run(&held).ok();
    // Who has seen a head wants the newer one linked to it.
    let size = std::fs::read_to_string(&pin).unwrap().lines().nth(1).unwrap().to_string();
    let longer = path("longer");
    let pinned = ["verify", &longer, "--policy", &policy, "--pin", &pin];
    database.run(&["export", "--out", &longer]).ok();
    verity(&pinned).fails(1, "not shown to continue");
    database.run(&["export", "--out", &longer, "--since", &size]).ok();
    verity(&pinned).ok();
    verity(&["verify", &log, "--policy", &policy, "--pin", &pin]).fails(1, "seen before");
    // A directory from before what was signed, whole in itself.
    let newer = path("newer");
    database.run(&["prove", "-c", "SELECT id FROM t", "--out", &newer]).ok();
    let of_old = |extra: &[&str]| {
        verity(&[&["verify", "--data", &old, "--master-key", &key], extra].concat())
    };
    of_old(&[]).ok();
    let run = of_old(&["--policy", &policy, "--head", &newer, "--json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("were signed for"), "{run:?}");
    // Without a key: the logs that the head shows are told, the rest is not.
    let none = path("none");
    let keyless = ["verify", "--policy", &policy, "--head", &newer, "--master-key", &none];
    let run = database.run(&keyless);
    assert_eq!(run.code, Some(2), "{run:?}");
    let signed = run.objects()[0]["signed"].as_array().unwrap().len();
    assert_eq!(signed, 2, "{run:?}");
    // Somebody else's history, as whole as ours.
    let others = Database::new();
    others.run(&["sql", "-c", sql]).ok();
    // Shorter, and then longer: what its own cluster log says of tenant 1 counts for nothing.
    for cut in [true, false] {
        let run = others.run(&held);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert_eq!(run.stdout.contains("there are 4: the directory is older"), cut, "{run:?}");
        let another = |tenant: u64| format!("tenant {tenant}: the first");
        assert_eq!(run.stdout.contains(&another(0)), !cut, "{run:?}");
        assert!(run.stdout.contains(&another(1)), "{run:?}");
        assert_eq!(run.objects()[0]["signed"], serde_json::json!([]));
        others.run(&["sql", "-c", "INSERT INTO t VALUES (5, 'five')"]).ok();
        others.run(&["sql", "-c", "DELETE FROM t WHERE id = 5"]).ok();
    }
    let their_policy = path("their-policy");
    others.run(&["export", "--out", &lie, "--policy-out", &their_policy]).ok();
    let run = database.run(&["verify", "--policy", &their_policy, "--head", &log]);
    run.fails(1, "refused");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
