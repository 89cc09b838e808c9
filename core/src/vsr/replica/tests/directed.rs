//! Rare conjunctions, each on purpose: who crashes, which slots rot, which messages drop, what must
//! follow. The notation is explained in `notation`.

use super::Bug;
use super::notation::{catches, caught, check};

#[test]
fn a_new_cluster_elects_and_writes() {
    check(3, "write 20\n quiet\n expect converge\n expect view-changes <3");
    check(5, "write 20\n quiet\n expect converge\n expect view-changes <5");
}

#[test]
fn one_backup_down_changes_nothing() {
    check(3, "write 5\n roles\n crash B\n write 20\n expect primary P\n start B\n expect converge");
}

#[test]
fn the_primary_dies_and_another_goes_on() {
    check(
        3,
        "write 5\n roles\n crash P\n expect new primary\n write 10\n start P\n expect converge",
    );
    check(5, "write 5\n roles\n crash P B\n write 10\n start P B\n expect converge");
}

#[test]
fn the_power_fails() {
    for style in ["lose", "keep", "torn"] {
        let script = std::format!(
            "write 5\n client on\n run 20\n crash {style} 0 1 2\n start 0 1 2\n write 5\n \
             expect converge"
        );
        check(3, &script);
    }
}

#[test]
fn two_of_three_down_is_a_standstill_not_a_loss() {
    check(
        3,
        "write 5\n quiet\n roles\n crash B C\n client on\n run 3000\n crash P\n start P
         expect stuck\n start B\n write 5\n start C\n expect converge",
    );
}

#[test]
fn a_lonely_vote_moves_nothing() {
    // Replica C hears nothing from the primary, the others are well.
    check(
        3,
        "write 5\n roles\n cut P>C\n client on\n run 1500\n expect primary P\n heal\n write 5
         expect primary P\n expect converge\n expect view-changes <4",
    );
}

#[test]
fn a_primary_whose_disk_is_full_makes_way() {
    check(
        3,
        "write 5\n quiet\n roles\n full P\n run 500\n expect leads P\n run 2500\n expect leads B
         write 5\n room P\n expect converge",
    );
    // The next one is full as well, and makes way in its turn.
    check(
        3,
        "write 5\n quiet\n roles\n full P\n full B\n run 6000\n expect leads C\n write 5\n room P
         room B\n expect converge",
    );
}

#[test]
fn where_all_disks_are_full_nobody_moves() {
    check(
        3,
        "write 5\n quiet\n roles\n full P\n full B\n full C\n run 20000\n expect leads P
         room P\n write 5\n expect view-changes <4\n expect converge",
    );
    // Who had room is gone.
    check(
        3,
        "write 5\n quiet\n roles\n full P\n full B\n crash C\n run 20000\n expect leads P\n room P
         start C\n write 5\n expect converge",
    );
}

#[test]
fn a_primary_whose_links_closed_is_replaced_before_its_silence_is_noticed() {
    check(
        3,
        "write 5\n quiet\n roles\n crash P\n close P>B\n close P>C\n run 300\n expect leads B
         write 5\n start P\n expect converge",
    );
    // The primary of the next view is gone as well: nobody waits for it.
    check(
        5,
        "write 5\n quiet\n roles\n crash P B\n close P>C\n close P>D\n close P>E\n close B>C
         close B>D\n close B>E\n run 500\n expect leads C\n write 5\n start P B
         expect converge",
    );
}

/// The links were broken, or a peer dials anew: what comes of it next takes the hint back.
#[test]
fn closed_links_of_a_living_primary_move_nothing() {
    let script = "write 5
        quiet
        roles
        close P>B
        close P>C
        run 1000
        close P>B
        close P>C
        close B>C
        client on
        run 1000
        expect leads P
        expect view-changes <4";
    check(3, script);
    caught(3, Bug::BelievesClosedLinks, script);
    // One alone that heard of it, and hears nothing else, moves nothing either.
    check(
        3,
        "write 5\n roles\n cut P>C\n close P>C\n client on\n run 1500\n expect leads P
         expect view-changes <4\n heal\n write 5\n expect converge",
    );
}

