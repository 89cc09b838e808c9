//! Whom a command works with: a database in this process, or the servers of a cluster.

use verity::proof::{ProofOf, Proved};
use verity::{
    Client, ColumnType, Error, IdempotencyId, Operation, Reply, Rows, StreamOutcome, TenantId,
    Value, Verity,
};

use super::import::infer::parse_type;

pub enum Session {
    Local(Verity),
    Remote(Client),
}

impl Session {
    pub fn connect(addresses: &[String], tenant: u64) -> Result<Session, Error> {
        Ok(Session::Remote(Verity::connect(addresses)?.tenant(TenantId::new(tenant))))
    }

    pub fn execute(&self, sql: &str) -> Result<Reply, Error> {
        match self {
            Session::Local(database) => database.execute(sql, &[]),
            Session::Remote(client) => client.execute(sql, &[]),
        }
    }

    pub fn run(&self, sql: &str) -> Result<StreamOutcome, Error> {
        match self {
            Session::Local(database) => database.run_stream(sql, &[]),
            Session::Remote(client) => client.run_stream(sql, &[]),
        }
    }

    pub fn query(&self, sql: &str, params: &[Value]) -> Result<Rows, Error> {
        match self {
            Session::Local(database) => database.query(sql, params),
            Session::Remote(client) => client.query(sql, params),
        }
    }

    pub fn prove_of(&self, of: ProofOf, since: Option<u64>) -> Result<Proved, Error> {
        match self {
            Session::Local(database) => database.prove_of(of, since),
            Session::Remote(client) => client.prove_of(of, since),
        }
    }

    /// A last checkpoint, where the database is here.
    pub fn close(self) -> Result<(), Error> {
        match self {
            Session::Local(database) => database.close(),
            Session::Remote(_) => Ok(()),
        }
    }

    pub fn new_id(&self) -> Result<IdempotencyId, Error> {
        match self {
            Session::Local(database) => database.new_id(),
            Session::Remote(client) => client.new_id(),
        }
    }

    pub fn transaction_with_id(
        &self,
        id: IdempotencyId,
        operations: Vec<Operation>,
    ) -> Result<Reply, Error> {
        match self {
            Session::Local(database) => database.transaction_with_id(id, operations),
            Session::Remote(client) => client.transaction_with_id(id, operations),
        }
    }

    /// Names and types of a table's columns, in order; `None`: there is no such table.
    pub fn columns(&self, table: &str) -> Result<Option<Vec<(String, ColumnType)>>, Error> {
        let client = match self {
            Session::Local(database) => {
                let schema = database.table(table)?;
                return Ok(schema.map(|schema| {
                    let columns = schema.columns.iter();
                    columns.map(|column| (column.name.clone(), column.column_type)).collect()
                }));
            }
            Session::Remote(client) => client,
        };
        let sql = "SELECT name, type FROM __columns WHERE table_name = ? ORDER BY ordinal";
        let rows = client.query(sql, &[Value::text(table)])?.rows;
        let column = |row: &Vec<Value>| match &row[..] {
            [Value::Text(name), Value::Text(of)] => Some((name.to_string(), parse_type(of)?)),
            _other_shapes => None,
        };
        let columns: Option<Vec<_>> = rows.iter().map(column).collect();
        match columns {
            Some(columns) => Ok(Some(columns).filter(|columns| !columns.is_empty())),
            None => Err(Error::WrongKind("a table with a type that this release does not know")),
        }
    }
}
