//! Connection strings, as libpq reads them.
//!
//! tokio-postgres reads most of a connection string, but not libpq's TLS parameters
//! (`sslmode=verify-full`, `sslrootcert`, `sslcert`, `sslkey`); these are taken out and read here.
//! One [`Server`] then serves both kinds of connections, the replication stream and SQL.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::config::{ChannelBinding, Host, TargetSessionAttrs};

use super::tls::{SslMode, Tls};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host name or address, and a port.
    Tcp(String, u16),
    /// The directory of a Unix socket, and the port that names it.
    Unix(PathBuf, u16),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp(host, port) => write!(f, "{host}:{port}"),
            Address::Unix(directory, port) => {
                write!(f, "{}/.s.PGSQL.{port}", directory.display())
            }
        }
    }
}

/// How to reach a server, and as whom.
#[derive(Clone)]
pub struct Server {
    /// Tried in this order.
    pub addresses: Vec<Address>,
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    pub(crate) password: Option<Vec<u8>>,
    application_name: Option<String>,
    pub(crate) options: Option<String>,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    tls: TlsParameters,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.addresses)
            .field("user", &self.user)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct TlsParameters {
    mode: Option<String>,
    root_cert: Option<String>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// What is wrong with a connection string. The string itself is never in the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a connection string.
    #[error(
        "not a connection string: expected postgres://user@host:port/database or host=… dbname=…"
    )]
    Malformed,
    /// A parameter that is not known, or has a value that it does not take.
    #[error("{0}")]
    Parameter(String),
    /// No role.
    #[error("names no user: expected postgres://user@host:port/database")]
    NoUser,
    /// A mode that libpq has and we do not.
    #[error("sslmode={0} is not one of disable, prefer, require, verify-ca, verify-full")]
    SslMode(String),
    /// A certificate without its key, or the other way round.
    #[error("sslcert and sslkey go together")]
    CertWithoutKey,
    /// A file that does not hold what it should.
    #[error("{0}")]
    Certificate(String),
    /// A file that is not there.
    #[error("{parameter}: there is no file {}", path.display())]
    NoFile {
        /// The parameter.
        parameter: &'static str,
        /// The file.
        path: PathBuf,
    },
}

impl Server {
    /// Reads a connection string in either of libpq's forms.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (rest, tls) = take_tls_parameters(text)?;
        let config: tokio_postgres::Config =
            rest.parse().map_err(|error: tokio_postgres::Error| {
                // The parser's own words name the parameter; the value could be a secret.
                match std::error::Error::source(&error).map(ToString::to_string) {
                    Some(text) if text.starts_with("unknown option") => UrlError::Parameter(text),
                    Some(text) if text.starts_with("invalid value for option") => {
                        UrlError::Parameter(text)
                    }
                    _ => UrlError::Malformed,
                }
            })?;
        refuse_what_would_be_ignored(&config)?;
        let user = config.get_user().ok_or(UrlError::NoUser)?.to_owned();
        let server = Self {
            addresses: addresses(&config)?,
            database: config.get_dbname().unwrap_or(&user).to_owned(),
            user,
            password: config.get_password().map(<[u8]>::to_vec),
            application_name: config.get_application_name().map(str::to_owned),
            options: config.get_options().map(str::to_owned),
            connect_timeout: config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT),
            tls,
        };
        for address in &server.addresses {
            server.tls_for(address)?.client_config().map_err(UrlError::Certificate)?;
        }
        Ok(server)
    }

    /// How a connection to `address` is secured: as `sslmode` says, else `verify-full`, but only
    /// `prefer` where no network lies between.
    pub(super) fn tls_for(&self, address: &Address) -> Result<Tls, UrlError> {
        let Address::Tcp(host, _) = address else {
            return Ok(Tls { mode: SslMode::Disable, roots: None, identity: None });
        };
        let mode = match self.tls.mode.as_deref() {
            None if is_loopback(host) => SslMode::Prefer,
            None | Some("verify-full") => SslMode::VerifyFull,
            Some("verify-ca") => SslMode::VerifyCa,
            // As in libpq: with root certificates at hand, `require` checks against them.
            Some("require") if self.tls.root_cert.is_some() => SslMode::VerifyCa,
            Some("require") => SslMode::Require,
            Some("prefer") => SslMode::Prefer,
            Some("disable") => SslMode::Disable,
            Some(other) => return Err(UrlError::SslMode(other.to_owned())),
        };
        let identity = match (self.tls.cert.clone(), self.tls.key.clone()) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(UrlError::CertWithoutKey),
        };
        let roots = self.root_certificates();
        let (cert, key) = identity.as_ref().map(|(cert, key)| (cert, key)).unzip();
        for (parameter, path) in
            [("sslcert", cert), ("sslkey", key), ("sslrootcert", roots.as_ref())]
        {
            if let Some(path) = path.filter(|path| !path.is_file()) {
                return Err(UrlError::NoFile { parameter, path: path.clone() });
            }
        }
        Ok(Tls { mode, roots, identity })
    }

    /// The files that are read for every connection.
    pub fn tls_files(&self) -> impl Iterator<Item = &Path> {
        let root = self.tls.root_cert.as_deref().filter(|root| *root != "system").map(Path::new);
        root.into_iter().chain(self.tls.cert.as_deref()).chain(self.tls.key.as_deref())
    }

    /// `sslrootcert`; without it the system's certificates.
    fn root_certificates(&self) -> Option<PathBuf> {
        match self.tls.root_cert.as_deref() {
            None | Some("system") => openssl_probe::probe().cert_file,
            Some(path) => Some(path.into()),
        }
    }

    /// The name that our connections begin theirs with, and the replication connection's own.
    pub fn application_name(&self) -> &str {
        self.application_name.as_deref().unwrap_or("outboxd")
    }

    /// The connection string without its secrets, for people.
    pub fn describe(&self) -> String {
        let first = self.addresses.first().map(ToString::to_string).unwrap_or_default();
        format!("{}@{first}/{}", self.user, self.database)
    }
}

