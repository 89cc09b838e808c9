//! `verity prove`, `verity verify FILE`, `verity redact`: answers that a stranger can check.
//!
//! Verifying and redacting read files only: no database, no network, no clock but for `--max-age`.
//! Exit code 0: the proof holds; 1: it does not; 2: it could not be told.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};
use verity::proof::{
    Answer, AnswerCell, AsOf, CanonicalQuery, Checkpoint, ColumnId, EntryValue, Evidence,
    Freshness, IdempotencyId, Item, Node, Policy, ProofFile, ProofOf, Proved, QueryKind, Reject,
    Schema, Seen, Verified, answers_sql, redact, value_of, verify, verify_file,
};
use verity::witness::{parse_head, replace};
use verity::{Error, Position, TenantId, Value};

use super::args::{Asked, Global, ProveArgs, RedactArgs, VerifyArgs};
use super::session::Session;
use super::sql::{plural, tell_error, to_json};
use super::witness::{Witnessed, witnessed};
use super::{Failure, Outcome, Output, table};

pub fn run(args: &ProveArgs, global: &Global, output: &Output) -> Outcome {
    let of = proof_of(&args.asked)?;
    let session = match &args.data {
        Some(data) if args.connect.is_empty() => {
            let database = global.options().create(false).open(data)?;
            Session::Local(database.tenant(TenantId::new(args.tenant)))
        }
        Some(_) | None => Session::connect(&args.connect, args.tenant)?,
    };
    let prove = |since| session.prove_of(of.clone(), since);
    let proved = cosigned(prove, args.since, &args.witness);
    let closed = session.close();
    let statement = args.asked.sql.as_deref().unwrap_or_default();
    let proved = proved.map_err(|error| tell_error(&error, statement, output))?;
    closed?;
    let proved = proved?;
    write(&args.out, &proved.file)?;
    if let Some(path) = &args.policy_out {
        write(path, proved.policy.as_bytes())?;
    }
    output.object(&json!({
        "file": args.out.display().to_string(),
        "bytes": proved.file.len(),
        "policy": proved.policy,
    }));
    output.line(format!("ok: a proof of {} bytes in {}", proved.file.len(), args.out.display()));
    if args.policy_out.is_none() {
        output.line("It holds for whoever believes this policy (give it to them another way):");
        output.line(proved.policy.trim_end());
    }
    Ok(())
}

/// How often a head is taken anew because the state has moved on, or a witness saw another one.
const WITNESSED_TRIES_MAX: usize = 8;

/// A proof with the cosignatures of the witnesses asked for. The inner error is theirs.
pub fn cosigned(
    prove: impl Fn(Option<u64>) -> Result<Proved, Error>,
    since: Option<u64>,
    witnesses: &[String],
) -> Result<Result<Proved, Failure>, Error> {
    // What each of them knows of the log, as far as they have said.
    let mut known: Vec<Option<u64>> = vec![None; witnesses.len()];
    for _ in 0..WITNESSED_TRIES_MAX {
        // The proof that links to what the first one knows is given out, unless a link is wanted.
        let first = known.first().copied().flatten();
        let proved = prove(since.or(first))?;
        if witnesses.is_empty() {
            return Ok(Ok(proved));
        }
        match witnessed_by_all(&prove, &proved, witnesses, &mut known)? {
            Ok(Some(file)) => return Ok(Ok(Proved { file, ..proved })),
            Ok(None) => {}
            Err(why) => return Ok(Err(Failure::failed(why))),
        }
    }
    Ok(Err(Failure::failed("the state moves on, or the witnesses see other heads: prove again")))
}

