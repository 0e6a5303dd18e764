//! The session files of Claude Code: `<configuration>/projects/<directory>/<session>.jsonl`, a line for everything that happened, each naming the one before it. They are a tree: who
//! goes back and says something else begins a branch, subagents have branches of their own, and a compaction begins anew.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use crate::dialect::{
    bounded_to,
    json::{self, Json},
};

/// Lines of a file that are known of. A file of a million lines is a few gigabytes.
const LINES: usize = 1 << 20;
/// Bytes of a text that are looked at to see whether there is one.
const GLANCE: usize = 256;
/// Bytes of a message's id, which is a UUID; lines with longer ones are passed over.
const ID: usize = 64;
/// Bytes of a time.
const TIME: usize = 40;
/// UTF-16 units of a directory's name before it is cut.
const NAME: usize = 200;

/// What a session file holds, as far as it is needed to find one's way in it: 64 bytes for each line, and no text.
///
/// Give it all lines of the file, then ask for a page of the conversation, and read those lines again with [`HistoryMessage::read`].
#[derive(Debug, Default)]
pub struct ClaudeHistory {
    nodes: Vec<Node>,
    by_id: HashMap<u128, usize>,
}

#[derive(Debug)]
struct Node {
    id: u128,
    parent: Option<u128>,
    place: HistoryPlace,
    /// It is one of the conversation's own, and not of a subagent's or of the agent's machinery.
    is_message: bool,
    /// It has something to read.
    is_shown: bool,
    /// It tells what was compacted away, for the model.
    is_summary: bool,
}

/// Where a line is in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryPlace {
    /// Bytes before it.
    pub offset: u64,
    /// Its bytes, without the line end.
    pub length: u64,
}

/// A part of a conversation, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryPage {
    /// Where its messages are.
    pub places: Vec<HistoryPlace>,
    /// There are older ones.
    pub has_older: bool,
}

impl ClaudeHistory {
    /// One line of the file, without its end, that begins at `offset`. What is no JSON object is passed over, a torn last line among them.
    pub fn line(&mut self, offset: u64, line: &[u8]) {
        let Some(object) = json::object(line, GLANCE).filter(|_| self.nodes.len() < LINES) else {
            return;
        };
        let told = &object.json;
        let Some(id) = told.at("uuid").some_text().filter(|id| id.len() <= ID) else {
            return;
        };
        let is = |key: &str| told.at(key).is_true();
        let is_message = matches!(told.at("type").str(), "user" | "assistant")
            && !is("isSidechain")
            && !is("isMeta")
            && told.at("teamName").some_text().is_none();
        let has_text = match told.path(&["message", "content"]) {
            Json::List(parts) => parts.iter().any(|part| !text_of(part).is_empty()),
            text => !text.str().trim().is_empty(),
        };
        // After a compaction a line says what came before it in another member.
        let parent = told.at("parentUuid").some_text();
        let parent = parent.or(told.at("logicalParentUuid").some_text());
        let node = Node {
            id: key(id),
            parent: parent.map(key),
            place: HistoryPlace {
                offset,
                length: line.len() as u64,
            },
            is_message,
            is_shown: is_message && has_text,
            is_summary: is("isCompactSummary"),
        };
        self.by_id.insert(node.id, self.nodes.len());
        self.nodes.push(node);
    }

    /// At most `most` messages of the conversation as it stands, those next before the one with the id `before`, else the last ones. `None` if there is no such message in it (any more).
    pub fn page(&self, before: Option<&str>, most: usize) -> Option<HistoryPage> {
        let mut newest_first = self.conversation();
        if let Some(before) = before.map(key) {
            let at = newest_first.iter().position(|node| node.id == before)?;
            newest_first.drain(..=at);
        }
        // A summary stands for what is not there.
        let oldest = newest_first.iter().rposition(|node| node.is_shown && !node.is_summary);
        let shown =
            |n: usize, node: &Node| node.is_shown && (!node.is_summary || oldest.is_none_or(|oldest| n > oldest));
        let all: Vec<&Node> = newest_first
            .iter()
            .enumerate()
            .filter(|(n, node)| shown(*n, node))
            .map(|(_, node)| *node)
            .collect();
        let mut places: Vec<_> = all.iter().take(most).map(|node| node.place).collect();
        places.reverse();
        Some(HistoryPage {
            places,
            has_older: all.len() > most,
        })
    }

