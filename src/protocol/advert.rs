use bstr::{BStr, BString};
use gix::hash::{self, ObjectId};

use crate::base::Version;

use super::pkt::{flush, text};

/// What fetches of version 0 and 1 are offered. Everything not named here is always offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadCapabilities {
    /// `allow-tip-sha1-in-want`
    pub allow_tip_sha1_in_want: bool,
    /// `allow-reachable-sha1-in-want`
    pub allow_reachable_sha1_in_want: bool,
    /// `no-done`: true over HTTP.
    pub no_done: bool,
    /// `symref=<name>:<target>`; git sends HEAD's only.
    pub symrefs: Vec<(BString, BString)>,
    /// `filter`
    pub filter: bool,
    /// `session-id=`
    pub session_id: Option<String>,
    /// `object-format=`
    pub object_format: hash::Kind,
    /// `agent=`: no blanks.
    pub agent: String,
}

impl UploadCapabilities {
    fn list(&self) -> Vec<u8> {
        let mut list = List::new(
            "multi_ack thin-pack side-band side-band-64k ofs-delta shallow deepen-since deepen-not deepen-relative \
             no-progress include-tag multi_ack_detailed",
        );
        list.word_if(self.allow_tip_sha1_in_want, "allow-tip-sha1-in-want");
        list.word_if(self.allow_reachable_sha1_in_want, "allow-reachable-sha1-in-want");
        list.word_if(self.no_done, "no-done");
        for (name, target) in &self.symrefs {
            list.value("symref", &[name, b":", target]);
        }
        list.word_if(self.filter, "filter");
        list.ending(self.session_id.as_deref(), self.object_format, &self.agent)
    }
}

/// What pushes are offered. Everything not named here is always offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveCapabilities {
    /// `atomic`
    pub atomic: bool,
    /// `ofs-delta`: `repack.useDeltaBaseOffset`, true unless configured.
    pub ofs_delta: bool,
    /// `push-cert=<nonce>`
    pub push_cert_nonce: Option<String>,
    /// `push-options`
    pub push_options: bool,
    /// `session-id=`
    pub session_id: Option<String>,
    /// `object-format=`
    pub object_format: hash::Kind,
    /// `agent=`: no blanks.
    pub agent: String,
}

impl ReceiveCapabilities {
    fn list(&self) -> Vec<u8> {
        let mut list = List::new("report-status report-status-v2 delete-refs side-band-64k quiet");
        list.word_if(self.atomic, "atomic");
        list.word_if(self.ofs_delta, "ofs-delta");
        if let Some(nonce) = &self.push_cert_nonce {
            list.value("push-cert", &[nonce.as_bytes()]);
        }
        list.word_if(self.push_options, "push-options");
        list.ending(self.session_id.as_deref(), self.object_format, &self.agent)
    }
}

/// Capabilities of one line, in their order.
struct List(Vec<u8>);

impl List {
    fn new(always: &str) -> Self {
        List(always.as_bytes().to_vec())
    }

    fn word_if(&mut self, offered: bool, word: &str) {
        if offered {
            self.0.push(b' ');
            self.0.extend_from_slice(word.as_bytes());
        }
    }

    fn value(&mut self, key: &str, value: &[&[u8]]) {
        self.word_if(true, key);
        self.0.push(b'=');
        value.iter().for_each(|piece| self.0.extend_from_slice(piece));
    }

    fn ending(mut self, session_id: Option<&str>, object_format: hash::Kind, agent: &str) -> Vec<u8> {
        if let Some(id) = session_id {
            self.value("session-id", &[id.as_bytes()]);
        }
        self.value("object-format", &[object_format.to_string().as_bytes()]);
        self.value("agent", &[agent.as_bytes()]);
        self.0
    }
}

/// Writes `# service=<name>` and a flush: what stands before an advertisement of version 0 or 1 over HTTP (gitprotocol-http).
pub fn service_header(service: &str, out: &mut Vec<u8>) {
    text(out, &[b"# service=", service.as_bytes()]);
    flush(out);
}

/// Writes an advertisement of version 0 or 1, a ref at a time, so that the caller may send what is written as often as it likes
/// (gitprotocol-pack, "Reference Discovery").
#[derive(Debug, Clone)]
pub struct AdvertV0 {
    hash: hash::Kind,
    /// Until the first line has carried them.
    capabilities: Option<Vec<u8>>,
}

