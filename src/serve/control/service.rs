//! The methods: a request becomes options, a verb runs, its report becomes messages.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::{
    Shared, Understood,
    access::Rights,
    copy::{Other, Side},
    error::{Asked, nonsense},
    flush::{self, Flushes},
    stream::{self, Messages},
};
use crate::{
    ops::{self, Context, Reach, du, inspect, list, prune, remove, verify},
    progress::Progress,
    proto::{Message, Wire, v1},
    serve::admission::{Permit, Ticket},
    store::{Store, marked::MIN_GRACE},
};

/// The methods of the schema.
pub(super) struct Verbs {
    shared: Arc<Shared>,
    /// One prune at a time: two would count each other's work.
    pruning: Arc<Semaphore>,
    flushes: Flushes,
}

type Answer<M> = Result<Response<Messages<M>>, Status>;

impl Verbs {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            pruning: Arc::new(Semaphore::new(1)),
            flushes: Flushes::default(),
        }
    }

    /// Runs a verb on the part of the daemon's store within `reach`, when a permit is free.
    fn run<M: Message, R: Wire<M::Report>, F>(
        &self,
        (asked, ticket): (Asked, Ticket),
        reach: Reach,
        work: impl FnOnce(Context) -> F + Send + 'static,
    ) -> Response<Messages<M>>
    where
        F: Future<Output = ops::Result<R>> + Send,
    {
        let shared = self.shared.clone();
        let room = (shared.unread.clone(), ticket.key().clone());
        stream::start(room, move |progress| async move {
            let _place = place(&ticket).await?;
            let ctx = shared.context(shared.store.clone(), reach, progress);
            let own = shared.store.url().to_string();
            let report = work(ctx).await.map_err(|e| asked.status(&e, &own))?;
            Ok(report.into_wire())
        })
    }
}

impl Shared {
    fn context(&self, store: Store, reach: Reach, progress: Progress) -> Context {
        Context {
            store,
            reach,
            progress,
            // The state of a node's caches is kept on the node.
            state_dir: None,
            temp_dir: self.settings.temp_dir.clone(),
            threads: self.settings.threads,
            concurrency: self.settings.concurrency,
            tables: ops::load::Tables::within(self.memory.clone()),
            // The client disconnects when its own budget is used up.
            budget: None,
        }
    }
}

/// A permit to work, among calls.
async fn place(ticket: &Ticket) -> Result<Permit, Status> {
    let place = ticket.place_in(|a| &a.control).await;
    place.map_err(|full| Status::resource_exhausted(full.to_string()))
}

/// The request's id and permits, its caller's rights, and its message.
fn unpacked<T>(request: Request<T>) -> ((Asked, Ticket), Rights, T) {
    const WHY: &str = "every call comes through `Control::answer`";
    let extensions = request.extensions();
    if let Some(understood) = extensions.get::<Understood>() {
        understood.0.store(true, Ordering::Relaxed);
    }
    let asked = extensions.get::<Asked>().cloned().expect(WHY);
    let rights = extensions.get::<Rights>().cloned().expect(WHY);
    let ticket = extensions.get::<Ticket>().cloned().expect(WHY);
    ((asked, ticket), rights, request.into_inner())
}

/// Refuses what a daemon does not prune.
fn check(options: &prune::Options, rights: &Rights) -> Result<(), Status> {
    if options.now {
        if !rights.is_everything() {
            return Err(Status::permission_denied(
                "--now needs a grant of all actions on all repositories, since repositories share blobs",
            ));
        }
        if !options.grace.is_zero() {
            return Err(Status::invalid_argument(
                "`now` and a grace time exclude each other",
            ));
        }
    } else if options.grace < MIN_GRACE {
        return Err(Status::invalid_argument(format!(
            "--grace must be at least {} while a daemon serves this store ({} was given), or a running build could lose blobs that it relies on; use --now to free space immediately",
            humantime::format_duration(MIN_GRACE),
            humantime::format_duration(options.grace),
        )));
    }
    Ok(())
}

/// The part of `reach` that a request selects.
fn chosen(reach: Reach, patterns: &[String]) -> Result<Reach, Status> {
    let chosen = reach.wanting(patterns);
    chosen.map_err(|e| Status::invalid_argument(e.to_string()))
}

