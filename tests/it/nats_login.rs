//! Who NATS lets in, and whom the relay takes for NATS: every kind of login, TLS, and rights that are
//! missing.

use std::path::Path;

use async_nats::ConnectOptions;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::doctor::diagnose;
use crate::support::certificates::Authority;
use crate::support::database::Database;
use crate::support::nats::TempNats;
use crate::support::relay::RelayOptions;
use crate::support::wait::{SOON, eventually};

/// What `doctor` finds about the sink as a whole.
fn contact(options: &RelayOptions) -> Option<(String, String)> {
    let (_, _, findings) = diagnose(options);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let is_contact = |finding: &&Value| {
        ["OBX-4001", "OBX-4007", "OBX-4011", "OBX-4012"].iter().any(|code| finding["code"] == *code)
    };
    findings.iter().find(is_contact).map(|found| (text(&found["code"]), text(&found["observed"])))
}

#[track_caller]
fn assert_refused(options: &RelayOptions, code: &str, said: &str) {
    let (found, observed) = contact(options).expect("a finding");
    assert_eq!(found, code, "{observed}");
    assert!(observed.contains(said), "{said}: {observed}");
    assert!(!observed.contains("secret"), "{observed}");
}

/// One event gets there.
async fn delivers(options: &RelayOptions, database: &Database, nats: &TempNats) {
    assert_eq!(contact(options), None);
    let before = nats.count("ALL").await;
    let relay = options.start_ready().await;
    database.emit("a", "k", "all.a", "{}").await;
    eventually("the event to arrive", SOON, || async { nats.count("ALL").await == before + 1 })
        .await;
    assert_eq!(relay.stop().await, 0);
}

fn file(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn users_tokens_and_keys_log_in() {
    let database = Database::new("nats_login").await;
    let home = tempfile::tempdir().unwrap();
    let key = KeyPair::new_user();
    let seed = file(home.path(), "seed", &key.seed().unwrap());
    let users = format!(
        "authorization {{ users: [ {{ user: relay, password: \"se:cret/1\" }}, {{ nkey: {} }} ] }}",
        key.public_key()
    );
    let login = ConnectOptions::new().user_and_password("relay".into(), "se:cret/1".into());
    let nats = TempNats::start_as(&users, login).await;
    nats.create("ALL", &["all.>"]).await;
    let bare = nats.options(&database);
    assert_refused(&bare, "OBX-4012", "authorization violation");
    let named = bare.clone().set("nats.user", "relay");
    assert_refused(&named.clone().set("nats.password", "secret"), "OBX-4012", "authorization");
    delivers(&named.set("nats.password", "se:cret/1"), &database, &nats).await;
    let url = format!("nats://relay:se%3Acret%2F1@{}", nats.address());
    assert_eq!(contact(&bare.clone().set("nats.url", &url)), None);
    delivers(&bare.clone().set("nats.credentials_file", &seed), &database, &nats).await;
    let odd = file(home.path(), "odd", "secret");
    let odd = bare.clone().set("nats.credentials_file", &odd);
    assert_refused(&odd, "OBX-4012", "nats.credentials_file");

    // A relay that is not let in waits, and is let in when the server knows it.
    let relay = bare.clone().set("nats.user", "relay").set("nats.password", "se-cret-2").start();
    relay.tells("OBX-4012").await;
    eventually("it not to be ready", SOON, || async { relay.get("/readyz").await.0 == 503 }).await;
    nats.reconfigure("se:cret/1", "se-cret-2");
    eventually("it to be ready", SOON, || async { relay.get("/readyz").await.0 == 200 }).await;
    assert_eq!(relay.stop().await, 0);

    let login = ConnectOptions::new().token("s3cr3t".into());
    let nats = TempNats::start_as("authorization { token: \"s3cr3t\" }", login).await;
    nats.create("ALL", &["all.>"]).await;
    let with = |token: &str| nats.options(&database).set("nats.token", token);
    assert_refused(&with("secret"), "OBX-4012", "authorization violation");
    delivers(&with("s3cr3t"), &database, &nats).await;
    database.clear().await;
}

/// A claim of NATS's, signed: what `nsc` makes.
fn token(issuer: &KeyPair, subject: &KeyPair, name: &str, claim: Value) -> String {
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let body = json!({
        "jti": "1", "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name,
        "sub": subject.public_key(), "nats": claim,
    });
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&header), part(&body));
    let signature = BASE64URL_NOPAD.encode(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[tokio::test]
async fn a_credentials_file_logs_in_where_an_operator_has_signed_it() {
    let database = Database::new("nats_credentials").await;
    let home = tempfile::tempdir().unwrap();
    let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
    let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
    let none = json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
                       "wildcards": true, "conn": -1, "leaf": -1, "mem_storage": -1,
                       "disk_storage": -1, "streams": -1, "consumer": -1 });
    let mut plain = none.clone();
    for key in ["mem_storage", "disk_storage", "streams", "consumer"] {
        plain.as_object_mut().unwrap().remove(key);
    }
    let top = token(&operator, &operator, "O", json!({ "type": "operator", "version": 2 }));
    let of = |key: &KeyPair, name: &str, limits: &Value| {
        let claim = json!({ "type": "account", "version": 2, "limits": limits });
        token(&operator, key, name, claim)
    };
    let claim = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    let jwt = token(&account, &user, "relay", claim);
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    let path = file(home.path(), "relay.creds", &credentials);
    let settings = format!(
        "operator: {top}\nsystem_account: {}\nresolver: MEMORY\n\
         resolver_preload: {{ {}: {}, {}: {} }}",
        system.public_key(),
        system.public_key(),
        of(&system, "SYS", &plain),
        account.public_key(),
        of(&account, "APP", &none),
    );
    let login = ConnectOptions::new().credentials(&credentials).unwrap();
    let nats = TempNats::start_as(&settings, login).await;
    nats.create("ALL", &["all.>"]).await;
    let bare = nats.options(&database);
    assert_refused(&bare, "OBX-4012", "authorization violation");
    delivers(&bare.set("nats.credentials_file", &path), &database, &nats).await;
    database.clear().await;
}

