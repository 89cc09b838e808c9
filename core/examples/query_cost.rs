//! What the query layer costs when everything is in memory: parse, bind, encode, lookup, scan.
//!
//! `cargo run --release -p verity-core --example query_cost [rows]` (100,000 rows of 8 columns by
//! default). The store's own `get` is printed beside the lookups, as the limit of the same run.
#![allow(clippy::disallowed_types, reason = "a benchmark measures time; the core never does")]
#![allow(clippy::expect_used, reason = "a benchmark may stop")]

use std::sync::Arc;
use std::time::Instant;

use verity_core::ids::{Position, TenantId};
use verity_core::io::FileId;
use verity_core::limits::ClusterConstants;
use verity_core::query::codec::{decode_row, encode_row};
use verity_core::query::codec_command::Cell;
use verity_core::query::eval::Context;
use verity_core::query::key::encode_key;
use verity_core::query::stored::{StoredPrefix, encode_stored};
use verity_core::query::texts::Texts;
use verity_core::query::{
    Catalog, Command, EventRead, PointScratch, ReadProgress, ReadTask, ReadWorld, RowSource,
    Statement, Value, prepare_one, read_point,
};
use verity_core::store::{Store, StoreConfig, TreeRef};
use verity_core::time::Timestamp;

const TENANT: TenantId = TenantId::new(1);

fn report(name: &str, start: Instant, items: u64) {
    println!("{name:<44}{:>10.1} ns", start.elapsed().as_nanos() as f64 / items as f64);
}

fn row(id: u64) -> Vec<Value> {
    vec![
        Value::Integer(id as i64),
        Value::Text(format!("Patient Number {id}")),
        Value::Text("some street 42, some town".to_string()),
        Value::Date(10_000 + (id % 5_000) as i32),
        Value::Timestamp(1_700_000_000_000_000_000 + id as i64),
        Value::Double(id as f64 * 0.5),
        Value::Text("a note that makes the row about two hundred bytes long".repeat(2)),
        Value::Boolean(id.is_multiple_of(2)),
    ]
}

struct World {
    store: Store,
    catalog: Catalog,
}

impl World {
    fn source(&self) -> RowSource<'_> {
        RowSource {
            store: &self.store,
            tenant: TENANT,
            catalog: &self.catalog,
            position: Position::new(1 << 40),
        }
    }

    fn read(&self, name: &str, sql: &str, times: u64) {
        let prepared = Arc::new(prepare_one(&self.catalog, sql).expect("good SQL"));
        let start = Instant::now();
        let mut rows = 0;
        for _ in 0..times {
            let context = Context::new(Timestamp(0), [0; 32]);
            let position = Position::new(1 << 40);
            let mut task = ReadTask::new(prepared.clone(), TENANT, Vec::new(), position, context)
                .expect("no parameters");
            let mut events = |_| EventRead::Absent;
            let mut world =
                ReadWorld { store: &self.store, catalog: &self.catalog, events: &mut events };
            while task.step(&mut world).expect("all in memory") == ReadProgress::More {
                rows += task.take_rows().len();
            }
            rows += task.take_rows().len();
        }
        report(&format!("{name} ({} rows out)", rows as u64 / times), start, times);
    }
}

