//! A workspace's state becomes a commit.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use bstr::{BStr, BString, ByteSlice};
use gix::{hash::ObjectId, objs::Kind};

use super::{Checkpoint, CheckpointError, FileChange, Outcome, Placed, ReadError, compose};
use crate::{
    repo::{ObjectSink, RefLog, RefOutcome, RefUpdate, RefValue, diff_trees},
    workspace::{Captured, Durability, Durable, Found, HeadState, Held, Placement, SkipReason, Unchanged, Workspace},
};

/// Below this are the checkpoints that are on no branch.
const SHADOW: &str = "refs/gitstead/checkpoints/";
/// In such a checkpoint: the commit that HEAD named.
const BASE: &str = "Checkpoint-Base";
/// How often a branch may move under a checkpoint.
const ATTEMPTS: usize = 8;
/// How often it begins anew only because git has written the index meanwhile.
const WARY: usize = 3;
/// Files that are named in a warning.
const TOLD: usize = 10;

/// The last checkpoint of a workspace that is on no branch; `None` when there is none.
///
/// # Errors
/// When the ref cannot be read.
pub fn shadow_of(workspace: &Workspace) -> Result<Option<ObjectId>, ReadError> {
    let reference = shadow_ref(workspace);
    Ok(match workspace.repository().ref_value(reference.as_bstr())? {
        RefValue::Id(id) => Some(id),
        RefValue::Absent | RefValue::Broken => None,
    })
}

fn shadow_ref(workspace: &Workspace) -> BString {
    [SHADOW.as_bytes(), workspace.name()].concat().into()
}

/// Where a commit goes.
pub(super) struct Target {
    pub(super) reference: BString,
    /// What the ref names now.
    pub(super) old: Option<ObjectId>,
    pub(super) parents: Vec<ObjectId>,
    pub(super) placed: Placed,
    /// HEAD, if the commit is beside it.
    base: Option<ObjectId>,
}

impl Workspace {
    /// Makes the state of the workspace a commit.
    ///
    /// What `git add -A` would record is recorded: ignored files are not, deleted ones are gone. Files that look like secrets and what cannot be recorded are named
    /// in the outcome. When this returns, the commit survives a killed process, and a loss of power as [`Durability`] says.
    ///
    /// ```
    /// use gitstead::{checkpoint::{Checkpoint, ToolOutcome}, workspace::Workspace};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let git = dir.path().join(".git");
    /// # for sub in ["objects", "refs/heads"] { std::fs::create_dir_all(git.join(sub))?; }
    /// # std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n")?;
    /// # let path = dir.path();
    /// let workspace = Workspace::open(path)?;
    /// std::fs::write(path.join("report.md"), "# Report\n")?;
    /// let outcome = workspace.checkpoint(
    ///     Checkpoint::after("Write", "Created report.md").agent("research").outcome(ToolOutcome::Ok),
    /// )?;
    /// assert_eq!(outcome.changes[0].path, "report.md");
    /// assert!(outcome.commit.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When the workspace is in use for too long, when it cannot be read, when the commit cannot be written. Nothing has changed then.
    pub fn checkpoint(&self, checkpoint: Checkpoint) -> Result<Outcome, CheckpointError> {
        self.lock()?.checkpoint(checkpoint)
    }
}

