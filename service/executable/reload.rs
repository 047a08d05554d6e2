//! SIGHUP: the configuration is read again.

use std::path::PathBuf;

use albatross_deployer::orchestrator::Orchestrator;
use tokio::signal::unix::Signal;

use super::systemd;

/// Reloads once for all signals that came since the last time. Ends with the service.
pub(super) async fn follow(mut hangup: Signal, orchestrator: Orchestrator, file: PathBuf) {
    while hangup.recv().await.is_some() {
        systemd::reloading();
        let refused = orchestrator.reload(&file).await.err().map(|error| error.to_string());
        systemd::reloaded(refused.as_deref());
    }
}
