//! The properties of the fuzz targets, of every input in their corpora: what was found once is not found again. The targets
//! themselves look for more (`tests/fuzz/run`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "fuzz/properties/mod.rs"]
mod properties;
#[path = "support/saved_image.rs"]
mod saved_image;
#[path = "fuzz/seeds.rs"]
mod seeds;
#[path = "support/solo5_image.rs"]
mod solo5_image;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Without optimization, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a corpus: what stands beside the source must stay small.
const CORPORA: u64 = 300 << 10;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_input_of_the_corpora_has_the_properties() {
    let mut bytes = 0;
    for (target, property) in properties::ALL {
        let files = files(&corpus(target));
        assert!(!files.is_empty(), "{target} has no corpus");
        for file in files {
            let input = fs::read(&file).unwrap();
            bytes += input.len() as u64;
            let began = Instant::now();
            property(&input);
            assert!(began.elapsed() < PATIENCE, "{} takes {:?}", file.display(), began.elapsed());
        }
    }
    assert!(bytes <= CORPORA, "the corpora have {bytes} bytes: keep what tells most");
}

/// A target whose seeds were refused at the door would find nothing behind it.
#[test]
fn good_seeds_are_taken() {
    for seed in seeds::all() {
        let (_, property) = properties::ALL.into_iter().find(|(name, _)| *name == seed.target).expect("a target");
        let taken = property(&seed.bytes);
        assert!(taken || !seed.name.starts_with("good"), "{} {} is refused", seed.target, seed.name);
        assert!(corpus(seed.target).join(seed.name).exists(), "run write_the_seeds for {} {}", seed.target, seed.name);
    }
}

/// The frames of a real Albatross are the seeds of `albatross_frame`.
#[test]
fn captured_frames_have_the_properties() {
    let frames = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frames"));
    let frames = frames.iter().filter(|file| file.extension().is_some_and(|extension| extension == "bin"));
    let read = frames.filter(|file| properties::albatross_frame(&fs::read(file).unwrap())).count();
    assert!(read > 100, "only {read} frames are messages");
}

/// `cargo test --test fuzz_corpus -- --ignored`, after a change of the seeds.
#[test]
#[ignore = "it writes the seeds"]
fn write_the_seeds() {
    for seed in seeds::all() {
        fs::create_dir_all(corpus(seed.target)).unwrap();
        fs::write(corpus(seed.target).join(seed.name), seed.bytes).unwrap();
    }
}
