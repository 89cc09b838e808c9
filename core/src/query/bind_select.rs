//! SELECT: one table, filter, grouping, order, limit.
//!
//! Outputs and sort keys are expressions over the table's columns; when the statement groups, over
//! a *grouped row* instead: its first columns are the GROUP BY values, then the aggregates.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use sqlparser::ast;

use crate::ids::ColumnId;
use crate::limits::COLUMNS_MAX;
use crate::query::access::KeyConditions;
use crate::query::bind::{
    Aggregate, Scope, Source, fold, not_supported, position_of, shorten, simple_name, with_place,
};
use crate::query::bind_types::{infer, infer_over};
use crate::query::error::{SqlError, SqlState};
use crate::query::expr::Expr;
use crate::query::parse::AsOfSyntax;
use crate::query::plan::{Candidates, Wanted};
use crate::query::schema::Catalog;
use crate::query::value::{ColumnType, TypeTag, Value};
use crate::query::versions::{Versions, VersionsKind};
use crate::query::virtual_tables::VirtualTable;

/// A column of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputColumn {
    pub name: String,
    /// None when only the rows can tell, such as a bare parameter.
    pub column_type: Option<ColumnType>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Grouping {
    pub keys: Vec<Expr>,
    pub aggregates: Vec<Aggregate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderKey {
    /// Place in `outputs`.
    pub output: usize,
    pub descending: bool,
    pub nulls_first: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    pub source: Source,
    pub as_of: Option<(AsOfSyntax, u32)>,
    pub filter: Option<Expr>,
    pub grouping: Option<Grouping>,
    /// The first `visible` are the result; the others only sort it.
    pub outputs: Vec<Expr>,
    pub visible: usize,
    pub distinct: bool,
    pub order: Vec<OrderKey>,
    pub limit: Option<Expr>,
    pub offset: Option<Expr>,
    /// What the filter says about the primary key.
    pub conditions: KeyConditions,
    /// The order is the key's (false) or the key's backwards (true): no sort.
    pub order_by_key: Option<bool>,
    /// Every way to find the rows; the first is by the primary key.
    pub candidates: Candidates,
    /// All outputs are plain columns: their places in the row.
    pub plain: Option<Vec<usize>>,
}

#[derive(Debug)]
pub struct BoundSelect {
    pub select: Select,
    pub columns: Vec<OutputColumn>,
    pub parameters: u16,
}

/// The table that a FROM clause names, and what the statement calls it.
pub fn bind_table(
    catalog: &Catalog,
    sql: &str,
    from: &ast::TableWithJoins,
) -> Result<(Source, Option<String>), SqlError> {
    if let Some(join) = from.joins.first() {
        return Err(with_place(
            not_supported("joins are", "query one table at a time; projections will join on write"),
            position_of(sql, &join.relation),
        ));
    }
    let place = position_of(sql, &from.relation);
    let (name, alias) = match &from.relation {
        ast::TableFactor::Table {
            name,
            alias,
            args: None,
            with_hints,
            version: None,
            with_ordinality: false,
            partitions,
            json_path: None,
            sample: None,
            index_hints,
        } if with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty() => {
            (name, alias)
        }
        ast::TableFactor::Derived { .. } => {
            return Err(with_place(
                not_supported("subqueries are", "run the inner SELECT first"),
                place,
            ));
        }
        _ => {
            return Err(with_place(
                not_supported("this form of FROM is", "write FROM table"),
                place,
            ));
        }
    };
    let alias = match alias {
        Some(alias) if alias.columns.is_empty() => Some(fold(&alias.name)?),
        Some(_) => return Err(not_supported("column names in a table's alias are", "leave them")),
        None => None,
    };
    Ok((find_source(catalog, sql, name)?, alias))
}

pub fn find_source(
    catalog: &Catalog,
    sql: &str,
    name: &ast::ObjectName,
) -> Result<Source, SqlError> {
    let place = position_of(sql, name);
    let name = simple_name(sql, name)?;
    if let Some(schema) = catalog.table_named(&name) {
        return Ok(Source::Table(schema.clone()));
    }
    if let Some(table) = VirtualTable::named(&name) {
        return Ok(Source::Virtual(table));
    }
    let error = SqlError::new(SqlState::UndefinedTable, format!("there is no table \"{name}\""));
    let similar = catalog.tables().find(|table| table.name.eq_ignore_ascii_case(&name));
    let error = match similar {
        Some(table) => error.hint(format!("there is \"{}\", with the quotes", table.name)),
        None => error.hint("SELECT name FROM __tables lists the tables"),
    };
    Err(with_place(error, place))
}

pub fn bind_select(
    catalog: &Catalog,
    sql: &str,
    query: &ast::Query,
    as_of: Option<(AsOfSyntax, u32)>,
) -> Result<BoundSelect, SqlError> {
    let ast::Query {
        with,
        body,
        order_by,
        limit_clause,
        fetch,
        locks,
        for_clause,
        settings,
        format_clause,
        pipe_operators,
    } = query;
    if with.is_some() {
        return Err(not_supported("WITH is", "send one statement at a time"));
    }
    if fetch.is_some() {
        return Err(not_supported("FETCH FIRST is", "write LIMIT n"));
    }
    if !locks.is_empty() {
        return Err(not_supported(
            "FOR UPDATE is",
            "a statement sees one position and writes are checked when applied",
        ));
    }
    if for_clause.is_some()
        || settings.is_some()
        || format_clause.is_some()
        || !pipe_operators.is_empty()
    {
        return Err(not_supported("this clause after SELECT is", "see docs/SQL.md"));
    }
    let select = plain_select(sql, body)?;
    Binding { catalog, sql, select }.bind(order_by.as_ref(), limit_clause.as_ref(), as_of)
}

fn plain_select<'q>(sql: &str, body: &'q ast::SetExpr) -> Result<&'q ast::Select, SqlError> {
    match body {
        ast::SetExpr::Select(select) => Ok(select),
        ast::SetExpr::SetOperation { right, .. } => Err(with_place(
            not_supported(
                "UNION, EXCEPT and INTERSECT are",
                "send the SELECTs one by one, or write the conditions with OR",
            ),
            position_of(sql, right.as_ref()),
        )),
        ast::SetExpr::Query(_) => {
            Err(not_supported("a SELECT in parentheses is", "leave them out"))
        }
        ast::SetExpr::Values(_) => Err(not_supported("VALUES alone is", "write SELECT")),
        _ => Err(not_supported("this form of query is", "write SELECT … FROM …")),
    }
}