impl Held<'_> {
    /// As [`Workspace::checkpoint`], in a workspace that is held already.
    ///
    /// # Errors
    /// As there.
    pub fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<Outcome, CheckpointError> {
        let started = Instant::now();
        let mut reference = BString::default();
        let mut said: Vec<String> = self.mend_after_power_loss()?.into_iter().collect();
        for n in 0..ATTEMPTS {
            said.extend(self.overlooked());
            let result = self.attempt(&checkpoint, started, n < WARY);
            if !matches!(result, Ok(Ok(_))) {
                // Objects that were not published are known here and nowhere else.
                self.forget();
            }
            match result? {
                Ok(mut outcome) => {
                    said.append(&mut outcome.warnings);
                    outcome.warnings = said;
                    return Ok(outcome);
                }
                Err(moved) => reference = moved,
            }
        }
        Err(CheckpointError::Moving { reference })
    }

    /// `Ok(Err(ref))` when somebody else moved the ref meanwhile.
    fn attempt(
        &mut self,
        checkpoint: &Checkpoint,
        started: Instant,
        wary: bool,
    ) -> Result<Result<Outcome, BString>, CheckpointError> {
        let mut warnings = Vec::new();
        let locked = self.wait_for_git();
        warnings.extend(locked.map(locked_index));
        let alone = locked.is_none();
        let head = self.head()?;
        let target = self.target(&head)?;
        let parent_tree = match target.parents.first() {
            Some(parent) if Some(*parent) == head.commit => head.tree,
            Some(parent) => {
                Some(
                    super::tree_of(&self.repository().odb()?, parent).map_err(|err| CheckpointError::Refused {
                        reference: target.reference.clone(),
                        why: err.to_string(),
                    })?,
                )
            }
            None => None,
        };
        let Captured {
            sink,
            tree,
            since,
            skipped,
            read,
            looked,
            warnings: said,
        } = self.capture_with_rules()?;
        warnings.extend(said);
        let mut outcome = Outcome {
            commit: None,
            tree,
            parent: target.parents.first().copied(),
            reference: target.reference.clone(),
            placed: target.placed,
            changes: Vec::new(),
            changed: 0,
            skipped,
            looked,
            read,
            warnings,
            took: started.elapsed(),
        };
        if parent_tree == Some(tree) && self.options().unchanged == Unchanged::Skip {
            // Its tree is the commit's before: there is nothing to publish.
            outcome.took = started.elapsed();
            return Ok(Ok(outcome));
        }
        let commit = self.write_commit(&sink, tree, &target, checkpoint)?;
        let durable = self.options().durability == Durability::Each;
        let written = sink.publish(durable)?;
        // Whatever becomes of the ref: another checkpoint finds them there and does not ask whether they are on the disk.
        self.flush_later(written.unflushed);
        // A checkout that came between gave us the files of another branch.
        if alone {
            self.wait_for_git();
        }
        let now = self.head()?;
        let moved = (&now.branch, now.commit, now.in_progress) != (&head.branch, head.commit, head.in_progress);
        // Git moves HEAD just after the index.
        if moved || wary && self.index_moved()? {
            return Ok(Err(target.reference));
        }
        // Git that reads the index from here on finds in it what the commit is going to have: what it commits itself takes nothing of that back.
        let follows = target.placed == Placed::Branch && self.index_leads();
        if let Err(moved) = self.move_ref(&target, commit, checkpoint)? {
            return Ok(Err(moved));
        }
        self.flush_ref_later(&target, commit);
        self.commit_made(commit, tree);
        outcome.commit = Some(commit);
        // The checkpoint is made: what fails from here on is said, and takes nothing back.
        if target.placed == Placed::Branch && !follows {
            let why = match self.index_follows() {
                Ok(Ok(())) => {
                    self.index_lags(commit, tree);
                    None
                }
                Ok(Err(age)) => Some(locked_index(age)),
                Err(error) => Some(match std::error::Error::source(&error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                }),
            };
            outcome
                .warnings
                .extend(why.map(|why| format!("the index stays behind until the next checkpoint: {why}")));
        }
        match since {
            Some((from, changes)) if Some(from) == parent_tree => {
                outcome.changed = changes.len();
                let listed = changes.into_iter().take(Outcome::CHANGES);
                outcome.changes = listed.map(FileChange::of).collect();
            }
            _ if parent_tree != Some(tree) => {
                if let Err(error) = self.compare(parent_tree, &mut outcome) {
                    outcome.warnings.push(format!("what changed cannot be listed: {error}"));
                }
            }
            _ => {}
        }
        self.compact_now_and_then();
        outcome.took = started.elapsed();
        Ok(Ok(outcome))
    }

    /// What is to be said of a commit that git made of an index which a checkpoint was ahead of. Asked once.
    fn overlooked(&mut self) -> Option<String> {
        let lag = self.lag_behind()?;
        let head = self.head().ok()?;
        let (commit, tree) = head.commit.zip(head.tree)?;
        if commit == lag.commit {
            return None;
        }
        let odb = self.repository().odb().ok()?;
        let mut lost = Vec::new();
        let compared = diff_trees(&odb, Some(&lag.tree), Some(&tree), &mut |change| {
            let was = match lag.of_nothing {
                true => Some(&None),
                false => lag.paths.get(&change.path),
            };
            if was == Some(&change.to) {
                lost.push(change.path);
            }
            match lost.len() < TOLD {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        if compared.is_err() || lost.is_empty() {
            return None;
        }
        let names = bstr::join(", ", &lost);
        Some(format!(
            "commit {} was made while git's index was still behind checkpoint {}, and takes back what that recorded ({}); it is recorded again now",
            commit.to_hex_with_len(10),
            lag.commit.to_hex_with_len(10),
            names.as_bstr()
        ))
    }

    fn compare(&self, before: Option<ObjectId>, outcome: &mut Outcome) -> Result<(), CheckpointError> {
        let odb = self.repository().odb()?;
        let tree = outcome.tree;
        diff_trees(&odb, before.as_deref(), Some(&tree), &mut |change| {
            outcome.changed += 1;
            if outcome.changes.len() < Outcome::CHANGES {
                outcome.changes.push(FileChange::of(change));
            }
            ControlFlow::Continue(())
        })?;
        Ok(())
    }

    /// The state of the workspace as objects, by the workspace's own rules about what is left out.
    pub(crate) fn capture_with_rules(&mut self) -> Result<Captured, CheckpointError> {
        let rules = self.options().secrets.clone();
        let policy = |found: &Found, content: Option<&[u8]>| {
            let secret = match content {
                None => rules.is_named(found.path.as_bstr()),
                Some(content) => rules.is_content(content),
            };
            secret.then_some(SkipReason::Secret)
        };
        Ok(self.capture(&policy)?)
    }

    /// The state of the workspace as a tree that is in the repository, and what is not in it. No commit is made, no ref moves.
    ///
    /// # Errors
    /// When the workspace cannot be read, or objects cannot be written.
    pub fn live_tree(&mut self) -> Result<(ObjectId, Vec<(BString, SkipReason)>), CheckpointError> {
        let published = self.capture_with_rules().and_then(|captured| {
            let durable = self.options().durability == Durability::Each;
            let written = captured.sink.publish(durable)?;
            self.flush_later(written.unflushed);
            Ok((captured.tree, captured.skipped))
        });
        if published.is_err() {
            self.forget();
        }
        published
    }

    pub(super) fn target(&self, head: &HeadState) -> Result<Target, CheckpointError> {
        let placed = match (self.options().placement, &head.branch, head.in_progress) {
            (Placement::Shadow, ..) => Placed::Shadow,
            (_, _, Some(what)) => Placed::InProgress(what),
            (_, None, _) => Placed::Detached,
            (Placement::Branch, Some(branch), None) => {
                return Ok(Target {
                    reference: branch.clone(),
                    old: head.commit,
                    parents: head.commit.into_iter().collect(),
                    placed: Placed::Branch,
                    base: None,
                });
            }
        };
        let reference = shadow_ref(self);
        let old = match self.repository().ref_value(reference.as_bstr())? {
            RefValue::Absent => None,
            RefValue::Id(id) => Some(id),
            RefValue::Broken => {
                let why = "it is broken".to_owned();
                return Err(CheckpointError::Refused { reference, why });
            }
        };
        let mut parents: Vec<ObjectId> = old.into_iter().collect();
        if let Some(commit) = head.commit
            && self.base_of(old)? != Some(commit)
        {
            parents.push(commit);
        }
        Ok(Target {
            reference,
            old,
            parents,
            placed,
            base: head.commit,
        })
    }

    /// Where HEAD was when a checkpoint beside the branch was made.
    fn base_of(&self, shadow: Option<ObjectId>) -> Result<Option<ObjectId>, CheckpointError> {
        let Some(shadow) = shadow else { return Ok(None) };
        let mut data = Vec::new();
        if self.repository().odb()?.read(&shadow, &mut data)? != Some(Kind::Commit) {
            return Ok(None);
        }
        let Some(at) = data.find(b"\n\n") else { return Ok(None) };
        let parsed = super::parse(data[at + 2..].as_bstr());
        let base = parsed.and_then(|message| ObjectId::from_hex(message.trailer(BASE)?.as_bytes()).ok());
        Ok(base)
    }

    pub(super) fn write_commit(
        &self,
        sink: &ObjectSink,
        tree: ObjectId,
        target: &Target,
        checkpoint: &Checkpoint,
    ) -> Result<ObjectId, CheckpointError> {
        let message = match target.base {
            Some(base) => compose(&checkpoint.clone().trailer(BASE, base.to_string())),
            None => compose(checkpoint),
        };
        let author = checkpoint.agent_name().unwrap_or("agent");
        let data = self.commit_object(tree, &target.parents, author, message.as_bstr())?;
        Ok(sink.write(Kind::Commit, &data)?)
    }

    /// The bytes of a commit (gitformat: `tree`, `parent`, `author`, `committer`, an empty line, the message).
    fn commit_object(
        &self,
        tree: ObjectId,
        parents: &[ObjectId],
        author: &str,
        message: &BStr,
    ) -> Result<Vec<u8>, CheckpointError> {
        let (name, email) = &self.options().committer;
        let seconds = self.options().clock.seconds();
        let author = person(author);
        let address: String = author
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "._-".contains(c) {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        let mut out = format!("tree {tree}\n");
        for parent in parents {
            out.push_str(&format!("parent {parent}\n"));
        }
        let (name, email) = (person(name), person(email));
        let domain = "agents.gitstead.invalid";
        out.push_str(&format!("author {author} <{address}@{domain}> {seconds} +0000\n"));
        out.push_str(&format!("committer {name} <{email}> {seconds} +0000\n"));
        let signature = self.signature(&out, message)?;
        let mut out = out.into_bytes();
        out.extend_from_slice(signature.as_bytes());
        out.push(b'\n');
        out.extend_from_slice(message);
        Ok(out)
    }

    /// The header with the signature of a commit of these headers and this message, or nothing.
    #[cfg(feature = "ssh-signatures")]
    fn signature(&self, headers: &str, message: &BStr) -> Result<String, CheckpointError> {
        let Some(signer) = &self.options().signer else {
            return Ok(String::new());
        };
        let signature = signer.sign(&[headers.as_bytes(), b"\n", message.as_bytes()].concat())?;
        let key = match self.repository().hash_kind() {
            gix::hash::Kind::Sha256 => "gpgsig-sha256",
            _ => "gpgsig",
        };
        // Further lines of a header begin with a space.
        Ok(format!("{key} {}\n", signature.trim_end().replace('\n', "\n ")))
    }

    #[cfg(not(feature = "ssh-signatures"))]
    fn signature(&self, _headers: &str, _message: &BStr) -> Result<String, CheckpointError> {
        Ok(String::new())
    }

    /// Sees to it that the ref that names a commit survives a loss of power, as soon as the options promise it, and no sooner than the commit.
    pub(super) fn flush_ref_later(&self, target: &Target, commit: ObjectId) {
        let file = self.repository().common_dir().join(target.reference.to_string());
        let dir = file.parent().map(std::path::Path::to_owned);
        let reference = target.reference.clone();
        let durable = Durable { reference, commit };
        self.flush_checkpoint_later(std::iter::once(file).chain(dir), durable);
    }

    /// `Ok(Err(ref))` when it has another value by now.
    pub(super) fn move_ref(
        &self,
        target: &Target,
        commit: ObjectId,
        checkpoint: &Checkpoint,
    ) -> Result<Result<(), BString>, CheckpointError> {
        let update = RefUpdate {
            name: target.reference.clone(),
            old: target.old,
            new: Some(commit),
        };
        let (name, email) = self.options().committer.clone();
        let log = RefLog {
            name,
            email,
            seconds: self.options().clock.seconds(),
            message: format!("checkpoint: {}", checkpoint.subject()),
        };
        match self.repository().update_refs(&[update], true, &log)?.into_iter().next() {
            Some(RefOutcome::Ok) => Ok(Ok(())),
            Some(RefOutcome::Failed { detail, .. }) => {
                let now = self.repository().ref_value(target.reference.as_bstr())?;
                let moved = match (now, target.old) {
                    (RefValue::Id(now), Some(old)) => now != old,
                    (RefValue::Id(_), None) | (RefValue::Absent, Some(_)) => true,
                    _ => false,
                };
                match moved {
                    true => Ok(Err(target.reference.clone())),
                    false => Err(CheckpointError::Refused {
                        reference: target.reference.clone(),
                        why: detail,
                    }),
                }
            }
            None => Err(CheckpointError::Refused {
                reference: target.reference.clone(),
                why: "nothing was updated".to_owned(),
            }),
        }
    }
}

/// That git, or nobody, has the index locked.
fn locked_index(age: Duration) -> String {
    let age = age.as_secs();
    format!(
        "index.lock has been there for {age} s: git is at work in the workspace, or was killed there; it is left alone (remove it if no git runs)"
    )
}

/// A name or an address as a commit may have it.
pub(super) fn person(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| {
            if c.is_control() || matches!(c, '<' | '>') {
                ' '
            } else {
                c
            }
        })
        .collect();
    match clean.trim() {
        "" => "unknown".to_owned(),
        clean => clean.to_owned(),
    }
}
