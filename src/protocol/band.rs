use super::pkt::length_digits;

/// How the bytes after the negotiation are framed (gitprotocol-pack, "Packfile Data").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sideband {
    /// Not at all: the pack follows as it is, and there is no place for progress.
    #[default]
    None,
    /// `side-band`: packets of up to 1,000 bytes.
    Small,
    /// `side-band-64k`: packets of up to 65,520 bytes.
    Large,
}

impl Sideband {
    /// The most bytes of data in one packet, its five bytes of framing taken off: 995 and 65,515. Without side-band there is no bound and
    /// the answer is `usize::MAX`.
    pub fn max_data(self) -> usize {
        match self {
            Sideband::None => usize::MAX,
            Sideband::Small => 995,
            Sideband::Large => 65_515,
        }
    }

    /// Writes `data` on a channel in as many packets as it takes; nothing for no data. Without side-band, data of the pack channel is written
    /// as it is and the other channels are dropped, since there is nowhere to put them.
    pub fn write(self, out: &mut Vec<u8>, channel: Channel, data: &[u8]) {
        if self == Sideband::None {
            if channel == Channel::Data {
                out.extend_from_slice(data);
            }
            return;
        }
        for piece in data.chunks(self.max_data()) {
            out.extend_from_slice(&band_header(channel, piece.len()));
            out.extend_from_slice(piece);
        }
    }
}

/// What a side-band packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    /// The pack, or a push's report.
    Data = 1,
    /// Text for the person at the other end.
    Progress = 2,
    /// Text again, and the end of everything.
    Error = 3,
}

/// The five bytes before `length` bytes on a channel, for writers that do not want to copy the data. `length` is cut to 65,515.
pub fn band_header(channel: Channel, length: usize) -> [u8; 5] {
    let [a, b, c, d] = length_digits(length.min(Sideband::Large.max_data()) + 1);
    [a, b, c, d, channel as u8]
}

/// Writes `data` in packets of at most 65,515 bytes on a channel: [`Sideband::Large`].
pub fn band(out: &mut Vec<u8>, channel: Channel, data: &[u8]) {
    Sideband::Large.write(out, channel, data);
}

/// Writes a packet that says only "still here". git sends it on channel 1 while a pack is being prepared and on channel 2 while a push is
/// being processed. Nothing without side-band.
pub fn keep_alive(out: &mut Vec<u8>, sideband: Sideband, channel: Channel) {
    if sideband != Sideband::None {
        out.extend_from_slice(&band_header(channel, 0));
    }
}
