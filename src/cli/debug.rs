use std::io::{self, Read as _};

use anyhow::Context as _;

/// More than anybody wants to read.
const MOST: u64 = 1 << 30;

pub(super) fn pkt_line() -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(MOST)
        .read_to_end(&mut bytes)
        .context("read standard input")?;
    super::print(&crate::protocol::to_text(&bytes))
}
