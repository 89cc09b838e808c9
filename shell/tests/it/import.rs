//! CSV in: types, rejects, re-runs, malformed files.

use crate::run::Database;

fn import(database: &Database, name: &str, content: &[u8], extra: &[&str]) -> crate::run::Run {
    let file = database.path(name);
    std::fs::write(&file, content).unwrap();
    let rejects = database.path("rejects.csv");
    let mut args = vec!["import", file.to_str().unwrap(), "--rejects", rejects.to_str().unwrap()];
    args.extend(extra);
    let run = database.run(&args);
    if run.code != Some(0) {
        let last = run.objects().pop().unwrap();
        assert!(last["error"].is_string() && last["sqlstate"].is_string(), "{run:#?}");
    }
    run
}

#[test]
fn what_an_import_refuses_has_the_code_that_it_has_elsewhere() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT NOT NULL)").ok();
    let fine: &[u8] = b"id,name\n1,a\n";
    for (csv, flags, exit, sqlstate) in [
        (&b""[..], &[][..], 2, "22P04"),
        (b"id,\n1,a\n", &[], 2, "22P04"),
        (b"id,name\n1,\"a\n", &[], 2, "22P04"),
        (b"id,name\n1,\"a\"b\n", &[], 2, "22P04"),
        (b"id,n\xff\n1,a\n", &[], 2, "22021"),
        (b"id,id\n1,1\n", &[], 2, "42701"),
        (b"id,ID\n1,1\n", &["--table", "new"], 2, "42701"),
        (b"id,other\n1,1\n", &[], 2, "42703"),
        (fine, &["--types", "id"], 2, "42601"),
        (fine, &["--types", "other=TEXT"], 2, "42703"),
        (fine, &["--types", "id=SERIAL"], 2, "0A000"),
        (fine, &["--types", "id=TEXT,id=TEXT"], 2, "42701"),
        (fine, &["--types", "id=TEXT"], 2, "42804"),
        (fine, &["--primary-key", "other"], 2, "42703"),
        (fine, &["--primary-key", "name"], 2, "42P16"),
        (fine, &["--schema", "SELECT 1"], 2, "42601"),
        (fine, &["--schema", "CREATE TABLE t (id NOTHING)"], 2, "0A000"),
        (fine, &["--schema", "CREATE TABLE u (id BIGINT)"], 2, "22023"),
        (fine, &["--schema", "CREATE TABLE t (id TEXT, name TEXT)"], 2, "42P16"),
        (fine, &["--table", "v", "--primary-key", "id", "--types", "id=JSON"], 1, "42P16"),
        (fine, &["--rejects", "/dev/null/x"], 1, "42809"),
        (fine, &["--rejects", "/proc/version"], 2, "58P02"),
        (fine, &["--unknown"], 2, "42601"),
        (b"id,name\n1,a\nx,a\n", &[], 1, "22000"),
    ] {
        let file = database.path("file.csv");
        std::fs::write(&file, csv).unwrap();
        let mut args = vec!["import", file.to_str().unwrap()];
        args.extend(flags);
        if !flags.contains(&"--table") {
            args.extend(["--table", "t"]);
        }
        let rejects = database.path("file.rejects");
        if !flags.contains(&"--rejects") {
            args.extend(["--rejects", rejects.to_str().unwrap()]);
        }
        let run = database.run(&args).fails(exit, "");
        let objects = run.objects();
        assert_eq!((objects.len(), &objects[0]["sqlstate"]), (1, &sqlstate.into()), "{run:#?}");
    }
    for (file, sqlstate) in [("/nowhere/x.csv", "58P01"), ("/dev/zero", "42809"), ("/", "42809")] {
        let run = database.run(&["import", file, "--table", "t"]).fails(2, "");
        assert_eq!(run.objects()[0]["sqlstate"], sqlstate, "{run:#?}");
    }
}

#[test]
fn types_are_inferred_from_the_whole_file() {
    let database = Database::new();
    let csv = "Id,Zip,Cost,Born,Seen,Active,Key,Note\n\
        1,01013,1.5,1990-02-28,2020-01-01T10:00:00Z,true,1d604da9-9a81-4ba9-80c2-de3375d59b40,José\n\
        2,02143,2,,2020-01-02T10:00:00Z,false,d49f748f-928d-40e8-92c8-73e4c5679711,\n";
    let run = import(&database, "t.csv", csv.as_bytes(), &["--table", "People"]).ok();
    assert_eq!(run.objects()[0]["imported"], 2);
    let run = database
        .sql("SELECT id, zip, cost, born, active, key, note FROM people WHERE zip = '01013'")
        .ok();
    let expected = serde_json::json!([[
        1,
        "01013",
        1.5,
        "1990-02-28",
        true,
        "1d604da9-9a81-4ba9-80c2-de3375d59b40",
        "José"
    ]]);
    assert_eq!(run.objects()[0]["rows"], expected, "{run:#?}");
    assert_eq!(database.number("SELECT COUNT(*) FROM people WHERE note IS NULL"), 1);
}

