//! The words of a repository's `config` file, before anybody gave them meaning. No includes are followed and no other file is read.

use std::{fmt, path::Path, str::FromStr};

use bstr::{BStr, BString, ByteSlice};
use gix::config::parse::{EventRef, Events};

/// A configuration is read whole; this is more than anybody has.
const MAX_CONFIG_BYTES: u64 = 8 << 20;

/// Keys and values in the order in which they were written.
#[derive(Debug, Default, Clone)]
pub(crate) struct Config {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// Section and name lower-cased, subsection as written: `uploadpackfilter.blob:none.allow`.
    key: BString,
    /// `None` for a key without `=`, which means true where a boolean is expected.
    value: Option<BString>,
}

/// A value that does not mean what its key needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadValue {
    /// The key, as `section.subsection.name`.
    pub key: String,
    /// What was wanted there.
    pub expected: &'static str,
    /// What is there; nothing for a key without `=`.
    pub value: Option<String>,
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, expected, value } = self;
        match value {
            Some(value) => write!(f, "bad {expected} config value {value:?} for '{key}'"),
            None => write!(f, "missing value for '{key}'"),
        }
    }
}

impl std::error::Error for BadValue {}

/// Why a file is not a configuration.
#[derive(Debug)]
pub(crate) enum ConfigError {
    Io(std::io::Error),
    Syntax(String),
}

/// Lower-cases all but a subsection.
fn canonical(key: &[u8]) -> BString {
    let mut out = BString::from(key);
    let first = key.find_byte(b'.').unwrap_or(key.len());
    let last = key.rfind_byte(b'.').unwrap_or(0).max(first);
    out[..first].make_ascii_lowercase();
    out[last..].make_ascii_lowercase();
    out
}

impl Config {
    /// Appends one assignment, as `OpenOptions::defaults` gives them.
    pub(crate) fn push(&mut self, key: &str, value: Option<&str>) {
        self.entries.push(Entry {
            key: canonical(key.as_bytes()),
            value: value.map(BString::from),
        });
    }

    /// Appends everything of another.
    pub(crate) fn append(&mut self, other: Config) {
        self.entries.extend(other.entries);
    }

    /// Appends what the file at `path` says. `Ok(false)` when there is no such file.
    pub(crate) fn read_file(&mut self, path: &Path) -> Result<bool, ConfigError> {
        use std::io::Read;
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(err) => return Err(ConfigError::Io(err)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_CONFIG_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(ConfigError::Io)?;
        if bytes.len() as u64 > MAX_CONFIG_BYTES {
            return Err(ConfigError::Syntax(format!("larger than {MAX_CONFIG_BYTES} bytes")));
        }
        self.read(&bytes)?;
        Ok(true)
    }

    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<(), ConfigError> {
        let events = Events::from_bytes(bytes, None).map_err(|err| ConfigError::Syntax(err.to_string()))?;
        for section in events.sections() {
            let EventRef::SectionHeader {
                name,
                separator,
                subsection_name,
            } = section.header()
            else {
                continue;
            };
            let mut prefix = BString::from(name.to_ascii_lowercase());
            if let Some(subsection) = subsection_name {
                prefix.push(b'.');
                // `[section.sub]`, the old spelling, knows no case.
                if separator.is_some_and(|s| s == ".") {
                    prefix.extend_from_slice(&subsection.to_ascii_lowercase());
                } else {
                    prefix.extend_from_slice(subsection);
                }
            }
            prefix.push(b'.');
            let mut open: Option<(BString, bool, BString)> = None;
            for event in section.body() {
                match event {
                    EventRef::SectionValueName(name) => {
                        self.finish(&mut open);
                        let mut key = prefix.clone();
                        key.extend_from_slice(&name.to_ascii_lowercase());
                        open = Some((key, false, BString::default()));
                    }
                    EventRef::KeyValueSeparator => {
                        if let Some((_, has_value, _)) = &mut open {
                            *has_value = true;
                        }
                    }
                    EventRef::Value(part) | EventRef::ValueNotDone(part) | EventRef::ValueDone(part) => {
                        if let Some((_, _, value)) = &mut open {
                            value.extend_from_slice(part);
                        }
                    }
                    _ => {}
                }
            }
            self.finish(&mut open);
        }
        Ok(())
    }

    fn finish(&mut self, open: &mut Option<(BString, bool, BString)>) {
        if let Some((key, has_value, raw)) = open.take() {
            let value = has_value.then(|| gix::config::value::normalize(raw.as_bstr()).into_owned());
            self.entries.push(Entry { key, value });
        }
    }

    /// Every assignment whose key has this canonical form, in order.
    fn all(&self, key: &str) -> impl DoubleEndedIterator<Item = &Option<BString>> {
        let key = canonical(key.as_bytes());
        self.entries
            .iter()
            .filter(move |entry| entry.key == key)
            .map(|entry| &entry.value)
    }

    /// The last assignment: `Some(None)` for a key without `=`.
    pub(crate) fn last(&self, key: &str) -> Option<Option<&BStr>> {
        self.all(key).next_back().map(|v| v.as_ref().map(|v| v.as_bstr()))
    }

    /// Every assignment to one of `keys`, in the order of the file.
    pub(crate) fn strings_of(&self, keys: &[&str]) -> Result<Vec<&BStr>, BadValue> {
        let keys: Vec<_> = keys.iter().map(|key| canonical(key.as_bytes())).collect();
        self.entries
            .iter()
            .filter(|entry| keys.contains(&entry.key))
            .map(|entry| {
                entry
                    .value
                    .as_ref()
                    .map(|v| v.as_bstr())
                    .ok_or_else(|| bad(&entry.key, "string", None))
            })
            .collect()
    }

    /// Every assignment below `prefix` (canonical, ending in a dot), with the whole key.
    pub(crate) fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a BStr, Option<&'a BStr>)> {
        self.entries
            .iter()
            .filter(move |entry| entry.key.starts_with(prefix.as_bytes()))
            .map(|entry| (entry.key.as_bstr(), entry.value.as_ref().map(|v| v.as_bstr())))
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&BStr>, BadValue> {
        match self.last(key) {
            None => Ok(None),
            Some(Some(value)) => Ok(Some(value)),
            Some(None) => Err(bad(key.as_bytes(), "string", None)),
        }
    }

    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>, BadValue> {
        match self.last(key) {
            None => Ok(None),
            Some(value) => parse_bool(value)
                .map(Some)
                .ok_or_else(|| bad(key.as_bytes(), "boolean", value)),
        }
    }

    pub(crate) fn number<T: TryFrom<i128>>(&self, key: &str) -> Result<Option<T>, BadValue> {
        match self.last(key) {
            None => Ok(None),
            Some(value) => value
                .and_then(parse_number)
                .and_then(|n| T::try_from(n).ok())
                .map(Some)
                .ok_or_else(|| bad(key.as_bytes(), "numeric", value)),
        }
    }
}

pub(crate) fn bad(key: &[u8], expected: &'static str, value: Option<&BStr>) -> BadValue {
    BadValue {
        key: key.to_str_lossy().into_owned(),
        expected,
        value: value.map(|v| v.to_str_lossy().into_owned()),
    }
}

/// git's booleans (git-config(1), VALUES): a key without `=` is true, an empty value is false, a number is true unless it is 0.
pub(crate) fn parse_bool(value: Option<&BStr>) -> Option<bool> {
    let Some(value) = value else { return Some(true) };
    let is = |words: &[&str]| words.iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes()));
    if value.is_empty() || is(&["false", "no", "off"]) {
        Some(false)
    } else if is(&["true", "yes", "on"]) {
        Some(true)
    } else {
        parse_number(value).map(|n| n != 0)
    }
}

