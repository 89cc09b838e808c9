//! Tests of the independent model.

use super::{Effect, Refusal, TenantModel};
use crate::sql::{
    Assignment, ColumnSpec, Compare, Conflict, Datum, DatumType, Expected, Predicate, Query,
    Select, SetTo, Statement, TableSpec,
};

fn spec() -> TableSpec {
    let column = |name: &str, column_type, nullable| ColumnSpec {
        name: name.to_owned(),
        column_type,
        nullable,
        default: None,
        by_chance: false,
    };
    TableSpec {
        name: "t".to_owned(),
        columns: vec![column("k", DatumType::BigInt, false), column("v", DatumType::BigInt, true)],
        key: vec![0],
    }
}

fn insert(rows: &[(i64, i64)]) -> Statement {
    let row = |(key, value): &(i64, i64)| vec![Datum::Integer(*key), Datum::Integer(*value)];
    let rows = rows.iter().map(row).collect();
    Statement::Insert {
        table: "t".to_owned(),
        columns: vec![0, 1],
        rows,
        bulk: false,
        conflict: Conflict::Fail,
    }
}

fn all(as_of: Option<u64>) -> Query {
    let select =
        Select::Columns { columns: vec![0, 1], order: Some(false), by: Vec::new(), limit: None };
    Query { table: "t".to_owned(), select, filter: None, as_of }
}

fn values(model: &TenantModel, position: u64) -> Vec<(i64, i64)> {
    let pair = |row: &Vec<Datum>| match (&row[0], &row[1]) {
        (Datum::Integer(key), Datum::Integer(value)) => (*key, *value),
        other => panic!("{other:?}"),
    };
    model.answer(&all(None), position).unwrap().iter().map(pair).collect()
}

#[test]
fn history_answers_as_of_any_position() {
    let mut model = TenantModel::default();
    model.apply(&[Statement::Create(spec())], 0).unwrap();
    model.apply(&[insert(&[(1, 10), (2, 20)])], 2).unwrap();
    let update = Statement::Update {
        table: "t".to_owned(),
        assignments: vec![Assignment { column: 1, to: SetTo::Plus(1) }],
        filter: Some(Predicate::Compare {
            column: 0,
            compare: Compare::Equal,
            value: Datum::Integer(1),
        }),
    };
    assert_eq!(model.apply(&[update], 3).unwrap().effects, [Effect::Rows(1)]);
    let delete = Statement::Delete { table: "t".to_owned(), filter: None };
    assert_eq!(model.apply(&[delete], 5).unwrap().effects, [Effect::Rows(2)]);
    model.apply(&[insert(&[(2, 22)])], 6).unwrap();
    assert_eq!(values(&model, 0), []);
    assert_eq!(values(&model, 2), [(1, 10), (2, 20)]);
    assert_eq!(values(&model, 4), [(1, 11), (2, 20)]);
    assert_eq!(values(&model, 5), []);
    assert_eq!(values(&model, 9), [(2, 22)]);
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let mut model = TenantModel::default();
    model.apply(&[Statement::Create(spec())], 0).unwrap();
    model.apply(&[insert(&[(1, 10)])], 1).unwrap();
    let transaction = [insert(&[(3, 1)]), insert(&[(4, 1), (1, 1)])];
    assert_eq!(model.apply(&transaction, 9), Err(Refusal::DuplicateKey));
    assert_eq!(values(&model, 9), [(1, 10)]);
    let wrong = Statement::Insert {
        table: "t".to_owned(),
        columns: vec![1],
        rows: vec![vec![Datum::Integer(1)]],
        bulk: true,
        conflict: Conflict::Fail,
    };
    assert_eq!(model.predict(&[wrong]), Err(Refusal::NotNull));
}

#[test]
fn streams_hold_their_expected_version() {
    let mut model = TenantModel::default();
    let append = |expected| Statement::Append {
        stream: "s".to_owned(),
        expected,
        records: vec![vec![1], vec![2]],
    };
    assert_eq!(
        model.predict(&[append(Expected::Exists)]),
        Err(Refusal::WrongVersion { actual: 0 })
    );
    let done = model.apply(&[append(Expected::None), append(Expected::Exact(2))], 3).unwrap();
    assert_eq!(done.effects, [Effect::Appended(2), Effect::Appended(4)]);
    assert_eq!(model.stream_version("s"), 4);
}

/// What a replica answers that lags behind the table's creation: the log is there before it.
#[test]
fn reads_of_the_log_need_no_table() {
    let mut model = TenantModel::default();
    let records = vec![vec![1], vec![2]];
    let append = Statement::Append { stream: "s".to_owned(), expected: Expected::Any, records };
    model.apply(&[append], 1).unwrap();
    model.apply(&[Statement::Create(spec()), insert(&[(1, 10)])], 3).unwrap();
    let of = |select| Query { table: "t".to_owned(), select, filter: None, as_of: None };
    let at = |numbers: &[i64]| -> Vec<_> {
        numbers.iter().map(|number| vec![Datum::Integer(*number)]).collect()
    };
    for (position, appends, changes) in [(0, at(&[]), at(&[])), (2, at(&[1, 1]), at(&[]))] {
        assert_eq!(model.answer(&of(Select::Appends), position), Ok(appends));
        assert_eq!(model.answer(&of(Select::Changes), position), Ok(changes));
    }
    assert_eq!(model.answer(&of(Select::Changes), 3), Ok(at(&[3])));
    assert_eq!(model.answer(&all(None), 2), Err(Refusal::UndefinedTable));
}

/// A dropped table is what it was, as of before; one of the same name begins with nothing.
#[test]
fn a_dropped_table_stays_in_the_past() {
    let mut model = TenantModel::default();
    let (create, drop) = (Statement::Create(spec()), Statement::Drop { table: "t".to_owned() });
    model.apply(&[create.clone(), insert(&[(1, 10)])], 1).unwrap();
    assert_eq!(model.predict(&[drop.clone(), drop.clone()]), Err(Refusal::UndefinedTable));
    model.apply(&[insert(&[(2, 20)]), drop.clone()], 4).unwrap();
    assert_eq!(model.predict(&[insert(&[(3, 30)])]), Err(Refusal::UndefinedTable));
    model.apply(&[create.clone(), insert(&[(1, 11)])], 8).unwrap();
    model.apply(&[drop, create, insert(&[(1, 12)])], 11).unwrap();
    for (position, rows) in [(3, (1, 10)), (8, (1, 11)), (10, (1, 11)), (11, (1, 12))] {
        assert_eq!(values(&model, position), [rows]);
    }
    for position in [4, 7] {
        assert_eq!(model.answer(&all(None), position), Err(Refusal::UndefinedTable));
    }
    assert_eq!(model.gone(), [("t".to_owned(), 1, 4), ("t".to_owned(), 8, 11)]);
    // Between 4 and 8 there was none; from 8 on always one.
    assert!(model.was_missing("t", None) && model.was_missing("t", Some(7)));
    assert!(!model.was_missing("t", Some(8)));
}
