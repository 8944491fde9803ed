//! A flag that several commands take works in each: a table of flag, command and an effect that can be seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{daemon::Daemon, repositories::push, run, words};
use crate::support::{
    cli::number,
    gocache::{GoCache, touch},
    later::Later,
    node::Node,
    servers::{DebianRegistry, Login},
    stores::TestStore,
};

/// Runs the pairs of a row and requires what can be seen of each.
type Shows = fn(&Node);

const TABLE: &[(&str, &[&str], Shows)] = &[
    ("name", &["export", "import", "copy", "env"], name),
    ("key", &["export", "import", "env", "rm"], key),
    ("scope", &["export", "import", "env", "rm"], scope),
    ("exclude", &["export", "import"], exclude),
    ("xattrs", &["export", "import"], xattrs),
    ("owner", &["export", "import"], owner),
    ("strict", &["export", "import"], strict),
    ("max-age", &["export"], max_age_of_export),
    ("max-age", &["prune"], max_age_of_prune),
    ("max-size", &["export"], max_size_of_export),
    ("max-size", &["prune"], max_size_of_prune),
    ("level", &["export"], level),
    ("dry-run", &["rm", "prune"], dry_run),
    (
        "repository",
        &["ls", "verify", "prune", "du", "copy"],
        repository,
    ),
];

