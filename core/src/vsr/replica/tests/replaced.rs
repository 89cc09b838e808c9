//! Disks that are lost, and empty ones in their places (rules 16 and 18).

use super::Bug;
use super::notation::{caught, check};

#[test]
fn a_replaced_replica_of_a_young_cluster_takes_the_log_from_its_first_op() {
    for (count, who) in [(3, "P"), (3, "B"), (3, "C"), (5, "P"), (5, "D")] {
        let script = std::format!(
            "write 10
             quiet
             roles
             crash {who}
             replace {who}
             start {who}
             expect certain {who}
             write 3
             expect converge"
        );
        check(count, &script);
    }
}

#[test]
fn a_replaced_replica_behind_every_ring_takes_a_checkpoint() {
    let script = "write 1500
        quiet
        roles
        crash B
        replace B
        start B
        expect synced
        expect certain B
        write 3
        expect converge";
    check(3, script);
}

/// What the lost disk helped to commit is in the log that it gets: it may stand in for the others.
#[test]
fn a_replaced_replica_is_a_member_like_the_others() {
    for dies in ["P", "C"] {
        let script = std::format!(
            "write 5
             roles
             isolate C
             write 5
             quiet
             heal
             crash B
             replace B
             start B
             expect certain B
             write 2
             quiet
             crash {dies}
             write 3
             start {dies}
             expect converge"
        );
        check(3, &script);
    }
}

#[test]
fn every_disk_is_replaced_one_after_the_other() {
    let one =
        |who| std::format!("crash {who}\n replace {who}\n start {who}\n expect certain {who}");
    let script = std::format!(
        "write 5\n roles\n {}\n write 5\n {}\n write 5\n {}\n write 5\n {}\n expect converge",
        one("P"),
        one("B"),
        one("C"),
        one("P")
    );
    check(3, &script);
    check(5, &script);
}

/// P and B committed what C never heard of, nor of any word of B. P is dead, B's disk is lost: B and C
/// may not begin.
const THE_ONE_THAT_KNOWS: &str = "lose 2>0 Ping
    lose 2>0 Pong
    write 5
    quiet
    roles
    expect leads 1
    isolate C
    write 3
    quiet
    run 1500
    crash P B
    heal
    deliver
    replace B
    start B
    expect uncertain B
    expect stuck
    crash B
    start B
    expect stuck
    start P
    expect certain B
    expect converge
    write 3";

#[test]
fn an_empty_disk_does_not_decide_without_the_peer_that_knows() {
    check(3, THE_ONE_THAT_KNOWS);
    caught(3, Bug::CountsReplaced, THE_ONE_THAT_KNOWS);
}

/// The same with the peer that knows alive, and an empty disk that does not say that it is one.
#[test]
fn an_empty_disk_without_the_mark_is_noticed_by_who_heard_the_lost_one() {
    let script = "write 5
        quiet
        roles
        isolate C
        write 3
        quiet
        run 1500
        crash P B
        heal
        blank B
        start P B
        expect uncertain B
        expect converge
        write 3";
    check(3, script);
    caught(3, Bug::TrustsOldDisk, script);
    // It is certain again when the superblock has the log view, not before.
    caught(3, Bug::HealsEarly, script);
}

/// B and C went on without P, which does not know it yet and still leads the view before. C's disk
/// is lost, and it reaches P alone.
const A_PRIMARY_OF_BEFORE: &str = "write 5
    quiet
    roles
    isolate P
    write 3
    quiet
    crash B C
    heal
    replace C
    start C
    client on
    run 4000
    client off
    expect uncertain C
    start B
    expect certain C
    expect converge
    write 3";

#[test]
fn an_empty_disk_does_not_join_a_primary_of_before() {
    check(3, A_PRIMARY_OF_BEFORE);
    caught(3, Bug::ReplacedByOne, A_PRIMARY_OF_BEFORE);
}

