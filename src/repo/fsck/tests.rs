use super::*;
use gix::hash::ObjectId;
use proptest::prelude::*;
use std::convert::Infallible;

const BLOB: [u8; 20] = [7; 20];

fn null(len: usize) -> ObjectId {
    if len == 20 {
        ObjectId::null(gix::hash::Kind::Sha1)
    } else {
        ObjectId::null(gix::hash::Kind::Sha256)
    }
}

/// Every finding of one object, with fatal ones last (they end the check).
fn check(kind: Kind, data: &[u8]) -> Vec<String> {
    findings(kind, data, 20)
}

fn findings(kind: Kind, data: &[u8], hash_len: usize) -> Vec<String> {
    let mut policy = FsckPolicy::strict();
    for id in MsgId::ALL {
        if id.default_severity() != Severity::Fatal {
            policy.set(id.name(), "warn").unwrap();
        }
    }
    let mut state = FsckState::new();
    let result = check_object(kind, &null(hash_len), data, &policy, &mut state);
    let mut found: Vec<_> = state
        .take_notes()
        .iter()
        .map(|note| note.finding.id.to_string())
        .collect();
    found.extend(result.err().map(|finding| finding.id.to_string()));
    found
}

fn entry(mode: &str, name: impl AsRef<[u8]>) -> Vec<u8> {
    entry_to(mode, name, &BLOB)
}

fn entry_to(mode: &str, name: impl AsRef<[u8]>, id: &[u8]) -> Vec<u8> {
    [mode.as_bytes(), b" ", name.as_ref(), b"\0", id].concat()
}

fn tree(entries: &[(&str, &str)]) -> Vec<u8> {
    entries.iter().flat_map(|(mode, name)| entry(mode, name)).collect()
}

#[test]
fn good_trees_have_no_finding() {
    for good in [
        &[][..],
        &[
            ("100644", "a"),
            ("40000", "a-b"),
            ("100755", "a.b"),
            ("40000", "b"),
            ("120000", "c"),
            ("160000", "d"),
        ],
        &[("100644", "a"), ("100644", "a-"), ("100644", "a-b"), ("40000", "aa")],
        &[("40000", "a"), ("100644", "a0")],
        &[("100644", "a.c"), ("40000", "a"), ("100644", "a0")],
        &[
            ("100644", ".gitignore"),
            ("100644", ".mailmap"),
            ("100644", "..."),
            ("100644", "git~2"),
        ],
    ] {
        let mut good = good.to_vec();
        good.sort_by_key(|(mode, name)| format!("{name}{}", if *mode == "40000" { "/" } else { "\0" }));
        assert_eq!(check(Kind::Tree, &tree(&good)), [""; 0], "{good:?}");
    }
}

#[test]
fn order_and_duplicates_are_judged_as_if_directories_ended_with_a_slash() {
    for (entries, found) in [
        (&[("100644", "b"), ("100644", "a")][..], "treeNotSorted"),
        (&[("40000", "a"), ("100644", "a.b")], "treeNotSorted"),
        (&[("100644", "a0"), ("40000", "a")], "treeNotSorted"),
        (&[("100644", "b"), ("100644", "b")], "duplicateEntries"),
        (&[("100644", "b"), ("40000", "b")], "duplicateEntries"),
        (&[("40000", "b"), ("100644", "b")], "duplicateEntries"),
        (&[("40000", "b"), ("40000", "b")], "duplicateEntries"),
        (&[("100644", "b"), ("100644", "b-"), ("40000", "b")], "duplicateEntries"),
        (
            &[("100644", "b"), ("100644", "b-"), ("100644", "b-."), ("40000", "b")],
            "duplicateEntries",
        ),
        (
            &[("100644", "b"), ("100644", "b-"), ("40000", "b-"), ("100644", "b.")],
            "duplicateEntries",
        ),
        (
            &[
                ("100644", "b"),
                ("100644", "b-.x"),
                ("40000", "b-"),
                ("120000", "b.c"),
                ("40000", "b"),
            ],
            "duplicateEntries",
        ),
    ] {
        assert_eq!(check(Kind::Tree, &tree(entries)), [found], "{entries:?}");
    }
}

