//! CSV in: types, rejects, re-runs, malformed files.

use crate::run::Database;

fn import(database: &Database, name: &str, content: &[u8], extra: &[&str]) -> crate::run::Run {
    let file = database.path(name);
    std::fs::write(&file, content).unwrap();
    let rejects = database.path("rejects.csv");
    let mut args = vec!["import", file.to_str().unwrap(), "--rejects", rejects.to_str().unwrap()];
    args.extend(extra);
    database.run(&args)
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
        .fails(1, "");
}

#[test]
fn quotes_newlines_and_carriage_returns_are_kept() {
    let database = Database::new();
    let csv = "id,text\r\n1,\"two\nlines, \"\"quoted\"\"\"\r\n2,\u{1F600}\r\n";
    import(&database, "t.csv", csv.as_bytes(), &["--table", "t"]).ok();
    let run = database.sql("SELECT text FROM t WHERE id = 1").ok();
    assert_eq!(run.objects()[0]["rows"][0][0], "two\nlines, \"quoted\"", "{run:#?}");
}
