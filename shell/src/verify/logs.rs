//! Every block of every log, streamed through the core's segment verifier.

use std::fs::File;

use verity_core::ids::{Op, OriginId, SegmentNumber, TenantId};
use verity_core::io::{Address, FileId, IoError};
use verity_core::keyring::Keyring;
use verity_core::limits::PAGE_SIZE;
use verity_core::log::{
    Beyond, CheckpointRecord, Damage, DamageReason, IndexCheck, IndexOf, LogEdge, LogHead,
    Metadata, RecordKind, RecordView, SegmentEnd, SegmentExtent, SegmentStart, SegmentVerifier,
    open_record, page_is_good,
};
use verity_core::superblock::SuperblockState;

use super::roots::{Points, Roots};
use super::{CheckedLog, Finding, Heads, Progress, Report, Severity, Silent, segment_name};
use crate::disk::paths;
use crate::offline::{Offline, read_or_zeros};

/// Bytes read at a time.
const CHUNK: usize = 64 * PAGE_SIZE;

/// All logs up to their checkpointed heads.
pub fn check_all(
    files: &mut Offline,
    state: &SuperblockState,
    heads: &Heads,
    keyring: Option<&Keyring>,
    roots: &mut Roots,
    report: &mut Report,
    progress: &mut dyn Progress,
) {
    // The system's comes first: it says what was signed for of the others.
    for (tenant, head) in heads {
        let bytes = log_bytes(files, *tenant, head.segment);
        progress.part(&format!("log of tenant {tenant}"), bytes);
        let mut log = Checked::new(*tenant, roots);
        log.indexes = Some((state.origin, state.constants.segment_positions));
        if log.run(files, Some(head), keyring, roots, report, progress) {
            roots.judge(*tenant, &log.points, log.end.next, true, report);
            report.logs.push(log.finish());
        } else if *tenant == TenantId::SYSTEM {
            roots.refute();
        }
        check_indexes(files, state.origin, *tenant, head, report);
    }
    roots.judge_absent(heads.iter().map(|(tenant, _)| *tenant), report);
}

/// Segments that no head names: made after the checkpoint, or no part of these logs at all. With
/// `newest`, the journal's newest op, also whether replay writes them again. Gives the tenants of
/// which the checkpoint knows no log, and whose log may follow it.
pub fn check_strays(
    files: &mut Offline,
    checkpoint: Op,
    heads: &Heads,
    newest: Option<Op>,
    report: &mut Report,
) -> Vec<TenantId> {
    let mut new = Vec::new();
    for (tenant, number) in paths::segments(files.root()).unwrap_or_default() {
        let head = heads.iter().find(|(other, _)| *other == tenant).map(|(_, head)| head);
        if head.is_some_and(|head| number <= head.segment) {
            continue;
        }
        let name = segment_name(tenant, number);
        let mut first = None;
        let start = SegmentStart { tenant, number, before: None };
        let read = stream(files, start, SegmentExtent::Unknown, &mut Silent, |view| {
            first = Some(view.record.metadata.op);
            // One record is enough.
            Err(DamageReason::Head)
        });
        if let Err(StreamError::Unreadable { error, .. }) = read {
            report.unknown("log", files.why(FileId::Segment { tenant, number }, error));
            continue;
        }
        let what = match (first, newest) {
            (None, _) => "holds no whole record: its process stopped before it wrote one, or it \
                          belongs elsewhere. Nothing counts on it"
                .to_string(),
            (Some(op), _) if op <= checkpoint => format!(
                "is no part of these logs: it begins with a record of op {op}, and the checkpoint \
                 of op {checkpoint} does not know it. Nothing reads it"
            ),
            (Some(op), Some(newest)) if op <= newest => {
                format!("is newer than the checkpoint: it begins with op {op}, which is replayed")
            }
            (Some(op), Some(newest)) => format!(
                "begins with a record of op {op}; the journal ends at op {newest} and does not \
                 replay it"
            ),
            (Some(op), None) => format!(
                "is newer than the checkpoint: it begins with op {op}. Whether the journal replays \
                 that is not known"
            ),
        };
        if first.is_some_and(|op| op > checkpoint) && head.is_none() && number.get() == 0 {
            new.push(tenant);
        }
        report.note("log", format!("{name} {what}"));
    }
    new
}

