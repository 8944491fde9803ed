use std::fs;

use super::*;
use crate::config::{Loaded, Origin, load::load};

/// A home with a checkout `src` in it.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("src")).unwrap();
        fs::create_dir_all(dir.path().join(".config/cachectl")).unwrap();
        Self(dir)
    }

    fn path(&self, below: &str) -> PathBuf {
        // As `getcwd` tells it.
        self.0.path().canonicalize().unwrap().join(below)
    }

    fn own(&self, text: &str) {
        fs::write(self.path(".config/cachectl/cachectl.toml"), text).unwrap();
    }

    fn here(&self, text: &str) {
        fs::write(self.path("src/cachectl.toml"), text).unwrap();
    }

    fn try_load(&self, folder: &str, vars: &[(&str, &str)]) -> Result<Loaded> {
        let home = self.path("");
        let env: Env = [("HOME", home.to_str().unwrap())]
            .iter()
            .chain(vars)
            .copied()
            .collect();
        load(&env, &self.path(folder), None, Layer::default())
    }

    fn load(&self, vars: &[(&str, &str)]) -> Loaded {
        self.try_load("src", vars).unwrap()
    }
}

fn ignored(loaded: &Loaded) -> String {
    let keys: Vec<&str> = loaded.ignored().into_iter().map(|(key, _)| key).collect();
    keys.join(" ")
}

fn store(loaded: &Loaded) -> &str {
    loaded.config.store.as_ref().map_or("none", |(url, _)| url)
}

const EVIL: &str = "\
scope = \"default\"\nname = \"n\"\nowner = true\nread_only = false\nca_bundle = \"evil.pem\"\n\
[s3]\nendpoint = \"http://127.0.0.1:9\"\n[registry]\ninsecure = true\n";

#[test]
fn a_file_in_the_working_directory_says_what_is_cached_and_not_for_whom_or_where() {
    let machine = Machine::new();
    machine.here(EVIL);
    let loaded = machine.load(&[("CACHECTL_STORE", "s3://b")]);
    let c = &loaded.config;
    assert_eq!(c.name.as_deref(), Some("n"));
    assert!(c.scope.is_none() && c.remote.net.ca_bundle.is_none() && !c.owner);
    assert_eq!(c.remote.s3.endpoint, None);
    assert!(!c.remote.registry.insecure);
    assert_eq!(
        ignored(&loaded),
        "scope owner ca_bundle s3.endpoint registry.insecure"
    );
}

#[test]
fn whoever_names_or_trusts_the_file_gets_all_of_it() {
    let machine = Machine::new();
    machine.here(EVIL);
    let path = machine.path("src/cachectl.toml");
    for vars in [
        ("CACHECTL_CONFIG", path.to_str().unwrap()),
        ("CACHECTL_TRUST_CHECKOUT", "1"),
        ("CACHECTL_TRUST_CHECKOUT", "yes"),
    ] {
        let loaded = machine.load(&[vars]);
        assert_eq!(ignored(&loaded), "", "{vars:?}");
        assert_eq!(loaded.config.scope.as_ref().unwrap().0, "default");
        assert!(loaded.config.owner);
    }
    for text in ["0", "false", ""] {
        let loaded = machine.load(&[("CACHECTL_TRUST_CHECKOUT", text)]);
        assert!(ignored(&loaded).starts_with("scope"), "{text}");
    }
    let e = machine.try_load("src", &[("CACHECTL_TRUST_CHECKOUT", "maybe")]);
    assert_eq!(
        e.unwrap_err().message,
        "`CACHECTL_TRUST_CHECKOUT` is `maybe`"
    );
    // Not a key: a file must not say that it is to be trusted.
    machine.here("trust_checkout = true\n");
    let e = machine.try_load("src", &[]).unwrap_err();
    assert!(e.message.contains("unknown key"), "{}", e.message);
}

#[test]
fn a_checkout_makes_a_job_read_only_and_does_not_lift_that() {
    let machine = Machine::new();
    machine.here("read_only = true\n");
    let loaded = machine.load(&[]);
    assert!(loaded.config.read_only);
    assert_eq!(ignored(&loaded), "");
    // What the environment says still wins.
    assert!(
        !machine
            .load(&[("CACHECTL_READ_ONLY", "0")])
            .config
            .read_only
    );
    // It is off anyway.
    machine.here("read_only = false\n");
    let loaded = machine.load(&[]);
    assert!(!loaded.config.read_only);
    assert_eq!(ignored(&loaded), "");
    machine.own("read_only = true\n");
    let loaded = machine.load(&[]);
    assert!(loaded.config.read_only);
    assert_eq!(ignored(&loaded), "read_only");
}