fn write(node: &Node, path: &str, text: &str) {
    let path = node.path("home").join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn read(node: &Node, path: &str) -> Option<String> {
    fs::read_to_string(node.path("home").join(path)).ok()
}

fn ok(node: &Node, line: &str) -> String {
    run(node, line).success().stdout
}

fn name(node: &Node) {
    for name in ["a", "b"] {
        write(node, "x/f", name);
        ok(node, &format!("export dir x --name {name}"));
    }
    ok(node, "import dir y --name a");
    assert_eq!(read(node, "y/f").as_deref(), Some("a"));
    ok(node, "copy disk:.cache/cachectl disk:other --name a");
    let copied = ok(node, "ls --store disk:other");
    assert!(
        copied.contains(" a ") && !copied.contains(" b "),
        "{copied}"
    );
    assert!(ok(node, "env --name seen").contains("seen"));
}

fn key(node: &Node) {
    for key in ["k1", "k2"] {
        write(node, "x/f", key);
        ok(node, &format!("export dir x --name n --key {key}"));
    }
    ok(node, "import dir y --name n --key k1");
    assert_eq!(read(node, "y/f").as_deref(), Some("k1"));
    assert!(ok(node, "env --key seen").contains("seen"));
    ok(node, "rm n --key k1");
    let left = ok(node, "ls n");
    assert!(left.contains("k2") && !left.contains("k1"), "{left}");
}

fn scope(node: &Node) {
    write(node, "x/f", "s");
    ok(node, "export dir x --name n --scope team");
    run(node, "import dir y --name n --require-hit").code(3);
    ok(node, "import dir y --name n --scope team --require-hit");
    assert!(ok(node, "env --scope seen").contains("seen"));
    ok(node, "export dir x --name n --scope other");
    let missed = run(node, "rm n --scope nobody").code(1);
    let want = "no cache named `n` has scope `nobody`; found: dir n (scope ";
    assert!(missed.stderr.contains(want), "{missed}");
    let deleted = ok(node, "rm n --scope team --kind dir");
    assert!(
        deleted.starts_with("deleting dir n (scope team)\n"),
        "{deleted}"
    );
    let left = ok(node, "ls n --wide");
    assert!(
        left.contains("dir.n.other.") && !left.contains("team"),
        "{left}"
    );
}

fn exclude(node: &Node) {
    for path in ["x/a", "x/b", "x/c"] {
        write(node, path, "cache");
    }
    ok(node, "export dir x --name n --exclude a");
    write(node, "y/b", "mine");
    ok(node, "import dir y --name n --exclude b --mirror");
    let there = ["y/a", "y/b", "y/c"].map(|path| read(node, path));
    assert_eq!(
        there.each_ref().map(Option::as_deref),
        [None, Some("mine"), Some("cache")]
    );
}

/// Exports and imports with and without `flag`: what was set with it comes back only if both had it.
fn only_with(node: &Node, flag: &str, set: fn(&Path), is_set: fn(&Path) -> bool) {
    write(node, "x/f", "1");
    set(&node.path("home/x/f"));
    for (out, back) in [(true, true), (true, false), (false, true)] {
        let flag = |given: bool| if given { flag } else { "" };
        let name = format!("n-{out}-{back}");
        ok(node, &format!("export dir x --name {name} {}", flag(out)));
        ok(
            node,
            &format!("import dir {name} --name {name} {}", flag(back)),
        );
        let got = is_set(&node.path("home").join(&name).join("f"));
        assert_eq!(got, out && back, "{name}");
    }
}

fn xattrs(node: &Node) {
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    only_with(
        node,
        "--xattrs",
        |path| setxattr(path, "user.test", b"v", XattrFlags::empty()).unwrap(),
        |path| getxattr(path, "user.test", &mut [0; 8]).is_ok(),
    );
}

fn owner(node: &Node) {
    only_with(
        node,
        "--owner",
        |path| fs::set_permissions(path, Permissions::from_mode(0o4755)).unwrap(),
        |path| fs::metadata(path).unwrap().permissions().mode() & 0o4000 != 0,
    );
}

fn strict(node: &Node) {
    write(node, "x/f", "1");
    for command in ["export", "import"] {
        let line = format!("{command} dir x --name n --store disk:/proc/version/x");
        run(node, &line).code(0);
        run(node, &format!("{line} --strict")).code(1);
    }
}

/// Days go by the store's clock, which is set on here.
fn max_age_of_export(node: &Node) {
    let store = TestStore::of(DebianRegistry::start(Login::Open));
    let clock = Later::to(store.port());
    let go = |node: &Node, line: &str| {
        let line = words(node, &format!("{line} --name n"));
        line.store_through(&store, clock.port).run().success();
    };
    let mut cache = GoCache::default();
    cache.compile("old", 3000);
    cache.compile("new", 3000);
    cache.write(&node.gocache());
    go(node, "export gobuild --strict");
    clock.set(5);
    let next = Node::new();
    go(&next, "import gobuild --require-hit");
    touch(&next.gocache(), ["new".to_owned()], SystemTime::now());
    for (days, left) in [(7, &["old", "new"][..]), (3, &["new"][..])] {
        go(&next, &format!("export gobuild --strict --max-age {days}d"));
        let reader = Node::new();
        go(&reader, "import gobuild --require-hit");
        let held = GoCache::read(&reader.gocache()).0;
        let held: BTreeSet<[u8; 32]> = held.into_keys().collect();
        let left: BTreeSet<[u8; 32]> = left.iter().map(|label| GoCache::action(label)).collect();
        assert_eq!(held, left, "{days} days");
    }
}

fn max_age_of_prune(node: &Node) {
    write(node, "x/f", "1");
    ok(node, "export dir x --name n");
    // Longer than a second, whatever else runs.
    std::thread::sleep(Duration::from_millis(1100));
    ok(node, "prune --max-age 1h");
    ok(node, "ls n");
    ok(node, "prune --max-age 1s");
    run(node, "ls n").code(1);
}

/// `n` bytes that no packer makes smaller.
fn noise(n: usize) -> String {
    let mut random = fastrand::Rng::with_seed(n as u64);
    std::iter::repeat_with(|| random.alphanumeric())
        .take(n)
        .collect()
}

fn max_size_of_export(node: &Node) {
    write(node, "x/f", &noise(10_000));
    ok(node, "export dir x --name n --max-size 5000B");
    run(node, "ls n").code(1);
    ok(node, "export dir x --name n --max-size 5MB");
    ok(node, "ls n");
}

fn level(node: &Node) {
    // Six bits a byte, and words that repeat: what a higher level finds, a lower one does not.
    let words: Vec<String> = (1..500).map(noise).collect();
    let mut random = fastrand::Rng::with_seed(1);
    let text = std::iter::repeat_with(|| random.choice(&words).unwrap().as_str());
    write(node, "x/f", &text.take(4000).collect::<String>());
    let sent = |level: &str| {
        let line = format!("export dir x --name l{level} --level {level} --json");
        let report: serde_json::Value = serde_json::from_str(&ok(node, &line)).unwrap();
        report["bytes_moved"].as_u64().unwrap()
    };
    let (low, usual, high, auto) = (sent("1"), sent("3"), sent("12"), sent("auto"));
    assert!(low > usual && usual > high, "{low} {usual} {high}");
    // The same pack: it is there already.
    assert_eq!(auto, 0);
    for level in ["0", "13", "high"] {
        run(node, &format!("export dir x --name n --level {level}")).code(2);
    }
}

fn max_size_of_prune(node: &Node) {
    for (name, bytes) in [("old", 300_000), ("new", 300_001)] {
        write(node, "x/f", &noise(bytes));
        ok(node, &format!("export dir x --name {name}"));
    }
    ok(node, "prune --max-size 5MB");
    ok(node, "ls old");
    ok(node, "prune --max-size 400KB");
    run(node, "ls old").code(1);
    ok(node, "ls new");
}

fn dry_run(node: &Node) {
    write(node, "x/f", "1");
    ok(node, "export dir x --name n");
    std::thread::sleep(Duration::from_millis(1100));
    for line in ["rm n", "prune --max-age 1s"] {
        let said = ok(node, &format!("{line} --dry-run"));
        assert!(said.contains('n'), "{said}");
        ok(node, "ls n");
    }
    ok(node, "rm n");
    run(node, "ls n").code(1);
}

fn repository(node: &Node) {
    let daemon = Daemon::start(&[]);
    write(node, "x/f", "1");
    daemon.words(node, "export dir x --name n --strict").json();
    push(&daemon);
    let said = |line: &str, repository: &str| {
        let line = format!("{line} --repository {repository}");
        daemon.words(node, &line).run().success().stdout
    };
    for line in ["ls", "du"] {
        let (ours, theirs) = (said(line, "cachectl"), said(line, "f/*"));
        assert!(ours.contains(" n ") && !ours.contains("f/x"), "{ours}");
        assert!(
            theirs.contains("f/x") && !theirs.contains(" n "),
            "{theirs}"
        );
    }
    let checked = |repository: &str| {
        let line = format!("verify --repository {repository}");
        number(&daemon.words(node, &line).json(), "snapshots")
    };
    // A name's head and the side tag by which it was published; a cache and an image.
    assert_eq!(
        (checked("cachectl"), checked("f/*"), checked("z")),
        (2, 2, 0)
    );
    let from = format!("cachectld:{}", daemon.socket());
    let copied = |repository: &str| {
        let to = node.path(&format!("to-{repository}"));
        let line = format!("copy {from} disk:{}", to.display());
        let line = format!("{line} --by here --repository {repository}");
        let copied = daemon.words(node, &line).json();
        copied["tags"].as_array().unwrap().len()
    };
    assert_eq!((copied("z"), copied("cachectl")), (0, 1));
    std::thread::sleep(Duration::from_millis(1100));
    said("prune --max-age 1s", "f/*");
    let left = daemon.words(node, "ls").run().success().stdout;
    assert!(left.contains(" n ") && !left.contains("f/x"), "{left}");
}

/// The flags that the help of a command shows as its own.
fn own_flags(node: &Node, command: &str) -> BTreeSet<String> {
    let help = ok(node, &format!("{command} --help"));
    flags_in(help.split("Everywhere:").next().unwrap_or_default())
}

/// The flags that have a heading of their own in a text of help.
pub(super) fn flags_in(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim_start);
    lines
        .filter_map(|line| {
            let flag = line
                .split_whitespace()
                .find(|word| word.starts_with("--"))?;
            let is_heading = line.starts_with('-');
            let end = flag.find(|c: char| c != '-' && !c.is_ascii_alphanumeric());
            is_heading.then(|| flag[2..end.unwrap_or(flag.len())].to_owned())
        })
        .filter(|flag| flag != "help" && flag != "version")
        .collect()
}

