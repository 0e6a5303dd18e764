use std::{
    io::{self, Read as _},
    path::Path,
    time::{Duration, Instant},
};

use super::spawn::{find_program, prober};

/// How long a program may take to say which version it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of what it says that are read.
const SAID: u64 = 4 << 10;

/// What a program says when it is asked for its version (`--version`), within ten seconds and 4 KiB. Blocks. Nothing holds it in: it is for programs that no agent may have changed.
///
/// # Errors
/// When it is not there, cannot be started, or says nothing in time.
pub fn probe(command: &[String], env: &[(String, String)]) -> io::Result<Vec<u8>> {
    let name = command.first().map_or("", String::as_str);
    let search = env
        .iter()
        .find(|(key, _)| key == "PATH")
        .map(|(_, value)| value.as_str());
    let program = find_program(name, search, Path::new("/")).map_err(|failure| io::Error::other(failure.text))?;
    let (mut child, said) = prober(&program, &command[1..], env)?;
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("agent-probe".to_owned())
        .spawn(move || {
            let mut text = Vec::new();
            let _ = said.take(SAID).read_to_end(&mut text);
            let _ = send.send(text);
        })?;
    let until = Instant::now() + PATIENCE;
    let said = receive.recv_timeout(PATIENCE);
    // It has said what it has to say; what it goes on with is of no use.
    let mut is_gone = child.is_gone();
    while said.is_ok() && !is_gone && Instant::now() < until {
        std::thread::park_timeout(Duration::from_millis(5));
        is_gone = child.is_gone();
    }
    if !is_gone {
        if let Some(group) = child.id().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        child.kill();
    }
    said.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it does not say which version it is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(script: &str) -> io::Result<Vec<u8>> {
        let command = ["sh", "-c", script].map(str::to_owned);
        probe(&command, &[("PATH".to_owned(), "/usr/bin:/bin".to_owned())])
    }

    #[test]
    fn a_program_is_heard_and_no_more_than_so_much_of_it() {
        assert_eq!(ask("echo 1.2; echo no >&2; exit 3").expect("it ran"), b"1.2\n");
        // Nobody reads on: it ends by that, or is killed.
        assert_eq!(ask("exec yes").expect("it ran").len(), SAID as usize);
        assert!(probe(&["/nowhere/x".to_owned()], &[]).is_err());
        assert!(probe(&[], &[]).is_err());
    }
}
