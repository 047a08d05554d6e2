//! What systemd is told of the service (sd_notify).

use sd_notify::NotifyState;
use tracing::warn;

pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The configuration is being read again. systemd 253 and later want the time with it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "systemd is not notified of the reload, since the time cannot be read: {error}"),
    }
}

/// The configuration holds, or `refused` says why the one before does: `systemctl status` shows it.
pub(super) fn reloaded(refused: Option<&str>) {
    // A line for each state: what a message has besides would be another one.
    let status = refused.map(|why| format!("Configuration refused: {}", why.lines().next().unwrap_or_default()));
    notify(&[NotifyState::Ready, NotifyState::Status(status.as_deref().unwrap_or_default())]);
}

pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "systemd could not be notified: {error}");
    }
}
