//! The main job on real input: import every table of the synthetic clinic, compare counts and rows
//! with the files, verify, then kill -9 during imports and run them again: no row lost, none
//! doubled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::steps::{SKIPPED, capture, capture_ok, release_binary, scratch};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The `verity` binary; the release build if not given.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Where the CSV files are, seen from the repository.
const PLACES: &[&str] = &["../shared/data/synthea", "../../shared/data/synthea"];
/// The largest file, killed and re-run.
const KILLED: &str = "immunizations";
const KILLS: u32 = 12;

pub fn run(options: &Options) -> Result<bool, String> {
    let binary = options.binary.clone().unwrap_or_else(|| release_binary("verity"));
    let count = run_all(&binary)?;
    println!("main job: {} checks held", count.unwrap_or(0));
    Ok(count.is_some())
}

/// `verity demo` ends well in an empty folder.
pub fn demo(binary: &Path) -> Result<(), String> {
    let folder = scratch("demo")?;
    let mut command = Command::new(binary);
    command.args(["demo"]).current_dir(&folder);
    let finished = capture_ok(&mut command)?;
    println!("verity demo: {:.1} s", finished.took.as_secs_f64());
    Ok(())
}

/// Number of checks that held; None: there is no data.
pub fn run_all(binary: &Path) -> Result<Option<u64>, String> {
    let root = crate::tidy::root();
    let places = match std::env::var_os("VERITY_DATA") {
        Some(named) => vec![PathBuf::from(named).join("synthea")],
        None => PLACES.iter().map(|place| root.join(place)).collect(),
    };
    let Some(folder) = places.iter().find(|place| place.is_dir()) else {
        let shown: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        let missing = format!("main job: no data at {}; set VERITY_DATA", shown.join(" or "));
        if std::env::var_os("CI").is_some() {
            return Err(missing);
        }
        println!("{SKIPPED}{missing}");
        return Ok(None);
    };
    let tables = read_tables(folder)?;
    let job = Job { binary, data: scratch("main-job")?.join("data") };
    let mut held = 0;

    for table in &tables {
        let took = job.import(table)?;
        held += job.count_is(table)?;
        held += job.rows_are_those_of(table)?;
        let rate = table.rows.len() as f64 / took.as_secs_f64();
        println!("{:<20} {:>6} rows, {rate:>8.0} rows/s", table.name, table.rows.len());
    }
    held += job.verify()?;
    held += job.rebuild()?;
    // Running all of it again changes nothing.
    for table in &tables {
        job.import(table)?;
        held += job.count_is(table)?;
    }
    held += job.no_plaintext(&tables)?;
    held += kill(binary, &tables)?;
    Ok(Some(held))
}

/// Imports that are killed again and again end with exactly the file's rows.
fn kill(binary: &Path, tables: &[Table]) -> Result<u64, String> {
    let Some(table) = tables.iter().find(|table| table.name == KILLED) else {
        return Err(format!("{KILLED}.csv is missing"));
    };
    let job = Job { binary, data: scratch("main-job-killed")?.join("data") };
    // How long it takes undisturbed, so that kills fall within.
    let calm = Job { binary, data: scratch("main-job-calm")?.join("data") };
    let whole = calm.import(table)?;
    let mut amid = 0;
    for nth in 0..KILLS {
        let after = whole.mul_f64(f64::from(nth % 6 + 1) / 7.0);
        let mut child = job
            .import_command(table)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", binary.display()))?;
        std::thread::sleep(after);
        let ended = child.try_wait().map_err(|error| error.to_string())?;
        match ended {
            None => {
                amid += 1;
                child.kill().map_err(|error| format!("kill: {error}"))?;
            }
            Some(status) if status.success() => {}
            Some(status) => {
                let told = child.wait_with_output().map_err(|error| error.to_string())?.stderr;
                let told = String::from_utf8_lossy(&told).into_owned();
                return Err(format!("an import after {nth} others ended with {status}\n{told}"));
            }
        }
        child.wait().map_err(|error| error.to_string())?;
    }
    job.import(table)?;
    let held = job.count_is(table)? + job.all_rows_once(table)? + job.verify()? + job.rebuild()?;
    println!("kill -9: {amid} of {KILLS} imports were killed amid their work");
    if amid == 0 {
        return Err("no import was killed amid its work: the test tested nothing".to_string());
    }
    Ok(held)
}

