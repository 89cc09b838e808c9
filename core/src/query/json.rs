//! JSON as it was written: checked once when it comes in, then looked into without being copied.
//!
//! Invariants: text accepted by [`validate`] is RFC 8259 JSON nested at most `JSON_DEPTH_MAX` deep;
//! nothing here recurses. Members are found in written order; of duplicates the last counts, as in
//! PostgreSQL's jsonb.

use alloc::string::String;

use crate::limits::JSON_DEPTH_MAX;

/// Offset of the first byte that cannot be JSON.
pub fn validate(text: &str) -> Result<(), usize> {
    let bytes = text.as_bytes();
    let end = skip_value(bytes, skip_blank(bytes, 0))?;
    let end = skip_blank(bytes, end);
    if end == bytes.len() { Ok(()) } else { Err(end) }
}

fn skip_blank(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    Array,
    Object,
}

/// End of the value that starts at `at`.
fn skip_value(bytes: &[u8], mut at: usize) -> Result<usize, usize> {
    let mut frames = [Frame::Array; JSON_DEPTH_MAX];
    let mut depth = 0;
    loop {
        // A value starts here.
        match bytes.get(at) {
            Some(open @ (b'[' | b'{')) => {
                if depth == JSON_DEPTH_MAX {
                    return Err(at);
                }
                frames[depth] = if *open == b'[' { Frame::Array } else { Frame::Object };
                let after = skip_blank(bytes, at + 1);
                let close = if *open == b'[' { b']' } else { b'}' };
                if bytes.get(after) == Some(&close) {
                    at = after + 1;
                } else {
                    depth += 1;
                    at = if *open == b'[' { after } else { skip_member_name(bytes, after)? };
                    continue;
                }
            }
            Some(_) => at = skip_scalar(bytes, at)?,
            None => return Err(at),
        }
        // A value ended here.
        loop {
            if depth == 0 {
                return Ok(at);
            }
            at = skip_blank(bytes, at);
            match (bytes.get(at), frames[depth - 1]) {
                (Some(b','), Frame::Array) => {
                    at = skip_blank(bytes, at + 1);
                    break;
                }
                (Some(b','), Frame::Object) => {
                    at = skip_member_name(bytes, skip_blank(bytes, at + 1))?;
                    break;
                }
                (Some(b']'), Frame::Array) | (Some(b'}'), Frame::Object) => {
                    at += 1;
                    depth -= 1;
                }
                (_, Frame::Array | Frame::Object) => return Err(at),
            }
        }
    }
}

/// From the opening quote of a member's name to the start of its value.
fn skip_member_name(bytes: &[u8], at: usize) -> Result<usize, usize> {
    let at = skip_blank(bytes, skip_string(bytes, at)?);
    if bytes.get(at) == Some(&b':') { Ok(skip_blank(bytes, at + 1)) } else { Err(at) }
}

fn skip_scalar(bytes: &[u8], at: usize) -> Result<usize, usize> {
    let word =
        |word: &[u8]| if bytes[at..].starts_with(word) { Ok(at + word.len()) } else { Err(at) };
    match bytes.get(at) {
        Some(b'"') => skip_string(bytes, at),
        Some(b't') => word(b"true"),
        Some(b'f') => word(b"false"),
        Some(b'n') => word(b"null"),
        Some(_) => skip_number(bytes, at),
        None => Err(at),
    }
}

fn skip_string(bytes: &[u8], start: usize) -> Result<usize, usize> {
    if bytes.get(start) != Some(&b'"') {
        return Err(start);
    }
    let mut at = start + 1;
    loop {
        match bytes.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => match bytes.get(at + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
                Some(b'u') => {
                    let hex = bytes.get(at + 2..at + 6).ok_or(at)?;
                    if !hex.iter().all(u8::is_ascii_hexdigit) {
                        return Err(at);
                    }
                    at += 6;
                }
                Some(_) | None => return Err(at),
            },
            Some(0..0x20) | None => return Err(at),
            Some(_) => at += 1,
        }
    }
}

fn skip_number(bytes: &[u8], start: usize) -> Result<usize, usize> {
    let run = |mut at: usize| {
        let from = at;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        if at == from { Err(at) } else { Ok(at) }
    };
    let mut at = start + usize::from(bytes.get(start) == Some(&b'-'));
    at = if bytes.get(at) == Some(&b'0') { at + 1 } else { run(at)? };
    if bytes.get(at) == Some(&b'.') {
        at = run(at + 1)?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        if matches!(bytes.get(at), Some(b'+' | b'-')) {
            at += 1;
        }
        at = run(at)?;
    }
    Ok(at)
}

