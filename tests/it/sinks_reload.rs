//! Secrets of Redis and NATS are changed while the relay works: on the server and in the file, then
//! SIGHUP.

use std::path::Path;
use std::time::Duration;

use async_nats::ConnectOptions;
use nkeys::KeyPair;

use crate::reload::{KEPT, TAKEN_ON, count, reload, write};
use crate::support::certificates::{Authority, Certificate};
use crate::support::database::Database;
use crate::support::nats::TempNats;
use crate::support::outlet::{Outlet, OutletSmall, OutletStage};
use crate::support::redis::TempRedis;
use crate::support::relay::{Relay, RelayOptions};
use crate::support::wait::{SOON, eventually};

/// How many secrets there are; the last one nobody is let in by.
const SECRETS: usize = 4;
const WRONG: usize = SECRETS - 1;

/// A secret that lies in a file.
trait Rotates {
    type Server: Outlet;
    /// The nth one.
    fn secret(&self, n: usize) -> String;
    /// Whether it is read with each connection: then a wrong one is waited for to be corrected.
    fn is_read_by_the_client(&self) -> bool {
        false
    }
    /// From now on the server knows the nth one in place of the one before.
    async fn change(&self, server: &mut Self::Server, n: usize);
    /// Every connection of the relay's ends.
    async fn cut(&self, server: &mut Self::Server);
}

