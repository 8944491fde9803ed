//! Finding a manifest by its record, and reading it with the right kind of permit.

use super::{
    Registry,
    error::{Code, of_store},
    manifests::{LARGE, unknown},
};
use crate::{
    artifact::Reference,
    digest::Digest,
    ops::cache_tags::{Answer, Ready, Want},
    serve::{door::Call, refusal::Refusal},
    store::{self, Repository},
};

/// How often a large manifest is dropped while waiting for a permit: tags may change meanwhile.
const ROUNDS: usize = 3;

impl Registry {
    /// Finds a manifest, and reads it if `wants` says so for its digest, or its type is not known yet.
    ///
    /// A large one takes a permit for large manifests before it is read, and a slot among those in memory until it is sent. A
    /// request that waits for one keeps nothing in memory meanwhile, and holds no lookup permit.
    pub(super) async fn look_up(
        &self,
        repository: &Repository,
        reference: &Reference,
        call: &Call,
        wants: impl Fn(&Digest) -> bool,
    ) -> Result<Ready, Refusal> {
        let failed = |e: store::Error| {
            tracing::debug!(error = %e, "Manifest cannot be served");
            of_store(&e, Code::MANIFEST_UNKNOWN)
        };
        let ticket = &call.ticket;
        let caches = self.caches.of(ticket.key());
        let (mut large, mut merging) = (None, None);
        for round in 0.. {
            let reading = ticket.place_in(|a| &a.reads).await?;
            let found = caches.find(repository, reference).await;
            let Some(found) = found.map_err(failed)? else {
                break;
            };
            let want = Want {
                bytes: found.digest().is_none_or(&wants),
                folds: merging.is_some(),
            };
            let has_place = large.is_some() || merging.is_some();
            let is_large = caches.to_read(&found, want) > LARGE as u64;
            let reading = Some(reading).filter(|_| !is_large && merging.is_none());
            if is_large && !has_place {
                ticket.large_transfer().await?;
                large = Some(ticket.place_in(|a| &a.large_manifests).await?);
            }
            // A merged tag may be stored again.
            let pass = self.pass(call).await;
            let answer = caches.answer(repository, reference, found, want);
            let answer = answer.await.map_err(failed)?;
            // A client that knows a manifest may name what it names, without asking for that.
            if let Answer::Ready(ready) = &answer {
                self.promise(call, &ready.digest);
            }
            drop((pass, reading));
            let ready = match answer {
                Answer::Gone => break,
                Answer::Folds => {
                    large = None;
                    merging = Some(ticket.place_in(|a| &a.merges).await?);
                    continue;
                }
                Answer::Ready(ready) => ready,
            };
            merging = None;
            if !wants(&ready.digest) || ready.size <= LARGE as u64 {
                return Ok(*ready);
            }
            if !ticket.large_transfer_now() {
                if round < ROUNDS {
                    drop((ready, large.take()));
                    ticket.large_transfer().await?;
                    continue;
                }
                ticket.large_transfer().await?;
            }
            return Ok(*ready);
        }
        Err(unknown(reference))
    }
}
