//! Proofs over the network: who leads makes them, the client verifies them, nobody is believed.

use std::time::Duration;

use verity::proof::{IdempotencyId, Policy, ProofFile, ProofOf, QueryKind, Reject, verify_file};
use verity::{Client, ClientOptions, Error, Position, TenantId, Value, Verity};

use verity_core::limits::ANSWER_ROWS_BYTES;

use super::processes::Cluster;
use crate::run::verity;

fn fill(client: &Client, rows: i64) {
    client.execute("CREATE TABLE people (id BIGINT PRIMARY KEY, name TEXT)", &[]).unwrap();
    let name = |id: i64| Value::text(&format!("name {id}"));
    let rows = (0..rows).map(|id| vec![Value::Integer(id), name(id)]).collect();
    client.insert_rows("people", &["id", "name"], rows).unwrap();
}

fn all() -> ProofOf {
    ProofOf::Sql { text: "SELECT id, name FROM people".to_string(), parameters: Vec::new() }
}

#[test]
fn answers_are_proved_over_the_network() {
    let mut cluster = Cluster::new();
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    fill(&client, 3_000);

    // A file of several parts.
    let proved = client.prove_of(all(), None).unwrap();
    assert!(proved.file.len() > ANSWER_ROWS_BYTES, "{}", proved.file.len());
    let file = ProofFile::decode(&proved.file).unwrap();
    let verified = verify_file(&file, &Policy::parse(&proved.policy).unwrap()).unwrap();
    assert!(verified.fresh);
    assert_eq!(verified.query.encode(), proved.query);

    // Rows that were verified here are those that are there, also what was written just before.
    let reader = client.verified(Policy::parse(&proved.policy).unwrap());
    for id in 3_000..3_010 {
        client.insert_rows("people", &["id"], vec![vec![Value::Integer(id)]]).unwrap();
        let sql = "SELECT id, name FROM people WHERE id >= ?";
        let params = [Value::Integer(2_995)];
        let found = reader.query(sql, &params).unwrap().rows;
        assert_eq!(found, client.query(sql, &params).unwrap());
        assert_eq!(found.rows.len() as i64, id - 2_994);
    }

    // Who is not waited for holds up nobody.
    for wait_ms in 1..40 {
        let hasty = ClientOptions::new().deadline(Duration::from_millis(wait_ms));
        let hasty = hasty.connect(cluster.addresses()).unwrap();
        let _in_time_or_not = hasty.prove_of(all(), None);
    }
    records_have_proofs(&client);
    what_has_no_proof_is_refused(&client);

    // Two of the three must have signed, whoever leads; and who leads next is believed, too.
    let signed = |proved: &verity::proof::Proved| {
        let file = ProofFile::decode(&proved.file).unwrap();
        file.note.lines().filter(|line| line.contains("/replica-")).count()
    };
    assert!(signed(&proved) >= 2);
    assert_eq!(proved.policy.lines().filter(|line| line.starts_with("witness ")).count(), 3);
    assert!(proved.policy.contains("\ngroup replicas 2 "), "{}", proved.policy);
    let sql = "SELECT COUNT(*) FROM people";
    let before = reader.seen().unwrap();
    cluster.kill(cluster.primary());
    let found = reader.query(sql, &[]).unwrap();
    assert_eq!(found.rows.rows, [[Value::Integer(3_009)]]);
    assert!(reader.seen().unwrap().size > before.size);
    let next = client.prove_of(all(), Some(before.size)).unwrap();
    assert_eq!(signed(&next), 2);
    let mut policy = Policy::parse(&proved.policy).unwrap();
    policy.seen = Some(before);
    verify_file(&ProofFile::decode(&next.file).unwrap(), &policy).unwrap();
    // The word of one of them is not enough.
    let mut alone = ProofFile::decode(&next.file).unwrap();
    let at = alone.note.trim_end().rfind('\n').unwrap();
    alone.note.truncate(at + 1);
    let refused = verify_file(&alone, &policy).unwrap_err();
    assert!(matches!(refused, Reject::TooFewCosigners { cosigners: 1 }), "{refused}");
}

