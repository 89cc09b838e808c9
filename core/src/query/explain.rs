//! EXPLAIN: the plan in words.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::query::access::narrows;
use crate::query::bind::Source;
use crate::query::bind_select::Select;
use crate::query::expr::Expr;
use crate::query::plan::{Plan, describe};
use crate::query::prepared::{Prepared, Statement};
use crate::query::read::Measured;
use crate::query::virtual_tables::VirtualTable;

/// One line a step, the first one reads the rows.
#[must_use]
pub fn explain(prepared: &Prepared, plan: Option<&Plan>) -> Vec<String> {
    match &prepared.statement {
        Statement::Select(select) => explain_select(select, plan),
        Statement::CreateTable { schema, .. } => {
            Vec::from([format!("create table {}", schema.name)])
        }
        Statement::DropTable(Some(schema)) => Vec::from([format!("drop table {}", schema.name)]),
        Statement::DropTable(None) => Vec::from([String::from("nothing: there is no such table")]),
        Statement::CreateIndex(create) => Vec::from([format!("create index {}", create.name)]),
        Statement::DropIndex(schema, entries) => {
            let name = schema.index(*entries).map_or("?", |index| index.name.as_str());
            Vec::from([format!("drop index {name} of {}", schema.name)])
        }
        Statement::AddColumn { schema, column } => {
            Vec::from([format!("add column {} to {}", column.name, schema.name)])
        }
        Statement::CancelJob(job) => Vec::from([format!("cancel job {}", job.get())]),
        Statement::Nothing => Vec::from([String::from("nothing: it is so already")]),
        Statement::Insert(insert) => {
            Vec::from([format!("insert into {}, {} rows", insert.schema.name, insert.rows.len())])
        }
        Statement::Update(schema, update) => {
            write_plan("update", &Source::Table(schema.clone()), update.predicate.as_ref(), plan)
        }
        Statement::Delete(schema, delete) => {
            write_plan("delete", &Source::Table(schema.clone()), delete.predicate.as_ref(), plan)
        }
    }
}

/// What EXPLAIN ANALYZE adds.
#[must_use]
pub fn measured_lines(measured: &Measured) -> Vec<String> {
    let Measured { rows_read, rows_given, pages, pages_missed, .. } = measured;
    let mut lines = Vec::new();
    if let Some(plan) = measured.plan.as_ref().filter(|plan| plan.entries > 0) {
        lines.push(format!("expected: {} entries in {} ranges", plan.entries, plan.range_count()));
    }
    lines.push(if measured.counted {
        String::from("rows: none read, counted in the tree")
    } else {
        format!("rows: {rows_read} read, {rows_given} given")
    });
    lines.push(format!("pages: {pages} looked at, {pages_missed} of them not in memory"));
    lines
}

fn write_plan(
    what: &str,
    source: &Source,
    predicate: Option<&Expr>,
    plan: Option<&Plan>,
) -> Vec<String> {
    let mut lines = Vec::from([table_line(source, plan, false)]);
    if predicate.is_some() && !is_exact(plan) {
        lines.push(String::from("filter rows by WHERE"));
    }
    lines.push(format!("{what} those rows"));
    lines
}

/// The ranges say all that WHERE does.
fn is_exact(plan: Option<&Plan>) -> bool {
    plan.is_some_and(|plan| plan.ranges.iter().all(|ranges| ranges.exact))
}

fn table_line(source: &Source, plan: Option<&Plan>, reverse: bool) -> String {
    match plan {
        Some(plan) => describe(plan, source, reverse),
        None => format!("{}, as it will be then", source.name()),
    }
}

fn read_line(select: &Select, plan: Option<&Plan>, reverse: bool) -> String {
    let source = &select.source;
    let name = source.name();
    let backwards = if reverse { ", backwards" } else { "" };
    match source {
        Source::One => String::from("one row without a table"),
        Source::Virtual(VirtualTable::Events) if narrows(&select.conditions) => {
            format!("log records by position ({}){backwards}", select.conditions.describe(source))
        }
        Source::Virtual(VirtualTable::Events) => format!("all log records{backwards}"),
        Source::Virtual(
            VirtualTable::Tables
            | VirtualTable::Columns
            | VirtualTable::Indexes
            | VirtualTable::Jobs,
        ) => format!("catalog view {name}"),
        Source::Versions(_) => unreachable!("described with their filter"),
        Source::Table(_) => table_line(source, plan, reverse),
    }
}

fn explain_select(select: &Select, plan: Option<&Plan>) -> Vec<String> {
    let order = match plan {
        Some(plan) => plan.candidate.order,
        None => select.order_by_key,
    };
    let reverse = order == Some(true);
    let first = match &select.source {
        Source::Versions(versions) => versions.describe(select.filter.as_ref()),
        Source::One | Source::Virtual(_) | Source::Table(_) => read_line(select, plan, reverse),
    };
    let mut lines = Vec::from([first]);
    if select.as_of.is_some() && !matches!(select.source, Source::Versions(_)) {
        lines.push(String::from("as of an earlier position: versions from history"));
    }
    if select.filter.is_some() && !is_exact(plan) {
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
        lines.push(match order {
            Some(_) if plan.is_none_or(|plan| plan.candidate.index().is_none()) => {
                String::from("order: as read, by primary key")
            }
            Some(_) => String::from("order: as read, by index"),
            None => format!("sort by {} expressions, in memory", select.order.len()),
        });
    }
    if select.limit.is_some() || select.offset.is_some() {
        lines.push(String::from("limit and offset"));
    }
    lines
}
