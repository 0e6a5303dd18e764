//! Names that nobody else gives: UUIDs of version 4.

use super::SessionError;

/// Whether a text is a UUID as it is written: 36 characters, lower case.
pub(super) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        })
}

/// A new one.
///
/// # Errors
/// When the system has no randomness.
pub(super) fn new_uuid() -> Result<String, SessionError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| SessionError::Invalid {
        why: format!("the system has no randomness: {error}"),
    })?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_one_as_it_is_written() {
        let id = new_uuid().expect("randomness");
        assert!(is_uuid(&id), "{id}");
        assert_eq!(&id[14..15], "4");
        for text in [
            "",
            "x",
            "{0835c2b4-0000-4000-8000-000000000001}",
            "urn:uuid:0835c2b4-0000-4000-8000-000000000001",
            "0835c2b400004000800000000000000001",
            "0835C2B4-0000-4000-8000-000000000001",
            "../../../../../../../../etc/passwd00",
        ] {
            assert!(!is_uuid(text), "{text}");
        }
    }
}
