//! What a permission is about, whole: what rules are compared with. Taken from what the agent wrote and not from what we keep of it, which may be cut.

use std::path::Path;

use serde::Deserialize;

use super::{NamedPath, Options, Subject, summary};

/// Bytes of what a tool is given that are looked through.
const INPUT: usize = 8 << 20;
/// Files or commands of one question.
const MOST: usize = 256;

/// What tools are given, as far as it says what they are about. A member that is there twice makes it nothing: two readers could understand it in two ways.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Given {
    command: Option<Command>,
    file_path: Option<String>,
    notebook_path: Option<String>,
    path: Option<String>,
    #[serde(rename = "filePath")]
    camel_path: Option<String>,
    pattern: Option<String>,
    url: Option<String>,
    query: Option<String>,
}

/// A line for a shell, or the words of a program.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Command {
    Line(String),
    Words(Vec<String>),
}

/// What a tool of Claude Code's or Letta's is about, by the name of the tool and the text of JSON that it is given.
pub(super) fn of_tool(name: &str, input: &str, options: &Options) -> Subject {
    if input.len() > INPUT {
        return Subject::Unknown;
    }
    let Ok(given) = serde_json::from_str::<Given>(input) else {
        return Subject::Unknown;
    };
    let path = given.path.as_deref().filter(|path| !path.is_empty());
    match name {
        "Bash" | "Shell" | "run_shell_command" | "shell_command" | "shell" | "execute" => command(given.command),
        // One of several names, and never two.
        "Read" | "Write" | "Edit" | "MultiEdit" | "NotebookEdit" | "NotebookRead" => {
            let named = [given.file_path, given.notebook_path, given.path, given.camel_path];
            let mut named = named.into_iter().flatten();
            match (named.next(), named.next()) {
                (Some(path), None) => paths([path], options),
                _ => Subject::Unknown,
            }
        }
        "LS" | "Grep" => paths([path.unwrap_or(".").to_owned()], options),
        // The pattern may lead out of the directory.
        "Glob" => match given.pattern {
            Some(pattern) => {
                let at = Path::new(path.unwrap_or(".")).join(pattern);
                paths([at.to_string_lossy().into_owned()], options)
            }
            None => Subject::Unknown,
        },
        "WebFetch" => given.url.map_or(Subject::Unknown, Subject::Text),
        "WebSearch" => given.query.map_or(Subject::Unknown, Subject::Text),
        _ => Subject::Unknown,
    }
}

fn command(given: Option<Command>) -> Subject {
    match given {
        Some(Command::Line(line)) => commands([line]),
        Some(Command::Words(words)) => match words.as_slice() {
            [shell, flag, line] if summary::is_shell(shell) && matches!(flag.as_str(), "-c" | "-lc") => {
                commands([line.clone()])
            }
            // What has to be quoted to be one line is none that could be compared.
            words if !words.is_empty() && words.iter().all(|word| is_plain(word)) => commands([words.join(" ")]),
            _ => Subject::Unknown,
        },
        None => Subject::Unknown,
    }
}

fn is_plain(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    !word.is_empty() && word.chars().all(plain)
}

/// Lines for a shell. Of `bash -lc '…'` what is in it.
pub(super) fn commands(lines: impl IntoIterator<Item = String>) -> Subject {
    let lines: Vec<String> = lines
        .into_iter()
        .take(MOST + 1)
        .map(|line| summary::unwrapped(&line).unwrap_or(line))
        .collect();
    let is_sound = |line: &String| !line.trim().is_empty();
    match lines.is_empty() || lines.len() > MOST || !lines.iter().all(is_sound) {
        true => Subject::Unknown,
        false => Subject::Commands(lines),
    }
}

/// Files. One in somebody's home directory has a name that only a shell knows.
pub(super) fn paths(named: impl IntoIterator<Item = String>, options: &Options) -> Subject {
    let mut found = Vec::new();
    for path in named.into_iter().take(MOST + 1) {
        if path.is_empty() || path.starts_with('~') || path.contains('\0') {
            return Subject::Unknown;
        }
        let path = match options.relative(&path) {
            inside if inside.is_empty() => ".".to_owned(),
            path => path,
        };
        let absolute = options.root.join(if path == "." { "" } else { &path });
        let absolute = absolute.display().to_string();
        found.push(NamedPath { path, absolute });
    }
    match found.is_empty() || found.len() > MOST {
        true => Subject::Unknown,
        false => Subject::Paths(found),
    }
}

