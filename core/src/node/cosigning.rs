//! Heads of the cluster log are cosigned: by this replica, and for its proofs by f others
//! (`docs/PROOFS.md`, "Making one").
//!
//! Purpose: the cluster's own signature says only which cluster; that somebody stands behind a head
//! is said by replicas, each with a key that never leaves it. Invariants: a replica cosigns only
//! what it applied (an attestation that was the newest here a moment ago) and what continues the
//! last head that it cosigned, and only once its superblock holds the head; of a peer one signature
//! counts, and only if it verifies; one key counts once. A head that another has superseded for
//! long is not signed again: a cosigner's time says that the head was the newest just now.
//!
//! Fault model: messages come late, twice, never, or from a replica whose disk was replaced (its
//! key is new). Damage of the log ends the question; a head that does not continue the last one is
//! never signed.
//!
//! Start reading at [`Running::signed`] (who makes proofs), [`Running::cosign`] (who signs).

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::crypto::merkle::{consistency_proof, verify_consistency};
use crate::crypto::note::{Checkpoint, Cosignature, KeyKind, Verifier};
use crate::crypto::signature::{SigningKey, VerifyingKey};
use crate::event::Event;
use crate::ids::{Op, ReplicaId, TenantId};
use crate::io::{Effect, Effects, IoId, KeyError, KeyPurpose, SecretKey};
use crate::kernel::{Attestation, ProveStop};
use crate::limits::{
    COSIGN_FRESH_NS, COSIGN_PATIENCE_NS, COSIGN_SAY_NS, COSIGNED_NOTES_MAX, SUPERSEDED_HEADS_MAX,
};
use crate::log::{LogFault, LogPins};
use crate::node::format::own;
use crate::node::proofs::ProofError;
use crate::node::running::{Running, SuperblockUse};
use crate::store::Pins;
use crate::superblock::SuperblockState;
use crate::time::{Clock, Instant, SECOND_NS};
use crate::vsr::message::{HeadName, Payload};

const UNWRAP_SLOT: u64 = 2;

/// What a node knows of cosignatures.
#[derive(Debug, Default)]
pub(super) struct Cosigning {
    key: Option<SigningKey>,
    unwrapping: bool,
    key_error: Option<KeyError>,
    /// The newest question of each peer.
    asked: BTreeMap<ReplicaId, Asked>,
    /// The newest head that was applied, and those before it, each with the time at which the next
    /// one was applied.
    newest: Option<HeadName>,
    superseded: VecDeque<(HeadName, Instant)>,
    collecting: Option<Collecting>,
    /// Keys with which peers have cosigned.
    known: BTreeMap<ReplicaId, VerifyingKey>,
    /// The newest notes, for all proofs of their states.
    notes: VecDeque<Signed>,
}

/// What the check of a head holds of trees and logs.
#[derive(Debug, Default)]
struct Held {
    pins: Pins,
    log_pins: LogPins,
}

#[derive(Debug)]
struct Asked {
    head: HeadName,
    op: Op,
    at: Instant,
    held: Held,
}

/// A head whose cosignatures are on their way.
#[derive(Debug)]
struct Collecting {
    of: Attestation,
    since: Instant,
    said_at: Option<Instant>,
    own: Option<Cosignature>,
    of_peers: BTreeMap<ReplicaId, Cosignature>,
    held: Held,
    /// It was waited for long enough.
    late: bool,
    failed: Option<ProofError>,
}

impl Collecting {
    fn count(&self) -> usize {
        usize::from(self.own.is_some()) + self.of_peers.len()
    }
}

/// A head that enough have signed, once for all proofs of its state.
#[derive(Clone, Debug)]
pub(super) struct Signed {
    of: Attestation,
    at: Instant,
    pub note: String,
}

/// Why a head is not cosigned now.
enum Unsigned {
    Wait,
    Failed(ProofError),
}

impl From<ProofError> for Unsigned {
    fn from(error: ProofError) -> Unsigned {
        Unsigned::Failed(error)
    }
}

