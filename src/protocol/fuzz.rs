//! The laws of this room as functions of any bytes: what the fuzz targets call and ordinary tests replay over `fuzz/corpus`.
//! Each panics if a law is broken. The first byte of an input says what the repository offers, the rest is what a client sends.

use gix::hash;

use crate::base::Limits;

use super::{
    Decoded, Decoder, FetchV0Parser, MAX_PACKET, Parser, Progress, PushFeatures, PushParser, RequestError, V2Features,
    V2Parser, decode, from_text, packet, to_text,
};

/// Feeds `bytes` in pieces of the given lengths, the last one for ever, and gives the request and where in the bytes it ended.
pub(super) fn read<P: Parser>(
    mut parser: P,
    bytes: &[u8],
    pieces: &[usize],
    limits: &Limits,
) -> Result<(P::Request, usize), RequestError> {
    let mut decoder = Decoder::new();
    let mut fed = 0;
    let mut turn = 0;
    loop {
        while let Some(packet) = decoder.next()? {
            if parser.packet(packet, limits)? == Progress::Done {
                let end = fed - decoder.unread().len();
                return Ok((parser.finish()?, end));
            }
        }
        if fed == bytes.len() {
            decoder.end()?;
            return Ok((parser.finish()?, fed));
        }
        let length = pieces.get(turn).or(pieces.last()).copied().unwrap_or(usize::MAX).max(1);
        let piece = &bytes[fed..][..length.min(bytes.len() - fed)];
        decoder.feed(piece);
        fed += piece.len();
        turn += 1;
    }
}

/// The chunking law: however the bytes are cut, the outcome is the same.
pub(super) fn same_however_cut<P: Parser<Request: PartialEq + std::fmt::Debug> + Clone>(
    parser: &P,
    bytes: &[u8],
    limits: &Limits,
) {
    let whole = read(parser.clone(), bytes, &[], limits);
    for pieces in [&[1][..], &[3], &[5, 1, 4, 7], &[4, 70_000], &[65_520]] {
        assert_eq!(
            read(parser.clone(), bytes, pieces, limits),
            whole,
            "cut into {pieces:?}"
        );
    }
}

fn small_limits() -> Limits {
    let mut limits = Limits::default();
    (limits.wants, limits.haves, limits.shallows, limits.options) = (8, 8, 8, 8);
    (
        limits.ref_prefixes,
        limits.object_infos,
        limits.commands,
        limits.command_bytes,
    ) = (8, 8, 8, 1 << 10);
    limits
}

fn split_offer(input: &[u8]) -> (u8, hash::Kind, &[u8]) {
    let (offer, rest) = input.split_first().map_or((0, input), |(offer, rest)| (*offer, rest));
    let hash = if offer & 0x80 == 0 {
        hash::Kind::Sha1
    } else {
        hash::Kind::Sha256
    };
    (offer, hash, rest)
}

/// Packets: progress is made, nothing beyond the input is taken, and what was read can be written again.
pub fn pkt_line(input: &[u8]) {
    let mut rest = input;
    loop {
        match decode(rest) {
            Err(_) => break,
            Ok(Decoded::Incomplete { needed }) => {
                assert!((1..MAX_PACKET).contains(&needed), "{needed} more bytes are needed");
                break;
            }
            Ok(Decoded::Complete { packet: read, consumed }) => {
                assert!(
                    (4..=rest.len().min(MAX_PACKET)).contains(&consumed),
                    "{consumed} bytes were taken"
                );
                let mut written = Vec::new();
                packet(&mut written, read);
                assert!(
                    written.eq_ignore_ascii_case(&rest[..consumed]),
                    "a packet changed when written again"
                );
                rest = &rest[consumed..];
            }
        }
    }
    text_form(input);
}

/// Text: what is shown reads back to the same bytes, but for the case of length digits.
pub fn text_form(input: &[u8]) {
    let text = to_text(input);
    let bytes = from_text(&text).expect("what to_text writes is what from_text reads");
    assert!(
        bytes.eq_ignore_ascii_case(input),
        "the text form lost something: {text}"
    );
    assert_eq!(to_text(&bytes), text, "the text form is not stable");
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = from_text(text);
    }
}

/// Version 2 requests.
pub fn v2_request(input: &[u8]) {
    let (offer, hash, bytes) = split_offer(input);
    let on = |bit: u8| offer & 1 << bit != 0;
    let features = V2Features {
        allow_filter: on(0),
        allow_ref_in_want: on(1),
        allow_sideband_all: on(2),
        allow_packfile_uris: on(3),
        object_info: on(4),
        bundle_uri: on(5),
        unborn: on(6),
        session_id: on(6),
    };
    same_however_cut(&V2Parser::new(hash, features), bytes, &small_limits());
}

/// Version 0 and 1 fetch requests.
pub fn v0_request(input: &[u8]) {
    let (offer, hash, bytes) = split_offer(input);
    same_however_cut(&FetchV0Parser::new(hash, offer & 1 != 0), bytes, &small_limits());
}

/// Pushes, certificates included.
pub fn push_request(input: &[u8]) {
    let (offer, hash, bytes) = split_offer(input);
    let features = PushFeatures {
        atomic: offer & 1 != 0,
        push_options: offer & 2 != 0,
    };
    same_however_cut(&PushParser::new(hash, features), bytes, &small_limits());
}