#[test]
fn a_flag_of_several_commands_has_its_effect_in_each() {
    let node = Node::new();
    let help = ok(&node, "--help");
    let (_, commands) = help.split_once("Commands:").unwrap();
    let commands = commands
        .lines()
        .skip(1)
        .take_while(|line| !line.trim().is_empty());
    let mut takers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in commands {
        let command = line.split_whitespace().next().unwrap();
        if command == "help" {
            continue;
        }
        for flag in own_flags(&node, command) {
            takers.entry(flag).or_default().insert(command.to_owned());
        }
    }
    assert!(takers.len() > 20, "{takers:?}");
    for (flag, commands) in takers.iter().filter(|(_, commands)| commands.len() > 1) {
        for command in commands {
            let shown = TABLE
                .iter()
                .any(|(f, of, _)| f == flag && of.contains(&command.as_str()));
            assert!(shown, "{command} --{flag} is not in the table");
        }
    }
    for (flag, commands, shows) in TABLE {
        for command in *commands {
            assert!(
                takers[*flag].contains(*command),
                "{command} has no --{flag}"
            );
        }
        shows(&Node::new());
    }
}

/// Says whether there is a test of that name, wherever.
pub(super) fn is_a_test(name: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("tests"), root.join("src")];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs")
                && fs::read_to_string(&path)
                    .unwrap()
                    .contains(&format!("fn {name}()"))
            {
                return true;
            }
        }
    }
    false
}

#[test]
fn a_folder_of_which_nothing_is_carried_empties_no_name() {
    let node = Node::new();
    write(&node, "x/f", "1");
    ok(&node, "export dir x --name n");
    for (line, code) in [("--exclude f", 0), ("--exclude f --strict", 1)] {
        let outcome = run(&node, &format!("export dir x --name n {line}")).code(code);
        assert!(
            outcome
                .stderr
                .contains("it is empty, or everything in it is left out"),
            "{outcome}"
        );
        ok(&node, "import dir y --name n");
        assert_eq!(read(&node, "y/f").as_deref(), Some("1"));
    }
    words(&node, "export dir x --name n --exclude f --allow-empty")
        .run()
        .success();
    ok(&node, "import dir z --name n --require-hit");
    assert_eq!(fs::read_dir(node.path("home/z")).unwrap().count(), 0);
}
