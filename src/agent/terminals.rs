//! Commands that run for an agent beside it, because it asks its client to run them: children of its parent process, as it is one itself, and ended with it.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::Signal;
use tokio::{net::unix::pipe::Receiver, sync::Notify, task::AbortHandle, time::Instant};

use super::{
    launch::{Exit, Launch},
    spawn::Streams,
    tree::{self, Process},
    wire::{Deed, Done, Word},
};

/// How long the output of a command is waited for that has ended: what it has started may hold it open for ever.
const DRAIN: Duration = Duration::from_millis(500);
/// Bytes of output that are kept at most. As JSON it may be six times as much, and has to be one line for Gitstead.
const KEEP: usize = 512 << 10;

/// What is started for an agent.
pub(super) struct Terminals {
    /// How it was started itself; nothing where nothing is started for it.
    like: Option<Launch>,
    /// Beneath which directory they work.
    root: PathBuf,
    all: BTreeMap<String, Terminal>,
    count: u64,
    /// Rung when the output of one has ended.
    pub(super) bell: Arc<Notify>,
}

struct Terminal {
    process: Option<Process>,
    exit: Option<Exit>,
    /// When its output is not waited for any more, once it has ended.
    until: Option<Instant>,
    output: Arc<Mutex<Tail>>,
    /// What reads its output, for as long as it is known: what it has left in the background may write for ever.
    listener: AbortHandle,
    /// Who waits for its end.
    waiting: Vec<String>,
    /// It is forgotten then.
    released: bool,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Terminal {
    /// How it ended, if it has and everything is known of it.
    fn end(&self, now: Instant) -> Option<Exit> {
        let is_late = self.until.is_some_and(|until| now >= until);
        self.exit.filter(|_| is_late || tail(&self.output).ended)
    }
}

/// The newest of an output.
#[derive(Debug, Default)]
struct Tail {
    bytes: VecDeque<u8>,
    keep: usize,
    truncated: bool,
    ended: bool,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let over = self.bytes.len().saturating_sub(self.keep);
        self.bytes.drain(..over);
        self.truncated |= over > 0;
    }

    /// As text of at most as many bytes, from the beginning of a character on.
    fn text(&mut self) -> (String, bool) {
        let bytes = self.bytes.make_contiguous();
        let cut = if self.truncated {
            let inside = |b: &&u8| **b & 0xc0 == 0x80;
            bytes.iter().take(3).take_while(inside).count()
        } else {
            0
        };
        let text = String::from_utf8_lossy(&bytes[cut..]);
        let mut begin = text.len().saturating_sub(self.keep);
        let truncated = self.truncated || begin > 0;
        while !text.is_char_boundary(begin) {
            begin += 1;
        }
        (text[begin..].to_owned(), truncated)
    }
}

