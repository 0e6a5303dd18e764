//! The file in which questions and decisions are noted, a JSON value a line.
//!
//! One thread writes, in the order in which it is told, so nobody waits for a disk who does not want to. What cannot be written is told in the log, and holds up nobody.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::base::{Clock, rfc3339};

/// Notes that wait to be written. Beyond it they are lost, which is noted.
const WAITING: usize = 4_096;
/// How long whoever closes it waits for what is not written yet.
const CLOSES: Duration = Duration::from_secs(2);

/// What is noted, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditRules {
    /// The file; nothing is noted without it, nor in `/dev/null`.
    pub file: Option<PathBuf>,
    /// Whether notes hold the beginnings of questions, answers, and what tools are given, and not only what they are about.
    pub texts: bool,
    /// Bytes of the file before it is put aside; never, if 0.
    pub bytes: u64,
    /// Older files that are kept, the newest as `audit.1.jsonl`. With 0 the file is begun anew.
    pub files: usize,
    /// When a note is on the disk.
    pub flush: AuditFlush,
}

/// When a note is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditFlush {
    /// When the system sees fit: a killed server loses nothing, a loss of power the last seconds.
    #[default]
    Off,
    /// Before whoever has asked is answered.
    Each,
}

impl Default for AuditRules {
    /// 16 MiB, and one older file of that size.
    fn default() -> Self {
        AuditRules {
            file: None,
            texts: true,
            bytes: 16 << 20,
            files: 1,
            flush: AuditFlush::default(),
        }
    }
}

/// Members of notes that are left out where notes hold no texts.
const TEXTS: [&str; 4] = ["message", "result_preview", "summary", "input"];

/// Where things are noted. A clone notes in the same file.
#[derive(Clone, Default)]
pub struct Audit {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    send: SyncSender<Note>,
    texts: bool,
    clock: Arc<dyn Clock>,
    lost: AtomicU64,
}

struct Note {
    line: Option<String>,
    written: Option<oneshot::Sender<()>>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("notes", &self.inner.is_some()).finish()
    }
}

impl Audit {
    /// Begins to note. The file is made with the first note.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn open(rules: AuditRules, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let Some(path) = rules.file.clone().filter(|path| path != Path::new("/dev/null")) else {
            return Ok(Audit::default());
        };
        let (send, receive) = sync_channel(WAITING);
        let texts = rules.texts;
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write_all(&path, &rules, &receive))?;
        Ok(Audit {
            inner: Some(Arc::new(Inner {
                send,
                texts,
                clock,
                lost: AtomicU64::new(0),
            })),
        })
    }

    /// Notes something, and waits for nothing.
    pub fn put(&self, event: &str, data: Value) {
        self.send(event, data, None);
    }

    /// Notes something, at once. Who waits for what this returns finds it in the file, if it can be there.
    pub fn note(&self, event: &str, data: Value) -> impl Future<Output = ()> + Send + use<> {
        let (written, wait) = oneshot::channel();
        self.send(event, data, Some(written));
        async move { drop(wait.await) }
    }

    /// Waits until everything that was noted is written, but not for ever.
    pub async fn close(&self) {
        let (written, wait) = oneshot::channel();
        if let Some(inner) = &self.inner {
            let last = Note {
                line: None,
                written: Some(written),
            };
            if inner.send.try_send(last).is_ok() {
                let _ = tokio::time::timeout(CLOSES, wait).await;
            }
        }
    }

    fn send(&self, event: &str, mut data: Value, written: Option<oneshot::Sender<()>>) {
        let Some(inner) = &self.inner else { return };
        if !inner.texts
            && let Some(data) = data.as_object_mut()
        {
            TEXTS.iter().for_each(|text| drop(data.remove(*text)));
        }
        let lost = inner.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let line = Some(inner.line("audit_lost", json!({ "notes": lost })));
            if inner.send.try_send(Note { line, written: None }).is_err() {
                inner.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
        let line = Some(inner.line(event, data));
        if inner.send.try_send(Note { line, written }).is_err() {
            inner.lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!(event, "the audit file cannot keep up: a note is lost");
        }
    }
}

impl Inner {
    fn line(&self, event: &str, mut data: Value) -> String {
        let now = self.clock.millis();
        data["event"] = json!(event);
        data["timestamp"] = json!(rfc3339(i64::try_from(now / 1_000).unwrap_or(i64::MAX), 0));
        data["timestamp_ms"] = json!(now);
        format!("{data}\n")
    }
}