struct Binding<'a> {
    catalog: &'a Catalog,
    sql: &'a str,
    select: &'a ast::Select,
}

impl<'a> Binding<'a> {
    /// Every clause of the syntax tree is named here, so that a new one cannot slip through.
    fn refuse_clauses(&self) -> Result<(), SqlError> {
        let ast::Select {
            select_token: _,
            optimizer_hints,
            distinct: _,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection: _,
            exclude,
            into,
            from: _,
            lateral_views,
            prewhere,
            selection: _,
            connect_by,
            group_by: _,
            cluster_by,
            distribute_by,
            sort_by,
            having,
            named_window,
            qualify,
            window_before_qualify: _,
            value_table_mode,
            flavor,
        } = self.select;
        if let Some(having) = having {
            return Err(with_place(
                not_supported("HAVING is", "filter the groups where you read the result"),
                position_of(self.sql, having),
            ));
        }
        if !named_window.is_empty() || qualify.is_some() {
            return Err(not_supported(
                "window functions are",
                "use GROUP BY, or ORDER BY with LIMIT",
            ));
        }
        if into.is_some() {
            return Err(not_supported("SELECT INTO is", "write CREATE TABLE, then INSERT"));
        }
        let others = !optimizer_hints.is_empty()
            || select_modifiers.is_some()
            || top.is_some()
            || exclude.is_some()
            || !lateral_views.is_empty()
            || prewhere.is_some()
            || !connect_by.is_empty()
            || !cluster_by.is_empty()
            || !distribute_by.is_empty()
            || !sort_by.is_empty()
            || value_table_mode.is_some()
            || *flavor != ast::SelectFlavor::Standard;
        if others {
            return Err(not_supported("a clause of this SELECT is", "see docs/SQL.md"));
        }
        Ok(())
    }

