//! What is known at once is what a look at every entry would tell.

use super::*;

fn look(entries: &Entries, state: State) -> Vec<Op> {
    let all = entries.first.get()..entries.first.get() + entries.entries.len() as u64;
    all.map(Op::new).filter(|op| entries.get(*op).unwrap().state == state).collect()
}

#[test]
fn the_lists_are_what_a_look_at_all_would_tell() {
    let entry = |state| Entry { checksum: None, header: None, state };
    let rotten_and_held = [State::Held, State::Rotten, State::Held, State::Rotten].map(entry);
    let mut entries = Entries::new(Op::new(7), rotten_and_held.to_vec());
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut draw = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut seen = [0; 4];
    for _ in 0..20_000 {
        let op = Op::new(entries.first().get() + draw(entries.entries.len() as u64 + 1));
        match (draw(6), entries.get(op).map(|entry| entry.state)) {
            (0 | 1, _) => {
                let next = entries.last().map_or(entries.first(), Op::next);
                entries.append(next, entry(State::Writing));
            }
            (2, _) => entries.pop_front(),
            (3, _) => drop(entries.pop_back()),
            (_, Some(State::Writing | State::Rewriting)) => entries.set_state(op, State::Held),
            (4, Some(State::Held)) => entries.set_state(op, State::Rotten),
            (_, Some(State::Rotten)) => entries.set_state(op, State::Rewriting),
            (_, Some(State::Held) | None) => {}
        }
        let (writing, rotten) = (look(&entries, State::Writing), look(&entries, State::Rotten));
        assert_eq!(entries.first_writing(), writing.first().copied());
        assert_eq!(entries.rotten(Op::ZERO).collect::<Vec<_>>(), rotten);
        for (seen, some) in seen.iter_mut().zip([
            writing.len() > 1,
            rotten.len() > 1,
            entries.is_empty(),
            entries.get(op).is_none(),
        ]) {
            *seen += usize::from(some);
        }
    }
    assert!(seen.iter().all(|seen| *seen > 100), "{seen:?}");
}
