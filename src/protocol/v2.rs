use bstr::{BString, ByteSlice};
use gix::hash::{self, ObjectId};

use crate::base::Limits;

use super::{
    ClientInfo, Fetch, MultiAck, Packet, Parser, Progress, RequestError, Sideband,
    caps::{key_value, object_format},
    fetch::FetchBuilder,
    request::{object_id, push_within},
};

/// What a repository offers in version 2 beyond what it always does. The parser refuses what is not offered, as git does, so that the
/// advertisement and the parser cannot disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct V2Features {
    /// `uploadpack.allowFilter`: `filter` lines.
    pub allow_filter: bool,
    /// `uploadpack.allowRefInWant`: `want-ref` lines.
    pub allow_ref_in_want: bool,
    /// `uploadpack.allowSidebandAll`: `sideband-all`.
    pub allow_sideband_all: bool,
    /// `uploadpack.blobPackfileUri` is configured: `packfile-uris` lines.
    pub allow_packfile_uris: bool,
    /// `transfer.advertiseObjectInfo`: the `object-info` command.
    pub object_info: bool,
    /// `uploadpack.advertiseBundleURIs`: the `bundle-uri` command.
    pub bundle_uri: bool,
    /// `lsrefs.unborn` is `advertise` or `allow`. Otherwise the argument is taken and ignored.
    pub unborn: bool,
    /// `transfer.advertiseSID`: clients may tell their session id.
    pub session_id: bool,
}

/// A version 2 request (gitprotocol-v2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V2Request {
    /// What is to be done.
    pub command: V2Command,
    /// Who asks.
    pub client: ClientInfo,
}

/// The commands of version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum V2Command {
    /// `ls-refs`
    LsRefs(LsRefs),
    /// `fetch`
    Fetch(Fetch),
    /// `object-info`
    ObjectInfo(ObjectInfo),
    /// `bundle-uri`
    BundleUri,
}

/// Which refs a client wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LsRefs {
    /// Tell what symbolic refs point to.
    pub symrefs: bool,
    /// Tell what annotated tags point to.
    pub peel: bool,
    /// Tell where HEAD points even if there is no such branch.
    pub unborn: bool,
    /// Only refs whose full name begins with one of these; empty means all. A client that sends more than `limits.ref_prefixes` gets all, too.
    pub prefixes: Vec<BString>,
}

/// What a client wants to know about objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectInfo {
    /// Tell the size in bytes.
    pub size: bool,
    /// Of these objects, in this order, repetitions and all.
    pub ids: Vec<ObjectId>,
}

const LS_REFS: &str = "ls-refs";
const FETCH: &str = "fetch";
const OBJECT_INFO: &str = "object-info";
const BUNDLE_URI: &str = "bundle-uri";

/// Reads a [`V2Request`]: capabilities and a command, a delimiter, the command's arguments, a flush. The value is `None` when the client says
/// goodbye with a lone flush or nothing at all.
#[derive(Debug, Clone)]
pub struct V2Parser {
    features: V2Features,
    hash: hash::Kind,
    client: ClientInfo,
    client_hash: hash::Kind,
    seen: bool,
    command: Option<Arguments>,
    prefixes_overflow: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Keys,
    Arguments,
    Ended,
}

#[derive(Debug, Clone)]
enum Arguments {
    LsRefs(LsRefs),
    Fetch(Box<FetchBuilder>),
    ObjectInfo(ObjectInfo),
    BundleUri,
}

impl Arguments {
    fn name(&self) -> &'static str {
        match self {
            Arguments::LsRefs(_) => LS_REFS,
            Arguments::Fetch(_) => FETCH,
            Arguments::ObjectInfo(_) => OBJECT_INFO,
            Arguments::BundleUri => BUNDLE_URI,
        }
    }
}

impl V2Parser {
    /// A parser for a request to a repository of this hash that offers these features.
    pub fn new(hash: hash::Kind, features: V2Features) -> Self {
        V2Parser {
            features,
            hash,
            client: ClientInfo::default(),
            client_hash: hash::Kind::Sha1,
            seen: false,
            command: None,
            prefixes_overflow: false,
            state: State::Keys,
        }
    }

