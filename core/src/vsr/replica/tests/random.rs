//! Random runs: faults for a while, then none, then the cluster must converge.

use alloc::vec::Vec;

use super::Bug;
use super::world::{Faults, LONG_MS, World};
use crate::ids::Op;
use crate::io::FileId;
use crate::journal::Ring;
use crate::journal::fake_disk::{Keep, Random};
use crate::limits::{JOURNAL_RING_BYTES_MIN, PAGE_SIZE};

#[derive(Debug, Default)]
struct Seen {
    runs: u64,
    view_changes: u64,
    crashes: u64,
    crashes_in_flight: u64,
    truncations: u64,
    repairs: u64,
    uncertain: u64,
    committed: u64,
    rots: u64,
    ambushes: u64,
    checkpoints: u64,
    syncs: u64,
    replaced: u64,
    reads_confirmed: u64,
}

/// One run from a seed.
fn run(seed: u64, bug: Option<Bug>, seen: &mut Seen) {
    run_with(seed, bug, false, seen);
}

/// With linearizable reads, or without.
fn run_with(seed: u64, bug: Option<Bug>, reads: bool, seen: &mut Seen) {
    let mut random = Random(seed ^ 0x5eed);
    let count = if random.chance(70) { 3 } else { 5 };
    let mut world = World::new(seed, count);
    world.bug = bug;
    world.reads = reads;
    // Every other run with hints; a source of their own leaves the others as they were.
    world.hints = (seed % 2 == 1).then_some(Random(seed ^ 0xc105ed));
    for member in &mut world.members {
        if let Some(replica) = &mut member.replica {
            replica.bug = bug;
        }
        member.disk_speed = [3, 10, 40, 80][random.below(4)];
        member.wall_offset_ms = random.below(5_000) as i64 - 2_500;
    }
    let delay_max_ms = [1, 2, 10, 60][random.below(4)];
    let faults = Faults {
        drop: [0, 5, 50, 200][random.below(4)],
        duplicate: [0, 20, 100][random.below(3)],
        corrupt: [0, 5, 30][random.below(3)],
        delay_max_ms,
    };
    world.faults = faults;
    world.body_max = [200, 6_000, 60_000][random.below(3)];
    // Who may lose data that was durable: fewer than a quorum, drawn once.
    let first = random.below(count);
    let rotten: Vec<usize> = (0..(count - 1) / 2).map(|index| (first + index) % count).collect();
    let crash_chance = [0, 3, 12][random.below(3)];
    let cut_chance = [0, 4][random.below(2)];
    let rot_chance = [0, 30, 70][random.below(3)];
    // In every other run, as with hints: from a source of their own.
    let mut lost = Random(seed ^ 0xd15c);
    let lose_chance = [0, 0, 15, 50][lost.below(4)];
    for _ in 0..60 {
        world.run_ms(random.next() % 200 + 20);
        for index in 0..count {
            if world.is_up(index) && random.chance(crash_chance) {
                crash(&mut world, &mut random, index);
                if rotten.contains(&index) && random.chance(rot_chance) {
                    seen.rots += rot(&mut world, &mut random, index, 3);
                }
                if rotten.contains(&index) && lost.chance(lose_chance) {
                    world.lose_disk(index, true);
                }
            } else if !world.is_up(index) && random.chance(40) {
                world.start(index);
            }
        }
        if crash_chance > 0 && random.chance(2) {
            // The power fails.
            for index in 0..count {
                if world.is_up(index) {
                    crash(&mut world, &mut random, index);
                }
            }
        }
        if rot_chance > 0 && random.chance(4) {
            seen.ambushes += 1;
            seen.rots += ambush(&mut world, &mut random, &rotten);
        }
        for from in 0..count {
            for to in 0..count {
                if world.cut[from][to] {
                    world.cut[from][to] = random.chance(70);
                } else {
                    world.cut[from][to] = from != to && random.chance(cut_chance);
                }
            }
        }
    }
    // All faults stop.
    world.faults = Faults { delay_max_ms: 2, ..Faults::default() };
    world.cut.iter_mut().flatten().for_each(|cut| *cut = false);
    for index in 0..count {
        world.members[index].disk_speed = 40;
        if !world.is_up(index) {
            world.start(index);
        }
    }
    let before = world.last();
    let target = Op::new(before.get() + 20);
    let alive = world.run_until(LONG_MS, |world| world.last() >= target);
    assert!(alive, "seed {seed}: no progress\n{}", world.describe());
    world.client_active = false;
    let converged = world.run_until(LONG_MS, World::converged);
    assert!(converged, "seed {seed}: not converged\n{}", world.describe());
    for op in &world.acknowledged {
        assert!(world.history.contains_key(op));
    }
    seen.runs += 1;
    seen.view_changes += world.view_changes;
    seen.crashes += world.crashes;
    seen.crashes_in_flight += world.crashes_in_flight;
    seen.truncations += world.truncations;
    seen.repairs += world.repairs;
    seen.uncertain += world.uncertain;
    seen.committed += world.committed;
    seen.checkpoints += world.checkpoints;
    seen.syncs += world.syncs;
    seen.replaced += world.replaced;
    seen.reads_confirmed += world.reads_confirmed;
}

