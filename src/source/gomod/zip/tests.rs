use super::*;
use std::{
    io::{Read as _, Write as _},
    sync::Arc,
};

use proptest::prelude::*;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

fn version() -> ModVersion {
    ModVersion {
        module: "example.com/m".into(),
        version: "v1.0.0".into(),
    }
}

fn full(name: &str) -> String {
    format!("example.com/m@v1.0.0/{name}")
}

/// A zip as another program writes it.
fn foreign(files: &[(String, Vec<u8>, bool)]) -> Vec<u8> {
    let mut w = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content, deflate) in files {
        let method = match deflate {
            true => CompressionMethod::Deflated,
            false => CompressionMethod::Stored,
        };
        let options = SimpleFileOptions::default()
            .compression_method(method)
            .unix_permissions(0o755);
        w.start_file(name.as_str(), options).unwrap();
        w.write_all(content).unwrap();
    }
    w.finish().unwrap().into_inner()
}

fn file(bytes: &[u8]) -> Arc<File> {
    let mut f = tempfile::tempfile().unwrap();
    f.write_all(bytes).unwrap();
    Arc::new(f)
}

fn directory(bytes: &[u8]) -> Result<Directory, String> {
    Directory::read(&file(bytes), bytes.len() as u64, &version())
}

fn transform(bytes: &[u8]) -> Result<(Vec<u8>, H1), String> {
    let f = file(bytes);
    let dir = Directory::read(&f, bytes.len() as u64, &version())?;
    let len = dir.stored_len().unwrap();
    let mut zip = StoredZip::new(f, dir);
    let mut out = Vec::new();
    zip.read_to_end(&mut out).map_err(|e| e.to_string())?;
    assert_eq!(out.len() as u64, len);
    Ok((out, zip.h1().unwrap()?))
}

fn hash(bytes: &[u8]) -> Result<H1, String> {
    directory(bytes)?.hash(&file(bytes))
}

fn sample() -> Vec<u8> {
    foreign(&[
        (full("go.mod"), b"module example.com/m\n".to_vec(), true),
        (full("b.go"), b"package m\n".repeat(500), true),
        (full("a.go"), b"package m\n".to_vec(), false),
        (full("empty"), Vec::new(), true),
        (full("ünï.go"), b"package m\n".to_vec(), true),
    ])
}

#[test]
fn the_canonical_form_has_the_same_files_in_the_same_order() {
    let (out, h1) = transform(&sample()).unwrap();
    let mut made = zip::ZipArchive::new(std::io::Cursor::new(&out)).unwrap();
    let mut original = zip::ZipArchive::new(std::io::Cursor::new(sample())).unwrap();
    assert_eq!(made.len(), original.len());
    for i in 0..made.len() {
        let (mut a, mut b) = (made.by_index(i).unwrap(), original.by_index(i).unwrap());
        assert_eq!(a.name_raw(), b.name_raw());
        assert_eq!(a.compression(), CompressionMethod::Stored);
        let (mut x, mut y) = (Vec::new(), Vec::new());
        a.read_to_end(&mut x).unwrap();
        b.read_to_end(&mut y).unwrap();
        assert_eq!(x, y);
    }
    assert_eq!(h1, hash(&sample()).unwrap());
}

#[test]
fn a_transformed_zip_transforms_to_itself() {
    let (once, h1) = transform(&sample()).unwrap();
    let (twice, again) = transform(&once).unwrap();
    assert!(once == twice);
    assert_eq!(h1, again);
    let (empty, _) = transform(&foreign(&[])).unwrap();
    assert_eq!(empty.len(), END_LEN);
}

#[test]
fn names_outside_of_the_module_are_refused() {
    for name in ["go.mod", "example.com/m@v1.0.1/go.mod", "../x"] {
        let bytes = foreign(&[(name.into(), b"x".to_vec(), false)]);
        let why = directory(&bytes).unwrap_err();
        assert!(why.contains("not below"), "{why}");
    }
}

/// Where the `n`th line of the table starts.
fn line_at(bytes: &[u8], n: usize) -> usize {
    let mut at = u32_at(bytes, bytes.len() - 6) as usize;
    for _ in 0..n {
        at +=
            CENTRAL_LEN + usize::from(u16_at(bytes, at + 28)) + usize::from(u16_at(bytes, at + 30));
    }
    at
}

