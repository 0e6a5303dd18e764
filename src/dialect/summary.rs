//! One line about what a tool has done, from what an agent tells about it: the rules for every agent.

use std::{
    borrow::Cow,
    path::{Component, Path, PathBuf},
};

use super::json::Json;

/// Characters of a summary.
const MOST: usize = 72;
/// What stands for a secret.
const MASK: &str = "***";
/// Characters of a text that are looked at for a summary.
const LOOKED_AT: usize = 4096;
/// Files of a change that are named.
const NAMED: usize = 2;

/// A tool, and what it did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// As the checkpoint shall name it.
    pub tool: String,
    /// What it did, in a line; may be empty.
    pub text: String,
    /// The server that a tool of the Model Context Protocol belongs to.
    pub server: Option<String>,
}

/// A value like those of JSON, whoever read it.
pub trait Shape: Sized {
    /// The member of that name.
    fn member(&self, key: &str) -> Option<&Self>;
    /// What it says, if it is a text.
    fn as_text(&self) -> Option<&str>;
    /// What is in it, if it is a list.
    fn items(&self) -> &[Self];
}

impl Shape for serde_json::Value {
    fn member(&self, key: &str) -> Option<&Self> {
        self.get(key)
    }

    fn as_text(&self) -> Option<&str> {
        self.as_str()
    }

    fn items(&self) -> &[Self] {
        self.as_array().map_or(&[], Vec::as_slice)
    }
}

impl Shape for Json {
    fn member(&self, key: &str) -> Option<&Self> {
        Some(self.at(key)).filter(|value| !value.is_null())
    }

    fn as_text(&self) -> Option<&str> {
        self.text()
    }

    fn items(&self) -> &[Self] {
        self.list()
    }
}

/// Says what a tool has done (`response`), or is about to do (no response). Of what it was told only what says what it was about is used: a path, a description, the
/// first line of a command; nothing else of what it was given or answered. `relative` says how a path is called in the workspace.
pub fn summarise<V: Shape>(name: &str, input: &V, response: Option<&V>, relative: &dyn Fn(&str) -> String) -> Summary {
    let text_at = |key: &str| {
        input
            .member(key)
            .and_then(Shape::as_text)
            .filter(|text| !text.is_empty())
    };
    let about = |text: Option<&str>| line(text.unwrap_or_default());
    if let Some((server, tool)) = name.strip_prefix("mcp__").and_then(|rest| rest.split_once("__")) {
        return Summary {
            tool: tool_name(tool),
            text: match text_at("description").or_else(|| text_at("title")) {
                Some(text) => line(text),
                // What else it was told may be anybody's business: at least what it is, and whose.
                None => line(&format!("{server}.{tool}")),
            },
            server: Some(line(server)),
        };
    }
    let path = |verb: &str| {
        let keys = ["file_path", "notebook_path", "path", "filePath"];
        let Some(path) = keys.into_iter().find_map(text_at).map(relative) else {
            return String::new();
        };
        match response {
            Some(_) if !verb.is_empty() => line(&format!("{verb} {path}")),
            _ => line(&path),
        }
    };
    if matches!(name, "apply_patch" | "ApplyPatch") {
        let patch = ["input", "patch", "command"]
            .into_iter()
            .find_map(text_at)
            .unwrap_or_default();
        return Summary {
            tool: "Patch".to_owned(),
            text: changes(patched(patch).map(|(what, path)| (what, relative(path)))),
            server: None,
        };
    }
    let text = match name {
        "Write" => path(
            match response.and_then(|told| told.member("type")).and_then(Shape::as_text) {
                Some("create") => "Created",
                Some("update") => "Updated",
                _ => "Wrote",
            },
        ),
        "Edit" | "MultiEdit" | "NotebookEdit" => {
            let mut text = path("Updated");
            if let Some((added, removed)) = response.and_then(counted)
                && !text.is_empty()
            {
                text = line(&format!("{text} (+{added} -{removed})"));
            }
            text
        }
        "Read" | "NotebookRead" | "LS" => path("Read"),
        "Bash" | "Shell" => about(text_at("description").or_else(|| text_at("command"))),
        "Grep" | "Glob" => about(text_at("pattern")),
        "WebSearch" => about(text_at("query")),
        "WebFetch" => {
            // What is behind it may be anybody's business.
            let url = text_at("url").and_then(|url| url.split(['?', '#']).next());
            about(url)
        }
        _ => about(text_at("description")),
    };
    Summary {
        tool: tool_name(name),
        text,
        server: None,
    }
}

