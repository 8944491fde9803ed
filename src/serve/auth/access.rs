//! Repositories with actions, as scopes write them (`repository:<name>:pull,push`) and tokens hold them.
//!
//! `distribution/distribution:docs/content/spec/auth/scope.md` and `jwt.md`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::grant::{Action, Actions};
use crate::store::keys::Repo;

/// Maximum number of repositories in one list: further ones are not granted, which is not an error, and keeps a token small
/// enough for a header.
const MAX_REPOSITORIES: usize = 32;
/// Longest name that is considered: the distribution spec's advice for host and name together.
const MAX_NAME_BYTES: usize = 255;
/// The type of most resources.
const REPOSITORY: &str = "repository";
/// The one other resource: the list of repositories, `registry:catalog:*`.
const REGISTRY: &str = "registry";
const CATALOG: &str = "catalog";
const ANY: &str = "*";

/// Actions by repository, each name once, in order of first appearance; and the right to list repositories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Access {
    repositories: Vec<(String, Actions)>,
    catalog: bool,
}

impl Access {
    /// Adds actions on one repository to the existing ones.
    pub(super) fn add(&mut self, repository: &str, actions: Actions) {
        let room = self.repositories.len() < MAX_REPOSITORIES && repository.len() <= MAX_NAME_BYTES;
        match self
            .repositories
            .iter_mut()
            .find(|(name, _)| name == repository)
        {
            Some((_, own)) => *own = own.or(actions),
            None if room => self.repositories.push((repository.to_owned(), actions)),
            None => {}
        }
    }

    /// Adds the right to list repositories.
    pub(super) fn add_catalog(&mut self) {
        self.catalog = true;
    }

    /// Returns true if repositories may be listed.
    pub(super) fn lists(&self) -> bool {
        self.catalog
    }

    /// Reads a list of scopes separated by spaces; invalid scopes and other types are left out. A name lies between the first
    /// and the last `:`. Invalid repository names are left out as well: they grant nothing, and must not be signed.
    pub(super) fn add_scopes(&mut self, text: &str) {
        for scope in text.split_ascii_whitespace() {
            let Some((kind, rest)) = scope.split_once(':') else {
                continue;
            };
            let Some((name, actions)) = rest.rsplit_once(':') else {
                continue;
            };
            if kind == REPOSITORY && name.parse::<Repo>().is_ok() {
                self.add(name, actions_of(actions.split(',')));
            } else if (kind, name, actions) == (REGISTRY, CATALOG, ANY) {
                self.add_catalog();
            }
        }
    }

    /// The repositories' names.
    pub(super) fn repositories(&self) -> impl Iterator<Item = &str> {
        self.repositories.iter().map(|(name, _)| name.as_str())
    }

    pub(super) fn on(&self, repository: &str) -> Actions {
        let found = self
            .repositories
            .iter()
            .find(|(name, _)| name == repository);
        found.map_or_else(Actions::default, |(_, actions)| *actions)
    }

    /// The part that `granted` allows; repositories without remaining actions are dropped. Everybody may list: they see what
    /// they may read.
    pub(super) fn limited(&self, granted: impl Fn(&str) -> Actions) -> Self {
        let own = self.repositories.iter();
        let limited = own.map(|(name, actions)| (name.clone(), actions.and(granted(name))));
        Self {
            repositories: limited.filter(|(_, a)| !a.is_empty()).collect(),
            catalog: self.catalog,
        }
    }

    /// As scopes, separated by spaces.
    pub(super) fn to_scopes(&self) -> String {
        let repositories = self.repositories.iter();
        let scopes = repositories.map(|(name, actions)| format!("{REPOSITORY}:{name}:{actions}"));
        let catalog = self.catalog.then(|| format!("{REGISTRY}:{CATALOG}:{ANY}"));
        scopes.chain(catalog).collect::<Vec<_>>().join(" ")
    }
}

