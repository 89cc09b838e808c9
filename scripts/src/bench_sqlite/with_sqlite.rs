//! The measuring half, compiled with SQLite.

use super::Options;

pub fn run(_options: &Options) -> Result<bool, String> {
    Err("soon".to_string())
}
