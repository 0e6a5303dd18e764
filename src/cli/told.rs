//! What the command line says of agents.

use serde_json::Value;

use super::client::harmless;
use crate::session::PermissionRule;

pub(super) fn harmless_lines(text: &str) -> String {
    text.lines().map(harmless).collect::<Vec<_>>().join("\n")
}

/// The same of a text that goes on: its last line end is told, too.
pub(super) fn harmless_piece(text: &str) -> String {
    text.split('\n').map(harmless).collect::<Vec<_>>().join("\n")
}

pub(super) fn place(agent: &Value) -> String {
    let text = |key: &str| agent[key].as_str().unwrap_or_default();
    format!("{}/{}", text("repository"), text("workspace"))
}

/// `sh-1 exited in demo/main: exit code 0, 1 checkpoint`
pub(super) fn told(agent: &Value) -> String {
    let text = |key: &str| harmless(agent[key].as_str().unwrap_or_default());
    let mut line = format!("{} {} in {}", text("name"), text("state"), place(agent));
    let mut more = Vec::new();
    if let Some(failure) = agent["failure"].as_str() {
        more.push(harmless(failure));
    } else if agent["ended"] == true {
        if let Some(code) = agent["exit_code"].as_i64() {
            more.push(format!("exit code {code}"));
        } else if let Some(signal) = agent["signal"].as_i64() {
            more.push(format!("signal {signal}"));
        }
    } else if let Some(pid) = agent["pid"].as_i64() {
        more.push(format!("process {pid}"));
    }
    if let Some(dog) = agent["watchdog"].as_str() {
        more.push(format!("stopped by the watchdog '{}'", harmless(dog)));
    }
    if let Some(why) = agent["unfit"].as_str() {
        let why = match why {
            "login" => "nobody is logged in, or its key is not taken",
            "arguments" => "it does not understand its arguments",
            "configuration" => "it says that it is configured wrongly",
            other => &harmless(other),
        };
        more.push(why.to_owned());
    }
    match agent["checkpoints"].as_u64() {
        Some(0) | None => {}
        Some(1) => more.push("1 checkpoint".to_owned()),
        Some(n) => more.push(format!("{n} checkpoints")),
    }
    if let Some(swept) = agent["swept"].as_u64().filter(|swept| *swept > 0) {
        more.push(format!("{swept} left behind and killed"));
    }
    if !more.is_empty() {
        line.push_str(": ");
        line.push_str(&more.join(", "));
    }
    line.push('\n');
    for missing in agent["isolation"]["missing"].as_array().into_iter().flatten() {
        let why = harmless(missing.as_str().unwrap_or_default());
        line.push_str(&format!("  not bounded: {why}\n"));
    }
    for words in agent["last_words"].as_str().into_iter().flat_map(str::lines) {
        line.push_str(&format!("  {}\n", harmless(words)));
    }
    line
}

