//! The rules of ARCHITECTURE.md that a machine can check.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Which rooms a room may name. `server` and `cli` may name any.
const DOORS: [(&str, &[&str]); 14] = [
    ("base", &[]),
    ("protocol", &["base"]),
    ("pack", &["base"]),
    ("dialect", &["base"]),
    ("repo", &["base", "pack"]),
    ("depot", &["base", "repo"]),
    ("service", &["base", "protocol", "repo"]),
    ("workspace", &["base", "pack", "repo", "depot"]),
    ("checkpoint", &["base", "repo", "workspace"]),
    ("worker", &["base"]),
    ("agent", &["base", "dialect"]),
    ("ledger", &["base"]),
    (
        "session",
        &[
            "base",
            "workspace",
            "checkpoint",
            "worker",
            "agent",
            "ledger",
            "dialect",
        ],
    ),
    (
        "web",
        &[
            "base",
            "protocol",
            "repo",
            "depot",
            "service",
            "worker",
            "workspace",
            "checkpoint",
            "session",
            "dialect",
        ],
    ),
];
const ANY: [&str; 2] = ["server", "cli"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file beneath `dir` with this extension, sorted.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|err| panic!("{}: {err}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|have| have == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no .{extension} beneath {}", dir.display());
    found
}

/// Sources with their path relative to `src`, their room, and their text without comments and string literals.
fn sources() -> Vec<(String, String, String)> {
    let src = root().join("src");
    files(&src, "rs")
        .into_iter()
        .map(|path| {
            let relative = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            let room = relative.split(['/', '.']).next().unwrap().to_owned();
            let code = code_of(&fs::read_to_string(&path).unwrap());
            (relative, room, code)
        })
        .collect()
}

/// Blanks comments, strings and character literals.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let rest = &text[at..];
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(quote) = raw_string(rest) {
            quote
        } else if rest.starts_with('"') {
            quoted(rest, b'"')
        } else if rest.starts_with('\'') && is_char_literal(rest) {
            quoted(rest, b'\'')
        } else {
            0
        };
        if skip > 0 {
            out.push(' ');
            at += skip;
        } else {
            let c = rest.chars().next().unwrap();
            out.push(c);
            at += c.len_utf8();
        }
    }
    out
}

fn raw_string(rest: &str) -> Option<usize> {
    let hashes = rest.strip_prefix('r')?.bytes().take_while(|&b| b == b'#').count();
    let open = 1 + hashes;
    rest.get(open..)?.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    rest[open + 1..].find(&end).map(|at| open + 1 + at + end.len())
}

