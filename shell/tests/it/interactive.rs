//! `verity sql` on a terminal: the real binary behind a pseudo terminal that `script` makes.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::run::Database;

const PATIENCE: Duration = Duration::from_secs(60);

/// Keys go in, what the screen shows comes out.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    seen: Arc<Mutex<String>>,
    /// What was expected already ends here.
    read: usize,
}

/// None: this machine has no `script`.
fn open(database: &Database) -> Option<Terminal> {
    let data = database.data();
    // Without `exec` a shell stays in between, gets Ctrl-C as well and ends with its own code.
    let shell = format!("exec {} sql --data {}", env!("CARGO_BIN_EXE_verity"), data.display());
    let child = Command::new("script")
        .args(["-qec", &shell, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .env("VERITY_SQL_HISTORY", database.path("history"))
        .env("TERM", "xterm")
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("NOT TESTED: there is no `script` here");
        return None;
    };
    let keys = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let to = Arc::clone(&seen);
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        let mut all = Vec::new();
        while let Ok(count @ 1..) = screen.read(&mut bytes) {
            all.extend_from_slice(&bytes[..count]);
            *to.lock().unwrap() = without_escapes(&String::from_utf8_lossy(&all));
        }
    });
    let mut terminal = Terminal { child, keys, seen, read: 0 };
    terminal.expect(".help shows commands");
    Some(terminal)
}

/// The text alone: colours, cursor moves and modes are left out.
fn without_escapes(screen: &str) -> String {
    let mut out = String::new();
    let mut rest = screen.chars();
    while let Some(character) = rest.next() {
        if character != '\x1b' {
            out.push(character);
        } else if rest.next() == Some('[') {
            // Up to and with the letter that ends it.
            let _letter = rest.find(|c| c.is_ascii_alphabetic());
        }
    }
    out
}

impl Terminal {
    fn keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits for the prompt and types a line. What is typed before the prompt may be lost.
    #[track_caller]
    fn line(&mut self, line: &str) {
        self.prompt();
        self.keys(&format!("{line}\r"));
        // Its echo, so that the next prompt is another one.
        self.expect(line);
    }

