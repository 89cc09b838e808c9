//! Which module of core may use which: the table of `docs/ARCHITECTURE.md`, held both ways.

use super::{Finding, Source};

/// Usable by every module.
const COMMON: &[&str] = &["stdx", "ids", "time", "limits", "event", "zoo"];

/// Module, and what it may use beside `COMMON`.
const ARROWS: &[(&str, &[&str])] = &[
    ("stdx", &[]),
    ("ids", &[]),
    ("time", &[]),
    ("limits", &[]),
    ("event", &[]),
    ("zoo", &[]),
    ("io", &[]),
    ("crypto", &["io"]),
    ("keyring", &["io", "crypto"]),
    ("superblock", &["io", "crypto"]),
    ("journal", &["io", "crypto"]),
    ("log", &["io", "crypto"]),
    ("store", &["io", "crypto", "keyring", "superblock"]),
    ("query", &["store"]),
    ("kernel", &["io", "log", "store", "query", "keyring", "crypto", "proof"]),
    ("proof", &["crypto"]),
    ("wire", &["crypto"]),
    ("vsr", &["io", "crypto", "journal", "superblock", "wire"]),
    (
        "node",
        &[
            "io",
            "crypto",
            "keyring",
            "superblock",
            "journal",
            "log",
            "store",
            "query",
            "kernel",
            "vsr",
            "proof",
        ],
    ),
];

