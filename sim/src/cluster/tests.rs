//! Runs of clusters as tests: the same seed twice, a few seeds, and as many as wanted.

use super::{Seen, run};

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let hash = |seed| match run(seed) {
        Ok(seen) => seen.trace,
        Err(failure) => panic!("{failure}"),
    };
    let first = hash(2);
    assert_eq!(first, hash(2));
    assert_ne!(first, hash(3));
}

/// As many as wanted: `VERITY_SEEDS=1000..2000 cargo test … -- --ignored node_campaign`.
#[test]
#[ignore = "minutes"]
fn node_campaign() {
    let range = std::env::var("VERITY_SEEDS").unwrap_or_else(|_| "1000..1050".into());
    let bounds = range.split_once("..").map(|(first, last)| (first.parse(), last.parse()));
    let Some((Ok(first), Ok(last))) = bounds else { panic!("VERITY_SEEDS=A..B") };
    let mut failed = Vec::new();
    for seed in first..last {
        let outcome = std::panic::catch_unwind(|| run(seed));
        match outcome {
            Ok(Ok(seen)) => eprintln!(
                "seed {seed}: {} nodes, {} acknowledged, {} views, {} crashes, {} isolations, \
                 {} rots, {} disk stops, {} checkpoints, {} rebuilds, {} truncations, \
                 {} interrupted, {} of {} messages lost, {} absences, {} syncs, {} crashes in \
                 them, {} pages and {} blocks fetched, {} refused, {} given up, \
                 {} pages rotten, {} met, {} repaired, {} blocks rotten, {} times repaired, \
                 {} refused, {} given up, {:.1} s",
                seen.nodes,
                seen.acknowledged,
                seen.views,
                seen.crashes,
                seen.isolations,
                seen.rots,
                seen.disk_stops,
                seen.checkpoints,
                seen.rebuilds,
                seen.truncations,
                seen.interrupted,
                seen.messages_lost,
                seen.messages,
                seen.absences,
                seen.syncs,
                seen.sync_crashes,
                seen.event("SyncPageFetched"),
                seen.event("SyncBlocksFetched"),
                seen.event("SyncRefused"),
                seen.event("SyncGivenUp"),
                seen.pages_rotten,
                seen.event("PageCorrupt"),
                seen.event("PageRepaired"),
                seen.blocks_rotten,
                seen.event("SegmentBlocksRepaired"),
                seen.event("SegmentBlocksRefused"),
                seen.event("SegmentRepairFailed"),
                seen.sim_ns as f64 / 1e9,
            ),
            Ok(Err(failure)) => {
                eprintln!("seed {seed} fails: {failure}");
                failed.push(seed);
            }
            Err(_) => failed.push(seed),
        }
    }
    eprintln!("failed: {failed:?}");
    assert!(failed.is_empty());
}

#[test]
fn whole_nodes_agree_over_a_hostile_network() {
    let mut sum = Seen::default();
    for seed in 1..=6 {
        match run(seed) {
            Ok(seen) => {
                sum.acknowledged += seen.acknowledged;
                sum.views += seen.views;
                sum.crashes += seen.crashes;
                sum.checkpoints += seen.checkpoints;
                sum.rebuilds += seen.rebuilds;
                sum.rots += seen.rots;
                sum.disk_stops += seen.disk_stops;
            }
            Err(failure) => panic!("{failure}"),
        }
    }
    // The runs were worth it.
    assert!(sum.acknowledged > 500 && sum.crashes > 5, "{sum:?}");
    assert!(
        sum.views > 30
            && sum.checkpoints > 20
            && sum.rots > 5
            && sum.disk_stops > 1
            && sum.rebuilds > 2,
        "{sum:?}"
    );
}