impl Running {
    /// The note of an attestation under which something was proved at `since`; `None`: not yet.
    pub(super) fn signed(
        &mut self,
        now: Clock,
        of: &Attestation,
        since: Instant,
        effects: &mut Effects,
    ) -> Result<Option<Signed>, ProofError> {
        // A cosigner says when it saw the head: what was said long ago is asked for again.
        let fresh = |at: Instant| since.since_ns(at) <= COSIGN_FRESH_NS;
        let found = |notes: &VecDeque<Signed>| {
            notes.iter().rev().find(|note| note.of == *of && fresh(note.at)).cloned()
        };
        if let Some(signed) = found(&self.cosigning.notes) {
            return Ok(Some(signed));
        }
        let collecting = self.cosigning.collecting.as_ref();
        let busy = collecting.is_some_and(|other| {
            other.of != *of && now.monotonic.since_ns(other.since) < COSIGN_PATIENCE_NS
        });
        if busy {
            return Ok(None);
        }
        if collecting.is_none_or(|other| other.of != *of) {
            self.end_collecting();
            self.cosigning.collecting = Some(Collecting {
                of: *of,
                since: now.monotonic,
                said_at: None,
                own: None,
                of_peers: BTreeMap::new(),
                held: Held::default(),
                late: false,
                failed: None,
            });
        }
        self.collect(now, effects);
        if let Some(signed) = found(&self.cosigning.notes) {
            return Ok(Some(signed));
        }
        let needed = self.cosigners_needed();
        let Some(collecting) = &mut self.cosigning.collecting else {
            unreachable!("it ends with a note")
        };
        let too_few = ProofError::TooFewCosigners { cosigners: collecting.count(), needed };
        let failed = collecting.failed.take().or(collecting.late.then_some(too_few));
        match failed {
            None => Ok(None),
            Some(error) => {
                self.end_collecting();
                Err(error)
            }
        }
    }

    /// After the work of a turn: signs what a peer has asked for, and asks peers.
    pub(super) fn drive_cosigning(&mut self, now: Clock, effects: &mut Effects) {
        self.cosign_for_peers(now, effects);
        self.collect(now, effects);
    }

    /// When peers are asked again, or are not waited for any longer.
    pub(super) fn cosigning_due(&self) -> Option<Instant> {
        let collecting = self.cosigning.collecting.as_ref()?;
        // What it came to is for whoever waits for it.
        if collecting.late || collecting.failed.is_some() {
            return None;
        }
        let end = collecting.since.plus_ns(COSIGN_PATIENCE_NS);
        let next = collecting.said_at.map_or(end, |at| at.plus_ns(COSIGN_SAY_NS));
        Some(next.min(end))
    }

    pub(super) fn on_cosigner(&mut self, io: IoId, key: Result<SecretKey, KeyError>) {
        assert_eq!(io.slot, UNWRAP_SLOT);
        self.cosigning.unwrapping = false;
        match key {
            Ok(key) => self.cosigning.key = Some(SigningKey::new(&key.0)),
            Err(error) => self.cosigning.key_error = Some(error),
        }
    }

    pub(super) fn on_request_cosignature(
        &mut self,
        now: Clock,
        from: ReplicaId,
        head: HeadName,
        op: Op,
    ) {
        let held = match self.cosigning.asked.remove(&from) {
            // Asked again while the answer is made.
            Some(before) if before.head == head => before.held,
            // A copy of an older question.
            Some(before) if before.op > op => {
                self.cosigning.asked.insert(from, before);
                return;
            }
            Some(before) => {
                self.give_back(before.held);
                Held::default()
            }
            None => Held::default(),
        };
        self.cosigning.asked.insert(from, Asked { head, op, at: now.monotonic, held });
    }

    pub(super) fn on_cosignature(
        &mut self,
        from: ReplicaId,
        head: HeadName,
        cosignature: Cosignature,
        effects: &mut Effects,
    ) {
        let state = self.superblock_state();
        let cosigning = &mut self.cosigning;
        let collecting = cosigning.collecting.as_mut().filter(|it| head_of(&it.of) == head);
        // One that comes late has a key that is worth knowing.
        let late = cosigning.notes.iter().any(|note| head_of(&note.of) == head);
        if from == state.replica || !(late || collecting.is_some()) {
            return;
        }
        let own_key = cosigning.key.as_ref().map(SigningKey::verifying_key);
        let others = cosigning.known.iter().filter(|(peer, _)| **peer != from);
        let is_taken = own_key == Some(cosignature.key)
            || others.into_iter().any(|(_, key)| *key == cosignature.key);
        if is_taken || !cosignature.verifies(&checkpoint(&state, head).text()) {
            effects.event(Event::CosignatureRefused { replica: from });
            return;
        }
        let Some(collecting) = collecting else {
            cosigning.known.entry(from).or_insert(cosignature.key);
            return;
        };
        // A copy that comes late says less.
        let newer = collecting.of_peers.get(&from).filter(|it| it.time_s > cosignature.time_s);
        if newer.is_some() {
            return;
        }
        cosigning.known.insert(from, cosignature.key);
        #[cfg(verity_zoo)]
        if collecting.of_peers.contains_key(&from) && crate::zoo::is("cosigner_counts_twice") {
            collecting.of_peers.insert(ReplicaId::new(u8::MAX), cosignature);
        }
        collecting.of_peers.insert(from, cosignature);
    }

