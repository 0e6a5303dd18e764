//! Keeps an agent's secrets out of what is shown and kept of it.
//!
//! What is looked for: each line of a secret, without the white space around it, as it is and as JSON may write it. What an agent does to a secret before it writes it
//! (base64, one character a line) is found by nobody.

use std::borrow::Cow;

use serde_json::Value;

/// What stands for a secret.
const MASK: &str = "[redacted]";
/// The secrets of one run of an agent, for those who must not show them.
pub struct Redactor {
    /// By their first byte, longest first.
    secrets: Vec<Box<[u8]>>,
    /// Where those with a first byte are.
    begins: Box<[(u32, u32); 256]>,
    longest: usize,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// Bytes of the shortest secret that is looked for: what is shorter would be found everywhere, and tell by its absence what it is.
    pub const SHORTEST: usize = 8;

    /// One that finds these values. `None` if there is nothing to find.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut secrets: Vec<Box<[u8]>> = Vec::new();
        for line in values.into_iter().flat_map(str::lines).map(str::trim) {
            if line.len() >= Self::SHORTEST {
                secrets.extend(written(line).into_iter().map(|text| text.into_bytes().into()));
            }
        }
        secrets.sort_by(|a, b| (a[0], b.len(), a).cmp(&(b[0], a.len(), b)));
        secrets.dedup();
        let longest = secrets.iter().map(|secret| secret.len()).max()?;
        let mut begins = Box::new([(0, 0); 256]);
        for (at, secret) in secrets.iter().enumerate() {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            let slot = &mut begins[usize::from(secret[0])];
            *slot = if slot.1 == 0 { (at, at + 1) } else { (slot.0, at + 1) };
        }
        Some(Redactor {
            secrets,
            begins,
            longest,
        })
    }

    /// Those that begin with the first byte of `text`, longest first.
    fn candidates(&self, text: &[u8]) -> &[Box<[u8]>] {
        let (from, to) = text.first().map_or((0, 0), |first| self.begins[usize::from(*first)]);
        &self.secrets[from as usize..to as usize]
    }

    /// The length of the longest secret that `text` begins with.
    fn found(&self, text: &[u8]) -> Option<usize> {
        let mut all = self.candidates(text).iter();
        all.find(|secret| text.starts_with(secret)).map(|secret| secret.len())
    }

    /// Whether `text` may become a secret with what comes after it.
    fn may_become(&self, text: &[u8]) -> bool {
        let mut all = self.candidates(text).iter();
        all.any(|secret| secret.len() > text.len() && secret.starts_with(text))
    }

    /// The bytes without secrets.
    pub fn bytes<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        self.sift(text, false).0
    }

    /// The same; where there is more to come, only up to what may become a secret with that. Also how far that is.
    fn sift<'a>(&self, text: &'a [u8], has_more: bool) -> (Cow<'a, [u8]>, usize) {
        let (mut out, mut kept, mut at) = (Vec::new(), 0, 0);
        while at < text.len() {
            let rest = &text[at..];
            if has_more && rest.len() < self.longest && self.may_become(rest) {
                break;
            }
            match self.found(rest) {
                Some(length) => {
                    out.extend_from_slice(&text[kept..at]);
                    out.extend_from_slice(MASK.as_bytes());
                    at += length;
                    kept = at;
                }
                None => at += 1,
            }
        }
        if out.is_empty() {
            return (Cow::Borrowed(&text[..at]), at);
        }
        out.extend_from_slice(&text[kept..at]);
        (Cow::Owned(out), at)
    }

    /// At most so many of the first bytes without secrets. Of a secret that is cut by that nothing is shown.
    pub(super) fn beginning<'a>(&self, text: &'a [u8], most: usize) -> Cow<'a, [u8]> {
        let seen = &text[..text.len().min(most.saturating_add(self.longest))];
        let shown = self.bytes(seen);
        // What stands at the end of a part may be a part of a secret.
        let sure = if seen.len() < text.len() {
            shown.len().saturating_sub(self.longest)
        } else {
            shown.len()
        };
        let most = most.min(sure);
        match shown {
            Cow::Borrowed(shown) => Cow::Borrowed(&shown[..most]),
            Cow::Owned(mut shown) => {
                shown.truncate(most);
                Cow::Owned(shown)
            }
        }
    }

    /// The text without secrets, and without the beginning of one that it may have been cut in.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let without = match self.bytes(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            // A secret is whole characters, and so is what it stood between.
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).unwrap_or_else(|error| error.to_string())),
        };
        match self.cut_secret(&without) {
            Some((at, rest)) => Cow::Owned(format!("{}{MASK}{}", &without[..at], &without[rest..])),
            None => without,
        }
    }

    /// Where the beginning of a secret stands at the end of a text that was cut, and where what tells of the cut does.
    fn cut_secret(&self, text: &str) -> Option<(usize, usize)> {
        let whole = text.strip_suffix('…').or_else(|| text.strip_suffix("..."));
        let whole = whole.unwrap_or(text).trim_end();
        let bytes = whole.as_bytes();
        let first = bytes.len().saturating_sub(self.longest);
        let last = bytes.len().checked_sub(Redactor::SHORTEST)?;
        let at = (first..=last).find(|at| self.may_become(&bytes[*at..]))?;
        Some((at, bytes.len()))
    }

    /// Takes secrets out of all texts of a value.
    pub fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(without) = self.text(text) {
                    *text = without;
                }
            }
            Value::Array(all) => all.iter_mut().for_each(|one| self.value(one)),
            Value::Object(all) => {
                let is_told = |key: &String| matches!(self.bytes(key.as_bytes()), Cow::Owned(_));
                let told: Vec<String> = all.keys().filter(|key| is_told(key)).cloned().collect();
                for key in told {
                    if let Some(one) = all.remove(&key) {
                        all.insert(self.text(&key).into_owned(), one);
                    }
                }
                all.values_mut().for_each(|one| self.value(one));
            }
            _ => {}
        }
    }
}

