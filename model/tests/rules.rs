//! The rules hold in every state within these bounds, and none of them can be left out.
//!
//! Larger bounds are run by hand; `docs/VSR.md` says which were, and how many states they have.

use stateright::{Checker, Model};
use verity_model::world::{COMMITTED_STAYS, LAST_VIEW_COMMITS};
use verity_model::{Bounds, Rules, World};

fn bounds([ops, views, crashes, rots, older_disks, lost_disks]: [u8; 6]) -> Bounds {
    Bounds { ops, views, crashes, rots, older_disks, lost_disks }
}

/// All states within the bounds; whether what was committed stays.
fn holds(rules: Rules, within: [u8; 6]) -> bool {
    let world = World { bounds: bounds(within), rules };
    let checker = world.checker().threads(2).spawn_bfs().join();
    let broken = checker.discovery(COMMITTED_STAYS);
    // A model in which nothing happens would hold as well.
    assert!(broken.is_some() || checker.discovery(LAST_VIEW_COMMITS).is_some());
    broken.is_none()
}

#[test]
fn what_was_committed_stays() {
    for within in [
        [1, 2, 0, 0, 0, 0],
        [2, 2, 0, 0, 0, 0],
        [2, 1, 1, 0, 0, 0],
        [1, 2, 1, 1, 0, 0],
        [2, 1, 0, 0, 1, 0],
        [2, 1, 0, 0, 0, 1],
        [1, 1, 0, 0, 0, 2],
        [1, 1, 1, 0, 0, 1],
        [1, 2, 0, 0, 0, 1],
    ] {
        assert!(holds(Rules::AsWritten, within), "{within:?}");
    }
}

#[test]
fn no_rule_can_be_left_out() {
    use Rules::*;
    let (rot, older) = ([1, 2, 1, 1, 0, 0], [2, 1, 0, 0, 1, 0]);
    let lost = [2, 1, 0, 0, 0, 1];
    for (rules, within) in [
        (CommitsAlone, rot),
        (TooFewNacks, rot),
        (NacksRotten, rot),
        (DropsWithoutNacks, rot),
        (CountsUncertain, rot),
        (LogViewFirst, rot),
        (ErasesOwnView, rot),
        (CertainByOldStartView, rot),
        (ViewNotDurable, rot),
        (TrustsOlderDisk, older),
        (CountsOldVotes, older),
        (CountsReplaced, lost),
        (ReplacedByOldStartView, [1, 2, 0, 0, 0, 1]),
        (ReplacedAsksOne, lost),
        (CountsOldVotes, lost),
    ] {
        assert!(!holds(rules, within), "{rules:?} is not seen to be broken");
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() -> std::io::Result<()> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let ended = std::process::Command::new(env!("CARGO_BIN_EXE_verity-model"))
        .args(["--views", "1", "--crashes", "0"])
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .output()?;
    let words = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!((ended.status.code(), words.as_str()), (Some(141), ""));
    Ok(())
}
