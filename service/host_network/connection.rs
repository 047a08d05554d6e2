//! Requests to rtnetlink, in time.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use rtnetlink::Handle;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::netlink::DEADLINE;
use super::{Errno, Error};

/// A socket, and the task that reads it. The task sleeps unless there is an answer, and ends with the last clone.
#[derive(Debug, Clone)]
pub(super) struct Connection(Arc<Mutex<Live>>);

#[derive(Debug, Clone)]
struct Live {
    handle: Handle,
    task: AbortHandle,
}

impl Connection {
    /// Panics outside of a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        Ok(Self(Arc::new(Mutex::new(Live::open()?))))
    }

    /// Makes a request. `object` is what an error is about.
    pub async fn ask<T, F>(&self, object: &str, request: impl FnOnce(Handle) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, rtnetlink::Error>>,
    {
        let Live { handle, task } = self.live()?;
        let answer = timeout(DEADLINE, request(handle)).await;
        let answer = answer.map_err(|_| Error::Timeout { object: object.into(), after: DEADLINE })?;
        // What ends because its task has ended looks like a success.
        if task.is_finished() {
            return Err(Error::unreadable(object, "the socket broke; it is opened anew for the next request"));
        }
        answer.map_err(|error| match error {
            rtnetlink::Error::NetlinkError(message) => Error::refused(object, Errno(message.raw_code().wrapping_neg())),
            other => Error::unreadable(object, other),
        })
    }

    /// The task gives up when the socket fails it, as for want of memory: then there is another.
    fn live(&self) -> Result<Live, Error> {
        let mut live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if live.task.is_finished() {
            *live = Live::open()?;
        }
        Ok(live.clone())
    }
}

impl Live {
    fn open() -> Result<Self, Error> {
        // Without a receiver, what nobody has asked for is dropped.
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| Error::io("a netlink socket", &error))?;
        Ok(Self { handle, task: tokio::spawn(connection).abort_handle() })
    }
}
