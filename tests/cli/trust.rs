//! The rows of docs/trust.md about the command line at a folder, a bucket and a registry: what a job can and cannot do to others.

use std::fs;

use super::{node_with_tree, words};
use crate::support::{
    cli::{Cachectl, flag},
    node::Node,
    servers::S3Server,
    stores::{Backend, TestStore},
};

const STORES: [Backend; 3] = [Backend::Disk, Backend::Seaweed, Backend::DebianRegistry];

/// A job of GitLab CI that builds a merge request into `main`.
fn request(node: &Node, line: &str, number: &str) -> Cachectl {
    words(node, line)
        .env("GITLAB_CI", "true")
        .env("CI_DEFAULT_BRANCH", "main")
        .env("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main")
        .env("CI_MERGE_REQUEST_IID", number)
}

/// A job of GitLab CI that builds `main`.
fn main(node: &Node, line: &str) -> Cachectl {
    words(node, line)
        .env("GITLAB_CI", "true")
        .env("CI_DEFAULT_BRANCH", "main")
        .env("CI_COMMIT_BRANCH", "main")
}

const EXPORT: &str = "export dir tree --name t --strict";
const IMPORT: &str = "import dir copy --name t --strict";

#[test]
fn what_a_request_exports_is_imported_by_that_request_alone() {
    for backend in STORES {
        let store = TestStore::new(backend);
        let node = node_with_tree();
        request(&node, EXPORT, "7").store(&store).run().success();
        let hit = |command: Cachectl| flag(&command.store(&store).json(), "hit");
        assert!(!hit(main(&node, IMPORT)), "{backend:?}");
        assert!(!hit(request(&node, IMPORT, "8")), "{backend:?}");
        assert!(!hit(words(&node, IMPORT)), "{backend:?}");
        assert!(hit(request(&node, IMPORT, "7")), "{backend:?}");
    }
}

/// Scopes are a convention: this is what does *not* protect, on every store.
#[test]
fn whoever_may_write_a_store_writes_and_removes_any_scope_of_it() {
    for backend in STORES {
        let store = TestStore::new(backend);
        let node = node_with_tree();
        main(&node, EXPORT).store(&store).run().success();
        fs::write(node.path("home/tree/a"), "poison").unwrap();
        let line = format!("{EXPORT} --scope default");
        request(&node, &line, "7").store(&store).run().success();
        main(&node, IMPORT).store(&store).run().success();
        let read = fs::read_to_string(node.path("home/copy/a")).unwrap();
        assert_eq!(read, "poison", "{backend:?}");
        if backend != Backend::DebianRegistry {
            request(&node, "rm t", "7").store(&store).run().success();
            let report = main(&node, IMPORT).store(&store).json();
            assert!(!flag(&report, "hit"), "{backend:?}");
        }
    }
}

#[test]
fn credentials_that_may_only_read_let_a_job_import_and_write_no_scope_whatever_it_asks_for() {
    let store = TestStore::new(Backend::Seaweed);
    let node = node_with_tree();
    main(&node, EXPORT).store(&store).run().success();
    let reader = |command: Cachectl| {
        let command = command.store(&store);
        let env = S3Server::reader_env().into_iter();
        env.fold(command, |c, (name, value)| c.env(&name, value))
    };
    assert!(flag(&reader(request(&node, IMPORT, "7")).json(), "hit"));
    fs::write(node.path("home/tree/a"), "poison").unwrap();
    for scope in ["", " --scope default"] {
        let outcome = reader(request(&node, &format!("{EXPORT}{scope}"), "7")).run();
        outcome.code(1);
    }
    // Without `--strict` it is one line, and the build goes on.
    let outcome = reader(request(&node, "export dir tree --name t", "7")).run();
    let outcome = outcome.success();
    assert!(outcome.stderr.contains("not exported: "), "{outcome}");
    for line in ["rm t", "prune --max-size 1B --grace 0"] {
        reader(request(&node, line, "7")).run().code(1);
    }
    main(&node, "import dir fresh --name t --strict")
        .store(&store)
        .run()
        .success();
    let read = fs::read_to_string(node.path("home/fresh/a")).unwrap();
    assert_eq!(read, "first");
}

#[test]
fn an_import_by_digest_does_not_follow_a_name_that_somebody_changed() {
    for backend in STORES {
        let store = TestStore::new(backend);
        let node = node_with_tree();
        let report = main(&node, EXPORT).store(&store).json();
        let digest = report["digest"].as_str().unwrap();
        fs::write(node.path("home/tree/a"), "poison").unwrap();
        let line = format!("{EXPORT} --scope default");
        request(&node, &line, "7").store(&store).run().success();
        let line = format!("{IMPORT} --digest {digest}");
        main(&node, &line).store(&store).run().success();
        let read = fs::read_to_string(node.path("home/copy/a")).unwrap();
        assert_eq!(read, "first", "{backend:?}");
    }
}
