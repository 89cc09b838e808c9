//! The notation of directed tests: one step a line, read top-down.
//!
//! | step | means |
//! | --- | --- |
//! | `write N` | the client writes until N more requests are acknowledged |
//! | `quiet` | the client stops; all that is in flight settles (300 ms) |
//! | `run N` | N milliseconds pass |
//! | `crash A B …` | stops replicas; of writes in flight nothing is kept (`lose`), all (`keep`), a part (`torn`) |
//! | `start A B …` | starts stopped replicas |
//! | `cut A>B`, `isolate A`, `heal A>B`, `heal` | links |
//! | `fetches held/go` | who is behind the ring gets its checkpoint later; now |
//! | `close A>B` | B is told that A closed its link to it, which may be false |
//! | `lose A>B KIND`, `deliver` | drops one kind of message on a link; ends all such losses |
//! | `slow A PERCENT` | speed of a disk |
//! | `full A`, `room A` | the disk of A has no room for requests; it has again |
//! | `rot A prepare/header/both OP` | flips a byte; `OP` is a number, `head`, `head-1`, … of that replica |
//! | `replace A`, `blank A` | the disk of a stopped replica is lost; the empty one in its place says so, or does not |
//! | `save A`, `old A` | remembers the disk of a replica; puts it back (it must be stopped) |
//! | `replay A KIND` | delivers every `StartView` or `DoViewChange` ever sent to A once more |
//! | `client on/off` | whether new requests come |
//! | `reads` | from now on linearizable reads come, and are checked |
//! | `expect …` | `primary A` (sooner or later), `leads A` (now), `view >N`, `converge`, `stuck`, `uncertain A`, `certain A`, `repairs`, `synced`, `truncated`, `reads`, `phase A normal/viewchange`, `head A = B`, `nothing-truncated` |
//!
//! Replicas are numbers; `P` is the primary at that moment, `B` and `C` the next two after it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::Bug;
use super::world::{LONG_MS, World};
use crate::ids::{Op, View};
use crate::journal::Ring;
use crate::journal::fake_disk::{FakeDisk, Keep};
use crate::limits::{JOURNAL_RING_BYTES_MIN, PAGE_SIZE};
use crate::superblock::SuperblockState;
use crate::vsr::replica::Phase;
use crate::wire::replica::Kind;

/// Runs a script on a new cluster, with a bug or none.
pub(super) fn check_with(count: usize, bug: Option<Bug>, script: &str) {
    let mut run = Run {
        world: World::new(script.len() as u64, count),
        saved: BTreeMap::new(),
        roles: [0; 5],
    };
    run.world.bug = bug;
    for member in &mut run.world.members {
        if let Some(replica) = &mut member.replica {
            replica.bug = bug;
        }
    }
    run.world.client_active = false;
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        run.step(line);
    }
}

pub(super) fn check(count: usize, script: &str) {
    check_with(count, None, script);
}

/// The bug must be caught by the script.
pub(super) fn caught(count: usize, bug: Bug, script: &str) {
    assert!(catches(count, bug, script), "{bug:?} passes");
}

pub(super) fn catches(count: usize, bug: Bug, script: &str) -> bool {
    std::panic::catch_unwind(|| check_with(count, Some(bug), script)).is_err()
}

fn kind_named(name: &str) -> Kind {
    Kind::ALL.into_iter().find(|kind| std::format!("{kind:?}") == name).unwrap()
}

struct Run {
    world: World,
    saved: BTreeMap<usize, (FakeDisk, SuperblockState)>,
    /// P, B, C, D, E when they were last looked up.
    roles: [usize; 5],
}