/// What a patch of Codex's own format touches.
fn patched(patch: &str) -> impl Iterator<Item = (&'static str, &str)> {
    let marks = [
        ("add", "*** Add File: "),
        ("update", "*** Update File: "),
        ("delete", "*** Delete File: "),
    ];
    patch.lines().filter_map(move |line| {
        let found = marks
            .iter()
            .find_map(|(what, mark)| Some((*what, line.strip_prefix(mark)?.trim())));
        found.filter(|(_, path)| !path.is_empty())
    })
}

/// A tool's name in a line: what is no name of anything is folded away.
pub fn tool_name(name: &str) -> String {
    let name = line(name);
    match name.as_str() {
        "" => "Tool".to_owned(),
        _ => name,
    }
}

/// Lines that a structured patch adds and removes.
fn counted<V: Shape>(response: &V) -> Option<(usize, usize)> {
    let (mut added, mut removed) = (0, 0);
    for hunk in response.member("structuredPatch")?.items() {
        for line in hunk.member("lines").map_or(&[][..], Shape::items) {
            match line.as_text().and_then(|text| text.bytes().next()) {
                Some(b'+') => added += 1,
                Some(b'-') => removed += 1,
                _ => {}
            }
        }
    }
    (added + removed > 0).then_some((added, removed))
}

/// What files a change touches: `add a, update b (+3)`. Each is what happened to it and how it is called.
pub fn changes<'a>(changed: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut out = String::new();
    let mut more = 0;
    for (at, (what, path)) in changed.into_iter().enumerate() {
        if at >= NAMED {
            more += 1;
            continue;
        }
        if at > 0 {
            out.push_str(", ");
        }
        out.push_str(what);
        out.push(' ');
        out.push_str(&path);
    }
    if more == 0 {
        return line(&out);
    }
    let count = format!(" (+{more})");
    short(&fold(&out), MOST - count.len()) + &count
}

/// A command as somebody would have typed it: of `bash -lc '…'` what is in it.
pub fn command(text: &str) -> String {
    match unwrapped(text) {
        Some(inside) => line(&inside),
        None => line(text),
    }
}

/// What is in the quotes of `bash -lc '…'`, if a command is that and nothing else: three words with blanks between them, of which the first two are written plainly. All of it is looked at, since rules decide about what is found here.
pub(super) fn unwrapped(text: &str) -> Option<String> {
    let blank = |c: char| matches!(c, ' ' | '\t');
    let (shell, rest) = text.trim_matches(blank).split_once(blank)?;
    let (flag, rest) = rest.trim_start_matches(blank).split_once(blank)?;
    match is_shell(shell) && matches!(flag, "-c" | "-lc") {
        true => one_word(rest.trim_start_matches(blank)),
        false => None,
    }
}

/// Whether this is a shell, found as usual or where systems have theirs. A file of that name elsewhere may be anything.
pub(super) fn is_shell(program: &str) -> bool {
    let places = ["/bin/", "/usr/bin/", "/usr/local/bin/"];
    let name = places.iter().find_map(|place| program.strip_prefix(place));
    let name = name.unwrap_or(program);
    matches!(name, "bash" | "sh" | "zsh" | "dash" | "ash" | "ksh")
}

/// Whether no shell makes anything else of this word.
pub(super) fn is_plain(word: &str) -> bool {
    !word.is_empty() && word.chars().all(is_plain_char)
}

fn is_plain_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c)
}

/// What a shell makes of a text that is one word; nothing where it is more than that, or has something in it that the shell replaces.
fn one_word(text: &str) -> Option<String> {
    let mut word = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => loop {
                match chars.next()? {
                    '\'' => break,
                    c => word.push(c),
                }
            },
            '"' => loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => match chars.next()? {
                        c @ ('"' | '\\' | '$' | '`') => word.push(c),
                        '\n' => return None,
                        c => word.extend(['\\', c]),
                    },
                    '$' | '`' => return None,
                    c => word.push(c),
                }
            },
            '\\' => match chars.next()? {
                '\n' => return None,
                c => word.push(c),
            },
            c if is_plain_char(c) => word.push(c),
            _ => return None,
        }
    }
    (!text.is_empty()).then_some(word)
}

/// A path as the workspace knows it, by its letters alone: nothing is looked at.
pub fn relative(path: &str, root: &Path) -> String {
    let mut plain = PathBuf::new();
    for part in root.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain.strip_prefix(root).unwrap_or(&plain).display().to_string()
}

