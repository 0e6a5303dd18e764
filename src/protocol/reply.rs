use bstr::BStr;
use gix::hash::{self, ObjectId, oid};

use super::{
    Channel,
    band::band_header,
    pkt::{self, prefixed_text, printable, text},
};

/// Writes one ref of an answer to `ls-refs`: `<id> <name>[ symref-target:<target>][ peeled:<id>]`.
pub fn ls_refs_line(id: &oid, name: &BStr, symref_target: Option<&BStr>, peeled: Option<&oid>, out: &mut Vec<u8>) {
    ref_line(HexOrUnborn::Id(id), name, symref_target, peeled, out);
}

/// Writes a HEAD that points to a branch that does not exist yet: `unborn HEAD symref-target:<target>`.
pub fn ls_refs_unborn(name: &BStr, symref_target: &BStr, out: &mut Vec<u8>) {
    ref_line(HexOrUnborn::Unborn, name, Some(symref_target), None, out);
}

enum HexOrUnborn<'a> {
    Id(&'a oid),
    Unborn,
}

fn ref_line(what: HexOrUnborn<'_>, name: &BStr, symref: Option<&BStr>, peeled: Option<&oid>, out: &mut Vec<u8>) {
    let mut buffers = [hash::Kind::hex_buf(), hash::Kind::hex_buf()];
    let [first, second] = &mut buffers;
    let mut pieces: [&[u8]; 7] = [b""; 7];
    pieces[0] = match what {
        HexOrUnborn::Id(id) => id.hex_to_buf(first).as_bytes(),
        HexOrUnborn::Unborn => b"unborn",
    };
    pieces[1] = b" ";
    pieces[2] = name;
    if let Some(target) = symref {
        pieces[3] = b" symref-target:";
        pieces[4] = target;
    }
    if let Some(peeled) = peeled {
        pieces[5] = b" peeled:";
        pieces[6] = peeled.hex_to_buf(second).as_bytes();
    }
    text(out, &pieces);
}

/// How a version 0 server answers a `have` (gitprotocol-pack, "Packfile Negotiation").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckStatus {
    /// `ACK <id>`: the only one without `multi_ack`, and the last one with it.
    Final,
    /// `ACK <id> continue`: `multi_ack`.
    Continue,
    /// `ACK <id> common`: `multi_ack_detailed`.
    Common,
    /// `ACK <id> ready`: `multi_ack_detailed`.
    Ready,
}

/// Writes a version 0 `ACK`.
pub fn ack(id: &oid, status: AckStatus, out: &mut Vec<u8>) {
    let status: &[u8] = match status {
        AckStatus::Final => b"",
        AckStatus::Continue => b" continue",
        AckStatus::Common => b" common",
        AckStatus::Ready => b" ready",
    };
    text(
        out,
        &[b"ACK ", id.hex_to_buf(&mut hash::Kind::hex_buf()).as_bytes(), status],
    );
}

/// Writes a version 0 `NAK`.
pub fn nak(out: &mut Vec<u8>) {
    text(out, &[b"NAK"]);
}

/// Writes version 0's answer to `deepen…`: the new boundary and a flush. Without line feeds, as git does.
pub fn shallow_update(shallow: &[ObjectId], unshallow: &[ObjectId], out: &mut Vec<u8>) {
    for (word, ids) in [("shallow ", shallow), ("unshallow ", unshallow)] {
        for id in ids {
            pkt::data(out, format!("{word}{id}").as_bytes());
        }
    }
    pkt::flush(out);
}

/// The sections of version 2's answer to `fetch`, in their order. Between two stands a delimiter, after the last a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Left out if the client said `done`; otherwise nothing follows it unless it ends in `ready`.
    Acknowledgments,
    /// Only if the client or the server is shallow and there is something to tell.
    ShallowInfo,
    /// Only if refs were wanted by name.
    WantedRefs,
    /// Only if there are any.
    PackfileUris,
    /// The pack in side-band packets.
    Packfile,
}

impl Section {
    /// The line that opens it.
    pub fn name(self) -> &'static str {
        match self {
            Section::Acknowledgments => "acknowledgments",
            Section::ShallowInfo => "shallow-info",
            Section::WantedRefs => "wanted-refs",
            Section::PackfileUris => "packfile-uris",
            Section::Packfile => "packfile",
        }
    }
}

