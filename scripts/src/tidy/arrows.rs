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
        for (number, line) in source.product_lines() {
            let code = line.split("//").next().unwrap_or_default();
            for used in code.split("crate::").skip(1).flat_map(modules_named) {
                let fine = used == module
                    || COMMON.contains(&used.as_str())
                    || allowed.contains(&used.as_str());
                if !fine {
                    let what = format!("`{module}` must not use `crate::{used}`");
                    findings.push(source.finding(number, what));
                }
            }
        }
    }
    table_in_docs(sources, findings);
}

/// `a::b` names a; `{a::b, c}` names a and c.
fn modules_named(rest: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    match rest.strip_prefix('{') {
        None => vec![word(rest)],
        Some(list) => list.split(',').map(word).filter(|name| !name.is_empty()).collect(),
    }
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
