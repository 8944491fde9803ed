//! Resolves the command line's arguments to caches on disk.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    args::{self, SourceArgs},
    error::{CommandError, Result},
    session::Session,
    stores,
};
use crate::{
    config::Env,
    fs, ops,
    progress::Watch as _,
    source::{
        self, Source, SourceKind, dir,
        goenv::{self, GoEnv, modfile},
        gomod,
        own::OwnFolders,
    },
    task,
};

/// One cache to export or import.
#[derive(Clone)]
pub(crate) struct NamedSource {
    pub(crate) source: Arc<dyn Source>,
    /// Name within its kind.
    pub(crate) name: String,
}

impl NamedSource {
    pub(crate) fn kind(&self) -> SourceKind {
        self.source.kind()
    }

    /// Its name in progress output.
    pub(crate) fn label(&self) -> String {
        match self.kind() {
            SourceKind::Dir => format!("dir {}", self.name),
            kind => kind.name().to_owned(),
        }
    }

    /// Refuses a store and cachectl's other folders: a cache must not contain them.
    pub(crate) async fn must_not_be_own(&self) -> Result<()> {
        let source = Arc::clone(&self.source);
        let is_own = task::blocking(move || {
            // Compared by path too, since it may not exist yet.
            let root = fs::Dir::open(source.root()).ok();
            source.own().is_root(root.as_ref())
        });
        if !is_own.await {
            return Ok(());
        }
        let shown = self.source.root().display();
        Err(CommandError::usage(format!(
            "{shown} belongs to cachectl (a store or its state), and can be neither exported nor imported"
        ))
        .hint("name the folder that your build tool uses; `cachectl copy` copies a store"))
    }

    /// A missing folder is not an empty one: exporting it would empty the name.
    pub(crate) async fn must_be_there(&self) -> Result<()> {
        if self.kind() != SourceKind::Dir {
            return Ok(());
        }
        let root = self.source.root().to_owned();
        let shown = root.display().to_string();
        let (is_dir, is_there) = task::blocking(move || (root.is_dir(), root.exists())).await;
        match (is_dir, is_there) {
            (true, _) => Ok(()),
            (false, true) => Err(CommandError::failed(format!(
                "{shown} is a file, but `dir` takes folders"
            ))
            .hint("give the folder that contains it")),
            (false, false) => Err(CommandError::failed(format!(
                "folder {shown} does not exist"
            ))),
        }
    }
}

/// [`jobs`], found within the budget, after checking that a store is configured.
///
/// # Errors
/// As [`jobs`]; no store is set, see [`Session::store`].
pub(crate) async fn to_carry(
    session: &Session,
    args: &SourceArgs,
    budget: Option<Duration>,
) -> Result<Vec<NamedSource>> {
    session.store()?;
    session.within(budget, jobs(session, args)).await
}

/// The caches that the command line names, in the order of processing.
///
/// # Errors
/// Usage: arguments that contradict each other, no name found. Others: `go` or the caches are unavailable.
async fn jobs(session: &Session, args: &SourceArgs) -> Result<Vec<NamedSource>> {
    match args.source {
        args::Source::Dir => folders(session, &args.paths),
        _ => go(session, args).await,
    }
}

fn folders(session: &Session, paths: &[PathBuf]) -> Result<Vec<NamedSource>> {
    let config = session.config();
    let Some(name) = &config.name else {
        return Err(
            CommandError::usage("`dir` needs a name").hint("add --name NAME, or set CACHECTL_NAME")
        );
    };
    if paths.is_empty() {
        return Err(
            CommandError::usage("which folder?").hint("cachectl export dir PATH --name NAME")
        );
    }
    let store = session.store()?;
    let mut seen = BTreeSet::new();
    let mut jobs = Vec::new();
    for path in paths {
        let root = session.absolute(path);
        let name = match paths.len() {
            1 => name.clone(),
            _ => format!("{name}/{}", last_part(&root)?),
        };
        if !seen.insert(name.clone()) {
            return Err(
                CommandError::usage(format!("two folders would be stored as `{name}`"))
                    .hint("run cachectl for each, with a different --name"),
            );
        }
        for pattern in &config.exclude {
            if let Some(why) = matches_nothing(pattern, path, &root) {
                session.reporter.warn(&why);
            }
        }
        let options = dir::Options {
            exclude: config.exclude.clone(),
            xattrs: config.xattrs,
            owner: config.owner,
            own: own_folders(session, store),
        };
        let source =
            dir::Dir::new(root, &options).map_err(|e| CommandError::usage(e.to_string()))?;
        jobs.push(NamedSource {
            source: Arc::new(source),
            name,
        });
    }
    Ok(jobs)
}