#[test]
fn a_primary_that_nobody_answers_gives_up() {
    check(
        3,
        "write 5\n roles\n cut B>P\n cut C>P\n client on\n expect new primary\n write 5\n heal
         expect converge",
    );
}

#[test]
fn a_primary_cut_off_is_replaced_and_its_tail_is_erased() {
    let script = "write 5\n quiet\n roles\n isolate P\n client on\n run 200\n client off
         expect new primary\n write 10\n heal\n expect converge\n expect truncated";
    check(3, script);
    caught(3, Bug::BelievesLaterCommits, script);
}

#[test]
fn a_primary_cut_off_answers_no_linearizable_read() {
    let script = "write 5\n quiet\n roles\n reads\n run 500\n expect reads\n isolate P\n client on
         expect new primary\n write 10\n run 2000\n heal\n expect converge";
    check(3, script);
    check(5, script);
    caught(3, Bug::ConfirmsAlone, script);
    caught(5, Bug::ConfirmsAlone, script);
}

#[test]
fn reads_are_confirmed_though_heartbeats_are_lost() {
    // One backup hears no heartbeat: the other confirms alone.
    let script = "write 5\n roles\n lose P>B Commit\n reads\n run 1000\n expect reads\n deliver
         expect converge";
    check(3, script);
}

#[test]
fn a_slow_disk_is_no_view_change() {
    check(3, "write 5\n roles\n slow B 2\n write 30\n expect primary P\n expect converge");
}

#[test]
fn lost_prepares_are_asked_for() {
    check(
        3,
        "write 5\n roles\n lose P>B Prepare\n write 10\n deliver\n quiet\n expect converge
         expect primary P",
    );
}

#[test]
fn lost_acknowledgements_are_given_again() {
    check(3, "roles\n crash C\n lose B>P PrepareOk\n client on\n run 300\n deliver\n write 5");
}

#[test]
fn a_rotten_prepare_is_repaired_from_a_peer() {
    check(
        3,
        "write 10\n quiet\n roles\n crash B\n rot B prepare 5\n rot B prepare head\n start B
         write 5\n expect converge\n expect repairs\n expect certain B",
    );
}

#[test]
fn a_rotten_header_alone_is_written_again() {
    check(
        3,
        "write 10\n quiet\n roles\n crash B\n rot B header head\n rot B header head-1\n start B
         run 50\n expect certain B\n expect converge",
    );
}

#[test]
fn header_and_prepare_in_the_middle_are_fetched_by_what_the_next_says() {
    check(
        3,
        "write 10\n quiet\n roles\n crash B\n rot B both head-3\n rot B both head-4\n start B
         expect converge\n expect repairs\n expect certain B",
    );
}

#[test]
fn header_and_prepare_at_the_tail_make_a_replica_uncertain_until_it_is_healed() {
    check(
        3,
        "write 10\n quiet\n roles\n crash B\n rot B both head\n start B\n expect converge
         expect certain B",
    );
}

/// The committed tail is on two replicas; one has it rotten, without a trace; the third never had
/// it. Nothing may begin until the one that holds it is back.
const ROTTEN_TAIL: &str = "write 5
    quiet
    roles
    crash C
    write 3
    quiet
    crash P B
    rot B both head
    start B C
    expect uncertain B
    expect stuck
    start P
    expect converge
    write 3";

#[test]
fn a_rotten_tail_is_never_called_empty() {
    check(3, ROTTEN_TAIL);
}

/// The same with the header left: named, not nacked.
const ROTTEN_BODY: &str = "write 5
    quiet
    roles
    crash C
    write 3
    quiet
    crash P B
    rot B prepare head
    start B C
    expect stuck
    start P
    expect converge
    write 3";

