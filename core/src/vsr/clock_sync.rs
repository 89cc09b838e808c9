//! What time it is in the cluster: Marzullo's algorithm over what the peers' clocks say.
//!
//! A ping that left at `sent` (own monotonic clock) and whose pong came back at `received` with the
//! peer's wall clock shows how far that clock is from ours: the peer read it somewhere in between,
//! so its difference lies in an interval as wide as the round trip. The narrowest recent sample of
//! each peer counts, widened by how much two clocks may drift since. The interval that most clocks
//! (ours is one, at difference 0) agree on is where the truth is, if they are a quorum. Right
//! clocks are seldom within a round trip of one another: where no quorum is, each interval is
//! widened by what a right clock may be wrong.
//!
//! Marzullo, Owicki: Maintaining the time in a distributed system, 1985.
//!
//! Fault model: clocks drift, jump, freeze, differ. Fewer than a quorum of wrong clocks move
//! nothing out of the interval of the right ones.

use alloc::vec::Vec;

use super::quorum_replication;
use crate::ids::ReplicaId;
use crate::limits::{
    CLOCK_DRIFT_PPM_MAX, CLOCK_ERROR_MAX_NS, CLOCK_SAMPLE_AGE_MAX_NS, REPLICA_COUNT_MAX,
};
use crate::time::{Clock, Instant, Timestamp};

/// How far a peer's wall clock is from ours, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub low: i64,
    pub high: i64,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    interval: Interval,
    taken: Instant,
    /// Own wall clock less own monotonic clock when it was taken: a step of our own clock since
    /// then moves the difference the other way.
    own_offset: i64,
}

#[derive(Clone, Debug)]
pub struct ClockSync {
    me: ReplicaId,
    replica_count: u8,
    samples: [Option<Sample>; REPLICA_COUNT_MAX],
}

impl ClockSync {
    #[must_use]
    pub fn new(me: ReplicaId, replica_count: u8) -> ClockSync {
        ClockSync { me, replica_count, samples: [None; REPLICA_COUNT_MAX] }
    }

    /// A pong arrived for a ping that left at `sent`.
    pub fn sample(&mut self, now: Clock, peer: ReplicaId, sent: Instant, wall: Timestamp) {
        if sent > now.monotonic || peer == self.me {
            return;
        }
        let round_trip = now.monotonic.since_ns(sent);
        let (peer_wall, own_wall) = (signed(wall.0), signed(now.wall.0));
        let sample = Sample {
            interval: Interval {
                low: peer_wall.saturating_sub(own_wall),
                high: peer_wall.saturating_add(signed(round_trip)).saturating_sub(own_wall),
            },
            taken: now.monotonic,
            own_offset: own_wall.saturating_sub(signed(now.monotonic.0)),
        };
        let slot = &mut self.samples[usize::from(peer.get())];
        let better = slot.is_none_or(|old| {
            width(aged(&old, now).unwrap_or(EVERYTHING)) >= width(sample.interval)
        });
        if better {
            *slot = Some(sample);
        }
    }

    /// The difference from our wall clock that a quorum agrees on; `None` without a quorum.
    #[must_use]
    pub fn agreed(&self, now: Clock) -> Option<Interval> {
        // Clocks that agree closely first; then those that are each as wrong as a right one may be.
        self.agreed_within(now, 0).or_else(|| self.agreed_within(now, CLOCK_ERROR_MAX_NS))
    }

    fn agreed_within(&self, now: Clock, error_ns: u64) -> Option<Interval> {
        let error = signed(error_ns);
        let widened = |interval: Interval| Interval {
            low: interval.low.saturating_sub(error),
            high: interval.high.saturating_add(error),
        };
        let mut intervals = Vec::with_capacity(usize::from(self.replica_count));
        intervals.push(widened(Interval { low: 0, high: 0 }));
        let peers = self.samples.iter().take(usize::from(self.replica_count));
        intervals.extend(peers.flatten().filter_map(|sample| aged(sample, now)).map(widened));
        let (count, interval) = marzullo(&intervals)?;
        (count >= usize::from(quorum_replication(self.replica_count))).then_some(interval)
    }

    /// Our wall clock, moved into what a quorum agrees on.
    #[must_use]
    pub fn wall(&self, now: Clock) -> Timestamp {
        let Some(agreed) = self.agreed(now) else { return now.wall };
        #[cfg(verity_zoo)]
        if crate::zoo::is("clocks_not_compared") {
            return now.wall;
        }
        let shift = 0.clamp(agreed.low, agreed.high);
        Timestamp(now.wall.0.saturating_add_signed(shift))
    }
}

const EVERYTHING: Interval = Interval { low: i64::MIN / 4, high: i64::MAX / 4 };

/// A sample as it counts now: wider by the drift since, moved by our own clock's steps. `None` when
/// it is too old.
fn aged(sample: &Sample, now: Clock) -> Option<Interval> {
    let age = now.monotonic.since_ns(sample.taken);
    if age > CLOCK_SAMPLE_AGE_MAX_NS {
        return None;
    }
    let drift = signed(age / 1_000_000 * CLOCK_DRIFT_PPM_MAX + CLOCK_DRIFT_PPM_MAX);
    let own_offset = signed(now.wall.0).saturating_sub(signed(now.monotonic.0));
    let step = own_offset.saturating_sub(sample.own_offset);
    Some(Interval {
        low: sample.interval.low.saturating_sub(step).saturating_sub(drift),
        high: sample.interval.high.saturating_sub(step).saturating_add(drift),
    })
}

