//! Checks of what a plan reads: ranges that end where they must, unions with both their sides,
//! indexes that hold every row.

use verity_core::query::Value;

use super::solo::{TENANT, warm};

const ROWS: i64 = 1_200;

/// The same questions by the primary key, by an index and by two of them; the answers follow from
/// how the rows were made.
pub(super) fn ranges_and_unions() -> Result<(), String> {
    let mut rig = warm()?;
    rig.write("CREATE TABLE p (id BIGINT PRIMARY KEY, a BIGINT, b BIGINT)")?;
    for part in (0..ROWS).step_by(60) {
        let row = |id: i64| format!("({id}, {}, {})", id + 10_000, id * 7 % ROWS);
        let rows: Vec<String> = (part..part + 60).map(row).collect();
        rig.write(&format!("INSERT INTO p VALUES {}", rows.join(", ")))?;
    }
    rig.write("CREATE INDEX by_a ON p (a)")?;
    rig.write("CREATE INDEX by_b ON p (b)")?;
    let questions: [(&str, &[i64]); 8] = [
        ("SELECT COUNT(*) FROM p WHERE id < 100", &[100]),
        ("SELECT COUNT(*) FROM p WHERE id >= 10 AND id < 100", &[90]),
        ("SELECT COUNT(*) FROM p WHERE a < 10003", &[3]),
        ("SELECT id FROM p WHERE id < 3 ORDER BY id", &[0, 1, 2]),
        ("SELECT id FROM p WHERE a >= 10001 AND a < 10003 ORDER BY id", &[1, 2]),
        ("SELECT id FROM p WHERE a = 10005 OR b = 7 ORDER BY id", &[1, 5]),
        ("SELECT id FROM p WHERE b = 7 OR a = 10005 ORDER BY id", &[1, 5]),
        ("SELECT id FROM p WHERE a < 10002 OR b = 21 ORDER BY id", &[0, 1, 3]),
    ];
    for (text, expected) in questions {
        let (_, rows) = rig.solo.query(TENANT, text, Vec::new())?;
        let answered: Vec<Value> = rows.into_iter().flatten().collect();
        let expected: Vec<Value> = expected.iter().copied().map(Value::Integer).collect();
        if answered != expected {
            return Err(format!("{text}: {answered:?}, expected {expected:?}"));
        }
    }
    let (_, plan) = rig.solo.query(
        TENANT,
        "EXPLAIN SELECT id FROM p WHERE a = 10005 OR b = 7 ORDER BY id",
        Vec::new(),
    )?;
    let plan = format!("{plan:?}");
    if !plan.contains("by_a") || !plan.contains("by_b") {
        return Err(format!("no union of two indexes, so this check sees nothing: {plan}"));
    }
    Ok(())
}

/// An index over so many rows that it is built in slices: as soon as a plan reads it, every row is
/// in it, and until then no answer changes.
pub(super) fn index_whole() -> Result<(), String> {
    const BY_A: &str = "SELECT COUNT(*) FROM p WHERE a >= 10000";
    let mut rig = warm()?;
    rig.write("CREATE TABLE p (id BIGINT PRIMARY KEY, a BIGINT)")?;
    for part in (0..ROWS).step_by(60) {
        let rows: Vec<String> =
            (part..part + 60).map(|id| format!("({id}, {})", id + 10_000)).collect();
        rig.write(&format!("INSERT INTO p VALUES {}", rows.join(", ")))?;
    }
    rig.acknowledge("CREATE INDEX by_a ON p (a)")?;
    let mut turns = 0;
    loop {
        // The plan first: what is ready then is ready for the answer.
        let (_, plan) = rig.solo.query(TENANT, &format!("EXPLAIN {BY_A}"), Vec::new())?;
        let by_index = format!("{plan:?}").contains("by_a");
        for (text, expected) in [(BY_A, ROWS), ("SELECT COUNT(*) FROM p WHERE a = 11199", 1)] {
            let (_, rows) = rig.solo.query(TENANT, text, Vec::new())?;
            if rows != [[Value::Integer(expected)]] {
                return Err(format!("turn {turns}: {text}: {rows:?}, expected {expected}"));
            }
        }
        if by_index {
            break;
        }
        turns += 1;
        if !rig.solo.step() {
            return Err(format!("turn {turns}: nothing builds the index any more"));
        }
    }
    if turns < 5 {
        return Err(format!("built after {turns} turns, not in slices: this check sees nothing"));
    }
    Ok(())
}
