//! A failing run is made smaller while it fails the same way.
//!
//! Purpose: what a person looks at has few requests and only the trouble that it takes. Invariant:
//! what comes out was run, and failed with the same signature. It is small, not least: the search
//! is greedy and its time is bounded.

use std::time::{Duration, Instant};

use serde_json::Value;
use verity_sim::overrides::{Overrides, Switch, Switches};

use crate::child::Spec;
use crate::signature::Signature;

/// A length above which runs of unknown length are not tried.
const REQUESTS_MAX: u64 = 1 << 16;

/// What a try showed.
#[derive(Clone, Debug)]
pub struct Tried {
    /// It failed with the signature that is wanted.
    pub same: bool,
    /// Trouble that was drawn, when it is known.
    pub met: Option<Switches>,
    /// Requests that it had, when it is known.
    pub asked: Option<u64>,
    pub verdict: Value,
}

#[derive(Clone, Debug)]
pub struct Shrunk {
    pub overrides: Overrides,
    pub verdict: Value,
    pub runs: u64,
    pub seconds: f64,
    /// The time was over before nothing more could be taken away.
    pub cut_off: bool,
}

/// Shrinks by running processes. `None`: the first try did not fail the same way.
pub fn shrink(spec: &Spec, wanted: &Signature, budget: Duration) -> Option<Shrunk> {
    let deadline = Instant::now() + budget;
    let attempt = |overrides: &Overrides| {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let spec = Spec { overrides: *overrides, ..spec.clone() };
        let verdict = spec.run(left).ok()?;
        Some(Tried {
            same: Signature::of(&verdict).as_ref() == Some(wanted),
            met: met(&verdict),
            asked: verdict["asked"].as_u64().filter(|asked| *asked > 0),
            verdict,
        })
    };
    search(spec.overrides, spec.cluster, attempt)
}

fn met(verdict: &Value) -> Option<Switches> {
    let names = verdict["met"].as_array()?;
    Some(names.iter().filter_map(Value::as_str).filter_map(Switch::named).collect())
}

/// The search itself; `attempt` gives `None` when the time is over.
pub fn search(
    start: Overrides,
    cluster: bool,
    attempt: impl FnMut(&Overrides) -> Option<Tried>,
) -> Option<Shrunk> {
    let started = Instant::now();
    let mut search = Search { attempt, best: start, tried: None, runs: 0, time_is_over: false };
    if !search.take(start) {
        return None;
    }
    loop {
        let before = search.best;
        search.lengths();
        search.switches();
        search.counts(cluster);
        if search.best == before || search.time_is_over {
            break;
        }
    }
    let tried = search.tried?;
    Some(Shrunk {
        overrides: search.best,
        verdict: tried.verdict,
        runs: search.runs,
        seconds: started.elapsed().as_secs_f64(),
        cut_off: search.time_is_over,
    })
}

struct Search<F> {
    attempt: F,
    best: Overrides,
    /// Of the best.
    tried: Option<Tried>,
    runs: u64,
    time_is_over: bool,
}

impl<F: FnMut(&Overrides) -> Option<Tried>> Search<F> {
    /// Tries; what still fails the same way is the best from now on.
    fn take(&mut self, overrides: Overrides) -> bool {
        if self.time_is_over {
            return false;
        }
        let Some(tried) = (self.attempt)(&overrides) else {
            self.time_is_over = true;
            return false;
        };
        self.runs += 1;
        if tried.same {
            self.best = overrides;
            self.tried = Some(tried);
            return true;
        }
        false
    }

    /// The fewest requests: doubling from one, for short runs cost little, then halving the gap.
    fn lengths(&mut self) {
        let of = |best: &Overrides, max: u64| Overrides { requests_max: Some(max), ..*best };
        let asked = self.tried.as_ref().and_then(|tried| tried.asked);
        let bound = self.best.requests_max.unwrap_or(REQUESTS_MAX);
        let bound = bound.min(asked.unwrap_or(REQUESTS_MAX));
        let (mut low, mut high) = (0, 1);
        while high < bound && !self.take(of(&self.best, high)) {
            (low, high) = (high, high * 2);
            if self.time_is_over {
                return;
            }
        }
        if high >= bound {
            high = bound;
            if self.best.requests_max != Some(bound) && !self.take(of(&self.best, bound)) {
                return;
            }
        }
        while high - low > 1 + high / 32 && !self.time_is_over {
            let middle = low + (high - low) / 2;
            if self.take(of(&self.best, middle)) {
                high = middle;
            } else {
                low = middle;
            }
        }
    }