    fn bind(
        &self,
        order_by: Option<&ast::OrderBy>,
        limit_clause: Option<&ast::LimitClause>,
        as_of: Option<(AsOfSyntax, u32)>,
    ) -> Result<BoundSelect, SqlError> {
        self.refuse_clauses()?;
        let sql = self.sql;
        let (source, alias) = match self.select.from.as_slice() {
            [] => (Source::One, None),
            [table] => bind_table(self.catalog, sql, table)?,
            [_, second, ..] => {
                return Err(with_place(
                    not_supported("joins are", "query one table at a time"),
                    position_of(sql, &second.relation),
                ));
            }
        };
        if let (Some((_, place)), false) = (&as_of, matches!(source, Source::Table(_))) {
            let message = "AS OF, HISTORY OF and DIFF OF are for tables; here they are";
            return Err(not_supported(message, "leave it out").at(*place));
        }
        let mut parameters = as_of.as_ref().map_or(0, |(syntax, _)| syntax.parameters());
        let source = with_versions(source, as_of.as_ref());
        let scope = |aggregates| {
            let mut scope = Scope::new(sql, &source, aggregates);
            scope.alias = alias.clone();
            scope
        };

        let mut where_scope = scope(Err("WHERE"));
        let filter =
            self.select.selection.as_ref().map(|filter| where_scope.bind(filter)).transpose()?;
        if let (Some(bound), Some(syntax)) = (&filter, &self.select.selection) {
            must_be_condition(bound, &source, "WHERE")
                .map_err(|error| with_place(error, position_of(sql, syntax)))?;
        }
        parameters = parameters.max(where_scope.parameters);

        // Before any is bound: a text holds far more than are allowed.
        let items = self.select.projection.len();
        if items > COLUMNS_MAX {
            return Err(SqlError::new(
                SqlState::TooManyColumns,
                format!("a result has 1 to {COLUMNS_MAX} columns, not {items}"),
            ));
        }
        let mut out_scope = scope(Ok(Vec::new()));
        let mut outputs = Vec::new();
        let mut columns = Vec::new();
        let mut places = Vec::new();
        for item in &self.select.projection {
            self.bind_item(item, &source, &mut out_scope, &mut outputs, &mut columns)?;
            places.resize(outputs.len(), position_of(sql, item));
        }
        let visible = outputs.len();
        if visible == 0 || visible > COLUMNS_MAX {
            return Err(SqlError::new(
                SqlState::TooManyColumns,
                format!("a result has 1 to {COLUMNS_MAX} columns, not {visible}"),
            ));
        }

        let mut group_scope = scope(Err("GROUP BY"));
        let keys = self.bind_group_by(&mut group_scope, &outputs, &columns)?;
        parameters = parameters.max(group_scope.parameters);

        let order =
            self.bind_order(order_by, &mut out_scope, &mut outputs, &columns, &mut places)?;
        parameters = parameters.max(out_scope.parameters);
        let distinct = match &self.select.distinct {
            None | Some(ast::Distinct::All) => false,
            Some(ast::Distinct::Distinct) => true,
            Some(ast::Distinct::On(_)) => {
                return Err(not_supported("DISTINCT ON is", "use GROUP BY with MIN or MAX"));
            }
        };
        if distinct && outputs.len() > visible {
            return Err(with_place(
                SqlError::new(
                    SqlState::InvalidColumnReference,
                    "with DISTINCT, ORDER BY can only name what is selected",
                ),
                order_by.and_then(|order| position_of(sql, order)),
            ));
        }

        let aggregates = out_scope.aggregates.unwrap_or_default();
        let grouping = if keys.is_some() || !aggregates.is_empty() {
            Some(Grouping { keys: keys.unwrap_or_default(), aggregates })
        } else {
            None
        };
        for (output, column) in outputs.iter().zip(&mut columns) {
            column.column_type = match &grouping {
                Some(grouping) => infer_over(output, &source, &grouping.aggregates),
                None => infer(output, &source),
            };
        }
        if let Some(grouping) = &grouping {
            for (output, place) in outputs.iter_mut().zip(&places) {
                let expr = core::mem::replace(output, Expr::Literal(Value::Null));
                *output = over_groups(expr, grouping, &source)
                    .map_err(|error| with_place(error, *place))?;
            }
        }

        let mut limit_scope = scope(Err("LIMIT"));
        let (limit, skip) = bind_limit(&mut limit_scope, limit_clause)?;
        parameters = parameters.max(limit_scope.parameters);

        let in_order = grouping.is_none() && !distinct;
        let looked_at = match &grouping {
            None => outputs.iter().collect(),
            Some(grouping) => {
                let arguments = grouping.aggregates.iter().filter_map(|a| a.argument.as_ref());
                grouping.keys.iter().chain(arguments).collect()
            }
        };
        let candidates = Candidates::new(
            &source,
            &Wanted {
                filter: filter.as_ref(),
                order: if in_order { &order } else { &[] },
                outputs: &outputs,
                looked_at: Some(looked_at),
            },
        );
        let conditions = candidates.primary().lookups[0].conditions.clone();
        let order_by_key = candidates.primary().order;
        let plain = outputs
            .iter()
            .map(|output| match output {
                Expr::Column(id) if grouping.is_none() => Some(id.get() as usize - 1),
                _ => None,
            })
            .collect();
        let select = Select {
            source,
            as_of,
            filter,
            grouping,
            outputs,
            visible,
            distinct,
            order,
            limit,
            offset: skip,
            conditions,
            order_by_key,
            candidates,
            plain,
        };
        Ok(BoundSelect { select, columns, parameters })
    }

