//! Three unmodified caches that a real BuildKit (0.34) wrote by `--export-cache type=local,mode=max`.
//!
//! `whole`: a build of one target. `index`: of another target with another context, `image-manifest=false`, zstd. `small`: the build of
//! `whole` by a builder that had imported it earlier, exported without importing it again.

use super::*;

fn exported(manifest: &str, config: &str) -> Part {
    Part::read(
        read(&Manifest::sniff(manifest.to_owned())),
        config.as_bytes(),
    )
    .unwrap()
}

macro_rules! data {
    ($name:literal) => {
        exported(
            include_str!(concat!("data/", $name, ".manifest.json")),
            include_str!(concat!("data/", $name, ".config.json")),
        )
    };
}

#[test]
fn configs_are_written_again_byte_for_byte() {
    for (part, text) in [
        (data!("whole"), include_str!("data/whole.config.json")),
        (data!("index"), include_str!("data/index.config.json")),
        (data!("small"), include_str!("data/small.config.json")),
    ] {
        assert_eq!(String::from_utf8(part.config.write()).unwrap(), text);
    }
}

#[test]
fn extents_are_those_of_the_builds() {
    let extent = Extent::of(&data!("whole"));
    let counts = (extent.records, extent.results, extent.layers, extent.blobs);
    assert_eq!(
        counts,
        (10, 8, 8, 7),
        "the export says that it writes 7 blobs"
    );
    let index = data!("index");
    assert_eq!(index.manifest.form(), Form::Index);
    let extent = Extent::of(&index);
    assert_eq!(
        (extent.records, extent.results, extent.lost_results),
        (13, 10, 0)
    );
}

#[test]
fn a_shrunken_export_is_seen_and_contained() {
    let (whole, small) = (data!("whole"), data!("small"));
    let shrink = shrinks(&whole, &small).unwrap();
    assert_eq!(
        (shrink.old.blobs, shrink.new.blobs, shrink.own_blobs),
        (7, 1, 0)
    );
    assert!(contains(&whole, &small) && !contains(&small, &whole));
    assert_eq!(
        merged(&[&whole, &small]).results,
        Extent::of(&whole).results
    );
}

#[test]
fn two_targets_become_one_cache_with_all_of_both() {
    let (whole, index) = (data!("whole"), data!("index"));
    let merged = merged(&[&whole, &index]);
    assert_eq!(
        (merged.records, merged.results, merged.dropped),
        (18, 14, Dropped::default())
    );
    let part = again(&merged);
    assert_eq!(part.manifest.form(), Form::Image);
    assert!(contains(&part, &whole) && contains(&part, &index));
}
