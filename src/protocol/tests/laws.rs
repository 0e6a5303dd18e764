//! The round trip and the chunking law over generated values and over any bytes.

use std::num::NonZeroU32;

use bstr::BString;
use gix::{hash, hash::ObjectId};
use proptest::{collection::vec, option, prelude::*};

use super::client;
use crate::{
    base::{Deepen, Filter, Limits},
    protocol::{
        fuzz::{self, read},
        *,
    },
};

const ALL: V2Features = V2Features {
    allow_filter: true,
    allow_ref_in_want: true,
    allow_sideband_all: true,
    allow_packfile_uris: true,
    object_info: true,
    bundle_uri: true,
    unborn: true,
    session_id: true,
};

fn hash_kind() -> impl Strategy<Value = hash::Kind> {
    prop_oneof![Just(hash::Kind::Sha1), Just(hash::Kind::Sha256)]
}

fn id(hash: hash::Kind) -> impl Strategy<Value = ObjectId> {
    vec(any::<u8>(), hash.len_in_bytes()).prop_map(|bytes| ObjectId::from_bytes_or_panic(&bytes))
}

fn null_or_id(hash: hash::Kind) -> impl Strategy<Value = ObjectId> {
    prop_oneof![Just(hash.null()), id(hash)]
}

/// Ids without repetitions, in any order.
fn ids(hash: hash::Kind) -> impl Strategy<Value = Vec<ObjectId>> {
    vec(id(hash), 0..5)
}

/// Bytes of which a line may consist.
fn word() -> impl Strategy<Value = BString> {
    "[!-~&&[^=\\\\]]{1,12}".prop_map(BString::from)
}

fn bytes_of_a_line() -> impl Strategy<Value = BString> {
    vec(prop_oneof![1u8..10, 11u8..=255], 1..20).prop_map(BString::from)
}

fn deepen() -> impl Strategy<Value = Option<Deepen>> {
    prop_oneof![
        Just(None),
        (1..=i32::MAX as u32, any::<bool>()).prop_map(|(depth, relative)| Some(Deepen::Depth {
            depth: NonZeroU32::new(depth).unwrap(),
            relative
        })),
        (option::of(1..i64::MAX), vec(bytes_of_a_line(), 0..3)).prop_map(|(since, not)| {
            (since.is_some() || !not.is_empty()).then_some(Deepen::RevList { since, not })
        }),
    ]
}

