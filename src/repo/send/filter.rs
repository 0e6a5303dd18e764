//! Partial-clone filters, with the meaning that `git rev-list --filter` gives them.

use bstr::{BStr, ByteSlice};
use gix::{
    glob::{Pattern, pattern::Case, wildmatch},
    objs::Kind,
};

use crate::base::Filter;

/// A filter ready for use: every part of a `combine:` folded into one rule, sparse specifications read.
///
/// Objects that were asked for by id are sent whatever the filter says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterPlan {
    pub(super) commits: bool,
    pub(super) tags: bool,
    pub(super) trees: bool,
    pub(super) blobs: bool,
    /// Blobs of this many bytes or more are left out.
    pub(super) blob_limit: Option<u64>,
    /// Trees and blobs this deep or deeper are left out.
    pub(super) depth: Option<u64>,
    pub(super) sparse: Vec<SparseSpec>,
}

impl FilterPlan {
    /// What tells it from others, in a few numbers. `None` when it takes more than that.
    pub fn fingerprint(&self) -> Option<[u64; 5]> {
        let kinds = [self.commits, self.tags, self.trees, self.blobs]
            .iter()
            .fold(0, |bits, yes| bits << 1 | u64::from(*yes));
        self.sparse.is_empty().then_some([
            kinds,
            u64::from(self.blob_limit.is_some()),
            self.blob_limit.unwrap_or(0),
            u64::from(self.depth.is_some()),
            self.depth.unwrap_or(0),
        ])
    }
}

impl Default for FilterPlan {
    /// The filter that everything passes.
    fn default() -> Self {
        FilterPlan {
            commits: true,
            tags: true,
            trees: true,
            blobs: true,
            blob_limit: None,
            depth: None,
            sparse: Vec::new(),
        }
    }
}

/// Reads the blob that the text of a `sparse:oid` names.
pub type SparseLookup<'a, E> = dyn FnMut(&BStr) -> Result<Option<Vec<u8>>, E> + 'a;

impl FilterPlan {
    /// Makes a filter ready. `lookup` reads the blob that a `sparse:oid` names; `None` from it is handed back as the text that named nothing.
    ///
    /// # Errors
    /// The text of a `sparse:oid` that is not there, or what `lookup` itself met with.
    pub fn resolve<E>(filter: &Filter, lookup: &mut SparseLookup<'_, E>) -> Result<FilterPlan, FilterResolveError<E>> {
        let mut plan = FilterPlan::default();
        plan.add(filter, lookup)?;
        Ok(plan)
    }

    fn add<E>(&mut self, filter: &Filter, lookup: &mut SparseLookup<'_, E>) -> Result<(), FilterResolveError<E>> {
        match filter {
            Filter::BlobNone => self.blobs = false,
            Filter::BlobLimit(0) => self.blobs = false,
            Filter::BlobLimit(limit) => self.blob_limit = Some(self.blob_limit.map_or(*limit, |l| l.min(*limit))),
            Filter::TreeDepth(depth) => self.depth = Some(self.depth.map_or(*depth, |d| d.min(*depth))),
            Filter::ObjectType(kind) => {
                self.commits &= *kind == Kind::Commit;
                self.tags &= *kind == Kind::Tag;
                self.trees &= *kind == Kind::Tree;
                self.blobs &= *kind == Kind::Blob;
            }
            Filter::SparseOid(name) => {
                let blob = lookup(name.as_ref())
                    .map_err(FilterResolveError::Lookup)?
                    .ok_or_else(|| FilterResolveError::NotFound { name: name.clone() })?;
                self.sparse.push(SparseSpec::parse(&blob));
            }
            Filter::Combine(parts) => {
                for part in parts {
                    self.add(part, lookup)?;
                }
            }
        }
        Ok(())
    }

    /// Whether an object's fate depends on its path, so that a tree may have to be entered once for each path it stands at. Depth alone does not: trees are
    /// entered level by level, so that each is first met where it is least deep.
    pub(super) fn needs_paths(&self) -> bool {
        !self.sparse.is_empty() && self.blobs && self.enters_trees()
    }

    /// Whether trees have to be read at all.
    pub(super) fn enters_trees(&self) -> bool {
        (self.trees || self.blobs) && self.depth != Some(0)
    }

    /// Whether a client that fetches with this filter can be taken to have the objects of this kind that its haves reach.
    pub(super) fn client_has(&self, kind: Kind) -> bool {
        match kind {
            Kind::Commit => self.commits,
            Kind::Tag => self.tags,
            Kind::Tree => self.trees && self.depth.is_none(),
            Kind::Blob => self.blobs && self.blob_limit.is_none() && self.depth.is_none() && self.sparse.is_empty(),
        }
    }
}

