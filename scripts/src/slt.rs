//! `cargo x slt`: other people's SQL tests (`shell/tests/slt`), a part of them or all.
//!
//! They are one test binary; this says how many queries of each file to ask.

use crate::steps::{cargo, run as run_command};

/// Queries of each file when nothing is said: about three minutes on two cores, all modes.
const QUERIES_OF_A_FILE: u64 = 150;

#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Every query of every file; else the first ones of each.
    #[arg(long)]
    pub all: bool,
    /// Queries of each file.
    #[arg(long, value_name = "N", conflicts_with = "all")]
    pub queries: Option<u64>,
    /// One mode: plain, as_of_head, deleted_since, crashed_between, evict_everything or
    /// rebuilt_from_log.
    #[arg(long, value_name = "NAME")]
    pub mode: Option<String>,
    /// The build of an ordinary `cargo test`, where that is there already; else an optimised one,
    /// which takes minutes to make.
    #[arg(long)]
    pub dev: bool,
}

pub fn run(options: &Options) -> Result<bool, String> {
    let queries = match options.all {
        true => u64::from(u32::MAX),
        false => options.queries.unwrap_or(QUERIES_OF_A_FILE),
    };
    let mut command = cargo(&["test", "--quiet", "--test", "slt"]);
    // As the whole workspace, with the features of `cargo test --workspace`: nothing is built anew.
    command.arg(if options.dev { "--workspace" } else { "--package=verity" });
    command.args((!options.dev).then_some("--release"));
    command.arg("--").args(options.mode.as_deref()).arg("--nocapture");
    command.env("VERITY_SLT_QUERIES", queries.to_string());
    run_command(&mut command).map(|()| true)
}
