//! What a client would send for a value: the other half of the round trip.

use crate::{
    base::{Deepen, Filter},
    protocol::*,
};

pub fn filter_spec(filter: &Filter) -> String {
    match filter {
        Filter::BlobNone => "blob:none".into(),
        Filter::BlobLimit(bytes) => format!("blob:limit={bytes}"),
        Filter::TreeDepth(depth) => format!("tree:{depth}"),
        Filter::ObjectType(kind) => format!("object:type={kind}"),
        Filter::SparseOid(name) => format!("sparse:oid={name}"),
        Filter::Combine(parts) => format!(
            "combine:{}",
            parts.iter().map(filter_spec).collect::<Vec<_>>().join("+")
        ),
    }
}

fn line(out: &mut Vec<u8>, line: impl AsRef<[u8]>) {
    text(out, &[line.as_ref()]);
}

fn boundary(fetch: &Fetch, out: &mut Vec<u8>) {
    for id in &fetch.shallow {
        // As git does, without a line feed.
        data(out, format!("shallow {id}").as_bytes());
    }
    match &fetch.deepen {
        None => {}
        Some(Deepen::Depth { depth, .. }) => line(out, format!("deepen {depth}")),
        Some(Deepen::RevList { since, not }) => {
            since
                .iter()
                .for_each(|since| line(out, format!("deepen-since {since}")));
            not.iter().for_each(|name| text(out, &[b"deepen-not ", name]));
        }
    }
    fetch
        .filter
        .iter()
        .for_each(|filter| line(out, format!("filter {}", filter_spec(filter))));
}

fn flags<'a>(flags: &[(bool, &'a str)]) -> Vec<&'a str> {
    flags.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect()
}

fn relative(fetch: &Fetch) -> bool {
    matches!(fetch.deepen, Some(Deepen::Depth { relative: true, .. }))
}

pub fn v2(request: &V2Request) -> Vec<u8> {
    let mut out = Vec::new();
    let command = match &request.command {
        V2Command::LsRefs(_) => "ls-refs",
        V2Command::Fetch(_) => "fetch",
        V2Command::ObjectInfo(_) => "object-info",
        V2Command::BundleUri => "bundle-uri",
    };
    line(&mut out, format!("command={command}"));
    let client = &request.client;
    client
        .agent
        .iter()
        .for_each(|agent| data(&mut out, format!("agent={agent}").as_bytes()));
    client
        .session_id
        .iter()
        .for_each(|id| line(&mut out, format!("session-id={id}")));
    client
        .object_format
        .iter()
        .for_each(|hash| line(&mut out, format!("object-format={hash}")));
    client
        .server_options
        .iter()
        .for_each(|option| text(&mut out, &[b"server-option=", option]));
    delim(&mut out);
    match &request.command {
        V2Command::BundleUri => {}
        V2Command::LsRefs(refs) => {
            for word in flags(&[(refs.peel, "peel"), (refs.symrefs, "symrefs"), (refs.unborn, "unborn")]) {
                line(&mut out, word);
            }
            refs.prefixes
                .iter()
                .for_each(|prefix| text(&mut out, &[b"ref-prefix ", prefix]));
        }
        V2Command::ObjectInfo(info) => {
            flags(&[(info.size, "size")])
                .iter()
                .for_each(|word| line(&mut out, word));
            info.ids.iter().for_each(|id| line(&mut out, format!("oid {id}")));
        }
        V2Command::Fetch(fetch) => {
            for word in flags(&[
                (fetch.thin_pack, "thin-pack"),
                (fetch.no_progress, "no-progress"),
                (fetch.include_tag, "include-tag"),
                (fetch.ofs_delta, "ofs-delta"),
                (fetch.sideband_all, "sideband-all"),
                (fetch.wait_for_done, "wait-for-done"),
                (relative(fetch), "deepen-relative"),
            ]) {
                line(&mut out, word);
            }
            if !fetch.packfile_uris.is_empty() {
                let schemes = fetch
                    .packfile_uris
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(",");
                line(&mut out, format!("packfile-uris {schemes}"));
            }
            boundary(fetch, &mut out);
            fetch.wants.iter().for_each(|id| line(&mut out, format!("want {id}")));
            fetch
                .want_refs
                .iter()
                .for_each(|name| text(&mut out, &[b"want-ref ", name]));
            fetch.haves.iter().for_each(|id| line(&mut out, format!("have {id}")));
            flags(&[(fetch.done, "done")])
                .iter()
                .for_each(|word| line(&mut out, word));
        }
    }
    flush(&mut out);
    out
}

