//! What makes two failures one: the kind, the place, and the words without what a seed draws.
//!
//! Purpose: a campaign counts causes, not seeds. Invariant: two runs that failed in the same place
//! for the same reason have one signature, whatever numbers, names and rows their seeds drew. Two
//! causes that say the same words in one place are not told apart.

use serde_json::Value;

/// Longer than any first line that tells causes apart.
const CHARACTERS_MAX: usize = 160;
/// Digits of hex in a row that are a hash or an id and no word.
const HEX_MIN: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature(String);

impl Signature {
    /// Of a verdict as a worker prints it; none when the run held.
    pub fn of(verdict: &Value) -> Option<Signature> {
        if verdict["ok"] == Value::Bool(true) {
            return None;
        }
        let kind = verdict["failure_kind"].as_str().unwrap_or("died");
        let words = verdict["failure"].as_str().unwrap_or("");
        let words = words.strip_prefix(kind).and_then(|rest| rest.strip_prefix(": "));
        let words = words.unwrap_or_else(|| verdict["failure"].as_str().unwrap_or(""));
        Some(Signature::new(kind, words))
    }

    pub fn new(kind: &str, words: &str) -> Signature {
        let first = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
        // A panic tells its place last, and its words may have many lines.
        let place = (kind == "panic").then(|| place_of(words)).flatten();
        let first = match place {
            Some(place) => first.strip_suffix(&format!(" at {place}")).unwrap_or(first),
            None => first,
        };
        let plain = normalised(first);
        // Clusters say whose words these are.
        let plain = plain.strip_prefix("seed #: ").unwrap_or(&plain);
        Signature(match place {
            Some(place) => format!("{kind} at {place}: {plain}"),
            None => format!("{kind}: {plain}"),
        })
    }

    /// As it was written to a file.
    pub fn read(text: String) -> Signature {
        Signature(text)
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    /// For names of files.
    pub fn hash_hex(&self) -> String {
        blake3::hash(self.0.as_bytes()).to_hex()[..16].to_owned()
    }
}

/// `core/src/x.rs:17`, behind the last " at ".
fn place_of(words: &str) -> Option<&str> {
    let place = words.rsplit_once(" at ")?.1.trim_end();
    let (file, line) = place.rsplit_once(':')?;
    let is_place = file.ends_with(".rs") && !line.is_empty();
    (is_place && line.bytes().all(|byte| byte.is_ascii_digit())).then_some(place)
}

/// Without quoted texts, without what stands in brackets, without numbers and hashes.
fn normalised(line: &str) -> String {
    let mut plain = String::new();
    let mut depth = 0_usize;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                // Up to the closing quote; an escaped one closes nothing.
                while let Some(inner) = characters.next() {
                    match inner {
                        '\\' => drop(characters.next()),
                        '"' => break,
                        _ => {}
                    }
                }
                if depth == 0 {
                    plain.push_str("\"…\"");
                }
            }
            '(' | '[' | '{' => {
                if depth == 0 {
                    plain.push(character);
                    plain.push('…');
                }
                depth += 1;
            }
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    plain.push(character);
                }
            }
            _ if depth > 0 => {}
            _ if character.is_ascii_alphanumeric() => {
                let mut word = String::from(character);
                while let Some(next) = characters.next_if(char::is_ascii_alphanumeric) {
                    word.push(next);
                }
                plain.push_str(&without_numbers(&word));
            }
            _ => plain.push(character),
        }
    }
    let words: Vec<&str> = plain.split_whitespace().collect();
    words.join(" ").chars().take(CHARACTERS_MAX).collect()
}

/// `t17` is `t#`, and a hash is `#`.
fn without_numbers(word: &str) -> String {
    let hex = word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digits = word.bytes().any(|byte| byte.is_ascii_digit());
    if hex && digits && word.len() >= HEX_MIN {
        return "#".to_owned();
    }
    let mut plain = String::new();
    for character in word.chars() {
        if !character.is_ascii_digit() {
            plain.push(character);
        } else if !plain.ends_with('#') {
            plain.push('#');
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::Signature;
    use serde_json::json;

    fn check(kind: &str, words: &str, expected: &str) {
        assert_eq!(Signature::new(kind, words).text(), expected);
    }

    #[test]
    fn what_a_seed_draws_is_not_part_of_it() {
        check(
            "wrong",
            "tenant 3: position 551: answered [[Integer(5), Text(\"a]b\")]], the model [[]]",
            "wrong: tenant #: position #: answered […], the model […]",
        );
        check(
            "wrong",
            "seed 77: node 2 has \"t9 \\\" WHERE\" and 0123456789abcdef\nseed 77 at 5 ms\n  0: …",
            "wrong: node # has \"…\" and #",
        );
        check("twin", "the grids of nodes 0 and 2 differ in page 17", {
            "twin: the grids of nodes # and # differ in page #"
        });
        check("lost", "Deadbeef is a word, deadbee5 none", "lost: Deadbeef is a word, # none");
    }

    #[test]
    fn a_panic_is_where_it_was() {
        check(
            "panic",
            "assertion `left == right` failed: op 9\n  left: 3\n right: 4 at core/src/vsr.rs:120",
            "panic at core/src/vsr.rs:120: assertion `left == right` failed: op #",
        );
        check(
            "panic",
            "nothing 7 left at core/src/a.rs:9",
            "panic at core/src/a.rs:9: nothing # left",
        );
        check("panic", "looked at 5:7", "panic: looked at #:#");
        assert_ne!(
            Signature::new("panic", "same words at core/src/a.rs:9"),
            Signature::new("panic", "same words at core/src/a.rs:10"),
        );
    }

    #[test]
    fn only_a_failed_verdict_has_one() {
        assert_eq!(Signature::of(&json!({"ok": true, "failure": null})), None);
        let verdict = json!({
            "ok": false, "failure_kind": "stuck", "failure": "stuck: nothing moves for 12 s",
        });
        let Some(signature) = Signature::of(&verdict) else { panic!("it failed") };
        assert_eq!(signature.text(), "stuck: nothing moves for # s");
        let died = Signature::of(&json!({"ok": false, "failure": "signal: 9 (SIGKILL)"}));
        assert_eq!(died.as_ref().map(Signature::text), Some("died: signal: # (…)"));
        assert_eq!(signature.hash_hex().len(), 16);
    }

    #[test]
    fn unbalanced_brackets_and_quotes_end_with_the_line() {
        check("log", "))) open ( for 3 \"ever [", "log: ))) open (…");
        assert!(Signature::new("log", &"x".repeat(5_000)).text().len() < 200);
    }
}
