//! The work of `verity bench` through SQLite, in the same run, as ratios.
//!
//! SQLite in its durable setting: WAL, synchronous=FULL, one connection, prepared statements. It is
//! bundled and takes long to build, so it hides behind the feature `sqlite`: without it this
//! command builds itself again with it.

use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where both databases go; a scratch folder beside the build if not given.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Rows that the point reads choose from.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub rows: u64,
    /// Seconds for each workload of SQLite.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub seconds: u64,
    /// One JSON document instead of text.
    #[arg(long)]
    pub json: bool,
}

#[cfg(not(feature = "sqlite"))]
pub fn run(options: &Options) -> Result<bool, String> {
    let mut command = crate::steps::cargo(&[
        "run",
        "--quiet",
        "--release",
        "--package",
        "verity-scripts",
        "--features",
        "sqlite",
        "--",
        "bench-sqlite",
    ]);
    command.args(["--rows", &options.rows.to_string()]);
    command.args(["--seconds", &options.seconds.to_string()]);
    if let Some(data) = &options.data {
        command.arg("--data").arg(data);
    }
    if options.json {
        command.arg("--json");
    }
    let status = command.status().map_err(|error| format!("cargo: {error}"))?;
    Ok(status.success())
}

#[cfg(feature = "sqlite")]
pub use with_sqlite::run;

#[cfg(feature = "sqlite")]
mod with_sqlite;
