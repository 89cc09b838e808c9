//! A failure as a file: all that it takes to see it again, and what was seen.
//!
//! Fault model of the reader: any bytes. Whatever is not such a file of this simulator is refused
//! with the reason, and nothing of it is run.

use core::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use verity_sim::overrides::{Overrides, Switch};

use crate::child::Spec;

/// Of the file; another one is not read.
pub const FORMAT: u32 = 1;
/// A failure file has a few KiB; its words may be long.
const BYTES_MAX: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailureFile {
    /// [`FORMAT`]; the name says what this is.
    pub verity_failure: u32,
    /// Version of the program.
    pub version: String,
    /// What a seed means to the simulator that wrote this.
    pub world: String,
    /// Where the code stood, for people.
    pub commit: String,
    pub run: Run,
    pub signature: String,
    pub failure: String,
    pub trace_hash: String,
    /// As it was found; `run` is smaller when it was shrunk.
    pub found: Found,
    pub shrunk: Option<ShrinkFacts>,
}

/// What a run is a function of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    pub mode: Mode,
    pub seed: u64,
    pub scale: u64,
    pub bug: Option<String>,
    pub overrides: OverridesText,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Node,
    Cluster,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverridesText {
    pub off: Vec<String>,
    pub requests_max: Option<u64>,
    pub clients_max: Option<u64>,
    pub tenants_max: Option<u64>,
    pub nodes_max: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    pub overrides: OverridesText,
    pub trace_hash: String,
    pub requests: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShrinkFacts {
    pub runs: u64,
    pub seconds: f64,
    pub requests: Option<u64>,
    /// The time was over before nothing more could be taken away.
    pub cut_off: bool,
}

#[derive(Debug)]
pub enum FileError {
    Unreadable(std::io::Error),
    TooLong,
    /// Not JSON, or not of this shape.
    Malformed(String),
    /// It says that it is a failure file, of another format.
    OtherFormat(u64),
    OtherVersion {
        file: String,
        here: String,
    },
    /// The same seed means something else to this simulator.
    OtherWorld {
        commit: String,
    },
    UnknownSwitch(String),
    /// A deliberate bug that this build does not have.
    UnknownBug(String),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::Unreadable(error) => write!(f, "it cannot be read: {error}"),
            FileError::TooLong => write!(f, "it is longer than {BYTES_MAX} bytes"),
            FileError::Malformed(why) => write!(f, "it is no failure file: {why}"),
            FileError::OtherFormat(number) => {
                write!(f, "it has format {number}, this program reads {FORMAT}")
            }
            FileError::OtherVersion { file, here } => {
                write!(f, "it was written by version {file}, this is {here}")
            }
            FileError::OtherWorld { commit } => write!(
                f,
                "its seed means another run to this simulator; the code that wrote it was at \
                 commit {commit}"
            ),
            FileError::UnknownSwitch(name) => write!(f, "it switches off {name:?}, unknown here"),
            FileError::UnknownBug(name) => write!(
                f,
                "it is of the deliberate bug {name:?}, which this build does not have (the zoo's \
                 has it: --cfg verity_zoo)"
            ),
        }
    }
}

impl FailureFile {
    pub fn read(path: &Path, knows_bug: impl Fn(&str) -> bool) -> Result<FailureFile, FileError> {
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(FileError::Unreadable)?;
        let read = file.take(BYTES_MAX + 1).read_to_end(&mut bytes);
        if read.map_err(FileError::Unreadable)? as u64 > BYTES_MAX {
            return Err(FileError::TooLong);
        }
        FailureFile::parse(&bytes, knows_bug)
    }

    pub fn parse(bytes: &[u8], knows_bug: impl Fn(&str) -> bool) -> Result<FailureFile, FileError> {
        let malformed = |error: serde_json::Error| FileError::Malformed(error.to_string());
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(malformed)?;
        // Before the shape, which another format need not have.
        match value.get("verity_failure").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => return Err(FileError::OtherFormat(format)),
            None => return Err(FileError::Malformed("verity_failure is missing".to_owned())),
        }
        let file: FailureFile = serde_json::from_value(value).map_err(malformed)?;
        if file.version != crate::VERSION {
            let here = crate::VERSION.to_owned();
            return Err(FileError::OtherVersion { file: file.version, here });
        }
        if file.world != verity_sim::world_hash_hex() {
            return Err(FileError::OtherWorld { commit: file.commit });
        }
        if let Some(bug) = file.run.bug.as_ref().filter(|bug| !knows_bug(bug)) {
            return Err(FileError::UnknownBug(bug.clone()));
        }
        if file.run.seed == u64::MAX {
            return Err(FileError::Malformed("no such seed".to_owned()));
        }
        file.run.spec()?;
        Ok(file)
    }
}

