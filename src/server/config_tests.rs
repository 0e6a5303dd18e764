use super::*;
use crate::base::{Access, RepoName, TokenHash};

fn load(text: &str) -> Result<Config, ConfigError> {
    load_with(text, &Overrides::default())
}

fn load_with(text: &str, over: &Overrides) -> Result<Config, ConfigError> {
    let over = Overrides {
        data: over.data.clone().or(Some("/data".into())),
        ..over.clone()
    };
    Config::from_toml(text, Path::new("/etc/gitstead.toml"), &over)
}

#[test]
fn nothing_said_is_a_server_on_loopback() {
    let config = load("").unwrap();
    assert_eq!(config.listen, "127.0.0.1:8080");
    assert_eq!(config.repos, Path::new("/data/repos"));
    assert_eq!(config.url_prefix, "/repos");
    assert!(config.create_on_push);
    assert!(!config.rules.authentication_configured());
    assert_eq!(config.limits, Limits::default());
    assert!(config.address().unwrap().ip().is_loopback());
}

#[test]
fn flags_win_over_the_file() {
    let file =
        "listen = '127.0.0.1:1'\nurl_prefix = '/file/'\nrequire_export_ok = true\ncreate_on_push = false\nrepos = 'r'";
    let from_file = load(file).unwrap();
    assert_eq!(
        (from_file.listen.as_str(), from_file.url_prefix.as_str()),
        ("127.0.0.1:1", "/file")
    );
    assert_eq!(
        from_file.repos,
        Path::new("/etc/r"),
        "paths in the file are relative to the file"
    );
    let over = Overrides {
        listen: Some("[::1]:2".into()),
        url_prefix: Some("/".into()),
        repos: Some("/flag".into()),
        require_export_ok: Some(false),
        ..Overrides::default()
    };
    let config = load_with(file, &over).unwrap();
    assert_eq!((config.listen.as_str(), config.url_prefix.as_str()), ("[::1]:2", ""));
    assert_eq!(config.repos, Path::new("/flag"));
    assert!(!config.require_export_ok);
    assert!(!config.create_on_push);
}

#[test]
fn every_limit_has_a_key() {
    let config = load(
        "[limits]\nwants = 7\npack_bytes = \"2g\"\nread_idle = \"500ms\"\ndrain = \"0s\"\nheader_timeout = \"2m\"\nqueued = 0",
    )
    .unwrap();
    assert_eq!(config.limits.wants, 7);
    assert_eq!(config.limits.pack_bytes, 2 << 30);
    assert_eq!(config.limits.read_idle.as_millis(), 500);
    assert_eq!(config.limits.header_timeout.as_secs(), 120);
    assert_eq!(config.limits.queued, 0);
}

#[test]
fn defaults_are_git_configuration_keys() {
    let config = load(
        "[defaults]\n\"uploadpack.allowFilter\" = true\ntransfer.hideRefs = ['refs/a', '!refs/a/b']\n\"uploadpackfilter.tree.maxDepth\" = 3\n\
         \"receive.fsck.badDate\" = 'ignore'",
    )
    .unwrap();
    let expected = [
        ("receive.fsck.baddate", "ignore"),
        ("transfer.hiderefs", "refs/a"),
        ("transfer.hiderefs", "!refs/a/b"),
        ("uploadpack.allowfilter", "true"),
        ("uploadpackfilter.tree.maxdepth", "3"),
    ];
    for (key, text) in expected {
        assert!(
            config.defaults.iter().any(|(k, v)| k == key && v == text),
            "{key}={text} is not in {:?}",
            config.defaults
        );
    }
}

#[test]
fn tokens_are_rules() {
    let hash = TokenHash::of("gst_x");
    let config = load(&format!(
        "[[tokens]]\nname = 'ci'\nhash = '{hash}'\nrepos = ['team/*']\naccess = 'write'\n"
    ))
    .unwrap();
    let [rule] = config.rules.tokens.as_slice() else {
        panic!("not one token: {:?}", config.rules)
    };
    assert_eq!(rule.id, "ci");
    assert_eq!(rule.grants[0].access, Access::Write);
    assert!(rule.grants[0].pattern.matches(&RepoName::parse("team/app").unwrap()));
    let config = load(&format!("[[tokens]]\nname = 'ro'\nhash = '{hash}'")).unwrap();
    assert_eq!(
        config.rules.tokens[0].grants[0].access,
        Access::Read,
        "reading is what a token does when nothing is said"
    );
}