#[test]
fn a_rotten_body_is_named_and_waited_for() {
    check(3, ROTTEN_BODY);
    caught(3, Bug::NacksRotten, ROTTEN_BODY);
    caught(3, Bug::TruncatesWithoutNacks, ROTTEN_BODY);
}

#[test]
fn several_rotten_bodies_at_the_tail() {
    let script =
        ROTTEN_BODY.replace("head\n", "head\n rot B prepare head-1\n rot B prepare head-2\n");
    check(3, &script);
    caught(3, Bug::NacksRotten, &script);
}

/// Two ops side by side without header and body, below others: seed 2305 of the campaign.
#[test]
fn a_hole_without_a_name_is_waited_for() {
    let script =
        ROTTEN_BODY.replace("rot B prepare head\n", "rot B both head-1\n rot B both head-2\n");
    check(3, &script);
    caught(3, Bug::NacksUnnamed, &script);
}

#[test]
fn a_minority_of_five_rots_and_the_rest_decides() {
    check(
        5,
        "write 5\n quiet\n roles\n crash D E\n write 3\n quiet\n crash P B C\n rot B prepare head
         rot C both head\n start B C D E\n expect stuck\n start P\n write 3\n expect converge",
    );
}

#[test]
fn an_older_disk_is_found_out_by_what_the_peers_saw() {
    let script = "write 5
        quiet
        roles
        save B
        crash C
        write 5
        quiet
        run 1200
        crash B
        old B
        crash P
        start P
        start B
        start C
        expect uncertain B
        expect converge
        write 3";
    check(3, script);
}

/// The newest acknowledgement of B is known to C (by gossip); B comes back with an older disk, the
/// primary that committed with B stays down: B and C alone may not begin.
const OLDER_DISK: &str = "write 5
    quiet
    roles
    save B
    lose P>C Prepare
    lose B>C Prepare
    write 3
    quiet
    run 1500
    crash P B C
    deliver
    old B
    start B C
    expect uncertain B
    expect stuck
    start P
    expect converge
    write 3";

#[test]
fn an_older_disk_cannot_vote_away_what_it_acknowledged() {
    check(3, OLDER_DISK);
    caught(3, Bug::TrustsOldDisk, OLDER_DISK);
}

/// C votes for the next view, which B begins with that, and comes back with the disk of before. What it
/// acknowledges to the old primary would be lost: in the new view it is another op.
const FORGOTTEN_VOTE: &str = "write 5
    quiet
    roles
    save C
    isolate P
    lose B>C StartView
    lose B>C Prepare
    lose B>C Commit
    lose B>C Ping
    run 900
    expect phase B normal
    expect phase C viewchange
    expect phase P normal
    crash C
    old C
    heal
    cut P>B
    cut B>P
    lose B>C StartViewChange
    start C
    run 50
    client on
    run 200
    client off
    run 100
    heal
    deliver
    write 3
    expect converge";

#[test]
fn an_older_disk_is_told_for_which_view_it_voted() {
    check(3, FORGOTTEN_VOTE);
    caught(3, Bug::ForgetsPromises, FORGOTTEN_VOTE);
}

/// E, behind the ring, fetches a checkpoint for long. B is to lead view 2, and hears of the votes
/// when the others have gone on without it: its log then has an op of its own in the place of a
/// committed one. E, whose checkpoint covers that op, talks to B alone.
const LATE_LEAD: &str = "write 5
    roles
    fetches held
    isolate E
    write 1500
    quiet
    heal
    run 3000
    isolate E
    lose C>B DoViewChange
    lose D>B DoViewChange
    crash P
    run 900
    expect phase B viewchange
    isolate B
    start P
    write 1500
    quiet
    heal
    cut P>B
    cut C>B
    cut D>B
    fetches go
    expect synced
    crash E
    run 100
    isolate B
    isolate E
    heal E>B
    start E
    replay B DoViewChange
    run 800
    heal
    deliver
    write 3
    expect converge";