/// The raw text of a member of an object. `json` has been validated.
#[must_use]
pub fn member<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let bytes = json.as_bytes();
    let mut at = skip_blank(bytes, 0);
    if bytes.get(at) != Some(&b'{') {
        return None;
    }
    let mut found = None;
    at = skip_blank(bytes, at + 1);
    while bytes.get(at) == Some(&b'"') {
        let name_end = skip_string(bytes, at).ok()?;
        let matches = unescape(&json[at..name_end]) == name;
        let start = skip_member_name(bytes, at).ok()?;
        let end = skip_value(bytes, start).ok()?;
        if matches {
            found = Some(&json[start..end]);
        }
        at = skip_blank(bytes, end);
        if bytes.get(at) != Some(&b',') {
            break;
        }
        at = skip_blank(bytes, at + 1);
    }
    found
}

/// The raw text of an element of an array; a negative index counts from the end.
#[must_use]
pub fn element(json: &str, index: i64) -> Option<&str> {
    let wanted = if index < 0 { length(json)? as i64 + index } else { index };
    let mut at = 0;
    elements(json, |text| {
        let found = at == wanted;
        at += 1;
        found.then_some(text)
    })
}

/// Number of elements of an array.
#[must_use]
pub fn length(json: &str) -> Option<usize> {
    if json.trim_start().as_bytes().first() != Some(&b'[') {
        return None;
    }
    let mut count = 0;
    let stopped: Option<()> = elements(json, |_| {
        count += 1;
        None
    });
    debug_assert!(stopped.is_none());
    Some(count)
}

fn elements<'a, T>(json: &'a str, mut visit: impl FnMut(&'a str) -> Option<T>) -> Option<T> {
    let bytes = json.as_bytes();
    let mut at = skip_blank(bytes, 0);
    if bytes.get(at) != Some(&b'[') {
        return None;
    }
    at = skip_blank(bytes, at + 1);
    while bytes.get(at) != Some(&b']') {
        let end = skip_value(bytes, at).ok()?;
        if let Some(found) = visit(&json[at..end]) {
            return Some(found);
        }
        at = skip_blank(bytes, end);
        if bytes.get(at) == Some(&b',') {
            at = skip_blank(bytes, at + 1);
        }
    }
    None
}

/// What `->>` shows: strings without quotes, `null` as NULL, the rest as written.
#[must_use]
pub fn as_text(raw: &str) -> Option<String> {
    match raw.as_bytes().first() {
        Some(b'"') => Some(unescape(raw)),
        Some(b'n') => None,
        Some(_) | None => Some(String::from(raw)),
    }
}

fn unescape(quoted: &str) -> String {
    let inner = &quoted[1..quoted.len() - 1];
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest.as_bytes()[at + 1];
        rest = &rest[at + 2..];
        match escape {
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => {
                let unit = hex(rest);
                rest = &rest[4..];
                let mut code = unit;
                if (0xd800..0xdc00).contains(&unit) && rest.starts_with("\\u") {
                    let low = hex(&rest[2..]);
                    if (0xdc00..0xe000).contains(&low) {
                        code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                        rest = &rest[6..];
                    }
                }
                // A lone surrogate is legal JSON and no character.
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            other => out.push(char::from(other)),
        }
    }
    out.push_str(rest);
    out
}

fn hex(text: &str) -> u32 {
    u32::from_str_radix(&text[..4], 16).unwrap_or(0)
}

/// Appends text as a JSON string.
pub fn write_string(text: &str, out: &mut String) {
    use core::fmt::Write;
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if u32::from(control) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::{as_text, element, member, validate};

    #[test]
    fn accepts_json_and_only_json() {
        for good in
            ["1", "-0.5e+3", "null", " [ ] ", "{}", r#"{"a":[1,{"b":"\u00e9\n"}],"c":true}"#]
        {
            assert_eq!(validate(good), Ok(()), "{good}");
            assert!(serde_json::from_str::<serde_json::Value>(good).is_ok());
        }
        for bad in [
            "",
            "01",
            "1.",
            "[1,]",
            "{\"a\"}",
            "{a:1}",
            "'x'",
            "[1 2]",
            "\"\u{1}\"",
            "nul",
            "\"\\x\"",
            "1 1",
        ] {
            assert!(validate(bad).is_err(), "{bad}");
            assert!(serde_json::from_str::<serde_json::Value>(bad).is_err(), "{bad}");
        }
        let deep = "[".repeat(100_000);
        assert!(validate(&deep).is_err());
    }

    #[test]
    fn looks_inside() {
        let json =
            r#" {"a": {"b": [10, "x\u00e9\ud83d\ude00", null]}, "a\n": 2, "a": {"b": [1,"y\t"]}} "#;
        let b = member(member(json, "a").unwrap(), "b").unwrap();
        assert_eq!(element(b, 0), Some("1"));
        assert_eq!(as_text(element(b, -1).unwrap()).as_deref(), Some("y\t"));
        assert_eq!(member(json, "a\n"), Some("2"));
        assert_eq!(element(b, 2), None);
        assert_eq!(element(b, -3), None);
        assert_eq!(member("[1]", "a"), None);
        assert_eq!(element("{}", 0), None);
    }
}
