//! The one place where a process is started: this binary, as the parent of an agent and as what becomes it, and an agent's own command in its place. Never anything of a repository's, and
//! never git.

use std::{
    io,
    io::{IoSlice, IoSliceMut, PipeReader, PipeWriter, Read as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use super::{
    container::{Container, Whom},
    launch::{Launch, SpawnFailure, SpawnFault},
};

/// The hidden command of this binary that is an agent's parent process.
pub const PARENT_COMMAND: &str = "agent-parent";
/// The hidden command of this binary that becomes an agent.
pub const STAGE_COMMAND: &str = "agent-stage";
/// Standard input, output and error of an agent.
const STREAMS: usize = 3;

/// A parent process that has been started and told nothing but its streams.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) child: Ward,
    pub(super) control: UnixStream,
    pub(super) stdin: PipeWriter,
    pub(super) stdout: PipeReader,
    pub(super) stderr: PipeReader,
}

/// A process of ours that somebody waits for, whoever forgets it: one that has ended and was not waited for keeps its number for as long as we live.
#[derive(Debug)]
pub(super) struct Ward(Option<Child>);

impl Ward {
    pub(super) fn id(&self) -> Option<i32> {
        i32::try_from(self.0.as_ref()?.id()).ok()
    }

    pub(super) fn kill(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
        }
    }

    /// Whether it has ended, and is not there any more in any way.
    pub(super) fn is_gone(&mut self) -> bool {
        let gone = match &mut self.0 {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => true,
        };
        if gone {
            self.0 = None;
        }
        gone
    }
}

impl Drop for Ward {
    fn drop(&mut self) {
        if self.is_gone() {
            return;
        }
        if let Some(mut child) = self.0.take() {
            // It ends by itself, since we are not at the other end of its socket any more; nobody has to wait for that but this thread.
            let waits = std::thread::Builder::new().name("agent-reap".to_owned());
            let _ = waits.spawn(move || child.wait());
        }
    }
}

/// The streams of an agent, on the side of its parent process.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Starts this binary as the parent process of an agent. Blocks for as long as it takes to fork.
///
/// # Errors
/// When the system has no processes or descriptors left.
pub(super) fn parent() -> io::Result<Parent> {
    let (control, theirs) = UnixStream::pair()?;
    let (child_stdin, stdin) = io::pipe()?;
    let (stdout, child_stdout) = io::pipe()?;
    let (stderr, child_stderr) = io::pipe()?;
    let mut command = itself(PARENT_COMMAND, theirs);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = Ward(Some(command.spawn()?));
    drop(command);
    send(
        &control,
        &[child_stdin.as_fd(), child_stdout.as_fd(), child_stderr.as_fd()],
    )?;
    Ok(Parent {
        child,
        control,
        stdin,
        stdout,
        stderr,
    })
}

/// This binary, with a socket as its standard input: the one that runs, also if another one has come to its path since.
fn itself(as_what: &str, theirs: UnixStream) -> Command {
    #[allow(
        clippy::disallowed_methods,
        reason = "the parent process of an agent, and what becomes the agent: this binary itself"
    )]
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("gitstead")
        .arg(as_what)
        .env_clear()
        .current_dir("/")
        .stdin(OwnedFd::from(theirs));
    command
}

