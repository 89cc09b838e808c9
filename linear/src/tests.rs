//! The search against one that only tries everything, and what each of its parts is for.

use crate::models::{Register, RegisterOp, Text, TextOp};
use crate::{Limits, Model, Operation, Verdict, by_key, check, check_keys};

use RegisterOp::{Cas, CasRefused, Read, Write};

fn op<Op>(invoked: u64, returned: u64, op: Op) -> Operation<Op> {
    Operation { invoked, returned: Some(returned), op }
}

fn unknown<Op>(invoked: u64, op: Op) -> Operation<Op> {
    Operation { invoked, returned: None, op }
}

fn holds(history: &[Operation<RegisterOp>]) -> bool {
    match check(&Register::default(), history, Limits::default()) {
        Verdict::Linearizable => true,
        Verdict::NotLinearizable(_) => false,
        Verdict::CouldNotTell => panic!("so small a history"),
    }
}

#[test]
fn small_histories() {
    assert!(holds(&[]));
    assert!(holds(&[op(1, 2, Read(None))]));
    assert!(!holds(&[op(1, 2, Read(Some(1)))]));
    assert!(holds(&[op(1, 2, Write(1)), op(3, 4, Read(Some(1)))]));
    // A stale read.
    assert!(!holds(&[op(1, 2, Write(1)), op(3, 4, Write(2)), op(5, 6, Read(Some(1)))]));
    // It overlaps the second write.
    assert!(holds(&[op(1, 2, Write(1)), op(3, 6, Write(2)), op(4, 5, Read(Some(1)))]));
    // What begins when another one ends overlaps it.
    assert!(holds(&[op(1, 2, Write(1)), op(2, 3, Read(None))]));
    // New, then old.
    let late = |old| [op(1, 9, Write(1)), op(2, 3, Read(Some(1))), op(4, 5, Read(old))];
    assert!(holds(&late(Some(1))) && !holds(&late(None)));
    assert!(holds(&[op(1, 2, Write(1)), op(3, 4, Cas { from: 1, to: 2 })]));
    assert!(!holds(&[op(1, 2, Write(1)), op(3, 4, CasRefused { from: 1 })]));
    assert!(holds(&[op(1, 2, Write(2)), op(3, 4, CasRefused { from: 1 })]));
}

#[test]
fn what_nobody_knows_came_late_or_never() {
    assert!(holds(&[unknown(1, Write(1)), op(2, 3, Read(None)), op(9, 10, Read(Some(1)))]));
    assert!(holds(&[unknown(1, Write(1)), op(2, 3, Read(None))]));
    assert!(!holds(&[op(2, 3, Read(Some(1))), unknown(4, Write(1))]));
    // Once.
    let twice = |count| {
        let mut history = vec![op(1, 2, Write(0))];
        history.extend((0..count).map(|_| unknown(3, Cas { from: 0, to: 1 })));
        history.push(op(4, 5, Read(Some(1))));
        history.push(op(6, 7, Write(0)));
        history.push(op(8, 9, Read(Some(1))));
        holds(&history)
    };
    assert!(!twice(1) && twice(2));
}

#[test]
fn it_says_where_no_order_is() {
    let history = [op(1, 2, Write(1)), op(3, 4, Write(2)), op(5, 6, Read(Some(1)))];
    let verdict = check(&Register::default(), &history, Limits::default());
    let Verdict::NotLinearizable(broken) = verdict else { panic!("{verdict:?}") };
    assert_eq!((broken.placed, broken.stuck, broken.state.as_str()), (2, 2, "Some(2)"));
}

#[test]
fn a_search_that_is_cut_short_says_so() {
    let mut history: Vec<_> = (0..10).map(|n| op(1, 100, Write(n))).collect();
    history.push(op(101, 102, Read(Some(77))));
    let tell = |limits| check(&Register::default(), &history, limits);
    let all = Limits::default();
    assert!(matches!(tell(all), Verdict::NotLinearizable(_)));
    assert_eq!(tell(Limits { steps_max: 1_000, ..all }), Verdict::CouldNotTell);
    assert_eq!(tell(Limits { configurations_max: 1_000, ..all }), Verdict::CouldNotTell);
}

