use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    artifact::{
        config::Fingerprint,
        name::SnapshotName,
        snapshot::{Layer, TocPlace},
        toc::{Frame, Object, Toc},
    },
    digest::{ContentId, Digest},
    entry::{Entry, Meta, Time},
};

const GO: Rules = GO_BUILD;
const TODAY: u32 = 20_000;

fn path(p: &str) -> EntryPath {
    EntryPath::new(p.as_bytes()).unwrap()
}

/// A file whose content is `text`; `needs` names another.
fn file(p: &str, text: &str, time: i64, needs: Option<&str>) -> (Entry, String) {
    let meta = Meta {
        mode: 0o644,
        mtime: Time {
            secs: time,
            nanos: 0,
        },
        ..Meta::default()
    };
    let mut e = Entry::file(path(p), text.len() as u64, meta);
    e.needs = needs.map(path);
    (e, text.to_owned())
}

fn bare(p: &str, kind: Kind) -> (Entry, String) {
    let (mut e, _) = file(p, "", 0, None);
    e.kind = kind;
    (e, String::new())
}

/// A pack of those entries, each content an object of its own.
fn pack(generation: u32, entries: &[(Entry, String)], day: u32) -> Pack {
    let mut toc = Toc {
        generation,
        ..Toc::default()
    };
    let mut at = 0;
    for (entry, text) in entries {
        let content = ContentId::of(text.as_bytes());
        let mut objects = Vec::new();
        if !text.is_empty() {
            objects.push(toc.objects.len() as u32);
            toc.objects.push(Object {
                content,
                len: text.len() as u32,
                frame: 0,
                offset: at,
            });
            at += text.len() as u32;
        }
        toc.entries.push(TocEntry {
            entry: entry.clone(),
            content,
            objects: objects.into(),
        });
    }
    toc.frames.push(Frame {
        offset: 0,
        len: at.max(1),
        raw_len: at,
        hash: ContentId::of(b"f"),
    });
    let digest = Digest::sha256_of(&toc.encode());
    let place = TocPlace {
        digest,
        offset: u64::from(at.max(1)),
        size: 1,
    };
    Pack::all_live(
        Layer::new(digest, u64::from(at.max(1)) + 100, place),
        Arc::new(toc),
        day,
    )
}

fn snapshot(packs: Vec<Pack>) -> Snapshot {
    let name = SnapshotName {
        kind: "k".into(),
        name: "n".into(),
        scope: "s".into(),
        key: String::new(),
    };
    let mut packs = packs;
    packs.sort_by_key(Pack::order);
    Snapshot {
        name,
        fingerprint: Fingerprint::default(),
        packs,
        merge: false,
        folded: Vec::new(),
        root: None,
        created: None,
        published: None,
    }
}

fn live(s: &Snapshot) -> Vec<(String, ContentId)> {
    let mut all: Vec<_> = s
        .live()
        .map(|(_, e)| (e.entry.path.to_string(), e.content))
        .collect();
    all.sort();
    all
}

fn paths(s: &Snapshot) -> Vec<String> {
    live(s).into_iter().map(|(p, _)| p).collect()
}

#[test]
fn of_two_actions_with_one_id_the_later_counts_and_the_older_output_goes() {
    let old = pack(
        0,
        &[file("a", "a1", 1, Some("d1")), file("d1", "old", 0, None)],
        TODAY,
    );
    let new = pack(
        0,
        &[file("a", "a2", 2, Some("d2")), file("d2", "new", 0, None)],
        TODAY,
    );
    for (head, side) in [(&old, &new), (&new, &old)] {
        let out = fold(
            &snapshot(vec![head.clone()]),
            &snapshot(vec![side.clone()]),
            None,
            TODAY,
            GO,
        );
        assert_eq!(paths(&out), ["a", "d2"]);
        assert_eq!(
            out.packs.len(),
            1,
            "the pack of the older one is needed no more"
        );
    }
}

#[test]
fn an_output_that_fell_out_comes_back_when_it_is_needed_again() {
    let mut head = snapshot(vec![pack(
        0,
        &[file("a", "a1", 1, Some("d")), file("d", "out", 0, None)],
        TODAY,
    )]);
    head.packs[0].live = vec![true, false];
    close(&mut head, GO);
    assert_eq!(paths(&head), ["a", "d"]);
}

#[test]
fn an_action_whose_output_lost_an_object_dies_and_is_told() {
    let mut with_foreign = pack(
        0,
        &[file("a", "a1", 1, Some("d")), file("d", "out", 0, None)],
        TODAY,
    );
    let mut toc = (*with_foreign.toc).clone();
    toc.foreign.push(crate::artifact::toc::Foreign {
        content: ContentId::of(b"gone"),
        len: 3,
    });
    toc.entries[1].objects = Box::new([toc.objects.len() as u32]);
    with_foreign.toc = Arc::new(toc);
    let mut s = snapshot(vec![with_foreign]);
    let died: Vec<String> = close(&mut s, GO)
        .into_iter()
        .map(|d| d.path.to_string())
        .collect();
    assert_eq!(died, ["a"]);
    assert!(paths(&s).is_empty() && s.packs.is_empty());
}