#[test]
fn a_synced_replica_does_not_speak_under_its_old_view() {
    check(5, LATE_LEAD);
    caught(5, Bug::SyncsInOldView, LATE_LEAD);
}

/// C votes for the next view, which nobody hears; it comes back with the disk of before, and its vote
/// arrives when it has acknowledged more to the old primary.
const LATE_VOTE: &str = "write 5
    quiet
    roles
    save C
    isolate P
    lose C>B StartViewChange
    lose C>B DoViewChange
    lose C>B Ping
    lose C>B Pong
    run 900
    expect phase C viewchange
    expect phase P normal
    crash C
    old C
    heal
    cut P>B
    cut B>P
    deliver
    lose C>B StartViewChange
    start C
    run 50
    lose C>B Ping
    lose C>B Pong
    client on
    run 100
    client off
    replay B DoViewChange
    run 300
    heal
    deliver
    write 3
    expect converge";

#[test]
fn a_vote_of_before_an_older_disk_counts_no_more() {
    check(3, LATE_VOTE);
    caught(3, Bug::CountsOldVotes, LATE_VOTE);
}

#[test]
fn an_empty_disk_is_an_older_disk() {
    check(
        3,
        "roles\n save B\n write 10\n quiet\n run 1500\n crash B\n old B\n start B\n expect converge
         write 3\n expect certain B",
    );
}

#[test]
fn a_restarted_backup_does_not_believe_an_old_start_view() {
    let script = "write 10
        quiet
        roles
        lose P>B StartView
        crash B
        start B
        run 60
        replay B StartView
        run 100
        deliver
        expect nothing-truncated
        expect converge
        write 3";
    check(3, script);
    caught(3, Bug::OldStartViewTruncates, script);
}

#[test]
fn what_is_being_written_does_not_count() {
    let script = "write 5
        quiet
        roles
        crash C
        slow B 0
        client on
        run 400
        client off
        crash lose P B
        slow B 40
        start B C
        write 5
        start P
        expect converge";
    check(3, script);
    caught(3, Bug::CountsUnsynced, script);
}

/// An op only the old primary holds is inherited by the next view, and is not committed before the
/// view has begun and a quorum has it.
const INHERITED: &str = "write 5
    quiet
    roles
    lose P>C Prepare
    lose P>D Prepare
    lose P>E Prepare
    lose B>C Prepare
    lose B>D Prepare
    lose B>E Prepare
    client on
    run 60
    client off
    crash keep P
    lose B>C StartView
    lose B>D StartView
    lose B>E StartView
    expect view >1
    run 400
    crash lose B
    deliver
    write 3
    start P B
    expect converge
    expect truncated";

#[test]
fn an_inherited_op_is_not_committed_before_the_view_begins() {
    check(5, INHERITED);
    caught(5, Bug::CommitsInherited, INHERITED);
}

#[test]
fn the_log_view_follows_the_log() {
    check(
        3,
        "write 5\n quiet\n roles\n isolate C\n write 5\n quiet\n heal\n crash P\n run 900
         crash B C\n start B C\n write 3\n start P\n expect converge",
    );
}

#[test]
fn a_backup_far_behind_fetches_headers_downward() {
    check(
        3,
        "write 3\n roles\n crash B\n write 150\n quiet\n start B\n expect converge\n write 3
         expect primary P",
    );
}

/// Faster than one round of repair a timer: at that pace 150 ops take half a second.
#[test]
fn a_backup_far_behind_catches_up_at_the_pace_of_answers() {
    check(
        3,
        "write 3\n quiet\n roles\n cut P>C\n cut B>C\n write 150\n client off\n heal\n run 250
         expect head C = P",
    );
}

#[test]
fn a_backup_far_behind_after_a_view_change() {
    check(
        3,
        "write 3\n roles\n crash C\n write 100\n quiet\n crash P\n start C\n write 5\n start P
         expect converge",
    );
}