#[test]
fn an_open_server_stays_on_loopback_unless_told() {
    let wide = "listen = '0.0.0.0:0'";
    assert!(matches!(load(wide).unwrap().address(), Err(ConfigError::Open { .. })));
    let open = Overrides {
        insecure_open: true,
        ..Overrides::default()
    };
    assert!(load_with(wide, &open).unwrap().address().is_ok());
    assert!(
        load("listen = '[::]:0'\ntrusted_user_header = 'X-Remote-User'")
            .unwrap()
            .address()
            .is_ok()
    );
    let token = format!("{wide}\n[[tokens]]\nname = 'a'\nhash = '{}'", TokenHash::of("x"));
    assert!(load(&token).unwrap().address().is_ok());
    assert!(load("listen = '127.9.9.9:0'").unwrap().address().is_ok());
    assert!(load("listen = 'nonsense'").unwrap().address().is_err());
    // Saying so in the file is not enough: the flag is for a person to type.
    assert!(load("insecure_open = true").is_err());
}

/// Each wrong file, with words its error must have.
#[test]
fn errors_name_the_file_and_the_key() {
    let same = TokenHash::of("x");
    let twins = format!("[[tokens]]\nname = 'a'\nhash = '{same}'\n[[tokens]]\nname = 'b'\nhash = '{same}'");
    let namesakes = format!(
        "[[tokens]]\nname = 'a'\nhash = '{same}'\n[[tokens]]\nname = 'a'\nhash = '{}'",
        TokenHash::of("y")
    );
    for (text, words) in [
        ("lisen = 'x'", &["/etc/gitstead.toml", "lisen", "line 1"][..]),
        ("[limits]\nwant = 1", &["want", "line 2"]),
        ("[limits]\nwants = 'many'", &["line 2", "64m"]),
        ("[limits]\nwants = -1", &["line 2", "negative"]),
        ("[limits]\nwants = 0", &["limits.wants", "at least 1"]),
        (
            "[limits]\npack_objects = 99999999999",
            &["limits.pack_objects", "too large"],
        ),
        ("[limits]\nread_idle = 5", &["line 2"]),
        ("[limits]\nread_idle = '5'", &["line 2", "30s"]),
        ("[limits]\nread_idle = '0s'", &["limits.read_idle"]),
        ("[[tokens]]\nname = 'a'\nhash = 'x'", &["line 3", "gitstead token new"]),
        ("[[tokens]]\nname = 'a'", &["hash"]),
        (&twins, &["tokens.hash", "same token"]),
        (&namesakes, &["tokens.name", "two tokens named 'a'"]),
        ("url_prefix = '/a b'", &["url_prefix", "/repos"]),
        ("url_prefix = '/../x'", &["url_prefix"]),
        ("url_prefix = '/api'", &["url_prefix", "/api"]),
        ("url_prefix = 'healthz/x'", &["url_prefix"]),
        (
            "[defaults]\n'uploadpack.allowFilter' = 'maybe'",
            &["defaults", "maybe", "uploadpack.allowfilter"],
        ),
        ("namespace = 'a..b'", &["namespace"]),
        ("namespace = 'a//b'", &["namespace"]),
        ("default_branch = 'a b'", &["default_branch"]),
        ("object_format = 'md5'", &["object_format", "sha256"]),
        ("trusted_user_header = 'a b'", &["trusted_user_header"]),
        ("trusted_user_header = 'Authorization'", &["trusted_user_header"]),
        ("[defaults]\nplain = 1", &["defaults.plain", "git configuration key"]),
        ("[defaults]\n\"a.b\" = 1.5", &["defaults.a.b"]),
        ("=", &["/etc/gitstead.toml", "line 1"]),
    ] {
        let error = load(text).expect_err(text).to_string();
        for word in words {
            assert!(error.contains(word), "{text:?} said {error:?}, without {word:?}");
        }
    }
}

#[test]
fn data_goes_where_the_system_says() {
    let env = |pairs: &'static [(&'static str, &'static str)]| {
        move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into())
    };
    let dir = |pairs| default_data_dir(env(pairs));
    assert_eq!(
        dir(&[("HOME", "/home/ada")]),
        Some("/home/ada/.local/share/gitstead".into())
    );
    assert_eq!(
        dir(&[("HOME", "/h"), ("XDG_DATA_HOME", "/x")]),
        Some("/x/gitstead".into())
    );
    assert_eq!(
        dir(&[("HOME", "/h"), ("XDG_DATA_HOME", "relative")]),
        Some("/h/.local/share/gitstead".into())
    );
    assert_eq!(dir(&[]), None);
}