#[test]
fn a_pack_that_was_packed_anew_comes_before_the_damaged_one_and_its_writer_drops_that() {
    let entries = [file("a", "a1", 1, Some("d")), file("d", "out", 0, None)];
    let (damaged, healed) = (pack(0, &entries, TODAY), pack(1, &entries, TODAY));
    for (head, side) in [(&damaged, &healed), (&healed, &damaged)] {
        let mut out = fold(
            &snapshot(vec![head.clone()]),
            &snapshot(vec![side.clone()]),
            None,
            TODAY,
            GO,
        );
        let packs = |s: &Snapshot| s.packs.iter().map(Pack::digest).collect::<Vec<_>>();
        assert_eq!(packs(&out), [healed.digest(), damaged.digest()]);
        assert_eq!(out.packs[0].live, [true, true]);
        drop_covered(&mut out, &HashSet::from([healed.digest()]));
        assert_eq!(packs(&out), [healed.digest()]);
    }
}

/// A pack that lists what `honest` lists, each content made of an object of its own choice.
fn lying(
    honest: &Pack,
    generation: u32,
    object: impl Fn(ContentId, u32) -> (ContentId, u32),
) -> Pack {
    let mut toc = (*honest.toc).clone();
    toc.generation = generation;
    for o in &mut toc.objects {
        (o.content, o.len) = object(o.content, o.len);
    }
    let digest = Digest::sha256_of(&toc.encode());
    let place = TocPlace {
        digest,
        ..honest.layer.toc
    };
    let layer = Layer::new(digest, honest.layer.descriptor.size, place);
    Pack::all_live(layer, Arc::new(toc), TODAY)
}

#[test]
fn no_pack_leaves_for_what_another_one_says_it_holds() {
    let outputs = pack(0, &[file("d", "out", 0, None)], TODAY);
    let actions = pack(0, &[file("a", "a1", 1, Some("d"))], TODAY);
    let honest = snapshot(vec![outputs.clone(), actions.clone()]);
    for generation in [0, 1, 9] {
        for (say, object) in [
            (
                "the same",
                (|d, len| (d, len)) as fn(ContentId, u32) -> (ContentId, u32),
            ),
            ("of another length", |d, len| (d, len - 1)),
            ("other objects", |d, len| (ContentId::of(d.as_bytes()), len)),
        ] {
            let lies = [&outputs, &actions].map(|p| lying(p, generation, object));
            let side = snapshot(lies.to_vec());
            for (head, side) in [(&honest, &side), (&side, &honest)] {
                let mut out = fold(head, side, None, TODAY, GO);
                // What was folded once is read and folded again.
                for _ in 0..2 {
                    out = fold(&out, side, None, TODAY, GO);
                    close(&mut out, GO);
                }
                assert_eq!(paths(&out), ["a", "d"], "{say}");
                for pack in [&outputs, &actions] {
                    let stays = out.packs.iter().any(|p| p.digest() == pack.digest());
                    assert!(stays, "{say}, generation {generation}");
                }
            }
        }
    }
}

#[test]
fn what_is_barred_is_no_output_of_an_action_and_keeps_no_pack() {
    let outputs = pack(0, &[file("d", "out", 0, None)], TODAY);
    let actions = pack(0, &[file("a", "a1", 1, Some("d"))], TODAY);
    let honest = snapshot(vec![outputs.clone(), actions]);
    let bar_output = |s: &mut Snapshot| {
        barred::bar(s, |e| {
            if e.entry.path == path("d") {
                return Err("so it says".to_owned());
            }
            Ok(())
        })
    };
    // It stays for what is sound in it, and comes first.
    let own = [file("b", "b1", 1, Some("e")), file("e", "more", 0, None)];
    let as_folder = [own.to_vec(), vec![bare("d", Kind::Dir)]].concat();
    let mut side = snapshot(vec![pack(9, &as_folder, TODAY)]);
    assert!(bar_output(&mut side).is_some());
    close(&mut side, GO);
    for (head, side) in [(&honest, &side), (&side, &honest)] {
        let out = fold(head, side, None, TODAY, GO);
        assert_eq!(paths(&out), ["a", "b", "d", "e"]);
        let (_, output) = out.live().find(|(_, e)| e.entry.path == path("d")).unwrap();
        assert!(output.entry.kind.is_file());
    }
    // Of the same content, made of something else, and of no use.
    let lie = lying(&outputs, 9, |d, len| (ContentId::of(d.as_bytes()), len));
    let mut side = snapshot(vec![lie.clone()]);
    assert!(bar_output(&mut side).is_some());
    let mut all = honest.clone();
    all.packs.extend(side.packs);
    all.packs.sort_by_key(Pack::order);
    close(&mut all, GO);
    assert_eq!(paths(&all), ["a", "d"]);
    assert!(all.packs.iter().all(|p| p.digest() != lie.digest()));
}

