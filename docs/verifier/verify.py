#!/usr/bin/env python3
"""A second verifier of Verity proof files, written from docs/PROOFS.md alone.

    verify.py POLICY FILE [--query HEX]

Standard library, and the package `cryptography` for Ed25519. Exit code 0: the proof holds (for the
query that the file names, or for --query); 1: it does not, and the reason is printed; 2: usage.
"""

import base64, hashlib, re, struct, sys
from types import SimpleNamespace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
MAX_FILE, MAX_RANGES, MAX_COLUMNS, MAX_TERMS = 64 << 20, 1000, 256, 1024
u16, u32, u64 = (struct.Struct(form).pack for form in ("<H", "<I", "<Q"))
class Refused(Exception): pass  # Why a proof shows nothing.
def need(condition, reason, result=None):
    if not condition: raise Refused(reason)
    return result
def sha(*parts): return hashlib.sha256(b"".join(parts)).digest()
# ---- deterministic CBOR ----
OTHER = object()  # Anything that a proof has only where nobody looks.
FLOATS = {0xF9: ">e", 0xFA: ">f", 0xFB: ">d"}
def decode(data):
    """The one item in data, as Python has it; a tuple is a tag or a map; OTHER is anything else."""
    at = 0
    def take(count):
        nonlocal at
        need(count <= len(data) - at, "the input ends early")
        at += count
        return data[at - count : at]
    def item(depth):
        need(depth > 0, "too deep")
        first = take(1)[0]
        major, low = first >> 5, first & 31
        need(low < 28, "indefinite or reserved length")
        number = low if low < 24 else int.from_bytes(take(1 << low - 24), "big")
        if first in FLOATS: return struct.unpack(FLOATS[first], data[at - (1 << low - 24) : at])[0]
        if major == 7: return {0xF4: False, 0xF5: True, 0xF6: None}.get(first, OTHER)
        need(low < 24 or number >= (24 if low == 24 else 1 << (4 << low - 24)), "not the shortest")
        if major < 2: return -1 - number if major else number
        if major < 4: return utf8(take(number)) if major == 3 else take(number)
        need(major == 6 or number <= len(data), "more items than bytes")
        inside = [item(depth - 1) for _ in range({4: number, 5: 2 * number, 6: 1}[major])]
        return {4: inside, 5: ("map", inside), 6: ("tag", number, *inside)}[major]
    whole = item(120)
    return need(at == len(data), "bytes follow the end", whole)
def utf8(data):
    try: return data.decode("utf-8")
    except UnicodeDecodeError: raise Refused("text is not UTF-8") from None
def typed(kind, item): return need(type(item) is kind, f"expected {kind.__name__}", item)
def uint(item, bits=64): return need(typed(int, item) >> bits == 0, "a number is too large", item)
def octets(item, size=None):
    return need(len(typed(bytes, item)) == size or size is None, "bytes of another length", item)
def array(item, *sizes):
    return need(len(typed(list, item)) in sizes or not sizes, "an array of another length", item)
def some(item, most): return need(len(array(item)) <= most, "too many", item)
def variant(item, sizes):  # An array whose first item says what it is: that, and the rest.
    kind = uint(array(item)[0] if array(item) else None)
    need(sizes.get(kind) == len(item), "an unknown variant, or other fields")
    return kind, item[1:]
def option(item, read, *more): return None if item is None else read(item, *more)
# ---- values ----
NULL, BOOLEAN, INTEGER, DOUBLE, DECIMAL, TEXT, BLOB, DATE, TIMESTAMP, UUID, JSON = range(11)
SIZES = {NULL: 0, BOOLEAN: 1, INTEGER: 8, DOUBLE: 8, DECIMAL: 17, DATE: 4, TIMESTAMP: 8, UUID: 16}
FIRST_MAX, NAN = {BOOLEAN: 1, DECIMAL: 38}, 0x7FF8000000000000
def value_of(tag, data):
    tag, data = uint(tag), octets(data)
    need(tag <= JSON, "unknown type")
    need(SIZES.get(tag, len(data)) == len(data), "a value of another size")
    need(tag not in FIRST_MAX or data[0] <= FIRST_MAX[tag], "no such value")
    if tag == DOUBLE and struct.unpack(">d", data)[0] != struct.unpack(">d", data)[0]:
        need(int.from_bytes(data, "big") == NAN, "another NaN")
    if tag in (TEXT, JSON): utf8(data)
    return tag, data
def sortable(tag, data):  # Bytes in the order of the values of one type.
    if tag in (INTEGER, TIMESTAMP, DATE): return bytes([data[0] ^ 0x80]) + data[1:]
    if tag == DECIMAL: return bytes([data[1] ^ 0x80]) + data[2:]
    if tag == DOUBLE:
        bits = int.from_bytes(data, "big")
        bits = {NAN: 0x7FFFFFFFFFFFFFFF, 1 << 63: 0}.get(bits, bits)
        return (bits ^ ((1 << 64) - 1 if bits >> 63 else 1 << 63)).to_bytes(8, "big")
    return data