fn simple_filter() -> impl Strategy<Value = Filter> {
    prop_oneof![
        Just(Filter::BlobNone),
        any::<u64>().prop_map(Filter::BlobLimit),
        any::<u64>().prop_map(Filter::TreeDepth),
        Just(Filter::ObjectType(gix::objs::Kind::Tag)),
        "[a-z:/]{1,9}".prop_map(|name| Filter::SparseOid(name.into())),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    prop_oneof![simple_filter(), vec(simple_filter(), 2..4).prop_map(Filter::Combine)]
}

fn fetch(hash: hash::Kind) -> impl Strategy<Value = Fetch> {
    let lists = (ids(hash), ids(hash), ids(hash));
    let bound = (deepen(), option::of(filter()));
    (lists, bound, any::<[bool; 6]>()).prop_map(|((wants, haves, shallow), (deepen, filter), flags)| {
        let [done, thin_pack, no_progress, include_tag, ofs_delta, no_done] = flags;
        Fetch {
            wants,
            haves,
            shallow,
            deepen,
            filter,
            done,
            thin_pack,
            no_progress,
            include_tag,
            ofs_delta,
            no_done,
            ..Fetch::default()
        }
    })
}

fn client_info(hash: hash::Kind) -> impl Strategy<Value = ClientInfo> {
    (option::of(word()), option::of(word())).prop_map(move |(agent, session_id)| ClientInfo {
        agent,
        session_id,
        object_format: Some(hash),
        server_options: Vec::new(),
    })
}

fn v2_fetch(hash: hash::Kind) -> impl Strategy<Value = V2Command> {
    let names = proptest::collection::btree_set(bytes_of_a_line(), 0..4);
    (fetch(hash), names, any::<[bool; 2]>(), vec("[a-z]{1,5}", 0..3)).prop_map(|(mut fetch, names, flags, schemes)| {
        fetch.want_refs = names.into_iter().collect();
        [fetch.sideband_all, fetch.wait_for_done] = flags;
        if fetch.sideband_all {
            fetch.packfile_uris = schemes.into_iter().map(BString::from).collect();
        }
        fetch.no_done = false;
        fetch.multi_ack = MultiAck::Detailed;
        fetch.sideband = Sideband::Large;
        V2Command::Fetch(fetch)
    })
}

fn v2_request() -> impl Strategy<Value = (hash::Kind, V2Request)> {
    hash_kind().prop_flat_map(|hash| {
        let refs =
            (any::<[bool; 3]>(), vec(bytes_of_a_line(), 0..4)).prop_map(|([symrefs, peel, unborn], prefixes)| {
                V2Command::LsRefs(LsRefs {
                    symrefs,
                    peel,
                    unborn,
                    prefixes,
                })
            });
        let info = (any::<bool>(), vec(id(hash), 0..4))
            .prop_map(|(size, ids)| V2Command::ObjectInfo(ObjectInfo { size, ids }));
        let command = prop_oneof![4 => v2_fetch(hash), 2 => refs, 1 => info, 1 => Just(V2Command::BundleUri)];
        (command, client_info(hash), vec(bytes_of_a_line(), 0..3)).prop_map(move |(command, mut client, options)| {
            client.server_options = options;
            (hash, V2Request { command, client })
        })
    })
}

fn v0_request() -> impl Strategy<Value = (hash::Kind, FetchV0)> {
    let acks = prop_oneof![Just(MultiAck::No), Just(MultiAck::Plain), Just(MultiAck::Detailed)];
    let bands = prop_oneof![Just(Sideband::None), Just(Sideband::Small), Just(Sideband::Large)];
    let ends = prop_oneof![Just(FetchEnd::Flush), Just(FetchEnd::Done), Just(FetchEnd::Eof)];
    let wanting = hash_kind().prop_flat_map(|hash| (Just(hash), fetch(hash), id(hash), client_info(hash)));
    (wanting, acks, bands, ends).prop_map(|((hash, mut fetch, want, client), multi_ack, sideband, end)| {
        fetch.wants.push(want);
        (fetch.multi_ack, fetch.sideband, fetch.done) = (multi_ack, sideband, end == FetchEnd::Done);
        if end == FetchEnd::Eof {
            fetch.haves.clear();
        }
        (hash, FetchV0 { fetch, end, client })
    })
}

fn certificate(commands: &[RefCommand], options: &[BString], signed: bool) -> PushCert {
    let mut raw = b"certificate version 0.1\npusher A <a@b> 1 +0000\nnonce 1-2\n".to_vec();
    for option in options {
        raw.extend_from_slice(&[b"push-option ", &option[..], b"\n"].concat());
    }
    raw.push(b'\n');
    for RefCommand { old, new, name } in commands {
        raw.extend_from_slice(&[format!("{old} {new} ").as_bytes(), name, b"\n"].concat());
    }
    let signature = if signed {
        "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"
    } else {
        ""
    };
    raw.extend_from_slice(signature.as_bytes());
    PushCert {
        raw: raw.into(),
        version: Some("0.1".into()),
        pusher: Some("A <a@b> 1 +0000".into()),
        pushee: None,
        nonce: Some("1-2".into()),
        push_options: options.to_vec(),
        signature: signature.into(),
    }
}

fn push_request() -> impl Strategy<Value = (hash::Kind, Push)> {
    hash_kind().prop_flat_map(|hash| {
        let name = vec(prop_oneof![1u8..10, 11u8..=255], 1..20).prop_map(BString::from);
        let command =
            (null_or_id(hash), null_or_id(hash), name).prop_map(|(old, new, name)| RefCommand { old, new, name });
        let lists = (vec(command, 1..5), vec(id(hash), 0..3), vec(bytes_of_a_line(), 0..3));
        let words = (option::of(word()), option::of(word()));
        (lists, words, any::<[bool; 8]>(), option::of(any::<bool>())).prop_map(
            move |((commands, shallow, options), (agent, session_id), flags, cert)| {
                let capabilities = PushCaps {
                    report_status: flags[0],
                    report_status_v2: flags[1],
                    side_band_64k: flags[2],
                    quiet: flags[3],
                    atomic: flags[4],
                    push_options: flags[5],
                    ofs_delta: flags[6],
                    delete_refs: flags[7],
                    object_format: Some(hash),
                    agent,
                    session_id,
                };
                let certificate = cert.map(|signed| certificate(&commands, &options, signed));
                let push_options = if capabilities.push_options { options } else { Vec::new() };
                (
                    hash,
                    Push {
                        commands,
                        shallow,
                        capabilities,
                        certificate,
                        push_options,
                    },
                )
            },
        )
    })
}

fn check<P: Parser<Request: PartialEq + std::fmt::Debug> + Clone>(
    parser: P,
    mut bytes: Vec<u8>,
    expected: &P::Request,
) {
    let limits = Limits::default();
    let length = bytes.len();
    fuzz::same_however_cut(&parser, &bytes, &limits);
    // Whatever follows is left alone.
    bytes.extend_from_slice(b"PACK and more");
    if let Ok((value, end)) = read(parser.clone(), &bytes, &[7, 100], &limits) {
        assert_eq!((&value, end), (expected, length));
    }
    bytes.truncate(length);
    let (value, end) = read(parser, &bytes, &[], &limits).unwrap_or_else(|e| panic!("{e}: {}", to_text(&bytes)));
    assert_eq!((&value, end), (expected, length));
}

proptest! {
    #[test]
    fn a_v2_request_is_what_the_client_meant((hash, request) in v2_request()) {
        check(V2Parser::new(hash, ALL), client::v2(&request), &Some(request));
    }

    #[test]
    fn a_v0_request_is_what_the_client_meant((hash, request) in v0_request()) {
        check(FetchV0Parser::new(hash, true), client::v0(&request), &request);
    }

    #[test]
    fn a_push_is_what_the_client_meant((hash, push) in push_request()) {
        let features = PushFeatures { atomic: true, push_options: true };
        check(PushParser::new(hash, features), client::push(&push), &push);
    }

    #[test]
    fn packets_survive_any_cut(payloads in vec(vec(any::<u8>(), 0..40), 0..8), pieces in vec(1usize..20, 1..10)) {
        let mut bytes = Vec::new();
        for (at, payload) in payloads.iter().enumerate() {
            data(&mut bytes, payload);
            packet(&mut bytes, [Packet::Flush, Packet::Delim, Packet::ResponseEnd][at % 3]);
        }
        let mut decoder = Decoder::new();
        let (mut fed, mut turn, mut seen) = (0, 0, Vec::new());
        while fed < bytes.len() {
            let piece = &bytes[fed..][..pieces[turn % pieces.len()].min(bytes.len() - fed)];
            decoder.feed(piece);
            fed += piece.len();
            turn += 1;
            while let Some(packet) = decoder.next().unwrap() {
                if let Packet::Data(payload) = packet {
                    seen.push(payload.to_vec());
                }
            }
        }
        prop_assert_eq!(seen, payloads);
        prop_assert_eq!(decoder.end(), Ok(()));
    }

    #[test]
    fn no_bytes_break_a_law(bytes in vec(any::<u8>(), 0..200)) {
        fuzz::pkt_line(&bytes);
        fuzz::v2_request(&bytes);
        fuzz::v0_request(&bytes);
        fuzz::push_request(&bytes);
    }

    /// Bytes that are packets get further than any bytes do.
    #[test]
    fn no_packets_break_a_law(offer: u8, lines in vec(line_like(), 0..12)) {
        let mut bytes = vec![offer];
        bytes.extend(lines.concat());
        fuzz::pkt_line(&bytes[1..]);
        fuzz::v2_request(&bytes);
        fuzz::v0_request(&bytes);
        fuzz::push_request(&bytes);
    }
}

/// Something like a line of a request, right or nearly right.
fn line_like() -> impl Strategy<Value = Vec<u8>> {
    const ID: &str = "1234567890abcdef1234567890abcdef12345678";
    let words = prop::sample::select(vec![
        "command=fetch",
        "command=ls-refs",
        "command=object-info",
        "command=bundle-uri",
        "agent=x",
        "object-format=sha1",
        "object-format=sha256",
        "server-option=a",
        "session-id=b",
        "peel",
        "symrefs",
        "unborn",
        "ref-prefix refs/",
        "want ",
        "have ",
        "shallow ",
        "oid ",
        "size",
        "deepen 1",
        "deepen-since 9",
        "deepen-not v1",
        "deepen-relative",
        "done",
        "filter blob:none",
        "filter combine:tree:0",
        "want-ref refs/heads/main",
        "sideband-all",
        "packfile-uris https",
        "wait-for-done",
        "thin-pack",
        "push-cert",
        "push-cert\0push-options",
        "push-cert-end",
        "certificate version 0.1",
        "push-option x",
        "-----BEGIN PGP SIGNATURE-----",
        "",
        "\0",
        "nonsense",
    ]);
    let tails = prop::sample::select(vec!["", ID, " ofs-delta filter side-band", "x"]);
    let text = (words, tails, any::<bool>()).prop_map(|(word, tail, line_feed)| {
        let mut out = Vec::new();
        data(
            &mut out,
            format!("{word}{tail}{}", if line_feed { "\n" } else { "" }).as_bytes(),
        );
        out
    });
    let command = "[01]".prop_map(|zero| {
        let mut out = Vec::new();
        data(
            &mut out,
            format!("{} {ID} refs/heads/main\0push-options atomic", zero.repeat(40)).as_bytes(),
        );
        out
    });
    let special = prop::sample::select(vec!["0000", "0001", "0000", "0002", "0003", "zzzz"]).prop_map(|s| s.into());
    prop_oneof![6 => text, 1 => command, 3 => special]
}
