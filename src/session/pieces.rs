//! What an agent says while it says it, in pieces.

use serde_json::json;

use super::{host::Desk, shared::cut};
use crate::agent::{Redactor, Sieve};

/// Speakers at a time: the agent, its thoughts, and its subagents.
const STREAMS: usize = 16;
/// Bytes of one text that are kept until it is whole.
const KEPT: usize = 64 << 10;

/// Texts that are being said.
#[derive(Debug, Default)]
pub(super) struct Pieces(Vec<Stream>);

#[derive(Debug)]
struct Stream {
    thought: bool,
    parent: Option<String>,
    said: String,
    /// It is longer than what is kept of it.
    is_cut: bool,
    sieve: Sieve,
}

/// What is left to be told of a text that is whole.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// What was held back, since it could have become a secret.
    rest: Option<String>,
    /// Whether all of it was told in pieces.
    is_whole: bool,
}

impl Stream {
    fn rest(&mut self, redactor: Option<&Redactor>) -> Option<String> {
        let rest = self.sieve.finish(redactor?);
        Some(String::from_utf8_lossy(&rest).into_owned()).filter(|rest| !rest.is_empty())
    }
}

impl Pieces {
    /// What may be shown by now of what is said.
    fn push(&mut self, text: &str, thought: bool, parent: Option<&str>, redactor: Option<&Redactor>) -> Option<String> {
        let is_it = |one: &Stream| one.thought == thought && one.parent.as_deref() == parent;
        let at = match self.0.iter().position(is_it) {
            Some(at) => at,
            None => {
                if self.0.len() >= STREAMS {
                    self.0.remove(0);
                }
                self.0.push(Stream {
                    thought,
                    parent: parent.map(str::to_owned),
                    said: String::new(),
                    is_cut: false,
                    sieve: Sieve::default(),
                });
                self.0.len() - 1
            }
        };
        let stream = &mut self.0[at];
        if stream.said.len() + text.len() <= KEPT {
            stream.said.push_str(text);
        } else {
            stream.is_cut = true;
        }
        let shown = match redactor {
            Some(redactor) => String::from_utf8_lossy(&stream.sieve.push(redactor, text.as_bytes())).into_owned(),
            None => text.to_owned(),
        };
        Some(shown).filter(|shown| !shown.is_empty())
    }

    /// It was said as a whole.
    fn end(&mut self, text: &str, thought: bool, parent: Option<&str>, redactor: Option<&Redactor>) -> Told {
        let is_it = |one: &Stream| one.thought == thought && one.parent.as_deref() == parent;
        let Some(at) = self.0.iter().position(is_it) else {
            return Told::default();
        };
        let mut stream = self.0.remove(at);
        Told {
            rest: stream.rest(redactor),
            is_whole: match stream.is_cut {
                true => text.starts_with(&stream.said),
                false => text == stream.said,
            },
        }
    }
}

impl Desk {
    /// What it says: in pieces where they are wanted, and as a whole, which tells whether it was told in pieces before.
    pub(super) fn hear(&mut self, text: &str, partial: bool, thought: bool, parent: Option<String>) {
        let veil = self.shared.veil.load_full();
        let (events, of) = (&self.shared.events, parent.as_deref());
        let piece = |text: String| json!({ "text": text, "thought": thought, "parent": of });
        if partial {
            if self.shared.spec.partial
                && let Some(text) = self.pieces.push(text, thought, of, veil.as_deref())
            {
                events.push("piece", piece(text));
            }
            return;
        }
        let told = self.pieces.end(text, thought, of, veil.as_deref());
        if let Some(rest) = told.rest {
            events.push("piece", piece(rest));
        }
        let mut data = piece(self.shared.cut(text));
        if told.is_whole {
            data["in_pieces"] = json!(true);
        }
        events.push("said", data);
    }

    /// Something else comes now: what was said in pieces only is whole. `parent` says of whom; nothing of all.
    pub(super) fn say_rest(&mut self, parent: Option<&Option<String>>) {
        let veil = self.shared.veil.load_full();
        let is_over = |stream: &Stream| parent.is_none_or(|parent| *parent == stream.parent);
        let (over, left) = std::mem::take(&mut self.pieces.0).into_iter().partition(is_over);
        self.pieces.0 = left;
        let over: Vec<Stream> = over;
        for mut stream in over {
            let (thought, parent) = (stream.thought, stream.parent.clone());
            if let Some(rest) = stream.rest(veil.as_deref()) {
                let data = json!({ "text": rest, "thought": thought, "parent": parent });
                self.shared.events.push("piece", data);
            }
            let text = cut(&self.shared.hide(&stream.said));
            let data = json!({ "text": text, "thought": thought, "parent": parent, "in_pieces": true });
            self.shared.events.push("said", data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_was_told_in_pieces_is_known_when_it_is_whole() {
        let mut pieces = Pieces::default();
        assert_eq!(pieces.push("All ", false, None, None).as_deref(), Some("All "));
        assert_eq!(pieces.push("hm", true, None, None).as_deref(), Some("hm"));
        assert_eq!(pieces.push("x", false, Some("t1"), None).as_deref(), Some("x"));
        assert_eq!(pieces.push("done.", false, None, None).as_deref(), Some("done."));
        assert!(pieces.end("All done.", false, None, None).is_whole);
        assert!(!pieces.end("All done.", false, None, None).is_whole, "once");
        assert!(!pieces.end("another", true, None, None).is_whole);
        assert!(pieces.end("x", false, Some("t1"), None).is_whole);
        assert!(pieces.0.is_empty());
        let long = "x".repeat(KEPT);
        pieces.push(&long, false, None, None);
        pieces.push("y", false, None, None);
        assert_eq!(pieces.0[0].said.len(), KEPT);
        assert!(pieces.end(&format!("{long}y"), false, None, None).is_whole);
        for n in 0..100 {
            pieces.push("x", false, Some(&n.to_string()), None);
        }
        assert_eq!(pieces.0.len(), STREAMS);
    }

    #[test]
    fn a_secret_that_comes_in_pieces_is_in_none_of_them() {
        let redactor = Redactor::new(["s3cret-value"]).expect("a secret");
        let mut pieces = Pieces::default();
        let mut push = |text: &str| pieces.push(text, false, None, Some(&redactor)).unwrap_or_default();
        assert_eq!(push("it is s3cr"), "it is ");
        assert_eq!(push("et-value, or s3c"), "[redacted], or ");
        let told = pieces.end("it is s3cret-value, or s3c", false, None, Some(&redactor));
        assert_eq!((told.rest.as_deref(), told.is_whole), (Some("s3c"), true));
    }
}
