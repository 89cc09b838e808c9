//! The `verity` command. Start reading at [`cli::run`].

mod cli;

/// Requests are freed by other threads than made them, at every commit; this one does it cheaply.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
