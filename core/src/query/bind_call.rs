//! Calls: functions of a row, and aggregates, which are gathered for whoever groups.
//!
//! Invariants: as `bind`: a part of a call that is not understood is refused; within the argument
//! of an aggregate stands no other one.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use sqlparser::ast;

use crate::ids::ColumnId;
use crate::limits::COLUMNS_MAX;
use crate::query::bind::{
    Aggregate, AggregateFunction, SUBQUERY_HINT, Scope, Source, not_supported, shorten, simple_name,
};
use crate::query::bind_types::of_one_type;
use crate::query::error::{SqlError, SqlState};
use crate::query::expr::{Expr, Function};
use crate::query::value::{ColumnType, Value};

impl Scope<'_> {
    pub(super) fn call(&mut self, call: &ast::Function) -> Result<Expr, SqlError> {
        let ast::Function {
            name,
            uses_odbc_syntax: _,
            parameters,
            args,
            within_group,
            filter,
            null_treatment,
            over,
        } = call;
        let function_name = simple_name(self.sql, name)?;
        if over.is_some() {
            return Err(not_supported(
                "window functions are",
                "use GROUP BY, or ORDER BY with LIMIT",
            ));
        }
        if filter.is_some() {
            return Err(not_supported("FILTER is", "write SUM(CASE WHEN … THEN … END)"));
        }
        if !matches!(parameters, ast::FunctionArguments::None)
            || !within_group.is_empty()
            || null_treatment.is_some()
        {
            return Err(not_supported("this form of a function call is", "write f(a, b)"));
        }
        let (arguments, distinct) = match args {
            ast::FunctionArguments::None => (&[][..], false),
            ast::FunctionArguments::Subquery(_) => {
                return Err(not_supported("subqueries are", SUBQUERY_HINT));
            }
            ast::FunctionArguments::List(list) => {
                if !list.clauses.is_empty() {
                    return Err(not_supported(
                        "clauses within a function call are",
                        "leave them out",
                    ));
                }
                let distinct =
                    matches!(list.duplicate_treatment, Some(ast::DuplicateTreatment::Distinct));
                (list.args.as_slice(), distinct)
            }
        };
        let aggregate = match function_name.as_str() {
            "count" => Some(AggregateFunction::Count),
            "sum" => Some(AggregateFunction::Sum),
            "min" => Some(AggregateFunction::Min),
            "max" => Some(AggregateFunction::Max),
            "avg" => Some(AggregateFunction::Average),
            _ => None,
        };
        if let Some(function) = aggregate {
            return self.aggregate(function, arguments, distinct);
        }
        if distinct {
            return Err(SqlError::new(
                SqlState::SyntaxError,
                format!("DISTINCT is for aggregates, not for {function_name}()"),
            ));
        }
        // Before any is bound.
        let function = scalar_function(&function_name, arguments.len())?;
        let mut bound = Vec::with_capacity(arguments.len());
        for argument in arguments {
            match argument {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(argument)) => {
                    bound.push(self.bind(argument)?);
                }
                _ => return Err(not_supported("named and * arguments are", "give plain values")),
            }
        }
        Ok(scalar_call(
            function,
            bound,
            self.source,
            self.aggregates.as_deref().unwrap_or_default(),
        ))
    }

    fn aggregate(
        &mut self,
        function: AggregateFunction,
        arguments: &[ast::FunctionArg],
        distinct: bool,
    ) -> Result<Expr, SqlError> {
        // Within the argument no other aggregate may stand.
        let outer = core::mem::replace(&mut self.aggregates, Err("another aggregate"));
        let mut aggregates = match outer {
            Ok(aggregates) => aggregates,
            Err(place) => {
                self.aggregates = Err(place);
                let message = format!("aggregates are not allowed in {place}");
                let error = SqlError::new(SqlState::GroupingError, message);
                return Err(if place == "WHERE" {
                    error.hint("HAVING is not supported: filter the result where you read it")
                } else {
                    error
                });
            }
        };
        let aggregate = match arguments {
            [ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Wildcard)]
                if function == AggregateFunction::Count && !distinct =>
            {
                Aggregate { function: AggregateFunction::CountRows, argument: None, distinct }
            }
            [ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(argument))] => {
                let argument = self.bind(argument)?;
                Aggregate { function, argument: Some(argument), distinct }
            }
            _ => {
                return Err(SqlError::new(
                    SqlState::SyntaxError,
                    "an aggregate takes one argument; only COUNT takes *",
                ));
            }
        };
        let at = match aggregates.iter().position(|other| *other == aggregate) {
            Some(at) => at,
            None if aggregates.len() == COLUMNS_MAX => {
                self.aggregates = Ok(aggregates);
                return Err(SqlError::new(
                    SqlState::StatementTooComplex,
                    format!("more than {COLUMNS_MAX} aggregates in one statement"),
                ));
            }
            None => {
                aggregates.push(aggregate);
                aggregates.len() - 1
            }
        };
        self.aggregates = Ok(aggregates);
        // The place of an aggregate; `Excluded` stands nowhere else in a SELECT.
        Ok(Expr::Excluded(ColumnId::new(at as u32 + 1)))
    }
}

/// What a name and a number of arguments call; None: `date(x)`, which is a cast.
fn scalar_function(name: &str, arguments: usize) -> Result<Option<Function>, SqlError> {
    let function = match name {
        "char_length" | "character_length" | "len" => Function::Length,
        "substring" => Function::Substring,
        "btrim" => Function::Trim,
        "position" | "instr" => Function::StringPosition,
        "ceiling" => Function::Ceil,
        "truncate" => Function::Truncate,
        "ifnull" => Function::Coalesce,
        "current_timestamp" | "localtimestamp" | "transaction_timestamp" => Function::Now,
        "uuid" | "uuid_generate_v4" => Function::RandomUuid,
        "extract" => Function::Extract,
        "date" if arguments == 1 => return Ok(None),
        other => match Function::ALL.iter().find(|function| function.name() == other) {
            Some(function) => *function,
            None => {
                return Err(SqlError::new(
                    SqlState::UndefinedFunction,
                    format!("there is no function {}()", shorten(other)),
                )
                .hint("docs/SQL.md lists the functions"));
            }
        },
    };
    let (least, most) = function.arity();
    if arguments < least || arguments > most {
        let wanted = if least == most { format!("{least}") } else { format!("{least} to {most}") };
        return Err(SqlError::new(
            SqlState::UndefinedFunction,
            format!("{name}() takes {wanted} arguments, not {arguments}"),
        ));
    }
    Ok(Some(function))
}

fn scalar_call(
    function: Option<Function>,
    mut arguments: Vec<Expr>,
    source: &Source,
    aggregates: &[Aggregate],
) -> Expr {
    let Some(function) = function else {
        let value = Box::new(arguments.pop().unwrap_or(Expr::Literal(Value::Null)));
        return Expr::Cast { value, to: ColumnType::Date };
    };
    if let Function::Coalesce | Function::Greatest | Function::Least = function {
        of_one_type(arguments.iter_mut().collect(), source, aggregates);
    }
    Expr::Call { function, arguments }
}
