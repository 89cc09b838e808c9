//! The tidy test: habits of this repository that a compiler does not hold.
//!
//! Each rule is a function from the tree to findings; `cargo x tidy` prints them, a test demands
//! none. Exceptions live in `scripts/tidy.txt`, each with its reason.

mod arrows;
mod text;

use std::fmt;
use std::path::{Path, PathBuf};

/// One place that breaks one rule.
#[derive(Debug)]
pub struct Finding {
    pub file: PathBuf,
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// A text file of the repository.
#[derive(Debug)]
pub struct Source {
    /// Relative to the root, with forward slashes.
    pub path: String,
    pub text: String,
}

impl Source {
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Tests and examples may do what the product may not.
    pub fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs")
            || self.path.contains("/tests/")
            || self.path.contains("/examples/")
            || self.path.contains("/benches/")
    }

    /// Lines outside `#[cfg(test)] mod … { … }` at the end of a file, numbered from 1.
    pub fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        self.text[..tests].lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    pub fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding { file: PathBuf::from(&self.path), line, what: what.into() }
    }
}

/// Exceptions: `rule path reason…`, one a line, `#` starts a comment.
#[derive(Debug, Default)]
pub struct Exceptions(Vec<(String, String)>);

impl Exceptions {
    fn parse(text: &str) -> Result<Exceptions, String> {
        let mut all = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.splitn(3, ' ');
            let (Some(rule), Some(path), Some(_reason)) =
                (words.next(), words.next(), words.next())
            else {
                return Err(format!("tidy.txt: `{line}` is not `rule path reason`"));
            };
            all.push((rule.to_string(), path.to_string()));
        }
        Ok(Exceptions(all))
    }

    pub fn has(&self, rule: &str, path: &str) -> bool {
        self.0.iter().any(|(r, p)| r == rule && p == path)
    }
}

/// The repository's root, from where the scripts crate lies.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Prints what is wrong. True: nothing.
pub fn run() -> Result<bool, String> {
    let findings = check(&root())?;
    for finding in &findings {
        println!("{finding}");
    }
    println!("tidy: {} findings", findings.len());
    Ok(findings.is_empty())
}

/// Everything wrong with the tree, rule by rule.
pub fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let sources = read_sources(root)?;
    let list = std::fs::read_to_string(root.join("scripts/tidy.txt"))
        .map_err(|error| format!("scripts/tidy.txt: {error}"))?;
    let exceptions = Exceptions::parse(&list)?;
    let mut findings = Vec::new();
    for source in &sources {
        text::check(source, &exceptions, &mut findings);
    }
    arrows::check(&sources, &mut findings);
    links(root, &sources, &mut findings);
    manifests(&sources, &mut findings);
    Ok(findings)
}

fn read_sources(root: &Path) -> Result<Vec<Source>, String> {
    let output = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("git ls-files: {error}"))?;
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut sources = Vec::new();
    for path in names.lines() {
        let wanted = [".rs", ".md", ".toml", ".sh", ".txt", ".ci/run"];
        if !wanted.iter().any(|ending| path.ends_with(ending)) {
            continue;
        }
        // A file that git knows and the tree lost is git's matter, not tidy's.
        if let Ok(text) = std::fs::read_to_string(root.join(path)) {
            sources.push(Source { path: path.to_string(), text });
        }
    }
    if sources.len() < 10 {
        return Err(format!("only {} sources found under {}", sources.len(), root.display()));
    }
    Ok(sources)
}

/// Links in Markdown, and documents named anywhere, must exist.
fn links(root: &Path, sources: &[Source], findings: &mut Vec<Finding>) {
    for source in sources {
        for (number, line) in source.text.lines().enumerate() {
            for named in line.split("docs/").skip(1) {
                let Some(end) = named.find(".md") else { continue };
                let name = &named[..end];
                let plain =
                    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
                if plain && !root.join("docs").join(format!("{name}.md")).exists() {
                    let what = format!("there is no document docs/{name}.md");
                    findings.push(source.finding(number + 1, what));
                }
            }
        }
    }
    for source in sources.iter().filter(|source| source.path.ends_with(".md")) {
        let folder = root.join(&source.path).parent().map(Path::to_path_buf).unwrap_or_default();
        for (number, line) in source.text.lines().enumerate() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let file = target.split('#').next().unwrap_or_default();
                let outside = file.is_empty() || file.contains("://") || file.contains(' ');
                if !outside && !folder.join(file).exists() {
                    findings.push(source.finding(number + 1, format!("broken link `{target}`")));
                }
            }
        }
    }
}

fn manifests(sources: &[Source], findings: &mut Vec<Finding>) {
    for source in sources.iter().filter(|source| source.path.ends_with("Cargo.toml")) {
        let licensed = source.text.contains("license.workspace = true")
            || source.text.contains("license = \"Apache-2.0\"");
        if !licensed {
            findings.push(source.finding(1, "no Apache-2.0 licence field"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let findings = super::check(&super::root()).unwrap();
        let list: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(list.is_empty(), "{}", list.join("\n"));
    }

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_string(), text: text.to_string() }
    }

    fn told(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn links_that_lead_nowhere_and_manifests_without_a_licence_are_told() {
        let named = concat!("see do", "cs/NOWHERE.md");
        let sources = [
            source("docs/a.md", "[a](TESTING.md) [b](TESTING.md#x) [c](https://a.b/c.md)\n"),
            source("docs/b.md", "[a](../README.md)\n\n[b](MISSING.md)\n"),
            source("core/src/a.rs", named),
        ];
        let mut findings = Vec::new();
        links(&root(), &sources, &mut findings);
        let none = concat!("there is no document do", "cs/NOWHERE.md");
        let expected =
            [format!("core/src/a.rs:1: {none}"), "docs/b.md:3: broken link `MISSING.md`".into()];
        assert_eq!(told(&findings), expected);
        let sources = [
            source("a/Cargo.toml", "[package]\nlicense.workspace = true\n"),
            source("b/Cargo.toml", "[package]\nlicense = \"MIT\"\n"),
        ];
        let mut findings = Vec::new();
        manifests(&sources, &mut findings);
        assert_eq!(told(&findings), ["b/Cargo.toml:1: no Apache-2.0 licence field"]);
    }

    #[test]
    fn an_exception_needs_a_reason() {
        assert!(Exceptions::parse("long-file a.rs").is_err());
        let list = Exceptions::parse("# why\n\nlong-file a.rs it is a table\n").unwrap();
        assert!(list.has("long-file", "a.rs"));
        assert!(!list.has("long-file", "b.rs") && !list.has("magic", "a.rs"));
    }
}
