//! Clients of a few registers, and what they saw: rows of a table that are read, written and
//! compared and set, each value written once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use verity::{Client, ClientOptions, Error, IdempotencyId, Reply, Value};
use verity_linear::Operation;
use verity_linear::models::RegisterOp;

use super::Random;
use crate::cluster::processes::Cluster;

pub const REGISTERS: u64 = 6;
/// Longer than a failover, shorter than a cluster without a quorum: there must be outcomes that
/// nobody knows.
const DEADLINE: Duration = Duration::from_secs(3);

const WRITE: &str = "INSERT INTO registers (id, v) VALUES (?, ?) \
                     ON CONFLICT (id) DO UPDATE SET v = excluded.v";
const CAS: &str = "UPDATE registers SET v = ? WHERE id = ? AND v = ?";
const READ: &str = "SELECT v FROM registers WHERE id = ?";

pub struct Clients {
    threads: Vec<JoinHandle<Seen>>,
    stop: Arc<AtomicBool>,
    begun: Instant,
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    history: Vec<Operation<(u64, RegisterOp)>>,
    /// Places in the history whose outcome nobody told.
    unknown: Vec<(usize, IdempotencyId)>,
    refused: BTreeMap<String, u64>,
}

/// What all of them saw.
pub struct Recorded {
    pub history: Vec<Operation<(u64, RegisterOp)>>,
    /// Refusals, by SQLSTATE: nothing of them happened.
    pub refused: BTreeMap<String, u64>,
    /// Writes whose outcome was not known, and is by their ids.
    pub told_later: usize,
}

impl Clients {
    pub fn start(cluster: &Cluster, count: u64, seed: u64, anywhere: bool) -> Clients {
        let (stop, begun) = (Arc::<AtomicBool>::default(), Instant::now());
        let threads = (0..count)
            .map(|number| {
                let options = ClientOptions::new().deadline(DEADLINE);
                let client = options.connect(cluster.addresses()).unwrap();
                let reader = match anywhere {
                    false => client.clone(),
                    true => {
                        let addresses = cluster.addresses();
                        let one = &addresses[number as usize % addresses.len()];
                        options.connect([one]).unwrap().read_anywhere()
                    }
                };
                let random = Random::new(seed.wrapping_mul(1_000_003) + number + 1);
                let one = One { client, reader, random, begun, next: (number + 1) << 40 };
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || one.run(&stop))
            })
            .collect();
        Clients { threads, stop, begun }
    }

    /// Ends them, asks what became of what they do not know, and reads every register once more.
    pub fn finish(mut self, client: &Client) -> Recorded {
        self.stop.store(true, Ordering::SeqCst);
        let mut recorded =
            Recorded { history: Vec::new(), refused: BTreeMap::new(), told_later: 0 };
        for thread in std::mem::take(&mut self.threads) {
            let mut seen = thread.join().unwrap();
            let mut never = Vec::new();
            for (at, id) in seen.unknown {
                let Some(found) = client.commitment(id).unwrap() else { continue };
                recorded.told_later += 1;
                let operation = &mut seen.history[at];
                operation.returned = Some(now(self.begun));
                match found.outcome.result {
                    Ok(results) => {
                        let rows = results.iter().map(|result| result.rows_affected).sum();
                        operation.op.1 = told(&operation.op.1, rows);
                    }
                    Err(_) => never.push(at),
                }
            }
            for at in never.into_iter().rev() {
                seen.history.remove(at);
            }
            recorded.history.append(&mut seen.history);
            for (state, count) in seen.refused {
                *recorded.refused.entry(state).or_default() += count;
            }
        }
        for register in 0..REGISTERS {
            let invoked = now(self.begun);
            let found = read(client, register).unwrap();
            let returned = Some(now(self.begun));
            let op = (register, RegisterOp::Read(found));
            recorded.history.push(Operation { invoked, returned, op });
        }
        recorded
    }
}

impl Drop for Clients {
    /// As of [`Writers`](crate::cluster::writers::Writers).
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _the_test_failed_already = thread.join();
        }
    }
}

fn now(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).unwrap()
}

fn integer(number: u64) -> Value {
    Value::Integer(i64::try_from(number).unwrap())
}