/// Writes version 2's answer to `fetch` and sees to the delimiters: open a section, write its lines, open the next.
#[derive(Debug, Clone)]
pub struct FetchReply {
    sideband_all: bool,
    open: bool,
}

impl FetchReply {
    /// An answer with nothing in it. With `sideband_all` each line goes on the pack channel.
    pub fn new(sideband_all: bool) -> Self {
        FetchReply {
            sideband_all,
            open: false,
        }
    }

    /// Opens a section, after a delimiter if there was one before.
    pub fn section(&mut self, section: Section, out: &mut Vec<u8>) {
        if self.open {
            pkt::delim(out);
        }
        self.open = true;
        self.line(&[section.name().as_bytes()], out);
    }

    /// In [`Section::Acknowledgments`]: nothing in common.
    pub fn nak(&self, out: &mut Vec<u8>) {
        self.line(&[b"NAK"], out);
    }

    /// In [`Section::Acknowledgments`]: in common.
    pub fn ack(&self, id: &oid, out: &mut Vec<u8>) {
        self.line(&[b"ACK ", id.hex_to_buf(&mut hash::Kind::hex_buf()).as_bytes()], out);
    }

    /// In [`Section::Acknowledgments`]: a pack follows.
    pub fn ready(&self, out: &mut Vec<u8>) {
        self.line(&[b"ready"], out);
    }

    /// In [`Section::ShallowInfo`]: history ends here now.
    pub fn shallow(&self, id: &oid, out: &mut Vec<u8>) {
        self.bare(format!("shallow {id}").as_bytes(), out);
    }

    /// In [`Section::ShallowInfo`]: history does not end here any more.
    pub fn unshallow(&self, id: &oid, out: &mut Vec<u8>) {
        self.bare(format!("unshallow {id}").as_bytes(), out);
    }

    /// In [`Section::WantedRefs`]: what a ref wanted by name is.
    pub fn wanted_ref(&self, id: &oid, name: &BStr, out: &mut Vec<u8>) {
        self.line(&[id.hex_to_buf(&mut hash::Kind::hex_buf()).as_bytes(), b" ", name], out);
    }

    /// In [`Section::PackfileUris`]: a pack to fetch from elsewhere, with its checksum in hex.
    pub fn packfile_uri(&self, checksum: &str, uri: &BStr, out: &mut Vec<u8>) {
        self.line(&[checksum.as_bytes(), b" ", uri], out);
    }

    /// Ends the answer, whether or not anything is in it.
    pub fn finish(self, out: &mut Vec<u8>) {
        pkt::flush(out);
    }

    /// Gives up before [`Section::Packfile`] is open: as `ERR`, or on the error channel where everything is in side-band. Inside the pack
    /// it is the error channel always.
    pub fn error(&self, message: &str, out: &mut Vec<u8>) {
        if self.sideband_all {
            super::band(out, Channel::Error, printable(message).as_bytes());
        } else {
            pkt::error(out, message);
        }
    }

    fn line(&self, pieces: &[&[u8]], out: &mut Vec<u8>) {
        prefixed_text(
            out,
            if self.sideband_all { &[Channel::Data as u8] } else { &[] },
            pieces,
        );
    }

    /// git sends these without a line feed.
    fn bare(&self, line: &[u8], out: &mut Vec<u8>) {
        if self.sideband_all {
            out.extend_from_slice(&band_header(Channel::Data, line.len()));
            out.extend_from_slice(line);
        } else {
            pkt::data(out, line);
        }
    }
}

/// Writes the first line of an answer to `object-info` that was asked for sizes.
pub fn object_info_header(out: &mut Vec<u8>) {
    pkt::data(out, b"size");
}

/// Writes one object of an answer to `object-info`: its id, and with `size` asked for, a blank and the size in bytes or, for an object that
/// is not here, nothing. Without a line feed, as git does.
pub fn object_info_line(id: &oid, size: Option<Option<u64>>, out: &mut Vec<u8>) {
    let line = match size {
        None => id.to_string(),
        Some(None) => format!("{id} "),
        Some(Some(size)) => format!("{id} {size}"),
    };
    pkt::data(out, line.as_bytes());
}

/// Writes one `key=value` of an answer to `bundle-uri`. Without a line feed, as git does.
pub fn bundle_uri_line(key: &BStr, value: &BStr, out: &mut Vec<u8>) {
    let mut line = key.to_vec();
    line.push(b'=');
    line.extend_from_slice(value);
    pkt::data(out, &line);
}
