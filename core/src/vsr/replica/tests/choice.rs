//! Which log a view begins with: offers written as short lines, the choice as another.
//!
//! An offer: log view, then ops. `3: a1 b2 c?` is log view 3 with op 1 = a, op 2 = b held, and op 3
//! = c rotten; a leading `!` means not certain; `|` after an op marks it committed.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use std::string::{String, ToString};

use super::super::decide::{Choice, decide};
use crate::crypto::hash::InternalHash;
use crate::ids::{ClusterId, Op, View};
use crate::journal::PrepareHeader;
use crate::vsr::message::DoViewChange;

/// Headers by the names of all ops up to them: the same name after another history differs.
struct Names {
    headers: BTreeMap<String, PrepareHeader>,
}

impl Names {
    fn header(&mut self, path: &str, view: u64, commit: u64) -> PrepareHeader {
        if let Some(header) = self.headers.get(path) {
            return *header;
        }
        let op = path.len() as u64;
        let parent = match path.len() {
            1 => PrepareHeader::root(ClusterId::new(7)).checksum,
            _ => self.header(&path[..path.len() - 1], view, 0).checksum,
        };
        let mut header = PrepareHeader {
            op: Op::new(op),
            parent,
            view: View::new(view),
            commit: Op::new(commit),
            checksum_body: InternalHash([path.as_bytes()[path.len() - 1]; 32]),
            operation: crate::journal::Operation::Requests,
            ..PrepareHeader::root(ClusterId::new(7))
        };
        header.seal();
        self.headers.insert(path.to_string(), header);
        header
    }

    fn offer(&mut self, line: &str) -> DoViewChange {
        let (certain, line) = match line.strip_prefix('!') {
            Some(rest) => (false, rest),
            None => (true, line),
        };
        let (log_view, ops) = line.split_once(':').unwrap();
        let (mut path, mut floor) = (String::new(), 0);
        let (mut headers, mut present) = (Vec::new(), 0_u64);
        for word in ops.split_whitespace() {
            let name = word.chars().next().unwrap();
            path.push(name);
            if word.contains('_') {
                continue; // a hole: only the op above names it
            }
            let view = if name.is_uppercase() { 9 } else { 1 };
            let header = self.header(&path, view, 0);
            if word.contains('|') {
                floor = path.len();
                headers.clear();
                present = 0;
                continue;
            }
            present |= u64::from(!word.contains('?')) << headers.len();
            headers.push(header);
        }
        let floor_checksum = match floor {
            0 => PrepareHeader::root(ClusterId::new(7)).checksum,
            _ => self.header(&path[..floor], 1, 0).checksum,
        };
        DoViewChange {
            log_view: View::new(log_view.trim().parse().unwrap()),
            commit: Op::new(floor as u64),
            floor: Op::new(floor as u64),
            floor_checksum,
            head: Op::new(path.len() as u64),
            certain,
            present,
            boots: [0; crate::limits::REPLICA_COUNT_MAX],
            headers,
        }
    }
}

/// The names of the chosen log, `wait N` or `wait`.
fn chosen(quorum: usize, offers: &[&str]) -> String {
    let mut names = Names { headers: BTreeMap::new() };
    let offers: Vec<DoViewChange> = offers.iter().map(|line| names.offer(line)).collect();
    let refs: Vec<&DoViewChange> = offers.iter().collect();
    match decide(&refs, quorum, None) {
        Choice::Wait { missing: None } => "wait".into(),
        Choice::Wait { missing: Some(op) } => std::format!("wait {op}"),
        Choice::Log(log) => {
            let path =
                names.headers.iter().find(|(_, header)| header.checksum == log.head_checksum);
            path.map_or_else(String::new, |(path, _)| path.clone())
        }
    }
}

#[test]
fn the_longest_of_the_highest_log_view() {
    assert_eq!(chosen(2, &["1: a", "1: a b"]), "ab");
    assert_eq!(chosen(2, &["1: a b", "2: a C"]), "aC");
    assert_eq!(chosen(2, &["1: a| b", "1: a|"]), "ab", "kept: only one nack of two");
    assert_eq!(chosen(2, &["1:", "1:"]), "");
}

