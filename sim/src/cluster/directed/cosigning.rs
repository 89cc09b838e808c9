//! Directed runs of a cluster in which somebody wants proof.

use verity_core::time::{MILLISECOND_NS, SECOND_NS};
use verity_core::vsr::message::{Message, Payload};

use super::{NODES, Scene, TABLE};
use crate::cluster::readers::Promise;
use crate::cluster::{CLUSTER, Cluster, Packet};
use crate::report::{Failure, FailureKind};
use crate::workload::Workload;

/// Proofs between which the log grows.
const PROOFS: u64 = 12;
const PROOFS_DOUBLED: u64 = 20;
const ATTEST_AFTER_NS: u64 = 100 * MILLISECOND_NS;

/// Proofs of a log that grows, with all nodes, without one, and of another leader. A head is asked
/// for as soon as who leads has applied it: the others have not.
pub(crate) fn cosigned() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        for _ in 0..PROOFS {
            scene.write()?;
            scene.prove()?;
        }
        let who = scene.follower();
        scene.cluster.send_away(who)?;
        scene.write()?;
        scene.prove()?;
        scene.cluster.call_back();
        scene.cluster.drive(Cluster::converged)?;
        let primary = scene.primary(|_| true)?;
        scene.cluster.send_away(primary)?;
        scene.write()?;
        scene.prove()?;
        scene.cluster.call_back();
        scene.end_of_proofs(PROOFS + 2, &[])
    })
}

/// Who leads asks for the head that was signed last, again and again, while newer ones are
/// attested: its peers must not go on to sign it with the time of now.
pub(crate) fn cosigned_superseded() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::new()?;
        scene.cluster.attest_after_ns = Some(ATTEST_AFTER_NS);
        for index in 0..NODES {
            scene.cluster.crash(index)?;
        }
        scene.cluster.drive(Cluster::converged)?;
        scene.write()?;
        scene.want_proof();
        scene.cluster.drive(|cluster| cluster.question().is_some())?;
        let question = scene.cluster.question();
        scene.cluster.drive(|cluster| cluster.readers.asked.is_empty())?;
        scene.pass(SECOND_NS)?;
        let Some((from, to, frame)) = question else { unreachable!("it was there") };
        // Of the newest head it is answered, however often it is asked.
        let signed = scene.cluster.seen.cosignatures;
        scene.cluster.post(from, to, frame.clone());
        scene.pass(SECOND_NS)?;
        let again = scene.cluster.seen.cosignatures;
        scene.write()?;
        scene.pass(3 * SECOND_NS)?;
        let before = scene.cluster.seen.cosignatures;
        scene.cluster.post(from, to, frame);
        scene.pass(SECOND_NS)?;
        if again == signed || scene.cluster.seen.cosignatures > before {
            let detail = format!("{signed} cosignatures, {again}, {before}, and one more");
            return Err(Failure::new(FailureKind::Wrong, detail));
        }
        scene.end(&["CosignatureRefused"])
    })
}

/// Five nodes, of which three must sign, over a network that brings everything twice, and one
/// question for a cosignature again and again just after newer heads are signed.
pub(crate) fn cosigned_doubled() -> Result<(), String> {
    Scene::play(|| {
        let mut scene = Scene::among(5, &[])?;
        scene.cluster.net.duplicate_ppm = 1_000_000;
        scene.cluster.net.delay_ns_mean = 2 * MILLISECOND_NS;
        scene.write()?;
        scene.want_proof();
        scene.cluster.drive(|cluster| cluster.question().is_some())?;
        let late = scene.cluster.question();
        for _ in 0..PROOFS_DOUBLED {
            scene.prove()?;
            // Not long after: later its head is one that nobody signs any more.
            if let Some((from, to, frame)) = &late {
                scene.cluster.post(*from, *to, frame.clone());
            }
            scene.write()?;
        }
        scene.end_of_proofs(PROOFS_DOUBLED, &["CosignatureRefused"])
    })
}

impl Cluster {
    /// A question for a cosignature that is on its way.
    fn question(&self) -> Option<(usize, usize, Vec<u8>)> {
        self.packets.values().find_map(|(from, to, packet)| {
            let Packet::Frame(frame) = packet else { return None };
            let message = Message::decode(frame, CLUSTER, self.members.len() as u8).ok()?;
            let asks = matches!(message.payload, Payload::RequestCosignature { .. });
            asks.then(|| (*from, *to, frame.clone()))
        })
    }
}

impl Scene {
    /// Somebody asks until there is a proof of all that is there.
    fn prove(&mut self) -> Result<(), Failure> {
        self.want_proof();
        self.cluster.drive(|cluster| cluster.readers.asked.is_empty())
    }

    fn want_proof(&mut self) {
        let Some(spec) = self.cluster.ledger.model.spec(TABLE).cloned() else {
            unreachable!("the scene begins with it")
        };
        self.cluster.want_rows(Promise::Proved, Workload::whole(&spec, None), &spec, None);
    }

    fn end_of_proofs(mut self, proofs: u64, marks: &[&str]) -> Result<(), Failure> {
        // So that a checkpoint brings heads to disks: all but perhaps the last.
        self.write_mib(1)?;
        self.cluster.drive(Cluster::converged)?;
        self.cluster.compare_heads()?;
        let seen = &self.cluster.seen;
        if seen.proofs < proofs || seen.cosignatures < proofs || seen.heads_compared + 1 < proofs {
            let detail = format!(
                "{} proofs, {} cosignatures, {} heads compared: this scene shows little",
                seen.proofs, seen.cosignatures, seen.heads_compared
            );
            return Err(Failure::new(FailureKind::Budget, detail));
        }
        self.end(marks)
    }
}
