//! Certificates of a test's own, made with the `openssl` command, and a server that shows one.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use outboxd::demo::TempPostgres;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::database::connect;
use super::pg_bin;
use super::wait::{SOON, eventually};

/// Whoever issues certificates.
pub struct Authority {
    directory: TempDir,
}

/// The files of a certificate and its key.
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

impl Authority {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("outboxd-authority-").tempdir().unwrap();
        let authority = Self { directory };
        let subject = ["-subj", "/CN=outboxd test authority", "-days", "2"];
        let names = ["-addext", "subjectAltName=DNS:localhost"];
        openssl(
            authority.directory.path(),
            &["req", "-x509", "-keyout", "root.key", "-out", "root"],
        )
        .args(KEY)
        .args(subject)
        .args(names)
        .run();
        authority
    }

    /// The file of its own certificate.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// Its own certificate, which is for `localhost`, too.
    pub fn own(&self) -> Certificate {
        Certificate { cert: self.root(), key: self.directory.path().join("root.key") }
    }

    /// Issues a certificate for these names, as in `DNS:localhost,IP:127.0.0.1`.
    pub fn issue(&self, common_name: &str, names: &str) -> Certificate {
        self.issue_for(common_name, names, "2")
    }

    /// One that ended yesterday.
    pub fn issue_expired(&self, common_name: &str, names: &str) -> Certificate {
        self.issue_for(common_name, names, "-1")
    }

    fn issue_for(&self, common_name: &str, names: &str, days: &str) -> Certificate {
        // Tests that share an authority do not share these files.
        let work = tempfile::tempdir_in(self.directory.path()).unwrap();
        let directory = work.path();
        let subject = format!("/CN={common_name}");
        let names = format!("subjectAltName={names}");
        openssl(directory, &["req", "-new", "-keyout", "key", "-out", "request"])
            .args(KEY)
            .args(["-subj", &subject, "-addext", &names])
            .run();
        openssl(directory, &["x509", "-req", "-in", "request", "-out", "cert", "-days", days])
            .args([
                "-CA",
                "../root",
                "-CAkey",
                "../root.key",
                "-CAserial",
                "serial",
                "-CAcreateserial",
            ])
            .args(["-copy_extensions", "copy"])
            .run();
        let keep = |name: &str| {
            let kept = self.directory.path().join(format!("{common_name}.{name}"));
            std::fs::rename(directory.join(name), &kept).unwrap();
            kept
        };
        Certificate { cert: keep("cert"), key: keep("key") }
    }
}

impl Authority {
    /// A copy of a certificate's key that only opens with a password.
    pub fn lock(&self, certificate: &Certificate, password: &str) -> PathBuf {
        let locked = certificate.key.with_extension("locked");
        openssl(
            self.directory.path(),
            &["pkey", "-aes256", "-passout", &format!("pass:{password}")],
        )
        .args(["-in", certificate.key.to_str().unwrap(), "-out", locked.to_str().unwrap()])
        .run();
        locked
    }
}

struct OpenSsl(Command);

fn openssl(directory: &Path, arguments: &[&str]) -> OpenSsl {
    let mut command = Command::new("openssl");
    command.args(arguments).current_dir(directory);
    OpenSsl(command)
}

impl OpenSsl {
    fn args<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.0.args(arguments);
        self
    }

    fn run(mut self) {
        let output = self.0.output().expect("openssl: dev/test installs it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Starts a server that shows `certificate`, and lets the role `outboxd` in by `rules` alone. It
/// accepts clients' certificates that come from `authority`.
pub async fn secure_server(
    authority: &Authority,
    certificate: &Certificate,
    rules: &str,
) -> TempPostgres {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let directory = server.socket_directory();
    let owner = std::fs::metadata(directory).unwrap();
    let sql = connect(&server.url("postgres")).await;
    for (setting, file) in [
        ("ssl_cert_file", &certificate.cert),
        ("ssl_key_file", &certificate.key),
        ("ssl_ca_file", &authority.root()),
    ] {
        let copy = directory.join(setting);
        std::fs::copy(file, &copy).unwrap();
        // The server insists that nobody else can read its key.
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&copy, Some(owner.uid()), Some(owner.gid())).unwrap();
        let set = format!("ALTER SYSTEM SET {setting} = '{}'", copy.display());
        sql.batch_execute(&set).await.unwrap();
    }
    let ours = "local all all trust\nhost all postgres 127.0.0.1/32 trust";
    std::fs::write(directory.join("data/pg_hba.conf"), format!("{ours}\n{rules}\n")).unwrap();
    sql.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    // The rules are read before TLS is offered.
    eventually("the server to offer TLS", SOON, || offers_tls(server.port())).await;
    server
}

async fn offers_tls(port: u16) -> bool {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
    stream.read_u8().await.unwrap() == b'S'
}
