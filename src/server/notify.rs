use std::{
    env,
    ffi::OsString,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

/// Whoever started us and wants to know how we are: systemd, by the protocol of sd_notify(3). Nobody else sets `NOTIFY_SOCKET`.
#[derive(Debug)]
pub(super) struct Supervisor {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names.
    pub(super) fn from_env() -> Option<Self> {
        let path = env::var_os("NOTIFY_SOCKET")?;
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&path),
        };
        let socket = UnixDatagram::unbound().and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        match (socket, address) {
            (Ok(socket), Ok(address)) => Some(Supervisor {
                socket,
                address,
                watchdog: watchdog(env::var_os("WATCHDOG_USEC"), env::var_os("WATCHDOG_PID")),
            }),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "NOTIFY_SOCKET cannot be used");
                None
            }
        }
    }

    /// Tells it something: `READY=1`, `STOPPING=1`, `WATCHDOG=1`. Serving does not depend on its being heard.
    pub(super) fn tell(&self, what: &str) {
        if let Err(error) = self.socket.send_to_addr(what.as_bytes(), &self.address) {
            tracing::debug!(%error, what, "the service manager does not listen");
        }
    }

    /// How often it wants to hear that we are alive, twice in the time that it waits for it.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }
}

fn watchdog(micros: Option<OsString>, pid: Option<OsString>) -> Option<Duration> {
    let number = |text: OsString| text.to_str()?.parse::<u64>().ok();
    if pid.is_some() && pid.and_then(number) != Some(u64::from(std::process::id())) {
        return None;
    }
    let micros = micros.and_then(number).filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros / 2).max(Duration::from_millis(10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time_if_it_is_ours() {
        let ask = |micros: &str, pid: Option<String>| watchdog(Some(micros.into()), pid.map(OsString::from));
        assert_eq!(ask("3000000", None), Some(Duration::from_millis(1500)));
        assert_eq!(
            ask("3000000", Some(std::process::id().to_string())),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(ask("3000000", Some("1".to_owned())), None);
        assert_eq!(ask("0", None), None);
        assert_eq!(ask("soon", None), None);
    }
}
