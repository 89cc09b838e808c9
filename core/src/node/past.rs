//! Reads of tables that were dropped: which catalog a SELECT with AS OF is bound to.
//!
//! A statement is bound to the tables of today first; what it is as of is known only then. If its
//! table was not there at that position, or is no more, the table that had its name then is put in
//! its place and the text is bound again. A text that means nothing to the table of today (another
//! one had the column that it names) is bound to those that had its name before, for the same
//! purpose. A statement that was prepared before keeps its table.

use alloc::sync::Arc;

use crate::ids::Position;
use crate::kernel::trees::CATALOG;
use crate::limits::PAST_TABLES_BOUND_MAX;
use crate::node::reads::{Halt, Read, ReadError, Statement};
use crate::node::running::Running;
use crate::query::bind::Source;
use crate::query::parse::Explain;
use crate::query::past::{DroppedTable, dropped_table_at, last_dropped, table_read};
use crate::query::{self, Catalog, Prepared, SqlError, SqlState, prepare_one};
use crate::store::{Fault, TreeRef};

impl Running {
    /// A text that does not bind to the tables of today: perhaps it did to one that is gone.
    pub(super) fn bind_past(
        &self,
        read: &mut Read,
        catalog: &Catalog,
        text: &str,
        error: SqlError,
    ) -> Result<Arc<Prepared>, Halt> {
        let failed = Halt::Failed(ReadError::Sql(error.clone()));
        let Some(name) = table_read(text) else { return Err(failed) };
        let tree = TreeRef::new(read.tenant, CATALOG);
        let gone = last_dropped(&self.store, tree, &name, PAST_TABLES_BOUND_MAX)?;
        let mut of_the_past = None;
        for dropped in gone {
            match past_of(catalog, dropped, text) {
                // Without AS OF it is today's tables that are asked for.
                Ok((prepared, past)) if has_as_of(&prepared) => {
                    read.past = Some(past);
                    read.gone = Some(error);
                    return Ok(prepared);
                }
                Ok(_) => return Err(failed),
                Err(error) => of_the_past = of_the_past.or(Some(error)),
            }
        }
        match of_the_past.filter(|_| error.code == SqlState::UndefinedTable) {
            Some(error) => Err(Halt::Failed(ReadError::Sql(error))),
            None => Err(failed),
        }
    }

    /// What the statement is as of is known: the table that had the name then.
    pub(super) fn bind_at(
        &mut self,
        read: &mut Read,
        prepared: Arc<Prepared>,
        position: Position,
    ) -> Result<Arc<Prepared>, Halt> {
        let query::Statement::Select(select) = &prepared.statement else { return Ok(prepared) };
        let Source::Table(schema) = &select.source else { return Ok(prepared) };
        let Statement::Text(text) = &read.statement else { return Ok(prepared) };
        if !has_as_of(&prepared) || (read.gone.is_none() && schema.created_at <= position) {
            return Ok(prepared);
        }
        let found = self.table_then(read, &schema.name, position)?;
        let Some(catalog) = self.kernel.catalog_shown(&self.store, read.tenant)? else {
            return Err(ReadError::TenantUnknown(read.tenant).into());
        };
        match (found, &read.gone) {
            (Some(dropped), _) => {
                let (prepared, past) = past_of(&catalog, dropped, text)
                    .map_err(|error| Halt::Failed(ReadError::Sql(error)))?;
                read.past = Some(past);
                Ok(prepared)
            }
            (None, Some(error)) => Err(ReadError::Sql(error.clone()).into()),
            // The read itself says that the table was not there yet.
            (None, None) => Ok(prepared),
        }
    }

    fn table_then(
        &self,
        read: &Read,
        name: &str,
        position: Position,
    ) -> Result<Option<DroppedTable>, Fault> {
        dropped_table_at(&self.store, TreeRef::new(read.tenant, CATALOG), name, position)
    }
}

fn past_of(
    catalog: &Catalog,
    dropped: DroppedTable,
    text: &str,
) -> Result<(Arc<Prepared>, Arc<Catalog>), SqlError> {
    let past = catalog.with_past(dropped);
    let prepared = prepare_one(&past, text)?;
    Ok((Arc::new(prepared), Arc::new(past)))
}

fn has_as_of(prepared: &Prepared) -> bool {
    match &prepared.statement {
        query::Statement::Select(select) => {
            select.as_of.is_some() && prepared.explain != Explain::Plan
        }
        _ => false,
    }
}
