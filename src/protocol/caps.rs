use gix::hash;

/// The capabilities behind the NUL of a first line, or behind the object id of a first `want`: words separated by blanks, some with a value
/// (gitprotocol-capabilities). Words we do not know are not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities<'a>(&'a [u8]);

impl<'a> Capabilities<'a> {
    /// The words in `list`.
    pub fn new(list: &'a [u8]) -> Self {
        Capabilities(list)
    }

    /// Every word with its value. Words are separated by blanks; an end of line ends the list's last word.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        self.0
            .split(|b| matches!(b, b' ' | b'\n'))
            .filter(|word| !word.is_empty())
            .map(key_value)
    }

    /// Whether a word is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.iter().any(|(key, _)| key == name.as_bytes())
    }

    /// The value of the first such word that has one.
    pub fn value(&self, name: &str) -> Option<&'a [u8]> {
        self.iter()
            .find_map(|(key, value)| value.filter(|_| key == name.as_bytes()))
    }
}

/// Splits `key=value`, or `key` alone.
pub(super) fn key_value(word: &[u8]) -> (&[u8], Option<&[u8]>) {
    match word.iter().position(|b| *b == b'=') {
        Some(at) => (&word[..at], Some(&word[at + 1..])),
        None => (word, None),
    }
}

/// The hash that `object-format=` means.
pub(super) fn object_format(name: &[u8]) -> Option<hash::Kind> {
    match name {
        b"sha1" => Some(hash::Kind::Sha1),
        b"sha256" => Some(hash::Kind::Sha256),
        _ => None,
    }
}