    fn key(&mut self, line: &[u8], limits: &Limits) -> Result<(), RequestError> {
        if let Some(command) = line.strip_prefix(b"command=") {
            return self.command(command);
        }
        match key_value(line) {
            (b"agent", value) => self.client.agent = value.map(Into::into),
            (b"session-id", value) if self.features.session_id => self.client.session_id = value.map(Into::into),
            (b"server-option", value) => {
                let option = value.unwrap_or_default().into();
                push_within(
                    &mut self.client.server_options,
                    option,
                    "server options",
                    limits.options,
                )?;
            }
            (b"object-format", None) => return Err(RequestError::ObjectFormatWithoutValue),
            (b"object-format", Some(name)) => {
                self.client_hash =
                    object_format(name).ok_or_else(|| RequestError::UnknownObjectFormat { name: name.into() })?;
                self.client.object_format = Some(self.client_hash);
            }
            _ => return Err(RequestError::UnknownCapability { line: line.into() }),
        }
        Ok(())
    }

    fn command(&mut self, name: &[u8]) -> Result<(), RequestError> {
        if let Some(first) = &self.command {
            return Err(RequestError::SecondCommand {
                second: name.into(),
                first: first.name(),
            });
        }
        self.command = Some(match name {
            b"ls-refs" => Arguments::LsRefs(LsRefs::default()),
            b"fetch" => Arguments::Fetch(Box::new(FetchBuilder::new(self.hash))),
            b"object-info" if self.features.object_info => Arguments::ObjectInfo(ObjectInfo::default()),
            b"bundle-uri" if self.features.bundle_uri => Arguments::BundleUri,
            _ => return Err(RequestError::InvalidCommand { command: name.into() }),
        });
        Ok(())
    }

    /// What git checks once it has read the capabilities, before it reads an argument.
    fn keys_end(&mut self) -> Result<(), RequestError> {
        if self.command.is_none() {
            return Err(RequestError::NoCommand);
        }
        if self.client_hash != self.hash {
            return Err(RequestError::MismatchedObjectFormat {
                server: self.hash,
                client: self.client_hash,
            });
        }
        self.state = State::Arguments;
        Ok(())
    }

    fn argument(&mut self, line: &[u8], limits: &Limits) -> Result<(), RequestError> {
        match &mut self.command {
            Some(Arguments::LsRefs(refs)) => {
                ls_refs_argument(refs, &mut self.prefixes_overflow, line, self.features, limits)
            }
            Some(Arguments::Fetch(builder)) => fetch_argument(builder, line, self.features, limits),
            Some(Arguments::ObjectInfo(info)) => object_info_argument(info, line, self.hash, limits),
            Some(Arguments::BundleUri) => Err(RequestError::BundleUriArgument { line: line.into() }),
            None => Err(RequestError::NoCommand),
        }
    }
}

fn ls_refs_argument(
    refs: &mut LsRefs,
    overflow: &mut bool,
    line: &[u8],
    features: V2Features,
    limits: &Limits,
) -> Result<(), RequestError> {
    match line {
        b"peel" => refs.peel = true,
        b"symrefs" => refs.symrefs = true,
        b"unborn" => refs.unborn = features.unborn,
        _ => {
            let unexpected = || RequestError::UnexpectedLine { line: line.into() };
            let prefix = line.strip_prefix(b"ref-prefix ").ok_or_else(unexpected)?;
            // Nothing is refused here: so many prefixes only stop being a help.
            if refs.prefixes.len() >= limits.ref_prefixes {
                *overflow = true;
                refs.prefixes = Vec::new();
            }
            if !*overflow {
                refs.prefixes.push(prefix.into());
            }
        }
    }
    Ok(())
}

