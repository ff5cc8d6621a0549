//! Notifications to systemd or another service manager (sd_notify(3)). Without `NOTIFY_SOCKET` there are none.

use sd_notify::NotifyState;

/// Connections are accepted. After [`reloading`]: the reload has ended.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// A reload has begun. Must be followed by [`ready`], whatever its outcome.
pub(super) fn reloading() {
    // `Type=notify-reload` needs the time as well.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// The drain has begun.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "cannot notify the service manager through NOTIFY_SOCKET"
        );
    }
}
