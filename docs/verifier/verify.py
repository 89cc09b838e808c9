#!/usr/bin/env python3
"""A second verifier of Verity proof files, written from docs/PROOFS.md alone.

    verify.py POLICY FILE [--query HEX]

Standard library, and the package `cryptography` for Ed25519. Exit code 0: the proof holds (for the
query that the file names, or for --query); 1: it does not, and the reason is printed.
"""

import base64
import hashlib
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_FILE = 64 << 20
MAX_LEVELS = 16

class Refused(Exception):
    """Why a proof shows nothing."""

def need(condition, reason):
    if not condition: raise Refused(reason)

def sha(*parts): return hashlib.sha256(b"".join(parts)).digest()

def u16(n): return struct.pack("<H", n)

def u32(n): return struct.pack("<I", n)

def u64(n): return struct.pack("<Q", n)

# ---- deterministic CBOR ----

class Reader:
    def __init__(self, data): self.data, self.at = data, 0

    def take(self, n):
        need(n <= len(self.data) - self.at, "the input ends early")
        self.at += n
        return self.data[self.at - n : self.at]

    def head(self):
        first = self.take(1)[0]
        major, low = first >> 5, first & 31
        if low < 24: return major, low
        need(low <= 27, "indefinite or reserved length")
        size = 1 << (low - 24)
        value = int.from_bytes(self.take(size), "big")
        if major != 7: need(value >= (24 if size == 1 else 1 << (4 * size)), "a head is not the shortest")
        return major, value

    def major(self):
        need(self.at < len(self.data), "the input ends early")
        return self.data[self.at] >> 5

    def uint(self, limit=(1 << 64) - 1):
        major, value = self.head()
        need(major == 0 and value <= limit, "expected an unsigned integer")
        return value

    def bytes(self, size=None):
        major, length = self.head()
        need(major == 2, "expected bytes")
        need(size is None or length == size, "bytes of another length")
        return self.take(length)

    def text(self):
        major, length = self.head()
        need(major == 3, "expected text")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused("text is not UTF-8") from None

    def array(self, size=None):
        major, count = self.head()
        need(major == 4, "expected an array")
        need(count <= len(self.data) - self.at, "more items than bytes")
        need(size is None or count == size, "an array of another length")
        return count

    def null(self):
        if self.at < len(self.data) and self.data[self.at] == 0xF6:
            self.at += 1
            return True
        return False

    def boolean(self):
        byte = self.take(1)[0]
        need(byte in (0xF4, 0xF5), "expected a boolean")
        return byte == 0xF5

    def option(self, read): return None if self.null() else read()

    def skip(self):
        left = 1
        while left:
            left -= 1
            major, value = self.head()
            if major in (2, 3): self.take(value)
            elif major == 4: left += value
            elif major == 5: left += 2 * value
            elif major == 6: left += 1
            need(left <= len(self.data), "more items than bytes")

    def end(self): need(self.at == len(self.data), "bytes follow the end")

# ---- values ----

NULL, BOOLEAN, INTEGER, DOUBLE, DECIMAL, TEXT, BLOB, DATE, TIMESTAMP, UUID, JSON = range(11)
NAN = 0x7FF8000000000000

def check_value(tag, data):
    sizes = {NULL: 0, INTEGER: 8, TIMESTAMP: 8, DATE: 4, UUID: 16, DECIMAL: 17, DOUBLE: 8, BOOLEAN: 1}
    need(0 <= tag <= JSON, "unknown type")
    if tag in sizes: need(len(data) == sizes[tag], "not a value of its type")
    if tag == BOOLEAN: need(data in (b"\0", b"\1"), "not a value of its type")
    if tag == DECIMAL: need(data[0] <= 38, "not a value of its type")
    if tag == DOUBLE:
        bits = int.from_bytes(data, "big")
        nan = bits >> 52 & 0x7FF == 0x7FF and bits & ((1 << 52) - 1)
        need(not nan or bits == NAN, "not a value of its type")
    if tag in (TEXT, JSON):
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            raise Refused("not a value of its type") from None
    return tag, data