/// A server that accepts the connection but does not answer within this is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

fn addresses(config: &tokio_postgres::Config) -> Result<Vec<Address>, UrlError> {
    let ports = config.get_ports();
    let port = |place: usize| match ports {
        [] => 5432,
        [one] => *one,
        many => many.get(place).copied().unwrap_or(5432),
    };
    let hosts = config.get_hosts().iter().enumerate();
    let mut addresses: Vec<_> = hosts
        .map(|(place, host)| match host {
            Host::Tcp(name) => {
                let name = name.trim_start_matches('[').trim_end_matches(']');
                Address::Tcp(name.to_owned(), port(place))
            }
            Host::Unix(directory) => Address::Unix(directory.clone(), port(place)),
        })
        .collect();
    if addresses.is_empty() {
        let given = config.get_hostaddrs().iter().enumerate();
        addresses.extend(given.map(|(place, ip)| Address::Tcp(ip.to_string(), port(place))));
    }
    if addresses.is_empty() {
        addresses.push(Address::Tcp("localhost".to_owned(), port(0)));
    }
    Ok(addresses)
}

/// What libpq would heed and we do not.
fn refuse_what_would_be_ignored(config: &tokio_postgres::Config) -> Result<(), UrlError> {
    let refuse = |text: &str| Err(UrlError::Parameter(text.to_owned()));
    if config.get_channel_binding() == ChannelBinding::Require {
        return refuse(
            "channel_binding=require is not supported: leave it out, and have the certificate \
             checked with sslmode=verify-full",
        );
    }
    if config.get_target_session_attrs() == TargetSessionAttrs::ReadOnly {
        return refuse("target_session_attrs=read-only: only a primary can be relayed");
    }
    if !config.get_hosts().is_empty() && !config.get_hostaddrs().is_empty() {
        return refuse("hostaddr beside host is not supported: give one of them");
    }
    Ok(())
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Splits off libpq's TLS parameters.
fn take_tls_parameters(text: &str) -> Result<(String, TlsParameters), UrlError> {
    let mut tls = TlsParameters::default();
    let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
    let rest = if is_url {
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(UrlError::Malformed)?;
            let value = percent_decode_str(value).decode_utf8().map_err(|_| UrlError::Malformed)?;
            if !tls.take(name, &value) {
                kept.push(pair);
            }
        }
        if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) }
    } else {
        let mut kept = String::new();
        for (name, value) in key_value_pairs(text)? {
            if !tls.take(&name, &value) {
                let value = value.replace('\\', "\\\\").replace('\'', "\\'");
                kept.push_str(&format!("{name}='{value}' "));
            }
        }
        kept
    };
    Ok((rest, tls))
}

impl TlsParameters {
    /// Whether it was one of ours, or one that says nothing to us.
    fn take(&mut self, name: &str, value: &str) -> bool {
        match name {
            "sslmode" => self.mode = Some(value.to_owned()),
            "sslrootcert" => self.root_cert = Some(value.to_owned()),
            "sslcert" => self.cert = Some(value.into()),
            "sslkey" => self.key = Some(value.into()),
            "gssencmode" | "sslcompression" | "sslsni" => {}
            _ => return false,
        }
        true
    }
}