    fn bind_item(
        &self,
        item: &ast::SelectItem,
        source: &Source,
        scope: &mut Scope<'_>,
        outputs: &mut Vec<Expr>,
        columns: &mut Vec<OutputColumn>,
    ) -> Result<(), SqlError> {
        let (syntax, name) = match item {
            ast::SelectItem::UnnamedExpr(syntax) => (syntax, output_name(syntax)?),
            ast::SelectItem::ExprWithAlias { expr, alias } => (expr, fold(alias)?),
            ast::SelectItem::Wildcard(options)
                if is_plain_wildcard(options) && !matches!(source, Source::One) =>
            {
                all_columns(source, outputs, columns);
                return Ok(());
            }
            ast::SelectItem::QualifiedWildcard(
                ast::SelectItemQualifiedWildcardKind::ObjectName(name),
                options,
            ) if is_plain_wildcard(options) => {
                let table = simple_name(self.sql, name)?;
                if table != scope.alias.as_deref().unwrap_or(source.name()) {
                    return Err(with_place(
                        SqlError::new(
                            SqlState::UndefinedTable,
                            format!("there is no table \"{table}\" in this statement"),
                        ),
                        position_of(self.sql, name),
                    ));
                }
                all_columns(source, outputs, columns);
                return Ok(());
            }
            ast::SelectItem::Wildcard(_) | ast::SelectItem::QualifiedWildcard(..) => {
                return Err(with_place(
                    not_supported("this form of * is", "name the columns; * needs a FROM"),
                    position_of(self.sql, item),
                ));
            }
            ast::SelectItem::ExprWithAliases { .. } => {
                return Err(not_supported("several aliases for one column are", "give one"));
            }
        };
        outputs.push(scope.bind(syntax)?);
        columns.push(OutputColumn { name, column_type: None });
        Ok(())
    }

    /// None: the statement has no GROUP BY.
    fn bind_group_by(
        &self,
        scope: &mut Scope<'_>,
        outputs: &[Expr],
        columns: &[OutputColumn],
    ) -> Result<Option<Vec<Expr>>, SqlError> {
        let (syntaxes, modifiers) = match &self.select.group_by {
            ast::GroupByExpr::Expressions(syntaxes, modifiers) => (syntaxes, modifiers),
            ast::GroupByExpr::All(_) => {
                return Err(not_supported("GROUP BY ALL is", "name the columns"));
            }
        };
        if !modifiers.is_empty() {
            return Err(not_supported("ROLLUP, CUBE and TOTALS are", "send one SELECT a grouping"));
        }
        if syntaxes.is_empty() {
            return Ok(None);
        }
        at_most(syntaxes.len(), "GROUP BY")?;
        let mut keys = Vec::with_capacity(syntaxes.len());
        for syntax in syntaxes {
            let place = position_of(self.sql, syntax);
            let by_output = match by_ordinal(syntax, columns.len()) {
                Some(at) => Some(at.map_err(|error| with_place(error, place))?),
                // A column of the table wins over an output of the same name.
                None => {
                    by_name(syntax, columns).filter(|_| by_name_in(syntax, scope.source).is_none())
                }
            };
            let key = match by_output {
                Some(at) => outputs[at].clone(),
                None => scope.bind(syntax)?,
            };
            let mut holds_aggregate = false;
            key.visit(&mut |node| holds_aggregate |= matches!(node, Expr::Excluded(_)));
            if holds_aggregate {
                return Err(with_place(
                    SqlError::new(SqlState::GroupingError, "GROUP BY cannot name an aggregate"),
                    place,
                ));
            }
            keys.push(key);
        }
        Ok(Some(keys))
    }

