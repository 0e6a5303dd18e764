//! `fixtures/transcripts` replayed: requests in, values or git's error texts out, as snapshots beside them.

use std::{fmt::Debug, fmt::Write as _, fs, path::PathBuf};

use gix::hash;

use crate::{
    base::Limits,
    protocol::{
        FetchV0Parser, PushFeatures, PushParser, RequestError, V2Features, V2Parser, from_text,
        fuzz::{self, read, same_however_cut},
        to_text,
    },
};

/// One request with what it is sent to.
#[derive(Debug, Clone)]
struct Case {
    name: String,
    parser: String,
    hash: hash::Kind,
    features: Vec<String>,
    limits: Limits,
    text: String,
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        from_text(&self.text).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    fn on(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }

    fn v2(&self) -> V2Parser {
        let features = V2Features {
            allow_filter: self.on("filter"),
            allow_ref_in_want: self.on("ref-in-want"),
            allow_sideband_all: self.on("sideband-all"),
            allow_packfile_uris: self.on("packfile-uris"),
            object_info: self.on("object-info"),
            bundle_uri: self.on("bundle-uri"),
            unborn: self.on("unborn"),
            session_id: self.on("session-id"),
        };
        V2Parser::new(self.hash, features)
    }

    fn v0(&self) -> FetchV0Parser {
        FetchV0Parser::new(self.hash, self.on("filter"))
    }

    fn push(&self) -> PushParser {
        PushParser::new(
            self.hash,
            PushFeatures {
                atomic: self.on("atomic"),
                push_options: self.on("push-options"),
            },
        )
    }

    /// What the parser makes of it, for a snapshot.
    fn outcome(&self) -> String {
        let bytes = self.bytes();
        match self.parser.as_str() {
            "v2" => {
                same_however_cut(&self.v2(), &bytes, &self.limits);
                shown(&bytes, read(self.v2(), &bytes, &[], &self.limits))
            }
            "v0" => {
                same_however_cut(&self.v0(), &bytes, &self.limits);
                shown(&bytes, read(self.v0(), &bytes, &[], &self.limits))
            }
            "push" => {
                same_however_cut(&self.push(), &bytes, &self.limits);
                shown(&bytes, read(self.push(), &bytes, &[], &self.limits))
            }
            other => panic!("{}: there is no parser {other:?}", self.name),
        }
    }

    /// The same as input for a fuzz target: its name, and the bytes behind one that says what is offered.
    fn seed(&self) -> (&'static str, Vec<u8>) {
        let bits = |features: &[&str]| {
            features
                .iter()
                .enumerate()
                .filter(|(_, f)| self.on(f))
                .fold(0u8, |offer, (bit, _)| offer | 1 << bit)
        };
        let (target, mut offer) = match self.parser.as_str() {
            "v2" => (
                "v2_request",
                bits(&[
                    "filter",
                    "ref-in-want",
                    "sideband-all",
                    "packfile-uris",
                    "object-info",
                    "bundle-uri",
                    "unborn",
                ]),
            ),
            "v0" => ("v0_request", bits(&["filter"])),
            _ => ("push_request", bits(&["atomic", "push-options"])),
        };
        offer |= if self.hash == hash::Kind::Sha256 { 0x80 } else { 0 };
        let mut seed = vec![offer];
        seed.extend(self.bytes());
        (target, seed)
    }
}

fn shown<T: Debug>(bytes: &[u8], outcome: Result<(T, usize), RequestError>) -> String {
    match outcome {
        Err(error) => format!("{:?}: {error}\n", error.fault()),
        Ok((value, end)) => {
            let mut text = format!("{value:#?}\n");
            if end < bytes.len() {
                write!(text, "-- not read:\n{}", to_text(&bytes[end..])).unwrap();
            }
            text
        }
    }
}

fn transcripts() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/transcripts")
}

/// The files of a folder with their contents, sorted by name.
pub(super) fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(transcripts().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix(ending)?.to_owned();
            Some((name, fs::read_to_string(&path).unwrap()))
        })
        .collect();
    assert!(!files.is_empty(), "{folder} holds no {ending}");
    files.sort();
    files
}