fn tail(of: &Mutex<Tail>) -> std::sync::MutexGuard<'_, Tail> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Terminals {
    /// For an agent that was started so.
    pub(super) fn of(launch: &Launch) -> Self {
        let root = launch.terminals.clone();
        Terminals {
            like: root.is_some().then(|| launch.clone()),
            root: root.unwrap_or_default(),
            all: BTreeMap::new(),
            count: 0,
            bell: Arc::new(Notify::new()),
        }
    }

    /// Does what is wanted; `start` starts a process. Nothing is answered now if it has to be waited for.
    pub(super) fn take(
        &mut self,
        order: String,
        deed: Deed,
        start: impl FnOnce(&Launch, Streams) -> Result<i32, String>,
    ) -> Option<Word> {
        let now = Instant::now();
        let done = match deed {
            Deed::Create {
                command,
                args,
                env,
                cwd,
                keep,
            } => match self.create(command, args, env, cwd.as_deref(), keep, start) {
                Ok(terminal) => Done::Created { terminal },
                Err(why) => Done::Failed(why),
            },
            Deed::Output { terminal } => match self.all.get(&terminal) {
                Some(found) => {
                    let exit = found.end(now);
                    let (text, truncated) = tail(&found.output).text();
                    Done::Output { text, truncated, exit }
                }
                None => none(&terminal),
            },
            Deed::Wait { terminal } => match self.all.get_mut(&terminal) {
                Some(found) => match found.end(now) {
                    Some(exit) => Done::Ended(exit),
                    None => {
                        found.waiting.push(order);
                        return None;
                    }
                },
                None => none(&terminal),
            },
            Deed::Kill { terminal } => return self.end(order, &terminal, false),
            Deed::Release { terminal } => return self.end(order, &terminal, true),
        };
        Some(Word::Terminal { order, done })
    }

    fn create(
        &mut self,
        command: String,
        args: Vec<String>,
        env: Vec<(String, String)>,
        cwd: Option<&str>,
        keep: usize,
        start: impl FnOnce(&Launch, Streams) -> Result<i32, String>,
    ) -> Result<String, String> {
        let like = self.like.as_ref().ok_or("commands are not run here")?;
        let texts = args.iter().chain(env.iter().flat_map(|(key, value)| [key, value]));
        if texts.chain([&command]).any(|text| text.contains('\0')) {
            return Err("there is a NUL in it".to_owned());
        }
        if let Some((key, _)) = env.iter().find(|(key, _)| key.is_empty() || key.contains('=')) {
            return Err(format!("'{key}' is not the name of a variable"));
        }
        let mut launch = Launch {
            argv: argv(command, args),
            cwd: self.directory(cwd)?,
            ..like.clone()
        };
        launch.env.retain(|(have, _)| env.iter().all(|(key, _)| key != have));
        launch.env.extend(env);
        let failed = |error: io::Error| format!("no pipe for it: {error}");
        let (read, write) = io::pipe().map_err(failed)?;
        let nothing = std::fs::File::open("/dev/null").map_err(failed)?;
        let streams = Streams {
            stdin: nothing.into(),
            stderr: write.try_clone().map_err(failed)?.into(),
            stdout: write.into(),
        };
        let pid = start(&launch, streams)?;
        let output = Arc::new(Mutex::new(Tail {
            keep: keep.min(KEEP),
            ..Tail::default()
        }));
        let listener = listen(read.into(), Arc::clone(&output), Arc::clone(&self.bell));
        self.count += 1;
        let name = format!("terminal-{}", self.count);
        let terminal = Terminal {
            process: Process::of(pid),
            exit: None,
            until: None,
            output,
            listener,
            waiting: Vec::new(),
            released: false,
        };
        self.all.insert(name.clone(), terminal);
        Ok(name)
    }

    /// Where it works: in what the agent says, if that is in the workspace. What it starts can go elsewhere; this is about mistakes.
    fn directory(&self, asked: Option<&str>) -> Result<PathBuf, String> {
        let Some(asked) = asked else {
            return Ok(self.root.clone());
        };
        let path = Path::new(asked);
        if !path.is_absolute() {
            return Err(format!("'{asked}' is not an absolute path"));
        }
        let root = self.root.canonicalize().unwrap_or_else(|_| self.root.clone());
        match path.canonicalize() {
            Ok(real) if real.starts_with(&root) => Ok(real),
            // Whether it is there is told of no directory elsewhere.
            _ => Err(format!("'{asked}' is no directory that is in the workspace")),
        }
    }

    /// Ends one with what it has started.
    fn end(&mut self, order: String, terminal: &str, release: bool) -> Option<Word> {
        let now = Instant::now();
        let Some(found) = self.all.get_mut(terminal) else {
            let done = none(terminal);
            return Some(Word::Terminal { order, done });
        };
        if let Some(exit) = found.end(now) {
            if release {
                self.all.remove(terminal);
            }
            let done = Done::Ended(exit);
            return Some(Word::Terminal { order, done });
        }
        found.released |= release;
        found.waiting.push(order);
        if let Some(process) = found.process.filter(|_| found.exit.is_none()) {
            // First, so that it starts nothing more.
            process.signal(Signal::STOP);
            tree::kill_below(process.pid);
            process.signal(Signal::KILL);
        }
        None
    }

    /// A process has ended. Says whether it was one of these.
    pub(super) fn ended(&mut self, pid: i32, exit: Exit) -> bool {
        let found = self.all.values_mut().find(|terminal| {
            let is_it = terminal.process.is_some_and(|process| process.pid == pid);
            is_it && terminal.exit.is_none()
        });
        let Some(found) = found else { return false };
        found.exit = Some(exit);
        found.until = Some(Instant::now() + DRAIN);
        self.bell.notify_one();
        true
    }

    /// When there is something to be told at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        let waits = |terminal: &&Terminal| !terminal.waiting.is_empty();
        self.all
            .values()
            .filter(waits)
            .filter_map(|terminal| terminal.until)
            .min()
    }

    /// What can be told now to those who wait.
    pub(super) fn news(&mut self) -> Vec<Word> {
        let now = Instant::now();
        let mut words = Vec::new();
        self.all.retain(|_, terminal| {
            let Some(exit) = terminal.end(now) else { return true };
            let waiting = std::mem::take(&mut terminal.waiting);
            words.extend(waiting.into_iter().map(|order| {
                let done = Done::Ended(exit);
                Word::Terminal { order, done }
            }));
            !terminal.released
        });
        words
    }
}

