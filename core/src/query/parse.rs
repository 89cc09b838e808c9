//! SQL text → syntax trees of `sqlparser`, with every limit checked before anything recurses.
//!
//! What the grammar of others lacks is taken out of the token stream first, in place, so that byte
//! positions stay right: `AS OF POSITION n`, `AS OF TIMESTAMP t`, EXPLAIN, and parameters (`?`,
//! `?1`, `$1` all become numbered). What we refuse by its first word is refused here.
//!
//! Invariants: at most `SQL_SIZE_MAX` bytes, `SQL_TOKENS_MAX` tokens, `STATEMENTS_MAX` statements;
//! parentheses and CASE nest at most `SQL_DEPTH_MAX` deep; operators that follow one another build
//! trees at most `SQL_OPERATORS_MAX + SQL_TERMS_MAX` deep, so that even dropping one is safe.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use sqlparser::ast;
use sqlparser::dialect::Dialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use crate::limits::{
    SQL_DEPTH_MAX, SQL_OPERATORS_MAX, SQL_PARAMETERS_MAX, SQL_SIZE_MAX, SQL_TERMS_MAX,
    SQL_TOKENS_MAX, STATEMENTS_MAX,
};
use crate::query::error::{SqlError, SqlState};

/// The grammar: standard SQL, double-quoted identifiers, `?` and `$n`.
#[derive(Debug)]
struct VerityDialect;

impl Dialect for VerityDialect {
    fn is_delimited_identifier_start(&self, character: char) -> bool {
        character == '"'
    }

    fn is_identifier_start(&self, character: char) -> bool {
        character.is_alphabetic() || character == '_'
    }

    fn is_identifier_part(&self, character: char) -> bool {
        character.is_alphanumeric() || character == '_'
    }

    fn supports_nested_comments(&self) -> bool {
        true
    }

    fn supports_limit_comma(&self) -> bool {
        true
    }

    fn supports_string_escape_constant(&self) -> bool {
        true
    }

    fn supports_left_associative_joins_without_parens(&self) -> bool {
        true
    }
}

/// What `AS OF` names, before parameters are known.
#[derive(Clone, Debug, PartialEq)]
pub enum AsOfSyntax {
    Position(AsOfValue),
    Timestamp(AsOfValue),
    /// `HISTORY OF t`: every version.
    History,
    /// `DIFF OF t BETWEEN POSITION a AND b`.
    Diff(AsOfValue, AsOfValue),
    /// What the transaction that ended at a position made of the rows; never written in SQL.
    Returning {
        deleted: bool,
        at: AsOfValue,
    },
}