/// The proof with the lines of all; `None`: its head is not the newest any more, or not linked to
/// what a witness knows.
fn witnessed_by_all(
    prove: &impl Fn(Option<u64>) -> Result<Proved, Error>,
    proved: &Proved,
    witnesses: &[String],
    known: &mut [Option<u64>],
) -> Result<Result<Option<Vec<u8>>, String>, Error> {
    let decoded = |bytes: &[u8]| ProofFile::decode(bytes).map_err(|reject| reject.to_string());
    let mut file = match decoded(&proved.file) {
        Ok(file) => file,
        Err(why) => return Ok(Err(why)),
    };
    for (url, known) in witnesses.iter().zip(known) {
        let linked_to = file.head.since.as_ref().map(|since| since.size);
        let linked = match linked_to == *known {
            true => Ok(file.clone()),
            false => decoded(&prove(*known)?.file),
        };
        match linked {
            Ok(linked) if head_text(&linked.note) != head_text(&file.note) => return Ok(Ok(None)),
            Ok(linked) => match witnessed(url, &linked) {
                Ok(Witnessed::Cosigned(signed)) => {
                    file.note += signed.strip_prefix(&linked.note).unwrap_or_default();
                }
                Ok(Witnessed::Knows(size)) => {
                    *known = (size > 0).then_some(size);
                    return Ok(Ok(None));
                }
                Err(why) => return Ok(Err(why)),
            },
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(Some(file.encode())))
}

/// Origin, size and root, without signatures.
fn head_text(note: &str) -> &str {
    note.split("\n\n").next().unwrap_or_default()
}

pub fn check(file: &Path, args: &VerifyArgs, output: &Output) -> Outcome {
    let bytes = read(file)?;
    let policy = policy_of(args)?;
    match judge(&bytes, proof_of(&args.asked)?, args, &policy) {
        Ok(verified) => {
            tell(&verified, args.asked.is_given(), output);
            let Verified { origin, size, root, .. } = verified;
            pin(args, Checkpoint { origin, size, root })
        }
        Err(reason) => {
            output.object(&json!({ "verdict": "refused", "reason": reason }));
            output.note(&format!("refused: {reason}"));
            Err(Failure::Told(1))
        }
    }
}

/// Whom the reader believes, and what they have seen.
pub fn policy_of(args: &VerifyArgs) -> Result<Policy, Failure> {
    let Some(policy) = &args.policy else {
        return Err(Failure::cannot_tell(
            "a proof holds only for whom one believes: give --policy FILE with their public keys",
        ));
    };
    let text = String::from_utf8(read(policy)?)
        .map_err(|_| Failure::cannot_tell(format!("{} is not text", policy.display())))?;
    let mut policy = Policy::parse(&text).map_err(Failure::cannot_tell)?;
    if let Some(age_max_s) = args.max_age {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        policy.fresh_within = Some(Freshness { now_s: now, age_max_s });
    }
    if let Some(path) = args.pin.as_ref().filter(|path| path.exists()) {
        let head = core::str::from_utf8(&read(path)?)
            .ok()
            .and_then(parse_head)
            .ok_or_else(|| Failure::cannot_tell(format!("{} is no head", path.display())))?;
        policy.seen = Some(Seen { size: head.size, root: head.root });
    }
    Ok(policy)
}

/// Keeps the newest head that was seen, if the reader wants that.
pub fn pin(args: &VerifyArgs, head: Checkpoint) -> Outcome {
    let Some(path) = &args.pin else { return Ok(()) };
    replace(path, head.text().as_bytes())
        .map_err(|error| Failure::cannot_tell(format!("{}: {error}", path.display())))
}

/// Does the proof hold, for what the reader asked?
fn judge(
    bytes: &[u8],
    asked: ProofOf,
    args: &VerifyArgs,
    policy: &Policy,
) -> Result<Verified, String> {
    let tenant = TenantId::new(args.tenant);
    let told = |reject: Reject| reject.to_string();
    match asked {
        ProofOf::Query(kind) => {
            verify(&CanonicalQuery { tenant, kind }.encode(), bytes, policy).map_err(told)
        }
        ProofOf::Sql { text, .. } => {
            let verified = judge_file(bytes, policy)?;
            if args.asked.is_given() {
                answers_sql(tenant, &text, &[], false, &verified)?;
            }
            Ok(verified)
        }
        ProofOf::HistoryOf { text, .. } => {
            let verified = judge_file(bytes, policy)?;
            answers_sql(tenant, &text, &[], true, &verified)?;
            Ok(verified)
        }
    }
}

fn judge_file(bytes: &[u8], policy: &Policy) -> Result<Verified, String> {
    let verified = ProofFile::decode(bytes).and_then(|file| verify_file(&file, policy));
    verified.map_err(|reject| reject.to_string())
}

/// What the arguments ask for.
fn proof_of(asked: &Asked) -> Result<ProofOf, Failure> {
    if let Some(position) = asked.event {
        return Ok(ProofOf::Query(QueryKind::Event { position: Position::new(position) }));
    }
    if let Some(id) = &asked.id {
        let bad = || Failure::cannot_tell("an idempotency id is 32 hexadecimal digits");
        let number = u128::from_str_radix(id, 16).map_err(|_| bad())?;
        if id.len() != 32 {
            return Err(bad());
        }
        let id = IdempotencyId(number.to_be_bytes());
        return Ok(ProofOf::Query(QueryKind::Commitment { id }));
    }
    let text = asked.sql.clone().unwrap_or_default();
    let parameters = Vec::new();
    Ok(if asked.history {
        ProofOf::HistoryOf { text, parameters }
    } else {
        ProofOf::Sql { text, parameters }
    })
}

pub fn redact_copy(args: &RedactArgs, output: &Output) -> Outcome {
    let bytes = read(&args.file)?;
    let file = ProofFile::decode(&bytes).map_err(Failure::cannot_tell)?;
    let schema = schema_of(&file);
    let mut columns = Vec::new();
    for name in &args.columns {
        columns.push(match (&schema, name.parse::<u32>()) {
            (Some(schema), _) => {
                let at = schema.columns.iter().position(|column| column.name == *name);
                let Some(at) = at else {
                    let table = &schema.name;
                    return Err(Failure::cannot_tell(format!(
                        "table {table} has no column {name}"
                    )));
                };
                ColumnId::new(at as u32 + 1)
            }
            (None, Ok(number)) => ColumnId::new(number),
            (None, Err(_)) => {
                return Err(Failure::cannot_tell("the columns of an event are named by number"));
            }
        });
    }
    let key = schema.map_or(Vec::new(), |schema| schema.primary_key);
    let Some(copy) = redact(&file, &columns, &key) else {
        return Err(Failure::failed(
            "nothing was taken out: columns of the key and of the filter must stay, and only rows \
             have columns",
        ));
    };
    let copy = copy.encode();
    write(&args.out, &copy)?;
    output.object(&json!({ "file": args.out.display().to_string(), "bytes": copy.len() }));
    output.line(format!("ok: {} bytes in {}", copy.len(), args.out.display()));
    Ok(())
}

fn schema_bytes(file: &ProofFile) -> Option<&[u8]> {
    let mut node: &Node = match &file.evidence {
        Evidence::Scan { catalog, .. }
        | Evidence::History { catalog, .. }
        | Evidence::Index { catalog, .. } => catalog,
        Evidence::Event { .. } | Evidence::Commitment { .. } => return None,
    };
    loop {
        match &node.shown.first()?.1 {
            Item::Child { node: below, .. } => node = below,
            Item::Entry(entry) => match &entry.value {
                EntryValue::Plain { bytes, .. } => return Some(bytes),
                EntryValue::Hidden(_) | EntryValue::Row { .. } | EntryValue::Tree(_) => {
                    return None;
                }
            },
            Item::Counted { .. } => return None,
        }
    }
}

fn schema_of(file: &ProofFile) -> Option<Schema> {
    schema_bytes(file).and_then(|bytes| Schema::decode(bytes).ok())
}

fn tell(verified: &Verified, asked: bool, output: &Output) {
    let names = column_names(verified);
    let cell = |cell: &AnswerCell| match cell {
        AnswerCell::Value(value) => value_of(value),
        AnswerCell::Redacted => None,
    };
    let rows: Vec<Vec<Option<Value>>> = match &verified.answer {
        Answer::Rows(rows) => rows.iter().map(|row| row.iter().map(cell).collect()).collect(),
        Answer::History(versions) => {
            versions.iter().map(|version| version.cells.iter().map(cell).collect()).collect()
        }
        Answer::Count(count) => vec![vec![Some(Value::Integer(*count as i64))]],
        Answer::Event(event) => {
            event.row.iter().map(|(_, cells)| cells.iter().map(cell).collect()).collect()
        }
        Answer::Commitment(_) => Vec::new(),
    };
    let to_json_or =
        |value: &Option<Value>| value.as_ref().map_or_else(|| json!({ "redacted": true }), to_json);
    let json_rows: Vec<Vec<Json>> =
        rows.iter().map(|row| row.iter().map(to_json_or).collect()).collect();
    output.object(&json!({
        "verdict": if verified.fresh { "valid" } else { "valid_not_fresh" },
        "tenant": verified.query.tenant.get(),
        "query": describe(verified),
        "query_is_yours": asked,
        "columns": names,
        "rows": json_rows,
        "redacted": verified.redacted,
        "position": verified.position.get(),
        "attested_ns": verified.attested_ns,
        "origin": verified.origin,
        "size": verified.size,
        "root": verified.root.to_string(),
        "cosigners": verified.cosigners.iter().map(|(name, time_s)| {
            json!({ "name": name, "time_s": time_s })
        }).collect::<Vec<_>>(),
    }));
    if output.is_json() {
        return;
    }
    let shown: Vec<Vec<Value>> = rows
        .into_iter()
        .map(|row| {
            row.into_iter().map(|value| value.unwrap_or(Value::text("(redacted)"))).collect()
        })
        .collect();
    for line in table::render(&names, &shown) {
        output.line(line);
    }
    let verdict = if verified.fresh { "valid" } else { "valid, not fresh" };
    output.line(format!("{}: {}", output.green(verdict), describe(verified)));
    output.line(format!(
        "   state of tenant {} after position {}, in a head of {} records",
        verified.query.tenant, verified.position, verified.size
    ));
    for (name, time_s) in &verified.cosigners {
        output.line(format!("   cosigned by {name} at {time_s} s after 1970"));
    }
    if !asked {
        output.line("   this is the query that the file names; --sql compares it with yours");
    }
}

fn column_names(verified: &Verified) -> Vec<String> {
    let name = |id: &ColumnId| {
        let at = id.get() as usize - 1;
        let column = verified.schema.as_ref().and_then(|schema| schema.columns.get(at));
        column.map_or_else(|| format!("column {id}"), |column| column.name.clone())
    };
    match (&verified.query.kind, &verified.answer) {
        (QueryKind::Rows { columns, .. }, _) => columns.iter().map(name).collect(),
        (_, Answer::Count(_)) => vec!["count".to_string()],
        (_, Answer::History(_)) => {
            let count = verified.schema.as_ref().map_or(0, |schema| schema.columns.len());
            (1..=count as u32).map(ColumnId::new).map(|id| name(&id)).collect()
        }
        (_, Answer::Event(event)) => {
            let count = event.row.as_ref().map_or(0, |(_, cells)| cells.len());
            (1..=count).map(|at| format!("column {at}")).collect()
        }
        (_, Answer::Rows(_) | Answer::Commitment(_)) => Vec::new(),
    }
}

fn describe(verified: &Verified) -> String {
    let table = verified.schema.as_ref().map_or("?", |schema| schema.name.as_str());
    let scanned = |scan: &verity::proof::Scan| {
        let ranges = scan.ranges.len();
        let filter = if scan.filter.is_some() { ", filtered" } else { "" };
        let at = match scan.as_of {
            None => String::new(),
            Some(AsOf::Position(at)) => format!(", as of position {at}"),
            Some(AsOf::Timestamp(at)) => format!(", as of {at} ns after 1970"),
        };
        format!("of table {table}, {ranges} key range{}{filter}{at}", plural(ranges as u64))
    };
    match (&verified.query.kind, &verified.answer) {
        (QueryKind::Rows { scan, .. }, Answer::Rows(rows)) => {
            format!("{} row{} {}", rows.len(), plural(rows.len() as u64), scanned(scan))
        }
        (QueryKind::Count { scan }, Answer::Count(count)) => {
            format!("count {count} {}", scanned(scan))
        }
        (_, Answer::History(versions)) => {
            format!("{} version(s) of one row of table {table}", versions.len())
        }
        (_, Answer::Event(event)) => {
            format!("the record at position {}, of kind {}", event.position, event.kind)
        }
        (_, Answer::Commitment(None)) => "nothing is remembered under the id".to_string(),
        (_, Answer::Commitment(Some(outcome))) => format!(
            "remembered at position {}: {}",
            outcome.position,
            if outcome.refused { "refused" } else { "applied" }
        ),
        (_, Answer::Rows(_) | Answer::Count(_)) => "an answer".to_string(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path)
        .map_err(|error| Failure::cannot_tell(format!("cannot read {}: {error}", path.display())))
}

pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes)
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}
