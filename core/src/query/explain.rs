//! EXPLAIN: the plan in words.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::query::access::{KeyConditions, narrows};
use crate::query::bind::Source;
use crate::query::bind_select::Select;
use crate::query::command::Update;
use crate::query::expr::Expr;
use crate::query::prepared::{Prepared, Statement};
use crate::query::virtual_tables::VirtualTable;

/// One line a step, the first one reads the rows.
#[must_use]
pub fn explain(prepared: &Prepared) -> Vec<String> {
    match &prepared.statement {
        Statement::Select(select) => explain_select(select),
        Statement::CreateTable { schema, .. } => {
            Vec::from([format!("create table {}", schema.name)])
        }
        Statement::DropTable(Some(schema)) => Vec::from([format!("drop table {}", schema.name)]),
        Statement::DropTable(None) => Vec::from([String::from("nothing: there is no such table")]),
        Statement::Insert(insert) => {
            Vec::from([format!("insert into {}, {} rows", insert.schema.name, insert.rows.len())])
        }
        Statement::Update(schema, Update { predicate, .. }) => {
            write_plan("update", &Source::Table(schema.clone()), predicate.as_ref())
        }
        Statement::Delete(schema, delete) => {
            write_plan("delete", &Source::Table(schema.clone()), delete.predicate.as_ref())
        }
    }
}

fn write_plan(what: &str, source: &Source, predicate: Option<&Expr>) -> Vec<String> {
    let conditions = KeyConditions::new(source, predicate);
    let mut lines = Vec::from([read_line(source, &conditions, false)]);
    if predicate.is_some() && !conditions.is_lookup {
        lines.push(String::from("filter rows by WHERE"));
    }
    lines.push(format!("{what} those rows"));
    lines
}

fn read_line(source: &Source, conditions: &KeyConditions, reverse: bool) -> String {
    let name = source.name();
    let backwards = if reverse { ", backwards" } else { "" };
    match source {
        Source::One => String::from("one row without a table"),
        Source::Virtual(VirtualTable::Events) if narrows(conditions) => {
            format!("log records by position ({}){backwards}", conditions.describe(source))
        }
        Source::Virtual(VirtualTable::Events) => format!("all log records{backwards}"),
        Source::Virtual(VirtualTable::Tables | VirtualTable::Columns) => {
            format!("catalog view {name}")
        }
        Source::Versions(_) => unreachable!("described with their filter"),
        Source::Table(_) if conditions.is_point() => {
            format!("lookup in {name} by primary key ({})", conditions.describe(source))
        }
        Source::Table(_) if narrows(conditions) => {
            format!("range of {name} by primary key ({}){backwards}", conditions.describe(source))
        }
        Source::Table(_) => format!("full scan of {name}{backwards}"),
    }
}

fn explain_select(select: &Select) -> Vec<String> {
    let reverse = select.order_by_key == Some(true);
    let first = match &select.source {
        Source::Versions(versions) => versions.describe(select.filter.as_ref()),
        source => read_line(source, &select.conditions, reverse),
    };
    let mut lines = Vec::from([first]);
    if select.as_of.is_some() && !matches!(select.source, Source::Versions(_)) {
        lines.push(String::from("as of an earlier position: versions from history"));
    }
    if select.filter.is_some() && !select.conditions.is_lookup {
        lines.push(String::from("filter rows by WHERE"));
    }
    if let Some(grouping) = &select.grouping {
        lines.push(if grouping.keys.is_empty() {
            format!("{} aggregates over all rows", grouping.aggregates.len())
        } else {
            format!(
                "group by {} expressions, {} aggregates",
                grouping.keys.len(),
                grouping.aggregates.len()
            )
        });
    }
    if select.distinct {
        lines.push(String::from("distinct rows"));
    }
    if !select.order.is_empty() {
        lines.push(match select.order_by_key {
            Some(_) => String::from("order: as read, by primary key"),
            None => format!("sort by {} expressions, in memory", select.order.len()),
        });
    }
    if select.limit.is_some() || select.offset.is_some() {
        lines.push(String::from("limit and offset"));
    }
    lines
}
