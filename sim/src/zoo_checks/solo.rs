//! Checks of a whole node, one request after the other.

use std::fmt::Display;

use verity_core::ids::{IdempotencyId, PrincipalId, ReplicaId, TenantId};
use verity_core::io::FileId;
use verity_core::kernel::{Operation, Reply, Request, RequestError};
use verity_core::limits::ClusterConstants;
use verity_core::node::{CURRENT_RELEASE, FormatOptions};
use verity_core::query::{SqlState, Value};
use verity_core::time::SECOND_NS;

use crate::atlas::Atlas;
use crate::disk::{Disk, DiskFaults, Keep};
use crate::keys::MasterKey;
use crate::random::Random;
use crate::replica::BootOptions;
use crate::solo::Solo;

pub(super) const TENANT: TenantId = TenantId::new(1);

/// A node on a disk without faults, with a table `t` of id, name.
pub(super) struct Rig {
    pub solo: Solo,
    options: BootOptions,
    serial: u32,
}

impl Rig {
    pub(super) fn new(options: BootOptions) -> Result<Rig, String> {
        let random = Random::new(1);
        let disk = Disk::new(random.stream("disk"), DiskFaults::NONE, Atlas::peaceful());
        let mut solo = Solo::new(disk, MasterKey::new(random.stream("master key")));
        let options_of_format = FormatOptions {
            cluster: None,
            replica: ReplicaId::ZERO,
            replica_count: 1,
            release: CURRENT_RELEASE,
            // One segment is enough for every check.
            constants: ClusterConstants { segment_positions: 100_000, ..ClusterConstants::SMALL },
        };
        solo.format(options_of_format, [1; 32]).map_err(text)?;
        let mut rig = Rig { solo, options, serial: 0 };
        rig.open()?;
        rig.write("CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT)")?;
        Ok(rig)
    }

    pub(super) fn open(&mut self) -> Result<(), String> {
        self.serial += 1;
        self.solo.open(self.options, [self.serial as u8; 32]).map_err(text)
    }

    /// From the next `open` on, no page stays in memory longer than it must.
    pub(super) fn evict_everything(&mut self) {
        self.options = COLD;
    }

    /// A request of one statement, with an id that is good for ten seconds.
    pub(super) fn request(&mut self, sql: &str) -> Request {
        self.serial += 1;
        let mut id = [0; 10];
        id[..4].copy_from_slice(&self.serial.to_le_bytes());
        let not_after_ms = (self.solo.wall.0 + 10 * SECOND_NS) / 1_000_000;
        Request {
            tenant: TENANT,
            principal: PrincipalId::new(1),
            idempotency: IdempotencyId::new(not_after_ms, id),
            after: None,
            operations: vec![Operation::Sql { text: sql.to_owned(), params: Vec::new() }],
        }
    }

    pub(super) fn send(
        &mut self,
        request: &Request,
    ) -> Result<Result<Reply, RequestError>, String> {
        self.solo.request(request.clone()).map_err(text)
    }

    pub(super) fn write(&mut self, sql: &str) -> Result<Reply, String> {
        let request = self.request(sql);
        self.send(&request)?.map_err(text)
    }

