//! The spellings that some file system takes for a name git gives a meaning to. HFS+ ignores certain code points and case; NTFS ignores
//! case, trailing dots and spaces and what follows a colon, treats `\` as a separator, and has short names (`GIT~1`).

/// Whether a checkout of this tree entry could write into a repository's own directory.
pub(super) fn is_dotgit(name: &[u8]) -> bool {
    hfs_equals(name, b".git") || ends(name).any(is_ntfs_dotgit)
}

/// A file to which git gives a meaning, with what NTFS may shorten it to.
pub(super) struct DotName {
    /// With the dot, lower case.
    name: &'static [u8],
    /// The first six letters: `gitmod~1`.
    short: &'static [u8; 6],
    /// What NTFS makes of it once `~4` is taken: two letters and a hash of the name.
    hashed: &'static [u8; 6],
}

pub(super) const GITMODULES: DotName = DotName {
    name: b".gitmodules",
    short: b"gitmod",
    hashed: b"gi7eba",
};
pub(super) const GITATTRIBUTES: DotName = DotName {
    name: b".gitattributes",
    short: b"gitatt",
    hashed: b"gi7d29",
};
pub(super) const GITIGNORE: DotName = DotName {
    name: b".gitignore",
    short: b"gitign",
    hashed: b"gi250a",
};
pub(super) const MAILMAP: DotName = DotName {
    name: b".mailmap",
    short: b"mailma",
    hashed: b"maba30",
};

impl DotName {
    /// Whether some file system takes `name` for this file.
    pub(super) fn is(&self, name: &[u8]) -> bool {
        hfs_equals(name, self.name) || self.is_ntfs(name)
    }

    /// Whether `name`, or the end of it after a `\`, is this file: how `.gitmodules` is looked for, and only it.
    pub(super) fn ends(&self, name: &[u8]) -> bool {
        hfs_equals(name, self.name) || ends(name).any(|end| self.is_ntfs(end))
    }

    fn is_ntfs(&self, name: &[u8]) -> bool {
        if let Some(rest) = strip_prefix_folded(name, self.name) {
            return is_ntfs_end(rest);
        }
        let Some((head, rest)) = name.split_at_checked(8) else {
            return false;
        };
        if strip_prefix_folded(head, self.short).is_some_and(|tail| matches!(tail, [b'~', b'1'..=b'4'])) {
            return is_ntfs_end(rest);
        }
        // Eight bytes: some of the hashed name, a tilde, a number without leading zero.
        let Some(tilde) = head.iter().position(|&byte| byte == b'~') else {
            return false;
        };
        let (start, number) = head.split_at(tilde);
        self.hashed
            .get(..tilde)
            .is_some_and(|hashed| start.eq_ignore_ascii_case(hashed))
            && matches!(number.get(1), Some(b'1'..=b'9'))
            && number.iter().skip(1).all(u8::is_ascii_digit)
            && is_ntfs_end(rest)
    }
}

/// The name and what follows each backslash in it.
fn ends(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let after = |(at, &byte): (usize, &u8)| if byte == b'\\' { name.get(at + 1..) } else { None };
    std::iter::once(name).chain(name.iter().enumerate().filter_map(after))
}

fn strip_prefix_folded<'a>(name: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = name.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// NTFS drops dots and spaces at the end of a name; a colon begins the name of a stream.
fn is_ntfs_end(rest: &[u8]) -> bool {
    rest.iter()
        .find(|&&byte| byte != b' ' && byte != b'.')
        .is_none_or(|&byte| byte == b':')
}

fn is_ntfs_dotgit(name: &[u8]) -> bool {
    let Some(rest) = strip_prefix_folded(name, b".git").or_else(|| strip_prefix_folded(name, b"git~1")) else {
        return false;
    };
    rest.iter()
        .find(|&&byte| byte != b' ' && byte != b'.')
        .is_none_or(|&byte| matches!(byte, b':' | b'/' | b'\\'))
}

/// Whether HFS+ takes `name` for `wanted` (lower-case ASCII). What is no UTF-8 ends the name there.
fn hfs_equals(name: &[u8], wanted: &[u8]) -> bool {
    let mut rest = name;
    for &byte in wanted {
        if next_hfs_char(&mut rest) != Some(u32::from(byte)) {
            return false;
        }
    }
    matches!(next_hfs_char(&mut rest), None | Some(0x2f))
}

