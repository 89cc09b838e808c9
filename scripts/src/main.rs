//! Repository chores: `cargo x tidy`, `cargo x ci`, …

mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo x", about = "Repository chores of Verity")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Hold the habits that a compiler does not: module arrows, headers, sizes, links.
    Tidy,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Tidy => run_tidy(),
    }
}

fn run_tidy() -> ExitCode {
    match tidy::check(&tidy::root()) {
        Ok(findings) if findings.is_empty() => {
            println!("tidy: nothing found");
            ExitCode::SUCCESS
        }
        Ok(findings) => {
            for finding in &findings {
                println!("{finding}");
            }
            println!("tidy: {} findings", findings.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tidy: {error}");
            ExitCode::from(2)
        }
    }
}