#[test]
fn running_again_doubles_nothing_and_a_changed_file_is_another_import() {
    let database = Database::new();
    let mut csv = "id,v\n".to_string();
    (0..2_500).for_each(|n| csv.push_str(&format!("{n},x{n}\n")));
    import(&database, "a.csv", csv.as_bytes(), &["--table", "t"]).ok();
    let run = import(&database, "a.csv", csv.as_bytes(), &["--table", "t"]).ok();
    assert_eq!(run.objects()[0]["imported"], 0);
    assert_eq!(run.objects()[0]["already_there"], 2_500);
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 2_500);
    csv.push_str("9999,more\n");
    import(&database, "b.csv", csv.as_bytes(), &["--table", "t"]).ok();
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 5_001);
}

#[test]
fn bad_rows_are_rejected_with_reasons_and_the_rest_is_there() {
    let database = Database::new();
    let csv = b"id,n\n1,10\n2,x\n3,30,extra\n1,11\n4,\n5,\xff\n6,60\n";
    let extra = ["--table", "t", "--primary-key", "id", "--types", "n=BIGINT"];
    let run = import(&database, "t.csv", csv, &extra).fails(1, "rejected");
    assert_eq!(run.objects()[0]["imported"], 3, "{run:#?}");
    assert_eq!(run.objects()[0]["rejected"], 4, "{run:#?}");
    let rejects = std::fs::read(database.path("rejects.csv")).unwrap();
    let rejects = String::from_utf8_lossy(&rejects);
    for (line, reason) in
        [("3,", "is no BIGINT"), ("4,", "fields"), ("5,", "23505"), ("7,", "UTF-8")]
    {
        let found = rejects.lines().any(|row| row.starts_with(line) && row.contains(reason));
        assert!(found, "{line} {reason}: {rejects}");
    }
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 3);
    // Again: the same rows, not twice.
    let run = import(&database, "t.csv", csv, &extra).fails(1, "rejected");
    assert_eq!(run.objects()[0]["rejected"], 4, "{run:#?}");
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 3);
}

#[test]
fn files_that_are_no_csv_are_refused_before_anything_is_made() {
    let database = Database::new();
    for (name, content) in [
        ("empty.csv", &b""[..]),
        ("blank.csv", b"a,,c\n1,2,3\n"),
        ("twice.csv", b"a,A\n1,2\n"),
        ("latin.csv", b"a,\xe9\n1,2\n"),
    ] {
        let run = import(&database, name, content, &["--table", "t"]);
        assert_eq!(run.code, Some(2), "{name}: {run:#?}");
    }
    let missing = database.path("missing.csv");
    let run = database.run(&["import", missing.to_str().unwrap(), "--table", "t"]);
    assert_eq!(run.code, Some(2), "{run:#?}");
    database.sql("SELECT * FROM t").fails(1, "42P01");
    import(&database, "t.csv", b"a\n1\n", &["--table", "t", "--types", "b=TEXT"])
        .fails(2, "no such");
    import(&database, "t.csv", b"a\n1\n", &["--table", "t", "--primary-key", "z"])
        .fails(2, "no such");
    import(&database, "t.csv", b"a\n1\n", &["--table", "t", "--schema", "CREATE TABLE"])
        .fails(2, "one CREATE TABLE statement");
    import(&database, "t.csv", b"a\n1\n", &["--table", "t", "--schema", "CREATE TABLE t"])
        .fails(1, "cannot create table");
}

#[test]
fn quotes_newlines_and_carriage_returns_are_kept() {
    let database = Database::new();
    let csv = "id,text\r\n1,\"two\nlines, \"\"quoted\"\"\"\r\n2,\u{1F600}\r\n";
    import(&database, "t.csv", csv.as_bytes(), &["--table", "t"]).ok();
    let run = database.sql("SELECT text FROM t WHERE id = 1").ok();
    assert_eq!(run.objects()[0]["rows"][0][0], "two\nlines, \"quoted\"", "{run:#?}");
}

