//! Crashes: what was checkpointed stays, and replay writes the same bytes again.

use super::*;

/// One step of a workload, replayable.
#[derive(Clone, Copy, Debug)]
enum Step {
    Append(TenantId, usize),
    Checkpoint,
}

fn steps(random: &mut Random, count: usize) -> Vec<Step> {
    let tenants = [TENANT, TenantId::new(1), TenantId::new(2)];
    let steps = (0..count).map(|_| match random.below(15) {
        0 => Step::Checkpoint,
        1 => Step::Append(tenants[random.below(3) as usize], random.below(300_000) as usize),
        _ => Step::Append(tenants[random.below(3) as usize], random.below(2_000) as usize),
    });
    steps.collect()
}

fn take(bench: &mut Bench, step: Step) {
    match step {
        Step::Append(tenant, size) => {
            bench.append_sized(tenant, size);
        }
        Step::Checkpoint => bench.checkpoint(),
    }
}

fn segments(bench: &Bench) -> BTreeMap<FileId, Vec<u8>> {
    let mut segments = bench.disk.files.clone();
    segments.retain(|file, content| {
        let FileId::Segment { tenant, number } = *file else { return false };
        let head = &bench.heads[&tenant];
        if number == head.segment {
            content.truncate(head.segment_offset as usize);
        }
        number <= head.segment
    });
    segments
}

#[test]
fn replay_after_any_crash_gives_identical_segments() {
    for seed in 1..60 {
        let mut random = Random(0x1234_5678_9abc_def1_u64.wrapping_mul(seed));
        let mut plan = steps(&mut random, 120);
        plan.push(Step::Checkpoint);

        let mut smooth = Bench::new(25);
        for step in &plan {
            take(&mut smooth, *step);
        }

        let mut rough = Bench::new(25);
        rough.random = Random(seed);
        let mut at = 0;
        // The op number and place in the plan of the last durable checkpoint.
        let mut durable = (0, rough.op);
        let mut crashes = 8;
        while at < plan.len() {
            let crash = crashes > 0 && random.below(12) == 0;
            if crash {
                crashes -= 1;
                if random.below(2) == 0 && matches!(plan[at], Step::Checkpoint) {
                    // Amid a checkpoint.
                    rough.op += 1;
                    rough.logs.checkpoint_begin(Op::new(rough.op));
                    for _ in 0..random.below(6) {
                        let _ = rough.logs.checkpoint_step(&mut rough.effects);
                        rough.run(random.below(5) as usize);
                    }
                } else {
                    rough.logs.flush_step(&mut rough.effects);
                    rough.run(random.below(8) as usize);
                }
                rough.disk.crash(&mut random);
                rough.restart();
                (at, rough.op) = durable;
                continue;
            }
            take(&mut rough, plan[at]);
            if matches!(plan[at], Step::Checkpoint) {
                durable = (at + 1, rough.op);
            } else if random.below(4) == 0 {
                rough.logs.flush_step(&mut rough.effects);
                rough.run(random.below(4) as usize);
            }
            at += 1;
        }
        assert!(segments(&smooth) == segments(&rough), "seed {seed}");
        assert_eq!(smooth.heads, rough.heads);
        rough.verify().unwrap();
        for position in 0..rough.head(TENANT).next.get() {
            assert_eq!(rough.read(position).unwrap().metadata.position.get(), position);
        }
    }
}

