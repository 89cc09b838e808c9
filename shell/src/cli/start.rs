//! `verity start`: one replica of a cluster, until a signal ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use verity::{Server, ServerOptions};

use super::args::{Global, StartArgs};
use super::{Failure, Outcome, Output};

/// How often the main thread looks whether the node has halted.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub fn run(args: &StartArgs, global: &Global, output: &Output) -> Outcome {
    let data = args.data.path()?;
    let told = watch()?;
    let at = ServerOptions { addresses: args.addresses.clone(), listen: args.listen.clone() };
    let server = Server::start(&global.options(), &data, &at)?;
    let identity = server.identity();
    let cluster = identity.cluster.unwrap_or_default();
    output.object(&json!({
        "listening": server.address().to_string(),
        "cluster": format!("{:032x}", cluster.get()),
        "replica": identity.replica.get(),
        "replica_count": identity.replica_count,
    }));
    output.line(format!(
        "replica {} of {}, cluster {:032x}, listening at {}",
        identity.replica,
        identity.replica_count,
        cluster.get(),
        server.address()
    ));
    loop {
        if told.load(Ordering::SeqCst) != 0 {
            output.note("told to end: answering what was asked (once more to end at once)");
            return match server.stop() {
                Ok(true) => {
                    output.note("stopped: all that was acknowledged is on disk");
                    Ok(())
                }
                Ok(false) => {
                    output.note(
                        "stopped without an answer from a quorum of the others; all that was \
                         acknowledged is on disk",
                    );
                    Ok(())
                }
                Err(error) => Err(Failure::from(error)),
            };
        }
        if let Some(error) = server.halted() {
            return Err(Failure::from(error));
        }
        std::thread::park_timeout(LOOK_AGAIN);
    }
}

/// The signal that came, once one has; a second one ends the process at once.
fn watch() -> Result<Arc<AtomicI32>, Failure> {
    let told = Arc::new(AtomicI32::new(0));
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| Failure::failed(format!("signals cannot be handled: {error}")))?;
    let (tell, main) = (Arc::clone(&told), std::thread::current());
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if tell.swap(signal, Ordering::SeqCst) != 0 {
                std::process::exit(128 + signal);
            }
            main.unpark();
        }
    });
    Ok(told)
}