#[test]
fn rot_below_the_head_while_running_is_repaired_on_read() {
    check(
        3,
        "write 30\n quiet\n roles\n rot P prepare 10\n crash B\n rot B prepare 10\n start B
         expect converge\n expect repairs",
    );
}

#[test]
fn votes_are_lost_and_repeated() {
    check(
        3,
        "write 5\n roles\n lose B>C StartViewChange\n crash P\n run 2000\n deliver
         expect new primary\n write 3\n start P\n expect converge",
    );
}

#[test]
fn offers_are_lost_and_repeated() {
    check(
        3,
        "write 5\n roles\n lose C>B DoViewChange\n lose B>C DoViewChange\n crash P\n run 2500
         deliver\n expect new primary\n write 3\n start P\n expect converge",
    );
}

#[test]
fn a_lost_start_view_is_asked_for() {
    check(
        3,
        "write 5\n roles\n lose B>C StartView\n crash P\n run 1500\n deliver\n write 3\n start P
         expect converge",
    );
}

#[test]
fn the_new_primary_dies_too() {
    check(
        5,
        "write 5\n roles\n crash P\n run 700\n crash B\n write 5\n start P B\n expect converge",
    );
}

#[test]
fn every_replica_restarts_in_turn_and_writes_go_on() {
    check(
        3,
        "write 5\n crash 0\n run 100\n start 0\n write 5\n crash 1\n run 100\n start 1\n write 5
         crash 2\n run 100\n start 2\n write 5\n expect converge",
    );
}

#[test]
fn the_elected_primary_is_not_certain_itself() {
    // View v + 1 belongs to B, whose tail is rotten without a trace.
    check(
        3,
        "write 8\n quiet\n roles\n crash B\n rot B both head\n rot B both head-1\n crash P
         start B\n run 1200\n start P\n write 3\n expect converge\n expect certain B",
    );
}

#[test]
fn healing_is_cut_short_and_seen_again() {
    check(
        3,
        "write 8\n quiet\n roles\n crash B\n rot B both head\n rot B both head-1\n isolate B
         start B\n run 1500\n crash B\n heal\n start B\n expect converge\n expect certain B",
    );
}

#[test]
fn one_way_to_the_primary() {
    check(3, "write 5\n roles\n cut B>P\n write 10\n expect primary P\n heal\n expect converge");
    check(3, "write 5\n roles\n cut P>B\n write 10\n expect primary P\n heal\n expect converge");
}

#[test]
fn a_ring_of_cuts() {
    check(
        3,
        "write 5\n cut 0>1\n cut 1>2\n cut 2>0\n client on\n run 5000\n client off\n heal\n write 3
         expect converge",
    );
}

#[test]
fn messages_of_two_views_ago_come_late() {
    check(
        3,
        "write 5\n roles\n crash P\n write 5\n start P\n roles\n crash P\n write 5\n start P
         replay 0 StartView\n replay 1 StartView\n replay 2 StartView\n write 5\n expect converge",
    );
}

/// The old primary erases its tail, crashes on the way, and comes back: nothing it was told to keep
/// is gone, so it is certain of its log, or more than f such replicas would stop the cluster.
fn crash_while_erasing(run: u64) -> std::string::String {
    std::format!(
        "write 5\n quiet\n roles\n isolate P\n client on\n run 200\n client off
         expect new primary\n write 5\n quiet\n slow P 10\n heal\n run {run}\n crash torn P
         slow P 40\n start P\n expect converge\n write 3"
    )
}

#[test]
fn a_crash_while_erasing_is_no_loss() {
    let mut seen = 0;
    for run in [1, 3, 6, 10, 15, 20, 30, 40, 60] {
        check(3, &crash_while_erasing(run));
        seen += u64::from(catches(3, Bug::ErasesUnrecorded, &crash_while_erasing(run)));
    }
    assert!(seen > 0, "an erasure without a record passes");
}

