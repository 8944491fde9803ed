//! Hints on how to fix failures.

use std::io;

use crate::store::{self, ErrorKind};

/// What to do about a store that did not answer.
pub(super) const UNHEARD: &str = "check the store's URL, and that this machine can reach it";

/// Returns true if this user may not write to a folder or file.
pub(super) fn is_not_allowed(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// What to do about a failure of a store; `None` if its message already says it, or there is no advice.
pub(super) fn of_store(e: &store::Error) -> Option<String> {
    let s3 = e.store.starts_with("s3://");
    let registry = e.store.starts_with("oci://");
    let daemon = e.store.starts_with("cachectld");
    let folder = ["disk:", "oci-layout:"]
        .iter()
        .any(|s| e.store.starts_with(s));
    Some(match e.kind {
        // The message about the credentials already contains the remedy.
        ErrorKind::Unauthenticated if e.message.contains("docker login") => return None,
        ErrorKind::Unauthenticated if s3 && !e.message.starts_with("no credentials") => {
            return None;
        }
        ErrorKind::Unauthenticated if s3 => {
            "give AWS credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile that a file of ~/.aws holds, or a role), or set s3.anonymous"
                .to_owned()
        }
        ErrorKind::Unauthenticated if registry => {
            let host = e.store["oci://".len()..].split('/').next().unwrap_or_default();
            format!("log in with `docker login {host}`, or give the credentials in DOCKER_AUTH_CONFIG")
        }
        ErrorKind::Unauthenticated if daemon => {
            "set registry.username and registry.password, or log in to the daemon's host with `docker login`".to_owned()
        }
        ErrorKind::Unavailable | ErrorKind::Timeout if daemon => {
            let at = e.store.strip_prefix("cachectld").unwrap_or(&e.store);
            let at = at.trim_start_matches([':', '+']);
            format!("`cachectl status --daemon {at}` shows whether the daemon runs, and what it reports about its store")
        }
        // A daemon that refuses for a reason other than missing rights says what to do.
        ErrorKind::Denied if ["`allowed_hosts`", "`external_url`", "`auth.htpasswd`"].iter().any(|s| e.message.contains(s)) => {
            return None;
        }
        ErrorKind::Denied if folder && e.message.contains("Read-only file system") => {
            "mount it read-write, or use another store (--store); use --read-only if the job should only import".to_owned()
        }
        ErrorKind::Denied if folder => {
            "give this user read and write access to the store's folder (check owner and mode of it and its parents; for several users: a common group and mode 2770, set before the first export), or use another store (--store); use --read-only if the job should only import".to_owned()
        }
        ErrorKind::Denied if e.message.contains("did not ask for any") => {
            "a registry asks for credentials before it refuses access: check the URL, and whether a firewall or proxy answers instead".to_owned()
        }
        ErrorKind::Denied if e.message.contains("no credentials were sent") => {
            "log in with `docker login`, or set registry.username and registry.password".to_owned()
        }
        ErrorKind::Denied if s3 => {
            "grant these credentials access (with s3.anonymous: everybody), or use --read-only if the job should only import".to_owned()
        }
        ErrorKind::Denied => {
            "grant these credentials access, or use --read-only if the job should only import".to_owned()
        }
        ErrorKind::NoSuchStore if s3 => "create the bucket, or correct the URL and region".to_owned(),
        ErrorKind::NoSuchStore if folder => {
            "create it with write access for this user, or use another folder (--store)".to_owned()
        }
        ErrorKind::NoSuchStore => "create it, or correct the URL".to_owned(),
        ErrorKind::Throttled => "lower --concurrency".to_owned(),
        ErrorKind::Timeout | ErrorKind::Unavailable if e.unheard => UNHEARD.to_owned(),
        ErrorKind::Timeout => "raise --stall or --retry-for if the connection to the store is slow".to_owned(),
        ErrorKind::Unavailable => "raise --retry-for if the store is often unreachable for longer".to_owned(),
        // Memory or permits, not its disk: all clients' calls share those.
        ErrorKind::Full if daemon && [" memory", " MB ", "other calls", "a place"].iter().any(|s| e.message.contains(s)) => {
            "its disk is not full: try again when other calls to the daemon have ended".to_owned()
        }
        // The backlog is sent only once the store is back.
        ErrorKind::Full if ["waits", "wait"].iter().any(|w| e.message.contains(&format!("{w} for the remote store"))) => return None,
        ErrorKind::Full if daemon => {
            "free some space there with `cachectl prune`, or try again later".to_owned()
        }
        ErrorKind::Full => "free some space with `cachectl prune`, or export less with --max-size".to_owned(),
        _ => return None,
    })
}