/// Sends descriptors, [`STREAMS`] at most.
fn send(control: &UnixStream, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(fds));
    debug_assert!(fits, "the space is made for so many");
    sendmsg(control, &[IoSlice::new(b"s")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The other end of it.
///
/// # Errors
/// When it is no socket.
pub(super) fn receive(control: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    recvmsg(
        control,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    Ok(fds)
}

/// The other end of [`parent`]: the streams that come over the socket.
///
/// # Errors
/// When it is no socket, or nothing of that kind comes over it.
pub(super) fn receive_streams(control: &UnixStream) -> io::Result<Streams> {
    let streams: Result<[OwnedFd; STREAMS], _> = receive(control)?.try_into();
    let [stdin, stdout, stderr] =
        streams.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "no streams came with it"))?;
    Ok(Streams { stdin, stdout, stderr })
}

/// Starts this binary as what becomes an agent, in a process group of its own. It is given its standard input and, if it needs that, the file that is executed; what it is to do is told on
/// the socket.
///
/// # Errors
/// When the system has no processes or descriptors left.
pub(super) fn stage(streams: Streams, program: Option<BorrowedFd<'_>>) -> io::Result<(i32, UnixStream)> {
    let (control, theirs) = UnixStream::pair()?;
    let mut command = itself(STAGE_COMMAND, theirs);
    command.process_group(0).stdout(streams.stdout).stderr(streams.stderr);
    // Whoever waits for all children waits for this one too.
    let child = command.spawn()?;
    let fds: Vec<_> = std::iter::once(streams.stdin.as_fd()).chain(program).collect();
    // If it has ended already, nothing will come from there.
    let _ = send(&control, &fds);
    Ok((i32::try_from(child.id()).unwrap_or(0), control))
}

/// Has the agent take the place of this process, when all is prepared and `last` is done. Comes back only with the reason why not.
pub(super) fn replace_by(launch: &Launch, program: &Path, last: impl FnOnce() -> io::Result<()>) -> SpawnFailure {
    let argv = match &launch.container {
        Some(container) => container.argv(launch),
        None => launch.argv.clone(),
    };
    let name = argv.first().map_or("", String::as_str);
    #[allow(
        clippy::disallowed_methods,
        reason = "the command of an agent, as somebody who may has asked"
    )]
    let mut command = Command::new(program);
    command
        .arg0(name)
        .args(argv.iter().skip(1))
        .env_clear()
        .envs(env_of(launch));
    let error = match last() {
        Ok(()) => command.exec(),
        Err(error) => {
            return SpawnFailure {
                fault: SpawnFault::Other,
                text: format!("its limits cannot be set: {error}"),
            };
        }
    };
    let fault = match error.kind() {
        io::ErrorKind::NotFound => SpawnFault::BadInterpreter,
        io::ErrorKind::PermissionDenied => SpawnFault::NotExecutable,
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => SpawnFault::NotExecutable,
        _ => SpawnFault::Other,
    };
    let text = match fault {
        SpawnFault::BadInterpreter => {
            format!("'{name}' cannot be executed: {}", interpreter(program))
        }
        _ if launch.sandbox.is_some() => {
            format!("'{name}' cannot be executed: {error}; or something that it needs is not in its sandbox")
        }
        _ => format!("'{name}' cannot be executed: {error}"),
    };
    SpawnFailure { fault, text }
}

fn env_of(launch: &Launch) -> Vec<(&String, &String)> {
    match &launch.container {
        Some(container) => container.env(&launch.env).map(|(key, value)| (key, value)).collect(),
        None => launch.env.iter().map(|(key, value)| (key, value)).collect(),
    }
}

/// Starts what ends an agent in its container, and gives its number. It says by its exit code whether it could.
///
/// # Errors
/// When there is no such program any more, or the system has no processes left.
pub(super) fn ender(container: &Container, run: &str, whom: Whom) -> io::Result<i32> {
    let argv = container.ender(run, whom);
    let search = container.client_env.iter().find(|(key, _)| key == "PATH");
    let program = find_program(&argv[0], search.map(|(_, path)| path.as_str()), Path::new("/"));
    let program = program.map_err(|failure| io::Error::other(failure.text))?;
    #[allow(
        clippy::disallowed_methods,
        reason = "what ends an agent that is in a container, where no signal of ours reaches"
    )]
    let mut command = Command::new(program);
    let child = command
        .args(&argv[1..])
        .env_clear()
        .envs(container.client_env.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    // Whoever waits for all children waits for this one too.
    Ok(i32::try_from(child.id()).unwrap_or(0))
}

/// The file that is executed.
pub(super) fn program_of(launch: &Launch) -> Result<PathBuf, SpawnFailure> {
    let (name, env) = match &launch.container {
        Some(container) => (container.program.as_str(), &container.client_env),
        None => (launch.argv.first().map_or("", String::as_str), &launch.env),
    };
    if launch.argv.is_empty() {
        return Err(SpawnFailure {
            fault: SpawnFault::Missing,
            text: "there is no command".to_owned(),
        });
    }
    let search = env.iter().find(|(key, _)| key == "PATH");
    find_program(name, search.map(|(_, value)| value.as_str()), &launch.cwd)
}

