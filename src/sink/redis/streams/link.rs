//! Connections: how one is made, and what is asked of a server before anything is sent to it.

use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo,
    IntoConnectionInfo as _, Pipeline, RedisConnectionInfo, TlsCertificates, Value,
};
use tokio::time::timeout;

use super::address::{Address, Host};
use super::errors::{Refusal, classify, no_contact};
use super::script::ADD;
use crate::sink::NoContact;
use crate::sink::{Durability, RedisConfig};

/// A server that has not let us in within this does not.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What a server takes that does not say so: its own default.
const LARGEST: usize = 512 << 20;
/// What is written to the socket at once, at most.
const WRITE_BYTES: usize = 256 << 10;
/// The first version that says when something is on disk.
const WAITAOF: (u32, u32) = (7, 2);

/// How servers let us in.
#[derive(Clone)]
pub(super) struct Access {
    address: Address,
    config: RedisConfig,
}

/// What a server is like.
#[derive(Debug, Clone)]
pub(super) struct Server {
    /// The script's name there.
    pub(super) sha: String,
    /// The largest record that it takes, in bytes.
    pub(super) largest: usize,
    pub(super) has_waitaof: bool,
    pub(super) is_replica: bool,
}

impl Access {
    pub(super) fn of(config: &RedisConfig) -> Result<Self, String> {
        Ok(Self { address: Address::of(config)?, config: config.clone() })
    }

    /// The hosts of the URL.
    pub(super) fn hosts(&self) -> &[Host] {
        &self.address.hosts
    }

    /// Connects and logs in.
    pub(super) async fn connect(&self, host: &Host) -> Result<MultiplexedConnection, NoContact> {
        self.connect_as(host, true).await
    }

    /// The same, or without a login.
    pub(super) async fn connect_as(
        &self,
        host: &Host,
        with_login: bool,
    ) -> Result<MultiplexedConnection, NoContact> {
        let config = NoContact::Config;
        let (name, port) = (host.name.clone(), host.port);
        let address = match self.address.tls {
            false => ConnectionAddr::Tcp(name, port),
            true => ConnectionAddr::TcpTls { host: name, port, insecure: false, tls_params: None },
        };
        let mut settings = RedisConnectionInfo::default();
        if with_login {
            settings = settings.set_db(self.address.database);
            if let Some(username) = &self.address.username {
                settings = settings.set_username(username);
            }
            if let Some(password) = &self.address.password {
                settings = settings.set_password(password);
            }
        }
        let info: ConnectionInfo = address.into_connection_info().map_err(|e| no_contact(&e))?;
        let info = info.set_redis_settings(settings);
        let client = match self.address.tls {
            false => Client::open(info),
            true => Client::build_with_tls(info, self.certificates().map_err(config)?),
        };
        let client = client.map_err(|error| config(error.to_string()))?;
        // Who waits for an answer knows how long.
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None)
            .set_write_backpressure_boundary(WRITE_BYTES);
        let connecting = client.get_multiplexed_async_connection_with_config(&settings);
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error| of_host(host, no_contact(&error))),
            Err(_) => Err(silent(host)),
        }
    }

    /// Read each time: certificates are renewed.
    fn certificates(&self) -> Result<TlsCertificates, String> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let RedisConfig { tls_ca, tls_cert, tls_key, .. } = &self.config;
        let root_cert = tls_ca.as_deref().map(read).transpose()?;
        let client_tls = match (tls_cert, tls_key) {
            (Some(cert), Some(key)) => {
                Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? })
            }
            _ => None,
        };
        Ok(TlsCertificates { client_tls, root_cert })
    }
}

/// Nobody answers there.
pub(super) fn silent(host: &Host) -> NoContact {
    NoContact::Unreachable(format!("{host}: no answer within {CONNECT_TIMEOUT:?}"))
}

/// Says where that was.
pub(super) fn of_host(host: &Host, reason: NoContact) -> NoContact {
    reason.map(|text| format!("{host}: {text}"))
}

/// Sends commands at once; an error of one is its answer.
pub(super) async fn ask(
    connection: &mut MultiplexedConnection,
    commands: &[Cmd],
) -> Result<Vec<Value>, NoContact> {
    let mut pipeline = Pipeline::with_capacity(commands.len());
    for command in commands {
        pipeline.add_command(command.clone());
    }
    let answers = connection.send_packed_commands(&pipeline, 0, commands.len());
    let answers = timeout(CONNECT_TIMEOUT, answers).await;
    let late = || NoContact::Unreachable(format!("no answer within {CONNECT_TIMEOUT:?}"));
    answers.map_err(|_| late())?.map_err(|error| no_contact(&error))
}