/// The smallest interval that lies in the largest number of the given ones, and that number.
#[must_use]
pub fn marzullo(intervals: &[Interval]) -> Option<(usize, Interval)> {
    let mut edges = Vec::with_capacity(2 * intervals.len());
    for interval in intervals {
        assert!(interval.low <= interval.high);
        edges.push((interval.low, false));
        edges.push((interval.high, true));
    }
    // Touching intervals overlap: where one ends and another begins, the beginning comes first.
    edges.sort_unstable();
    let (mut best, mut depth) = (None, 0_usize);
    for (index, &(at, closes)) in edges.iter().enumerate() {
        if closes {
            depth -= 1;
            continue;
        }
        depth += 1;
        if best.is_none_or(|(count, _)| depth > count) {
            let Some(&(end, _)) = edges.get(index + 1) else { unreachable!("it closes later") };
            best = Some((depth, Interval { low: at, high: end }));
        }
    }
    best
}

fn width(interval: Interval) -> i64 {
    interval.high.saturating_sub(interval.low)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND_NS;

    const MS: i64 = MILLISECOND_NS as i64;

    fn best(intervals: &[(i64, i64)]) -> Option<(usize, (i64, i64))> {
        let intervals: Vec<_> =
            intervals.iter().map(|&(low, high)| Interval { low, high }).collect();
        marzullo(&intervals).map(|(count, interval)| (count, (interval.low, interval.high)))
    }

    #[test]
    fn the_example_of_the_paper() {
        assert_eq!(best(&[(8, 12), (11, 13), (10, 12)]), Some((3, (11, 12))));
        assert_eq!(best(&[(8, 12), (11, 13), (14, 15)]), Some((2, (11, 12))));
        assert_eq!(best(&[(8, 9), (8, 12), (10, 12)]), Some((2, (8, 9))));
        assert_eq!(best(&[(1, 5), (5, 7)]), Some((2, (5, 5))), "touching is overlapping");
        assert_eq!(best(&[]), None);
    }

    fn at(monotonic_ms: u64, wall_ms: u64) -> Clock {
        Clock {
            monotonic: Instant(monotonic_ms * MILLISECOND_NS),
            wall: Timestamp(wall_ms * MILLISECOND_NS),
        }
    }

    fn ms(value: u64) -> u64 {
        value * MILLISECOND_NS
    }

    #[test]
    fn two_right_clocks_move_a_wrong_one() {
        let mut sync = ClockSync::new(ReplicaId::ZERO, 3);
        let now = at(1_000, 50_000);
        assert_eq!(sync.agreed(now), None, "alone it knows nothing");
        assert_eq!(sync.wall(now), now.wall);
        // Both peers are ten seconds ahead of us; round trips of 2 and 4 ms.
        sync.sample(now, ReplicaId::new(1), Instant(ms(998)), Timestamp(ms(60_000)));
        assert_eq!(sync.agreed(now), None, "ours and theirs are one against one");
        sync.sample(now, ReplicaId::new(2), Instant(ms(996)), Timestamp(ms(60_001)));
        let agreed = sync.agreed(now).unwrap();
        assert!(agreed.low >= 10_000 * MS && agreed.high <= 10_002 * MS + MS, "{agreed:?}");
        let moved = sync.wall(now).0;
        assert!((ms(60_000)..=ms(60_003)).contains(&moved));
        // Our clock jumps back an hour: the cluster's time does not.
        let jumped = Clock { wall: Timestamp(ms(1_000)), monotonic: Instant(ms(1_100)) };
        let moved = sync.wall(jumped).0;
        assert!((ms(60_099)..=ms(60_104)).contains(&moved), "{moved}");
    }

    /// Right clocks, as they are set over a network, and one that stepped.
    #[test]
    fn clocks_that_are_nearly_right_outvote_one_that_is_wrong() {
        let mut sync = ClockSync::new(ReplicaId::ZERO, 3);
        let now = at(1_000, 9_000_000);
        sync.sample(now, ReplicaId::new(1), Instant(ms(999)), Timestamp(ms(50_000)));
        sync.sample(now, ReplicaId::new(2), Instant(ms(999)), Timestamp(ms(50_180)));
        let moved = sync.wall(now).0;
        assert!((ms(50_000)..=ms(50_700)).contains(&moved), "{moved}");
        // Of clocks seconds apart nobody can say which is right.
        sync.sample(now, ReplicaId::new(2), Instant(ms(999)), Timestamp(ms(53_000)));
        assert_eq!(sync.wall(now), now.wall);
    }

    #[test]
    fn one_wrong_clock_moves_nothing() {
        let mut sync = ClockSync::new(ReplicaId::ZERO, 3);
        let now = at(1_000, 50_000);
        sync.sample(now, ReplicaId::new(1), Instant(ms(999)), Timestamp(ms(9_999_999)));
        sync.sample(now, ReplicaId::new(2), Instant(ms(998)), Timestamp(ms(49_999)));
        let moved = sync.wall(now).0;
        assert_eq!(moved, now.wall.0, "ours lies in the interval of the right ones");
    }

    #[test]
    fn old_samples_are_forgotten_and_wide_ones_do_not_replace_narrow_ones() {
        let mut sync = ClockSync::new(ReplicaId::ZERO, 3);
        let now = at(10_000, 50_000);
        let peer = ReplicaId::new(1);
        sync.sample(now, peer, Instant(ms(9_999)), Timestamp(ms(50_000)));
        let narrow = sync.agreed(now).unwrap();
        sync.sample(now, peer, Instant(ms(1_000)), Timestamp(ms(50_000)));
        assert_eq!(sync.agreed(now), Some(narrow));
        let later = Clock {
            monotonic: now.monotonic.plus_ns(CLOCK_SAMPLE_AGE_MAX_NS + 1),
            wall: now.wall.plus_ns(CLOCK_SAMPLE_AGE_MAX_NS + 1),
        };
        assert_eq!(sync.agreed(later), None);
    }
}
