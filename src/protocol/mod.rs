//! `protocol`: git's wire as values. Holds no reader, no clock, no repository; the same bytes give the same values however they were
//! split, and no bytes make it panic or keep more than [`Limits`](crate::base::Limits) allow.
//!
//! * Framing: [`decode`] and [`Decoder`] for packets, [`data`], [`text`], [`flush`] … to write them, [`Sideband`] and [`band`] for channels,
//!   [`to_text`] and [`from_text`] for people.
//! * Requests: a [`Parser`] for each kind ([`V2Parser`], [`FetchV0Parser`], [`PushParser`]), fed with packets, gives a value or one of git's own
//!   error texts ([`RequestError`]).
//! * Replies: functions that write into a `Vec<u8>`, a line or a section at a time ([`AdvertV0`], [`advertise_v2`], [`ls_refs_line`],
//!   [`FetchReply`], [`ack`], [`Report`] …), so that nothing needs the whole answer in memory.

mod advert;
mod band;
mod caps;
mod cert;
mod error;
mod fetch;
mod fetch_v0;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod pkt;
mod push;
mod reply;
mod report;
mod request;
#[cfg(test)]
mod tests;
mod text;
mod v2;

pub use advert::{AdvertV0, ReceiveCapabilities, UploadCapabilities, V2Capabilities, advertise_v2, service_header};
pub use band::{Channel, Sideband, band, band_header, keep_alive};
pub use caps::Capabilities;
pub use cert::PushCert;
pub use error::{RequestError, Shown};
pub use fetch::{Fetch, MultiAck};
pub use fetch_v0::{FetchEnd, FetchV0, FetchV0Parser};
pub use pkt::{
    Decoded, Decoder, MAX_PACKET, MAX_PAYLOAD, Packet, PktError, data, decode, delim, error, flush, packet,
    response_end, text,
};
pub use push::{Push, PushCaps, PushFeatures, PushParser, RefCommand};
pub use reply::{
    AckStatus, FetchReply, Section, ack, bundle_uri_line, ls_refs_line, ls_refs_unborn, nak, object_info_header,
    object_info_line, shallow_update,
};
pub use report::{RefReport, RefStatus, Report, ReportOptions, ReportVersion};
pub use request::{ClientInfo, Parser, Progress};
pub use text::{TextError, from_text, to_text};
pub use v2::{LsRefs, ObjectInfo, V2Command, V2Features, V2Parser, V2Request};
