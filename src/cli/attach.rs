//! Where an agent is on this machine, as its server tells.

use anyhow::bail;
use serde_json::{Value, json};

use super::{
    agent::path,
    client::{Client, harmless},
    told::place,
};

pub(super) fn run(client: &Client, name: &str, command: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    let found = client.ask("GET", &path(name, "/attach"), None)?;
    if let Some(wanted) = command {
        let all = found["commands"].as_array().map_or(&[][..], Vec::as_slice);
        let Some(one) = all.iter().find(|one| one["name"] == wanted) else {
            let names: Vec<_> = all.iter().filter_map(|one| one["name"].as_str()).collect();
            bail!(
                "there is no command '{wanted}' for it now; there are {}",
                names.join(", ")
            );
        };
        return match as_json {
            true => super::print_json(one),
            // As it is: it is for a shell.
            false => super::print(&format!("{}\n", one["shell"].as_str().unwrap_or_default())),
        };
    }
    match as_json {
        true => super::print_json(&found),
        false => super::print(&attached(&found)),
    }
}

fn attached(found: &Value) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        let value = harmless(value);
        text.push_str(format!("{key:<12}{value}").trim_end());
        text.push('\n');
    };
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    line(
        "agent:",
        &format!("{}, {}", word(&found["name"]), word(&found["state"])),
    );
    let workspace = &found["workspace"];
    let where_it_is = workspace["path"].as_str().unwrap_or("not there any more");
    line(
        "workspace:",
        &format!(
            "{}, {where_it_is}",
            place(&json!({ "repository": workspace["repository"], "workspace": workspace["name"] }))
        ),
    );
    for (key, process) in [("process:", &found["process"]), ("parent:", &found["parent"])] {
        if let Some(pid) = process["pid"].as_i64() {
            line(key, &format!("{pid}, since {}", word(&process["started_at"])));
        }
    }
    if let Some(dir) = found["cgroup"].as_str() {
        line("cgroup:", dir);
    }
    if let Some(name) = found["container"]["name"].as_str() {
        line("container:", &format!("{name}, {}", word(&found["container"]["dir"])));
    }
    for output in found["output"].as_array().into_iter().flatten() {
        for file in output["files"].as_array().into_iter().flatten() {
            line(&format!("{}:", word(&output["stream"])), &word(file));
        }
    }
    for command in found["commands"].as_array().into_iter().flatten() {
        line("", "");
        line(&format!("{}:", word(&command["name"])), &word(&command["does"]));
        line("", &word(&command["shell"]));
    }
    text
}