/// C votes for the next view, which B begins with that, and loses its disk.
const A_VOTE_OF_THE_LOST_DISK: &str = "write 5
    quiet
    roles
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
    replace C
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
fn an_empty_disk_is_told_for_which_view_the_lost_one_voted() {
    check(3, A_VOTE_OF_THE_LOST_DISK);
    caught(3, Bug::ForgetsPromises, A_VOTE_OF_THE_LOST_DISK);
}

/// C votes for the next view, which nobody hears, and loses its disk. Its vote arrives when the new
/// one has acknowledged more to the old primary.
const A_LATE_VOTE_OF_THE_LOST_DISK: &str = "write 5
    quiet
    roles
    isolate P
    lose C>B StartViewChange
    lose C>B DoViewChange
    lose C>B Ping
    lose C>B Pong
    run 900
    expect phase C viewchange
    expect phase P normal
    crash C
    replace C
    heal
    cut P>B
    cut B>P
    deliver
    lose C>B StartViewChange
    start C
    run 150
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
fn a_vote_of_the_lost_disk_counts_no_more() {
    check(3, A_LATE_VOTE_OF_THE_LOST_DISK);
    caught(3, Bug::CountsOldVotes, A_LATE_VOTE_OF_THE_LOST_DISK);
}

/// E votes for the next view, whose primary B is cut off with its vote. E's disk is lost; the new one
/// hears of three others that never left the view before, and commits with two of them. D, which did
/// not, and B come together, and with the vote of the lost disk they would be three.
const A_VOTE_THAT_ONE_KEEPS: &str = "write 5
    quiet
    roles
    cut P>B
    cut P>D
    cut P>E
    lose B>D StartViewChange
    lose B>D Ping
    lose B>D Pong
    lose E>D StartViewChange
    lose E>D Ping
    lose E>D Pong
    lose B>C StartViewChange
    lose E>C StartViewChange
    lose D>C StartViewChange
    lose B>C Ping
    lose B>C Pong
    lose E>C Ping
    lose E>C Pong
    lose B>P Ping
    lose B>P Pong
    lose B>P StartViewChange
    lose E>P Ping
    lose E>P Pong
    lose E>P StartViewChange
    run 900
    expect phase B viewchange
    expect phase E viewchange
    expect phase D normal
    expect phase C normal
    crash E
    isolate B
    heal P>D
    heal P>E
    deliver
    replace E
    start E
    expect certain E
    isolate D
    write 3
    quiet
    crash P E
    lose C>D Ping
    lose C>D Pong
    lose C>B Ping
    lose C>B Pong
    lose C>B DoViewChange
    heal
    run 3000
    deliver
    write 3
    start P E
    expect converge";

#[test]
fn of_five_a_vote_of_the_lost_disk_counts_beside_nobody_who_knows() {
    check(5, A_VOTE_THAT_ONE_KEEPS);
    caught(5, Bug::CountsUnheardVotes, A_VOTE_THAT_ONE_KEEPS);
}

#[test]
fn two_of_three_lost_disks_wait() {
    let script = "write 10
        quiet
        roles
        crash B C
        replace B
        replace C
        start B C
        client on
        expect no commit
        expect uncertain B
        expect uncertain C
        crash P B C
        start P B C
        expect stuck";
    check(3, script);
}

#[test]
fn a_replaced_replica_is_stopped_again_and_again() {
    let script = "write 300
        quiet
        roles
        crash B
        replace B
        start B
        run 20
        crash torn B
        start B
        run 40
        crash torn B
        start B
        run 80
        crash keep B
        replace B
        start B
        run 60
        crash torn B
        start B
        crash P
        start P
        expect certain B
        write 3
        expect converge";
    check(3, script);
}

/// A replica that starts asks what its peers saw of it; what an empty disk saw is no answer.
#[test]
fn an_empty_disk_answers_for_nobody() {
    let script = "write 5
        quiet
        roles
        save C
        isolate B
        write 3
        quiet
        run 1500
        crash P B C
        heal
        replace B
        old C
        start B C
        run 5000
        expect phase C boot
        expect phase B boot
        expect stuck";
    check(3, script);
    caught(3, Bug::AnswersReplaced, script);
}
