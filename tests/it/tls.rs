//! TLS to PostgreSQL, and who is let in.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use outboxd::demo::TempPostgres;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::certificates::{Authority, secure_server};
use crate::support::database::Database;
use crate::support::pg_bin;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, eventually};

/// A relay of `database` on `server` with this role, host and parameters in its URL.
fn relay_as(
    server: &TempPostgres,
    database: &Database,
    role: &str,
    host: &str,
    parameters: &str,
) -> RelayOptions {
    let (port, name) = (server.port(), &database.name);
    let url = format!("postgres://{role}@{host}:{port}/{name}?{parameters}");
    RelayOptions::new(database, &Kafka::shared()).set("postgres.url", &url)
}

/// Asks the database for the relay's state: whether it lets us in, and what it says otherwise.
fn refusal(options: &RelayOptions) -> Option<String> {
    let (code, _, said) = options.command_output(&["status"]);
    if code == 0 {
        return None;
    }
    assert_eq!(code, 77, "{said}");
    assert!(said.starts_with("OBX-2002"), "{said}");
    Some(said)
}

/// Both kinds of connections are encrypted and checked, with a password on top.
#[tokio::test]
async fn verify_full_secures_the_stream_and_the_statuses() {
    let authority = Authority::new();
    let certificate = authority.issue("localhost", "DNS:localhost,IP:127.0.0.1");
    let rules = "hostssl all outboxd 127.0.0.1/32 scram-sha-256";
    let server = secure_server(&authority, &certificate, rules).await;
    let database = Database::new_at(&server.url("postgres"), "tls").await;
    database.execute("ALTER ROLE outboxd PASSWORD 'correct horse'").await;
    let stage = Stage::at(database, Kafka::shared(), "tls", 10).await;
    let parameters = format!("sslmode=verify-full&sslrootcert={}", authority.root().display());
    let role = "outboxd:correct%20horse";
    let options = relay_as(&server, &stage.database, role, "localhost", &parameters);

    let relay = options.start_ready().await;
    stage.workload.write(&stage.database, 2_000).await;
    stage.check(0).await;
    let sessions = |what: &str| {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
             WHERE usename = 'outboxd' AND {what}"
        );
        let database = &stage.database;
        async move { database.count(&sql).await }
    };
    assert_eq!(sessions("NOT ssl").await, 0);
    assert_eq!(sessions("backend_type = 'walsender'").await, 1);
    assert!(sessions("backend_type = 'client backend'").await >= 2);
    assert_eq!(relay.stop().await, 0);

    // An address can stand in a certificate, too.
    let options = relay_as(&server, &stage.database, role, "127.0.0.1", &parameters);
    assert_eq!(refusal(&options), None);
}

#[tokio::test]
async fn each_sslmode_checks_what_it_says() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let certificate = authority.issue("db.example", "DNS:db.example");
    let rules = "hostssl all outboxd 127.0.0.1/32 trust";
    let server = secure_server(&authority, &certificate, rules).await;
    let database = Database::new_at(&server.url("postgres"), "sslmode").await;
    let known = format!("&sslrootcert={}", authority.root().display());
    let unknown = format!("&sslrootcert={}", stranger.root().display());
    let wrong_authority = Some("comes from an authority that is not known: set sslrootcert");
    let wrong_host = Some("is not for localhost, but for db.example");
    for (parameters, expected) in [
        (format!("sslmode=verify-full{known}"), wrong_host),
        (format!("sslmode=verify-full{unknown}"), wrong_authority),
        ("sslmode=verify-full".to_owned(), wrong_authority),
        (format!("sslmode=verify-ca{known}"), None),
        (format!("sslmode=verify-ca{unknown}"), wrong_authority),
        ("sslmode=require".to_owned(), None),
        (format!("sslmode=require{known}"), None),
        (format!("sslmode=require{unknown}"), wrong_authority),
        (format!("sslmode=prefer{unknown}"), None),
        // What goes without saying on loopback is prefer.
        (String::new(), None),
        ("sslmode=disable".to_owned(), Some("no pg_hba.conf entry")),
    ] {
        let options = relay_as(&server, &database, "outboxd", "localhost", &parameters);
        let said = refusal(&options);
        match (&said, expected) {
            (None, None) => {}
            (Some(said), Some(expected)) if said.contains(expected) => {}
            _ => panic!("{parameters}: expected {expected:?}, got {said:?}"),
        }
    }
    // A relay does not try again what a person has to mend.
    let parameters = format!("sslmode=verify-full{known}");
    let mut relay = relay_as(&server, &database, "outboxd", "localhost", &parameters).start();
    assert_eq!(relay.wait().await.code(), Some(77));
    assert!(relay.has_logged("OBX-2002"));
}

