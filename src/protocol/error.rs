use bstr::{BString, ByteSlice};
use gix::hash::{self, ObjectId};

use crate::base::{Fault, FilterError};

use super::{PktError, pkt};

/// Why a request is refused. The text is C git's, word for word where PROTOCOL lists one: clients and their tests match on it. It goes to the
/// client as `ERR <text>` or on the error channel.
///
/// The parsers here produce the ones about form; the ones about content (`not our ref`, `unknown ref`, a filter that configuration
/// forbids) are for the service, so that all the words stand in one place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The framing is broken.
    #[error(transparent)]
    Packet(#[from] PktError),
    /// The request ends before it is whole.
    #[error("the remote end hung up unexpectedly")]
    HungUp,
    /// A delimiter or response-end packet where the protocol has none.
    #[error("protocol error: got an unexpected packet")]
    UnexpectedPacket,

    /// v2: a line before the delimiter that is no capability we advertise.
    #[error("unknown capability '{line}'")]
    UnknownCapability {
        /// The line, as far as it is shown.
        line: Shown,
    },
    /// v2: a command we do not offer.
    #[error("invalid command '{command}'")]
    InvalidCommand {
        /// What stands behind `command=`.
        command: Shown,
    },
    /// v2: two commands in one request.
    #[error("command '{second}' requested after already requesting command '{first}'")]
    SecondCommand {
        /// The one that came too late.
        second: Shown,
        /// The one before.
        first: &'static str,
    },
    /// v2: capabilities but no command.
    #[error("no command requested")]
    NoCommand,
    /// The client speaks of another hash than the repository's. A version 2 client that names none means sha1.
    #[error("mismatched object format: server {server}; client {client}")]
    MismatchedObjectFormat {
        /// The repository's.
        server: hash::Kind,
        /// The client's.
        client: hash::Kind,
    },
    /// `object-format=` names no hash.
    #[error("unknown object format '{name}'")]
    UnknownObjectFormat {
        /// What was named.
        name: Shown,
    },
    /// `object-format` without a value.
    #[error("object-format capability requires an argument")]
    ObjectFormatWithoutValue,
    /// v2: a line the command does not know, or one for a feature that is not on.
    #[error("unexpected line: '{line}'")]
    UnexpectedLine {
        /// The line.
        line: Shown,
    },
    /// v2: the arguments of `fetch` or `ls-refs` end in another packet than a flush.
    #[error("expected flush after {command} arguments")]
    ExpectedFlush {
        /// The command.
        command: &'static str,
    },
    /// v2: the same for `object-info` and `bundle-uri`.
    #[error("{command}: expected flush after arguments")]
    ExpectedFlushAfterArguments {
        /// The command.
        command: &'static str,
    },
    /// v2 `object-info`: a line that is neither `size` nor `oid`.
    #[error("object-info: unexpected line: '{line}'")]
    ObjectInfoLine {
        /// The line.
        line: Shown,
    },
    /// v2 `object-info`: what follows `oid` is no object id of the repository's hash.
    #[error("object-info: protocol error, expected to get oid, not '{text}'")]
    ObjectInfoId {
        /// What follows.
        text: Shown,
    },
    /// v2 `bundle-uri` has no arguments.
    #[error("bundle-uri: unexpected argument: '{line}'")]
    BundleUriArgument {
        /// The line.
        line: Shown,
    },

    /// A `want` without an object id of the repository's hash, or (v0) another line where wants are expected.
    #[error("git upload-pack: protocol error, expected to get {}, not '{line}'", if *v2 { "oid" } else { "object ID" })]
    ExpectedWant {
        /// The line.
        line: Shown,
        /// Whether this is version 2, where the words differ.
        v2: bool,
    },
    /// A `have` without an object id of the repository's hash.
    #[error("git upload-pack: expected SHA1 object, got '{text}'")]
    ExpectedHave {
        /// What stands behind `have`.
        text: Shown,
    },
    /// v0: something else than `have` or `done` after the wants.
    #[error("git upload-pack: expected SHA1 list, got '{line}'")]
    ExpectedHaveList {
        /// The line.
        line: Shown,
    },
    /// A `shallow` without an object id of the repository's hash.
    #[error("invalid shallow line: {line}")]
    InvalidShallow {
        /// The line.
        line: Shown,
    },
    /// A depth that is not a positive number.
    #[error("Invalid deepen: {line}")]
    InvalidDeepen {
        /// The line.
        line: Shown,
    },
    /// A time that is not a positive number.
    #[error("Invalid deepen-since: {line}")]
    InvalidDeepenSince {
        /// The line.
        line: Shown,
    },
    /// A depth together with another bound.
    #[error("deepen and deepen-since (or deepen-not) cannot be used together")]
    DeepenConflict,
    /// v0: a `filter` line without the capability.
    #[error("git upload-pack: filtering capability not negotiated")]
    FilterNotNegotiated,
    /// Two `filter` lines.
    #[error("multiple filter-specs cannot be combined")]
    SecondFilter,
    /// A specification that cannot be read.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// `want-ref` twice for one ref.
    #[error("duplicate want-ref {name}")]
    DuplicateWantRef {
        /// The ref.
        name: Shown,
    },
    /// More than one `packfile-uris` line.
    #[error("multiple packfile-uris lines forbidden")]
    SecondPackfileUris,

    /// For the service: a wanted object that is not here or may not be had.
    #[error("upload-pack: not our ref {id}")]
    NotOurRef {
        /// The object.
        id: ObjectId,
    },
    /// For the service: a `want-ref` that is not here or hidden.
    #[error("unknown ref {name}")]
    UnknownRef {
        /// The ref.
        name: Shown,
    },
    /// For the service: a filter that `uploadpackfilter.*` forbids.
    #[error("filter '{name}' not supported")]
    FilterNotSupported {
        /// [`Filter::config_name`](crate::base::Filter::config_name).
        name: &'static str,
    },
    /// For the service: a tree filter deeper than `uploadpackfilter.tree.maxDepth`.
    #[error("tree filter allows max depth {max}, but got {got}")]
    FilterTreeDepth {
        /// What is allowed.
        max: u64,
        /// What was asked for.
        got: u64,
    },
    /// For the service: a `deepen-not` that names no ref, or more than one.
    #[error("git upload-pack: ambiguous deepen-not: {name}")]
    AmbiguousDeepenNot {
        /// The name.
        name: Shown,
    },
    /// For the service: a `shallow` object that is here but no commit.
    #[error("invalid shallow object {id}")]
    InvalidShallowObject {
        /// The object.
        id: ObjectId,
    },

    /// Push: a line where a ref command is expected that is none.
    #[error("protocol error: expected old/new/ref, got '{line}'")]
    ExpectedCommand {
        /// The line.
        line: Shown,
    },
    /// Push: a `shallow` without an object id of the repository's hash.
    #[error("protocol error: expected shallow sha, got '{text}'")]
    ExpectedShallow {
        /// What stands behind `shallow`.
        text: Shown,
    },
    /// Push: the client's objects have another hash.
    #[error("error: unsupported object format '{name}'")]
    UnsupportedObjectFormat {
        /// The client's.
        name: Shown,
    },
    /// Push: commands inside and outside of a certificate.
    #[error("protocol error: got both push certificate and unsigned commands")]
    CertificateAndCommands,
    /// Push: a certificate without an end to its header.
    #[error("malformed push certificate {text}")]
    MalformedCertificate {
        /// Its first 100 bytes.
        text: Shown,
    },

    /// More of something than one request may have. Ours, not git's.
    #[error("too many {what}: one request may have {limit}")]
    TooMany {
        /// Lines of which kind.
        what: &'static str,
        /// How many are accepted.
        limit: usize,
    },
}

