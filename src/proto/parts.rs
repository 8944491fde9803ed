//! Reports of any length in messages of bounded size: lists are split, and joined again.

use prost::Message;

/// Most elements of one list in one message: even with the longest paths far below the 4 MiB that gRPC accepts.
const MOST: usize = 500;

/// A report that can be split into parts, each small enough for one message.
pub trait InParts: Message + Default + Sized {
    /// The parts, at least one; [`join`] builds the report from them.
    fn in_parts(self) -> Vec<Self>;
}

/// Joins parts as protobuf merges messages: lists are concatenated; for single fields the last one set counts.
pub fn join<M: Message + Default>(whole: &mut M, part: &M) {
    whole
        .merge(part.encode_to_vec().as_slice())
        .expect("what was just written can be read");
}

/// Keeps the first elements of a list in place; returns the rest in pieces without spare capacity.
pub(super) fn cut<T>(list: &mut Vec<T>) -> Vec<Vec<T>> {
    if list.len() <= MOST {
        return Vec::new();
    }
    let mut all = std::mem::take(list).into_iter();
    *list = all.by_ref().take(MOST).collect();
    let pieces = std::iter::repeat_with(|| all.by_ref().take(MOST).collect::<Vec<T>>());
    pieces.take_while(|piece| !piece.is_empty()).collect()
}

macro_rules! in_parts {
    ($report:ident: $($list:ident),+) => {
        impl $crate::proto::InParts for v1::$report {
            fn in_parts(mut self) -> Vec<Self> {
                let mut more = Vec::new();
                $(for piece in $crate::proto::parts::cut(&mut self.$list) {
                    let mut part = Self::default();
                    part.$list = piece;
                    more.push(part);
                })+
                let mut parts = vec![self];
                parts.append(&mut more);
                parts
            }
        }
    };
}
pub(super) use in_parts;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1;

    #[test]
    fn a_long_report_is_the_same_after_its_parts_are_joined() {
        let report = v1::PruneReport {
            tags: (0..1201).map(|i| format!("t{i}")).collect(),
            left_out: (0..501)
                .map(|i| v1::LeftOut {
                    what: format!("w{i}"),
                    why: "y".into(),
                })
                .collect(),
            blobs: 3,
            not_swept: Some(String::new()),
            ..Default::default()
        };
        let parts = report.clone().in_parts();
        assert_eq!(parts.len(), 1 + 2 + 1);
        let mut whole = v1::PruneReport::default();
        for part in &parts {
            join(&mut whole, part);
        }
        assert_eq!(whole, report);
    }

    #[test]
    fn pieces_of_a_long_list_take_no_more_memory_than_the_list() {
        let mut list: Vec<u64> = (0..75_000).collect();
        let pieces = cut(&mut list);
        let all = [list].into_iter().chain(pieces);
        let (mut count, mut room) = (0, 0);
        for piece in all {
            count += piece.len();
            room += piece.capacity();
        }
        assert_eq!(count, 75_000);
        assert!(room <= 2 * count, "{room}");
    }

    #[test]
    fn an_empty_report_is_one_part() {
        assert_eq!(v1::ListReport::default().in_parts().len(), 1);
    }
}