#[test]
fn quoted_names_of_mixed_case_are_found() {
    let database = Database::new();
    database
        .sql("CREATE TABLE \"Staff\" (\"Id\" BIGINT PRIMARY KEY, \"First Name\" TEXT, été TEXT)")
        .ok();
    let csv = "Id,First Name,\u{c9}T\u{c9}\n1,Ada,x\n2,Bob,\n";
    import(&database, "a.csv", csv.as_bytes(), &["--table", "Staff"]).ok();
    let csv = "ID,first name\n3,Eve\n";
    import(&database, "b.csv", csv.as_bytes(), &["--table", "Staff"]).ok();
    let run =
        database.sql("SELECT \"Id\", \"First Name\", \u{e9}t\u{e9} FROM \"Staff\" ORDER BY 1").ok();
    let rows = serde_json::json!([[1, "Ada", "x"], [2, "Bob", null], [3, "Eve", null]]);
    assert_eq!(run.objects()[0]["rows"], rows);
    // No second table came to be.
    assert_eq!(database.number("SELECT COUNT(*) FROM __tables"), 1);
}

#[test]
fn columns_that_differ_in_case_only() {
    let database = Database::new();
    import(&database, "a.csv", b"a,A\n1,2\n", &["--table", "t"]).fails(2, "twice");
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY, \"Id\" BIGINT)").ok();
    import(&database, "b.csv", b"Id,id\n10,1\n", &["--table", "t"]).ok();
    let run = database.sql("SELECT id, \"Id\" FROM t").ok();
    assert_eq!(run.objects()[0]["rows"], serde_json::json!([[1, 10]]));
    import(&database, "c.csv", b"ID,id\n10,1\n", &["--table", "t"]).fails(2, "two columns");
}

#[test]
fn a_table_spelled_otherwise_is_the_same_import() {
    let database = Database::new();
    import(&database, "a.csv", b"v\n1\n2\n", &["--table", "People"]).ok();
    let run = import(&database, "a.csv", b"v\n1\n2\n", &["--table", "people"]).ok();
    assert_eq!(run.objects()[0]["already_there"], 2, "{run:#?}");
    assert_eq!(database.number("SELECT COUNT(*) FROM people"), 2);
}

#[test]
fn rows_that_are_too_large_are_rejected_and_the_rest_is_there() {
    let database = Database::new();
    for size in [600_000, 3_000_000] {
        let csv = format!("id,text\n1,{}\n2,fine\n", "x".repeat(size));
        let table = format!("t{size}");
        let run = import(&database, "t.csv", csv.as_bytes(), &["--table", &table]);
        let run = run.fails(1, "1 row was rejected");
        assert_eq!(run.objects()[0]["imported"], 1, "{size}");
        let rejects = std::fs::read_to_string(database.path("rejects.csv")).unwrap();
        assert!(rejects.contains("bytes, at most"), "{size}: {}", &rejects[..200]);
        assert_eq!(database.number(&format!("SELECT id FROM {table}")), 2);
    }
}

#[test]
fn only_a_rejects_file_is_written_over() {
    let database = Database::new();
    let file = database.path("t.csv");
    let content = b"id,n\n1,2\n3\n";
    std::fs::write(&file, content).unwrap();
    let letter = database.path("letter.txt");
    std::fs::write(&letter, "dear").unwrap();
    for rejects in [&file, &letter] {
        let (file, rejects) = (file.to_str().unwrap(), rejects.to_str().unwrap());
        let args = ["import", file, "--table", "t", "--rejects", rejects];
        database.run(&args).fails(2, "is no rejects file");
    }
    assert_eq!(std::fs::read(&file).unwrap(), content);
    assert_eq!(std::fs::read(&letter).unwrap(), b"dear");
}

#[test]
fn rejected_rows_have_their_lines_however_lines_end() {
    let database = Database::new();
    for (name, end) in [("lf", "\n"), ("crlf", "\r\n"), ("cr", "\r")] {
        let rows = ["id,n", "1", "2,x", "3,3", "4,4,4"];
        let run = import(
            &database,
            name,
            rows.join(end).as_bytes(),
            &["--table", name, "--types", "n=BIGINT"],
        );
        assert_eq!(run.objects()[0]["rejected"], 3, "{run:#?}");
        let rejects = std::fs::read_to_string(database.path("rejects.csv")).unwrap();
        let lines: Vec<&str> = rejects.lines().filter_map(|line| line.split(',').next()).collect();
        assert_eq!(lines, ["line", "2", "3", "5"], "{name}");
    }
}