/// One CSV file.
#[derive(Debug)]
struct Table {
    name: String,
    file: PathBuf,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

fn read_tables(folder: &Path) -> Result<Vec<Table>, String> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(|error| format!("{}: {error}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "csv"))
        .collect();
    files.sort();
    files.iter().map(|file| read_table(file)).collect()
}

fn read_table(file: &Path) -> Result<Table, String> {
    let wrong = |error: csv::Error| format!("{}: {error}", file.display());
    let mut reader = csv::Reader::from_path(file).map_err(wrong)?;
    let columns = reader.headers().map_err(wrong)?.iter().map(str::to_string).collect();
    let mut rows = Vec::new();
    for record in reader.records() {
        rows.push(record.map_err(wrong)?.iter().map(str::to_string).collect());
    }
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Table { name, file: file.to_path_buf(), columns, rows })
}

/// One data directory under the binary.
#[derive(Debug)]
struct Job<'a> {
    binary: &'a Path,
    data: PathBuf,
}

impl Job<'_> {
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.binary);
        command.arg(name).arg("--data").arg(&self.data);
        command
    }

    fn import_command(&self, table: &Table) -> Command {
        let mut command = self.command("import");
        command.args(["--table", &table.name, "--json"]).arg(&table.file);
        // Rejects, if there are any, go to where the command runs.
        command.current_dir(self.data.parent().unwrap_or(&self.data));
        command
    }

    fn import(&self, table: &Table) -> Result<Duration, String> {
        let started = Instant::now();
        capture_ok(&mut self.import_command(table))?;
        Ok(started.elapsed())
    }

    /// Rows of one statement.
    fn query(&self, sql: &str) -> Result<Vec<Vec<Value>>, String> {
        let mut command = self.command("sql");
        command.args(["--json", "-c", sql]);
        let finished = capture_ok(&mut command)?;
        let line = finished.output.lines().find(|line| line.starts_with('{'));
        let answer: Value = serde_json::from_str(line.unwrap_or_default())
            .map_err(|error| format!("`{sql}`: {error}: {}", finished.output))?;
        let Some(rows) = answer["rows"].as_array() else {
            return Err(format!("`{sql}`: no rows in {}", finished.output));
        };
        let row = |row: &Value| row.as_array().cloned();
        rows.iter()
            .map(row)
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| format!("`{sql}`: a row is no array"))
    }

    fn count_is(&self, table: &Table) -> Result<u64, String> {
        let rows = self.query(&format!("SELECT COUNT(*) FROM {}", table.name))?;
        let count = rows.first().and_then(|row| row.first()).and_then(Value::as_u64);
        if count == Some(table.rows.len() as u64) {
            return Ok(1);
        }
        Err(format!("{} has {count:?} rows, its file {}", table.name, table.rows.len()))
    }

    /// Some rows, found by their first column, are those of the file.
    fn rows_are_those_of(&self, table: &Table) -> Result<u64, String> {
        let columns = quoted(&table.columns);
        let mut held = 0;
        let step = (table.rows.len() / 7).max(1);
        for row in table.rows.iter().step_by(step) {
            // Rows of the file with the same first value are the expected answer, in any order.
            let key = &row[0];
            let sql = format!(
                "SELECT {columns} FROM {} WHERE {} = '{}'",
                table.name,
                quoted(&table.columns[..1]),
                key.replace('\'', "''")
            );
            let found = self.query(&sql)?;
            let expected: Vec<_> = table.rows.iter().filter(|other| &other[0] == key).collect();
            same_rows(&found, &expected).map_err(|why| format!("`{sql}`: {why}"))?;
            held += 1;
        }
        Ok(held)
    }

    /// Every row of the file is there, as often as in the file.
    fn all_rows_once(&self, table: &Table) -> Result<u64, String> {
        let sql = format!("SELECT {} FROM {}", quoted(&table.columns), table.name);
        let expected: Vec<_> = table.rows.iter().collect();
        same_rows(&self.query(&sql)?, &expected).map_err(|why| format!("`{sql}`: {why}"))?;
        Ok(1)
    }

    fn verify(&self) -> Result<u64, String> {
        let mut command = self.command("verify");
        command.arg("--json");
        let finished = capture_ok(&mut command)?;
        println!("verity verify: {:.1} s", finished.took.as_secs_f64());
        Ok(1)
    }

    fn rebuild(&self) -> Result<u64, String> {
        let mut command = Command::new(self.binary);
        command.args(["rebuild", "--check"]).arg(&self.data);
        let finished = capture_ok(&mut command)?;
        println!("verity rebuild --check: {:.1} s", finished.took.as_secs_f64());
        Ok(1)
    }

    /// No long text of a table can be found in any file of the data directory.
    fn no_plaintext(&self, tables: &[Table]) -> Result<u64, String> {
        let mut words: Vec<&str> = Vec::new();
        for table in tables {
            let long = |row: &Vec<String>| row.iter().any(|value| value.len() >= 12);
            for row in table.rows.iter().filter(|row| long(row)).step_by(97).take(8) {
                words.extend(row.iter().map(String::as_str).filter(|value| value.len() >= 12));
            }
        }
        let list = self.data.with_file_name("words");
        std::fs::write(&list, words.join("\n"))
            .map_err(|error| format!("{}: {error}", list.display()))?;
        let mut grep = Command::new("grep");
        grep.args(["-r", "-l", "-a", "-F", "-f"]).arg(&list).arg(&self.data);
        let finished = capture(&mut grep)?;
        match finished.code {
            // grep found nothing.
            Some(1) if !words.is_empty() => Ok(1),
            code => Err(format!("plaintext on disk ({code:?}): {}", finished.output)),
        }
    }
}