fn read(client: &Client, register: u64) -> Result<Option<i64>, Error> {
    let rows = client.query(READ, &[integer(register)])?.rows;
    Ok(rows.first().map(|row| match row[0] {
        Value::Integer(value) => value,
        ref other => panic!("{other:?}"),
    }))
}

/// What it was, of which it is known now how many rows it changed.
fn told(asked: &RegisterOp, rows: u64) -> RegisterOp {
    match asked {
        RegisterOp::Cas { from, .. } if rows == 0 => RegisterOp::CasRefused { from: *from },
        other => {
            assert_eq!(rows, 1, "{other:?}");
            other.clone()
        }
    }
}

/// One client.
struct One {
    client: Client,
    reader: Client,
    random: Random,
    begun: Instant,
    /// The next value that it writes.
    next: u64,
}

impl One {
    fn run(mut self, stop: &AtomicBool) -> Seen {
        let mut seen = Seen::default();
        let mut last: BTreeMap<u64, i64> = BTreeMap::new();
        while !stop.load(Ordering::SeqCst) {
            let register = self.random.below(REGISTERS);
            let what = self.random.below(10);
            let refused = match (what, last.get(&register).copied()) {
                (0..4, _) => {
                    let invoked = now(self.begun);
                    match read(&self.reader, register) {
                        Ok(found) => {
                            let returned = Some(now(self.begun));
                            let op = (register, RegisterOp::Read(found));
                            seen.history.push(Operation { invoked, returned, op });
                            last.extend(found.map(|found| (register, found)));
                            None
                        }
                        Err(error) => Some(error),
                    }
                }
                (7.., Some(from)) => {
                    let to = self.value();
                    let params = [Value::Integer(to), integer(register), Value::Integer(from)];
                    let cas = (register, RegisterOp::Cas { from, to });
                    self.write(&mut seen, cas, CAS, &params)
                }
                _ => {
                    let to = self.value();
                    let params = [integer(register), Value::Integer(to)];
                    self.write(&mut seen, (register, RegisterOp::Write(to)), WRITE, &params)
                }
            };
            if let Some(error) = refused {
                *seen.refused.entry(error.sqlstate().to_string()).or_default() += 1;
            }
            std::thread::sleep(Duration::from_micros(self.random.below(8_000)));
        }
        seen
    }

    fn value(&mut self) -> i64 {
        self.next += 1;
        i64::try_from(self.next).unwrap()
    }

    /// The refusal, if it was refused: nothing happened.
    fn write(
        &self,
        seen: &mut Seen,
        op: (u64, RegisterOp),
        sql: &str,
        params: &[Value],
    ) -> Option<Error> {
        let id = self.client.new_id().unwrap();
        let invoked = now(self.begun);
        let sql = verity::Operation::Sql { text: sql.to_string(), params: params.to_vec() };
        let answer: Result<Reply, Error> = self.client.transaction_with_id(id, vec![sql]);
        let returned = now(self.begun);
        match answer {
            Ok(reply) => {
                let op = (op.0, told(&op.1, reply.rows_affected()));
                seen.history.push(Operation { invoked, returned: Some(returned), op });
            }
            Err(Error::OutcomeUnknown { .. }) => {
                seen.unknown.push((seen.history.len(), id));
                seen.history.push(Operation { invoked, returned: None, op });
            }
            Err(error) => return Some(error),
        }
        None
    }
}

impl Recorded {
    /// Whose fate nobody told in the end.
    pub fn unknown(&self) -> usize {
        self.history.iter().filter(|operation| operation.returned.is_none()).count()
    }

    /// The longest time in which no operation was answered.
    pub fn longest_stall(&self) -> Duration {
        let mut ends: Vec<u64> = self.history.iter().filter_map(|one| one.returned).collect();
        ends.sort_unstable();
        let longest = ends.windows(2).map(|two| two[1] - two[0]).max();
        Duration::from_nanos(longest.unwrap_or(0))
    }
}

/// One operation a line: register, invoked, returned, what.
impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Operation { invoked, returned, op: (register, op) } in &self.history {
            writeln!(f, "{register}\t{invoked}\t{returned:?}\t{op:?}")?;
        }
        Ok(())
    }
}
