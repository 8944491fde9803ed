use super::{super::hints::UNHEARD, *};

#[test]
fn render_says_what_why_and_what_to_do() {
    let e = store::Error::new(ErrorKind::Unauthenticated, "pull", "GET answered 401")
        .at("oci://reg.example/go", "sha256:4f");
    let e = CommandError::from(ops::Error::Store(e));
    assert_eq!(
        e.render(),
        "error: cannot pull sha256:4f at oci://reg.example/go: GET answered 401\n  \
         hint: log in with `docker login reg.example`, or give the credentials in DOCKER_AUTH_CONFIG\n"
    );
    assert_eq!((e.kind, e.store_is_lost), (Kind::Failed, true));
}

#[test]
fn hint_of_a_refusal_fits_who_refused() {
    let hints = |store: &str, message: &str| {
        let e = store::Error::denied("open", message).at(store, "");
        CommandError::from(e).hints.join(" ")
    };
    // A folder's mode has nothing to do with credentials.
    let of_folder = hints("disk:/srv/cache", "Permission denied");
    assert!(
        of_folder.contains("owner and mode") && !of_folder.contains("credentials"),
        "{of_folder}"
    );
    assert!(hints("s3://b", "403").contains("credentials"));
    // A wrong secret is not a missing one, neither at S3 nor at a registry.
    let unknown = |store: &str, message: &str| {
        let e = store::Error::new(ErrorKind::Unauthenticated, "get", message).at(store, "");
        CommandError::from(e).hints.join(" ")
    };
    assert_eq!(
        unknown("s3://b", "answered 403 SignatureDoesNotMatch: …"),
        ""
    );
    assert!(unknown("s3://b", "no credentials: none found").contains("AWS_ACCESS_KEY_ID"));
    // Nor is a daemon's memory space on its disk.
    let full = |message: &str| {
        let e = store::Error::full("ls", message).at("cachectld:/d.sock", "");
        CommandError::from(e).hints.join(" ")
    };
    for said in [
        "no memory for the report: 200 of 256 MB for all calls are in use",
        "cannot read x: not enough memory: 200 of 256 MB are in use",
        "this caller has not read the reports of its other calls yet",
        "too many requests wait for a place (control)",
    ] {
        assert!(full(said).contains("its disk is not full"), "{said}");
    }
    assert!(full("the daemon's store is full").contains("cachectl prune"));
    // A firewall's refusal is not about credentials.
    let firewall = "… 403 Forbidden; no credentials were sent: the answer did not ask for any";
    let firewall = hints("oci://reg.example/go", firewall);
    assert!(
        firewall.contains("a firewall") && !firewall.contains("grant"),
        "{firewall}"
    );
    let nobody = hints(
        "oci://reg.example/go",
        "403; no credentials were sent: none found",
    );
    assert!(nobody.contains("docker login"), "{nobody}");
    for said in [
        "the request is for host `box`, …: add the name to `allowed_hosts` in its settings",
        "a web page of another site sent this request …; behind a proxy, set `external_url` to that site",
        "… came through a proxy …; give clients accounts (`auth.htpasswd` or `auth.tokens`)",
    ] {
        assert_eq!(hints("oci://box:5000/app", said), "", "{said}");
    }
}

#[test]
fn messages_have_names_instead_of_tags_and_no_endless_words() {
    let e = store::Error::timeout("resolve", "no answer").at(
        "oci://reg.example/go",
        "gobuild.example_2ecom_2fapp.default.",
    );
    assert_eq!(
        CommandError::from(e).message,
        "cannot resolve gobuild example.com/app (scope default) at oci://reg.example/go: no answer"
    );
    let e = CommandError::failed(format!("cannot read {}/end", "ü".repeat(4000)));
    assert!(e.message.chars().count() < 400, "{}", e.message);
    assert!(e.message.ends_with("ü/end"), "{}", e.message);
}

#[test]
fn a_spent_budget_says_what_the_store_answered_and_how_to_carry_less_only_where_bytes_move() {
    let spent = || {
        CommandError::from(ops::Error::Budget {
            phase: Phase::Resolve.name(),
            budget: std::time::Duration::from_secs(3),
        })
    };
    let refused = store::Error::unavailable("resolve", "Connection refused")
        .at("oci://r.example/c", "t")
        .unheard();
    let line = spent().at_the_store(&refused).line();
    assert_eq!(
        line,
        "timed out during resolve after 3s, the time budget: cannot resolve t at oci://r.example/c: Connection refused \
         (hint: check the store's URL, and that this machine can reach it)"
    );
    let hints = |phase| spent().carrying(phase).hints.join("");
    assert_eq!(hints(Some(Phase::Resolve)), "raise --budget");
    assert!(hints(Some(Phase::Restore)).contains("--max-size"));
}

#[test]
fn a_store_of_which_nothing_was_heard_is_not_a_matter_of_patience() {
    for kind in [ErrorKind::Timeout, ErrorKind::Unavailable] {
        let e = || store::Error::new(kind, "get", "no").at("s3://b", "k");
        let hints = |e| CommandError::from(e).hints.join("");
        assert!(hints(e()).contains("--retry-for"));
        assert_eq!(hints(e().unheard()), UNHEARD);
    }
}

#[test]
fn line_breaks_and_escapes_of_a_server_do_not_reach_the_terminal() {
    let e = CommandError::failed("a\n\u{1b}[31m\u{202e} b");
    assert_eq!(e.line(), "a [31m b");
}

#[test]
fn bad_options_are_usage_wherever_they_are_found() {
    let e = CommandError::from(store::Error::invalid("open", "bad URL"));
    assert_eq!(e.kind.code(), 2);
    for op in ["get", "publish", "read password"] {
        let e = CommandError::from(store::Error::invalid(op, "refused"));
        assert_eq!(
            e.kind.code(),
            1,
            "{op}: what a server says is no usage error"
        );
    }
    assert_eq!(
        CommandError::from(ops::Error::Usage("x".into()))
            .kind
            .code(),
        2
    );
}
