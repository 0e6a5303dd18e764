use bstr::{BString, ByteSlice};
use gix::hash::{self, ObjectId};

use crate::base::Limits;

use super::{
    Capabilities, Packet, Parser, Progress, PushCert, RequestError,
    cert::CertBuilder,
    request::{object_id, push_within},
};

/// One ref command of a push: `old new name`. An id of zeros means that the ref is not there before, or after.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RefCommand {
    /// What the client believes the ref to be.
    pub old: ObjectId,
    /// What it shall become.
    pub new: ObjectId,
    /// Its full name as sent: never empty, but not yet known to be a valid name.
    pub name: BString,
}

impl RefCommand {
    /// The ref is to be deleted.
    pub fn is_delete(&self) -> bool {
        self.new.is_null()
    }

    /// Reads `old SP new SP name`.
    pub(super) fn parse(line: &[u8], hash: hash::Kind) -> Option<RefCommand> {
        let width = hash.len_in_hex();
        let (old, rest) = line.split_at_checked(width)?;
        let (new, name) = rest.strip_prefix(b" ")?.split_at_checked(width)?;
        let name = name.strip_prefix(b" ")?;
        if name.is_empty() || name.contains(&0) {
            return None;
        }
        Some(RefCommand {
            old: object_id(old, hash)?,
            new: object_id(new, hash)?,
            name: name.into(),
        })
    }
}

/// The capabilities a client asks for with its push. Those we may not have advertised count only if we did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PushCaps {
    /// The client wants a report.
    pub report_status: bool,
    /// The client wants a report of the second kind.
    pub report_status_v2: bool,
    /// Report, progress and errors go through side-band.
    pub side_band_64k: bool,
    /// No progress.
    pub quiet: bool,
    /// All commands or none.
    pub atomic: bool,
    /// Push options follow the commands.
    pub push_options: bool,
    /// Named by the client, without effect here.
    pub ofs_delta: bool,
    /// Named by the client, without effect here.
    pub delete_refs: bool,
    /// The hash of the client's objects; already checked.
    pub object_format: Option<hash::Kind>,
    /// `agent=`, as sent.
    pub agent: Option<BString>,
    /// `session-id=`, as sent.
    pub session_id: Option<BString>,
}

/// What a repository offers to pushes beyond what it always does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PushFeatures {
    /// `receive.advertiseAtomic`
    pub atomic: bool,
    /// `receive.advertisePushOptions`
    pub push_options: bool,
}

/// Everything of a push before its pack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Push {
    /// The ref commands; none in an empty push and in the probe that clients send before a large body.
    pub commands: Vec<RefCommand>,
    /// The client's boundary.
    pub shallow: Vec<ObjectId>,
    /// What the client asks for.
    pub capabilities: PushCaps,
    /// The certificate that held the commands, if they were signed. Nothing about it is verified.
    pub certificate: Option<PushCert>,
    /// `--push-option` values in their order.
    pub push_options: Vec<BString>,
}

impl Push {
    /// Whether a pack follows: unless every command deletes.
    pub fn expects_pack(&self) -> bool {
        self.commands.iter().any(|command| !command.is_delete())
    }

    /// Whether the push options inside a certificate are the same as those outside, as git demands (`inconsistent push options`). True without a
    /// certificate.
    pub fn push_options_consistent(&self) -> bool {
        self.certificate
            .as_ref()
            .is_none_or(|certificate| certificate.push_options == self.push_options)
    }
}

/// Reads a [`Push`]: `shallow` lines and commands (or a certificate), a flush, and, if the client asked for them, push options and
/// another flush (gitprotocol-pack, "Reference Update Request"). The pack that may follow is not part of it.
#[derive(Debug, Clone)]
pub struct PushParser {
    features: PushFeatures,
    hash: hash::Kind,
    push: Push,
    certificate: Option<CertBuilder>,
    first_line_seen: bool,
    bytes: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Commands,
    Certificate,
    Options,
    Ended,
}

impl PushParser {
    /// A parser for a push to a repository of this hash that offers these features.
    pub fn new(hash: hash::Kind, features: PushFeatures) -> Self {
        PushParser {
            features,
            hash,
            push: Push::default(),
            certificate: None,
            first_line_seen: false,
            bytes: 0,
            state: State::Commands,
        }
    }

    /// What the client asks for, as far as it was read: also how a refusal of the rest must be framed.
    pub fn capabilities_so_far(&self) -> &PushCaps {
        &self.push.capabilities
    }

    /// Every line that is kept counts.
    fn count(&mut self, line: &[u8], limits: &Limits) -> Result<(), RequestError> {
        self.bytes = self.bytes.saturating_add(line.len());
        if self.bytes > limits.command_bytes {
            return Err(RequestError::TooMany {
                what: "bytes of commands",
                limit: limits.command_bytes,
            });
        }
        Ok(())
    }

