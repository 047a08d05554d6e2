//! Which certificates are believed: those that this host believes.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// Where distributions keep all of them in one file.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Bytes: ten times what is usual.
const BUNDLE: u64 = 4 << 20;

/// Without any certificate, no registry can be believed; it says so then.
pub(super) fn configuration() -> TlsConfig {
    let mut pem = Vec::new();
    for bundle in BUNDLES {
        if File::open(bundle).is_ok_and(|file| file.take(BUNDLE).read_to_end(&mut pem).is_ok()) {
            break;
        }
        pem.clear();
    }
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    TlsConfig::builder()
        .root_certs(RootCerts::from(certificates.collect::<Vec<_>>()))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build()
}
