//! `cargo run --release -p verity-model -- --ops 2 --views 2 --crashes 1` visits every state within
//! these bounds. Exit: 0 when what was committed stays in all of them, 1 when there is one where it
//! does not (its steps are printed), 2 for wrong arguments.

#![forbid(unsafe_code)]

#[macro_use]
#[path = "../../scripts/src/print.rs"]
mod print;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use stateright::{Checker, Model};
use verity_model::world::COMMITTED_STAYS;
use verity_model::{Bounds, OPS, Rules, World};

/// Checks the rules of the cluster protocol in every state within bounds.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Ops that are proposed, 1 to 3.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=OPS as i64))]
    ops: u8,
    /// The last view.
    #[arg(long, default_value_t = 2)]
    views: u8,
    /// Crashes in all.
    #[arg(long, default_value_t = 1)]
    crashes: u8,
    /// Slots that rot while their replica is down, all on one replica.
    #[arg(long, default_value_t = 0)]
    rots: u8,
    /// Replicas that come back with an older disk.
    #[arg(long, default_value_t = 0)]
    older_disks: u8,
    /// Replicas that lose their disks, and get empty ones.
    #[arg(long, default_value_t = 0)]
    lost_disks: u8,
    /// Break this rule.
    #[arg(long, value_enum, default_value_t = Rules::AsWritten)]
    rules: Rules,
    /// Threads that visit states.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let Arguments { ops, views, crashes, rots, older_disks, lost_disks, rules, threads } =
        Arguments::parse();
    let bounds = Bounds { ops, views, crashes, rots, older_disks, lost_disks };
    let started = Instant::now();
    let checker = World { bounds, rules }.checker().threads(threads.max(1)).spawn_bfs().join();
    println!(
        "{} states, the farthest {} steps away, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64()
    );
    match checker.discovery(COMMITTED_STAYS) {
        None => {
            println!("what was committed stays, in all of them");
            ExitCode::SUCCESS
        }
        Some(path) => {
            println!("what was committed does not stay:");
            for (step, action) in path.into_actions().into_iter().enumerate() {
                println!("{:3}. {action:?}", step + 1);
            }
            ExitCode::FAILURE
        }
    }
}
