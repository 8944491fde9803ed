//! The clients that people have push and pull through the registry door: open to everybody, by password, by token.
//!
//! Seen on the way:
//! - docker and podman name an image by its configuration, so its id says whether all came back; the manifest is made anew
//!   at each push, and docker's is of docker's own media type.
//! - buildah's cache is one tag a step, `<repository>:<64 hexadecimal digits>`, each a whole image.
//! - oras, regctl (`artifact`) fall back to a tag `sha256-<hex>` where a registry has no referrers.
//! - podman and its kin share `/run/containers/0/auth.json` when they run as root; `REGISTRY_AUTH_FILE` parts them.
//! - buildah builds OCI images, in which `SHELL` is ignored.
use std::fs;

use crate::support::cachectld::Access;
use crate::support::clients::{Client, Dockerd};
use crate::support::door::{Door, Product};
use crate::support::e2e;
use crate::support::image::{Image, tar};
use crate::support::project::Project;
use crate::support::tools::say;

/// Runs `check` with a door for each way to log in; where one is needed, `refused` has to fail before it.
fn for_each_access(
    client: impl Fn() -> Client,
    refused: impl Fn(&Client, &Door),
    check: impl Fn(&Client, &Door),
) {
    if !e2e() {
        return;
    }
    for &access in Product::under_test().accesses() {
        let (door, client) = (Door::with(access), client());
        // A failure below does not know which it was.
        say(&format!("{access:?}"));
        if access != Access::Anonymous {
            refused(&client, &door);
            client.login(&door);
        }
        check(&client, &door);
    }
}

fn at(folder: &std::path::Path, scheme: &str) -> String {
    format!("{scheme}{}:{}", folder.display(), Image::TAG)
}

#[test]
fn skopeo_copies_lists_and_deletes() {
    let name = |door: &Door| format!("docker://{}/team/app:v1", door.host());
    for_each_access(
        || Client::new("skopeo"),
        |skopeo, door| {
            skopeo.fail(["inspect", "--tls-verify=false", &name(door)]);
        },
        |skopeo, door| {
            let (image, name) = (Image::new(), name(door));
            let from = at(&image.layout(), "oci:");
            skopeo.run(["copy", "--dest-tls-verify=false", &from, &name]);
            let seen = skopeo.run(["inspect", "--tls-verify=false", &name]);
            assert!(seen.contains(&image.digest), "{seen}");
            let back = skopeo.path("back");
            let to = at(&back, "oci:");
            skopeo.run(["copy", "--src-tls-verify=false", &name, &to]);
            image.assert_is_in(&back);
            // In another repository: what is there already is mounted.
            let other = format!("docker://{}/team/other:v1", door.host());
            let tls = ["--src-tls-verify=false", "--dest-tls-verify=false"];
            skopeo.run(["copy", tls[0], tls[1], &name, &other]);
            skopeo.run(["delete", "--tls-verify=false", &name]);
            skopeo.fail(["inspect", "--tls-verify=false", &name]);
            let seen = skopeo.run(["inspect", "--tls-verify=false", &other]);
            assert!(seen.contains(&image.digest), "{seen}");
        },
    );
}

#[test]
fn crane_pushes_copies_and_validates() {
    let name = |door: &Door| format!("{}/team/app:v1", door.host());
    for_each_access(
        || Client::new("crane"),
        |crane, door| {
            crane.fail(["digest", &name(door)]);
        },
        |crane, door| {
            let (image, name) = (Image::new(), name(door));
            let layout = image.layout().display().to_string();
            crane.run(["push", &layout, &name]);
            assert_eq!(crane.run(["digest", &name]).trim(), image.digest);
            let other = format!("{}/team/other:v1", door.host());
            crane.run(["copy", &name, &other]);
            crane.run(["validate", "--remote", &other]);
            crane.run(["tag", &other, "v2"]);
            let repository = format!("{}/team/other", door.host());
            assert_eq!(crane.run(["ls", &repository]), "v1\nv2\n");
            crane.run(["pull", "--format", "oci", &other, "back"]);
            image.assert_is_in(&crane.path("back"));
            crane.run(["delete", &format!("{repository}@{}", image.digest)]);
            crane.fail(["digest", &other]);
        },
    );
}

