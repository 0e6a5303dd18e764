//! What bounds an agent that is started from the command line: what the system allows it, how it is stopped, what may last how long.

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::server::{Span, size};

#[derive(Debug, Default, Args)]
pub(super) struct Hold {
    /// Memory of all of it together (512m, 2g); needs a cgroup
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<u64>,
    /// Memory of all of it together from which on it is slowed down; needs a cgroup
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory_high: Option<u64>,
    /// Processes and threads of all of it together; needs a cgroup
    #[arg(long, value_name = "NUMBER")]
    tasks: Option<u64>,
    /// Hundredths of a processor for all of it together, 150 for one and a half; needs a cgroup
    #[arg(long, value_name = "PERCENT")]
    cpu: Option<u32>,
    /// Bytes a second that it reads from the disk of its workspace, and as many that it writes there; needs a cgroup
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    io: Option<u64>,
    /// Open files of each of its processes
    #[arg(long, value_name = "NUMBER")]
    open_files: Option<u64>,
    /// Bytes of each file that it writes
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    file_bytes: Option<u64>,
    /// Bytes of address space of each of its processes
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    address_space: Option<u64>,
    /// Processes of the user that it runs as, all of them
    #[arg(long, value_name = "NUMBER")]
    processes: Option<u64>,
    /// The TCP ports of other hosts and this one to which it can connect from its sandbox, comma-separated, or none [default: all]
    #[arg(long, value_name = "PORTS", value_parser = ports)]
    connect_ports: Option<Ports>,
    /// The TCP ports on which it can listen in its sandbox, comma-separated, or none; 0 for any that the system picks [default: all]
    #[arg(long, value_name = "PORTS", value_parser = ports)]
    bind_ports: Option<Ports>,
    /// Give it a network of its own in its sandbox, with nothing in it but loopback
    #[arg(long)]
    no_network: bool,
    /// Let it make namespaces of its own in its sandbox, as browsers do
    #[arg(long)]
    user_namespaces: bool,
    /// What may last how long, and what follows (warn, interrupt, stop [default]): silence=10m:interrupt; of start, silence, tool, permission, turn, linger and wall. How many turns, or
    /// dollars, or bytes on the disk of its workspace: turns=50, cost=2.50:warn, disk=2g
    #[arg(long, value_name = "NAME=TIME[:ACTION]")]
    watchdog: Vec<String>,
    /// How long a step of stopping it may take: terminate=30s; of interrupt, end_of_input, terminate and verify
    #[arg(long, value_name = "STEP=TIME")]
    ladder: Vec<String>,
}

/// Of stopping an agent, in their order.
const STEPS: [&str; 4] = ["interrupt", "end_of_input", "terminate", "verify"];

fn bytes(text: &str) -> Result<u64, String> {
    size(text).ok_or_else(|| format!("'{text}' is not a number of bytes such as 512m: use k, m or g"))
}

/// Ports of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ports(Vec<u16>);

fn ports(text: &str) -> Result<Ports, String> {
    if text == "none" {
        return Ok(Ports(Vec::new()));
    }
    let ports = text.split(',').map(|port| port.trim().parse());
    let ports: Result<Vec<u16>, _> = ports.collect();
    ports
        .map(Ports)
        .map_err(|_| format!("'{text}' is no list of ports such as 443,8080, nor none"))
}