    fn cosign_for_peers(&mut self, now: Clock, effects: &mut Effects) {
        for (from, asked) in core::mem::take(&mut self.cosigning.asked) {
            self.cosign_for(from, asked, now, effects);
        }
    }

    fn cosign_for(&mut self, from: ReplicaId, mut asked: Asked, now: Clock, effects: &mut Effects) {
        let applied = self.kernel.attestation().is_some_and(|last| last.op >= asked.op);
        #[cfg(verity_zoo)]
        let applied = applied || crate::zoo::is("cosigns_unapplied");
        let answer = if applied {
            self.cosign(now, asked.head, &mut asked.held, effects)
        } else {
            Err(Unsigned::Wait)
        };
        match answer {
            Ok(cosignature) => {
                let head = asked.head;
                self.vsr.say(from, Payload::Cosignature { head, cosignature });
            }
            Err(Unsigned::Wait) if now.monotonic.since_ns(asked.at) < COSIGN_PATIENCE_NS => {
                self.cosigning.asked.insert(from, asked);
                return;
            }
            Err(Unsigned::Wait) => {}
            Err(Unsigned::Failed(_)) => {
                effects.event(Event::CosignatureRefused { replica: from });
            }
        }
        self.give_back(asked.held);
    }

    /// Own signature and those of peers, until there are enough for a note.
    fn collect(&mut self, now: Clock, effects: &mut Effects) {
        let needed = self.cosigners_needed();
        let Some(mut collecting) = self.cosigning.collecting.take() else { return };
        if collecting.own.is_none() && collecting.failed.is_none() {
            let head = head_of(&collecting.of);
            match self.cosign(now, head, &mut collecting.held, effects) {
                Ok(cosignature) => collecting.own = Some(cosignature),
                Err(Unsigned::Wait) => {}
                Err(Unsigned::Failed(error)) => collecting.failed = Some(error),
            }
        }
        let elapsed = now.monotonic.since_ns(collecting.since);
        // Once, so that the first policy names all who are there.
        let others = self.superblock_state().replica_count - 1;
        let waits_for_all = self.cosigning.notes.is_empty()
            && collecting.of_peers.len() < usize::from(others)
            && elapsed < COSIGN_SAY_NS;
        if collecting.own.is_some() && collecting.count() >= needed && !waits_for_all {
            let signed = self.note_of(&collecting, now);
            self.cosigning.notes.push_back(signed);
            if self.cosigning.notes.len() > COSIGNED_NOTES_MAX {
                self.cosigning.notes.pop_front();
            }
            self.give_back(collecting.held);
            return;
        }
        if elapsed >= COSIGN_PATIENCE_NS {
            collecting.late = true;
            // Whoever waited for it may be gone.
            self.give_back(core::mem::take(&mut collecting.held));
        }
        let due = collecting.said_at.is_none_or(|at| now.monotonic.since_ns(at) >= COSIGN_SAY_NS);
        if needed > 1 && due && !collecting.late && collecting.failed.is_none() {
            collecting.said_at = Some(now.monotonic);
            let (head, op) = (head_of(&collecting.of), collecting.of.op);
            for peer in self.peers() {
                if !collecting.of_peers.contains_key(&peer) {
                    self.vsr.say(peer, Payload::RequestCosignature { head, op });
                }
            }
        }
        self.cosigning.collecting = Some(collecting);
    }