/// B is slow: the others commit what it still writes. It acknowledges what is on its disk, and its
/// superblock claims no more, so that a crash loses nothing it spoke of.
#[test]
fn what_others_committed_is_not_acknowledged_before_it_is_here() {
    let script = "write 5
        quiet
        roles
        slow B 1
        write 20
        crash lose B
        slow B 40
        start B
        run 50
        write 3
        expect converge";
    check(3, script);
    caught(3, Bug::AcknowledgesCommitted, script);
}

#[test]
fn a_superblock_claims_only_what_is_written() {
    let script = "write 5
        quiet
        roles
        slow B 0
        client on
        run 1500
        client off
        crash lose B
        slow B 40
        start B
        run 50
        write 3
        expect converge";
    check(3, script);
    caught(3, Bug::RecordsUnwritten, script);
}

/// The old primary has a tail that the next view excludes, and below it a hole, or several, that
/// only this tail names. What was acknowledged there may not be cut off with it: seed 10995.
#[test]
fn a_hole_below_what_is_erased_gets_its_header_first() {
    let mut seen = 0;
    for above in 6..10 {
        let one = std::format!("rot P both head-{above}");
        let two = std::format!("{one}\n rot P both head-{}", above + 1);
        for rot in [one, two] {
            // Nothing is repaired before the log of the new view is known.
            let script = std::format!(
                "write 5\n quiet\n roles\n isolate P\n client on\n run 300\n client off
                 crash keep P\n {rot}\n heal\n expect new primary\n write 5\n quiet
                 lose B>P Headers\n lose C>P Headers\n lose B>P Prepare\n lose C>P Prepare
                 start P\n run 1500\n deliver\n expect converge\n expect truncated
                 expect certain P\n write 3"
            );
            check(3, &script);
            seen += u64::from(catches(3, Bug::JoinsAtAHole, &script));
        }
    }
    assert!(seen > 0, "a log that is cut down to a hole passes");
}

/// C votes with B and then hears its primary again; B has moved, alone, and cannot come back.
#[test]
fn a_replica_alone_in_a_later_view_is_followed() {
    let script = "write 5
        quiet
        roles
        lose B>C StartViewChange
        lose B>P StartViewChange
        lose C>P StartViewChange
        lose B>C Ping
        lose B>C Pong
        cut P>B
        cut P>C
        run 950
        heal
        run 50
        deliver
        expect phase P normal
        expect phase C normal
        expect phase B viewchange
        expect converge
        write 3";
    check(3, script);
    caught(3, Bug::LeavesStranded, script);
}

#[test]
fn all_crash_in_the_middle_of_a_view_change() {
    for run in [650, 680, 710, 740, 770, 800] {
        let script = std::format!(
            "write 5\n quiet\n roles\n client on\n run 30\n crash torn P\n run {run}
             crash torn B C\n start P B C\n write 3\n expect converge"
        );
        check(3, &script);
    }
}

#[test]
fn checkpoints_free_the_ring_and_it_wraps() {
    check(3, "write 1600\n quiet\n expect converge");
}

#[test]
fn a_replica_behind_every_ring_takes_a_checkpoint() {
    check(
        3,
        "write 3\n quiet\n roles\n crash B\n write 1500\n quiet\n start B\n expect converge
         expect synced\n write 3\n expect converge\n crash P\n write 3",
    );
}

/// Prepares in flight end in any order: the header of a later one may be durable before an earlier
/// prepare is. Neither was acknowledged, by anybody.
#[test]
fn a_gap_that_the_power_cut_left_is_no_rot() {
    for run in 1..12 {
        let script = std::format!(
            "write 5\n quiet\n slow 0 5\n slow 1 5\n slow 2 5\n client on\n run {}\n client off
             crash lose 0 1 2\n slow 0 40\n slow 1 40\n slow 2 40\n start 0 1 2\n write 3
             expect converge",
            run * 7
        );
        check(3, &script);
    }
}

#[test]
fn a_single_replica_is_a_cluster_of_one() {
    check(1, "write 10\n crash torn 0\n start 0\n write 10\n expect converge");
}
