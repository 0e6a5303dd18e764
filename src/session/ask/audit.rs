//! The file in which every question is noted, a JSON value a line.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde_json::Value;

/// Bytes of the file before it is put aside.
const BYTES: u64 = 16 << 20;

/// One writer at a time: two that find the file full would put it aside twice.
static TURN: Mutex<()> = Mutex::new(());

/// Adds a line. The file is opened anew each time, so that whoever puts it aside finds the next line in a new one. Blocks.
///
/// # Errors
/// When it cannot be written.
pub(super) fn append(path: &Path, data: &Value) -> io::Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() >= BYTES) {
        fs::rename(path, path.with_extension("1.jsonl"))?;
    }
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(format!("{data}\n").as_bytes())
}

/// The first characters of a text.
pub(super) fn beginning(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_full_file_is_put_aside_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("new/audit.jsonl");
        append(&path, &json!({ "n": 1 })).expect("written");
        assert_eq!(fs::read_to_string(&path).expect("read"), "{\"n\":1}\n");
        fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(BYTES))
            .expect("it grows");
        append(&path, &json!({ "n": 2 })).expect("written");
        assert_eq!(fs::read_to_string(&path).expect("read"), "{\"n\":2}\n");
        assert!(dir.path().join("new/audit.1.jsonl").is_file());
        append(Path::new("/dev/null"), &json!({})).expect("nowhere");
    }
}