def initial_of(item):  # What rows have in a column added later, from the CBOR of the schema.
    tag, item = item[1:] if type(item) is tuple and item[0] == "tag" else (type(item), item)
    if tag == 4:
        scale, number = array(item, 2)
        if type(number) is tuple: number = int.from_bytes(number[2], "big") ^ (2 - number[1])
        return value_of(DECIMAL, bytes([uint(-scale, 8)]) + signed(number, 16))
    if tag == 1001: tag, item = "time", (item[1] + [-9, 0])[1] * 10**9 + (item[1] + [-9, 0])[3]
    return value_of(*need(tag in INITIAL, "not a value", INITIAL.get(tag))(item))
def signed(item, size):
    need(-1 << 8 * size - 1 <= typed(int, item) < 1 << 8 * size - 1, "a number is too large")
    return item.to_bytes(size, "big", signed=True)
INITIAL = {
    type(None): lambda _: (NULL, b""), bool: lambda item: (BOOLEAN, bytes([item])),
    int: lambda item: (INTEGER, signed(item, 8)), "time": lambda item: (TIMESTAMP, signed(item, 8)),
    float: lambda item: (DOUBLE, struct.pack(">d", item) if item == item else u64(NAN)[::-1]),
    str: lambda item: (TEXT, item.encode()), bytes: lambda item: (BLOB, item),
    100: lambda item: (DATE, signed(item, 4)), 37: lambda item: (UUID, item),
    262: lambda item: (JSON, item)}
def key_part(value, tag, scale):
    if value[0] == NULL: return b"\0"
    need(value[0] == tag and (tag != DECIMAL or value[1][0] == scale), "a value of another type")
    if tag in (TEXT, BLOB, JSON): return b"\1" + value[1].replace(b"\0", b"\0\xff") + b"\0\1"
    return b"\1" + sortable(*value)
def compare(left, right):  # -1, 0, 1; None is unknown.
    if NULL in (left[0], right[0]): return None
    need(left[0] == right[0] and left[0] != JSON, "values of two types are compared")
    need(left[0] != DECIMAL or left[1][0] == right[1][0], "decimals of two scales are compared")
    a, b = sortable(*left), sortable(*right)
    return (a > b) - (a < b)
# ---- queries ----
class Range:
    def __init__(self, item):
        kind, fields = variant(item, {0: 2, 1: 3})
        self.point, self.low = kind == 0, octets(fields[0])
        self.high = None if self.point else option(fields[1], octets)
        need(self.high is None or self.low < self.high, "an empty range")
    def past(self, key):
        return key > self.low if self.point else self.high is not None and key >= self.high
    def holds(self, key): return key >= self.low and not self.past(key)
    def whole(self, before, after):
        """May something be hidden between these two keys (None: the edge of the tree)?"""
        ends = before is not None and (before >= self.low if self.point else self.past(before))
        return ends or (after is not None and after <= self.low)
def filter_of(item, depth, budget):
    budget[0] -= 1
    need(depth > 0 and budget[0] >= 0, "the filter is too deep or too large")
    kind, fields = variant(item, {0: 4, 1: 3, 2: 2, 3: 2, 4: 2, 5: 2})
    if kind <= 2: uint(fields[0], 32)
    if kind == 0:
        need(uint(fields[1]) <= 5, "unknown operator")
        fields[2] = value_of(*array(fields[2], 2))
    elif kind == 1:
        budget[0] -= len(array(fields[1]))
        need(budget[0] >= 0, "the filter is too large")
        fields[1] = [value_of(*array(value, 2)) for value in fields[1]]
    elif kind in (3, 4):
        fields[0] = [filter_of(term, depth - 1, budget) for term in array(fields[0])]
    elif kind == 5: fields[0] = filter_of(fields[0], depth - 1, budget)
    return kind, fields
def holds(term, column):  # True, False, or None for unknown. column: the value of one.
    kind, fields = term
    value = column(fields[0]) if kind <= 2 else None
    if kind == 2: return value[0] == NULL
    if kind == 0:
        order = compare(value, fields[2])
        if order is None: return None
        return [order == 0, order != 0, order < 0, order <= 0, order > 0, order >= 0][fields[1]]
    if kind == 1:
        orders = [compare(value, other) for other in fields[1]]
        results = [None if order is None else order == 0 for order in orders]
    elif kind == 5:
        return {None: None, True: False, False: True}[holds(fields[0], column)]
    else: results = [holds(term, column) for term in fields[0]]
    decided = kind != 3  # One such result decides AND, OR and IN.
    return decided if decided in results else None if None in results else not decided
