//! A server that runs agents, and what one says to it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Server, ServerOptions};

/// A server with agents, killed with all of theirs when dropped.
pub struct House {
    pub server: Server,
    /// Names it uniquely in the environment of its agents.
    mark: String,
    sweeper: Sweeper,
}

/// Kills what a failed test has left.
struct Sweeper {
    mark: String,
    server: u32,
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        for pid in marked(&self.mark, self.server) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    #[track_caller]
    pub fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }
}

impl House {
    pub fn start() -> Self {
        Self::with(ServerOptions::default())
    }

    pub fn with(options: ServerOptions) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        Self::on(data, options)
    }

    pub fn on(data: tempfile::TempDir, mut options: ServerOptions) -> Self {
        let mark = format!("house-{}", data.path().display());
        options.agents = true;
        options.env.push(("HOUSE".to_owned(), mark.clone()));
        let server = Server::on(data, options);
        let sweeper = Sweeper {
            mark: mark.clone(),
            server: server.pid(),
        };
        House { server, mark, sweeper }
    }

    /// `kill -9`, and the data directory for another one.
    pub fn kill(self) -> tempfile::TempDir {
        // What becomes of them is what is looked at.
        std::mem::forget(self.sweeper);
        self.server.kill()
    }

    /// SIGTERM to the server: its exit code, what it said, and which processes of agents are there when it has ended.
    pub fn terminate(self) -> (Option<i32>, String, Vec<i32>) {
        let server = self.server.pid();
        let (code, said) = self.server.terminate();
        (code, said, marked(&self.mark, server))
    }

    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.ask_as(None, method, path, body)
    }

    /// One request on a connection of its own, to a path below `/api/v1/agents`.
    pub fn ask_as(&self, token: Option<&str>, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut stream = self.send(token, method, path, body, "application/json");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let at = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&answer[..at]).into_owned();
        Answer {
            status: head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status"),
            body: serde_json::from_slice(&answer[at + 4..]).unwrap_or(Value::Null),
        }
    }

    /// The head and the bytes of an answer.
    pub fn raw(&self, path: &str) -> (String, Vec<u8>) {
        let mut answer = Vec::new();
        let mut stream = self.send(None, "GET", path, None, "*/*");
        stream.read_to_end(&mut answer).expect("an answer");
        let at = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&answer[..at]).to_lowercase();
        (head, answer.split_off(at + 4))
    }

    fn send(&self, token: Option<&str>, method: &str, path: &str, body: Option<&Value>, accept: &str) -> TcpStream {
        let address = self.server.address();
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(90)))
            .expect("a socket option");
        let mut text = format!(
            "{method} /api/v1/agents{path} HTTP/1.1\r\nConnection: close\r\nHost: {address}\r\nAccept: {accept}\r\n"
        );
        if let Some(token) = token {
            text.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        let body = body.map(Value::to_string);
        if let Some(body) = &body {
            text.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            ));
        } else if method == "POST" {
            text.push_str("Content-Length: 0\r\n");
        }
        text.push_str("\r\n");
        text.push_str(&body.unwrap_or_default());
        stream.write_all(text.as_bytes()).expect("it is sent");
        stream
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.ask("GET", path, None).is(200)
    }

    #[track_caller]
    pub fn post(&self, path: &str) -> Value {
        self.ask("POST", path, None).is(202)
    }

    /// Starts a shell script as an agent in the workspace `main` of `demo`. `more` is laid over what is asked for.
    #[track_caller]
    pub fn run(&self, name: &str, script: &str, more: Value) -> Value {
        let mut body = json!({
            "name": name,
            "repository": "demo",
            "argv": ["sh", "-c", script],
            "inherit": ["HOUSE"],
            "ladder": { "terminate_ms": 300 },
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        self.ask("POST", "", Some(&body)).is(201)
    }

    /// What it is when it has ended.
    #[track_caller]
    pub fn ended(&self, name: &str) -> Value {
        let agent = self.get(&format!("/{name}/wait?until=ended&timeout_ms=60000"));
        assert_eq!(agent["ended"], true, "{agent}");
        agent
    }

    /// The same, of one that only those with a token may see.
    #[track_caller]
    pub fn ended_as(&self, user: &str, name: &str) -> Value {
        let path = format!("/{name}/wait?until=ended&timeout_ms=60000");
        let agent = self.ask_as(Some(&user.repeat(10)), "GET", &path, None).is(200);
        assert_eq!(agent["ended"], true, "{agent}");
        agent
    }

    /// Its events so far.
    #[track_caller]
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.get(&format!("/{name}/events"))["events"]
            .as_array()
            .expect("a list")
            .clone()
    }

    #[track_caller]
    pub fn kinds(&self, name: &str) -> Vec<String> {
        let events = self.events(name);
        events
            .iter()
            .map(|event| event["type"].as_str().expect("a type").to_owned())
            .collect()
    }

    /// Follows a stream until `until` says that it has seen enough; gives what came: id, event, data.
    pub fn follow(
        &self,
        path: &str,
        mut until: impl FnMut(&(Option<u64>, String, Value)) -> bool,
    ) -> Vec<(Option<u64>, String, Value)> {
        let number = |(id, kind, data): &(Option<String>, String, Value)| {
            let id = id.as_ref().and_then(|id| id.parse().ok());
            (id, kind.clone(), data.clone())
        };
        let found = self.follow_from(path, None, |one| until(&number(one)));
        found.iter().map(number).collect()
    }

    /// The same, after the event of this id.
    pub fn follow_from(
        &self,
        path: &str,
        last: Option<&str>,
        mut until: impl FnMut(&(Option<String>, String, Value)) -> bool,
    ) -> Vec<(Option<String>, String, Value)> {
        let mut accept = "text/event-stream".to_owned();
        if let Some(last) = last {
            accept.push_str(&format!("\r\nLast-Event-ID: {last}"));
        }
        let stream = self.send(None, "GET", path, None, &accept);
        let mut lines = BufReader::new(stream);
        let mut found = Vec::new();
        let (mut id, mut kind) = (None, String::new());
        let mut line = String::new();
        loop {
            line.clear();
            if lines.read_line(&mut line).expect("a stream") == 0 {
                return found;
            }
            let text = line.trim_end();
            if let Some(number) = text.strip_prefix("id: ") {
                id = Some(number.to_owned());
            } else if let Some(word) = text.strip_prefix("event: ") {
                kind = word.to_owned();
            } else if let Some(data) = text.strip_prefix("data: ") {
                let data = serde_json::from_str(data).expect("JSON");
                found.push((id.take(), std::mem::take(&mut kind), data));
                if until(found.last().expect("one")) {
                    return found;
                }
            }
        }
    }

    /// Where the files of the workspace are.
    pub fn files(&self) -> PathBuf {
        self.server.data().join("work/demo/main")
    }

    /// The processes of all agents of this house that are there, by what is in their environment.
    pub fn processes(&self) -> Vec<i32> {
        marked(&self.mark, self.server.pid())
    }
}

fn marked(mark: &str, server: u32) -> Vec<i32> {
    let mark = format!("HOUSE={mark}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("a Linux system").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let is_ours = environ.split(|&b| b == 0).any(|one| one == mark.as_bytes());
        if is_ours && pid != server.cast_signed() {
            found.push(pid);
        }
    }
    found
}
