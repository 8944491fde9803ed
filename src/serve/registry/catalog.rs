//! `_catalog`: the repositories that a caller may read (distribution `docs/content/spec/api.md`, "Listing Repositories").

use axum::http::{StatusCode, header};
use futures_util::{StreamExt as _, stream};
use serde_json::json;

use super::{
    Answer, Registry,
    http::{answer, param},
    lists::{List, Next, PageTime, count, next, send},
};
use crate::{
    serve::{door::Call, refusal::Refusal},
    store::{keys::Repo, repository::AT_ONCE},
};

/// Maximum number of entries of a page; used if more, or no count, are requested.
const MAX_REPOSITORIES: usize = 1000;

impl Registry {
    pub(super) async fn list_repositories(&self, call: &Call) -> Answer {
        send(call, || self.catalog(call)).await
    }

    /// A page may have fewer entries than requested, even none: names that no longer hold anything are left out. Only `Link`
    /// tells whether the list continues.
    async fn catalog(&self, call: &Call) -> Result<List, Refusal> {
        let n = count(&call.parts, MAX_REPOSITORIES)?;
        let last = param(call.parts.uri.query(), "last");
        let readers = self.readers.as_ref().unwrap_or(&self.repositories);
        let mut names: Vec<Repo> = readers.records().repositories().await?;
        names.retain(|name| {
            let is_after = last.as_deref().is_none_or(|last| name.as_str() > last);
            is_after && call.who.may_list(name.as_str())
        });
        names.sort_unstable();
        let mut goes_on = names.len() > n;
        names.truncate(n);
        let looked = stream::iter(names).map(async |name| {
            let exists = self.read_only(&name).exists().await?;
            Ok::<_, Refusal>((name, exists))
        });
        let mut looked = looked.buffered(AT_ONCE);
        let (mut listed, mut seen) = (Vec::new(), None);
        let mut time = PageTime::begin();
        loop {
            match time.next(&mut looked).await? {
                Next::Item((name, exists)) => {
                    listed.extend(exists.then(|| name.clone()));
                    seen = Some(name);
                }
                Next::End => break,
                Next::Late => {
                    goes_on = true;
                    break;
                }
            }
        }
        let mut builder = answer(StatusCode::OK).header(header::CONTENT_TYPE, "application/json");
        if let Some(last) = seen.filter(|_| goes_on) {
            let query = [("n", n.to_string()), ("last", last.to_string())];
            let query = query.each_ref().map(|(key, value)| (*key, value.as_str()));
            builder = next(builder, "/v2/_catalog", &query);
        }
        let listed: Vec<&str> = listed.iter().map(Repo::as_str).collect();
        Ok((builder, json!({"repositories": listed}).to_string()))
    }
}