/// The rare conjunction that a nack quorum is about: some replicas lag, the power fails, the newest
/// prepares rot where they may, and the laggards wake up with the rotten ones alone.
fn ambush(world: &mut World, random: &mut Random, rotten: &[usize]) -> u64 {
    let count = world.count();
    let holder = loop {
        let index = random.below(count);
        if !rotten.contains(&index) {
            break index;
        }
    };
    let laggard = |index: usize| index != holder && !rotten.contains(&index);
    for index in 0..count {
        if !world.is_up(index) {
            world.start(index);
        }
    }
    world.cut.iter_mut().flatten().for_each(|cut| *cut = false);
    world.run_ms(500 + random.next() % 2_000);
    for index in (0..count).filter(|&index| laggard(index)) {
        for other in 0..count {
            if other != index {
                (world.cut[index][other], world.cut[other][index]) = (true, true);
            }
        }
    }
    world.run_ms(random.next() % 800);
    let mut rots = 0;
    for index in 0..count {
        crash(world, random, index);
        if rotten.contains(&index) {
            let kinds = 1 + random.below(3);
            rots += rot(world, random, index, kinds);
        }
    }
    world.cut.iter_mut().flatten().for_each(|cut| *cut = false);
    for index in (0..count).filter(|&index| index != holder) {
        world.start(index);
    }
    world.run_ms(1_000 + random.next() % 4_000);
    rots
}

fn crash(world: &mut World, random: &mut Random, index: usize) {
    let style = random.below(4);
    world.crash(index, |random| match style {
        0 => Keep::Old,
        1 => Keep::New,
        _ => match random.below(3) {
            0 => Keep::Old,
            1 => Keep::New,
            _ => Keep::Torn(random.below(PAGE_SIZE)),
        },
    });
}

/// Rots some of the newest ops of a stopped replica: prepares, headers, or both, the first `kinds`
/// of these.
fn rot(world: &mut World, random: &mut Random, index: usize, kinds: usize) -> u64 {
    let ring = Ring::new(JOURNAL_RING_BYTES_MIN);
    let member = &mut world.members[index];
    let newest: Vec<_> = member.headers.values().rev().take(12).copied().collect();
    let (mut rots, mut rotten) = (0, Vec::new());
    member.damaged = true;
    for header in newest {
        if !random.chance(30) {
            continue;
        }
        let what = random.below(kinds);
        let named = ["prepare", "header", "both"][what];
        rotten.push(std::format!("rots: {named} {}", header.op));
        let address = ring.address(header.journal_offset);
        assert_eq!(address.file, FileId::Journal);
        if what != 1 {
            member.disk.flip(address.offset + random.below(header.size as usize) as u64);
            rots += 1;
        }
        if what != 0 {
            let slot = ring.slot_offset(header.journal_offset) as u64;
            member.disk.flip(slot + random.below(200) as u64);
            rots += 1;
        }
    }
    for line in rotten {
        world.note(index, &line);
    }
    rots
}

#[test]
fn clusters_keep_one_history_and_recover() {
    let mut seen = Seen::default();
    for seed in 0..40 {
        run(seed, None, &mut seen);
    }
    // The runs were worth it.
    assert!(seen.crashes > 100 && seen.crashes_in_flight > 20, "{seen:?}");
    assert!(seen.view_changes > 200 && seen.truncations > 3 && seen.repairs > 20, "{seen:?}");
    assert!(seen.committed > 3_000 && seen.uncertain > 2 && seen.replaced > 10, "{seen:?}");
}

/// Whoever is confirmed to lead had seen all that was committed when it was asked; that the check
/// can fail is shown by `a_primary_cut_off_answers_no_linearizable_read`.
#[test]
fn linearizable_reads_are_never_stale() {
    let mut seen = Seen::default();
    for seed in 5_000..5_012 {
        run_with(seed, None, true, &mut seen);
    }
    assert!(seen.reads_confirmed > 10_000 && seen.view_changes > 50, "{seen:?}");
}

/// As many as wanted: `VERITY_SEEDS=1000..2000 cargo test … -- --ignored cluster_campaign`.
#[test]
#[ignore = "minutes"]
fn cluster_campaign() {
    let range = std::env::var("VERITY_SEEDS").unwrap_or_else(|_| "1000..1300".into());
    let (first, last) = range.split_once("..").unwrap();
    let mut seen = Seen::default();
    let mut failed = Vec::new();
    for seed in first.parse::<u64>().unwrap()..last.parse::<u64>().unwrap() {
        let outcome = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
            run(seed, None, &mut seen);
        }));
        if outcome.is_err() {
            std::eprintln!("seed {seed} failed");
            failed.push(seed);
        }
    }
    std::eprintln!("{seen:?}\nfailed: {failed:?}");
    assert!(failed.is_empty());
}

/// How many seeds each planted bug needs, in random runs alone.
#[test]
#[ignore = "minutes"]
fn planted_bugs_in_random_runs() {
    let bugs = [
        Bug::NacksRotten,
        Bug::TruncatesWithoutNacks,
        Bug::CountsUnsynced,
        Bug::CommitsInherited,
        Bug::LogViewBeforeLog,
        Bug::NacksUnnamed,
        Bug::AppliesAhead,
        Bug::RecordsUnwritten,
        Bug::LeavesStranded,
        Bug::ErasesUnrecorded,
        Bug::AcknowledgesCommitted,
        Bug::JoinsAtAHole,
        Bug::CountsReplaced,
        Bug::ReplacedByOne,
    ];
    for bug in bugs {
        let caught = (0..400).find(|&seed| {
            std::panic::catch_unwind(|| run(seed, Some(bug), &mut Seen::default())).is_err()
        });
        std::eprintln!("{bug:?}: caught by seed {caught:?}");
    }
}
