//! LIKE: `%` any run of characters, `_` one character, an escape character before either.
//!
//! The pattern is cut at each `%`. Its first part stands at the start of the text, its last at the
//! end, those between are looked for from left to right, each at its first place behind the one
//! before: parts have a fixed number of characters, so a later place never helps.
//!
//! Invariants: no recursion. A part without `_` is found in linear time; one with `_` takes at most
//! the product of both lengths, and is refused, whatever the text holds, where that passes
//! `LIKE_STEPS_MAX`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::limits::LIKE_STEPS_MAX;
use crate::query::error::{SqlError, SqlState};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Run,
    Any,
    Exactly(char),
}

/// What stands between two `%`.
enum Part {
    Plain(String),
    /// `None`: any character.
    Wild(Vec<Option<char>>),
}

impl Part {
    fn new(tokens: &[Token]) -> Part {
        let character = |token: &Token| match token {
            Token::Exactly(character) => Some(*character),
            Token::Any | Token::Run => None,
        };
        if tokens.contains(&Token::Any) {
            Part::Wild(tokens.iter().map(character).collect())
        } else {
            Part::Plain(tokens.iter().filter_map(character).collect())
        }
    }

    /// What is left of a text that begins with it.
    fn after<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Part::Plain(plain) => text.strip_prefix(plain.as_str()),
            Part::Wild(wild) => {
                let mut rest = text.chars();
                for wanted in wild {
                    let found = rest.next()?;
                    if wanted.is_some_and(|wanted| wanted != found) {
                        return None;
                    }
                }
                Some(rest.as_str())
            }
        }
    }

    /// What is left of a text that ends with it.
    fn before<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Part::Plain(plain) => text.strip_suffix(plain.as_str()),
            Part::Wild(wild) => {
                let mut rest = text.chars();
                for wanted in wild.iter().rev() {
                    let found = rest.next_back()?;
                    if wanted.is_some_and(|wanted| wanted != found) {
                        return None;
                    }
                }
                Some(rest.as_str())
            }
        }
    }

    /// What is left behind its first place.
    fn behind<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Part::Plain(plain) => text.find(plain.as_str()).map(|at| &text[at + plain.len()..]),
            Part::Wild(_) => text.char_indices().find_map(|(at, _)| self.after(&text[at..])),
        }
    }
}

/// Without ESCAPE, the escape character is the backslash, as in PostgreSQL.
pub fn like(
    text: &str,
    pattern: &str,
    escape: Option<char>,
    ignore_case: bool,
) -> Result<bool, SqlError> {
    let tokens = parse(pattern, escape.unwrap_or('\\'), ignore_case)?;
    let folded: String;
    let text = if ignore_case {
        folded = text.chars().flat_map(char::to_lowercase).collect();
        folded.as_str()
    } else {
        text
    };
    let parts: Vec<Part> = tokens.split(|token| *token == Token::Run).map(Part::new).collect();
    let [first, between @ .., last] = parts.as_slice() else {
        return Ok(parts.first().and_then(|whole| whole.after(text)) == Some(""));
    };
    let wild = between.iter().map(|part| match part {
        Part::Plain(_) => 0,
        Part::Wild(wild) => wild.len(),
    });
    let longest = wild.max().unwrap_or(0);
    // Bytes are at least the characters; counting those costs a walk, and only where it matters.
    if text.len().saturating_mul(longest) > LIKE_STEPS_MAX
        && text.chars().count().saturating_mul(longest) > LIKE_STEPS_MAX
    {
        return Err(SqlError::new(
            SqlState::StatementTooComplex,
            format!(
                "LIKE would look for {longest} characters with _ among them in a text of {} bytes",
                text.len()
            ),
        )
        .hint("leave out _, or make the text or the pattern shorter"));
    }
    let Some(mut rest) = first.after(text).and_then(|rest| last.before(rest)) else {
        return Ok(false);
    };
    for part in between {
        let Some(behind) = part.behind(rest) else { return Ok(false) };
        rest = behind;
    }
    Ok(true)
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
    use alloc::format;
    use alloc::string::String;
    use alloc::vec;
    use alloc::vec::Vec;

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

    /// By definition: a row of the table for each character of the pattern.
    fn by_definition(text: &str, pattern: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let mut holds = vec![false; text.len() + 1];
        holds[0] = true;
        for character in pattern.chars() {
            let mut next = vec![false; text.len() + 1];
            for at in 0..=text.len() {
                next[at] = match character {
                    '%' => holds[at] || (at > 0 && next[at - 1]),
                    '_' => at > 0 && holds[at - 1],
                    other => at > 0 && holds[at - 1] && text[at - 1] == other,
                };
            }
            holds = next;
        }
        holds[text.len()]
    }

    #[test]
    fn all_short_patterns_are_as_defined() {
        let all = |alphabet: &[char], length: u32| -> Vec<String> {
            let count = alphabet.len();
            let words = (0..=length).flat_map(|size| (0..count.pow(size)).map(move |n| (n, size)));
            let word = |(mut n, size): (usize, u32)| {
                let mut letters = || {
                    let letter = alphabet[n % count];
                    n /= count;
                    letter
                };
                (0..size).map(|_| letters()).collect()
            };
            words.map(word).collect()
        };
        let texts = all(&['a', 'é'], 5);
        for pattern in all(&['a', 'é', '_', '%'], 5) {
            for text in &texts {
                let expected = Ok(by_definition(text, &pattern));
                assert_eq!(like(text, &pattern, None, false), expected, "{text} {pattern}");
            }
        }
    }

    #[test]
    fn time_is_linear_or_refused() {
        let text = "a".repeat(400_000);
        let tail = "a".repeat(200_000);
        // Place by place this would be 4 · 10^10 steps: minutes.
        assert_eq!(like(&text, &format!("%{tail}b%"), None, false), Ok(false));
        assert_eq!(like(&text, &format!("%{tail}%{tail}%"), None, false), Ok(true));
        // Anchored parts are looked at once.
        assert_eq!(like(&text, &format!("_{tail}%{tail}_"), None, false), Ok(false));
        let error = like(&text, &format!("%{tail}_b%"), None, false).unwrap_err();
        assert_eq!(error.code.code(), "54001");
        // By lengths alone: a text that would not match at its first character is refused as well.
        assert!(like(&"b".repeat(400_000), &format!("%{tail}_b%"), None, false).is_err());
        assert_eq!(like(&text, "%a_a%", None, false), Ok(true));
    }
}