/// Warns about a pattern that is not relative to the folder: it starts with the folder's path, or its name.
fn matches_nothing(pattern: &str, given: &Path, root: &Path) -> Option<String> {
    let fronts = [Some(root), Some(given), root.file_name().map(Path::new)];
    let rest = fronts.into_iter().flatten().find_map(|front| {
        let rest = Path::new(pattern).strip_prefix(front).ok()?;
        let named = front.as_os_str() != "" && rest.as_os_str() != "";
        named.then_some(rest)
    })?;
    let first = Path::new(pattern.trim_start_matches('/'))
        .components()
        .next()?;
    // The folder may contain such a path anyway.
    let is_there = root.join(first).symlink_metadata().is_ok();
    (!is_there).then(|| {
        format!(
            "--exclude `{pattern}` matches nothing in {}: patterns are relative to that folder (`/{}`)",
            root.display(),
            rest.display()
        )
    })
}

/// The folders that this run uses, which are never content of a cache.
fn own_folders(session: &Session, store: &str) -> OwnFolders {
    let config = session.config();
    // Without the setting it is the shared temporary folder.
    let temp = Some(&config.temp_dir).filter(|_| session.loaded.layer.get("temp_dir").is_some());
    let all = [
        stores::folder(store),
        config.state_dir.as_deref().map(Path::to_owned),
        temp.cloned(),
    ];
    OwnFolders::new(
        all.into_iter()
            .flatten()
            .map(|path| session.absolute(&path)),
    )
}

fn last_part(path: &Path) -> Result<String> {
    let last = match path.components().next_back() {
        Some(std::path::Component::Normal(name)) => Some(name.to_owned()),
        // `.`, `..` and the like have no name of their own, but the folder has.
        _ => path
            .canonicalize()
            .ok()
            .and_then(|p| Some(p.file_name()?.to_owned())),
    };
    last.and_then(|name| name.into_string().ok())
        .ok_or_else(|| {
            CommandError::usage(format!(
                "the last part of `{}` is not a valid name",
                path.display()
            ))
            .hint("run cachectl for it alone, with a --name")
        })
}

async fn go(session: &Session, args: &SourceArgs) -> Result<Vec<NamedSource>> {
    if !args.paths.is_empty() {
        return Err(CommandError::usage("only `dir` takes paths")
            .hint("Go's folders come from `go env`; set GOCACHE or GOMODCACHE to change them"));
    }
    if ["exclude", "xattrs", "owner"]
        .iter()
        .any(|key| session.loaded.is_flag(key))
    {
        return Err(CommandError::usage(
            "--exclude, --xattrs and --owner apply only to `dir`",
        ));
    }
    let go_env = detect(session).await?;
    if let Some(warning) = go_env.warning() {
        session.reporter.warn(&warning);
    }
    let name = match &session.config().name {
        Some(name) => name.clone(),
        None => modfile::default_name(&go_env).ok_or_else(|| {
            // Not a usage error, which would fail the job: without a module there is nothing to build either.
            CommandError::failed("the cache has no name: this folder is not in a Go module")
                .hint("run it in the folder of go.mod, or add --name NAME")
        })?,
    };
    let sources = match args.source {
        args::Source::Gobuild => vec![go_build(&go_env)],
        args::Source::Gomod => vec![go_mod(go_env).await?],
        _ => vec![go_build(&go_env), go_mod(go_env).await?],
    };
    let job = |source| NamedSource {
        source,
        name: name.clone(),
    };
    Ok(sources.into_iter().map(job).collect())
}

/// What `go` reports here.
pub(crate) async fn detect(session: &Session) -> Result<GoEnv> {
    let (env, folder) = (session.env.clone(), session.folder.clone());
    task::blocking(move || GoEnv::detect(&folder, &lookup(&env), goenv::GO_ENV_TIMEOUT))
        .await
        .map_err(|e: source::Error| ops::Error::from(e).into())
}

fn lookup(env: &Env) -> impl Fn(&str) -> Option<OsString> {
    |name| env.os(name).map(ToOwned::to_owned)
}

fn go_build(env: &GoEnv) -> Arc<dyn Source> {
    Arc::new(source::gobuild::GoBuild::new(
        env.gocache.clone(),
        source::fingerprint::gobuild(env),
    ))
}

/// Reads the project's checksums, against which modules are checked.
async fn go_mod(env: GoEnv) -> Result<Arc<dyn Source>> {
    task::blocking(move || {
        let project = gomod::Project::read(&env)?;
        Ok(Arc::new(gomod::GoMod::new(env.gomodcache, project)) as Arc<dyn Source>)
    })
    .await
    .map_err(|e: source::Error| ops::Error::from(e).into())
}
