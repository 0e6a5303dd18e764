//! The machine's git: prepares repositories and checks answers; it is not what is measured here.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

pub(crate) fn git(dir: &Path, args: &[&str]) -> Vec<u8> {
    git_with(dir, args, &[])
}

pub(crate) fn git_with(dir: &Path, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_DATE", "1700000000 +0000")
        .env("GIT_COMMITTER_DATE", "1700000000 +0000")
        .env("GIT_AUTHOR_NAME", "a")
        .env("GIT_AUTHOR_EMAIL", "a@example.com")
        .env("GIT_COMMITTER_NAME", "a")
        .env("GIT_COMMITTER_EMAIL", "a@example.com")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("git is installed");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let feeder = thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let out = child.wait_with_output().expect("git ends");
    feeder.join().expect("the feeder does not panic");
    assert!(out.status.success(), "git {args:?}");
    out.stdout
}

pub(crate) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text").trim().to_owned()
}

pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else if from.ends_with("objects/pack") {
            // Nobody changes these.
            fs::hard_link(entry.path(), &target).expect("a link");
        } else {
            fs::copy(entry.path(), &target).expect("a copy");
        }
    }
}

/// A history of its own, the same every time.
pub(crate) fn generate(repo: &Path, commits: usize, files: usize) {
    let mut stream = String::new();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for n in 0..commits {
        stream.push_str(&format!(
            "commit refs/heads/main\ncommitter a <a@example.com> {} +0000\n",
            1_600_000_000 + n * 60
        ));
        let message = format!("commit number {n}");
        stream.push_str(&format!("data {}\n{message}\n", message.len()));
        for _ in 0..4 {
            let file = random() as usize % files;
            let lines = 20 + random() as usize % 80;
            let body: String = (0..lines)
                .map(|l| format!("{file} {l} {}\n", if l % 7 == 0 { random() } else { l as u64 }))
                .collect();
            stream.push_str(&format!(
                "M 100644 inline d{}/e{}/file{file}.txt\ndata {}\n{body}\n",
                file % 17,
                file % 5,
                body.len()
            ));
        }
    }
    stream.push_str("done\n");
    git_with(repo, &["fast-import", "--quiet", "--done"], stream.as_bytes());
}