/// The first line with something in it, without secrets and without what a terminal would take for an order, as long as a summary may be.
pub fn line(text: &str) -> String {
    let beginning = super::json::head(text, 4 * LOOKED_AT);
    let plain = without_escapes(beginning);
    let first = plain
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default();
    // Nobody reads the rest.
    let first: String = fold(first).chars().take(LOOKED_AT).collect();
    // A subject that begins so looks like an option to whatever is given it.
    short(masked(&first).trim_start_matches(['-', ' ']), MOST)
}

fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most - 1).collect();
    short.truncate(short.trim_end().len());
    short.push('…');
    short
}

/// Control characters and those that turn the direction of text become spaces.
fn fold(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    let plain: String = text
        .chars()
        .map(|c| if c.is_control() || turns(c) { ' ' } else { c })
        .collect();
    plain.trim().to_owned()
}

/// The text without the sequences that terminals obey (ECMA-48).
pub(super) fn without_escapes(text: &str) -> Cow<'_, str> {
    if !text.contains('\u{1b}') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            out.push(c);
            continue;
        }
        match chars.next() {
            // Parameters, then one letter.
            Some('[') => while chars.next_if(|c| !('@'..='~').contains(c)).is_some() {},
            // Up to a bell or to the end of the string.
            Some(']' | 'P' | 'X' | '^' | '_') => {
                while chars.next_if(|c| !matches!(c, '\u{7}' | '\u{1b}' | '\n')).is_some() {}
                if chars.peek() == Some(&'\u{1b}') {
                    chars.next();
                }
                chars.next_if(|c| matches!(c, '\u{7}' | '\\'));
                continue;
            }
            _ => continue,
        }
        chars.next_if(|c| ('@'..='~').contains(c));
    }
    Cow::Owned(out)
}

/// Writes `***` in place of words that look like secrets: values of variables and options that are called so, tokens of well-known kinds, passwords in URLs.
fn masked(text: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut next = Next::Plain;
    for word in text.split(' ') {
        let bare = word.trim_matches(['"', '\'', '`', ',', ';', ')', '(']);
        match next {
            Next::Until(quote) => {
                if word.ends_with(quote) {
                    next = Next::Plain;
                }
                continue;
            }
            Next::Secret if !word.is_empty() => {
                // `Authorization: Bearer <token>`
                if ["bearer", "basic", "token"].contains(&bare.to_ascii_lowercase().as_str()) {
                    out.push(word.to_owned());
                } else {
                    next = Next::after(word);
                    out.push(MASK.to_owned());
                }
                continue;
            }
            Next::Secret | Next::Plain => {}
        }
        let named = word
            .match_indices(['=', ':'])
            .map(|(at, _)| at)
            .find(|at| is_secret_name(&word[..*at]));
        if let Some(at) = named {
            let (name, value) = word.split_at(at + 1);
            if value.is_empty() {
                next = Next::Secret;
                out.push(word.to_owned());
            } else {
                next = Next::after(value);
                out.push(format!("{name}{MASK}"));
            }
            continue;
        }
        if bare.eq_ignore_ascii_case("bearer") || (bare.starts_with('-') && is_secret_name(bare)) {
            next = Next::Secret;
        }
        out.push(match () {
            () if is_token(bare) => word.replace(bare, MASK),
            () => without_password(word),
        });
    }
    out.join(" ")
}

/// What the next word of a command is.
enum Next {
    Plain,
    /// A secret.
    Secret,
    /// More of a secret, up to this quotation mark.
    Until(char),
}

impl Next {
    /// What comes after a secret that begins so.
    fn after(value: &str) -> Self {
        let quote = value.chars().next().filter(|first| ['"', '\''].contains(first));
        match quote {
            Some(quote) if value.len() == 1 || !value.ends_with(quote) => Next::Until(quote),
            _ => Next::Plain,
        }
    }
}

fn is_secret_name(name: &str) -> bool {
    const WORDS: [&str; 12] = [
        "token",
        "secret",
        "passw",
        "passphrase",
        "pwd",
        "apikey",
        "api_key",
        "api-key",
        "accesskey",
        "access_key",
        "credential",
        "authorization",
    ];
    let name = name
        .rsplit(['"', '\'', ' ', '/', '?', '&'])
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    // PWD is where a shell is.
    name != "pwd" && WORDS.iter().any(|word| name.contains(word)) || name.ends_with("_key") && !name.contains("public")
}