impl Run {
    fn step(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["write", count] => self.write(count.parse().unwrap(), line),
            ["quiet"] => {
                self.world.client_active = false;
                self.world.run_ms(300);
            }
            ["run", ms] => self.world.run_ms(ms.parse().unwrap()),
            ["client", what] => self.world.client_active = *what == "on",
            ["roles"] => self.look_up_roles(line),
            ["reads"] => self.world.reads = true,
            ["crash", rest @ ..] => self.crash(rest),
            ["start", rest @ ..] => {
                for who in rest {
                    let who = self.who(who);
                    self.world.start(who);
                }
            }
            ["isolate", who] => {
                let who = self.who(who);
                for other in 0..self.world.count() {
                    if other != who {
                        self.world.cut[who][other] = true;
                        self.world.cut[other][who] = true;
                    }
                }
            }
            ["cut", link] => {
                let (from, to) = self.link(link);
                self.world.cut[from][to] = true;
            }
            ["close", link] => {
                let (from, to) = self.link(link);
                self.world.tell_closed(from, to);
            }
            ["heal", link] => {
                let (from, to) = self.link(link);
                self.world.cut[from][to] = false;
            }
            ["fetches", what] => self.world.fetches_held = *what == "held",
            ["heal"] => self.world.cut.iter_mut().flatten().for_each(|cut| *cut = false),
            ["lose", link, kind] => {
                let (from, to) = self.link(link);
                self.world.dropped_kinds.insert((from, to, kind_named(kind).code()));
            }
            ["deliver"] => self.world.dropped_kinds.clear(),
            [what @ ("full" | "room"), who] => {
                let who = self.who(who);
                let now = self.world.clock(who);
                let replica = self.world.members[who].replica.as_mut().unwrap();
                replica.set_full(now, *what == "full");
            }
            ["slow", who, percent] => {
                let who = self.who(who);
                self.world.members[who].disk_speed = percent.parse().unwrap();
            }
            ["rot", who, what, op] => self.rot(who, what, op),
            ["save", who] => {
                let who = self.who(who);
                let member = &self.world.members[who];
                let mut disk = member.disk.clone();
                disk.crash(|| Keep::Old);
                self.saved.insert(who, (disk, member.state));
            }
            ["old", who] => {
                let who = self.who(who);
                assert!(!self.world.is_up(who), "a disk is put back while its replica is stopped");
                let (disk, state) = self.saved[&who].clone();
                self.world.members[who].disk = disk;
                self.world.members[who].damaged = true;
                self.world.members[who].state = state;
            }
            ["replace", who] => self.world.lose_disk(self.who(who), true),
            ["blank", who] => self.world.lose_disk(self.who(who), false),
            ["replay", who, kind] => {
                let who = self.who(who);
                let code = kind_named(kind).code();
                for (_, to, frame) in self.world.recorded.clone() {
                    if to == who && frame[14 + 96] == code {
                        self.world.receive(to, &frame);
                    }
                }
            }
            ["expect", rest @ ..] => self.expect(rest, line),
            _ => panic!("no such step: {line}"),
        }
    }

    fn fail(&self, line: &str) -> ! {
        panic!("`{line}` does not hold\n{}", self.world.describe())
    }

    fn look_up_roles(&mut self, line: &str) {
        let up = self.world.run_until(LONG_MS, |world| world.primary().is_some());
        let Some(primary) = self.world.primary().filter(|_| up) else { self.fail(line) };
        let count = self.world.count();
        for (index, role) in self.roles.iter_mut().enumerate() {
            *role = (primary + index) % count;
        }
    }

    fn who(&self, name: &str) -> usize {
        match name {
            "P" => self.roles[0],
            "B" => self.roles[1],
            "C" => self.roles[2],
            "D" => self.roles[3],
            "E" => self.roles[4],
            number => number.parse().unwrap(),
        }
    }

    fn link(&self, link: &str) -> (usize, usize) {
        let (from, to) = link.split_once('>').unwrap();
        (self.who(from), self.who(to))
    }

    fn write(&mut self, count: usize, line: &str) {
        self.world.client_active = true;
        let target = self.world.acknowledged.len() + count;
        let done = self.world.run_until(LONG_MS, |world| world.acknowledged.len() >= target);
        self.world.client_active = false;
        if !done {
            self.fail(line);
        }
    }

    fn crash(&mut self, words: &[&str]) {
        let mut style = "lose";
        for word in words {
            match *word {
                "lose" | "keep" | "torn" => style = word,
                _ => {}
            }
        }
        for word in words.iter().filter(|word| **word != style) {
            let who = self.who(word);
            self.world.crash(who, |random| match style {
                "keep" => Keep::New,
                "torn" => match random.below(3) {
                    0 => Keep::Old,
                    1 => Keep::New,
                    _ => Keep::Torn(random.below(PAGE_SIZE)),
                },
                _ => Keep::Old,
            });
        }
    }

    fn rot(&mut self, who: &str, what: &str, op: &str) {
        let who = self.who(who);
        self.world.remember_headers(who);
        let member = &mut self.world.members[who];
        member.damaged = true;
        let head = member.headers.keys().next_back().copied().unwrap();
        let op = match op.strip_prefix("head") {
            Some("") => head,
            Some(less) => Op::new(head.get() - less[1..].parse::<u64>().unwrap()),
            None => Op::new(op.parse().unwrap()),
        };
        let header = member.headers[&op];
        let ring = Ring::new(JOURNAL_RING_BYTES_MIN);
        if what == "prepare" || what == "both" {
            member.disk.flip(ring.address(header.journal_offset).offset + 260);
        }
        if what == "header" || what == "both" {
            member.disk.flip(ring.slot_offset(header.journal_offset) as u64 + 100);
        }
    }

    fn expect(&mut self, words: &[&str], line: &str) {
        let world = &mut self.world;
        let holds = match words {
            ["converge"] => {
                world.client_active = false;
                world.run_until(LONG_MS, World::converged)
            }
            ["stuck"] => {
                let before = world.last();
                world.run_ms(10_000);
                world.last() == before && world.primary().is_none()
            }
            ["primary", who] => {
                let who = self.who(who);
                let world = &mut self.world;
                world.run_until(LONG_MS, |world| world.primary() == Some(who))
            }
            ["leads", who] => self.world.primary() == Some(self.who(who)),
            ["new", "primary"] => {
                let old = self.roles[0];
                let world = &mut self.world;
                world.run_until(LONG_MS, |world| {
                    world.primary().is_some_and(|primary| primary != old)
                })
            }
            ["view", above] => {
                let above = View::new(above[1..].parse().unwrap());
                world.run_until(LONG_MS, |world| {
                    (0..world.count())
                        .any(|index| world.is_up(index) && world.replica(index).view > above)
                })
            }
            ["uncertain", who] => {
                let who = self.who(who);
                let up = |world: &World| world.is_up(who) && !world.replica(who).is_certain();
                self.world.run_until(5_000, up)
            }
            ["certain", who] => {
                let who = self.who(who);
                let up = |world: &World| world.is_up(who) && world.replica(who).is_certain();
                self.world.run_until(LONG_MS, up)
            }
            ["phase", who, phase] => {
                let who = self.who(who);
                let phase = match *phase {
                    "normal" => Phase::Normal,
                    "viewchange" => Phase::ViewChange,
                    "boot" => Phase::Boot,
                    other => panic!("no phase {other}"),
                };
                self.world.run_until(LONG_MS, |world| world.replica(who).phase == phase)
            }
            ["head", one, "=", other] => {
                let (one, other) = (self.who(one), self.who(other));
                let head = |who| self.world.replica(who).journal().head_op();
                head(one) == head(other)
            }
            ["no", "commit"] => {
                let before = world.last();
                world.run_ms(10_000);
                world.last() == before
            }
            ["synced"] => world.run_until(LONG_MS, |world| world.syncs > 0),
            ["reads"] => world.reads_confirmed > 10,
            ["repairs"] => world.repairs > 0,
            ["truncated"] => world.truncations > 0,
            ["nothing-truncated"] => world.truncations == 0,
            ["view-changes", at_most] => world.view_changes <= at_most[1..].parse::<u64>().unwrap(),
            _ => panic!("no such expectation: {line}"),
        };
        if !holds {
            self.fail(line);
        }
    }
}
