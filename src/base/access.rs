//! Who may do what to which repository: one pure function for every route and every scheme.
//!
//! The faces turn a request into a [`Credential`] and an [`Ask`]; [`Rules::identify`] says who is speaking and [`Rules::decide`] what
//! becomes of it. No clock, no disk, no header types. The handler that executes a request is the one that asks (authorising one
//! route and executing another is how Gitea and Soft Serve were broken into).
//!
//! The rules, in full:
//!
//! * **Nothing configured** (no tokens, no trusted header): whoever speaks from this machine ([`speaks_locally`]) may do anything the
//!   repository does not forbid. Others may read where `anonymous_read` or `insecure_open` is set, push where `insecure_open` is set or
//!   the repository says `http.receivepack = true`, and manage nothing.
//! * **Something configured**: loopback means nothing. Tokens do what their grants say, users of the trusted header everything, the
//!   anonymous read where `anonymous_read` is set. `http.receivepack` is git's: unset, pushes need a grant; `true`, anyone pushes; `false`, no one.
//! * Who may not read a repository learns nothing of it: the anonymous are asked for credentials, the identified are told that there is no such
//!   repository, whether there is one or not.

use std::{fmt, net::IpAddr, str::FromStr};

use base64::Engine as _;
use sha2::Digest as _;
use subtle::ConstantTimeEq as _;

use super::RepoName;

/// Who is speaking, once that is established.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Nobody in particular.
    Anonymous,
    /// The holder of a token.
    Token {
        /// The token's name in `gitstead.toml`.
        id: String,
    },
    /// A user whom the proxy in front of us has identified.
    User {
        /// The name as the proxy sent it.
        name: String,
    },
}

impl Principal {
    /// The name that goes into reflogs and logs (git's `REMOTE_USER`); `None` for the anonymous.
    pub fn name(&self) -> Option<&str> {
        match self {
            Principal::Anonymous => None,
            Principal::Token { id } => Some(id),
            Principal::User { name } => Some(name),
        }
    }
}

/// What is to be done to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Fetch, clone, look.
    Read,
    /// Push.
    Write,
    /// Create, delete, rename, set HEAD.
    Admin,
}

/// What a token may do: `read`, or `write`, which holds `read` and the administration of the repositories its pattern names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Fetch and look.
    Read,
    /// Also push, create, delete, rename.
    Write,
}

impl Access {
    /// Whether `action` is among what this allows.
    pub fn allows(self, action: Action) -> bool {
        match action {
            Action::Read => true,
            Action::Write | Action::Admin => self == Access::Write,
        }
    }
}

impl FromStr for Access {
    type Err = AccessError;
    fn from_str(s: &str) -> Result<Self, AccessError> {
        match s {
            "read" => Ok(Access::Read),
            "write" => Ok(Access::Write),
            _ => Err(AccessError::Access { text: s.to_owned() }),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Read => "read",
            Access::Write => "write",
        })
    }
}

/// Why a text of the access rules cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// Not a pattern.
    #[error(
        "'{text}' is not a repository pattern: segments of a name in which '*' stands for any run of characters, or '**' for any segments"
    )]
    Pattern {
        /// The text.
        text: String,
    },
    /// Not a hash.
    #[error("a token hash is 'sha256:' and 64 hexadecimal digits, as `gitstead token new` prints it")]
    Hash,
    /// Not an access word.
    #[error("'{text}' is not an access: 'read' or 'write'")]
    Access {
        /// The text.
        text: String,
    },
}

/// A pattern over repository names, without the `.git`: `team/app`, `team/*`, `**`, `team/**`, `team/app-*`.
///
/// `*` stands for any run of characters within a segment, a segment `**` for any number of segments (none included). Matching is on bytes and
/// case-sensitive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

impl Pattern {
    /// The most `*` and `**` of one pattern; matching is at worst quadratic in the name, and this keeps patterns legible.
    pub const MAX_STARS: usize = 16;

