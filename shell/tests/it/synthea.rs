//! The main job on real input: every table of the synthetic patients, counted and spot-checked.

use std::path::PathBuf;

use crate::run::{Database, skipped, wait_for_prepares};

/// The folder with the CSV files: `VERITY_DATA`, or `shared/data` beside the repository.
fn data() -> Option<PathBuf> {
    let root = match std::env::var_os("VERITY_DATA") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
    };
    let synthea = root.join("synthea");
    if synthea.is_dir() {
        return Some(synthea);
    }
    assert!(std::env::var_os("CI").is_none(), "CI needs the data; set VERITY_DATA");
    skipped(&format!("no data at {}; set VERITY_DATA", synthea.display()));
    None
}

/// The test runner keeps what a test that passes prints; that it tested nothing must be seen.
#[test]
fn what_is_not_tested_is_said_aloud() {
    let name = "synthea::every_table_imports_in_full";
    let run = |ci: bool| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name]).env("VERITY_DATA", "/nowhere").env_remove("CI");
        if ci {
            command.env("CI", "1");
        }
        command.output().unwrap()
    };
    let quiet = run(false);
    let words = String::from_utf8_lossy(&quiet.stderr).into_owned();
    assert!(quiet.status.success(), "{words}");
    let wanted = format!("SKIPPED: {name}: no data at /nowhere/synthea; set VERITY_DATA\n");
    assert!(words.contains(&wanted), "{words}");
    assert!(!run(true).status.success(), "CI needs the data");
}

#[test]
fn every_table_imports_in_full() {
    let Some(folder) = data() else { return };
    let database = Database::new();
    let mut tables = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "csv") {
            continue;
        }
        let table = path.file_stem().unwrap().to_str().unwrap().to_string();
        let run = database.run(&["import", path.to_str().unwrap(), "--table", &table]).ok();
        let mut reader = csv::Reader::from_path(&path).unwrap();
        let rows = reader.records().inspect(|record| assert!(record.is_ok())).count();
        assert_eq!(run.objects()[0]["imported"], rows, "{table}: {run:#?}");
        assert_eq!(database.number(&format!("SELECT COUNT(*) FROM {table}")), rows as i64);
        spot_check(&database, &path, &table);
        tables += 1;
    }
    assert!(tables >= 11, "{tables} tables");
    let run = database
        .sql("SELECT first, last, zip, suffix FROM patients WHERE ssn = '999-76-6866'")
        .ok();
    let expected = serde_json::json!([["José Eduardo181", "Gómez206", "01013", null]]);
    assert_eq!(run.objects()[0]["rows"], expected);
    database.verify().ok();
    let data = database.data();
    crate::run::verity(&["rebuild", "--check", data.to_str().unwrap()]).ok();
    database.verify().ok();
}

/// First, middle and last row of a file, field by field, as the database gives them.
fn spot_check(database: &Database, path: &std::path::Path, table: &str) {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let header = reader.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(|record| record.unwrap()).collect();
    for number in [0, rows.len() / 2, rows.len() - 1] {
        let row = &rows[number];
        let conditions: Vec<String> = header
            .iter()
            .zip(row)
            .filter(|(_, field)| !field.is_empty())
            .map(|(name, field)| {
                let name = name.to_lowercase();
                let field = field.replace('\'', "''");
                format!("CAST(\"{name}\" AS TEXT) = '{}'", canonical(&field))
            })
            .collect();
        let same = rows.iter().filter(|other| *other == row).count();
        let sql = format!("SELECT COUNT(*) FROM {table} WHERE {}", conditions.join(" AND "));
        assert_eq!(database.number(&sql), same as i64, "{table} row {number}: {sql}");
    }
}

/// Numbers and times as the database prints them.
fn canonical(field: &str) -> String {
    let decimal = field.matches('.').count() == 1 && !field.starts_with('(');
    if decimal && let Ok(number) = field.parse::<f64>() {
        return format!("{number:?}");
    }
    if field.len() == 20 && field.ends_with('Z') && field.as_bytes()[10] == b'T' {
        return field.replace('T', " ").trim_end_matches('Z').to_string();
    }
    field.to_string()
}

#[test]
fn an_import_that_is_killed_and_run_again_is_complete() {
    let Some(folder) = data() else { return };
    let database = Database::new();
    let file = folder.join("immunizations.csv");
    let mut killed = 0;
    for prepares in [0, 1, 3, 5, 7] {
        let mut child = crate::run::command()
            .args(["import", "--table", "immunizations", "--data"])
            .arg(database.data())
            .arg(&file)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        killed += u32::from(wait_for_prepares(&mut child, &database.data(), prepares));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(killed, 5, "an import was over too soon");
    database.run(&["import", file.to_str().unwrap(), "--table", "immunizations"]).ok();
    assert_eq!(database.number("SELECT COUNT(*) FROM immunizations"), 15_478);
    database.verify().ok();
}