fn none(terminal: &str) -> Done {
    let name: String = terminal.chars().filter(|c| !c.is_control()).take(80).collect();
    Done::Failed(format!("there is no terminal '{name}'"))
}

/// A program and its arguments; where there are none and it is no program's name, what was typed is for a shell. Other clients give all of it to one.
fn argv(command: String, args: Vec<String>) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+');
    if args.is_empty() && !command.chars().all(is_name) {
        return vec!["sh".to_owned(), "-c".to_owned(), command];
    }
    std::iter::once(command).chain(args).collect()
}

fn listen(read: OwnedFd, output: Arc<Mutex<Tail>>, bell: Arc<Notify>) -> AbortHandle {
    let listener = tokio::spawn(async move {
        if let Ok(pipe) = Receiver::from_owned_fd(read) {
            let mut buffer = vec![0; 16 << 10];
            while pipe.readable().await.is_ok() {
                match pipe.try_read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => tail(&output).push(&buffer[..n]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
        }
        tail(&output).ended = true;
        bell.notify_one();
    });
    listener.abort_handle()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(keep: usize, chunks: &[&[u8]]) -> (String, bool) {
        let mut tail = Tail {
            keep,
            ..Tail::default()
        };
        for chunk in chunks {
            tail.push(chunk);
        }
        tail.text()
    }

    #[test]
    fn the_newest_output_begins_with_a_whole_character_and_is_not_longer_than_asked() {
        assert_eq!(told(10, &[b"hello"]), ("hello".to_owned(), false));
        assert_eq!(told(4, &[b"hel", b"lo"]), ("ello".to_owned(), true));
        let text = "a\u{e4}\u{20ac}\u{1f600}z".as_bytes();
        for keep in 0..=text.len() {
            let (tail, truncated) = told(keep, &[text]);
            assert!(tail.len() <= keep && !tail.contains('\u{fffd}'), "{keep}: {tail:?}");
            assert!("a\u{e4}\u{20ac}\u{1f600}z".ends_with(&tail));
            assert_eq!(truncated, keep < text.len());
        }
        // What is no text is longer as text, and cut again.
        assert_eq!(told(4, &[b"a\xff\xff"]), ("\u{fffd}".to_owned(), true));
        assert_eq!(told(0, &[b"x"]), (String::new(), true));
    }

    #[tokio::test]
    async fn nothing_is_read_any_more_of_what_a_command_has_left_behind_that_is_released() {
        let launch = Launch {
            run: "it-1-1".to_owned(),
            argv: vec!["agent".to_owned()],
            env: Vec::new(),
            cwd: "/".into(),
            record: "/nowhere".into(),
            ladder: super::super::launch::Ladder::default(),
            bounds: super::super::launch::Bounds::default(),
            cgroup: None,
            sandbox: None,
            terminals: Some("/".into()),
            container: None,
        };
        let mut terminals = Terminals::of(&launch);
        let deed = Deed::Create {
            command: "true".to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            keep: 100,
        };
        // No process has this number.
        let pid = i32::MAX;
        let mut kept = None;
        let created = terminals.take("1".to_owned(), deed, |_, streams| {
            kept = Some(streams.stdout);
            Ok(pid)
        });
        assert!(matches!(
            created,
            Some(Word::Terminal {
                done: Done::Created { .. },
                ..
            })
        ));
        let output = Arc::downgrade(&terminals.all["terminal-1"].output);
        let found = terminals.all.get_mut("terminal-1").expect("it is there");
        (found.exit, found.until) = (Some(Exit::of_code(0)), Some(Instant::now()));
        let terminal = "terminal-1".to_owned();
        let released = terminals.take("2".to_owned(), Deed::Release { terminal }, |_, _| Err(String::new()));
        assert!(matches!(
            released,
            Some(Word::Terminal {
                done: Done::Ended(_),
                ..
            })
        ));
        let mut background = std::fs::File::from(kept.expect("started"));
        for _ in 0..1_000 {
            if output.upgrade().is_none() {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert!(output.upgrade().is_none(), "what it wrote is still kept");
        let written = std::io::Write::write_all(&mut background, b"x");
        assert_eq!(written.expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn what_is_typed_goes_to_a_shell_and_a_program_does_not() {
        let words =
            |command: &str, args: &[&str]| argv(command.to_owned(), args.iter().map(|s| (*s).to_owned()).collect());
        assert_eq!(words("make", &["-j2 x"]), ["make", "-j2 x"]);
        assert_eq!(words("./a-b.sh", &[]), ["./a-b.sh"]);
        assert_eq!(words("echo hi > a", &[]), ["sh", "-c", "echo hi > a"]);
        assert_eq!(words("an odd name", &["x"]), ["an odd name", "x"]);
    }
}