#[test]
fn entries_are_judged_by_mode_name_and_id() {
    let long = "a".repeat(4097);
    for (bytes, found) in [
        (entry("40000", "."), "hasDot"),
        (entry("100644", ".."), "hasDotdot"),
        (entry("100644", ".GIT"), "hasDotgit"),
        (entry("160000", "GIT~1"), "hasDotgit"),
        (entry("100644", "a/b"), "fullPathname"),
        (entry_to("100644", "a", &[0; 20]), "nullSha1"),
        (entry("0100644", "a"), "zeroPaddedFilemode"),
        (entry("040000", "a"), "zeroPaddedFilemode"),
        (entry("100664", "a"), "badFilemode"),
        (entry("7777777777777", "a"), "badFilemode"),
        (entry("1", "a"), "badFilemode"),
        (entry("100644", &long), "largePathname"),
        (entry("120000", ".gitmodules"), "gitmodulesSymlink"),
        (entry("120777", "x\\gitmod~1"), "gitmodulesSymlink badFilemode"),
        (entry("120000", ".gitattributes"), "gitattributesSymlink"),
        (entry("120000", ".gitignore"), "gitignoreSymlink"),
        (entry("120000", ".mailmap"), "mailmapSymlink"),
        (entry("", "a"), "badTree"),
        (entry("10064x", "a"), "badTree"),
        (entry("+100644", "a"), "badTree"),
        (entry("100644", ""), "badTree"),
        (entry_to("100644", "a", &BLOB[..19]), "badTree"),
        (b"100644 a".to_vec(), "badTree"),
        (b"100644".to_vec(), "badTree"),
        (b"\0".to_vec(), "badTree"),
        ([entry("0100644", ".."), b"1".to_vec()].concat(), "badTree"),
    ] {
        assert_eq!(check(Kind::Tree, &bytes).join(" "), found, "{}", bytes.escape_ascii());
    }
}

#[test]
fn ids_inside_objects_have_the_length_of_the_objects_own() {
    let sha256 = entry_to("100644", "a", &[9; 32]);
    assert_eq!(findings(Kind::Tree, &sha256, 32), [""; 0]);
    assert_eq!(findings(Kind::Tree, &sha256, 20), ["badTree"]);
    assert_eq!(findings(Kind::Tree, &entry("100644", "a"), 32), ["badTree"]);
    let commit = |hex: usize| {
        format!(
            "tree {}\nauthor a <a> 1 +0000\ncommitter a <a> 1 +0000\n\n",
            "a".repeat(hex)
        )
        .into_bytes()
    };
    assert_eq!(findings(Kind::Commit, &commit(64), 32), [""; 0]);
    assert_eq!(findings(Kind::Commit, &commit(40), 32), ["badTreeSha1"]);
    assert_eq!(findings(Kind::Commit, &commit(64), 20), ["badTreeSha1"]);
}

#[test]
fn commits_are_judged_line_by_line() {
    let (t, p) = (
        format!("tree {}\n", "a".repeat(40)),
        format!("parent {}\n", "b".repeat(40)),
    );
    let (a, c) = ("author A <a> 1 +0100\n", "committer C <c> 1 -0100\n");
    for (text, found) in [
        (format!("{t}{a}{c}\nmessage"), ""),
        (format!("{t}{p}{p}{a}{c}encoding x\ngpgsig y\n z\n\nmessage"), ""),
        (format!("{t}{a}{c}"), ""),
        (format!("{t}{a}{c}{c}\n"), ""),
        (String::new(), "unterminatedHeader"),
        (format!("{t}{a}{}", c.trim_end()), "unterminatedHeader"),
        (format!("{t}{a}{c}\0\n\n"), "nulInHeader"),
        (format!("{t}{a}{c}\n\0"), "nulInCommit"),
        (format!("{a}{c}\n"), "missingTree"),
        (format!("tree x\n{a}{c}\n"), "badTreeSha1"),
        (
            format!("{t}parent x\nparent y\n{a}{c}\n"),
            "badParentSha1 badParentSha1",
        ),
        (format!("{t}{c}\n"), "missingAuthor"),
        (format!("{t}{a}\n"), "missingCommitter"),
        (format!("{t}{a}{a}{c}\n"), "multipleAuthors"),
        (format!("{t}{c}{a}\n"), "missingAuthor"),
        (format!("{t}{a}{p}{c}\n"), "missingCommitter"),
        (format!("{t}\n\0"), "missingAuthor missingCommitter"),
        (
            format!("{t}author x\nauthor y\ncommitter z\n\n\0"),
            "missingEmail missingEmail multipleAuthors missingEmail nulInCommit",
        ),
    ] {
        assert_eq!(check(Kind::Commit, text.as_bytes()).join(" "), found, "{text:?}");
    }
}

