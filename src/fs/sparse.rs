//! The data runs of sparse files.

use std::{fs::File, io};

use rustix::{fs::SeekFrom, io::Errno};

use super::Stat;
use crate::entry::Extent;

/// Smaller holes are read as zeros: they save little, and file systems with different block sizes then agree more often.
pub const SMALLEST_HOLE: u64 = 64 << 10;
/// Maximum runs of a file; if there are more, larger holes are read as zeros too.
const MOST_RUNS: usize = 1 << 16;

/// Returns true if a file may have holes: it has fewer blocks than bytes.
pub fn may_be_sparse(stat: &Stat) -> bool {
    stat.is_file() && stat.blocks.saturating_mul(512) < stat.size
}

/// The data runs of an open file of `size` bytes, ascending and disjoint; `None` if it has no sufficiently large hole.
///
/// Moves the file's position. On file systems without holes the result is `None`.
pub fn data_runs(file: &File, size: u64) -> io::Result<Option<Box<[Extent]>>> {
    let mut runs: Vec<Extent> = Vec::new();
    let mut least = SMALLEST_HOLE;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            // There is no more data.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
        if end <= start {
            break;
        }
        add(&mut runs, start, end, least);
        if runs.len() > MOST_RUNS {
            least = widen(&mut runs, least);
        }
        at = end;
    }
    let last = runs.last().map_or(0, |r| r.offset + r.len);
    if let Some(r) = runs.last_mut()
        && size - last < least
    {
        r.len = size - r.offset;
    }
    let no_hole = match &runs[..] {
        [] => size < least,
        [r] => r.offset == 0 && r.len == size,
        _ => false,
    };
    Ok((!no_hole).then(|| runs.into()))
}

fn add(runs: &mut Vec<Extent>, start: u64, end: u64, least: u64) {
    match runs.last_mut() {
        Some(r) if start - (r.offset + r.len) < least => r.len = end - r.offset,
        None if start < least => runs.push(Extent {
            offset: 0,
            len: end,
        }),
        _ => runs.push(Extent {
            offset: start,
            len: end - start,
        }),
    }
}

/// Fills larger and larger holes until at most half of the runs remain; returns the new minimum size of a hole.
fn widen(runs: &mut Vec<Extent>, mut least: u64) -> u64 {
    while runs.len() > MOST_RUNS / 2 {
        least = least.saturating_mul(2);
        let old = std::mem::take(runs);
        for r in old {
            add(runs, r.offset, r.offset + r.len, least);
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn with_data(at: &[(u64, u64)], size: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (offset, len) in at {
            file.write_all_at(&vec![7; *len as usize], *offset).unwrap();
        }
        file
    }

    fn runs(at: &[(u64, u64)], size: u64) -> Option<Vec<(u64, u64)>> {
        data_runs(&with_data(at, size), size)
            .unwrap()
            .map(|r| r.iter().map(|e| (e.offset, e.len)).collect())
    }

    #[test]
    fn data_is_found_between_holes() {
        let k = 1024;
        assert_eq!(
            runs(&[(128 * k, 64 * k), (512 * k, 4096)], 1024 * k),
            Some(vec![(128 * k, 64 * k), (512 * k, 4096)])
        );
        assert_eq!(runs(&[], 1024 * k), Some(vec![]));
        assert_eq!(runs(&[(0, 1024 * k)], 1024 * k), None);
        assert_eq!(runs(&[], 0), None);
    }

    #[test]
    fn small_holes_are_data() {
        let k = 1024;
        assert_eq!(runs(&[(8 * k, 8 * k), (24 * k, 8 * k)], 36 * k), None);
        assert_eq!(
            runs(&[(8 * k, 8 * k), (512 * k, 8 * k)], 530 * k),
            Some(vec![(0, 16 * k), (512 * k, 18 * k)])
        );
    }

    #[test]
    fn too_many_runs_are_joined_over_ever_bigger_holes() {
        let mut runs = Vec::new();
        let mut least = SMALLEST_HOLE;
        for i in 0..200_000u64 {
            add(&mut runs, i * 131_072, i * 131_072 + 4096, least);
            if runs.len() > MOST_RUNS {
                least = widen(&mut runs, least);
            }
        }
        assert!(runs.len() <= MOST_RUNS);
        assert!(
            runs.windows(2)
                .all(|w| w[0].offset + w[0].len < w[1].offset)
        );
        let last = runs.last().unwrap();
        assert_eq!(last.offset + last.len, 199_999 * 131_072 + 4096);
    }
}
