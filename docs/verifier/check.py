#!/usr/bin/env python3
"""Does the second verifier say what the first one says?

Of every golden proof file and exported log (all hold), and of every file that `verdicts` makes of
one: a bit turned, or another file's query written into it. The first verifier wrote the verdicts.
"""

import io
import pathlib
import sys

import verify
import verify_log

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "core" / "tests" / "golden" / "proofs"
QUERY_AT = 1 + 13 + 1  # Array head, "verity proof", version.
TENANTS = {"one": 1, "two": 2, "cluster": 0}  # Whose the golden logs are.


def query_of(data):
    """Where the query's byte string lies, its head included, and where its bytes begin."""
    low = data[QUERY_AT] & 31
    size = {24: 1, 25: 2}.get(low, 0)
    length = int.from_bytes(data[QUERY_AT + 1 : QUERY_AT + 1 + size], "big") if size else low
    begin = QUERY_AT + 1 + size
    return begin, begin + length


def with_query(data, other):
    return data[:QUERY_AT] + other[QUERY_AT : query_of(other)[1]] + data[query_of(data)[1] :]


def with_bit(data, bit):
    lie = bytearray(data)
    lie[bit // 8] ^= 1 << bit % 8
    return bytes(lie)


def verdict(policy, data, query, tenant):
    try:
        if data.startswith(verify_log.MAGIC):
            verify_log.verify(policy, io.BytesIO(data), tenant)
        else:
            verify.verify(policy, data, query)
        return "valid", ""
    except verify.Refused as reason:
        return "refused", str(reason)


def main():
    policy = (GOLDEN / "policy").read_text(encoding="utf-8")
    files = {path.stem: path.read_bytes() for path in sorted(GOLDEN.glob("*.proof"))}
    cases = [(name, data, None, None, "valid") for name, data in files.items()]
    logs = {path.stem: path.read_bytes() for path in sorted(GOLDEN.glob("*.log"))}
    for line in (GOLDEN / "log_verdicts").read_text(encoding="utf-8").splitlines():
        name, change, what, wanted = line.split()
        data, at = logs[name], int(what)
        if change == "tenant":
            # As it is, asked for as the log of a tenant.
            cases.append((line, data, None, at, wanted))
            continue
        lie = {"bit": with_bit(data, at), "cut": data[:at], "more": data + bytes(at)}[change]
        # Not begun as one it is no log at all.
        if lie.startswith(verify_log.MAGIC):
            cases.append((line, lie, None, TENANTS[name], wanted))
    for line in (GOLDEN / "verdicts").read_text(encoding="utf-8").splitlines():
        name, change, what, wanted = line.split()
        data = files[name]
        lie = with_bit(data, int(what)) if change == "bit" else with_query(data, files[what])
        # A bit that makes another query of it, whose answer it shows, is refused by who asked.
        asked = verify.decode(data)[2] if change == "bit" else None
        cases.append((line, lie, asked, None, wanted))
    wrong = 0
    for name, data, asked, tenant, wanted in cases:
        found, reason = verdict(policy, data, asked, tenant)
        if found != wanted:
            wrong += 1
            print(f"{name}: {found} {reason}")
    refused = sum(wanted == "refused" for *_, wanted in cases)
    print(f"{len(cases) - refused} valid and {refused} refused files, {wrong} judged wrongly")
    return 1 if wrong or len(files) < 20 or len(logs) < 2 or refused < 100 else 0


if __name__ == "__main__":
    sys.exit(main())