    /// Reads a pattern. A `.git` at its end is dropped.
    pub fn parse(text: &str) -> Result<Self, AccessError> {
        let wrong = || AccessError::Pattern { text: text.to_owned() };
        let stem = text.strip_suffix(".git").unwrap_or(text);
        if text.len() > RepoName::MAX_BYTES || stem.bytes().filter(|b| *b == b'*').count() > Self::MAX_STARS {
            return Err(wrong());
        }
        let sound = stem.split('/').all(|segment| {
            let dots = segment == "." || segment == "..";
            let double = segment.contains("**") && segment != "**";
            !segment.is_empty() && !dots && !double && !segment.chars().any(|c| c.is_control() || c == '\\')
        });
        if sound {
            Ok(Pattern { text: stem.to_owned() })
        } else {
            Err(wrong())
        }
    }

    /// Whether the pattern names this repository.
    pub fn matches(&self, repo: &RepoName) -> bool {
        let pattern: Vec<&[u8]> = self.text.as_bytes().split(|b| *b == b'/').collect();
        let name: Vec<&[u8]> = repo.canonical().as_bytes().split(|b| *b == b'/').collect();
        wildcard(&pattern, &name, |p| *p == b"**", |p, n| segment_matches(p, n))
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Pattern {
    type Err = AccessError;
    fn from_str(s: &str) -> Result<Self, AccessError> {
        Self::parse(s)
    }
}

fn segment_matches(pattern: &[u8], name: &[u8]) -> bool {
    wildcard(pattern, name, |p| *p == b'*', |p, n| p == n)
}

/// Matching with one kind of star that stands for any run of items. Backtracks to the last star only: at worst |pattern| × |name| steps.
fn wildcard<P, N>(pattern: &[P], name: &[N], star: impl Fn(&P) -> bool, same: impl Fn(&P, &N) -> bool) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut last: Option<(usize, usize)> = None;
    while let Some(item) = name.get(n) {
        match pattern.get(p) {
            Some(x) if star(x) => {
                last = Some((p, n));
                p += 1;
            }
            Some(x) if same(x, item) => {
                p += 1;
                n += 1;
            }
            _ => match last {
                Some((star_at, taken)) => {
                    last = Some((star_at, taken + 1));
                    p = star_at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(star)
}

/// What one token may do to the repositories that a pattern names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Which repositories.
    pub pattern: Pattern,
    /// What may be done.
    pub access: Access,
}

/// A token at rest: the SHA-256 of its text. Tokens are random and long, so one round without a salt is enough.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a token as it travels.
    pub fn of(token: &str) -> Self {
        TokenHash(sha2::Sha256::digest(token.as_bytes()).into())
    }

    /// Reads `sha256:<64 hex>`; the prefix may be missing.
    pub fn parse(text: &str) -> Result<Self, AccessError> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        let mut hash = [0; 32];
        if hex.len() != 64 {
            return Err(AccessError::Hash);
        }
        for (out, pair) in hash.iter_mut().zip(hex.chunks_exact(2)) {
            let digit = |b: u8| char::from(b).to_digit(16).ok_or(AccessError::Hash);
            let (high, low) = match pair {
                [high, low] => (digit(*high)?, digit(*low)?),
                _ => return Err(AccessError::Hash),
            };
            *out = u8::try_from(high * 16 + low).map_err(|_| AccessError::Hash)?;
        }
        Ok(TokenHash(hash))
    }

    /// Whether two hashes are the same, in a time that does not depend on where they differ.
    pub fn same(&self, other: &TokenHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl FromStr for TokenHash {
    type Err = AccessError;
    fn from_str(s: &str) -> Result<Self, AccessError> {
        Self::parse(s)
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// A token with what it may do.
#[derive(Debug, Clone)]
pub struct TokenRule {
    /// Its name in `gitstead.toml`.
    pub id: String,
    /// The hash of its text.
    pub hash: TokenHash,
    /// What it may do, where. Several grants add up.
    pub grants: Vec<Grant>,
}

/// What every token text begins with, so that scanners for leaked secrets can find them.
pub const TOKEN_PREFIX: &str = "gst_";

/// A token's text from random bytes: `gst_` and lower-case base 32 (RFC 4648, no padding). 25 bytes give 200 bits in 40 characters.
pub fn token_text(random: &[u8; 25]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::from(TOKEN_PREFIX);
    for group in random.chunks_exact(5) {
        let bits = group.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        for shift in (0..8).rev() {
            let index = usize::try_from(bits >> (shift * 5) & 31).unwrap_or(0);
            text.push(char::from(ALPHABET[index]));
        }
    }
    text
}

/// What a client showed of itself.
#[derive(Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Credential {
    /// Nothing.
    #[default]
    None,
    /// A token, whichever scheme it came by.
    Token(String),
    /// The trusted proxy's word for who it is.
    ProxyUser(String),
    /// Something that cannot be read, or that is not one of ours: never taken for nothing.
    Unusable,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::None => "None",
            Credential::Token(_) => "Token(…)",
            Credential::ProxyUser(_) => "ProxyUser(…)",
            Credential::Unusable => "Unusable",
        })
    }
}

impl Credential {
    /// Reads the values of the `Authorization` headers of one request: `Bearer <token>`, or `Basic` with the token as the password (any user name)
    /// or, without a password, as the user name. Two headers are no header.
    pub fn from_authorization<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut values = values.into_iter();
        let Some(value) = values.next() else {
            return Credential::None;
        };
        if values.next().is_some() {
            return Credential::Unusable;
        }
        Self::from_scheme(value).unwrap_or(Credential::Unusable)
    }

    fn from_scheme(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?.trim();
        let (scheme, rest) = text.split_once(' ')?;
        let rest = rest.trim();
        let token = if scheme.eq_ignore_ascii_case("bearer") {
            rest.to_owned()
        } else if scheme.eq_ignore_ascii_case("basic") {
            let bytes = base64::engine::general_purpose::STANDARD.decode(rest).ok()?;
            let pair = String::from_utf8(bytes).ok()?;
            let (user, password) = pair.split_once(':')?;
            if password.is_empty() { user } else { password }.to_owned()
        } else {
            return None;
        };
        (!token.is_empty()).then_some(Credential::Token(token))
    }

    /// Reads the values of the trusted user header of one request that came *from loopback*; callers give nothing for any other peer. An empty
    /// value is no user; two values, or one with control characters, are an error.
    pub fn from_user_header<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut values = values.into_iter();
        let Some(value) = values.next() else {
            return Credential::None;
        };
        if values.next().is_some() {
            return Credential::Unusable;
        }
        match std::str::from_utf8(value).map(str::trim) {
            Ok("") => Credential::None,
            Ok(name) if name.len() <= 256 && !name.chars().any(|c| c.is_control() || matches!(c, '<' | '>')) => {
                Credential::ProxyUser(name.to_owned())
            }
            _ => Credential::Unusable,
        }
    }
}

