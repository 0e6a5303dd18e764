use super::FormatError;

const WHAT: &str = "delta";

/// The two sizes at the head of a delta, and where its instructions begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaSizes {
    /// Bytes of the base it applies to.
    pub base: u64,
    /// Bytes of what it makes.
    pub result: u64,
    /// Bytes of the head itself.
    pub header_len: usize,
}

/// Reads the head of a delta. Twenty bytes are always enough.
pub fn delta_sizes(delta: &[u8]) -> Result<DeltaSizes, FormatError> {
    let (base, n) = size(delta)?;
    let (result, m) = size(&delta[n..])?;
    Ok(DeltaSizes {
        base,
        result,
        header_len: n + m,
    })
}

fn size(bytes: &[u8]) -> Result<(u64, usize), FormatError> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate() {
        let shift = 7 * at as u32;
        let part = u64::from(byte & 0x7f);
        if shift >= 64 || (part << shift) >> shift != part {
            return Err(FormatError::Invalid {
                what: WHAT,
                why: "a size does not fit 64 bits",
            });
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Ok((value, at + 1));
        }
    }
    Err(FormatError::Truncated { what: WHAT })
}

/// Applies `delta` to `base` and appends the result to `out`, which is at most `max` bytes.
///
/// # Errors
/// When the base has another size than the delta was made for, an instruction reaches outside of the base or the result, or the result has another size than
/// declared. `out` has its old length then.
pub fn apply_delta(base: &[u8], delta: &[u8], max: u64, out: &mut Vec<u8>) -> Result<(), FormatError> {
    let sizes = delta_sizes(delta)?;
    if sizes.base != base.len() as u64 {
        return Err(FormatError::Mismatch {
            what: "delta base size",
        });
    }
    if sizes.result > max {
        return Err(FormatError::TooLarge {
            what: "delta result",
            limit: max,
        });
    }
    let start = out.len();
    // Bounded by `max`, and grown by what the instructions really produce.
    out.reserve(usize::try_from(sizes.result).unwrap_or(usize::MAX).min(64 << 20));
    let end = start + sizes.result as usize;
    let result = run(base, &delta[sizes.header_len..], end, out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn run(base: &[u8], mut rest: &[u8], end: usize, out: &mut Vec<u8>) -> Result<(), FormatError> {
    const OUTSIDE: FormatError = FormatError::Invalid {
        what: WHAT,
        why: "a copy reaches outside of its base",
    };
    const OVERRUN: FormatError = FormatError::Invalid {
        what: WHAT,
        why: "it makes more than it declares",
    };
    const CUT: FormatError = FormatError::Truncated { what: WHAT };
    while let Some((&op, tail)) = rest.split_first() {
        rest = tail;
        if op & 0x80 != 0 {
            let mut fields = [0u8; 7];
            for (bit, field) in fields.iter_mut().enumerate() {
                if op & (1 << bit) != 0 {
                    let (&byte, tail) = rest.split_first().ok_or(CUT)?;
                    *field = byte;
                    rest = tail;
                }
            }
            let offset = u32::from_le_bytes([fields[0], fields[1], fields[2], fields[3]]) as usize;
            let mut len = u32::from_le_bytes([fields[4], fields[5], fields[6], 0]) as usize;
            if len == 0 {
                len = 0x10000;
            }
            let piece = offset
                .checked_add(len)
                .and_then(|stop| base.get(offset..stop))
                .ok_or(OUTSIDE)?;
            if len > end - out.len() {
                return Err(OVERRUN);
            }
            out.extend_from_slice(piece);
        } else if op != 0 {
            let piece = rest.get(..op as usize).ok_or(CUT)?;
            rest = &rest[op as usize..];
            if piece.len() > end - out.len() {
                return Err(OVERRUN);
            }
            out.extend_from_slice(piece);
        } else {
            return Err(FormatError::Invalid {
                what: WHAT,
                why: "instruction zero is reserved",
            });
        }
    }
    if out.len() == end {
        Ok(())
    } else {
        Err(FormatError::Mismatch {
            what: "delta result size",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(base: &[u8], delta: &[u8]) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        apply_delta(base, delta, 1 << 20, &mut out).map(|()| out)
    }

    #[test]
    fn copies_and_inserts_make_the_result() {
        // base 10 bytes, result 8: copy 4 at 2, insert "abcd"
        let delta = [10, 8, 0x80 | 0x01 | 0x10, 2, 4, 4, b'a', b'b', b'c', b'd'];
        assert_eq!(apply(b"0123456789", &delta).as_deref(), Ok(&b"2345abcd"[..]));
    }

    #[test]
    fn a_copy_of_length_zero_means_65536() {
        let base = vec![9u8; 0x10000];
        let delta = [0x80, 0x80, 0x04, 0x80, 0x80, 0x04, 0x80];
        assert_eq!(apply(&base, &delta).as_deref(), Ok(&base[..]));
    }

    #[test]
    fn bad_deltas_are_errors() {
        for (why, delta) in [
            ("wrong base size", &[9, 1, 1, b'x'][..]),
            ("copy beyond base", &[10, 4, 0x91, 8, 4]),
            ("reserved", &[10, 1, 0]),
            ("cut insert", &[10, 4, 4, b'x']),
            ("cut copy", &[10, 4, 0x91, 8]),
            ("too little", &[10, 4, 1, b'x']),
            ("too much", &[10, 1, 2, b'x', b'y']),
            ("no sizes", &[0x80]),
            (
                "absurd size",
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1],
            ),
        ] {
            assert!(apply(b"0123456789", delta).is_err(), "{why}");
        }
        let mut out = Vec::new();
        assert_eq!(
            apply_delta(b"", &[0, 0xff, 0xff, 0xff, 0x7f], 100, &mut out),
            Err(FormatError::TooLarge {
                what: "delta result",
                limit: 100
            })
        );
    }

    proptest! {
        #[test]
        fn arbitrary_deltas_never_panic(base in proptest::collection::vec(any::<u8>(), 0..100), delta in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = apply(&base, &delta);
        }
    }
}
