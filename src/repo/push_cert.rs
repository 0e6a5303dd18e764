use std::{
    fs::{self, File, OpenOptions},
    io::Write,
};

use gix::objs::Kind;

use super::{Repository, open::StoreError};

/// A signed push to be kept.
#[derive(Debug, Clone, Copy)]
pub struct PushCertRecord<'a> {
    /// The certificate as it was sent.
    pub raw: &'a [u8],
    /// When, in seconds since the epoch.
    pub seconds: i64,
    /// What git calls `GIT_PUSH_CERT_NONCE_STATUS`.
    pub nonce_status: &'static str,
    /// Who was logged in.
    pub user: Option<&'a str>,
}

impl Repository {
    /// Keeps a push certificate in `push-certs/<seconds>-<id>` of the repository, durably. The id is that of the certificate as a blob, as git would name it. The first lines say
    /// what we know of it; the certificate follows after an empty line.
    ///
    /// # Errors
    /// Those of the file operations.
    pub fn record_push_cert(&self, record: &PushCertRecord<'_>) -> Result<(), StoreError> {
        let dir = self.common_dir().join("push-certs");
        let id = gix::objs::compute_hash(self.hash_kind(), Kind::Blob, record.raw).map_err(|err| StoreError::Io {
            doing: "name a certificate in",
            path: dir.clone(),
            source: std::io::Error::other(err),
        })?;
        let path = dir.join(format!("{}-{id}", record.seconds));
        let io = |doing, source| StoreError::Io {
            doing,
            path: path.clone(),
            source,
        };
        fs::create_dir_all(&dir).map_err(|err| io("create the directory of", err))?;
        let user: String = record
            .user
            .unwrap_or("anonymous")
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        let mut text = format!(
            "user {user}\nnonce-status {}\nsignature-status not-verified\n\n",
            record.nonce_status
        )
        .into_bytes();
        text.extend_from_slice(record.raw);
        let temporary = path.with_extension("tmp");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(|err| io("create", err))?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .map_err(|err| io("write", err))?;
        fs::rename(&temporary, &path).map_err(|err| io("rename", err))?;
        File::open(&dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|err| io("sync the directory of", err))
    }
}