#[test]
fn the_readme_shows_what_is_understood() {
    let readme = include_str!("../../README.md");
    let blocks: Vec<&str> = readme
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(blocks.len() >= 2, "{} blocks", blocks.len());
    let overrides = Overrides {
        data: Some("/data".into()),
        ..Overrides::default()
    };
    let plain = Config::from_toml("", Path::new("gitstead.toml"), &overrides).unwrap();
    for block in blocks {
        let config = Config::from_toml(block, Path::new("gitstead.toml"), &overrides).unwrap();
        assert_eq!(config.limits, plain.limits, "README tells the defaults");
        assert_eq!((&config.listen, &config.url_prefix), (&plain.listen, &plain.url_prefix));
        assert_eq!(config.default_branch, plain.default_branch);
        let told = |config: &Config| {
            let told = config.workspace_options();
            let how = (told.durability, told.placement, told.unchanged, told.index_delay);
            (how, told.file_bytes, told.files, told.committer)
        };
        assert_eq!(told(&config), told(&plain), "README tells the defaults");
        assert_eq!(config.rules.anonymous_read, plain.rules.anonymous_read);
    }
    for line in include_str!("../base/limits.rs").lines() {
        let Some(name) = line.trim().strip_prefix("pub ").and_then(|rest| rest.split_once(": ")) else {
            continue;
        };
        assert!(
            readme.contains(&format!("\n{} = ", name.0)),
            "README does not name limits.{}",
            name.0
        );
    }
}