    /// From the last message to the first, each the one before the other.
    fn conversation(&self) -> Vec<&Node> {
        let mut chain = Vec::new();
        // Lines are only ever added: the last message is the end of the branch that is gone on with.
        let mut at = self.nodes.iter().rposition(|node| node.is_message);
        let mut seen = vec![false; self.nodes.len()];
        while let Some(n) = at {
            let (Some(node), Some(seen)) = (self.nodes.get(n), seen.get_mut(n)) else {
                break;
            };
            if std::mem::replace(seen, true) {
                break;
            }
            chain.push(node);
            at = node.parent.and_then(|parent| self.by_id.get(&parent).copied());
        }
        chain
    }
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct HistoryMessage {
    /// The agent's id of it.
    pub id: String,
    /// `user` or `assistant`.
    pub role: String,
    /// What was said, without the traffic of tools; cut at so many bytes.
    pub text: String,
    /// When, as the agent writes it, if that looks like a time.
    pub at: Option<String>,
}

impl HistoryMessage {
    /// Reads a line that a [`HistoryPage`] names. `None` if it is something else.
    pub fn read(line: &[u8], text_bytes: usize) -> Option<Self> {
        let object = json::object(line, text_bytes)?;
        let told = &object.json;
        let text = match told.path(&["message", "content"]) {
            Json::List(parts) => {
                let texts: Vec<&str> = parts.iter().map(text_of).filter(|text| !text.is_empty()).collect();
                texts.join("\n")
            }
            text => text.str().to_owned(),
        };
        Some(HistoryMessage {
            id: told.at("uuid").some_text().filter(|id| id.len() <= ID)?.to_owned(),
            role: told.at("type").some_text()?.to_owned(),
            text: bounded_to(&text, text_bytes),
            at: told
                .at("timestamp")
                .some_text()
                .filter(|at| is_time(at))
                .map(str::to_owned),
        })
    }
}

/// Whether a text can be a time as RFC 3339 writes it.
fn is_time(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_digit() || b"-:.+TtZz ".contains(&b);
    text.len() <= TIME && text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(is_part)
}

fn text_of(part: &Json) -> &str {
    match part.at("type").str() {
        "text" => part.at("text").str().trim(),
        _ => "",
    }
}

/// An id as a number: a UUID as it is, anything else by its hash.
fn key(id: &str) -> u128 {
    let digits: String = id.chars().filter(|c| *c != '-').collect();
    if digits.len() == 32
        && let Ok(number) = u128::from_str_radix(&digits, 16)
    {
        return number;
    }
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    u128::from(hasher.finish())
}

/// Whether a text is a session's id as Claude Code writes it: 8-4-4-4-12 hexadecimal digits and nothing else.
pub fn is_claude_session(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

/// Whether Claude Code keeps the sessions of an agent that works in `cwd` in a directory of this name. `cwd` has no links in it.
///
/// Everything but ASCII letters and digits becomes `-`, a unit of UTF-16 at a time; what is longer than 200 is cut, and a hash follows, which differs between its versions. Characters are composed
/// before (NFC), as far as the version does that.
pub fn is_claude_project(directory: &str, cwd: &str) -> bool {
    let composed = gix::utils::str::precompose_path(std::path::Path::new(cwd).into());
    let composed = composed.to_str().filter(|composed| *composed != cwd);
    is_named(directory, cwd) || composed.is_some_and(|composed| is_named(directory, composed))
}

fn is_named(directory: &str, cwd: &str) -> bool {
    let mut name = String::new();
    for c in cwd.chars() {
        match c.is_ascii_alphanumeric() {
            true => name.push(c),
            false => name.extend(std::iter::repeat_n('-', c.len_utf16())),
        }
    }
    if name.len() <= NAME {
        return directory == name;
    }
    let rest = directory.strip_prefix(name.get(..NAME).unwrap_or_default());
    rest.and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|hash| !hash.is_empty() && hash.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_looks_like_one_and_an_id_is_short() {
        let read = |id: &str, at: &str| {
            let line = format!(r#"{{"type":"user","uuid":"{id}","timestamp":"{at}","message":{{"content":"x"}}}}"#);
            HistoryMessage::read(line.as_bytes(), 100)
        };
        let at = |text: &str| read("u", text).expect("a message").at;
        assert_eq!(
            at("2026-01-01T00:00:01.000Z").as_deref(),
            Some("2026-01-01T00:00:01.000Z")
        );
        assert_eq!(
            at("2026-01-01T00:00:01+02:00").as_deref(),
            Some("2026-01-01T00:00:01+02:00")
        );
        for text in ["s3cret", "2026 horse", &"1".repeat(41), "-1"] {
            assert_eq!(at(text), None, "{text}");
        }
        assert!(read(&"u".repeat(64), "").is_some() && read(&"u".repeat(65), "").is_none());
    }

    fn fixture() -> Vec<u8> {
        std::fs::read(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/fixtures/sessions/claude/c14-branches.jsonl"
        ))
        .unwrap()
    }

    fn indexed(file: &[u8]) -> ClaudeHistory {
        let mut history = ClaudeHistory::default();
        let mut offset = 0;
        for line in file.split(|b| *b == b'\n') {
            history.line(offset, line);
            offset += line.len() as u64 + 1;
        }
        history
    }

    fn read(file: &[u8], page: &HistoryPage) -> Vec<HistoryMessage> {
        let line = |place: &HistoryPlace| &file[place.offset as usize..][..place.length as usize];
        page.places
            .iter()
            .map(|place| HistoryMessage::read(line(place), 1 << 20).expect("a message"))
            .collect()
    }

    fn texts(messages: &[HistoryMessage]) -> Vec<String> {
        messages
            .iter()
            .map(|one| format!("{}: {}", one.role, one.text))
            .collect()
    }

    #[test]
    fn a_conversation_is_the_branch_that_was_gone_on_with() {
        let file = fixture();
        let page = indexed(&file).page(None, 100).expect("the end is there");
        let messages = read(&file, &page);
        assert_eq!(
            texts(&messages),
            [
                "user: Write a poem about rivers.",
                "assistant: I will write it to a file.",
                "assistant: It is in poem.md.",
                "user: Now about the sea.",
                "assistant: The sea is wide.",
                "user: Shorter.",
                "assistant: Sea."
            ]
        );
        assert!(!page.has_older);
        assert_eq!(messages[0].at.as_deref(), Some("2026-01-01T00:00:01.000Z"));
    }

    #[test]
    fn pages_go_back_without_a_gap() {
        let file = fixture();
        let history = indexed(&file);
        let all = read(&file, &history.page(None, 100).unwrap());
        for most in 1..=all.len() {
            let (mut collected, mut before): (Vec<HistoryMessage>, Option<String>) = (Vec::new(), None);
            loop {
                let page = history.page(before.as_deref(), most).expect("the cursor is in it");
                let part = read(&file, &page);
                before = part.first().map(|first| first.id.clone());
                collected.splice(..0, part);
                if !page.has_older {
                    break;
                }
            }
            assert_eq!(collected, all, "{most} at a time");
        }
        assert_eq!(history.page(Some("00000000-0000-4000-8000-0000000000ff"), 5), None);
    }

    #[test]
    fn a_summary_is_shown_where_what_it_sums_up_is_gone() {
        let file = fixture();
        let at = file.windows(16).position(|w| w == b"compact_boundary").unwrap();
        let begin = file[..at].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        let rest = &file[begin..];
        let page = indexed(rest).page(None, 100).unwrap();
        assert_eq!(
            texts(&read(rest, &page)),
            ["user: They wrote a poem.", "user: Shorter.", "assistant: Sea."]
        );
    }

    #[test]
    fn lines_that_go_in_circles_end() {
        let line = |id: &str, parent: &str| {
            format!(r#"{{"type":"user","uuid":"{id}","parentUuid":"{parent}","message":{{"content":"{id}"}}}}"#)
        };
        let file = [line("a", "b"), line("b", "a")].join("\n").into_bytes();
        let page = indexed(&file).page(None, 10).unwrap();
        assert_eq!(texts(&read(&file, &page)), ["user: a", "user: b"]);
        assert_eq!(indexed(b"").page(None, 10), Some(HistoryPage::default()));
        assert_eq!(
            indexed(b"nonsense\n[1]\n{}\n").page(None, 10),
            Some(HistoryPage::default())
        );
    }

    #[test]
    fn directories_are_named_as_the_agent_names_them() {
        assert!(is_claude_project("-w---x", "/wé日.x"));
        assert!(is_claude_project("-w---x", "/w😀.x"), "two units, and the dot");
        assert!(!is_claude_project("-w--x", "/wé日.x"));
        let decomposed = "/we\u{301}日.x";
        assert!(is_claude_project("-w---x", decomposed) && is_claude_project("-we---x", decomposed));
        assert!(!is_claude_project("-w--x", decomposed));
        let long = format!("/{}", "long/".repeat(60));
        let cut = long.replace('/', "-")[..NAME].to_owned();
        assert!(is_claude_project(&format!("{cut}-1x2y3z"), &long));
        assert!(!is_claude_project(&cut, &long));
        assert!(!is_claude_project(&format!("{cut}-"), &long));
        assert!(is_claude_session("0835f0ad-1b2c-4d3e-8f90-0123456789ab"));
        for bad in [
            "",
            "0835f0ad1b2c4d3e8f900123456789ab",
            "{0835f0ad-1b2c-4d3e-8f90-0123456789ab}",
            "urn:uuid:0835f0ad-1b2c-4d3e-8f90-0123456789ab",
            "../../x",
            "0835f0ad-1b2c-4d3e-8f90-0123456789a/",
        ] {
            assert!(!is_claude_session(bad), "{bad}");
        }
    }
}
