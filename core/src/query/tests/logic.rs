//! Truth tables, arithmetic, functions: what an expression gives.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use expect_test::expect;

use super::database::Database;

/// Each expression's value, a line each.
fn eval(expressions: &[&str]) -> String {
    let mut database = Database::new();
    let mut out = String::new();
    for expression in expressions {
        let result = match database.query(&format!("SELECT {expression}")) {
            Ok(rows) => rows[0][0].to_string(),
            Err(error) => format!("{} {}", error.code, error.message),
        };
        out.push_str(&format!("{expression} = {result}\n"));
    }
    out
}

#[test]
fn three_valued_logic() {
    let values = ["TRUE", "FALSE", "CAST(NULL AS BOOLEAN)"];
    let table: String = values
        .iter()
        .map(|left| {
            let row: Vec<String> = values
                .iter()
                .map(|right| {
                    let mut database = Database::new();
                    let sql = format!("SELECT {left} AND {right}, {left} OR {right}");
                    let row = database.query(&sql).unwrap().remove(0);
                    format!("{}/{}", row[0], row[1])
                })
                .collect();
            row.join(" ") + "\n"
        })
        .collect();
    // Rows and columns: true, false, unknown; AND/OR.
    expect![[r#"
        true/true false/true NULL/true
        false/true false/false false/NULL
        NULL/true false/NULL NULL/NULL
    "#]]
    .assert_eq(&table);
    expect![[r#"
        NOT NULL = NULL
        NOT TRUE = false
        NULL = NULL = NULL
        NULL IS NULL = true
        1 IN (2, NULL) = NULL
        1 IN (1, NULL) = true
        1 NOT IN (2, NULL) = NULL
        1 NOT IN (2, 3) = true
        NULL BETWEEN 1 AND 2 = NULL
        3 BETWEEN NULL AND 2 = false
        1 BETWEEN NULL AND 2 = NULL
        NULL IS DISTINCT FROM 1 = true
        NULL IS NOT DISTINCT FROM NULL = true
        (NULL = 1) IS UNKNOWN = true
        (1 = 1) IS NOT TRUE = false
        NULL LIKE 'a' = NULL
        CASE NULL WHEN NULL THEN 1 ELSE 2 END = 2
        COALESCE(NULL, NULL, 3) = 3
        NULLIF(1, 1) = NULL
        FALSE AND 1/0 = 1 = false
        TRUE OR 1/0 = 1 = true
    "#]]
    .assert_eq(&eval(&[
        "NOT NULL",
        "NOT TRUE",
        "NULL = NULL",
        "NULL IS NULL",
        "1 IN (2, NULL)",
        "1 IN (1, NULL)",
        "1 NOT IN (2, NULL)",
        "1 NOT IN (2, 3)",
        "NULL BETWEEN 1 AND 2",
        "3 BETWEEN NULL AND 2",
        "1 BETWEEN NULL AND 2",
        "NULL IS DISTINCT FROM 1",
        "NULL IS NOT DISTINCT FROM NULL",
        "(NULL = 1) IS UNKNOWN",
        "(1 = 1) IS NOT TRUE",
        "NULL LIKE 'a'",
        "CASE NULL WHEN NULL THEN 1 ELSE 2 END",
        "COALESCE(NULL, NULL, 3)",
        "NULLIF(1, 1)",
        "FALSE AND 1/0 = 1",
        "TRUE OR 1/0 = 1",
    ]));
}

#[test]
fn arithmetic() {
    expect![[r#"
        7 / 2 = 3
        -7 / 2 = -3
        -7 % 2 = -1
        7.0 / 2 = 3.5000000000000000
        1.10 + 2.2 = 3.30
        1e2 + 1 = 101.0
        1 / 0 = 22012 division by zero
        1e0 / 0 = 22012 division by zero
        9223372036854775807 + 1 = 22003 the BIGINT is out of range
        -9223372036854775808 = -9223372036854775808
        -9223372036854775808 / -1 = 22003 the BIGINT is out of range
        1e308 * 10 = 22003 the DOUBLE is out of range
        0.1 + 0.2 = 0.3 = true
        0.1e0 + 0.2e0 = 0.3e0 = false
        9007199254740993 = 9007199254740992e0 = false
        'a' || 1 || NULL = NULL
        'a' || 1 || TRUE = a1true
        1 + 'a' = 42804 + does not work on BIGINT and TEXT
        DATE '2024-02-28' + 2 = 2024-03-01
        DATE '2024-03-01' - DATE '2024-02-01' = 29
        DATE '2024-01-01' < TIMESTAMP '2024-01-01 00:00:01' = true
        DATE '2024-01-01' = '2024-01-01' = true
        DATE '2024-01-01' = 'soon' = 22007 'soon' cannot be read as DATE
        CAST('12' AS INTEGER) + 1 = 13
        CAST(2.5 AS INTEGER) = 3
        CAST(3000000000 AS INTEGER) = 22003 3000000000 does not fit INTEGER exactly
        CAST('x' AS INTEGER) = 22P02 'x' cannot be read as INTEGER
        CAST(1.005 AS DECIMAL(5,2)) = 1.01
        CAST(TRUE AS TEXT) = true
        CAST('abcdef' AS VARCHAR(3)) = abc
        CAST(X'00ff' AS TEXT) = \x00ff
        '5' :: BIGINT = 5
        CAST('{"a": [1, {"b": "x"}]}' AS JSON) -> 'a' -> 1 ->> 'b' = x
        CAST('{"a": null}' AS JSON) ->> 'a' = NULL
    "#]]
    .assert_eq(&eval(&[
        "7 / 2",
        "-7 / 2",
        "-7 % 2",
        "7.0 / 2",
        "1.10 + 2.2",
        "1e2 + 1",
        "1 / 0",
        "1e0 / 0",
        "9223372036854775807 + 1",
        "-9223372036854775808",
        "-9223372036854775808 / -1",
        "1e308 * 10",
        "0.1 + 0.2 = 0.3",
        "0.1e0 + 0.2e0 = 0.3e0",
        "9007199254740993 = 9007199254740992e0",
        "'a' || 1 || NULL",
        "'a' || 1 || TRUE",
        "1 + 'a'",
        "DATE '2024-02-28' + 2",
        "DATE '2024-03-01' - DATE '2024-02-01'",
        "DATE '2024-01-01' < TIMESTAMP '2024-01-01 00:00:01'",
        "DATE '2024-01-01' = '2024-01-01'",
        "DATE '2024-01-01' = 'soon'",
        "CAST('12' AS INTEGER) + 1",
        "CAST(2.5 AS INTEGER)",
        "CAST(3000000000 AS INTEGER)",
        "CAST('x' AS INTEGER)",
        "CAST(1.005 AS DECIMAL(5,2))",
        "CAST(TRUE AS TEXT)",
        "CAST('abcdef' AS VARCHAR(3))",
        "CAST(X'00ff' AS TEXT)",
        "'5' :: BIGINT",
        "CAST('{\"a\": [1, {\"b\": \"x\"}]}' AS JSON) -> 'a' -> 1 ->> 'b'",
        "CAST('{\"a\": null}' AS JSON) ->> 'a'",
    ]));
}

#[test]
fn functions() {
    expect![[r#"
        length('é😀') = 2
        octet_length('é') = 2
        upper('straße') = STRASSE
        trim('  a ') = a
        trim(BOTH 'x' FROM 'xxaxx') = a
        ltrim('xxa', 'x') = a
        substr('hello', 2, 3) = ell
        substring('hello' FROM 0 FOR 3) = he
        substr('hello', -1) = hello
        replace('aXbX', 'X', '--') = a--b--
        strpos('hello', 'l') = 3
        position('z' IN 'hello') = 0
        left('hello', 2) = he
        right('hello', -2) = llo
        concat('a', NULL, 1) = a1
        starts_with('hello', 'he') = true
        repeat('ab', 3) = ababab
        repeat('ab', 1000000000) = 54000 a value of 2000000000 bytes is larger than a row may be (524288)
        reverse('añb') = bña
        lpad('7', 3, '0') = 007
        rpad('abc', 2) = ab
        abs(-3.5) = 3.5
        sign(-2) = -1
        floor(-1.5) = -2
        ceil(-1.5e0) = -1.0
        round(2.567, 2) = 2.57
        round(-2.5e0) = -3.0
        round(1234, -2) = 1200
        trunc(-2.7) = -2
        mod(7, 4) = 3
        sqrt(2) = 1.4142135623730951
        greatest(1, NULL, 3, 2) = 3
        least(2.5, 1) = 1
        extract(year FROM DATE '2026-11-21') = 2026
        extract(week FROM DATE '2027-01-01') = 53
        extract(isodow FROM DATE '2026-11-22') = 7
        extract(second FROM TIMESTAMP '2026-11-21 02:05:04.25') = 4.25
        extract(epoch FROM TIMESTAMP '1970-01-02 00:00:00') = 86400
        date_trunc('month', DATE '2026-11-21') = 2026-11-01
        date_trunc('hour', TIMESTAMP '2026-11-21 02:05:04') = 2026-11-21 02:00:00
        date_part('fortnight', DATE '2026-11-21') = 22023 there is no date field "fortnight"
        date('2026-11-21 02:05:04') = 2026-11-21
        hex(X'0aff') = 0aff
        typeof(1.5) = decimal
        json_array_length(CAST('[1,[2,3]]' AS JSON)) = 2
        now() = 2026-11-21 02:05:04.5
        current_date = 2026-11-21
        nosuch(1) = 42883 there is no function nosuch()
        substr('a') = a
        'abc' LIKE 'a%' = true
        'ABC' ILIKE 'a_c' = true
        'a%' LIKE 'a!%' ESCAPE '!' = true
    "#]].assert_eq(&eval(&[
        "length('é😀')",
        "octet_length('é')",
        "upper('straße')",
        "trim('  a ')",
        "trim(BOTH 'x' FROM 'xxaxx')",
        "ltrim('xxa', 'x')",
        "substr('hello', 2, 3)",
        "substring('hello' FROM 0 FOR 3)",
        "substr('hello', -1)",
        "replace('aXbX', 'X', '--')",
        "strpos('hello', 'l')",
        "position('z' IN 'hello')",
        "left('hello', 2)",
        "right('hello', -2)",
        "concat('a', NULL, 1)",
        "starts_with('hello', 'he')",
        "repeat('ab', 3)",
        "repeat('ab', 1000000000)",
        "reverse('añb')",
        "lpad('7', 3, '0')",
        "rpad('abc', 2)",
        "abs(-3.5)",
        "sign(-2)",
        "floor(-1.5)",
        "ceil(-1.5e0)",
        "round(2.567, 2)",
        "round(-2.5e0)",
        "round(1234, -2)",
        "trunc(-2.7)",
        "mod(7, 4)",
        "sqrt(2)",
        "greatest(1, NULL, 3, 2)",
        "least(2.5, 1)",
        "extract(year FROM DATE '2026-11-21')",
        "extract(week FROM DATE '2027-01-01')",
        "extract(isodow FROM DATE '2026-11-22')",
        "extract(second FROM TIMESTAMP '2026-11-21 02:05:04.25')",
        "extract(epoch FROM TIMESTAMP '1970-01-02 00:00:00')",
        "date_trunc('month', DATE '2026-11-21')",
        "date_trunc('hour', TIMESTAMP '2026-11-21 02:05:04')",
        "date_part('fortnight', DATE '2026-11-21')",
        "date('2026-11-21 02:05:04')",
        "hex(X'0aff')",
        "typeof(1.5)",
        "json_array_length(CAST('[1,[2,3]]' AS JSON))",
        "now()",
        "current_date",
        "nosuch(1)",
        "substr('a')",
        "'abc' LIKE 'a%'",
        "'ABC' ILIKE 'a_c'",
        "'a%' LIKE 'a!%' ESCAPE '!'",
    ]));
}