/// Does a log hold what neither checkpoint nor journal does? A record is written to its log only
/// when its prepare is durable in the journal, and applied.
pub fn check_beyond(
    files: &mut Offline,
    heads: &[(TenantId, LogHead)],
    segment_positions: u64,
    newest: Op,
    report: &mut Report,
) {
    for (tenant, head) in heads {
        let edge = LogEdge::of(*tenant, head, segment_positions);
        let mut bytes = [0; 2 * PAGE_SIZE];
        // What cannot be read is told of by the check of the log itself.
        if files.read(edge.block(), &mut bytes).is_err() {
            continue;
        }
        let Some(first) = edge.beyond(&bytes) else { continue };
        let lost = if first.op > newest { Some(first) } else { walk_beyond(files, &edge, newest) };
        if let Some(lost) = lost {
            report.findings.push(Finding {
                severity: Severity::Damage,
                part: "log",
                place: Some((*tenant, lost.position)),
                what: lost.to_string(),
            });
        }
    }
}

/// The first record that is of an op behind `newest`, of those that follow the edge of a log.
fn walk_beyond(files: &mut Offline, edge: &LogEdge, newest: Op) -> Option<Beyond> {
    let (tenant, mut number) = (edge.tenant, edge.segment);
    let mut before = None;
    loop {
        let mut lost = None;
        let start = SegmentStart { tenant, number, before };
        let end = stream(files, start, SegmentExtent::Unknown, &mut Silent, |view| {
            let Metadata { position, op, .. } = view.record.metadata;
            if op > newest {
                lost = Some(Beyond { tenant, position, op });
                return Err(DamageReason::Head);
            }
            Ok(())
        });
        if lost.is_some() {
            return lost;
        }
        // Behind the last record is whatever a crash left.
        let end = end.ok()?;
        let next = SegmentNumber::new(number.get() + 1);
        files.size(FileId::Segment { tenant, number: next }).ok()??;
        (number, before) = (next, Some(end));
    }
}

/// All logs as far as they go: nothing says where they should end.
pub fn check_unbounded(
    files: &mut Offline,
    roots: &mut Roots,
    report: &mut Report,
    progress: &mut dyn Progress,
) {
    let segments = match paths::segments(files.root()) {
        Ok(segments) => segments,
        Err(error) => return report.unknown("log", format!("cannot be listed: {error}")),
    };
    let mut tenants: Vec<TenantId> = segments.iter().map(|(tenant, _)| *tenant).collect();
    tenants.dedup();
    for tenant in tenants.iter().copied() {
        let last = segments.iter().filter(|(other, _)| *other == tenant).map(|(_, n)| *n).max();
        let last = last.unwrap_or(SegmentNumber::ZERO);
        progress.part(&format!("log of tenant {tenant}"), log_bytes(files, tenant, last));
        let mut log = Checked::new(tenant, roots);
        let whole = log.run(files, None, None, roots, report, progress);
        roots.judge(tenant, &log.points, log.end.next, whole, report);
        let checked = log.finish();
        report.unknown(
            "log",
            format!(
                "tenant {tenant}: {} records are whole and chained; whether more belong to them \
                 cannot be told without the checkpoint",
                checked.records
            ),
        );
        report.logs.push(checked);
    }
    roots.judge_absent(tenants.iter().copied(), report);
}

pub fn log_bytes(files: &mut Offline, tenant: TenantId, last: SegmentNumber) -> u64 {
    let mut size = |number: u32| {
        files.size(FileId::Segment { tenant, number: SegmentNumber::new(number) }).ok().flatten()
    };
    (0..=last.get()).filter_map(&mut size).sum()
}

/// Why a segment was not read to its end.
pub enum StreamError {
    Unreadable { offset: u64, error: IoError },
    Damage(Damage),
}

