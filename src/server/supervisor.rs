//! What systemd, or whoever else started the process, is told (sd_notify(3)). Without `NOTIFY_SOCKET` nobody is.

use sd_notify::NotifyState;

/// Connections are accepted; after [`reloading`], by the configuration of now.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Another configuration is being loaded. [`ready`] is to follow, whatever becomes of it.
pub(super) fn reloading() {
    // Its time goes with it, for `Type=notify-reload`.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The drain begins.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(error = &error as &dyn std::error::Error, "NOTIFY_SOCKET takes nothing");
    }
}
