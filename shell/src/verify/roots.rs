//! The logs of a directory against a signed head: are they the very ones that were signed for?
//!
//! The head of the cluster log is given, believed by the reader's policy. The system's log on disk
//! must come to that root at that size. It holds, as records, the heads of all other logs; the last
//! of each before the signed size says to which root that tenant's log must come. So whoever holds
//! every key of the directory, but not those of the policy's quorum, can change no record up to
//! there. Where nothing has changed the state since, the state at the checkpoint, recomputed from
//! its pages, must have the state root that was signed for.
//!
//! Invariant: memory is bounded by the number of tenants, and by what changes rarely in each log:
//! keys, generations, schema versions. Fault model: every file is the operator's own making.

use std::collections::BTreeMap;

use verity_core::crypto::ChainHash;
use verity_core::ids::{Position, TenantId};
use verity_core::kernel::{Payload, RecordsSeen};
use verity_core::keyring::Keyring;
use verity_core::log::{RecordKind, RecordView, SegmentEnd, open_record};
use verity_core::proof::{SignedHeads, TenantHead};

use super::Report;

/// What was signed for, of all logs. Empty without a signed head.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    signed: bool,
    /// Records of the system's log that are signed for.
    size: u64,
    heads: BTreeMap<TenantId, Vec<Point>>,
    /// State roots that were signed for: of the state after so many records.
    states: BTreeMap<TenantId, Point>,
    /// Those of them that the checkpoint's state must have, as nothing has changed since.
    pub unchanged: Vec<Unchanged>,
    /// A tenant's head that the reader's file shows.
    shown: Option<(TenantId, TenantHead)>,
    /// A head of a tenant stands in the system's log and cannot be read.
    sealed: bool,
    /// The system's log is not the one that was signed for: what it says of others is nothing.
    refuted: bool,
}

/// A state whose root was signed for, and how its rows were committed to.
#[derive(Debug)]
pub(crate) struct Unchanged {
    pub tenant: TenantId,
    pub root: ChainHash,
    pub seen: RecordsSeen,
}

/// A log must have this root at this size.
#[derive(Clone, Copy, Debug)]
struct Point {
    size: u64,
    root: ChainHash,
}

/// The points of one log, while it passes by.
#[derive(Debug)]
pub(crate) struct Points {
    wanted: Vec<Point>,
    /// Whether each of `wanted` was met, as far as it was reached.
    met: Vec<Option<bool>>,
    /// Records up to the last one that changed the state.
    changed: u64,
    seen: RecordsSeen,
}

impl Roots {
    pub fn new(signed: Option<&SignedHeads>) -> Roots {
        let Some(signed) = signed else { return Roots::default() };
        let seen = signed.seen.map(|seen| Point { size: seen.size, root: seen.root });
        let mut system: Vec<Point> = seen.filter(|point| point.size > 0).into_iter().collect();
        system.push(Point { size: signed.size, root: signed.root });
        let heads = BTreeMap::from([(TenantId::SYSTEM, system)]);
        let shown = signed.tenant;
        let mut roots = Roots { signed: true, size: signed.size, heads, shown, ..Roots::default() };
        if let Some((tenant, head)) = shown {
            roots.hold(tenant, head.size, head.root, head.state);
        }
        roots
    }

    fn hold(&mut self, tenant: TenantId, size: u64, root: ChainHash, state: ChainHash) {
        self.heads.insert(tenant, vec![Point { size, root }]);
        self.states.insert(tenant, Point { size, root: state });
    }

    /// Only what the reader's file itself shows is left.
    pub fn refute(&mut self) {
        self.refuted = true;
        self.heads.retain(|tenant, _| *tenant == TenantId::SYSTEM);
        self.states.clear();
        if let Some((tenant, head)) = self.shown {
            self.hold(tenant, head.size, head.root, head.state);
        }
    }

    pub fn points(&self, tenant: TenantId) -> Points {
        let wanted = self.heads.get(&tenant).cloned().unwrap_or_default();
        let seen = RecordsSeen::default();
        Points { met: vec![None; wanted.len()], wanted, changed: 0, seen }
    }

