//! Checks of several nodes: runs of the cluster simulation from numbers that are known to be rich.

/// Between them: elections, isolated primaries, crashes with writes in flight, rot, checkpoints.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=8;

pub(super) fn runs() -> Result<(), String> {
    for seed in SEEDS {
        crate::cluster::run(seed).map_err(|failure| failure.to_string())?;
    }
    Ok(())
}
