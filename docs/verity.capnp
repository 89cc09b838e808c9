# What clients and servers say to each other. One message a frame, unpacked; docs/NETWORK.md has frames, handshake and rules.
# Numbers of fields and of alternatives never change their meaning; new ones are added at the end.

@0xd6b1f8a3c2e94705;

struct Request {
  id @0 :UInt64;
  # Chosen by the client, above 0, repeated by the answer. Answers come in any order.
  tenant @1 :UInt64;
  union {
    execute @2 :Execute;
    query @3 :Query;
    commitment @4 :Data;
    # What became of the transaction with this idempotency id (16 bytes).
    status @5 :Void;
    prove @6 :Prove;
    taken @7 :UInt32;
    # Of the query with this number, which has a window: so many parts of its answer were taken, all in all.
    cancel @8 :Void;
    # Nothing more is wanted of the query with this number, which has a window.
  }
}

struct Execute {
  # One transaction: all operations or none.
  idempotency @0 :Data;
  # 16 bytes: not_after in milliseconds since 1970 (48 bits, big endian), 80 random bits. The same for every try.
  after @1 :Data;
  # Empty, or the id of the transaction that must be applied before.
  operations @2 :List(Operation);
}

struct Operation {
  union {
    sql @0 :Sql;
    insertRows @1 :InsertRows;
    append @2 :Append;
    createTenant @3 :UInt64;
    # Its number; of tenant 0 only.
  }
}

struct Sql {
  text @0 :Text;
  params @1 :List(Value);
}

struct InsertRows {
  table @0 :Text;
  columns @1 :List(Text);
  rows @2 :List(Row);
}

struct Append {
  stream @0 :Text;
  expected :union {
    any @1 :Void;
    none @2 :Void;
    exists @3 :Void;
    exact @4 :UInt64;
  }
  records @5 :List(Data);
}

struct Query {
  text @0 :Text;
  params @1 :List(Value);
  seen @2 :UInt64;
  # Positions that the client has seen of this tenant's log, as a count: the answer is not older. 0: any will do.
  anywhere @3 :Bool;
  # Whoever is asked may answer; else only the primary.
  returning @4 :UInt64;
  # 0, or where a transaction ended, as a count: the text is its write with RETURNING, and the rows of that are asked for.
  window @5 :UInt32;
  # 0, or how many parts of the answer may be on their way, or not yet taken, at a time.
}

struct Prove {
  # The answer as a file that proves itself (docs/PROOFS.md), made by the primary of the newest state.
  of :union {
    sql @0 :Sql;
    # A SELECT.
    history @1 :Sql;
    # All versions of the one row that a SELECT names by its whole key.
    event @2 :UInt64;
    # The record at a position.
    commitment @3 :Data;
    # What is remembered under an idempotency id (16 bytes).
  }
  since @4 :UInt64;
  # Size of an older head, which the proof's own is to be shown to continue; 0: of none.
}

struct Row {
  values @0 :List(Value);
}

struct Value {
  union {
    null @0 :Void;
    boolean @1 :Bool;
    integer @2 :Int64;
    double @3 :Float64;
    decimal @4 :Decimal;
    text @5 :Text;
    blob @6 :Data;
    date @7 :Int32;
    # Days since 1970-01-01.
    timestamp @8 :Int64;
    # Nanoseconds since 1970-01-01 UTC.
    uuid @9 :Data;
    json @10 :Text;
  }
}

struct Decimal {
  # (high * 2^64 + low) / 10^scale
  high @0 :Int64;
  low @1 :UInt64;
  scale @2 :UInt8;
}

struct Answer {
  id @0 :UInt64;
  union {
    reply @1 :Reply;
    rows @2 :Rows;
    commitment @3 :Commitment;
    unknown @4 :Void;
    # No transaction with this id is remembered.
    status @5 :Status;
    error @6 :Error;
    proof @7 :ProofPart;
  }
}

struct Reply {
  op @0 :UInt64;
  timestamp @1 :UInt64;
  positions @2 :UInt64;
  # Records of the tenant's log up to this transaction: its last position and one more. 0: an empty log.
  replayed @3 :Bool;
  results @4 :List(Result);
}

struct Result {
  operation @0 :UInt32;
  rowsAffected @1 :UInt64;
  detail :union {
    rows @2 :Void;
    schema @3 :Void;
    appended @4 :Appended;
    tenantCreated @5 :UInt64;
    job @6 :UInt32;
  }
}

struct Appended {
  stream @0 :UInt32;
  version @1 :UInt64;
}

struct Rows {
  columns @0 :List(Text);
  # These four in the first part alone.
  first @1 :Bool;
  position @2 :UInt64;
  # The snapshot.
  asked :union {
    same @3 :Void;
    inside @4 :UInt64;
    # AS OF named this position inside a transaction; what was read is the state before it.
  }
  rows @5 :List(Row);
  more @6 :Bool;
  # Another part follows. One without rows that is not the last is only a sign of life, and no part.
}

struct ProofPart {
  file @0 :Data;
  # Bytes of the file, in order.
  more @1 :Bool;
  # Another answer with more of them follows.
  query @2 :Data;
  # The canonical query, in the last answer.
  policy @3 :Text;
  # Whom to believe for the proof to hold; in the last answer. A reader gets it another way than from who proves.
}

struct Commitment {
  position @0 :UInt64;
  op @1 :UInt64;
  timestamp @2 :UInt64;
  union {
    results @3 :List(Result);
    refused @4 :Error;
  }
}

struct Error {
  sqlstate @0 :Text;
  message @1 :Text;
  retry @2 :Retry;
  primary @3 :UInt8 = 255;
  # With notPrimary: who leads, as far as the one that answers knows; 255: it does not know.
  facts @4 :Data;
  # The refusal as the log would keep it (CBOR), for clients that know it; may be empty.
}

enum Retry {
  never @0;
  # The answer is final.
  same @1;
  # The same request may succeed, unchanged; nothing was done.
  elsewhere @2;
  # As same, at another replica.
  byId @3;
  # It may have been done: only the same idempotency id finds out.
}

struct Status {
  cluster @0 :Data;
  replica @1 :UInt8;
  replicaCount @2 :UInt8;
  release @3 :UInt32;
  phase @4 :Text;
  # opening, recovering, boot, view change, following, primary, failed.
  view @5 :UInt64;
  primary @6 :UInt8 = 255;
  op @7 :UInt64;
  commit @8 :UInt64;
  # Highest op known to be committed, by anybody.
  applied @9 :UInt64;
  checkpoint @10 :UInt64;
  generation @11 :UInt64;
  missing @12 :UInt64;
  # An op that no reachable replica can give; 0: none.
  freeBytes @13 :UInt64;
  links @14 :List(Link);
}

struct Link {
  replica @0 :UInt8;
  connected @1 :Bool;
  dropped @2 :UInt64;
}