/// What a program wants that is not there.
fn interpreter(program: &Path) -> String {
    let mut head = [0; 256];
    let read = std::fs::File::open(program).and_then(|mut file| file.read(&mut head));
    let head = &head[..read.unwrap_or(0)];
    let line = head
        .strip_prefix(b"#!")
        .and_then(|rest| rest.split(|&b| b == b'\n').next());
    match line {
        Some(line) => {
            let line = String::from_utf8_lossy(line);
            let word = line.split_whitespace().next().unwrap_or_default();
            let word: String = word.chars().filter(|c| !c.is_control()).collect();
            format!("its interpreter '{word}' is not there")
        }
        None => "the loader that it wants is not there".to_owned(),
    }
}

/// Starts a program that is asked for its version, in a process group of its own, in the thread that calls; what it says is at the other end.
///
/// # Errors
/// When it cannot be executed.
pub(super) fn prober(program: &Path, args: &[String], env: &[(String, String)]) -> io::Result<(Ward, PipeReader)> {
    let (said, says) = io::pipe()?;
    #[allow(
        clippy::disallowed_methods,
        reason = "the program of an agent, asked which options it understands before it is started"
    )]
    let mut command = Command::new(program);
    let child = command
        .args(args)
        .arg("--version")
        .env_clear()
        .envs(env.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(says)
        .stderr(Stdio::null())
        .spawn()?;
    Ok((Ward(Some(child)), said))
}

/// The file that a name means: itself if it has a slash, else the first one in the directories of `search`.
///
/// # Errors
/// When there is none, or what is there may not be executed.
pub fn find_program(name: &str, search: Option<&str>, cwd: &Path) -> Result<PathBuf, SpawnFailure> {
    let mut denied = None;
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![cwd.join(name)]
    } else {
        let dirs = search.unwrap_or_default().split(':');
        // An empty entry would be the directory that it works in, which is not what anybody means.
        dirs.filter(|dir| !dir.is_empty() && !name.is_empty())
            .map(|dir| cwd.join(dir).join(name))
            .collect()
    };
    for path in candidates {
        match std::fs::metadata(&path) {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => return Ok(path),
            Ok(found) => {
                denied.get_or_insert(if found.is_dir() {
                    "is a directory"
                } else {
                    "may not be executed"
                });
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                denied.get_or_insert("may not be looked at");
            }
            Err(_) => {}
        }
    }
    match denied {
        Some(why) => Err(SpawnFailure {
            fault: SpawnFault::NotExecutable,
            text: format!("'{name}' {why}"),
        }),
        None => Err(SpawnFailure {
            fault: SpawnFault::Missing,
            text: format!("there is no program '{name}'"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_process_that_is_told_nothing_leaves_nothing_behind() {
        // The binary of this test ends by itself when it is asked for a test that is not there.
        // If it does so before it is sent anything, that is not what is looked at.
        let newborn = (0..1_000).find_map(|_| parent().ok()).expect("started");
        let pid = newborn.child.id().expect("it is there");
        drop(newborn);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while Path::new(&format!("/proc/{pid}")).exists() {
            assert!(
                std::time::Instant::now() < deadline,
                "it is still there, perhaps as a zombie"
            );
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_program_is_found_in_the_path_and_what_is_wrong_with_it_is_said() {
        let dir = tempfile::tempdir().expect("a directory");
        let cwd = dir.path();
        std::fs::create_dir_all(cwd.join("a/tool")).expect("made");
        std::fs::create_dir_all(cwd.join("b")).expect("made");
        let tool = cwd.join("b/tool");
        std::fs::write(&tool, "#!/nowhere/sh\n").expect("written");
        let fault = |name: &str, search: &str| find_program(name, Some(search), cwd).map_err(|err| err.fault);
        assert_eq!(fault("tool", "a:b"), Err(SpawnFault::NotExecutable));
        assert_eq!(fault("tool", "::"), Err(SpawnFault::Missing));
        assert_eq!(fault("", "a:b"), Err(SpawnFault::Missing));
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).expect("changed");
        assert_eq!(fault("tool", "a:b"), Ok(tool.clone()));
        assert_eq!(fault("b/tool", ""), Ok(tool.clone()));
        assert_eq!(fault("./c", ""), Err(SpawnFault::Missing));
        assert!(interpreter(&tool).contains("/nowhere/sh"));
    }
}
