//! A server that answers by a script, for tests of the client.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use verity_core::ids::{ClusterId, ReplicaId};
use verity_core::limits::FRAME_PAYLOAD_SIZE_MAX;
use verity_core::node::CURRENT_RELEASE;
use verity_core::wire::hello::{Hello, Role};

use crate::net::frames::payload;
use crate::net::handshake;
use crate::net::payload::{Answer, Ask, Asked};

pub enum Step {
    Answer(Answer),
    Pause(Duration),
    HangUp,
}

pub struct Fake {
    pub address: String,
    heard: Arc<Mutex<Vec<Ask>>>,
}

impl Fake {
    /// What is done about the n-th request, counted over all connections.
    pub fn start(script: impl Fn(usize, &Ask) -> Vec<Step> + Send + 'static) -> Fake {
        Fake::start_as(0, 1, script)
    }

    /// The same, as one replica of so many.
    pub fn start_as(
        replica: u8,
        replica_count: u8,
        script: impl Fn(usize, &Ask) -> Vec<Step> + Send + 'static,
    ) -> Fake {
        let me = Hello {
            role: Role::Replica,
            from: Some(ReplicaId::new(replica)),
            replica_count,
            cluster: ClusterId::new(7),
            ..Hello::of_client(CURRENT_RELEASE)
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard = Arc::<Mutex<Vec<Ask>>>::default();
        let hears = Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(&stream.unwrap(), &me, &script, &hears);
            }
        });
        Fake { address, heard }
    }

    pub fn heard(&self) -> Vec<Ask> {
        self.heard.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: &TcpStream,
    me: &Hello,
    script: &impl Fn(usize, &Ask) -> Vec<Step>,
    heard: &Mutex<Vec<Ask>>,
) {
    let Ok((_, mut reader)) = handshake::welcome(stream, me, |_| true) else { return };
    reader.allow(FRAME_PAYLOAD_SIZE_MAX);
    stream.set_read_timeout(None).unwrap();
    loop {
        let Ok(frame) = reader.next(&mut stream) else { return };
        let Asked { id, ask } = Asked::decode(payload(frame)).unwrap();
        if let Ask::Taken(_) | Ask::Cancel = ask {
            continue;
        }
        let mut all = heard.lock().unwrap();
        all.push(ask.clone());
        let number = all.len() - 1;
        drop(all);
        for step in script(number, &ask) {
            match step {
                Step::Answer(answer) => {
                    if stream.write_all(&answer.encode(id).unwrap()).is_err() {
                        return;
                    }
                }
                Step::Pause(time) => std::thread::sleep(time),
                Step::HangUp => return,
            }
        }
    }
}