/// `*` means all actions; unknown words are ignored.
fn actions_of<'a>(words: impl Iterator<Item = &'a str>) -> Actions {
    words.fold(Actions::default(), |all, word| match word {
        "*" => Actions::ALL,
        word => {
            let known = Action::ALL.into_iter().filter(|a| a.as_str() == word);
            all.or(Actions::of(&known.collect::<Vec<_>>()))
        }
    })
}

#[derive(Serialize, Deserialize)]
struct TokenScope {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
}

impl Serialize for Access {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let repositories = self.repositories.iter().map(|(name, actions)| TokenScope {
            kind: REPOSITORY.to_owned(),
            name: name.clone(),
            actions: actions.each().map(|a| a.as_str().to_owned()).collect(),
        });
        let catalog = self.catalog.then(|| TokenScope {
            kind: REGISTRY.to_owned(),
            name: CATALOG.to_owned(),
            actions: vec![ANY.to_owned()],
        });
        s.collect_seq(repositories.chain(catalog))
    }
}

impl<'de> Deserialize<'de> for Access {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let mut access = Self::default();
        for item in Vec::<TokenScope>::deserialize(d)? {
            if item.kind == REPOSITORY {
                access.add(
                    &item.name,
                    actions_of(item.actions.iter().map(String::as_str)),
                );
            } else if item.kind == REGISTRY && item.name == CATALOG {
                access.add_catalog();
            }
        }
        Ok(access)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        let mut access = Access::default();
        access.add_scopes(text);
        access.to_scopes()
    }

    #[test]
    fn scopes_are_read_as_clients_write_them() {
        for (written, read) in [
            ("repository:a/b:pull", "repository:a/b:pull"),
            ("repository:a/b:push,pull", "repository:a/b:pull,push"),
            ("repository:h:5000/c:pull", ""),
            ("repository:own/*:pull", ""),
            ("repository:own/../secret/app:pull", ""),
            ("repository:own//x:pull repository:Own/x:pull", ""),
            ("repository:x\0:pull", ""),
            ("repository:a:*", "repository:a:pull,push,delete"),
            (
                "repository:a:pull repository:b:pull repository:a:push",
                "repository:a:pull,push repository:b:pull",
            ),
            ("registry:catalog:*", "registry:catalog:*"),
            ("registry:catalog:pull registry:other:*", ""),
            ("repository(plugin):a:pull", ""),
            ("openid repository: repository:a repository::pull", ""),
            ("repository:a:dance,pull", "repository:a:pull"),
        ] {
            assert_eq!(parsed(written), read, "{written}");
        }
    }

    #[test]
    fn hostile_list_is_cut() {
        let many: Vec<String> = (0..10_000)
            .map(|i| format!("repository:r{i}:pull"))
            .collect();
        assert_eq!(parsed(&many.join(" ")).split(' ').count(), MAX_REPOSITORIES);
        assert_eq!(parsed(&format!("repository:{}:pull", "x".repeat(256))), "");
    }

    #[test]
    fn nothing_is_left_of_what_is_not_granted() {
        let mut access = Access::default();
        access.add_scopes("repository:a:pull,push repository:b:pull");
        let pull = Actions::of(&[Action::Pull]);
        let left = access.limited(|name| {
            if name == "a" {
                pull
            } else {
                Actions::default()
            }
        });
        assert_eq!(left.to_scopes(), "repository:a:pull");
    }

    #[test]
    fn claims_are_those_of_the_spec() {
        let mut access = Access::default();
        access.add_scopes("repository:a:pull,push");
        let json = serde_json::to_string(&access).unwrap();
        assert_eq!(
            json,
            r#"[{"type":"repository","name":"a","actions":["pull","push"]}]"#
        );
        assert_eq!(serde_json::from_str::<Access>(&json).unwrap(), access);
        access.add_catalog();
        let json = serde_json::to_string(&access).unwrap();
        assert_eq!(
            json,
            r#"[{"type":"repository","name":"a","actions":["pull","push"]},{"type":"registry","name":"catalog","actions":["*"]}]"#
        );
        assert_eq!(serde_json::from_str::<Access>(&json).unwrap(), access);
    }
}
