//! Proofs from the command line: made by one process, checked by another that has only files.

use crate::run::{Database, verity};

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
    // From here on nothing but the two files is read.
    drop(database);
    let run = verity(&["verify", &file, "--policy", &policy, "--sql", sql, "--json"]).ok();
    let answer = &run.objects()[0];
    assert_eq!(answer["verdict"], "valid");
    assert_eq!(answer["rows"], serde_json::json!([[2, "Grace"], [3, "Edsger"]]));
    assert_eq!(answer["query_is_yours"], true);
    let other = "SELECT id, who FROM visits WHERE id >= 1";
    verity(&["verify", &file, "--policy", &policy, "--sql", other]).fails(1, "another query");
    verity(&["verify", &file]).fails(2, "--policy");
    let old = ["verify", &file, "--policy", &policy, "--max-age", "0", "--json"];
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    assert_eq!(verity(&old).ok().objects()[0]["verdict"], "valid_not_fresh");
    // A redacted copy.
    let copy = path("redacted.proof");
    verity(&["redact", &file, "--columns", "who", "--out", &copy]).ok();
    let run = verity(&["verify", &copy, "--policy", &policy, "--sql", sql, "--json"]).ok();
    assert_eq!(run.objects()[0]["redacted"], true);
    assert!(!run.stdout.contains("Grace"));
    assert!(!String::from_utf8_lossy(&std::fs::read(&copy).unwrap()).contains("Grace"));
    verity(&["redact", &file, "--columns", "id", "--out", &copy]).fails(1, "key");
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
    verity(&["prove", "--data", "x", "-c", "SELECT 1", "--out", "y"]).fails(1, "");
}