def query_of(data):
    item = array(decode(data))
    need(len(item) > 2 and uint(item[0]) == 1, "a query of another version")
    tenant, kind, rest = uint(item[1]), uint(item[2]), item[3:]
    need({0: 8, 1: 4, 2: 2, 3: 1, 4: 1}.get(kind) == len(rest), "unknown kind of query")
    query = SimpleNamespace(tenant=tenant, kind=kind, bytes=data, filter=None, as_of=None)
    query.offset, query.limit, query.descending = 0, None, False
    if kind <= 2: query.table = uint(rest[0], 32)
    if kind <= 1:
        query.ranges = [Range(one) for one in some(rest[1], MAX_RANGES)]
        for last, new in zip(query.ranges, query.ranges[1:]):
            need(last.low < new.low and last.past(new.low), "ranges are not in order")
        query.filter = option(rest[2], filter_of, 16, [MAX_TERMS])
        if type(rest[3]) is list: query.as_of = ("time", uint(array(rest[3], 1)[0]))
        elif rest[3] is not None: query.as_of = ("position", uint(rest[3]))
    if kind == 0:
        query.columns = [uint(number, 32) for number in some(rest[4], MAX_COLUMNS)]
        query.descending, query.offset = typed(bool, rest[5]), uint(rest[6])
        query.limit = option(rest[7], uint)
    elif kind == 2: query.key = octets(rest[1])
    elif kind == 3: query.position = uint(rest[0])
    elif kind == 4: query.id = octets(rest[0], 16)
    return query
# ---- trees ----
GAP, COUNT, ENTRY = "gap", "count", "entry"
def row_of(item):
    """A commitment; or the schema version and the columns, each a hash or (salt, value)."""
    if type(item) is bytes: return octets(item, 32)
    schema, columns = array(item, 2)
    columns = some(columns, MAX_COLUMNS)
    columns = [octets(c, 32) if type(c) is bytes else cell_of(*array(c, 3)) for c in columns]
    return uint(schema, 32), columns
def cell_of(salt, tag, data): return octets(salt, 16), value_of(tag, data)
def commitment(row, table):
    if type(row) is bytes: return row
    schema, hashes = row[0], []
    for number, column in enumerate(row[1], 1):
        if type(column) is not bytes:
            salt, (tag, data) = column
            length = u32(len(data))
            column = sha(b"\x02", salt, u32(table), u32(number), bytes([tag]), length, data)
        hashes.append(column)
    return sha(b"\x03", u32(table), u32(schema), *hashes, u32(len(hashes)))
class Entry:
    def __init__(self, salt, key, value):
        self.salt, self.key = octets(salt, 16), octets(key)
        need(len(self.key) <= 512, "a key is too long")
        self.form, fields = variant(value, {0: 2, 1: 3, 2: 4, 3: 5})
        if self.form == 0: self.digest = octets(fields[0], 32)
        elif self.form == 1:
            self.value = octets(fields[1])
            self.digest = sha(b"\x09", octets(fields[0], 16), self.value)
        elif self.form == 2:
            self.begun_at, self.record = uint(fields[0]), octets(fields[1], 32)
            self.row = row_of(fields[2])
        else:
            need(uint(fields[0]) == 2, "a tree of another shape")
            height, entries, root = uint(fields[1], 8), uint(fields[2]), octets(fields[3], 32)
            self.root = height, entries, root
            self.digest = sha(b"\x0a", u16(2), bytes([height]), u64(entries), root)
    def hash(self, tree, table):
        if self.form == 2:
            need(table is not None, "a row where none belongs")
            self.digest = sha(b"\x08", commitment(self.row, table), u64(self.begun_at), self.record)
        return sha(b"\x00", self.salt, u32(tree), self.key, self.digest)
def hashes_of(item):
    need(len(octets(item)) % 32 == 0, "hashes have 32 bytes each")
    return [item[at : at + 32] for at in range(0, len(item), 32)]
class Node:
    def __init__(self, item, levels=16):
        level, entries, shown, hashes = array(item, 4)
        self.level, self.entries = uint(level, 8), uint(entries, 16)
        need(self.level < levels, "a tree is too deep")
        need(len(array(shown)) <= self.entries, "a page shows more entries than it has")
        self.shown, self.hashes = [], hashes_of(hashes)
        for place, *fields in (array(one, 3 if level else 4) for one in shown):
            if level == 0: item = Entry(*fields)
            elif type(fields[1]) is bytes: item = uint(fields[0]), octets(fields[1], 32)
            else: item = uint(fields[0]), Node(fields[1], level)
            self.shown.append((uint(place, 16), item))
    def hash(self, tree, table, sequence):
        """The node's hash; appends entries, counts and gaps, from left to right."""
        need(self.entries > 0, "a page without entries")
        places = [place for place, _ in self.shown] + [self.entries]
        need(all(a < b for a, b in zip(places, places[1:])), "places are not in order")
        shown, hashes = self.shown[::-1], self.hashes[::-1]
        def part(start, end):
            if not shown or shown[-1][0] >= end:
                if not sequence or sequence[-1][0] != GAP: sequence.append((GAP, None))
                need(hashes, "a hash is missing")
                return hashes.pop()
            if end - start > 1:
                middle = start + split(end - start)
                return sha(b"\x01", part(start, middle), part(middle, end))
            item = shown.pop()[1]
            if self.level == 0:
                sequence.append((ENTRY, item))
                return item.hash(tree, table)
            count, child = item
            if type(child) is bytes: sequence.append((COUNT, count))
            else:
                need(child.level + 1 == self.level, "a child is not one level below")
                need(child.level or child.entries == count, "a leaf has another count")
                child = child.hash(tree, table, sequence)
            return sha(b"\x06", child, u64(count))
        whole = sha(b"\x07", bytes([self.level]), u16(self.entries), part(0, self.entries))
        return need(not shown and not hashes, "a page shows more than it has", whole)
