//! Rule 4: which log a new primary chooses, from what replicas say in `do_view_change`.

use crate::replica::{Header, Log, Name};
use crate::{F, OPS, Rules};

/// A `do_view_change`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vote {
    pub view: u8,
    pub from: u8,
    pub log_view: u8,
    pub commit: u8,
    pub certain: bool,
    pub names: [Name; OPS],
    /// Which of them have bodies.
    pub bodies: [bool; OPS],
}

/// The chosen log, its head, and how far it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chosen {
    pub log: Log,
    pub head: u8,
    pub commit: u8,
}

enum Verdict {
    Stays(Header),
    Ends,
    Waits,
}

/// `None`: more must be heard first.
pub fn choose(votes: &[Vote], rules: Rules) -> Option<Chosen> {
    let counts = |vote: &&Vote| vote.certain || rules == Rules::CountsUncertain;
    if votes.iter().filter(counts).count() < F + 1 {
        return None;
    }
    let commit = votes.iter().map(|vote| vote.commit).max().unwrap_or(0);
    let mut chosen = Chosen { log: Log::default(), head: 0, commit };
    for op in 1..=OPS as u8 {
        let below = if op == 1 { 0 } else { chosen.log[op as usize - 2].id };
        match decide(votes, op, below, commit, rules) {
            Verdict::Stays(header) => {
                chosen.log[op as usize - 1] = header;
                chosen.head = op;
            }
            Verdict::Ends => break,
            Verdict::Waits => return None,
        }
    }
    Some(chosen)
}

fn decide(votes: &[Vote], op: u8, below: u8, commit: u8, rules: Rules) -> Verdict {
    let at = op as usize - 1;
    let id = |vote: &Vote| match vote.names[at] {
        Name::Header(header) => Some(header.id),
        Name::Hole(id) => Some(id),
        Name::Nothing | Name::Nameless => None,
    };
    let certain = |vote: &&Vote| vote.certain || rules == Rules::CountsUncertain;
    let named = votes.iter().filter_map(|vote| id(vote).map(|id| (vote.log_view, id)));
    let best = match rules {
        Rules::CandidateByHeader => named.max_by_key(|&(log_view, id)| (id, log_view)),
        _ => named.max(),
    };
    // A hole without a name, in a log view above all that name something here.
    let nameless = |vote: &&Vote| {
        vote.names[at] == Name::Nameless
            && best.is_none_or(|(log_view, _)| vote.log_view > log_view)
    };
    if op > commit
        && rules != Rules::NamelessIsEnd
        && let Some(hole) = votes.iter().filter(nameless).map(|vote| vote.log_view).max()
    {
        let never_there = |vote: &&Vote| certain(vote) && vote.log_view < hole;
        if votes.iter().filter(never_there).count() < F + 1 {
            return Verdict::Waits;
        }
    }
    let end = if op > commit { Verdict::Ends } else { Verdict::Waits };
    let Some((_, candidate)) = best else { return end };
    let header = votes.iter().find_map(|vote| match vote.names[at] {
        Name::Header(header) if header.id == candidate => Some(header),
        _ => None,
    });
    if header.is_some_and(|header| header.parent != below) {
        return end;
    }
    let has_body = votes.iter().any(|vote| vote.bodies[at] && id(vote) == Some(candidate));
    if op > commit {
        let nack = |vote: &&Vote| {
            let silent = match rules {
                Rules::NacksRotten => !vote.bodies[at],
                _ => vote.names[at] != Name::Nameless,
            };
            let other = id(vote) != Some(candidate);
            certain(vote) && silent && (other || rules == Rules::NacksRotten)
        };
        let enough = if rules == Rules::TooFewNacks { F } else { F + 1 };
        if votes.iter().filter(nack).count() >= enough {
            return Verdict::Ends;
        }
        if !has_body {
            return match rules {
                Rules::DropsWithoutNacks => Verdict::Ends,
                _ => Verdict::Waits,
            };
        }
    }
    match header {
        Some(header) => Verdict::Stays(header),
        None => Verdict::Waits,
    }
}