#[test]
fn appends_go_on_during_a_checkpoint() {
    let mut bench = Bench::new(50);
    for round in 0..40 {
        for size in 0..round {
            bench.append_sized(TENANT, size * 200);
        }
        bench.op += 1;
        let changed = bench.logs.checkpoint_begin(Op::new(bench.op));
        let covered = changed.first().map(|(_, head)| head.clone());
        for size in 0..10 {
            bench.append_sized(TENANT, size * 5_000);
            let _ = bench.logs.checkpoint_step(&mut bench.effects);
            bench.run(2);
        }
        bench.finish_checkpoint(changed);
        // All that it covered survives the worst crash.
        let mut disk = Disk { files: bench.disk.files.clone(), ..Disk::default() };
        disk.undo.clone_from(&bench.disk.undo);
        disk.crash(&mut bench.random);
        let Some(head) = covered else { continue };
        let mut end = SegmentEnd::genesis();
        for number in 0..=head.segment.get() {
            let number = SegmentNumber::new(number);
            let start = SegmentStart { tenant: TENANT, number, before: Some(end) };
            let mut verifier = SegmentVerifier::new(start, SegmentExtent::To(head.next));
            verifier.push(&disk.files[&segment_file(number.get())], |_| Ok(())).unwrap();
            end = verifier.finish().unwrap();
        }
        assert!(end.matches(&head));
    }
}

#[test]
fn device_errors_surface() {
    let mut bench = Bench::new(50);
    bench.append_sized(TENANT, 100);
    bench.logs.checkpoint_begin(Op::new(9));
    let _ = bench.logs.checkpoint_step(&mut bench.effects);
    let effect = bench.effects.drain().next().unwrap();
    let Effect::Create { io, file } = effect else { panic!("a new file is created first") };
    let result = bench.logs.on_done(io, Err(IoError::NoSpace), &mut bench.effects);
    assert_eq!(result, Err(LogError { file, error: IoError::NoSpace }));
}

/// Many logs with unfinished blocks: room runs out, nothing can be flushed, a checkpoint is wanted.
#[test]
fn many_small_logs_want_a_checkpoint_before_room_runs_out() {
    let mut bench = Bench::new(1_000_000);
    let mut wanted = false;
    'rounds: for _ in 0..100 {
        for tenant in 0..2_000 {
            bench.append_sized(TenantId::new(tenant), 1_000);
            bench.logs.flush_step(&mut bench.effects);
            bench.run(usize::MAX);
            if bench.logs.checkpoint_wanted() {
                wanted = true;
                break 'rounds;
            }
            assert!(bench.logs.room() > 0, "no room and nothing to do about it");
        }
    }
    assert!(wanted);
    bench.checkpoint();
    bench.checkpoint();
    assert!(!bench.logs.checkpoint_wanted());
    assert_eq!(bench.logs.room(), Logs::new(1, ORIGIN).room());
}

/// Behind a head stands nothing, or the record that follows it: cut off by a checkpoint or not, in
/// the next segment or in this one. Of another history there is none.
#[test]
fn a_record_behind_the_head_is_found_and_garbage_is_none() {
    for checkpointed in [true, false] {
        let mut bench = Bench::new(6);
        let mut heads = Vec::new();
        for size in [0, 3_860, 50, 9_000, 3_750, 100, 20, 30] {
            heads.push(bench.head(TENANT));
            bench.append_sized(TENANT, size);
            if checkpointed {
                bench.checkpoint();
            }
        }
        bench.checkpoint();
        let newest = bench.head(TENANT);
        let look = |bench: &Bench, head: &LogHead| {
            let edge = LogEdge::of(TENANT, head, 6);
            let (at, mut bytes) = (edge.block(), [0; 2 * PAGE_SIZE]);
            bench.disk.read(at.file, at.offset, &mut bytes);
            edge.beyond(&bytes).map(|beyond| (beyond.tenant, beyond.position))
        };
        for head in &heads {
            assert_eq!(look(&bench, head), Some((TENANT, head.next)), "{head:?}");
            let other = LogHead { chain: ChainHash([9; 32]), ..head.clone() };
            assert_eq!(look(&bench, &other), None);
        }
        assert_eq!(look(&bench, &newest), None);
        for content in bench.disk.files.values_mut() {
            content.extend_from_slice(&[0xaa; 3 * PAGE_SIZE]);
        }
        assert_eq!(look(&bench, &newest), None);
    }
}