impl AsOfSyntax {
    /// How many parameters it needs: the largest number.
    #[must_use]
    pub fn parameters(&self) -> u16 {
        let of = |value: &AsOfValue| match value {
            AsOfValue::Parameter(index) => index + 1,
            AsOfValue::Number(_) | AsOfValue::Text(_) | AsOfValue::Null => 0,
        };
        match self {
            AsOfSyntax::Position(value)
            | AsOfSyntax::Timestamp(value)
            | AsOfSyntax::Returning { at: value, .. } => of(value),
            AsOfSyntax::History => 0,
            AsOfSyntax::Diff(from, to) => of(from).max(of(to)),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum AsOfValue {
    Number(String),
    Text(String),
    Null,
    /// From 0.
    Parameter(u16),
}

/// Whether a statement is to be told of, not only done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Explain {
    No,
    /// Its plan, instead of running it.
    Plan,
    /// Its plan, and what running it took; its rows are counted and thrown away.
    Analyze,
}

#[derive(Debug)]
pub struct Parsed {
    pub statement: ast::Statement,
    pub explain: Explain,
    pub as_of: Option<(AsOfSyntax, u32)>,
    /// Where the statement starts.
    pub start: u32,
}

/// Byte offset of a location of the tokenizer, which counts lines and characters from 1.
#[must_use]
pub fn offset(sql: &str, location: Location) -> Option<u32> {
    if location.line == 0 {
        return None;
    }
    let mut line_start = 0;
    for _ in 1..location.line {
        line_start += sql[line_start..].find('\n')? + 1;
    }
    let column = usize::try_from(location.column).ok()?.saturating_sub(1);
    let within = sql[line_start..].char_indices().nth(column).map(|(at, _)| at);
    u32::try_from(line_start + within.unwrap_or(sql.len() - line_start)).ok()
}

fn complex(message: String) -> SqlError {
    SqlError::new(SqlState::StatementTooComplex, message)
}

fn syntax(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::SyntaxError, message)
}

/// All statements of a text, each with its own tree.
pub fn parse(sql: &str) -> Result<Vec<Parsed>, SqlError> {
    let mut parsed = Vec::new();
    for tokens in statements(sql)? {
        parsed.push(parse_statement(sql, tokens)?);
    }
    Ok(parsed)
}

/// As `script::split`, by the tokenizer: what that one must agree with.
#[cfg(test)]
pub fn split(sql: &str) -> Result<Vec<core::ops::Range<usize>>, SqlError> {
    let at = |location| offset(sql, location).map_or(sql.len(), |offset| offset as usize);
    let range = |tokens: &Vec<TokenWithSpan>| {
        let (first, last) = (tokens.first()?, tokens.last()?);
        Some(at(first.span.start)..at(last.span.end))
    };
    Ok(tokenize(sql)?.iter().filter_map(range).collect())
}

/// The statement with `AS OF …` after its table; None: it is no SELECT of a table, or says so
/// already.
#[must_use]
pub fn with_as_of(sql: &str, as_of: &str) -> Option<String> {
    let statements = tokenize(sql).ok()?;
    let [tokens] = statements.as_slice() else { return None };
    let is = |at: usize, wanted| word(tokens.get(at)).as_deref() == Some(wanted);
    let explain = match (is(0, "explain"), is(1, "analyze")) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    };
    let travels = |pair: &[TokenWithSpan]| {
        word(pair.get(1)).as_deref() == Some("of")
            && matches!(word(pair.first()).as_deref(), Some("as" | "history" | "diff"))
    };
    if word(tokens.get(explain)).as_deref() != Some("select") || tokens.windows(2).any(travels) {
        return None;
    }
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            other if depth == 0 && keyword(other) == Some(Keyword::FROM) => {
                let table = tokens.get(at + 1)?;
                if let Token::Word(name) = &table.token
                    && !name.value.starts_with("__")
                {
                    let end = offset(sql, table.span.end)? as usize;
                    return Some(format!("{} AS OF {as_of}{}", &sql[..end], &sql[end..]));
                }
                return None;
            }
            _ => {}
        }
    }
    None
}

fn statements(sql: &str) -> Result<Vec<Vec<TokenWithSpan>>, SqlError> {
    let statements = tokenize(sql)?;
    if statements.len() > STATEMENTS_MAX {
        return Err(complex(format!(
            "{} statements in one request; at most {STATEMENTS_MAX} are allowed",
            statements.len()
        )));
    }
    Ok(statements)
}

fn tokenize(sql: &str) -> Result<Vec<Vec<TokenWithSpan>>, SqlError> {
    if sql.len() > SQL_SIZE_MAX {
        return Err(complex(format!(
            "the SQL text has {} bytes; at most {SQL_SIZE_MAX} are allowed",
            sql.len()
        ))
        .hint("send data as parameters, or import it from a file"));
    }
    let tokens = Tokenizer::new(&VerityDialect, sql).tokenize_with_location().map_err(|error| {
        let place = offset(sql, error.location).unwrap_or(0);
        syntax(error.message).at(place)
    })?;
    let mut statements = Vec::new();
    let mut current = Vec::new();
    let mut count = 0;
    for token in tokens {
        match token.token {
            Token::Whitespace(_) | Token::EOF => {}
            Token::SemiColon => {
                if !current.is_empty() {
                    statements.push(core::mem::take(&mut current));
                }
            }
            _ => {
                count += 1;
                if count > SQL_TOKENS_MAX {
                    let place = offset(sql, token.span.start).unwrap_or(0);
                    return Err(complex(format!("more than {SQL_TOKENS_MAX} tokens")).at(place));
                }
                current.push(token);
            }
        }
    }
    if !current.is_empty() {
        statements.push(current);
    }
    Ok(statements)
}

fn keyword(token: &Token) -> Option<Keyword> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.keyword),
        _ => None,
    }
}

/// The unquoted word, in lower case.
fn word(token: Option<&TokenWithSpan>) -> Option<String> {
    match &token?.token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_lowercase()),
        _ => None,
    }
}

