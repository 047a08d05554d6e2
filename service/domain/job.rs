//! A call that is working, as the bus shows it.

use std::borrow::Cow;
use std::fmt;

/// Counts up from 1 with each call; never used again while the service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobNumber(pub u64);

impl fmt::Display for JobNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which call a job works for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    Deploy,
    Publish,
    Unpublish,
    Rollback,
    Collect,
    Restart,
    Destroy,
    Apply,
    Activate,
    RollbackStack,
    RemoveStack,
}

impl JobKind {
    /// The method of the Manager.
    pub fn method(self) -> &'static str {
        match self {
            Self::Deploy => "Deploy",
            Self::Publish => "Publish",
            Self::Unpublish => "Unpublish",
            Self::Rollback => "Rollback",
            Self::Collect => "Collect",
            Self::Restart => "Restart",
            Self::Destroy => "Destroy",
            Self::Apply => "Apply",
            Self::Activate => "Activate",
            Self::RollbackStack => "RollbackStack",
            Self::RemoveStack => "RemoveStack",
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deploy => "deploy",
            Self::Publish => "publish",
            Self::Unpublish => "unpublish",
            Self::Rollback => "rollback",
            Self::Collect => "collect",
            Self::Restart => "restart",
            Self::Destroy => "destroy",
            Self::Apply => "apply",
            Self::Activate => "activate",
            Self::RollbackStack => "rollback-stack",
            Self::RemoveStack => "remove-stack",
        })
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobResult {
    Done,
    Failed,
    Cancelled,
}

impl fmt::Display for JobResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}

/// What a Job object shows.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    pub number: JobNumber,
    pub kind: JobKind,
    /// The service, unikernel, stack or tag that it is about.
    pub subject: String,
    /// The step that is running: a word of the workflow's table, of a member of a stack with its name in front.
    pub step: Cow<'static, str>,
    /// 0 to 1; `None` where there is no measure.
    pub progress: Option<f64>,
    /// Those that the step has worked on, 0 where none are counted.
    pub bytes: u64,
}
