//! What we write, beside what git wrote (`fixtures/transcripts/recorded`, `record.py` there says how), and as snapshots where git cannot be asked.

use bstr::{BStr, ByteSlice};
use gix::{hash, hash::ObjectId};

use super::transcripts::files;
use crate::{base::Version, protocol::*};

const AGENT: &str = "git/2.47.3";

fn recorded(name: &str) -> Vec<u8> {
    let (_, text) = files("recorded", ".reply.txt")
        .into_iter()
        .find(|(n, _)| n == name)
        .expect(name);
    from_text(&text).unwrap()
}

/// The packets of a stream, up to something that is none.
fn packets(bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut decoder = Decoder::new();
    decoder.feed(bytes);
    let mut found = Vec::new();
    while let Ok(Some(packet)) = decoder.next() {
        found.push(packet.line().map(<[u8]>::to_vec));
    }
    found
}

fn id(hex: &[u8]) -> ObjectId {
    ObjectId::from_hex(hex).unwrap()
}

fn upload(hash: hash::Kind) -> UploadCapabilities {
    UploadCapabilities {
        allow_tip_sha1_in_want: true,
        allow_reachable_sha1_in_want: true,
        no_done: true,
        symrefs: Vec::new(),
        filter: true,
        session_id: None,
        object_format: hash,
        agent: AGENT.into(),
    }
}

fn receive(hash: hash::Kind) -> ReceiveCapabilities {
    ReceiveCapabilities {
        atomic: true,
        ofs_delta: true,
        push_cert_nonce: None,
        push_options: true,
        session_id: None,
        object_format: hash,
        agent: AGENT.into(),
    }
}

/// Reads the refs out of a recorded advertisement of version 0 or 1 and writes it again.
fn advertised_again(name: &str, version: Version, service: &str) -> Vec<u8> {
    let mut refs: Vec<(Vec<u8>, ObjectId, Option<ObjectId>)> = Vec::new();
    let mut shallow = Vec::new();
    for line in packets(&recorded(name)).into_iter().flatten() {
        if line.starts_with(b"#") || line.starts_with(b"version") {
            continue;
        }
        if let Some(hex) = line.strip_prefix(b"shallow ") {
            shallow.push(id(hex));
            continue;
        }
        let line = line.split(|b| *b == 0).next().unwrap();
        let (hex, name) = line.split_once_str(" ").unwrap();
        match name.strip_suffix(b"^{}") {
            Some(b"capabilities") => {}
            Some(_) => refs.last_mut().unwrap().2 = Some(id(hex)),
            None => refs.push((name.to_vec(), id(hex), None)),
        }
    }
    let hash = if name.starts_with("sha256") {
        hash::Kind::Sha256
    } else {
        hash::Kind::Sha1
    };
    let mut out = Vec::new();
    service_header(service, &mut out);
    let mut advert = if service == "git-receive-pack" {
        AdvertV0::receive(&receive(hash), version, &mut out)
    } else {
        let mut capabilities = upload(hash);
        if refs.first().is_some_and(|(name, ..)| name == b"HEAD") {
            capabilities.symrefs.push(("HEAD".into(), "refs/heads/main".into()));
        }
        AdvertV0::upload(&capabilities, version, &mut out)
    };
    for (name, id, peeled) in refs {
        advert.reference(name.as_bstr(), id, peeled, &mut out);
    }
    advert.finish(&shallow, &mut out);
    out
}

#[test]
fn advertisements_of_version_0_and_1_are_gits_to_the_byte() {
    for (name, version, service) in [
        ("one-empty-v0-1", Version::V0, "git-upload-pack"),
        ("sha256-empty-v0-1", Version::V0, "git-upload-pack"),
        ("v0-ls-remote-1", Version::V0, "git-upload-pack"),
        ("v1-ls-remote-1", Version::V1, "git-upload-pack"),
        ("v0-shallow-ls-remote-1", Version::V0, "git-upload-pack"),
        ("one-push-new-1", Version::V0, "git-receive-pack"),
        ("one-push-branch-1", Version::V0, "git-receive-pack"),
        ("sha256-push-branch-1", Version::V0, "git-receive-pack"),
    ] {
        let again = advertised_again(name, version, service);
        assert_eq!(to_text(&again), to_text(&recorded(name)), "{name}");
        assert_eq!(again, recorded(name), "{name}");
    }
}

