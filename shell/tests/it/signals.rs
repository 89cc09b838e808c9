//! SIGTERM and SIGINT in the middle of work: a last checkpoint, a clear line, nothing lost, and
//! words that are whole.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value as Json, json};
use verity::{Options, Server, ServerOptions, Verity};

use crate::run::{Database, command, wait_for_prepares};

#[test]
fn a_signal_ends_an_import_gracefully_and_it_goes_on_later() {
    let database = Database::new();
    let file = database.path("rows.csv");
    let mut csv = "id,name\n".to_string();
    (0..400_000).for_each(|n| csv.push_str(&format!("{n},person {n}\n")));
    std::fs::write(&file, csv).unwrap();
    let import = || {
        let mut import = command();
        import.args(["import", "--table", "rows", "--primary-key", "id", "--json", "--data"]);
        import.arg(database.data()).arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
        import
    };
    let mut before = 0;
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut child = import().spawn().unwrap();
        let under_way = wait_for_prepares(&mut child, &database.data(), 20);
        assert!(under_way, "{:?}", child.wait_with_output());
        let (signal, id) = (format!("-{signal}"), child.id().to_string());
        let killed = Command::new("kill").args([signal, id]).status().unwrap();
        assert!(killed.success(), "the import was too fast for this test");
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(said.contains("closed: all that was acknowledged is on disk"), "{said}");
        assert!(!said.contains("error"), "{said}");
        // What it tells of itself is what there is.
        let object: Json = serde_json::from_slice(&ended.stdout).unwrap();
        let number = |name: &str| object[name].as_i64().unwrap();
        assert_eq!((&object["interrupted"], number("rows")), (&json!(true), 400_000));
        assert_eq!((number("already_there"), number("rejected")), (before, 0));
        before += number("imported");
        assert!(number("imported") > 0 && before < 400_000, "{object}");
        assert_eq!(database.number("SELECT COUNT(*) FROM rows"), before);
        assert!(object.get("error").is_none(), "{object}");
        let told = database.run(&["inspect"]).ok();
        assert_eq!(told.objects()[0]["prepares_after_checkpoint"], 0, "{told:#?}");
    }
    let ended = import().output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    let object: Json = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((&object["interrupted"], &object["already_there"]), (&json!(false), &json!(before)));
    assert_eq!(database.number("SELECT COUNT(*) FROM rows"), 400_000);
    database.verify().ok();
}

/// Nor is an answer that is being written cut off amid a line.
#[test]
fn a_signal_amid_rows_leaves_whole_objects() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY)").ok();
    let rows: Vec<String> = (0..20_000).map(|id| format!("({id})")).collect();
    database.sql_from_input(&format!("INSERT INTO t VALUES {};", rows.join(","))).ok();
    let mut sql = command();
    sql.args(["sql", "--json", "-c", "SELECT id, repeat('x', 10000) FROM t", "--data"]);
    sql.arg(database.data()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = sql.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut printed = vec![0; 1 << 20];
    stdout.read_exact(&mut printed).unwrap();
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    stdout.read_to_end(&mut printed).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let object: Json = serde_json::from_slice(&printed).unwrap();
    assert_eq!(object["sqlstate"], "08003", "{:?}", object["error"]);
    let count = object["rows"].as_array().unwrap().len();
    assert!(count > 0 && count < 20_000, "{count}");
}

#[test]
fn an_import_into_a_cluster_tells_what_it_did_when_a_signal_ends_it() {
    let database = Database::new();
    let data = database.data();
    let addresses = vec!["127.0.0.1:0".to_string()];
    let at = ServerOptions { addresses, listen: None };
    let server = Server::start(&Options::new(), &data, &at).unwrap();
    let address = server.address().to_string();
    let file = database.path("rows.csv");
    let rows: String = (0..400_000).map(|n| format!("{n},person {n}\n")).collect();
    std::fs::write(&file, format!("id,name\n{rows}")).unwrap();
    let mut import = command();
    import.args(["import", "--table", "rows", "--json", "--connect", &address]).arg(&file);
    let child = import.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let client = Verity::connect([&address]).unwrap();
    let count = || match client.query("SELECT COUNT(*) FROM rows", &[]) {
        Ok(rows) => rows.rows[0][0].to_string().parse::<i64>().unwrap(),
        Err(_) => 0,
    };
    while count() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    let object: Json = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(object["interrupted"], true);
    assert_eq!(object["imported"].as_i64().unwrap(), count(), "{object}");
}