EMPTY = (0, 0, sha(b"\x07\x00\x00\x00", sha()))
def check_tree(node, tree, table, root):  # What a node shows, if it is this tree with this root.
    if node is None: return need(root == EMPTY, f"tree {tree} is not empty", [])
    need(node.level == root[0], "the top page has another level")
    sequence = []
    need(node.hash(tree, table, sequence) == root[2], f"tree {tree} is not the one signed for")
    keys = [entry.key for entry in entries_of(sequence)]
    return need(all(a < b for a, b in zip(keys, keys[1:])), "entries are not in order", sequence)
def entries_of(sequence): return [item for form, item in sequence if form == ENTRY]
def root_in_forest(node, state, tree):
    need(node is not None, "the state is not shown")
    sequence = []
    need(node.hash(0, None, sequence) == state, "the forest is not the one signed for")
    return entry_under(sequence, tree.to_bytes(4, "big"), 3, f"tree {tree}").root
def entry_under(sequence, key, form, what):
    found = [entry for entry in entries_of(sequence) if (entry.key, entry.form) == (key, form)]
    return need(found, f"{what} is not shown", found and found[0])
def keys_of(sequence):  # The key before each thing at its index, the one after it at index + 2.
    return [None, *(item.key if form == ENTRY else None for form, item in sequence), None]
def check_gaps(sequence, may, counts=False):
    keys = keys_of(sequence)
    for at, (form, _) in enumerate(sequence):
        shown = form == ENTRY or (counts if form == COUNT else may(keys[at], keys[at + 2]))
        need(shown, "rows may be missing")
# ---- records and logs ----
class Record:
    def __init__(self, item):
        previous, meta, data = array(item, 3)
        self.bytes = octets(previous, 32) + octets(meta, 138) + octets(data)
        self.position, self.tenant = struct.unpack_from("<QQ", meta, 0)
        fields = struct.unpack_from("<QQQIH", meta, 32)
        self.time, self.first, self.last, self.stream, self.kind = fields
        self.commitment = meta[102:134]
        self.sound = struct.unpack_from("<I", meta, 134)[0] == len(data)
    def check(self, tenant, size, root, proof):
        need(self.tenant == tenant, "a record of another tenant")
        need(self.sound, "a record's data has another length")
        leaf, proof = sha(b"\0", sha(self.bytes)), list(proof)
        found = self.position < size and inclusion_root(leaf, self.position, size, proof)
        need(found == root and not proof, "a record is not in the log")
    def opens(self, salt, payload):
        inner = sha(b"\x04", salt, u32(self.stream), u32(len(payload)), payload)
        return sha(b"\x05", u32(self.stream), inner) == self.commitment
def split(width): return 1 << (width - 1).bit_length() - 1
def inclusion_root(leaf, index, size, proof):
    """RFC 6962, 2.1.1. Takes hashes from the end of the proof: the uppermost first."""
    if size == 1: return leaf
    need(proof, "an inclusion proof is too short")
    middle, other = split(size), proof.pop()
    if index < middle: return sha(b"\1", inclusion_root(leaf, index, middle, proof), other)
    return sha(b"\1", other, inclusion_root(leaf, index - middle, size - middle, proof))
def consistency_roots(first, second, proof, known):
    """RFC 6962, 2.1.2: the older and the newer root. known: the older one, at the left edge."""
    if first == second and known: return known, known
    need(proof, "a consistency proof is too short")
    other = proof.pop()
    if first == second: return other, other
    middle = split(second)
    if first <= middle:
        old, new = consistency_roots(first, middle, proof, known)
        return old, sha(b"\1", new, other)
    old, new = consistency_roots(first - middle, second - middle, proof, None)
    return sha(b"\1", other, old), sha(b"\1", other, new)
def opening_of(item):
    kind, fields = variant(item, {0: 3, 1: 3})
    if kind == 0: return 0, octets(fields[0], 16), octets(fields[1])
    return 1, uint(fields[0], 32), row_of(fields[1])
# ---- notes and policies ----
def decode64(line):
    try: data = base64.b64decode(line, validate=True)
    except ValueError: raise Refused("not base64") from None
    return need(base64.b64encode(data).decode() == line, "not canonical base64", data)
class Key:
    def __init__(self, line, kind):
        name, number, rest = (line.split("+", 2) + ["", ""])[:3]
        data = decode64(rest)
        need(len(data) == 33 and data[0] == kind, "not a verifier key of this kind")
        self.name, self.id, self.raw = name, sha(name.encode(), b"\n", data)[:4], data[1:]
        need(name and number == self.id.hex(), "the key's id is another")
        self.key = Ed25519PublicKey.from_public_bytes(self.raw)
    def signed(self, signature, message):
        try: self.key.verify(signature, message)
        except InvalidSignature: return False
        return True
