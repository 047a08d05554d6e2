//! Any bytes as what `docker save` has written.
#![no_main]

#[path = "../properties/mod.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    properties::docker_archive(data);
});