#[test]
fn an_op_is_dropped_by_a_nack_quorum_only() {
    assert_eq!(chosen(2, &["1: a b", "1: a", "1: a"]), "a");
    assert_eq!(chosen(2, &["1: a b?", "1: a"]), "wait 2", "the third may have it");
    assert_eq!(chosen(2, &["1: a b?", "1: a", "1: a"]), "a");
    assert_eq!(chosen(2, &["1: a b?", "1: a", "1: a b"]), "ab");
    assert_eq!(chosen(3, &["1: a b?", "1: a", "1: a"]), "wait 2");
    assert_eq!(chosen(3, &["1: a b?", "1: a", "1: a", "1: a"]), "a");
}

#[test]
fn who_is_not_certain_neither_votes_nor_nacks() {
    assert_eq!(chosen(2, &["!1: a", "1: a b"]), "wait");
    assert_eq!(chosen(2, &["!1: a", "1: a b?", "1: a"]), "wait 2");
    assert_eq!(chosen(2, &["!1: a b", "1: a", "1: a b?"]), "ab", "but its bodies count");
    assert_eq!(chosen(2, &["!5: a", "1: a b", "1: a b"]), "ab");
}

#[test]
fn a_lower_log_view_may_lend_what_a_higher_one_has_rotten() {
    assert_eq!(chosen(2, &["2: a b?", "1: a b"]), "ab");
    assert_eq!(chosen(2, &["2: a", "1: a b"]), "ab", "harmless: not dropped by one nack");
    assert_eq!(chosen(2, &["2: a", "2: a", "1: a b"]), "a");
}

#[test]
fn what_does_not_join_ends_the_log() {
    assert_eq!(chosen(2, &["2: a C", "1: a b d"]), "aC");
    assert_eq!(chosen(3, &["2: a C", "1: a b d e", "1: a b"]), "aC");
}

#[test]
fn a_hole_is_named_by_the_op_above() {
    assert_eq!(chosen(2, &["1: a b_ c", "1: a b c"]), "abc");
    assert_eq!(chosen(2, &["1: a b_ c", "1: a"]), "wait 2", "its header is with nobody yet");
    assert_eq!(chosen(2, &["1: a b_ c", "1: a", "1: a"]), "a");
}

#[test]
fn what_is_committed_stays_also_if_only_one_knows_it() {
    assert_eq!(chosen(2, &["1: a b|", "1: a b"]), "ab");
    assert_eq!(chosen(2, &["1: a b|", "1: a"]), "ab", "no op at or below a commit is nacked");
}

/// Two holes side by side: the lower one has no name. (Seed 2305 of the campaign took it for the
/// end of the log.)
#[test]
fn a_hole_without_a_name_is_no_nack() {
    assert_eq!(chosen(2, &["1: a b_ c_ d", "1: a b c d"]), "abcd", "the same log view names it");
    assert_eq!(chosen(2, &["1: a b_ c_ d", "1: a"]), "wait 2");
    assert_eq!(chosen(2, &["1: a b_ c_ d", "1: a", "1: a"]), "a", "a nack quorum, whatever it is");
    assert_eq!(chosen(3, &["1: a b_ c_ d", "1: a", "1: a"]), "wait 2");
    assert_eq!(chosen(2, &["2: a B_ C_ D", "1: a b c"]), "wait 2", "b may be what view 2 dropped");
    assert_eq!(chosen(3, &["2: a B_ C_ D", "1: a b c", "1: a", "1: a"]), "ab", "no quorum in 2");
    assert_eq!(chosen(2, &["2: a B_ C_ D", "1: a b c", "1: a b c"]), "ab", "no quorum in 2");
    assert_eq!(chosen(3, &["2: a B_ C_ D", "1: a b c", "1: a b c"]), "wait 2");
    assert_eq!(chosen(2, &["1: a b_ c_ d", "2: a b c"]), "abcd", "one nack of d is not two");
}