class Policy:
    def __init__(self, lines):
        self.log, self.quorum, self.witnesses, self.groups = None, None, {}, {}
        for words in (line.split("#")[0].split() for line in lines.split("\n")):
            if words: self.line(words[0], words[1:])
        need(self.log and self.quorum, "a policy names a log and a quorum")
    def line(self, kind, words):
        names = {**self.witnesses, **self.groups}
        if kind == "log" and words and self.log is None: self.log = Key(words[0], 1)
        elif kind == "witness" and len(words) >= 2:
            key = Key(words[1], 4)
            taken = words[0] in names or key.raw in [w.raw for w in self.witnesses.values()]
            need(not taken, "a name or a key counts once")
            self.witnesses[words[0]] = key
        elif kind == "group" and len(words) >= 3:
            name, count, members = words[0], words[1], words[2:]
            count = {"any": "1", "all": str(len(members))}.get(count, count)
            count = int(count if count.isdigit() else 0)
            need(0 < count <= len(members) == len(set(members)), "a bad group")
            need(set(members) <= set(names) and name not in names, "a bad group")
            self.groups[name] = count, members
        else:
            need(kind == "quorum" and len(words) == 1 and not self.quorum, "not a line of a policy")
            need(words[0] in names and words[0] != "none", "the quorum is not named")
            self.quorum = words[0]
    def check(self, note):  # Size and root of the head, if those sign for it whom the policy names.
        need(not re.search("[\0-\x09\x0b-\x1f\x7f-\x9f]", note), "control characters in a note")
        need("\n\n" in note and note.endswith("\n"), "not a signed note")
        at = note.rindex("\n\n")
        head, lines = note[: at + 1], note[at + 2 : -1].split("\n")
        need(len(note.encode()) <= 64 * 1024 and len(lines) <= 64, "the note is too long")
        signatures = []
        for found in (re.fullmatch("\u2014 ([^\\s+]+) ([^ ]+)", line) for line in lines):
            name, data = need(found, "not a signature", found and (found[1], decode64(found[2])))
            need(len(data) > 4, "not a signature")
            signatures.append((name, data[:4], data[4:]))
        found = re.match("([^\n]+)\n(0|[1-9][0-9]{0,19})\n([^\n]*)\n", head)
        origin, size, root = need(found, "not a checkpoint", found and found.groups())
        size, root = int(size), decode64(root)
        need(size < 1 << 64 and len(root) == 32, "not a checkpoint")
        need(origin == self.log.name, "another cluster's log")
        def of(key):
            return [s for name, number, s in signatures if (name, number) == (key.name, key.id)]
        need(any(self.log.signed(s, head.encode()) for s in of(self.log)), "the log did not sign")
        satisfied = set()
        for name, key in self.witnesses.items():
            for signature in of(key):
                time = int.from_bytes(signature[:8], "big")
                message = f"cosignature/v1\ntime {time}\n{head}".encode()
                if len(signature) == 72 and key.signed(signature[8:], message): satisfied.add(name)
        for name, (count, members) in self.groups.items():
            if len(satisfied & set(members)) >= count: satisfied.add(name)
        return need(self.quorum in satisfied, "too few cosigners", (size, root))
# ---- tables ----
REDACTED = "redacted"
TAGS = [1, 2, 2, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10]  # Of the values of each type of a column.
class Table:  # A table as its proved catalog entry describes it, and the roots of its trees.
    def __init__(self, proof, state, number):
        root = root_in_forest(proof.state, state, 1)
        sequence, key = check_tree(proof.shown[0], 1, None, root), b"\1" + number.to_bytes(4, "big")
        item = array(decode(entry_under(sequence, key, 1, "the schema").value), 12)
        need(uint(item[0]) == 2, "a schema of another format")
        self.id, self.name = uint(item[1], 32), typed(str, item[2])
        need(self.id == number, "the schema is another table's")
        self.created_at, self.trees = uint(item[4]), (uint(item[6], 32), uint(item[7], 32))
        self.columns = [self.column_of(column) for column in array(item[8])]
        self.key = [uint(number, 32) for number in array(item[9])]
        need(0 < len(self.columns) <= MAX_COLUMNS, "a bad number of columns")
        need(all(1 <= number <= len(self.columns) for number in self.key), "a bad primary key")
        self.roots = [root_in_forest(proof.state, state, tree) for tree in self.trees]
        self.indexes = dict(self.index_of(index) for index in array(item[11]))
    def column_of(self, item):
        name, kind, _, _, initial, added_at = array(item, 6)
        number, rest = variant(kind, {**dict.fromkeys(range(13), 1), 5: 3, 7: 2})
        for size in rest: uint(size, 8 if number == 5 else 32)
        typed(str, name)
        return TAGS[number], rest[1] if number == 5 else 0, initial_of(initial), uint(added_at)
    def index_of(self, item):
        name, unique, entries, ended, ready, columns = array(item, 6)
        typed(str, name), typed(bool, unique), uint(ended, 32), option(ready, uint)
        return uint(entries, 32), None if ready is None else [uint(n, 32) for n in array(columns)]
    def column(self, number):
        need(1 <= number <= len(self.columns), "the table has no such column")
        return self.columns[number - 1]
    def sequence(self, node, history=0):
        return check_tree(node, self.trees[history], self.id, self.roots[history])
    def cell(self, row, number, needed=False):
        tag, cell = self.column(number)[0], row[number - 1]
        need(type(cell) is tuple or not needed, "a column is hidden")
        value = REDACTED if type(cell) is bytes else cell[1]
        need(value is REDACTED or value[0] in (tag, NULL), "a value of another type")
        return value
    def keys(self, row, columns):
        return b"".join(key_part(self.cell(row, n, True), *self.column(n)[:2]) for n in columns)
    def row(self, entry, key, at=1 << 64):
        """The columns of an entry's row as they are at a position, if under their own key."""
        need(entry.form == 2 and type(entry.row) is tuple, "a row is not shown")
        need(len(entry.row[1]) <= len(self.columns), "a row has more columns than its table")
        later = self.columns[len(entry.row[1]) :]
        row = entry.row[1] + [(None, one[2] if one[3] <= at else (NULL, b"")) for one in later]
        own = self.keys(row, self.key) == key if self.key else len(key) == 8
        return need(own, "a row lies under another's key", row)
    def passes(self, row, term):
        return term is None or holds(term, lambda number: self.cell(row, number, True)) is True