def sortable(tag, data):
    """Bytes in the order of the values of one type."""
    if tag in (INTEGER, TIMESTAMP, DATE): return bytes([data[0] ^ 0x80]) + data[1:]
    if tag == DECIMAL: return bytes([data[1] ^ 0x80]) + data[2:]
    if tag == DOUBLE:
        bits = int.from_bytes(data, "big")
        if bits == NAN: bits = 0x7FFFFFFFFFFFFFFF
        elif bits == 1 << 63: bits = 0
        bits = bits ^ ((1 << 64) - 1) if bits >> 63 else bits | 1 << 63
        return bits.to_bytes(8, "big")
    return data

def key_part(value, tag, scale):
    if value[0] == NULL: return b"\0"
    need(value[0] == tag and (tag != DECIMAL or value[1][0] == scale), "a value of another type")
    if tag in (TEXT, BLOB, JSON): return b"\1" + value[1].replace(b"\0", b"\0\xff") + b"\0\1"
    return b"\1" + sortable(*value)

def compare(left, right):
    """-1, 0, 1; None is unknown."""
    if left[0] == NULL or right[0] == NULL: return None
    need(left[0] == right[0] and left[0] != JSON, "values of two types are compared")
    need(left[0] != DECIMAL or left[1][0] == right[1][0], "decimals of two scales are compared")
    a, b = sortable(*left), sortable(*right)
    return (a > b) - (a < b)

# ---- queries ----

class Range:
    def __init__(self, reader):
        fields = reader.array(); kind = reader.uint()
        need((kind, fields) in ((0, 2), (1, 3)), "unknown range")
        self.point = kind == 0
        self.low = reader.bytes()
        self.high = None if self.point else reader.option(reader.bytes)
        need(self.high is None or self.low < self.high, "an empty range")

    def past(self, key):
        if self.point: return key > self.low
        return self.high is not None and key >= self.high

    def holds(self, key): return key == self.low if self.point else key >= self.low and not self.past(key)

    def ends_by(self, key): return key >= self.low if self.point else self.past(key)

def read_filter(reader, depth, budget):
    need(depth > 0 and budget[0] > 0, "the filter is too deep or too large")
    budget[0] -= 1
    fields, kind = reader.array(), reader.uint()
    sizes = {0: 4, 1: 3, 2: 2, 3: 2, 4: 2, 5: 2}
    need(sizes.get(kind) == fields, "unknown expression")

    def value():
        reader.array(2)
        return check_value(reader.uint(255), reader.bytes())

    if kind == 0: return (0, reader.uint(2**32 - 1), reader.uint(5), value())
    if kind == 1: return (1, reader.uint(2**32 - 1), [value() for _ in range(reader.array())])
    if kind == 2: return (2, reader.uint(2**32 - 1))
    if kind in (3, 4): return (kind, [read_filter(reader, depth - 1, budget) for _ in range(reader.array())])
    return (5, read_filter(reader, depth - 1, budget))

def holds(expr, column):
    """True, False, or None for unknown."""
    kind = expr[0]
    if kind == 0:
        order = compare(column(expr[1]), expr[3])
        if order is None: return None
        return [order == 0, order != 0, order < 0, order <= 0, order > 0, order >= 0][expr[2]]
    if kind == 1:
        found, result = column(expr[1]), False
        for value in expr[2]:
            order = compare(found, value)
            if order == 0: return True
            if order is None: result = None
        return result
    if kind == 2: return column(expr[1])[0] == NULL
    if kind in (3, 4):
        results = [holds(term, column) for term in expr[1]]
        decided = kind == 4
        if decided in results: return decided
        return None if None in results else not decided
    result = holds(expr[1], column)
    return None if result is None else not result

class Query:
    def __init__(self, data):
        r = Reader(data)
        fields = r.array(); need(r.uint() == 1, "a query of another version")
        self.tenant, self.kind = r.uint(), r.uint()
        need({0: 11, 1: 7, 2: 5, 3: 4, 4: 4}.get(self.kind) == fields, "unknown kind of query")
        if self.kind in (0, 1):
            self.table = r.uint(2**32 - 1); count = r.array()
            need(count <= 1000, "too many ranges")
            self.ranges = []
            for _ in range(count):
                new = Range(r)
                if self.ranges:
                    last = self.ranges[-1]
                    need(last.low < new.low and last.past(new.low), "ranges are not in order")
                self.ranges.append(new)
            self.filter = r.option(lambda: read_filter(r, 16, [1024]))
            self.as_of = r.option(r.uint)
        if self.kind == 0:
            count = r.array()
            need(count <= 256, "too many columns")
            self.columns = [r.uint(2**32 - 1) for _ in range(count)]
            self.descending, self.offset = r.boolean(), r.uint(); self.limit = r.option(r.uint)
        elif self.kind == 2: self.table, self.key = r.uint(2**32 - 1), r.bytes()
        elif self.kind == 3: self.position = r.uint()
        elif self.kind == 4: self.id = r.bytes(16)
        r.end()