fn millis(text: &str) -> anyhow::Result<u64> {
    let Span(span) = text.parse().map_err(anyhow::Error::msg)?;
    Ok(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

impl Hold {
    /// Lays what is said over what is asked for. What nobody says is as it is.
    pub(super) fn lay(&self, body: &mut Value) -> anyhow::Result<()> {
        body["bounds"] = json!({
            "memory": self.memory,
            "memory_high": self.memory_high,
            "tasks": self.tasks,
            "cpu_percent": self.cpu,
            "io_bytes_per_second": self.io,
            "open_files": self.open_files,
            "file_bytes": self.file_bytes,
            "address_space": self.address_space,
            "processes": self.processes,
        });
        let listed = |ports: &Option<Ports>| ports.as_ref().map(|Ports(ports)| json!(ports));
        for (key, value) in [
            ("connect", listed(&self.connect_ports)),
            ("bind", listed(&self.bind_ports)),
            ("network", self.no_network.then_some(Value::Bool(false))),
            ("user_namespaces", self.user_namespaces.then_some(Value::Bool(true))),
        ] {
            if let Some(value) = value {
                body["sandbox"][key] = value;
            }
        }
        let mut dogs = Map::new();
        for told in &self.watchdog {
            let (name, dog) = watchdog(told).with_context(|| format!("--watchdog {told}"))?;
            dogs.insert(name, dog);
        }
        let mut ladder = Map::new();
        for told in &self.ladder {
            let Some((step, time)) = told.split_once('=') else {
                bail!("--ladder wants STEP=TIME, not '{told}'");
            };
            let step = step.replace('-', "_");
            if !STEPS.contains(&step.as_str()) {
                bail!("--ladder {told}: '{step}' is none of {}", STEPS.join(", "));
            }
            let time = millis(time).with_context(|| format!("--ladder {told}"))?;
            ladder.insert(format!("{step}_ms"), json!(time));
        }
        (body["watchdogs"], body["ladder"]) = (Value::Object(dogs), Value::Object(ladder));
        Ok(())
    }
}

/// `NAME=MOST[:ACTION]`; names are for the server to know.
fn watchdog(told: &str) -> anyhow::Result<(String, Value)> {
    let Some((name, rest)) = told.split_once('=') else {
        bail!("there is no '=' in it");
    };
    let (most, action) = rest.split_once(':').unwrap_or((rest, "stop"));
    if !["warn", "interrupt", "stop"].contains(&action) {
        bail!("'{action}' is none of warn, interrupt and stop");
    }
    let dog = match name {
        "turns" => {
            let turns: u64 = most.parse().context("turns are a number")?;
            json!({ "most": turns, "action": action })
        }
        "cost" => {
            let dollars: f64 = most.parse().context("cost is a number of dollars")?;
            json!({ "most_usd": dollars, "action": action })
        }
        "disk" => {
            let bytes = bytes(most).map_err(anyhow::Error::msg)?;
            json!({ "most_bytes": bytes, "action": action })
        }
        _ => json!({ "after_ms": millis(most)?, "action": action }),
    };
    Ok((name.to_owned(), dog))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_is_none_is_refused_with_those_that_are() {
        let hold = Hold {
            ladder: vec!["foo=1s".to_owned()],
            ..Hold::default()
        };
        let refused = hold.lay(&mut json!({})).expect_err("there is no such step");
        assert_eq!(
            refused.to_string(),
            "--ladder foo=1s: 'foo' is none of interrupt, end_of_input, terminate, verify"
        );
    }

    #[test]
    fn what_is_said_is_what_the_server_is_asked_for() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let hold = Hold {
            memory: bytes("512m").ok(),
            cpu: Some(150),
            watchdog: words(&[
                "silence=10m:interrupt",
                "wall=1h",
                "turns=50:warn",
                "cost=2.5",
                "disk=2g",
            ]),
            ladder: words(&["terminate=30s", "end-of-input=500ms"]),
            ..Hold::default()
        };
        let mut body = json!({ "name": "it" });
        hold.lay(&mut body).expect("all of it is sound");
        assert_eq!(
            (&body["name"], &body["bounds"]["memory"]),
            (&json!("it"), &json!(512 << 20))
        );
        assert_eq!(body["bounds"]["cpu_percent"], 150);
        assert_eq!(
            body["watchdogs"],
            json!({
                "silence": { "after_ms": 600_000, "action": "interrupt" },
                "wall": { "after_ms": 3_600_000, "action": "stop" },
                "turns": { "most": 50, "action": "warn" },
                "cost": { "most_usd": 2.5, "action": "stop" },
                "disk": { "most_bytes": 2u64 << 30, "action": "stop" },
            })
        );
        assert_eq!(
            body["ladder"],
            json!({ "terminate_ms": 30_000, "end_of_input_ms": 500 })
        );
        for wrong in ["silence", "silence=10", "silence=10s:bark", "turns=many"] {
            let hold = Hold {
                watchdog: words(&[wrong]),
                ..Hold::default()
            };
            assert!(hold.lay(&mut json!({})).is_err(), "{wrong}");
        }
        assert!(bytes("many").is_err());
        assert!(ports("https").is_err() && ports("70000").is_err());
        let hold = Hold {
            connect_ports: ports("443, 8285").ok(),
            bind_ports: ports("none").ok(),
            ..Hold::default()
        };
        let mut body = json!({ "sandbox": { "mode": "required" } });
        hold.lay(&mut body).expect("all of it is sound");
        assert_eq!(
            body["sandbox"],
            json!({ "mode": "required", "connect": [443, 8285], "bind": [] })
        );
    }
}
