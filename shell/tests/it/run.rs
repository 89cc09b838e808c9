//! Runs the `verity` binary and says what came of it.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

/// What a finished command left.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn new(output: Output) -> Run {
        let run = Run {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        assert!(!run.stderr.contains("panicked"), "a panic: {run:#?}");
        assert!(run.code.is_some(), "ended by a signal: {run:#?}");
        run
    }

    #[track_caller]
    pub fn ok(self) -> Run {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn fails(self, code: i32, message: &str) -> Run {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(self.stderr.contains(message), "expected {message:?} in {self:#?}");
        self
    }

    /// JSON objects of standard output.
    #[track_caller]
    pub fn objects(&self) -> Vec<Json> {
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// Tells of a test that cannot run here. Not by a macro: the runner keeps what those print of a
/// test that passes.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _nobody_listens = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}

pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verity"));
    for name in ["VERITY_MASTER_KEY", "VERITY_MASTER_KEY_FILE", "VERITY_DATA_DIR", "VERITY_LOG"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

pub fn verity<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Run {
    Run::new(command().args(args).output().expect("the binary was built"))
}

/// A database directory of its own, with a small journal.
pub struct Database {
    pub dir: tempfile::TempDir,
}

impl Database {
    pub fn new() -> Database {
        let database = Database { dir: tempfile::tempdir().unwrap() };
        let data = database.data();
        verity(&["format", "--journal", "16MiB", "--data", data.to_str().unwrap()]).ok();
        database
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// One command on this directory, with `--json`.
    pub fn run(&self, args: &[&str]) -> Run {
        let data = self.data();
        let mut all = args.to_vec();
        all.extend(["--json", "--data", data.to_str().unwrap()]);
        verity(&all)
    }

    pub fn sql(&self, sql: &str) -> Run {
        self.run(&["sql", "-c", sql])
    }

    /// The one number that a query gives.
    #[track_caller]
    pub fn number(&self, sql: &str) -> i64 {
        let run = self.sql(sql).ok();
        run.objects()[0]["rows"][0][0].as_i64().unwrap_or_else(|| panic!("{run:#?}"))
    }

    pub fn verify(&self) -> Run {
        self.run(&["verify"])
    }

    /// `sql` that reads standard input, with more arguments.
    pub fn conversation(&self, args: &[&str]) -> Conversation {
        Conversation::new(command().args(["sql", "--json", "--data"]).arg(self.data()).args(args))
    }

    /// What `sql` makes of a whole standard input.
    pub fn sql_from_input(&self, text: &str) -> Run {
        let Conversation { child, mut input, answers } = self.conversation(&[]);
        let text = text.to_string();
        // Of its own, for the process may answer before it has read all.
        let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let stdout: Vec<String> = answers.map(Result::unwrap).collect();
        let mut run = Run::new(child.wait_with_output().unwrap());
        let _early_end = writer.join().unwrap();
        run.stdout = stdout.join("\n");
        run
    }
}

/// A process that is asked over its standard input, and answers line by line.
pub struct Conversation {
    pub child: Child,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Conversation {
    pub fn new(command: &mut Command) -> Conversation {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Conversation { child, input, answers }
    }

    /// Writes, and waits for one answer.
    #[track_caller]
    pub fn ask(&mut self, text: &str) -> Json {
        self.input.write_all(text.as_bytes()).unwrap();
        serde_json::from_str(&self.answers.next().unwrap().unwrap()).unwrap()
    }

    /// Nothing more is asked.
    pub fn end(self) -> ExitStatus {
        let Conversation { mut child, input, answers: _ } = self;
        drop(input);
        child.wait().unwrap()
    }

    /// As kill -9 does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Prepares that ever reached the journal, until its ring wraps: header slots that are not vacant.
/// Seen from outside, while another process writes.
pub fn prepares(data: &Path) -> usize {
    const SLOT: usize = 256;
    let Ok(mut journal) = std::fs::File::open(data.join("journal")) else { return 0 };
    let length = journal.metadata().map_or(0, |metadata| metadata.len());
    let mut headers = vec![0; usize::try_from(length / 17).unwrap()];
    if std::io::Read::read_exact(&mut journal, &mut headers).is_err() {
        return 0;
    }
    headers.chunks(SLOT).filter(|slot| !slot.starts_with(b"vacant\0\0")).count()
}

/// Waits until the child made `count` more prepares durable; false: it ended before.
#[track_caller]
pub fn wait_for_prepares(child: &mut Child, data: &Path, count: usize) -> bool {
    let before = prepares(data);
    let deadline = Instant::now() + Duration::from_secs(60);
    while prepares(data) < before + count {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "the process does not get on");
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

pub fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
