//! LIKE: `%` any run of characters, `_` one character, an escape character before either.
//!
//! Invariant: no recursion; one backtrack point (the last `%`), so time is at most the product of
//! both lengths.

use alloc::vec::Vec;

use crate::query::error::{SqlError, SqlState};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Run,
    Any,
    Exactly(char),
}

/// Without ESCAPE, the escape character is the backslash, as in PostgreSQL.
pub fn like(
    text: &str,
    pattern: &str,
    escape: Option<char>,
    ignore_case: bool,
) -> Result<bool, SqlError> {
    let tokens = parse(pattern, escape.unwrap_or('\\'), ignore_case)?;
    let text: Vec<char> = if ignore_case {
        text.chars().flat_map(char::to_lowercase).collect()
    } else {
        text.chars().collect()
    };
    let (mut at, mut token) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while at < text.len() {
        match tokens.get(token) {
            Some(Token::Run) => {
                token += 1;
                retry = Some((at, token));
                continue;
            }
            Some(Token::Any) => {
                at += 1;
                token += 1;
                continue;
            }
            Some(Token::Exactly(character)) if *character == text[at] => {
                at += 1;
                token += 1;
                continue;
            }
            Some(Token::Exactly(_)) | None => {}
        }
        let Some((from, after)) = retry else { return Ok(false) };
        at = from + 1;
        token = after;
        retry = Some((at, after));
    }
    Ok(tokens[token..].iter().all(|token| *token == Token::Run))
}

fn parse(pattern: &str, escape: char, ignore_case: bool) -> Result<Vec<Token>, SqlError> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        let token = if character == escape {
            match characters.next() {
                Some(literal) => Token::Exactly(literal),
                None => {
                    return Err(SqlError::new(
                        SqlState::InvalidEscape,
                        "the LIKE pattern ends in its escape character",
                    ));
                }
            }
        } else {
            match character {
                '%' => Token::Run,
                '_' => Token::Any,
                other => Token::Exactly(other),
            }
        };
        match token {
            Token::Run if tokens.last() == Some(&Token::Run) => {}
            Token::Exactly(character) if ignore_case => {
                tokens.extend(character.to_lowercase().map(Token::Exactly));
            }
            token => tokens.push(token),
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::like;

    #[test]
    fn patterns() {
        let cases = [
            ("abc", "abc", true),
            ("abc", "a%", true),
            ("abc", "%c", true),
            ("abc", "%b%", true),
            ("abc", "a_c", true),
            ("abc", "a_", false),
            ("", "", true),
            ("", "%", true),
            ("", "_", false),
            ("aab", "%a_", true),
            ("mississippi", "%iss%ip%", true),
            ("mississippi", "%iss%ipx%", false),
            ("50%", "50\\%", true),
            ("50x", "50\\%", false),
            ("éa", "_a", true),
        ];
        for (text, pattern, expected) in cases {
            assert_eq!(like(text, pattern, None, false), Ok(expected), "{text} {pattern}");
        }
        assert_eq!(like("ABC", "a%", None, true), Ok(true));
        assert_eq!(like("a%", "a!%", Some('!'), false), Ok(true));
        assert!(like("a", "a\\", None, false).is_err());
    }
}