/// What an ACP agent asks for: `session/request_permission`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Asked {
    tool_call: AskedCall,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AskedCall {
    raw_input: Option<Given>,
    locations: Vec<Located>,
    content: Vec<Located>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Located {
    path: Option<String>,
}

/// What a question of an ACP agent is about: the kind of the tool and the parameters of the request, as they were written. What was told of the call before is not part of it.
pub(super) fn of_request(kind: &str, params: &str, options: &Options) -> Subject {
    if params.len() > INPUT {
        return Subject::Unknown;
    }
    let Ok(Asked { tool_call: call }) = serde_json::from_str::<Asked>(params) else {
        return Subject::Unknown;
    };
    let given = call.raw_input.unwrap_or_default();
    match kind {
        "Bash" => command(given.command),
        "Read" | "Edit" | "Write" | "Delete" | "Move" | "Search" => {
            let named = [given.file_path, given.notebook_path, given.path, given.camel_path];
            let located = call.locations.into_iter().chain(call.content);
            let all = named.into_iter().flatten();
            paths(all.chain(located.filter_map(|one| one.path)), options)
        }
        "Fetch" => given.url.map_or(Subject::Unknown, Subject::Text),
        _ => Subject::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options::new("/ws")
    }

    fn one_path(path: &str, absolute: &str) -> Subject {
        Subject::Paths(vec![NamedPath {
            path: path.to_owned(),
            absolute: absolute.to_owned(),
        }])
    }

    #[test]
    fn what_a_tool_is_given_says_what_it_is_about() {
        let line = |text: &str| Subject::Commands(vec![text.to_owned()]);
        for (tool, input, expected) in [
            (
                "Bash",
                r#"{"command":"git status","description":"Look"}"#,
                line("git status"),
            ),
            (
                "Bash",
                r#"{"command":"/bin/bash -lc 'git status; rm x'"}"#,
                line("git status; rm x"),
            ),
            (
                "shell",
                r#"{"command":["bash","-lc","git status"]}"#,
                line("git status"),
            ),
            ("shell", r#"{"command":["git","status"]}"#, line("git status")),
            ("shell", r#"{"command":["git","status; rm"]}"#, Subject::Unknown),
            ("Bash", r#"{"command":"ls","command":"rm -rf /"}"#, Subject::Unknown),
            ("Bash", r#"{"command":" "}"#, Subject::Unknown),
            ("Bash", r#"{}"#, Subject::Unknown),
            ("Bash", "[1]", Subject::Unknown),
            ("Read", r#"{"file_path":"/ws/a/../b.md"}"#, one_path("b.md", "/ws/b.md")),
            (
                "Read",
                r#"{"file_path":"/ws/../etc/passwd"}"#,
                one_path("/etc/passwd", "/etc/passwd"),
            ),
            (
                "Read",
                r#"{"file_path":"../etc/passwd"}"#,
                one_path("/etc/passwd", "/etc/passwd"),
            ),
            ("Read", r#"{"file_path":"a","path":"b"}"#, Subject::Unknown),
            ("Read", r#"{"file_path":"~/x"}"#, Subject::Unknown),
            ("LS", r#"{"path":"/ws"}"#, one_path(".", "/ws/")),
            ("Grep", r#"{"pattern":"x"}"#, one_path(".", "/ws/")),
            ("Glob", r#"{"pattern":"/etc/*"}"#, one_path("/etc/*", "/etc/*")),
            ("Glob", r#"{"pattern":"../*","path":"/ws/a/.."}"#, one_path("/*", "/*")),
            (
                "WebFetch",
                r#"{"url":"https://x/y"}"#,
                Subject::Text("https://x/y".to_owned()),
            ),
            ("mcp__x__Bash", r#"{"command":"ls"}"#, Subject::Unknown),
        ] {
            assert_eq!(of_tool(tool, input, &options()), expected, "{tool} {input}");
        }
    }

    #[test]
    fn what_a_client_protocol_agent_asks_is_read_from_the_question() {
        let asked = |kind: &str, call: &str| of_request(kind, &format!(r#"{{"toolCall":{call}}}"#), &options());
        assert_eq!(
            asked("Bash", r#"{"rawInput":{"command":"make all"}}"#),
            Subject::Commands(vec!["make all".to_owned()])
        );
        assert_eq!(asked("Bash", r#"{"title":"make"}"#), Subject::Unknown);
        assert_eq!(
            asked("Edit", r#"{"locations":[{"path":"/ws/a"}]}"#),
            one_path("a", "/ws/a")
        );
        assert_eq!(asked("Edit", "{}"), Subject::Unknown);
    }

    #[test]
    fn too_many_are_none() {
        assert_eq!(commands((0..300).map(|n| format!("c{n}"))), Subject::Unknown);
        assert_eq!(paths((0..300).map(|n| format!("f{n}")), &options()), Subject::Unknown);
        assert_eq!(commands([]), Subject::Unknown);
    }
}
