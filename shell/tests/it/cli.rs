//! Arguments, SQL from the command line, exit codes, JSON.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::run::{Database, Run, command, verity};

#[test]
fn every_command_has_help() {
    let commands: &[&[&str]] = &[
        &[],
        &["demo"],
        &["sql"],
        &["import"],
        &["verify"],
        &["prove"],
        &["redact"],
        &["inspect"],
        &["rebuild"],
        &["bench"],
        &["format"],
        &["tenant"],
        &["tenant", "create"],
        &["export"],
        &["witness"],
        &["start"],
        &["status"],
        &["secret"],
    ];
    for command in commands {
        let mut args = command.to_vec();
        args.push("--help");
        let run = verity(&args).ok();
        assert!(run.stdout.contains("Usage:"), "{run:#?}");
        if let ["verify" | "inspect" | "rebuild" | "import"] = command {
            let words = run.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
            let (_, codes) =
                words.split_once("Exit codes: 0 ").unwrap_or_else(|| panic!("{words}"));
            assert!(codes.contains(", 1 ") && codes.contains(", 2 could not tell"), "{words}");
        }
    }
    // No command is left out.
    let all = verity(&["--help"]).ok().stdout;
    let (_, all) = all.split_once("Commands:").unwrap();
    let (all, _) = all.split_once("Options:").unwrap();
    let names = all.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let mut seen = 0;
    for name in names.filter_map(|line| line.split_whitespace().next()) {
        let known = name == "help" || commands.iter().any(|command| command.first() == Some(&name));
        assert!(known, "the help of {name} is not looked at");
        seen += 1;
    }
    assert!(seen > 10, "{all}");
}

/// What a next start would have to replay.
fn prepares_after_checkpoint(database: &Database) -> u64 {
    let run = database.run(&["inspect"]).ok();
    run.objects()[0]["prepares_after_checkpoint"].as_u64().unwrap()
}

#[test]
fn who_ends_gracefully_leaves_nothing_to_replay() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t VALUES (1)").ok();
    assert_eq!(prepares_after_checkpoint(&database), 0, "after sql");
    let library = verity::Verity::open(database.data()).unwrap();
    library.execute("INSERT INTO t VALUES (2)", &[]).unwrap();
    library.close().unwrap();
    assert_eq!(prepares_after_checkpoint(&database), 0, "after close()");
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 2);
    // It is told where there are some: a copy of a database that is in use.
    let library = verity::Verity::open(database.data()).unwrap();
    library.execute("INSERT INTO t VALUES (3)", &[]).unwrap();
    let copy = database.path("copy");
    crate::run::copy_directory(&database.data(), &copy);
    library.close().unwrap();
    std::fs::copy(database.path("data.master-key"), database.path("copy.master-key")).unwrap();
    let told = verity(&["inspect", "--json", copy.to_str().unwrap()]);
    assert_ne!(told.objects()[0]["prepares_after_checkpoint"], 0, "{told:#?}");
}

#[test]
fn wrong_arguments_end_with_2_and_a_hint() {
    for args in [
        &["frobnicate"][..],
        &["sql"],
        &["sql", "--data", "x", "--tenant", "minus one"],
        &["import", "--data", "x"],
        &["bench", "--data", "x", "--clients", "0"],
        &["sql", "--data", "x", "--memory", "lots"],
        &["--log", "=[", "sql", "--data", "x"],
    ] {
        verity(args).fails(2, "error:");
    }
}