impl RequestError {
    /// Whose move it is: `NotFound` for what is not here, else the client's.
    pub fn fault(&self) -> Fault {
        match self {
            RequestError::NotOurRef { .. } | RequestError::UnknownRef { .. } => Fault::NotFound,
            RequestError::FilterNotSupported { .. } | RequestError::FilterTreeDepth { .. } => Fault::Denied,
            _ => Fault::Client,
        }
    }
}

/// Text from the wire as it may be shown: at most 256 bytes, control characters replaced by `?`, so that neither a terminal nor a log
/// is at the client's mercy.
#[derive(Clone, PartialEq, Eq)]
pub struct Shown(BString);

impl Shown {
    /// The most bytes kept.
    pub const MAX_BYTES: usize = 256;

    /// What may be shown of `text`.
    pub fn new(text: &[u8]) -> Self {
        let kept = &text[..text.len().min(Self::MAX_BYTES)];
        Shown(
            kept.iter()
                .map(|b| if b.is_ascii_control() { b'?' } else { *b })
                .collect::<Vec<u8>>()
                .into(),
        )
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // C1 controls can hide in UTF-8, so once more as characters.
        f.write_str(&pkt::printable(&self.0.to_str_lossy()))
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.0, f)
    }
}

impl<T: AsRef<[u8]>> From<T> for Shown {
    fn from(text: T) -> Self {
        Shown::new(text.as_ref())
    }
}
