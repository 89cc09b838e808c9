//! `verity witness`: a small self-hosted witness of logs, speaking C2SP `tlog-witness` over HTTP.
//!
//! One request at a time, and one process at a state, so that no head is cosigned beside another.
//! What was cosigned last is durable before the answer leaves: file, rename, directory. Fault
//! model: the network is hostile; requests are bounded in size, and each read in time; a directory
//! that cannot be read or written stops it, as a witness that forgets is worse than none. TLS is
//! the business of whatever stands in front.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use verity_core::crypto::ChainHash;
use verity_core::crypto::note::{Checkpoint, SignedNote, Verifier};
use verity_core::crypto::signature::SigningKey;
use verity_core::proof::witness::{Witness, WitnessRefusal};

use crate::disk::lock::DirectoryLock;

const REQUEST_SIZE_MAX: u64 = 128 << 10;
const HEADER_LINES_MAX: usize = 100;
const TIMEOUT: Duration = Duration::from_secs(10);

/// A witness and what it remembers.
#[derive(Debug)]
pub struct Server {
    witness: Witness,
    state: PathBuf,
    listener: TcpListener,
    /// Two at one state could cosign two heads beside each other.
    _lock: DirectoryLock,
}

impl Server {
    /// Opens the directory of its state, with its key; both are made if they are not there.
    pub fn open(
        state: &Path,
        name: &str,
        logs: Vec<Verifier>,
        listen: SocketAddr,
    ) -> Result<Server, String> {
        let failed = |what: &str| {
            let what = format!("{what} {}", state.display());
            move |error: std::io::Error| format!("{what}: {error}")
        };
        std::fs::create_dir_all(state).map_err(failed("cannot make"))?;
        let lock = DirectoryLock::exclusive(state).map_err(|error| error.to_string())?;
        let key = load_key(&state.join("key")).map_err(failed("cannot read or make the key in"))?;
        let listener = TcpListener::bind(listen).map_err(|error| format!("{listen}: {error}"))?;
        let witness = Witness::new(name, key, logs);
        Ok(Server { witness, state: state.into(), listener, _lock: lock })
    }

    #[must_use]
    pub fn verifier(&self) -> Verifier {
        self.witness.verifier()
    }

    pub fn address(&self) -> Result<SocketAddr, String> {
        self.listener.local_addr().map_err(|error| error.to_string())
    }

    /// Answers until its state cannot be kept.
    pub fn serve(&self) -> Result<(), String> {
        for stream in self.listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            // A client that goes away is no trouble of ours.
            if let Some(body) = request_of(&mut stream) {
                let answer = self.answer(&body)?;
                let _ = stream.write_all(answer.as_bytes());
            }
        }
        Ok(())
    }

    /// An error is ours: what is remembered cannot be read or written.
    fn answer(&self, request: &Request) -> Result<String, String> {
        let body = match request {
            Request::AddCheckpoint(body) => body,
            Request::Other(status) => return Ok(response(*status, "text/plain", "")),
        };
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut unreadable = None;
        let answer = self.witness.add_checkpoint(body, now_s, |origin| {
            self.last(origin).unwrap_or_else(|error| {
                unreadable = Some(error);
                None
            })
        });
        if let Some(error) = unreadable {
            return Err(error);
        }
        Ok(match answer {
            Ok(cosigned) => {
                self.remember(&cosigned.head)?;
                response(200, "text/plain; charset=utf-8", &cosigned.line)
            }
            Err(refusal @ (WitnessRefusal::Conflict { size } | WitnessRefusal::Fork { size })) => {
                response(refusal.status(), "text/x.tlog.size", &format!("{size}\n"))
            }
            Err(refusal) => response(refusal.status(), "text/plain", ""),
        })
    }

    fn path_of(&self, origin: &str) -> PathBuf {
        self.state.join(format!("{}.head", ChainHash::of(&[origin.as_bytes()])))
    }

    fn last(&self, origin: &str) -> Result<Option<Checkpoint>, String> {
        let path = self.path_of(origin);
        match std::fs::read_to_string(&path) {
            Ok(text) => match parse_head(&text) {
                Some(head) if head.origin == origin => Ok(Some(head)),
                Some(_) | None => Err(format!("{} is damaged", path.display())),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }

    fn remember(&self, head: &Checkpoint) -> Result<(), String> {
        let path = self.path_of(&head.origin);
        replace(&path, head.text().as_bytes())
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

/// Origin, size and root, one line each, as heads are kept.
#[must_use]
pub fn parse_head(text: &str) -> Option<Checkpoint> {
    // The format of a note without its signatures: a line of any will do.
    let note = format!("{text}\n\u{2014} head AAAAAAA=\n");
    let note = SignedNote::parse(&note).ok()?;
    (note.checkpoint.text() == text).then_some(note.checkpoint)
}

/// All of it or none of it, durable.
pub fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => std::fs::File::open(".")?.sync_all(),
    }
}

fn load_key(path: &Path) -> std::io::Result<SigningKey> {
    match std::fs::read(path) {
        Ok(bytes) => match <[u8; 32]>::try_from(bytes.as_slice()) {
            Ok(seed) => Ok(SigningKey::new(&seed)),
            Err(_) => Err(std::io::Error::other("a key has 32 bytes")),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(&seed)?;
            file.sync_all()?;
            Ok(SigningKey::new(&seed))
        }
        Err(error) => Err(error),
    }
}

enum Request {
    AddCheckpoint(String),
    /// Something else, and the status that says so.
    Other(u16),
}

/// `None`: nobody is there to be answered.
fn request_of(stream: &mut TcpStream) -> Option<Request> {
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(TIMEOUT)).ok()?;
    let mut reader = BufReader::new(stream.take(REQUEST_SIZE_MAX));
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
    let mut length = None;
    for nth in 0.. {
        let mut line = String::new();
        if nth == HEADER_LINES_MAX || reader.read_line(&mut line).ok()? == 0 {
            return Some(Request::Other(400));
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<u64>().ok();
        }
    }
    if !path.ends_with("/add-checkpoint") {
        return Some(Request::Other(404));
    }
    if method != "POST" {
        return Some(Request::Other(405));
    }
    let Some(length) = length.filter(|length| *length < REQUEST_SIZE_MAX) else {
        return Some(Request::Other(411));
    };
    let mut body = String::new();
    match reader.take(length).read_to_string(&mut body) {
        Ok(read) if read as u64 == length => Some(Request::AddCheckpoint(body)),
        Ok(_) | Err(_) => Some(Request::Other(400)),
    }
}

fn response(status: u16, kind: &str, body: &str) -> String {
    let reason = match status {
        200 => "OK",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        422 => "Unprocessable Entity",
        _ => "Bad Request",
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

/// What a witness answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Sends a request to a witness at `http://host:port/prefix`.
pub fn ask(url: &str, body: &str) -> Result<Answer, String> {
    let failed = |error: std::io::Error| format!("{url}: {error}");
    let rest = url.strip_prefix("http://").ok_or(format!("{url}: only http:// is spoken"))?;
    let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    let slash = if prefix.is_empty() { "" } else { "/" };
    let mut stream = TcpStream::connect(host).map_err(failed)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
    let length = body.len();
    let request = format!(
        "POST {slash}{prefix}/add-checkpoint HTTP/1.1\r\nHost: {host}\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.take(REQUEST_SIZE_MAX).read_to_string(&mut answer).map_err(failed)?;
    let malformed = || format!("{url}: not an answer of HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answer { status: status.ok_or_else(malformed)?, body: body.to_string() })
}
