//! Conversations with agents on the command line, over the server that has them.

use std::io::{self, Read as _, Write as _};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    agent::path,
    client::{Client, harmless},
    remote::Remote,
    told::{harmless_lines, harmless_piece, shown},
};

/// Bytes of a question that are read; the server takes no longer ones.
const QUESTION: u64 = 1 << 20;
/// Sessions in one answer.
const PAGE: usize = 100;
/// Bytes of a text that an event of the server's may have cut.
const LONG: usize = 16 << 10;
/// What an event of the server's ends with whose text is longer than it may be.
const CUT: char = '…';

const EXAMPLES: &str = "\
Examples:
  gitstead session ask claude-1 new 'What is in report.md?'
  gitstead session ask claude-1 last 'Shorter, please'
  gitstead session ask --json claude-1 last 'And now?' | jq -r 'select(.type == \"answer\").result'
  git diff | gitstead session ask claude-1 new
  gitstead session permissions list claude-1 last
  gitstead session permissions allow claude-1 last 4711
  gitstead session history claude-1 last
  gitstead session close claude-1 last";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Session {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    command: SessionCommand,
}

#[derive(Debug, Subcommand)]
enum SessionCommand {
    /// Begin a session with an agent like that one, and print its id.
    Create {
        /// The agent
        agent: String,
    },
    /// List one's own sessions with an agent, newest first: id, state, questions, when it was asked the last time.
    List {
        /// The agent
        agent: String,
        /// How many
        #[arg(long, short = 'n', value_name = "N", default_value_t = PAGE)]
        limit: usize,
    },
    /// Show one session.
    Show(Which),
    /// Ask something, and print what the agent says as it comes. What it does and wants to be allowed goes to standard error. Interrupted, so is the agent.
    Ask {
        /// The agent
        agent: String,
        /// The session: its id, 'last' for one's newest, or 'new'
        session: String,
        /// The question [default: standard input]
        message: Option<String>,
    },
    /// Print what was said, oldest first.
    History {
        #[command(flatten)]
        which: Which,
        /// How many of the last messages
        #[arg(long, short = 'n', value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
        messages: u16,
        /// Those before this place, which an earlier call has named
        #[arg(long, value_name = "PLACE")]
        before: Option<String>,
    },
    /// Close a session: what is done in it is stopped, what was said is forgotten. Checkpoints stay.
    Close(Which),
    /// Stop what the agent does for the last question.
    Interrupt(Which),
    /// What the agent wants to be allowed.
    #[command(subcommand)]
    Permissions(Permissions),
}

