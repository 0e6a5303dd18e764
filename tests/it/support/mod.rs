//! What the tests share: an isolated git, deterministic histories, and a server to talk to.
//!
//! Tests may run git; the server may not. Every git here has a HOME of its own, no system or global configuration, a fixed identity and fixed dates.
#![allow(dead_code, unused_imports)]

pub mod agents;
mod git;
mod guard;
mod server;
pub mod wire;

pub use git::{Git, Output};
pub use guard::Guard;
pub use server::{Server, ServerOptions};

/// Sends one POST over a connection of its own and returns the whole answer, head included, as text.
pub fn post(server: &Server, path: &str, content_type: &str, body: &[u8]) -> String {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    raw(server, &[head.as_bytes(), body].concat())
}

/// Sends bytes as they are and returns everything that comes back, as text.
pub fn raw(server: &Server, bytes: &[u8]) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(server.address()).expect("the server listens");
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(30)))
        .expect("a socket option");
    // A server that refuses early closes its end; what it said is still there to be read.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
