//! The command line as it is called: exit codes, files and what is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// Runs that take a moment: few requests, one client.
const SMALL: [&str; 4] = ["--requests-max", "10", "--clients-max", "1"];

fn vopr(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vopr")).args(arguments).output().unwrap()
}

fn code(arguments: &[&str]) -> i32 {
    vopr(arguments).status.code().unwrap()
}

/// A folder of this test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn verdict(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn failure_file(mode: &str) -> Value {
    json!({
        "verity_failure": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "world": verity_sim::world_hash_hex(),
        "commit": "COMMIT",
        "run": {
            "mode": mode, "seed": 3, "scale": 1, "bug": null,
            "overrides": {"off": ["crash", "drop"], "requests_max": 10, "clients_max": 1,
                "tenants_max": 1, "nodes_max": 3},
        },
        "signature": "wrong: it was",
        "failure": "wrong: it was",
        "trace_hash": "00",
        "found": {"overrides": {"off": []}, "trace_hash": "00", "requests": 99},
        "shrunk": null,
    })
}

#[test]
fn wrong_arguments_are_told_with_2() {
    let wrong: [&[&str]; 19] = [
        &[],
        &["--cluster", "--json"],
        &["--minutes", "0"],
        &["--campaign", "--minutes", "0"],
        &["--campaign"],
        &["--campaign", "--minutes", "-1"],
        &["--campaign", "--minutes", "soon"],
        &["--campaign", "--minutes", "NaN"],
        &["--campaign", "--minutes", "1", "--jobs", "0"],
        &["--campaign", "--seed", "1"],
        &["--campaign", "--seeds", "5..5"],
        &["--seeds", "9..3"],
        &["--seed", "1", "--off", "weather"],
        &["--seed", "1", "--failures", "somewhere"],
        &["--seeds", "1..2", "--shrink-seconds", "5"],
        &["--seed", "1", "--bug", "no_such_bug"],
        &["--replay", "a.json", "--seed", "1"],
        &["--replay", "/nowhere/a.json"],
        &["--weather"],
    ];
    for arguments in wrong {
        let output = vopr(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?} ends without a word");
    }
    let told = String::from_utf8(vopr(&[]).stderr).unwrap();
    assert!(told.contains("--seed N") && told.contains("--help"), "{told}");
}

