//! The caller on whose behalf the current task works, for code that counts resources far below the code that knows the caller.

use super::Key;

tokio::task_local! {
    static CALLER: Option<Key>;
}

/// Runs `work` on behalf of `caller`; `None`: of nobody in particular. Tasks started by `work` do not inherit the caller.
pub async fn on_behalf_of<T>(caller: Option<Key>, work: impl Future<Output = T>) -> T {
    CALLER.scope(caller, work).await
}

/// The caller on whose behalf the current task works; `None` if nobody in particular.
pub fn current() -> Option<Key> {
    CALLER.try_with(Clone::clone).ok().flatten()
}