fn quoted(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Not a lifetime.
fn is_char_literal(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

/// The first words after every `crate::`, with those of groups (`crate::{a, b::c}`).
fn rooms_named(code: &str) -> BTreeSet<String> {
    let word = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let mut named = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        let Some(group) = rest.trim_start().strip_prefix('{') else {
            named.insert(word(rest));
            continue;
        };
        let (mut depth, mut begins) = (0, true);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && !c.is_whitespace() => {
                    named.insert(word(&group[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    named
}

fn has_word(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].chars().next_back().is_some_and(is_part)
            && !code[at + word.len()..].chars().next().is_some_and(is_part)
    })
}

#[test]
fn the_checks_see_what_they_look_for() {
    let code = code_of(
        "use crate::{\n    base::{Fault, Limits},\n    repo,\n}; // crate::web\nlet s = \"crate::cli\"; let c = '\"'; crate::depot::x::<'a>()",
    );
    let named: Vec<String> = rooms_named(&code).into_iter().collect();
    assert_eq!(named, ["base", "depot", "repo"]);
    assert!(has_word("a unsafe {", "unsafe") && !has_word("unsafe_code", "unsafe"));
    assert_eq!(code_of("r#\"std::fs\"# + 'x'"), "  +  ");
}

#[test]
fn imports_go_through_doors_and_downwards() {
    let doors: BTreeMap<_, _> = DOORS.into_iter().collect();
    let rooms: BTreeSet<&str> = DOORS.iter().map(|(room, _)| *room).chain(ANY).collect();
    let mut wrong = Vec::new();
    for (file, room, code) in sources() {
        if matches!(room.as_str(), "lib" | "main") || ANY.contains(&room.as_str()) {
            continue;
        }
        let allowed = doors
            .get(room.as_str())
            .unwrap_or_else(|| panic!("src/{file}: the room `{room}` is not in the table"));
        for other in rooms_named(&code) {
            if other != room && rooms.contains(other.as_str()) && !allowed.contains(&other.as_str()) {
                wrong.push(format!("src/{file} names `{other}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for room in rooms {
        let door = fs::read_to_string(root().join("src").join(room).join("mod.rs"))
            .unwrap_or_else(|_| panic!("{room} is a folder with a door"));
        assert!(door.starts_with("//! "), "{room}/mod.rs opens with what it promises");
    }
}

#[test]
fn thought_has_no_hands() {
    for (file, room, code) in sources() {
        // Tests read fixtures.
        if !matches!(room.as_str(), "protocol" | "pack" | "dialect") || file.contains("tests") {
            continue;
        }
        let code = code.split("#[cfg(test)]").next().unwrap();
        for word in [
            "std::fs",
            "std::net",
            "std::thread",
            "std::env",
            "tokio",
            "Instant",
            "SystemTime",
            "rustix",
        ] {
            assert!(!code.contains(word), "src/{file} has {word}");
        }
    }
}

#[test]
fn the_wall_stands() {
    for (file, room, code) in sources() {
        if matches!(
            room.as_str(),
            "base" | "protocol" | "pack" | "repo" | "depot" | "service" | "workspace" | "checkpoint"
        ) {
            for word in ["tokio", "axum", "hyper", "serde_json", "clap", "anyhow"] {
                assert!(!has_word(&code, word), "src/{file} has {word}, which is above the wall");
            }
        } else if room == "dialect" {
            // Agents speak JSON.
            for word in ["tokio", "axum", "hyper", "clap", "anyhow"] {
                assert!(!has_word(&code, word), "src/{file} has {word}, which is above the wall");
            }
        }
    }
}

#[test]
fn processes_are_started_in_one_place_and_unsafe_has_one_too() {
    for (file, _, code) in sources() {
        for word in [
            "Command::new",
            "process::Command",
            "gix_command",
            "gix::command",
            "fork(",
            "execv",
            "posix_spawn",
        ] {
            // Agents' own commands, and this binary as their parent.
            assert!(
                file == "agent/spawn.rs" || !code.contains(word),
                "src/{file} has {word}"
            );
        }
        assert!(
            file == "repo/mmap.rs" || !has_word(&code, "unsafe"),
            "src/{file} has unsafe code"
        );
    }
}

#[test]
fn every_test_file_is_a_module() {
    let dir = root().join("tests/it");
    let main = fs::read_to_string(dir.join("main.rs")).unwrap();
    for entry in fs::read_dir(&dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.strip_suffix(".rs").unwrap_or(&name);
        assert!(
            module == "main" || main.contains(&format!("\nmod {module};")),
            "tests/it/{name} is not a module of main.rs: its tests do not run"
        );
    }
    let others: Vec<_> = files(&root().join("tests"), "rs")
        .into_iter()
        .filter(|path| !path.starts_with(&dir))
        .collect();
    assert!(others.is_empty(), "one test binary, so that it links once: {others:?}");
}

#[test]
fn every_fuzz_target_has_an_entry_and_seeds() {
    let fuzz = root().join("fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for path in files(&fuzz.join("fuzz_targets"), "rs") {
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            manifest.contains(&format!("fuzz_targets/{name}.rs")),
            "{name} is not in fuzz/Cargo.toml"
        );
        // Packets are seeded from the requests.
        assert!(
            name == "pkt_line"
                || fs::read_dir(fuzz.join("corpus").join(name)).is_ok_and(|mut dir| dir.next().is_some()),
            "{name} has no corpus"
        );
    }
}

#[test]
fn files_stay_readable() {
    for (file, _, _) in sources() {
        let lines = fs::read_to_string(root().join("src").join(&file))
            .unwrap()
            .lines()
            .count();
        let most = if file.ends_with("tests.rs") || file.contains("/tests/") {
            1200
        } else {
            750
        };
        assert!(lines <= most, "src/{file} has {lines} lines: split it");
    }
}

#[test]
fn no_crate_builds_or_links_c() {
    const BANNED: [&str; 12] = [
        "cc",
        "cmake",
        "bindgen",
        "pkg-config",
        "vcpkg",
        "nasm-rs",
        "git2",
        "ring",
        "aws-lc-sys",
        "aws-lc-rs",
        "openssl",
        "libloading",
    ];
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(["--locked".to_owned(), "--filter-platform".to_owned(), target])
        .exec()
        .expect("cargo metadata");
    let resolve = metadata.resolve.as_ref().expect("a graph");
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut todo = vec![resolve.root.as_ref().expect("a root")];
    let mut seen = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if !seen.insert(id) {
            continue;
        }
        for dep in &nodes[id].deps {
            let of_tests_only = dep
                .dep_kinds
                .iter()
                .all(|kind| kind.kind == cargo_metadata::DependencyKind::Development);
            if !of_tests_only {
                todo.push(&dep.pkg);
            }
        }
    }
    assert!(
        seen.len() > 50,
        "the graph has {} crates: it was not walked",
        seen.len()
    );
    for package in metadata.packages.iter().filter(|package| seen.contains(&package.id)) {
        let name = package.name.as_str();
        assert!(!BANNED.contains(&name), "{name} builds or links C");
        // `links` is how a crate says that it links a native library; these say it only to be unique in the graph.
        let links = package
            .links
            .as_deref()
            .filter(|links| !matches!(*links, "rayon-core" | "defmt"));
        assert!(links.is_none(), "{name} links {links:?}");
    }
}