#[test]
fn regctl_copies_refers_and_deletes_tags() {
    let name = |door: &Door| format!("{}/team/app:v1", door.host());
    let plain = |regctl: &Client, door: &Door| {
        let set = ["registry", "set", "--skip-check", "--tls", "disabled"];
        regctl.run(set.into_iter().chain([door.host().as_str()]));
    };
    for_each_access(
        || Client::new("regctl"),
        |regctl, door| {
            plain(regctl, door);
            regctl.fail(["image", "digest", &name(door)]);
        },
        |regctl, door| {
            plain(regctl, door);
            let (image, name) = (Image::new(), name(door));
            let from = at(&image.layout(), "ocidir://");
            regctl.run(["image", "copy", &from, &name]);
            let digest = regctl.run(["image", "digest", &name]);
            assert_eq!(digest.trim(), image.digest);
            let back = regctl.path("back");
            regctl.run(["image", "copy", &name, &at(&back, "ocidir://")]);
            image.assert_is_in(&back);
            let put = ["artifact", "put", "--artifact-type", "application/x.note"];
            let put = put.into_iter().chain(["--subject", &name]);
            regctl.feed(put, b"a note\n");
            let seen = regctl.run(["artifact", "list", &name]);
            assert!(seen.contains("application/x.note"), "{seen}");
            regctl.run(["tag", "delete", &name]);
            regctl.fail(["image", "digest", &name]);
            let kept = format!("{}/team/app@{}", door.host(), image.digest);
            regctl.run(["image", "digest", &kept]);
        },
    );
}

#[test]
fn oras_pushes_files_attaches_and_discovers() {
    let name = |door: &Door| format!("{}/team/files:v1", door.host());
    for_each_access(
        || Client::new("oras"),
        |oras, door| {
            oras.fail(["manifest", "fetch", "--plain-http", &name(door)]);
        },
        |oras, door| {
            let name = name(door);
            let mut bulk = vec![0; 5 << 20];
            fastrand::fill(&mut bulk);
            fs::write(oras.path("bulk"), &bulk).expect("its own home");
            let kind = ["--artifact-type", "application/x.files"];
            oras.run(["push", "--plain-http", kind[0], kind[1], &name, "bulk"]);
            let kind = ["--artifact-type", "application/x.note"];
            oras.run(["attach", "--plain-http", kind[0], kind[1], &name, "bulk"]);
            let seen = oras.run(["discover", "--plain-http", &name]);
            assert!(seen.contains("application/x.note"), "{seen}");
            oras.run(["pull", "--plain-http", "--output", "back", &name]);
            assert!(fs::read(oras.path("back/bulk")).expect("it was pulled") == bulk);
            let other = format!("{}/team/other:v1", door.host());
            let plain = ["--from-plain-http", "--to-plain-http"];
            oras.run(["copy", "--recursive", plain[0], plain[1], &name, &other]);
            let seen = oras.run(["discover", "--plain-http", &other]);
            assert!(seen.contains("application/x.note"), "{seen}");
            oras.run(["manifest", "delete", "--plain-http", "--force", &name]);
            oras.fail(["manifest", "fetch", "--plain-http", &name]);
        },
    );
}

/// What podman and docker have in common: the image's id before and after.
fn engine(client: impl Fn() -> Client, tls: &'static [&'static str]) {
    let name = |door: &Door| format!("{}/team/app:v1", door.host());
    let with = |verb: &'static str, name: &str| {
        let words = [&[verb], tls].concat();
        let words = words.into_iter().map(str::to_owned);
        words.chain([name.to_owned()]).collect::<Vec<_>>()
    };
    for_each_access(
        client,
        |client, door| {
            client.fail(with("pull", &name(door)));
        },
        |client, door| {
            let name = name(door);
            let mut bulk = vec![0; 9 << 20];
            fastrand::fill(&mut bulk);
            client.feed(["import", "-", &name], &tar("bulk", &bulk));
            let id = |name: &str| client.run(["inspect", "--format", "{{.Id}}", name]);
            let before = id(&name);
            client.run(with("push", &name));
            client.run(["rmi", &name]);
            client.fail(["inspect", &name]);
            client.run(with("pull", &name));
            assert_eq!(id(&name), before);
        },
    );
}

