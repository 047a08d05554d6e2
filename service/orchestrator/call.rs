//! Calls of clients as the log names them, and how it says that one has failed.

use std::error::Error as _;
use std::fmt;

use tracing::{error, info};

use super::error::Error;
use crate::domain::JobKind;

/// A method and what it was called for.
#[derive(Debug, Clone)]
pub struct Call {
    method: &'static str,
    /// The service, unikernel, stack or tag; empty where it is about none.
    subject: String,
}

impl Call {
    pub fn new(method: &'static str, subject: &impl ToString) -> Self {
        Self { method, subject: subject.to_string() }
    }

    pub fn of_job(kind: JobKind, subject: &impl ToString) -> Self {
        Self::new(kind.method(), subject)
    }

    /// Logs a failure, and returns `outcome` as it is.
    pub fn logged<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        outcome.inspect_err(|error| self.failed(error))
    }

    /// The line is for operators; the fields also have what guests have printed, and what caused the error.
    fn failed(&self, error: &Error) {
        let causes = std::iter::successors(error.source(), |cause| (*cause).source());
        let causes = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        let (call, method, subject, line) = (self, self.method, &self.subject, error.line());
        if error.is_defect() {
            error!(method, subject, %error, causes, "{call} failed by a defect of this service: {error}", error = line);
        } else {
            info!(method, subject, %error, causes, "{call} failed: {error}", error = line);
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject.as_str() {
            "" => f.write_str(self.method),
            subject => write!(f, "{} of {subject}", self.method),
        }
    }
}
