use std::path::Path;

use super::*;
use crate::{
    config::{
        Raw,
        daemon::{self, TABLE},
        file,
    },
    serve::{
        admission,
        auth::{Action, Scheme, TrustLocal},
        hold,
    },
    store::{ingest::Quota, tiered::Room},
};

const HOME: [(&str, &str); 1] = [("HOME", "/home/u")];

fn from_text(text: &str) -> Result<Config> {
    let layer = file::parse(&TABLE, Path::new("/etc/c.toml"), text)?;
    Config::from_layer(&layer, &HOME.into_iter().collect())
}

fn refused(text: &str) -> String {
    let e = from_text(text).err().unwrap();
    format!("{} | {}", e.message, e.hint.unwrap_or_default())
}

#[test]
fn without_settings_only_this_machine_is_served() {
    let c = from_text("").unwrap();
    assert_eq!(c.store.0, "disk:/home/u/.cache/cachectl");
    assert_eq!(c.state_dir, Path::new("/home/u/.local/state/cachectld"));
    assert_eq!(c.listen.len(), 1);
    assert_eq!(c.listen[0].to_string(), "http://127.0.0.1:5000");
    let socket = c.socket.unwrap();
    assert_eq!(
        socket.path,
        Path::new("/home/u/.local/state/cachectld/cachectld.sock")
    );
    assert_eq!((socket.mode, socket.group), (0o600, None));
    assert_eq!(c.auth, auth::Config::default());
    assert!(c.tls.is_none() && c.buildkit.merge.is_match("any/thing"));
}

#[test]
fn the_tables_defaults_are_those_of_what_they_are_for() {
    let c = from_text("").unwrap();
    assert_eq!(
        (c.max_requests, c.client_stall, c.hold),
        (admission::REQUESTS, admission::CLIENT_STALL, hold::HOLD)
    );
    assert_eq!(
        (c.max_uploads, c.max_upload_bytes),
        (Quota::DEFAULT.uploads, Quota::DEFAULT.bytes)
    );
    assert_eq!(c.front_max_size, Room::default().max_bytes);
    let (set, own) = (c.buildkit, cache_tags::Settings::default());
    assert_eq!(
        (set.max_parts, set.max_age, set.shrink),
        (own.max_parts, own.max_age, own.shrink)
    );
}

#[test]
fn without_a_home_it_says_what_to_set() {
    let none = Env::default();
    let load = |pairs: &[(&str, &str)]| {
        let mut layer = Layer::default();
        for (name, value) in pairs {
            let key = TABLE.find(name).unwrap();
            layer.set(key, Raw::One((*value).to_owned()), Origin::Default);
        }
        Config::from_layer(&layer, &none)
            .err()
            .map(|e| e.hint.unwrap())
    };
    assert!(load(&[]).unwrap().contains("CACHECTLD_STATE_DIR"));
    assert!(
        load(&[("state_dir", "/s")])
            .unwrap()
            .contains("CACHECTLD_STORE")
    );
    assert_eq!(load(&[("state_dir", "/s"), ("store", "disk:/d")]), None);
}

#[test]
fn paths_of_the_file_are_relative_to_it() {
    let c = from_text("state_dir = \"s\"\n[tls]\ncert = \"c.pem\"\nkey = \"/k.pem\"").unwrap();
    assert_eq!(c.state_dir, Path::new("/etc/s"));
    let tls = c.tls.unwrap();
    assert_eq!(tls.cert, Path::new("/etc/c.pem"));
    assert_eq!(tls.key, Path::new("/k.pem"));
    assert!(c.listen[0].tls && !tls.client_must);
    assert_eq!(tls.handshake_timeout, Duration::from_secs(10));
}

#[test]
fn rules_and_rights_of_everybody_become_grants() {
    let c = from_text(
        "[auth]\ngrants = [\"ci = team/** : pull,push\"]\nanonymous = \"pull\"\noffer = [\"basic\"]\ntrust_local = \"nobody\"\nrefresh_life = \"0\"",
    )
    .unwrap();
    let who: Vec<_> = c.auth.grants.iter().map(|r| &r.principals[0]).collect();
    assert_eq!(who, ["ci", "anonymous"]);
    assert_eq!(c.auth.grants[1].actions, [Action::Pull]);
    assert_eq!(c.auth.offer, [Scheme::Basic]);
    assert_eq!(c.auth.trust_local, Some(TrustLocal::Nobody));
    assert_eq!(c.auth.refresh_life, Duration::ZERO);
}