#[tonic::async_trait]
impl v1::control_server::Control for Verbs {
    type ListStream = Messages<v1::ListResponse>;
    type InspectStream = Messages<v1::InspectResponse>;
    type DeleteStream = Messages<v1::DeleteResponse>;
    type PruneStream = Messages<v1::PruneResponse>;
    type DiskUsageStream = Messages<v1::DiskUsageResponse>;
    type VerifyStream = Messages<v1::VerifyResponse>;
    type CopyStream = Messages<v1::CopyResponse>;
    type FlushStream = Messages<v1::FlushResponse>;

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let (_, rights, _) = unpacked(request);
        let shared = &self.shared;
        // The store's location, other listen addresses and errors of a remote are only for the daemon's operators.
        let all = rights.is_everything();
        // Its counts reveal whether the bytes of a push were already known.
        let backlog = shared.backlog.as_ref();
        let backlog = backlog.filter(|_| rights.reads_everything());
        let mut queue = backlog.map(|b| flush::message(&b.status()));
        if let Some(trouble) = queue.as_mut().and_then(|q| q.trouble.as_mut())
            && !all
        {
            "the remote store is not writable".clone_into(trouble);
        }
        Ok(Response::new(v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: crate::proto::PROTOCOL,
            store: if all {
                shared.store.url().to_string()
            } else {
                String::new()
            },
            uptime_seconds: shared.began.elapsed().as_secs(),
            listeners: shared
                .listeners
                .get()
                .filter(|_| all)
                .cloned()
                .unwrap_or_default(),
            allows_paths: shared.allow_path.load(Ordering::Relaxed),
            queue,
        }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Answer<v1::ListResponse> {
        let (asked, rights, r) = unpacked(request);
        let reach = chosen(rights.to_read(&self.shared.sights()), &r.repositories)?;
        Ok(self.run(asked, reach, move |ctx| async move {
            list::run(&ctx, r.name.as_deref()).await
        }))
    }

    async fn inspect(&self, request: Request<v1::InspectRequest>) -> Answer<v1::InspectResponse> {
        let (asked, rights, r) = unpacked(request);
        Ok(self.run(
            asked,
            rights.to_read(&self.shared.sights()),
            move |ctx| async move { inspect::run(&ctx, &r.name, r.files).await },
        ))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Answer<v1::DeleteResponse> {
        let (asked, rights, r) = unpacked(request);
        let options = remove::Options::from_wire(r).map_err(|e| nonsense(&e))?;
        let reach = rights.to_delete(&self.shared.sights());
        Ok(self.run(asked, reach, move |ctx| async move {
            remove::run(&ctx, &options).await
        }))
    }

    /// Prunes beside open doors, as [`crate::store::marked`] describes: never with the store's lock, and with at least
    /// [`MIN_GRACE`].
    async fn prune(&self, request: Request<v1::PruneRequest>) -> Answer<v1::PruneResponse> {
        let (asked, rights, r) = unpacked(request);
        let reach = chosen(rights.to_delete(&self.shared.sights()), &r.repositories)?;
        let options = prune::Options::from(r);
        check(&options, &rights)?;
        // A prune limited to some repositories only removes names: it neither marks nor sweeps, so it need not exclude another
        // prune.
        let alone = if reach.is_whole() {
            let alone = self.pruning.clone().try_acquire_owned();
            Some(alone.map_err(|_| Status::aborted("another prune is running in this daemon"))?)
        } else {
            None
        };
        let doors = self.shared.doors();
        Ok(self.run(asked, reach, move |ctx| async move {
            let _alone = alone;
            let report = if options.now {
                prune::now::run(&ctx, &options, &*doors).await?
            } else {
                prune::run(&ctx, &options).await?
            };
            if let Err(error) = prune::read_marked(&ctx.store).await {
                // They are read again in the next round, long before the grace time is over.
                tracing::warn!(%error, "Could not read the marks of the prune");
            }
            Ok(report)
        }))
    }

    async fn disk_usage(
        &self,
        request: Request<v1::DiskUsageRequest>,
    ) -> Answer<v1::DiskUsageResponse> {
        let (asked, rights, r) = unpacked(request);
        let reach = chosen(rights.to_read(&self.shared.sights()), &r.repositories)?;
        Ok(self.run(asked, reach, move |ctx| async move {
            du::run(&ctx, r.name.as_deref()).await
        }))
    }

    async fn verify(&self, request: Request<v1::VerifyRequest>) -> Answer<v1::VerifyResponse> {
        let (asked, rights, r) = unpacked(request);
        let depth = verify::Depth::from_wire(r.depth).map_err(|e| nonsense(&e))?;
        let reach = chosen(rights.to_read(&self.shared.sights()), &r.repositories)?;
        Ok(self.run(asked, reach, move |ctx| async move {
            Box::pin(verify::run(&ctx, r.name.as_deref(), depth)).await
        }))
    }

    async fn copy(&self, request: Request<v1::CopyRequest>) -> Answer<v1::CopyResponse> {
        let ((asked, ticket), _, r) = unpacked(request);
        if r.from == r.to {
            return Err(Status::invalid_argument("from and to are the same store"));
        }
        let of_from = chosen(Reach::everything(), &r.repositories)?;
        let (from, to) = (
            Other::parse(&self.shared, &r.from, Side::From)?,
            Other::parse(&self.shared, &r.to, Side::To)?,
        );
        let shared = self.shared.clone();
        // Obtaining credentials may take long: stores are opened after the answer has begun.
        let room = (shared.unread.clone(), ticket.key().clone());
        Ok(stream::start(room, move |progress| async move {
            let _place = place(&ticket).await?;
            let from = from.open(&shared, &asked).await?;
            let to = to.open(&shared, &asked).await?;
            let own = shared.store.url().to_string();
            let pass = async {
                let what = format!("a copy to {own}");
                Some(shared.doors().enter(what).await)
            };
            // Waits for a prune that has exclusive use of the store; a later prune waits for it.
            let _pass = if r.to.is_empty() { pass.await } else { None };
            let from = shared.context(from, of_from, progress.clone());
            let to = shared.context(to, Reach::everything(), progress);
            let copied = Box::pin(ops::copy::run(&from, &to, r.name.as_deref())).await;
            Ok(copied.map_err(|e| asked.status(&e, &own))?.into_wire())
        }))
    }

    async fn flush(&self, request: Request<v1::FlushRequest>) -> Answer<v1::FlushResponse> {
        let ((asked, _), rights, r) = unpacked(request);
        let tells = if rights.reads_everything() {
            flush::Tells::Counts
        } else {
            flush::Tells::Nothing
        };
        let own = self.shared.store.url().to_string();
        Ok(Response::new(match self.shared.backlog.clone() {
            None => Messages::one(v1::FlushResponse { queue: None }),
            Some(backlog) if r.wait => flush::wait(backlog, tells, asked, own),
            Some(backlog) => self.flushes.start(backlog, tells),
        }))
    }
}