/// Gets a server ready to be written to.
pub(super) async fn prepare(
    connection: &mut MultiplexedConnection,
    durability: Durability,
) -> Result<Server, NoContact> {
    let load = {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(ADD);
        command
    };
    let limits = ["proto-max-bulk-len", "client-query-buffer-limit"];
    let [bulk, buffer] = limits.map(setting);
    let answers = ask(connection, &[redis::cmd("INFO"), load, bulk, buffer]).await?;
    let mut answers = answers.into_iter();
    let info = answers.next().and_then(|value| text(&value)).unwrap_or_default();
    let sha = match answers.next() {
        Some(Value::ServerError(error)) => return Err(refused(classify(&error))),
        answer => answer.and_then(|value| text(&value)),
    };
    let sha = sha.ok_or_else(|| NoContact::Unreachable("it loads no script".to_owned()))?;
    let number = |value: Option<Value>| -> Option<usize> { value_of(&value?)?.parse().ok() };
    let bulk = number(answers.next()).unwrap_or(LARGEST);
    // The command has to fit, with what goes round the record.
    let buffer = number(answers.next()).map_or(LARGEST, |limit| limit / 2);
    let has_waitaof = has_waitaof(version(&info));
    let is_replica = line(&info, "role") == Some("slave");
    if durability == Durability::Aof && !has_waitaof {
        let answers = ask(connection, &fsync_questions()).await?;
        check_fsync(&answers)?;
    }
    Ok(Server { sha, largest: bulk.min(buffer), has_waitaof, is_replica })
}

/// What a refusal says of the server as a whole.
pub(super) fn refused(refusal: Refusal) -> NoContact {
    match refusal {
        Refusal::Later(text)
        | Refusal::Moved(text)
        | Refusal::Record(text)
        | Refusal::Unknown(text) => NoContact::Unreachable(text),
        Refusal::Login(text) => NoContact::Login(text),
        Refusal::Topic(error) => NoContact::Login(error.to_string()),
        Refusal::NoScript => NoContact::Unreachable("it has forgotten the script".to_owned()),
    }
}

/// Asks for a setting.
pub(super) fn setting(name: &str) -> Cmd {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg(name);
    command
}

/// What tells whether an answer means "on disk", where there is no WAITAOF.
pub(super) fn fsync_questions() -> [Cmd; 2] {
    ["appendonly", "appendfsync"].map(setting)
}

/// Whether the answers mean that.
pub(super) fn check_fsync(answers: &[Value]) -> Result<(), NoContact> {
    let settings: Vec<_> = answers.iter().map(value_of).collect();
    match settings.as_slice() {
        [Some(appendonly), Some(fsync)] if appendonly == "yes" && fsync == "always" => Ok(()),
        [Some(appendonly), Some(fsync)] => Err(NoContact::Config(format!(
            "durability = \"aof\" before Redis 7.2 takes appendonly yes and appendfsync always; here they \
             are {appendonly} and {fsync}"
        ))),
        _ => Err(NoContact::Config(
            "durability = \"aof\" before Redis 7.2 takes appendfsync always, and we may not see it: \
             CONFIG GET is refused"
                .to_owned(),
        )),
    }
}

/// A text.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        Value::Okay => Some("OK".to_owned()),
        _ => None,
    }
}

/// The value that CONFIG GET answers.
pub(super) fn value_of(answer: &Value) -> Option<String> {
    match answer {
        Value::Array(pair) => text(pair.get(1)?),
        Value::Map(pairs) => text(&pairs.first()?.1),
        _ => None,
    }
}

/// A line of INFO.
pub(super) fn line<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    lines.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The server's version. Others that speak the protocol say which one they are like.
pub(super) fn version(info: &str) -> Option<(u32, u32)> {
    let mut parts = line(info, "redis_version")?.split('.').map_while(|part| part.parse().ok());
    Some((parts.next()?, parts.next()?))
}

/// Whether a server of that version says when something is on disk; one that hides it is taken for a new one.
pub(super) fn has_waitaof(version: Option<(u32, u32)>) -> bool {
    version.is_none_or(|version| version >= WAITAOF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> Value {
        Value::Array([name, value].map(|text| Value::BulkString(text.into())).into())
    }

    #[test]
    fn a_version_is_read_from_info() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrole:slave\r\n";
        assert_eq!(version(info), Some((7, 0)));
        assert_eq!(line(info, "role"), Some("slave"));
        assert_eq!(version("redis_version:x"), None);
    }

    #[test]
    fn on_disk_is_what_both_settings_say() {
        let check = |appendonly, fsync| {
            check_fsync(&[pair("appendonly", appendonly), pair("appendfsync", fsync)])
        };
        assert_eq!(check("yes", "always"), Ok(()));
        for (appendonly, fsync) in [("yes", "everysec"), ("no", "always"), ("", "")] {
            assert!(matches!(check(appendonly, fsync), Err(NoContact::Config(_))));
        }
        assert!(check_fsync(&[Value::Nil, Value::Nil]).is_err());
    }
}
