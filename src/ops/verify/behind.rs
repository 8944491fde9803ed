//! Finds what a daemon's local folder hides: blobs that the store behind it has lost and the folder still has.

use futures_util::{StreamExt as _, stream};

use super::{Context, Depth, Result, Verifier};
use crate::{
    artifact::{Manifest, outline::Outline},
    digest::Digest,
    store::behind::{Behind, Look},
    task,
};

/// A manifest, and the blobs it names.
pub(in crate::ops) async fn digests(manifest: &Manifest) -> Vec<Digest> {
    let (len, manifest) = (manifest.bytes.len(), manifest.clone());
    let named = move || {
        let outline = Outline::of_stored(&manifest).unwrap_or_default();
        let mut all: Vec<Digest> = outline.children().map(|n| n.digest).collect();
        all.push(manifest.digest);
        all
    };
    task::parse(len, named).await
}

impl Verifier {
    /// Asks the store behind the folder for all of these; does nothing without such a folder.
    pub(super) async fn behind(
        &mut self,
        ctx: &Context,
        digests: Vec<Digest>,
        shown: &str,
    ) -> Result<()> {
        let Some(hides) = &ctx.store.facts().hides else {
            return Ok(());
        };
        let look = match self.depth {
            Depth::Structure => Look::Size,
            Depth::Digests | Depth::Data => Look::Bytes,
        };
        let new: Vec<Digest> = digests
            .iter()
            .filter(|d| !self.behind.contains_key(d))
            .copied()
            .collect();
        let mut asked = stream::iter(new)
            .map(|digest| async move {
                // Blobs that this caller cannot see must be neither reported nor transferred.
                let told = match ctx.store.stat(&digest).await {
                    Ok(Some(_)) => hides.restore(&digest, look).await,
                    Ok(None) => Ok(Behind::Kept),
                    Err(e) => Err(e),
                };
                (digest, told)
            })
            .buffered(ctx.concurrency.max(1));
        while let Some((digest, told)) = asked.next().await {
            let lost = match told {
                Ok(Behind::Kept) => None,
                Ok(Behind::SentAgain) => Some(
                    "was lost or damaged in the store behind the daemon, and was uploaded again from the daemon's local folder; if a lifecycle rule of the bucket deletes blobs, remove the rule"
                        .to_owned(),
                ),
                Ok(Behind::Lost(e)) => Some(format!(
                    "is lost or damaged in the store behind the daemon; the daemon's local folder still has it, but uploading it again failed: {e}"
                )),
                Err(e) if e.is_temporary() => {
                    if !std::mem::replace(&mut self.is_away, true) {
                        ctx.progress.warn(&format!(
                            "could not check whether the store behind the daemon also has it: {e}"
                        ));
                    }
                    break;
                }
                Err(e) => return Err(e.into()),
            };
            self.behind.insert(digest, lost);
        }
        drop(asked);
        for digest in digests {
            if let Some(Some(why)) = self.behind.get(&digest).cloned() {
                self.fault(&format!("blob {digest} of {shown}"), why);
            }
        }
        Ok(())
    }
}