#[tokio::test]
async fn only_a_certificate_that_is_valid_is_taken_for_nats() {
    let database = Database::new("nats_tls").await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (server, own) = (
        authority.issue("nats", "DNS:localhost,IP:127.0.0.1"),
        authority.issue("relay", "DNS:relay"),
    );
    let tls = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
        server.cert.display(),
        server.key.display(),
        authority.root().display()
    );
    let login = ConnectOptions::new()
        .add_root_certificates(authority.root())
        .add_client_certificate(own.cert.clone(), own.key.clone())
        .require_tls(true);
    let nats = TempNats::start_as(&tls, login.clone()).await;
    nats.create("ALL", &["all.>"]).await;
    let text = |path: &Path| path.display().to_string();
    let (cert, key) = (text(&own.cert), text(&own.key));
    let shown = nats.options(&database).set("nats.tls_cert", &cert).set("nats.tls_key", &key);
    let trusting =
        |options: &RelayOptions, root: &Path| options.clone().set("nats.tls_ca", &text(root));
    let right = trusting(&shown, &authority.root());
    delivers(&right, &database, &nats).await;
    let secured = right.clone().set("nats.url", &format!("tls://{}", nats.address()));
    delivers(&secured, &database, &nats).await;
    assert_refused(&trusting(&shown, &stranger.root()), "OBX-4011", "invalid peer certificate");
    // The server wants TLS by itself, and is not believed for that.
    assert_refused(&shown, "OBX-4011", "");
    let anonymous = trusting(&nats.options(&database), &authority.root());
    assert_refused(&anonymous, "OBX-4011", "fatal alert");
    assert_refused(&trusting(&shown, &own.key), "OBX-4011", "no certificate in it");
    drop(nats);

    let elsewhere = authority.issue("nats", "DNS:elsewhere.example");
    let tls = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\" }}",
        elsewhere.cert.display(),
        elsewhere.key.display()
    );
    let nats = TempNats::start_unasked(&tls).await;
    let wrong = trusting(&nats.options(&database), &authority.root());
    assert_refused(&wrong, "OBX-4011", "not valid for name");
    drop(nats);

    // A server without TLS is not spoken to where TLS is asked for.
    let nats = TempNats::start("").await;
    let options = trusting(&nats.options(&database), &authority.root());
    assert_refused(&options, "OBX-4011", "");
    database.clear().await;
}

#[tokio::test]
async fn a_subject_that_may_not_be_published_to_holds_only_its_events() {
    let database = Database::new("nats_rights").await;
    let users = "authorization { users: [ { user: admin, password: admin }, \
         { user: relay, password: relay, permissions: { subscribe: \"_INBOX.>\", publish: \
           [\"all.open\", \"$JS.API.STREAM.NAMES\", \"$JS.API.STREAM.INFO.*\"] } }, \
         { user: blind, password: blind, permissions: { subscribe: \"_INBOX.>\", publish: \"all.>\" } }, \
         { user: deaf, password: deaf, permissions: { publish: \">\", subscribe: \"none\" } } ] }";
    let login = ConnectOptions::new().user_and_password("admin".into(), "admin".into());
    let nats = TempNats::start_as(users, login).await;
    nats.create("ALL", &["all.>"]).await;
    let as_user =
        |user: &str| nats.options(&database).set("nats.user", user).set("nats.password", user);
    let relay = as_user("relay").start_ready().await;
    database.emit("a", "k", "all.closed", "{}").await;
    database.emit("a", "k", "all.open", "{}").await;
    let sent = async |count: i64| {
        eventually(format!("{count} to be SENT"), SOON, || async {
            database.statuses().await.get("SENT").copied() == Some(count)
        })
        .await;
    };
    sent(1).await;
    relay.tells("OBX-4003").await;
    assert_eq!(nats.count("ALL").await, 1);
    nats.reconfigure("[\"all.open\",", "[\"all.open\", \"all.closed\",");
    sent(2).await;
    assert_eq!(database.count("SELECT count(*) FROM outbox WHERE attempts > 1").await, 0);
    assert_eq!(relay.stop().await, 0);

    // Nobody says which stream it is.
    let relay = as_user("blind").start_ready().await;
    database.emit("a", "k", "all.other", "{}").await;
    relay.tells("OBX-4003").await;
    assert_eq!(relay.stop().await, 0);
    // Nobody could hear an acknowledgement.
    let relay = as_user("deaf").start();
    relay.tells("OBX-4012").await;
    relay.kill().await;
    database.clear().await;
}