/// git's numbers: decimal, `0x` or `0` octal, with an optional `k`, `m` or `g` of either case.
pub(crate) fn parse_number(value: &BStr) -> Option<i128> {
    let text = value.to_str().ok()?.trim_start();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (text, factor) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1i128 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        b'g' | b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    if !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let number = if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        i64::from_str_radix(hex, 16)
    } else if text.len() > 1 && text.starts_with('0') {
        i64::from_str_radix(text, 8)
    } else {
        i64::from_str(text)
    };
    let number = i128::from(number.ok()?) * factor;
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let mut config = Config::default();
        config.read(text.as_bytes()).expect("a valid configuration");
        config
    }

    #[test]
    fn keys_know_no_case_but_subsections_do() {
        let c = config(
            "[UploadPack]\n\tALLOWfilter = yes\n[uploadpackfilter \"Blob:None\"]\nAllow=1\n[receive \"fsck\"]\nmissingEmail = ignore\n",
        );
        assert_eq!(c.boolean("uploadPack.allowFilter"), Ok(Some(true)));
        assert_eq!(c.boolean("uploadpackfilter.Blob:None.allow"), Ok(Some(true)));
        assert_eq!(c.boolean("uploadpackfilter.blob:none.allow"), Ok(None));
        assert_eq!(
            c.string("receive.fsck.missingemail").expect("a string"),
            Some("ignore".into())
        );
        assert_eq!(
            config("[A.B]\nc = d").string("a.b.c").expect("a string"),
            Some("d".into())
        );
    }

    #[test]
    fn values_mean_what_git_says() {
        let c = config(
            "[a]\nvalueless\nempty =\nquoted = \" x;y\" ; comment\ncontinued = one \\\n two\nk = 2k\nhex=0x10\noct=010\nneg=-1\nbad=2x\nlast=1\nlast=2\n",
        );
        assert_eq!(c.boolean("a.valueless"), Ok(Some(true)));
        assert_eq!(c.boolean("a.empty"), Ok(Some(false)));
        assert_eq!(c.boolean("a.k"), Ok(Some(true)));
        assert_eq!(c.string("a.quoted").expect("a string"), Some(" x;y".into()));
        assert_eq!(c.string("a.continued").expect("a string"), Some("one  two".into()));
        assert_eq!(c.number::<u64>("a.k"), Ok(Some(2048)));
        assert_eq!(c.number::<u64>("a.hex"), Ok(Some(16)));
        assert_eq!(c.number::<u64>("a.oct"), Ok(Some(8)));
        assert_eq!(c.number::<i64>("a.neg"), Ok(Some(-1)));
        assert_eq!(c.number::<i64>("a.last"), Ok(Some(2)));
        assert!(c.number::<u64>("a.neg").is_err());
        let err = c.boolean("a.bad").expect_err("2x is nothing");
        assert_eq!(err.to_string(), "bad boolean config value \"2x\" for 'a.bad'");
        assert!(c.string("a.valueless").is_err());
        assert!(c.number::<u64>("a.valueless").is_err());
        assert_eq!(c.boolean("a.absent"), Ok(None));
    }

    #[test]
    fn a_broken_file_is_an_error() {
        for text in ["[a", "a = b\n=", "[a]\n=x\n"] {
            assert!(
                Config::default().read(text.as_bytes()).is_err(),
                "{text:?} was accepted"
            );
        }
    }
}
