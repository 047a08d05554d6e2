//! Any bytes as a tar of an OCI layout.
#![no_main]

#[path = "../properties/mod.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    properties::oci_archive(data);
});
