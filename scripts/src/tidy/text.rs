//! Rules that look at one file at a time.

use super::{Exceptions, Finding, Source};

const COLUMNS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 100;

/// Words that say that something was left undone. Split, so that this file does not name them.
const LEFTOVERS: &[&str] =
    &[concat!("to", "do!("), concat!("db", "g!("), concat!("FIX", "ME"), concat!("XX", "X ")];

/// What core must never name. (Word, why.)
const BANNED_IN_CORE: &[(&str, &str)] = &[
    ("std::", "core is no_std"),
    ("HashMap", "iteration order must never steer state: BTreeMap or stdx"),
    ("HashSet", "iteration order must never steer state: BTreeSet or stdx"),
    ("SystemTime", "core has no clock"),
    ("thread_rng", "randomness comes from the seed"),
    ("unsafe ", "core forbids unsafe"),
];

pub fn check(source: &Source, exceptions: &Exceptions, findings: &mut Vec<Finding>) {
    machine_paths(source, findings);
    if !source.is_rust() {
        return;
    }
    header(source, findings);
    // Of what another tool wrote only the header is ours.
    if exceptions.has("generated", &source.path) {
        return;
    }
    lines(source, findings);
    sizes(source, exceptions, findings);
    if source.path.starts_with("core/src/") && !source.is_test() {
        core_only(source, exceptions, findings);
    }
    if !source.path.starts_with("shell/src/disk/ring") {
        unsafe_only_in_ring(source, findings);
    }
}

fn header(source: &Source, findings: &mut Vec<Finding>) {
    if !source.text.starts_with("//!") {
        findings.push(source.finding(1, "no `//!` header that says what the module is for"));
    }
}

fn lines(source: &Source, findings: &mut Vec<Finding>) {
    for (index, line) in source.text.lines().enumerate() {
        let columns = line.chars().count();
        // Expected output in tests is as wide as it is.
        if columns > COLUMNS_MAX && !line.contains("://") && !source.is_test() {
            findings.push(source.finding(index + 1, format!("{columns} columns")));
        }
        for word in LEFTOVERS {
            if line.contains(word) {
                findings.push(source.finding(index + 1, format!("left over: `{word}`")));
            }
        }
    }
}

fn sizes(source: &Source, exceptions: &Exceptions, findings: &mut Vec<Finding>) {
    if source.is_test() {
        return;
    }
    let count = source.text.lines().count();
    if count > FILE_LINES_MAX && !exceptions.has("long-file", &source.path) {
        findings.push(source.finding(1, format!("{count} lines: split it, or give a reason")));
    }
    let mut start: Option<(usize, usize)> = None;
    for (number, line) in source.product_lines() {
        let indent = line.len() - line.trim_start().len();
        let code = line.trim_start();
        let is_fn = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "const fn "]
            .iter()
            .any(|prefix| code.starts_with(prefix));
        if is_fn && !line.trim_end().ends_with(';') {
            start = Some((number, indent));
        } else if let Some((first, at)) = start
            && code == "}"
            && indent == at
        {
            let length = number - first + 1;
            if length > FUNCTION_LINES_MAX && !exceptions.has("long-function", &source.path) {
                findings.push(source.finding(first, format!("function of {length} lines")));
            }
            start = None;
        }
    }
}

fn core_only(source: &Source, exceptions: &Exceptions, findings: &mut Vec<Finding>) {
    for (number, line) in source.product_lines() {
        let code = line.split("//").next().unwrap_or_default();
        for (word, why) in BANNED_IN_CORE {
            let own = *word == "std::" && !code.contains("use std::") && !code.contains(" std::");
            if code.contains(word) && !own && !exceptions.has("banned", &source.path) {
                findings.push(source.finding(number, format!("`{word}` in core: {why}")));
            }
        }
        let bare = without_strings(code);
        let magic = bare.contains("4096") || bare.contains("4_096");
        let home = source.path == "core/src/limits.rs" || exceptions.has("magic", &source.path);
        if magic && !home && !bare.contains("align(4096)") {
            findings.push(source.finding(number, "4096: sizes have names in limits.rs"));
        }
    }
}

fn unsafe_only_in_ring(source: &Source, findings: &mut Vec<Finding>) {
    let words = [concat!("unsafe", " {"), concat!("unsafe", " fn"), concat!("unsafe", " impl")];
    for (number, line) in source.product_lines() {
        let code = without_strings(line.split("//").next().unwrap_or_default());
        if words.iter().any(|word| code.contains(word)) {
            findings.push(source.finding(number, "unsafe outside the shell's ring"));
        }
    }
}

