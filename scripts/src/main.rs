//! Repository chores: `cargo x tidy`, `cargo x ci`, `cargo x zoo`, …
//!
//! Nothing here is part of the product. Start reading at `ci`: it is what `.ci/run` calls, and it
//! calls all the others.

#![forbid(unsafe_code)]

#[macro_use]
mod print;

mod bench_peers;
mod bench_sqlite;
mod chaos;
mod ci;
mod main_job;
mod slt;
mod steps;
mod tidy;
mod vopr;
mod zoo;

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
    /// Everything that must hold before a change goes in; what `.ci/run` calls.
    Ci(ci::Options),
    /// Import, query, verify and kill -9 the `verity` binary on real data.
    MainJob(main_job::Options),
    /// Deliberate bugs, one at a time: the simulator must catch each.
    Zoo(zoo::Options),
    /// Three real processes that are killed, stopped, cut off and damaged, under clients whose
    /// history is checked.
    Chaos(chaos::Options),
    /// SQLite's logic tests, in six modes, against the library.
    Slt(slt::Options),
    /// Durable inserts through three replicas, and through PostgreSQL and etcd, as ratios.
    BenchPeers(bench_peers::Options),
    /// The work of `verity bench` through SQLite (WAL, synchronous=FULL), as ratios.
    BenchSqlite(bench_sqlite::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Tidy => tidy::run(),
        Command::Ci(options) => ci::run(&options),
        Command::MainJob(options) => main_job::run(&options),
        Command::Zoo(options) => zoo::run(&options),
        Command::Chaos(options) => chaos::run(&options),
        Command::Slt(options) => slt::run(&options),
        Command::BenchPeers(options) => bench_peers::run(&options),
        Command::BenchSqlite(options) => bench_sqlite::run(&options),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo x: {error}");
            ExitCode::from(2)
        }
    }
}
