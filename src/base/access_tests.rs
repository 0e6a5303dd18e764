use super::*;

fn name(text: &str) -> RepoName {
    RepoName::parse(text).unwrap()
}

fn token(id: &str, secret: &str, grants: &[(&str, Access)]) -> TokenRule {
    TokenRule {
        id: id.to_owned(),
        hash: TokenHash::of(secret),
        grants: grants
            .iter()
            .map(|(pattern, access)| Grant {
                pattern: Pattern::parse(pattern).unwrap(),
                access: *access,
            })
            .collect(),
    }
}

fn basic(user: &str, password: &str) -> Vec<u8> {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {pair}").into_bytes()
}

fn from_header(value: &[u8]) -> Credential {
    Credential::from_authorization([value])
}

#[test]
fn patterns_name_repositories_by_segments() {
    for (pattern, good, bad) in [
        (
            "team/app",
            &["team/app", "team/app.git", "team/app/.git", "team/app.git/.git"][..],
            &["team/app2", "team", "team/app/x"][..],
        ),
        ("team/*", &["team/app", "team/x.git"], &["team", "team/a/b", "teams/a"]),
        ("team/**", &["team", "team/a", "team/a/b.git"], &["teams", "x/team/a"]),
        ("**", &["a", "a/b/c"], &[]),
        ("*", &["a", "a.git"], &["a/b"]),
        ("a*c/x", &["ac/x", "abbc/x", "acc/x"], &["ab/x", "a/c/x"]),
        ("**/docs", &["docs", "a/docs", "a/b/docs.git"], &["docs/a", "mydocs"]),
        ("a/**/z", &["a/z", "a/b/z", "a/b/c/z"], &["a/zz", "b/a/z"]),
        ("app-*-x*", &["app-1-x", "app-1-2-xy"], &["app-x", "app"]),
    ] {
        let parsed = Pattern::parse(pattern).unwrap();
        for repo in good {
            assert!(parsed.matches(&name(repo)), "{pattern} should name {repo}");
        }
        for repo in bad {
            assert!(!parsed.matches(&name(repo)), "{pattern} should not name {repo}");
        }
    }
}