/// The ways in which a line may be written: as it is, and inside of JSON texts.
fn written(line: &str) -> Vec<String> {
    let json = |text: &str| {
        let quoted = Value::from(text).to_string();
        quoted[1..quoted.len() - 1].to_owned()
    };
    let ascii: String = json(line)
        .chars()
        .map(|c| match c.is_ascii() {
            true => c.to_string(),
            false => {
                let mut units = [0; 2];
                let units = c.encode_utf16(&mut units).iter();
                units.map(|unit| format!("\\u{unit:04x}")).collect()
            }
        })
        .collect();
    let mut all = vec![line.to_owned(), json(line), json(line).replace('/', "\\/"), ascii];
    all.sort();
    all.dedup();
    all
}

/// Takes secrets out of bytes that come in pieces. What may be the beginning of a secret waits for the next piece; a line end always sets it free.
#[derive(Debug, Default)]
pub struct Sieve {
    held: Vec<u8>,
}

impl Sieve {
    /// Bytes that wait for what comes after them.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// What can be shown by now.
    pub fn push(&mut self, redactor: &Redactor, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let text = std::mem::take(&mut self.held);
        let (shown, until) = redactor.sift(&text, true);
        self.held.extend_from_slice(&text[until..]);
        shown.into_owned()
    }

