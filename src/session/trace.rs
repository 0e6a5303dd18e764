//! Trace ids: by these whoever collects traces finds what an agent did, here and at whomever it asks. The format is that of W3C Trace Context, version 00.

/// The variable by which a program learns what it is a part of, as OpenTelemetry's command-line tools have it.
pub(super) const VARIABLE: &str = "TRACEPARENT";

/// Whether this is a trace id: 32 lower-case hexadecimal digits, not all of them 0.
pub(super) fn is_id(text: &str) -> bool {
    is_hex(text, 32)
}

/// The trace id of a `traceparent` header, if it is one.
pub fn trace_of(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.trim().split('-');
    let (version, id, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // Of later versions the beginning is as it is now, and there may be more.
    let known = version.len() == 2 && version != "ff" && hex(version) && (version != "00" || parts.next().is_none());
    (known && is_id(id) && is_hex(span, 16) && flags.len() == 2 && hex(flags)).then_some(id)
}

/// A new one; nothing when the system has no randomness.
pub(super) fn new_id() -> Option<String> {
    random::<16>().filter(|id| is_id(id))
}

/// What an agent's process is told: a part of its own of this trace.
pub(super) fn parent(id: &str) -> Option<String> {
    let span = random::<8>().filter(|span| is_hex(span, 16))?;
    Some(format!("00-{id}-{span}-01"))
}

fn random<const N: usize>() -> Option<String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && hex(text) && text.bytes().any(|b| b != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_trace_is_taken_over_from_whoever_asks() {
        let span = "00f067aa0ba902b7";
        assert_eq!(trace_of(&format!("00-{ID}-{span}-01")), Some(ID));
        assert_eq!(trace_of(&format!(" 01-{ID}-{span}-01-more ")), Some(ID));
        for wrong in [
            String::new(),
            ID.to_owned(),
            format!("00-{ID}-{span}-01-more"),
            format!("ff-{ID}-{span}-01"),
            format!("00-{}-{span}-01", ID.to_uppercase()),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{ID}-{}-01", "0".repeat(16)),
            format!("00-{ID}-{span}-1"),
            format!("00-{ID}x-{span}-01"),
        ] {
            assert_eq!(trace_of(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_a_process_is_told_is_a_part_of_its_trace() {
        let id = new_id().expect("random");
        let told = parent(&id).expect("random");
        assert_eq!(trace_of(&told), Some(id.as_str()));
        assert_ne!(parent(&id), Some(told), "each process is another part");
    }
}
