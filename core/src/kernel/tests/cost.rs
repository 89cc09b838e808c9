//! What a row costs from request to state. Ignored: run it in release, with `--nocapture`.

use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::rig::*;
use crate::kernel::{Operation, SealedRequest};
use crate::limits::ClusterConstants;
use crate::query::Value;

const ROWS: usize = 200_000;

fn row(at: usize) -> Vec<Value> {
    vec![
        Value::Integer(at as i64),
        Value::Text(format!("patient number {at:>12} of the clinic")),
        Value::Text(format!("some street {at:>8}, some town")),
        Value::text("a diagnosis as they are written, not short"),
        Value::Integer(at as i64 % 1_000),
        Value::Double(at as f64 * 0.5),
        Value::Boolean(at.is_multiple_of(2)),
        Value::Timestamp(1_700_000_000_000_000_000 + at as i64),
    ]
}

#[test]
#[ignore = "a measurement"]
fn cost_of_rows() {
    let mut rig = Rig::with(Memory::Ample, ClusterConstants::DEFAULT);
    let create = "CREATE TABLE p (id BIGINT PRIMARY KEY, a TEXT, b TEXT, c TEXT, d BIGINT, \
                  e DOUBLE, f BOOLEAN, g TIMESTAMP)";
    rig.request(&request(vec![Operation::Sql { text: create.to_string(), params: vec![] }]))
        .unwrap();
    let columns: Vec<_> = "abcdefg".chars().map(|c| c.to_string()).collect();
    let columns = [vec!["id".to_string()], columns].concat();
    for (batch, per_prepare) in [(1_000, 1), (1, 32)] {
        let requests: Vec<_> = (0..ROWS / batch)
            .map(|at| {
                let base = if batch == 1 { 10_000_000 } else { 0 };
                let rows = (0..batch).map(|n| row(base + at * batch + n)).collect();
                let (table, columns) = ("p".to_string(), columns.clone());
                request(vec![Operation::InsertRows { table, columns, rows }])
            })
            .collect();
        let start = std::time::Instant::now();
        let sealed: Vec<SealedRequest> =
            requests.iter().map(|request| rig.prepare(request).unwrap()).collect();
        let prepared = start.elapsed();
        let start = std::time::Instant::now();
        for (at, sealed) in sealed.chunks(per_prepare).enumerate() {
            assert!(rig.batch(sealed).iter().all(Result::is_ok));
            if at * per_prepare * batch % 50_000 == 0 {
                rig.checkpoint();
            }
        }
        let applied = start.elapsed();
        std::eprintln!(
            "{ROWS} rows, {batch} a request: prepare {:.2} µs, apply {:.2} µs a row",
            prepared.as_secs_f64() * 1e6 / ROWS as f64,
            applied.as_secs_f64() * 1e6 / ROWS as f64,
        );
    }
}
