//! The files in which Claude Code keeps its sessions, on the disk: `<configuration>/projects/<directory>/<session>.jsonl`.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
};

use rustix::fs::{Mode, OFlags};

use crate::dialect::{ClaudeHistory, HistoryMessage, is_claude_project, is_claude_session};

/// Bytes of a line; longer ones are passed over.
const LINE: u64 = 64 << 20;
/// Bytes of a text.
const TEXT: usize = 1 << 20;
/// Directories of projects that are looked through.
const PROJECTS: usize = 100_000;

/// The file of one session, looked through once.
#[derive(Debug)]
pub struct Transcript {
    file: File,
    history: ClaudeHistory,
}

/// A part of a conversation, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TranscriptPage {
    /// In their order.
    pub messages: Vec<HistoryMessage>,
    /// The cursor for what was said before; nothing was without it.
    pub older: Option<String>,
}

impl Transcript {
    /// The file of a session below `projects`, if there is one. Its id is unique; should there be several of it nevertheless, that of the directory which ends as `place` does. Links
    /// below `projects` are not followed, and a file of more than `most` bytes counts as none. Blocks.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn open(projects: &Path, session: &str, place: Option<&str>, most: u64) -> io::Result<Option<Self>> {
        if !is_claude_session(session) {
            return Ok(None);
        }
        Self::read(find(projects, session, place)?, most)
    }

    /// The file of a session of an agent that works in `cwd` (a path without links), if `may_read` of the directory in which Claude Code keeps the sessions of that place. Others are not
    /// looked at: what an agent calls its session is its own choice. Links below `projects` are not followed, and a file of more than `most` bytes counts as none. Blocks.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn of_agent(
        projects: &Path,
        session: &str,
        cwd: &str,
        most: u64,
        may_read: impl Fn(&Path) -> bool,
    ) -> io::Result<Option<Self>> {
        if !is_claude_session(session) {
            return Ok(None);
        }
        let is_meant = |dir: &str| is_claude_project(dir, cwd);
        for entry in entries(projects)?.into_iter().flatten().take(PROJECTS) {
            let entry = entry?;
            if !is_meant(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let Some(dir) = open_dir(&entry.path()) else { continue };
            // Where it really is: a way there may be the agent's own to change.
            let real = fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
            if may_read(&real)
                && let Some(file) = open_in(&dir, &format!("{session}.jsonl"))
            {
                return Self::read(Some(file), most);
            }
        }
        Ok(None)
    }

    fn read(file: Option<File>, most: u64) -> io::Result<Option<Self>> {
        let Some(file) = file else { return Ok(None) };
        if file.metadata()?.len() > most {
            return Ok(None);
        }
        let history = index(&file)?;
        Ok(Some(Transcript { file, history }))
    }

    /// The last messages before `before`: at most so many, and fewer where they are longer than `bytes` together, as JSON writes them. `None` if there is no such place in the conversation
    /// (any more). Blocks.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn page(&self, before: Option<&str>, most: usize, bytes: usize) -> io::Result<Option<TranscriptPage>> {
        let Some(page) = self.history.page(before, most) else {
            return Ok(None);
        };
        let (mut messages, mut has_older, mut left) = (Vec::new(), page.has_older, bytes);
        for place in page.places.iter().rev() {
            let mut line = vec![0; usize::try_from(place.length).unwrap_or(usize::MAX)];
            self.file.read_exact_at(&mut line, place.offset)?;
            let Some(message) = HistoryMessage::read(&line, TEXT) else {
                continue;
            };
            let size = size(&message);
            if size > left && !messages.is_empty() {
                has_older = true;
                break;
            }
            left = left.saturating_sub(size);
            messages.push(message);
        }
        messages.reverse();
        let older = messages.first().filter(|_| has_older).map(|first| first.id.clone());
        Ok(Some(TranscriptPage { messages, older }))
    }
}

/// Bytes of a message as JSON writes it, roughly.
fn size(message: &HistoryMessage) -> usize {
    let escaped = |b: u8| match b {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    let text: usize = message.text.bytes().map(escaped).sum();
    text + message.id.len() + message.at.as_ref().map_or(0, String::len)
}

fn find(projects: &Path, session: &str, place: Option<&str>) -> io::Result<Option<File>> {
    let name = format!("{session}.jsonl");
    let mut found = None;
    for entry in entries(projects)?.into_iter().flatten().take(PROJECTS) {
        let entry = entry?;
        // What stands before it is the data directory's, and as long as it is there.
        let dir = entry.file_name().to_string_lossy().into_owned();
        let is_meant = place.is_some_and(|place| {
            let begins = dir.len().saturating_sub(place.len());
            dir.get(begins..).is_some_and(|end| is_claude_project(end, place))
        });
        if found.is_some() && !is_meant {
            continue;
        }
        let Some(file) = open_dir(&entry.path()).and_then(|dir| open_in(&dir, &name)) else {
            continue;
        };
        found = Some(file);
        if is_meant {
            break;
        }
    }
    Ok(found)
}

/// What is in a directory, if there is one.
fn entries(dir: &Path) -> io::Result<Option<fs::ReadDir>> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

const PLAIN: OFlags = OFlags::NOFOLLOW
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::RDONLY);

/// A plain directory. An agent that may write there could put a link to what it may not read.
fn open_dir(dir: &Path) -> Option<OwnedFd> {
    rustix::fs::open(dir, PLAIN | OFlags::DIRECTORY, Mode::empty()).ok()
}

/// A plain file of that name.
fn open_in(dir: &OwnedFd, name: &str) -> Option<File> {
    let file = rustix::fs::openat(dir, name, PLAIN, Mode::empty()).ok()?;
    let file = File::from(file);
    file.metadata().is_ok_and(|found| found.is_file()).then_some(file)
}

