use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use crate::protocol::{Channel, Sideband, band_header, keep_alive};

/// The side-band of one answer: data, progress for a person, and a sign of life where there is nothing to say.
pub(super) struct Band<'a> {
    out: &'a mut dyn Write,
    sideband: Sideband,
    /// Text on channel 2 is wanted.
    progress: bool,
    keep_alive: Option<(Duration, Channel)>,
    last: Instant,
    data: Vec<u8>,
    frame: Vec<u8>,
}

/// Time between two lines of progress.
const TICK: Duration = Duration::from_millis(500);

impl<'a> Band<'a> {
    pub(super) fn new(
        out: &'a mut dyn Write,
        sideband: Sideband,
        progress: bool,
        keep_alive: Option<(Duration, Channel)>,
    ) -> Self {
        Band {
            out,
            sideband,
            progress: progress && sideband != Sideband::None,
            keep_alive: keep_alive.filter(|_| sideband != Sideband::None),
            last: Instant::now(),
            data: Vec::new(),
            frame: Vec::new(),
        }
    }

    /// Says something on channel 2, at once.
    pub(super) fn say(&mut self, text: &str) -> io::Result<()> {
        if !self.progress {
            return Ok(());
        }
        self.tell(Channel::Progress, text)
    }

    /// Says something on channel 2 even to a client that wants no progress: warnings and errors about its push.
    pub(super) fn warn(&mut self, text: &str) -> io::Result<()> {
        self.tell(Channel::Progress, text)
    }

    /// The last thing to be said: why there is no more.
    pub(super) fn error(&mut self, text: &str) -> io::Result<()> {
        self.tell(Channel::Error, text)
    }

    fn tell(&mut self, channel: Channel, text: &str) -> io::Result<()> {
        if self.sideband == Sideband::None {
            return Ok(());
        }
        self.send_data()?;
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        self.sideband.write(&mut frame, channel, text.as_bytes());
        let written = self.out.write_all(&frame).and_then(|()| self.out.flush());
        self.frame = frame;
        self.last = Instant::now();
        written
    }

    /// Called now and then by long work: keeps the connection alive when nothing was sent for a while.
    pub(super) fn alive(&mut self) -> io::Result<()> {
        let Some((after, channel)) = self.keep_alive else {
            return Ok(());
        };
        if self.last.elapsed() < after {
            return Ok(());
        }
        self.last = Instant::now();
        let mut frame = Vec::with_capacity(5);
        keep_alive(&mut frame, self.sideband, channel);
        self.out.write_all(&frame)?;
        self.out.flush()
    }

    fn send_data(&mut self) -> io::Result<()> {
        if self.data.is_empty() {
            return Ok(());
        }
        self.out.write_all(&band_header(Channel::Data, self.data.len()))?;
        self.out.write_all(&self.data)?;
        self.data.clear();
        self.last = Instant::now();
        Ok(())
    }

    /// Everything was written: what is left goes out, and with side-band a flush packet.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.send_data()?;
        if self.sideband != Sideband::None {
            self.out.write_all(b"0000")?;
        }
        self.out.flush()
    }
}

/// Data of channel 1, in frames as full as they can be.
impl Write for Band<'_> {
    fn write(&mut self, mut buf: &[u8]) -> io::Result<usize> {
        let whole = buf.len();
        if self.sideband == Sideband::None {
            self.out.write_all(buf)?;
            return Ok(whole);
        }
        let max = self.sideband.max_data();
        while !buf.is_empty() {
            if self.data.is_empty() && buf.len() >= max {
                let (frame, rest) = buf.split_at(max);
                self.out.write_all(&band_header(Channel::Data, max))?;
                self.out.write_all(frame)?;
                self.last = Instant::now();
                buf = rest;
                continue;
            }
            let take = (max - self.data.len()).min(buf.len());
            self.data.extend_from_slice(&buf[..take]);
            buf = &buf[take..];
            if self.data.len() == max {
                self.send_data()?;
            }
        }
        Ok(whole)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_data()?;
        self.out.flush()
    }
}

/// A counter that speaks at most twice a second: `Counting objects: 17`, and at its end `Counting objects: 100% (20/20), done.`
pub(super) struct Meter {
    title: &'static str,
    total: Option<u64>,
    next: Instant,
}

impl Meter {
    pub(super) fn new(title: &'static str, total: Option<u64>) -> Self {
        Meter {
            title,
            total,
            next: Instant::now() + TICK,
        }
    }

    fn text(&self, count: u64, end: &str) -> String {
        match self.total {
            Some(total) => {
                let percent = (count.min(total) * 100).checked_div(total).unwrap_or(100);
                format!("{}: {percent:3}% ({count}/{total}){end}", self.title)
            }
            None => format!("{}: {count}{end}", self.title),
        }
    }

    pub(super) fn tick(&mut self, band: &mut Band<'_>, count: u64) -> io::Result<()> {
        if Instant::now() < self.next {
            return band.alive();
        }
        self.next = Instant::now() + TICK;
        band.say(&self.text(count, "\r"))?;
        band.alive()
    }

    pub(super) fn set_total(&mut self, total: u64) {
        self.total = Some(total);
    }

    pub(super) fn done(&self, band: &mut Band<'_>, count: u64) -> io::Result<()> {
        band.say(&self.text(count, ", done.\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_cut_into_full_frames_whatever_the_writes() {
        for size in [1usize, 7, 65_515, 100_000] {
            let data: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
            let mut out = Vec::new();
            let mut band = Band::new(&mut out, Sideband::Large, true, None);
            for piece in data.chunks(size) {
                band.write_all(piece).unwrap();
            }
            band.finish().unwrap();
            let mut rest = &out[..];
            let mut got = Vec::new();
            let mut frames = 0;
            while let Ok(crate::protocol::Decoded::Complete { packet, consumed }) = crate::protocol::decode(rest) {
                rest = &rest[consumed..];
                if let crate::protocol::Packet::Data(frame) = packet {
                    assert_eq!(frame[0], 1);
                    got.extend_from_slice(&frame[1..]);
                    frames += 1;
                }
            }
            assert!(rest.is_empty() && got == data && frames == 4, "{frames} frames");
        }
    }

    #[test]
    fn without_side_band_only_data_is_written() {
        let mut out = Vec::new();
        let mut band = Band::new(&mut out, Sideband::None, true, Some((Duration::ZERO, Channel::Data)));
        band.say("hello\n").unwrap();
        band.alive().unwrap();
        band.write_all(b"PACK").unwrap();
        band.finish().unwrap();
        assert_eq!(out, b"PACK");
    }

    #[test]
    fn silence_is_broken_on_the_channel_of_the_service_and_not_too_often() {
        for (channel, sign) in [(Channel::Data, b"0005\x01"), (Channel::Progress, b"0005\x02")] {
            let mut out = Vec::new();
            let mut band = Band::new(&mut out, Sideband::Large, false, Some((Duration::ZERO, channel)));
            band.alive().unwrap();
            assert_eq!(out, sign);
            let mut out = Vec::new();
            let mut band = Band::new(
                &mut out,
                Sideband::Large,
                false,
                Some((Duration::from_secs(3600), channel)),
            );
            band.alive().unwrap();
            assert_eq!(out, b"");
        }
    }

    #[test]
    fn a_meter_ends_with_its_total() {
        let mut out = Vec::new();
        let mut band = Band::new(&mut out, Sideband::Large, true, None);
        Meter::new("Counting objects", Some(20)).done(&mut band, 20).unwrap();
        assert_eq!(out, b"002b\x02Counting objects: 100% (20/20), done.\n");
    }
}