fn main() {
    let count: u64 = std::env::args().nth(1).and_then(|rows| rows.parse().ok()).unwrap_or(100_000);
    let mut catalog = Catalog::new();
    let create =
        "CREATE TABLE p (id BIGINT PRIMARY KEY, name TEXT NOT NULL, street TEXT, born DATE,
                  seen TIMESTAMP, weight DOUBLE, note TEXT, active BOOLEAN)";
    let prepared = prepare_one(&catalog, create).expect("good SQL");
    let Statement::CreateTable { schema, .. } = prepared.statement else { unreachable!("CREATE") };
    catalog.create(schema.clone());

    let sql = "INSERT INTO p VALUES (1, 'Ann', 'x street', '1980-01-01', NULL, 1.5e0, 'n', TRUE)";
    let start = Instant::now();
    for _ in 0..20_000 {
        prepare_one(&catalog, sql).expect("good SQL");
    }
    report("parse and bind a one-row INSERT", start, 20_000);
    let sql = "SELECT name, note FROM p WHERE id = 5";
    let start = Instant::now();
    for _ in 0..20_000 {
        prepare_one(&catalog, sql).expect("good SQL");
    }
    report("parse and bind a SELECT by key", start, 20_000);

    let rows: Vec<Vec<Value>> = (0..count).map(row).collect();
    let insert = prepare_one(&catalog, "INSERT INTO p VALUES (?,?,?,?,?,?,?,?)").expect("good SQL");
    let start = Instant::now();
    let mut commands = Vec::new();
    for chunk in rows.chunks(1_000) {
        let command = insert.lower_rows(chunk.iter().map(Vec::as_slice)).expect("rows fit");
        commands.push(command);
    }
    report("prepared INSERT: bind and encode a row", start, count);
    let start = Instant::now();
    let (mut cells, mut texts) = (0, Texts::default());
    for command in &commands {
        let Command::Insert(insert) = command else { unreachable!("INSERT") };
        let mut reader = insert.rows.reader();
        for _ in 0..insert.rows.count as usize * insert.columns.len() {
            let Ok(Cell::Value(_)) = reader.cell(&mut texts) else { unreachable!("values") };
            cells += 1;
        }
    }
    assert_eq!(cells, count * 8);
    report("decode a row of an INSERT", start, count);

    let start = Instant::now();
    let mut payload = Vec::new();
    for row in &rows {
        payload.clear();
        encode_row(None, row, &mut payload);
    }
    report("encode a record payload", start, count);
    let start = Instant::now();
    for _ in 0..count {
        decode_row(&schema, &payload).expect("just encoded");
    }
    report("decode a record payload", start, count);
    let start = Instant::now();
    for row in &rows {
        encode_key(&schema, row).expect("short");
    }
    report("encode a key", start, count);
    let start = Instant::now();
    let mut stored = Vec::new();
    for row in &rows {
        stored.clear();
        encode_stored(&StoredPrefix::default(), row, &mut stored);
    }
    report(&format!("encode a stored row ({} bytes)", stored.len()), start, count);

    let config = StoreConfig::new(FileId::Grid, &ClusterConstants::DEFAULT, 1 << 16);
    let mut store = Store::new(config);
    store.create_tenant(TENANT).expect("in memory");
    let tree = TreeRef::new(TENANT, schema.rows);
    store.create_tree(tree).expect("in memory");
    store.create_tree(TreeRef::new(TENANT, schema.history)).expect("in memory");
    for row in &rows {
        stored.clear();
        encode_stored(&StoredPrefix::default(), row, &mut stored);
        store.put(tree, &encode_key(&schema, row).expect("short"), &stored).expect("in memory");
    }
    let world = World { store, catalog };

    let turns = 1_000_000;
    let id = |turn: u64| turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) % count;
    let keys: Vec<Vec<u8>> =
        rows.iter().map(|row| encode_key(&schema, row).expect("short")).collect();
    let start = Instant::now();
    for turn in 0..turns {
        world.store.get(tree, &keys[id(turn) as usize]).expect("in memory").expect("there");
    }
    report("store get, random keys", start, turns);
    for (name, sql) in [
        ("lookup by key, 2 columns (number, time)", "SELECT weight, seen FROM p WHERE id = ?"),
        ("lookup by key, 2 columns (text)", "SELECT name, street FROM p WHERE id = ?"),
    ] {
        let lookup = prepare_one(&world.catalog, sql).expect("good SQL");
        let (mut scratch, mut out) = (PointScratch::default(), Vec::new());
        let source = world.source();
        let start = Instant::now();
        for turn in 0..turns {
            let parameters = [Value::Integer(id(turn) as i64)];
            let found = read_point(&lookup, &source, &parameters, &mut scratch, &mut out);
            assert_eq!(found, Ok(Some(true)));
        }
        report(name, start, turns);
    }
    world.read(
        "lookup by key through a ReadTask",
        "SELECT name, street FROM p WHERE id = 77",
        100_000,
    );
    world.read("range of 100", "SELECT id, name FROM p WHERE id >= 500 AND id < 600", 10_000);
    world.read("COUNT(*)", "SELECT COUNT(*) FROM p", 100_000);
    world.read("COUNT(*) WHERE weight < 1000", "SELECT COUNT(*) FROM p WHERE weight < 1000", 5);
    world.read("sort all, LIMIT 10", "SELECT id FROM p ORDER BY name DESC LIMIT 10", 3);
}
