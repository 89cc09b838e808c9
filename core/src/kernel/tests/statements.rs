//! INSERT, UPDATE and DELETE as lowered commands: overlay, keys that move, conflicts, history.

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::rig::*;
use crate::ids::ColumnId;
use crate::kernel::{Request, RequestError};
use crate::query::expr::{ArithmeticOp, CompareOp};
use crate::query::{
    Assignment, Catalog, Command, ConflictTarget, Delete, Expr, Insert, InsertRows, OnConflict,
    SqlState, Update, Value,
};

fn literal(value: i64) -> Expr {
    Expr::Literal(Value::Integer(value))
}

fn compare(op: CompareOp, column: u32, value: i64) -> Option<Expr> {
    let (left, right) = (Box::new(column_expr(column)), Box::new(literal(value)));
    Some(Expr::Compare { op, left, right })
}

fn add(column: u32, value: i64) -> Assignment {
    let (left, right) = (Box::new(column_expr(column)), Box::new(literal(value)));
    let value = Some(Expr::Arithmetic { op: ArithmeticOp::Add, left, right });
    Assignment { column: ColumnId::new(column), value }
}

fn update(catalog: &Catalog, assignments: Vec<Assignment>, predicate: Option<Expr>) -> Command {
    let (table, schema_version) = table_ids(catalog, "people");
    Command::Update(Update { table, schema_version, assignments, predicate, found: None })
}

fn delete(catalog: &Catalog, predicate: Option<Expr>) -> Command {
    let (table, schema_version) = table_ids(catalog, "people");
    Command::Delete(Delete { table, schema_version, predicate, found: None })
}

fn insert(catalog: &Catalog, rows: &[(i64, &str)], on_conflict: OnConflict) -> Command {
    let (table, schema_version) = table_ids(catalog, "people");
    let mut cells = InsertRows::default();
    for (id, name) in rows {
        cells.push_value(&Value::Integer(*id));
        cells.push_value(&Value::text(name));
        cells.count += 1;
    }
    let columns = vec![ColumnId::new(1), ColumnId::new(2)];
    Command::Insert(Insert { table, schema_version, columns, rows: cells, on_conflict })
}

fn people(memory: Memory, keyed: bool, count: i64) -> (Rig, Catalog) {
    let mut rig = Rig::new(memory);
    let create = create_table(&rig.catalog(T1), "people", keyed);
    rig.commands(&[create]).unwrap();
    let rows: Vec<(i64, &str, i64)> = (1..=count).map(|at| (at, "n", at * 10)).collect();
    rig.request(&request(vec![insert_rows("people", &rows)])).unwrap();
    let catalog = rig.catalog(T1);
    (rig, catalog)
}

#[test]
fn updates_see_inserts_of_their_request() {
    let (mut rig, catalog) = people(Memory::None, true, 3);
    let reply = rig
        .commands(&[
            insert(&catalog, &[(4, "d"), (5, "e")], OnConflict::Fail),
            update(&catalog, vec![add(3, 1)], compare(CompareOp::GreaterOrEqual, 1, 3)),
            delete(&catalog, compare(CompareOp::Equal, 1, 4)),
            insert(&catalog, &[(4, "again")], OnConflict::Fail),
        ])
        .unwrap();
    let affected: Vec<u64> = reply.results.iter().map(|result| result.rows_affected).collect();
    assert_eq!(affected, [2, 3, 1, 1]);
    assert_eq!(rig.rows("people"), ["1|n|10", "2|n|20", "3|n|31", "4|again|NULL", "5|e|NULL"]);
    rig.rebuild().map(|report| assert_eq!(report.difference, None)).unwrap();
}

#[test]
fn keys_may_move_in_any_order() {
    let (mut rig, catalog) = people(Memory::None, true, 4);
    let reply = rig.commands(&[update(&catalog, vec![add(1, 1)], None)]).unwrap();
    assert_eq!(reply.rows_affected(), 4);
    assert_eq!(rig.rows("people"), ["2|n|10", "3|n|20", "4|n|30", "5|n|40"]);
    let clash = update(&catalog, vec![add(1, 1)], compare(CompareOp::Equal, 1, 4));
    let RequestError::Sql(error) = rig.commands(&[clash]).unwrap_err() else { panic!() };
    assert_eq!(error.code, SqlState::UniqueViolation);
    rig.rebuild().map(|report| assert_eq!(report.difference, None)).unwrap();
}