fn parse_statement(sql: &str, mut tokens: Vec<TokenWithSpan>) -> Result<Parsed, SqlError> {
    let start = tokens.first().and_then(|token| offset(sql, token.span.start)).unwrap_or(0);
    let mut explain = Explain::No;
    if word(tokens.first()).as_deref() == Some("explain") {
        tokens.remove(0);
        explain = Explain::Plan;
        if word(tokens.first()).as_deref() == Some("analyze") {
            tokens.remove(0);
            explain = Explain::Analyze;
        }
    }
    tokens = take_job_statement(tokens)?;
    refuse_by_first_word(sql, &tokens)?;
    check_shape(sql, &tokens)?;
    number_parameters(sql, &mut tokens)?;
    let versions = take_versions(sql, &mut tokens)?;
    let as_of = match (versions, take_as_of(sql, &mut tokens)?) {
        (Some(_), Some((_, place))) => {
            return Err(syntax("HISTORY OF and DIFF OF take no AS OF")
                .at(place)
                .hint("for versions up to a position, add WHERE __position <= n"));
        }
        (versions, as_of) => versions.or(as_of),
    };
    let end = tokens.last().map_or(Location::new(1, 1), |token| token.span.end);
    // The parser reports "end of file" at this place.
    tokens.push(TokenWithSpan { token: Token::EOF, span: Span::new(end, end) });
    let mut parser = Parser::new(&VerityDialect)
        .with_recursion_limit(SQL_DEPTH_MAX + 8)
        .with_tokens_with_locations(tokens);
    let statement = parser.parse_statement().map_err(|error| parser_error(sql, error))?;
    let next = parser.peek_token();
    if next.token != Token::EOF {
        let place = offset(sql, next.span.start).unwrap_or(start);
        return Err(syntax(format!("unexpected {}", next.token)).at(place));
    }
    Ok(Parsed { statement, explain, as_of, start })
}

/// The parser's errors are text that may end in " at Line: 1, Column: 2".
fn parser_error(sql: &str, error: ParserError) -> SqlError {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => {
            return complex(format!("expressions nest deeper than {SQL_DEPTH_MAX}"));
        }
    };
    let place = text.rfind(" at Line: ").and_then(|at| {
        let (line, column) = text[at + " at Line: ".len()..].split_once(", Column: ")?;
        let location = Location::new(line.parse().ok()?, column.trim().parse().ok()?);
        Some((at, offset(sql, location)?))
    });
    match place {
        Some((at, place)) => syntax(text[..at].to_owned()).at(place),
        None => syntax(text),
    }
}

/// The name of an index that stands for a job; quoted, and no index has such a name.
pub const JOB_PREFIX: &str = "\"__job ";