    /// This replica's cosignature of a head.
    fn cosign(
        &mut self,
        now: Clock,
        head: HeadName,
        held: &mut Held,
        effects: &mut Effects,
    ) -> Result<Cosignature, Unsigned> {
        if let Some(error) = self.cosigning.key_error {
            return Err(ProofError::Key(error).into());
        }
        let state = self.superblock_state();
        if self.cosigning.key.is_none() {
            if !self.cosigning.unwrapping {
                self.cosigning.unwrapping = true;
                let (io, purpose) = (own(UNWRAP_SLOT), KeyPurpose::Cosigning);
                effects.push(Effect::Unwrap { io, purpose, key: state.signing_key });
            }
            return Err(Unsigned::Wait);
        }
        let last = HeadName { size: state.cosigned.size, root: state.cosigned.hash };
        self.may_be_newest(now, head)?;
        if last != head {
            self.may_cosign(last, head, held, effects)?;
            #[cfg(verity_zoo)]
            if crate::zoo::is("cosigned_late") {
                return Ok(self.cosignature(now, &state, head));
            }
            // Persisted first: a replica that forgets what it signed could sign a fork.
            if self.superblock_use == SuperblockUse::Idle {
                let mut next = state;
                next.cosigned.size = head.size;
                next.cosigned.hash = head.root;
                self.superblock.update(next, effects);
                self.superblock_use = SuperblockUse::Cosigned;
            }
            return Err(Unsigned::Wait);
        }
        if self.superblock_use == SuperblockUse::Cosigned {
            return Err(Unsigned::Wait);
        }
        Ok(self.cosignature(now, &state, head))
    }

    fn cosignature(&self, now: Clock, state: &SuperblockState, head: HeadName) -> Cosignature {
        let Some(key) = &self.cosigning.key else { unreachable!("asked for before") };
        // A clock that was set back does not make a head older than what is in it.
        let newest = self.kernel.attestation().map_or(0, |newest| newest.timestamp.0);
        let time_s = now.wall.0.max(newest) / SECOND_NS;
        Cosignature::new(&checkpoint(state, head).text(), key, time_s)
    }

    /// Was it the newest one here a moment ago?
    fn may_be_newest(&mut self, now: Clock, head: HeadName) -> Result<(), Unsigned> {
        #[cfg(verity_zoo)]
        if crate::zoo::is("cosigns_unapplied") || crate::zoo::is("cosigns_superseded") {
            return Ok(());
        }
        self.note_head(now);
        let cosigning = &self.cosigning;
        let Some(newest) = cosigning.newest else { return Err(Unsigned::Wait) };
        let fresh = |at: Instant| now.monotonic.since_ns(at) <= COSIGN_FRESH_NS;
        let mut before = cosigning.superseded.iter();
        if newest == head || before.any(|(known, until)| *known == head && fresh(*until)) {
            return Ok(());
        }
        Err(ProofError::Superseded { size: head.size, newest: newest.size }.into())
    }

    /// After an op was applied: it may have been an attestation.
    pub(super) fn note_head(&mut self, now: Clock) {
        let newest = self.kernel.attestation().map(head_of);
        let cosigning = &mut self.cosigning;
        if newest == cosigning.newest {
            return;
        }
        if let Some(before) = core::mem::replace(&mut cosigning.newest, newest) {
            cosigning.superseded.push_back((before, now.monotonic));
        }
        if cosigning.superseded.len() > SUPERSEDED_HEADS_MAX {
            cosigning.superseded.pop_front();
        }
    }

    /// Does the head continue the last one?
    fn may_cosign(
        &mut self,
        last: HeadName,
        head: HeadName,
        held: &mut Held,
        effects: &mut Effects,
    ) -> Result<(), Unsigned> {
        match self.store.ready(&held.pins) {
            Ok(true) if self.logs.fetched(&held.log_pins) => {}
            Ok(_) => return Err(Unsigned::Wait),
            Err(error) => return Err(ProofError::Store(error).into()),
        }
        match self.continues(last, head) {
            Ok(()) => Ok(()),
            Err(Discontinued::Fork) => {
                Err(ProofError::Fork { cosigned: last.size, size: head.size }.into())
            }
            Err(Discontinued::Stop(ProveStop::Fault | ProveStop::LogFault)) => {
                self.logs.fetch(&mut held.log_pins, effects);
                self.store.fetch(&mut held.pins, effects);
                Err(Unsigned::Wait)
            }
            Err(Discontinued::Stop(stop)) => Err(ProofError::Prove(stop).into()),
        }
    }

