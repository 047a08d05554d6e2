//! Indexes, manifests, configurations and layers as a registry has them, with digests that fit.
#![no_main]

#[path = "../properties/mod.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    properties::oci_documents(data);
});
