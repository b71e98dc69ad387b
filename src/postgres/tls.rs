//! TLS to PostgreSQL: what libpq's `sslmode` asks for, by rustls.
//!
//! A connection that breaks in the handshake is kept apart from a certificate that is refused: the
//! first is tried again, the second is for a person.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError,
    RootCertStore, SignatureScheme,
};

use super::Error;
use crate::certificates;

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SslMode {
    /// Never.
    Disable,
    /// If the server offers it; nothing is checked.
    Prefer,
    /// Always; nothing is checked.
    Require,
    /// The certificate must come from a known authority.
    VerifyCa,
    /// And it must be for the host that was asked for.
    VerifyFull,
}

/// How a connection is secured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) mode: SslMode,
    /// The file of the authorities that are trusted.
    pub(super) roots: Option<PathBuf>,
    /// The files of our own certificate and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

/// Asks the server for TLS: whether it offers it.
pub(super) async fn is_offered(tcp: &mut TcpStream) -> Result<bool, Error> {
    /// Its length, and a protocol version that there will never be.
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F];
    tcp.write_all(&SSL_REQUEST).await?;
    match tcp.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        // An error, which nobody has vouched for yet.
        b'E' => Err(Error::Closed),
        other => Err(Error::Protocol(format!("{:?} to a request for TLS", char::from(other)))),
    }
}

impl Tls {
    /// Shakes hands with a server that offers TLS.
    pub(super) async fn handshake(
        &self,
        tcp: TcpStream,
        host: &str,
    ) -> Result<TlsStream<TcpStream>, Error> {
        let config = self.client_config().map_err(Error::Tls)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            Error::Tls(format!("\"{host}\" is no name that a certificate can have"))
        })?;
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, tcp).await.map_err(Error::from)
    }

    /// Reads the files; what is wrong with them, if anything is.
    pub(super) fn client_config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let roots = match self.mode {
            SslMode::VerifyCa | SslMode::VerifyFull => Some(self.read_roots()?),
            SslMode::Disable | SslMode::Prefer | SslMode::Require => None,
        };
        let checks_name = self.mode == SslMode::VerifyFull;
        let verifier = Arc::new(Verifier { roots, checks_name, algorithms });
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let Some((cert, key)) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates::read("sslcert", cert)?;
        let private = read_key(key).map_err(|why| format!("sslkey {}: {why}", key.display()))?;
        builder
            .with_client_auth_cert(chain, private)
            .map_err(|error| format!("sslcert {} and its sslkey: {error}", cert.display()))
    }

    fn read_roots(&self) -> Result<Roots, String> {
        let path = self.roots.as_deref().ok_or(
            "the system has no certificates of authorities: set sslrootcert in postgres.url",
        )?;
        let certificates = certificates::read("sslrootcert", path)?;
        let mut authorities = RootCertStore::empty();
        match authorities.add_parsable_certificates(certificates.iter().cloned()) {
            (0, _) => Err(format!("sslrootcert {}: no certificate is readable", path.display())),
            _ => Ok(Roots { authorities, certificates }),
        }
    }
}

/// A private key that nobody else can read, as libpq wants it: mode 0600, or 0640 if it is root's.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let mut file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let found = file.metadata().map_err(|error| error.to_string())?;
    let others = if found.uid() == 0 { 0o037 } else { 0o077 };
    if found.mode() & others != 0 {
        return Err(format!("others can read it (mode {:04o}): chmod 0600", found.mode() & 0o7777));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.contains("ENCRYPTED") {
        return Err(
            "it is encrypted, which is not supported: `openssl pkey` writes one that is not, \
                    for a file that only the relay can read"
                .to_owned(),
        );
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| error.to_string())
}

/// What TLS has to say about a failure; nothing if it was the network's.
pub(super) fn explain(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<TlsError>()?;
    Some(match error {
        // A bad signature is one by another authority of the same name.
        TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => {
            "the server's certificate comes from an authority that is not known: set sslrootcert to \
             the authority's certificate"
                .to_owned()
        }
        TlsError::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected,
            presented,
        }) => {
            // `DnsName("db.example")`
            let name = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
            let names: Vec<_> = presented.iter().map(name).collect();
            let names = if names.is_empty() { "no name (subjectAltName)".to_owned() } else { names.join(", ") };
            format!(
                "the server's certificate is not for {}, but for {names}: connect by such a name, or \
                 set sslmode=verify-ca",
                expected.to_str()
            )
        }
        TlsError::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "the server's certificate has expired: renew it".to_owned(),
        TlsError::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "the server's certificate is not valid yet: look at the clocks".to_owned(),
        TlsError::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a client certificate: set sslcert and sslkey".to_owned()
        }
        TlsError::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError),
        ) => format!("the server does not accept the certificate in sslcert ({alert:?})"),
        other => other.to_string(),
    })
}

/// Who is trusted.
#[derive(Debug)]
struct Roots {
    authorities: RootCertStore,
    /// The same, as they stand in the file.
    certificates: Vec<CertificateDer<'static>>,
}

/// Checks who issued a certificate, and for whom.
#[derive(Debug)]
struct Verifier {
    /// None trusts everyone: the line is encrypted, and nobody knows to whom.
    roots: Option<Roots>,
    checks_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(roots) = &self.roots else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let issued = verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots.authorities,
            intermediates,
            now,
            self.algorithms.all,
        );
        match issued {
            // An authority's own, as `openssl req -x509` makes it. Whoever put this very certificate
            // among the roots means it, as with libpq. Its dates were checked before its use.
            Err(TlsError::InvalidCertificate(CertificateError::Other(_)))
                if roots.certificates.iter().any(|root| root == end_entity) => {}
            other => other?,
        }
        if self.checks_name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        if self.roots.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        if self.roots.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