def after(key):  # The first key behind all that begin with this one.
    key = key.rstrip(b"\xff")
    return key[:-1] + bytes([key[-1] + 1])
def joined(term):  # Comparisons with a value that every row passes.
    kind, fields = term
    if kind == 3: return [one for inner in fields[0] for one in joined(inner)]
    return [fields] if kind == 0 and fields[2][0] != NULL else []
def interval(table, columns, term):
    """Where all rows that pass have their entries: told by the filter, column by column."""
    prefix, terms = b"", joined(term)
    for number in columns:
        found = {operator: [] for operator in range(6)}
        for column, operator, value in terms:
            if column == number:
                found[operator].append(prefix + key_part(value, *table.column(number)[:2]))
        lows, highs = found[5] + [*map(after, found[4])], found[2] + [*map(after, found[3])]
        if found[0]: prefix = max(found[0])
        elif lows or highs:
            low, high = max(lows, default=prefix + b"\1"), min(highs, default=after(prefix + b"\1"))
            return Range([1, low, high])
        else: break
    return Range([1, need(prefix, "the filter does not bound the index", prefix), after(prefix)])
# ---- proof files ----
def moment_of(item):
    pairs = zip(array(item, 2, 4)[::2], item[1::2])
    return [(Record(record), hashes_of(proof)) for record, proof in pairs]
def nodes_of(item): return [option(node, Node) for node in some(item, MAX_RANGES)]
def since_of(item):
    size, root, hashes = array(item, 3)
    return uint(size), octets(root, 32), hashes_of(hashes)
def maybe(read): return lambda item: option(item, read)
EVIDENCE = {
    0: (Node, nodes_of, maybe(nodes_of), maybe(moment_of)),  # Schema, rows, history, AS OF.
    1: (Node, maybe(Node), maybe(Node)),  # Schema, current row, versions.
    2: (Record, hashes_of, maybe(opening_of)),
    3: (maybe(Node),),
    4: (Node, uint, maybe(Node), maybe(Node)),}  # 4: schema, index, its entries, rows.