# ---- trees ----

GAP, COUNT, ENTRY = "gap", "count", "entry"

class Entry:
    def __init__(self, reader):
        self.salt, self.key = reader.bytes(16), reader.bytes()
        need(len(self.key) <= 512, "a key is too long")
        fields, self.form = reader.array(), reader.uint()
        need({0: 2, 1: 3, 2: 4, 3: 5}.get(self.form) == fields, "unknown value of an entry")
        if self.form == 0: self.digest = reader.bytes(32)
        elif self.form == 1: self.value_salt, self.value = reader.bytes(16), reader.bytes()
        elif self.form == 2:
            self.begun_at, self.record = reader.uint(), reader.bytes(32)
            self.row = read_row(reader)
        else:
            need(reader.uint() == 1, "a tree of another shape")
            self.root = (reader.uint(255), reader.uint(), reader.bytes(32))

    def hash(self, tree, table):
        if self.form == 0: digest = self.digest
        elif self.form == 1: digest = sha(b"\x09", self.value_salt, self.value)
        elif self.form == 2:
            need(table is not None, "a row where none belongs")
            digest = sha(b"\x08", commitment(self.row, table), u64(self.begun_at), self.record)
        else:
            height, entries, root = self.root
            digest = sha(b"\x0a", u16(1), bytes([height]), u64(entries), root)
        return sha(b"\x00", self.salt, u32(tree), self.key, digest)

def read_row(reader):
    if reader.major() == 2: return reader.bytes(32)
    reader.array(2); schema, count = reader.uint(2**32 - 1), reader.array()
    need(count <= 256, "a row has too many columns")
    columns = []
    for _ in range(count):
        if reader.major() == 2: columns.append(reader.bytes(32))
        else:
            reader.array(3)
            columns.append((reader.bytes(16), check_value(reader.uint(255), reader.bytes())))
    return schema, columns

def commitment(row, table):
    if isinstance(row, bytes): return row
    schema, columns = row
    hashes = []
    for number, column in enumerate(columns, 1):
        if not isinstance(column, bytes):
            salt, (tag, data) = column
            head = b"\x02" + salt + u32(table) + u32(number) + bytes([tag]) + u32(len(data))
            column = sha(head, data)
        hashes.append(column)
    return sha(b"\x03", u32(table), u32(schema), *hashes, u32(len(hashes)))

def read_hashes(reader):
    data = reader.bytes()
    need(len(data) % 32 == 0, "hashes have 32 bytes each")
    return [data[at : at + 32] for at in range(0, len(data), 32)]

class Node:
    def __init__(self, reader, levels=MAX_LEVELS):
        reader.array(4); self.level = reader.uint(255)
        need(self.level < levels, "a tree is too deep")
        self.entries = reader.uint(65535); count = reader.array()
        need(count <= self.entries, "a page shows more entries than it has")
        self.shown = []
        for _ in range(count):
            if self.level == 0:
                reader.array(4); self.shown.append((reader.uint(65535), Entry(reader)))
            else:
                reader.array(3); place, below = reader.uint(65535), reader.uint()
                if reader.major() == 2: self.shown.append((place, (below, reader.bytes(32))))
                else: self.shown.append((place, (below, Node(reader, self.level))))
        self.hashes = read_hashes(reader)

    def hash(self, tree, table, sequence):
        need(self.entries > 0, "a page without entries")
        shown, hashes = list(self.shown), list(self.hashes)
        need(all(a[0] < b[0] for a, b in zip(shown, shown[1:])), "places are not in order")
        need(not shown or shown[-1][0] < self.entries, "a place outside the page")
        def part(start, end):
            if not shown or shown[0][0] >= end:
                if not sequence or sequence[-1][0] != GAP: sequence.append((GAP, None))
                need(hashes, "a hash is missing")
                return hashes.pop(0)
            if end - start > 1:
                middle = start + (1 << ((end - start - 1).bit_length() - 1))
                left = part(start, middle)
                return sha(b"\x01", left, part(middle, end))
            item = shown.pop(0)[1]
            if self.level == 0:
                sequence.append((ENTRY, item))
                return item.hash(tree, table)
            count, below = item
            if isinstance(below, bytes):
                sequence.append((COUNT, count))
                child = below
            else:
                need(below.level + 1 == self.level, "a child is not one level below")
                need(below.level or below.entries == count, "a leaf has another count")
                child = below.hash(tree, table, sequence)
            return sha(b"\x06", child, u64(count))
        root = part(0, self.entries)
        need(not shown and not hashes, "a page shows more than it has")
        return sha(b"\x07", bytes([self.level]), u16(self.entries), root)