#[derive(Debug, Subcommand)]
enum Permissions {
    /// List what waits for an answer: request, tool, what it is about.
    List(Which),
    /// Allow something.
    Allow {
        #[command(flatten)]
        which: Which,
        /// The request
        request: String,
        /// And whatever the agent takes for the same from now on
        #[arg(long)]
        always: bool,
    },
    /// Refuse something.
    Deny {
        #[command(flatten)]
        which: Which,
        /// The request
        request: String,
        /// Why, for the agent
        #[arg(long, short, value_name = "TEXT")]
        message: Option<String>,
        /// Have it stop what it does for this question, too
        #[arg(long)]
        stop: bool,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// The agent
    agent: String,
    /// The session: its id, or 'last' for one's newest
    session: String,
}

impl Which {
    fn path(&self, client: &Client, rest: &str) -> anyhow::Result<String> {
        Ok(session_path(
            &self.agent,
            &id_of(client, &self.agent, &self.session)?,
            rest,
        ))
    }
}

/// A value in a query.
fn value(text: &str) -> String {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    text.chars().map(|c| if sound(c) { c } else { '!' }).collect()
}

/// A word of a path. What is none of a session's or question's must only not become another path.
fn segment(text: &str) -> String {
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.chars().map(|c| if sound(c) { c } else { '!' }).collect()
}

fn session_path(agent: &str, id: &str, rest: &str) -> String {
    path(agent, &format!("/sessions/{}{rest}", segment(id)))
}

fn id_of(client: &Client, agent: &str, told: &str) -> anyhow::Result<String> {
    if told != "last" {
        return Ok(told.to_owned());
    }
    let list = client.ask("GET", &path(agent, "/sessions?limit=1"), None)?;
    let id = list["sessions"][0]["id"].as_str();
    Ok(id
        .context("there is no session with this agent yet; 'new' begins one")?
        .to_owned())
}

fn begin(client: &Client, agent: &str) -> anyhow::Result<Value> {
    client.ask("POST", &path(agent, "/sessions"), None)
}

fn id_in(session: &Value) -> anyhow::Result<String> {
    let id = session["id"].as_str().context("the server names no session")?;
    Ok(harmless(id))
}

pub(super) fn run(wanted: &Session) -> anyhow::Result<()> {
    let client = wanted.remote.client()?;
    let as_json = wanted.remote.json;
    match &wanted.command {
        SessionCommand::Create { agent } => {
            let made = begin(&client, agent)?;
            match as_json {
                true => super::print_json(&made),
                false => super::print(&format!("{}\n", id_in(&made)?)),
            }
        }
        SessionCommand::List { agent, limit } => list(&client, agent, *limit, as_json),
        SessionCommand::Show(which) => {
            let session = client.ask("GET", &which.path(&client, "")?, None)?;
            match as_json {
                true => super::print_json(&session),
                false => super::print(&shown(&session)),
            }
        }
        SessionCommand::Ask {
            agent,
            session,
            message,
        } => ask(&client, agent, session, message.as_deref(), as_json),
        SessionCommand::History {
            which,
            messages,
            before,
        } => history(&client, which, *messages, before.as_deref(), as_json),
        SessionCommand::Close(which) => client.ask("DELETE", &which.path(&client, "")?, None).map(drop),
        SessionCommand::Interrupt(which) => client.ask("POST", &which.path(&client, "/interrupt")?, None).map(drop),
        SessionCommand::Permissions(Permissions::List(which)) => permissions(&client, which, as_json),
        SessionCommand::Permissions(Permissions::Allow { which, request, always }) => {
            let decision = if *always { "always" } else { "allow" };
            decide(&client, which, request, &json!({ "decision": decision }))
        }
        SessionCommand::Permissions(Permissions::Deny {
            which,
            request,
            message,
            stop,
        }) => {
            let body = json!({ "decision": "deny", "message": message, "stop": stop });
            decide(&client, which, request, &body)
        }
    }
}

fn list(client: &Client, agent: &str, limit: usize, as_json: bool) -> anyhow::Result<()> {
    let (mut sessions, mut cursor) = (Vec::new(), None::<String>);
    while sessions.len() < limit {
        let most = (limit - sessions.len()).min(PAGE);
        let after = cursor.map_or_else(String::new, |cursor| format!("&cursor={}", value(&cursor)));
        let mut page = client.ask("GET", &path(agent, &format!("/sessions?limit={most}{after}")), None)?;
        if let Value::Array(more) = page["sessions"].take() {
            sessions.extend(more);
        }
        cursor = page["cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    if as_json {
        return super::print_json(&json!({ "sessions": sessions, "cursor": cursor }));
    }
    let mut text = String::new();
    for session in &sessions {
        let word = |key: &str| harmless(session[key].as_str().unwrap_or("-"));
        let state = if session["busy"] == true {
            "busy".to_owned()
        } else {
            word("state")
        };
        let line = format!(
            "{}\t{state}\t{}\t{}\n",
            word("id"),
            session["questions"],
            word("asked_at")
        );
        text.push_str(&line);
    }
    super::print(&text)
}

fn permissions(client: &Client, which: &Which, as_json: bool) -> anyhow::Result<()> {
    let open = client.ask("GET", &which.path(client, "/permissions")?, None)?;
    if as_json {
        return super::print_json(&open);
    }
    let mut text = String::new();
    for one in open["permissions"].as_array().into_iter().flatten() {
        let word = |key: &str| harmless(one[key].as_str().unwrap_or_default());
        text.push_str(&format!("{}\t{}\t{}\n", word("request"), word("tool"), word("summary")));
    }
    super::print(&text)
}

fn decide(client: &Client, which: &Which, request: &str, body: &Value) -> anyhow::Result<()> {
    let target = which.path(client, &format!("/permissions/{}", segment(request)))?;
    client.ask("POST", &target, Some(body)).map(drop)
}

fn history(client: &Client, which: &Which, messages: u16, before: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    let cursor = before.map_or_else(String::new, |place| format!("&cursor={}", value(place)));
    let target = which.path(client, &format!("/history?limit={messages}{cursor}"))?;
    let page = client.ask("GET", &target, None)?;
    if as_json {
        return super::print_json(&page);
    }
    let mut text = String::new();
    for message in page["messages"].as_array().into_iter().flatten() {
        let word = |key: &str| message[key].as_str().unwrap_or_default();
        let head = harmless(format!("{}  {}", word("role"), word("timestamp")).trim_end());
        text.push_str(&format!("{head}\n{}\n\n", harmless_lines(word("text"))));
    }
    if let Some(older) = page["cursor"].as_str() {
        text.push_str(&format!("older: --before {}\n", harmless(older)));
    }
    super::print(&text)
}

fn ask(client: &Client, agent: &str, session: &str, message: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    let message = match message {
        Some(message) => message.to_owned(),
        None => {
            let mut text = String::new();
            let read = io::stdin().lock().take(QUESTION).read_to_string(&mut text);
            read.context("read the question from standard input")?;
            text
        }
    };
    let id = match session {
        "new" => {
            let id = id_in(&begin(client, agent)?)?;
            let _ = writeln!(io::stderr(), "session {id}");
            id
        }
        told => id_of(client, agent, told)?,
    };
    let target = session_path(agent, &id, "/ask");
    let answer = client.send(
        "POST",
        &target,
        Some(&json!({ "message": message })),
        "text/event-stream",
    )?;
    let mut told = Told::default();
    answer.events(|kind, event| {
        if as_json {
            let mut event = event.clone();
            if let Value::Object(members) = &mut event {
                members.entry("type").or_insert_with(|| json!(kind));
            }
            super::print(&format!("{event}\n"))?;
        }
        told.take(kind, event);
        if !as_json {
            super::print(&std::mem::take(&mut told.out))?;
            let _ = io::stderr().write_all(std::mem::take(&mut told.err).as_bytes());
        }
        Ok(told.end.is_none())
    })?;
    match told.end {
        Some(Ok(())) => Ok(()),
        Some(Err(why)) => bail!("{why}"),
        None => bail!("the server has ended the connection before there was an answer"),
    }
}

/// What is told to whoever waits for an answer.
#[derive(Debug, Default)]
struct Told {
    /// What the agent said at last, as its event has it.
    said: String,
    /// Whether it is saying something in pieces.
    is_saying: bool,
    /// How it has ended.
    end: Option<Result<(), String>>,
    out: String,
    err: String,
}

impl Told {
    fn take(&mut self, kind: &str, event: &Value) {
        let word = |key: &str| event[key].as_str().unwrap_or_default();
        let is_its_word = event["thought"] != true && event["parent"].is_null();
        let is_piece = kind == "piece" && is_its_word;
        match (self.is_saying, is_piece) {
            (true, false) => self.out.push('\n'),
            (false, true) => self.said.clear(),
            _ => {}
        }
        self.is_saying = is_piece;
        match kind {
            "piece" if is_piece => {
                self.said.push_str(word("text"));
                self.out.push_str(&harmless_piece(word("text")));
            }
            // What it thinks, and what others say to it, is in the events.
            "said" if event["thought"] != true && event["parent"].is_null() => {
                self.said = word("text").to_owned();
                let cut = self.said.len() >= LONG && self.said.ends_with(CUT);
                let text = if cut {
                    self.said.trim_end_matches(CUT)
                } else {
                    &self.said
                };
                self.out.push_str(&harmless_lines(text));
                // The rest of it comes with the answer.
                if !cut {
                    self.out.push('\n');
                }
            }
            "tool_started" => self.note(&format!("{}: {}", word("tool"), word("summary"))),
            "checkpoint" => {
                let commit: String = word("commit").chars().take(12).collect();
                self.note(&format!("{commit} {}", word("subject")));
            }
            "checkpoint_failed" | "trouble" => self.note(word("text")),
            "permission" => self.note(&format!(
                "wants to be allowed: {}: {} (request {})",
                word("tool"),
                word("summary"),
                word("request")
            )),
            "permission_decided" => {
                let why = event["rule"]["text"].as_str().or(event["why"].as_str());
                let why = why.map_or_else(String::new, |why| format!(" ({})", harmless(why)));
                self.note(&format!("request {}: {}{why}", word("request"), word("decision")));
            }
            "permission_gone" => self.note(&format!("request {}: {}", word("request"), word("why"))),
            "answer" => {
                self.rest(word("result"));
                self.end = Some(match event["is_error"] == true {
                    true => Err(format!("the turn ended: {}", harmless(word("outcome")))),
                    false => Ok(()),
                });
            }
            "error" => {
                let text = event["error"]["message"].as_str().unwrap_or("it could not be asked");
                self.end = Some(Err(harmless(text)));
            }
            _ => {}
        }
    }

    /// What of the answer was not among what was said.
    fn rest(&mut self, result: &str) {
        if let Some(begun) = self.said.strip_suffix(CUT).filter(|_| self.said.len() >= LONG) {
            let rest = result.strip_prefix(begun).unwrap_or_default();
            self.out.push_str(&harmless_lines(rest));
            self.out.push('\n');
        } else if !result.is_empty() && result.trim_end() != self.said.trim_end() {
            self.out.push_str(&harmless_lines(result));
            self.out.push('\n');
        }
    }

    fn note(&mut self, text: &str) {
        self.err.push_str(&format!("  {}\n", harmless(text)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> (&'static str, Value) {
        ("said", json!({ "text": text, "thought": false, "parent": null }))
    }

    fn out(events: &[(&str, Value)]) -> Told {
        let mut told = Told::default();
        for (kind, event) in events {
            told.take(kind, event);
        }
        told
    }

    #[test]
    fn what_comes_in_pieces_is_printed_as_it_comes_and_once() {
        let piece = |text: &str| ("piece", json!({ "text": text, "thought": false, "parent": null }));
        let thought = ("piece", json!({ "text": "hm", "thought": true, "parent": null }));
        let tool = ("tool_started", json!({ "tool": "Bash", "summary": "x" }));
        let answer = ("answer", json!({ "result": "All\ndone.", "is_error": false }));
        let told = out(&[
            thought,
            piece("I "),
            piece("look."),
            tool,
            piece("All\n"),
            piece("done."),
            answer,
        ]);
        assert_eq!(told.out, "I look.\nAll\ndone.\n");
    }

    #[test]
    fn an_answer_that_was_said_is_not_said_again() {
        let answer = |result: &str| ("answer", json!({ "result": result, "is_error": false }));
        assert_eq!(out(&[said("one"), said("two\n"), answer("two")]).out, "one\ntwo\n");
        assert_eq!(out(&[answer("two")]).out, "two\n");
        assert_eq!(out(&[said("one"), answer("two")]).out, "one\ntwo\n");
        let long = "x".repeat(LONG + 5);
        let cut = format!("{}{CUT}", &long[..LONG]);
        assert_eq!(out(&[said(&cut), answer(&long)]).out, format!("{long}\n"));
        assert_eq!(out(&[said("well …"), answer("well …")]).out, "well …\n");
        let thought = json!({ "text": "hm", "thought": true, "parent": null });
        let others = json!({ "text": "hm", "thought": false, "parent": "t1" });
        assert_eq!(out(&[("said", thought), ("said", others)]).out, "");
    }

    #[test]
    fn nothing_that_was_told_gives_orders_to_a_terminal() {
        let evil = "a\u{1b}[2Jb";
        let told = out(&[
            said(evil),
            ("tool_started", json!({ "tool": evil, "summary": evil })),
            ("error", json!({ "error": { "message": evil } })),
        ]);
        let why = told.end.expect("it has ended").expect_err("with an error");
        let all = [told.out, told.err, why].concat();
        assert!(!all.contains('\u{1b}') && all.contains("[2Jb"), "{all}");
    }

    #[test]
    fn what_is_no_word_of_a_path_is_no_other_path() {
        assert_eq!(segment("../x?y=1#z"), "!!!x!y!1!z");
        assert_eq!(session_path("it", "a-b", "/ask"), "/api/v1/agents/it/sessions/a-b/ask");
    }
}