pub fn v0(request: &FetchV0) -> Vec<u8> {
    let mut out = Vec::new();
    let fetch = &request.fetch;
    let mut caps = flags(&[
        (fetch.multi_ack == MultiAck::Plain, "multi_ack"),
        (fetch.multi_ack == MultiAck::Detailed, "multi_ack_detailed"),
        (fetch.no_done, "no-done"),
        (fetch.sideband == Sideband::Small, "side-band"),
        (fetch.sideband == Sideband::Large, "side-band-64k"),
        (relative(fetch), "deepen-relative"),
        (fetch.thin_pack, "thin-pack"),
        (fetch.no_progress, "no-progress"),
        (fetch.include_tag, "include-tag"),
        (fetch.ofs_delta, "ofs-delta"),
        (fetch.filter.is_some(), "filter"),
    ])
    .into_iter()
    .map(str::to_owned)
    .collect::<Vec<_>>();
    caps.extend(request.client.session_id.iter().map(|id| format!("session-id={id}")));
    caps.extend(request.client.agent.iter().map(|agent| format!("agent={agent}")));
    caps.extend(
        request
            .client
            .object_format
            .iter()
            .map(|hash| format!("object-format={hash}")),
    );
    for (at, id) in fetch.wants.iter().enumerate() {
        let caps = if at == 0 && !caps.is_empty() {
            format!(" {}", caps.join(" "))
        } else {
            String::new()
        };
        line(&mut out, format!("want {id}{caps}"));
    }
    boundary(fetch, &mut out);
    flush(&mut out);
    fetch.haves.iter().for_each(|id| line(&mut out, format!("have {id}")));
    match request.end {
        FetchEnd::Eof => {}
        FetchEnd::Flush => flush(&mut out),
        FetchEnd::Done => line(&mut out, "done"),
    }
    out
}

pub fn push(push: &Push) -> Vec<u8> {
    let mut out = Vec::new();
    push.shallow
        .iter()
        .for_each(|id| line(&mut out, format!("shallow {id}")));
    let caps = &push.capabilities;
    let mut words = flags(&[
        (caps.report_status, "report-status"),
        (caps.report_status_v2, "report-status-v2"),
        (caps.side_band_64k, "side-band-64k"),
        (caps.quiet, "quiet"),
        (caps.atomic, "atomic"),
        (caps.push_options, "push-options"),
        (caps.ofs_delta, "ofs-delta"),
        (caps.delete_refs, "delete-refs"),
    ])
    .into_iter()
    .map(str::to_owned)
    .collect::<Vec<_>>();
    words.extend(caps.object_format.iter().map(|hash| format!("object-format={hash}")));
    words.extend(caps.session_id.iter().map(|id| format!("session-id={id}")));
    words.extend(caps.agent.iter().map(|agent| format!("agent={agent}")));
    let caps = format!("\0 {}", words.join(" "));
    if let Some(certificate) = &push.certificate {
        line(&mut out, format!("push-cert{caps}"));
        certificate
            .raw
            .split_inclusive(|b| *b == b'\n')
            .for_each(|line| data(&mut out, line));
        line(&mut out, "push-cert-end");
    } else {
        for (at, RefCommand { old, new, name }) in push.commands.iter().enumerate() {
            let caps = if at == 0 { caps.as_bytes() } else { b"" };
            data(&mut out, &[format!("{old} {new} ").as_bytes(), name, caps].concat());
        }
    }
    flush(&mut out);
    if push.capabilities.push_options && !push.commands.is_empty() {
        push.push_options.iter().for_each(|option| data(&mut out, option));
        flush(&mut out);
    }
    out
}