#[test]
fn wrong_arguments_are_told_in_json_where_json_was_asked_for() {
    let told = |run: Run| {
        let run = run.fails(2, "error:");
        let objects = run.objects();
        assert_eq!(objects.len(), 1, "{run:#?}");
        assert!(objects[0]["error"].as_str().is_some_and(|error| !error.is_empty()), "{run:#?}");
        objects[0]["error"].as_str().unwrap().to_string()
    };
    for (args, word) in [
        (&["frobnicate", "--json"][..], "unrecognized"),
        (&["--json", "sql"], "--data"),
        (&["sql", "--data", "x", "--tenant", "minus one", "--json"], "minus one"),
        (&["--log", "=[", "sql", "--json", "--data", "x"], "--log =["),
    ] {
        let error = told(verity(args));
        assert!(error.contains(word) && !error.starts_with("error"), "{error}");
    }
    let environment = |name: &str, value: &str| {
        let args = ["sql", "--json", "--data", "x"];
        Run::new(command().args(args).env(name, value).output().unwrap())
    };
    assert!(told(environment("VERITY_LOG", "=[")).contains("=["));
    // Help is no error, and without the word nothing is told on standard output.
    assert!(verity(&["sql", "--help", "--json"]).ok().stdout.contains("Usage:"));
    let run = verity(&["sql", "--", "--json"]).fails(2, "error:");
    assert!(run.stdout.is_empty(), "{run:#?}");
}

#[test]
fn a_directory_in_the_place_of_a_file_is_told_how_to_name_it() {
    let database = Database::new();
    let data = database.data();
    let data = data.to_str().unwrap();
    verity(&["verify", data]).fails(2, &format!("write --data {data}"));
    verity(&["sql", data]).fails(2, &format!("named with --data {data}"));
    for command in ["sql", "import"] {
        let help = verity(&[command, "--help"]).ok().stdout;
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains("made with a new database when it is missing"), "{help}");
    }
}

#[test]
fn a_directory_without_a_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nothing");
    let path = path.to_str().unwrap();
    verity(&["tenant", "create", "5", "--data", path]).fails(1, "holds no database");
    verity(&["rebuild", "--check", path]).fails(2, "");
    verity(&["verify", "--data", path]).fails(2, "cannot read");
    verity(&["verify", "--data", dir.path().to_str().unwrap()]).fails(2, "holds no database");
}

#[test]
fn format_refuses_what_is_there() {
    let database = Database::new();
    database.run(&["format"]).fails(1, "holds a database already");
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("letters.txt"), "dear").unwrap();
    let path = other.path().to_str().unwrap();
    verity(&["format", "--data", path]).fails(1, "letters.txt");
}

#[test]
fn a_directory_is_named_by_its_place_or_by_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let path = path.to_str().unwrap();
    let identity = ["--cluster", "c1a5", "--replica", "0", "--replica-count", "1", "--json"];
    let run = verity(&[&["format", "--journal", "8MiB"], &identity[..], &[path]].concat()).ok();
    let cluster = format!("{:032x}", 0xc1a5);
    assert_eq!(run.objects()[0]["cluster"], cluster, "{run:#?}");
    verity(&["sql", "--data", path, "-c", "CREATE TABLE t (id BIGINT PRIMARY KEY)"]).ok();
    for command in [&["inspect"][..], &["rebuild", "--check"]] {
        verity(&[command, &[path]].concat()).ok();
        verity(&[command, &["--data", path]].concat()).ok();
        verity(&[command, &["--data", path, path]].concat()).fails(2, "cannot be used with");
        verity(command).fails(2, "which data directory");
    }
    let run = verity(&["inspect", path, "--json"]).ok();
    assert_eq!(run.objects()[0]["cluster"], cluster, "{run:#?}");
    let other = dir.path().join("other");
    let other = other.to_str().unwrap();
    for wrong in [
        &["--replica-count", "2"][..],
        &["--replica-count", "3", "--replica", "3"],
        &["--cluster", "0"],
        &["--cluster", "mine"],
        &["--replica", "-1"],
    ] {
        verity(&[&["format"], wrong, &[other]].concat()).fails(2, "error");
    }
    assert!(!std::path::Path::new(other).exists(), "a refused format made something");
}

