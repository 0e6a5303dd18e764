use super::msg::MsgId;
use super::state::Report;
use bstr::ByteSlice;

/// `tree`, `parent`*, `author`, `committer`; then whatever else, an empty line and the message.
pub(super) fn check_commit(data: &[u8], hash_len: usize, report: &mut Report<'_>) {
    let Some(body) = check_header(data, report) else { return };
    let mut rest = data;
    if let Some(value) = rest.strip_prefix(b"tree ") {
        match after_id(value, hash_len) {
            Some(tail) => rest = tail,
            None => {
                report.found(MsgId::BadTreeSha1, "invalid 'tree' line format - bad sha1");
                rest = after_line(value);
            }
        }
    } else {
        report.found(MsgId::MissingTree, "invalid format - expected 'tree' line");
    }
    while let Some(value) = rest.strip_prefix(b"parent ") {
        match after_id(value, hash_len) {
            Some(tail) => rest = tail,
            None => {
                report.found(MsgId::BadParentSha1, "invalid 'parent' line format - bad sha1");
                rest = after_line(value);
            }
        }
    }
    let mut authors = 0usize;
    while let Some(value) = rest.strip_prefix(b"author ") {
        authors += 1;
        rest = check_ident(value, report);
    }
    match authors {
        0 => report.found(MsgId::MissingAuthor, "invalid format - expected 'author' line"),
        1 => {}
        _ => report.found(MsgId::MultipleAuthors, "invalid format - multiple 'author' lines"),
    }
    match rest.strip_prefix(b"committer ") {
        Some(value) => {
            check_ident(value, report);
        }
        None => return report.found(MsgId::MissingCommitter, "invalid format - expected 'committer' line"),
    }
    if body.contains(&0) {
        report.found(MsgId::NulInCommit, "NUL byte in the commit object body");
    }
}

/// `object`, `type`, `tag`, `tagger`, perhaps signatures; an empty line and the message.
pub(super) fn check_tag(data: &[u8], hash_len: usize, report: &mut Report<'_>) {
    if check_header(data, report).is_none() {
        return;
    }
    let Some(value) = data.strip_prefix(b"object ") else {
        return report.found(MsgId::MissingObject, "invalid format - expected 'object' line");
    };
    let rest = match after_id(value, hash_len) {
        Some(tail) => tail,
        None => {
            report.found(MsgId::BadObjectSha1, "invalid 'object' line format - bad sha1");
            after_line(value)
        }
    };
    let Some(value) = rest.strip_prefix(b"type ") else {
        return report.found(MsgId::MissingTypeEntry, "invalid format - expected 'type' line");
    };
    let Some((kind, rest)) = split_line(value) else {
        return report.found(MsgId::MissingType, "invalid format - unexpected end after 'type' line");
    };
    if !matches!(kind, b"commit" | b"tree" | b"blob" | b"tag") {
        report.found(MsgId::BadType, "invalid 'type' value");
        if report.is_refused() {
            return;
        }
    }
    let Some(value) = rest.strip_prefix(b"tag ") else {
        return report.found(MsgId::MissingTagEntry, "invalid format - expected 'tag' line");
    };
    let Some((name, rest)) = split_line(value) else {
        return report.found(MsgId::MissingTag, "invalid format - unexpected end after 'type' line");
    };
    if !is_ref_name_under_tags(name) {
        report.found_quoting(MsgId::BadTagName, "invalid 'tag' name: ", name);
    }
    let rest = match rest.strip_prefix(b"tagger ") {
        Some(value) => check_ident(value, report),
        None => {
            report.found(MsgId::MissingTaggerEntry, "invalid format - expected 'tagger' line");
            rest
        }
    };
    if report.is_refused() {
        return;
    }
    // A signature over another hash's form of the tag is a header; its further lines begin with a space.
    let mut rest = rest;
    while rest.starts_with(b"gpgsig ") || rest.starts_with(b"gpgsig-sha256 ") {
        rest = after_line(rest);
        while rest.first() == Some(&b' ') {
            rest = after_line(rest);
        }
    }
    if rest.first().is_some_and(|&byte| byte != b'\n') {
        report.found(
            MsgId::ExtraHeaderEntry,
            "invalid format - extra header(s) after 'tagger'",
        );
    }
}

/// The header must be text made of whole lines. Gives what follows its empty line.
fn check_header<'a>(data: &'a [u8], report: &mut Report<'_>) -> Option<&'a [u8]> {
    let end = data.find(b"\n\n");
    let header = end.map_or(data, |end| data.get(..end).unwrap_or(data));
    if let Some(at) = header.find_byte(0) {
        report.found(MsgId::NulInHeader, format!("unterminated header: NUL at offset {at}"));
        return None;
    }
    match end {
        Some(end) => data.get(end + 2..),
        None if data.ends_with(b"\n") => Some(&[]),
        None => {
            report.found(MsgId::UnterminatedHeader, "unterminated header");
            None
        }
    }
}

