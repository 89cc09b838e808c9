//! The `verity` command. Start reading at [`cli::run`].

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