fn fetch_argument(
    builder: &mut FetchBuilder,
    line: &[u8],
    features: V2Features,
    limits: &Limits,
) -> Result<(), RequestError> {
    if let Some(hex) = line.strip_prefix(b"want ") {
        let expected = || RequestError::ExpectedWant {
            line: line.into(),
            v2: true,
        };
        return builder.want(hex, limits).ok_or_else(expected)?;
    }
    if let Some(hex) = line.strip_prefix(b"have ") {
        return builder.have(hex, limits);
    }
    if builder.boundary(line, limits)? {
        return Ok(());
    }
    if features.allow_ref_in_want
        && let Some(name) = line.strip_prefix(b"want-ref ")
    {
        return builder.want_ref(name, limits);
    }
    if features.allow_filter
        && let Some(spec) = line.strip_prefix(b"filter ")
    {
        return builder.filter(spec);
    }
    if features.allow_packfile_uris
        && let Some(schemes) = line.strip_prefix(b"packfile-uris ")
    {
        if !builder.fetch.packfile_uris.is_empty() {
            return Err(RequestError::SecondPackfileUris);
        }
        for scheme in schemes.split_str(b",") {
            push_within(
                &mut builder.fetch.packfile_uris,
                scheme.into(),
                "packfile-uris",
                limits.options,
            )?;
        }
        return Ok(());
    }
    let fetch = &mut builder.fetch;
    match line {
        b"done" => fetch.done = true,
        b"thin-pack" => fetch.thin_pack = true,
        b"no-progress" => fetch.no_progress = true,
        b"include-tag" => fetch.include_tag = true,
        b"ofs-delta" => fetch.ofs_delta = true,
        b"wait-for-done" => fetch.wait_for_done = true,
        b"deepen-relative" => builder.relative = true,
        b"sideband-all" if features.allow_sideband_all => fetch.sideband_all = true,
        _ => return Err(RequestError::UnexpectedLine { line: line.into() }),
    }
    Ok(())
}

fn object_info_argument(
    info: &mut ObjectInfo,
    line: &[u8],
    hash: hash::Kind,
    limits: &Limits,
) -> Result<(), RequestError> {
    if line == b"size" {
        info.size = true;
        return Ok(());
    }
    let unexpected = || RequestError::ObjectInfoLine { line: line.into() };
    let hex = line.strip_prefix(b"oid ").ok_or_else(unexpected)?;
    let id = object_id(hex, hash).ok_or_else(|| RequestError::ObjectInfoId { text: hex.into() })?;
    push_within(&mut info.ids, id, "object-info objects", limits.object_infos)
}

impl Parser for V2Parser {
    type Request = Option<V2Request>;

    fn packet(&mut self, packet: Packet<'_>, limits: &Limits) -> Result<Progress, RequestError> {
        match (self.state, packet) {
            (State::Ended, _) | (State::Keys, Packet::ResponseEnd) => return Err(RequestError::UnexpectedPacket),
            (State::Keys, Packet::Data(data)) => {
                self.seen = true;
                self.key(data.strip_suffix(b"\n").unwrap_or(data), limits)?;
            }
            (State::Keys, Packet::Delim) => self.keys_end()?,
            (State::Keys, Packet::Flush) => {
                if self.seen {
                    self.keys_end()?;
                }
                self.state = State::Ended;
                return Ok(Progress::Done);
            }
            (State::Arguments, Packet::Data(data)) => {
                self.argument(data.strip_suffix(b"\n").unwrap_or(data), limits)?;
            }
            (State::Arguments, Packet::Flush) => {
                self.state = State::Ended;
                return Ok(Progress::Done);
            }
            (State::Arguments, Packet::Delim | Packet::ResponseEnd) => {
                return Err(match self.command.as_ref().map_or(FETCH, Arguments::name) {
                    command @ (OBJECT_INFO | BUNDLE_URI) => RequestError::ExpectedFlushAfterArguments { command },
                    command => RequestError::ExpectedFlush { command },
                });
            }
        }
        Ok(Progress::More)
    }

    fn finish(self) -> Result<Option<V2Request>, RequestError> {
        match self.state {
            State::Keys if !self.seen => return Ok(None),
            State::Keys | State::Arguments => return Err(RequestError::HungUp),
            State::Ended => {}
        }
        let command = match self.command {
            None => return Ok(None),
            Some(Arguments::LsRefs(refs)) => V2Command::LsRefs(refs),
            Some(Arguments::Fetch(builder)) => {
                let mut fetch = builder.build()?;
                fetch.multi_ack = MultiAck::Detailed;
                fetch.sideband = Sideband::Large;
                V2Command::Fetch(fetch)
            }
            Some(Arguments::ObjectInfo(info)) => V2Command::ObjectInfo(info),
            Some(Arguments::BundleUri) => V2Command::BundleUri,
        };
        Ok(Some(V2Request {
            command,
            client: self.client,
        }))
    }
}