    /// As much trouble as possible is switched off: all, or halves of it, down to one by one.
    fn switches(&mut self) {
        let known = self.tried.as_ref().and_then(|tried| tried.met);
        let off = self.best.off;
        let candidates: Vec<Switch> = Switch::ALL
            .into_iter()
            .filter(|switch| !off.contains(*switch))
            .filter(|switch| known.is_none_or(|known| known.contains(*switch)))
            .collect();
        self.without(&candidates);
    }

    fn without(&mut self, switches: &[Switch]) {
        if switches.is_empty() || self.time_is_over {
            return;
        }
        let off = self.best.off.iter().chain(switches.iter().copied()).collect();
        if self.take(Overrides { off, ..self.best }) || switches.len() == 1 {
            return;
        }
        let (first, second) = switches.split_at(switches.len() / 2);
        self.without(first);
        self.without(second);
    }

    /// Fewer clients, tenants and nodes.
    fn counts(&mut self, cluster: bool) {
        let clients = [1, 2, 4].into_iter();
        let below = |bound: Option<u64>, count: &u64| bound.is_none_or(|bound| *count < bound);
        for count in clients.filter(|count| below(self.best.clients_max, count)).collect::<Vec<_>>()
        {
            if self.take(Overrides { clients_max: Some(count), ..self.best }) {
                break;
            }
        }
        if cluster {
            if self.best.nodes_max.is_none() {
                self.take(Overrides { nodes_max: Some(3), ..self.best });
            }
        } else if below(self.best.tenants_max, &1) {
            self.take(Overrides { tenants_max: Some(1), ..self.best });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Shrunk, Tried, search};
    use serde_json::json;
    use verity_sim::overrides::{Overrides, Switch, Switches};

    /// A run of 500 requests in which all trouble comes, and that fails like this.
    fn shrunk(fails: impl Fn(&Overrides) -> bool, tries: u64, known: bool) -> Option<Shrunk> {
        let mut left = tries;
        search(Overrides::default(), false, |overrides| {
            left = left.checked_sub(1)?;
            let asked = 500.min(overrides.requests_max.unwrap_or(u64::MAX));
            Some(Tried {
                same: fails(overrides),
                met: known.then(|| Switch::ALL.into_iter().collect()),
                asked: known.then_some(asked),
                verdict: json!({"asked": asked}),
            })
        })
    }

    /// It takes 137 requests, a crash with a torn write, and two clients.
    fn fails(overrides: &Overrides) -> bool {
        let on = |switch| !overrides.off.contains(switch);
        let at_least = |bound: Option<u64>, count| bound.is_none_or(|bound| bound >= count);
        on(Switch::Crash)
            && on(Switch::TornAtCrash)
            && at_least(overrides.requests_max, 137)
            && at_least(overrides.clients_max, 2)
    }

    #[test]
    fn what_it_takes_is_what_is_left() {
        for known in [true, false] {
            let Some(shrunk) = shrunk(fails, 1_000, known) else { panic!("it fails") };
            let kept: Vec<Switch> = Switch::ALL
                .into_iter()
                .filter(|switch| !shrunk.overrides.off.contains(*switch))
                .collect();
            assert_eq!(kept, [Switch::Crash, Switch::TornAtCrash]);
            let requests = shrunk.overrides.requests_max.unwrap_or(u64::MAX);
            assert!((137..=142).contains(&requests), "{requests}");
            assert_eq!(shrunk.overrides.clients_max, Some(2));
            assert_eq!(shrunk.overrides.tenants_max, Some(1));
            assert_eq!(shrunk.verdict["asked"].as_u64(), Some(requests.min(500)));
            assert!(!shrunk.cut_off && shrunk.runs < 120, "{} runs", shrunk.runs);
        }
    }

    #[test]
    fn what_comes_out_fails_also_when_the_time_is_over() {
        for tries in 1..60 {
            let Some(shrunk) = shrunk(fails, tries, true) else { panic!("it fails") };
            assert!(fails(&shrunk.overrides), "after {tries} tries: {shrunk:?}");
            assert_eq!(shrunk.runs, tries);
            assert!(shrunk.cut_off);
        }
    }

    #[test]
    fn what_does_not_fail_again_is_not_shrunk() {
        assert!(shrunk(|_| false, 1_000, true).is_none());
        assert!(shrunk(fails, 0, true).is_none());
    }

    #[test]
    fn what_takes_nothing_is_one_request_in_peace() {
        let Some(shrunk) = shrunk(|_| true, 1_000, true) else { panic!("it fails") };
        let all: Switches = Switch::ALL.into_iter().collect();
        assert_eq!((shrunk.overrides.off, shrunk.overrides.requests_max), (all, Some(1)));
    }
}
