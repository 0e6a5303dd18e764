//! Requests as a git client writes them, and answers as it reads them.

fn pkt(out: &mut Vec<u8>, line: &str) {
    out.extend_from_slice(format!("{:04x}{line}", line.len() + 4).as_bytes());
}

pub(crate) fn v2_fetch(wants: &[String], haves: &[String], arguments: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    pkt(&mut body, "command=fetch");
    pkt(&mut body, "agent=git/2.47.3");
    pkt(&mut body, "object-format=sha1");
    body.extend_from_slice(b"0001");
    for line in ["thin-pack", "no-progress", "ofs-delta"] {
        pkt(&mut body, line);
    }
    for argument in arguments {
        pkt(&mut body, argument);
    }
    for want in wants {
        pkt(&mut body, &format!("want {want}\n"));
    }
    for have in haves {
        pkt(&mut body, &format!("have {have}\n"));
    }
    pkt(&mut body, "done\n");
    body.extend_from_slice(b"0000");
    body
}

pub(crate) fn v2_ls_refs(prefixes: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    pkt(&mut body, "command=ls-refs\n");
    pkt(&mut body, "agent=git/2.47.3");
    pkt(&mut body, "object-format=sha1");
    body.extend_from_slice(b"0001");
    pkt(&mut body, "peel\n");
    pkt(&mut body, "symrefs\n");
    for prefix in prefixes {
        pkt(&mut body, &format!("ref-prefix {prefix}\n"));
    }
    body.extend_from_slice(b"0000");
    body
}

pub(crate) fn push_body(old: &str, new: &str, name: &str, pack: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    pkt(
        &mut body,
        &format!("{old} {new} {name}\0report-status-v2 side-band-64k quiet object-format=sha1 agent=git/2.47.3"),
    );
    body.extend_from_slice(b"0000");
    body.extend_from_slice(pack);
    body
}

pub(crate) const ZERO: &str = "0000000000000000000000000000000000000000";

/// The data packets of an answer; `None` for the special ones.
fn packets(mut body: &[u8]) -> Vec<Option<&[u8]>> {
    let mut all = Vec::new();
    while let Some(length) = body.get(..4).and_then(|hex| std::str::from_utf8(hex).ok()) {
        let length = usize::from_str_radix(length, 16).expect("the length of a packet");
        if length < 4 {
            all.push(None);
            body = &body[4..];
        } else {
            all.push(Some(&body[4..length]));
            body = &body[length..];
        }
    }
    assert!(body.is_empty(), "{} bytes behind the last packet", body.len());
    all
}

/// A version 2 fetch answer: the lines of its shallow-info section, sorted, and the pack.
pub(crate) fn unpack_fetch(body: &[u8]) -> (Vec<String>, Vec<u8>) {
    let (mut shallow, mut pack, mut section) = (Vec::new(), Vec::new(), Vec::new());
    for packet in packets(body) {
        match packet {
            None => section.clear(),
            Some(line) if section.is_empty() => section = line.to_vec(),
            Some(line) if section.starts_with(b"shallow-info") => {
                shallow.push(String::from_utf8_lossy(line).trim().to_owned());
            }
            Some([1, data @ ..]) if section.starts_with(b"packfile") => pack.extend_from_slice(data),
            Some([2, ..]) if section.starts_with(b"packfile") => {}
            Some(other) => panic!("unexpected packet {:?}", String::from_utf8_lossy(other)),
        }
    }
    shallow.sort();
    (shallow, pack)
}