#[test]
fn idents_are_judged_from_left_to_right() {
    for (ident, found) in [
        ("A <a> 1 +0000", ""),
        (" <> 0 -9999", ""),
        ("A <a b>  \t1 +0000", ""),
        ("A <a> 9223372036854775807 +0000", ""),
        ("", "missingEmail"),
        ("A", "missingEmail"),
        ("<a> 1 +0000", "missingNameBeforeEmail"),
        ("A<a> 1 +0000", "missingSpaceBeforeEmail"),
        ("A > <a> 1 +0000", "badName"),
        ("A < <a> 1 +0000", "badEmail"),
        ("A <a 1 +0000", "badEmail"),
        ("A <a>> 1 +0000", "missingSpaceBeforeDate"),
        ("A <a>", "missingSpaceBeforeDate"),
        ("A <a> ", "badDate"),
        ("A <a> -1 +0000", "badDate"),
        ("A <a> 1x +0000", "badDate"),
        ("A <a> 1", "badDate"),
        ("A <a> 01 +0000", "zeroPaddedDate"),
        ("A <a> 0", "zeroPaddedDate"),
        ("A <a> 9223372036854775808 +0000", "badDateOverflow"),
        ("A <a> 99999999999999999999999x", "badDateOverflow"),
        ("A <a> 1 ", "badTimezone"),
        ("A <a> 1 0000", "badTimezone"),
        ("A <a> 1 +000", "badTimezone"),
        ("A <a> 1 +00000", "badTimezone"),
        ("A <a> 1 +00:0", "badTimezone"),
    ] {
        let text = format!("tree {}\nauthor {ident}\ncommitter C <c> 1 +0000\n\n", "a".repeat(40));
        assert_eq!(check(Kind::Commit, text.as_bytes()).join(" "), found, "{ident:?}");
    }
}

#[test]
fn tags_are_judged_line_by_line() {
    let (o, t, n) = (format!("object {}\n", "a".repeat(40)), "type commit\n", "tag v1\n");
    let e = "tagger A <a> 1 +0000\n";
    for (text, found) in [
        (format!("{o}{t}{n}{e}\nmessage"), ""),
        (format!("{o}{t}{n}{e}gpgsig x\n y\n\nmessage"), ""),
        (format!("{o}{t}{n}{e}\nx\0"), ""),
        (String::new(), "unterminatedHeader"),
        (format!("{o}{t}{n}\0\n\n"), "nulInHeader"),
        (format!("{t}{n}{e}\n"), "missingObject"),
        (format!("object x\n{t}{n}{e}\n"), "badObjectSha1"),
        (format!("{o}{n}{e}\n"), "missingTypeEntry"),
        (format!("{o}type foo\n{n}{e}\n"), "badType"),
        (format!("{o}{t}{e}\n"), "missingTagEntry"),
        (format!("{o}{t}tag a..b\n{e}\n"), "badTagName"),
        (format!("{o}{t}{n}\n"), "missingTaggerEntry"),
        (format!("{o}{t}{n}tagger x\n\n"), "missingEmail"),
        (format!("{o}{t}{n}{e}foo bar\n\n"), "extraHeaderEntry"),
        (format!("{o}{t}{n}foo bar\n\n"), "missingTaggerEntry extraHeaderEntry"),
    ] {
        assert_eq!(check(Kind::Tag, text.as_bytes()).join(" "), found, "{text:?}");
    }
}

