//! One line about what a tool has done, from the event that an agent tells about it.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

/// Characters of a summary.
const MOST: usize = 72;
/// What stands for a secret.
const MASK: &str = "***";

/// A tool, and what it did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// As the checkpoint shall name it.
    pub tool: String,
    /// What it did, in a line; may be empty.
    pub text: String,
    /// The server that a tool of the Model Context Protocol belongs to.
    pub server: Option<String>,
}

/// Says what a tool has done. Of what it was told only what says what it was about is used: a path, a description, the first line of a command; nothing else of what
/// it was given or answered.
pub(super) fn of_tool(name: &str, input: &Value, response: &Value, root: &Path, cwd: &Path) -> Summary {
    let text_at = |key: &str| input.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let path = || {
        let keys = ["file_path", "notebook_path", "path"];
        keys.into_iter().find_map(text_at).map(|path| relative(path, root, cwd))
    };
    let about = |text: Option<&str>| line(text.unwrap_or_default());
    if let Some((server, tool)) = name.strip_prefix("mcp__").and_then(|rest| rest.split_once("__")) {
        return Summary {
            tool: tool.to_owned(),
            text: match text_at("description").or_else(|| text_at("title")) {
                Some(text) => line(text),
                // What else it was told may be anybody's business: at least what it is, and whose.
                None => line(&format!("{} ({server})", tool.replace(['_', '-'], " "))),
            },
            server: Some(server.to_owned()),
        };
    }
    let text = match name {
        "Write" => {
            let verb = match response.get("type").and_then(Value::as_str) {
                Some("create") => "Created",
                Some("update") => "Updated",
                _ => "Wrote",
            };
            path().map_or_else(String::new, |path| line(&format!("{verb} {path}")))
        }
        "Edit" | "MultiEdit" | "NotebookEdit" => {
            path().map_or_else(String::new, |path| line(&format!("Updated {path}")))
        }
        "Read" | "NotebookRead" | "LS" => path().map_or_else(String::new, |path| line(&format!("Read {path}"))),
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
        tool: name.to_owned(),
        text,
        server: None,
    }
}

/// The path as the workspace knows it, if it is in it.
fn relative(path: &str, root: &Path, cwd: &Path) -> String {
    let whole = cwd.join(path);
    let mut plain = PathBuf::new();
    for part in whole.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    let by_another_way = || {
        let above = plain.parent()?.canonicalize().ok()?;
        Some(above.join(plain.file_name()?))
    };
    match plain.strip_prefix(root) {
        Ok(below) => below.display().to_string(),
        Err(_) => match by_another_way().as_deref().map(|real| real.strip_prefix(root)) {
            Some(Ok(below)) => below.display().to_string(),
            _ => plain.display().to_string(),
        },
    }
}

/// The first line with something in it, without secrets, as long as a line may be.
fn line(text: &str) -> String {
    let first = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default();
    // Nobody reads the rest.
    let first: String = first.chars().take(4096).collect();
    let masked = masked(&first);
    if masked.chars().count() <= MOST {
        return masked;
    }
    let mut short: String = masked.chars().take(MOST - 1).collect();
    short.truncate(short.trim_end().len());
    short.push('…');
    short
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

fn is_token(word: &str) -> bool {
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
    use serde_json::json;

    fn say(tool: &str, input: Value, response: Value) -> String {
        let root = Path::new("/ws");
        of_tool(tool, &input, &response, root, &root.join("sub")).text
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
            ("Write", json!({"file_path": "b.md"}), json!("done"), "Wrote sub/b.md"),
            (
                "Edit",
                json!({"file_path": "../c.md", "new_string": "x"}),
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
        let found = of_tool(
            "mcp__db__query",
            &json!({"sql": "select 1"}),
            &Value::Null,
            Path::new("/"),
            Path::new("/"),
        );
        assert_eq!(
            (found.tool.as_str(), found.text.as_str(), found.server.as_deref()),
            ("query", "query (db)", Some("db"))
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