/// Which of the house's doors a request is at, with what the repository's configuration says of that door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Route {
    /// `git-upload-pack`, its advertisement included.
    UploadPack {
        /// `http.uploadpack`, true when unset.
        enabled: bool,
    },
    /// `git-receive-pack`, its advertisement included.
    ReceivePack {
        /// `http.receivepack`, as set or not set.
        setting: Option<bool>,
    },
    /// The files of the dumb protocol.
    DumbFile {
        /// `http.getanyfile`, true when unset.
        enabled: bool,
    },
    /// Reading about a repository through the control API.
    Inspect,
    /// Creating, changing or deleting a repository through the control API.
    Manage,
}

impl Route {
    /// What the route does to the repository.
    pub fn action(self) -> Action {
        match self {
            Route::UploadPack { .. } | Route::DumbFile { .. } | Route::Inspect => Action::Read,
            Route::ReceivePack { .. } => Action::Write,
            Route::Manage => Action::Admin,
        }
    }
}

/// Whether there is something to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The repository is there.
    Present,
    /// It is not, and the request would create it.
    Creatable,
    /// It is not.
    Absent,
}

/// One request, as far as access is concerned.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The repository, as the URL names it.
    pub repo: &'a RepoName,
    /// The door.
    pub route: Route,
    /// Whether the repository is there.
    pub presence: Presence,
    /// Whether the request was made on this machine: what [`speaks_locally`] says.
    pub local: bool,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead.
    Allow,
    /// 401, with a challenge.
    NeedUser,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
}