#[test]
fn entries_leave_by_age_and_the_used_ones_stay() {
    let old = pack(
        0,
        &[file("a", "1", 1, Some("d")), file("d", "out1", 0, None)],
        TODAY - 8,
    );
    let edge = pack(
        0,
        &[file("b", "2", 1, Some("e")), file("e", "out2", 0, None)],
        TODAY - 7,
    );
    let mut s = snapshot(vec![old, edge]);
    assert_eq!(expire(&mut s, TODAY, 7, None, GO), 2);
    assert_eq!(paths(&s), ["b", "e"]);
}

#[test]
fn by_size_the_least_recently_used_leave_first() {
    let text = "x".repeat(1000);
    let old = pack(
        0,
        &[file("a", "1", 1, Some("d")), file("d", &text, 0, None)],
        TODAY - 3,
    );
    let new = pack(
        0,
        &[
            file("b", "2", 1, Some("e")),
            file("e", &(text + "y"), 0, None),
        ],
        TODAY,
    );
    let mut s = snapshot(vec![old, new]);
    expire(&mut s, TODAY, 7, Some(1500), GO);
    assert_eq!(paths(&s), ["b", "e"]);
}

#[test]
fn a_tree_is_its_last_writers_and_a_merged_one_has_both() {
    let head = snapshot(vec![pack(
        0,
        &[file("f", "head", 1, None), file("h", "h", 1, None)],
        0,
    )]);
    let mut side = snapshot(vec![pack(
        0,
        &[file("f", "side", 1, None), file("s", "s", 1, None)],
        0,
    )]);
    assert_eq!(
        paths(&fold(&head, &side, None, TODAY, Rules::Tree)),
        ["f", "s"]
    );
    side.merge = true;
    let merged = fold(&head, &side, None, TODAY, Rules::Tree);
    assert_eq!(paths(&merged), ["f", "h", "s"]);
    assert_eq!(live(&merged)[0].1, ContentId::of(b"side"));
}

#[test]
fn in_a_merged_tree_nothing_stands_below_a_file_and_links_have_their_files() {
    let head = snapshot(vec![pack(
        0,
        &[
            bare("x", Kind::Dir),
            file("x/below", "1", 1, None),
            file("t", "2", 1, None),
            bare("l", Kind::Hardlink(path("x/below"))),
        ],
        0,
    )]);
    let mut side = snapshot(vec![pack(0, &[file("x", "now a file", 1, None)], 0)]);
    side.merge = true;
    assert_eq!(
        paths(&fold(&head, &side, None, TODAY, Rules::Tree)),
        ["t", "x"]
    );
}

#[test]
fn side_tags_are_remembered_for_thirty_days() {
    let mut head = snapshot(vec![pack(0, &[file("f", "1", 1, None)], 0)]);
    for (tag, day) in [("old", TODAY - 31), ("kept", TODAY - 30)] {
        head.folded.push(Folded::new(tag, day));
    }
    let out = fold(&head, &head.clone(), Some("new"), TODAY, GO);
    let tags: Vec<_> = out.folded.iter().map(|f| f.tag.as_str()).collect();
    assert_eq!(tags, ["kept", "new"]);
}

/// What an import sees of a snapshot, and the days that decide what leaves.
fn entries(s: &Snapshot) -> Vec<(Entry, ContentId, u32)> {
    let mut all: Vec<_> = s
        .live()
        .map(|(at, e)| (e.entry.clone(), e.content, s.day(at)))
        .collect();
    all.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    all
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any set of writers, folded in any order, has the same entries; of two the snapshot is the same to the byte.
    #[test]
    fn unions_do_not_depend_on_the_order(
        writers in proptest::collection::vec(proptest::collection::vec((0_u8..6, 0_u8..4, 0_i64..3), 0..6), 1..5),
        turn in any::<u64>(),
    ) {
        let snapshots: Vec<Snapshot> = writers
            .iter()
            .enumerate()
            .map(|(w, actions)| {
                let mut entries = Vec::new();
                for (a, d, time) in actions {
                    let out = format!("d{d}");
                    entries.push(file(&format!("a{a}"), &format!("{a}{d}{time}"), *time, Some(&out)));
                    entries.push(file(&out, &format!("output {d}"), 0, None));
                }
                entries.sort_by(|a, b| a.0.path.cmp(&b.0.path));
                entries.dedup_by(|a, b| a.0.path == b.0.path);
                let mut s = snapshot(vec![pack(0, &entries, TODAY - w as u32)]);
                close(&mut s, GO);
                s
            })
            .collect();
        let all = |order: &[usize]| {
            let mut out = snapshots[order[0]].clone();
            for i in &order[1..] {
                out = fold(&out, &snapshots[*i], None, TODAY, GO);
            }
            entries(&out)
        };
        let straight: Vec<usize> = (0..snapshots.len()).collect();
        let mut shuffled = straight.clone();
        fastrand::Rng::with_seed(turn).shuffle(&mut shuffled);
        prop_assert_eq!(all(&straight), all(&shuffled));
        for (a, b) in snapshots.iter().zip(&snapshots[1..]) {
            let sealed = |s: Snapshot| s.seal(Time::default()).config_bytes;
            prop_assert_eq!(sealed(fold(a, b, None, TODAY, GO)), sealed(fold(b, a, None, TODAY, GO)));
        }
    }
}

