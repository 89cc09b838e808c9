//! Encodings: one value, one encoding; any bytes, no panic; keys in the order of values.

use alloc::vec::Vec;

use super::random::Random;
use crate::ids::{ColumnId, Position};
use crate::query::cbor::{Decoder, Encoder};
use crate::query::codec::{
    decode_columns, decode_row, decode_row_key, decode_value, encode_row, encode_row_key,
    encode_value,
};
use crate::query::codec_command::Cell;
use crate::query::key::{encode_key_value, history_key, prefix_end, split_history_key};
use crate::query::stored::{StoredPrefix, StoredRow, encode_stored, is_stored_row};
use crate::query::texts::Texts;
use crate::query::{ColumnType, Command, TableSchema, Value};

/// Equal to the bit: `==` of values is SQL's.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Double(left), Value::Double(right)) => {
            left.to_bits() == right.to_bits() || (left.is_nan() && right.is_nan())
        }
        (left, right) => alloc::format!("{left:?}") == alloc::format!("{right:?}"),
    }
}

#[test]
fn values_round_trip() {
    let mut random = Random::new(1);
    for _ in 0..20_000 {
        let value = random.value();
        let mut bytes = Vec::new();
        encode_value(&mut Encoder::new(&mut bytes), &value);
        let mut decoder = Decoder::new(&bytes);
        let decoded = decode_value(&mut decoder).unwrap();
        decoder.finish().unwrap();
        assert!(same(&value, &decoded), "{value:?} {decoded:?}");
    }
}

/// What a decoder accepts, it encodes to the same bytes.
fn never_lenient(bytes: &[u8]) {
    let mut decoder = Decoder::new(bytes);
    if let Ok(value) = decode_value(&mut decoder) {
        let mut again = Vec::new();
        encode_value(&mut Encoder::new(&mut again), &value);
        assert_eq!(again, bytes[..decoder.offset()], "{value:?}");
    }
    if let Ok(command) = Command::decode(bytes) {
        let mut again = Vec::new();
        command.encode(&mut again);
        assert_eq!(again, bytes, "{command:?}");
    }
    if let Ok(schema) = TableSchema::decode(bytes) {
        assert_eq!(schema.encode(), bytes);
    }
    let _ = decode_columns(bytes);
}

#[test]
fn commands_round_trip_and_mutants_are_refused_or_canonical() {
    let mut random = Random::new(2);
    for _ in 0..3_000 {
        let command = random.command();
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        let decoded = Command::decode(&bytes).unwrap();
        let mut again = Vec::new();
        decoded.encode(&mut again);
        assert_eq!(bytes, again);
        if let Command::Insert(insert) = &decoded {
            let mut reader = insert.rows.reader();
            for _ in 0..insert.rows.count {
                assert!(matches!(reader.cell(&mut Texts::default()), Ok(Cell::Value(_))));
                assert!(matches!(reader.cell(&mut Texts::default()), Ok(Cell::Expr(_))));
                assert_eq!(reader.cell(&mut Texts::default()), Ok(Cell::Default));
            }
            reader.finish().unwrap();
        }
        for _ in 0..20 {
            let mut mutant = bytes.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(mutant.len());
                match random.below(4) {
                    0 => mutant[at] ^= 1 << random.below(8),
                    1 => mutant[at] = random.below(256) as u8,
                    2 => mutant.truncate(at.max(1)),
                    _ => mutant.insert(at, random.below(256) as u8),
                }
            }
            never_lenient(&mutant);
        }
    }
}

#[test]
fn garbage_is_refused() {
    let mut random = Random::new(3);
    for _ in 0..200_000 {
        let bytes: Vec<u8> = (0..random.below(40)).map(|_| random.below(256) as u8).collect();
        never_lenient(&bytes);
    }
    // A chain of arrays would nest without end.
    let deep: Vec<u8> = core::iter::repeat_n([0x82, 0x04], 100_000).flatten().collect();
    assert!(crate::query::codec_expr::decode_expr(&mut Decoder::new(&deep)).is_err());
}