/// The next code point that HFS+ does not ignore, with ASCII in lower case; `None` at the end or at broken UTF-8.
fn next_hfs_char(rest: &mut &[u8]) -> Option<u32> {
    loop {
        let &first = rest.first()?;
        if first < 0x80 {
            *rest = rest.get(1..)?;
            return (first != 0).then(|| u32::from(first.to_ascii_lowercase()));
        }
        let len = match first {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return None,
        };
        let (head, tail) = rest.split_at_checked(len)?;
        let code = u32::from(std::str::from_utf8(head).ok()?.chars().next()?);
        *rest = tail;
        match code {
            0x200c..=0x200f | 0x202a..=0x202e | 0x206a..=0x206f | 0xfeff => {}
            0xfffe | 0xffff => return None,
            _ => return Some(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_dot_git_is_known() {
        for name in [
            &b".git"[..],
            b".GIT",
            b".Git ",
            b".git. .",
            b".git...  ..",
            b"git~1",
            b"GIT~1",
            b"git~1.",
            b"git~1:a",
            b"git~1\\a",
            b"git~1/x",
            b".git::$INDEX_ALLOCATION",
            b".git:x",
            b".git\\x",
            b".git/x",
            b"a\\.git",
            b"a\\.git/b",
            b"a\\git~1.. :",
            b"\\.git",
            b"x:\\.git",
            b".g\xe2\x80\x8cit",
            b"\xef\xbb\xbf.git",
            b".gi\xe2\x80\xaet",
            b".git\xe2\x81\xaf",
            b".GI\xe2\x80\x8cT",
            b".git\xff",
            b".git\xff.x",
            b".git\xc3",
            b".git\xed\xa0\x80",
            b".git\xef\xbf\xbf",
            b".git\xf4\x90\x80\x80",
            b".git\xe2\x80\x8c/x",
        ] {
            assert!(is_dotgit(name), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn names_that_only_look_like_dot_git_pass() {
        for name in [
            &b".gitx"[..],
            b"git~2",
            b"git~10",
            b"..git",
            b" .git",
            b"x/.git",
            b"a:.git",
            b".git. x",
            b"git~1 x",
            b"git~1\xff",
            b".g\xffit",
            b".git\xc3\xa9",
            b".git\xe2\x81\xb0",
            b".gi\xe2\x80\xafT",
            b".\xe2\x80\x8cgit ",
            b"x\\.g\xe2\x80\x8cit",
            b"x\\/.git",
            b".git\x01",
            b".git\xef\xb7\x90",
            b".git\xf0\x9f\x98\x80",
            b".",
            b"",
            b".gi",
        ] {
            assert!(!is_dotgit(name), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn short_names_are_known_as_ntfs_makes_them() {
        for name in [
            &b".gitmodules"[..],
            b".GITMODULES",
            b".gitmodules...   ",
            b".gitmodules:x",
            b"GITMOD~1",
            b"gitmod~4",
            b"GitMod~2  . .",
            b"gi7eba~1",
            b"GI7EB~10",
            b"gi7e~100",
            b"gi7~1000",
            b"gi~10000",
            b"g~100000",
            b"~1000000",
            b"gi7eba~1 :x",
            b".gi\xe2\x80\x8ctmodules",
            b".gitmodules\xff",
            b".gitmodules/x",
        ] {
            assert!(GITMODULES.is(name), "{}", name.escape_ascii());
        }
        for name in [
            &b"gitmod~5"[..],
            b"gitmod~0",
            b"gitmod~12",
            b"gitmod~1x",
            b"gi7eba~0",
            b"gi7eb~09",
            b"gi7eb~1",
            b"gi7e~1000",
            b"gi7eba~12",
            b"~0000001",
            b"~10000000",
            b"x~100000",
            b"hi7eba~1",
            b"gi7eba~1\\x",
            b"gi7eba~1\xff",
            b".gitmodules\\x",
            b".gitmodulesx",
            b".gitmod~1",
            b"x\\.gitmodules",
        ] {
            assert!(!GITMODULES.is(name), "{}", name.escape_ascii());
        }
        assert!(GITMODULES.ends(b"x\\.gitmodules"));
        assert!(GITMODULES.ends(b"x\\gitmod~1"));
        assert!(!GITMODULES.ends(b".gitmodules\\x"));
        assert!(GITATTRIBUTES.is(b"gi7d29~1") && GITIGNORE.is(b"gi250a~1") && MAILMAP.is(b"maba30~1"));
    }
}
