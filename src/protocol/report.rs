use bstr::BString;
use gix::hash::ObjectId;

use super::{
    Channel, Sideband,
    pkt::{flush, printable, text},
};

/// What became of a push (gitprotocol-pack, "REPORT STATUS").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Why the pack was not taken; `None` if it was, or if there was none.
    pub unpack_error: Option<String>,
    /// What became of each ref command, in their order.
    pub refs: Vec<RefReport>,
}

/// What became of one ref command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefReport {
    /// The ref as the client named it.
    pub name: BString,
    /// The outcome.
    pub outcome: RefStatus,
}

/// `ok` or `ng`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefStatus {
    /// The ref is as the client wanted it, or as these options say.
    Ok(ReportOptions),
    /// It is not, and why: one of git's words where one fits.
    Ng(String),
}

/// Where the outcome differs from what was asked: the option lines of report-status-v2. A plain push has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportOptions {
    /// The ref that was updated instead.
    pub refname: Option<BString>,
    /// What it was.
    pub old: Option<ObjectId>,
    /// What it is.
    pub new: Option<ObjectId>,
    /// It did not move forwards.
    pub forced_update: bool,
}

/// Which of the two reports a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportVersion {
    /// `report-status`
    V1,
    /// `report-status-v2`, preferred where both were asked for.
    V2,
}

impl Report {
    /// Writes the report with its flush. With side-band it goes on the pack channel and a second flush ends the stream.
    pub fn write(&self, version: ReportVersion, sideband: Sideband, out: &mut Vec<u8>) {
        if sideband == Sideband::None {
            self.lines(version, out);
        } else {
            let mut lines = Vec::new();
            self.lines(version, &mut lines);
            sideband.write(out, Channel::Data, &lines);
            flush(out);
        }
    }

    fn lines(&self, version: ReportVersion, out: &mut Vec<u8>) {
        let unpack = self.unpack_error.as_deref().map_or("ok".to_owned(), printable);
        text(out, &[b"unpack ", unpack.as_bytes()]);
        for RefReport { name, outcome } in &self.refs {
            match outcome {
                RefStatus::Ng(reason) => text(out, &[b"ng ", name, b" ", printable(reason).as_bytes()]),
                RefStatus::Ok(options) => {
                    text(out, &[b"ok ", name]);
                    if version == ReportVersion::V2 {
                        options.write(out);
                    }
                }
            }
        }
        flush(out);
    }
}

impl ReportOptions {
    fn write(&self, out: &mut Vec<u8>) {
        if let Some(name) = &self.refname {
            text(out, &[b"option refname ", name]);
        }
        for (word, id) in [("option old-oid ", self.old), ("option new-oid ", self.new)] {
            if let Some(id) = id {
                text(out, &[word.as_bytes(), id.to_string().as_bytes()]);
            }
        }
        if self.forced_update {
            text(out, &[b"option forced-update"]);
        }
    }
}