#[test]
fn a_table_without_key_keeps_every_row() {
    let (mut rig, catalog) = people(Memory::None, false, 2);
    rig.request(&request(vec![insert_rows("people", &[(1, "n", 10)])])).unwrap();
    assert_eq!(rig.rows("people"), ["1|n|10", "2|n|20", "1|n|10"]);
    let change = update(&catalog, vec![add(3, 5)], compare(CompareOp::Equal, 1, 1));
    assert_eq!(rig.commands(&[change]).unwrap().rows_affected(), 2);
    assert_eq!(rig.rows("people"), ["1|n|15", "2|n|20", "1|n|15"]);
    let gone = delete(&catalog, compare(CompareOp::Less, 3, 20));
    assert_eq!(rig.commands(&[gone]).unwrap().rows_affected(), 2);
    assert_eq!(rig.rows("people"), ["2|n|20"]);
    rig.rebuild().map(|report| assert_eq!(report.difference, None)).unwrap();
}

#[test]
fn conflicts_are_solved_as_told() {
    let (mut rig, catalog) = people(Memory::None, true, 2);
    let skip =
        insert(&catalog, &[(2, "x"), (3, "y")], OnConflict::DoNothing(ConflictTarget::PrimaryKey));
    assert_eq!(rig.commands(&[skip]).unwrap().rows_affected(), 1);
    let excluded = Expr::Excluded(ColumnId::new(2));
    let take = Assignment { column: ColumnId::new(2), value: Some(excluded) };
    let upsert = OnConflict::DoUpdate {
        target: ConflictTarget::PrimaryKey,
        assignments: vec![take],
        predicate: compare(CompareOp::Greater, 3, 10),
    };
    let command = insert(&catalog, &[(1, "p"), (2, "q"), (4, "r")], upsert.clone());
    assert_eq!(rig.commands(&[command]).unwrap().rows_affected(), 2);
    for twice in [[(2, "a"), (2, "b")], [(9, "a"), (9, "b")]] {
        let refused = rig.commands(&[insert(&catalog, &twice, upsert.clone())]).unwrap_err();
        let RequestError::Sql(error) = refused else { panic!("{refused:?}") };
        assert_eq!(error.code, SqlState::CardinalityViolation);
    }
    assert_eq!(rig.rows("people"), ["1|n|10", "2|q|20", "3|y|NULL", "4|r|NULL"]);
    rig.rebuild().map(|report| assert_eq!(report.difference, None)).unwrap();
}

#[test]
fn rows_must_fit_their_columns() {
    let (mut rig, catalog) = people(Memory::Ample, true, 2);
    let null = Assignment { column: ColumnId::new(2), value: Some(Expr::Literal(Value::Null)) };
    let bad = [
        (update(&catalog, vec![null], None), SqlState::NotNullViolation),
        (update(&catalog, vec![add(3, i64::MAX)], None), SqlState::NumericOutOfRange),
    ];
    for (command, code) in bad {
        let RequestError::Sql(error) = rig.commands(&[command]).unwrap_err() else { panic!() };
        assert_eq!(error.code, code);
    }
    let typed = crate::kernel::Operation::InsertRows {
        table: "people".to_string(),
        columns: vec!["id".to_string(), "name".to_string()],
        rows: vec![vec![Value::text("one"), Value::text("x")]],
    };
    let error = rig.request(&Request { ..request(vec![typed]) }).unwrap_err();
    assert!(matches!(error, RequestError::Sql(_)), "{error}");
}