/// Writes what comes until nobody notes anything any more.
fn write_all(path: &Path, rules: &AuditRules, notes: &Receiver<Note>) {
    let mut missing = 0_u64;
    while let Ok(note) = notes.recv() {
        if let Some(line) = note.line {
            match append(path, rules, &line) {
                Ok(()) if missing > 0 => {
                    tracing::warn!(missing, "the audit file can be written again");
                    missing = 0;
                }
                Ok(()) => {}
                Err(error) => {
                    if missing == 0 {
                        tracing::warn!(%error, path = %path.display(), "the audit file cannot be written; what is asked and decided is not noted");
                    }
                    missing += 1;
                }
            }
        }
        if let Some(written) = note.written {
            let _ = written.send(());
        }
    }
}

/// Adds a line. The file is opened anew each time, so that whoever puts it aside finds the next line in a new one.
fn append(path: &Path, rules: &AuditRules, line: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let is_full = |found: fs::Metadata| found.is_file() && found.len() >= rules.bytes;
    if rules.bytes > 0 && fs::metadata(path).is_ok_and(is_full) {
        put_aside(path, rules.files)?;
    }
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(line.as_bytes())?;
    match rules.flush {
        AuditFlush::Off => Ok(()),
        AuditFlush::Each => file.sync_data(),
    }
}

/// `audit.jsonl` becomes `audit.1.jsonl`, that `audit.2.jsonl`, and so on; the last goes.
fn put_aside(path: &Path, files: usize) -> io::Result<()> {
    let older = |number: usize| path.with_extension(format!("{number}.jsonl"));
    if files == 0 {
        return fs::remove_file(path);
    }
    for number in (1..files).rev() {
        match fs::rename(older(number), older(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, older(1))
}

/// The first characters of a text.
pub(super) fn beginning(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::FixedClock;

    fn read(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    fn rules(path: &Path) -> AuditRules {
        AuditRules {
            file: Some(path.to_owned()),
            ..AuditRules::default()
        }
    }

    fn open(rules: AuditRules) -> Audit {
        Audit::open(rules, Arc::new(FixedClock(Duration::from_millis(1_700_000_000_123)))).expect("a thread")
    }

    #[tokio::test]
    async fn what_is_noted_is_there_in_its_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("new/audit.jsonl");
        let audit = open(rules(&path));
        audit.put("first", json!({ "message": "hello" }));
        audit.note("second", json!({ "user": "ann" })).await;
        let expected = json!({
            "event": "first", "message": "hello", "timestamp": "2023-11-14T22:13:20Z", "timestamp_ms": 1_700_000_000_123_u64,
        });
        let found = read(&path);
        assert_eq!(
            (found.len(), &found[0], &found[1]["event"]),
            (2, &expected, &json!("second"))
        );
        audit.put("third", json!({}));
        audit.close().await;
        assert_eq!(read(&path).len(), 3);
    }

    #[tokio::test]
    async fn full_files_are_put_aside_and_so_many_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        for files in [0, 1, 2] {
            let path = dir.path().join(format!("{files}/audit.jsonl"));
            let audit = open(AuditRules {
                bytes: 1,
                files,
                flush: AuditFlush::Each,
                ..rules(&path)
            });
            for n in 1..=4 {
                audit.note("note", json!({ "n": n })).await;
            }
            let numbers = |name: &str| -> Vec<_> {
                let found = read(&path.with_file_name(name));
                found.iter().filter_map(|note| note["n"].as_u64()).collect()
            };
            assert_eq!(numbers("audit.jsonl"), [4]);
            let kept: Vec<_> = (1..=3).map(|older| numbers(&format!("audit.{older}.jsonl"))).collect();
            let expected: [&[u64]; 3] = match files {
                0 => [&[], &[], &[]],
                1 => [&[3], &[], &[]],
                _ => [&[3], &[2], &[]],
            };
            assert_eq!(kept, expected, "{files} files");
        }
        let path = dir.path().join("all/audit.jsonl");
        let audit = open(AuditRules {
            bytes: 0,
            ..rules(&path)
        });
        for _ in 0..3 {
            audit.note("note", json!({})).await;
        }
        assert_eq!(read(&path).len(), 3, "never");
    }

    #[tokio::test]
    async fn texts_are_left_out_where_they_are_not_wanted_and_what_cannot_be_written_holds_up_nobody() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("audit.jsonl");
        let audit = open(AuditRules {
            texts: false,
            ..rules(&path)
        });
        audit
            .note(
                "x",
                json!({ "message": "m", "input": "i", "summary": "s", "user": "ann" }),
            )
            .await;
        let found = &read(&path)[0];
        assert!(
            ["message", "input", "summary"]
                .iter()
                .all(|text| found[*text].is_null())
                && found["user"] == "ann",
            "{found}"
        );
        // A directory is no file.
        open(rules(dir.path())).note("x", json!({})).await;
        open(rules(Path::new("/dev/null"))).note("x", json!({})).await;
        Audit::default().note("x", json!({})).await;
    }
}