#[test]
fn a_quote_that_is_never_closed_is_refused() {
    let database = Database::new();
    let csv = b"id,text\n1,\"closed\"\n2,\"never\n3,x\n";
    import(&database, "t.csv", csv, &["--table", "t"]).fails(2, "line 3 is never closed");
    // Quotes within a field that does not begin with one are just that.
    let csv = b"id,text\n1,6\" pipe\n2,\"a \"\"b\"\"\"\n3, \"x\"y\n";
    import(&database, "t.csv", csv, &["--table", "t"]).ok();
    let run = database.sql("SELECT text FROM t ORDER BY id").ok();
    let rows = serde_json::json!([["6\" pipe"], ["a \"b\""], [" \"x\"y"]]);
    assert_eq!(run.objects()[0]["rows"], rows);
}

/// Behind it nobody knows where a row ends, so nothing of the file is believed.
#[test]
fn a_closing_quote_that_something_follows_is_refused_and_nothing_is_made() {
    let database = Database::new();
    for (csv, line) in [
        ("a,b\n1,\"x\n2,y\n3,\"z\"\n4,w\n", 4),
        ("a,b\n1,x\n2,\"Smith\" Bob\n3,y\n", 3),
        ("a,b\r\n1,x\r\n2,\"Smith\"Bob\r\n", 3),
        ("a,b\r1,x\r2,\"Smith\" \r", 3),
        ("\u{feff}\"a\"x,b\n1,2\n", 1),
    ] {
        let run = import(&database, "t.csv", csv.as_bytes(), &["--table", "t"]);
        let run = run.fails(2, &format!("line {line}: "));
        assert!(run.stderr.contains("closing quote"), "{csv:?}: {run:#?}");
    }
    database.sql("SELECT * FROM t").fails(1, "42P01");
    // All that may follow one.
    let csv = "\u{feff}\"a\"\"1\",b\r\n\"x\",\"y\"\r\n\"\",\"\"\n\"\"\"\",\"z\"\r\"u\",\"v\"";
    let run = import(&database, "t.csv", csv.as_bytes(), &["--table", "t"]).ok();
    assert_eq!(run.objects()[0]["imported"], 4, "{run:#?}");
}

#[test]
fn empty_lines_of_a_file_of_one_column_are_told() {
    let database = Database::new();
    for (name, end) in [("lf", "\n"), ("crlf", "\r\n"), ("cr", "\r")] {
        let text = ["a", "1", "", "3", "\"\"", "", ""].join(end);
        let run = import(&database, name, text.as_bytes(), &["--table", name]).ok();
        assert_eq!(run.objects()[0]["imported"], 3, "{name}: {run:#?}");
        assert_eq!(run.objects()[0]["empty_lines"], 2, "{name}: {run:#?}");
        assert!(run.stderr.contains("2 lines are empty, line 3 is the first"), "{name}: {run:#?}");
        let null = format!("SELECT COUNT(*) FROM {name} WHERE a IS NULL");
        assert_eq!(database.number(&null), 1, "{name}");
    }
    let run = import(&database, "t.csv", b"a,b\n1,2\n\n3,4\n", &["--table", "t"]).ok();
    assert_eq!(run.objects()[0]["imported"], 2, "{run:#?}");
    assert!(run.stderr.is_empty(), "{run:#?}");
}