/// Reads a file once, and keeps where its lines are.
fn index(file: &File) -> io::Result<ClaudeHistory> {
    let mut history = ClaudeHistory::default();
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let (mut line, mut offset, mut is_rest) = (Vec::new(), 0, false);
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(history);
        }
        let is_whole = line.last() == Some(&b'\n');
        if is_whole && !is_rest {
            line.pop();
            history.line(offset, &line);
        } else if !is_rest && (read as u64) < LINE {
            // The end of the file: torn, or written without a line end.
            history.line(offset, &line);
        }
        is_rest = !is_whole;
        offset += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str = "0835f0ad-1b2c-4d3e-8f90-0123456789ab";

    fn said(text: &str) -> String {
        format!(r#"{{"type":"user","uuid":"{text}","parentUuid":null,"message":{{"content":"{text}"}}}}"#)
    }

    #[test]
    fn a_file_is_found_by_its_session_and_its_place() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["-other", "-data-work-app-main", "-zz"] {
            fs::create_dir(dir.path().join(name)).expect("made");
        }
        let file = |name: &str| dir.path().join(name).join(format!("{SESSION}.jsonl"));
        let text = |place: Option<&str>| {
            let found = Transcript::open(dir.path(), SESSION, place, 1_000).expect("readable")?;
            let page = found.page(None, 10, 1_000).expect("readable").expect("the end");
            Some(page.messages[0].text.clone())
        };
        assert_eq!(text(None), None);
        fs::write(file("-zz"), said("zz")).expect("written");
        assert_eq!(text(Some("work/app/main")).as_deref(), Some("zz"));
        fs::write(file("-data-work-app-main"), said("meant")).expect("written");
        fs::write(file("-other"), said("other")).expect("written");
        assert_eq!(text(Some("work/app/main")).as_deref(), Some("meant"));
        fs::write(file("-data-work-app-main"), said(&"x".repeat(1_000))).expect("written");
        assert_eq!(text(Some("work/app/main")), None, "it is too large");
        for name in ["../x", "", "x"] {
            assert!(
                Transcript::open(dir.path(), name, None, 1_000)
                    .expect("no error")
                    .is_none()
            );
        }
    }

    #[test]
    fn an_agents_file_is_only_where_that_agent_works_and_may_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let projects = dir.path().canonicalize().expect("there").join("projects");
        let file = |name: &str| projects.join(name).join(format!("{SESSION}.jsonl"));
        for name in ["-home-victim", "-data-work-app-main"] {
            fs::create_dir_all(projects.join(name)).expect("made");
        }
        let found = |may_read: &dyn Fn(&Path) -> bool| {
            Transcript::of_agent(&projects, SESSION, "/data/work/app/main", 1_000, may_read)
                .expect("readable")
                .is_some()
        };
        fs::write(file("-home-victim"), said("secret")).expect("written");
        assert!(!found(&|_| true), "somebody else's");
        fs::write(file("-data-work-app-main"), said("own")).expect("written");
        assert!(found(&|_| true));
        assert!(!found(&|_| false));
        assert!(found(&|real| real == projects.join("-data-work-app-main")));
        // By a link of the agent's to a place that is nothing for it.
        let way = dir.path().join("way");
        std::os::unix::fs::symlink(&projects, &way).expect("linked");
        let in_way = |real: &Path| real.starts_with(&way);
        let by_way = Transcript::of_agent(&way, SESSION, "/data/work/app/main", 1_000, in_way);
        assert!(by_way.expect("readable").is_none());
    }

    #[test]
    fn links_lead_nowhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let (projects, outside) = (dir.path().join("projects"), dir.path().join("outside"));
        fs::create_dir_all(projects.join("-a")).expect("made");
        fs::create_dir(&outside).expect("made");
        let name = format!("{SESSION}.jsonl");
        fs::write(outside.join(&name), said("secret")).expect("written");
        std::os::unix::fs::symlink(outside.join(&name), projects.join("-a").join(&name)).expect("linked");
        std::os::unix::fs::symlink(&outside, projects.join("-b")).expect("linked");
        let found = Transcript::open(&projects, SESSION, None, 1_000).expect("no error");
        assert!(found.is_none());
    }

    #[test]
    fn long_texts_make_short_pages_without_a_gap() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("-a")).expect("made");
        let mut lines = String::new();
        // Each is its text and two bytes of an id.
        for n in 0..5 {
            let parent = if n == 0 {
                "null".to_owned()
            } else {
                format!("\"u{}\"", n - 1)
            };
            let text = "x".repeat(40 + n);
            lines.push_str(&format!(
                "{{\"type\":\"user\",\"uuid\":\"u{n}\",\"parentUuid\":{parent},\"message\":{{\"content\":\"{text}\"}}}}\n"
            ));
        }
        fs::write(dir.path().join("-a").join(format!("{SESSION}.jsonl")), lines).expect("written");
        let file = Transcript::open(dir.path(), SESSION, None, 10_000)
            .expect("readable")
            .expect("there");
        let (mut before, mut lengths) = (None, Vec::new());
        loop {
            let page = file
                .page(before.as_deref(), 10, 94)
                .expect("readable")
                .expect("the place");
            assert!(page.messages.len() <= 2);
            lengths.splice(0..0, page.messages.iter().map(|message| message.text.len()));
            before = page.older;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(lengths, [40, 41, 42, 43, 44]);
        let page = file.page(None, 10, 90).expect("readable").expect("the end");
        assert_eq!(page.messages.len(), 1, "with their ids two are longer");
        assert_eq!(file.page(Some("nobody"), 10, 90).expect("readable"), None);
    }
}
