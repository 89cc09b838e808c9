//! The trace of a run: one hash over every input and effect, in order, and what was counted.
//!
//! Purpose: the same seed gives the same hash, in debug and in release; a run that differs has
//! found nondeterminism. What is hashed is spelled out field by field here: no pointer, no
//! `usize`, no debug formatting of floats, no map order.

use std::collections::{BTreeMap, BTreeSet};

use verity_core::io::{Effect, FileId, Input, IoError, IoId, KeyError, Owner};

#[derive(Debug)]
pub struct Trace {
    hasher: blake3::Hasher,
    /// Also kept as lines, for people; only when asked for.
    lines: Option<Vec<String>>,
    pub events: BTreeMap<&'static str, u64>,
    pub ticks: u64,
}

impl Trace {
    #[must_use]
    pub fn new(keep_lines: bool) -> Trace {
        Trace {
            hasher: blake3::Hasher::new_derive_key("verity sim trace"),
            lines: keep_lines.then(Vec::new),
            events: BTreeMap::new(),
            ticks: 0,
        }
    }

    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }

    #[must_use]
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or(&[])
    }

    #[must_use]
    pub fn events_seen(&self) -> BTreeSet<&'static str> {
        self.events.keys().copied().collect()
    }

    /// Something the world did or a client asked.
    pub fn note(&mut self, now_ns: u64, text: impl FnOnce() -> String) {
        let text = text();
        self.number(b'n', now_ns);
        self.bytes(text.as_bytes());
        self.line(now_ns, || text);
    }

    pub fn input(&mut self, now_ns: u64, input: &Input) {
        self.ticks += 1;
        self.number(b'i', now_ns);
        match input {
            Input::Tick => self.number(0, 0),
            Input::ReadDone { io, pages, result } => {
                // What was read follows from what was written and drawn; hashing whole rings at
                // each boot would take most of a run.
                self.completion(1, *io, *result);
                self.number(1, pages.count() as u64);
            }
            Input::WriteDone { io, result, .. } => self.completion(2, *io, *result),
            Input::Done { io, result } => self.completion(3, *io, *result),
            Input::Wrapped { io, key } => {
                self.io(4, *io);
                match key {
                    Ok(key) => self.bytes(&key.0),
                    Err(error) => self.key_error(*error),
                }
            }
            Input::Unwrapped { io, key } => {
                self.io(5, *io);
                match key {
                    Ok(key) => self.bytes(&key.0),
                    Err(error) => self.key_error(*error),
                }
            }
            Input::Space { free_bytes } => self.number(6, *free_bytes),
            Input::Received { from, frame } => {
                self.number(7, u64::from(from.get()));
                self.bytes(frame);
            }
            Input::LinkClosed { peer } => self.number(8, u64::from(peer.get())),
        }
        self.line(now_ns, || format!("< {}", describe_input(input)));
    }

    pub fn effect(&mut self, now_ns: u64, effect: &Effect) {
        self.number(b'e', now_ns);
        match effect {
            Effect::Read { io, at, pages } => {
                self.io(10, *io);
                self.place(at.file, at.offset, pages.count() as u64);
            }
            Effect::Write { io, at, pages, durable } => {
                self.io(11, *io);
                self.place(at.file, at.offset, u64::from(*durable));
                self.bytes(pages.as_bytes());
            }
            Effect::Sync { io, file } => {
                self.io(12, *io);
                self.place(*file, 0, 0);
            }
            Effect::Create { io, file } => {
                self.io(13, *io);
                self.place(*file, 0, 0);
            }
            Effect::Remove { io, file } => {
                self.io(14, *io);
                self.place(*file, 0, 0);
            }
            Effect::Wrap { io, purpose: _, key } => {
                self.io(15, *io);
                self.bytes(&key.0);
            }
            Effect::Unwrap { io, purpose: _, key } => {
                self.io(16, *io);
                self.bytes(&key.0);
            }
            Effect::Send { to, frame } => {
                self.number(17, u64::from(to.get()));
                self.bytes(frame);
            }
            Effect::Event(event) => {
                *self.events.entry(event.name()).or_default() += 1;
                self.bytes(format!("{event:?}").as_bytes());
            }
        }
        self.line(now_ns, || format!("> {}", describe_effect(effect)));
    }

    fn line(&mut self, now_ns: u64, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>12}us {}", now_ns / 1_000, text()));
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    fn number(&mut self, kind: u8, number: u64) {
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&number.to_le_bytes());
        self.hasher.update(&bytes);
    }

    fn io(&mut self, kind: u8, io: IoId) {
        let owner = match io.owner {
            Owner::Superblock => 0,
            Owner::Journal => 1,
            Owner::Keyring => 2,
            Owner::Store => 3,
            Owner::Log => 4,
            Owner::Node => 5,
        };
        self.hasher.update(&[kind, owner]);
        self.number(kind, io.slot);
    }

    fn completion(&mut self, kind: u8, io: IoId, result: Result<(), IoError>) {
        self.io(kind, io);
        let code = match result {
            Ok(()) => 0,
            Err(IoError::Device) => 1,
            Err(IoError::NoSpace) => 2,
            Err(IoError::ReadOnly) => 3,
        };
        self.number(kind, code);
    }

    fn key_error(&mut self, error: KeyError) {
        let code = match error {
            KeyError::WrongMasterKey => 1,
            KeyError::Unavailable => 2,
        };
        self.number(b'k', code);
    }

    fn place(&mut self, file: FileId, offset: u64, count: u64) {
        let (kind, tenant, number) = match file {
            FileId::Superblock => (0, 0, 0),
            FileId::Journal => (1, 0, 0),
            FileId::Grid => (2, 0, 0),
            FileId::Keys => (3, 0, 0),
            FileId::Segment { tenant, number } => (4, tenant.get(), u64::from(number.get())),
            FileId::Index { tenant, number } => (5, tenant.get(), u64::from(number.get())),
            FileId::Scratch => (6, 0, 0),
        };
        self.number(kind, tenant);
        self.number(kind, number);
        self.number(kind, offset);
        self.number(kind, count);
    }
}