/// A line of code without what stands in its string literals.
fn without_strings(code: &str) -> String {
    code.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

/// Nothing committed names the machine it was written on.
fn machine_paths(source: &Source, findings: &mut Vec<Finding>) {
    let paths = [concat!("/work", "/"), concat!("/home", "/"), concat!("/root", "/")];
    for (index, line) in source.text.lines().enumerate() {
        if paths.iter().any(|path| line.contains(path)) {
            findings.push(source.finding(index + 1, "a path of somebody's machine"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one thing that is told of a file, and none where the same is fine.
    fn told(path: &str, text: &str, exceptions: &Exceptions) -> Vec<(usize, String)> {
        let source = Source { path: path.to_string(), text: text.to_string() };
        let mut findings = Vec::new();
        check(&source, exceptions, &mut findings);
        findings.into_iter().map(|finding| (finding.line, finding.what)).collect()
    }

    #[track_caller]
    fn one(path: &str, text: &str, line: usize, words: &str) {
        let told = told(path, text, &Exceptions::default());
        let [(at, what)] = &told[..] else { panic!("{path}: {told:?}") };
        assert!(*at == line && what.contains(words), "{path}: {told:?}");
    }

    #[track_caller]
    fn none(path: &str, text: &str, exceptions: &str) {
        let exceptions = Exceptions::parse(exceptions).unwrap();
        assert_eq!(told(path, text, &exceptions), [], "{path}");
    }

    #[test]
    fn every_file_has_a_header_and_no_wide_lines() {
        one("shell/src/a.rs", "use b;\n", 1, "no `//!` header");
        let wide = format!("//! A.\nlet a = {};\n", "1".repeat(100));
        one("shell/src/a.rs", &wide, 2, "109 columns");
        none("shell/tests/it/a.rs", &wide, "");
        none("shell/src/a.rs", &wide, "generated shell/src/a.rs another tool wrote it");
    }

    #[test]
    fn what_was_left_undone_is_told() {
        for word in LEFTOVERS {
            one("shell/src/a.rs", &format!("//! A.\n\n// {word} later)\n"), 3, "left over");
            one("shell/tests/it/a.rs", &format!("//! A.\n{word}\n"), 2, "left over");
        }
    }

    #[test]
    fn long_files_and_functions_need_a_reason() {
        let file = format!("//! A.\n{}", "// b\n".repeat(FILE_LINES_MAX));
        one("shell/src/a.rs", &file, 1, "701 lines");
        none("shell/src/a.rs", &file, "long-file shell/src/a.rs a table");
        none("shell/src/a.rs", &file[5 + 2..].replacen("// b", "//! b", 1), "");
        for (head, indent) in [("fn a() {", ""), ("pub(super) fn a() {", "    ")] {
            let body = format!("{indent}    b();\n").repeat(FUNCTION_LINES_MAX - 1);
            let function = format!("//! A.\n{indent}{head}\n{body}{indent}}}\n");
            one("shell/src/a.rs", &function, 2, "function of 101 lines");
            none("shell/src/a.rs", &function, "long-function shell/src/a.rs one match");
            none("shell/src/a.rs", &function.replacen(&format!("{indent}    b();\n"), "", 1), "");
        }
    }

    #[test]
    fn core_is_free_of_clocks_threads_and_random_order() {
        for (word, _) in BANNED_IN_CORE {
            // What names it without using it is no use of it.
            let line =
                if *word == "std::" { "use std::time;".to_string() } else { format!("{word} ") };
            let text = format!("//! A.\n{line}\n");
            one("core/src/log/a.rs", &text, 2, &format!("`{word}` in core"));
            none("core/src/log/tests.rs", &text, "");
            none("core/src/log/a.rs", &text, "banned core/src/log/a.rs because");
            none("shell/src/a.rs", &text, "");
        }
        one("core/src/log/a.rs", "//! A.\nlet a = 4_096;\n", 2, "sizes have names");
        one("core/src/log/a.rs", "//! A.\nlet a = 4096;\n", 2, "sizes have names");
        none("core/src/limits.rs", "//! A.\nconst A: usize = 4096;\n", "");
        none("core/src/log/a.rs", "//! A.\nlet a = \"4096\"; // 4096\n", "");
    }

    #[test]
    fn what_is_not_safe_stays_in_the_ring() {
        for word in ["{ a() }", "fn a() {}", "impl A for B {}"] {
            let text = format!("//! A.\n{} {word}\n", concat!("un", "safe"));
            one("shell/src/disk/files.rs", &text, 2, "outside the shell's ring");
            none("shell/src/disk/ring.rs", &text, "");
        }
    }

    #[test]
    fn paths_of_a_machine_are_told_in_every_text() {
        for folder in [concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/ro", "ot/")] {
            one("docs/a.md", &format!("# A\n\nsee {folder}a\n"), 3, "somebody's machine");
        }
    }
}
