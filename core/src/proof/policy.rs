//! Whom a verifier believes: C2SP `tlog-policy` text.
//!
//! ```text
//! # comment
//! log <verifier key>
//! witness <name> <verifier key>
//! group <name> <any | all | number> <member> …
//! quorum <name>
//! ```
//!
//! Members are witnesses or groups named on earlier lines, so that groups cannot be circular. A
//! replica is a witness like any other. A policy without a quorum is refused: the log's own
//! signature says which cluster, not that anybody stands behind it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use super::Reject;
use crate::crypto::note::{KeyKind, SignedNote, Verifier};
use crate::limits::{POLICY_LINES_MAX, POLICY_SIZE_MAX};

#[derive(Clone, Debug)]
pub struct Policy {
    pub log: Verifier,
    witnesses: Vec<(String, Verifier)>,
    groups: Vec<Group>,
    quorum: String,
    /// Seconds since 1970, and how old the newest head may be; `None`: age is not judged.
    pub fresh_within: Option<Freshness>,
    /// A head seen before: an older one is a rollback.
    pub seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    pub now_s: u64,
    pub age_max_s: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub size: u64,
    pub root: crate::crypto::ChainHash,
}

#[derive(Clone, Debug)]
struct Group {
    name: String,
    threshold: usize,
    members: Vec<String>,
}

/// Why text is no policy; with the number of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyError {
    pub line: usize,
    pub reason: &'static str,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy, line {}: {}", self.line, self.reason)
    }
}

impl core::error::Error for PolicyError {}

impl Policy {
    pub fn parse(text: &str) -> Result<Policy, PolicyError> {
        let mut log = None;
        let mut quorum = None;
        let (mut witnesses, mut groups): (Vec<(String, Verifier)>, Vec<Group>) = Default::default();
        let mut names: BTreeSet<String> = BTreeSet::new();
        let mut keys: BTreeSet<[u8; 32]> = BTreeSet::new();
        if text.len() > POLICY_SIZE_MAX {
            return Err(PolicyError { line: 1, reason: "the policy is too long" });
        }
        let mut last = 0;
        for (index, line) in text.lines().enumerate() {
            last = index + 1;
            let bad = |reason| PolicyError { line: index + 1, reason };
            if index == POLICY_LINES_MAX {
                return Err(bad("the policy has too many lines"));
            }
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let [kind, words @ ..] = words.as_slice() else { continue };
            match (*kind, words) {
                ("log", [key, ..]) if log.is_none() => {
                    let key = Verifier::parse(key).map_err(|_| bad("not a verifier key"))?;
                    if key.kind != KeyKind::Log {
                        return Err(bad("a log's key signs heads, not cosignatures"));
                    }
                    log = Some(key);
                }
                ("witness", [name, key, ..]) => {
                    let key = Verifier::parse(key).map_err(|_| bad("not a verifier key"))?;
                    if key.kind != KeyKind::Cosigner {
                        return Err(bad("a witness' key signs cosignatures"));
                    }
                    if !keys.insert(key.key.to_bytes()) {
                        return Err(bad("one key counts once"));
                    }
                    if !names.insert((*name).to_string()) {
                        return Err(bad("the name is taken"));
                    }
                    witnesses.push(((*name).to_string(), key));
                }
                ("group", [name, threshold, members @ ..]) => {
                    let threshold = match *threshold {
                        "any" => 1,
                        "all" => members.len(),
                        number => number.parse().map_err(|_| bad("not a threshold"))?,
                    };
                    if threshold == 0 || threshold > members.len() {
                        return Err(bad("a threshold is 1 to the number of members"));
                    }
                    let distinct: BTreeSet<&&str> = members.iter().collect();
                    if distinct.len() != members.len() {
                        return Err(bad("a member counts once"));
                    }
                    if members.iter().any(|member| !names.contains(*member)) {
                        return Err(bad("a member is not named above"));
                    }
                    if !names.insert((*name).to_string()) {
                        return Err(bad("the name is taken"));
                    }
                    let members = members.iter().map(|member| (*member).to_string()).collect();
                    groups.push(Group { name: (*name).to_string(), threshold, members });
                }
                ("quorum", ["none"]) => {
                    return Err(bad("a quorum is needed: nobody would stand behind the answer"));
                }
                ("quorum", [name]) if quorum.is_none() => {
                    if !names.contains(*name) {
                        return Err(bad("the quorum is not named above"));
                    }
                    quorum = Some((*name).to_string());
                }
                _ => return Err(bad("not a line of a policy")),
            }
        }
        let missing = |reason| PolicyError { line: last, reason };
        Ok(Policy {
            log: log.ok_or(missing("no log is named"))?,
            witnesses,
            groups,
            quorum: quorum.ok_or(missing("no quorum is named"))?,
            fresh_within: None,
            seen: None,
        })
    }

    /// Who cosigned, and when; refused if they are too few.
    pub(super) fn check(&self, note: &SignedNote) -> Result<Vec<(String, u64)>, Reject> {
        if note.checkpoint.origin != self.log.name {
            return Err(Reject::AnotherCluster);
        }
        let signed = note.signed_by(&self.log);
        #[cfg(verity_zoo)]
        let signed = signed || crate::zoo::is("proof_log_unsigned");
        if !signed {
            return Err(Reject::NotSigned);
        }
        let mut cosigned = Vec::new();
        for (name, verifier) in &self.witnesses {
            let time_s = note.cosigned_by(verifier);
            cosigned.extend(time_s.map(|time_s| (name.clone(), time_s)));
        }
        let enough = self.quorum_of(|name| cosigned.iter().any(|(cosigner, _)| cosigner == name));
        #[cfg(verity_zoo)]
        let enough = enough || crate::zoo::is("proof_quorum_ignored");
        if enough {
            Ok(cosigned)
        } else {
            Err(Reject::TooFewCosigners { cosigners: cosigned.len() })
        }
    }

    /// Has a quorum cosigned as lately as is wanted?
    pub(super) fn is_young(&self, cosigners: &[(String, u64)]) -> bool {
        self.fresh_within.is_none_or(|Freshness { now_s, age_max_s }| {
            self.quorum_of(|name| {
                cosigners.iter().any(|(cosigner, time_s)| {
                    cosigner == name && time_s.saturating_add(age_max_s) >= now_s
                })
            })
        })
    }

    /// Is the quorum reached, if these witnesses count?
    fn quorum_of(&self, counts: impl Fn(&str) -> bool) -> bool {
        let mut satisfied: BTreeMap<&str, bool> = BTreeMap::new();
        for (name, _) in &self.witnesses {
            satisfied.insert(name, counts(name));
        }
        for group in &self.groups {
            let members = group.members.iter();
            let count = members.filter(|name| satisfied.get(name.as_str()) == Some(&true)).count();
            satisfied.insert(&group.name, count >= group.threshold);
        }
        satisfied.get(self.quorum.as_str()) == Some(&true)
    }
}