EMPTY = sha(b"\x07\x00\x00\x00", sha())

def check_tree(node, tree, table, root):
    """The sequence that a node shows, if it is this tree with this root."""
    height, entries, wanted = root
    if node is None:
        need((height, entries, wanted) == (0, 0, EMPTY), f"tree {tree} is not empty")
        return []
    need(node.level == height, "the top page has another level")
    sequence = []
    need(node.hash(tree, table, sequence) == wanted, f"tree {tree} is not the one signed for")
    keys = [item.key for form, item in sequence if form == ENTRY]
    need(all(a < b for a, b in zip(keys, keys[1:])), "entries are not in order")
    return sequence

def entries_of(sequence): return [item for form, item in sequence if form == ENTRY]

def root_in_forest(node, state, tree):
    sequence = []
    need(node.hash(0, None, sequence) == state, "the forest is not the one signed for")
    for entry in entries_of(sequence):
        if entry.key == tree.to_bytes(4, "big") and entry.form == 3: return entry.root
    raise Refused(f"tree {tree} is not shown")

def neighbours(sequence, at):
    def key(index):
        if 0 <= index < len(sequence) and sequence[index][0] == ENTRY: return sequence[index][1].key
        return None

    return key(at - 1), key(at + 1)

def check_gaps(sequence, may):
    for at, (form, _) in enumerate(sequence):
        if form == GAP: need(may(*neighbours(sequence, at)), "rows may be missing")

def whole(span): return lambda a, b: (b is not None and b <= span.low) or (a is not None and span.ends_by(a))

# ---- records and logs ----

class Record:
    def __init__(self, reader):
        reader.array(3)
        self.previous, self.meta, self.data = reader.bytes(32), reader.bytes(138), reader.bytes()
        field = lambda form, at: struct.unpack_from(form, self.meta, at)[0]
        self.position, self.tenant = field("<Q", 0), field("<Q", 8)
        self.time, self.last = field("<Q", 32), field("<Q", 48)
        self.stream, self.kind, self.length = field("<I", 56), field("<H", 60), field("<I", 134)
        self.commitment = self.meta[102:134]

    def check(self, tenant, size, root, proof):
        need(self.tenant == tenant, "a record of another tenant")
        need(self.length == len(self.data), "a record's data has another length")
        leaf = sha(b"\0", sha(self.previous, self.meta, self.data))
        check_inclusion(leaf, self.position, size, proof, root)

    def opens(self, salt, payload):
        inner = sha(b"\x04", salt, u32(self.stream), u32(len(payload)), payload)
        return sha(b"\x05", u32(self.stream), inner) == self.commitment

def check_inclusion(leaf, index, size, proof, root):
    """RFC 9162, 2.1.3.2."""
    need(index < size, "a record is not in the log")
    node, last, value = index, size - 1, leaf
    for sibling in proof:
        need(last > 0, "an inclusion proof is too long")
        if node & 1 or node == last:
            value = sha(b"\1", sibling, value)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else: value = sha(b"\1", value, sibling)
        node, last = node >> 1, last >> 1
    need(last == 0 and value == root, "a record is not in the log")

def read_opening(reader):
    reader.array(3); kind = reader.uint()
    need(kind <= 1, "unknown opening")
    if kind == 0: return (0, reader.bytes(16), reader.bytes())
    return (1, reader.uint(2**32 - 1), read_row(reader))

# ---- notes and policies ----

def decode64(text):
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise Refused("not base64") from None
    need(base64.b64encode(data).decode() == text, "not canonical base64")
    return data

class Key:
    def __init__(self, text):
        name, number, rest = (text.split("+", 2) + ["", ""])[:3]
        data = decode64(rest)
        need(len(data) == 33 and data[0] in (1, 4), "not a verifier key")
        self.name, self.kind = name, data[0]
        self.id = sha(name.encode(), b"\n", data)[:4]
        need(name and number == self.id.hex(), "the key's id is another")
        self.raw = data[1:]
        self.key = Ed25519PublicKey.from_public_bytes(self.raw)

    def signed(self, signature, message):
        try:
            self.key.verify(signature, message)
            return True
        except InvalidSignature:
            return False