#[test]
fn hostile_tables_are_refused() {
    let good = transform(&sample()).unwrap().0;
    let line = line_at(&good, 1);
    let end = good.len() - END_LEN;
    let mut cases: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut with = |word: &'static str, at: usize, bytes: &[u8]| {
        let mut b = good.clone();
        b[at..at + bytes.len()].copy_from_slice(bytes);
        cases.push((word, b));
    };
    with("encrypted", line + 8, &[1, 0]);
    with("method", line + 10, &[12, 0]);
    with("zip64", line + 24, &[0xff; 4]);
    with("another length", line + 20, &[1, 0, 0, 0]);
    with("reaches", line + 42, &(end as u32).to_le_bytes());
    with("damaged", line, b"XXXX");
    with("cut off", line + 28, &[0xff, 0xff]);
    with("longer than its files", end + 8, &[4, 0, 4, 0]);
    with("cut off", end + 8, &[6, 0, 6, 0]);
    with("volumes", end + 4, &[1]);
    with("zip64", end + 8, &[0xff; 4]);
    with("where it should be", end + 16, &[1, 0, 0, 0]);
    with("not at its end", end + 20, &[1, 0]);
    // A locator where Go would look for it, in place of the last name's end.
    with("zip64", end - LOCATOR_64_LEN, LOCATOR_64_SIGNATURE);
    cases.push(("no end record", Vec::new()));
    cases.push(("no end record", b"<html>not found</html>".repeat(3)));
    cases.push(("no end record", good[..end].to_vec()));
    cases.push(("should be", [b"#!/bin/sh\n", &good[..]].concat()));
    let mut twice = foreign(&[(full("aa"), vec![], false), (full("ab"), vec![], false)]);
    for at in 0..twice.len() - 4 {
        if twice[at..].starts_with(b"0/ab") {
            twice[at + 3] = b'a';
        }
    }
    cases.push(("twice", twice));
    for (word, bytes) in cases {
        let why = directory(&bytes).unwrap_err();
        assert!(why.contains(word), "{word}: {why}");
    }
}

#[test]
fn wrong_contents_never_reach_the_end() {
    let good = sample();
    let table = line_at(&good, 0);
    for at in [0, 40, 70, table / 2, table - 3] {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        // Bytes that Go does not look at either may differ; then all is as before.
        match transform(&bad) {
            Ok(same) => assert!(same == transform(&good).unwrap(), "at {at}"),
            Err(why) => assert!(why.contains("zip") || why.contains("corrupt"), "{why}"),
        }
    }
    let mut wrong_crc = good.clone();
    wrong_crc[line_at(&good, 1) + 16] ^= 1;
    assert!(transform(&wrong_crc).unwrap_err().contains("checksum"));
    for (delta, word) in [(1i32, "shorter"), (-1, "longer")] {
        let mut b = good.clone();
        let at = line_at(&good, 1) + 24;
        let size = (u32_at(&b, at) as i32 + delta) as u32;
        b[at..at + 4].copy_from_slice(&size.to_le_bytes());
        assert!(transform(&b).unwrap_err().contains(word));
    }
}

#[test]
fn more_content_than_go_unpacks_is_refused_before_it_is_read() {
    let good = sample();
    let mut b = good.clone();
    let at = line_at(&good, 1) + 24;
    b[at..at + 4].copy_from_slice(&(600u32 << 20).to_le_bytes());
    assert!(directory(&b).unwrap_err().contains("which Go refuses"));
}

#[test]
fn a_comment_is_dropped() {
    let mut b = sample();
    let at = b.len() - 2;
    b[at..].copy_from_slice(&[5, 0]);
    b.extend_from_slice(b"hello");
    assert!(transform(&b).unwrap() == transform(&sample()).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn transform_is_idempotent_and_keeps_the_hash(
        files in proptest::collection::btree_map("[a-zA-Zé./]{1,12}", (proptest::collection::vec(any::<u8>(), 0..3000), any::<bool>()), 0..8)
    ) {
        let files: Vec<_> = files
            .into_iter()
            .filter(|(n, _)| !n.ends_with('/'))
            .map(|(n, (c, d))| (full(&n), c, d))
            .collect();
        let bytes = foreign(&files);
        let (once, h1) = transform(&bytes).unwrap();
        let (twice, again) = transform(&once).unwrap();
        prop_assert!(once == twice);
        prop_assert_eq!(h1, again);
        let expected: Vec<(&[u8], Sha256)> = files.iter().map(|(n, c, _)| (n.as_bytes(), Sha256::of(c))).collect();
        prop_assert_eq!(h1, H1::of_files(&expected).unwrap());
    }

    #[test]
    fn junk_is_an_error_not_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let _ = transform(&bytes);
        bytes = sample();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = transform(&bytes);
    }
}
