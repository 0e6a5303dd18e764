//! Whose connection it is, on this machine.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use axum::http::StatusCode;

use crate::{
    session::is_held_outside,
    web::{api::ApiError, house::Peer},
};

/// Refuses whoever is not the user that runs this server (or the superuser), by what the system says of the other end of a connection over loopback.
pub(super) fn same_user(peer: Option<Peer>, port: u16) -> Result<(), ApiError> {
    let refuse = |why: &str| {
        let message = format!("agents are started by the user who runs this server, or with a token: {why}");
        Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message))
    };
    let Some(Peer(peer)) = peer else {
        return refuse("it is not known where this request comes from");
    };
    let ours = rustix::process::geteuid().as_raw();
    match sockets(peer, port)[..] {
        [] => refuse("it is not known who this is"),
        ref found if found.iter().all(|one| one.uid == 0 || one.uid == ours) => Ok(()),
        _ => refuse("this is another user"),
    }
}

/// Whether somebody on this machine is an agent in a sandbox, one of those below these processes, or may be one for all that is known. Blocks.
pub(super) fn is_confined(peer: SocketAddr, port: u16, roots: &[i32]) -> bool {
    let found = sockets(peer, port);
    let ours = rustix::process::geteuid().as_raw();
    // Agents are the user that the server is, and can become no other.
    if !found.is_empty() && found.iter().all(|one| one.uid != ours) {
        return false;
    }
    let inodes: Vec<u64> = found.iter().map(|one| one.inode).collect();
    !is_held_outside(&inodes, roots)
}

/// The other ends of a connection over loopback.
fn sockets(peer: SocketAddr, port: u16) -> Vec<Socket> {
    let table = match peer.ip().to_canonical() {
        IpAddr::V4(_) => "/proc/net/tcp",
        IpAddr::V6(_) => "/proc/net/tcp6",
    };
    // Both tables: a socket for both protocols is in the second one.
    let mut tables = fs::read_to_string(table).unwrap_or_default();
    tables.push_str(&fs::read_to_string("/proc/net/tcp6").unwrap_or_default());
    sockets_of(&tables, peer, port)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    uid: u32,
    inode: u64,
}

/// The sockets that are connected from `local` to `port`, in what `/proc/net/tcp` says: one, if that address is not used towards several of this machine's.
///
/// A socket that its owner has closed belongs to nobody, which the table calls user 0 and inode 0: whoever asked and went away is not known.
fn sockets_of(table: &str, local: SocketAddr, port: u16) -> Vec<Socket> {
    let socket = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (from, to, state) = (fields.nth(1)?, fields.next()?, fields.next()?);
        let (from, to) = (address(from)?, address(to)?);
        let is_open = state == "01";
        let same = from.ip().to_canonical() == local.ip().to_canonical() && from.port() == local.port();
        if !is_open || !same || to.port() != port {
            return None;
        }
        // "tx_queue:rx_queue", "tr:tm->when", "retrnsmt", uid, timeout, inode
        let uid = fields.nth(3)?.parse().ok()?;
        let inode: u64 = fields.nth(1)?.parse().ok()?;
        (inode != 0).then_some(Socket { uid, inode })
    };
    table.lines().filter_map(socket).collect()
}

/// `0100007F:1F90`: words in the byte order of the machine.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let hex = ip.get(at..at + 8)?;
        Some(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for n in 0..4 {
                bytes[n * 4..n * 4 + 4].copy_from_slice(&word(n * 8)?);
            }
            IpAddr::from(bytes)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_user_of_a_connection_is_known() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(at) else { continue };
            let port = listener.local_addr().expect("bound").port();
            let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
            let peer = stream.local_addr().expect("connected");
            assert!(same_user(Some(Peer(peer)), port).is_ok(), "{at}");
            assert!(same_user(Some(Peer(peer)), port.wrapping_add(1)).is_err());
            let own = i32::try_from(std::process::id()).expect("a number");
            assert!(!is_confined(peer, port, &[i32::MAX]), "nobody's child");
            assert!(is_confined(peer, port, &[own]), "it is the one");
            let parent = rustix::process::getppid().expect("one").as_raw_pid();
            assert!(is_confined(peer, port, &[parent]), "it is below it");
            assert!(is_confined(peer, port.wrapping_add(1), &[i32::MAX]), "nobody knows");
            drop(stream);
            assert!(same_user(Some(Peer(peer)), port).is_err(), "who has gone is nobody");
            let other = SocketAddr::new(peer.ip(), peer.port().wrapping_add(1));
            assert!(same_user(Some(Peer(other)), port).is_err());
        }
        assert!(same_user(None, 1).is_err());
    }

    #[test]
    fn a_table_is_read_as_the_system_writes_it() {
        let bytes = u32::from_ne_bytes([127, 0, 0, 1]);
        let table = format!(
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: {bytes:08X}:D431 {bytes:08X}:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 20 4 30 10 -1\n"
        );
        let local = "127.0.0.1:54321".parse().expect("an address");
        assert_eq!(sockets_of(&table, local, 8080), [Socket { uid: 1000, inode: 1 }]);
        assert_eq!(sockets_of(&table, local, 8081), []);
        for state in ["04", "05", "06", "08"] {
            let table = table.replace(" 01 ", &format!(" {state} "));
            assert_eq!(
                sockets_of(&table, local, 8080),
                [],
                "half closed, or waiting to be forgotten"
            );
        }
        let orphan = table.replace("  1000        0 1 ", "     0        0 0 ");
        assert_ne!(orphan, table);
        assert_eq!(sockets_of(&orphan, local, 8080), [], "nobody's any more");
    }
}