/// What was asked for is what there is, or it is refused.
#[test]
fn flags_that_contradict_a_table_are_refused() {
    let database = Database::new();
    let schema =
        "CREATE TABLE t (id BIGINT PRIMARY KEY, \"Zip\" TEXT NOT NULL, cost DECIMAL(12,2))";
    database.sql(schema).ok();
    let csv = b"ID,zip,Cost\n1,2,3.5\n";
    for (flags, words) in [
        (&["--types", "zip=BIGINT"][..], &["\"Zip\"", "TEXT", "BIGINT"][..]),
        (&["--types", "cost=DECIMAL(12,3)"], &["\"cost\"", "DECIMAL(12,2)", "DECIMAL(12,3)"]),
        (&["--primary-key", "zip"], &["--primary-key zip", "primary key of table t is id"]),
        (&["--primary-key", "id,zip"], &["--primary-key id, zip", "is id"]),
        (&["--primary-key", "nothing"], &["--primary-key nothing", "no such column"]),
        (
            &[
                "--schema",
                "CREATE TABLE t (id INTEGER PRIMARY KEY, \"Zip\" TEXT, cost DECIMAL(12,2))",
            ],
            &["\"id\"", "INTEGER", "BIGINT"],
        ),
        (
            &["--schema", "CREATE TABLE t (id BIGINT PRIMARY KEY, \"Zip\" TEXT)"],
            &["\"cost\"", "--schema"],
        ),
        (
            &["--schema", "CREATE TABLE t (id BIGINT, \"Zip\" TEXT NOT NULL, cost DECIMAL(12,2))"],
            &["primary key of table t is id"],
        ),
        (
            &[
                "--schema",
                "CREATE TABLE t (id BIGINT PRIMARY KEY, \"Zip\" TEXT, cost DECIMAL(12,2))",
            ],
            &["\"Zip\"", "NOT NULL"],
        ),
    ] {
        let all = [&["--table", "t"], flags].concat();
        let run = import(&database, "t.csv", csv, &all).fails(2, "");
        for word in words {
            assert!(run.stderr.contains(word), "{flags:?} says no {word}: {run:#?}");
        }
    }
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 0);
    let agreeing = ["--types", "zip=TEXT,COST=decimal(12,2)", "--primary-key", "ID"];
    let run = import(&database, "t.csv", csv, &[&["--table", "t"], &agreeing[..]].concat()).ok();
    assert!(run.stderr.is_empty() && run.objects()[0]["imported"] == 1, "{run:#?}");
    let run = import(&database, "t.csv", csv, &["--table", "t", "--schema", schema]).ok();
    assert!(run.stderr.is_empty() && run.objects()[0]["already_there"] == 1, "{run:#?}");
    // The key that nobody named.
    import(&database, "h.csv", b"a\n1\n", &["--table", "h"]).ok();
    import(&database, "h.csv", b"a\n1\n", &["--table", "h", "--primary-key", "a"])
        .fails(2, "table h has no primary key");
}

#[test]
fn a_schema_creates_a_table_and_does_nothing_else() {
    let database = Database::new();
    database.sql("CREATE TABLE kept (id BIGINT PRIMARY KEY)").ok();
    for schema in ["DROP TABLE kept", "CREATE TABLE t (id BIGINT); DROP TABLE kept", ""] {
        import(&database, "t.csv", b"id\n1\n", &["--table", "t", "--schema", schema])
            .fails(2, "--schema");
    }
    assert_eq!(database.number("SELECT COUNT(*) FROM kept"), 0);
    let schema = "create table T (id BIGINT PRIMARY KEY)";
    import(&database, "t.csv", b"id\n1\n", &["--table", "t", "--schema", schema]).ok();
}

#[test]
fn numbers_that_a_double_would_change_come_back_as_they_stood() {
    let database = Database::new();
    let csv = "id,amount,code,mixed\n\
        1,99999999999999.99,1E5,9007199254740993\n\
        2,0.01,2E3,0.5\n";
    import(&database, "t.csv", csv.as_bytes(), &["--table", "t"]).ok();
    let run = database.sql("SELECT amount, code, mixed FROM t ORDER BY id").ok();
    let rows = serde_json::json!([
        ["99999999999999.99", "1E5", "9007199254740993"],
        ["0.01", "2E3", "0.5"]
    ]);
    assert_eq!(run.objects()[0]["rows"], rows);
}

/// An import from some directory, without `--rejects`.
fn import_in(database: &Database, folder: &str, extra: &[&str]) -> crate::run::Run {
    let folder = database.path(folder);
    std::fs::create_dir_all(&folder).unwrap();
    let mut command = crate::run::command();
    command.arg("import").arg("--json").arg("--data").arg(database.path("data"));
    crate::run::Run::new(command.args(extra).current_dir(folder).output().unwrap())
}

fn rejects_file(run: &crate::run::Run) -> String {
    run.objects()[0]["rejects_file"].as_str().unwrap_or_else(|| panic!("{run:#?}")).to_string()
}

#[test]
fn rejected_rows_are_told_on_every_run_wherever_it_runs() {
    let database = Database::new();
    let file = database.path("t.csv");
    std::fs::write(&file, "id,name\n1,a\n1,b\n2,c\n3\n").unwrap();
    let args = ["--table", "t", "--primary-key", "id", file.to_str().unwrap()];
    let mut first = None;
    for (nth, folder) in ["here", "elsewhere", "here"].into_iter().enumerate() {
        let run = import_in(&database, folder, &args).fails(1, "2 rows were rejected");
        let told = &run.objects()[0];
        assert_eq!(told["rejected"], 2, "{run:#?}");
        assert_eq!(told["imported"], if nth == 0 { 2 } else { 0 }, "{run:#?}");
        assert_eq!(told["already_there"], if nth == 0 { 0 } else { 2 }, "{run:#?}");
        let path = database.path(folder).join(rejects_file(&run));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("\n3,") && text.contains("23505") && text.contains("1,b"), "{text}");
        assert!(text.contains("\n5,"), "{text}");
        assert_eq!(*first.get_or_insert(text.clone()), text);
        // The next run writes it again.
        std::fs::remove_file(&path).unwrap();
    }
    assert_eq!(database.number("SELECT COUNT(*) FROM t"), 2);
}