#[test]
fn the_users_own_file_is_read_below_that_of_the_checkout() {
    let machine = Machine::new();
    machine.own("store = \"s3://own\"\njobs = 2\nconcurrency = 3\n");
    machine.here("store = \"s3://evil\"\njobs = 5\n");
    let loaded = machine.load(&[]);
    assert_eq!(store(&loaded), "s3://own");
    assert_eq!((loaded.config.jobs, loaded.config.concurrency), (5, 3));
    assert_eq!(ignored(&loaded), "store");
    assert!(
        loaded
            .file
            .as_ref()
            .unwrap()
            .ends_with(".config/cachectl/cachectl.toml")
    );
    assert_eq!(loaded.checkout.files, [machine.path("src/cachectl.toml")]);
    // Where both count, the one of the checkout is nearer, also where a daemon would win over a store.
    machine.own("daemon = \"/run/own.sock\"\n");
    let trusted = machine.load(&[("CACHECTL_TRUST_CHECKOUT", "1")]);
    assert_eq!(store(&trusted), "s3://evil");
    let (_, origin) = trusted.config.store.unwrap();
    assert_eq!(
        origin,
        Origin::Checkout {
            path: machine.path("src/cachectl.toml"),
            line: 1
        }
    );
}

#[test]
fn without_another_store_there_is_none_rather_than_one_that_nobody_meant() {
    let machine = Machine::new();
    for text in [
        "store = \"s3://b\"\n",
        "daemon = \"/run/d.sock\"\n",
        "daemon = \"??\"\n",
    ] {
        machine.here(text);
        assert_eq!(store(&machine.load(&[])), "none", "{text}");
        let set = machine.load(&[("CACHECTL_STORE", "disk:/x")]);
        assert_eq!(store(&set), "disk:/x", "{text}");
    }
    // Nor is a home needed to say so.
    machine.here("store = \"s3://b\"\n");
    let loaded = machine.load(&[("HOME", "")]);
    assert_eq!(store(&loaded), "none");
    machine.here("scope = \"x\"\n");
    assert!(store(&machine.load(&[])).starts_with("disk:"));
}

#[test]
fn what_the_environment_says_anyway_is_not_reported_as_ignored() {
    let machine = Machine::new();
    machine.here("store = \"s3://b\"\nscope = \"x\"\n");
    let loaded = machine.load(&[("CACHECTL_SCOPE", "y")]);
    assert_eq!(ignored(&loaded), "store");
}

#[test]
fn links_and_parent_folders_change_nothing() {
    let machine = Machine::new();
    machine.own("store = \"s3://own\"\nscope = \"mine\"\n");
    // A link in the checkout is the checkout's, wherever it leads.
    let target = machine.path("elsewhere.toml");
    fs::write(&target, "scope = \"default\"\nname = \"n\"\n").unwrap();
    std::os::unix::fs::symlink(&target, machine.path("src/cachectl.toml")).unwrap();
    let loaded = machine.load(&[]);
    assert_eq!(loaded.config.scope.as_ref().unwrap().0, "mine");
    assert_eq!(ignored(&loaded), "scope");
    // A file is looked for in the working directory itself, not above it.
    fs::create_dir(machine.path("src/below")).unwrap();
    let below = machine.try_load("src/below", &[]).unwrap();
    assert_eq!((below.config.name, below.checkout.files.len()), (None, 0));
}

#[test]
fn the_users_own_file_counts_where_the_user_works_beside_or_above_it() {
    let machine = Machine::new();
    machine.own("scope = \"mine\"\n");
    for folder in ["src", "", ".config/cachectl"] {
        let loaded = machine.try_load(folder, &[]).unwrap();
        assert_eq!(loaded.config.scope.as_ref().unwrap().0, "mine", "{folder}");
        assert_eq!(ignored(&loaded), "");
    }
    // On a CI node too, as long as the checkout is elsewhere.
    assert!(machine.load(&[("CI", "true")]).config.scope.is_some());
}

#[test]
fn a_home_that_is_part_of_a_ci_jobs_checkout_holds_no_file_of_the_users_own() {
    let machine = Machine::new();
    machine.own("scope = \"default\"\nstore = \"s3://evil\"\njobs = 3\n");
    let home = machine.path("");
    let home = home.to_str().unwrap();
    let ci = [("CI", "true")];
    // The working directory is the home.
    let loaded = machine.try_load("", &ci).unwrap();
    assert_eq!((store(&loaded), loaded.config.jobs), ("none", 3));
    assert_eq!(ignored(&loaded), "store scope");
    // It is a folder of the checkout whose root is the home, reached by a link.
    fs::create_dir(machine.path(".git")).unwrap();
    let other = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(home, other.path().join("home")).unwrap();
    let linked = other.path().join("home");
    for home in [home, linked.to_str().unwrap()] {
        for mark in ["CI", "JENKINS_URL", "TEAMCITY_VERSION", "GITHUB_ACTIONS"] {
            let loaded = machine.load(&[("HOME", home), (mark, "x")]);
            assert_eq!(ignored(&loaded), "store scope", "{home} {mark}");
        }
    }
    // Outside CI a home under version control is somebody's.
    assert!(machine.load(&[]).config.scope.is_some());
    let trusted = machine.load(&[("CI", "1"), ("CACHECTL_TRUST_CHECKOUT", "1")]);
    assert_eq!(store(&trusted), "s3://evil");
}
