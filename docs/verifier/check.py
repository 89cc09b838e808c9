#!/usr/bin/env python3
"""Does the second verifier say what the first one says of every golden proof file?"""

import pathlib
import sys

import verify

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "core" / "tests" / "golden" / "proofs"


def verdict(policy, path):
    try:
        verify.verify(policy, path.read_bytes())
        return True, "valid"
    except verify.Refused as reason:
        return False, str(reason)


def main():
    policy = (GOLDEN / "policy").read_text(encoding="utf-8")
    good, bad = sorted(GOLDEN.glob("*.good")), sorted(GOLDEN.glob("*.bad"))
    wrong = 0
    for path in good + bad:
        accepted, reason = verdict(policy, path)
        if accepted != (path.suffix == ".good"):
            wrong += 1
            print(f"{path.name}: {reason}")
    print(f"{len(good)} good and {len(bad)} bad proofs, {wrong} judged wrongly")
    return 1 if wrong or not good or not bad else 0


if __name__ == "__main__":
    sys.exit(main())
