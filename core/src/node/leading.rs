//! Reads of a primary that was perhaps deposed: it asks before it answers (DESIGN §7).
//!
//! [`Node::ask_lead`] when a linearizable read comes in, [`Node::lead`] until it says
//! [`LeadAnswer::Confirmed`]; then the read runs as any other, and sees everything that was
//! committed before it came in. Invariant: a node that serves has applied all that its view
//! inherited. One replica alone leads for ever.
//!
//! Fault model: that of `vsr::replica`; without a quorum there is no answer, and the caller gives
//! up when it likes.

use crate::io::Effects;
use crate::limits::LEAD_FRESH_NS;
use crate::node::running::Phase;
use crate::node::{Node, State};
use crate::time::Clock;
use crate::vsr::replica::Lead;

/// What a linearizable read waits for; `None` within: nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeadAsked(Option<Lead>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeadAnswer {
    /// The read may run now.
    Confirmed,
    /// Ask again after the next input.
    Waiting,
    /// Another replica leads, or none.
    Lost,
}

impl Node {
    /// A linearizable read comes in. `None`: this node does not lead.
    pub fn ask_lead(&mut self, now: Clock, effects: &mut Effects) -> Option<LeadAsked> {
        let State::Running(running) = &mut self.state else { return None };
        if running.phase != Phase::Serving {
            return None;
        }
        if !running.vsr.is_cluster() {
            return Some(LeadAsked(None));
        }
        let lead = running.vsr.ask_lead(now)?;
        // The question goes out at once.
        self.run(now, effects);
        Some(LeadAsked(Some(lead)))
    }

    #[must_use]
    pub fn lead(&self, asked: &LeadAsked) -> LeadAnswer {
        let State::Running(running) = &self.state else { return LeadAnswer::Lost };
        if running.phase != Phase::Serving {
            return LeadAnswer::Lost;
        }
        let LeadAsked(Some(lead)) = asked else { return LeadAnswer::Confirmed };
        match running.vsr.confirms_lead(lead) {
            None => LeadAnswer::Lost,
            Some(true) if running.vsr.status().applied >= lead.commit => LeadAnswer::Confirmed,
            Some(_) => LeadAnswer::Waiting,
        }
    }

    /// Whether a write that waits here is worth waiting for: the node leads, and a quorum said so
    /// lately.
    #[must_use]
    pub fn leads_lately(&self, now: Clock) -> bool {
        let State::Running(running) = &self.state else { return false };
        let fresh = |at| now.monotonic.since_ns(at) <= LEAD_FRESH_NS;
        match running.phase {
            Phase::Serving | Phase::Recovery { .. } | Phase::ShuttingDown { .. } => {
                !running.vsr.is_cluster() || running.vsr.lead_confirmed_at().is_some_and(fresh)
            }
            Phase::Replay | Phase::View => !running.vsr.is_cluster(),
            Phase::Following | Phase::Stopped => false,
        }
    }
}
