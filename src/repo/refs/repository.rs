//! The refs of a [`Repository`].

use std::{os::unix::ffi::OsStrExt, path::Path};

use bstr::{BStr, ByteSlice};
use gix::{
    hash::{Kind as HashKind, ObjectId, oid},
    objs::{Kind, TagRefIter},
};

use super::{
    store::RefStore,
    types::{
        Head, LogRefUpdates, Ref, RefLog, RefObjects, RefOutcome, RefQuery, RefStoreOptions, RefTarget, RefUpdate,
        RefValue, RefsError,
    },
};
use crate::repo::{Odb, OdbError, Repository, Settings};

/// Tags of tags of tags …: nobody goes further.
const MAX_TAG_DEPTH: usize = 256;

/// The most tips that alternates contribute to an advertisement.
const MAX_ALTERNATE_TIPS: usize = 100_000;

impl RefStoreOptions {
    /// What a repository's configuration says.
    pub fn from_settings(settings: &Settings, bare: bool) -> Self {
        let core = &settings.core;
        let unset = if bare {
            LogRefUpdates::Never
        } else {
            LogRefUpdates::Branches
        };
        RefStoreOptions {
            log_updates: core.log_all_ref_updates.unwrap_or(unset),
            shared: core.shared_repository,
            ref_lock_timeout: core.files_ref_lock_timeout.unwrap_or(std::time::Duration::MAX),
            packed_lock_timeout: core.packed_refs_timeout.unwrap_or(std::time::Duration::MAX),
            lazy: false,
        }
    }
}

impl Repository {
    /// The refs that a query asks for, sorted; `HEAD` is not among them. Broken ones are left out, as git leaves them out. Refs that
    /// no prefix asks for are not looked at.
    pub fn refs(&self, query: &RefQuery) -> Result<Vec<Ref>, RefsError> {
        let odb = self.odb().map_err(objects)?;
        self.ref_store().list(query, Some(&odb))
    }

    /// What `HEAD` is, or the `HEAD` of a namespace.
    pub fn head(&self, namespace: Option<&BStr>) -> Result<Head, RefsError> {
        self.ref_store().head(namespace)
    }

    /// The ref of this full name, if there is one and it is not broken.
    pub fn find_ref(&self, full_name: &BStr) -> Result<Option<Ref>, RefsError> {
        let odb = self.odb().map_err(objects)?;
        self.ref_store().find(full_name, Some(&odb))
    }

    /// What the ref of this full name holds, however broken.
    pub fn ref_value(&self, full_name: &BStr) -> Result<RefValue, RefsError> {
        self.ref_store().value(full_name)
    }

    /// Changes refs: see [`RefStore::update`]. New values must exist in the repository (a push migrates its objects first).
    pub fn update_refs(&self, updates: &[RefUpdate], atomic: bool, log: &RefLog) -> Result<Vec<RefOutcome>, RefsError> {
        let _held = self.hold_objects().map_err(objects)?;
        let odb = self.odb().map_err(objects)?;
        self.ref_store().update(updates, atomic, log, &odb)
    }

    /// Makes `HEAD` (of a namespace) name a branch, `refs/heads/…` inside that namespace, which need not exist.
    pub fn set_head(&self, namespace: Option<&BStr>, target: &BStr, log: Option<&RefLog>) -> Result<(), RefsError> {
        self.ref_store().set_head(namespace, target, log)
    }

    /// The objects that refs of the alternates point to, each once, sorted: what `.have` lines tell a client that pushes. Honours
    /// `core.alternateRefsPrefixes`. An alternate that is no repository, or is damaged, contributes nothing.
    pub fn alternate_tips(&self) -> Vec<ObjectId> {
        let Ok(directories) = self.alternate_object_dirs() else {
            return Vec::new();
        };
        let query = RefQuery {
            prefixes: self.settings().core.alternate_refs_prefixes.clone(),
            ..RefQuery::default()
        };
        let mut tips = Vec::new();
        for directory in directories {
            // git looks above `objects` for the repository that they belong to.
            let Some(git_dir) = directory
                .canonicalize()
                .ok()
                .and_then(|d| d.parent().map(Path::to_owned))
            else {
                continue;
            };
            if !git_dir.join("refs").is_dir() || !git_dir.join("HEAD").exists() {
                continue;
            }
            let store = RefStore::new(&git_dir, &git_dir, self.hash_kind(), RefStoreOptions::default());
            match store.list(&query, None) {
                Ok(refs) => tips.extend(refs.into_iter().map(|r| r.id).take(MAX_ALTERNATE_TIPS)),
                Err(error) => {
                    tracing::warn!(alternate = %git_dir.as_os_str().as_bytes().as_bstr(), %error, "cannot list the refs of an alternate");
                }
            }
        }
        tips.sort_unstable();
        tips.dedup();
        tips.truncate(MAX_ALTERNATE_TIPS);
        // What the alternate itself lost is of no use to us.
        match self.odb() {
            Ok(odb) => tips.retain(|id| odb.contains(id).unwrap_or(false)),
            Err(_) => tips.clear(),
        }
        tips
    }
}

impl RefObjects for Odb {
    fn exists(&self, id: &oid) -> Result<bool, RefsError> {
        self.contains(id).map_err(objects)
    }

    fn target(&self, id: &oid) -> Result<RefTarget, RefsError> {
        match self.header(id).map_err(objects)? {
            None => Ok(RefTarget::Missing),
            Some((Kind::Commit, _)) => Ok(RefTarget::Commit),
            Some((Kind::Tree | Kind::Blob, _)) => Ok(RefTarget::Other),
            Some((Kind::Tag, _)) => Ok(RefTarget::Tag(peel(self, id)?)),
        }
    }
}

fn peel(odb: &Odb, id: &oid) -> Result<Option<ObjectId>, RefsError> {
    let mut id = id.to_owned();
    let mut data = Vec::new();
    for _ in 0..MAX_TAG_DEPTH {
        data.clear();
        match odb.read(&id, &mut data).map_err(objects)? {
            None => return Ok(None),
            Some(Kind::Tag) => match tag_target(&data, odb.hash_kind()) {
                Some((target, Kind::Tag)) => id = target,
                // The last object is not read: it may be a blob of any size.
                Some((target, _)) => return Ok(odb.contains(&target).map_err(objects)?.then_some(target)),
                None => return Ok(None),
            },
            Some(_) => return Ok(Some(id)),
        }
    }
    Ok(None)
}

/// The first two lines of a tag: which object, and of which kind.
fn tag_target(data: &[u8], hash: HashKind) -> Option<(ObjectId, Kind)> {
    use gix::objs::tag::ref_iter::Token;
    let mut tokens = TagRefIter::from_bytes(data, hash);
    let Some(Ok(Token::Target { id })) = tokens.next() else {
        return None;
    };
    let Some(Ok(Token::TargetKind(kind))) = tokens.next() else {
        return None;
    };
    Some((id, kind))
}

fn objects(error: OdbError) -> RefsError {
    RefsError::Objects {
        source: Box::new(error),
    }
}
