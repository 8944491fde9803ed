//! Parsing of paths. Names contain slashes and may contain `blobs` or `tags`, so a path is parsed from its end (distribution
//! spec, "Endpoints").

use super::error::{Code, refuse};
use crate::{
    artifact::{Reference, Tag},
    digest::Digest,
    serve::refusal::Refusal,
    store::{ingest::UploadId, keys::Repo},
};

/// What a path below `/v2/` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`, which is not a valid repository name.
    Catalog,
    /// `…/blobs/uploads/`
    Uploads(Repo),
    /// `…/blobs/uploads/<id>`
    Upload(Repo, UploadId),
    /// `…/blobs/<digest>`
    Blob(Repo, Digest),
    /// `…/manifests/<reference>`
    Manifest(Repo, Reference),
    /// `…/tags/list`
    Tags(Repo),
    /// `…/referrers/<digest>`
    Referrers(Repo, Digest),
}

/// A path with placeholders, as in the specification; and what it names.
type Read = (&'static str, Result<Path, Refusal>);

impl Path {
    /// Reads the path of a request, percent-decoded.
    pub(super) fn read(path: &str) -> Read {
        let Some(rest) = path.strip_prefix("/v2") else {
            return unknown();
        };
        if matches!(rest, "" | "/") {
            return ("/v2/", Ok(Self::Base));
        }
        let Some(rest) = rest.strip_prefix('/') else {
            return unknown();
        };
        if rest == "_catalog" {
            return ("/v2/_catalog", Ok(Self::Catalog));
        }
        let ends = ["/blobs/uploads/", "/blobs/uploads"];
        if let Some(name) = ends.iter().find_map(|end| rest.strip_suffix(end)) {
            return ("/v2/{name}/blobs/uploads/", repo(name).map(Self::Uploads));
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return ("/v2/{name}/tags/list", repo(name).map(Self::Tags));
        }
        let Some((before, last)) = rest.rsplit_once('/') else {
            return unknown();
        };
        if let Some(name) = before.strip_suffix("/blobs/uploads") {
            let id = last.parse().map_err(|()| no_upload());
            let named = id.and_then(|id| Ok(Self::Upload(repo(name)?, id)));
            return ("/v2/{name}/blobs/uploads/{id}", named);
        }
        if let Some(name) = before.strip_suffix("/blobs") {
            let named = repo(name).and_then(|repo| Ok(Self::Blob(repo, digest(last)?)));
            return ("/v2/{name}/blobs/{digest}", named);
        }
        if let Some(name) = before.strip_suffix("/manifests") {
            let named = repo(name).and_then(|repo| Ok(Self::Manifest(repo, reference(last)?)));
            return ("/v2/{name}/manifests/{reference}", named);
        }
        if let Some(name) = before.strip_suffix("/referrers") {
            let named = repo(name).and_then(|repo| Ok(Self::Referrers(repo, digest(last)?)));
            return ("/v2/{name}/referrers/{digest}", named);
        }
        unknown()
    }

    /// The repository that it belongs to.
    pub(super) fn repo(&self) -> Option<&Repo> {
        match self {
            Self::Base | Self::Catalog => None,
            Self::Uploads(repo)
            | Self::Upload(repo, _)
            | Self::Blob(repo, _)
            | Self::Manifest(repo, _)
            | Self::Tags(repo)
            | Self::Referrers(repo, _) => Some(repo),
        }
    }
}

fn unknown() -> Read {
    let refusal = refuse(Code::NAME_UNKNOWN, "not found");
    ("other", Err(refusal))
}

/// The answer for an unknown upload.
pub(super) fn no_upload() -> Refusal {
    refuse(
        Code::BLOB_UPLOAD_UNKNOWN,
        "there is no such upload; begin a new one",
    )
}

pub(super) fn repo(name: &str) -> Result<Repo, Refusal> {
    name.parse()
        .map_err(|e: crate::store::keys::RepoRefused| refuse(Code::NAME_INVALID, e.to_string()))
}

/// Parses a digest of a supported algorithm.
pub(super) fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse()
        .map_err(|e: crate::digest::DigestError| refuse(Code::DIGEST_INVALID, e.to_string()))
}