/// `host=a password='it''s'`: libpq's other form, with backslashes inside quotation marks.
fn key_value_pairs(text: &str) -> Result<Vec<(String, String)>, UrlError> {
    let mut pairs = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        if letters.peek().is_none() {
            return Ok(pairs);
        }
        let mut name = String::new();
        while let Some(letter) = letters.next_if(|letter| *letter != '=') {
            name.push(letter);
        }
        letters.next().ok_or(UrlError::Malformed)?;
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        let quoted = letters.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match letters.next() {
                Some('\\') => value.push(letters.next().ok_or(UrlError::Malformed)?),
                Some('\'') if quoted => break,
                Some(letter) if !quoted && letter.is_whitespace() => break,
                Some(letter) => value.push(letter),
                None if quoted => return Err(UrlError::Malformed),
                None => break,
            }
        }
        pairs.push((name.trim().to_owned(), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Server {
        Server::parse(text).unwrap()
    }

    fn mode(text: &str) -> SslMode {
        let server = server(text);
        server.tls_for(&server.addresses[0]).unwrap().mode
    }

    #[test]
    fn both_forms_say_the_same() {
        for text in [
            "postgres://relay:s%27e%20cret@db.example:6000/app?sslmode=require&connect_timeout=3",
            "postgresql://relay:s%27e%20cret@db.example:6000/app?connect_timeout=3&sslmode=require",
            r"host=db.example port=6000 user=relay password='s\'e cret' dbname=app sslmode=require connect_timeout=3",
        ] {
            let server = server(text);
            assert_eq!(server.addresses, [Address::Tcp("db.example".to_owned(), 6000)]);
            assert_eq!((server.user.as_str(), server.database.as_str()), ("relay", "app"));
            assert_eq!(server.password.as_deref(), Some(b"s'e cret".as_slice()));
            assert_eq!(server.connect_timeout, Duration::from_secs(3));
            assert_eq!(mode(text), SslMode::Require);
        }
    }

    #[test]
    fn certificates_are_verified_unless_no_network_lies_between() {
        assert_eq!(mode("postgres://u@db.example/d"), SslMode::VerifyFull);
        assert_eq!(mode("postgres://u@10.0.0.1/d"), SslMode::VerifyFull);
        for local in ["localhost", "127.0.0.1", "[::1]"] {
            assert_eq!(mode(&format!("postgres://u@{local}/d")), SslMode::Prefer);
        }
        assert_eq!(mode("postgres://u@localhost/d?sslmode=verify-full"), SslMode::VerifyFull);
        assert_eq!(mode("postgres://u@db.example/d?sslmode=disable"), SslMode::Disable);
    }

    #[test]
    fn other_modes_are_libpqs() {
        for (text, expected) in [
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ] {
            assert_eq!(mode(&format!("postgres://u@db.example/d?sslmode={text}")), expected);
        }
    }

    #[test]
    fn require_with_root_certificates_checks_them() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/tls/authority.pem");
        let url = format!("postgres://u@db.example/d?sslmode=require&sslrootcert={root}");
        assert_eq!(mode(&url), SslMode::VerifyCa);
    }

    #[test]
    fn unix_sockets_and_several_hosts_are_understood() {
        let socket = server("postgres:///app?host=/run/postgresql&user=relay&port=5433");
        assert_eq!(socket.addresses, [Address::Unix("/run/postgresql".into(), 5433)]);
        assert_eq!(socket.addresses[0].to_string(), "/run/postgresql/.s.PGSQL.5433");
        let many = server("postgres://u@a:1,b:2/d");
        let expected = [Address::Tcp("a".to_owned(), 1), Address::Tcp("b".to_owned(), 2)];
        assert_eq!(many.addresses, expected);
        assert_eq!(server("user=relay").database, "relay");
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for (text, said) in [
            ("postgres://localhost/d", "names no user"),
            ("mysql://u:hunter2@h/d", "not a connection string"),
            ("postgres://u:hunter2@h/d?sslmode=allow", "sslmode=allow"),
            ("postgres://u:hunter2@h/d?bogus=1", "unknown option `bogus`"),
            ("postgres://u:hunter2@h/d?sslcert=/x", "go together"),
            ("postgres://u:hunter2@h/d?sslrootcert=/does/not/exist", "/does/not/exist"),
            ("postgres://u:hunter2@h:port/d", "port"),
            (concat!("postgres://u:hunter2@h/d?sslrootcert=", file!()), "no certificate in it"),
            ("postgres://u:hunter2@h/d?channel_binding=require", "channel_binding"),
            ("postgres://u:hunter2@h/d?target_session_attrs=read-only", "target_session_attrs"),
            ("postgres://u:hunter2@h/d?hostaddr=10.0.0.1", "hostaddr"),
        ] {
            let error = Server::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let shown = format!("{:?}", server("postgres://u:hunter2@localhost/d"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
