//! Layers on one another: gzip, zstd, tar.
#![no_main]

#[path = "../properties/mod.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    properties::layers(data);
});