/// One agent a line, in columns.
pub(super) fn listed(agents: &[Value]) -> String {
    let text = |agent: &Value, key: &str| harmless(agent[key].as_str().unwrap_or_default());
    let row = |agent: &Value| [text(agent, "name"), text(agent, "state"), place(agent)];
    let mut rows: Vec<_> = agents
        .iter()
        .map(|agent| (row(agent), harmless(&words(&agent["argv"]))))
        .collect();
    rows.sort_by(|(one, _), (other, _)| numbered(&one[0]).cmp(&numbered(&other[0])));
    let widths = [0, 1, 2].map(|at| rows.iter().map(|(row, _)| row[at].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for (row, argv) in &rows {
        for (cell, width) in row.iter().zip(widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(argv.trim_end());
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// `sh-10` is after `sh-9`.
fn numbered(name: &str) -> (&str, usize, &str) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = name[stem.len()..].trim_start_matches('0');
    (stem, number.len(), number)
}

/// A command as one would type it.
fn words(argv: &Value) -> String {
    let words = argv.as_array().into_iter().flatten().filter_map(Value::as_str);
    let is_plain = |word: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
        !word.is_empty() && word.chars().all(plain)
    };
    let quoted = words.map(|word| match is_plain(word) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// What holds an agent, for people: `cgroup, memory.max, landlock 7, seccomp`.
fn held(isolation: &Value) -> String {
    let mut parts = Vec::new();
    let kill = if isolation["cgroup"] == true {
        "cgroup"
    } else {
        "no cgroup"
    };
    parts.push(kill.to_owned());
    let texts = |key: &str| {
        let all = isolation[key].as_array().cloned().unwrap_or_default();
        all.into_iter().filter_map(|one| one.as_str().map(str::to_owned))
    };
    parts.extend(texts("limits"));
    match isolation["landlock"].as_u64() {
        Some(version) => parts.push(format!("landlock {version}")),
        None if isolation["seccomp"] == true => parts.push("no landlock".to_owned()),
        None => parts.push("no sandbox".to_owned()),
    }
    parts.extend((isolation["seccomp"] == true).then(|| "seccomp".to_owned()));
    parts.extend((isolation["no_network"] == true).then(|| "no network".to_owned()));
    for (what, key) in [("connects to", "connect"), ("listens on", "bind")] {
        if let Some(ports) = isolation[key].as_array() {
            let ports: Vec<_> = ports.iter().map(Value::to_string).collect();
            let ports = if ports.is_empty() {
                "no port".to_owned()
            } else {
                ports.join(" ")
            };
            parts.push(format!("{what} {ports}"));
        }
    }
    parts.extend(texts("missing").map(|text| format!("not {text}")));
    parts.join(", ")
}

pub(super) fn shown(agent: &Value) -> String {
    let mut text = String::new();
    for (key, value) in agent.as_object().into_iter().flatten() {
        let value = match value {
            Value::Null => continue,
            Value::Array(items) if items.is_empty() => continue,
            Value::Array(_) if key == "argv" => words(value),
            Value::Array(items) if key == "permissions" => {
                let rules = items.iter().cloned().map(serde_json::from_value::<PermissionRule>);
                let texts: Vec<_> = rules.flatten().map(|rule| rule.to_string()).collect();
                texts.join(", ")
            }
            Value::Array(items) => {
                let items = items
                    .iter()
                    .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
                items.collect::<Vec<_>>().join(" ")
            }
            Value::String(text) if text.is_empty() => continue,
            Value::String(text) => text.clone(),
            Value::Object(_) if key == "isolation" => held(value),
            other => other.to_string(),
        };
        text.push_str(&format!(
            "{:<15}{}\n",
            format!("{}:", key.replace('_', " ")),
            harmless(&value)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn agents_are_listed_in_columns_and_in_the_order_of_their_numbers() {
        let agent = |name: &str, argv: &[&str]| json!({ "name": name, "state": "exited", "repository": "demo", "workspace": "main", "argv": argv });
        let agents = [
            agent("sh-10", &["sh", "-c", "echo it's"]),
            agent("sh-9", &["true"]),
            agent("a", &[""]),
        ];
        assert_eq!(
            listed(&agents),
            "a      exited  demo/main  ''\nsh-9   exited  demo/main  true\nsh-10  exited  demo/main  sh -c 'echo it'\\''s'\n"
        );
    }

    #[test]
    fn how_one_has_ended_is_said_in_words() {
        let agent = json!({
            "name": "it", "state": "failed", "repository": "demo", "workspace": "main", "ended": true,
            "exit_code": 1, "checkpoints": 1, "unfit": "login", "watchdog": "silence",
        });
        assert_eq!(
            told(&agent),
            "it failed in demo/main: exit code 1, stopped by the watchdog 'silence', nobody is logged in, or its key is not taken, 1 checkpoint\n"
        );
    }

    #[test]
    fn what_holds_one_is_listed() {
        let isolation = json!({ "cgroup": true, "limits": ["pids.max"], "missing": [], "landlock": 7, "seccomp": true, "connect": [443, 80], "bind": [] });
        assert_eq!(
            held(&isolation),
            "cgroup, pids.max, landlock 7, seccomp, connects to 443 80, listens on no port"
        );
        assert_eq!(held(&json!({})), "no cgroup, no sandbox");
    }
}