fn finish_with(name: &str, found: BlobLookup, content: &[u8], policy: &FsckPolicy) -> (FsckState, Option<String>) {
    let mut state = FsckState::new();
    check_object(Kind::Tree, &null(20), &entry("100644", name), policy, &mut state).unwrap();
    assert_eq!(state.pending_blobs(), 1);
    let end = state.finish(policy, &mut |_, _, out| {
        out.extend_from_slice(content);
        Ok::<_, Infallible>(found)
    });
    (state, end.err().map(|error| error.to_string()))
}

#[test]
fn what_trees_call_gitmodules_is_read_when_all_objects_are_known() {
    let id = ObjectId::from_bytes_or_panic(&BLOB);
    for (name, lookup, content, found) in [
        (
            ".gitmodules",
            BlobLookup::Found(Kind::Blob),
            "[submodule \"a\"]\n\tpath = a\n",
            None,
        ),
        (
            "GITMOD~1",
            BlobLookup::Found(Kind::Blob),
            "[submodule \"a\"]\n\tpath = -a\n",
            Some("gitmodulesPath: disallowed submodule path: -a"),
        ),
        (
            ".gitmodules",
            BlobLookup::Found(Kind::Blob),
            "[submodule \"..\"]\n\tx",
            Some("gitmodulesName: disallowed submodule name: .."),
        ),
        (
            ".gitmodules",
            BlobLookup::Found(Kind::Blob),
            "[submodule \"a\"]\nurl=\"../\\n\"\n[broken",
            Some("gitmodulesUrl: disallowed submodule url: ../?"),
        ),
        (
            ".gitmodules",
            BlobLookup::Found(Kind::Blob),
            "[submodule.a]\nUpdate=!x",
            Some("gitmodulesUpdate: disallowed submodule update setting: !x"),
        ),
        (
            ".gitmodules",
            BlobLookup::Missing,
            "",
            Some("gitmodulesMissing: unable to read .gitmodules blob"),
        ),
        (
            ".gitmodules",
            BlobLookup::TooLarge,
            "",
            Some("gitmodulesLarge: .gitmodules too large to parse"),
        ),
        (
            ".gitmodules",
            BlobLookup::Found(Kind::Tree),
            "",
            Some("gitmodulesBlob: non-blob found at .gitmodules"),
        ),
        (
            ".gitattributes",
            BlobLookup::Missing,
            "",
            Some("gitattributesMissing: unable to read .gitattributes blob"),
        ),
        (
            ".gitattributes",
            BlobLookup::TooLarge,
            "",
            Some("gitattributesLarge: .gitattributes too large to parse"),
        ),
        (
            ".gitattributes",
            BlobLookup::Found(Kind::Commit),
            "",
            Some("gitattributesBlob: non-blob found at .gitattributes"),
        ),
        (
            "GITATT~1",
            BlobLookup::Found(Kind::Blob),
            &"a".repeat(2048),
            Some("gitattributesLineLength: .gitattributes has too long lines to parse"),
        ),
        (".gitattributes", BlobLookup::Found(Kind::Blob), &"a".repeat(2047), None),
    ] {
        let (_, end) = finish_with(name, lookup, content.as_bytes(), &FsckPolicy::strict());
        assert_eq!(
            end,
            found.map(|text| format!("object {id}: {text}")),
            "{name} {content:?}"
        );
    }
}

#[test]
fn a_gitmodules_that_is_no_configuration_is_only_a_warning() {
    for broken in [
        "[submodule \"a\"",
        "[submodule \"a\" ]\n",
        "[submodule\"a\"]",
        "[ a]",
        "[a_b]",
        "a_b=1",
        "1a=1",
        "=1",
        "a b",
        "a=\"",
        "a=\\q",
        "\0",
        "\u{feff}[a]",
        "[a \"x\ny\"]",
    ] {
        let (state, end) = finish_with(
            ".gitmodules",
            BlobLookup::Found(Kind::Blob),
            broken.as_bytes(),
            &FsckPolicy::strict(),
        );
        assert_eq!(end, None, "{broken:?}");
        let notes: Vec<_> = state.notes().iter().map(ToString::to_string).collect();
        let id = ObjectId::from_bytes_or_panic(&BLOB);
        assert_eq!(
            notes,
            [format!(
                "warning: object {id}: gitmodulesParse: could not parse gitmodules blob"
            )],
            "{broken:?}"
        );
    }
}

