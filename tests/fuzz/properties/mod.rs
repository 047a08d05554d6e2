//! What must hold of any bytes, one function a fuzz target. `tests/fuzz_corpus.rs` asks the same of the whole corpus with a
//! stable compiler.
#![allow(dead_code, reason = "each target takes of this module what it needs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a property that does not hold ends here")]

mod images;
mod parts;
mod words;

pub use images::{docker_archive, docker_parts, engine_tar, layers, oci_archive, oci_documents, solo5_image};
pub use words::{albatross_frame, image_reference, stack_manifest};

/// A property of the bytes. Whether they were good is told, so that it can be seen that good ones come that far.
pub type Property = fn(&[u8]) -> bool;

/// By the names of targets and corpora.
pub const ALL: [(&str, Property); 10] = [
    ("albatross_frame", albatross_frame),
    ("docker_archive", docker_archive),
    ("docker_parts", docker_parts),
    ("engine_tar", engine_tar),
    ("image_reference", image_reference),
    ("layers", layers),
    ("oci_archive", oci_archive),
    ("oci_documents", oci_documents),
    ("solo5_image", solo5_image),
    ("stack_manifest", stack_manifest),
];

/// A message for a person: one line that a terminal can show, and not endless.
fn is_fit_to_be_shown(message: &str) {
    assert!(message.len() < 4000, "{} bytes: {message:?}", message.len());
    assert!(!message.chars().any(char::is_control), "{message:?}");
}