class Policy:
    def __init__(self, text):
        self.log, self.quorum, self.witnesses, self.groups = None, None, {}, []
        names, keys = set(), set()
        for line in text.splitlines():
            words = line.split("#")[0].split()
            if not words: continue
            kind, words = words[0], words[1:]
            if kind == "log" and words and self.log is None:
                self.log = Key(words[0])
                need(self.log.kind == 1, "not a log's key")
            elif kind == "witness" and len(words) >= 2:
                key = Key(words[1])
                need(key.kind == 4 and key.raw not in keys, "not a cosigner's key, or twice")
                need(words[0] not in names, "a name is taken")
                keys.add(key.raw)
                names.add(words[0])
                self.witnesses[words[0]] = key
            elif kind == "group" and len(words) >= 3:
                name, threshold, members = words[0], words[1], words[2:]
                count = {"any": 1, "all": len(members)}.get(threshold) or int(threshold)
                need(0 < count <= len(members) == len(set(members)), "a bad group")
                need(set(members) <= names and name not in names, "a bad group")
                names.add(name)
                self.groups.append((name, count, members))
            elif kind == "quorum" and len(words) == 1 and words[0] != "none" and not self.quorum:
                need(words[0] in names, "the quorum is not named")
                self.quorum = words[0]
            else: raise Refused("not a line of a policy")
        need(self.log and self.quorum, "a policy names a log and a quorum")

    def check(self, note):
        """Size and root of the head, if those sign for it whom the policy names."""
        need(len(note) <= 64 * 1024, "the note is too long")
        bad = [c for c in note if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160]
        need(not bad and "\n\n" in note and note.endswith("\n"), "not a signed note")
        at = note.rindex("\n\n")
        text, lines = note[: at + 1], note[at + 2 : -1].split("\n")
        need(len(lines) <= 64, "too many signatures")
        signatures = []
        for line in lines:
            words = line.split(" ")
            need(len(words) == 3 and words[0] == "\u2014" and words[1], "not a signature")
            need("+" not in words[1], "not a signature")
            data = decode64(words[2])
            need(len(data) > 4, "not a signature")
            signatures.append((words[1], data[:4], data[4:]))
        head = text.split("\n")
        need(len(head) >= 4 and head[1].isascii() and head[1].isdigit(), "not a checkpoint")
        need(str(int(head[1])) == head[1] and int(head[1]) < 1 << 64, "not a checkpoint")
        root = decode64(head[2])
        need(head[0] == self.log.name, "another cluster's log")
        need(len(root) == 32, "not a checkpoint")
        of = lambda key: [s for name, number, s in signatures if (name, number) == (key.name, key.id)]
        need(any(self.log.signed(s, text.encode()) for s in of(self.log)), "the log did not sign")
        satisfied = set()
        for name, key in self.witnesses.items():
            for signature in of(key):
                time = int.from_bytes(signature[:8], "big")
                message = f"cosignature/v1\ntime {time}\n{text}".encode()
                if len(signature) == 72 and key.signed(signature[8:], message): satisfied.add(name)
        for name, count, members in self.groups:
            if sum(member in satisfied for member in members) >= count: satisfied.add(name)
        need(self.quorum in satisfied, "too few cosigners")
        return int(head[1]), root

# ---- proof files ----

class Schema:
    def __init__(self, data):
        r = Reader(data)
        need(r.array() >= 10 and 1 <= r.uint() <= 8, "a schema of another format")
        self.table, self.name = r.uint(2**32 - 1), r.text()
        for _ in range(3): r.uint()
        self.rows, self.history = r.uint(2**32 - 1), r.uint(2**32 - 1)
        self.columns = []
        for _ in range(r.array()):
            fields = r.array()
            need(fields >= 2, "a column has other fields")
            name = r.text(); parts = r.array(); number = r.uint()
            tags = [BOOLEAN, INTEGER, INTEGER, INTEGER, DOUBLE, DECIMAL, TEXT, TEXT, BLOB, DATE,
                    TIMESTAMP, UUID, JSON]
            need(number < len(tags) and parts == {5: 3, 7: 2}.get(number, 1), "unknown type")
            rest = [r.uint(2**32 - 1) for _ in range(parts - 1)]
            self.columns.append((name, tags[number], rest[1] if number == 5 else 0))
            for _ in range(fields - 2): r.skip()
        need(0 < len(self.columns) <= 256, "a bad number of columns")
        self.key = [r.uint(2**32 - 1) for _ in range(r.array())]
        need(all(1 <= number <= len(self.columns) for number in self.key), "a bad primary key")

    def column(self, number):
        need(1 <= number <= len(self.columns), "the table has no such column")
        return self.columns[number - 1]

