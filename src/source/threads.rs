//! Blocking work on all cores.

use crate::source::Result;

/// Maximum threads for one task: more have no benefit on a directory tree.
const MAX_THREADS: usize = 8;

/// Splits `all` into one run per core, processes the runs in parallel, and joins the results in order; a panic is propagated to
/// the caller.
///
/// A run of fewer than `least` items does not get its own thread.
///
/// # Errors
/// The error of the first run that failed.
pub(super) fn in_threads<T: Sync, R: Send>(
    all: &[T],
    least: usize,
    work: impl Fn(&[T]) -> Result<Vec<R>> + Sync,
) -> Result<Vec<R>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let run = all.len().div_ceil(threads.min(MAX_THREADS)).max(least);
    if all.len() <= run {
        return work(all);
    }
    let mut found = Vec::new();
    std::thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> = all
            .chunks(run)
            .map(|part| scope.spawn(move || work(part)))
            .collect();
        for handle in handles {
            let part = handle
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            found.extend(part);
        }
        Ok(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_errors_come_through() {
        let all: Vec<u32> = (0..1000).collect();
        for least in [1, 16, 5000] {
            let doubled = in_threads(&all, least, |part| Ok(part.iter().map(|n| n * 2).collect()));
            assert_eq!(doubled.unwrap(), (0..2000).step_by(2).collect::<Vec<_>>());
        }
        assert!(
            in_threads(&[] as &[u32], 1, |p| Ok(p.to_vec()))
                .unwrap()
                .is_empty()
        );
        let failed = in_threads(&all, 1, |part| {
            if part.contains(&999) {
                Err(crate::source::Error::Invalid("999".into()))
            } else {
                Ok(part.to_vec())
            }
        });
        assert!(failed.is_err());
    }
}