#[test]
fn superseded_versions_are_in_history() {
    use crate::query::key::split_history_key;
    use crate::query::stored::StoredRow;
    use crate::store::{Cursor, Direction, TreeRef};
    let (mut rig, catalog) = people(Memory::Ample, true, 1);
    let schema = catalog.table_named("people").unwrap().clone();
    rig.commands(&[
        update(&catalog, vec![add(3, 1)], None),
        update(&catalog, vec![add(3, 1)], None),
    ])
    .unwrap();
    rig.commands(&[delete(&catalog, None)]).unwrap();
    rig.commands(&[insert(&catalog, &[(1, "back")], OnConflict::Fail)]).unwrap();
    let mut versions = Vec::new();
    let tree = TreeRef::new(T1, schema.history);
    let scanned = rig.store.scan(tree, &mut Cursor::all(Direction::Forward), |key, value| {
        let row = StoredRow::new(value);
        let (_, ended_at) = split_history_key(key);
        versions.push((row.begun_at().get(), ended_at.get(), row.column(2).to_value()));
        core::ops::ControlFlow::Continue(())
    });
    assert!(scanned.is_ok());
    let value = Value::Integer;
    assert_eq!(versions, [(1, 2, value(10)), (2, 3, value(11)), (3, 4, value(12))]);
    assert_eq!(rig.rows("people"), ["1|back|NULL"]);
}

/// The smallest constants take what the limits of rows and events promise.
#[test]
fn large_rows_and_large_batches_fit_a_transaction() {
    let mut rig = Rig::with(Memory::Ample, crate::limits::ClusterConstants::SMALL);
    let create = create_table(&rig.catalog(T1), "people", true);
    rig.commands(&[create]).unwrap();
    // 500 at a time, in order and out of order, into a table that grows.
    for batch in 0..12_i64 {
        let key =
            |at: i64| if batch % 2 == 0 { batch * 1_000 + at } else { at * 37 + 100_000 * batch };
        let rows: Vec<(i64, &str, i64)> =
            (0..500).map(|at| (key(at), "a name of some twenty bytes", at)).collect();
        rig.request(&request(vec![insert_rows("people", &rows)])).unwrap();
        rig.checkpoint();
    }
    let catalog = rig.catalog(T1);
    let large = "x".repeat(500 * 1024);
    let longer = "y".repeat(510 * 1024);
    rig.commands(&[insert(&catalog, &[(-5, &large)], OnConflict::Fail)]).unwrap();
    rig.checkpoint();
    let new_name =
        Assignment { column: ColumnId::new(2), value: Some(Expr::Literal(Value::text(&longer))) };
    let change = update(&catalog, vec![new_name], compare(CompareOp::Equal, 1, -5));
    rig.commands(&[change]).unwrap();
    rig.checkpoint();
    let remove = delete(&catalog, compare(CompareOp::Equal, 1, -5));
    rig.commands(&[remove]).unwrap();
    rig.rebuild().map(|report| assert_eq!(report.difference, None)).unwrap();
}

/// What no limit of rows bounds: schemas, results, texts of errors.
#[test]
fn nothing_too_large_for_its_tree_gets_past_execution() {
    let mut rig = Rig::new(Memory::Ample);
    let mut create = create_table(&rig.catalog(T1), "people", true);
    let Command::CreateTable { schema, .. } = &mut create else { unreachable!() };
    let text = "x".repeat(540 * 1024);
    let (name, expr) = ("long".to_string(), literal(1));
    schema.checks.push(crate::query::Check { name, text: text.clone(), expr });
    let refused = rig.commands(&[create]);
    assert!(matches!(refused, Err(RequestError::TooLarge { .. })), "{refused:?}");

    let many = vec![Command::Nothing; crate::limits::OPERATIONS_MAX + 1];
    let refused = rig.commands(&many);
    assert!(matches!(refused, Err(RequestError::LimitExceeded { .. })), "{refused:?}");
    let answered = rig.commands_as(id(rig.now_ms + 60_000, 1), &many[1..]).unwrap();
    assert_eq!(answered.results.len(), crate::limits::OPERATIONS_MAX);

    let error = crate::query::SqlError::new(SqlState::CheckViolation, text.clone()).hint(text);
    assert!(error.message.len() < 1_100 && error.hint.unwrap().len() < 1_100);
    rig.rebuild().map(|report| assert_eq!(report.difference, None)).unwrap();
}
