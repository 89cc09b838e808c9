//! Rows of a query as a server sends them.
//!
//! Invariant: at most `STREAM_WINDOW` parts were sent and not taken, so that neither side holds
//! more, and what else shares the connection does not wait for who reads slowly. A part that is
//! taken is told to the server at once. What is dropped before its end is cancelled there.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::call::{Call, Done, Next};
use super::{Client, unexpected};
use crate::error::Error;
use crate::net::payload::RowsPart;
use crate::stream::{More, RowStream, Source};

pub struct Flow {
    client: Client,
    call: Arc<Call>,
    ended: bool,
}

impl Drop for Flow {
    fn drop(&mut self) {
        if !self.ended {
            self.client.shared.agent.give_up(&self.call);
        }
    }
}

impl Flow {
    pub fn new(client: Client, call: Arc<Call>) -> Flow {
        Flow { client, call, ended: false }
    }

    /// Waits for the first part.
    pub fn begin(mut self) -> Result<RowStream, Error> {
        let first = self.client.shared.agent.wait_next(&self.call);
        let first = self.part(first);
        self.begun(first)
    }

    pub async fn begin_async(mut self) -> Result<RowStream, Error> {
        let first = std::future::poll_fn(|context| self.poll_part(context)).await;
        self.begun(first)
    }

    fn begun(self, first: Result<Option<RowsPart>, Error>) -> Result<RowStream, Error> {
        let Some(RowsPart { head: Some(head), rows, more: _ }) = first? else {
            return Err(unexpected());
        };
        // A read of the past says nothing of what there is to see.
        if head.asked.is_none() && !rows.is_empty() {
            self.client.see(Some(head.position));
        }
        Ok(RowStream::new(head, rows, Some(Source::There(self))))
    }

    pub fn more(&mut self) -> More {
        if self.ended {
            return Ok(None);
        }
        let next = self.client.shared.agent.wait_next(&self.call);
        self.part(next).map(|part| part.map(|part| part.rows))
    }

    pub fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<More> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        self.poll_part(context).map(|part| part.map(|part| part.map(|part| part.rows)))
    }

    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<RowsPart>, Error>> {
        match self.client.shared.agent.poll_next(&self.call, context.waker()) {
            Some(next) => Poll::Ready(self.part(next)),
            None => Poll::Pending,
        }
    }

    fn part(&mut self, next: Next) -> Result<Option<RowsPart>, Error> {
        let done = match next {
            Next::Part(part) => return Ok(Some(part)),
            Next::Done(done) => done,
        };
        self.ended = true;
        match done {
            Done::Streamed => Ok(None),
            Done::Failed(error) => Err(error),
            Done::Answer(_) | Done::Rows(_) => Err(unexpected()),
        }
    }
}