/// The rules of the house. Build it once from the configuration; it does not change while serving.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The tokens.
    pub tokens: Vec<TokenRule>,
    /// Whether a proxy on loopback tells us users.
    pub trusted_header: bool,
    /// Whether anyone may read everything.
    pub anonymous_read: bool,
    /// Whether, with nothing configured, whoever reaches us may fetch and push as if from this machine.
    pub insecure_open: bool,
}

impl Rules {
    /// Whether there is any way to be somebody.
    pub fn authentication_configured(&self) -> bool {
        self.trusted_header || !self.tokens.is_empty()
    }

    /// Who shows this credential. `Err` is a credential that is not good, to be answered by [`Decision::NeedUser`] whatever it was for: a
    /// mistyped token must not look like a missing repository.
    ///
    /// The proxy's word goes first; where no tokens are configured, `Authorization` is between the client and the proxy, and ignored.
    pub fn identify(&self, header: &Credential, authorization: &Credential) -> Result<Principal, Decision> {
        if self.trusted_header {
            match header {
                Credential::ProxyUser(name) => return Ok(Principal::User { name: name.clone() }),
                Credential::None => {}
                _ => return Err(Decision::NeedUser),
            }
        }
        if self.tokens.is_empty() {
            return Ok(Principal::Anonymous);
        }
        match authorization {
            Credential::None => Ok(Principal::Anonymous),
            Credential::Token(text) => self.holder(text).ok_or(Decision::NeedUser),
            _ => Err(Decision::NeedUser),
        }
    }

    fn holder(&self, text: &str) -> Option<Principal> {
        let hash = TokenHash::of(text);
        let mut found = None;
        // Every token is compared, so that the time tells nothing about which one it was.
        for token in &self.tokens {
            if token.hash.same(&hash) {
                found = Some(token);
            }
        }
        found.map(|token| Principal::Token { id: token.id.clone() })
    }

    /// Decides. The only place in the house that does.
    pub fn decide(&self, who: &Principal, ask: &Ask<'_>) -> Decision {
        let read = self.granted(who, ask, Action::Read);
        let switched_off = matches!(
            ask.route,
            Route::UploadPack { enabled: false }
                | Route::DumbFile { enabled: false }
                | Route::ReceivePack { setting: Some(false) }
        );
        if read && switched_off && ask.presence != Presence::Absent {
            // Asking for credentials would only waste the user's time.
            return Decision::Forbidden;
        }
        let may = match ask.route {
            // Opens that repository's push to everybody; what is not there says nothing.
            Route::ReceivePack { setting: Some(true) } if ask.presence == Presence::Present || read => true,
            _ => self.granted(who, ask, ask.route.action()),
        };
        match (may, ask.presence) {
            (true, Presence::Absent) => Decision::NotFound,
            (true, _) if switched_off => Decision::Forbidden,
            (true, _) => Decision::Allow,
            // The identified who may read may know whether it is there; all others are told the same thing in either case.
            (false, Presence::Absent) if read && who != &Principal::Anonymous => Decision::NotFound,
            (false, _) if read && who != &Principal::Anonymous => Decision::Forbidden,
            (false, _) => self.refusal(who),
        }
    }

