//! Go build caches made by hand: the format of the go command, without its minutes of compiling.
//!
//! Source: the go command's package `cmd/go/internal/cache`: `<xx>/<action>-a` holds one line of 175 bytes that names an
//! output, `<xx>/<output>-d` holds its bytes and is named by their SHA-256. Of a program it is a folder, with the program as its
//! only file.
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

/// Action id → (entry time, output bytes), and the names of those outputs that are programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GoCache(
    pub(crate) BTreeMap<[u8; 32], (u64, Vec<u8>)>,
    pub(crate) BTreeMap<[u8; 32], String>,
);

impl GoCache {
    /// The action that `label` stands for.
    pub(crate) fn action(label: &str) -> [u8; 32] {
        Sha256::digest(label).into()
    }

    /// Adds what compiling `label` gives: bytes made from a seed, so that two caches agree on it.
    pub(crate) fn compile(&mut self, label: &str, length: usize) {
        let seed = u64::from_le_bytes(Self::action(label)[..8].try_into().expect("eight bytes"));
        let output = super::tree::bytes(&mut fastrand::Rng::with_seed(seed), length);
        self.0
            .insert(Self::action(label), (1_700_000_000_000_000_000, output));
    }

    /// Adds what `go run` of `label` links.
    pub(crate) fn link(&mut self, label: &str, length: usize) {
        self.compile(label, length);
        self.1.insert(Self::action(label), label.to_owned());
    }

    /// Adds one entry as it is.
    pub(crate) fn insert(&mut self, label: &str, time: u64, output: Vec<u8>) {
        self.0.insert(Self::action(label), (time, output));
    }

    /// Writes it as the go command would, into a folder that may hold a cache already.
    pub(crate) fn write(&self, gocache: &Path) {
        for shard in 0..=255_u8 {
            fs::create_dir_all(gocache.join(format!("{shard:02x}"))).expect("a folder of the test");
        }
        for (action, (time, output)) in &self.0 {
            let (id, out) = (
                const_hex::encode(action),
                const_hex::encode(Sha256::digest(output)),
            );
            let mut file = gocache.join(format!("{}/{out}-d", &out[..2]));
            let program = self.1.get(action);
            if let Some(name) = program {
                fs::create_dir_all(&file).expect("a folder of the test");
                file.push(name);
            }
            fs::write(&file, output).expect("a file of the test");
            if program.is_some() {
                fs::set_permissions(&file, Permissions::from_mode(0o755)).expect("our own file");
            }
            let line = format!("v1 {id} {out} {:>20} {time:>20}\n", output.len());
            assert_eq!(line.len(), 175, "the go command refuses any other length");
            fs::write(gocache.join(format!("{}/{id}-a", &id[..2])), line)
                .expect("a file of the test");
        }
    }

    /// Reads every entry, none where there is no cache; one that the go command would refuse, or an output without an action, fails the test.
    pub(crate) fn read(gocache: &Path) -> Self {
        let mut cache = Self::default();
        if !gocache.exists() {
            return cache;
        }
        let files = super::tree::contents(gocache);
        let mut outputs = std::collections::BTreeSet::new();
        for (name, line) in &files {
            let name = name.to_str().expect("names of a Go cache are ASCII");
            if !name.ends_with("-a") {
                continue;
            }
            let line = std::str::from_utf8(line).unwrap_or_else(|_| panic!("{name} is not text"));
            assert_eq!(line.len(), 175, "{name}: {line:?}");
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let [version, action, out, size, time] = fields[..] else {
                panic!("{name}: {line:?}")
            };
            assert_eq!(
                (version, &name[..3], &name[3..67]),
                ("v1", format!("{}/", &action[..2]).as_str(), action)
            );
            let place = format!("{}/{out}-d", &out[..2]);
            let (place, output) = output_at(&files, &place)
                .unwrap_or_else(|| panic!("{name} names {place}, which is not there"));
            assert_eq!(size, output.len().to_string(), "{name}");
            assert_eq!(
                const_hex::encode(Sha256::digest(output)),
                out,
                "{place} has other bytes than its name says"
            );
            let action =
                const_hex::decode_to_array(action).expect("checked by the go command's own rules");
            if let Some((folder, program)) = place.split_once("-d/") {
                assert!(is_executable(&gocache.join(place)), "{place}");
                let inside = fs::read_dir(gocache.join(format!("{folder}-d")));
                assert_eq!(inside.expect("a folder of the cache").count(), 1, "{place}");
                cache.1.insert(action, program.to_owned());
            }
            outputs.insert(place);
            cache
                .0
                .insert(action, (time.parse().expect("a time"), output.to_vec()));
        }
        for name in files.keys().filter_map(|name| name.to_str()) {
            assert!(
                !name.contains("-d") || outputs.contains(name),
                "no action names {name}"
            );
        }
        cache
    }
}

/// The path and the bytes of the output whose place that is.
fn output_at<'f>(
    files: &'f BTreeMap<OsString, Vec<u8>>,
    place: &str,
) -> Option<(&'f str, &'f [u8])> {
    let (path, bytes) = files.range(OsString::from(place)..).next()?;
    let path = path.to_str()?;
    let rest = path.strip_prefix(place)?;
    (rest.is_empty() || rest.starts_with('/')).then_some((path, bytes))
}

fn is_executable(path: &Path) -> bool {
    let meta = fs::metadata(path).expect("a file of the cache");
    meta.permissions().mode() & 0o100 != 0
}

/// Dates the entries of `labels` as used at `when`, as a build does that finds them.
pub(crate) fn touch(gocache: &Path, labels: impl IntoIterator<Item = String>, when: SystemTime) {
    for label in labels {
        let id = const_hex::encode(GoCache::action(&label));
        let path = gocache.join(format!("{}/{id}-a", &id[..2]));
        let line = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{label} is not in the cache: {error}"));
        let out = line
            .split_ascii_whitespace()
            .nth(2)
            .expect("an action names its output");
        for path in [path, gocache.join(format!("{}/{out}-d", &out[..2]))] {
            let file = fs::File::options()
                .write(true)
                .open(path)
                .expect("a file of the cache");
            file.set_modified(when).expect("our own file");
        }
    }
}