fn v2_capabilities(hash: hash::Kind) -> V2Capabilities {
    V2Capabilities {
        agent: AGENT.into(),
        ls_refs_unborn: true,
        filter: true,
        ref_in_want: false,
        sideband_all: false,
        packfile_uris: false,
        object_format: hash,
        session_id: None,
        object_info: false,
        bundle_uri: false,
    }
}

#[test]
fn advertisements_of_version_2_are_gits_to_the_byte() {
    for (name, hash) in [
        ("one-empty-v2-1", hash::Kind::Sha1),
        ("sha256-empty-v2-1", hash::Kind::Sha256),
    ] {
        let mut out = Vec::new();
        advertise_v2(&v2_capabilities(hash), &mut out);
        assert_eq!(to_text(&out), to_text(&recorded(name)), "{name}");
    }
}

#[test]
fn everything_can_be_advertised_and_nothing() {
    let mut out = Vec::new();
    advertise_v2(
        &V2Capabilities {
            ref_in_want: true,
            sideband_all: true,
            packfile_uris: true,
            session_id: Some("s".into()),
            object_info: true,
            bundle_uri: true,
            ..v2_capabilities(hash::Kind::Sha1)
        },
        &mut out,
    );
    let least = V2Capabilities {
        ls_refs_unborn: false,
        filter: false,
        ..v2_capabilities(hash::Kind::Sha256)
    };
    advertise_v2(&least, &mut out);
    let pushing = ReceiveCapabilities {
        push_cert_nonce: Some("1700000000-abc".into()),
        session_id: Some("s".into()),
        ..receive(hash::Kind::Sha1)
    };
    let mut advert = AdvertV0::receive(&pushing, Version::V0, &mut out);
    advert.have(hash::Kind::Sha1.empty_tree(), &mut out);
    advert.finish(&[], &mut out);
    let least = ReceiveCapabilities {
        atomic: false,
        ofs_delta: false,
        push_options: false,
        ..receive(hash::Kind::Sha1)
    };
    AdvertV0::receive(&least, Version::V1, &mut out).finish(&[], &mut out);
    let least = UploadCapabilities {
        allow_tip_sha1_in_want: false,
        allow_reachable_sha1_in_want: false,
        no_done: false,
        filter: false,
        session_id: Some("s".into()),
        ..upload(hash::Kind::Sha1)
    };
    AdvertV0::upload(&least, Version::V0, &mut out).finish(&[], &mut out);
    insta::assert_snapshot!(to_text(&out));
}

#[test]
fn ls_refs_answers_are_gits_to_the_byte() {
    for name in [
        "v2-ls-remote-2",
        "v2-unborn-clone-2",
        "one-empty-v2-2",
        "sha256-clone-v2-2",
        "v2-clone-2",
    ] {
        let mut out = Vec::new();
        for line in packets(&recorded(name)).into_iter().flatten() {
            let mut words = line.split_str(" ");
            let (what, ref_name) = (words.next().unwrap(), words.next().unwrap().as_bstr());
            let rest: Vec<&[u8]> = words.collect();
            let target: Option<&BStr> = rest
                .iter()
                .find_map(|w| w.strip_prefix(b"symref-target:"))
                .map(|t| t.as_bstr());
            let peeled = rest.iter().find_map(|w| w.strip_prefix(b"peeled:")).map(id);
            if what == b"unborn" {
                ls_refs_unborn(ref_name, target.unwrap(), &mut out);
            } else {
                ls_refs_line(&id(what), ref_name, target, peeled.as_deref(), &mut out);
            }
        }
        flush(&mut out);
        assert_eq!(to_text(&out), to_text(&recorded(name)), "{name}");
    }
}

