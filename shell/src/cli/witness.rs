//! `verity witness`: cosigns heads of logs that continue those it has seen.

use serde_json::json;
use verity::proof::{ProofFile, SignedNote, Verifier};
use verity::witness::{Server, ask};

use super::args::WitnessArgs;
use super::{Failure, Outcome, Output};

pub fn run(args: &WitnessArgs, output: &Output) -> Outcome {
    let mut logs = Vec::new();
    for key in &args.logs {
        logs.push(Verifier::parse(key).map_err(Failure::cannot_tell)?);
    }
    if args.name.is_empty() || args.name.contains(['+', ' ', '\t']) {
        return Err(Failure::cannot_tell("a witness' name has neither spaces nor plus signs"));
    }
    let server = Server::open(&args.state, &args.name, logs, args.listen);
    let server = server.map_err(Failure::failed)?;
    let address = server.address().map_err(Failure::failed)?;
    let key = server.verifier().to_string();
    output.object(&json!({ "url": format!("http://{address}"), "key": key }));
    output.line(format!("witness {key}"));
    output.line(format!("listens at http://{address} until it is stopped"));
    server.serve().map_err(Failure::failed)
}

/// What a witness made of a proof's head: its cosignature, or that it knows a head of this size.
pub enum Witnessed {
    Cosigned(String),
    Knows(u64),
}

/// Asks a witness to cosign the head of a proof. `file.head.since` links it to what is known there.
pub fn witnessed(url: &str, file: &ProofFile) -> Result<Witnessed, String> {
    let (old, link) = match &file.head.since {
        Some(since) => (since.size, since.consistency.as_slice()),
        None => (0, [].as_slice()),
    };
    let answer = ask(url, &verity::proof::add_checkpoint_request(old, link, &file.note))?;
    let refused = |why: &str| format!("{url}: {why} (status {})", answer.status);
    match answer.status {
        200 => {
            // The note with the new line must be one still; who is believed is the reader's affair.
            let note = format!("{}{}", file.note, answer.body);
            match SignedNote::parse(&note) {
                Ok(_) => Ok(Witnessed::Cosigned(note)),
                Err(error) => Err(refused(&error.to_string())),
            }
        }
        409 => match answer.body.trim_end().parse() {
            Ok(size) if size != old => Ok(Witnessed::Knows(size)),
            Ok(_) | Err(_) => Err(refused("it saw another head of this size: a fork")),
        },
        403 | 404 => Err(refused("it does not know this log's key: give it the policy's log line")),
        422 => Err(refused("the head does not continue the one it saw: a fork")),
        _ => Err(refused("it does not answer as a witness does")),
    }
}