    /// As `write`, but what is under way in the background stays under way.
    pub(super) fn acknowledge(&mut self, sql: &str) -> Result<(), String> {
        let request = self.request(sql);
        let ticket = self.solo.send(request);
        while self.solo.reply(ticket).is_none() {
            if !self.solo.step() {
                return Err("a request waits for nothing".to_owned());
            }
            if let Some(halt) = self.solo.halted() {
                return Err(halt.to_string());
            }
        }
        match self.solo.reply(ticket) {
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    pub(super) fn count(&mut self) -> Result<i64, String> {
        let (_, rows) = self.solo.query(TENANT, "SELECT COUNT(*) FROM t", Vec::new())?;
        match rows.first().and_then(|row| row.first()) {
            Some(Value::Integer(count)) => Ok(*count),
            other => Err(format!("COUNT(*) is {other:?}")),
        }
    }
}

pub(super) fn text(error: impl Display) -> String {
    error.to_string()
}

const WARM: BootOptions = BootOptions::new(1_024, false);
const COLD: BootOptions = BootOptions::new(256, true);

pub(super) fn warm() -> Result<Rig, String> {
    Rig::new(WARM)
}

/// Two checkpoints and some ops after the second; then the superblock of the first comes back. What
/// the ring holds after the second proves that it did.
pub(super) fn old_superblock() -> Result<(), String> {
    let mut rig = warm()?;
    rig.solo.shutdown().map_err(text)?;
    let old: Vec<_> = rig.solo.disk.sectors_of(FileId::Superblock).collect();
    rig.open()?;
    rig.write("INSERT INTO t VALUES (1, 'one')")?;
    rig.solo.shutdown().map_err(text)?;
    rig.open()?;
    rig.write("INSERT INTO t VALUES (2, 'two')")?;
    rig.solo.crash(Keep::Nothing);
    let new = rig.solo.disk.contents(FileId::Superblock);
    for (number, sector) in old {
        rig.solo.disk.put((FileId::Superblock, number), sector);
    }
    if rig.solo.disk.contents(FileId::Superblock) == new {
        return Err("the superblock never changed: this check sees nothing".to_owned());
    }
    match rig.open() {
        Err(refusal) if refusal.contains("superblock") => Ok(()),
        Err(other) => Err(format!("refused, but not for the superblock: {other}")),
        Ok(()) => Err("the superblock of an earlier checkpoint was accepted".to_owned()),
    }
}

/// An answered request is sent again after its id's time is over and others were forgotten.
pub(super) fn idempotency_kept() -> Result<(), String> {
    let mut rig = warm()?;
    let first = rig.request("INSERT INTO t VALUES (1, 'one')");
    let answered = rig.send(&first)?.map_err(text)?;
    rig.solo.wall.0 += 600 * SECOND_NS;
    for id in 2..12 {
        rig.write(&format!("INSERT INTO t VALUES ({id}, 'more')"))?;
    }
    let again = rig.send(&first)?.map_err(|error| format!("an answer is forgotten: {error}"))?;
    if !again.replayed || (again.position, again.op) != (answered.position, answered.op) {
        return Err(format!("answered with {answered:?}, and again with {again:?}"));
    }
    Ok(())
}

/// Duplicates against state that must first be read from the disk.
pub(super) fn cold_duplicates() -> Result<(), String> {
    const ROWS: i64 = 240;
    let mut rig = Rig::new(COLD)?;
    let name = "n".repeat(100);
    let mut requests = Vec::new();
    for first in (0..ROWS).step_by(8) {
        let rows: Vec<String> = (first..first + 8).map(|id| format!("({id}, '{name}')")).collect();
        let request = rig.request(&format!("INSERT INTO t VALUES {}", rows.join(", ")));
        let reply = rig.send(&request)?.map_err(text)?;
        requests.push((request, reply));
    }
    rig.solo.shutdown().map_err(text)?;
    rig.open()?;
    // First what changes nothing: a page that was changed stays in memory.
    for (request, reply) in &requests {
        let again = rig.send(request)?.map_err(text)?;
        if !again.replayed || again.position != reply.position {
            return Err(format!("answered with {reply:?}, and again with {again:?}"));
        }
    }
    for id in [0, ROWS / 2, ROWS - 1] {
        let taken = rig.request(&format!("INSERT INTO t VALUES ({id}, 'other')"));
        match rig.send(&taken)? {
            Err(RequestError::Sql(error)) if error.code == SqlState::UniqueViolation => {}
            other => return Err(format!("key {id} is taken, and the answer is {other:?}")),
        }
    }
    match rig.count()? {
        ROWS => Ok(()),
        other => Err(format!("{other} rows of {ROWS}")),
    }
}

/// A table is made, then an index over pages that must be read: somebody asks at every turn.
pub(super) fn tables_amid() -> Result<(), String> {
    const TABLES: &str = "SELECT name FROM __tables";
    let mut rig = Rig::new(COLD)?;
    let name = "n".repeat(400);
    for first in (0..120).step_by(8) {
        let rows: Vec<String> = (first..first + 8).map(|id| format!("({id}, '{name}')")).collect();
        rig.write(&format!("INSERT INTO t VALUES {}", rows.join(", ")))?;
    }
    rig.solo.shutdown().map_err(text)?;
    rig.open()?;
    let before = rig.solo.query(TENANT, TABLES, Vec::new())?;
    let mut request = rig.request("CREATE TABLE u (id BIGINT PRIMARY KEY)");
    let index = "CREATE INDEX t_name ON t (name)".to_owned();
    request.operations.push(Operation::Sql { text: index, params: Vec::new() });
    let ticket = rig.solo.send(request);
    let mut turns = 0;
    while rig.solo.reply(ticket).is_none() {
        let answer = rig.solo.query(TENANT, TABLES, Vec::new())?;
        if answer != before {
            return Err(format!("turn {turns}: {answer:?}, not {before:?}"));
        }
        if !rig.solo.step() {
            return Err("a request waits for nothing".to_owned());
        }
        turns += 1;
    }
    match rig.solo.reply(ticket) {
        Some(Ok(_)) if turns > 5 => {}
        other => return Err(format!("after {turns} turns: {other:?}")),
    }
    let (_, tables) = rig.solo.query(TENANT, TABLES, Vec::new())?;
    if tables.len() == 2 { Ok(()) } else { Err(format!("whole, it made {tables:?}")) }
}
