//! Requests to rtnetlink, in time.

use std::future::Future;
use std::sync::Arc;

use rtnetlink::Handle;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::netlink::DEADLINE;
use super::{Errno, Error};

/// A socket, and the task that reads it. The task sleeps unless there is an answer, and ends with the last clone. One
/// request at a time: while the kernel lists something on a socket, it refuses to list more on it (EBUSY).
#[derive(Debug, Clone)]
pub(super) struct Connection(Arc<Mutex<Live>>);

#[derive(Debug)]
struct Live {
    handle: Handle,
    task: AbortHandle,
    /// A request was given up before its end: its answer would stand in the way of the next.
    unfinished: bool,
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
        let mut live = self.0.lock().await;
        // The task gives up when the socket fails it, as for want of memory.
        if live.task.is_finished() || live.unfinished {
            *live = Live::open()?;
        }
        live.unfinished = true;
        let answer = timeout(DEADLINE, request(live.handle.clone())).await;
        let answer = answer.map_err(|_| Error::Timeout { object: object.into(), after: DEADLINE })?;
        live.unfinished = false;
        // What ends because its task has ended looks like a success.
        if live.task.is_finished() {
            return Err(Error::unreadable(object, "the socket broke; it is opened anew for the next request"));
        }
        answer.map_err(|error| match error {
            rtnetlink::Error::NetlinkError(message) => Error::refused(object, Errno(message.raw_code().wrapping_neg())),
            other => Error::unreadable(object, other),
        })
    }
}

impl Live {
    fn open() -> Result<Self, Error> {
        // Without a receiver, what nobody has asked for is dropped.
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| Error::io("a netlink socket", &error))?;
        Ok(Self { handle, task: tokio::spawn(connection).abort_handle(), unfinished: false })
    }
}
