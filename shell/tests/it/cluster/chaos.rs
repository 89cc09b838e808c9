//! Chaos: clients that record what they were told, faults chosen by a seed, and a checker that says
//! whether all of it could have happened one thing at a time.
//!
//! A round is a cluster of its own: it is formatted, hurt for a while, left alone, and then must come
//! together in bounded time, hold what was acknowledged, once, on all three, give a history that is
//! linearizable (`verity-linear`), end when it is told to, and pass `verity verify`. A short round
//! runs in every `cargo test`; `cargo x chaos --minutes N` runs one after the other
//! (`for_minutes`). The seed says which faults come and when; what the machine makes of them is not
//! the same twice.

mod clients;
mod nemesis;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use verity::{Value, Verity};
use verity_linear::models::Register;
use verity_linear::{Limits, Verdict, by_key, check_keys};

use super::namespaces::Namespaces;
use super::processes::Cluster;
use super::writers::Writers;
use crate::run::verity;
use clients::{Clients, REGISTERS};
use nemesis::Nemesis;

/// A round of `for_minutes`: so long that rings go round many times, so short that a failed one can
/// be read.
const ROUND: Duration = Duration::from_secs(120);
/// Of the smallest kind: it goes round, and checkpoints come.
const RING: &str = "16MiB";
const CLIENTS: u64 = 5;
const WRITERS: i64 = 2;
/// How often a replica whose segments were damaged is left alone once more, to find it and repair it.
const REPAIRS: u32 = 6;

/// Draws of one seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        let mut random = Random(seed);
        random.next();
        random
    }

    /// SplitMix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn between(&mut self, low_ms: u64, high_ms: u64) -> Duration {
        Duration::from_millis(low_ms + self.below(high_ms - low_ms))
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

struct Plan {
    seed: u64,
    length: Duration,
    /// Replicas in namespaces of the network, where links can be cut.
    apart: bool,
    plant: Option<Plant>,
    /// Names of faults, with commas; none: all.
    only: Option<String>,
}

/// Something wrong on purpose, which must be seen.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plant {
    /// Each client believes one replica, whatever it has.
    EventualReads,
    /// All three directories are put back as they were two seconds before.
    ForgottenWrites,
}

impl Plant {
    fn named(name: &str) -> Option<Plant> {
        match name {
            "eventual-reads" => Some(Plant::EventualReads),
            "forgotten-writes" => Some(Plant::ForgottenWrites),
            _ => None,
        }
    }
}

/// What a log has of damage and of what was done about it: that faults were felt.
const MARKS: &[&str] = &[
    "which was acknowledged, is damaged",
    "of the superblock is damaged",
    "grid: page",
    ".segment is damaged at byte",
    "are repaired with those of a peer",
    "no peer could give block",
    "is made anew from its segment",
    "SyncFinished",
];

/// What a round came to when nothing panicked.
struct Outcome {
    verdict: Verdict,
    figures: Json,
}

