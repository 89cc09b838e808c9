//! What people see when a statement is refused: code, sentence, caret, way out.

use alloc::string::String;
use expect_test::{Expect, expect};

use super::database::Database;
use crate::query::SqlState;

fn check(sql: &str, expected: &Expect) {
    let mut database = Database::new();
    database
        .query("CREATE TABLE p (id BIGINT PRIMARY KEY, name TEXT NOT NULL, born DATE, w DECIMAL(5,2), s SMALLINT, v VARCHAR(3))")
        .unwrap();
    let error = database.query(sql).expect_err(sql);
    expected.assert_eq(&(error.render(sql) + "\n"));
}

#[test]
fn syntax() {
    check(
        "SELEC 1",
        &expect![[r#"
        error 42601: a statement does not start with SELEC
        line 1: SELEC 1
                ^
        hint: statements are SELECT, INSERT, UPDATE, DELETE, CREATE TABLE, DROP TABLE, EXPLAIN
    "#]],
    );
    check(
        "SELECT id FROM p WHERE",
        &expect![[r#"
        error 42601: Expected: an expression, found: EOF
        line 1: SELECT id FROM p WHERE
                                      ^
    "#]],
    );
    check(
        "SELECT id\nFROM p\nWHERE name = 'é' AND (id = 1",
        &expect![[r#"
        error 42601: Expected: ), found: EOF
        line 3: WHERE name = 'é' AND (id = 1
                                            ^
    "#]],
    );
    check(
        "SELECT 'abc",
        &expect![[r#"
        error 42601: Unterminated string literal
        line 1: SELECT 'abc
                       ^
    "#]],
    );
    check(
        "SELECT 1 1",
        &expect![[r#"
        error 42601: unexpected 1
        line 1: SELECT 1 1
                         ^
    "#]],
    );
}

#[test]
fn names() {
    check(
        "SELECT id, nme FROM p",
        &expect![[r#"
        error 42703: table "p" has no column "nme"
        line 1: SELECT id, nme FROM p
                           ^
        hint: columns are id, name, born, w, s, v
    "#]],
    );
    check(
        "SELECT id FROM q",
        &expect![[r#"
        error 42P01: there is no table "q"
        line 1: SELECT id FROM q
                               ^
        hint: SELECT name FROM __tables lists the tables
    "#]],
    );
    check(
        "SELECT x.id FROM p",
        &expect![[r#"
        error 42P01: there is no table "x" in this statement
        line 1: SELECT x.id FROM p
                       ^
    "#]],
    );
    check(
        "INSERT INTO p (id, nme) VALUES (1, 2)",
        &expect![[r#"
        error 42703: table "p" has no column "nme"
        line 1: INSERT INTO p (id, nme) VALUES (1, 2)
                                   ^
        hint: columns are id, name, born, w, s, v
    "#]],
    );
    check(
        "SELECT \"ID\" FROM p",
        &expect![[r#"
        error 42703: table "p" has no column "ID"
        line 1: SELECT "ID" FROM p
                       ^
        hint: there is "id", with the quotes
    "#]],
    );
    check(
        "CREATE TABLE p (a BIGINT)",
        &expect![[r#"
        error 42P07: table "p" exists already
        line 1: CREATE TABLE p (a BIGINT)
                             ^
        hint: write CREATE TABLE IF NOT EXISTS if that is fine
    "#]],
    );
    check(
        "CREATE TABLE __x (a BIGINT)",
        &expect![[r#"
        error 42939: names that begin with __ are the system's
        line 1: CREATE TABLE __x (a BIGINT)
                             ^
    "#]],
    );
    check(
        "DELETE FROM __events",
        &expect![[r#"
        error 42939: tables that begin with __ are views of the system
        line 1: DELETE FROM __events
                            ^
    "#]],
    );
}

#[test]
fn deliberately_missing() {
    check(
        "SELECT * FROM p JOIN q ON p.id = q.id",
        &expect![[r#"
        error 0A000: joins are not supported
        line 1: SELECT * FROM p JOIN q ON p.id = q.id
                                     ^
        hint: query one table at a time; projections will join on write
    "#]],
    );
    check(
        "SELECT * FROM p, q",
        &expect![[r#"
        error 0A000: joins are not supported
        line 1: SELECT * FROM p, q
                                 ^
        hint: query one table at a time
    "#]],
    );
    check(
        "SELECT * FROM p WHERE id IN (SELECT id FROM p)",
        &expect![[r#"
        error 0A000: subqueries are not supported
        line 1: SELECT * FROM p WHERE id IN (SELECT id FROM p)
                                      ^
        hint: run the inner SELECT first and send its result as parameters
    "#]],
    );
    check(
        "SELECT s, COUNT(*) FROM p GROUP BY s HAVING COUNT(*) > 1",
        &expect![[r#"
        error 0A000: HAVING is not supported
        line 1: SELECT s, COUNT(*) FROM p GROUP BY s HAVING COUNT(*) > 1
                                                            ^
        hint: filter the groups where you read the result
    "#]],
    );
    check(
        "SELECT rank() OVER (ORDER BY id) FROM p",
        &expect![[r#"
        error 0A000: window functions are not supported
        line 1: SELECT rank() OVER (ORDER BY id) FROM p
                       ^
        hint: use GROUP BY, or ORDER BY with LIMIT
    "#]],
    );
    check(
        "SELECT id FROM p UNION SELECT id FROM p",
        &expect![[r#"
        error 0A000: UNION, EXCEPT and INTERSECT are not supported
        line 1: SELECT id FROM p UNION SELECT id FROM p
                                       ^
        hint: send the SELECTs one by one, or write the conditions with OR
    "#]],
    );
    check(
        "WITH x AS (SELECT 1) SELECT * FROM x",
        &expect![[r#"
        error 0A000: WITH is not supported
        line 1: WITH x AS (SELECT 1) SELECT * FROM x
                ^
        hint: there are no subqueries: send one statement at a time
    "#]],
    );
    check(
        "BEGIN",
        &expect![[r#"
        error 0A000: transaction control is not supported
        line 1: BEGIN
                ^
        hint: the statements of one request are one transaction: send them together
    "#]],
    );
    check(
        "SAVEPOINT a",
        &expect![[r#"
        error 0A000: SAVEPOINT is not supported
        line 1: SAVEPOINT a
                ^
        hint: a transaction is one request, all or nothing: send what may fail as a transaction of its own
    "#]],
    );
    check(
        "ROLLBACK TO SAVEPOINT a",
        &expect![[r#"
        error 0A000: ROLLBACK TO is not supported
        line 1: ROLLBACK TO SAVEPOINT a
                ^
        hint: a transaction is one request, all or nothing: send what may fail as a transaction of its own
    "#]],
    );
    check(
        "CREATE TABLE t (a BIGINT REFERENCES p (id))",
        &expect![[r#"
        error 0A000: FOREIGN KEY is not supported
        line 1: CREATE TABLE t (a BIGINT REFERENCES p (id))
                                ^
        hint: check the other row in the same request before you insert
    "#]],
    );
    check(
        "CREATE TABLE t (a TIME)",
        &expect![[r#"
        error 0A000: the type TIME is not supported
        line 1: CREATE TABLE t (a TIME)
                                ^
        hint: store a TIMESTAMP, or TEXT
    "#]],
    );
    check(
        "CREATE TABLE t (a BIGINT) WITH (fillfactor = 70)",
        &expect![[r#"
        error 0A000: an option of this CREATE TABLE is not supported
        line 1: CREATE TABLE t (a BIGINT) WITH (fillfactor = 70)
                             ^
        hint: columns and constraints are
    "#]],
    );
    check(
        "INSERT INTO p SELECT * FROM p",
        &expect![[r#"
        error 0A000: INSERT … SELECT is not supported
        line 1: INSERT INTO p SELECT * FROM p
                              ^
        hint: read the rows first, then INSERT … VALUES
    "#]],
    );
    check(
        "DELETE FROM p RETURNING id; SELECT 1",
        &expect![[r#"
            error 0A000: RETURNING in a request of several statements is not supported
            line 1: DELETE FROM p RETURNING id; SELECT 1
                    ^
            hint: send the statement alone, or read the rows AS OF the position of the reply
        "#]],
    );
    check(
        "UPDATE p SET name = 'x' FROM q",
        &expect![[r#"
            error 0A000: UPDATE … FROM is not supported
            line 1: UPDATE p SET name = 'x' FROM q
                                                 ^
            hint: update by key, one table at a time
        "#]],
    );
    check(
        "SELECT id FROM p FOR UPDATE",
        &expect![[r#"
        error 0A000: FOR UPDATE is not supported
        line 1: SELECT id FROM p FOR UPDATE
                ^
        hint: a statement sees one position and writes are checked when applied
    "#]],
    );
    check(
        "SELECT INTERVAL '1 day'",
        &expect![[r#"
        error 0A000: INTERVAL is not supported
        line 1: SELECT INTERVAL '1 day'
                                ^
        hint: add days to a DATE with +; compute timestamps outside
    "#]],
    );
}

#[test]
fn types() {
    check(
        "INSERT INTO p (id, name) VALUES ('one', 'a')",
        &expect![[r#"
        error 42804: column "id": a value of type TEXT does not go into BIGINT
        line 1: INSERT INTO p (id, name) VALUES ('one', 'a')
                                                 ^
        hint: write CAST(… AS BIGINT) if that is meant
    "#]],
    );
    check(
        "INSERT INTO p (id, name, s) VALUES (1, 'a', 40000)",
        &expect![[r#"
        error 22003: column "s": 40000 does not fit SMALLINT exactly
        line 1: INSERT INTO p (id, name, s) VALUES (1, 'a', 40000)
                                                            ^
    "#]],
    );
    check(
        "INSERT INTO p (id, name, v) VALUES (1, 'a', 'abcd')",
        &expect![[r#"
        error 22001: column "v": value of 4 characters is too long for VARCHAR(3)
        line 1: INSERT INTO p (id, name, v) VALUES (1, 'a', 'abcd')
                                                            ^
    "#]],
    );
    check(
        "INSERT INTO p (id, name, w) VALUES (1, 'a', 1.005)",
        &expect![[r#"
        error 22003: column "w": 1.005 does not fit DECIMAL(5,2) exactly
        line 1: INSERT INTO p (id, name, w) VALUES (1, 'a', 1.005)
                                                            ^
        hint: round it first: CAST(… AS DECIMAL(p,s)) rounds half away from zero
    "#]],
    );
    check(
        "INSERT INTO p (id, name, born) VALUES (1, 'a', '2026-02-30')",
        &expect![[r#"
        error 22007: column "born": '2026-02-30' cannot be read as DATE
        line 1: INSERT INTO p (id, name, born) VALUES (1, 'a', '2026-02-30')
                                                               ^
        hint: dates are written '2026-11-21'
    "#]],
    );
    check(
        "INSERT INTO p (id, name) VALUES (1, NULL)",
        &expect![[r#"
        error 23502: column "name" cannot be NULL
        line 1: INSERT INTO p (id, name) VALUES (1, NULL)
                                                    ^
    "#]],
    );
    check(
        "INSERT INTO p (id, name) VALUES (1, 'a', 3)",
        &expect![[r#"
        error 42601: 2 columns but 3 values
        line 1: INSERT INTO p (id, name) VALUES (1, 'a', 3)
                                                 ^
    "#]],
    );
    check(
        "SELECT id FROM p WHERE name = 1",
        &expect![[r#"
        error 42804: TEXT and BIGINT do not compare
        line 1: SELECT id FROM p WHERE name = 1
                                       ^
        hint: CAST one of them to the type of the other
    "#]],
    );
    check(
        "SELECT id FROM p WHERE name",
        &expect![[r#"
        error 42804: WHERE must be BOOLEAN, this is TEXT
        line 1: SELECT id FROM p WHERE name
                                       ^
    "#]],
    );
    check(
        "UPDATE p SET s = name",
        &expect![[r#"
        error 42804: column "s" is SMALLINT, this is TEXT
        line 1: UPDATE p SET s = name
                                 ^
        hint: write CAST(… AS SMALLINT) if that is meant
    "#]],
    );
    check(
        "SELECT id FROM p WHERE born > 'yesterday'",
        &expect![[r#"
            error 22007: 'yesterday' cannot be read as DATE
            line 1: SELECT id FROM p WHERE born > 'yesterday'
                                                  ^
            hint: dates are written '2026-11-21'
        "#]],
    );
}

#[test]
fn grouping_and_order() {
    check(
        "SELECT name, COUNT(*) FROM p",
        &expect![[r#"
        error 42803: column "name" is neither in GROUP BY nor inside an aggregate
        line 1: SELECT name, COUNT(*) FROM p
                       ^
        hint: add it to GROUP BY, or take MIN(name) or MAX(name)
    "#]],
    );
    check(
        "SELECT COUNT(*) FROM p WHERE COUNT(*) > 1",
        &expect![[r#"
        error 42803: aggregates are not allowed in WHERE
        line 1: SELECT COUNT(*) FROM p WHERE COUNT(*) > 1
                                             ^
        hint: HAVING is not supported: filter the result where you read it
    "#]],
    );
    check(
        "SELECT SUM(COUNT(*)) FROM p",
        &expect![[r#"
        error 42803: aggregates are not allowed in another aggregate
        line 1: SELECT SUM(COUNT(*)) FROM p
                           ^
    "#]],
    );
    check(
        "SELECT id FROM p ORDER BY 2",
        &expect![[r#"
        error 42P10: there is no result column 2: they are 1 to 1
        line 1: SELECT id FROM p ORDER BY 2
                                          ^
    "#]],
    );
    check(
        "SELECT DISTINCT name FROM p ORDER BY id",
        &expect![[r#"
        error 42P10: with DISTINCT, ORDER BY can only name what is selected
        line 1: SELECT DISTINCT name FROM p ORDER BY id
                                                     ^
    "#]],
    );
    check(
        "SELECT id FROM p LIMIT -1",
        &expect![[r#"
        error 22023: LIMIT and OFFSET are not negative
        line 1: SELECT id FROM p LIMIT -1
                                        ^
    "#]],
    );
}

#[test]
fn as_of() {
    check(
        "SELECT * FROM p AS OF POSITION -1",
        &expect![[r#"
        error VY001: AS OF POSITION cannot be -1
        line 1: SELECT * FROM p AS OF POSITION -1
                                ^
        hint: positions are whole numbers from 0 to 1
    "#]],
    );
    check(
        "SELECT * FROM p AS OF POSITION 1.5",
        &expect![[r#"
        error VY001: AS OF POSITION cannot be 1.5
        line 1: SELECT * FROM p AS OF POSITION 1.5
                                ^
        hint: positions are whole numbers from 0 to 1
    "#]],
    );
    check(
        "SELECT * FROM p AS OF POSITION NULL",
        &expect![[r#"
        error VY001: AS OF POSITION cannot be NULL
        line 1: SELECT * FROM p AS OF POSITION NULL
                                ^
        hint: positions are whole numbers from 0 to 1
    "#]],
    );
    check(
        "SELECT * FROM p AS OF POSITION 99",
        &expect![[r#"
        error VY001: AS OF POSITION cannot be 99, which is in the future
        line 1: SELECT * FROM p AS OF POSITION 99
                                ^
        hint: positions are whole numbers from 0 to 1
    "#]],
    );
    check(
        "SELECT * FROM p AS OF POSITION 0",
        &expect![[r#"
        error VY001: table "p" did not exist at position 0
        hint: it was created at position 1
    "#]],
    );
    check(
        "SELECT * FROM p AS OF POSITION",
        &expect![[r#"
        error 42601: AS OF needs a number, a text or a parameter
        line 1: SELECT * FROM p AS OF POSITION
                                              ^
        hint: AS OF POSITION 42, AS OF TIMESTAMP '2026-11-21 02:05:04', AS OF POSITION ?
    "#]],
    );
    check(
        "DELETE FROM p AS OF POSITION 1",
        &expect![[r#"
        error 42601: AS OF is for SELECT: the past cannot be changed
        line 1: DELETE FROM p AS OF POSITION 1
                              ^
    "#]],
    );
    check(
        "SELECT * FROM p AS OF TIMESTAMP 'noon'",
        &expect![[r#"
        error VY001: AS OF TIMESTAMP cannot be this: 'noon' cannot be read as TIMESTAMP
        line 1: SELECT * FROM p AS OF TIMESTAMP 'noon'
                                ^
        hint: write AS OF TIMESTAMP '2026-11-21 02:05:04', in UTC unless it names a zone
    "#]],
    );
}

#[test]
fn limits() {
    let deep = alloc::format!("SELECT {}1{}", "(".repeat(100), ")".repeat(100));
    check(
        &deep,
        &expect![[r#"
        error 54001: expressions nest deeper than 64
        line 1: ((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((1)))
                                                                            ^
    "#]],
    );
    let plus = alloc::format!("SELECT 1{}", "+1".repeat(10_000));
    check(
        &plus,
        &expect![[r#"
        error 54001: more than 128 operators follow one another
        line 1: +1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1
                                                                            ^
        hint: use parentheses or fewer of them
    "#]],
    );
    let not = alloc::format!("SELECT {} TRUE", "NOT ".repeat(10_000));
    check(
        &not,
        &expect![[r#"
        error 54001: more than 128 operators follow one another
        line 1: NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT NOT 
                                                                            ^
        hint: use parentheses or fewer of them
    "#]],
    );
    let minus = alloc::format!("SELECT {}1", "- ".repeat(10_000));
    check(
        &minus,
        &expect![[r#"
        error 54001: more than 128 operators follow one another
        line 1: - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - 
                                                                            ^
        hint: use parentheses or fewer of them
    "#]],
    );
    let and = alloc::format!("SELECT TRUE{}", " AND TRUE".repeat(10_000));
    check(
        &and,
        &expect![[r#"
        error 54001: more than 1000 terms in one condition
        line 1:  TRUE AND TRUE AND TRUE AND TRUE AND TRUE AND TRUE AND TRUE AND TRUE AND TRUE AND TRUE AND TRUE AND 
                                                                            ^
        hint: write … IN (…, …)
    "#]],
    );
    let case = alloc::format!("SELECT {}1", "CASE WHEN TRUE THEN ".repeat(1_000));
    check(
        &case,
        &expect![[r#"
        error 54001: expressions nest deeper than 64
        line 1: CASE WHEN TRUE THEN CASE WHEN TRUE THEN CASE WHEN TRUE THEN CASE WHEN TRUE THEN CASE WHEN TRUE THEN 
                                                                            ^
    "#]],
    );
    let many: String = "SELECT 1;".repeat(300);
    check(
        &many,
        &expect![[r#"
        error 54001: 300 statements in one request; at most 256 are allowed
    "#]],
    );
    let parameters = "SELECT ?40000";
    check(
        parameters,
        &expect![[r#"
        error 54001: at most 32766 parameters
        line 1: SELECT ?40000
                       ^
    "#]],
    );
    let function = alloc::format!("SELECT {}1{}", "abs(".repeat(80), ")".repeat(80));
    check(
        &function,
        &expect![[r#"
        error 54001: expressions nest deeper than 64
        line 1: (abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs(abs
                                                                            ^
    "#]],
    );
}

#[test]
fn codes_are_unique_and_found_again() {
    for state in SqlState::ALL {
        assert_eq!(SqlState::from_code(state.code()), Some(*state));
        assert_eq!(state.code().len(), 5);
    }
    assert!(SqlState::SchemaChanged.retryable());
    assert!(!SqlState::UniqueViolation.retryable());
}

/// Numbers of things are checked before each is bound: what is refused is refused at once.
#[test]
fn counts_are_checked_before_binding() {
    let many = |text: &str, separator: &str| alloc::vec![text; 60_000].join(separator);
    let named = |from: u32| {
        let aggregates = (0..40).map(|n| alloc::format!("sum(id + {})", from * 40 + n));
        alloc::format!("greatest({})", aggregates.collect::<alloc::vec::Vec<_>>().join(", "))
    };
    let aggregates = (0..10).map(named).collect::<alloc::vec::Vec<_>>().join(", ");
    for (sql, code) in [
        (alloc::format!("SELECT {}", many("1", ",")), "54011"),
        (alloc::format!("SELECT {} FROM p", many("id", ",")), "54011"),
        (alloc::format!("SELECT id FROM p ORDER BY {}", many("id", ",")), "54001"),
        (alloc::format!("SELECT id FROM p GROUP BY {}", many("id", ",")), "54001"),
        (alloc::format!("SELECT concat({})", many("id", ",")), "42883"),
        (alloc::format!("SELECT {aggregates} FROM p"), "54001"),
        (alloc::format!("INSERT INTO p ({}) VALUES (1)", many("id", ",")), "42701"),
        (alloc::format!("INSERT INTO p (id) VALUES ({})", many("nothing", ",")), "42601"),
        (alloc::format!("CREATE TABLE q (id BIGINT, {})", many("CHECK (id > 1)", ",")), "54001"),
        (alloc::format!("CREATE TABLE q (id BIGINT, PRIMARY KEY ({}))", many("id", ",")), "54011"),
    ] {
        let mut database = Database::new();
        database.query("CREATE TABLE p (id BIGINT PRIMARY KEY, name TEXT NOT NULL)").unwrap();
        let error = database.query(&sql).expect_err(&sql[..60]);
        assert_eq!(error.code.code(), code, "{error} {}", &sql[..60]);
    }
}

/// Long lists that are allowed take time by their length, not by its square: places in the text
/// cost a walk through it, and are looked for only by errors.
#[test]
fn long_lists_bind_in_linear_time() {
    let mut database = Database::new();
    database.query("CREATE TABLE p (id BIGINT PRIMARY KEY, name TEXT NOT NULL)").unwrap();
    let many = |text: &str, times: usize| alloc::vec![text; times].join(",");
    let conditions = alloc::format!("coalesce({})", many("CASE WHEN id > 1 THEN 1 END", 200));
    for sql in [
        alloc::format!("SELECT id FROM p WHERE id IN ({})", many("id", 60_000)),
        alloc::format!("SELECT id FROM p WHERE {conditions} IN ({})", many("id", 60_000)),
        alloc::format!("SELECT btrim('{0}', '{0}x')", "ab".repeat(50_000)),
    ] {
        database.query(&sql).unwrap();
    }
}