pub fn check(sources: &[Source], findings: &mut Vec<Finding>) {
    for source in sources.iter().filter(|source| source.is_rust()) {
        let Some(inside) = source.path.strip_prefix("core/src/") else { continue };
        let module = inside.split(['/', '.']).next().unwrap_or_default();
        if module == "lib" || source.is_test() {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else {
            findings
                .push(source.finding(1, format!("module `{module}` is not in the arrow table")));
            continue;
        };
        for (number, used) in used(source, inside) {
            let fine = used == module
                || COMMON.contains(&used.as_str())
                || allowed.contains(&used.as_str());
            if !fine {
                let what = format!("`{module}` must not use `crate::{used}`");
                findings.push(source.finding(number, what));
            }
        }
    }
    table_in_docs(sources, findings);
}

/// Modules that a file names, and the line where it does. The text is read as a whole, as an item
/// of `use` may go over many lines.
fn used(source: &Source, inside: &str) -> Vec<(usize, String)> {
    let mut code = String::new();
    for (_, line) in source.product_lines() {
        code.push_str(line.split("//").next().unwrap_or_default());
        code.push('\n');
    }
    // From a file `a/b.rs` two steps up are the root.
    let depth = inside.trim_end_matches(".rs").trim_end_matches("/mod").split('/').count();
    let up = "super::".repeat(depth);
    let mut all = Vec::new();
    for root in ["crate::", &up] {
        for (at, _) in code.match_indices(root) {
            // One step more leads out of the crate: that is another module within the file.
            let steps =
                code[..at].ends_with("super::") || code[at + root.len()..].starts_with("super");
            if root == up && steps {
                continue;
            }
            let number = code[..at].matches('\n').count() + 1;
            let named = modules_named(&code[at + root.len()..]);
            all.extend(named.into_iter().map(|name| (number, name)));
        }
    }
    all
}

/// `a::b` names a; `{a::b, c}` names a and c, `{a::{b, c}, d}` a and d.
fn modules_named(rest: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let Some(list) = rest.trim_start().strip_prefix('{') else { return vec![word(rest)] };
    let mut depth = 0_usize;
    let mut names = vec![String::new()];
    for letter in list.chars() {
        match letter {
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            '{' => depth += 1,
            ',' if depth == 0 => names.push(String::new()),
            _ => {}
        }
        if let Some(last) = names.last_mut()
            && letter != ','
        {
            last.push(letter);
        }
    }
    names.iter().map(|name| word(name)).filter(|name| !name.is_empty()).collect()
}

/// The document must hold the same table, so that neither goes stale alone.
fn table_in_docs(sources: &[Source], findings: &mut Vec<Finding>) {
    let Some(docs) = sources.iter().find(|source| source.path == "docs/ARCHITECTURE.md") else {
        return;
    };
    for (module, allowed) in ARROWS.iter().filter(|(name, _)| *name != "zoo") {
        let row = docs.text.lines().enumerate().find(|(_, line)| {
            let cell = line.strip_prefix('|').and_then(|line| line.split('|').next());
            cell.is_some_and(|cell| cell.contains(&format!("`{module}`")))
        });
        let Some((number, row)) = row else {
            findings.push(docs.finding(1, format!("the table lacks module `{module}`")));
            continue;
        };
        let cells: Vec<&str> = row.split('|').collect();
        let arrows = cells.get(3).copied().unwrap_or_default();
        // What stands in parentheses explains.
        let arrows = arrows.split('(').next().unwrap_or_default();
        let named: Vec<&str> =
            arrows.split([',', ' ']).map(|word| word.trim_matches('`')).collect();
        let all = named.contains(&"all") || named.contains(&"each");
        for (used, _) in ARROWS.iter().filter(|(used, _)| !all && used != module) {
            if allowed.contains(used) != named.contains(used) {
                let what = format!("code and document differ: may `{module}` use `{used}`?");
                findings.push(docs.finding(number + 1, what));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file of core is told, in short.
    fn told(path: &str, text: &str) -> Vec<(usize, String)> {
        let source = Source { path: path.to_string(), text: text.to_string() };
        let mut findings = Vec::new();
        check(&[source], &mut findings);
        findings.into_iter().map(|finding| (finding.line, finding.what)).collect()
    }

    #[test]
    fn arrows_are_seen_however_they_are_written() {
        for (path, text, line) in [
            ("core/src/store/page.rs", "use crate::query::X;\n", 1),
            ("core/src/store/page.rs", "use crate::{ids::A, query::X};\n", 1),
            (
                "core/src/store/page.rs",
                "//! It.\nuse crate::{\n    ids::A,\n    query::X,\n};\n",
                2,
            ),
            ("core/src/store/page.rs", "use crate::{\n    ids::{A, B},\n    query::X,\n};\n", 1),
            ("core/src/store/page.rs", "\n\nfn f() -> super::super::query::X {}\n", 3),
            ("core/src/store/page.rs", "use super::super::{\n    query::X,\n};\n", 1),
            ("core/src/store/page/part.rs", "use super::super::super::query::X;\n", 1),
            ("core/src/store.rs", "use super::query::X;\n", 1),
        ] {
            let expected = (line, "`store` must not use `crate::query`".to_string());
            assert_eq!(told(path, text), [expected], "{path}: {text}");
        }
        for (path, text) in [
            ("core/src/store/page.rs", "use crate::{\n    ids::{query, B},\n    crypto::X,\n};\n"),
            ("core/src/store/page.rs", "use super::query::X; // of the store\n"),
            ("core/src/store/page.rs", "// crate::query\n"),
            ("core/src/store/page/part.rs", "use super::super::query::X;\n"),
            ("core/src/store/page.rs", "#[cfg(test)]\nmod tests {\n    use crate::query::X;\n}\n"),
            ("core/src/store/tests.rs", "use crate::query::X;\n"),
            ("shell/src/disk.rs", "use crate::query::X;\n"),
        ] {
            assert_eq!(told(path, text), [], "{path}: {text}");
        }
        let told = told("core/src/novel.rs", "//! New.\n");
        assert_eq!(told, [(1, "module `novel` is not in the arrow table".to_string())]);
    }

    #[test]
    fn a_table_that_went_stale_is_told() {
        let row = |module: &str, arrows: &str| format!("| `{module}` | what it is | {arrows} |\n");
        let table: String =
            ARROWS.iter().map(|(module, used)| row(module, &used.join(", "))).collect();
        let told = |text: String| told("docs/ARCHITECTURE.md", &text);
        assert_eq!(told(table.clone()), []);
        let less = table.replace(&row("query", "store"), &row("query", "crypto"));
        let less: Vec<String> = told(less).into_iter().map(|(_, what)| what).collect();
        assert_eq!(less.len(), 2, "{less:?}");
        assert!(less.contains(&"code and document differ: may `query` use `store`?".to_string()));
        let gone = told(table.replace(&row("vsr", "io, crypto, journal, superblock, wire"), ""));
        assert_eq!(gone, [(1, "the table lacks module `vsr`".to_string())]);
    }
}