#[test]
fn hundreds_of_unknown_outcomes_are_told() {
    // 400 writes that nobody knows of, and one impossible read in the end.
    let mut history: Vec<_> = (0..400).map(|n| unknown(n, Write(n as i64 % 7))).collect();
    for n in 0..200 {
        history.push(op(500 + n, 500 + n, Read(Some(n as i64 % 5))));
    }
    assert!(holds(&history));
    history.push(op(1_000, 1_001, Read(Some(7))));
    assert!(!holds(&history));
    // Each of its own kind: half of them are seen.
    let mut history: Vec<_> = (0..400).map(|n| unknown(n, Write(n as i64))).collect();
    for n in 0..200 {
        history.push(op(500 + n, 500 + n, Read(Some(2 * n as i64))));
    }
    assert!(holds(&history));
    history.push(op(1_000, 1_001, Read(Some(2))));
    assert!(!holds(&history));
}

#[test]
fn keys_are_told_apart() {
    let at = |n: usize| 2 * n as u64;
    let tell = |history: &[(char, RegisterOp)]| {
        let each = history.iter().cloned().enumerate();
        let keys = by_key(each.map(|(n, both)| op(at(n), at(n) + 1, both)));
        let (verdict, key) = check_keys(&Register::default(), &keys, Limits::default());
        (verdict.is_linearizable(), key.copied())
    };
    let mut history = vec![('a', Write(1)), ('b', Read(None)), ('a', Read(Some(1)))];
    assert_eq!(tell(&history), (true, None));
    history.push(('b', Read(Some(1))));
    assert_eq!(tell(&history), (false, Some('b')));
}

/// Small numbers, as good as random.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % bound
    }
}

/// Every order of every choice of the unknown ones.
fn by_trying_everything<M: Model>(model: &M, history: &[Operation<M::Op>]) -> bool {
    fn go<M: Model>(model: &M, history: &[Operation<M::Op>], left: u32, state: &M::State) -> bool {
        let is_left = |at: &usize| left & 1 << at != 0;
        let all = || (0..history.len()).filter(is_left);
        let Some(first) = all().filter_map(|at| history[at].returned).min() else { return true };
        let mut next = all().filter(|at| history[*at].invoked <= first);
        next.any(|at| {
            model
                .step(state, &history[at].op)
                .is_some_and(|state| go(model, history, left & !(1 << at), &state))
        })
    }
    go(model, history, (1 << history.len()) - 1, &model.initial())
}

fn agrees<M: Model>(
    model: &M,
    seeds: std::ops::Range<u64>,
    mut draw: impl FnMut(&mut Random) -> (bool, M::Op),
) -> [u32; 2] {
    let mut verdicts = [0, 0];
    for seed in seeds {
        let mut random = Random(seed);
        let history: Vec<Operation<M::Op>> = (0..2 + random.below(7))
            .map(|_| {
                let (may_be_unknown, drawn) = draw(&mut random);
                let invoked = random.below(14);
                match may_be_unknown && random.below(2) == 0 {
                    true => unknown(invoked, drawn),
                    false => op(invoked, invoked + random.below(6), drawn),
                }
            })
            .collect();
        let expected = by_trying_everything(model, &history);
        let found = check(model, &history, Limits::default());
        assert_eq!(found.is_linearizable(), expected, "seed {seed}: {found:?} of {history:#?}");
        assert_ne!(found, Verdict::CouldNotTell);
        verdicts[usize::from(expected)] += 1;
    }
    verdicts
}

#[test]
fn it_agrees_with_trying_everything() {
    let register = |random: &mut Random| {
        let mut value = || random.below(3) as i64;
        let (from, to) = (value(), value());
        match random.below(8) {
            0 => (false, Read(None)),
            1 | 2 => (false, Read(Some(to))),
            3 => (false, CasRefused { from }),
            4 | 5 => (true, Cas { from, to }),
            _ => (true, Write(to)),
        }
    };
    let verdicts = agrees(&Register::default(), 0..30_000, register);
    println!("registers: [not linearizable, linearizable] = {verdicts:?}");
    assert!(verdicts.iter().all(|count| *count > 3_000), "{verdicts:?}");
    let text = |random: &mut Random| {
        let word = ["a", "b", "ab", "ba", "aab", ""][random.below(6) as usize].to_string();
        match random.below(4) {
            0 | 1 => (false, TextOp::Get(word)),
            2 => (true, TextOp::Put(word)),
            _ => (true, TextOp::Append(word)),
        }
    };
    let verdicts = agrees(&Text, 0..30_000, text);
    println!("texts: [not linearizable, linearizable] = {verdicts:?}");
    assert!(verdicts.iter().all(|count| *count > 3_000), "{verdicts:?}");
}
