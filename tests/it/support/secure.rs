//! A Kafka broker that shows a certificate and asks who somebody is: one node, a listener for each way.

use std::net::TcpListener;
use std::sync::Arc;

use super::broker::Broker;
use super::certificates::{Authority, Certificate};
use super::records::Kafka;
use super::shared::Shared;

/// The password of the users `plain`, `scram256` and `scram512`.
pub const PASSWORD: &str = "canary-of-kafkas-password";

/// The broker, and where each of its listeners is. The certificate is for `localhost` alone.
pub struct SecureBroker {
    pub broker: Broker,
    pub authority: Authority,
    /// TLS, whoever asks.
    pub tls: u16,
    /// TLS, for those who have a certificate of the authority's.
    pub mutual: u16,
    /// TLS and SASL.
    pub login: u16,
    /// SASL alone: everybody on the way can read the password.
    pub clear: u16,
}

/// The one that runs.
static RUNNING: Shared<SecureBroker> = Shared::new();

impl SecureBroker {
    /// The one that runs, or a new one.
    pub async fn shared() -> Arc<Self> {
        RUNNING.get(Self::start).await
    }

    async fn start() -> Self {
        let authority = Authority::new();
        let Certificate { cert, key } = authority.issue("localhost", "DNS:localhost");
        let store = authority.root().with_file_name("broker.pem");
        let both = [key, cert].map(|path| std::fs::read_to_string(path).unwrap()).concat();
        std::fs::write(&store, both).unwrap();
        // Held until all are known, so that they differ.
        let listeners = [(); 4].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let [tls, mutual, login, clear] =
            listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
        drop(listeners);
        let more = format!(
            "TLS://localhost:{tls},MUTUAL://localhost:{mutual},LOGIN://localhost:{login},\
             CLEAR://localhost:{clear}"
        );
        let plain = format!(
            "org.apache.kafka.common.security.plain.PlainLoginModule required \
             user_plain=\"{PASSWORD}\";"
        );
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        let (store, root) = (store.display().to_string(), authority.root().display().to_string());
        let settings = [
            (
                "listeners",
                format!(
                    "PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}},{more}"
                ),
            ),
            ("advertised.listeners", format!("PLAINTEXT://127.0.0.1:{{port}},{more}")),
            (
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,MUTUAL:SSL,LOGIN:SASL_SSL,\
                 CLEAR:SASL_PLAINTEXT"
                    .to_owned(),
            ),
            ("ssl.keystore.type", "PEM".to_owned()),
            ("ssl.keystore.location", store),
            ("ssl.truststore.type", "PEM".to_owned()),
            ("ssl.truststore.location", root),
            ("listener.name.mutual.ssl.client.auth", "required".to_owned()),
            ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".to_owned()),
            ("listener.name.login.plain.sasl.jaas.config", plain.clone()),
            ("listener.name.login.scram-sha-256.sasl.jaas.config", scram.to_owned()),
            ("listener.name.login.scram-sha-512.sasl.jaas.config", scram.to_owned()),
            ("listener.name.clear.plain.sasl.jaas.config", plain),
            ("listener.name.clear.scram-sha-256.sasl.jaas.config", scram.to_owned()),
            ("listener.name.clear.scram-sha-512.sasl.jaas.config", scram.to_owned()),
        ];
        let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
        let users = ["256", "512"].map(|bits| {
            format!("SCRAM-SHA-{bits}=[name=scram{bits},iterations=4096,password={PASSWORD}]")
        });
        let users = users.each_ref().map(String::as_str);
        let broker = Broker::start_with_users(&settings, &users).await;
        Self { broker, authority, tls, mutual, login, clear }
    }

    /// Properties of a user who logs in.
    pub fn login(&self, mechanism: &str, user: &str, password: &str) -> Vec<(String, String)> {
        let root = self.authority.root().display().to_string();
        [
            ("security.protocol", "SASL_SSL"),
            ("ssl.ca.location", &root),
            ("sasl.mechanism", mechanism),
            ("sasl.username", user),
            ("sasl.password", password),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// It as the tests see it: without TLS, and nobody is asked.
    pub fn kafka(&self) -> Kafka {
        self.broker.kafka()
    }
}