/// Whether it is a token of a well-known kind.
pub(super) fn is_token(word: &str) -> bool {
    const BEGINNINGS: [&str; 16] = [
        "sk-",
        "ghp_",
        "gho_",
        "ghs_",
        "ghu_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "xoxb-",
        "xoxp-",
        "xoxa-",
        "AKIA",
        "ASIA",
        "AIza",
        "npm_",
        "hf_",
    ];
    let word = word.rsplit('=').next().unwrap_or(word);
    let known = word.len() >= 16 && BEGINNINGS.iter().any(|begin| word.starts_with(begin));
    let own = word.len() >= 16 && word.starts_with(crate::base::TOKEN_PREFIX);
    let web_token = word.starts_with("eyJ") && word.len() > 40 && word.matches('.').count() == 2;
    known || own || web_token
}

/// `https://user:password@host` without the password.
fn without_password(word: &str) -> String {
    let hidden = word.split_once("://").and_then(|(scheme, rest)| {
        let (authority, _) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, _) = authority.rsplit_once('@')?;
        let name = user.split_once(':').map_or("", |(name, _)| name);
        let after = rest.get(user.len()..)?;
        Some(match name {
            "" => format!("{scheme}://{MASK}{after}"),
            name => format!("{scheme}://{name}:{MASK}{after}"),
        })
    });
    hidden.unwrap_or_else(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn say(tool: &str, input: Value, response: Value) -> String {
        let relative = |path: &str| relative(path, Path::new("/ws"));
        summarise(tool, &input, Some(&response), &relative).text
    }

    #[test]
    fn an_edit_says_how_much() {
        let patch = json!({"structuredPatch": [{"lines": [" a", "-b", "+c", "+d"]}, {"lines": ["+e", 7]}]});
        assert_eq!(
            say("Edit", json!({"file_path": "/ws/a/../b.md"}), patch),
            "Updated b.md (+3 -1)"
        );
        assert_eq!(
            say("Edit", json!({"file_path": "b.md"}), json!({"structuredPatch": []})),
            "Updated b.md"
        );
    }

    #[test]
    fn what_is_about_to_be_done_has_no_past_tense() {
        let relative = |path: &str| relative(path, Path::new("/ws"));
        let said = summarise("Write", &json!({"file_path": "/ws/report.md"}), None, &relative);
        assert_eq!(said.text, "report.md");
    }

    #[test]
    fn a_patch_says_what_it_touches() {
        let patch = "*** Begin Patch\n*** Add File: new.txt\n+*** Add File: no\n*** Update File: /ws/b.md\n@@\n-x\n*** Delete File: c\n*** End Patch";
        for key in ["input", "command"] {
            assert_eq!(
                say("apply_patch", json!({ key: patch }), Value::Null),
                "add new.txt, update b.md (+1)"
            );
        }
        assert_eq!(say("apply_patch", json!({}), Value::Null), "");
    }

    #[test]
    fn a_command_is_taken_out_of_its_shell() {
        for (given, text) in [
            ("/bin/bash -lc 'echo oops >&2; exit 3'", "echo oops >&2; exit 3"),
            ("bash -lc ls", "ls"),
            (r#"zsh -lc "echo \"a b\" \$x""#, r#"echo "a b" $x"#),
            (r"bash -c 'it'\''s'", "it's"),
            ("bash -lc 'torn", "bash -lc 'torn"),
            ("bash script.sh now", "bash script.sh now"),
            ("python -c 'x'", "python -c 'x'"),
            ("bash -lc 'API_KEY=abcdef run'", "API_KEY=*** run"),
            ("./bash -c 'git status'", "./bash -c 'git status'"),
            ("/tmp/evil/sh -c 'git status'", "/tmp/evil/sh -c 'git status'"),
            ("rm${IFS}x;/sh -c 'git status'", "rm${IFS}x;/sh -c 'git status'"),
            ("bash -c 'git status' ;rm x", "bash -c 'git status' ;rm x"),
            ("bash -c 'git status';rm", "bash -c 'git status';rm"),
            ("bash -c \"git $(rm x)\"", "bash -c \"git $(rm x)\""),
            ("bash -c git*", "bash -c git*"),
            ("/usr/local/bin/zsh\t-c  ls", "ls"),
        ] {
            assert_eq!(command(given), text);
        }
    }

    #[test]
    fn a_change_names_two_files() {
        let of =
            |changed: &[(&'static str, &str)]| changes(changed.iter().map(|(what, path)| (*what, (*path).to_owned())));
        assert_eq!(
            of(&[("add", "new.txt"), ("update", "b.md")]),
            "add new.txt, update b.md"
        );
        assert_eq!(
            of(&[("add", "a"), ("update", "b"), ("delete", "c"), ("add", "d")]),
            "add a, update b (+2)"
        );
        let long = "x".repeat(100);
        let text = of(&[("add", &long), ("add", &long), ("add", "c")]);
        assert!(text.chars().count() <= MOST && text.ends_with("… (+1)"), "{text}");
        assert_eq!(of(&[]), "");
    }

    #[test]
    fn a_line_cannot_pretend_to_be_more_than_one() {
        for (given, text) in [
            ("\u{1b}[31mred\u{1b}[0m \u{1b}]0;title\u{7}plain", "red plain"),
            ("\u{1b}]8;;http://x\u{1b}\\link", "link"),
            ("a\u{202e}b\u{7}c", "a b c"),
            ("a\rAgent: root", "a Agent: root"),
            ("a\nOutcome: ok", "a"),
            ("a\u{2028}b", "a b"),
            ("--force it", "force it"),
            ("- item", "item"),
            ("\u{1b}", ""),
            ("\u{1b}[", ""),
        ] {
            assert_eq!(line(given), text, "{given:?}");
        }
    }

    #[test]
    fn a_summary_says_what_a_tool_was_about() {
        for (tool, input, response, text) in [
            (
                "Write",
                json!({"file_path": "/ws/a/report.md", "content": "x"}),
                json!({"type": "create"}),
                "Created a/report.md",
            ),
            (
                "Write",
                json!({"file_path": "/ws/report.md"}),
                json!({"type": "update"}),
                "Updated report.md",
            ),
            (
                "Write",
                json!({"file_path": "sub/b.md"}),
                json!("done"),
                "Wrote sub/b.md",
            ),
            (
                "Edit",
                json!({"file_path": "x/../c.md", "new_string": "x"}),
                json!({}),
                "Updated c.md",
            ),
            (
                "NotebookEdit",
                json!({"notebook_path": "/ws/n.ipynb"}),
                Value::Null,
                "Updated n.ipynb",
            ),
            (
                "Edit",
                json!({"file_path": "/elsewhere/x"}),
                Value::Null,
                "Updated /elsewhere/x",
            ),
            (
                "Bash",
                json!({"command": "make", "description": "Build it"}),
                json!({}),
                "Build it",
            ),
            ("Bash", json!({"command": "\n  make -j2\nrm x"}), json!({}), "make -j2"),
            (
                "Task",
                json!({"description": "Look around", "prompt": "secret plan"}),
                json!({}),
                "Look around",
            ),
            ("Grep", json!({"pattern": "fn .*"}), json!({}), "fn .*"),
            (
                "WebFetch",
                json!({"url": "https://u:p@a.example/x?key=1"}),
                json!({}),
                "https://u:***@a.example/x",
            ),
            ("TodoWrite", json!({"todos": []}), json!({}), ""),
            ("Write", json!([1]), json!({}), ""),
        ] {
            assert_eq!(say(tool, input, response), text, "{tool}");
        }
        let found = summarise(
            "mcp__db__query",
            &json!({"sql": "select 1"}),
            Some(&Value::Null),
            &str::to_owned,
        );
        assert_eq!(
            (found.tool.as_str(), found.text.as_str(), found.server.as_deref()),
            ("query", "db.query", Some("db"))
        );
    }

    #[test]
    fn secrets_of_a_command_are_not_repeated() {
        for (command, text) in [
            ("API_TOKEN=abc123 ./run", "API_TOKEN=*** ./run"),
            ("export DB_PASSWORD='x y'", "export DB_PASSWORD=***"),
            ("x --password 'a b c' y", "x --password *** y"),
            ("A=1;MY_SECRET=abc go", "A=1;MY_SECRET=*** go"),
            ("curl https://h/x?token=abc", "curl https://h/x?token=***"),
            (
                "curl -H 'Authorization: Bearer abc.def' x",
                "curl -H 'Authorization: Bearer *** x",
            ),
            ("login --password hunter2 --user me", "login --password *** --user me"),
            ("login --token=abc me", "login --token=*** me"),
            (
                "git clone https://me:pw@host/x.git",
                "git clone https://me:***@host/x.git",
            ),
            (
                "git clone https://ghp_0123456789abcdef@host/x",
                "git clone https://***@host/x",
            ),
            ("use sk-ant-0123456789abcdef now", "use *** now"),
            ("OPENAI_KEY=x cmd", "OPENAI_KEY=*** cmd"),
            ("PWD=/x ls", "PWD=/x ls"),
            ("cargo test --token-free", "cargo test --token-free"),
        ] {
            assert_eq!(say("Bash", json!({ "command": command }), Value::Null), text);
        }
    }

    #[test]
    fn a_long_summary_is_cut() {
        let text = say("Bash", json!({ "command": "ü ".repeat(100) }), Value::Null);
        assert!(text.chars().count() <= MOST && text.ends_with('…'), "{text}");
    }
}
