//! SQL values, rows and ids in messages.

use capnp::struct_list;
use verity_core::ids::IdempotencyId;
use verity_core::query::{Decimal, Value, json};

use super::{Room, bad, length};
use crate::net::schema::{row, sql, value};

pub fn write_value(value: &Value, mut to: value::Builder<'_>) {
    match value {
        Value::Null => to.set_null(()),
        Value::Boolean(value) => to.set_boolean(*value),
        Value::Integer(value) => to.set_integer(*value),
        Value::Double(value) => to.set_double(*value),
        Value::Decimal(value) => {
            let mantissa = value.mantissa();
            let mut to = to.init_decimal();
            to.set_high((mantissa >> 64) as i64);
            to.set_low(mantissa as u64);
            to.set_scale(value.scale());
        }
        Value::Text(text) => to.set_text(text.as_str()),
        Value::Blob(bytes) => to.set_blob(bytes),
        Value::Date(days) => to.set_date(*days),
        Value::Timestamp(ns) => to.set_timestamp(*ns),
        Value::Uuid(bytes) => to.set_uuid(bytes),
        Value::Json(text) => to.set_json(text.as_str()),
    }
}

pub fn read_value(from: value::Reader<'_>) -> capnp::Result<Value> {
    Ok(match from.which()? {
        value::Which::Null(()) => Value::Null,
        value::Which::Boolean(value) => Value::Boolean(value),
        value::Which::Integer(value) => Value::Integer(value),
        value::Which::Double(value) => Value::Double(value),
        value::Which::Decimal(decimal) => {
            let decimal = decimal?;
            let mantissa = i128::from(decimal.get_high()) << 64 | i128::from(decimal.get_low());
            let decimal = Decimal::new(mantissa, decimal.get_scale());
            Value::Decimal(decimal.ok_or_else(|| bad("a decimal is out of range"))?)
        }
        value::Which::Text(text) => Value::Text(text?.to_string()?),
        value::Which::Blob(bytes) => Value::Blob(bytes?.to_vec()),
        value::Which::Date(days) => Value::Date(days),
        value::Which::Timestamp(ns) => Value::Timestamp(ns),
        value::Which::Uuid(bytes) => Value::Uuid(fixed(bytes?, "a UUID has 16 bytes")?),
        value::Which::Json(text) => {
            let text = text?.to_string()?;
            json::validate(&text).map_err(|_| bad("not JSON"))?;
            Value::Json(text)
        }
    })
}

pub fn write_values(values: &[Value], mut to: struct_list::Builder<'_, value::Owned>) {
    for (at, value) in (0..).zip(values) {
        write_value(value, to.reborrow().get(at));
    }
}

pub fn read_values(
    from: struct_list::Reader<'_, value::Owned>,
    room: &mut Room,
) -> capnp::Result<Vec<Value>> {
    room.take(from.len())?;
    from.iter().map(read_value).collect()
}

pub fn write_rows(rows: &[Vec<Value>], mut to: struct_list::Builder<'_, row::Owned>) {
    for (at, row) in (0..).zip(rows) {
        let to = to.reborrow().get(at);
        write_values(row, to.init_values(length(row.len())));
    }
}

pub fn read_rows(
    from: struct_list::Reader<'_, row::Owned>,
    room: &mut Room,
) -> capnp::Result<Vec<Vec<Value>>> {
    room.take(from.len())?;
    from.iter().map(|row| read_values(row.get_values()?, room)).collect()
}

pub fn read_texts(
    from: capnp::text_list::Reader<'_>,
    room: &mut Room,
) -> capnp::Result<Vec<String>> {
    room.take(from.len())?;
    from.iter().map(|text| Ok(text?.to_string()?)).collect()
}

pub fn write_texts(texts: &[String], mut to: capnp::text_list::Builder<'_>) {
    for (at, text) in (0..).zip(texts) {
        to.set(at, text.as_str());
    }
}

pub fn read_id(bytes: &[u8]) -> capnp::Result<IdempotencyId> {
    Ok(IdempotencyId(fixed(bytes, "an idempotency id has 16 bytes")?))
}

pub fn fixed<const N: usize>(bytes: &[u8], what: &str) -> capnp::Result<[u8; N]> {
    bytes.try_into().map_err(|_| bad(what))
}

/// A statement and its parameters.
pub fn write_sql(text: &str, params: &[Value], mut to: sql::Builder<'_>) {
    to.set_text(text);
    write_values(params, to.init_params(length(params.len())));
}

pub fn read_sql(from: sql::Reader<'_>, room: &mut Room) -> capnp::Result<(String, Vec<Value>)> {
    Ok((from.get_text()?.to_string()?, read_values(from.get_params()?, room)?))
}
