//! Rows of an answer as they come, so that nobody needs to hold all of them.
//!
//! Invariants: columns and position are known before the first row. No row is given twice, and none
//! is left out: a stream ends with its last row or with an error, and an error is its end. What is
//! dropped early is given up: what it held is free again. At most a slice of rows (of an open
//! database) or a few frames of them (of a cluster) are in memory.

use std::fmt;
use std::task::{Context, Poll};

use verity_core::ids::Position;
use verity_core::query::Value;

use crate::client::Flow;
use crate::database::Rows;
use crate::error::Error;
use crate::reads::Slices;

/// Rows of an answer, one after the other. Made by [`crate::Verity::query_stream`] and
/// [`crate::Client::query_stream`].
pub struct RowStream {
    columns: Vec<String>,
    position: Position,
    asked: Option<Position>,
    at_hand: std::vec::IntoIter<Vec<Value>>,
    /// `None`: what is at hand is the rest.
    source: Option<Source>,
}

impl fmt::Debug for RowStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowStream")
            .field("columns", &self.columns)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// What a statement of either kind gave, with the rows to come.
#[derive(Debug)]
pub enum StreamOutcome {
    Rows(RowStream),
    Committed(verity_core::kernel::Reply),
}

/// What is known of an answer before its rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    pub columns: Vec<String>,
    pub position: Position,
    pub asked: Option<Position>,
}

/// Where more rows come from.
pub enum Source {
    Here(Box<Slices>),
    There(Flow),
}

/// What a source gives next; no rows: it has ended.
pub type More = Result<Option<Vec<Vec<Value>>>, Error>;

impl RowStream {
    pub(crate) fn new(head: Head, first: Vec<Vec<Value>>, source: Option<Source>) -> RowStream {
        let Head { columns, position, asked } = head;
        RowStream { columns, position, asked, at_hand: first.into_iter(), source }
    }

    /// Rows of RETURNING are those of their commit.
    pub(crate) fn of_commit(self, position: Position) -> RowStream {
        RowStream { position, asked: None, ..self }
    }

    /// The same columns without a row.
    pub(crate) fn of_nothing(self, position: Position) -> RowStream {
        RowStream { at_hand: Vec::new().into_iter(), source: None, ..self.of_commit(position) }
    }

    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The snapshot that is read: the end of a transaction.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The position that `AS OF` named, when it lies inside a transaction.
    #[must_use]
    pub fn asked(&self) -> Option<Position> {
        self.asked
    }

    /// Rows that can be had without waiting.
    #[must_use]
    pub fn at_hand(&self) -> usize {
        self.at_hand.len()
    }

    /// All that is left, in memory.
    pub fn gather(mut self) -> Result<Rows, Error> {
        let rows = self.by_ref().collect::<Result<Vec<_>, Error>>()?;
        let RowStream { columns, position, asked, .. } = self;
        Ok(Rows { columns, rows, position, asked })
    }

    /// As [`Iterator::next`], without blocking.
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Vec<Value>, Error>>> {
        loop {
            if let Some(row) = self.at_hand.next() {
                return Poll::Ready(Some(Ok(row)));
            }
            let more = match &mut self.source {
                None => return Poll::Ready(None),
                Some(Source::Here(slices)) => slices.poll_more(context),
                Some(Source::There(flow)) => flow.poll_more(context),
            };
            let Poll::Ready(more) = more else { return Poll::Pending };
            if let Err(error) = self.take(more) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    fn take(&mut self, more: More) -> Result<(), Error> {
        match more {
            Ok(Some(rows)) => self.at_hand = rows.into_iter(),
            Ok(None) => self.source = None,
            Err(error) => {
                self.source = None;
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Iterator for RowStream {
    type Item = Result<Vec<Value>, Error>;

    fn next(&mut self) -> Option<Result<Vec<Value>, Error>> {
        loop {
            if let Some(row) = self.at_hand.next() {
                return Some(Ok(row));
            }
            let more = match self.source.as_mut()? {
                Source::Here(slices) => slices.more(),
                Source::There(flow) => flow.more(),
            };
            if let Err(error) = self.take(more) {
                return Some(Err(error));
            }
        }
    }
}
