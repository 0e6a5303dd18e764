use bstr::BString;
use gix::hash::{self, ObjectId};

use crate::base::Limits;

use super::{Packet, RequestError};

/// What a parser says after a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The request goes on.
    More,
    /// That was its last packet; bytes that follow are not part of it.
    Done,
}

/// A request that is read packet by packet. The caller owns bytes and socket:
///
/// ```
/// # use gitstead::{base::Limits, protocol::{self, Parser}};
/// # fn read<P: Parser>(mut parser: P, body: &[u8]) -> Result<P::Request, protocol::RequestError> {
/// let mut decoder = protocol::Decoder::new();
/// decoder.feed(body);
/// while let Some(packet) = decoder.next()? {
///     if parser.packet(packet, &Limits::default())? == protocol::Progress::Done {
///         break;
///     }
/// }
/// parser.finish()
/// # }
/// ```
pub trait Parser {
    /// What is read.
    type Request;

    /// Takes the next packet. After `Done` or an error no more may be given.
    fn packet(&mut self, packet: Packet<'_>, limits: &Limits) -> Result<Progress, RequestError>;

    /// The request, after `Done` or when the bytes have ended. Where the protocol does not let a request end there, the error is
    /// [`RequestError::HungUp`].
    fn finish(self) -> Result<Self::Request, RequestError>;
}

/// What a client says about itself. Only for logs, except for the options.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientInfo {
    /// `agent=`, as sent.
    pub agent: Option<BString>,
    /// `session-id=`, as sent.
    pub session_id: Option<BString>,
    /// `object-format=`; already checked against the repository's.
    pub object_format: Option<hash::Kind>,
    /// v2 `server-option=` values in their order.
    pub server_options: Vec<BString>,
}

/// An object id in full and in lower case, of this hash and nothing else.
pub(super) fn object_id(hex: &[u8], hash: hash::Kind) -> Option<ObjectId> {
    let lower = hex.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if hex.len() != hash.len_in_hex() || !lower {
        return None;
    }
    ObjectId::from_hex(hex).ok()
}

/// Adds to a list that has a bound.
pub(super) fn push_within<T>(list: &mut Vec<T>, item: T, what: &'static str, limit: usize) -> Result<(), RequestError> {
    if list.len() >= limit {
        return Err(RequestError::TooMany { what, limit });
    }
    list.push(item);
    Ok(())
}
