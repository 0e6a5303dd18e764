use gix::hash;

use crate::base::Limits;

use super::{
    Capabilities, ClientInfo, Fetch, MultiAck, Packet, Parser, Progress, RequestError, Sideband, caps::object_format,
    fetch::FetchBuilder,
};

/// Where a version 0 or 1 fetch request ended, and so what is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchEnd {
    /// A flush after some haves: answer them and end.
    Flush,
    /// `done`: answer and send the pack.
    Done,
    /// The end of the body right after the wants: a client that only asks where its boundary will be; answer that. Also a request that
    /// wants nothing: no answer at all.
    Eof,
}

/// A version 0 or 1 fetch request as it comes over HTTP: one whole round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchV0 {
    /// What is wanted.
    pub fetch: Fetch,
    /// How it ended.
    pub end: FetchEnd,
    /// Who asks.
    pub client: ClientInfo,
}

/// Reads a [`FetchV0`]: wants with capabilities, `shallow`, `deepen…`, `filter`, a flush, haves, and a flush or `done`
/// (gitprotocol-pack, "Packfile Negotiation"; stateless, so the first flush after the wants ends it).
#[derive(Debug, Clone)]
pub struct FetchV0Parser {
    builder: FetchBuilder,
    client: ClientInfo,
    hash: hash::Kind,
    allow_filter: bool,
    filter_negotiated: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Wants,
    BeforeHaves,
    Haves,
    Ended(FetchEnd),
}

impl FetchV0Parser {
    /// A parser for a request to a repository of this hash; `allow_filter` says whether `filter` was advertised.
    pub fn new(hash: hash::Kind, allow_filter: bool) -> Self {
        FetchV0Parser {
            builder: FetchBuilder::new(hash),
            client: ClientInfo::default(),
            hash,
            allow_filter,
            filter_negotiated: false,
            state: State::Wants,
        }
    }

    fn want_line(&mut self, line: &[u8], limits: &Limits) -> Result<(), RequestError> {
        if self.builder.boundary(line, limits)? {
            return Ok(());
        }
        if let Some(spec) = line.strip_prefix(b"filter ") {
            if !self.filter_negotiated {
                return Err(RequestError::FilterNotNegotiated);
            }
            return self.builder.filter(spec);
        }
        let expected_want = || RequestError::ExpectedWant {
            line: line.into(),
            v2: false,
        };
        let rest = line.strip_prefix(b"want ").ok_or_else(expected_want)?;
        let (hex, capabilities) = match rest.iter().position(|b| *b == b' ') {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, &b""[..]),
        };
        self.builder.want(hex, limits).ok_or_else(expected_want)??;
        self.capabilities(Capabilities::new(capabilities))
    }

    fn capabilities(&mut self, capabilities: Capabilities<'_>) -> Result<(), RequestError> {
        let fetch = &mut self.builder.fetch;
        for (key, value) in capabilities.iter() {
            match (key, value) {
                (b"multi_ack_detailed", _) => fetch.multi_ack = MultiAck::Detailed,
                (b"multi_ack", _) if fetch.multi_ack == MultiAck::No => fetch.multi_ack = MultiAck::Plain,
                (b"no-done", _) => fetch.no_done = true,
                (b"thin-pack", _) => fetch.thin_pack = true,
                (b"ofs-delta", _) => fetch.ofs_delta = true,
                (b"side-band-64k", _) => fetch.sideband = Sideband::Large,
                (b"side-band", _) if fetch.sideband == Sideband::None => fetch.sideband = Sideband::Small,
                (b"no-progress", _) => fetch.no_progress = true,
                (b"include-tag", _) => fetch.include_tag = true,
                (b"deepen-relative", _) => self.builder.relative = true,
                (b"filter", _) => self.filter_negotiated = self.allow_filter,
                (b"agent", Some(agent)) => self.client.agent = Some(agent.into()),
                (b"session-id", Some(id)) => self.client.session_id = Some(id.into()),
                (b"object-format", Some(name)) => {
                    let client =
                        object_format(name).ok_or_else(|| RequestError::UnknownObjectFormat { name: name.into() })?;
                    if client != self.hash {
                        return Err(RequestError::MismatchedObjectFormat {
                            server: self.hash,
                            client,
                        });
                    }
                    self.client.object_format = Some(client);
                }
                // Words we never advertised change nothing, as in git.
                _ => {}
            }
        }
        Ok(())
    }

    fn have_line(&mut self, line: &[u8], limits: &Limits) -> Result<Progress, RequestError> {
        if let Some(hex) = line.strip_prefix(b"have ") {
            self.builder.have(hex, limits)?;
            self.state = State::Haves;
            Ok(Progress::More)
        } else if line == b"done" {
            self.builder.fetch.done = true;
            self.state = State::Ended(FetchEnd::Done);
            Ok(Progress::Done)
        } else {
            Err(RequestError::ExpectedHaveList { line: line.into() })
        }
    }
}

impl Parser for FetchV0Parser {
    type Request = FetchV0;

    fn packet(&mut self, packet: Packet<'_>, limits: &Limits) -> Result<Progress, RequestError> {
        match (self.state, packet) {
            (State::Ended(_), _) | (_, Packet::Delim | Packet::ResponseEnd) => Err(RequestError::UnexpectedPacket),
            (State::Wants, Packet::Flush) if self.builder.fetch.wants.is_empty() => {
                self.state = State::Ended(FetchEnd::Eof);
                Ok(Progress::Done)
            }
            (State::Wants, Packet::Flush) => {
                self.state = State::BeforeHaves;
                Ok(Progress::More)
            }
            (State::BeforeHaves | State::Haves, Packet::Flush) => {
                self.state = State::Ended(FetchEnd::Flush);
                Ok(Progress::Done)
            }
            (State::Wants, Packet::Data(data)) => {
                self.want_line(data.strip_suffix(b"\n").unwrap_or(data), limits)?;
                Ok(Progress::More)
            }
            (State::BeforeHaves | State::Haves, Packet::Data(data)) => {
                self.have_line(data.strip_suffix(b"\n").unwrap_or(data), limits)
            }
        }
    }

    fn finish(self) -> Result<FetchV0, RequestError> {
        let end = match self.state {
            State::Wants | State::Haves => return Err(RequestError::HungUp),
            State::BeforeHaves => FetchEnd::Eof,
            State::Ended(end) => end,
        };
        Ok(FetchV0 {
            fetch: self.builder.build()?,
            end,
            client: self.client,
        })
    }
}
