//! `INSERT`, `UPDATE`, `DELETE … RETURNING …`.
//!
//! The rows are no part of what a write leaves behind: they are read once it has committed, as the
//! difference that its transaction made, by the log. So a request that is sent again under its
//! idempotency id gets the same rows, and a prepare carries nothing for them.
//!
//! Invariant: the rows come in the order of the primary key. RETURNING stands alone in its request:
//! a transaction of several statements could not tell whose rows are whose.

use alloc::vec::Vec;

use sqlparser::ast;

use crate::query::bind_select::{BoundSelect, bind_select};
use crate::query::error::{SqlError, SqlState};
use crate::query::expr::Expr;
use crate::query::parse::{AsOfSyntax, AsOfValue};
use crate::query::schema::Catalog;

/// A RETURNING clause, taken out of its statement.
#[derive(Debug)]
pub struct Returning {
    items: Vec<ast::SelectItem>,
    from: ast::TableWithJoins,
    deleted: bool,
}

/// Takes the clause out, if there is one; what is left is bound as if it had never been there.
pub fn take_returning(statement: &mut ast::Statement) -> Option<Returning> {
    match statement {
        ast::Statement::Insert(insert) => {
            let ast::TableObject::TableName(name) = &insert.table else { return None };
            let alias = insert.table_alias.as_ref().map(|alias| ast::TableAlias {
                explicit: true,
                name: alias.alias.clone(),
                columns: Vec::new(),
                at: None,
            });
            let relation = ast::TableFactor::Table {
                name: name.clone(),
                alias,
                args: None,
                with_hints: Vec::new(),
                version: None,
                with_ordinality: false,
                partitions: Vec::new(),
                json_path: None,
                sample: None,
                index_hints: Vec::new(),
            };
            let from = ast::TableWithJoins { relation, joins: Vec::new() };
            insert.returning.take().map(|items| Returning { items, from, deleted: false })
        }
        ast::Statement::Update(update) => {
            let from = update.table.clone();
            update.returning.take().map(|items| Returning { items, from, deleted: false })
        }
        ast::Statement::Delete(delete) => {
            let (ast::FromTable::WithFromKeyword(tables) | ast::FromTable::WithoutKeyword(tables)) =
                &delete.from;
            let from = tables.first()?.clone();
            delete.returning.take().map(|items| Returning { items, from, deleted: true })
        }
        _ => None,
    }
}

/// The SELECT that reads the rows. Its last parameter, after the statement's `parameters`, is the
/// last position of the transaction.
pub fn bind_returning(
    catalog: &Catalog,
    sql: &str,
    returning: Returning,
    parameters: u16,
) -> Result<BoundSelect, SqlError> {
    let Returning { items, from, deleted } = returning;
    let mut parsed = crate::query::parse::parse("SELECT 1")?;
    let Some(crate::query::parse::Parsed { statement: ast::Statement::Query(mut query), .. }) =
        parsed.pop()
    else {
        unreachable!("the text is a SELECT")
    };
    let ast::SetExpr::Select(select) = query.body.as_mut() else {
        unreachable!("the text is a plain SELECT")
    };
    select.projection = items;
    select.from = Vec::from([from]);
    let syntax = AsOfSyntax::Returning { deleted, at: AsOfValue::Parameter(parameters) };
    let bound = bind_select(catalog, sql, &query, Some((syntax, 0)))?;
    for output in &bound.select.outputs {
        let mut largest = 0;
        output.visit(&mut |node| {
            if let Expr::Parameter(index) = node {
                largest = largest.max(index + 1);
            }
        });
        if largest > parameters {
            return Err(SqlError::new(
                SqlState::UndefinedParameter,
                "RETURNING can only name parameters that the statement itself takes",
            ));
        }
    }
    if bound.select.grouping.is_some() {
        return Err(SqlError::new(
            SqlState::GroupingError,
            "aggregates are not allowed in RETURNING",
        )
        .hint("the reply says how many rows were changed"));
    }
    Ok(bound)
}

/// Why RETURNING cannot stand in a request of several statements.
#[must_use]
pub fn not_alone(start: u32) -> SqlError {
    let message = "RETURNING in a request of several statements is not supported";
    SqlError::new(SqlState::FeatureNotSupported, message)
        .at(start)
        .hint("send the statement alone, or read the rows AS OF the position of the reply")
}
