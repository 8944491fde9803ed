//! From a path to what it asks for. Names contain slashes and may contain `blobs` or `tags`, so a path is read from its end
//! (distribution spec, "Endpoints").

use crate::{
    artifact::{Reference, Tag},
    digest::Digest,
    store::{ingest::UploadId, keys::Repo},
};

use super::error::{Code, Refusal};

/// What a path below `/v2/` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`, which cannot be a repository's name.
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

impl Route {
    /// Reads the path of a request, percent-decoded.
    pub(super) fn of(path: &str) -> Result<Self, Refusal> {
        let unknown = || Refusal::new(Code::NameUnknown, "there is nothing at this path");
        let rest = path.strip_prefix("/v2").ok_or_else(unknown)?;
        if rest.is_empty() || rest == "/" {
            return Ok(Self::Base);
        }
        let rest = rest.strip_prefix('/').ok_or_else(unknown)?;
        if rest == "_catalog" {
            return Ok(Self::Catalog);
        }
        if let Some(name) = ["/blobs/uploads/", "/blobs/uploads"]
            .iter()
            .find_map(|end| rest.strip_suffix(end))
        {
            return Ok(Self::Uploads(repo(name)?));
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Ok(Self::Tags(repo(name)?));
        }
        let (before, last) = rest.rsplit_once('/').ok_or_else(unknown)?;
        if let Some(name) = before.strip_suffix("/blobs/uploads") {
            let id = last.parse().map_err(|()| no_upload())?;
            return Ok(Self::Upload(repo(name)?, id));
        }
        if let Some(name) = before.strip_suffix("/blobs") {
            return Ok(Self::Blob(repo(name)?, digest(last)?));
        }
        if let Some(name) = before.strip_suffix("/manifests") {
            return Ok(Self::Manifest(repo(name)?, reference(last)?));
        }
        if let Some(name) = before.strip_suffix("/referrers") {
            return Ok(Self::Referrers(repo(name)?, digest(last)?));
        }
        Err(unknown())
    }

    /// The repository that it is in.
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

/// The answer to an upload that is not there.
pub(super) fn no_upload() -> Refusal {
    Refusal::new(
        Code::BlobUploadUnknown,
        "there is no such upload; begin a new one",
    )
}

/// A repository's name.
pub(super) fn repo(name: &str) -> Result<Repo, Refusal> {
    name.parse().map_err(|e: crate::store::keys::RepoRefused| {
        Refusal::new(Code::NameInvalid, e.to_string())
    })
}

/// A digest, of an algorithm that we have.
pub(super) fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse()
        .map_err(|e: crate::digest::DigestError| Refusal::new(Code::DigestInvalid, e.to_string()))
}

fn reference(text: &str) -> Result<Reference, Refusal> {
    if text.contains(':') {
        return digest(text).map(Reference::Digest);
    }
    tag(text).map(Reference::Tag)
}

/// A tag.
pub(super) fn tag(text: &str) -> Result<Tag, Refusal> {
    text.parse::<Tag>()
        .map_err(|e| Refusal::new(Code::ManifestInvalid, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn path_is_read_from_its_end() {
        let name = |s: &str| s.parse::<Repo>().unwrap();
        for (path, want) in [
            ("/v2".to_owned(), Route::Base),
            ("/v2/".to_owned(), Route::Base),
            ("/v2/_catalog".to_owned(), Route::Catalog),
            ("/v2/a/blobs/uploads/".to_owned(), Route::Uploads(name("a"))),
            (
                "/v2/a/b/blobs/uploads".to_owned(),
                Route::Uploads(name("a/b")),
            ),
            (
                format!("/v2/blobs/manifests/tags/blobs/{D}"),
                Route::Blob(name("blobs/manifests/tags"), D.parse().unwrap()),
            ),
            (
                "/v2/tags/manifests/list".to_owned(),
                Route::Manifest(name("tags"), Reference::Tag("list".parse().unwrap())),
            ),
            ("/v2/a/tags/list".to_owned(), Route::Tags(name("a"))),
            (
                format!("/v2/a/referrers/{D}"),
                Route::Referrers(name("a"), D.parse().unwrap()),
            ),
        ] {
            assert_eq!(Route::of(&path).unwrap(), want, "{path}");
        }
    }

    #[test]
    fn what_names_nothing_is_refused_by_its_code() {
        for (path, code) in [
            ("/v1/", Code::NameUnknown),
            ("/v2x", Code::NameUnknown),
            ("/v2/a", Code::NameUnknown),
            ("/v2/A/tags/list", Code::NameInvalid),
            ("/v2/a/../b/tags/list", Code::NameInvalid),
            ("/v2/a/blobs/sha256:12", Code::DigestInvalid),
            ("/v2/a/blobs/uploads/../../x", Code::NameUnknown),
            ("/v2/a/blobs/uploads/x", Code::BlobUploadUnknown),
            (
                "/v2/a/manifests/sha256:baddigeststring",
                Code::DigestInvalid,
            ),
            ("/v2/a/manifests/.x", Code::ManifestInvalid),
        ] {
            assert_eq!(Route::of(path).unwrap_err().code, code, "{path}");
        }
    }
}