#[test]
fn statements_print_one_object_each() {
    let database = Database::new();
    let sql = "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT, at TIMESTAMP);
        INSERT INTO t VALUES (1, 'Zoë; -- not a comment', NULL), (2, 'b', NULL);
        SELECT id, name, at FROM t;";
    let run = database.sql(sql).ok();
    let objects = run.objects();
    assert_eq!(objects.len(), 3, "{run:#?}");
    assert_eq!(objects[1]["rows_affected"], 2);
    assert_eq!(objects[2]["columns"], serde_json::json!(["id", "name", "at"]));
    let rows = serde_json::json!([[1, "Zoë; -- not a comment", null], [2, "b", null]]);
    assert_eq!(objects[2]["rows"], rows);
    assert!(objects[1]["position"].is_u64(), "{run:#?}");
}

#[test]
fn standard_input_is_read_and_the_first_error_ends_the_run() {
    let database = Database::new();
    let text = "CREATE TABLE t (id BIGINT PRIMARY KEY);\nINSERT INTO t VALUES (1);\n\
                SELEC 1;\nINSERT INTO t VALUES (2);";
    database.sql_from_input(text).fails(1, "42601");
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 1);
}

/// Who writes into a pipe has the answer to a statement before writing the next.
#[test]
fn standard_input_is_run_as_it_comes() {
    let database = Database::new();
    let mut sql = database.conversation(&[]);
    sql.ask("CREATE TABLE t (id BIGINT PRIMARY KEY, x TEXT); INSERT INTO t");
    assert_eq!(sql.ask(" VALUES (1, 'a;b'), (2, 'c');")["rows_affected"], 2);
    assert_eq!(sql.ask("SELECT x FROM t WHERE id = 1; -- and;")["rows"][0][0], "a;b");
    assert_eq!(sql.ask("\nBEGIN; DELETE FROM t WHERE id = 1; COMMIT; BEGIN")["rows_affected"], 1);
    // What is wrong is told in its turn, and ends the run: with it goes what had no COMMIT.
    assert_eq!(sql.ask("; DELETE FROM t; DELETE FROM nowhere; COMMIT;")["sqlstate"], "42P01");
    assert_eq!(sql.end().code(), Some(1));
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 1);
    // A text that is never closed is told at its place in all of the input, behind what ran.
    let run = database.sql_from_input("SELECT 1; SELECT 'a").fails(1, "Unterminated");
    assert_eq!(run.objects().len(), 2);
    assert_eq!(
        (&run.objects()[1]["offset"], &run.objects()[1]["sqlstate"]),
        (&17.into(), &"42601".into())
    );
    // Before there is a whole statement nothing is made.
    let new = database.path("new");
    let run = command()
        .args(["sql", "--data", new.to_str().unwrap()])
        .stdin(std::fs::File::open(text_file(&database, "SELECT 'a")).unwrap())
        .output();
    Run::new(run.unwrap()).fails(1, "Unterminated");
    assert!(!new.exists());
    let path = database.path("binary");
    std::fs::write(&path, b"INSERT INTO t VALUES (7, 'x'); \xff;").unwrap();
    let run = command()
        .args(["sql", "--data"])
        .arg(database.data())
        .stdin(std::fs::File::open(&path).unwrap())
        .output();
    Run::new(run.unwrap()).fails(2, "not UTF-8 (byte 31)");
    assert_eq!(database.number("SELECT COUNT(*) FROM t WHERE id = 7"), 1);
}

fn text_file(database: &Database, text: &str) -> std::path::PathBuf {
    let path = database.path("input.sql");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn transactions_are_all_or_nothing() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY)").ok();
    database.sql("BEGIN; INSERT INTO t VALUES (1); INSERT INTO t VALUES (1); COMMIT").fails(1, "");
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 0);
    database.sql("BEGIN; INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); COMMIT").ok();
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 2);
    for (text, word, sqlstate) in [
        ("BEGIN; INSERT INTO t VALUES (3)", "COMMIT", "2D000"),
        ("COMMIT", "BEGIN", "25P01"),
        ("ROLLBACK", "BEGIN", "25P01"),
        ("BEGIN; BEGIN", "COMMIT", "25001"),
    ] {
        let run = database.sql(text).fails(1, word);
        assert_eq!(run.objects()[0]["sqlstate"], sqlstate, "{text}: {run:#?}");
    }
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 2);
}

