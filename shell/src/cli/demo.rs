//! `verity demo`: the whole idea in a minute, on made-up patients.
//!
//! Every number it prints is read back from the database it just made; the tampering is real: one
//! byte of a copy on disk. Start reading at [`tell`].

mod clinic;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use verity::{Position, Value, Verity};

use super::args::{DemoArgs, Global};
use super::sql::to_json;
use super::{Failure, Outcome, Output, table, verify};
use clinic::Clinic;

/// Rows that are inserted together.
const BATCH: usize = 500;

pub fn run(args: &DemoArgs, global: &Global, output: &Output) -> Outcome {
    let (directory, temporary) = match &args.dir {
        Some(directory) => (directory.clone(), false),
        None => (temporary_directory(), true),
    };
    std::fs::create_dir_all(&directory).map_err(|error| {
        Failure::CannotTell(format!("cannot make {}: {error}", directory.display()))
    })?;
    if std::fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::CannotTell(format!(
            "{} is not empty; name a new or an empty directory with --dir",
            directory.display()
        )));
    }
    let goes = temporary && !args.keep;
    if goes {
        super::output::leave_nothing_in(&directory);
    }
    let result = tell(&directory, args.patients, global, output);
    if goes {
        super::output::remove_left_over();
    } else {
        output.line(format!("\nThe demo's files are in {}.", directory.display()));
    }
    result
}

fn temporary_directory() -> PathBuf {
    std::env::temp_dir().join(format!("verity-demo-{}", std::process::id()))
}

fn tell(directory: &Path, patients: u64, global: &Global, output: &Output) -> Outcome {
    let data = directory.join("data");
    output.line(output.bold("Verity: a database that can prove what it says"));
    output.line("");
    let story = Story { output, step: std::cell::Cell::new(0) };

    story.step("Make a database");
    let started = Instant::now();
    let options = global.options();
    let formatted = options.format(&data)?;
    let database = options.open(&data)?;
    story.say(&format!("{} in {:.2} s", data.display(), started.elapsed().as_secs_f64()));
    if let Some(key) = &formatted.key_file_made {
        story.say(&format!("its master key is apart, in {}", key.display()));
    }

    story.step("Load a clinic");
    let clinic = Clinic::new(patients);
    let loaded = load(&database, &clinic, &story)?;
    output.object(&json!({
        "step": "load", "patients": patients, "visits": clinic.visits(),
        "rows_per_second": loaded,
    }));

    story.step("Ask it in SQL");
    story.query(&database, "SELECT COUNT(*) AS patients FROM patients")?;
    story.query(&database, "SELECT id, name, born, city FROM patients WHERE id = 7")?;
    story.query(&database, "SELECT visited, reason, cost FROM visits WHERE patient = 7 LIMIT 3")?;

    story.step("Change history? It is kept");
    let before = story.position(&database)?;
    story.execute(&database, "UPDATE patients SET name = 'Ada Lovelace' WHERE id = 7")?;
    story.execute(&database, "DELETE FROM visits WHERE patient = 7")?;
    story.query(&database, "SELECT id, name FROM patients WHERE id = 7")?;
    story.say(&format!("and as it was at position {before}, before both:"));
    story.query(
        &database,
        &format!("SELECT id, name FROM patients AS OF POSITION {before} WHERE id = 7"),
    )?;
    story.query(
        &database,
        &format!("SELECT COUNT(*) AS visits FROM visits AS OF POSITION {before} WHERE patient = 7"),
    )?;

    story.step("Nothing readable is on the disk");
    database.close()?;
    let ssn = clinic.ssn(7);
    let (files, bytes, hits) = search(&data, ssn.as_bytes())?;
    story.say(&format!(
        "searched {files} files, {:.0} MiB, for patient 7's social security number: {}",
        bytes as f64 / f64::from(1 << 20),
        if hits == 0 { output.green("not found") } else { output.red("FOUND") },
    ));
    output.object(&json!({"step": "search", "files": files, "bytes": bytes, "hits": hits}));
    if hits > 0 {
        return Err(Failure::failed("plain text was found on the disk; this must never happen"));
    }

    story.step("Verify every byte");
    let report = verify::check(&data, global, output)?;
    report.tell(output);
    output.object(&json!({"step": "verify", "report": report.to_json(&data)}));
    if !report.holds() {
        return Err(Failure::failed("a database nobody touched does not verify"));
    }

    story.step("A forger changes one byte in a copy");
    forge(directory, &data, global, &story)?;

    output.line("");
    output.line(output.bold("That is all. Next:"));
    output.line(
        "  verity sql --data ./data -c \"CREATE TABLE t (id BIGINT PRIMARY KEY, note TEXT)\"",
    );
    output.line("  verity import --data ./data --table people people.csv");
    output.line("  verity --help");
    Ok(())
}