/// As an import names them: folded to lower case.
fn quoted(columns: &[String]) -> String {
    let quote = |name: &String| format!("\"{}\"", name.to_lowercase());
    let names: Vec<String> = columns.iter().map(quote).collect();
    names.join(", ")
}

/// The same rows, as often, in any order.
fn same_rows(found: &[Vec<Value>], expected: &[&Vec<String>]) -> Result<(), String> {
    let mut left: BTreeMap<Vec<String>, i64> = BTreeMap::new();
    for row in expected {
        *left.entry(row.iter().map(|value| normal(value)).collect()).or_default() += 1;
    }
    for row in found {
        *left.entry(row.iter().map(found_value).collect()).or_default() -= 1;
    }
    match left.iter().find(|(_, count)| **count != 0) {
        None => Ok(()),
        Some((row, count)) => {
            let what = if *count > 0 { "is missing" } else { "is too many" };
            Err(format!("{} rows, {} expected; {row:?} {what}", found.len(), expected.len()))
        }
    }
}

/// As [`normal`] of what the file should say.
fn found_value(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => normal(text),
        Value::Number(number) => match (number.is_f64(), number.as_f64()) {
            (true, Some(double)) => digits_of(double),
            (_, _) => normal(&number.to_string()),
        },
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Fifteen significant digits: what every double keeps, and all that an import makes a DOUBLE of.
/// serde_json may be wrong in the last bit, which is behind them.
fn digits_of(number: f64) -> String {
    format!("{number:.14e}")
}

/// The very text, but for what an import may change and that means the same: zeros at the end of a
/// fraction, `Z` and `T` of a time. Whatever has more digits than a double keeps, leading zeros or
/// an exponent must come back as it stood.
fn normal(value: &str) -> String {
    let instant = value.len() >= 19 && value.as_bytes()[4] == b'-' && value.contains(':');
    if instant {
        return value.trim_end_matches('Z').replace(' ', "T").trim_end_matches(".000").to_string();
    }
    let unsigned = value.strip_prefix('-').unwrap_or(value);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // 01453 is a postal code, no number.
    let plain = all_digits(whole)
        && all_digits(fraction)
        && (whole == "0" || !whole.starts_with('0'))
        && unsigned.trim_start_matches(['0', '.']).bytes().filter(u8::is_ascii_digit).count() <= 15;
    match value.parse::<f64>() {
        Ok(number) if plain => digits_of(number),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_compare_by_what_they_say() {
        assert_eq!(normal("2010-07-27T12:58:08Z"), normal("2010-07-27 12:58:08"));
        assert_eq!(normal("140.520"), normal("140.52"));
        assert_ne!(normal("01453"), normal("1453"));
        // What a double made of them.
        for (text, double) in [
            ("99999999999999.99", 99_999_999_999_999.98),
            ("9007199254740993", 9_007_199_254_740_992.0),
            ("1E5", 100_000.0),
            ("0.30000000000000004", 0.3),
        ] {
            assert_ne!(normal(text), found_value(&Value::from(double)), "{text}");
            assert_eq!(normal(text), found_value(&Value::from(text)), "{text}");
        }
        for (text, double) in [("5", 5.0), ("0.1", 0.1), ("-71.1234", -71.1234), ("1.50", 1.5)] {
            assert_eq!(normal(text), found_value(&Value::from(double)), "{text}");
        }
        let row = vec!["a".to_string(), String::new()];
        let found = vec![vec![Value::from("a"), Value::Null]];
        assert!(same_rows(&found, &[&row]).is_ok());
        assert!(same_rows(&found, &[&row, &row]).is_err());
        assert!(same_rows(&[found[0].clone(), found[0].clone()], &[&row]).is_err());
    }
}
