//! `cachectl buildx-setup`: the configuration that a Buildx builder needs to reach a daemon.
//!
//! The usual builder (driver `docker-container`) is a container of its own, where 127.0.0.1 is not this node's: it gets the
//! node's network (`--driver-opt network=host`), or the address of the daemon's node. BuildKit speaks plain http to loopback
//! alone, so any other address needs `[registry."HOST:PORT"] http = true` in the builder's configuration (moby/buildkit,
//! `docs/buildkitd.toml.md`), and TLS by an authority of one's own needs `ca`. Sockets it cannot use.

use std::{fmt::Write as _, net::IpAddr, path::Path};

use serde_json::json;
use tokio::process::Command;

use super::{
    args,
    error::{CommandError, Result},
    json::Object,
    output,
    session::Session,
    stores::{self, Locality},
    upkeep,
};
use crate::{fs, task};

/// The daemon's own default.
const ADDRESS: &str = "127.0.0.1:5000";
/// Longest output of docker that is repeated.
const MAX_WORDS: usize = 2000;

/// How builders reach the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    /// `HOST:PORT`, as used in `ref=`.
    address: String,
    tls: bool,
    /// The address is loopback: this node itself.
    loopback: bool,
}

impl Way {
    fn new(address: &str, tls: bool) -> Result<Self> {
        let refused =
            || CommandError::usage(format!("invalid --address `{address}`: expected HOST:PORT"));
        let (host, port) = address.rsplit_once(':').ok_or_else(refused)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        if port.parse::<u16>().is_err() || host.is_empty() || !host.chars().all(plain) {
            return Err(refused());
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let ip = bare.parse::<IpAddr>().ok();
        if ip.is_some_and(|ip| ip.is_unspecified()) {
            return Err(
                refused().hint("if the daemon listens on all addresses, give the node's address")
            );
        }
        Ok(Self {
            loopback: ip.map_or(host == "localhost", |ip| ip.is_loopback()),
            address: address.to_owned(),
            tls,
        })
    }

    /// The builder's configuration.
    fn configuration(&self, ca: Option<&Path>) -> String {
        let mut text = format!("[registry.{}]\n", json!(self.address));
        if !self.tls {
            text.push_str("  http = true\n");
        }
        if let Some(ca) = ca.filter(|_| self.tls) {
            let _ = writeln!(text, "  ca = [{}]", json!(ca.to_string_lossy()));
        }
        text
    }

    /// `docker buildx create …`, its configuration in `file`.
    fn create(&self, builder: &str, make_current: bool, file: &str) -> Vec<String> {
        let mut words = vec!["docker", "buildx", "create", "--name", builder];
        words.extend(["--driver", "docker-container"]);
        if self.loopback {
            words.extend(["--driver-opt", "network=host"]);
        }
        words.extend(["--buildkitd-config", file]);
        if make_current {
            words.push("--use");
        }
        words.into_iter().map(str::to_owned).collect()
    }
}

pub(crate) async fn run(session: &Session, args: &args::BuildxSetup) -> Result<u8> {
    let way = match &args.address {
        Some(address) => Way::new(address, args.tls)?,
        None => told(session, args.tls).await?,
    };
    if !args
        .builder
        .starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Err(CommandError::usage(
            "--builder needs a name that starts with a letter or a digit",
        ));
    }
    let config = way.configuration(session.config().remote.net.ca_bundle.as_deref());
    let make = |file: &str| way.create(&args.builder, args.make_current, file);
    if args.run {
        create(session, &args.builder, &config, make).await?;
    }
    let reference = format!("type=registry,ref={}/app:cache", way.address);
    if session.json {
        let object = Object::new("buildx-setup", args.run, session.began.elapsed());
        let object = object.with(json!({
            "address": way.address,
            "builder": args.builder,
            "buildkitd_toml": config,
            "create": make("buildkitd.toml"),
            "cache_from": reference,
            "cache_to": format!("{reference},mode=max,ignore-error=true"),
            "ran": args.run,
        }));
        return object.print().map(|()| 0);
    }
    let mut text = String::new();
    if args.run {
        let _ = writeln!(text, "builder {} is ready; build with", args.builder);
    } else {
        if way.loopback {
            text.push_str(
                "# The builder is a container; network=host makes 127.0.0.1 in it the node's.\n",
            );
        }
        let _ = write!(text, "cat > buildkitd.toml <<'EOF'\n{config}EOF\n");
        let _ = writeln!(text, "{}\n", make("buildkitd.toml").join(" "));
    }
    let _ = writeln!(
        text,
        "docker buildx build --builder {} \\\n  --cache-from {reference} \\\n  --cache-to {reference},mode=max,ignore-error=true .",
        args.builder
    );
    output::data(&text)?;
    Ok(0)
}

