use std::{
    fs, io,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Where commands on this machine find the server of a data directory: `<data>/server`, with its address on the first line. Removed when dropped.
#[derive(Debug)]
pub(super) struct Note {
    path: PathBuf,
    text: String,
}

fn path_in(data: &Path) -> PathBuf {
    data.join("server")
}

impl Note {
    /// Leaves the note. Without one, commands have to be told where the server is.
    pub(super) fn write(data: &Path, local: SocketAddr) -> Option<Self> {
        let mut shown = local;
        if local.ip().is_unspecified() {
            shown.set_ip(match local {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let note = Note {
            path: path_in(data),
            text: format!("http://{shown}\n{}\n", std::process::id()),
        };
        match note.leave() {
            Ok(()) => Some(note),
            Err(error) => {
                tracing::warn!(path = %note.path.display(), %error, "commands will not find this server by themselves");
                None
            }
        }
    }

    fn leave(&self) -> io::Result<()> {
        let beside = self.path.with_extension("tmp");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(self.text.as_bytes())?;
        fs::rename(&beside, &self.path)
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // Another server may have left its own meanwhile.
        if fs::read_to_string(&self.path).is_ok_and(|found| found == self.text) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The address of the server of this data directory, if one has left a note: `http://127.0.0.1:8080`.
pub fn noted_server(data: &Path) -> Option<String> {
    let text = fs::read_to_string(path_in(data)).ok()?;
    let first = text.lines().next()?;
    first.starts_with("http://").then(|| first.to_owned())
}