/// `<name> SP '<' <email> '>' SP <seconds> SP <±hhmm> LF`; gives what follows the line.
fn check_ident<'a>(line_and_rest: &'a [u8], report: &mut Report<'_>) -> &'a [u8] {
    let (line, rest) = split_line(line_and_rest).unwrap_or((line_and_rest, &[]));
    if let Err((id, text)) = ident(line) {
        report.found(id, text);
    }
    rest
}

fn ident(line: &[u8]) -> Result<(), (MsgId, &'static str)> {
    const BAD_DATE: (MsgId, &str) = (MsgId::BadDate, "invalid author/committer line - bad date");
    let is_bracket = |&byte: &u8| byte == b'<' || byte == b'>';

    let open = line
        .iter()
        .position(is_bracket)
        .ok_or((MsgId::MissingEmail, "invalid author/committer line - missing email"))?;
    let (name, rest) = line.split_at(open);
    if rest.first() == Some(&b'>') {
        return Err((MsgId::BadName, "invalid author/committer line - bad name"));
    }
    match name.last() {
        None => {
            return Err((
                MsgId::MissingNameBeforeEmail,
                "invalid author/committer line - missing space before email",
            ));
        }
        Some(b' ') => {}
        Some(_) => {
            return Err((
                MsgId::MissingSpaceBeforeEmail,
                "invalid author/committer line - missing space before email",
            ));
        }
    }
    let rest = rest.get(1..).unwrap_or_default();
    let rest = match rest.iter().position(is_bracket) {
        Some(close) if rest.get(close) == Some(&b'>') => rest.get(close + 1..).unwrap_or_default(),
        _ => return Err((MsgId::BadEmail, "invalid author/committer line - bad email")),
    };
    let Some(mut rest) = rest.strip_prefix(b" ") else {
        return Err((
            MsgId::MissingSpaceBeforeDate,
            "invalid author/committer line - missing space before date",
        ));
    };
    while let [b' ' | b'\t', tail @ ..] = rest {
        rest = tail;
    }
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return Err(BAD_DATE);
    }
    let (date, rest) = rest.split_at(digits);
    if date.first() == Some(&b'0') && !(digits == 1 && rest.first() == Some(&b' ')) {
        return Err((
            MsgId::ZeroPaddedDate,
            "invalid author/committer line - zero-padded date",
        ));
    }
    let seconds = date.iter().try_fold(0i64, |sum, &digit| {
        sum.checked_mul(10)?.checked_add(i64::from(digit.wrapping_sub(b'0')))
    });
    if seconds.is_none() {
        return Err((
            MsgId::BadDateOverflow,
            "invalid author/committer line - date causes integer overflow",
        ));
    }
    let Some(zone) = rest.strip_prefix(b" ") else {
        return Err(BAD_DATE);
    };
    match zone {
        [b'+' | b'-', hhmm @ ..] if hhmm.len() == 4 && hhmm.iter().all(u8::is_ascii_digit) => Ok(()),
        _ => Err((MsgId::BadTimezone, "invalid author/committer line - bad time zone")),
    }
}

fn split_line(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = data.iter().position(|&byte| byte == b'\n')?;
    Some((data.get(..end)?, data.get(end + 1..)?))
}

fn after_line(data: &[u8]) -> &[u8] {
    split_line(data).map_or(&[], |(_, rest)| rest)
}

/// What follows a hexadecimal id that fills the rest of its line.
fn after_id(value: &[u8], hash_len: usize) -> Option<&[u8]> {
    let (hex, rest) = value.split_at_checked(hash_len * 2)?;
    if !hex.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    rest.strip_prefix(b"\n")
}

/// git-check-ref-format(1) for `refs/tags/<name>`.
fn is_ref_name_under_tags(name: &[u8]) -> bool {
    let component = |part: &[u8]| !part.is_empty() && !part.starts_with(b".") && !part.ends_with(b".lock");
    name.split(|&byte| byte == b'/').all(component)
        && !name.ends_with(b".")
        && !name.windows(2).any(|pair| pair == b".." || pair == b"@{")
        && !name
            .iter()
            .any(|byte| matches!(byte, 0..=b' ' | 0x7f | b'~' | b'^' | b':' | b'?' | b'*' | b'[' | b'\\'))
}
