//! Reflogs (gitrepository-layout(5), `logs/`): one line for each change, `old new name <email> seconds zone<TAB>message`.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::PathBuf};

use bstr::{BStr, BString, ByteSlice};
use gix::hash::ObjectId;

use super::{
    loose::{self, Raw},
    store::RefStore,
    transaction::Change,
    types::{LogRefUpdates, RefLog},
};

impl RefStore {
    pub(super) fn log_path(&self, name: &BStr) -> PathBuf {
        self.root_of(name).join("logs").join(OsStr::from_bytes(name))
    }

    /// Logs what has changed, for the refs themselves, the symbolic refs they were named by, and HEAD if it points to one of them.
    pub(super) fn write_logs<'a>(&self, changes: impl Iterator<Item = &'a Change>, log: &RefLog) {
        let may_exist = self.git_dir.join("logs").is_dir() || self.common_dir.join("logs").is_dir();
        if !may_exist && self.options.log_updates == LogRefUpdates::Never {
            return;
        }
        let head = self.head_target();
        for change in changes {
            for name in change.via.iter().filter(|name| **name != "HEAD") {
                self.append_log(name.as_bstr(), change.old, change.new, log);
            }
            if head.as_ref() == Some(&change.name) {
                self.append_log("HEAD".into(), change.old, change.new, log);
            }
            match change.new {
                Some(_) => self.append_log(change.name.as_bstr(), change.old, change.new, log),
                None => self.remove_log(change.name.as_bstr()),
            }
        }
    }

    fn head_target(&self) -> Option<BString> {
        match loose::read(&self.path("HEAD".into()), self.hash) {
            Ok(Some(Raw::Symbolic(first))) => self.resolve(first.as_bstr()).ok().flatten().map(|end| end.name),
            _ => None,
        }
    }

    /// Adds a line if there is a log or there should be one.
    pub(super) fn append_log(&self, name: &BStr, old: Option<ObjectId>, new: Option<ObjectId>, log: &RefLog) {
        if let Err(error) = self.try_append_log(name, old, new, log) {
            tracing::warn!(%name, %error, "cannot write the reflog");
        }
    }

    fn try_append_log(
        &self,
        name: &BStr,
        old: Option<ObjectId>,
        new: Option<ObjectId>,
        log: &RefLog,
    ) -> Result<(), io::Error> {
        let null = self.hash.null();
        let line = line(old.unwrap_or(null), new.unwrap_or(null), log);
        let path = self.log_path(name);
        let create = match self.options.log_updates {
            LogRefUpdates::Never => false,
            LogRefUpdates::Always => true,
            LogRefUpdates::Branches => {
                name == "HEAD"
                    || [&b"refs/heads/"[..], b"refs/remotes/", b"refs/notes/"]
                        .iter()
                        .any(|kind| name.starts_with(kind))
            }
        };
        match self.disk.append(&path, line.as_bytes(), create) {
            Err(error) if !create && error.kind() == io::ErrorKind::NotFound => Ok(()),
            // There is a directory; logs of refs that are gone may have left it empty.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                if !create {
                    return Ok(());
                }
                self.disk.remove_empty_tree(&path)?;
                self.disk.append(&path, line.as_bytes(), create)
            }
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                self.disk.make_parents(self.root_of(name), &path)?;
                self.disk.append(&path, line.as_bytes(), create)
            }
            other => other,
        }
    }

    pub(super) fn remove_log(&self, name: &BStr) {
        let path = self.log_path(name);
        match self.disk.unlink(&path) {
            Ok(true) => path
                .parent()
                .into_iter()
                .for_each(|parent| self.remove_empty_parents(parent)),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
            Err(error) => tracing::warn!(%name, %error, "cannot remove a reflog"),
        }
    }
}

/// One line of a reflog. What would break its grammar is left out.
pub(super) fn line(old: ObjectId, new: ObjectId, log: &RefLog) -> BString {
    let plain = |text: &str| -> String {
        let kept: String = text
            .chars()
            .filter(|c| !matches!(c, '<' | '>') && !c.is_control())
            .collect();
        kept.trim().to_owned()
    };
    let message: Vec<&str> = log.message.split_whitespace().collect();
    let mut line = format!(
        "{old} {new} {} <{}> {} +0000",
        plain(&log.name),
        plain(&log.email),
        log.seconds.max(0)
    );
    if !message.is_empty() {
        line.push('\t');
        line.push_str(&message.join(" ").replace('\0', ""));
    }
    line.push('\n');
    line.into()
}

#[cfg(test)]
mod tests {
    use gix::hash::Kind;

    use super::*;

    #[test]
    fn a_line_stays_one_line() {
        let log = RefLog {
            name: "A <b>\n C".into(),
            email: "a@b>\r\n".into(),
            seconds: 7,
            message: "push:\n  two\tlines ".into(),
        };
        let null = Kind::Sha1.null();
        assert_eq!(
            line(null, null, &log),
            format!("{null} {null} A b C <a@b> 7 +0000\tpush: two lines\n")
        );
    }
}