#[test]
fn files_that_are_no_failures_are_told_with_2() {
    let folder = folder("bad-files");
    let mut other_world = failure_file("node");
    other_world["world"] = json!("0000000000000000");
    let mut other_version = failure_file("node");
    other_version["version"] = json!("99.0.0");
    let mut other_format = failure_file("node");
    other_format["verity_failure"] = json!(2);
    let mut bug = failure_file("node");
    bug["run"]["bug"] = json!("crc_skipped");
    let bad: [(&str, Vec<u8>); 7] = [
        ("no failure file", b"\xff\x00garbage".to_vec()),
        ("no failure file", b"{}".to_vec()),
        ("longer than", vec![b'['; 2 << 20]),
        ("commit COMMIT", other_world.to_string().into_bytes()),
        ("version 99.0.0", other_version.to_string().into_bytes()),
        ("format 2", other_format.to_string().into_bytes()),
        ("crc_skipped", bug.to_string().into_bytes()),
    ];
    for (words, bytes) in bad {
        let path = folder.join("failure.json");
        std::fs::write(&path, bytes).unwrap();
        let output = vopr(&["--replay", path.to_str().unwrap()]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if words == "crc_skipped" && cfg!(verity_zoo) {
            continue;
        }
        assert_eq!(output.status.code(), Some(2), "{words}: {errors}");
        assert!(errors.contains(words), "{words}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
    assert_eq!(code(&["--replay", folder.to_str().unwrap()]), 2, "a folder");
}

#[test]
fn a_failure_that_was_mended_holds() {
    let folder = folder("mended");
    for mode in ["node", "cluster"] {
        let path = folder.join(mode);
        std::fs::write(&path, failure_file(mode).to_string()).unwrap();
        let output = vopr(&["--replay", path.to_str().unwrap(), "--json"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let verdict = verdict(&output);
        assert_eq!(verdict["fails"], json!(false));
        assert_eq!(verdict["same_signature"], json!(false));
        assert_eq!(verdict["expected"], json!("wrong: it was"));
    }
}

#[test]
fn a_campaign_tells_what_it_saw() {
    let folder = folder("campaign");
    let failures = folder.join("failures");
    let mut arguments = vec!["--campaign", "--seeds", "1..4", "--jobs", "2", "--json"];
    arguments.extend(["--failures", failures.to_str().unwrap()]);
    arguments.extend(SMALL);
    let output = vopr(&arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = verdict(&output);
    assert_eq!(
        (&told["ok"], &told["seeds"], &told["failures"]),
        (&json!(true), &json!(3), &json!([]))
    );
    let seen = told["events_seen"].as_object().unwrap();
    let not_seen = told["events_not_seen"].as_array().unwrap();
    assert_eq!(seen.len() + not_seen.len(), verity_sim::event_names().len());
    assert!(seen.contains_key("Committed") && not_seen.contains(&json!("SyncFinished")));
    let per_seed = &told["density"]["per_seed"];
    assert!(per_seed["commits"].as_f64().unwrap() > 5.0, "{per_seed}");
    assert!(per_seed["asked"].as_f64().unwrap() <= 10.0, "{per_seed}");
    assert!(told["sim_seconds"].as_f64().unwrap() > 0.0);
    assert!(told["seeds_per_minute"].as_f64().unwrap() > 0.0);
    assert!(!failures.exists(), "nothing failed");
}

#[test]
fn a_campaign_of_hardly_any_time_has_fresh_seeds() {
    let first = |output: &Output| verdict(output)["first_seed"].as_u64().unwrap();
    let output = vopr(&["--campaign", "--minutes", "0.00001", "--json", "--cluster"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(first(&output) > 1_000_000_000_000_000, "{output:?}");
    assert_eq!(verdict(&output)["mode"], json!("cluster"));
}

/// What a page holds, as its script would read it.
fn page(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.len() < 8 << 20, "{} bytes", text.len());
    let outside = ["http://", "https://", "src=", "<link", "@import", "fetch("];
    for word in outside {
        assert!(!text.contains(word), "the page asks for something: {word}");
    }
    let (_, rest) = text.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    let (data, _) = rest.split_once("</script>").unwrap();
    serde_json::from_str(data).unwrap()
}

fn count(page: &Value, kind: &str, wanted: impl Fn(&Value) -> bool) -> u64 {
    page[kind].as_array().unwrap().iter().filter(|entry| wanted(entry)).count() as u64
}

#[test]
fn a_page_holds_every_lane_and_every_crash() {
    let folder = folder("timeline");
    // Of a cluster: one that crashes, loses messages and is cut off within so many requests.
    let runs: [(&[&str], &[&str]); 2] = [
        (&["--cluster", "--seed", "5", "--requests-max", "150"], &["node 0", "node 1", "node 2"]),
        (&["--seed", "1"], &["node"]),
    ];
    for (run, lanes) in runs {
        let path = folder.join(format!("{}.html", lanes.len()));
        let plain = verdict(&vopr(&[run, &["--json"]].concat()));
        let with = ["--json", "--timeline", path.to_str().unwrap()];
        let output = vopr(&[run, &with].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let told = verdict(&output);
        assert_eq!(told["trace_hash"], plain["trace_hash"], "who looks changes nothing");
        let page = page(&path);
        assert_eq!(page["lanes"], json!(lanes));
        let crashes = told["crashes"].as_u64().unwrap();
        assert!(crashes > 2, "{crashes}");
        assert_eq!(count(&page, "life", |mark| mark[2] == "crash"), crashes);
        let answered = count(&page, "requests", |request| request[4] == true);
        assert!(answered >= told["commits"].as_u64().unwrap(), "{answered}");
        assert_eq!((&page["failure"], &page["dropped"]), (&Value::Null, &json!([])));
        for lane in 0..lanes.len() {
            assert!(count(&page, "standings", |standing| standing[1] == lane) > 1, "{lane}");
            assert!(count(&page, "applied", |applied| applied[1] == lane) > 1, "{lane}");
        }
        if lanes.len() > 1 {
            let lost = count(&page, "messages", |message| message[5] == 2);
            assert_eq!(Some(lost), told["faults"]["messages lost"].as_u64());
            assert_eq!(Some(count(&page, "cuts", |_| true)), told["faults"]["cuts"].as_u64());
            let isolations = told["faults"]["isolations"].as_u64().unwrap_or(0);
            assert_eq!(count(&page, "isolations", |_| true), isolations);
        }
    }
}

#[test]
fn a_page_that_cannot_be_written_is_told_with_2() {
    let mut arguments = vec!["--seed", "1", "--timeline", "/nowhere/page.html"];
    arguments.extend(SMALL);
    assert_eq!(code(&arguments), 2);
    assert_eq!(code(&["--seeds", "1..2", "--timeline", "page.html"]), 2);
}

/// Wherever it runs: what counts is what it was built from.
#[test]
fn the_commit_is_that_of_the_build() {
    let git = |folder: &Path, arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(folder).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let other = folder("other-repository");
    let name = ["-c", "user.name=n", "-c", "user.email=e"];
    git(&other, &["init", "-q"]).unwrap();
    git(&other, &[&name[..], &["commit", "-q", "--allow-empty", "-m", "x"]].concat()).unwrap();
    let head = git(&other, &["rev-parse", "--short=12", "HEAD"]).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_vopr"))
        .args(["--campaign", "--json", "--seeds", "1..2"])
        .args(SMALL)
        .current_dir(&other)
        .output()
        .unwrap();
    let told = verdict(&output)["commit"].clone();
    assert_ne!(told, json!(head));
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = git(sources, &["rev-parse", "--show-toplevel"]);
    if root.is_some_and(|root| sources.parent() == Some(Path::new(&root))) {
        let head = git(sources, &["rev-parse", "--short=12", "HEAD"]).unwrap();
        assert!(told.as_str().unwrap().starts_with(&head), "{told} of {head}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    for json in [&[][..], &["--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = Command::new(env!("CARGO_BIN_EXE_vopr"))
            .args(["--seed", "1"])
            .args(SMALL)
            .args(json)
            .stdout(writer)
            .stderr(std::process::Stdio::piped())
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(141), "{words}");
        assert!(!words.contains("panicked"), "{words}");
    }
}