#[test]
fn fetch_answers_of_version_2_are_gits_to_the_byte() {
    // Each section's lines are read out of the recording and written again; the recordings end where the pack begins.
    for name in [
        "v2-clone-3",
        "v2-clone-depth-3",
        "v2-deepen-2",
        "v2-unshallow-3",
        "v2-fetch-3",
        "v2-clone-every-feature-3",
        "v2-unborn-clone-3",
    ] {
        let recorded = recorded(name);
        let lines = packets(&recorded);
        let sideband_all = lines.iter().flatten().any(|line| line.starts_with(b"\x01"));
        let mut reply = FetchReply::new(sideband_all);
        let mut out = Vec::new();
        for line in &lines {
            let Some(line) = line else { continue };
            let line = if sideband_all { &line[1..] } else { &line[..] };
            match line {
                b"acknowledgments" => reply.section(Section::Acknowledgments, &mut out),
                b"shallow-info" => reply.section(Section::ShallowInfo, &mut out),
                b"wanted-refs" => reply.section(Section::WantedRefs, &mut out),
                b"packfile" => reply.section(Section::Packfile, &mut out),
                b"NAK" => reply.nak(&mut out),
                b"ready" => reply.ready(&mut out),
                _ => match line.split_once_str(" ").unwrap() {
                    (b"ACK", hex) => reply.ack(&id(hex), &mut out),
                    (b"shallow", hex) => reply.shallow(&id(hex), &mut out),
                    (b"unshallow", hex) => reply.unshallow(&id(hex), &mut out),
                    (hex, name) => reply.wanted_ref(&id(hex), name.as_bstr(), &mut out),
                },
            }
        }
        if lines.last().is_some_and(Option::is_none) {
            reply.finish(&mut out);
        }
        assert_eq!(to_text(&out), to_text(&recorded), "{name}");
    }
}

#[test]
fn fetch_answers_of_version_0_are_gits_to_the_byte() {
    for name in [
        "v0-clone-2",
        "v0-clone-depth-2",
        "v0-clone-depth-3",
        "v0-deepen-2",
        "v0-deepen-3",
        "v0-fetch-2",
        "v1-fetch-2",
    ] {
        let recorded = recorded(name);
        let mut out = Vec::new();
        let (mut shallow, mut unshallow) = (Vec::new(), Vec::new());
        for line in packets(&recorded) {
            let Some(line) = line else {
                shallow_update(&shallow, &unshallow, &mut out);
                continue;
            };
            if line == b"NAK" {
                nak(&mut out);
                continue;
            }
            let words: Vec<&[u8]> = line.split_str(" ").collect();
            match words[..] {
                [b"shallow", hex] => shallow.push(id(hex)),
                [b"unshallow", hex] => unshallow.push(id(hex)),
                [b"ACK", hex] => ack(&id(hex), AckStatus::Final, &mut out),
                [b"ACK", hex, b"common"] => ack(&id(hex), AckStatus::Common, &mut out),
                [b"ACK", hex, b"ready"] => ack(&id(hex), AckStatus::Ready, &mut out),
                _ => panic!("{name}: {}", line.as_bstr()),
            }
        }
        assert_eq!(to_text(&out), to_text(&recorded), "{name}");
    }
}

fn ok(name: &str) -> RefReport {
    RefReport {
        name: name.into(),
        outcome: RefStatus::Ok(ReportOptions::default()),
    }
}

fn ng(name: &str, reason: &str) -> RefReport {
    RefReport {
        name: name.into(),
        outcome: RefStatus::Ng(reason.into()),
    }
}

#[test]
fn reports_are_gits_to_the_byte() {
    for (name, refs) in [
        ("one-push-new-2", vec![ok("refs/heads/main"), ok("refs/tags/v1")]),
        (
            "push-rejected-2",
            vec![ng("refs/heads/main/sub", "failed to update ref"), ok("refs/heads/fine")],
        ),
        ("one-push-delete-2", vec![ok("refs/heads/side")]),
    ] {
        let mut out = Vec::new();
        Report {
            unpack_error: None,
            refs,
        }
        .write(ReportVersion::V2, Sideband::Large, &mut out);
        assert_eq!(to_text(&out), to_text(&recorded(name)), "{name}");
    }
}

