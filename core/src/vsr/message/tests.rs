//! What nodes say to each other beside consensus: round trips, and what cannot be is refused by
//! name.

use alloc::vec;
use alloc::vec::Vec;

use zerocopy::FromZeros;

use super::*;
use crate::crypto::KekHash;
use crate::crypto::hash::ChainHash;
use crate::crypto::signature::SigningKey;
use crate::ids::PageNumber;
use crate::limits::KEY_ENTRY_SIZE;
use crate::superblock::tests::first_state;
use crate::wire::replica::encode;

const CLUSTER: ClusterId = ClusterId::new(7);

fn offer_state() -> SuperblockState {
    let mut state = SuperblockState { grid: GridId::new(3), ..first_state() };
    let checkpoint = &mut state.checkpoint;
    checkpoint.op = Op::new(40);
    checkpoint.grid_pages = 9;
    checkpoint.system_forest.root.page = PageNumber::new(8);
    checkpoint.free_set.root.page = PageNumber::new(1);
    checkpoint.free_set.pages = 1;
    state
}

fn sent(payload: Payload) -> Payload {
    let (from, view, release) = (ReplicaId::new(1), View::new(2), Release::new(1));
    let frame = Message { from, view, release, payload }.encode(CLUSTER);
    Message::decode(&frame, CLUSTER, 3).unwrap().payload
}

#[test]
fn what_nodes_ask_and_answer_comes_back_as_it_was() {
    let state = offer_state();
    match sent(Payload::Checkpoint(Box::new(Offer::of(&state)))) {
        Payload::Checkpoint(offer) => {
            assert_eq!((offer.checkpoint, offer.grid), (state.checkpoint, state.grid));
            assert_eq!(*offer, Offer::of(&state));
        }
        other => panic!("{other:?}"),
    }
    let name = |page, op| PageName { page: PageNumber::new(page), checkpoint_op: Op::new(op) };
    match sent(Payload::RequestPages { serial: 5, pages: vec![name(3, 40), name(4, 39)] }) {
        Payload::RequestPages { serial: 5, pages } => {
            assert_eq!(pages, [name(3, 40), name(4, 39)]);
        }
        other => panic!("{other:?}"),
    }
    let mut page = Page::new_zeroed();
    page.0[17] = 9;
    let checkpoint_durable = Op::new(44);
    let pages = vec![(name(3, 40), page)];
    match sent(Payload::Pages { serial: 5, checkpoint_durable, pages }) {
        Payload::Pages { serial: 5, checkpoint_durable: durable, pages } => {
            assert_eq!((durable, pages.len()), (checkpoint_durable, 1));
            assert_eq!((pages[0].0, pages[0].1.0[17]), (name(3, 40), 9));
        }
        other => panic!("{other:?}"),
    }
    let place = BlockPlace { tenant: TenantId::new(1), segment: SegmentNumber::new(2), block: 3 };
    let request = Payload::RequestBlocks { serial: 6, checkpoint: Op::new(40), place, count: 64 };
    match sent(request) {
        Payload::RequestBlocks { serial: 6, checkpoint, place: asked, count: 64 } => {
            assert_eq!((checkpoint, asked), (Op::new(40), place));
        }
        other => panic!("{other:?}"),
    }
    match sent(Payload::Blocks { serial: 6, checkpoint_durable, blocks: vec![7; PAGE_SIZE] }) {
        Payload::Blocks { serial: 6, blocks, .. } => assert_eq!(blocks, vec![7; PAGE_SIZE]),
        other => panic!("{other:?}"),
    }
    let keys = KeysName { tenant: TenantId::new(5), kek_hash: KekHash([6; 32]) };
    let body = vec![7; 2 * KEY_ENTRY_SIZE];
    match sent(Payload::KeepKeys { keys, entries: body.clone() }) {
        Payload::KeepKeys { keys: named, entries } => assert_eq!((named, &entries), (keys, &body)),
        other => panic!("{other:?}"),
    }
    match sent(Payload::Keys { keys, entries: body.clone() }) {
        Payload::Keys { keys: named, entries } => assert_eq!((named, entries), (keys, body)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(sent(Payload::KeysKept(keys)), Payload::KeysKept(named) if named == keys));
    assert!(
        matches!(sent(Payload::RequestKeys(keys)), Payload::RequestKeys(named) if named == keys)
    );
    let head = HeadName { size: 7, root: ChainHash([4; 32]) };
    match sent(Payload::RequestCosignature { head, op: Op::new(9) }) {
        Payload::RequestCosignature { head: named, op } => {
            assert_eq!((named, op), (head, Op::new(9)));
        }
        other => panic!("{other:?}"),
    }
    let cosignature = Cosignature::new("a head", &SigningKey::new(&[3; 32]), 1_795_000_000);
    match sent(Payload::Cosignature { head, cosignature }) {
        Payload::Cosignature { head: named, cosignature: found } => {
            assert_eq!((named, found), (head, cosignature));
            assert!(found.verifies("a head") && !found.verifies("another"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let refused = |kind: Kind, numbers: &[u64], body: &[u8]| {
        let mut all = [0; NUMBERS];
        all[..numbers.len()].copy_from_slice(numbers);
        let frame = encode(&ReplicaMessage {
            kind,
            from: ReplicaId::new(1),
            cluster: CLUSTER,
            view: View::new(2),
            release: Release::new(1),
            hash: InternalHash::ZERO,
            numbers: all,
            body,
        });
        match Message::decode(&frame, CLUSTER, 3) {
            Err(MessageError::Value { kind: of, what }) if of == kind => what,
            other => panic!("{other:?}"),
        }
    };
    let offered = |change: &dyn Fn(&mut SuperblockState)| {
        let mut state = offer_state();
        change(&mut state);
        refused(Kind::Checkpoint, &[], &encode_checkpoint(&state))
    };
    let none = "a checkpoint without pages";
    assert_eq!(offered(&|state| state.checkpoint.op = Op::ZERO), none);
    assert_eq!(offered(&|state| state.checkpoint.free_set.root.page = PageNumber::ZERO), none);
    let past = "a root past the end of the grid";
    assert_eq!(offered(&|state| state.checkpoint.grid_pages = 8), past);
    assert_eq!(offered(&|state| state.checkpoint.free_set.pages = 9), past);
    let odd = "journal offset is not a multiple of 4096";
    assert_eq!(offered(&|state| state.checkpoint.journal_offset = 7), odd);
    let mut bytes = encode_checkpoint(&offer_state());
    bytes[76] = 1; // behind the page of the forest's root
    assert_eq!(refused(Kind::Checkpoint, &[], &bytes), "reserved bytes are not zero");
    assert_eq!(refused(Kind::RequestPages, &[1], &[0; 16]), "no such page");
    let mut name = [0; 16];
    (name[0], name[5]) = (1, 1);
    assert_eq!(refused(Kind::RequestPages, &[1], &name), "no such page");
    let page: Vec<u8> = vec![0; 16 + PAGE_SIZE];
    assert_eq!(refused(Kind::Pages, &[1, 2], &page), "no such page");
    let blocks = |segment, block, count| {
        refused(Kind::RequestBlocks, &[1, 2, 1, segment, block, count], &[])
    };
    assert_eq!(blocks(1 << 32, 0, 1), "no such segment");
    assert_eq!(blocks(0, 0, 0), "no such blocks");
    assert_eq!(blocks(0, 0, 65), "no such blocks");
    assert_eq!(blocks(0, u64::MAX, 1), "no such blocks");
}
