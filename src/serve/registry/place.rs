//! Where a request to the door goes, as metrics and spans call it: the specification's path, without what it names.

use crate::metrics::http::Place;

/// The door's name.
const DOOR: &str = "registry";

/// Reads a path that begins with `/v2`, from its end as [`super::route`] does; cheap, and right for every path that is valid.
pub fn place(path: &str) -> Place {
    let at = |route, looks_up| Place {
        door: DOOR,
        route,
        looks_up,
    };
    if matches!(path, "/v2" | "/v2/") {
        return at("/v2/", None);
    }
    if path == "/v2/_catalog" {
        return at("/v2/_catalog", None);
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    let Some((before, last)) = path.rsplit_once('/') else {
        return at("other", None);
    };
    if before.ends_with("/blobs/uploads") {
        at("/v2/{name}/blobs/uploads/{id}", None)
    } else if before.ends_with("/blobs") && last == "uploads" {
        at("/v2/{name}/blobs/uploads/", None)
    } else if before.ends_with("/blobs") {
        at("/v2/{name}/blobs/{digest}", Some("blob"))
    } else if before.ends_with("/manifests") {
        at("/v2/{name}/manifests/{reference}", Some("manifest"))
    } else if before.ends_with("/tags") && last == "list" {
        at("/v2/{name}/tags/list", None)
    } else if before.ends_with("/referrers") {
        at("/v2/{name}/referrers/{digest}", None)
    } else {
        at("other", None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_what_they_name() {
        for (path, route) in [
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
            ("/v2/%61/%62", "other"),
        ] {
            assert_eq!(place(path).route, route, "{path}");
        }
    }
}
