//! TLS to NATS: whom the relay trusts, and what it shows of itself.

use std::sync::Arc;

use async_nats::rustls::pki_types::PrivateKeyDer;
use async_nats::rustls::pki_types::pem::PemObject as _;
use async_nats::rustls::{ClientConfig, Error as TlsError, RootCertStore, crypto::ring};

use super::NatsConfig;
use crate::certificates;

/// Reads the files: at every connection, so that a renewed certificate is used.
///
/// # Errors
/// What is wrong with them.
pub(super) fn client_config(config: &NatsConfig) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(config)?);
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates::read("nats.tls_cert", cert)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("nats.tls_key {}: {error}", key.display()))?;
    builder
        .with_client_auth_cert(chain, private)
        .map_err(|error| format!("nats.tls_cert {} and its key: {error}", cert.display()))
}

fn roots(config: &NatsConfig) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let (name, path) = match &config.tls_ca {
        Some(path) => ("nats.tls_ca", path.clone()),
        None => {
            let found = openssl_probe::probe().cert_file;
            (
                "the system's certificates",
                found.ok_or("the system has no certificates of authorities: set nats.tls_ca")?,
            )
        }
    };
    match roots.add_parsable_certificates(certificates::read(name, &path)?) {
        (0, _) => Err(format!("{name} {}: no certificate is readable", path.display())),
        _ => Ok(roots),
    }
}

/// What TLS has to say about an error, if it is the cause.
pub(super) fn explain(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let found = inner.and_then(|inner| inner.downcast_ref::<TlsError>());
        if let Some(found) = found.or_else(|| error.downcast_ref::<TlsError>()) {
            return Some(found.to_string());
        }
        next = error.source();
    }
    None
}
