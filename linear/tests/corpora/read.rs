//! Histories as others write them, as ours. The time of an event is its place in the file.

use std::collections::BTreeMap;

use verity_linear::Operation;
use verity_linear::models::{Access, RegisterOp, Registers, TextOp};

use super::edn::{Edn, parse_all};

/// How an operation ended.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Ok,
    /// It did not happen, or, of a compare and set of etcd, was answered with no.
    Failed,
    Unknown,
}

/// A call and what came of it: none if nothing was ever heard.
struct Call<T> {
    invoked: u64,
    asked: T,
    returned: Option<(u64, End, T)>,
}

/// Pairs calls with returns, process by process, in order of the calls.
struct Pairs<T> {
    calls: Vec<Call<T>>,
    open: BTreeMap<String, usize>,
    time: u64,
}

impl<T> Pairs<T> {
    fn new() -> Pairs<T> {
        Pairs { calls: Vec::new(), open: BTreeMap::new(), time: 0 }
    }

    fn event(&mut self, process: &str, kind: &str, value: T) {
        self.time += 1;
        let end = match kind {
            "invoke" => {
                let before = self.open.insert(process.to_string(), self.calls.len());
                assert_eq!(before, None, "process {process} asks before it was answered");
                let call = Call { invoked: self.time, asked: value, returned: None };
                return self.calls.push(call);
            }
            "ok" => End::Ok,
            "fail" => End::Failed,
            "info" => End::Unknown,
            other => panic!("{other}"),
        };
        let call = self.open.remove(process).expect("it asked");
        self.calls[call].returned = Some((self.time, end, value));
    }
}

fn operation<Op>(invoked: u64, returned: Option<u64>, op: Op) -> Operation<Op> {
    Operation { invoked, returned, op }
}

/// `INFO  jepsen.util - 2  :invoke :cas [3 0]`, of a register of etcd. A refused compare and set is
/// an answer here: the value was another one. What timed out may have happened.
pub fn jepsen_log(text: &str) -> Vec<Operation<RegisterOp>> {
    let mut pairs = Pairs::new();
    for line in text.lines() {
        let Some(words) = line.strip_prefix("INFO  jepsen.util - ") else { continue };
        let mut rest = words;
        let mut word = || {
            let (word, behind) = rest.trim_start().split_once([' ', '\t']).expect(line);
            rest = behind;
            word
        };
        let (process, kind, function) = (word(), word(), word());
        let value = rest.trim();
        if process.parse::<u32>().is_err() {
            assert!(process.starts_with(":nemesis"), "{line}");
            continue;
        }
        let [kind, function] = [kind, function].map(|word| word.strip_prefix(':').expect(line));
        pairs.event(process, kind, (function, value));
    }
    let number = |text: &str| -> Option<i64> { (text != "nil").then(|| text.parse().unwrap()) };
    let mut history = Vec::new();
    for Call { invoked, asked: (function, asked), returned } in pairs.calls {
        let timed_out = returned.is_none_or(|(.., (_, value))| value == ":timed-out");
        let ends = returned.filter(|_| !timed_out);
        let at = ends.map(|(time, ..)| time);
        let failed = ends.is_some_and(|(_, end, _)| end == End::Failed);
        assert!(ends.is_none_or(|(_, end, _)| end != End::Unknown), "{function} {asked}");
        match function {
            "read" => {
                if let Some((_, _, (_, found))) = ends {
                    assert!(!failed);
                    history.push(operation(invoked, at, RegisterOp::Read(number(found))));
                }
            }
            "write" => {
                assert!(!failed);
                history.push(operation(invoked, at, RegisterOp::Write(asked.parse().unwrap())));
            }
            "cas" => {
                let both = asked.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let (from, to) = both.unwrap().split_once(' ').unwrap();
                let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
                let op = match failed {
                    true => RegisterOp::CasRefused { from },
                    false => RegisterOp::Cas { from, to },
                };
                history.push(operation(invoked, at, op));
            }
            other => panic!("{other}"),
        }
    }
    history
}

/// Lines of maps: `get`, `put` and `append` of one key, all of them answered.
pub fn texts(text: &str) -> Vec<Operation<(String, TextOp)>> {
    let pairs = pairs_of(&parse_all(text), |event| (event.get("key").clone(), event.clone()));
    let text = |value: &Edn| match value {
        Edn::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    let read = |Call { invoked, asked: (key, asked), returned }| {
        let Some((at, End::Ok, (_, answer))) = returned else { panic!("{asked:?}: no answer") };
        let value = || text(Edn::get(&answer, "value"));
        let op = match asked.get("f").word() {
            "get" => TextOp::Get(value()),
            "put" => TextOp::Put(value()),
            "append" => TextOp::Append(value()),
            other => panic!("{other}"),
        };
        operation(invoked, Some(at), (text(&key), op))
    };
    pairs.calls.into_iter().map(read).collect()
}

fn pairs_of<T>(events: &[Edn], value: impl Fn(&Edn) -> T) -> Pairs<T> {
    let mut pairs = Pairs::new();
    for event in events {
        let process = event.get("process");
        if *process != Edn::Word("nemesis".to_string()) {
            pairs.event(&format!("{process:?}"), event.get("type").word(), value(event));
        }
    }
    pairs
}

/// A vector of maps: `read`, `write` and `cas` of one register. What failed did not happen.
pub fn cas_register(events: &Edn) -> Vec<Operation<RegisterOp>> {
    let mut history = Vec::new();
    for Call { invoked, asked, returned } in pairs_of(events.list(), Edn::clone).calls {
        let (at, answer) = match returned {
            Some((_, End::Failed, _)) => continue,
            Some((at, End::Ok, answer)) => (Some(at), Some(answer)),
            Some((_, End::Unknown, _)) | None => (None, None),
        };
        let value = asked.get("value");
        let op = match asked.get("f").word() {
            "read" => match answer {
                Some(answer) => RegisterOp::Read(answer.get("value").number()),
                // Nobody was told anything.
                None => continue,
            },
            "write" => RegisterOp::Write(value.number().unwrap()),
            "cas" => {
                let [from, to] = value.list() else { panic!("{value:?}") };
                RegisterOp::Cas { from: from.number().unwrap(), to: to.number().unwrap() }
            }
            other => panic!("{other}"),
        };
        history.push(operation(invoked, at, op));
    }
    history
}

/// Transactions over registers `x` and `y`, both 0 at first.
pub fn registers(events: &Edn) -> (Registers, Vec<Operation<Vec<Access>>>) {
    let mut history = Vec::new();
    for Call { invoked, asked, returned } in pairs_of(events.list(), Edn::clone).calls {
        let (at, said) = match returned {
            Some((_, End::Failed, _)) => continue,
            Some((at, End::Ok, answer)) => (Some(at), answer),
            // What it would have read nobody knows; it is left out.
            Some((_, End::Unknown, _)) | None => (None, asked),
        };
        let mut accesses = Vec::new();
        for access in said.get("value").list() {
            let [what, register, value] = access.list() else { panic!("{access:?}") };
            let register = match register.word() {
                "x" => 0,
                "y" => 1,
                other => panic!("{other}"),
            };
            match (what.word(), value.number()) {
                ("read", Some(found)) => accesses.push(Access::Read(register, found)),
                ("read", None) => assert_eq!(at, None, "{access:?}"),
                ("write", value) => accesses.push(Access::Write(register, value.unwrap())),
                (other, _) => panic!("{other}"),
            }
        }
        history.push(operation(invoked, at, accesses));
    }
    (Registers { initial: vec![0, 0] }, history)
}
