//! Bakes in which commit the simulator is built from: where it runs later says nothing of that.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // With other sources the commit may be the same one and the build be none of it any more.
    for sources in ["src", "../sim/src", "../core/src"] {
        println!("cargo::rerun-if-changed={sources}");
    }
    // Both change with every commit and every checkout, in a worktree as well. One that is missing
    // would have this run at every build.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file]);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    println!("cargo::rustc-env=VOPR_COMMIT={}", commit().unwrap_or_default());
}

/// Twelve digits, with `-dirty` behind them if what is built is in no commit; `None` without git.
fn commit() -> Option<String> {
    // Unpacked within a repository of something else, this is no part of it.
    let top = std::fs::canonicalize(git(&["rev-parse", "--show-toplevel"])?).ok()?;
    if top != std::fs::canonicalize("..").ok()? {
        return None;
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let sources = ["--", "../core", "../sim", ".", "../Cargo.toml", "../Cargo.lock"];
    let changes = git(&[&["--no-optional-locks", "status", "--porcelain"][..], &sources].concat());
    let dirty = changes.is_none_or(|changes| !changes.is_empty());
    Some(if dirty { format!("{commit}-dirty") } else { commit })
}

/// What git prints.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
