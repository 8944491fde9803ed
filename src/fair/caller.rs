//! On whose behalf the current task works, for what is counted far below the place that knows the caller.

use super::Key;

tokio::task_local! {
    static CALLER: Option<Key>;
}

/// Does `work` on behalf of `caller`; `None`: of nobody in particular. Tasks that `work` starts are not told.
pub async fn on_behalf_of<T>(caller: Option<Key>, work: impl Future<Output = T>) -> T {
    CALLER.scope(caller, work).await
}

/// The caller on whose behalf the current task works; `None` where it is nobody in particular.
pub fn current() -> Option<Key> {
    CALLER.try_with(Clone::clone).ok().flatten()
}