#[test]
fn statements_of_a_transaction_print_one_object_each() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT)").ok();
    let run = database
        .sql(
            "BEGIN; INSERT INTO t VALUES (1, 1), (2, 2), (3, 3); UPDATE t SET n = 9 WHERE id > 1; \
             CREATE TABLE u (a BIGINT); DELETE FROM t WHERE id = 2; COMMIT; SELECT COUNT(*) FROM t",
        )
        .ok();
    let objects = run.objects();
    assert_eq!(objects.len(), 5, "{run:#?}");
    let affected: Vec<u64> =
        objects[..4].iter().map(|object| object["rows_affected"].as_u64().unwrap()).collect();
    assert_eq!(affected, [3, 2, 0, 1]);
    for object in &objects[..4] {
        assert_eq!(object["columns"], serde_json::json!([]));
        assert_eq!(object["rows"], serde_json::json!([]));
        assert_eq!(object["position"], objects[0]["position"], "one transaction, one position");
    }
    assert_eq!(objects[4]["position"], objects[0]["position"], "what the next read sees");
    assert_eq!(objects[4]["rows"], serde_json::json!([[2]]));
    // Nothing of these has happened, so they print nothing.
    let run = database.sql("BEGIN; INSERT INTO t VALUES (7, 7); ROLLBACK; BEGIN; COMMIT").ok();
    assert_eq!(run.stdout, "");
    // An error has its place in its statement.
    let run = database
        .sql("BEGIN; INSERT INTO t VALUES (8, 8); DELETE FROM t WHERE nope = 1; COMMIT")
        .fails(1, "42703");
    let object = &run.objects()[0];
    assert_eq!((&object["statement"], &object["offset"]), (&2.into(), &20.into()), "{run:#?}");
    assert_eq!(run.objects().len(), 1);
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 2);
}

#[test]
fn savepoints_and_options_of_transactions_are_refused_at_their_place() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY)").ok();
    for (sql, place) in [
        ("BEGIN; INSERT INTO t VALUES (1); SAVEPOINT a; COMMIT", 0),
        ("BEGIN; INSERT INTO t VALUES (1); RELEASE SAVEPOINT a; COMMIT", 0),
        ("BEGIN; INSERT INTO t VALUES (1); ROLLBACK TO a; COMMIT", 0),
        ("BEGIN; INSERT INTO t VALUES (1); ROLLBACK WORK TO SAVEPOINT a; COMMIT", 0),
        ("SAVEPOINT a", 0),
        ("ROLLBACK TO a", 0),
        ("BEGIN READ ONLY; INSERT INTO t VALUES (1); COMMIT", 6),
        ("BEGIN; INSERT INTO t VALUES (1); COMMIT AND CHAIN", 7),
    ] {
        let run = database.sql(sql).fails(1, "^");
        let object = &run.objects()[0];
        assert_eq!(object["sqlstate"], "0A000", "{run:#?}");
        assert_eq!(object["offset"], place, "{run:#?}");
        assert!(object["hint"].as_str().unwrap().contains("one request"), "{run:#?}");
        assert_eq!(database.number("SELECT COUNT(*) FROM t"), 0, "{sql}");
    }
}

#[test]
fn bad_sql_is_an_error_with_a_place() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY)").ok();
    for (sql, code) in [
        ("SELECT nope FROM t", "42703"),
        ("SELECT * FROM nope", "42P01"),
        ("INSERT INTO t VALUES ('x')", "error"),
        ("'", "error"),
        ("(((((", "error"),
        ("SELECT 1/0 FROM t WHERE", "error"),
    ] {
        let run = database.sql(sql).fails(1, code);
        assert!(run.objects()[0]["error"].is_string(), "{run:#?}");
    }
    let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    database.sql(&deep).fails(1, "error");
    database.verify().ok();
}

