//! Notifications for systemd: ready, reloading, stopping, and watchdog (sd_notify(3)).

use std::{
    ffi::OsStr,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use crate::{
    config::Env,
    task::{self, Task},
};

/// The connection to the service manager, if there is one.
#[derive(Debug, Clone)]
pub(super) struct Notify {
    to: Option<SocketAddr>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// According to `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub(super) fn from_env(env: &Env) -> Self {
        let to = env.os("NOTIFY_SOCKET").and_then(address);
        let of_us = env
            .get("WATCHDOG_PID")
            .is_none_or(|pid| pid == std::process::id().to_string());
        let micros = env.get("WATCHDOG_USEC").and_then(|n| n.parse().ok());
        Self {
            to,
            watchdog: micros.filter(|_| of_us).map(Duration::from_micros),
        }
    }

    /// The doors are open; also ends [`Self::reloading`].
    pub(super) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// Settings are being reloaded; with the current time, as `Type=notify-reload` requires.
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Shutdown has begun.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=Draining");
    }

    /// Reports twice in each watchdog interval that tasks still run; `None` if nobody listens for it.
    pub(super) fn live(&self) -> Option<Task<()>> {
        let interval = self.watchdog? / 2;
        let this = self.clone();
        Some(task::spawn("watchdog", async move {
            let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
            loop {
                ticks.tick().await;
                this.send("WATCHDOG=1");
            }
        }))
    }

    fn send(&self, text: &str) {
        let Some(to) = &self.to else { return };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            // A manager that does not read must not block us.
            socket.set_nonblocking(true)?;
            socket.send_to_addr(text.as_bytes(), to)
        });
        if let Err(error) = sent {
            tracing::warn!(%error, "Could not notify the service manager");
        }
    }
}

/// A path, or a name in the abstract namespace after an `@`; others (`vsock:`) are not supported.
fn address(text: &OsStr) -> Option<SocketAddr> {
    match text.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        [b'/', ..] => SocketAddr::from_pathname(text).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_at_the_socket_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        let manager = UnixDatagram::bind(&path).unwrap();
        let env: Env = [("NOTIFY_SOCKET", path.as_os_str())].into_iter().collect();
        let notify = Notify::from_env(&env);
        let mut buf = [0; 200];
        notify.ready("Serving");
        let n = manager.recv(&mut buf).unwrap();
        assert_eq!(&buf[..n], b"READY=1\nSTATUS=Serving");
        notify.reloading();
        let n = manager.recv(&mut buf).unwrap();
        assert!(buf[..n].starts_with(b"RELOADING=1\nMONOTONIC_USEC="));
    }

    #[test]
    fn without_a_manager_nothing_is_sent() {
        let notify = Notify::from_env(&Env::default());
        assert!(notify.to.is_none() && notify.watchdog.is_none());
        notify.stopping();
    }

    #[tokio::test(start_paused = true)]
    async fn watchdog_is_fed_twice_an_interval_where_it_is_meant_for_us() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let env = |pid: &str| -> Env {
            let pairs = [
                ("NOTIFY_SOCKET", path.to_str().unwrap()),
                ("WATCHDOG_USEC", "2000000"),
                ("WATCHDOG_PID", pid),
            ];
            pairs.into_iter().collect()
        };
        assert!(Notify::from_env(&env("1")).live().is_none());
        let own = std::process::id().to_string();
        let _task = Notify::from_env(&env(&own)).live().unwrap();
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let mut buf = [0; 64];
        let count = std::iter::from_fn(|| manager.recv(&mut buf).ok()).count();
        assert_eq!(count, 3);
    }
}
