//! Framing, side-bands and the text form.

use crate::protocol::*;

fn check(bytes: &[u8], expected: &str) {
    let shown = match decode(bytes) {
        Ok(decoded) => format!("{decoded:?}"),
        Err(error) => error.to_string(),
    };
    assert_eq!(shown, expected, "{}", bytes.escape_ascii());
}

#[test]
fn a_packet_is_four_digits_and_what_they_count() {
    check(b"", "Incomplete { needed: 4 }");
    check(b"000", "Incomplete { needed: 1 }");
    check(b"0000", "Complete { packet: Flush, consumed: 4 }");
    check(b"0001", "Complete { packet: Delim, consumed: 4 }");
    check(b"0002", "Complete { packet: ResponseEnd, consumed: 4 }");
    check(b"0004", "Complete { packet: Data([]), consumed: 4 }");
    check(b"0006a\n0000", "Complete { packet: Data([97, 10]), consumed: 6 }");
    check(
        b"000Aabcdef",
        "Complete { packet: Data([97, 98, 99, 100, 101, 102]), consumed: 10 }",
    );
    check(b"fff0", "Incomplete { needed: 65516 }");
    check(b"0003", "protocol error: bad line length 3");
    check(b"fff1", "protocol error: bad line length 65521");
    check(b"ffff", "protocol error: bad line length 65535");
    for bad in ["-001", "+004", " 004", "0x04", "00 4", "000g", "PACK", "GET "] {
        check(
            bad.as_bytes(),
            &format!("protocol error: bad line length character: {bad}"),
        );
    }
    check(
        b"\x1f\x8b\x08\x00",
        "protocol error: bad line length character: \\x1f\\x8b\\x08\\x00",
    );
}

#[test]
fn the_largest_packet_can_be_written_and_read() {
    let mut out = Vec::new();
    data(&mut out, &vec![b'x'; MAX_PAYLOAD]);
    assert_eq!(out.len(), MAX_PACKET);
    assert!(matches!(
        decode(&out),
        Ok(Decoded::Complete {
            consumed: MAX_PACKET,
            ..
        })
    ));
}

#[test]
fn lines_too_long_are_cut_and_the_framing_holds() {
    let long = vec![b'x'; 2 * MAX_PACKET];
    let mut out = Vec::new();
    data(&mut out, &long);
    text(&mut out, &[b"a ", &long, b" b"]);
    error(&mut out, &"y".repeat(2 * MAX_PACKET));
    let mut decoder = Decoder::new();
    decoder.feed(&out);
    for end in [b'x', b'\n', b'y'] {
        let Some(Packet::Data(payload)) = decoder.next().unwrap() else {
            panic!("no packet")
        };
        assert_eq!((payload.len(), payload.last()), (MAX_PAYLOAD, Some(&end)));
    }
    assert_eq!(decoder.next(), Ok(None));
    assert_eq!(decoder.end(), Ok(()));
}

#[test]
fn the_decoder_hands_over_what_it_did_not_read() {
    let mut decoder = Decoder::new();
    decoder.feed(b"0006a\n0000PACK");
    assert_eq!(
        decoder.next().map(|p| p.and_then(|p| p.line().map(<[u8]>::to_vec))),
        Ok(Some(b"a".to_vec()))
    );
    assert_eq!(decoder.next(), Ok(Some(Packet::Flush)));
    assert_eq!(decoder.unread(), b"PACK");
    assert!(decoder.next().is_err() && decoder.next().is_err());
    decoder.feed(b"more");
    assert_eq!(decoder.into_unread(), b"PACKmore");
}

#[test]
fn the_decoder_knows_when_bytes_ended_too_early() {
    let mut decoder = Decoder::new();
    for piece in [&b"00"[..], b"08ab"] {
        decoder.feed(piece);
        assert_eq!(decoder.next(), Ok(None));
        assert_eq!((decoder.needed(), decoder.end()), (2, Err(PktError::Truncated)));
    }
    decoder.feed(b"cd");
    assert_eq!(decoder.next(), Ok(Some(Packet::Data(b"abcd"))));
    assert_eq!(decoder.end(), Ok(()));
}