/// The node's time does not go back: ids that are made by the machine's would have expired.
#[test]
fn a_clock_that_was_set_back_refuses_no_writes() {
    let database = Database::new();
    let data = database.data();
    let mut ahead = std::process::Command::new("faketime");
    let create = "CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t VALUES (1)";
    ahead.args(["-f", "+40d", env!("CARGO_BIN_EXE_verity"), "sql", "--data"]);
    ahead.arg(&data).args(["-c", create]);
    match ahead.output() {
        Ok(output) => Run::new(output).ok(),
        Err(error) => {
            crate::run::skipped(&format!("faketime: {error}"));
            return;
        }
    };
    database.sql("INSERT INTO t VALUES (2); INSERT INTO t VALUES (3); DELETE FROM t").ok();
    let csv = database.path("rows.csv");
    std::fs::write(&csv, "id\n7\n8\n").unwrap();
    database.run(&["import", csv.to_str().unwrap(), "--table", "t"]).ok();
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 2);
    database.verify().ok();
}

#[test]
fn tenants_are_apart() {
    let database = Database::new();
    database.run(&["tenant", "create", "7"]).ok();
    database.run(&["tenant", "create", "7"]).fails(1, "exists already");
    database.run(&["sql", "--tenant", "7", "-c", "CREATE TABLE t (id BIGINT PRIMARY KEY)"]).ok();
    database.sql("SELECT * FROM t").fails(1, "42P01");
    database
        .run(&["sql", "--tenant", "8", "-c", "CREATE TABLE t (id BIGINT)"])
        .fails(1, "tenant 8");
}

#[test]
fn inspect_and_rebuild_tell() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t VALUES (1), (2)").ok();
    let data = database.data();
    let data = data.to_str().unwrap();
    let run = verity(&["inspect", data, "--json"]).ok();
    assert_eq!(run.objects()[0]["release"], 1, "{run:#?}");
    assert_eq!(run.objects()[0]["constants"]["checkpoint_record_interval"], 1_000, "{run:#?}");
    verity(&["inspect", data]).ok();
    let run = verity(&["rebuild", "--check", data, "--json"]).ok();
    assert_eq!(run.objects()[0]["equal"], true, "{run:#?}");
}

#[test]
fn the_demo_runs_and_catches_the_forger() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("demo");
    let args = ["demo", "--patients", "500", "--dir", path.to_str().unwrap()];
    let run = verity(&args).ok();
    assert!(run.stdout.contains("caught"), "{run:#?}");
    assert!(run.stdout.contains("not found"), "{run:#?}");
    let other = dir.path().join("json");
    let args = ["demo", "--json", "--patients", "20", "--dir", other.to_str().unwrap()];
    let objects = verity(&args).ok().objects();
    let step = |name: &str| objects.iter().find(|object| object["step"] == name).unwrap();
    assert_eq!(step("query")["rows"], serde_json::json!([[20]]));
    assert_eq!(step("search")["hits"], 0);
    assert_eq!(step("verify")["report"]["verdict"], "holds");
    assert_eq!(step("forge")["caught"], true);
    let wide = run.stdout.lines().filter(|line| line.chars().count() > 120).count();
    assert_eq!(wide, 0, "{run:#?}");
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let database = Database::new();
    let mut child = command()
        .args(["sql", "--data", database.data().to_str().unwrap(), "-c"])
        .arg("SELECT 1; ".repeat(200))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    Run::new(child.wait_with_output().unwrap());
}

#[test]
fn a_demo_whose_reader_goes_away_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let mut child = command()
        .args(["demo", "--patients", "500"])
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("Verity"));
    drop(lines);
    Run::new(child.wait_with_output().unwrap()).fails(141, "");
    let left = std::fs::read_dir(temporary.path()).unwrap().count();
    assert_eq!(left, 0, "the demo left its files behind");
}

#[test]
fn odd_arguments_are_told() {
    let database = Database::new();
    database.run(&["sql", "-c", "-- only a comment"]).ok();
    database.run(&["sql", "-c", "SELECT 1", "--memory", "99999999GiB"]).fails(2, "4096 GiB");
    database.run(&["sql", "-c", "SELECT 1", "--memory", "1MiB"]).fails(2, "MiB");
    let data = database.data();
    let data = data.to_str().unwrap();
    let large = database.path("large");
    verity(&["format", "--journal", "99999999G", large.to_str().unwrap()]).fails(1, "no space");
    assert!(!large.join("journal").exists() && !database.path("large.master-key").exists());
    verity(&["demo", "--dir", data, "--patients", "5"]).fails(2, "not empty");
    verity(&["rebuild", "--check", "/nowhere"]).fails(2, "holds no database");
}