fn round(plan: &Plan) -> Outcome {
    let mut cluster = Cluster::to_be_hurt(RING, plan.seed as usize % 3, plan.apart);
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    Writers::prepare(&client);
    client.execute("CREATE TABLE registers (id BIGINT PRIMARY KEY, v BIGINT)", &[]).unwrap();

    let clients =
        Clients::start(&cluster, CLIENTS, plan.seed, plan.plant == Some(Plant::EventualReads));
    let writers = Writers::start_patient(&cluster, WRITERS);
    let mut nemesis = Nemesis::new(&mut cluster, plan.seed);
    match plan.plant {
        Some(Plant::ForgottenWrites) => nemesis.forget(),
        Some(Plant::EventualReads) | None => nemesis.run(plan.length, plan.only.as_deref()),
    }
    let hurt = nemesis.finish();

    let begun = Instant::now();
    cluster.wait_healthy();
    writers.wait_for_progress(20);
    let converged = begun.elapsed();
    let recorded = clients.finish(&client);
    let written = writers.finish();
    std::fs::write(cluster.path("history"), recorded.to_string()).unwrap();
    let lost = written.lost(&Verity::connect(cluster.addresses()).unwrap());
    if plan.plant.is_none() {
        written.check(&cluster);
        same_registers(&cluster);
    }

    let (operations, unknown) = (recorded.history.len(), recorded.unknown());
    let (told_later, stall) = (recorded.told_later, recorded.longest_stall());
    let refused = json!(recorded.refused);
    let begun = Instant::now();
    let keys = by_key(recorded.history);
    let (verdict, key) = check_keys(&Register::default(), &keys, Limits::default());
    if let (Verdict::NotLinearizable(broken), Some(key)) = (&verdict, key) {
        let stuck = &keys[key][broken.stuck];
        eprintln!("register {key} has no order: {broken:?}, which is {stuck:?}");
    }
    let checked = begun.elapsed();
    let unrepaired = match plan.plant {
        None => verify(&mut cluster, hurt.victim),
        Some(_) => 0,
    };
    let said = cluster.logs();
    let felt = MARKS.iter().map(|mark| (*mark, said.matches(mark).count()));
    let felt: BTreeMap<&str, usize> = felt.filter(|(_, count)| *count > 0).collect();
    let figures = json!({
        "seed": plan.seed,
        "apart": plan.apart,
        "operations": operations,
        "unknown": unknown,
        "told_later": told_later,
        "refused": refused,
        "rows": written.acknowledged(),
        "rows_unknown": written.unknown(),
        "rows_lost": lost,
        "faults": hurt.faults,
        "ended_by_themselves": hurt.ended.len(),
        "felt": felt,
        "longest_stall_s": stall.as_secs_f64(),
        "converged_s": converged.as_secs_f64(),
        "checked_s": checked.as_secs_f64(),
        "grid_pages_not_found_yet": unrepaired,
    });
    if verdict != Verdict::Linearizable && plan.plant.is_none() {
        cluster.keep();
    }
    Outcome { verdict, figures }
}

/// All three read the same.
fn same_registers(cluster: &Cluster) {
    let sql = "SELECT id, v FROM registers ORDER BY id";
    let rows = Verity::connect(cluster.addresses()).unwrap().query(sql, &[]).unwrap().rows;
    assert!(rows.len() <= REGISTERS as usize);
    for address in cluster.addresses() {
        let replica = Verity::connect([&address]).unwrap().read_anywhere();
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let found: Vec<Vec<Value>> = replica.query(sql, &[]).unwrap().rows;
            if found == rows {
                break;
            }
            assert!(Instant::now() < end, "{address} differs: {found:?}, and {rows:?}");
        }
    }
}

/// Ends all three and reads their directories; gives the damage that may be there yet.
///
/// Only the victim has any. What is damaged in its segments is repaired when scrubbing comes by;
/// pages of the grid and index files that nobody reads are not scrubbed.
fn verify(cluster: &mut Cluster, victim: Option<usize>) -> usize {
    for attempt in 0.. {
        cluster.end_all();
        let mut logs = Vec::new();
        let mut damaged = Vec::new();
        for replica in 0..3 {
            let data = cluster.data(replica);
            let run = verity(&["verify", "--json", "--data", data.to_str().unwrap()]);
            let told = run.objects().remove(0);
            logs.push(told["logs"].clone());
            let findings = told["findings"].as_array().unwrap().clone();
            let damage = findings.into_iter().filter(|finding| finding["severity"] == "damage");
            let damage: Vec<Json> = damage.collect();
            if victim == Some(replica) {
                damaged = damage;
            } else {
                assert!(run.code == Some(0) && damage.is_empty(), "replica {replica}: {run:#?}");
            }
        }
        let not_scrubbed = |finding: &&Json| {
            let part = finding["part"].as_str().unwrap_or_default();
            part == "grid" || part.contains("index")
        };
        let left = damaged.iter().filter(not_scrubbed).count();
        if left == damaged.len() {
            same_logs(&logs);
            return left;
        }
        assert!(attempt < REPAIRS, "not repaired: {damaged:#?}");
        cluster.start_all();
        std::thread::sleep(Duration::from_secs(5));
    }
    unreachable!("attempts end");
}