    /// Takes the heads of other logs from the records of the system's.
    pub fn note(&mut self, view: &RecordView<'_>, keyring: Option<&Keyring>) {
        let metadata = &view.record.metadata;
        let kinds = [RecordKind::HeadAttested, RecordKind::CheckpointRecord];
        if !kinds.contains(&metadata.kind)
            || metadata.tenant != TenantId::SYSTEM
            || metadata.position.get() >= self.size
        {
            return;
        }
        let keys = keyring.and_then(|keyring| keyring.tenant_key(metadata.tenant, metadata.key));
        let plain = keys.and_then(|keys| {
            open_record(&keys.record(metadata.generation), metadata, view.record.data).ok()
        });
        match plain.as_ref().map(|plain| Payload::decode(metadata.kind, plain)) {
            Some(Ok((Payload::HeadAttested { tenant, head }, _))) => {
                self.hold(tenant, head.size, head.root, head.state);
            }
            Some(Ok((Payload::Checkpoint(claim), _))) => {
                if let Some(state) = claim.state_root {
                    let size = state.position.get() + 1;
                    self.states.insert(TenantId::SYSTEM, Point { size, root: state.root });
                }
            }
            Some(Ok(_) | Err(_)) | None => self.sealed = true,
        }
    }

    /// The verdict on a log that ends at `end`; `whole`: as far as the checkpoint says.
    pub fn judge(
        &mut self,
        tenant: TenantId,
        points: &Points,
        end: Position,
        whole: bool,
        report: &mut Report,
    ) {
        if !self.signed {
            return;
        }
        let Some(last) = points.wanted.last() else {
            if self.refuted {
                report.note("signed", format!("tenant {tenant}: what was signed for is not known"));
            } else if self.sealed {
                report.unknown(
                    "signed",
                    format!(
                        "tenant {tenant}: what was signed for of its log is sealed: give the \
                         master key, or a proof of that tenant's as head"
                    ),
                );
            } else {
                report.note("signed", format!("tenant {tenant}: newer than the signed head"));
            }
            return;
        };
        for (point, met) in points.wanted.iter().zip(&points.met) {
            let size = point.size;
            match met {
                Some(true) => {}
                Some(false) => report.damage(
                    "signed",
                    format!(
                        "tenant {tenant}: the first {size} records are not those that were signed \
                         for"
                    ),
                ),
                // What was applied since the checkpoint is in no segment for certain.
                None if whole && report.prepares > 0 => report.unknown(
                    "signed",
                    format!(
                        "tenant {tenant}: {size} records were signed for, the checkpoint has \
                         {end}; the rest may be in the journal: open and close the database, then \
                         look again"
                    ),
                ),
                None => report.damage(
                    "signed",
                    format!(
                        "tenant {tenant}: {size} records were signed for, there are {end}: the \
                         directory is older than the head, or was cut"
                    ),
                ),
            }
        }
        let met = points.met.iter().all(|met| *met == Some(true));
        if !met && tenant == TenantId::SYSTEM {
            self.refute();
        }
        if met {
            report.signed.push((tenant, last.size));
            match self.states.get(&tenant) {
                Some(state) if points.changed <= state.size => {
                    let (root, seen) = (state.root, points.seen.clone());
                    self.unchanged.push(Unchanged { tenant, root, seen });
                }
                Some(_) => report.note(
                    "signed",
                    format!("tenant {tenant}: its state has changed since the signed head"),
                ),
                None => {}
            }
            if end.get() > last.size {
                let newer = end.get() - last.size;
                report.note(
                    "signed",
                    format!("tenant {tenant}: {newer} records are newer than the signed head"),
                );
            }
        }
    }

    /// Logs that were signed for and are not there at all.
    pub fn judge_absent(&mut self, there: impl Iterator<Item = TenantId>, report: &mut Report) {
        let there: Vec<TenantId> = there.collect();
        let absent: Vec<TenantId> =
            self.heads.keys().copied().filter(|tenant| !there.contains(tenant)).collect();
        for tenant in absent {
            let points = self.points(tenant);
            self.judge(tenant, &points, Position::ZERO, true, report);
        }
    }
}

impl Points {
    /// A record passes by: the tree before it is that of a size.
    pub fn pass(&mut self, view: &RecordView<'_>) {
        let size = view.record.metadata.position.get();
        self.seen.pass(&view.record.metadata);
        if view.record.metadata.kind != RecordKind::CheckpointRecord {
            self.changed = size + 1;
        }
        for (point, met) in self.wanted.iter().zip(&mut self.met) {
            if point.size == size {
                *met = Some(view.frontier.root() == point.root);
            }
        }
    }

    pub fn at_end(&mut self, end: &SegmentEnd) {
        for (point, met) in self.wanted.iter().zip(&mut self.met) {
            if point.size == end.next.get() {
                *met = Some(end.frontier.root() == point.root);
            }
        }
    }
}
