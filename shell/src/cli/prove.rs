//! `verity prove`, `verity verify FILE`, `verity redact`: answers that a stranger can check.
//!
//! Verifying and redacting read files only: no database, no network, no clock but for `--max-age`.
//! Exit code 0: the proof holds; 1: it does not; 2: it could not be told.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};
use verity::proof::{
    Answer, AnswerCell, CanonicalQuery, ColumnId, EntryValue, Evidence, Freshness, Item, Node,
    Policy, ProofFile, QueryKind, Schema, Verified, canonical_of_sql, redact, value_of, verify,
    verify_file,
};
use verity::{Error, TenantId, Value};

use super::args::{Global, ProveArgs, RedactArgs, VerifyArgs};
use super::sql::{plural, to_json};
use super::{Failure, Outcome, Output, table};

pub fn run(args: &ProveArgs, global: &Global, output: &Output) -> Outcome {
    let database = global.options().open(&args.data)?;
    let tenant = database.tenant(TenantId::new(args.tenant));
    let proved = tenant.prove(&args.command, &[]);
    drop(tenant);
    let closed = database.close();
    let proved = proved.map_err(|error| match &error {
        Error::Request(_) => Failure::failed(error.render(&args.command)),
        _ => Failure::failed(error),
    })?;
    closed?;
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
        output.line(proved.policy.trim_end().to_string());
    }
    Ok(())
}

pub fn check(file: &Path, args: &VerifyArgs, output: &Output) -> Outcome {
    let bytes = read(file)?;
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
    let verified = match &args.sql {
        None => ProofFile::decode(&bytes).and_then(|file| verify_file(&file, &policy)),
        Some(sql) => {
            let query = asked(&bytes, sql, args.tenant)?;
            verify(&query.encode(), &bytes, &policy)
        }
    };
    match verified {
        Ok(verified) => {
            tell(&verified, args.sql.is_some(), output);
            Ok(())
        }
        Err(reject) => {
            output.object(&json!({
                "verdict": "refused",
                "reason": reject.to_string(),
            }));
            output.note(&format!("refused: {reject}"));
            Err(Failure::Told(1))
        }
    }
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

/// The canonical query of the reader's own SQL, on the schema that the proof shows (and proves).
fn asked(bytes: &[u8], sql: &str, tenant: u64) -> Result<CanonicalQuery, Failure> {
    let file = match ProofFile::decode(bytes) {
        Ok(file) => file,
        Err(reject) => return Err(Failure::failed(format!("refused: {reject}"))),
    };
    let schema = schema_bytes(&file)
        .ok_or_else(|| Failure::failed("refused: the proof is not of a table's rows"))?;
    let as_of = match &file.query.kind {
        QueryKind::Rows { scan, .. } | QueryKind::Count { scan } => scan.as_of,
        QueryKind::History { .. } | QueryKind::Event { .. } | QueryKind::Commitment { .. } => None,
    };
    canonical_of_sql(TenantId::new(tenant), schema, sql, as_of).map_err(Failure::failed)
}

fn schema_bytes(file: &ProofFile) -> Option<&[u8]> {
    let mut node: &Node = match &file.evidence {
        Evidence::Scan { catalog, .. } | Evidence::History { catalog, .. } => catalog,
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
        let at = scan.as_of.map_or(String::new(), |at| format!(", as of position {at}"));
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

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes)
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}
