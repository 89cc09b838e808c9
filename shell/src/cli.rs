//! The command line: arguments in, exit code out.
//!
//! Invariants: exit code 0 means done and holds, 1 means failed or broken, 2 means the question
//! could not be asked or answered (wrong arguments, unreadable files). With `--json` standard
//! output carries JSON only, one object a line, for wrong arguments as well. Messages for people
//! who must act go to standard error. No command panics on any input; Ctrl-C takes a last
//! checkpoint, a second one is like a crash: nothing acknowledged is lost by either.

mod args;
mod bench;
mod demo;
mod export;
mod format;
mod import;
mod inspect;
mod interrupt;
mod output;
mod prove;
mod rebuild;
mod session;
mod sql;
mod start;
mod status;
mod table;
mod verify;
mod witness;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, TenantCommand};
pub use output::Output;

/// How a command ended when it did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// Something is broken or was refused.
    Failed(String),
    /// The question could not be asked: arguments, unreadable input.
    CannotTell(String),
    /// What the library says, with its code for programs.
    Coded { code: u8, sqlstate: &'static str, message: String },
    /// Told already, in its own words; only the exit code is left.
    Told(u8),
}

impl Failure {
    pub fn failed(what: impl ToString) -> Failure {
        Failure::Failed(what.to_string())
    }

    pub fn cannot_tell(what: impl ToString) -> Failure {
        Failure::CannotTell(what.to_string())
    }
}

impl From<verity::Error> for Failure {
    fn from(error: verity::Error) -> Failure {
        Failure::Coded {
            code: exit_code(&error),
            sqlstate: error.sqlstate(),
            message: error.to_string(),
        }
    }
}

/// Without the key nothing of the directory can be read: neither that it holds nor that it does
/// not, whichever command asks.
fn exit_code(error: &verity::Error) -> u8 {
    match error {
        verity::Error::Options(_) | verity::Error::MasterKey(_) => 2,
        verity::Error::Halted { halt: verity_core::node::Halt::Key(_), .. } => 2,
        _other_errors => 1,
    }
}

pub type Outcome = Result<(), Failure>;

/// Opens the database in a directory; makes one in a new directory, and says so.
pub fn open_or_make(
    options: &verity::Options,
    data: &std::path::Path,
    output: &Output,
) -> Result<verity::Verity, Failure> {
    if !verity::is_formatted(data)? {
        options.check_memory()?;
        let formatted = options.format(data)?;
        output.note(&format!("note: made a new database in {}", data.display()));
        if let Some(path) = &formatted.key_file_made {
            output.note(&format::key_warning(&path.display().to_string()));
        }
    }
    Ok(options.open(data)?)
}

pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    let output = Output::new(cli.global.json);
    let filter = match EnvFilter::try_new(&cli.global.log) {
        Ok(filter) => filter,
        Err(error) => {
            let asked = &cli.global.log;
            output.error(&format!("--log {asked}: {error}; try warn, info, debug or trace"));
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        // Where nobody listens there is nobody to be told that, either.
        .log_internal_errors(false)
        .init();
    // A limit on the size of files is an error of the write that meets it, not the end.
    let told = std::sync::Arc::default();
    let _default_remains = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, told);
    let result = match &cli.command {
        Command::Demo(args) => demo::run(args, &cli.global, &output),
        Command::Sql(args) => sql::run(args, &cli.global, &output),
        Command::Import(args) => import::run(args, &cli.global, &output),
        Command::Verify(args) => match &args.file {
            Some(file) if file.is_dir() => Err(Failure::CannotTell(format!(
                "{0} is a directory, no proof and no log; for a data directory write --data {0}",
                file.display()
            ))),
            Some(file) if export::is_log(file) => export::check(file, args, &output),
            Some(file) => prove::check(file, args, &output),
            None => verify::run(args, &cli.global, &output),
        },
        Command::Export(args) => export::run(args, &cli.global, &output),
        Command::Prove(args) => prove::run(args, &cli.global, &output),
        Command::Redact(args) => prove::redact_copy(args, &output),
        Command::Witness(args) => witness::run(args, &output),
        Command::Inspect(args) => inspect::run(args, &cli.global, &output),
        Command::Rebuild(args) => rebuild::run(args, &cli.global, &output),
        Command::Bench(args) => bench::run(args, &cli.global, &output),
        Command::Start(args) => start::run(args, &cli.global, &output),
        Command::Status(args) => status::run(args, &output),
        Command::Format(args) => format::run(args, &cli.global, &output),
        Command::Secret(args) => format::secret(args, &cli.global, &output),
        Command::Tenant { command: TenantCommand::Create(args) } => {
            format::create_tenant(args, &cli.global, &output)
        }
    };
    interrupt::wait_if_interrupted();
    let (code, message) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Told(code)) => (code, None),
        Err(Failure::Failed(message)) => (1, Some(message)),
        Err(Failure::CannotTell(message)) => (2, Some(message)),
        Err(Failure::Coded { code, sqlstate, message }) => {
            output.coded_error(sqlstate, &message);
            (code, None)
        }
    };
    if let Some(message) = message {
        output.error(&message);
    }
    ExitCode::from(code)
}

/// Wrong arguments, or help that was asked for.
fn not_understood(error: &clap::Error) -> ExitCode {
    let _nobody_listens = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg)
        && error.kind() == ErrorKind::UnknownArgument
        && std::path::Path::new(argument).is_dir()
    {
        let _nobody_listens = writeln!(
            std::io::stderr(),
            "\n  tip: a data directory is named with --data {argument}"
        );
    }
    // What was asked for as far as can be told: behind `--` there are no options.
    let mut options = std::env::args_os().skip(1).take_while(|argument| argument != "--");
    if options.any(|argument| argument == "--json") {
        let message = error.render().to_string();
        let message = message.strip_prefix("error: ").unwrap_or(&message).trim();
        let object = serde_json::json!({ "error": message, "sqlstate": "42601" });
        Output::new(true).object(&object);
    }
    ExitCode::from(2)
}
