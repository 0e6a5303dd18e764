//! From the raw path of a URL to a repository and what is asked of it. One grammar, decoded once.

use crate::{base::RepoName, depot::letta_memfs_name};

/// What of a repository a git URL asks for, by the end of its path (git-http-backend(1)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `info/refs`
    InfoRefs,
    /// `objects/info/packs`
    InfoPacks,
    /// `HEAD`, `objects/info/alternates`, `objects/info/http-alternates`: files of the dumb protocol that change. The path within the repository.
    File(String),
    /// Loose objects: files that never change.
    Loose(String),
    /// Packs and their indices: files that never change, and may be large.
    Pack(String),
    /// `git-upload-pack`
    UploadPack,
    /// `git-receive-pack`
    ReceivePack,
    /// `git-upload-archive`, which we do not have.
    UploadArchive,
}

impl Endpoint {
    /// Whether it is asked with POST; all others with GET and HEAD.
    pub(super) fn is_post(&self) -> bool {
        matches!(
            self,
            Endpoint::UploadPack | Endpoint::ReceivePack | Endpoint::UploadArchive
        )
    }
}

/// Reads a raw path. `None` for everything that is not a git URL beneath the prefix: each segment is percent-decoded once, and none
/// may be empty, `.` or `..`, or hold a separator, a control character or what is not UTF-8, whichever way it was spelled.
pub(super) fn parse(raw: &str, prefix: &str) -> Option<(RepoName, Endpoint)> {
    let rest = raw.strip_prefix(prefix)?.strip_prefix('/')?;
    let mut segments = Vec::new();
    for segment in rest.split('/') {
        segments.push(segment_text(segment)?);
    }
    let (name, endpoint) = split(&segments)?;
    let name = RepoName::parse(&name.join("/")).ok()?;
    Some((name, endpoint))
}

/// The organization of who names none.
const DEFAULT_ORGANIZATION: &str = "default";

/// Reads a raw path as Letta and its clients ask for an agent's memory: `/git/{agent}/state.git/…`, also below `/v1`. The organization is what its header says.
///
/// `None` if this is no such path at all, or `Some(None)` if it is one that means nothing.
pub(super) fn parse_letta(raw: &str, organization: Option<&str>) -> Option<Option<(RepoName, Endpoint)>> {
    let rest = raw.strip_prefix("/v1/git/").or_else(|| raw.strip_prefix("/git/"))?;
    let read = || {
        let segments = rest.split('/').map(segment_text).collect::<Option<Vec<_>>>()?;
        let (name, endpoint) = split(&segments)?;
        let [agent, state] = name else {
            return None;
        };
        let organization = organization
            .filter(|text| !text.is_empty())
            .unwrap_or(DEFAULT_ORGANIZATION);
        let name = letta_memfs_name(organization, agent)?;
        (state == "state.git").then_some((name, endpoint))
    };
    Some(read())
}

fn segment_text(raw: &str) -> Option<String> {
    let text = String::from_utf8(percent_decode(raw)?).ok()?;
    let dots = text.is_empty() || text == "." || text == "..";
    let foreign = text.chars().any(|c| c == '/' || c == '\\' || c.is_control());
    (!dots && !foreign).then_some(text)
}