    /// Is one head of this replica's own log continued by the other?
    fn continues(&self, old: HeadName, new: HeadName) -> Result<(), Discontinued> {
        if old.size == 0 || old == new {
            return Ok(());
        }
        if old.size >= new.size {
            #[cfg(verity_zoo)]
            if crate::zoo::is("cosigns_older") {
                return Ok(());
            }
            return Err(Discontinued::Fork);
        }
        let system = TenantId::SYSTEM;
        let head = self
            .kernel
            .log_head(&self.store, &self.logs, system)
            .map_err(|stop| Discontinued::Stop(stop.into()))?;
        let proof = consistency_proof(old.size, new.size, |level, at| {
            self.logs.node(system, &head, level, at)
        });
        let proof = match proof {
            Ok(proof) => proof,
            Err(LogFault::NoSuchPosition { .. }) => return Err(Discontinued::Fork),
            // Damage says nothing about what was cosigned.
            Err(fault @ (LogFault::Missing | LogFault::Damaged(_))) => {
                return Err(Discontinued::Stop(fault.into()));
            }
        };
        verify_consistency(old.size, new.size, &old.root, &new.root, &proof)
            .map_err(|_| Discontinued::Fork)
    }

    /// The head of the cluster log with its signatures, and whom to believe.
    fn note_of(&self, collecting: &Collecting, now: Clock) -> Signed {
        let state = self.superblock_state();
        let Some(keys) = self.keyring.tenant(TenantId::SYSTEM) else {
            unreachable!("the system's keys are there as long as the node runs")
        };
        let Some(own) = collecting.own else { unreachable!("its own is the first") };
        let head = checkpoint(&state, head_of(&collecting.of));
        let log_key = keys.cluster_signing();
        let mut note = format!("{}\n{}", head.text(), head.sign(&log_key));
        let mut lines = collecting.of_peers.clone();
        lines.insert(state.replica, own);
        for (replica, cosignature) in &lines {
            note += &cosignature.line(&cosigner_name(&state, *replica));
        }
        Signed { of: collecting.of, at: now.monotonic, note }
    }

    /// C2SP `tlog-policy` of those whose keys are known here.
    pub(super) fn cosigners_policy(&self) -> String {
        let state = self.superblock_state();
        let (Some(keys), Some(own)) = (self.keyring.tenant(TenantId::SYSTEM), &self.cosigning.key)
        else {
            unreachable!("both have signed")
        };
        let log = keys.cluster_signing().verifying_key();
        let log = Verifier::new(&origin(&state), KeyKind::Log, log);
        let mut known = self.cosigning.known.clone();
        known.insert(state.replica, own.verifying_key());
        policy_text(&state, &log, &known, self.cosigners_needed())
    }

    /// f + 1.
    fn cosigners_needed(&self) -> usize {
        usize::from(self.superblock_state().replica_count).div_ceil(2)
    }

    fn end_collecting(&mut self) {
        if let Some(collecting) = self.cosigning.collecting.take() {
            self.give_back(collecting.held);
        }
    }

    fn give_back(&mut self, mut held: Held) {
        self.store.unpin(&mut held.pins);
        self.logs.release(&mut held.log_pins);
    }
}

/// Why one head is not seen to be continued by another.
enum Discontinued {
    Fork,
    Stop(ProveStop),
}

fn head_of(attestation: &Attestation) -> HeadName {
    HeadName { size: attestation.size, root: attestation.root }
}

fn checkpoint(state: &SuperblockState, head: HeadName) -> Checkpoint {
    Checkpoint { origin: origin(state), size: head.size, root: head.root }
}

/// Names the history: of a cluster that is restored, or recovered by force, it must be another. No
/// command does either yet.
fn origin(state: &SuperblockState) -> String {
    format!("verity/{:032x}/{:032x}", state.cluster.get(), state.origin.get())
}

fn cosigner_name(state: &SuperblockState, replica: ReplicaId) -> String {
    format!("{}/replica-{replica}", origin(state))
}

/// `needed` of the replicas whose keys are known.
fn policy_text(
    state: &SuperblockState,
    log: &Verifier,
    known: &BTreeMap<ReplicaId, VerifyingKey>,
    needed: usize,
) -> String {
    let mut text = format!("log {log}\n");
    let mut names = Vec::new();
    for (replica, key) in known {
        let verifier = Verifier::new(&cosigner_name(state, *replica), KeyKind::Cosigner, *key);
        let name = format!("replica-{replica}");
        text += &format!("witness {name} {verifier}\n");
        names.push(name);
    }
    let all = (0..state.replica_count).map(ReplicaId::new);
    for replica in all.filter(|replica| !known.contains_key(replica)) {
        text += &format!("# replica-{replica} has not cosigned yet: its key is not known here\n");
    }
    if let ([name], 1) = (names.as_slice(), needed) {
        return text + &format!("quorum {name}\n");
    }
    text + &format!("group replicas {needed} {}\nquorum replicas\n", names.join(" "))
}