/// As PostgreSQL's manual makes a certificate: nobody issued it, and clients are given a copy.
#[tokio::test]
async fn a_certificate_that_is_trusted_itself_needs_no_authority() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let rules = "hostssl all outboxd 127.0.0.1/32 trust";
    let server = secure_server(&authority, &authority.own(), rules).await;
    let database = Database::new_at(&server.url("postgres"), "pinned").await;
    for (mode, root, host, is_trusted) in [
        ("verify-full", &authority, "localhost", true),
        ("verify-full", &authority, "127.0.0.1", false),
        ("verify-full", &stranger, "localhost", false),
        ("verify-ca", &authority, "127.0.0.1", true),
        ("verify-ca", &stranger, "localhost", false),
    ] {
        let parameters = format!("sslmode={mode}&sslrootcert={}", root.root().display());
        let said = refusal(&relay_as(&server, &database, "outboxd", host, &parameters));
        assert_eq!(said.is_none(), is_trusted, "{mode} {host}: {said:?}");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let certificate = authority.issue_expired("localhost", "DNS:localhost");
    let rules = "hostssl all outboxd 127.0.0.1/32 trust";
    let server = secure_server(&authority, &certificate, rules).await;
    let database = Database::new_at(&server.url("postgres"), "expired").await;
    let known = format!("sslrootcert={}", authority.root().display());
    for (mode, is_trusted) in [("verify-full", false), ("verify-ca", false), ("prefer", true)] {
        let parameters = format!("sslmode={mode}&{known}");
        let said = refusal(&relay_as(&server, &database, "outboxd", "localhost", &parameters));
        assert_eq!(said.is_none(), is_trusted, "{mode}: {said:?}");
        let said = said.unwrap_or_default();
        assert!(is_trusted || said.contains("certificate has expired"), "{mode}: {said}");
    }
}

/// What cannot be used as a key is said before anything is connected to.
#[tokio::test]
async fn a_key_that_cannot_be_used_is_told() {
    let authority = Authority::new();
    let own = authority.issue("outboxd", "DNS:outboxd");
    let locked = authority.lock(&own, "canary-of-a-key");
    let loose = own.key.with_extension("loose");
    std::fs::copy(&own.key, &loose).unwrap();
    std::fs::set_permissions(&loose, std::fs::Permissions::from_mode(0o644)).unwrap();
    let missing = own.key.with_extension("missing");
    for (key, expected) in [
        (&locked, "it is encrypted, which is not supported"),
        (&loose, "others can read it (mode 0644): chmod 0600"),
        (&missing, "there is no file"),
        (&own.cert, "no items found"),
    ] {
        std::fs::set_permissions(&own.cert, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (cert, key) = (own.cert.display(), key.display());
        let url = format!(
            "postgres://outboxd@db.example/app?sslcert={cert}&sslkey={key}&sslmode=require"
        );
        let options = RelayOptions::bare().set("postgres.url", &url);
        let (code, _, said) = options.command_output(&["check"]);
        assert_eq!(code, 78, "{said}");
        let is_told = said.contains("sslkey") && said.contains(expected);
        assert!(is_told && said.starts_with("OBX-1001"), "{said}");
    }
}

#[tokio::test]
async fn a_client_certificate_lets_in_whom_it_names() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let certificate = authority.issue("localhost", "DNS:localhost");
    let rules = "hostssl all outboxd 127.0.0.1/32 cert";
    let server = secure_server(&authority, &certificate, rules).await;
    let database = Database::new_at(&server.url("postgres"), "mtls").await;
    let with = |authority: &Authority, name: &str| {
        let own = authority.issue(name, &format!("DNS:{name}"));
        let (cert, key) = (own.cert.display(), own.key.display());
        relay_as(
            &server,
            &database,
            "outboxd",
            "localhost",
            &format!("sslmode=require&sslcert={cert}&sslkey={key}"),
        )
    };
    let without = relay_as(&server, &database, "outboxd", "localhost", "sslmode=require");
    let said = refusal(&without).unwrap();
    assert!(said.contains("requires a valid client certificate"), "{said}");
    let said = refusal(&with(&authority, "somebody")).unwrap();
    assert!(said.contains("certificate authentication failed"), "{said}");
    // The server says so only after the handshake, and may hang up before it is heard.
    let mut relay = with(&stranger, "outboxd").start();
    assert_eq!(relay.wait().await.code(), Some(77));
    assert!(relay.has_logged("the server does not accept the certificate in sslcert"));

    let relay = with(&authority, "outboxd").start_ready().await;
    assert_eq!(relay.stop().await, 0);
}

