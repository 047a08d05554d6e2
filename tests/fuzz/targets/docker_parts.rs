//! The files of what `docker save` has written, with digests that fit.
#![no_main]

#[path = "../properties/mod.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    properties::docker_parts(data);
});