/// Decodes `%XX` once. `None` for a `%` without two hexadecimal digits.
pub(super) fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let value = digit()? * 16 + digit()?;
            out.push(u8::try_from(value).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

fn split(segments: &[String]) -> Option<(&[String], Endpoint)> {
    let texts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (taken, endpoint) = match texts.as_slice() {
        [_, .., "info", "refs"] => (2, Endpoint::InfoRefs),
        [_, .., "objects", "info", "packs"] => (3, Endpoint::InfoPacks),
        [_, .., "objects", "info", file @ ("alternates" | "http-alternates")] => {
            (3, Endpoint::File(format!("objects/info/{file}")))
        }
        [_, .., "objects", "pack", file] if is_pack_file(file) => (3, Endpoint::Pack(format!("objects/pack/{file}"))),
        [_, .., "objects", fan, file] if is_hex(fan, &[2]) && is_hex(file, &[38, 62]) => {
            (3, Endpoint::Loose(format!("objects/{fan}/{file}")))
        }
        [_, .., "HEAD"] => (1, Endpoint::File("HEAD".to_owned())),
        [_, .., "git-upload-pack"] => (1, Endpoint::UploadPack),
        [_, .., "git-receive-pack"] => (1, Endpoint::ReceivePack),
        [_, .., "git-upload-archive"] => (1, Endpoint::UploadArchive),
        _ => return None,
    };
    let name = segments.get(..segments.len().checked_sub(taken)?)?;
    (!name.is_empty()).then_some((name, endpoint))
}

fn is_pack_file(name: &str) -> bool {
    let stem = name.strip_suffix(".pack").or_else(|| name.strip_suffix(".idx"));
    stem.and_then(|stem| stem.strip_prefix("pack-"))
        .is_some_and(|hash| is_hex(hash, &[40, 64]))
}

fn is_hex(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &str) -> Option<(String, Endpoint)> {
        parse(raw, "/repos").map(|(name, endpoint)| (name.as_str().to_owned(), endpoint))
    }

    #[test]
    fn the_end_of_the_path_says_what_is_asked() {
        let is = |raw: &str, name: &str, endpoint: Endpoint| {
            assert_eq!(check(raw), Some((name.to_owned(), endpoint)), "{raw}");
        };
        is("/repos/a/info/refs", "a", Endpoint::InfoRefs);
        is("/repos/team/app.git/info/refs", "team/app.git", Endpoint::InfoRefs);
        is("/repos/a/.git/info/refs", "a/.git", Endpoint::InfoRefs);
        is("/repos/info/refs/info/refs", "info/refs", Endpoint::InfoRefs);
        is("/repos/a/HEAD", "a", Endpoint::File("HEAD".into()));
        is("/repos/HEAD/HEAD", "HEAD", Endpoint::File("HEAD".into()));
        is("/repos/a/objects/info/packs", "a", Endpoint::InfoPacks);
        is(
            "/repos/a/objects/info/http-alternates",
            "a",
            Endpoint::File("objects/info/http-alternates".into()),
        );
        is("/repos/a/git-upload-pack", "a", Endpoint::UploadPack);
        is("/repos/a/git-receive-pack", "a", Endpoint::ReceivePack);
        is("/repos/a%20b/git-upload-pack", "a b", Endpoint::UploadPack);
        is("/repos/%C3%BC/git-upload-pack", "ü", Endpoint::UploadPack);
        // Decoded once: what is left is a name like any other.
        is("/repos/%252e%252e/HEAD", "%2e%2e", Endpoint::File("HEAD".into()));
        let hex = "0123456789abcdef".repeat(4);
        is(
            &format!("/repos/a/objects/ab/{}", &hex[..38]),
            "a",
            Endpoint::Loose(format!("objects/ab/{}", &hex[..38])),
        );
        is(
            &format!("/repos/a/objects/pack/pack-{hex}.idx"),
            "a",
            Endpoint::Pack(format!("objects/pack/pack-{hex}.idx")),
        );
    }

    #[test]
    fn no_spelling_leaves_the_directory() {
        for bad in [
            "",
            "/",
            "/repos",
            "/repos/",
            "/repos/HEAD",
            "/repos/info/refs",
            "/reposx/a/HEAD",
            "repos/a/HEAD",
            "/repos//HEAD",
            "/repos//a/HEAD",
            "/repos/a//HEAD",
            "/repos/a/HEAD/",
            "/repos/../a/HEAD",
            "/repos/a/../b/HEAD",
            "/repos/./a/HEAD",
            "/repos/%2e%2e/a/HEAD",
            "/repos/%2E./a/HEAD",
            "/repos/.%2e/a/HEAD",
            "/repos/a%2fb/HEAD",
            "/repos/a%2Fb/HEAD",
            "/repos/..%2fa/HEAD",
            "/repos/a%5cb/HEAD",
            "/repos/..\\a/HEAD",
            "/repos/a%00/HEAD",
            "/repos/a%0a/HEAD",
            "/repos/a%7f/HEAD",
            "/repos/a%/HEAD",
            "/repos/a%2/HEAD",
            "/repos/a%zz/HEAD",
            "/repos/a%+1/HEAD",
            "/repos/a%ff/HEAD",
            "/repos/a%c0%ae/HEAD",
            "/repos/a/objects/ab/0123",
            "/repos/a/objects/AB/0123456789abcdef0123456789abcdef012345",
            "/repos/a/objects/pack/pack-0123.pack",
            "/repos/a/config",
            "/repos/a/objects/../config",
        ] {
            assert_eq!(check(bad), None, "{bad:?} was accepted");
        }
    }

    #[test]
    fn letta_asks_for_agents_in_its_own_way() {
        let is = |raw: &str, organization: Option<&str>| {
            parse_letta(raw, organization).map(|found| found.map(|(name, _)| name.as_str().to_owned()))
        };
        let found = |text: &str| Some(Some(text.to_owned()));
        assert_eq!(
            is("/git/agent-1/state.git/info/refs", None),
            found("default/agent-1/repo")
        );
        assert_eq!(
            is("/git/agent-1/state.git/info/refs", Some("")),
            found("default/agent-1/repo")
        );
        assert_eq!(
            is("/v1/git/agent-1/state.git/git-upload-pack", Some("org-7")),
            found("org-7/agent-1/repo")
        );
        for other in [
            "/repos/a/info/refs",
            "/gitx/a/state.git/HEAD",
            "/v1/agents",
            "/v2/git/a/state.git/HEAD",
        ] {
            assert_eq!(is(other, None), None, "{other}");
        }
        for bad in [
            "/git/",
            "/git/agent-1",
            "/git/agent-1/state.git",
            "/git/agent-1/state.git/",
            "/git/agent-1/state.git/config",
            "/git/agent-1/other.git/info/refs",
            "/git/a/b/state.git/info/refs",
            "/git/../state.git/info/refs",
            "/git/%2e%2e/state.git/info/refs",
            "/git/-x/state.git/info/refs",
            "/git/a%00/state.git/info/refs",
            "/git/a%2fb/state.git/info/refs",
            "/git/a.git/state.git/info/refs",
            "/git//state.git/info/refs",
            "/v1/git/v1/git/a/state.git/info/refs",
        ] {
            assert_eq!(is(bad, None), Some(None), "{bad}");
        }
        for bad in ["..", "../x", "a/b", "-x", ".git", "a b"] {
            assert_eq!(is("/git/agent-1/state.git/info/refs", Some(bad)), Some(None), "{bad}");
        }
    }

    #[test]
    fn an_empty_prefix_serves_from_the_root() {
        let (name, endpoint) = parse("/a/HEAD", "").unwrap();
        assert_eq!((name.as_str(), endpoint), ("a", Endpoint::File("HEAD".into())));
        assert!(parse("//a/HEAD", "").is_none());
    }
}