    /// The rest: nothing comes any more.
    pub fn finish(&mut self, redactor: &Redactor) -> Vec<u8> {
        redactor.bytes(&std::mem::take(&mut self.held)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn redactor(values: &[&str]) -> Redactor {
        Redactor::new(values.iter().copied()).expect("there is something to find")
    }

    #[test]
    fn secrets_are_found_as_they_are_and_as_json_writes_them() {
        let all = redactor(&[
            "sk-1234567890",
            "a\"b/c\\d\u{e9}\u{1f600}",
            "-----BEGIN KEY-----\nMIIEabcdef\n-----END KEY-----\n",
        ]);
        assert_eq!(all.text("the key is sk-1234567890."), "the key is [redacted].");
        assert_eq!(all.text("sk-1234567890sk-1234567890"), "[redacted][redacted]");
        assert_eq!(all.text("MIIEabcdef"), "[redacted]");
        for written in [
            r#"{"k":"a\"b/c\\dé😀"}"#,
            r#"{"k":"a\"b\/c\\dé😀"}"#,
            r#"{"k":"a\"b/c\\d\u00e9\ud83d\ude00"}"#,
        ] {
            let shown = all.bytes(written.as_bytes()).into_owned();
            assert_eq!(String::from_utf8(shown).expect("text"), r#"{"k":"[redacted]"}"#);
        }
        assert_eq!(all.text("nothing"), "nothing");
        assert!(matches!(all.text("nothing"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_short_is_not_looked_for() {
        assert!(Redactor::new(["1234567", "", "a\nb\nc", "  short  "]).is_none());
        assert_eq!(redactor(&["12345678"]).text("x12345678"), "x[redacted]");
    }

    #[test]
    fn a_secret_that_was_cut_is_not_shown_as_far_as_it_goes() {
        let all = redactor(&["sk-1234567890"]);
        assert_eq!(all.text("key: sk-123456…"), "key: [redacted]…");
        assert_eq!(all.text("key: sk-12345..."), "key: [redacted]...");
        assert_eq!(all.text("key: sk-123456789"), "key: [redacted]");
        assert_eq!(all.text("key: sk-1234"), "key: sk-1234", "that tells little");
        assert_eq!(all.text("sk-123456 is no key"), "sk-123456 is no key");
    }

    #[test]
    fn of_a_long_line_only_what_is_sure_is_shown() {
        let all = redactor(&["sk-1234567890"]);
        let line = b"sk-1234567890 sk-1234567890 sk-1234567890 and more";
        for most in 0..=line.len() {
            let shown = String::from_utf8(all.beginning(line, most).into_owned()).expect("text");
            assert!(shown.len() <= most && !shown.contains("sk-"), "{most} {shown}");
        }
        assert_eq!(&*all.beginning(b"plain text", 5), b"plain");
    }

    #[test]
    fn of_two_secrets_the_longer_one_is_found() {
        let all = redactor(&["password", "password-and-more"]);
        assert_eq!(all.text("password-and-more password-and"), "[redacted] [redacted]-and");
        let mut sieve = Sieve::default();
        let mut out = sieve.push(&all, b"password");
        assert_eq!(out, b"", "it may be the longer one");
        out.extend(sieve.push(&all, b"-and-more "));
        assert_eq!(out, b"[redacted] ");
    }

    #[test]
    fn values_have_secrets_nowhere() {
        let all = redactor(&["sk-1234567890"]);
        let mut value = json!({ "a": ["sk-1234567890", 1], "sk-1234567890": { "b": "x sk-1234567890" } });
        all.value(&mut value);
        assert_eq!(
            value,
            json!({ "a": ["[redacted]", 1], "[redacted]": { "b": "x [redacted]" } })
        );
    }

    #[test]
    fn whoever_waits_at_a_prompt_is_shown_it() {
        let all = redactor(&["sk-1234567890"]);
        let mut sieve = Sieve::default();
        assert_eq!(sieve.push(&all, b"name? "), b"name? ");
        assert_eq!(sieve.push(&all, b"ask"), b"a");
        assert_eq!(sieve.push(&all, b"\n"), b"sk\n");
        assert_eq!(sieve.push(&all, b"sk-12"), b"");
        assert_eq!(sieve.finish(&all), b"sk-12");
    }

    proptest! {
        #[test]
        fn how_bytes_are_cut_makes_no_difference(
            secrets in proptest::collection::vec("[ab]{8,12}", 1..4),
            text in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'\n')], 0..300),
            cuts in proptest::collection::vec(0usize..300, 0..10),
        ) {
            let all = redactor(&secrets.iter().map(String::as_str).collect::<Vec<_>>());
            let mut cuts: Vec<_> = cuts.into_iter().map(|at| at.min(text.len())).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let (mut sieve, mut out, mut at) = (Sieve::default(), Vec::new(), 0);
            for cut in cuts {
                out.extend(sieve.push(&all, &text[at..cut]));
                prop_assert!(sieve.held.len() < all.longest);
                at = cut;
            }
            out.extend(sieve.finish(&all));
            prop_assert_eq!(&out, &all.bytes(&text).into_owned());
            for secret in &secrets {
                prop_assert!(!out.windows(secret.len()).any(|found| found == secret.as_bytes()));
            }
        }
    }
}