#[test]
fn what_cannot_be_names_its_line_and_the_remedy() {
    for (text, want) in [
        (
            "listen = [\":5000\"]",
            "`listen` cannot be `:5000`: write 0.0.0.0 or [::] to listen on every address (/etc/c.toml:1)",
        ),
        (
            "listen = [\"127.0.0.1:1\", \"http://127.0.0.1:1\"]",
            "`listen` names 127.0.0.1:1 twice (/etc/c.toml:1)",
        ),
        (
            "listen = []\nsocket = \"none\"",
            "`listen` is `none`, and so is `socket`",
        ),
        ("socket_mode = \"0999\"", "`socket_mode` cannot be `0999`"),
        (
            "mode = \"write-back\"",
            "`mode` requires a local cache directory",
        ),
        ("mode = \"writeback\"", "write-through or write-back"),
        ("[tls]\ncert = \"a\"", "`tls.cert` is set without `tls.key`"),
        (
            "[tls]\nclient_ca = \"a\"",
            "`tls.client_ca` is set without `tls.cert`",
        ),
        (
            "[auth]\ngrants = [\"ci = x\"]",
            "`auth.grants` cannot hold `ci = x`",
        ),
        (
            "[tls]\ncert = \"a\"\nkey = \"b\"\nhandshake_timeout = \"0s\"",
            "a time above zero",
        ),
        (
            "[auth]\ngrants = [\"a = b : write\"]",
            "`auth.grants` cannot hold",
        ),
        (
            "[auth]\ntoken_life = \"soon\"",
            "`auth.token_life` cannot be",
        ),
        ("[auth]\noffer = [\"digest\"]", "`auth.offer` cannot hold"),
        ("[auth]\nanonymous = \"delete\"", "none or pull or push"),
        (
            "external_url = \"cache.example\"",
            "is not an http or https URL",
        ),
        ("upload_ttl = \"0\"", "a time above zero"),
        ("[auth]\nhtpaswd = \"x\"", "did you mean `auth.htpasswd`?"),
        ("lissten = \"x\"", "did you mean `listen`?"),
    ] {
        let shown = refused(text);
        assert!(shown.contains(want), "{text}: {shown}");
    }
}

#[test]
fn path_of_a_socket_is_short() {
    let long = format!("socket = \"/{}\"", "s".repeat(107));
    assert!(refused(&long).contains("at most 107 bytes"));
    assert!(from_text("socket = \"none\"").unwrap().socket.is_none());
}

#[test]
fn own_variables_win_over_those_shared_with_the_cli() {
    let env: Env = [
        ("HOME", "/home/u"),
        ("CACHECTL_STORE", "oci://other/x"),
        ("CACHECTL_S3_REGION", "eu"),
        ("CACHECTL_RETRY_FOR", "7s"),
        ("CACHECTLD_S3_REGION", "us"),
        ("CACHECTLD_AUTH_GRANTS", "a = b : pull,push; c = d : *"),
        ("CACHECTLD_PORT", "tcp://10.0.0.1:5000"),
    ]
    .into_iter()
    .collect();
    let loaded = daemon::load(&env, None, Layer::default()).unwrap();
    let c = &loaded.config;
    assert_eq!(c.store.1, Origin::Default);
    assert_eq!(c.remote.s3.region.as_deref(), Some("us"));
    assert_eq!(c.remote.retry_for, Duration::from_secs(7));
    assert_eq!(c.auth.grants.len(), 2);
    let rows = loaded.rows();
    let origin = |key| {
        rows.iter()
            .find(|r| r.key == key)
            .unwrap()
            .origin
            .to_string()
    };
    assert_eq!(origin("retry_for"), "$CACHECTL_RETRY_FOR");
    assert_eq!(origin("s3.region"), "$CACHECTLD_S3_REGION");
}

#[test]
fn a_variable_mistyped_is_refused_with_the_nearest_and_others_are_told_of() {
    let env = [("HOME", "/home/u"), ("CACHECTLD_VERSION", "1.2")];
    let env: Env = env.into_iter().collect();
    let loaded = daemon::load(&env, None, Layer::default()).unwrap();
    assert_eq!(loaded.unknown, ["CACHECTLD_VERSION"]);
    let env: Env = [("CACHECTLD_LISEN", "x")].into_iter().collect();
    let e = daemon::load(&env, None, Layer::default()).unwrap_err();
    assert_eq!(e.hint.as_deref(), Some("did you mean `CACHECTLD_LISTEN`?"));
}