impl Run {
    pub fn of(spec: &Spec) -> Run {
        Run {
            mode: if spec.cluster { Mode::Cluster } else { Mode::Node },
            seed: spec.seed,
            scale: spec.scale,
            bug: spec.bug.clone(),
            overrides: OverridesText::of(&spec.overrides),
        }
    }

    pub fn spec(&self) -> Result<Spec, FileError> {
        let named = |name: &String| {
            Switch::named(name).ok_or_else(|| FileError::UnknownSwitch(name.clone()))
        };
        let text = &self.overrides;
        Ok(Spec {
            seed: self.seed,
            cluster: self.mode == Mode::Cluster,
            scale: self.scale,
            bug: self.bug.clone(),
            overrides: Overrides {
                off: text.off.iter().map(named).collect::<Result<_, _>>()?,
                requests_max: text.requests_max,
                clients_max: text.clients_max,
                tenants_max: text.tenants_max,
                nodes_max: text.nodes_max,
            },
        })
    }
}

impl OverridesText {
    pub fn of(overrides: &Overrides) -> OverridesText {
        OverridesText {
            off: overrides.off.iter().map(|switch| switch.name().to_owned()).collect(),
            requests_max: overrides.requests_max,
            clients_max: overrides.clients_max,
            tenants_max: overrides.tenants_max,
            nodes_max: overrides.nodes_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FORMAT, FailureFile, FileError, Found, OverridesText, Run};
    use crate::child::Spec;
    use serde_json::{Value, json};
    use verity_sim::overrides::{Overrides, Switch};

    fn example() -> FailureFile {
        let overrides = Overrides {
            off: [Switch::Crash, Switch::Rot].into_iter().collect(),
            requests_max: Some(12),
            ..Overrides::default()
        };
        let spec = Spec { seed: 7, cluster: true, scale: 1, bug: None, overrides };
        FailureFile {
            verity_failure: FORMAT,
            version: crate::VERSION.to_owned(),
            world: verity_sim::world_hash_hex(),
            commit: "0123".to_owned(),
            run: Run::of(&spec),
            signature: "wrong: a".to_owned(),
            failure: "wrong: a".to_owned(),
            trace_hash: "00".repeat(32),
            found: Found {
                overrides: OverridesText::default(),
                trace_hash: String::new(),
                requests: None,
            },
            shrunk: None,
        }
    }

    fn parse(value: &Value) -> Result<FailureFile, FileError> {
        FailureFile::parse(value.to_string().as_bytes(), |bug| bug == "known")
    }

    #[test]
    fn what_is_written_is_read() {
        let file = example();
        let bytes = serde_json::to_vec(&file).unwrap();
        let again = FailureFile::parse(&bytes, |_| false).unwrap();
        assert_eq!(again, file);
        let spec = again.run.spec().unwrap();
        assert!(spec.cluster && spec.seed == 7 && spec.overrides.off.contains(Switch::Rot));
    }

    #[test]
    fn other_formats_versions_worlds_switches_and_bugs_are_told() {
        let changed = |pointer: &str, value: Value| {
            let mut file = serde_json::to_value(example()).unwrap();
            *file.pointer_mut(pointer).unwrap() = value;
            parse(&file)
        };
        assert!(changed("/run/bug", json!("known")).is_ok());
        let told = [
            (changed("/verity_failure", json!(2)), "format 2"),
            (changed("/version", json!("0.0.0")), "version 0.0.0"),
            (changed("/world", json!("00")), "commit 0123"),
            (changed("/run/overrides/off/0", json!("weather")), "weather"),
            (changed("/run/bug", json!("other")), "other"),
            (changed("/run/mode", json!("planet")), "planet"),
            (changed("/run/seed", json!(-1)), "seed"),
            (changed("/run/seed", json!(u64::MAX)), "seed"),
            (changed("/verity_failure", json!("one")), "missing"),
        ];
        for (result, word) in told {
            let Err(error) = result else { panic!("{word}: taken") };
            let text = error.to_string();
            assert!(text.contains(word) || matches!(error, FileError::Malformed(_)), "{text}");
        }
    }

    #[test]
    fn any_bytes_are_refused_and_nothing_panics() {
        let whole = serde_json::to_vec(&example()).unwrap();
        for cut in 0..whole.len() {
            assert!(FailureFile::parse(&whole[..cut], |_| true).is_err(), "the first {cut}");
            let mut flipped = whole.clone();
            flipped[cut] ^= 0x11;
            let _ = FailureFile::parse(&flipped, |_| true);
        }
        for text in ["", "[]", "null", "{}", "{\"verity_failure\":1}", "\u{0}", "[[[[[[[[[[[[["] {
            assert!(FailureFile::parse(text.as_bytes(), |_| true).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(FailureFile::parse(deep.as_bytes(), |_| true).is_err());
    }
}