/// Every method of asking for a password, in both kinds of connections.
#[tokio::test]
async fn passwords_are_given_as_they_are_asked_for_and_never_shown() {
    let authority = Authority::new();
    let certificate = authority.issue("localhost", "DNS:localhost");
    let methods = [("scram", "scram-sha-256"), ("md5", "md5"), ("clear", "password")];
    let rule = |(role, method): (&str, &str)| format!("host all {role} 127.0.0.1/32 {method}\n");
    let rules: String = methods.map(rule).concat();
    let server = secure_server(&authority, &certificate, &rules).await;
    let database = Database::new_at(&server.url("postgres"), "passwords").await;
    for (role, method) in methods {
        let encryption = if method == "md5" { "md5" } else { "scram-sha-256" };
        database
            .execute(&format!(
                "SET password_encryption = '{encryption}'; \
                 CREATE ROLE {role} LOGIN REPLICATION IN ROLE outboxd PASSWORD 'hunter2'"
            ))
            .await;
        let role_with = |password: &str| {
            relay_as(&server, &database, &format!("{role}{password}"), "localhost", "")
        };
        let relay = role_with(":hunter2").start_ready().await;
        assert!(!relay.has_logged("hunter2"), "{method}");
        assert_eq!(relay.stop().await, 0, "{method}");

        let said = refusal(&role_with(":hunter3")).unwrap();
        assert!(said.contains("password authentication failed"), "{method}: {said}");
        assert!(!said.contains("hunter3"), "{said}");
        let said = refusal(&role_with("")).unwrap();
        assert!(said.contains("wants a password, and postgres.url has none"), "{method}: {said}");
    }
    let wrong = relay_as(&server, &database, "scram:hunter3", "localhost", "sslmode=disable");
    let mut relay = wrong.start();
    assert_eq!(relay.wait().await.code(), Some(77));
    assert!(relay.has_logged("OBX-2002") && !relay.has_logged("hunter3"));
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "plain").await;
    for mode in ["require", "verify-ca", "verify-full"] {
        let parameters = format!("sslmode={mode}");
        let options = relay_as(&server, &database, "postgres", "localhost", &parameters);
        let said = refusal(&options).unwrap();
        assert!(said.contains("the server offers none: set ssl = on"), "{said}");
    }
    let options = relay_as(&server, &database, "postgres", "localhost", "sslmode=prefer");
    assert_eq!(refusal(&options), None);
}

/// A server that ends while hands are shaken is away, and nothing is wrong with its certificate.
#[tokio::test]
async fn a_handshake_that_breaks_is_tried_again() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tries = Arc::new(AtomicU32::new(0));
    let counting = Arc::clone(&tries);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.read_exact(&mut [0; 8]).await.unwrap();
            stream.write_all(b"S").await.unwrap();
            counting.fetch_add(1, Ordering::Relaxed);
        }
    });
    let database = Database::new("handshake").await;
    let url = format!("postgres://postgres@127.0.0.1:{port}/app?sslmode=require");
    let options = RelayOptions::new(&database, &Kafka::shared()).set("postgres.url", &url);
    let relay = options.start();
    eventually("the relay to try again", SOON, || async { tries.load(Ordering::Relaxed) > 3 })
        .await;
    assert!(relay.has_logged("OBX-2001"));
    assert_eq!(relay.get("/readyz").await.0, 503);
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}