#[test]
fn checkpoints_are_made_as_the_file_says() {
    let overrides = Overrides {
        data: Some("/data".into()),
        ..Overrides::default()
    };
    let read = |text: &str| Config::from_toml(text, Path::new("gitstead.toml"), &overrides);
    let text = "[checkpoints]\ndurability = \"each\"\nplacement = \"shadow\"\nunchanged = \"skip\"\nindex_delay = \"2s\"\nfile_bytes = \"1m\"\n\
                files = 7\nsecrets = []\ncommitter = \"A B <a@b>\"\n";
    let told = read(text).unwrap().workspace_options();
    assert_eq!(told.durability, crate::workspace::Durability::Each);
    assert_eq!(told.placement, crate::workspace::Placement::Shadow);
    assert_eq!(told.unchanged, crate::workspace::Unchanged::Skip);
    assert_eq!(told.index_delay, std::time::Duration::from_secs(2));
    assert_eq!((told.file_bytes, told.files), (1 << 20, 7));
    assert_eq!(told.secrets, crate::workspace::SecretRules::none());
    assert_eq!(told.committer, ("A B".to_owned(), "a@b".to_owned()));
    for (text, words) in [
        ("durability = \"always\"", "unknown variant"),
        ("committer = \"A\"", "checkpoints.committer: 'A' is not"),
        ("signing_key = \"/nowhere\"", "checkpoints.signing_key: /nowhere"),
        ("unknown = 1", "unknown field"),
    ] {
        let error = read(&format!("[checkpoints]\n{text}\n")).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn the_agent_that_answers_is_told_what_it_understands() {
    let config = load(
        "[agents]\nletta_cli = 'letta.js'\n[ask]\npreset = 'letta'\npartial = true\nargs = ['--x']\n[ask.letta]\nagentId = 'agent-1'\ntags = ['a']",
    )
    .unwrap();
    assert_eq!(config.letta_cli.as_deref(), Some(Path::new("/etc/letta.js")));
    let spec = config.ask.and_then(|ask| ask.spec).expect("somebody answers");
    let argv = spec.command(None).unwrap().join(" ");
    assert!(
        argv.ends_with("--agent agent-1 --permission-mode standard --tags a --include-partial-messages --x"),
        "{argv}"
    );
    for (text, why) in [
        ("preset = 'opencode-acp'\nmodel = 'm'", "no way to be told"),
        ("command = ['claude']\nmodel = 'm'", "'model'"),
        ("preset = 'claude'\n[ask.letta]", "'letta'"),
        ("preset = 'letta'\n[ask.letta]\nnonsense = 1", "nonsense"),
    ] {
        let error = load(&format!("[ask]\n{text}")).unwrap_err();
        let told = format!("{error:?} {error}");
        assert!(told.contains(why), "{text}: {told}");
    }
}

#[test]
fn the_variables_of_the_service_before_are_heard() {
    let env = |name: &str| {
        let value = match name {
            "AGENT_RATE_MAX" => "7",
            "AGENT_RATE_WINDOW_S" => "90",
            "AGENT_CONCURRENCY_PER_USER" => "2",
            "AGENT_AUDIT_LOG" => "/var/log/audit.jsonl",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let ask = |text: &str| toml::from_str::<crate::server::file::FileAsk>(text).expect("TOML");
    let base = Path::new("/base");
    let rules = ask("per_user = 3").rules(base, env).expect("sound");
    assert_eq!(
        (rules.rate_max, rules.per_user),
        (7, 2),
        "as the environment always wins"
    );
    assert_eq!(rules.rate_window, std::time::Duration::from_secs(90));
    let told = ask("audit = 'a.jsonl'\nper_user = 3");
    let audit = |own: crate::server::file::FileAudit, env: fn(&str) -> Option<String>| {
        own.rules(Some(&told), base, "/data/audit.jsonl".into(), env)
            .file
            .expect("it is noted")
    };
    let table = || toml::from_str("file = 'b.jsonl'").expect("TOML");
    assert_eq!(audit(table(), env), Path::new("/var/log/audit.jsonl"));
    assert_eq!(audit(table(), |_| None), Path::new("/base/b.jsonl"));
    assert_eq!(audit(Default::default(), |_| None), Path::new("/base/a.jsonl"));
    let own = told.rules(base, |_| None).expect("sound");
    assert_eq!((own.rate_max, own.per_user, own.address_max), (60, 3, 0));
    let wrong = |name: &str| (name == "AGENT_RATE_MAX").then(|| "many".to_owned());
    let error = ask("").rules(base, wrong).expect_err("it is no number");
    assert!(error.to_string().contains("AGENT_RATE_MAX"), "{error}");
}

#[test]
fn the_sidecar_of_letta_listens_where_letta_looks_for_it() {
    let memfs = |base: Option<&str>, listen: Option<&str>| Overrides {
        data: Some("/data".into()),
        letta_memfs: Some(base.map(Into::into)),
        listen: listen.map(str::to_owned),
        ..Overrides::default()
    };
    let config = load_with("", &memfs(Some("/memfs"), None)).unwrap();
    assert_eq!(config.listen, "127.0.0.1:8285");
    let address = config.address().unwrap();
    assert!(address.ip().is_loopback() && address.port() == 8285, "{address}");
    assert_eq!(config.repos, Path::new("/memfs"));
    // Also where the file says that it is one; what somebody says wins.
    let config = load("[letta_memfs]\nbase = 'memories'").unwrap();
    assert_eq!(
        (config.listen.as_str(), config.repos.as_path()),
        ("127.0.0.1:8285", Path::new("/etc/memories"))
    );
    let config = load_with("listen = '127.0.0.1:1'", &memfs(Some("/memfs"), None)).unwrap();
    assert_eq!(config.listen, "127.0.0.1:1");
    let config = load_with("listen = '127.0.0.1:1'", &memfs(Some("/memfs"), Some("127.0.0.1:2"))).unwrap();
    assert_eq!(config.listen, "127.0.0.1:2");
    // Others are let in only by a token, or where they were asked for.
    let open = load_with("", &memfs(Some("/memfs"), Some("0.0.0.0:8285"))).unwrap();
    assert!(matches!(open.address(), Err(ConfigError::Open { .. })));
    let plain = load("").unwrap();
    assert_eq!(plain.listen, "127.0.0.1:8080");
}

#[test]
fn rules_and_notes_are_as_the_file_says() {
    let config = load(
        "token_cookie = 'sid'\n[agents]\npermissions = [{ decision = 'deny', tool = 'Bash', matches = 'rm *' }]\n\
         [ask]\npermissions = [{ decision = 'allow', tool = 'Read' }]\naddress_max = 9\n\
         [audit]\nfile = 'x.jsonl'\ntexts = false\nbytes = '1m'\nfiles = 3\nflush = 'each'\n",
    )
    .unwrap();
    assert_eq!(config.token_cookie.as_deref(), Some("sid"));
    assert_eq!(config.permissions[0].to_string(), "deny Bash(rm *)");
    let ask = config.ask.expect("somebody answers");
    assert_eq!(ask.spec.expect("by whom").permissions[0].to_string(), "allow Read");
    assert_eq!(ask.address_max, 9);
    let audit = config.audit;
    assert_eq!(audit.file.as_deref(), Some(Path::new("/etc/x.jsonl")));
    assert_eq!((audit.texts, audit.bytes, audit.files), (false, 1 << 20, 3));
    assert_eq!(audit.flush, crate::session::AuditFlush::Each);
    let plain = load("").unwrap().audit;
    assert!(plain.file.is_some_and(|file| file.ends_with("audit.jsonl")));
    for (text, why) in [
        (
            "token_cookie = 'a b'",
            "token_cookie: 'a b' is not the name of a cookie",
        ),
        ("token_cookie = ''", "token_cookie"),
        (
            "[agents]\npermissions = [{ decision = 'allow', tool = '' }]",
            "agents.permissions",
        ),
        ("[agents]\npermissions = [{ decision = 'maybe', tool = 'x' }]", "maybe"),
        (
            "[ask]\npermissions = [{ decision = 'allow', tool = 'x', matches = '' }]",
            "ask.command",
        ),
        ("[audit]\nflush = 'sometimes'", "sometimes"),
    ] {
        let error = load(text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}
