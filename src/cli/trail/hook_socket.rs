//! A hook's way to the server that serves its workspace, which has it open and watched. It never waits there for long, and can do without.

use std::{
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt::socket_peercred,
};

use crate::web::{CheckpointWish, HOOK_FRAME, HOOK_SOCKET, HookAsk, HookReply};

/// How long the server may take to say that it makes the checkpoint. If it does not, nobody is there.
const DEADLINE: Duration = Duration::from_millis(250);
/// How long it may take to make it, once it has said so. Claude Code stops a hook after a minute.
const MADE_WITHIN: Duration = Duration::from_secs(50);

/// Has the server make the checkpoint of the workspace at `root`. `None` if none serves it, or does not answer: then it is still to be made.
///
/// # Errors
/// Why the server could not make it.
pub(super) fn ask(root: &Path, wish: &CheckpointWish) -> Option<Result<Vec<String>, String>> {
    let socket = socket_of(root)?;
    let ask = serde_json::to_vec(&HookAsk {
        root: root.to_owned(),
        wish: wish.clone(),
    });
    let ask = ask.ok().filter(|ask| ask.len() <= HOOK_FRAME)?;
    let mut stream = reach(&socket).ok()?;
    if !is_trusted(&stream) {
        return None;
    }
    let taken = send(&mut stream, &ask).and_then(|()| receive(&mut stream));
    if !matches!(taken, Ok(HookReply::Taken)) {
        return None;
    }
    stream.set_read_timeout(Some(MADE_WITHIN)).ok()?;
    match receive(&mut stream) {
        Ok(HookReply::Done(warnings)) => Some(Ok(warnings)),
        Ok(HookReply::Failed(why)) => Some(Err(why)),
        // It goes on with it.
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Some(Ok(vec!["the checkpoint takes long; the server finishes it".to_owned()]))
        }
        Ok(HookReply::Taken | HookReply::Yours) | Err(_) => None,
    }
}

/// The directory of the workspace that `here` is in.
pub(super) fn root_of(here: &Path) -> Option<PathBuf> {
    let here = here.canonicalize().ok()?;
    let root = here
        .ancestors()
        .find(|dir| dir.join(".git").symlink_metadata().is_ok())?;
    Some(root.to_owned())
}

/// Workspaces of a server lie in `work` beside its socket.
fn socket_of(root: &Path) -> Option<PathBuf> {
    let works = root.ancestors().filter(|dir| dir.ends_with("work"));
    works
        .filter_map(|work| Some(work.parent()?.join(HOOK_SOCKET)))
        .find(|socket| socket.symlink_metadata().is_ok())
}

fn reach(socket: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    // A full queue is no reason to wait.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&fd, &address)?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Whether it is a server of this user's, or of the superuser's. The superuser trusts what he finds.
fn is_trusted(stream: &UnixStream) -> bool {
    let ours = rustix::process::geteuid();
    socket_peercred(stream.as_fd()).is_ok_and(|peer| peer.uid == ours || peer.uid.is_root() || ours.is_root())
}

fn send(stream: &mut UnixStream, ask: &[u8]) -> io::Result<()> {
    let length = u32::try_from(ask.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], ask].concat())
}

fn receive(stream: &mut UnixStream) -> io::Result<HookReply> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > HOOK_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