/// The cases of a file: `#@ key: value` holds until it is said again, `#= name` begins a case. A file without such names is one case.
fn cases(file: &str, text: &str) -> Vec<Case> {
    let mut next = Case {
        name: file.to_owned(),
        parser: String::new(),
        hash: hash::Kind::Sha1,
        features: Vec::new(),
        limits: Limits::default(),
        text: String::new(),
    };
    let mut found = Vec::new();
    let mut named = false;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("#= ") {
            if named {
                found.push(next.clone());
            }
            named = true;
            next.name = name.to_owned();
            next.text.clear();
        } else if let Some(setting) = line.strip_prefix("#@ ") {
            let (key, value) = setting.split_once(':').unwrap();
            let words = value.split_whitespace().map(str::to_owned);
            match key {
                "parser" => next.parser = value.trim().to_owned(),
                "hash" => next.hash = value.trim().parse().unwrap(),
                "features" => next.features = words.collect(),
                "limits" => next.limits = limits(words),
                other => panic!("{file}: {other}"),
            }
        } else {
            next.text.push_str(line);
            next.text.push('\n');
        }
    }
    found.push(next);
    found
}

fn limits(settings: impl Iterator<Item = String>) -> Limits {
    let mut limits = Limits::default();
    for setting in settings {
        let (key, value) = setting.split_once('=').unwrap();
        let value: usize = value.parse().unwrap();
        *match key {
            "wants" => &mut limits.wants,
            "haves" => &mut limits.haves,
            "shallows" => &mut limits.shallows,
            "options" => &mut limits.options,
            "ref_prefixes" => &mut limits.ref_prefixes,
            "object_infos" => &mut limits.object_infos,
            "commands" => &mut limits.commands,
            "command_bytes" => &mut limits.command_bytes,
            other => panic!("there is no limit {other}"),
        } = value;
    }
    limits
}

fn check(folder: &str, ending: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(transcripts().join("snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (file, text) in files(folder, ending) {
            let mut all = String::new();
            for case in cases(&file, &text) {
                write!(all, "== {}\n{}", case.name, case.outcome()).unwrap();
            }
            insta::assert_snapshot!(format!("{folder}-{file}"), all);
        }
    });
}

#[test]
fn what_git_clients_send_is_understood() {
    check("recorded", ".request.txt");
}

#[test]
fn every_rule_of_the_protocol_has_its_answer() {
    check("crafted", ".txt");
}

#[test]
fn no_snapshot_is_left_behind() {
    let stems: Vec<String> = files("recorded", ".request.txt")
        .into_iter()
        .map(|(name, _)| format!("recorded-{name}"))
        .chain(
            files("crafted", ".txt")
                .into_iter()
                .map(|(name, _)| format!("crafted-{name}")),
        )
        .collect();
    for (name, _) in files("snapshots", ".snap") {
        assert!(stems.contains(&name), "{name}.snap belongs to no transcript");
    }
}

/// Every transcript is a seed for a fuzz target, and every seed and every input that once broke a law is replayed here. With
/// `UPDATE_CORPUS=1` the seeds are written.
#[test]
fn the_fuzz_corpus_is_complete_and_keeps_the_laws() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let update = std::env::var_os("UPDATE_CORPUS").is_some();
    for (folder, ending) in [("recorded", ".request.txt"), ("crafted", ".txt")] {
        for (file, text) in files(folder, ending) {
            for case in cases(&file, &text) {
                let (target, seed) = case.seed();
                let name = if case.name == file {
                    file.clone()
                } else {
                    format!("{file}--{}", case.name)
                };
                let name: String = name
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                    .collect();
                let path = corpus.join(target).join(name);
                if update {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(&path, &seed).unwrap();
                }
                assert_eq!(
                    fs::read(&path).ok(),
                    Some(seed),
                    "{}: run again with UPDATE_CORPUS=1",
                    path.display()
                );
            }
        }
    }
    type Law = fn(&[u8]);
    let targets: [(&str, Law); 3] = [
        ("v2_request", fuzz::v2_request),
        ("v0_request", fuzz::v0_request),
        ("push_request", fuzz::push_request),
    ];
    for (target, law) in targets {
        for entry in fs::read_dir(corpus.join(target)).unwrap() {
            let seed = fs::read(entry.unwrap().path()).unwrap();
            law(&seed);
            fuzz::pkt_line(&seed[1..]);
            // Cut at every boundary.
            for end in 0..seed.len().min(2_000) {
                law(&seed[..end]);
            }
        }
    }
}