fn reference(text: &str) -> Result<Reference, Refusal> {
    if text.contains(':') {
        return digest(text).map(Reference::Digest);
    }
    tag(text).map(Reference::Tag)
}

pub(super) fn tag(text: &str) -> Result<Tag, Refusal> {
    text.parse::<Tag>()
        .map_err(|e| refuse(Code::MANIFEST_INVALID, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn path_is_read_from_its_end() {
        let name = |s: &str| s.parse::<Repo>().unwrap();
        for (path, want) in [
            ("/v2".to_owned(), Path::Base),
            ("/v2/".to_owned(), Path::Base),
            ("/v2/_catalog".to_owned(), Path::Catalog),
            ("/v2/a/blobs/uploads/".to_owned(), Path::Uploads(name("a"))),
            (
                "/v2/a/b/blobs/uploads".to_owned(),
                Path::Uploads(name("a/b")),
            ),
            (
                format!("/v2/blobs/manifests/tags/blobs/{D}"),
                Path::Blob(name("blobs/manifests/tags"), D.parse().unwrap()),
            ),
            (
                "/v2/tags/manifests/list".to_owned(),
                Path::Manifest(name("tags"), Reference::Tag("list".parse().unwrap())),
            ),
            ("/v2/a/tags/list".to_owned(), Path::Tags(name("a"))),
            (
                format!("/v2/a/referrers/{D}"),
                Path::Referrers(name("a"), D.parse().unwrap()),
            ),
        ] {
            assert_eq!(Path::read(&path).1.unwrap(), want, "{path}");
        }
    }

    #[test]
    fn what_names_nothing_is_refused_by_its_code() {
        for (path, code) in [
            ("/v1/", Code::NAME_UNKNOWN),
            ("/v2x", Code::NAME_UNKNOWN),
            ("/v2/a", Code::NAME_UNKNOWN),
            ("/v2/A/tags/list", Code::NAME_INVALID),
            ("/v2/a/../b/tags/list", Code::NAME_INVALID),
            ("/v2/a/blobs/sha256:12", Code::DIGEST_INVALID),
            ("/v2/a/blobs/uploads/../../x", Code::NAME_UNKNOWN),
            ("/v2/a/blobs/uploads/x", Code::BLOB_UPLOAD_UNKNOWN),
            (
                "/v2/a/manifests/sha256:baddigeststring",
                Code::DIGEST_INVALID,
            ),
            ("/v2/a/manifests/.x", Code::MANIFEST_INVALID),
        ] {
            let refusal = Path::read(path).1.unwrap_err();
            assert_eq!(refusal.code(), code.0, "{path}");
        }
    }

    #[test]
    fn labels_say_nothing_of_what_a_path_names() {
        for (path, label) in [
            ("/v2", "/v2/"),
            ("/v2/", "/v2/"),
            ("/v2/_catalog", "/v2/_catalog"),
            ("/v2/a/b/blobs/sha256:12", "/v2/{name}/blobs/{digest}"),
            ("/v2/a/blobs/uploads", "/v2/{name}/blobs/uploads/"),
            ("/v2/a/blobs/uploads/", "/v2/{name}/blobs/uploads/"),
            ("/v2/a/blobs/uploads/x-1", "/v2/{name}/blobs/uploads/{id}"),
            (
                "/v2/blobs/manifests/uploads",
                "/v2/{name}/manifests/{reference}",
            ),
            ("/v2/a/tags/list", "/v2/{name}/tags/list"),
            (
                "/v2/tags/manifests/list",
                "/v2/{name}/manifests/{reference}",
            ),
            ("/v2/a/referrers/sha256:12", "/v2/{name}/referrers/{digest}"),
            ("/v2/a", "other"),
            ("/v2/a/b", "other"),
        ] {
            assert_eq!(Path::read(path).0, label, "{path}");
        }
    }
}
