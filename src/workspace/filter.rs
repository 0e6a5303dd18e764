//! What attributes do to content on its way into the repository and out of it (gitattributes(5)): ends of lines, encodings, `$Id$`. Filter drivers are
//! programs, and no program is ever started: their content is taken as it is.

use std::{borrow::Cow, ffi::OsStr, os::unix::ffi::OsStrExt, path::Path, sync::Arc};

use bstr::{BStr, BString};
use gix::{
    attrs::search::{MetadataCollection, Outcome},
    filter::plumbing::{
        Pipeline,
        eol::{self, AutoCrlf},
        pipeline::{CrlfRoundTripCheck, Options, convert::ToGitOutcome, convert::to_worktree},
    },
    glob::pattern::Case,
    hash::Kind as HashKind,
};

use crate::repo::Repository;

/// A file of attributes longer than this is none.
pub(crate) const MAX_BYTES: u64 = 10 << 20;

/// The conversions of a workspace. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Filters(Option<Arc<Rules>>);

struct Rules {
    search: gix::attrs::Search,
    names: MetadataCollection,
    eol: eol::Configuration,
    hash: HashKind,
    case: Case,
}

impl std::fmt::Debug for Filters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filters").field("active", &self.is_active()).finish()
    }
}

impl Filters {
    /// By the attributes in `files`: the path of each `.gitattributes` and what is in it. Those of the repository itself (`info/attributes`) count most.
    pub(crate) fn new(repository: &Repository, root: &Path, mut files: Vec<(BString, Vec<u8>)>) -> Self {
        let core = &repository.settings().core;
        let info = repository.common_dir().join("info/attributes");
        let info_bytes = std::fs::metadata(&info)
            .ok()
            .filter(|meta| meta.is_file() && meta.len() <= MAX_BYTES)
            .and_then(|_| std::fs::read(&info).ok());
        if files.is_empty() && info_bytes.is_none() && core.auto_crlf == AutoCrlf::Disabled {
            return Filters(None);
        }
        let mut names = MetadataCollection::default();
        let mut search = gix::attrs::Search::default();
        let add = |search: &mut gix::attrs::Search, bytes: &[u8], source, base, names: &mut _, macros| {
            if let Err(error) = search.add_patterns_buffer(bytes, source, base, names, macros) {
                tracing::warn!(%error, "attributes are not understood");
            }
        };
        let builtin = b"[attr]binary -diff -merge -text";
        add(&mut search, builtin, "[builtin]".into(), None, &mut names, true);
        // Outer ones first: the last match wins.
        files.sort_by_key(|(path, _)| (path.iter().filter(|b| **b == b'/').count(), path.clone()));
        for (path, bytes) in &files {
            let source = root.join(OsStr::from_bytes(path));
            let at_root = !path.contains(&b'/');
            add(&mut search, bytes, source, Some(root), &mut names, at_root);
        }
        if let Some(bytes) = info_bytes {
            add(&mut search, &bytes, info, None, &mut names, true);
        }
        Filters(Some(Arc::new(Rules {
            search,
            names,
            eol: eol::Configuration {
                auto_crlf: core.auto_crlf,
                eol: core.eol,
            },
            hash: repository.hash_kind(),
            case: if core.ignore_case { Case::Fold } else { Case::Sensitive },
        })))
    }

    /// Whether any content could be converted at all.
    pub(crate) fn is_active(&self) -> bool {
        self.0.is_some()
    }

    /// What converts, for one thread.
    pub(crate) fn worker(&self) -> FilterWorker {
        let rules = self.0.clone().map(|rules| {
            let options = Options {
                drivers: Vec::new(),
                eol_config: rules.eol,
                crlf_roundtrip_check: CrlfRoundTripCheck::Skip,
                encodings_with_roundtrip_check: Vec::new(),
            };
            let pipeline = Pipeline::new(Default::default(), rules.hash, options);
            (rules, Box::new(pipeline))
        });
        FilterWorker { rules }
    }
}

/// Converts the content of files.
pub(crate) struct FilterWorker {
    rules: Option<(Arc<Rules>, Box<Pipeline>)>,
}

/// An attribute asks for something that cannot be done to a content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct FilterError(String);

impl FilterWorker {
    /// What the repository keeps of the content of a file. `indexed` appends what it keeps now, and says whether there is something.
    pub(crate) fn clean<'c>(
        &mut self,
        path: &BStr,
        content: &'c [u8],
        indexed: &mut dyn FnMut(&mut Vec<u8>) -> bool,
    ) -> Result<Cow<'c, [u8]>, FilterError> {
        let Some((rules, pipeline)) = &mut self.rules else {
            return Ok(Cow::Borrowed(content));
        };
        let rules = rules.clone();
        let mut attributes = |path: &BStr, out: &mut Outcome| look_up(&rules, path, out);
        let mut index = |out: &mut Vec<u8>| Ok(indexed(out).then_some(()));
        let converted = pipeline
            .convert_to_git(content, Path::new(OsStr::from_bytes(path)), &mut attributes, &mut index)
            .map_err(|error| FilterError(error.to_string()))?;
        match converted {
            ToGitOutcome::Unchanged(_) => Ok(Cow::Borrowed(content)),
            ToGitOutcome::Buffer(bytes) => Ok(Cow::Owned(bytes.to_vec())),
            ToGitOutcome::Process(_) => Err(FilterError("there is no filter driver".to_owned())),
        }
    }

    /// What a file holds whose content the repository keeps as `content`.
    pub(crate) fn smudge<'c>(&mut self, path: &BStr, content: &'c [u8]) -> Result<Cow<'c, [u8]>, FilterError> {
        let Some((rules, pipeline)) = &mut self.rules else {
            return Ok(Cow::Borrowed(content));
        };
        let rules = rules.clone();
        let mut attributes = |path: &BStr, out: &mut Outcome| look_up(&rules, path, out);
        let options = to_worktree::Options::default();
        let converted = pipeline
            .convert_to_worktree(content, path, &mut attributes, options)
            .map_err(|error| FilterError(error.to_string()))?;
        match converted.as_bytes() {
            Some(_) if !converted.is_changed() => Ok(Cow::Borrowed(content)),
            Some(bytes) => Ok(Cow::Owned(bytes.to_vec())),
            None => Err(FilterError("there is no filter driver".to_owned())),
        }
    }
}

fn look_up(rules: &Rules, path: &BStr, out: &mut Outcome) {
    out.initialize(&rules.names);
    rules
        .search
        .pattern_matching_relative_path(path, rules.case, Some(false), out);
}