#[test]
fn what_is_not_a_pattern_is_refused() {
    let stars = "*a".repeat(40);
    for bad in [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "../x",
        "a/./b",
        "a**",
        "**a/b",
        "***",
        "a\\b",
        "a\nb",
        stars.as_str(),
    ] {
        assert!(Pattern::parse(bad).is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn a_pattern_of_many_stars_is_matched_in_no_time() {
    let pattern = Pattern::parse(&format!("{}b", "a*".repeat(16))).unwrap();
    let long = vec!["a".repeat(250); 4].join("/");
    assert!(!pattern.matches(&name(&long)));
}

#[test]
fn a_token_travels_as_bearer_or_basic() {
    let token = || Credential::Token("gst_x".to_owned());
    assert_eq!(from_header(b"Bearer gst_x"), token());
    assert_eq!(from_header(b"bearer  gst_x "), token());
    assert_eq!(from_header(&basic("anyone", "gst_x")), token());
    assert_eq!(from_header(&basic("gst_x", "")), token());
    assert_eq!(Credential::from_authorization([]), Credential::None);
    for bad in [
        &b""[..],
        b"Bearer",
        b"Bearer ",
        b"Basic !!",
        b"Basic eA==",
        b"Digest x",
        b"Basic Og==",
        b"\xff\xfe x",
    ] {
        assert_eq!(from_header(bad), Credential::Unusable, "{bad:?}");
    }
    assert_eq!(
        Credential::from_authorization([&b"Bearer a"[..], b"Bearer b"]),
        Credential::Unusable
    );
}

#[test]
fn the_user_header_is_one_clean_name_or_nothing() {
    let read = |values: &[&'static [u8]]| Credential::from_user_header(values.iter().copied());
    assert_eq!(read(&[]), Credential::None);
    assert_eq!(read(&[b" "]), Credential::None);
    assert_eq!(read(&[b"ada"]), Credential::ProxyUser("ada".to_owned()));
    assert_eq!(read(&[b"ada", b"bob"]), Credential::Unusable);
    assert_eq!(read(&[b"a\tb"]), Credential::Unusable);
    assert_eq!(read(&[b"a<b"]), Credential::Unusable);
    assert_eq!(read(&[b"\xff"]), Credential::Unusable);
}

#[test]
fn hashes_are_read_and_written_alike() {
    let hash = TokenHash::of("gst_x");
    assert!(TokenHash::parse(&hash.to_string()).unwrap().same(&hash));
    assert!(
        TokenHash::parse(hash.to_string().trim_start_matches("sha256:"))
            .unwrap()
            .same(&hash)
    );
    assert!(!TokenHash::of("gst_y").same(&hash));
    for bad in [
        "",
        "sha256:",
        "sha256:00",
        &"g".repeat(64),
        &"0".repeat(65),
        &"é".repeat(32),
    ] {
        assert!(TokenHash::parse(bad).is_err(), "{bad:?}");
    }
    assert_eq!(format!("{hash:?}"), "TokenHash(…)");
}

#[test]
fn a_token_text_holds_all_its_bits() {
    assert_eq!(token_text(&[0; 25]), format!("gst_{}", "a".repeat(40)));
    assert_eq!(token_text(&[255; 25]), format!("gst_{}", "7".repeat(40)));
    let mut one = [0; 25];
    one[24] = 1;
    assert_eq!(token_text(&one), format!("gst_{}b", "a".repeat(39)));
}

#[test]
fn a_bad_credential_is_never_taken_for_none() {
    let rules = Rules {
        tokens: vec![token("ci", "gst_ci", &[("**", Access::Write)])],
        anonymous_read: true,
        ..Rules::default()
    };
    let bad = [Credential::Token("gst_wrong".into()), Credential::Unusable];
    for credential in bad {
        assert_eq!(rules.identify(&Credential::None, &credential), Err(Decision::NeedUser));
    }
    assert_eq!(
        rules.identify(&Credential::None, &Credential::None),
        Ok(Principal::Anonymous)
    );
    // The header is not configured: what it says is nothing.
    let header = Credential::ProxyUser("root".into());
    assert_eq!(rules.identify(&header, &Credential::None), Ok(Principal::Anonymous));
    let good = Credential::Token("gst_ci".into());
    assert_eq!(
        rules.identify(&Credential::None, &good),
        Ok(Principal::Token { id: "ci".into() })
    );
}

#[test]
fn behind_a_proxy_authorization_is_the_proxys_business() {
    let rules = Rules {
        trusted_header: true,
        ..Rules::default()
    };
    let user = Credential::ProxyUser("ada".into());
    let password = Credential::Token("the proxy's password".into());
    assert_eq!(
        rules.identify(&user, &password),
        Ok(Principal::User { name: "ada".into() })
    );
    assert_eq!(rules.identify(&Credential::None, &password), Ok(Principal::Anonymous));
    assert_eq!(
        rules.identify(&Credential::Unusable, &password),
        Err(Decision::NeedUser)
    );
}

/// The matrix: route × who, for one set of rules. Columns are the principals, cells `+` allow, `u` 401, `f` 403, `n` 404.
fn matrix(rules: &Rules, local: bool) -> String {
    let repo = name("team/app.git");
    let principals = [
        ("anonymous", Principal::Anonymous),
        ("reader", Principal::Token { id: "reader".into() }),
        ("writer", Principal::Token { id: "writer".into() }),
        ("other", Principal::Token { id: "other".into() }),
        ("user", Principal::User { name: "ada".into() }),
    ];
    let routes = [
        ("upload-pack", Route::UploadPack { enabled: true }),
        ("upload-pack off", Route::UploadPack { enabled: false }),
        ("receive-pack", Route::ReceivePack { setting: None }),
        ("receive-pack on", Route::ReceivePack { setting: Some(true) }),
        ("receive-pack off", Route::ReceivePack { setting: Some(false) }),
        ("dumb", Route::DumbFile { enabled: true }),
        ("dumb off", Route::DumbFile { enabled: false }),
        ("inspect", Route::Inspect),
        ("manage", Route::Manage),
    ];
    let mut table = String::new();
    for (label, route) in routes {
        table.push_str(&format!("{label:<17}"));
        for (_, who) in &principals {
            table.push(' ');
            for presence in [Presence::Present, Presence::Creatable, Presence::Absent] {
                let ask = Ask {
                    repo: &repo,
                    route,
                    presence,
                    local,
                };
                table.push(match rules.decide(who, &ask) {
                    Decision::Allow => '+',
                    Decision::NeedUser => 'u',
                    Decision::Forbidden => 'f',
                    Decision::NotFound => 'n',
                });
            }
        }
        table.push('\n');
    }
    table
}

fn three_tokens() -> Vec<TokenRule> {
    vec![
        token("reader", "gst_r", &[("team/*", Access::Read)]),
        token("writer", "gst_w", &[("team/*", Access::Write)]),
        token("other", "gst_o", &[("elsewhere/**", Access::Write)]),
    ]
}

// In each cell: the repository is there, would be created, is not there. Columns: anonymous, reader, writer, other token, proxy user.

#[test]
fn with_nothing_configured_this_machine_is_the_owner() {
    insta::assert_snapshot!(matrix(&Rules::default(), true), @"
    upload-pack       ++n nnn nnn nnn nnn
    upload-pack off   ffn nnn nnn nnn nnn
    receive-pack      ++n nnn nnn nnn nnn
    receive-pack on   ++n +nn +nn +nn +nn
    receive-pack off  ffn nnn nnn nnn nnn
    dumb              ++n nnn nnn nnn nnn
    dumb off          ffn nnn nnn nnn nnn
    inspect           ++n nnn nnn nnn nnn
    manage            ++n nnn nnn nnn nnn
    ");
}

#[test]
fn with_nothing_configured_others_are_refused() {
    insta::assert_snapshot!(matrix(&Rules::default(), false), @"
    upload-pack       fff nnn nnn nnn nnn
    upload-pack off   fff nnn nnn nnn nnn
    receive-pack      fff nnn nnn nnn nnn
    receive-pack on   +ff +nn +nn +nn +nn
    receive-pack off  fff nnn nnn nnn nnn
    dumb              fff nnn nnn nnn nnn
    dumb off          fff nnn nnn nnn nnn
    inspect           fff nnn nnn nnn nnn
    manage            fff nnn nnn nnn nnn
    ");
}

#[test]
fn insecure_open_is_open_but_for_administration() {
    let rules = Rules {
        insecure_open: true,
        ..Rules::default()
    };
    insta::assert_snapshot!(matrix(&rules, false), @"
    upload-pack       ++n nnn nnn nnn nnn
    upload-pack off   ffn nnn nnn nnn nnn
    receive-pack      ++n nnn nnn nnn nnn
    receive-pack on   ++n +nn +nn +nn +nn
    receive-pack off  ffn nnn nnn nnn nnn
    dumb              ++n nnn nnn nnn nnn
    dumb off          ffn nnn nnn nnn nnn
    inspect           ++n nnn nnn nnn nnn
    manage            fff nnn nnn nnn nnn
    ");
}

#[test]
fn tokens_do_what_their_grants_say_and_loopback_means_nothing() {
    let rules = Rules {
        tokens: three_tokens(),
        ..Rules::default()
    };
    assert_eq!(matrix(&rules, true), matrix(&rules, false));
    let open = Rules {
        insecure_open: true,
        ..rules.clone()
    };
    assert_eq!(matrix(&open, true), matrix(&rules, false));
    insta::assert_snapshot!(matrix(&rules, true), @"
    upload-pack       uuu ++n ++n nnn nnn
    upload-pack off   uuu ffn ffn nnn nnn
    receive-pack      uuu ffn ++n nnn nnn
    receive-pack on   +uu ++n ++n +nn +nn
    receive-pack off  uuu ffn ffn nnn nnn
    dumb              uuu ++n ++n nnn nnn
    dumb off          uuu ffn ffn nnn nnn
    inspect           uuu ++n ++n nnn nnn
    manage            uuu ffn ++n nnn nnn
    ");
}

#[test]
fn anonymous_reading_is_a_switch() {
    let rules = Rules {
        tokens: three_tokens(),
        anonymous_read: true,
        ..Rules::default()
    };
    assert_eq!(matrix(&rules, true), matrix(&rules, false));
    insta::assert_snapshot!(matrix(&rules, true), @"
    upload-pack       ++n ++n ++n ++n ++n
    upload-pack off   ffn ffn ffn ffn ffn
    receive-pack      uuu ffn ++n ffn ffn
    receive-pack on   ++n ++n ++n ++n ++n
    receive-pack off  ffu ffn ffn ffn ffn
    dumb              ++n ++n ++n ++n ++n
    dumb off          ffn ffn ffn ffn ffn
    inspect           ++n ++n ++n ++n ++n
    manage            uuu ffn ++n ffn ffn
    ");
}

#[test]
fn users_of_the_proxy_may_do_everything_the_repository_allows() {
    let rules = Rules {
        trusted_header: true,
        ..Rules::default()
    };
    assert_eq!(matrix(&rules, true), matrix(&rules, false));
    insta::assert_snapshot!(matrix(&rules, true), @"
    upload-pack       uuu nnn nnn nnn ++n
    upload-pack off   uuu nnn nnn nnn ffn
    receive-pack      uuu nnn nnn nnn ++n
    receive-pack on   +uu +nn +nn +nn ++n
    receive-pack off  uuu nnn nnn nnn ffn
    dumb              uuu nnn nnn nnn ++n
    dumb off          uuu nnn nnn nnn ffn
    inspect           uuu nnn nnn nnn ++n
    manage            uuu nnn nnn nnn ++n
    ");
}

#[test]
fn a_program_on_this_machine_is_told_from_a_web_page_on_it() {
    let loopback: IpAddr = "127.0.0.1".parse().unwrap();
    let base = Origin {
        peer: Some(loopback),
        ..Origin::default()
    };
    let own = ["git.example.org".to_owned()];
    for host in [
        None,
        Some("127.0.0.1:8080"),
        Some("localhost:8080"),
        Some("LOCALHOST."),
        Some("[::1]:8080"),
        Some("buildbox"),
        Some("10.1.2.3:80"),
        Some("repos.localhost:1"),
        Some("git.example.org:8080"),
    ] {
        assert!(
            speaks_locally(&Origin {
                host,
                own_hosts: &own,
                ..base
            }),
            "{host:?} was refused"
        );
    }
    for host in [
        "evil.example",
        "git.example.org.evil.example:8080",
        "127.0.0.1.evil.example",
        "[evil.example]:8080",
    ] {
        assert!(
            !speaks_locally(&Origin {
                host: Some(host),
                own_hosts: &own,
                ..base
            }),
            "{host:?} was accepted"
        );
    }
    let host = Some("127.0.0.1:8080");
    assert!(speaks_locally(&Origin {
        host,
        origin: Some("http://127.0.0.1:8080"),
        ..base
    }));
    for origin in ["http://127.0.0.1:9", "http://evil.example", "null", ""] {
        assert!(
            !speaks_locally(&Origin {
                host,
                origin: Some(origin),
                ..base
            }),
            "{origin:?} was accepted"
        );
    }
    assert!(!speaks_locally(&Origin {
        forwarded: true,
        ..base
    }));
    assert!(!speaks_locally(&Origin {
        peer: "192.0.2.1".parse().ok(),
        ..base
    }));
    assert!(!speaks_locally(&Origin::default()));
    assert!(speaks_locally(&Origin {
        peer: "::ffff:127.0.0.1".parse().ok(),
        ..base
    }));
    assert!(speaks_locally(&Origin {
        peer: "::1".parse().ok(),
        ..base
    }));
}
