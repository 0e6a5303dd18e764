//! A network of its own for an agent that is to have none: nothing is in it but loopback, and that is nobody else's (`network_namespaces(7)`, `user_namespaces(7)`).

use std::{fs, io};

use rustix::{
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, recv, sendto,
        socket_with,
    },
    process::{getegid, geteuid},
    thread::UnshareFlags,
};

/// Who a process was.
pub(super) struct Known {
    user: u32,
    group: u32,
}

/// Takes this process, which has one thread, out of the networks of its host, for good and with all that it starts. It is nobody then, until it [settles](settle).
///
/// # Errors
/// When the system does not let it make namespaces. Nothing has changed then.
pub(super) fn leave_networks() -> io::Result<Known> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNET;
    #[allow(
        deprecated,
        reason = "what is not safe about it is to part with descriptors, which this does not"
    )]
    rustix::thread::unshare(flags)?;
    Ok(Known { user, group })
}

/// Has it be who it was, with loopback.
///
/// # Errors
/// When it cannot be that.
pub(super) fn settle(known: &Known) -> io::Result<()> {
    let Known { user, group } = known;
    // Without the first, the last may not be written.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    raise_loopback()
}

/// Has loopback work: it is down in a new network (`rtnetlink(7)`).
fn raise_loopback() -> io::Result<()> {
    const NEW_LINK: u16 = 16; // RTM_NEWLINK
    const REQUEST_AND_ANSWER: u16 = 1 | 4; // NLM_F_REQUEST | NLM_F_ACK
    const UP: u32 = 1; // IFF_UP
    const LOOPBACK: i32 = 1;
    const LENGTH: u32 = 32;
    let mut request = Vec::with_capacity(32);
    // A `nlmsghdr`: length, kind, flags, number, sender.
    request.extend(LENGTH.to_ne_bytes());
    request.extend(NEW_LINK.to_ne_bytes());
    request.extend(REQUEST_AND_ANSWER.to_ne_bytes());
    request.extend([0; 8]);
    // An `ifinfomsg`: family and kind of device, which one, flags, and which of them are meant.
    request.extend([0; 4]);
    request.extend(LOOPBACK.to_ne_bytes());
    request.extend(UP.to_ne_bytes());
    request.extend(UP.to_ne_bytes());
    let kernel = SocketAddrNetlink::new(0, 0);
    // Of what concerns links, which is the number 0.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, &request, SendFlags::empty(), &kernel)?;
    let mut answer = [0u8; 256];
    let (_, length) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // Behind the head of an answer: 0, or what went wrong as a negative number.
    let number = answer[..length].get(16..20).and_then(|bytes| bytes.try_into().ok());
    match number.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error.wrapping_neg())),
        None => Err(io::Error::other("the answer about loopback is cut off")),
    }
}
