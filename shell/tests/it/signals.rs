//! SIGTERM and SIGINT in the middle of an import: a last checkpoint, a clear line, nothing lost.

use std::process::{Command, Stdio};

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
        let told = database.run(&["inspect"]).ok();
        assert_eq!(told.objects()[0]["prepares_after_checkpoint"], 0, "{told:#?}");
    }
    let ended = import().output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(database.number("SELECT COUNT(*) FROM rows"), 400_000);
    database.verify().ok();
}