    fn bind_order(
        &self,
        order_by: Option<&ast::OrderBy>,
        scope: &mut Scope<'_>,
        outputs: &mut Vec<Expr>,
        columns: &[OutputColumn],
        places: &mut Vec<Option<u32>>,
    ) -> Result<Vec<OrderKey>, SqlError> {
        let Some(order_by) = order_by else { return Ok(Vec::new()) };
        let syntaxes = match &order_by.kind {
            ast::OrderByKind::Expressions(syntaxes) if order_by.interpolate.is_none() => syntaxes,
            _ => return Err(not_supported("this form of ORDER BY is", "name the columns")),
        };
        at_most(syntaxes.len(), "ORDER BY")?;
        let mut keys = Vec::with_capacity(syntaxes.len());
        for ast::OrderByExpr { expr, options, with_fill } in syntaxes {
            if with_fill.is_some() {
                return Err(not_supported("WITH FILL is", "fill gaps where you read the result"));
            }
            let place = position_of(self.sql, expr);
            let descending = match options.sort {
                None | Some(ast::OrderBySort::Asc) => false,
                Some(ast::OrderBySort::Desc) => true,
                Some(ast::OrderBySort::Using(_)) => {
                    return Err(not_supported("ORDER BY USING is", "write ASC or DESC"));
                }
            };
            let known = match by_ordinal(expr, columns.len()) {
                Some(at) => Some(at.map_err(|error| with_place(error, place))?),
                None => by_name(expr, columns),
            };
            let output = match known {
                Some(at) => at,
                None => {
                    let bound = scope.bind(expr)?;
                    match outputs.iter().position(|output| *output == bound) {
                        Some(at) => at,
                        None => {
                            outputs.push(bound);
                            places.push(place);
                            outputs.len() - 1
                        }
                    }
                }
            };
            let is_json = infer(&outputs[output], scope.source)
                .is_some_and(|column_type| column_type == ColumnType::Json);
            if is_json {
                return Err(with_place(
                    SqlError::new(SqlState::DatatypeMismatch, "JSON has no order")
                        .hint("take a member out with ->> and order by that"),
                    place,
                ));
            }
            // NULL is the lowest value unless said otherwise.
            let nulls_first = options.nulls_first.unwrap_or(!descending);
            keys.push(OrderKey { output, descending, nulls_first });
        }
        Ok(keys)
    }
}

/// Keys are compared one with another: as many as a table has columns are enough.
fn at_most(keys: usize, clause: &str) -> Result<(), SqlError> {
    if keys <= COLUMNS_MAX {
        return Ok(());
    }
    Err(SqlError::new(
        SqlState::StatementTooComplex,
        format!("{clause} has at most {COLUMNS_MAX} keys, not {keys}"),
    ))
}

/// HISTORY OF and DIFF OF are about the table's versions, not about its rows.
fn with_versions(source: Source, as_of: Option<&(AsOfSyntax, u32)>) -> Source {
    let kind = match as_of {
        Some((AsOfSyntax::History, _)) => VersionsKind::History,
        Some((AsOfSyntax::Diff(..), _)) => VersionsKind::Diff,
        Some((AsOfSyntax::Returning { deleted, .. }, _)) => {
            VersionsKind::Returning { deleted: *deleted }
        }
        Some((AsOfSyntax::Position(_) | AsOfSyntax::Timestamp(_), _)) | None => return source,
    };
    match source {
        Source::Table(schema) => Source::Versions(Versions { schema, kind }),
        Source::One | Source::Virtual(_) | Source::Versions(_) => source,
    }
}

fn is_plain_wildcard(options: &ast::WildcardAdditionalOptions) -> bool {
    *options == ast::WildcardAdditionalOptions::default()
}

fn all_columns(source: &Source, outputs: &mut Vec<Expr>, columns: &mut Vec<OutputColumn>) {
    let mut all: Vec<((String, ColumnType), u32)> = source.columns().into_iter().zip(1..).collect();
    if let Source::Versions(versions) = source {
        // What is known of a version stands before the row.
        all.rotate_right(versions.own_columns().len());
    }
    for ((name, column_type), id) in all {
        outputs.push(Expr::Column(ColumnId::new(id)));
        columns.push(OutputColumn { name, column_type: Some(column_type) });
    }
}

/// What a result column without alias is called.
fn output_name(syntax: &ast::Expr) -> Result<String, SqlError> {
    match syntax {
        ast::Expr::Identifier(ident) => fold(ident),
        ast::Expr::CompoundIdentifier(parts) => match parts.last() {
            Some(ident) => fold(ident),
            None => Ok(String::new()),
        },
        ast::Expr::Function(function) => Ok(function.name.to_string().to_lowercase()),
        other => Ok(shorten(&other.to_string())),
    }
}