#[test]
fn a_script_may_be_longer_than_a_statement() {
    let database = Database::new();
    let mut script =
        "-- a long script; with 'a comment\nCREATE TABLE t (n BIGINT, x TEXT);\n".to_string();
    let filler = "x;'';".repeat(120);
    for n in 0..1_200 {
        script.push_str(&format!("INSERT INTO t VALUES ({n}, '{filler}'); /* ; */\n"));
    }
    assert!(script.len() > 700_000);
    database.sql_from_input(&script).ok();
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 1_200);
    assert_eq!(database.number("SELECT MIN(length(x)) FROM t"), 480);
    // One statement has its limit all the same.
    let long = format!("SELECT 1; SELECT '{}'", "x".repeat(600_000));
    let run = database.sql_from_input(&long).fails(1, "54001");
    assert_eq!(run.objects().len(), 2, "{:.300}", run.stdout);
}

#[test]
fn a_dropped_table_is_read_as_of_a_position_before_its_drop() {
    let database = Database::new();
    let position = |sql: &str| {
        let run = database.sql(sql).ok();
        run.objects()[0]["position"].as_i64().unwrap_or_else(|| panic!("{run:#?}"))
    };
    database.sql("CREATE TABLE h (id BIGINT PRIMARY KEY)").ok();
    let inserted = position("INSERT INTO h VALUES (7)");
    let dropped = position("DROP TABLE h");
    let then = format!("SELECT id FROM h AS OF POSITION {inserted}");
    assert_eq!(database.number(&then), 7);
    database.sql("SELECT id FROM h").fails(1, "42P01");
    database.sql(&format!("SELECT id FROM h AS OF POSITION {dropped}")).fails(1, "42P01");
    database.sql("INSERT INTO h VALUES (1)").fails(1, "42P01");
    // Also when another table has its name.
    database.sql("CREATE TABLE h (id TEXT PRIMARY KEY, other BIGINT)").ok();
    database.sql("INSERT INTO h VALUES ('new', 1)").ok();
    assert_eq!(database.number(&then), 7);
    assert_eq!(database.number("SELECT other FROM h"), 1);
    let many = database.sql(&format!("HISTORY OF h; {then}")).ok();
    assert_eq!(many.objects()[1]["rows"], serde_json::json!([[7]]));
}

/// Time by the length of the text: by its square, each of these takes minutes.
#[test]
fn what_one_statement_may_take_is_bounded() {
    let database = Database::new();
    database.sql("CREATE TABLE p (id BIGINT PRIMARY KEY)").ok();
    let many = |text: &str, times: usize| vec![text; times].join(",");
    let (text, pattern) = ("a".repeat(100_000), "a".repeat(50_000));
    for (sql, refused) in [
        (format!("SELECT {}", many("1", 90_000)), Some("54011")),
        (format!("SELECT id FROM p ORDER BY {}", many("id", 90_000)), Some("54001")),
        (format!("SELECT id FROM p WHERE id IN ({})", many("id", 90_000)), None),
        (format!("SELECT '{text}' LIKE '%{pattern}b%'"), None),
        (format!("SELECT '{text}' LIKE '%{pattern}_b%'"), Some("54001")),
    ] {
        let started = std::time::Instant::now();
        let run = database.sql_from_input(&sql);
        match refused {
            Some(code) => assert_eq!(run.objects()[0]["sqlstate"], code, "{:.60}", sql),
            None => assert_eq!(run.code, Some(0), "{:.60}", sql),
        }
        let took = started.elapsed();
        assert!(took < std::time::Duration::from_secs(20), "{took:?}: {sql:.60}");
    }
}
