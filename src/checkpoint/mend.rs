//! After a loss of power: back to the last checkpoint that is whole. The files themselves are untouched, so the next checkpoint records what the lost ones did.

use std::{fs, io, path::Path, sync::atomic::AtomicBool, time::Duration};

use bstr::ByteSlice;
use gix::hash::ObjectId;

use super::CheckpointError;
use crate::{
    repo::{Odb, RefLog, RefOutcome, RefUpdate, RefValue, check_connectivity},
    workspace::{Before, Durability, Durable, Held},
};

/// File systems and clocks are not exact about when something was written.
const SLACK: Duration = Duration::from_secs(60);

impl Held<'_> {
    /// Looks, once after the system was started, whether the objects of the last checkpoints reached the disk. Where they did not, the ref goes back to the last
    /// checkpoint that did, and what is to be said about it is returned.
    pub(super) fn mend_after_power_loss(&mut self) -> Result<Option<String>, CheckpointError> {
        if self.options().durability == Durability::Each {
            return Ok(None);
        }
        let Some(Before { durable, since }) = self.before_the_last_start() else {
            return Ok(None);
        };
        let repository = self.repository().clone();
        let removed = repository.remove_damaged_since(since.checked_sub(SLACK).unwrap_or(since))?;
        if removed > 0 {
            // It may have been known by objects that are gone.
            self.forget();
        }
        let name = durable.reference.as_bstr();
        let odb = repository.odb()?;
        let is_whole = |tip, before: &[_]| {
            check_connectivity(
                &odb,
                &[tip],
                before,
                &repository.shallow().unwrap_or_default(),
                &AtomicBool::new(false),
            )
        };
        let now = repository.ref_value(name)?;
        let broken = match now {
            RefValue::Id(tip) => tip != durable.commit && is_whole(tip, &[durable.commit]).is_err(),
            RefValue::Broken => true,
            // Somebody deleted it.
            RefValue::Absent => false,
        };
        if !broken || !odb.contains(&durable.commit)? {
            self.note_durable(&durable)?;
            return Ok(None);
        }
        let old = match now {
            RefValue::Id(tip) => Some(tip),
            _ => {
                let path = repository.common_dir().join(durable.reference.to_string());
                let _ = fs::remove_file(path);
                None
            }
        };
        let update = RefUpdate {
            name: durable.reference.clone(),
            old,
            new: Some(durable.commit),
        };
        let (name, email) = self.options().committer.clone();
        let log = RefLog {
            name,
            email,
            seconds: self.options().clock.seconds(),
            message: "checkpoint: back to what survived a loss of power".to_owned(),
        };
        if let Some(RefOutcome::Failed { detail, .. }) = repository.update_refs(&[update], true, &log)?.pop() {
            return Err(CheckpointError::Refused {
                reference: durable.reference,
                why: detail,
            });
        }
        let odb = repository.odb()?;
        for log in [
            self.git_dir().join("logs/HEAD"),
            repository.common_dir().join(format!("logs/{}", durable.reference)),
        ] {
            if let Err(error) = forget_lost(&log, &odb) {
                tracing::debug!(%error, "a reflog still names what is lost");
            }
        }
        self.note_durable(&durable)?;
        let Durable { reference, commit } = durable;
        Ok(Some(format!(
            "'{reference}' is back at {commit}: later checkpoints did not survive a loss of power; the files did, and are recorded now"
        )))
    }
}

/// Takes the lines out of a reflog that name commits which are gone.
fn forget_lost(log: &Path, odb: &Odb) -> io::Result<()> {
    let text = match fs::read(log) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let is_there = |hex: Option<&[u8]>| {
        let id = hex.and_then(|hex| ObjectId::from_hex(hex).ok());
        id.is_some_and(|id| id.is_null() || odb.contains(&id).unwrap_or(true))
    };
    let mut kept = Vec::with_capacity(text.len());
    for line in text.lines_with_terminator() {
        let mut words = line.split(|b| *b == b' ');
        if is_there(words.next()) && is_there(words.next()) {
            kept.extend_from_slice(line);
        }
    }
    let draft = log.with_extension("gitstead-new");
    fs::write(&draft, kept)?;
    fs::rename(&draft, log)
}