REDACTED = "redacted"

class Table:
    """A table whose schema is proved, and the roots of its trees."""

    def __init__(self, proof, state, number):
        root = root_in_forest(proof.state, state, 1)
        sequence = check_tree(proof.catalog, 1, None, root)
        key = b"\1" + number.to_bytes(4, "big")
        found = [e for e in entries_of(sequence) if e.key == key and e.form == 1]
        need(found, "the schema is not shown")
        self.schema = Schema(found[0].value)
        need(self.schema.table == number, "the schema is another table's")
        self.rows = root_in_forest(proof.state, state, self.schema.rows)
        self.forest = lambda: root_in_forest(proof.state, state, self.schema.history)

    def cell(self, row, number):
        _, tag, _ = self.schema.column(number)
        if number > len(row): return (NULL, b"")
        if isinstance(row[number - 1], bytes): return REDACTED
        value = row[number - 1][1]
        need(value[0] in (tag, NULL), "a value of another type")
        return value

    def value(self, row, number):
        value = self.cell(row, number)
        need(value != REDACTED, "a column that is looked at is hidden")
        return value

    def row(self, entry, key):
        """The columns of an entry's row, if they are under their own key."""
        need(entry.form == 2 and not isinstance(entry.row, bytes), "a row is not shown")
        row = entry.row[1]
        need(len(row) <= len(self.schema.columns), "a row has more columns than its table")
        if self.schema.key:
            parts = [key_part(self.value(row, n), *self.schema.column(n)[1:]) for n in self.schema.key]
            need(b"".join(parts) == key, "a row lies under another's key")
        else: need(len(key) == 8, "a row lies under another's key")
        return row

    def passes(self, row, query):
        return query.filter is None or holds(query.filter, lambda n: self.value(row, n)) is True