    /// What those are told who may not even know whether the repository exists.
    fn refusal(&self, who: &Principal) -> Decision {
        match who {
            Principal::Anonymous if self.authentication_configured() => Decision::NeedUser,
            Principal::Anonymous => Decision::Forbidden,
            Principal::Token { .. } | Principal::User { .. } => Decision::NotFound,
        }
    }

    /// What the principal may do by the rules of the house alone, before the repository has its say.
    fn granted(&self, who: &Principal, ask: &Ask<'_>, action: Action) -> bool {
        if action == Action::Read && self.anonymous_read {
            return true;
        }
        match who {
            Principal::Anonymous => {
                let open = ask.local || (self.insecure_open && action != Action::Admin);
                open && !self.authentication_configured()
            }
            Principal::User { .. } => self.trusted_header,
            Principal::Token { id } => self
                .tokens
                .iter()
                .filter(|token| token.id == *id)
                .flat_map(|token| &token.grants)
                .any(|grant| grant.access.allows(action) && grant.pattern.matches(ask.repo)),
        }
    }
}

/// What a request says about where it came from, besides its credentials.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin<'a> {
    /// The peer of the connection.
    pub peer: Option<IpAddr>,
    /// The `Host` header, or the `:authority` of HTTP/2. HTTP/1.0 has none.
    pub host: Option<&'a str>,
    /// The `Origin` header: browsers send it, git does not.
    pub origin: Option<&'a str>,
    /// Whether there is a header that only proxies add ([`tells_of_a_proxy`]): the peer is then a proxy, and the client is not known.
    pub forwarded: bool,
    /// Whether the request is one of HTTP/1.0. Programs on this machine speak 1.1; what a proxy makes of a stranger's request with its settings untouched
    /// is often 1.0, with the address of this server as `Host` and nothing else that would tell.
    pub http_1_0: bool,
    /// Host names beside the local ones that belong to this server (`hosts` in `gitstead.toml`).
    pub own_hosts: &'a [String],
}

/// Whether a request was made on this machine, by a program that meant to.
///
/// A loopback peer alone does not say so. A web page in the user's browser speaks from loopback too: its requests carry a foreign `Origin`, or, after DNS
/// rebinding, a `Host` that is a public name. A rebound name has a dot, or it could not be an attacker's; addresses and one-label names cannot be
/// rebound and pass. A proxy on the same machine speaks from loopback for the whole world, and shows by what it adds.
pub fn speaks_locally(from: &Origin<'_>) -> bool {
    let loopback = from.peer.is_some_and(|peer| peer.to_canonical().is_loopback());
    let host_ok = from.host.is_none_or(|host| host_is_ours(host, from.own_hosts));
    let origin_ok = from.origin.is_none_or(|origin| {
        let authority = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        match (authority, from.host) {
            (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host),
            _ => false,
        }
    });
    loopback && host_ok && origin_ok && !from.forwarded && !from.http_1_0
}

/// Whether a header of this name, in lower case, says that a request has come through a proxy.
pub fn tells_of_a_proxy(header: &str) -> bool {
    let exact = [
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "true-client-ip",
        "fastly-client-ip",
    ];
    let begun = ["x-forwarded", "x-original-", "x-envoy-", "x-amzn-", "cf-"];
    exact.contains(&header) || begun.iter().any(|begin| header.starts_with(begin))
}

fn host_is_ours(host: &str, own: &[String]) -> bool {
    let name = if let Some(rest) = host.strip_prefix('[') {
        return rest
            .split_once(']')
            .is_some_and(|(address, _)| address.parse::<std::net::Ipv6Addr>().is_ok());
    } else {
        host.split_once(':').map_or(host, |(name, _)| name)
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let plain = !name.contains('.') || name.ends_with(".localhost");
    plain || name.parse::<std::net::Ipv4Addr>().is_ok() || own.iter().any(|o| o.eq_ignore_ascii_case(&name))
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