#[test]
fn bands_are_split_to_what_the_client_can_take() {
    let sizes = |sideband: Sideband, length: usize| {
        let mut out = Vec::new();
        sideband.write(&mut out, Channel::Data, &vec![7; length]);
        let mut decoder = Decoder::new();
        decoder.feed(&out);
        let mut sizes = Vec::new();
        while let Ok(Some(Packet::Data(payload))) = decoder.next() {
            assert_eq!(payload[0], 1);
            sizes.push(payload.len() + 4);
        }
        sizes
    };
    assert_eq!(sizes(Sideband::Small, 2_000), [1_000, 1_000, 15]);
    assert_eq!(sizes(Sideband::Large, 65_516), [65_520, 6]);
    assert_eq!(sizes(Sideband::Large, 0), [0; 0]);

    let mut out = Vec::new();
    Sideband::None.write(&mut out, Channel::Progress, b"nobody hears this");
    Sideband::None.write(&mut out, Channel::Data, b"PACK");
    keep_alive(&mut out, Sideband::None, Channel::Data);
    assert_eq!(out, b"PACK");
    keep_alive(&mut out, Sideband::Large, Channel::Data);
    keep_alive(&mut out, Sideband::Small, Channel::Progress);
    band(&mut out, Channel::Error, b"no");
    assert_eq!(out, b"PACK0005\x010005\x020007\x03no");
}

#[test]
fn the_text_form_shows_bytes_as_they_are() {
    let bytes =
        b"0000000100020008abc\n0007abc0004\x30005\n0006!a0006#\n000a\\ \0\x000\r0006a 0009\xff\t\n\x7f\n0003rest";
    let text = to_text(bytes);
    insta::assert_snapshot!(text, @r"
    0000
    0001
    0002
    abc
    abc\-
    \-
    \n\-
    \!a\-
    \#
    \\ \0\x000\r\-
    a\x20\-
    \xff\t\n\x7f
    !0003rest
    ");
    assert_eq!(from_text(&text).unwrap(), bytes);
    assert_eq!(from_text("# nothing\n\n").unwrap(), b"");
    assert_eq!(from_text("a\\q"), Err(TextError::Escape { line: 1 }));
    assert_eq!(from_text("0000\na\\"), Err(TextError::Escape { line: 2 }));
    assert_eq!(from_text("\\x1"), Err(TextError::Escape { line: 1 }));
    assert_eq!(from_text(&"a".repeat(MAX_PACKET)), Err(TextError::TooLong { line: 1 }));
    // Data that looks like a special packet, and data that ends in what marks a missing line feed.
    assert_eq!(to_text(b"00090001\n0006\\-"), "\\x30001\n\\\\-\\-\n");
}

#[test]
fn capabilities_are_words_and_not_parts_of_words() {
    let caps = Capabilities::new(b" report-status side-band-64k agent=git/2.47 symref=HEAD:refs/heads/a symref=x\n");
    assert!(caps.has("report-status") && caps.has("agent") && !caps.has("report") && !caps.has("side-band"));
    assert_eq!(caps.value("agent"), Some(&b"git/2.47"[..]));
    assert_eq!(caps.value("symref"), Some(&b"HEAD:refs/heads/a"[..]));
    assert_eq!(caps.value("report-status"), None);
    assert_eq!(caps.iter().count(), 5);
}

#[test]
fn what_is_shown_of_a_request_is_short_and_harmless() {
    assert_eq!(Shown::new(b"a\x1b[31m\n\0").to_string(), "a?[31m??");
    assert_eq!(Shown::new("\u{9b}31m".as_bytes()).to_string(), " 31m");
    assert_eq!(Shown::new(&[b'x'; 10_000]).to_string().len(), 256);
    assert_eq!(Shown::new(b"caf\xc3\xa9 \xff").to_string(), "café \u{fffd}");
    let mut out = Vec::new();
    error(&mut out, "two\nlines\x1b");
    assert_eq!(out, b"0012ERR two lines ");
}