#[test]
fn reports_of_both_kinds() {
    let report = Report {
        unpack_error: Some("index-pack abnormal exit\nwith a second line".into()),
        refs: vec![
            ng("refs/heads/a", "unpacker error"),
            ok("refs/heads/b"),
            RefReport {
                name: "refs/for/main".into(),
                outcome: RefStatus::Ok(ReportOptions {
                    refname: Some("refs/heads/main".into()),
                    old: Some(hash::Kind::Sha1.empty_blob()),
                    new: Some(hash::Kind::Sha1.empty_tree()),
                    forced_update: true,
                }),
            },
        ],
    };
    let mut out = Vec::new();
    report.write(ReportVersion::V1, Sideband::None, &mut out);
    report.write(ReportVersion::V2, Sideband::None, &mut out);
    insta::assert_snapshot!(to_text(&out), @r"
    unpack index-pack abnormal exit with a second line
    ng refs/heads/a unpacker error
    ok refs/heads/b
    ok refs/for/main
    0000
    unpack index-pack abnormal exit with a second line
    ng refs/heads/a unpacker error
    ok refs/heads/b
    ok refs/for/main
    option refname refs/heads/main
    option old-oid e69de29bb2d1d6434b8b29ae775ad8c2e48c5391
    option new-oid 4b825dc642cb6eb9a060e54bf8d69288fbee4904
    option forced-update
    0000
    ");
}

#[test]
fn a_large_report_is_cut_into_bands() {
    let refs = (0..10_000).map(|n| ok(&format!("refs/heads/branch-{n}"))).collect();
    let report = Report {
        unpack_error: None,
        refs,
    };
    let (mut plain, mut banded) = (Vec::new(), Vec::new());
    report.write(ReportVersion::V2, Sideband::None, &mut plain);
    report.write(ReportVersion::V2, Sideband::Large, &mut banded);
    let mut joined = Vec::new();
    let mut decoder = Decoder::new();
    decoder.feed(&banded);
    while let Ok(Some(Packet::Data(payload))) = decoder.next() {
        assert_eq!(payload[0], Channel::Data as u8);
        joined.extend_from_slice(&payload[1..]);
    }
    assert_eq!(joined, plain);
    assert!(banded.ends_with(b"0000"));
}

#[test]
fn the_rest_of_what_is_written() {
    let tree = hash::Kind::Sha1.empty_tree();
    let mut out = Vec::new();
    ack(&tree, AckStatus::Continue, &mut out);
    object_info_header(&mut out);
    object_info_line(&tree, Some(Some(12)), &mut out);
    object_info_line(&tree, Some(None), &mut out);
    object_info_line(&tree, None, &mut out);
    bundle_uri_line("bundle.version".into(), "1".into(), &mut out);
    flush(&mut out);

    let mut reply = FetchReply::new(false);
    reply.section(Section::ShallowInfo, &mut out);
    reply.shallow(&tree, &mut out);
    reply.section(Section::WantedRefs, &mut out);
    reply.wanted_ref(&tree, "refs/heads/main".into(), &mut out);
    reply.section(Section::PackfileUris, &mut out);
    reply.packfile_uri("0123", "https://example.com/pack".into(), &mut out);
    reply.section(Section::Packfile, &mut out);
    reply.error("upload-pack: not our ref x", &mut out);
    FetchReply::new(true).error("upload-pack: not our ref x", &mut out);
    reply.finish(&mut out);
    response_end(&mut out);
    insta::assert_snapshot!(to_text(&out), @r"
    ACK 4b825dc642cb6eb9a060e54bf8d69288fbee4904 continue
    size\-
    4b825dc642cb6eb9a060e54bf8d69288fbee4904 12\-
    4b825dc642cb6eb9a060e54bf8d69288fbee4904\x20\-
    4b825dc642cb6eb9a060e54bf8d69288fbee4904\-
    bundle.version=1\-
    0000
    shallow-info
    shallow 4b825dc642cb6eb9a060e54bf8d69288fbee4904\-
    0001
    wanted-refs
    4b825dc642cb6eb9a060e54bf8d69288fbee4904 refs/heads/main
    0001
    packfile-uris
    0123 https://example.com/pack
    0001
    packfile
    ERR upload-pack: not our ref x\-
    \x03upload-pack: not our ref x\-
    0000
    0002
    ");
}

#[test]
fn the_words_for_the_service_are_gits() {
    let tree = hash::Kind::Sha1.empty_tree();
    for (error, text) in [
        (
            RequestError::NotOurRef { id: tree },
            "upload-pack: not our ref 4b825dc642cb6eb9a060e54bf8d69288fbee4904",
        ),
        (
            RequestError::UnknownRef {
                name: "refs/heads/x".into(),
            },
            "unknown ref refs/heads/x",
        ),
        (
            RequestError::FilterNotSupported { name: "tree" },
            "filter 'tree' not supported",
        ),
        (
            RequestError::FilterTreeDepth { max: 1, got: 2 },
            "tree filter allows max depth 1, but got 2",
        ),
        (
            RequestError::AmbiguousDeepenNot { name: "x".into() },
            "git upload-pack: ambiguous deepen-not: x",
        ),
        (
            RequestError::InvalidShallowObject { id: tree },
            "invalid shallow object 4b825dc642cb6eb9a060e54bf8d69288fbee4904",
        ),
    ] {
        assert_eq!(error.to_string(), text);
    }
}