#[test]
fn keys_order_as_values_do() {
    let mut random = Random::new(4);
    for _ in 0..2_000 {
        let mut column_type = random.column_type();
        if column_type == ColumnType::Json {
            column_type = ColumnType::Text;
        }
        let second_type = ColumnType::Blob;
        let rows: Vec<(Value, Value, Vec<u8>)> = (0..8)
            .map(|_| {
                let first =
                    if random.below(6) == 0 { Value::Null } else { random.value_of(column_type) };
                let second = random.value_of(second_type);
                let mut key = Vec::new();
                encode_key_value(&first, column_type, &mut key);
                encode_key_value(&second, second_type, &mut key);
                (first, second, key)
            })
            .collect();
        for (a1, a2, a) in &rows {
            for (b1, b2, b) in &rows {
                let by_value = a1.cmp(b1).then_with(|| a2.cmp(b2));
                assert_eq!(a.cmp(b), by_value, "{a1:?} {a2:?} {b1:?} {b2:?}");
                if a != b {
                    assert!(!a.starts_with(b), "no key is the prefix of another");
                    let beyond = prefix_end(a).is_none_or(|end| (*b < end) == (b < a));
                    assert!(beyond, "no key lies between a key and its end");
                    assert_eq!(
                        history_key(a, Position::new(u64::MAX))
                            .cmp(&history_key(b, Position::ZERO)),
                        a.cmp(b)
                    );
                }
            }
        }
    }
    assert_eq!(prefix_end(&[1, 0xff]), Some([2].to_vec()));
    assert_eq!(prefix_end(&[0xff]), None);
    let history = history_key(b"k", Position::new(7));
    assert_eq!(split_history_key(&history), (&b"k"[..], Position::new(7)));
}

#[test]
fn rows_and_keys_of_events_round_trip() {
    let mut random = Random::new(5);
    for _ in 0..2_000 {
        let mut schema = random.schema();
        for column in &mut schema.columns {
            if column.column_type == ColumnType::Json {
                column.column_type = ColumnType::Blob;
            }
        }
        let row: Vec<Value> =
            schema.columns.iter().map(|column| random.value_of(column.column_type)).collect();
        let hidden = schema.hidden_key().then(|| Position::new(random.below(1000) as u64));
        let mut bytes = Vec::new();
        encode_row(hidden, &row, &mut bytes);
        let (found, decoded) = decode_row(&schema, &bytes).unwrap();
        assert_eq!(found, hidden);
        assert!(row.iter().zip(&decoded).all(|(left, right)| same(left, right)));

        let mut bytes = Vec::new();
        encode_row_key(&schema, hidden, &row, &mut bytes);
        let key = decode_row_key(&schema, &bytes).unwrap();
        match hidden {
            Some(position) => assert_eq!(key, crate::query::key::hidden_key(position)),
            None => assert_eq!(key, crate::query::key::encode_key(&schema, &row).unwrap()),
        }
    }
}

#[test]
fn stored_rows_give_any_column() {
    let mut random = Random::new(6);
    for turn in 0..3_000 {
        let mut row: Vec<Value> = (0..random.below(12)).map(|_| random.value()).collect();
        if turn % 50 == 0 {
            row.push(Value::Text("x".repeat(70_000)));
            row.push(Value::Integer(7));
        }
        let prefix = StoredPrefix {
            begun_at: Position::new(turn),
            record_hash: [turn as u8; 32],
            commitment: [1; 32],
        };
        let mut bytes = Vec::new();
        encode_stored(&prefix, &row, &mut bytes);
        // Of bytes that pass for a row any column can be read, whatever was done to them.
        assert!(is_stored_row(&bytes) && !is_stored_row(&bytes[..bytes.len() - 1]));
        for _ in 0..20 {
            let mut other = bytes.clone();
            let at = random.below(other.len().min(300));
            other[at] ^= 1 << random.below(8);
            if is_stored_row(&other) {
                assert!(StoredRow::new(&other).values().len() <= crate::limits::COLUMNS_MAX);
            }
        }
        let stored = StoredRow::new(&bytes);
        assert_eq!(stored.prefix(), prefix);
        assert_eq!(stored.column_count(), row.len());
        for (ordinal, value) in row.iter().enumerate() {
            assert!(same(&stored.column(ordinal).to_value(), value));
        }
        assert!(stored.column(row.len()).is_null());
    }
}

/// RFC 8949, 8943, 9581 and the registry, byte by byte: an auditor's library reads this.
#[test]
fn payload_bytes_are_as_documented() {
    let row = [
        Value::Integer(-500),
        Value::text("é"),
        Value::Decimal(crate::query::Decimal::parse("273.15").unwrap()),
        Value::Date(0),
        Value::Timestamp(1_500_000_000),
        Value::Json("{}".into()),
        Value::Null,
    ];
    let mut bytes = Vec::new();
    encode_row(Some(Position::new(3)), &row, &mut bytes);
    let hex: alloc::string::String =
        bytes.iter().map(|byte| alloc::format!("{byte:02x}")).collect();
    expect_test::expect![
        "a80003013901f30262c3a903c48221196ab304d8640005d903e9a20101281a1dcd650006d90106427b7d07f6"
    ]
    .assert_eq(&hex);
    assert_eq!(decode_columns(&bytes).unwrap()[1].0, ColumnId::new(1));
}