#[test]
fn what_is_dated_after_its_publication_is_left_out_and_days_are_capped() {
    let bound = Time {
        secs: 1_000_000,
        nanos: 0,
    };
    let day = bound.day();
    let limit = bound.secs + dated::AHEAD_SECS;
    let entries = [
        file("ahead", "", limit + 1, Some("d1")),
        file("d1", "1", 0, None),
        file("within", "", limit, Some("d2")),
        file("d2", "2", 0, None),
    ];
    let mut s = snapshot(vec![pack(0, &entries, u32::MAX)]);
    let left_out = dated::leave_out_ahead(&mut s, bound, GO);
    assert_eq!(left_out, [path("ahead")]);
    close(&mut s, GO);
    assert_eq!(paths(&s), ["d2", "within"]);
    assert_eq!(s.published, Some(bound));
    let live: Vec<At> = s.live().map(|(at, _)| at).collect();
    assert!(
        live.iter().all(|at| s.day(*at) <= day),
        "{:?}",
        s.packs[0].days
    );
    // A tree's files may have any time.
    let mut tree = snapshot(vec![pack(0, &entries, 0)]);
    assert_eq!(dated::leave_out_ahead(&mut tree, bound, Rules::Tree), []);
}

/// A snapshot of one entry, published on that day, made after the replacements `marks` (days).
fn marked(name: &str, published: u32, marks: &[u32]) -> Snapshot {
    let mut s = snapshot(vec![pack(0, &[file(name, name, 1, None)], TODAY)]);
    let at = |day: u32| Time {
        secs: i64::from(day) * 86_400,
        nanos: 0,
    };
    s.published = Some(at(published));
    for day in marks {
        let mark = s.name.replacement_mark(at(*day), u64::from(*day));
        s.folded.push(Folded::new(mark, *day));
    }
    s
}

const UNION: Rules = Rules::Union {
    outputs_by_need: false,
};

#[test]
fn of_two_snapshots_the_one_from_before_a_replacement_adds_nothing_in_any_order() {
    let d = TODAY;
    for (a, b, want) in [
        (marked("a", d, &[]), marked("b", d, &[d]), vec!["b"]),
        (marked("a", d, &[d - 3]), marked("b", d, &[d]), vec!["b"]),
        (marked("a", d, &[d]), marked("b", d, &[d]), vec!["a", "b"]),
        (marked("a", d, &[]), marked("b", d, &[]), vec!["a", "b"]),
        // Of what was published a week after it nobody knows whether the mark was only forgotten.
        (
            marked("a", d + 6, &[]),
            marked("b", d, &[d]),
            vec!["a", "b"],
        ),
    ] {
        for (head, side) in [(&a, &b), (&b, &a)] {
            let out = fold(head, side, Some("side"), d, UNION);
            assert_eq!(paths(&out), want);
            // It is remembered anyway.
            assert!(out.folded.iter().any(|f| f.tag == "side"));
        }
    }
}

#[test]
fn the_last_replacement_is_never_forgotten_and_those_of_other_names_do_not_count() {
    let old = marked("a", TODAY - 30, &[TODAY - 30, TODAY - 40]);
    let out = fold(&old, &marked("b", TODAY, &[]), None, TODAY, UNION);
    let left: Vec<_> = out.folded.iter().map(|f| f.day).collect();
    assert_eq!(left, [TODAY - 30]);
    let mut other = marked("c", TODAY, &[]);
    other.name.scope = "another".into();
    let mut with_foreign = marked("c", TODAY, &[]);
    with_foreign.folded = vec![Folded::new(
        other.name.replacement_mark(
            Time {
                secs: i64::from(TODAY) * 86_400,
                nanos: 0,
            },
            1,
        ),
        TODAY,
    )];
    let out = fold(&marked("d", TODAY, &[]), &with_foreign, None, TODAY, UNION);
    assert_eq!(paths(&out), ["c", "d"]);
}