class Proof:
    def __init__(self, data):
        need(len(data) <= MAX_FILE, "the file is too large")
        r = Reader(data)
        r.array(7)
        need(r.text() == "verity proof" and r.uint() == 1, "not a proof of this version")
        self.query_bytes = r.bytes()
        self.query = Query(self.query_bytes)
        node = lambda: Node(r)
        def nodes():
            count = r.array()
            need(count <= 1000, "more nodes than ranges")
            return [r.option(node) for _ in range(count)]
        def record():
            r.array(2)
            return Record(r), read_hashes(r)
        fields, self.kind = r.array(), r.uint()
        need({0: 5, 1: 4, 2: 4, 3: 2}.get(self.kind) == fields, "unknown evidence")
        if self.kind == 0:
            self.catalog, self.rows = node(), nodes()
            self.history, self.record = r.option(nodes), r.option(record)
        elif self.kind == 1: self.catalog, self.row, self.versions = node(), r.option(node), r.option(node)
        elif self.kind == 2:
            self.record = (Record(r), read_hashes(r))
            self.opening = r.option(lambda: read_opening(r))
        else: self.node = r.option(node)
        self.state = r.option(node); r.array(5)
        self.forest, self.heads, self.head = node(), node(), Record(r)
        self.head_opening, self.head_inclusion = read_opening(r), read_hashes(r)
        self.note = r.text(); r.end()

    def tenant_head(self, size, root):
        self.head.check(0, size, root, self.head_inclusion)
        need(self.head.kind == 6 and self.head_opening[0] == 0, "no checkpoint record")
        _, salt, payload = self.head_opening
        need(self.head.opens(salt, payload), "the record does not hold the payload")
        r = Reader(payload)
        r.array(7); covered = r.uint(); r.bytes(32), r.bytes(32), r.uint(), r.uint()
        state, position = r.bytes(32), r.uint(); r.end()
        need(covered == position and self.head.position == covered + 1, "no state root")
        sequence = check_tree(self.heads, 6, None, root_in_forest(self.forest, state, 6))
        key = self.query.tenant.to_bytes(8, "big")
        found = [e for e in entries_of(sequence) if e.key == key and e.form == 1]
        need(found, "the tenant's head is not shown")
        r = Reader(found[0].value)
        r.array(4); head = r.uint(), r.bytes(32), r.bytes(32), r.bytes(32); r.end()
        return head[0], head[1], head[3]

    def answer(self, policy):
        size, root = policy.check(self.note)
        log_size, log_root, state = self.tenant_head(size, root)
        need(log_size > 0, "a tenant without records")
        query = self.query
        need(self.kind == {0: 0, 1: 0, 2: 1, 3: 2, 4: 3}[query.kind], "another query's evidence")
        fresh = self.head.position + 1 == size
        if query.kind == 3:
            need(self.state is None, "more is shown than was asked")
            return self.event(log_size, log_root), fresh
        need(self.state is not None, "the state is not shown")
        if query.kind == 4: return self.outcome(state), fresh
        table = Table(self, state, query.table)
        if query.kind == 2: return self.versions_of(table), fresh
        if query.kind == 0: [table.schema.column(number) for number in query.columns]
        if query.as_of is None:
            need(self.history is None and self.record is None, "more is shown than was asked")
            if query.kind == 1 and query.filter is None:
                return sum(self.count(table, *pair) for pair in self.pairs()), fresh
            rows = self.current(table)
        else: rows = self.rows_as_of(table, log_size, log_root)
        if query.kind == 1: return len(rows), fresh
        return [[table.cell(row, number) for number in query.columns] for row in rows], fresh

    def pairs(self):
        need(len(self.rows) == len(self.query.ranges), "a range is missing")
        return list(zip(self.query.ranges, self.rows))

    def count(self, table, span, node):
        sequence = check_tree(node, table.schema.rows, table.schema.table, table.rows)
        check_gaps(sequence, whole(span))
        total = 0
        for at, (form, item) in enumerate(sequence):
            if form == ENTRY: total += span.holds(item.key)
            elif form == COUNT:
                need(not span.point, "a count where none belongs")
                left = next((s for s in reversed(sequence[:at]) if s[0] != COUNT), None)
                right = next((s for s in sequence[at + 1 :] if s[0] != COUNT), None)
                need(left is None or left[0] == ENTRY, "a count beside a gap")
                need(right is None or right[0] == ENTRY, "a count beside a gap")
                need(left[1].key >= span.low if left else span.low == b"", "a count past the range")
                need(span.high is None or (right and right[1].key <= span.high), "a count past the range")
                total += item
        return total

    def current(self, table):
        query, found, nodes = self.query, [], list(self.rows)
        descending = query.kind == 0 and query.descending
        skip = query.offset if query.kind == 0 else 0
        limit = query.limit if query.kind == 0 else None
        for span in reversed(query.ranges) if descending else query.ranges:
            if limit is not None and len(found) >= limit: break
            need(nodes, "a range is missing")
            sequence = check_tree(nodes.pop(0), table.schema.rows, table.schema.table, table.rows)
            order = range(len(sequence))
            for at in reversed(order) if descending else order:
                form, item = sequence[at]
                done = limit is not None and len(found) >= limit
                need(form != COUNT, "rows may be missing")
                if form == GAP: need(done or whole(span)(*neighbours(sequence, at)), "rows may be missing")
                elif span.holds(item.key):
                    if done:
                        need(item.form != 2, "more is shown than was asked")
                        continue
                    row = table.row(item, item.key)
                    if table.passes(row, query):
                        if skip: skip -= 1
                        else: found.append(row)
        need(not nodes, "more is shown than was asked")
        return found

    def rows_as_of(self, table, log_size, log_root):
        query, at = self.query, self.query.as_of
        need(self.history is not None and self.record is not None, "the past is not shown")
        need(at < log_size, "the state does not reach the position")
        record, inclusion = self.record
        record.check(query.tenant, log_size, log_root, inclusion)
        need(record.position == at and record.last == at, "no transaction ended there")
        need(len(self.history) == len(query.ranges), "a range is missing")
        history_root, schema, found = table.forest(), table.schema, {}
        for (span, rows), past in zip(self.pairs(), self.history):
            sequence = check_tree(rows, schema.rows, schema.table, table.rows)
            check_gaps(sequence, whole(span))
            need(all(form != COUNT for form, _ in sequence), "rows may be missing")
            for entry in entries_of(sequence):
                if span.holds(entry.key):
                    need(entry.form == 2, "a row is not shown")
                    if entry.begun_at <= at: found[entry.key] = table.row(entry, entry.key)
            sequence = check_tree(past, schema.history, schema.table, history_root)
            need(all(form != COUNT for form, _ in sequence), "rows may be missing")
            need(all(len(e.key) >= 8 for e in entries_of(sequence)), "not a version")
            def may(a, b):
                if span.point:
                    first = span.low + min(at + 1, (1 << 64) - 1).to_bytes(8, "big")
                    return (b is not None and b <= first) or (a is not None and a >= first)
                if a is not None and b is not None and a[:-8] == b[:-8]:
                    if int.from_bytes(b[-8:], "big") <= at or int.from_bytes(a[-8:], "big") > at: return True
                low = b is not None and b <= span.low
                return low or (a is not None and span.high is not None and a >= span.high)
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
                        found[key] = table.row(entry, key)
        rows = [found[key] for key in sorted(found)]
        if query.kind == 0 and query.descending: rows.reverse()
        rows = [row for row in rows if table.passes(row, query)]
        if query.kind == 0:
            rows = rows[query.offset :]
            rows = rows if query.limit is None else rows[: query.limit]
        return rows

    def versions_of(self, table):
        key, schema, found = self.query.key, table.schema, []
        every = range(1, len(schema.columns) + 1)
        low, high = key + b"\0" * 8, key + b"\xff" * 8
        sequence = check_tree(self.versions, schema.history, schema.table, table.forest())
        check_gaps(sequence, lambda a, b: (b is not None and b <= low) or (a is not None and a >= high))
        need(all(form != COUNT for form, _ in sequence), "rows may be missing")
        for entry in entries_of(sequence):
            need(len(entry.key) >= 8, "not a version")
            if entry.key[:-8] == key:
                row = table.row(entry, key)
                ended = int.from_bytes(entry.key[-8:], "big")
                found.append((entry.begun_at, ended, [table.cell(row, n) for n in every]))
        sequence = check_tree(self.row, schema.rows, schema.table, table.rows)
        class Point:
            low, ends_by = key, staticmethod(lambda other: other >= key)
        check_gaps(sequence, whole(Point))
        for entry in entries_of(sequence):
            if entry.key == key:
                row = table.row(entry, key)
                found.append((entry.begun_at, None, [table.cell(row, n) for n in every]))
        return found

    def event(self, log_size, log_root):
        record, inclusion = self.record
        record.check(self.query.tenant, log_size, log_root, inclusion)
        need(record.position == self.query.position, "a record at another position")
        if self.opening is None: return (record.kind, None)
        kind, first, second = self.opening
        if kind == 0: need(record.kind != 1 and record.opens(first, second), "it does not hold the payload")
        else:
            need(not isinstance(second, bytes), "a row is shown by its columns")
            need(record.kind == 1 and commitment(second, first) == record.commitment, "another row")
        return (record.kind, second)

    def outcome(self, state):
        sequence = check_tree(self.node, 2, None, root_in_forest(self.state, state, 2))
        wanted = self.query.id
        class Point:
            low, ends_by = wanted, staticmethod(lambda other: other >= wanted)
        check_gaps(sequence, whole(Point))
        for entry in entries_of(sequence):
            if entry.key == wanted:
                need(entry.form == 1, "the outcome is not shown")
                r = Reader(entry.value)
                r.array(4); result = r.uint(), r.uint(), r.uint(); r.array(3); r.skip()
                refused = r.uint() != 0; r.skip(); r.end()
                return result + (refused,)
        return None

def verify(policy_text, data, query=None):
    try:
        proof = Proof(data)
        need(query is None or proof.query_bytes == query, "the proof answers another query")
        return proof.answer(Policy(policy_text))
    except RecursionError:
        raise Refused("too deep") from None

def main(args):
    if len(args) not in (2, 4):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    with open(args[0], encoding="utf-8") as policy, open(args[1], "rb") as file:
        text, data = policy.read(), file.read()
    try:
        answer, fresh = verify(text, data, bytes.fromhex(args[3]) if len(args) == 4 else None)
    except Refused as reason:
        print(f"refused: {reason}")
        return 1
    print(f"valid{'' if fresh else ', not fresh'}: {answer}")
    return 0

if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