fn records_have_proofs(client: &Client) {
    let id = client.new_id().unwrap();
    let operations = vec![verity::Operation::Sql {
        text: "DELETE FROM people WHERE id = 7".to_string(),
        params: Vec::new(),
    }];
    let reply = client.transaction_with_id(id, operations).unwrap();
    let position = reply.position.unwrap();
    let history = "SELECT * FROM people WHERE id = 7".to_string();
    for of in [
        ProofOf::Query(QueryKind::Event { position }),
        ProofOf::Query(QueryKind::Commitment { id }),
        ProofOf::Query(QueryKind::Commitment { id: IdempotencyId([9; 16]) }),
        ProofOf::HistoryOf { text: history, parameters: Vec::new() },
    ] {
        let proved = client.prove_of(of.clone(), None).unwrap();
        let policy = Policy::parse(&proved.policy).unwrap();
        let verified = verify_file(&ProofFile::decode(&proved.file).unwrap(), &policy).unwrap();
        if let ProofOf::Query(kind) = of {
            assert_eq!(verified.query.kind, kind);
        }
    }
}

fn what_has_no_proof_is_refused(client: &Client) {
    let sql = |text: &str| ProofOf::Sql { text: text.to_string(), parameters: Vec::new() };
    let told = |of: ProofOf| client.prove_of(of, None).unwrap_err().to_string();
    let refused = client.prove_of(sql("SELECT lower(name) FROM people"), None).unwrap_err();
    assert_eq!(refused.sqlstate(), "0A000");
    assert!(refused.to_string().contains("cannot be proved"), "{refused}");
    assert!(!refused.to_string().contains("damaged"), "{refused}");
    assert!(told(sql("SELECT id FROM nowhere")).contains("nowhere"));
    let position = Position::new(1 << 40);
    assert!(told(ProofOf::Query(QueryKind::Event { position })).contains("position"));
    let nobody = client.tenant(TenantId::new(77)).prove_of(all(), None).unwrap_err();
    assert!(nobody.to_string().contains("77"), "{nobody}");
    // Canonical queries of strangers are no matter of a server's.
    let found = verify_query(client);
    let refused = client.prove_of(ProofOf::Query(found), None).unwrap_err();
    assert!(matches!(refused, Error::WrongKind(_)), "{refused}");
    // Larger than what is sent.
    client.execute("CREATE TABLE large (id BIGINT PRIMARY KEY, x TEXT)", &[]).unwrap();
    for id in 0..24 {
        let row = vec![Value::Integer(id), Value::text(&"x".repeat(400_000))];
        client.insert_rows("large", &["id", "x"], vec![row]).unwrap();
    }
    assert!(told(sql("SELECT id, x FROM large")).contains("ask for less"));
    client.prove_of(sql("SELECT id, x FROM large WHERE id < 9"), None).unwrap();
}

fn verify_query(client: &Client) -> QueryKind {
    let proved = client.prove_of(all(), None).unwrap();
    let policy = Policy::parse(&proved.policy).unwrap();
    verify_file(&ProofFile::decode(&proved.file).unwrap(), &policy).unwrap().query.kind
}

#[test]
fn the_command_proves_over_the_network_and_verifies_without_it() {
    let mut cluster = Cluster::new();
    cluster.start_all();
    fill(&Verity::connect(cluster.addresses()).unwrap(), 20);
    let dir = tempfile::tempdir().unwrap();
    let (file, policy) = (dir.path().join("answer.proof"), dir.path().join("policy"));
    let (file, policy) = (file.to_str().unwrap(), policy.to_str().unwrap());
    let sql = "SELECT id, name FROM people WHERE id < 3";
    let addresses = cluster.addresses().join(",");
    let prove = ["prove", "--connect", &addresses, "--sql", sql, "--out", file];
    verity(&[&prove[..], &["--policy-out", policy]].concat()).ok();
    drop(cluster);
    let verify = ["verify", file, "--policy", policy, "--sql", sql, "--json"];
    let run = verity(&verify).ok();
    assert_eq!(run.objects()[0]["verdict"], "valid");
    assert_eq!(run.objects()[0]["rows"][2][1], "name 2");
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
    assert_eq!(verity(&verify).code, Some(1));
    verity(&["prove", "--sql", sql, "--out", file]).fails(2, "--data");
}