fn describe_input(input: &Input) -> String {
    match input {
        Input::Tick => "tick".to_owned(),
        Input::ReadDone { io, pages, result } => {
            format!("read done {io:?} {} pages {result:?}", pages.count())
        }
        Input::WriteDone { io, result, .. } => format!("write done {io:?} {result:?}"),
        Input::Done { io, result } => format!("done {io:?} {result:?}"),
        Input::Wrapped { io, key } => format!("wrapped {io:?} {:?}", key.as_ref().err()),
        Input::Unwrapped { io, key } => format!("unwrapped {io:?} {:?}", key.as_ref().err()),
        Input::Space { free_bytes } => format!("space {free_bytes}"),
        Input::Received { from, frame } => format!("from {from:?} {} bytes", frame.len()),
        Input::LinkClosed { peer } => format!("{peer:?} closed its link"),
    }
}

fn describe_effect(effect: &Effect) -> String {
    match effect {
        Effect::Read { io, at, pages } => format!("read {io:?} {at:?} {} pages", pages.count()),
        Effect::Write { io, at, pages, durable } => {
            format!("write {io:?} {at:?} {} pages durable={durable}", pages.count())
        }
        Effect::Sync { io, file } => format!("sync {io:?} {file:?}"),
        Effect::Create { io, file } => format!("create {io:?} {file:?}"),
        Effect::Remove { io, file } => format!("remove {io:?} {file:?}"),
        Effect::Wrap { io, .. } => format!("wrap {io:?}"),
        Effect::Unwrap { io, .. } => format!("unwrap {io:?}"),
        Effect::Send { to, frame } => format!("to {to:?} {} bytes", frame.len()),
        Effect::Event(event) => format!("event {event:?}"),
    }
}