    fn command_line(&mut self, line: &[u8], limits: &Limits) -> Result<(), RequestError> {
        if let Some(hex) = line.strip_prefix(b"shallow ") {
            let id = object_id(hex, self.hash).ok_or_else(|| RequestError::ExpectedShallow { text: hex.into() })?;
            return push_within(&mut self.push.shallow, id, "shallow lines", limits.shallows);
        }
        self.count(line, limits)?;
        let (command, capabilities) = match line.iter().position(|b| *b == 0) {
            Some(at) if !self.first_line_seen => (&line[..at], Some(&line[at + 1..])),
            _ => (line, None),
        };
        self.first_line_seen = true;
        if let Some(list) = capabilities {
            self.capabilities(Capabilities::new(list))?;
        }
        if command == b"push-cert" {
            if self.certificate.is_some() {
                return Err(RequestError::ExpectedCommand { line: command.into() });
            }
            self.certificate = Some(CertBuilder::default());
            self.state = State::Certificate;
            return Ok(());
        }
        let command = RefCommand::parse(command, self.hash)
            .ok_or_else(|| RequestError::ExpectedCommand { line: command.into() })?;
        push_within(&mut self.push.commands, command, "ref commands", limits.commands)
    }

    fn capabilities(&mut self, capabilities: Capabilities<'_>) -> Result<(), RequestError> {
        let caps = &mut self.push.capabilities;
        caps.report_status = capabilities.has("report-status");
        caps.report_status_v2 = capabilities.has("report-status-v2");
        caps.side_band_64k = capabilities.has("side-band-64k");
        caps.quiet = capabilities.has("quiet");
        caps.atomic = self.features.atomic && capabilities.has("atomic");
        caps.push_options = self.features.push_options && capabilities.has("push-options");
        caps.ofs_delta = capabilities.has("ofs-delta");
        caps.delete_refs = capabilities.has("delete-refs");
        caps.agent = capabilities.value("agent").map(Into::into);
        caps.session_id = capabilities.value("session-id").map(Into::into);
        // A client that names none means sha1.
        let name = capabilities.value("object-format");
        if name.unwrap_or(b"sha1") != self.hash.to_string().as_bytes() {
            return Err(RequestError::UnsupportedObjectFormat {
                name: name.unwrap_or(b"sha1").into(),
            });
        }
        caps.object_format = name.map(|_| self.hash);
        Ok(())
    }

    /// The commands have ended: those of a certificate are read now, as git does.
    fn commands_end(&mut self, limits: &Limits) -> Result<Progress, RequestError> {
        if let Some(certificate) = self.certificate.take().filter(|certificate| !certificate.is_empty()) {
            if !self.push.commands.is_empty() {
                return Err(RequestError::CertificateAndCommands);
            }
            let (certificate, commands) = certificate.build(self.hash, limits)?;
            self.push.commands = commands;
            self.push.certificate = Some(certificate);
        }
        if self.push.capabilities.push_options && !self.push.commands.is_empty() {
            self.state = State::Options;
            return Ok(Progress::More);
        }
        self.state = State::Ended;
        Ok(Progress::Done)
    }
}

impl Parser for PushParser {
    type Request = Push;

    fn packet(&mut self, packet: Packet<'_>, limits: &Limits) -> Result<Progress, RequestError> {
        match (self.state, packet) {
            (State::Ended, _) | (_, Packet::Delim | Packet::ResponseEnd) => return Err(RequestError::UnexpectedPacket),
            (State::Commands, Packet::Data(data)) => {
                self.command_line(data.strip_suffix(b"\n").unwrap_or(data), limits)?;
            }
            (State::Certificate, Packet::Data(b"push-cert-end\n" | b"push-cert-end")) => self.state = State::Commands,
            (State::Certificate, Packet::Data(data)) => {
                self.count(data, limits)?;
                if let Some(certificate) = &mut self.certificate {
                    certificate.line(data);
                }
            }
            // git takes a flush for the end of an unfinished certificate, too.
            (State::Commands | State::Certificate, Packet::Flush) => return self.commands_end(limits),
            (State::Options, Packet::Data(data)) => {
                let option = data.strip_suffix(b"\n").unwrap_or(data).as_bstr();
                self.count(option, limits)?;
                push_within(
                    &mut self.push.push_options,
                    option.into(),
                    "push options",
                    limits.options,
                )?;
            }
            (State::Options, Packet::Flush) => {
                self.state = State::Ended;
                return Ok(Progress::Done);
            }
        }
        Ok(Progress::More)
    }

    fn finish(self) -> Result<Push, RequestError> {
        if self.state == State::Ended {
            Ok(self.push)
        } else {
            Err(RequestError::HungUp)
        }
    }
}
