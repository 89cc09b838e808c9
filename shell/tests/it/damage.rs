//! Files that are cut short or have a bit flipped: told, never believed, never a panic.

use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::run::{Database, Run, copy_directory, verity};

const ROWS: i64 = 4_000;

fn filled() -> Database {
    let database = Database::new();
    let file = database.path("rows.csv");
    let mut csv = "id,name\n".to_string();
    (0..ROWS).for_each(|n| csv.push_str(&format!("{n},person number {n}\n")));
    std::fs::write(&file, csv).unwrap();
    let import = ["import", file.to_str().unwrap(), "--table", "rows", "--primary-key", "id"];
    database.run(&import).ok();
    database
}

/// Verifies, then opens: either may refuse; neither may panic, hang or count wrong.
fn judge(copy: &Path, what: &str) -> (Run, Run) {
    let path = copy.to_str().unwrap();
    let verified = verity(&["verify", "--json", "--data", path]);
    let counted = verity(&["sql", "--json", "--data", path, "-c", "SELECT COUNT(*) FROM rows"]);
    if counted.code == Some(0) {
        let count = counted.objects()[0]["rows"][0][0].as_i64();
        assert_eq!(count, Some(ROWS), "{what}: {counted:#?}");
    } else {
        assert!(counted.stderr.contains("error"), "{what}: {counted:#?}");
    }
    (verified, counted)
}

fn fresh_copy(database: &Database) -> std::path::PathBuf {
    let copy = database.path("copy");
    if copy.exists() {
        std::fs::remove_dir_all(&copy).unwrap();
    }
    copy_directory(&database.data(), &copy);
    let key = database.path("copy.master-key");
    std::fs::copy(database.path("data.master-key"), key).unwrap();
    copy
}

#[test]
fn flipped_bits_are_found() {
    let database = filled();
    let segment = "log/1/00000000.segment";
    let length = |name: &str| std::fs::metadata(database.data().join(name)).unwrap().len();
    // File, offset, must `verify` say broken?
    let cases = [
        ("superblock", 40, true),
        ("superblock", verity_core::superblock::copy_offset(1) + 200, true),
        ("keys", 10, true),
        ("keys", 100, true),
        (segment, 20, true),
        (segment, 4096 + 2, true),
        (segment, 4096 + 6, true),
        (segment, 4096 + 30, true),
        (segment, 4096 + 90, true),
        (segment, length(segment) / 2, true),
        (segment, length(segment) - 4096, true),
        ("log/1/00000000.index", 4096 + 100, false),
        ("log/0/00000000.segment", 4096 + 50, true),
        ("journal", 10, false),
        ("journal", length("journal") / 2, false),
        ("grid", 4096 * 2 + 77, false),
        ("grid", length("grid") / 2, false),
        ("grid", length("grid") - 5, false),
    ];
    let mut grid_found = 0;
    for (name, offset, must) in cases {
        let copy = fresh_copy(&database);
        let file = std::fs::File::options().read(true).write(true).open(copy.join(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
        let what = format!("{name} byte {offset}");
        let (verified, _) = judge(&copy, &what);
        if must {
            assert_eq!(verified.code, Some(1), "{what}: {verified:#?}");
            let reason = verified.objects()[0]["findings"].to_string();
            assert!(reason.contains("damage"), "{what}: {verified:#?}");
        } else {
            assert!(matches!(verified.code, Some(0 | 1)), "{what}: {verified:#?}");
        }
        grid_found += u32::from(name == "grid" && verified.code == Some(1));
    }
    assert!(grid_found > 0, "no page of the grid that is in use was hit");
}

#[test]
fn truncated_and_missing_files_are_told() {
    let database = filled();
    let segment = "log/1/00000000.segment";
    for name in ["superblock", "journal", "grid", "keys", segment, "log/1/00000000.index"] {
        let length = std::fs::metadata(database.data().join(name)).unwrap().len();
        for keep in [0, 1, 4096, length / 2, length - 1] {
            let copy = fresh_copy(&database);
            let file = std::fs::File::options().write(true).open(copy.join(name)).unwrap();
            file.set_len(keep).unwrap();
            judge(&copy, &format!("{name} cut to {keep}"));
        }
        let copy = fresh_copy(&database);
        std::fs::remove_file(copy.join(name)).unwrap();
        judge(&copy, &format!("{name} removed"));
    }
    for keep in [0, 4096, 8192] {
        let copy = fresh_copy(&database);
        let file = std::fs::File::options().write(true).open(copy.join(segment)).unwrap();
        file.set_len(keep).unwrap();
        let (verified, _) = judge(&copy, "segment");
        assert_eq!(verified.code, Some(1), "{verified:#?}");
    }
}

#[test]
fn a_segment_of_another_tenant_in_its_place_is_found() {
    let database = filled();
    let copy = fresh_copy(&database);
    std::fs::copy(copy.join("log/0/00000000.segment"), copy.join("log/1/00000000.segment"))
        .unwrap();
    let (verified, _) = judge(&copy, "foreign segment");
    assert_eq!(verified.code, Some(1), "{verified:#?}");
}