#[test]
fn podman_pushes_and_pulls() {
    engine(|| Client::with_images("podman"), &["--tls-verify=false"]);
}

#[test]
fn a_docker_engine_logs_in_pushes_and_pulls() {
    if !e2e() {
        return;
    }
    let dockerd = Dockerd::start();
    engine(|| Client::of(&dockerd), &[]);
}

/// Three steps; the last one says so when it runs.
const STEPS: &str = r#"FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "mkdir", "/out"]
RUN ["/bin/busybox", "sh", "-c", "echo executed && /bin/busybox seq 1 100000 > /out/numbers"]
"#;

#[test]
fn buildah_keeps_its_cache_behind_the_door() {
    let build = |buildah: &Client, door: &Door, project: &Project| {
        let cache = format!("{}/team/steps", door.host());
        let context = project.path().display().to_string();
        let build = ["build", "--tls-verify=false", "--layers"];
        // In a chroot: nothing of the machine's cgroups or network is needed.
        let build = build.into_iter().chain(["--isolation=chroot", "-t", "app"]);
        let build = build.chain(["--cache-from", &cache, "--cache-to", &cache, &context]);
        buildah.run(build)
    };
    let new = || Client::with_images("buildah");
    for_each_access(
        new,
        |buildah, door| {
            let name = format!("docker://{}/team/app:v1", door.host());
            buildah.fail(["pull", "--tls-verify=false", &name]);
        },
        |buildah, door| {
            let project = Project::with(STEPS);
            let said = build(buildah, door, &project);
            assert!(said.contains("executed"), "{said}");
            // Debian's says what it takes from the cache, and pushes, on standard output.
            assert_eq!(said.matches("--> Pushing cache").count(), 3, "{said}");
            let other = new();
            if door.access != Access::Anonymous {
                other.login(door);
            }
            let said = build(&other, door, &project);
            assert!(!said.contains("\nexecuted"), "{said}");
            assert_eq!(said.matches("--> Cache pulled").count(), 3, "{said}");
            let name = format!("docker://{}/team/app:v1", door.host());
            other.run(["push", "--tls-verify=false", "app", &name]);
            buildah.run(["pull", "--tls-verify=false", &name]);
        },
    );
}

#[test]
fn what_one_client_pushed_every_other_one_pulls() {
    if !e2e() {
        return;
    }
    let (door, image, dockerd) = (Door::start(), Image::new(), Dockerd::start());
    let name = format!("{}/team/app:v1", door.host());
    let [skopeo, crane, regctl, oras] = ["skopeo", "crane", "regctl", "oras"].map(Client::new);
    let (podman, docker) = (Client::with_images("podman"), Client::of(&dockerd));
    let (from, remote) = (at(&image.layout(), "oci:"), format!("docker://{name}"));
    skopeo.run(["copy", "--dest-tls-verify=false", &from, &remote]);
    crane.run(["pull", "--format", "oci", &name, "back"]);
    image.assert_is_in(&crane.path("back"));
    regctl.run(["registry", "set", "--tls", "disabled", &door.host()]);
    let back = regctl.path("back");
    regctl.run(["image", "copy", &name, &at(&back, "ocidir://")]);
    image.assert_is_in(&back);
    oras.run([
        "copy",
        "--from-plain-http",
        "--to-oci-layout",
        &name,
        "back:v1",
    ]);
    image.assert_is_in(&oras.path("back"));
    podman.run(["pull", "--tls-verify=false", &name]);
    docker.run(["pull", &name]);
    let id = |client: &Client| client.run(["inspect", "--format", "{{.Id}}", &name]);
    assert_eq!(id(&docker).trim(), image.id);
    assert!(image.id.ends_with(id(&podman).trim()));
}

#[test]
fn a_wrong_password_is_refused() {
    if !e2e() {
        return;
    }
    for &access in Product::under_test().accesses() {
        if access == Access::Anonymous {
            continue;
        }
        let (door, skopeo) = (Door::with(access), Client::new("skopeo"));
        let login = ["login", "--tls-verify=false", "-u", "tests", "-p", "wrong"];
        skopeo.fail(login.into_iter().chain([door.host().as_str()]));
    }
}