impl AdvertV0 {
    /// Begins an advertisement for fetches. [`Version::V1`] is the same behind a line that says so.
    pub fn upload(capabilities: &UploadCapabilities, version: Version, out: &mut Vec<u8>) -> Self {
        Self::begin(capabilities.list(), capabilities.object_format, version, out)
    }

    /// Begins an advertisement for pushes.
    pub fn receive(capabilities: &ReceiveCapabilities, version: Version, out: &mut Vec<u8>) -> Self {
        Self::begin(capabilities.list(), capabilities.object_format, version, out)
    }

    fn begin(capabilities: Vec<u8>, hash: hash::Kind, version: Version, out: &mut Vec<u8>) -> Self {
        if version == Version::V1 {
            text(out, &[b"version 1"]);
        }
        AdvertV0 {
            hash,
            capabilities: Some(capabilities),
        }
    }

    /// Writes one ref, and what it points to if it is an annotated tag (git tells that to fetches only).
    pub fn reference(&mut self, name: &BStr, id: ObjectId, peeled: Option<ObjectId>, out: &mut Vec<u8>) {
        self.line(name, id, out);
        if let Some(peeled) = peeled {
            text(out, &[peeled.to_string().as_bytes(), b" ", name, b"^{}"]);
        }
    }

    /// Writes a `.have`: an object that is here though no ref advertised says so. For pushes only.
    pub fn have(&mut self, id: ObjectId, out: &mut Vec<u8>) {
        self.line(".have".into(), id, out);
    }

    /// Ends it: the capabilities if there was no ref to carry them, the repository's own boundary, a flush.
    pub fn finish(mut self, shallow: &[ObjectId], out: &mut Vec<u8>) {
        if self.capabilities.is_some() {
            self.line("capabilities^{}".into(), self.hash.null(), out);
        }
        for id in shallow {
            text(out, &[b"shallow ", id.to_string().as_bytes()]);
        }
        flush(out);
    }

    fn line(&mut self, name: &BStr, id: ObjectId, out: &mut Vec<u8>) {
        let mut buffer = hash::Kind::hex_buf();
        let hex = id.hex_to_buf(&mut buffer).as_bytes();
        match self.capabilities.take() {
            Some(list) => text(out, &[hex, b" ", name, b"\0", &list]),
            None => text(out, &[hex, b" ", name]),
        }
    }
}

/// What version 2 offers. `ls-refs`, `fetch` with `shallow` and `wait-for-done`, and `server-option` are always offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V2Capabilities {
    /// `agent=`: no blanks.
    pub agent: String,
    /// `ls-refs=unborn`: `lsrefs.unborn` is `advertise`.
    pub ls_refs_unborn: bool,
    /// `fetch=… filter`
    pub filter: bool,
    /// `fetch=… ref-in-want`
    pub ref_in_want: bool,
    /// `fetch=… sideband-all`
    pub sideband_all: bool,
    /// `fetch=… packfile-uris`
    pub packfile_uris: bool,
    /// `object-format=`
    pub object_format: hash::Kind,
    /// `session-id=`
    pub session_id: Option<String>,
    /// `object-info`
    pub object_info: bool,
    /// `bundle-uri`
    pub bundle_uri: bool,
}

/// Writes the whole advertisement of version 2 (gitprotocol-v2, "Capability Advertisement").
pub fn advertise_v2(capabilities: &V2Capabilities, out: &mut Vec<u8>) {
    text(out, &[b"version 2"]);
    text(out, &[b"agent=", capabilities.agent.as_bytes()]);
    text(
        out,
        &[b"ls-refs", if capabilities.ls_refs_unborn { b"=unborn" } else { b"" }],
    );
    let mut fetch = List::new("fetch=shallow wait-for-done");
    fetch.word_if(capabilities.filter, "filter");
    fetch.word_if(capabilities.ref_in_want, "ref-in-want");
    fetch.word_if(capabilities.sideband_all, "sideband-all");
    fetch.word_if(capabilities.packfile_uris, "packfile-uris");
    text(out, &[&fetch.0]);
    text(out, &[b"server-option"]);
    text(
        out,
        &[b"object-format=", capabilities.object_format.to_string().as_bytes()],
    );
    if let Some(id) = &capabilities.session_id {
        text(out, &[b"session-id=", id.as_bytes()]);
    }
    if capabilities.object_info {
        // git learned to name what it can tell; clients that know only the bare word read this one, too.
        text(out, &[b"object-info=size"]);
    }
    if capabilities.bundle_uri {
        text(out, &[b"bundle-uri"]);
    }
    flush(out);
}