/// Of logs of the same length the trees are the same.
fn same_logs(logs: &[Json]) {
    let of = |log: &Json| (log["tenant"].to_string(), log["records"].to_string());
    let mut seen = BTreeMap::new();
    for log in logs.iter().flat_map(|all| all.as_array().unwrap()) {
        let root = seen.entry(of(log)).or_insert_with(|| log["tree_root"].clone());
        assert_eq!(*root, log["tree_root"], "logs differ: {logs:#?}");
    }
}

/// Some seconds of all that can be done to processes, files, a disk and clocks.
#[test]
fn a_short_round_holds() {
    let plan =
        Plan { seed: 7, length: Duration::from_secs(15), apart: false, plant: None, only: None };
    let outcome = round(&plan);
    println!("{}", outcome.figures);
    assert_eq!(outcome.verdict, Verdict::Linearizable);
}

/// That all of this can fail.
#[test]
fn what_is_planted_is_seen() {
    for plant in [Plant::EventualReads, Plant::ForgottenWrites] {
        // A history shows what is planted only where somebody reads it before it is written over.
        let refused = (3..7).any(|seed| {
            let length = Duration::from_secs(3);
            let plan = Plan { seed, length, apart: false, plant: Some(plant), only: None };
            let outcome = round(&plan);
            println!("{plant:?}: {:?}, {}", outcome.verdict, outcome.figures);
            let lost = outcome.figures["rows_lost"].as_u64().unwrap();
            assert_eq!(lost > 0, plant == Plant::ForgottenWrites, "{lost}");
            matches!(outcome.verdict, Verdict::NotLinearizable(_))
        });
        assert!(refused, "{plant:?}: no history of four is refused");
    }
}

/// What `cargo x chaos` runs: rounds until the time is over, each with a line of JSON in the file
/// that it names.
#[test]
#[ignore = "minutes to hours: `cargo x chaos`"]
fn for_minutes() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let end = Instant::now() + Duration::from_secs(number("VERITY_CHAOS_SECONDS").unwrap_or(60));
    let first = number("VERITY_CHAOS_SEED").unwrap_or(1);
    let report = std::env::var_os("VERITY_CHAOS_REPORT");
    let apart = match Namespaces::why_not() {
        None => true,
        Some(why) => {
            eprintln!("links are not cut: no namespaces of the network here: {why}");
            false
        }
    };
    let plant = std::env::var("VERITY_CHAOS_PLANT").ok();
    let plant = plant.map(|name| Plant::named(&name).expect("one that there is"));
    let only = std::env::var("VERITY_CHAOS_ONLY").ok();
    let mut bad = 0;
    for seed in first.. {
        let left = end.saturating_duration_since(Instant::now());
        if left < Duration::from_secs(10) && seed > first {
            break;
        }
        let plan = Plan { seed, length: ROUND.min(left), apart, plant, only: only.clone() };
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| round(&plan)));
        let line = match ran {
            Ok(Outcome { verdict, mut figures }) => {
                let verdict = match verdict {
                    Verdict::Linearizable => "holds",
                    Verdict::NotLinearizable(_) => "broken",
                    Verdict::CouldNotTell => "could_not_tell",
                };
                figures["verdict"] = verdict.into();
                figures
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let why = text.or_else(|| panic.downcast_ref::<&str>().copied());
                let why: String = why.unwrap_or("a panic").chars().take(2_000).collect();
                json!({ "seed": seed, "verdict": "broken", "why": why })
            }
        };
        bad += u32::from(line["verdict"] == "broken");
        println!("{line}");
        if let Some(report) = &report {
            let file = std::fs::File::options().create(true).append(true).open(report);
            std::io::Write::write_all(&mut file.unwrap(), format!("{line}\n").as_bytes()).unwrap();
        }
    }
    assert_eq!(bad, 0, "rounds that do not hold");
}
