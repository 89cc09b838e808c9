//! What the README shows, behind this line.

use verity::{Error, Value, Verity};

pub fn remember(directory: &str) -> Result<(), Error> {
    let database = Verity::open(directory)?; // makes it when it is new
    database.execute("CREATE TABLE people (id BIGINT PRIMARY KEY, name TEXT)", &[])?;
    let insert = database.prepare("INSERT INTO people (id, name) VALUES (?, ?)")?;
    insert.execute(&[Value::Integer(1), Value::text("Ada")])?;
    let rows = database.query("SELECT name FROM people WHERE id = 1", &[])?.rows;
    assert_eq!(rows, vec![vec![Value::text("Ada")]]);
    database.close()
}
