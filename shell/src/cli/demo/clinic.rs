//! Patients and visits that nobody has: the same ones on every run.

use verity::Value;

pub const PATIENTS: &str = "CREATE TABLE patients (
  id BIGINT PRIMARY KEY,
  name TEXT NOT NULL,
  born DATE NOT NULL,
  ssn TEXT NOT NULL,
  city TEXT
)";
pub const PATIENT_COLUMNS: &[&str] = &["id", "name", "born", "ssn", "city"];

pub const VISITS: &str = "CREATE TABLE visits (
  id BIGINT PRIMARY KEY,
  patient BIGINT NOT NULL,
  visited DATE NOT NULL,
  reason TEXT NOT NULL,
  cost DOUBLE
)";
pub const VISIT_COLUMNS: &[&str] = &["id", "patient", "visited", "reason", "cost"];

const FIRST: &[&str] = &[
    "José", "Milo", "Zoë", "Ingrid", "Amara", "Wei", "Fatima", "Jürgen", "Olga", "Noah", "Ayşe",
    "Siobhán", "Mateo", "Priya", "Kofi", "Hana",
];
const LAST: &[&str] = &[
    "Gómez",
    "Feil",
    "Åberg",
    "Okafor",
    "Zhang",
    "Haddad",
    "Müller",
    "Ivanova",
    "Smith",
    "Yılmaz",
    "Ó Briain",
    "Fernández",
    "Sharma",
    "Mensah",
    "Tanaka",
    "Rossi",
];
const CITIES: &[&str] =
    &["Boston", "Chicopee", "Somerville", "Lowell", "Quincy", "Salem", "Newton", "Malden"];
const REASONS: &[&str] = &[
    "Annual check-up",
    "Influenza vaccination",
    "Sprained ankle",
    "Chronic sinusitis",
    "Blood pressure control",
    "Allergy test",
];

/// Visits of one patient.
const VISITS_EACH: u64 = 3;
const DAYS_BORN: u64 = 365 * 80;
const DAYS_VISITED: u64 = 365 * 5;
/// Days from 1970-01-01 to 1940-01-01 and to 2020-01-01.
const BORN_FROM: i32 = -10_957;
const VISITED_FROM: i32 = 18_262;

#[derive(Debug)]
pub struct Clinic {
    patients: u64,
}

impl Clinic {
    pub fn new(patients: u64) -> Clinic {
        Clinic { patients }
    }

    pub fn patients(&self) -> u64 {
        self.patients
    }

    pub fn visits(&self) -> u64 {
        self.patients * VISITS_EACH
    }

    pub fn patient(&self, id: u64) -> Vec<Value> {
        vec![
            Value::Integer(id as i64),
            Value::Text(format!("{} {}", pick(FIRST, id, 1), pick(LAST, id, 2))),
            Value::Date(BORN_FROM + (mix(id, 3) % DAYS_BORN) as i32),
            Value::Text(self.ssn(id)),
            Value::text(pick(CITIES, id, 4)),
        ]
    }

    /// Of a range that is never given to anybody.
    pub fn ssn(&self, id: u64) -> String {
        format!("9{:02}-{:02}-{:04}", id % 100, mix(id, 5) % 100, mix(id, 6) % 10_000)
    }

    pub fn visit(&self, id: u64) -> Vec<Value> {
        vec![
            Value::Integer(id as i64),
            Value::Integer(((id - 1) / VISITS_EACH + 1) as i64),
            Value::Date(VISITED_FROM + (mix(id, 7) % DAYS_VISITED) as i32),
            Value::text(pick(REASONS, id, 8)),
            Value::Double((mix(id, 9) % 40_000) as f64 / 100.0),
        ]
    }
}

fn pick(from: &'static [&'static str], id: u64, salt: u64) -> &'static str {
    from[(mix(id, salt) % from.len() as u64) as usize]
}

/// SplitMix64's finalizer (Steele, Lea, Flood 2014).
fn mix(id: u64, salt: u64) -> u64 {
    let mut z = id.wrapping_mul(16).wrapping_add(salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
