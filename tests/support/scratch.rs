//! Temporary folders of one test run, removed with it or, after a kill, by the next run.
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A folder that is removed on drop, also when it holds read-only trees.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(purpose: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = run().join(format!("{purpose}-{number}"));
        fs::create_dir(&path).expect("the run's folder is ours alone");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The same folder by a short name: the path of a socket may have 107 bytes, podman's run folder 50.
    pub(crate) fn short(&self) -> PathBuf {
        let link = self.link();
        if !link.exists() {
            // Of a process that had our id.
            drop(fs::remove_file(&link));
            std::os::unix::fs::symlink(&self.0, &link)
                .expect("a new link in the machine's temporary folder");
        }
        link
    }

    fn link(&self) -> PathBuf {
        let name = self.0.to_string_lossy();
        let number = name.rsplit('-').next().expect("names end with a number");
        std::env::temp_dir().join(format!("{SHORT}{}-{number}", std::process::id()))
    }
}

/// What short names begin with.
const SHORT: &str = "cachectl-";

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The next run removes it; until then it is evidence.
            super::tools::say(&format!("kept for a look: {}", self.0.display()));
        } else {
            drop(fs::remove_file(self.link()));
            remove(&self.0);
        }
    }
}

/// The run's own folder. Statics are never dropped, so whole runs are swept by their successors: a run whose lock is
/// free is over.
fn run() -> &'static Path {
    static RUN: OnceLock<(PathBuf, File)> = OnceLock::new();
    &RUN.get_or_init(|| {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(base).expect("cargo's temporary folder can be made");
        sweep(base);
        sweep_links();
        // Locked before it bears the name that others sweep by.
        let (new, path) = (
            base.join(format!("new-{}", std::process::id())),
            base.join(format!("run-{}", std::process::id())),
        );
        remove(&new);
        remove(&path);
        fs::create_dir(&new).expect("no other process has our id");
        let lock = File::create(new.join("lock")).expect("a new file in a new folder");
        lock.lock().expect("nobody else knows this file");
        fs::rename(&new, &path).expect("both names are ours");
        (path, lock)
    })
    .0
}

fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with("run-");
        if ours && File::open(path.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok()) {
            remove(&path);
        }
    }
}

/// Short names that lead nowhere any more.
fn sweep_links() {
    let links = fs::read_dir(std::env::temp_dir()).into_iter().flatten();
    for link in links.flatten() {
        let ours = link.file_name().to_string_lossy().starts_with(SHORT);
        if ours && link.file_type().is_ok_and(|kind| kind.is_symlink()) && !link.path().exists() {
            drop(fs::remove_file(link.path()));
        }
    }
}

fn remove(path: &Path) {
    if fs::remove_dir_all(path).is_err() && path.exists() {
        // Go makes its module cache read-only.
        drop(
            std::process::Command::new("chmod")
                .args(["-R", "u+rwX"])
                .arg(path)
                .output(),
        );
        drop(fs::remove_dir_all(path));
    }
}