/// Rows per second.
fn load(database: &Verity, clinic: &Clinic, story: &Story<'_>) -> Result<f64, Failure> {
    database.execute(clinic::PATIENTS, &[])?;
    database.execute(clinic::VISITS, &[])?;
    let total = clinic.patients() + clinic.visits();
    let bar = story.output.progress(total, "rows", "loading");
    let started = Instant::now();
    let send = |table: &str, columns: &[&str], rows: Vec<Vec<Value>>| {
        bar.inc(rows.len() as u64);
        database.insert_rows(table, columns, rows).map(|_| ())
    };
    let patients: Vec<u64> = (1..=clinic.patients()).collect();
    for ids in patients.chunks(BATCH) {
        let rows = ids.iter().map(|id| clinic.patient(*id)).collect();
        send("patients", clinic::PATIENT_COLUMNS, rows)?;
    }
    let visits: Vec<u64> = (1..=clinic.visits()).collect();
    for ids in visits.chunks(BATCH) {
        let rows = ids.iter().map(|id| clinic.visit(*id)).collect();
        send("visits", clinic::VISIT_COLUMNS, rows)?;
    }
    let rows = clinic.patients() + clinic.visits();
    let seconds = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let rate = rows as f64 / seconds;
    story.say(&format!(
        "{} patients, {} visits in {seconds:.2} s: {rate:.0} rows a second, each one hashed into a \
         chain,",
        clinic.patients(),
        clinic.visits(),
    ));
    story.say("sealed under the tenant's key, and on disk before it was acknowledged");
    Ok(rate)
}

/// One byte in the middle of the copy's log: who finds it?
fn forge(directory: &Path, data: &Path, global: &Global, story: &Story<'_>) -> Outcome {
    let output = story.output;
    let copy = directory.join("forged");
    copy_directory(data, &copy)
        .map_err(|error| Failure::CannotTell(format!("cannot copy {}: {error}", data.display())))?;
    let segment = copy.join("log/1/00000000.segment");
    let offset = flip_byte(&segment).map_err(|error| {
        Failure::CannotTell(format!("cannot change {}: {error}", segment.display()))
    })?;
    story.say(&format!("flipped byte {offset} of {}", segment.display()));
    let key = verity::master_key_beside(data);
    let mut forged = global.clone();
    if forged.master_key.is_none() && forged.master_key_content.is_none() {
        forged.master_key = Some(key);
    }
    let report = verify::check(&copy, &forged, output)?;
    report.tell(output);
    output.object(&json!({"step": "forge", "file": segment.display().to_string(),
        "byte": offset, "caught": !report.holds(), "report": report.to_json(&copy)}));
    if report.holds() {
        return Err(Failure::failed("the forgery was not caught; this must never happen"));
    }
    story.say(&output.green("caught"));
    Ok(())
}

fn flip_byte(path: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path)?;
    let offset = file.metadata()?.len() / 2 + 1234;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ 1], offset)?;
    Ok(offset)
}

fn copy_directory(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Files, bytes, and places where the needle is.
fn search(directory: &Path, needle: &[u8]) -> Result<(u64, u64, u64), Failure> {
    let failed = |error: std::io::Error| {
        Failure::CannotTell(format!("cannot search {}: {error}", directory.display()))
    };
    let (mut files, mut bytes, mut hits) = (0, 0, 0);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            let within = search(&entry.path(), needle)?;
            files += within.0;
            bytes += within.1;
            hits += within.2;
            continue;
        }
        let content = std::fs::read(entry.path()).map_err(failed)?;
        files += 1;
        bytes += content.len() as u64;
        let first = needle[0];
        hits += content
            .windows(needle.len())
            .filter(|window| window[0] == first && *window == needle)
            .count() as u64;
    }
    Ok((files, bytes, hits))
}

/// The steps of the demo, numbered.
struct Story<'a> {
    output: &'a Output,
    step: std::cell::Cell<u32>,
}

impl Story<'_> {
    fn step(&self, title: &str) {
        let number = self.step.get() + 1;
        self.step.set(number);
        self.output.line("");
        self.output.line(self.output.bold(&format!("{number}. {title}")));
    }

    fn say(&self, text: &str) {
        self.output.line(format!("   {text}"));
    }

    fn sql(&self, sql: &str) {
        self.output.line(self.output.dim(&format!("   > {sql}")));
    }

    fn query(&self, database: &Verity, sql: &str) -> Outcome {
        self.sql(sql);
        let rows = database.query(sql, &[]).map_err(|error| Failure::Failed(error.render(sql)))?;
        for line in table::render(&rows.columns, &rows.rows) {
            self.say(&line);
        }
        let cells: Vec<Vec<serde_json::Value>> =
            rows.rows.iter().map(|row| row.iter().map(to_json).collect()).collect();
        self.output.object(&json!({"step": "query", "sql": sql, "columns": rows.columns,
            "rows": cells}));
        Ok(())
    }

    fn execute(&self, database: &Verity, sql: &str) -> Outcome {
        self.sql(sql);
        let reply =
            database.execute(sql, &[]).map_err(|error| Failure::Failed(error.render(sql)))?;
        let position = reply.position.map(Position::get);
        self.say(&format!(
            "{} row(s) changed, at position {}",
            reply.rows_affected(),
            position.unwrap_or(0)
        ));
        self.output.object(&json!({"step": "execute", "sql": sql, "position": position,
            "rows_affected": reply.rows_affected()}));
        Ok(())
    }

    fn position(&self, database: &Verity) -> Result<Position, Failure> {
        Ok(database.position()?)
    }
}