/// Why a filter cannot be made ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterResolveError<E> {
    /// A `sparse:oid` names nothing. The text is C git's.
    #[error("unable to access sparse blob in '{name}'")]
    NotFound {
        /// The text as it was sent.
        name: bstr::BString,
    },
    /// What the lookup met with.
    #[error("reading the sparse blob")]
    Lookup(E),
}

/// A sparse-checkout specification: lines in the syntax of gitignore(5), the last match deciding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SparseSpec {
    patterns: Vec<Pattern>,
}

impl SparseSpec {
    fn parse(blob: &[u8]) -> Self {
        let blob = blob.strip_prefix(b"\xef\xbb\xbf").unwrap_or(blob);
        let patterns = blob
            .split(|b| *b == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .filter(|line| !line.starts_with(b"#"))
            .filter_map(|line| Pattern::from_bytes(trim_trailing_spaces(line)))
            .collect();
        SparseSpec { patterns }
    }

    /// What the patterns say of `path`; `None` when no line speaks of it.
    pub(super) fn verdict(&self, path: &BStr, is_dir: bool) -> Option<bool> {
        let basename = path.rfind_byte(b'/').map(|slash| slash + 1);
        self.patterns
            .iter()
            .rev()
            .find(|pattern| {
                pattern.matches_repo_relative_path(
                    path,
                    basename,
                    Some(is_dir),
                    Case::Sensitive,
                    wildmatch::Mode::NO_MATCH_SLASH_LITERAL,
                )
            })
            .map(|pattern| !pattern.is_negative())
    }
}

/// Spaces at the end of a line do not count unless a backslash stands before them.
fn trim_trailing_spaces(line: &[u8]) -> &[u8] {
    let (mut end, mut at) = (0, 0);
    while at < line.len() {
        match line[at] {
            b' ' => at += 1,
            b'\\' => {
                at = (at + 2).min(line.len());
                end = at;
            }
            _ => {
                at += 1;
                end = at;
            }
        }
    }
    &line[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(spec: &str) -> FilterPlan {
        let filter = Filter::parse(spec.into()).unwrap();
        FilterPlan::resolve(&filter, &mut |name| {
            Ok::<_, ()>((name == "a:b").then(|| b"/docs/\n!*.bin\n".to_vec()))
        })
        .unwrap()
    }

    #[test]
    fn combined_filters_are_the_strictest_of_each() {
        let got = plan("combine:blob:limit=10+blob:limit=5+tree:3+tree:7");
        assert_eq!((got.blob_limit, got.depth, got.blobs), (Some(5), Some(3), true));
        let got = plan("combine:object:type=blob+object:type=tree");
        assert!(!got.commits && !got.tags && !got.trees && !got.blobs && !got.enters_trees());
        assert!(plan("blob:limit=0") == plan("blob:none"));
        assert!(plan("tree:2").enters_trees() && !plan("tree:2").needs_paths());
        assert!(!plan("tree:0").enters_trees());
        assert!(plan("sparse:oid=a:b").needs_paths());
        assert!(!plan("combine:sparse:oid=a:b+blob:none").needs_paths());
    }

    #[test]
    fn a_sparse_blob_that_is_not_there_is_named() {
        let filter = Filter::parse("sparse:oid=x:y".into()).unwrap();
        let err = FilterPlan::resolve(&filter, &mut |_| Ok::<_, ()>(None)).unwrap_err();
        assert_eq!(err, FilterResolveError::NotFound { name: "x:y".into() });
    }

    #[test]
    fn sparse_lines_follow_gitignore() {
        let spec = SparseSpec::parse(b"# no\n\n/a/\nb\\ \n*.c   \n!/a/no.c\r\nx/**/z\n");
        let check = |path: &str, dir| spec.verdict(path.into(), dir);
        assert_eq!(check("a", true), Some(true));
        assert_eq!(check("a", false), None);
        assert_eq!(check("q/a", true), None);
        assert_eq!(check("b ", false), Some(true));
        assert_eq!(check("b", false), None);
        assert_eq!(check("deep/er/f.c", false), Some(true));
        assert_eq!(check("a/no.c", false), Some(false));
        assert_eq!(check("x/1/2/z", false), Some(true));
        assert_eq!(check("other", false), None);
    }

    #[test]
    fn what_the_filter_leaves_out_is_no_delta_base() {
        assert!(!plan("blob:none").client_has(Kind::Blob));
        assert!(plan("blob:none").client_has(Kind::Tree));
        assert!(!plan("tree:1").client_has(Kind::Tree));
        assert!(FilterPlan::default().client_has(Kind::Blob));
    }
}
