//! Which log a view begins with: a pure function of what replicas offered (rule 4).
//!
//! An op is dropped only when f + 1 *certain* offers do not name it (a nack quorum), or when the
//! log of a later view has another op in its place. An op that is named and whose body nobody who
//! offered has is waited for: whoever is still silent may have acknowledged it. So is an op that a
//! later log view holds and cannot name: two holes side by side, of which only the upper one is
//! named by the op above it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::super::message::DoViewChange;
use crate::crypto::hash::InternalHash;
use crate::ids::{Op, View};
use crate::journal::PrepareHeader;
use crate::limits::PIPELINE_MAX;

/// Ops of offered logs that no view from this one on has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discarded {
    pub first: Op,
    pub last: Op,
}

/// The log of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Log {
    pub head: Op,
    pub head_checksum: InternalHash,
    pub commit: Op,
    /// What is known of it, at any place.
    pub headers: Vec<PrepareHeader>,
    pub discarded: Option<Discarded>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// More offers are needed; an op that stands in the way, when there is one.
    Wait {
        missing: Option<Op>,
    },
    Log(Log),
}

/// What all offers together say of one op.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, while a view is chosen")]
enum Candidate {
    /// All logs end below it.
    Nobody,
    /// Somebody of the highest log view holds it, and does not know which op it is.
    Unnamed,
    Named(Named),
}

/// What one offer says of one op.
#[derive(Clone, Copy, Debug)]
struct Named {
    log_view: View,
    checksum: InternalHash,
    header: Option<PrepareHeader>,
    present: bool,
}

pub(super) fn decide(
    offers: &[&DoViewChange],
    quorum: usize,
    #[cfg(test)] bug: Option<super::tests::Bug>,
) -> Choice {
    let certain = offers.iter().filter(|offer| offer.certain).count();
    if certain < quorum {
        return Choice::Wait { missing: None };
    }
    let headers = offers.iter().flat_map(|offer| &offer.headers);
    let known = offers.iter().map(|offer| offer.commit);
    let commit = known.chain(headers.clone().map(|header| header.commit)).max();
    let Some(commit) = commit else { unreachable!("a quorum is at least one") };
    // One of them acknowledged what is committed, unless it says so itself by its silence.
    let Candidate::Named(at_commit) = candidate(offers, quorum, commit) else {
        return Choice::Wait { missing: Some(commit) };
    };
    let mut log: BTreeMap<Op, PrepareHeader> = BTreeMap::new();
    let (mut head, mut head_checksum) = (commit, at_commit.checksum);
    loop {
        let next = head.next();
        let candidate = candidate(offers, quorum, next);
        let named = match candidate {
            Candidate::Nobody => break,
            Candidate::Unnamed => None,
            Candidate::Named(named) => Some(named),
        };
        let nacks = offers.iter().filter(|offer| offer.certain && !names(offer, next, &candidate));
        let nack_quorum = nacks.count() >= quorum;
        #[cfg(test)]
        let nack_quorum = nack_quorum
            || (bug == Some(super::tests::Bug::TruncatesWithoutNacks)
                && named.is_none_or(|named| !named.present))
            || (bug == Some(super::tests::Bug::NacksUnnamed) && named.is_none());
        if nack_quorum {
            break;
        }
        let Some(named) = named else { return Choice::Wait { missing: Some(next) } };
        let Some(header) = named.header else { return Choice::Wait { missing: Some(next) } };
        if header.parent != head_checksum {
            break;
        }
        if !named.present {
            return Choice::Wait { missing: Some(next) };
        }
        log.insert(next, header);
        (head, head_checksum) = (next, header.checksum);
    }
    assert!(head.get() <= commit.get() + PIPELINE_MAX as u64, "uncommitted ops fit a pipeline");
    let last = offers.iter().map(|offer| offer.head).max().unwrap_or(head);
    let discarded = (last > head).then(|| Discarded { first: head.next(), last });
    let headers = below(offers, commit, at_commit.checksum).chain(log.into_values()).collect();
    Choice::Log(Log { head, head_checksum, commit, headers, discarded })
}

/// What the offer with the highest log view says of an op (then: the highest view of the header).
fn candidate(offers: &[&DoViewChange], quorum: usize, op: Op) -> Candidate {
    let best = offers
        .iter()
        .filter_map(|offer| named_by(offer, op))
        .max_by_key(|named| (named.log_view, named.header.map(|header| header.view)));
    let unnamed = offers
        .iter()
        .filter(|offer| op > offer.floor && op <= offer.head && named_by(offer, op).is_none())
        .map(|offer| offer.log_view)
        .max();
    let best = match (best, unnamed) {
        (None, None) => return Candidate::Nobody,
        (None, Some(_)) => return Candidate::Unnamed,
        // What a lower log view names may be what this one has dropped; but not if a quorum never
        // was in it: then nothing was committed there that a lower one does not name.
        (Some(best), Some(unnamed)) if unnamed > best.log_view => {
            let never = |offer: &&&DoViewChange| offer.certain && offer.log_view < unnamed;
            if offers.iter().filter(never).count() < quorum {
                return Candidate::Unnamed;
            }
            best
        }
        (Some(best), Some(_) | None) => best,
    };
    // Header and body may be with another that names the same.
    let same = || {
        offers
            .iter()
            .filter_map(|offer| named_by(offer, op))
            .filter(|named| named.checksum == best.checksum)
    };
    let header = same().find_map(|named| named.header);
    let present = same().any(|named| named.present);
    Candidate::Named(Named { header, present, ..best })
}

fn named_by(offer: &DoViewChange, op: Op) -> Option<Named> {
    let log_view = offer.log_view;
    if let Some(index) = offer.headers.iter().position(|header| header.op == op) {
        let header = offer.headers[index];
        let present = offer.present >> index & 1 == 1;
        return Some(Named { log_view, checksum: header.checksum, header: Some(header), present });
    }
    // A hole is named by the op above it.
    let above = offer.headers.iter().find(|header| header.op == op.next());
    let checksum = match above {
        Some(above) => Some(above.parent),
        None => (op == offer.floor).then_some(offer.floor_checksum),
    }?;
    Some(Named { log_view, checksum, header: None, present: false })
}

/// Whether an offer names this very op, or cannot exclude that it holds it: holes between holes.
fn names(offer: &DoViewChange, op: Op, candidate: &Candidate) -> bool {
    match (named_by(offer, op), candidate) {
        (Some(named), Candidate::Named(candidate)) => named.checksum == candidate.checksum,
        (Some(_), Candidate::Unnamed) => true,
        (Some(_), Candidate::Nobody) => unreachable!("it is named"),
        (None, _) => op <= offer.head,
    }
}

/// Headers at and below the commit number that join the log, as far as they were sent.
fn below(
    offers: &[&DoViewChange],
    commit: Op,
    checksum: InternalHash,
) -> impl Iterator<Item = PrepareHeader> {
    let mut found = Vec::new();
    let (mut op, mut checksum) = (commit, checksum);
    while let Some(header) = offers
        .iter()
        .flat_map(|offer| &offer.headers)
        .find(|header| header.op == op && header.checksum == checksum)
    {
        found.push(*header);
        let Some(next) = op.previous() else { break };
        (op, checksum) = (next, header.parent);
    }
    found.into_iter()
}