class Proof:
    def __init__(self, data):
        need(len(data) <= MAX_FILE, "the file is too large")
        magic, version, query, evidence, state, head, note = array(decode(data), 7)
        need(magic == "verity proof" and uint(version) == 1, "not a proof of this version")
        self.query, self.note = query_of(octets(query)), typed(str, note)
        self.kind, fields = variant(evidence, {kind: 1 + len(EVIDENCE[kind]) for kind in EVIDENCE})
        self.shown = [read(field) for read, field in zip(EVIDENCE[self.kind], fields)]
        self.state = option(state, Node)
        forest, heads, record, opening, inclusion, since = array(head, 6)
        self.forest, self.heads, self.head = Node(forest), Node(heads), Record(record)
        self.head_opening, self.head_inclusion = opening_of(opening), hashes_of(inclusion)
        self.since = option(since, since_of)
    def tenant_head(self, size, root):
        self.head.check(0, size, root, self.head_inclusion)
        kind, salt, payload = self.head_opening
        need(self.head.kind == 6 and kind == 0, "no checkpoint record")
        need(self.head.opens(salt, payload), "the record does not hold the payload")
        covers, _, _, _, _, state, position = array(decode(payload), 7)
        need(uint(covers) == uint(position) == self.head.position - 1, "no state root")
        forest_root = root_in_forest(self.forest, octets(state, 32), 6)
        sequence, key = check_tree(self.heads, 6, None, forest_root), self.query.tenant
        found = entry_under(sequence, key.to_bytes(8, "big"), 1, "the tenant's head").value
        log_size, log_root, chain, state = array(decode(found), 4)
        return uint(log_size), octets(log_root, 32), octets(state, 32), octets(chain, 32)
    def answer(self, policy):
        size, root = policy.check(self.note)
        if self.since is not None:
            older, older_root, proof = self.since
            roots = 0 < older <= size and consistency_roots(older, size, proof, older_root)
            need(roots == (older_root, root) and not proof, "the log does not continue the older")
        log_size, log_root, state, _ = self.tenant_head(size, root)
        query = need(log_size > 0, "a tenant without records", self.query)
        need(self.kind in ((0, 4), (0, 4), (1,), (2,), (3,))[query.kind], "another evidence")
        fresh = self.head.position + 1 == size
        if query.kind == 3:
            need(self.state is None, "more is shown than was asked")
            return self.event(log_size, log_root), fresh
        if query.kind == 4: return self.outcome(state), fresh
        table = Table(self, state, query.table)
        if query.kind == 2: return self.versions_of(table), fresh
        for number in query.columns if query.kind == 0 else (): table.column(number)
        if self.kind == 4: rows = self.wanted(table, self.by_index(table, state))
        elif query.as_of is None:
            need(self.shown[2:] == [None, None], "more is shown than was asked")
            if query.kind == 1 and query.filter is None:
                return sum(self.count(table, *pair) for pair in self.pairs(self.shown[1])), fresh
            rows = self.current(table)
        else: rows = self.rows_as_of(table, self.position(table, log_size, log_root))
        if query.kind == 1: return len(rows), fresh
        return [[table.cell(row, number) for number in query.columns] for row in rows], fresh
    def pairs(self, nodes):
        same = len(nodes) == len(self.query.ranges)
        return need(same, "a range is missing", list(zip(self.query.ranges, nodes)))
    def count(self, table, span, node):
        sequence = table.sequence(node)
        check_gaps(sequence, span.whole, counts=True)
        total = waiting = 0  # Counts since the last thing that is none.
        left = (ENTRY, None)
        for form, item in sequence + [(ENTRY, None)]:
            if form == COUNT:
                waiting += item
                continue
            if waiting:
                need(not span.point and left[0] == form == ENTRY, "a count beside a gap")
                low = left[1].key >= span.low if left[1] else span.low == b""
                high = span.high is None or (item and item.key <= span.high)
                need(low and high, "a count past the range")
            total, waiting, left = total + waiting, 0, (form, item)
            total += form == ENTRY and item is not None and span.holds(item.key)
        return need(total < 1 << 64, "counts overflow", total)
    def current(self, table):
        query, found, nodes = self.query, [], self.shown[1][::-1]
        step, skip = -1 if query.descending else 1, query.offset
        for span in query.ranges[::step]:
            if query.limit is not None and len(found) >= query.limit: break
            need(nodes, "a range is missing")
            sequence = table.sequence(nodes.pop())
            keys = keys_of(sequence)
            for at in range(len(sequence))[::step]:
                form, item = sequence[at]
                done = query.limit is not None and len(found) >= query.limit
                need(form != COUNT, "rows may be missing")
                if form == GAP: need(done or span.whole(keys[at], keys[at + 2]), "rows missing")
                if form == GAP or not span.holds(item.key): continue
                need(not done or item.form != 2, "more is shown than was asked")
                row = None if done else table.row(item, item.key)
                if not done and table.passes(row, query.filter):
                    found += [] if skip else [row]
                    skip = max(0, skip - 1)
        return need(not nodes, "more is shown than was asked", found)
    def position(self, table, log_size, log_root):
        """Where the last transaction ended by the moment that AS OF means."""
        need(None not in self.shown, "the past is not shown")
        (kind, asked), moment = self.query.as_of, self.shown[3]
        for record, proof in moment: record.check(self.query.tenant, log_size, log_root, proof)
        record, following = moment[0][0], moment[-1][0]
        if kind == "position":
            need(len(moment) == 1, "more is shown than was asked")
            need(record.position == asked, "a record at another position")
        else:
            need(record.time <= asked, "the position is after the time")
            if len(moment) == 1:
                need(record.position + 1 == log_size, "the next record is not shown")
                following = self.head  # What comes later is not older than the attestation.
            else: need(following.position == record.position + 1, "another record than the next")
            need(following.time > asked, "the position is before the time, or not reached")
        at = record.position if record.last == record.position else record.first - 1
        need(at >= 0, "no transaction had ended by then")
        return need(table.created_at <= at, "the table was created later", at)
    def rows_as_of(self, table, at):
        query, found = self.query, {}
        for (span, node), past in zip(self.pairs(self.shown[1]), self.pairs(self.shown[2])):
            sequence = table.sequence(node)
            check_gaps(sequence, span.whole)
            for entry in entries_of(sequence):
                if span.holds(entry.key):
                    need(entry.form == 2, "a row is not shown")
                    if entry.begun_at <= at: found[entry.key] = table.row(entry, entry.key, at)
            sequence = table.sequence(past[1], 1)
            need(all(len(e.key) >= 8 for e in entries_of(sequence)), "not a version")
            def may(a, b):
                if span.point:
                    first = span.low + (at + 1).to_bytes(8, "big")
                    return (b is not None and b <= first) or (a is not None and a >= first)
                if a is not None and b is not None and a[:-8] == b[:-8]:
                    if int.from_bytes(b[-8:], "big") <= at or int.from_bytes(a[-8:], "big") > at:
                        return True
                low = b is not None and b <= span.low
                return low or (a is not None and span.high is not None and a[:-8] >= span.high)
            check_gaps(sequence, may)
            later = set()
            for entry in entries_of(sequence):
                key, ended = entry.key[:-8], int.from_bytes(entry.key[-8:], "big")
                if ended <= at or key in later: continue
                later.add(key)
                if span.holds(key):
                    need(entry.form == 2, "a version is not shown")
                    if entry.begun_at <= at:
                        need(key not in found, "two versions of a row at one position")
                        found[key] = table.row(entry, key, at)
        return self.wanted(table, found)
    def wanted(self, table, found):
        query = self.query
        rows = [found[key] for key in sorted(found, reverse=query.descending)]
        rows = [row for row in rows if table.passes(row, query.filter)][query.offset :]
        return rows if query.limit is None else rows[: query.limit]
    def by_index(self, table, state):
        """Rows by their keys: those that the entries of an interval of an index name."""
        _, tree, entries, node = self.shown
        need(self.query.filter and self.query.as_of is None, "an index proves current rows only")
        columns = need(table.indexes.get(tree), "no such index", table.indexes.get(tree))
        span = interval(table, columns, self.query.filter)
        sequence = check_tree(entries, tree, None, root_in_forest(self.state, state, tree))
        check_gaps(sequence, span.whole)
        named = {entry.key for entry in entries_of(sequence) if span.holds(entry.key)}
        sequence = [] if node is None else table.sequence(node)
        check_gaps(sequence, lambda before, after: True)
        rows = [(entry.key, table.row(entry, entry.key)) for entry in entries_of(sequence)]
        shown = {table.keys(row, columns) + key for key, row in rows}
        need(shown == named, "other rows are shown than those that the index names")
        return {key: row for key, row in rows if any(span.holds(key) for span in self.query.ranges)}
    def versions_of(self, table):
        key, found, every = self.query.key, [], range(1, len(table.columns) + 1)
        def add(entry, ended):
            row = table.row(entry, key, 1 << 64 if ended is None else ended - 1)
            found.append((entry.begun_at, ended, [table.cell(row, n) for n in every]))
        low, high, sequence = key + b"\0" * 8, key + b"\xff" * 8, table.sequence(self.shown[2], 1)
        check_gaps(sequence, lambda a, b: (b and b <= low) or (a and a >= high))
        for entry in entries_of(sequence):
            need(len(entry.key) >= 8, "not a version")
            need(any(entry.key[-8:]), "a version that ended at the beginning")
            if entry.key[:-8] == key: add(entry, int.from_bytes(entry.key[-8:], "big"))
        sequence = table.sequence(self.shown[1])
        check_gaps(sequence, Range([0, key]).whole)
        for entry in entries_of(sequence):
            if entry.key == key: add(entry, None)
        return found
    def event(self, log_size, log_root):
        record, inclusion, opening = self.shown
        record.check(self.query.tenant, log_size, log_root, inclusion)
        need(record.position == self.query.position, "a record at another position")
        if opening is None: return record.kind, None
        kind, first, second = opening
        need((kind == 1) == (record.kind == 1), "a row is shown by its columns, and only a row")
        if kind == 0: need(record.opens(first, second), "it does not hold the payload")
        else: need(commitment(second, first) == record.commitment, "another row")
        return record.kind, need(type(second) is not bytes or kind == 0, "columns only", second)
    def outcome(self, state):
        key = self.query.id
        sequence = check_tree(self.shown[0], 2, None, root_in_forest(self.state, state, 2))
        check_gaps(sequence, Range([0, key]).whole)
        if all(entry.key != key for entry in entries_of(sequence)): return None
        position, op, time, outcome = array(decode(entry_under(sequence, key, 1, "it").value), 4)
        return uint(position), uint(op), uint(time), uint(array(outcome, 3)[1]) != 0
def verify(policy, data, query=None):
    proof = Proof(data)
    need(query is None or proof.query.bytes == query, "the proof answers another query")
    return proof.answer(Policy(policy))
def main(args):
    usage = len(args) not in (2, 4) or args[2:3] not in ([], ["--query"])
    if usage: return print(__doc__.strip(), file=sys.stderr) or 2
    with open(args[0], encoding="utf-8") as policy, open(args[1], "rb") as file:
        lines, data = policy.read(), file.read()
    try:
        answer, fresh = verify(lines, data, bytes.fromhex(args[3]) if args[3:] else None)
    except Refused as reason: return print(f"refused: {reason}") or 1
    return print(f"valid{'' if fresh else ', not fresh'}: {answer}") or 0
if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
