#!/usr/bin/env python3
"""A second verifier of exported logs, written from docs/PROOFS.md alone.

    verify_log.py POLICY FILE [TENANT]

Reads the file once, in the memory of one record. Exit code 0: these are all records of the tenant's
log (1, if none is named), up to the head that was signed for; 1: they are not, and the reason is
printed; 2: usage.
"""

import io, struct, sys

from verify import Node, Policy, Proof, Record, Refused, array, decode, hashes_of, need, opening_of
from verify import consistency_roots, option, sha, since_of, typed, uint
MAGIC, START_MAX, DATA_MAX = b"verity log 1\n", 1 << 20, 655_360
class Head(Proof):  # What a proof has between its answer and the note.
    def __init__(self, item, tenant):
        forest, heads, record, opening, inclusion, since = array(item, 6)
        self.forest, self.heads, self.head = Node(forest), Node(heads), Record(record)
        self.head_opening, self.head_inclusion = opening_of(opening), hashes_of(inclusion)
        self.since, self.query = option(since, since_of), type("Query", (), {"tenant": tenant})
def exactly(file, size):
    data = file.read(size)
    return need(len(data) == size, "the file ends early", data)
def head_of(policy, file):
    """The tenant, size, root and last hash of its log, and if that is the newest head of the note;
    of tenant 0 the last hash is not known."""
    need(exactly(file, len(MAGIC)) == MAGIC, "not an exported log")
    length = struct.unpack("<I", exactly(file, 4))[0]
    need(length <= START_MAX, "the start is too long")
    tenant, head, note = array(decode(exactly(file, length)), 3)
    size, root = Policy(policy).check(typed(str, note))
    need((uint(tenant) == 0) == (head is None), "a tenant's log has a head, the cluster's none")
    if head is None: return tenant, size, root, None, True
    head = Head(head, tenant)
    if head.since is not None:
        older, older_root, proof = head.since
        roots = 0 < older <= size and consistency_roots(older, size, proof, older_root)
        need(roots == (older_root, root) and not proof, "the log does not continue the older")
    log_size, log_root, _, chain = head.tenant_head(size, root)
    return tenant, log_size, log_root, chain, head.head.position + 1 == size
def verify(policy, file, wanted):
    tenant, size, root, chain, fresh = head_of(policy, file)
    need(tenant == wanted, "the log of another tenant")
    last, edge = bytes(32), []  # edge: roots of whole subtrees, with their sizes, from the left.
    before = None
    for position in range(size):
        meta = exactly(file, 138)
        at, of, op, generation, time, first, end = struct.unpack_from("<7Q", meta)
        length = struct.unpack_from("<I", meta, 134)[0]
        need(length <= DATA_MAX, "a record is too long")
        need((at, of) == (position, tenant), "another record stands here")
        need(first <= position <= end, "a record outside of its transaction")
        if before is None or position > before[1]:
            need(first == position, "a transaction begins elsewhere")
        else: need((first, end, op) == before[:3], "a transaction is not whole")
        falls = before and any(a > b for a, b in zip(before[2:], (op, generation, time)))
        need(not falls, "time goes back")
        before = first, end, op, generation, time
        last = sha(last, meta, exactly(file, length))
        edge.append((1, sha(b"\0", last)))
        while len(edge) > 1 and edge[-2][0] == edge[-1][0]:
            (width, left), (_, right) = edge[-2:]
            edge[-2:] = [(2 * width, sha(b"\1", left, right))]
    need(not file.read(1), "more follows than was signed for")
    found = sha() if not edge else edge.pop()[1]
    while edge: found = sha(b"\1", edge.pop()[1], found)
    need(found == root and chain in (None, last), "not the records that were signed for")
    need(before is None or before[1] + 1 == size, "the last transaction is not whole")
    return size, fresh
def main(args):
    tenant = int(args.pop()) if len(args) == 3 and args[2].isdecimal() else 1
    if len(args) != 2: return print(__doc__.strip(), file=sys.stderr) or 2
    with open(args[0], encoding="utf-8") as policy, open(args[1], "rb") as file:
        lines = policy.read()
        try: size, fresh = verify(lines, io.BufferedReader(file, 1 << 20), tenant)
        except Refused as reason: return print(f"refused: {reason}") or 1
    return print(f"valid{'' if fresh else ', not fresh'}: all {size} records of the log of tenant {tenant}") or 0
if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
