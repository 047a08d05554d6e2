//! What Albatross answers: DER behind a length.
#![no_main]

#[path = "../properties/mod.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    properties::albatross_frame(data);
});