/// Reads a segment through the core's verifier, which tells of each record.
pub fn stream(
    files: &mut Offline,
    start: SegmentStart,
    extent: SegmentExtent,
    progress: &mut dyn Progress,
    mut each: impl FnMut(&RecordView<'_>) -> Result<(), DamageReason>,
) -> Result<SegmentEnd, StreamError> {
    let file = FileId::Segment { tenant: start.tenant, number: start.number };
    let mut verifier = SegmentVerifier::new(start, extent);
    let size = files.size(file).map_err(|error| StreamError::Unreadable { offset: 0, error })?;
    let size = size.unwrap_or(0).next_multiple_of(PAGE_SIZE as u64);
    let mut chunk = vec![0; CHUNK];
    let mut offset = 0;
    while offset < size && !verifier.is_done() {
        let bytes = &mut chunk[..CHUNK.min(usize::try_from(size - offset).unwrap_or(CHUNK))];
        files
            .read(Address::new(file, offset), bytes)
            .map_err(|error| StreamError::Unreadable { offset, error })?;
        progress.bytes(bytes.len() as u64);
        offset += bytes.len() as u64;
        verifier.push(bytes, &mut each).map_err(StreamError::Damage)?;
    }
    verifier.finish().map_err(StreamError::Damage)
}

/// One log on its way through the verifier.
struct Checked {
    tenant: TenantId,
    /// What was signed for of it.
    points: Points,
    /// Origin of the directory and positions of a segment: indexes are held against the records.
    indexes: Option<(OriginId, u64)>,
    end: SegmentEnd,
    segments: u32,
    bytes: u64,
    checkpoint_records: u64,
}

impl Checked {
    fn new(tenant: TenantId, roots: &Roots) -> Checked {
        let (end, points) = (SegmentEnd::genesis(), roots.points(tenant));
        Checked { tenant, points, indexes: None, end, segments: 0, bytes: 0, checkpoint_records: 0 }
    }

    fn finish(self) -> CheckedLog {
        CheckedLog {
            tenant: self.tenant,
            records: self.end.next.get(),
            segments: self.segments,
            bytes: self.bytes,
            checkpoint_records: self.checkpoint_records,
            chain: hex(&self.end.chain.0),
            root: hex(&self.end.frontier.root().0),
        }
    }

    /// True when the log is what its head says, or has no head to say.
    fn run(
        &mut self,
        files: &mut Offline,
        head: Option<&LogHead>,
        keyring: Option<&Keyring>,
        roots: &mut Roots,
        report: &mut Report,
        progress: &mut dyn Progress,
    ) -> bool {
        let mut number = SegmentNumber::ZERO;
        loop {
            let more = match head {
                Some(head) => number <= head.segment && head.next > self.end.next,
                // One that cannot be looked at is told of.
                None => files.size(FileId::Segment { tenant: self.tenant, number }) != Ok(None),
            };
            if !more {
                break;
            }
            if !self.segment(files, number, head, keyring, roots, report, progress) {
                return false;
            }
            number = SegmentNumber::new(number.get() + 1);
        }
        self.points.at_end(&self.end);
        match head {
            Some(head) if !self.end.matches(head) => {
                report.findings.push(Finding {
                    severity: Severity::Damage,
                    part: "log",
                    place: Some((self.tenant, self.end.next)),
                    what: format!(
                        "tenant {}: the log ends at position {} with another chain hash or tree \
                         root than the checkpoint says",
                        self.tenant, self.end.next
                    ),
                });
                false
            }
            Some(_) | None => true,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a check reads, and what it tells")]
    fn segment(
        &mut self,
        files: &mut Offline,
        number: SegmentNumber,
        head: Option<&LogHead>,
        keyring: Option<&Keyring>,
        roots: &mut Roots,
        report: &mut Report,
        progress: &mut dyn Progress,
    ) -> bool {
        let tenant = self.tenant;
        let before = (number != SegmentNumber::ZERO).then(|| self.end.clone());
        let extent = match head {
            Some(head) => SegmentExtent::To(head.next),
            None => SegmentExtent::Unknown,
        };
        let start = SegmentStart { tenant, number, before };
        let mut claims = 0;
        let points = &mut self.points;
        let file = FileId::Index { tenant, number };
        let mut index = self.indexes.and_then(|(origin, positions)| {
            let of = IndexOf { origin, tenant, segment: number };
            // Of one that is missing or cannot be read, it is told elsewhere.
            let open = File::open(files.root().join(paths::relative(file))).ok()?;
            Some((IndexCheck::new(of, positions), open))
        });
        let streamed = stream(files, start, extent, progress, |view| {
            points.pass(view);
            if let Some((check, open)) = &mut index {
                check.record(view, &mut |page, bytes| {
                    let offset = u64::from(page) * PAGE_SIZE as u64;
                    read_or_zeros(open, offset, &mut bytes.0).is_ok()
                });
            }
            roots.note(view, keyring);
            check_claim(view, keyring, &mut claims)
        });
        self.checkpoint_records += claims;
        match streamed {
            Ok(end) => {
                let length = files.size(FileId::Segment { tenant, number });
                let length = length.ok().flatten().unwrap_or(end.size_bytes);
                if head.is_some() && length < end.size_bytes {
                    report.findings.push(Finding {
                        severity: Severity::Damage,
                        part: "log",
                        place: Some((tenant, end.next)),
                        what: format!(
                            "{} has {length} bytes of the {} that were written: all records are \
                             whole, zeros behind the last one were cut off; the next write to it \
                             puts them back",
                            segment_name(tenant, number),
                            end.size_bytes
                        ),
                    });
                }
                if let Some((count, first)) = index.and_then(|(check, _)| check.wrong()) {
                    report.note(
                        "index",
                        format!(
                            "{}: {count} record(s) are not where it says, or not there as it \
                             says, the first at position {first}; it is made anew from the segment \
                             when it is used",
                            paths::relative(file).display()
                        ),
                    );
                }
                self.segments += 1;
                self.bytes += end.size_bytes;
                self.end = end;
                true
            }
            Err(StreamError::Unreadable { offset, error }) => {
                let why = files.why(FileId::Segment { tenant, number }, error);
                report.unknown("log", format!("byte {offset}: {why}"));
                false
            }
            Err(StreamError::Damage(damage)) if damage.checkpointed => {
                report.findings.push(Finding {
                    severity: Severity::Damage,
                    part: "log",
                    place: Some((tenant, damage.position)),
                    what: damage.to_string(),
                });
                false
            }
            Err(StreamError::Damage(damage)) => {
                report.note("log", damage);
                false
            }
        }
    }
}

/// Opens checkpoint records and holds their claims against the log before them.
fn check_claim(
    view: &RecordView<'_>,
    keyring: Option<&Keyring>,
    claims: &mut u64,
) -> Result<(), DamageReason> {
    let metadata = &view.record.metadata;
    if metadata.kind != RecordKind::CheckpointRecord {
        return Ok(());
    }
    let keys = keyring.and_then(|keyring| keyring.tenant_key(metadata.tenant, metadata.key));
    let Some(keys) = keys else { return Ok(()) };
    let plain = open_record(&keys.record(metadata.generation), metadata, view.record.data);
    let Ok(plain) = plain else { return Err(DamageReason::CheckpointRecord) };
    let claim = CheckpointRecord::decode(&plain).map_err(|_| DamageReason::CheckpointRecord)?;
    view.claim_holds(&claim)?;
    *claims += 1;
    Ok(())
}

/// Index pages are derived; one that is bad is rebuilt when it is needed.
fn check_indexes(
    files: &mut Offline,
    origin: OriginId,
    tenant: TenantId,
    head: &LogHead,
    report: &mut Report,
) {
    for number in 0..=head.segment.get() {
        let segment = SegmentNumber::new(number);
        let file = FileId::Index { tenant, number: segment };
        let mut page = vec![0; PAGE_SIZE];
        let size = files.size(file);
        let first = files.read(Address::new(file, 0), &mut page);
        let size = match (size, first) {
            // Nobody can rebuild it either.
            (Err(error), _) | (_, Err(error @ IoError::ReadOnly)) => {
                report.unknown("index", files.why(file, error));
                continue;
            }
            (Ok(None), _) => {
                let name = paths::relative(file);
                let missing = format!("{} is missing; it is rebuilt when needed", name.display());
                report.note("index", missing);
                continue;
            }
            (Ok(Some(size)), _) => size,
        };
        let mut bad = 0;
        for index in 0..size.div_ceil(PAGE_SIZE as u64) {
            let at = Address::new(file, index * PAGE_SIZE as u64);
            let Ok(index) = u32::try_from(index) else { break };
            let unreadable = files.read(at, &mut page).is_err();
            let blank = page.iter().all(|byte| *byte == 0);
            let of = IndexOf { origin, tenant, segment };
            if unreadable || !(blank || page_is_good(of, index, &page)) {
                bad += 1;
            }
        }
        if bad > 0 {
            report.note(
                "index",
                format!(
                    "log/{tenant}/{number:08}.index: {bad} page(s) that are damaged or of another \
                     directory; it is made anew from the segment when it is used"
                ),
            );
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