    /// Waits until the last line of the screen is a prompt and nothing else.
    #[track_caller]
    fn prompt(&mut self) {
        let started = Instant::now();
        loop {
            let seen = self.seen.lock().unwrap().clone();
            // A prompt that is drawn anew begins with a return of the carriage.
            let last = seen[self.read..].rsplit('\n').next().map(|last| last.replace('\r', ""));
            if last.is_some_and(|last| last.starts_with("verity") && last.ends_with("> ")) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "no prompt in\n{}", &seen[self.read..]);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the screen shows a text, after what was expected before.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        let started = Instant::now();
        loop {
            let seen = self.seen.lock().unwrap().clone();
            if let Some(at) = seen[self.read..].find(text) {
                self.read += at + text.len();
                return;
            }
            assert!(started.elapsed() < PATIENCE, "no {text:?} in\n{}", &seen[self.read..]);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the shell has used a tenth of a second of processor time from now on: only a
    /// query does that.
    #[track_caller]
    fn works(&self) {
        // `script` has one child.
        let script = self.child.id();
        let of_script = format!("/proc/{script}/task/{script}/children");
        let verity = std::fs::read_to_string(of_script).unwrap().trim().to_string();
        let ticks = || {
            let stat = std::fs::read_to_string(format!("/proc/{verity}/stat")).unwrap();
            // After the name in brackets; user and system time are fields 14 and 15 of all.
            let (_, rest) = stat.rsplit_once(')').unwrap();
            let fields = rest.split_whitespace().skip(11).take(2);
            fields.map(|field| field.parse::<u64>().unwrap()).sum::<u64>()
        };
        let (started, before) = (Instant::now(), ticks());
        while ticks() < before + 10 {
            assert!(started.elapsed() < PATIENCE, "the shell does not work");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn ends(mut self) {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(started.elapsed() < PATIENCE, "the shell did not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_session_on_a_terminal() {
    let database = Database::new();
    let Some(mut terminal) = open(&database) else { return };
    // A statement over three lines.
    terminal.line("CREATE TABLE t (id BIGINT PRIMARY KEY,");
    terminal.keys("  name TEXT NOT NULL DEFAULT 'x', CHECK (id > 0)\r");
    terminal.keys(");\r");
    terminal.expect("ok: 0 rows changed at position");
    terminal.line("BEGIN;");
    terminal.line("INSERT INTO t VALUES (1, 'one');");
    terminal.line("INSERT INTO t VALUES (2, 'two');");
    terminal.line("COMMIT;");
    terminal.expect("ok: 2 rows changed at position");
    terminal.line("SELECT name FROM t WHERE id = 2;");
    terminal.expect("two");
    terminal.expect("(1 row at position");
    // A caret under the error, and the shell goes on.
    terminal.line("SELECT nam FROM t;");
    terminal.expect("error 42703");
    terminal.expect("       ^");
    terminal.line(".tables");
    terminal.expect("\r\nt\r\n");
    terminal.line(".schema t");
    terminal.expect("CREATE TABLE t (");
    terminal.expect("name TEXT NOT NULL DEFAULT 'x'");
    terminal.expect("PRIMARY KEY (id)");
    terminal.line(".timer on");
    terminal.line(".explain on");
    terminal.line(".mode json");
    terminal.line("SELECT id, name FROM t WHERE id = 1;");
    terminal.expect("-- lookup in t by primary key");
    terminal.expect(r#"{"id":1,"name":"one"}"#);
    terminal.expect(" ms");
    terminal.line(".explain off");
    terminal.line(".mode line");
    terminal.line("UPDATE t SET name = 'uno' WHERE id = 1;");
    terminal.expect("ok: 1 row changed at position ");
    let position: u64 = {
        // The next prompt: all of the answer is there.
        terminal.prompt();
        let seen = terminal.seen.lock().unwrap();
        let rest = &seen[terminal.read..];
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    terminal.line(&format!(".asof {}", position - 1));
    terminal.line("SELECT name FROM t WHERE id = 1;");
    terminal.expect("name = one");
    terminal.line(".asof off");
    terminal.line("SELECT name FROM t WHERE id = 1;");
    terminal.expect("name = uno");
    terminal.line(".asof 99999");
    terminal.expect("VY001");
    std::fs::write(database.path("more.sql"), "INSERT INTO t VALUES (3);\nSELECT 7;").unwrap();
    terminal.line(&format!(".read {}", database.path("more.sql").display()));
    terminal.expect("error");
    terminal.expect("stopped at the first error");
    terminal.line(".frobnicate");
    terminal.expect("there is no command .frobnicate");
    terminal.line(".help");
    terminal.expect(".asof N");
    terminal.line(".quit");
    terminal.ends();
    let history = std::fs::read_to_string(database.path("history")).unwrap();
    assert!(history.contains("name = 'uno'"), "{history}");
}

#[test]
fn control_c_ends_the_query_and_not_the_shell() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT)").ok();
    for batch in 0..10 {
        let rows: Vec<String> =
            (0..2_000).map(|n| format!("({}, 'n')", batch * 2_000 + n)).collect();
        database.sql(&format!("INSERT INTO t VALUES {}", rows.join(", "))).ok();
    }
    let Some(mut terminal) = open(&database) else { return };
    // Some hundred microseconds a row: seconds in all.
    let slow = "SELECT COUNT(*) FROM t WHERE reverse(repeat(name, 20000)) LIKE '%x%y%';";
    terminal.line(slow);
    terminal.works();
    let started = Instant::now();
    terminal.keys("\x03");
    terminal.expect("cancelled");
    eprintln!("cancelled after {:?}", started.elapsed());
    // At the prompt it forgets the line.
    terminal.prompt();
    terminal.keys("SELECT 'never';");
    terminal.expect("never';");
    terminal.keys("\x03");
    terminal.line("SELECT 6 * 7 AS answer;");
    terminal.expect("answer\r\n");
    terminal.expect("42");
    // Ctrl-D leaves.
    terminal.prompt();
    terminal.keys("\x04");
    terminal.ends();
}