/// `SHOW JOBS` is a SELECT, and `CANCEL JOB n` ends an index, in words that the grammar has.
fn take_job_statement(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>, SqlError> {
    let is = |at: usize, wanted| word(tokens.get(at)).as_deref() == Some(wanted);
    if is(0, "show") && is(1, "jobs") && tokens.len() == 2 {
        let mut select = tokenize("SELECT * FROM __jobs")?;
        return Ok(select.pop().unwrap_or(tokens));
    }
    if is(0, "cancel")
        && is(1, "job")
        && let [_, _, number] = tokens.as_slice()
        && let Token::Number(digits, false) = &number.token
        && digits.parse::<u32>().is_ok()
    {
        let name = format!("{}{digits}", JOB_PREFIX.trim_start_matches('"'));
        let as_name = Token::make_word(&name, Some('"'));
        let span = number.span;
        let words = [Token::make_keyword("DROP"), Token::make_keyword("INDEX"), as_name];
        return Ok(words.into_iter().map(|token| TokenWithSpan { token, span }).collect());
    }
    Ok(tokens)
}

const NO_SAVEPOINTS: &str =
    "a transaction is one request, all or nothing: send what may fail as a transaction of its own";

fn refuse_by_first_word(sql: &str, tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    let place = tokens.first().and_then(|token| offset(sql, token.span.start)).unwrap_or(0);
    let first = word(tokens.first()).unwrap_or_default();
    let second = word(tokens.get(1)).unwrap_or_default();
    let refuse = |what: &str, hint: &str| {
        Err(SqlError::new(SqlState::FeatureNotSupported, format!("{what} is not supported"))
            .at(place)
            .hint(hint))
    };
    match (first.as_str(), second.as_str()) {
        ("select" | "insert" | "update" | "delete", _)
        | ("create" | "drop", "table" | "index" | "unique")
        | ("alter", "table") => Ok(()),
        ("savepoint" | "release", _) => refuse(&first.to_ascii_uppercase(), NO_SAVEPOINTS),
        ("rollback", _)
            if tokens.iter().any(|token| word(Some(token)).as_deref() == Some("to")) =>
        {
            refuse("ROLLBACK TO", NO_SAVEPOINTS)
        }
        ("begin" | "start" | "commit" | "end" | "rollback" | "abort", _) => refuse(
            "transaction control",
            "the statements of one request are one transaction: send them together",
        ),
        ("explain", _) => refuse("EXPLAIN of EXPLAIN", "write EXPLAIN once"),
        ("analyze", _) => refuse("ANALYZE", "trees count their entries: there is nothing to do"),
        ("with", _) => refuse("WITH", "there are no subqueries: send one statement at a time"),
        ("values", _) => refuse("VALUES alone", "write SELECT, or INSERT INTO … VALUES"),
        ("create" | "drop", _) => {
            refuse("this statement", "tables and indexes are what can be created")
        }
        ("alter", _) => refuse("this ALTER", "write ALTER TABLE t ADD COLUMN …"),
        ("truncate", _) => refuse("TRUNCATE", "write DELETE FROM …, or DROP TABLE"),
        ("merge" | "replace" | "upsert", _) => {
            refuse("this statement", "write INSERT … ON CONFLICT … DO UPDATE")
        }
        ("cancel", _) => refuse("this statement", "write CANCEL JOB and its number"),
        ("show" | "describe" | "desc" | "pragma", _) => {
            refuse("this statement", "query __tables and __columns, or SHOW JOBS")
        }
        ("history" | "diff", "of") => Ok(()),
        ("set" | "reset", _) => refuse("SET", "there are no session settings"),
        _ => {
            let shown = tokens.first().map_or(String::new(), |token| token.token.to_string());
            Err(syntax(format!("a statement does not start with {shown}")).at(place).hint(
                "statements are SELECT, INSERT, UPDATE, DELETE, CREATE TABLE, DROP TABLE, \
                       EXPLAIN",
            ))
        }
    }
}

/// Nesting and runs of operators, before any of it is parsed.
fn check_shape(sql: &str, tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    // Per open level: operators since the last AND, OR or comma; ANDs and ORs since the last comma.
    // The flag: opened by CASE, so that only END closes it.
    let mut levels: Vec<(usize, usize, bool)> = Vec::from([(0, 0, false)]);
    let mut previous: Option<Keyword> = None;
    for token in tokens {
        let place = || offset(sql, token.span.start).unwrap_or(0);
        let Some(level) = levels.last_mut() else { unreachable!("the outermost level stays") };
        match (&token.token, keyword(&token.token)) {
            (Token::LParen | Token::LBracket | Token::LBrace, _) | (_, Some(Keyword::CASE)) => {
                if levels.len() > SQL_DEPTH_MAX {
                    let message = format!("expressions nest deeper than {SQL_DEPTH_MAX}");
                    return Err(complex(message).at(place()));
                }
                levels.push((0, 0, keyword(&token.token).is_some()));
            }
            (Token::RParen | Token::RBracket | Token::RBrace, _) => {
                while levels.len() > 1 && levels.pop().is_some_and(|level| level.2) {}
            }
            (_, Some(Keyword::END)) => {
                if level.2 {
                    levels.pop();
                }
            }
            (Token::Comma, _) => (level.0, level.1) = (0, 0),
            (_, Some(Keyword::AND | Keyword::OR)) => {
                level.0 = 0;
                level.1 += 1;
                if level.1 > SQL_TERMS_MAX {
                    let message = format!("more than {SQL_TERMS_MAX} terms in one condition");
                    return Err(complex(message).at(place()).hint("write … IN (…, …)"));
                }
            }
            (Token::Lt, _)
                if matches!(
                    previous,
                    Some(Keyword::ARRAY | Keyword::STRUCT | Keyword::MAP | Keyword::TABLE)
                ) =>
            {
                let message = "ARRAY, STRUCT and MAP types are not supported";
                return Err(SqlError::new(SqlState::FeatureNotSupported, message)
                    .at(place())
                    .hint("store such values as JSON"));
            }
            (
                Token::Word(_)
                | Token::Number(..)
                | Token::SingleQuotedString(_)
                | Token::Placeholder(_)
                | Token::Period,
                Some(
                    Keyword::NOT
                    | Keyword::IS
                    | Keyword::BETWEEN
                    | Keyword::LIKE
                    | Keyword::ILIKE
                    | Keyword::COLLATE
                    | Keyword::UNION
                    | Keyword::EXCEPT
                    | Keyword::INTERSECT
                    | Keyword::JOIN
                    | Keyword::IN,
                ),
            ) => level.0 += 1,
            (
                Token::Word(_)
                | Token::Number(..)
                | Token::SingleQuotedString(_)
                | Token::Placeholder(_)
                | Token::Period,
                _,
            ) => {}
            _ => level.0 += 1,
        }
        if levels.last().is_some_and(|level| level.0 > SQL_OPERATORS_MAX) {
            let message = format!("more than {SQL_OPERATORS_MAX} operators follow one another");
            return Err(complex(message).at(place()).hint("use parentheses or fewer of them"));
        }
        previous = keyword(&token.token);
    }
    Ok(())
}

/// `?` takes the next number, `?3` and `$3` name theirs; all become `$n`.
fn number_parameters(sql: &str, tokens: &mut [TokenWithSpan]) -> Result<(), SqlError> {
    let mut largest: usize = 0;
    for token in tokens {
        let Token::Placeholder(text) = &token.token else { continue };
        let digits = &text[1..];
        let number = if digits.is_empty() && text.starts_with('?') {
            Some(largest + 1)
        } else {
            digits.parse().ok().filter(|number| *number > 0)
        };
        let place = || offset(sql, token.span.start).unwrap_or(0);
        let Some(number) = number else {
            return Err(syntax(format!("{text} is not a parameter"))
                .at(place())
                .hint("parameters are ?, ?1 or $1, counted from 1"));
        };
        if number > SQL_PARAMETERS_MAX {
            return Err(complex(format!("at most {SQL_PARAMETERS_MAX} parameters")).at(place()));
        }
        largest = largest.max(number);
        token.token = Token::Placeholder(format!("${number}"));
    }
    Ok(())
}

/// The place of a parameter that [`number_parameters`] has numbered, from 0.
#[must_use]
pub fn parameter_index(placeholder: &str) -> Option<u16> {
    placeholder.strip_prefix('$')?.parse::<u16>().ok()?.checked_sub(1)
}

/// `HISTORY OF t` as a statement reads like `SELECT * FROM HISTORY OF t`; within FROM the two words
/// are taken out and remembered. `DIFF OF t BETWEEN POSITION a AND b` likewise.
fn take_versions(
    sql: &str,
    tokens: &mut Vec<TokenWithSpan>,
) -> Result<Option<(AsOfSyntax, u32)>, SqlError> {
    let is = |tokens: &[TokenWithSpan], at: usize, text: &str| {
        word(tokens.get(at)).as_deref() == Some(text)
    };
    let mut found = None;
    let mut at = 0;
    while at + 1 < tokens.len() {
        let kind = word(tokens.get(at));
        let kind = kind.as_deref().filter(|kind| matches!(*kind, "history" | "diff"));
        let after_from = at == 0 || is(tokens, at - 1, "from");
        let (Some(kind), true, true) = (kind, after_from, is(tokens, at + 1, "of")) else {
            at += 1;
            continue;
        };
        let is_diff = kind == "diff";
        let span = tokens[at].span;
        let place = offset(sql, span.start).unwrap_or(0);
        if found.is_some() {
            return Err(syntax("one table at a time").at(place));
        }
        tokens.drain(at..at + 2);
        if at == 0 {
            let text = |text: &str| TokenWithSpan { token: Token::make_keyword(text), span };
            let star = TokenWithSpan { token: Token::Mul, span };
            tokens.splice(0..0, [text("SELECT"), star, text("FROM")]);
            at = 3;
        }
        found = Some(if is_diff {
            // The table's name, of one part, comes first.
            (take_between(sql, tokens, at + 1)?, place)
        } else {
            (AsOfSyntax::History, place)
        });
    }
    Ok(found)
}

/// `BETWEEN POSITION a AND b`, which stands at `at`.
fn take_between(
    sql: &str,
    tokens: &mut Vec<TokenWithSpan>,
    at: usize,
) -> Result<AsOfSyntax, SqlError> {
    let end = offset(sql, tokens.last().map_or(Location::new(1, 1), |token| token.span.end));
    let place = |tokens: &[TokenWithSpan], at: usize| {
        tokens.get(at).and_then(|token| offset(sql, token.span.start)).or(end).unwrap_or(0)
    };
    let expect = |tokens: &[TokenWithSpan], at: usize, text: &str| {
        if word(tokens.get(at)).as_deref() == Some(text) {
            return Ok(());
        }
        Err(syntax(format!("{} is expected here", text.to_uppercase()))
            .at(place(tokens, at))
            .hint("DIFF OF t BETWEEN POSITION 17 AND 42"))
    };
    expect(tokens, at, "between")?;
    expect(tokens, at + 1, "position")?;
    let mut next = at + 2;
    let mut values = Vec::new();
    for last in [false, true] {
        let Some((value, size)) = as_of_value(&tokens[next.min(tokens.len())..]) else {
            return Err(syntax("a position is expected here").at(place(tokens, next)));
        };
        values.push(value);
        next += size;
        if !last {
            expect(tokens, next, "and")?;
            next += 1;
        }
    }
    tokens.drain(at..next);
    let (Some(to), Some(from)) = (values.pop(), values.pop()) else {
        unreachable!("two values were read")
    };
    Ok(AsOfSyntax::Diff(from, to))
}

/// A number with its sign, a text, a parameter or NULL, and how many tokens it takes.
fn as_of_value(tokens: &[TokenWithSpan]) -> Option<(AsOfValue, usize)> {
    let negative = tokens.first().map(|token| &token.token) == Some(&Token::Minus);
    let at = usize::from(negative);
    let value = match &tokens.get(at)?.token {
        Token::Number(number, _) => {
            let sign = if negative { "-" } else { "" };
            AsOfValue::Number(format!("{sign}{number}"))
        }
        Token::SingleQuotedString(text) if !negative => AsOfValue::Text(text.clone()),
        Token::Placeholder(text) if !negative => AsOfValue::Parameter(parameter_index(text)?),
        token if keyword(token) == Some(Keyword::NULL) && !negative => AsOfValue::Null,
        _ => return None,
    };
    Some((value, at + 1))
}

fn take_as_of(
    sql: &str,
    tokens: &mut Vec<TokenWithSpan>,
) -> Result<Option<(AsOfSyntax, u32)>, SqlError> {
    let mut found = None;
    let mut at = 0;
    while at + 2 < tokens.len() {
        let is_as_of = word(tokens.get(at)).as_deref() == Some("as")
            && word(tokens.get(at + 1)).as_deref() == Some("of");
        let kind = word(tokens.get(at + 2));
        let kind =
            kind.as_deref().filter(|kind| is_as_of && matches!(*kind, "position" | "timestamp"));
        let Some(kind) = kind else {
            at += 1;
            continue;
        };
        let place = offset(sql, tokens[at].span.start).unwrap_or(0);
        let after_from =
            tokens[..at].iter().any(|token| keyword(&token.token) == Some(Keyword::FROM));
        if found.is_some() || !after_from {
            return Err(syntax("AS OF belongs once, after the table of a SELECT").at(place));
        }
        let is_position = kind == "position";
        let mut size = 3;
        // AS OF TIMESTAMP TIMESTAMP '…' is what a careful writer might write.
        if !is_position && word(tokens.get(at + size)).as_deref() == Some("timestamp") {
            size += 1;
        }
        let Some((value, value_size)) = as_of_value(&tokens[(at + size).min(tokens.len())..])
        else {
            let place = tokens.get(at + size).and_then(|token| offset(sql, token.span.start));
            return Err(syntax("AS OF needs a number, a text or a parameter")
                .at(place.unwrap_or(sql.len() as u32))
                .hint(
                    "AS OF POSITION 42, AS OF TIMESTAMP '2026-11-21 02:05:04', AS OF POSITION ?",
                ));
        };
        tokens.drain(at..at + size + value_size);
        let syntax =
            if is_position { AsOfSyntax::Position(value) } else { AsOfSyntax::Timestamp(value) };
        found = Some((syntax, place));
    }
    Ok(found)
}
