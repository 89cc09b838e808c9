//! What a proof must be that a node has made: it holds, it answers what was asked, and no copy of
//! it that was changed in any way holds.

use verity_core::kernel::value_of;
use verity_core::node::Proved;
use verity_core::proof::{Answer, AnswerCell, Evidence, Policy, ProofFile, Seen, verify};

use crate::ledger::Answered;
use crate::random::Random;
use crate::sql::{Datum, Query, Select};

/// Changed copies that are tried of each proof.
const LIES: usize = 4;

/// What a proof that holds has shown.
#[derive(Debug)]
pub(crate) struct Checked {
    pub answered: Answered,
    pub head: Seen,
}

/// The proof holds under a policy that demands so many replicas, its copies do not; what it
/// answers.
pub(crate) fn check(
    query: &Query,
    proved: &Proved,
    needed: usize,
    random: &mut Random,
) -> Result<Checked, String> {
    let mut policy = Policy::parse(&proved.policy).map_err(|error| error.to_string())?;
    let demands = if needed == 1 {
        "quorum replica-".to_owned()
    } else {
        format!("group replicas {needed} ")
    };
    if !proved.policy.contains(&demands) {
        return Err(format!("a policy that does not demand {needed}: {}", proved.policy));
    }
    let file = ProofFile::decode(&proved.file).map_err(|reject| reject.to_string())?;
    // All but the log's own.
    let cosigners = file.note.lines().filter(|line| line.starts_with("\u{2014} ")).count() - 1;
    let verified = verify(&proved.query, &proved.file, &policy)
        .map_err(|reject| format!("a proof is refused: {reject}; {query:?}"))?;
    let head = Seen { size: verified.size, root: verified.root };
    policy.seen = Some(head);
    for _ in 0..LIES {
        let mut lie = proved.file.clone();
        let bit = random.index(lie.len() * 8);
        match random.below(4) {
            0 => lie.truncate(bit / 8),
            1 => {
                lie.remove(bit / 8);
            }
            _ => lie[bit / 8] ^= 1 << (bit % 8),
        }
        // One signature more than is needed may be missing.
        let spares_one = |lie: &ProofFile| {
            cosigners > needed && ProofFile { note: file.note.clone(), ..lie.clone() } == file
        };
        let spared = ProofFile::decode(&lie).is_ok_and(|lie| spares_one(&lie));
        if !spared && verify(&proved.query, &lie, &policy).is_ok() {
            return Err(format!("a proof changed at bit {bit} holds; {query:?}"));
        }
    }
    let mut rows = rows_of(&verified.answer)?;
    match &query.select {
        Select::Columns { order: Some(_), .. } | Select::Count => {}
        Select::Columns { order: None, .. }
        | Select::Truth(_)
        | Select::Appends
        | Select::Changes => rows.sort(),
    }
    let position = position_read(&file).unwrap_or(verified.position.get());
    Ok(Checked { answered: Answered { query: query.clone(), position, rows }, head })
}

/// With AS OF: the last position of the last transaction by then.
fn position_read(file: &ProofFile) -> Option<u64> {
    let Evidence::Scan { moment: Some(moment), .. } = &file.evidence else { return None };
    let record = &moment.last.record;
    if record.transaction_last() == record.position() {
        return Some(record.position().get());
    }
    record.transaction_first().previous().map(verity_core::ids::Position::get)
}

fn rows_of(answer: &Answer) -> Result<Vec<Vec<Datum>>, String> {
    let datum = |cell: &AnswerCell| match cell {
        AnswerCell::Value(value) => {
            let value = value_of(value).ok_or("a proved value is none")?;
            Datum::from_core(&value)
        }
        AnswerCell::Redacted => Err("nothing was redacted".to_owned()),
    };
    match answer {
        Answer::Rows(rows) => rows.iter().map(|row| row.iter().map(datum).collect()).collect(),
        Answer::Count(count) => {
            let count = verity_core::query::Value::Integer(*count as i64);
            Ok(vec![vec![Datum::from_core(&count)?]])
        }
        Answer::History(_) | Answer::Event(_) | Answer::Commitment(_) => {
            Err("another answer than rows".to_owned())
        }
    }
}
