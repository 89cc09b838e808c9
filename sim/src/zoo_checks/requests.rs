//! Checks of what a request is promised: its id, its place, its limits, its time.

use verity_core::ids::IdempotencyId;
use verity_core::kernel::{Limit, RequestError};
use verity_core::limits::{CLOCK_STEP_MAX_NS, ClusterConstants};
use verity_core::log::RecordKind;
use verity_core::time::SECOND_NS;

use super::bytes::{segment, verify};
use super::solo::{Rig, text, warm};

fn rows(first: u64, count: u64) -> String {
    let rows: Vec<String> = (first..first + count).map(|id| format!("({id}, 'row')")).collect();
    format!("INSERT INTO t VALUES {}", rows.join(", "))
}

fn expect_count(rig: &mut Rig, expected: i64) -> Result<(), String> {
    match rig.count()? {
        count if count == expected => Ok(()),
        count => Err(format!("{count} rows, expected {expected}")),
    }
}

pub(super) fn reused_id() -> Result<(), String> {
    let mut rig = warm()?;
    let first = rig.request(&rows(1, 1));
    rig.send(&first)?.map_err(text)?;
    let mut other = rig.request(&rows(2, 1));
    other.idempotency = first.idempotency;
    match rig.send(&other)? {
        Err(RequestError::IdempotencyReused { id }) if id == first.idempotency => {}
        answer => return Err(format!("another request under a used id: {answer:?}")),
    }
    expect_count(&mut rig, 1)
}

pub(super) fn order_of_requests() -> Result<(), String> {
    let mut rig = warm()?;
    let first = rig.request(&rows(1, 1));
    let mut second = rig.request(&rows(2, 1));
    second.after = Some(first.idempotency);
    match rig.send(&second)? {
        Err(RequestError::AfterUnknown { after }) if after == first.idempotency => {}
        answer => return Err(format!("before the one it must follow: {answer:?}")),
    }
    expect_count(&mut rig, 0)?;
    rig.send(&first)?.map_err(text)?;
    let mut again = rig.request(&rows(2, 1));
    again.after = Some(first.idempotency);
    rig.send(&again)?.map_err(text)?;
    expect_count(&mut rig, 2)
}

pub(super) fn transaction_limits() -> Result<(), String> {
    let mut rig = warm()?;
    let most = u64::from(ClusterConstants::SMALL.transaction_events_max);
    let beyond = rig.request(&rows(0, most + 1));
    match rig.send(&beyond)? {
        Err(RequestError::LimitExceeded { limit: Limit::TransactionEvents, .. }) => {}
        answer => return Err(format!("{} events: {answer:?}", most + 1)),
    }
    expect_count(&mut rig, 0)?;
    rig.write(&rows(0, most / 2))?;
    expect_count(&mut rig, most as i64 / 2)
}

pub(super) fn clock_steps() -> Result<(), String> {
    let mut rig = warm()?;
    let before = rig.write(&rows(1, 1))?.timestamp;
    rig.solo.wall.0 += 2 * 24 * 3_600 * SECOND_NS;
    let mut request = rig.request(&rows(2, 1));
    // Good for the time that the prepare will have, and for that of the wall clock.
    request.idempotency = IdempotencyId::new(rig.solo.wall.as_ms() + 10_000, [9; 10]);
    let after = rig.send(&request)?.map_err(text)?.timestamp;
    let step_ns = after.0 - before.0;
    if step_ns > CLOCK_STEP_MAX_NS + 60 * SECOND_NS {
        return Err(format!(
            "the wall clock jumped, and time went {} s ahead",
            step_ns / SECOND_NS
        ));
    }
    Ok(())
}

pub(super) fn checkpoint_records() -> Result<(), String> {
    // What one transaction may dirty allows no more, once the tree is tall.
    const PART: u64 = 50;
    let interval = u64::from(ClusterConstants::SMALL.checkpoint_record_interval);
    let mut rig = warm()?;
    for part in 0..64 {
        rig.write(&rows(part * PART, PART))?;
    }
    let bytes = segment(&mut rig)?;
    let (mut last, mut widest) = (0, 0);
    verify(&bytes, |view| {
        let metadata = &view.record.metadata;
        let position = metadata.position.get();
        if metadata.kind == RecordKind::CheckpointRecord {
            widest = widest.max(position - last);
            last = position;
        }
    })
    .map_err(text)?;
    if last == 0 || widest > interval + PART + 1 {
        return Err(format!("{widest} records from one checkpoint record to the next"));
    }
    Ok(())
}