/// The secret is changed, and changed again: nothing is lost, and nothing comes twice. A wrong one changes nothing, and the relay still connects by what it has. The file has
/// the secret in place of `{}` in `text`.
async fn rotates<R: Rotates>(
    rotation: R,
    server: R::Server,
    name: &str,
    (key, text): (&str, &str),
    set: impl FnOnce(RelayOptions) -> RelayOptions,
) {
    let mut stage = OutletStage::with(server, Database::new(name).await, name).await;
    stage.workload.pace = Some(Duration::from_millis(100));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    let write = |n: usize| write(&file, &(text.replace("{}", &rotation.secret(n)) + "\n"));
    write(0);
    let options = set(stage.options()).set(key, file.to_str().unwrap());
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for n in 1..WRONG {
        goes_on(&stage.database).await;
        rotation.change(&mut stage.outlet, n).await;
        if n > 1 {
            // Nobody is let in by the old one when the relay is told.
            rotation.cut(&mut stage.outlet).await;
            relay.tells("OBX-4012").await;
            eventually("it not to be ready", SOON, || async {
                relay.get("/readyz").await.0 == 503
            })
            .await;
        }
        write(n);
        reload(&relay, TAKEN_ON).await;
        eventually("the next session", SOON, || async { count(&relay, "took the place") == n + 1 })
            .await;
        if n == 1 {
            rotation.cut(&mut stage.outlet).await;
        }
        goes_on(&stage.database).await;
    }
    write(WRONG);
    reload(&relay, KEPT).await;
    assert_eq!(kept(&relay)["code"], "OBX-4012");
    rotation.cut(&mut stage.outlet).await;
    if rotation.is_read_by_the_client() {
        eventually("it not to be ready", SOON, || async { relay.get("/readyz").await.0 == 503 })
            .await;
    } else {
        goes_on(&stage.database).await;
    }
    write(WRONG - 1);
    goes_on(&stage.database).await;
    reload(&relay, "read again: no secret has changed").await;
    assert_eq!(count(&relay, "took the place"), WRONG, "a session for each that was taken on");
    writing.stop().await;
    stage.check(0).await;
    for n in 0..SECRETS {
        assert!(!relay.has_logged(&rotation.secret(n)));
    }
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

async fn goes_on(database: &Database) {
    let sent = "SELECT count(*) FROM outbox WHERE status = 'SENT'";
    let before = database.count(sent).await;
    eventually("events to flow on", SOON, || async { database.count(sent).await > before + 100 })
        .await;
}

/// What it said last of something that it did not take on.
fn kept(relay: &Relay) -> serde_json::Value {
    let says =
        |line: &serde_json::Value| line["message"].as_str().is_some_and(|m| m.contains(KEPT));
    relay.events().into_iter().rfind(says).unwrap()
}

/// The password of a user of Redis.
struct OfRedis;

impl OfRedis {
    async fn server() -> TempRedis {
        let mut redis = TempRedis::durable().await;
        OfRedis.change(&mut redis, 0).await;
        redis
    }
}

impl Rotates for OfRedis {
    type Server = TempRedis;

    fn secret(&self, n: usize) -> String {
        format!("canary-{n}")
    }

    async fn change(&self, server: &mut TempRedis, n: usize) {
        let password = format!(">{}", self.secret(n));
        let user = ["ACL", "SETUSER", "relay", "on", "resetpass", &password, "~*", "+@all"];
        assert_eq!(server.cli(&user), "OK");
    }

    async fn cut(&self, server: &mut TempRedis) {
        server.cli(&["CLIENT", "KILL", "USER", "relay"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_password_of_redis_takes_effect_and_repeats_nothing() {
    let file = ("redis.password_file", "{}");
    let set = |options: RelayOptions| options.set("redis.username", "relay");
    rotates(OfRedis, OfRedis::server().await, "redis_rotated", file, set).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_url_of_redis_takes_effect_and_repeats_nothing() {
    let redis = OfRedis::server().await;
    let url = format!("redis://relay:{{}}@127.0.0.1:{}", redis.port());
    let set = |options: RelayOptions| options.unset("redis.url");
    rotates(OfRedis, redis, "redis_rotated_url", ("redis.url_file", &url), set).await;
}

/// What a client of NATS shows; each kind as the server's configuration has it, and as a login.
struct OfNats {
    kind: NatsSecret,
    keys: [KeyPair; SECRETS],
}

enum NatsSecret {
    Password,
    Token,
    Seed,
}

impl OfNats {
    fn new(kind: NatsSecret) -> Self {
        Self { kind, keys: [(); SECRETS].map(|()| KeyPair::new_user()) }
    }

    fn known(&self, n: usize) -> String {
        match self.kind {
            NatsSecret::Password => {
                format!("users: [ {{ user: relay, password: \"{}\" }} ]", self.secret(n))
            }
            NatsSecret::Token => format!("token: \"{}\"", self.secret(n)),
            NatsSecret::Seed => format!("users: [ {{ nkey: {} }} ]", self.keys[n].public_key()),
        }
    }

    fn login(&self, n: usize) -> ConnectOptions {
        let (login, secret) = (ConnectOptions::new(), self.secret(n));
        match self.kind {
            NatsSecret::Password => login.user_and_password("relay".to_owned(), secret),
            NatsSecret::Token => login.token(secret),
            NatsSecret::Seed => ConnectOptions::with_nkey(secret),
        }
    }

    async fn server(&self) -> TempNats {
        let lines = format!("authorization {{ {} }}", self.known(0));
        TempNats::start_as(&lines, self.login(0)).await
    }
}

impl Rotates for OfNats {
    type Server = TempNats;

    fn secret(&self, n: usize) -> String {
        match self.kind {
            NatsSecret::Password | NatsSecret::Token => format!("canary-{n}"),
            NatsSecret::Seed => self.keys[n].seed().unwrap(),
        }
    }

    fn is_read_by_the_client(&self) -> bool {
        matches!(self.kind, NatsSecret::Seed)
    }

    async fn change(&self, server: &mut TempNats, n: usize) {
        server.reconfigure(&self.known(n - 1), &self.known(n));
        server.log_in_as(self.login(n));
        server.client().await;
    }

    async fn cut(&self, server: &mut TempNats) {
        server.crash();
        server.start_again().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_password_of_nats_takes_effect_and_repeats_nothing() {
    let rotation = OfNats::new(NatsSecret::Password);
    let (nats, file) = (rotation.server().await, ("nats.password_file", "{}"));
    let set = |options: RelayOptions| options.set("nats.user", "relay");
    rotates(rotation, nats, "nats_rotated", file, set).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_url_of_nats_takes_effect_and_repeats_nothing() {
    let rotation = OfNats::new(NatsSecret::Password);
    let nats = rotation.server().await;
    let url = format!("nats://relay:{{}}@{}", nats.address());
    let set = |options: RelayOptions| options.unset("nats.url");
    rotates(rotation, nats, "nats_rotated_url", ("nats.url_file", &url), set).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_token_of_nats_takes_effect_and_repeats_nothing() {
    let rotation = OfNats::new(NatsSecret::Token);
    let (nats, file) = (rotation.server().await, ("nats.token_file", "{}"));
    rotates(rotation, nats, "nats_rotated_token", file, |options| options).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_credentials_file_of_nats_takes_effect_and_repeats_nothing() {
    let rotation = OfNats::new(NatsSecret::Seed);
    let (nats, file) = (rotation.server().await, ("nats.credentials_file", "{}"));
    rotates(rotation, nats, "nats_rotated_seed", file, |options| options).await;
}

/// The files stay where they are, and hold another certificate.
async fn a_certificate_is_renewed<O: Outlet>(
    server: O,
    name: &str,
    authority: &Authority,
    set: impl FnOnce(RelayOptions, [&Path; 2]) -> RelayOptions,
) {
    let stage = OutletStage::with(server, Database::new(name).await, name).await;
    let directory = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert", "key"].map(|name| directory.path().join(name));
    let show = |certificate: Certificate| {
        std::fs::copy(certificate.cert, &cert).unwrap();
        std::fs::copy(certificate.key, &key).unwrap();
    };
    show(Authority::new().issue("renewed", "DNS:relay"));
    let relay = set(stage.options(), [&cert, &key]).start();
    relay.tells("OBX-4011").await;
    stage.workload.write(&stage.database, 700).await;
    show(authority.issue("renewed", "DNS:relay"));
    reload(&relay, TAKEN_ON).await;
    stage.check(0).await;
    // It is tried before it is taken on.
    show(Authority::new().issue("renewed", "DNS:relay"));
    reload(&relay, KEPT).await;
    assert_eq!(kept(&relay)["code"], "OBX-4011");
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_for_redis_takes_effect() {
    let authority = Authority::new();
    let [server, own] = ["server", "test"].map(|name| authority.issue(name, "DNS:localhost"));
    let root = authority.root();
    let tls = ["--tls-cert-file", text(&server.cert), "--tls-key-file", text(&server.key)];
    let safe =
        ["--tls-ca-cert-file", text(&root), "--appendonly", "yes", "--appendfsync", "always"];
    let login = ["--tls", "--insecure", "--cert", text(&own.cert), "--key", text(&own.key)];
    let redis = TempRedis::start_for(&[&tls[..], &safe].concat(), &login).await;
    let url = format!("rediss://localhost:{}", redis.port());
    a_certificate_is_renewed(redis, "redis_renewed", &authority, |options, [cert, key]| {
        let options = options.set("redis.url", &url).set("redis.tls_ca", text(&root));
        options.set("redis.tls_cert", text(cert)).set("redis.tls_key", text(key))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_for_nats_takes_effect() {
    let authority = Authority::new();
    let [server, own] =
        ["server", "test"].map(|name| authority.issue(name, "DNS:localhost,IP:127.0.0.1"));
    let root = authority.root();
    let tls = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
        text(&server.cert),
        text(&server.key),
        text(&root)
    );
    let login = ConnectOptions::new().add_root_certificates(root.clone()).require_tls(true);
    let login = login.add_client_certificate(own.cert.clone(), own.key.clone());
    let nats = TempNats::start_as(&tls, login).await;
    a_certificate_is_renewed(nats, "nats_renewed", &authority, |options, [cert, key]| {
        let options = options.set("nats.tls_ca", text(&root));
        options.set("nats.tls_cert", text(cert)).set("nats.tls_key", text(key))
    })
    .await;
}

/// Another server is no renewed secret: all stays as it was, also what is one.
async fn another_place_takes_a_restart<O: Outlet>(
    server: O,
    url: &str,
    others: &[&str],
    [section, user]: [&str; 2],
) {
    let small = OutletSmall::with(server, &format!("{section}_elsewhere")).await;
    let directory = tempfile::tempdir().unwrap();
    let [file, password] = ["url", "password"].map(|name| directory.path().join(name));
    let write_both = |url: &str, secret: &str| {
        write(&file, url);
        write(&password, secret);
    };
    write_both(url, "canary-0");
    let key = |name: &str| format!("{section}.{name}");
    let options = small.options().unset(&key("url")).set(&key("url_file"), text(&file));
    let options = options.set(&key(user), "default").set(&key("password_file"), text(&password));
    let relay = options.start_ready().await;
    for other in others {
        write_both(other, "canary-1");
        reload(&relay, KEPT).await;
        let kept = kept(&relay);
        assert_eq!(kept["code"], "OBX-1001");
        let said = format!("{section}.url names another place than 127.0.0.1:");
        assert!(kept["error"].as_str().is_some_and(|error| error.starts_with(&said)), "{kept}");
    }
    write_both(url, "canary-0");
    reload(&relay, "read again: no secret has changed").await;
    assert_eq!(count(&relay, "took the place"), 1);
    assert!(!relay.has_logged("canary-"));
    small.emit("k", 1).await;
    small.wait_for_sent(1).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn another_place_of_redis_takes_a_restart() {
    let redis = TempRedis::durable().await;
    let url = redis.url();
    let others = ["redis://:canary-2@127.0.0.1:1", &format!("{url}/1")];
    another_place_takes_a_restart(redis, &url, &others, ["redis", "username"]).await;
}

#[tokio::test]
async fn another_place_of_nats_takes_a_restart() {
    let nats = TempNats::durable().await;
    let url = nats.url();
    let others = ["nats://127.0.0.1:1", &format!("{url},nats://127.0.0.1:1")];
    another_place_takes_a_restart(nats, &url, &others, ["nats", "user"]).await;
}