#[test]
fn files_of_one_name_have_rejects_files_of_their_own() {
    let database = Database::new();
    let mut names = Vec::new();
    for (folder, content) in [("a", "id,n\n1,1\n2,bad\n"), ("b", "id,n\n3,3\n4,bad\n")] {
        std::fs::create_dir_all(database.path(folder)).unwrap();
        std::fs::write(database.path(folder).join("x.csv"), content).unwrap();
    }
    for _ in 0..2 {
        for folder in ["a", "b"] {
            let file = database.path(folder).join("x.csv");
            let args = ["--table", "t", "--types", "n=BIGINT", file.to_str().unwrap()];
            let run = import_in(&database, "here", &args).fails(1, "1 row was rejected");
            names.push(rejects_file(&run));
        }
    }
    assert_eq!(names[..2], names[2..]);
    assert_ne!(names[0], names[1]);
    for (name, row) in names.iter().zip(["2,bad", "4,bad"]) {
        let text = std::fs::read_to_string(database.path("here").join(name)).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.ends_with(&format!("{row}\n")), "{text}");
    }
}

#[test]
fn an_import_that_an_older_release_began_goes_on() {
    let database = Database::new();
    // As an older release left it: a batch, its record, and nothing about the row it rejected.
    let mut csv = "id,n\n1,x\n".to_string();
    (2..=600).for_each(|n| csv.push_str(&format!("{n},{n}\n")));
    csv.push_str("601,x\n");
    let file = database.path("t.csv");
    std::fs::write(&file, &csv).unwrap();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT)").ok();
    let mut hasher = verity_core::crypto::ChainHasher::new();
    hasher.update(csv.as_bytes());
    let hash = hasher.finish();
    let hash: String = hash.0[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let older = verity::Verity::open(database.data()).unwrap();
    let cell = |n| verity::Value::Integer(n);
    let rows = (2..=500).map(|n| vec![cell(n), cell(n)]).collect();
    let batch = vec![
        verity::Operation::InsertRows {
            table: "t".to_string(),
            columns: vec!["id".to_string(), "n".to_string()],
            rows,
        },
        verity::Operation::Append {
            stream: format!("import/t/{hash}"),
            expected: verity::ExpectedVersion::Exact(0),
            records: vec![br#"{"batch":0,"rows":499}"#.to_vec()],
        },
    ];
    older.transaction_with_id(older.new_id().unwrap(), batch).unwrap();
    older.close().unwrap();
    for nth in 0..2 {
        let args = ["--table", "t", file.to_str().unwrap()];
        let run = import_in(&database, "here", &args).fails(1, "2 rows were rejected");
        let told = &run.objects()[0];
        assert_eq!(told["imported"], if nth == 0 { 100 } else { 0 }, "{run:#?}");
        assert_eq!(told["already_there"], if nth == 0 { 499 } else { 599 }, "{run:#?}");
        assert_eq!(database.number("SELECT COUNT(*) FROM t"), 599);
    }
}

/// A CSV of so many rows, which are more than one batch.
fn rows(count: i64) -> String {
    let rows = (0..count).map(|n| format!("{n},x{n}\n"));
    std::iter::once("id,v\n".to_string()).chain(rows).collect()
}

#[test]
fn a_table_that_was_dropped_and_made_again_gets_all_rows() {
    let database = Database::new();
    let csv = format!("{}twice,of,three\n", rows(1_200));
    let args = ["--table", "b", "--types", "id=BIGINT"];
    for round in 0..3 {
        let run = import(&database, "b.csv", csv.as_bytes(), &args).fails(1, "1 row was rejected");
        assert_eq!(run.objects()[0]["imported"], 1_200, "{round}: {run:#?}");
        assert_eq!(run.objects()[0]["already_there"], 0, "{round}: {run:#?}");
        let run = import(&database, "b.csv", csv.as_bytes(), &args).fails(1, "1 row was rejected");
        assert_eq!(run.objects()[0]["imported"], 0, "{round}: {run:#?}");
        assert_eq!(run.objects()[0]["already_there"], 1_200, "{round}: {run:#?}");
        assert_eq!(run.objects()[0]["rejected"], 1, "{round}: {run:#?}");
        assert_eq!(database.number("SELECT COUNT(*) FROM b"), 1_200);
        database.sql("DROP TABLE b").ok();
    }
}

#[test]
fn rows_that_were_deleted_since_are_told_as_imported_before() {
    let database = Database::new();
    let file = database.path("b.csv");
    std::fs::write(&file, rows(600)).unwrap();
    let file = file.to_str().unwrap();
    database.run(&["import", file, "--table", "b"]).ok();
    database.sql("DELETE FROM b").ok();
    let data = database.data();
    let run =
        crate::run::verity(&["import", file, "--table", "b", "--data", data.to_str().unwrap()]);
    let run = run.ok();
    assert!(run.stdout.contains("0 rows imported into b, 600 imported before"), "{run:#?}");
    assert_eq!(database.number("SELECT COUNT(*) FROM b"), 0);
    let help = crate::run::verity(&["import", "--help"]).ok();
    assert!(help.stdout.contains("already_there"), "{help:#?}");
}

/// What a release did that named streams after table and file alone.
fn as_an_older_release(database: &Database, csv: &str, with_head: bool, upto: i64) {
    let mut hasher = verity_core::crypto::ChainHasher::new();
    hasher.update(csv.as_bytes());
    let hash: String = hasher.finish().0[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let stream = format!("import/t/{hash}");
    let rejected = format!("{stream}/rejected");
    let older = verity::Verity::open(database.data()).unwrap();
    for (number, first) in (0..upto).step_by(500).enumerate() {
        let ids = first..upto.min(first + 500);
        let row = |n| vec![verity::Value::Integer(n), verity::Value::text(&format!("x{n}"))];
        let note = format!("{{\"batch\":{number},\"rows\":{}}}", ids.end - ids.start);
        let append = |stream: &str, expected, record: String| verity::Operation::Append {
            stream: stream.to_string(),
            expected,
            records: vec![record.into_bytes()],
        };
        let mut batch = vec![
            verity::Operation::InsertRows {
                table: "t".to_string(),
                columns: vec!["id".to_string(), "v".to_string()],
                rows: ids.map(row).collect(),
            },
            append(&stream, verity::ExpectedVersion::Exact(number as u64), note),
        ];
        if with_head && number == 0 {
            let head = format!("{{\"import\":\"{rejected}\",\"rejected\":{{\"from_batch\":0}}}}");
            batch.push(append(&rejected, verity::ExpectedVersion::Any, head));
        }
        older.transaction_with_id(older.new_id().unwrap(), batch).unwrap();
    }
    older.close().unwrap();
}

#[test]
fn an_import_of_an_older_release_counts_for_the_table_it_went_to() {
    for with_head in [true, false] {
        let database = Database::new();
        let csv = rows(1_200);
        let create = "CREATE TABLE t (id BIGINT PRIMARY KEY, v TEXT)";
        database.sql(create).ok();
        as_an_older_release(&database, &csv, with_head, 1_000);
        // Cut off there, and gone on with; then once more.
        for (imported, before) in [(200, 1_000), (0, 1_200)] {
            let run = import(&database, "t.csv", csv.as_bytes(), &["--table", "t"]).ok();
            assert_eq!(run.objects()[0]["imported"], imported, "{with_head}: {run:#?}");
            assert_eq!(run.objects()[0]["already_there"], before, "{with_head}: {run:#?}");
        }
        database.sql("DROP TABLE t").ok();
        database.sql(create).ok();
        // Another file's first batch is not this one's.
        import(&database, "o.csv", b"id,v\n5000,y\n", &["--table", "other"]).ok();
        for (imported, before) in [(1_200, 0), (0, 1_200)] {
            let run = import(&database, "t.csv", csv.as_bytes(), &["--table", "t"]).ok();
            assert_eq!(run.objects()[0]["imported"], imported, "{with_head}: {run:#?}");
            assert_eq!(run.objects()[0]["already_there"], before, "{with_head}: {run:#?}");
        }
        assert_eq!(database.number("SELECT COUNT(*) FROM t"), 1_200);
    }
}

/// Runs a command that must come to its end by itself.
fn ends(args: &[&str]) -> crate::run::Run {
    let mut child = crate::run::command()
        .args(args)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        if std::time::Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{args:?} does not end");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    crate::run::Run::new(child.wait_with_output().unwrap())
}

#[test]
fn imports_that_cannot_be_are_refused_before_a_database_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let names = |count: usize| (0..count).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
    let fine = path("fine.csv");
    std::fs::write(&fine, "id\n1\n").unwrap();
    let wide = path("wide.csv");
    std::fs::write(&wide, names(300_000)).unwrap();
    let fifo = path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let (data, nowhere) = (path("data"), path("no/such/rejects.csv"));
    let import = |more: &[&str]| {
        ends(&[&["import", "--json", "--data", &data, "--table", "sch"], more].concat())
    };
    import(&[&wide]).fails(2, "300000 columns; a table has 1 to 256 columns");
    import(&[&fifo]).fails(2, "no regular file");
    import(&["/dev/zero"]).fails(2, "no regular file");
    import(&[dir.path().to_str().unwrap()]).fails(2, "is a directory");
    let other = "CREATE TABLE other (id BIGINT PRIMARY KEY)";
    import(&[&fine, "--schema", other]).fails(2, "creates table other, --table is sch");
    import(&[&fine, "--rejects", &nowhere]).fails(1, "cannot write the rejects file");
    import(&[&fine, "--rejects", dir.path().to_str().unwrap()]).fails(1, "cannot write");
    assert!(!std::path::Path::new(&data).exists(), "a refused import made a database");
    let wide = path("256.csv");
    std::fs::write(&wide, format!("{}\n", names(256))).unwrap();
    import(&[&wide, "--rejects", &path("rejects.csv")]).ok();
    assert!(!dir.path().join("rejects.csv.partial").exists());
}

#[test]
fn an_import_with_rejects_prints_one_object() {
    let database = Database::new();
    let run = import(&database, "t.csv", b"id,v\n1,1\n2\n", &["--table", "t"]);
    let run = run.fails(1, "error: 1 row was rejected");
    let objects = run.objects();
    assert_eq!(objects.len(), 1, "{run:#?}");
    assert_eq!(objects[0]["imported"], 1, "{run:#?}");
    assert!(objects[0]["error"].as_str().unwrap().contains("1 row was rejected"), "{run:#?}");
    let run = import(&database, "t.csv", b"id,v\n1,1\n", &["--table", "t"]).ok();
    assert!(run.objects()[0].get("error").is_none(), "{run:#?}");
}

/// What was rejected is found from batch to batch, and the log is not read for it.
#[test]
fn running_again_costs_by_what_is_new_and_what_was_rejected() {
    let database = Database::new();
    let mut csv = "id,n\n".to_string();
    // Batches without a rejected row, with some, and with nothing else.
    for n in 0..30_000 {
        let bad = n / 500 % 3 == 1 && n % 7 == 0 || n / 500 == 30;
        csv.push_str(&format!("{n},{}\n", if bad { "x".to_string() } else { n.to_string() }));
    }
    let flags = ["--table", "t", "--types", "n=BIGINT"];
    let first = import(&database, "t.csv", csv.as_bytes(), &flags).fails(1, "rejected");
    let rejected = first.objects()[0]["rejected"].as_u64().unwrap();
    assert!(rejected > 1_500);
    let rejects = database.path("rejects.csv");
    let before = std::fs::read(&rejects).unwrap();
    let timed = |what: &dyn Fn()| {
        let started = std::time::Instant::now();
        what();
        started.elapsed()
    };
    let again = |database: &Database| {
        let path = database.path("rejects.csv");
        let _not_there = std::fs::remove_file(&path);
        let time = timed(&|| {
            let again = import(database, "t.csv", csv.as_bytes(), &flags).fails(1, "rejected");
            assert_eq!(again.objects()[0]["rejected"].as_u64().unwrap(), rejected);
        });
        assert_eq!(std::fs::read(path).unwrap(), before);
        time
    };
    // The best of some: whoever else is at work only makes it longer.
    let best = |database: &Database| (0..3).map(|_| again(database)).min().unwrap();
    let time = best(&database);
    // One that was cut off goes on with what it knows of the batches before.
    let cut = Database::new();
    let mut begun = crate::run::command();
    begun.args(["import", "--data"]).arg(cut.data()).arg(database.path("t.csv")).args(flags);
    let mut begun = begun.current_dir(cut.dir.path()).spawn().unwrap();
    assert!(crate::run::wait_for_prepares(&mut begun, &cut.data(), 15), "it was too fast");
    begun.kill().unwrap();
    begun.wait().unwrap();
    again(&cut);
    let times = [time, best(&cut)];
    let sql = "SELECT COUNT(*) FROM __events WHERE kind = 'append' \
               AND CAST(columns AS TEXT) LIKE '\"00%'";
    let whole_log = timed(&|| assert_eq!(database.number(sql), 0));
    assert!(times.iter().all(|time| *time < whole_log / 4), "{times:?}, the log {whole_log:?}");
}