/// The listening address that the configured daemon reports; the default address without one.
async fn told(session: &Session, tls: bool) -> Result<Way> {
    let store = session.store()?;
    if stores::place(store)? != Locality::Daemon {
        return Way::new(ADDRESS, tls);
    }
    // This node reaches it at the URL's host, and so do builders.
    for (prefix, tls) in [("cachectld+http://", false), ("cachectld+https://", true)] {
        if let Some(address) = store.strip_prefix(prefix) {
            let address = address.trim_end_matches('/');
            let named = address.rsplit_once(':');
            let has_port = named.is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let port = if has_port { "" } else { ":443" };
            return Way::new(&format!("{address}{port}"), tls);
        }
    }
    let budget = session.budget(None);
    let daemon = upkeep::daemon(session, "buildx-setup").await?;
    let status = session.within(budget, daemon.status()).await?;
    let found = status.listeners.iter().find_map(|l| {
        let plain = l.strip_prefix("http://").map(|a| (a, false));
        plain.or_else(|| l.strip_prefix("https://").map(|a| (a, true)))
    });
    match found {
        Some((address, tls)) => Way::new(address.trim_end_matches('/'), tls),
        None => Err(CommandError::failed(
            "the daemon listens only on its unix socket, which builders cannot reach",
        )
        .hint("start it with --listen 127.0.0.1:5000")),
    }
}

/// Creates the builder, unless one of that name exists.
async fn create(
    session: &Session,
    builder: &str,
    config: &str,
    make: impl Fn(&str) -> Vec<String>,
) -> Result<()> {
    let exists = docker(&["buildx", "inspect", builder]).await?;
    if exists.status.success() {
        return Err(
            CommandError::failed(format!("builder `{builder}` already exists")).hint(format!(
                "remove it with `docker buildx rm {builder}`, or choose another name with --builder"
            )),
        );
    }
    // Buildx copies its content; the file is not needed afterwards.
    let (folder, text) = (session.config().temp_dir.clone(), config.to_owned());
    let file = task::blocking(move || -> fs::Result<_> {
        fs::make_dirs(&folder)?;
        let wrong = |e| fs::Error::new("write a temporary file in", &folder, e);
        let file = tempfile::Builder::new()
            .prefix("buildkitd-")
            .suffix(".toml")
            .tempfile_in(&folder)
            .map_err(wrong)?;
        std::fs::write(file.path(), text).map_err(wrong)?;
        Ok(file)
    })
    .await
    .map_err(|e| CommandError::failed(e.to_string()))?;
    let words = make(&file.path().to_string_lossy());
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    let made = docker(&words).await?;
    if made.status.success() {
        return Ok(());
    }
    // Without the plugin, docker parses the arguments as its own flags.
    if !docker(&["buildx", "version"]).await?.status.success() {
        return Err(CommandError::failed("docker buildx is not installed").hint(
            "install docker's Buildx plugin (package docker-buildx-plugin, or docker-buildx), or leave out --run",
        ));
    }
    let said: String = String::from_utf8_lossy(&made.stderr)
        .chars()
        .take(MAX_WORDS)
        .collect();
    Err(CommandError::failed(format!(
        "docker could not create the builder: {said}"
    )))
}

async fn docker(words: &[&str]) -> Result<std::process::Output> {
    let run = Command::new("docker")
        .args(words)
        .kill_on_drop(true)
        .output();
    run.await.map_err(|e| {
        CommandError::failed(format!("cannot run docker: {e}"))
            .hint("leave out --run, and run the printed commands on a machine that has docker")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(address: &str, tls: bool) -> Way {
        Way::new(address, tls).unwrap()
    }

    #[test]
    fn loopback_needs_the_nodes_network_and_another_node_its_address() {
        for address in ["127.0.0.1:5000", "localhost:5000", "[::1]:5000"] {
            let create = way(address, false).create("b", false, "f").join(" ");
            assert!(create.contains("--driver-opt network=host"), "{create}");
        }
        let create = way("10.0.0.7:5000", false).create("b", true, "f").join(" ");
        assert_eq!(
            create,
            "docker buildx create --name b --driver docker-container --buildkitd-config f --use"
        );
    }

    #[test]
    fn plain_http_is_said_and_tls_is_not() {
        let ca = Path::new("/etc/ca.pem");
        assert_eq!(
            way("10.0.0.7:5000", false).configuration(Some(ca)),
            "[registry.\"10.0.0.7:5000\"]\n  http = true\n"
        );
        assert_eq!(
            way("cache.example:443", true).configuration(Some(ca)),
            "[registry.\"cache.example:443\"]\n  ca = [\"/etc/ca.pem\"]\n"
        );
    }

    #[test]
    fn what_no_builder_can_reach_is_refused() {
        for bad in [
            "",
            "127.0.0.1",
            "h:x",
            ":5000",
            "0.0.0.0:5000",
            "[::]:5000",
            "h;x:1",
            "h:70000",
        ] {
            assert!(Way::new(bad, false).is_err(), "{bad}");
        }
    }
}