fn by_name(syntax: &ast::Expr, columns: &[OutputColumn]) -> Option<usize> {
    let ast::Expr::Identifier(ident) = syntax else { return None };
    let name = fold(ident).ok()?;
    columns.iter().position(|column| column.name == name)
}

fn by_name_in(syntax: &ast::Expr, source: &Source) -> Option<ColumnId> {
    let ast::Expr::Identifier(ident) = syntax else { return None };
    source.find(&fold(ident).ok()?)
}

/// `ORDER BY 2`: the second output.
fn by_ordinal(syntax: &ast::Expr, count: usize) -> Option<Result<usize, SqlError>> {
    let ast::Expr::Value(value) = syntax else { return None };
    let ast::Value::Number(text, _) = &value.value else { return None };
    Some(match text.parse::<usize>() {
        Ok(ordinal) if ordinal >= 1 && ordinal <= count => Ok(ordinal - 1),
        _ => Err(SqlError::new(
            SqlState::InvalidColumnReference,
            format!("there is no result column {text}: they are 1 to {count}"),
        )),
    })
}

/// Conditions whose type is known and not BOOLEAN are refused before any row is read.
pub fn must_be_condition(expr: &Expr, source: &Source, clause: &str) -> Result<(), SqlError> {
    match infer(expr, source) {
        Some(column_type) if column_type.tag() != TypeTag::Boolean => Err(SqlError::new(
            SqlState::DatatypeMismatch,
            format!("{clause} must be BOOLEAN, this is {column_type}"),
        )),
        Some(_) | None => Ok(()),
    }
}

/// Rewrites an expression over columns and aggregates into one over the grouped row.
fn over_groups(expr: Expr, grouping: &Grouping, source: &Source) -> Result<Expr, SqlError> {
    if let Some(at) = grouping.keys.iter().position(|key| *key == expr) {
        return Ok(Expr::Column(ColumnId::new(at as u32 + 1)));
    }
    match expr {
        Expr::Excluded(aggregate) => {
            let at = grouping.keys.len() as u32 + aggregate.get();
            Ok(Expr::Column(ColumnId::new(at)))
        }
        Expr::Column(id) => {
            let columns = source.columns();
            let name = columns.get(id.get() as usize - 1).map_or("?", |(name, _)| name.as_str());
            Err(SqlError::new(
                SqlState::GroupingError,
                format!("column \"{name}\" is neither in GROUP BY nor inside an aggregate"),
            )
            .hint(format!("add it to GROUP BY, or take MIN({name}) or MAX({name})")))
        }
        other => other.try_map_children(&mut |child| over_groups(child, grouping, source)),
    }
}

fn bind_limit(
    scope: &mut Scope<'_>,
    clause: Option<&ast::LimitClause>,
) -> Result<(Option<Expr>, Option<Expr>), SqlError> {
    let (limit, skip) = match clause {
        None => (None, None),
        Some(ast::LimitClause::LimitOffset { limit, offset, limit_by }) => {
            if !limit_by.is_empty() {
                return Err(not_supported("LIMIT BY is", "send one SELECT a group"));
            }
            (limit.as_ref(), offset.as_ref().map(|offset| &offset.value))
        }
        Some(ast::LimitClause::OffsetCommaLimit { offset, limit }) => (Some(limit), Some(offset)),
    };
    let mut bind = |syntax: Option<&ast::Expr>| -> Result<Option<Expr>, SqlError> {
        let Some(syntax) = syntax else { return Ok(None) };
        let place = position_of(scope.sql, syntax);
        let bound = scope.bind(syntax)?;
        match &bound {
            Expr::Literal(Value::Integer(count)) if *count < 0 => Err(with_place(
                SqlError::new(SqlState::InvalidParameterValue, "LIMIT and OFFSET are not negative"),
                place,
            )),
            Expr::Literal(Value::Integer(_) | Value::Null) | Expr::Parameter(_) => Ok(Some(bound)),
            _ => Err(with_place(
                SqlError::new(
                    SqlState::DatatypeMismatch,
                    "LIMIT and OFFSET are whole numbers or parameters",
                ),
                place,
            )),
        }
    };
    Ok((bind(limit)?, bind(skip)?))
}
