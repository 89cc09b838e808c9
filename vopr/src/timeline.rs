//! `vopr --seed N --timeline FILE`: a run as a page that a person can look at.
//!
//! Purpose: replicas as lanes and virtual time from left to right; births and deaths, views and
//! primaries, messages, cuts, faults, requests, checkpoints, and the failure. One file that asks
//! nothing of any network. Its size is bounded: of each kind the last entries are kept, and the
//! page says how many are not on it.

use std::path::Path;

use serde_json::{Value, json};
use verity_sim::report::{FailureKind, Report};
use verity_sim::timeline::{Fate, Last, Mark, Timeline};

use crate::Arguments;
use crate::child::Spec;

const PAGE: &str = include_str!("timeline/page.html");
/// Where the data go.
const PLACE: &str = "/*DATA*/";
/// Of the failure's words.
const WORDS_MAX: usize = 6_000;

const FATES: [Fate; 6] =
    [Fate::Delivered, Fate::Damaged, Fate::Lost, Fate::Cut, Fate::Nobody, Fate::UnderWay];

/// Writes the page of a run that was recorded.
pub fn write(path: &Path, report: &Report, arguments: &Arguments) -> std::io::Result<()> {
    let empty = Timeline::default();
    let timeline = report.timeline.as_deref().unwrap_or(&empty);
    std::fs::write(path, page(timeline, report, arguments))
}

fn page(timeline: &Timeline, report: &Report, arguments: &Arguments) -> String {
    // No text of the run may end the element that holds it.
    let data = data(timeline, report, arguments).to_string().replace('<', "\\u003c");
    PAGE.replacen(PLACE, &data, 1)
}

fn data(timeline: &Timeline, report: &Report, arguments: &Arguments) -> Value {
    let us = |ns: u64| ns / 1_000;
    let marks = |marks: &Last<Mark>| -> Vec<Value> {
        marks.iter().map(|mark| json!([us(mark.at_ns), mark.lane, mark.name, mark.text])).collect()
    };
    let mut kinds: Vec<&str> = timeline.frames.iter().map(|frame| frame.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let kind_of = |kind: &str| kinds.binary_search(&kind).unwrap_or(0);
    let fate_of = |fate: Fate| FATES.iter().position(|other| *other == fate).unwrap_or(0);
    let frames = timeline.frames.iter().map(|frame| {
        let (kind, fate) = (kind_of(&frame.kind), fate_of(frame.fate));
        json!([us(frame.sent_ns), us(frame.end_ns), frame.from, frame.to, kind, fate])
    });
    let points = |points: &Last<(u64, usize, u64)>| -> Vec<Value> {
        points.iter().map(|(at_ns, lane, op)| json!([us(*at_ns), lane, op])).collect()
    };
    let spec = Spec::of(report.seed, arguments);
    let flags: String = spec.flags().iter().map(|flag| format!(" {flag}")).collect();
    let faults: u64 = report.faults.values().sum();
    // Of a run that ended in a panic the page knows more than its report.
    let crashes = timeline.life.iter().filter(|mark| mark.name == "crash").count() as u64
        + timeline.life.dropped;
    let commits = timeline.requests.iter().filter(|asked| asked.answered).count() as u64;
    let (crashes, commits) = (report.crashes.max(crashes), report.commits.max(commits));
    let failure = report
        .failure
        .as_ref()
        .map(|failure| failure.to_string().chars().take(WORDS_MAX).collect::<String>());
    let mut facts = format!(
        "{commits} requests answered, {crashes} crashes, {:.3} s of virtual time",
        timeline.end_ns as f64 / 1e9,
    );
    match report.failure.as_ref().map(|failure| failure.kind) {
        // Nobody came to count faults and hash the trace.
        Some(FailureKind::Panic) => facts.push_str("; a panic ended it"),
        Some(_) | None => {
            facts.push_str(&format!(", {faults} faults, trace {}", &report.trace_hash_hex()[..16]));
        }
    }
    json!({
        "title": format!("vopr --seed {}{flags}", report.seed),
        "facts": facts,
        "held": report.damage_detected.as_ref().map_or_else(
            || "The run held.".to_owned(),
            |damage| format!("The run held: damage was detected ({damage})."),
        ),
        "failure": failure,
        "crashes": crashes,
        "lanes": timeline.lanes,
        "end_us": us(timeline.end_ns),
        "kinds": kinds,
        "fates": FATES.map(Fate::name),
        "life": marks(&timeline.life),
        "faults": marks(&timeline.faults),
        "events": marks(&timeline.events),
        "standings": timeline.standings.iter().map(|(at_ns, lane, standing)| {
            json!([us(*at_ns), lane, standing.role.name(), standing.view])
        }).collect::<Vec<_>>(),
        "applied": points(&timeline.applied),
        "checkpoints": points(&timeline.checkpoints),
        "messages": frames.collect::<Vec<_>>(),
        "requests": timeline.requests.iter().map(|asked| json!([
            us(asked.from_ns), us(asked.end_ns), asked.row, asked.lane, asked.answered, asked.text
        ])).collect::<Vec<_>>(),
        "cuts": timeline.cuts.iter().map(|span| {
            json!([us(span.from_ns), us(span.end_ns), span.lane, span.to])
        }).collect::<Vec<_>>(),
        "isolations": timeline.isolations.iter().map(|span| {
            json!([us(span.from_ns), us(span.end_ns), span.lane])
        }).collect::<Vec<_>>(),
        "notes": timeline.notes.iter().map(|(at_ns, text)| json!([us(*at_ns), text]))
            .collect::<Vec<_>>(),
        "dropped": dropped(timeline),
    })
}

/// What is not on the page, in words.
fn dropped(timeline: &Timeline) -> Vec<String> {
    let counts = [
        ("births and deaths", timeline.life.dropped),
        ("changes of role", timeline.standings.dropped),
        ("applied ops", timeline.applied.dropped),
        ("checkpoints", timeline.checkpoints.dropped),
        ("faults", timeline.faults.dropped),
        ("events", timeline.events.dropped),
        ("messages", timeline.frames.dropped),
        ("requests", timeline.requests.dropped),
        ("cuts", timeline.cuts.dropped),
        ("isolations", timeline.isolations.dropped),
        ("notes", timeline.notes.dropped),
    ];
    let counts = counts.into_iter().filter(|(_, count)| *count > 0);
    counts.map(|(name, count)| format!("{count} earlier {name}")).collect()
}