#[test]
fn pushes_treat_warnings_as_errors_unless_told_otherwise() {
    let bad = entry("100644", ".git");
    let run = |policy: &FsckPolicy| {
        let mut state = FsckState::new();
        let result = check_object(Kind::Tree, &null(20), &bad, policy, &mut state);
        (result.is_ok(), state.notes().len())
    };
    assert_eq!(run(&FsckPolicy::strict()), (false, 0));
    assert_eq!(run(&FsckPolicy::lenient()), (true, 1));
    assert_eq!(
        run(&FsckPolicy::from_parts([("HASDOTGIT", "warn")], None).unwrap()),
        (true, 1)
    );
    assert_eq!(
        run(&FsckPolicy::from_parts([("hasDotgit", "ignore")], None).unwrap()),
        (true, 0)
    );
    assert_eq!(
        run(&FsckPolicy::from_parts([("badTree", "ignore")], None).unwrap()),
        (false, 0)
    );
    let list = format!("# why\n\n  {} # note\r\n", null(20));
    assert_eq!(
        run(&FsckPolicy::from_parts([], Some(list.as_bytes())).unwrap()),
        (true, 0)
    );
}

#[test]
fn policies_are_refused_in_gits_words() {
    for (id, severity, error) in [
        ("NoSuch", "warn", "Unhandled message id: nosuch"),
        ("has_dot", "warn", "Unhandled message id: has_dot"),
        ("hasDot", "info", "Unknown fsck message type: 'info'"),
        ("hasDot", "WARN", "Unknown fsck message type: 'WARN'"),
        ("hasDot", "warn:2", "Unknown fsck message type: 'warn:2'"),
        ("nulInHeader", "warn", "Cannot demote nulinheader to warn"),
    ] {
        let refused = FsckPolicy::from_parts([(id, severity)], None).expect_err("it is refused");
        assert_eq!(refused.to_string(), error);
    }
    assert!(FsckPolicy::from_parts([("nulInHeader", "error"), ("largePathname", "error:10")], None).is_ok());
    let refused = FsckPolicy::from_parts([], Some(b"abc\n")).expect_err("it is refused");
    assert_eq!(refused.to_string(), "invalid object name: abc");
}

#[test]
fn the_notes_of_one_push_are_bounded() {
    let policy = FsckPolicy::strict();
    let mut state = FsckState::new();
    for _ in 0..1000 {
        check_object(Kind::Tree, &null(20), &entry("100600", "a"), &policy, &mut state).unwrap();
    }
    assert_eq!(state.notes().len(), 100);
    let mut other = FsckState::new();
    other.merge(state);
    assert_eq!(other.take_notes().len(), 100);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(data in proptest::collection::vec(any::<u8>(), 0..300), name in proptest::collection::vec(any::<u8>(), 0..40)) {
        for kind in [Kind::Tree, Kind::Commit, Kind::Tag, Kind::Blob] {
            findings(kind, &data, 20);
            findings(kind, &data, 32);
        }
        check(Kind::Tree, &entry("120000", &name));
        finish_with(".gitmodules", BlobLookup::Found(Kind::Blob), &data, &FsckPolicy::strict());
        finish_with(".gitattributes", BlobLookup::Found(Kind::Blob), &data, &FsckPolicy::strict());
    }

    #[test]
    fn no_text_makes_it_panic(text in "(tree|object|type|tag|author|committer|tagger|parent|gpgsig|[a-z ]|<|>|\n|\0|[0-9a-f]{40}){0,40}", modules in "(\\[|\\]|submodule|url|path|=|\"|\\\\|\n|\r|#|-|!|\\.|/|%0a|:|https|@| |\t){0,40}") {
        check(Kind::Commit, text.as_bytes());
        check(Kind::Tag, text.as_bytes());
        finish_with(".gitmodules", BlobLookup::Found(Kind::Blob), modules.as_bytes(), &FsckPolicy::strict());
    }
}
