use std::{collections::HashSet, num::NonZeroU32};

use bstr::{BString, ByteSlice};
use gix::hash::{self, ObjectId};

use crate::base::{Deepen, Filter, Limits};

use super::{
    RequestError, Sideband,
    request::{object_id, push_within},
};

/// How a version 0 client wants its haves answered (gitprotocol-capabilities). Version 2 is always like `Detailed`, in its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MultiAck {
    /// One `ACK` for the first common commit.
    #[default]
    No,
    /// `multi_ack`: `ACK <id> continue` for each.
    Plain,
    /// `multi_ack_detailed`: `ACK <id> common` and `ACK <id> ready`.
    Detailed,
}

/// One round of a fetch: the same value whatever version of the protocol it came in. Lists are in the order sent, without repetitions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fetch {
    /// Objects wanted by id.
    pub wants: Vec<ObjectId>,
    /// v2: refs wanted by name.
    pub want_refs: Vec<BString>,
    /// Objects the client says it has.
    pub haves: Vec<ObjectId>,
    /// The client has no more haves: the pack is due.
    pub done: bool,
    /// The pack may have deltas against objects the client has.
    pub thin_pack: bool,
    /// No text on the progress channel.
    pub no_progress: bool,
    /// Annotated tags of objects that are sent are to be sent too.
    pub include_tag: bool,
    /// The pack may have deltas that name their base by distance.
    pub ofs_delta: bool,
    /// The client's present boundary.
    pub shallow: Vec<ObjectId>,
    /// The boundary it wants.
    pub deepen: Option<Deepen>,
    /// What is to be left out.
    pub filter: Option<Filter>,
    /// v2: the whole response is framed by side-band.
    pub sideband_all: bool,
    /// v2: the schemes of which the client would fetch packs from elsewhere. Empty unless `sideband_all` is set, as in git.
    pub packfile_uris: Vec<BString>,
    /// v2: no pack before `done`, however ready the server is.
    pub wait_for_done: bool,
    /// v0: how haves are answered. v2: [`MultiAck::Detailed`].
    pub multi_ack: MultiAck,
    /// v0: the pack may follow `ready` at once.
    pub no_done: bool,
    /// v0: how the pack is framed. v2: [`Sideband::Large`].
    pub sideband: Sideband,
}

/// A [`Fetch`] that is being read: what both versions have in common.
#[derive(Debug, Clone)]
pub(super) struct FetchBuilder {
    pub(super) fetch: Fetch,
    hash: hash::Kind,
    wants: HashSet<ObjectId>,
    haves: HashSet<ObjectId>,
    shallow: HashSet<ObjectId>,
    want_refs: HashSet<BString>,
    depth: Option<NonZeroU32>,
    since: Option<i64>,
    not: Vec<BString>,
    pub(super) relative: bool,
}

impl FetchBuilder {
    pub(super) fn new(hash: hash::Kind) -> Self {
        FetchBuilder {
            fetch: Fetch::default(),
            hash,
            wants: HashSet::new(),
            haves: HashSet::new(),
            shallow: HashSet::new(),
            want_refs: HashSet::new(),
            depth: None,
            since: None,
            not: Vec::new(),
            relative: false,
        }
    }

    /// `hex` is what stands behind `want `, the capabilities of version 0 taken off; `None` if it is no object id.
    pub(super) fn want(&mut self, hex: &[u8], limits: &Limits) -> Option<Result<(), RequestError>> {
        let id = object_id(hex, self.hash)?;
        if self.wants.contains(&id) {
            return Some(Ok(()));
        }
        let added = push_within(&mut self.fetch.wants, id, "wants", limits.wants);
        if added.is_ok() {
            self.wants.insert(id);
        }
        Some(added)
    }

    pub(super) fn want_ref(&mut self, name: &[u8], limits: &Limits) -> Result<(), RequestError> {
        if self.want_refs.contains(name.as_bstr()) {
            return Err(RequestError::DuplicateWantRef { name: name.into() });
        }
        push_within(&mut self.fetch.want_refs, name.into(), "wants", limits.wants)?;
        self.want_refs.insert(name.into());
        Ok(())
    }

    pub(super) fn have(&mut self, hex: &[u8], limits: &Limits) -> Result<(), RequestError> {
        let id = object_id(hex, self.hash).ok_or_else(|| RequestError::ExpectedHave { text: hex.into() })?;
        if self.haves.contains(&id) {
            return Ok(());
        }
        push_within(&mut self.fetch.haves, id, "haves", limits.haves)?;
        self.haves.insert(id);
        Ok(())
    }

    /// Takes a line about the client's boundary, the one it wants or the filter; `false` if it is another line. `filter` says what to do with
    /// a `filter` line.
    pub(super) fn boundary(&mut self, line: &[u8], limits: &Limits) -> Result<bool, RequestError> {
        if let Some(hex) = line.strip_prefix(b"shallow ") {
            let id = object_id(hex, self.hash).ok_or_else(|| RequestError::InvalidShallow { line: line.into() })?;
            if !self.shallow.contains(&id) {
                push_within(&mut self.fetch.shallow, id, "shallow lines", limits.shallows)?;
                self.shallow.insert(id);
            }
        } else if let Some(text) = line.strip_prefix(b"deepen ") {
            // git's own "everything" is 0x7fffffff, the most it can take.
            let depth = number(text)
                .filter(|n| *n <= i32::MAX as u64)
                .and_then(|n| u32::try_from(n).ok())
                .and_then(NonZeroU32::new);
            self.depth = Some(depth.ok_or_else(|| RequestError::InvalidDeepen { line: line.into() })?);
        } else if let Some(text) = line.strip_prefix(b"deepen-since ") {
            let since = number(text).and_then(|n| i64::try_from(n).ok()).filter(|n| *n > 0);
            self.since = Some(since.ok_or_else(|| RequestError::InvalidDeepenSince { line: line.into() })?);
        } else if let Some(name) = line.strip_prefix(b"deepen-not ") {
            push_within(&mut self.not, name.into(), "deepen-not lines", limits.options)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    pub(super) fn filter(&mut self, spec: &[u8]) -> Result<(), RequestError> {
        if self.fetch.filter.is_some() {
            return Err(RequestError::SecondFilter);
        }
        self.fetch.filter = Some(Filter::parse(spec.as_bstr())?);
        Ok(())
    }

    pub(super) fn build(self) -> Result<Fetch, RequestError> {
        let FetchBuilder {
            mut fetch,
            depth,
            since,
            not,
            relative,
            ..
        } = self;
        let rev_list = since.is_some() || !not.is_empty();
        fetch.deepen = match depth {
            Some(_) if rev_list => return Err(RequestError::DeepenConflict),
            Some(depth) => Some(Deepen::Depth { depth, relative }),
            None if rev_list => Some(Deepen::RevList { since, not }),
            None => None,
        };
        if !fetch.sideband_all {
            fetch.packfile_uris.clear();
        }
        Ok(fetch)
    }
}

/// A number in decimal digits, without sign or blanks.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    text.to_str().ok()?.parse().ok()
}
