//! Where a URL leads, and what a configuration cannot mean.

use std::fmt;

use percent_encoding::percent_decode_str;

use crate::sink::{RedisConfig, Topology};

/// The port of a server that is named without one.
const PORT: u16 = 6379;
/// The same, of a sentinel.
const SENTINEL_PORT: u16 = 26379;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.contains(':') {
            true => write!(f, "[{}]:{}", self.name, self.port),
            false => write!(f, "{}:{}", self.name, self.port),
        }
    }
}

/// What a URL says.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) tls: bool,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) hosts: Vec<Host>,
    pub(super) database: i64,
}

impl Address {
    /// Where the configuration leads.
    ///
    /// # Errors
    /// It cannot be meant. What is wrong is told without the URL: it can hold a password.
    pub(super) fn of(config: &RedisConfig) -> Result<Self, String> {
        let mut address = Self::parse(&config.url, &config.topology)?;
        address.username = config.username.clone().or(address.username);
        address.password = config.password.clone().or(address.password);
        if config.tls_cert.is_some() != config.tls_key.is_some() {
            return Err("redis.tls_cert and redis.tls_key belong together".to_owned());
        }
        Ok(address)
    }

    pub(super) fn parse(url: &str, topology: &Topology) -> Result<Self, String> {
        let wrong = |what: &str| format!("redis.url: {what}");
        let tls = url.trim().starts_with("rediss://");
        let scheme = if tls { "rediss://" } else { "redis://" };
        let mut address =
            Self { tls, username: None, password: None, hosts: Vec::new(), database: 0 };
        for (place, part) in url.split(',').map(str::trim).enumerate() {
            // Only the first has to say it; all the same, if they do.
            let rest = match part.split_once("://") {
                None if place > 0 => part,
                _ => part.strip_prefix(scheme).ok_or_else(|| {
                    wrong("all of it begins with redis://, or all with rediss://")
                })?,
            };
            address.add(rest, topology).map_err(wrong)?;
        }
        if *topology == Topology::Cluster && address.database != 0 {
            return Err(wrong("a cluster has no database but 0"));
        }
        Ok(address)
    }

    /// Takes in one server: `user:password@host:port/database`.
    fn add(&mut self, text: &str, topology: &Topology) -> Result<(), &'static str> {
        let (login, rest) = match text.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, text),
        };
        let (host, database) = rest.split_once('/').unwrap_or((rest, ""));
        if !database.is_empty() {
            let number = database.parse::<u16>();
            let number = number.map_err(|_| "behind the / is the number of a database")?;
            self.database = number.into();
        }
        if let Some(login) = login {
            let decoded = |text: &str| {
                let text = percent_decode_str(text).decode_utf8();
                text.map(|text| (!text.is_empty()).then(|| text.into_owned()))
                    .map_err(|_| "user and password are UTF-8, percent-encoded")
            };
            let (username, password) = login.split_once(':').unwrap_or((login, ""));
            (self.username, self.password) = (decoded(username)?, decoded(password)?);
        }
        let usual = match topology {
            Topology::Sentinel { .. } => SENTINEL_PORT,
            Topology::Single | Topology::Cluster => PORT,
        };
        let host =
            parse_host(host, usual).ok_or("a server is host, host:port or [address]:port")?;
        self.hosts.push(host);
        Ok(())
    }
}

fn parse_host(text: &str, usual: u16) -> Option<Host> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => text.find(':').map_or((text, ""), |at| text.split_at(at)),
    };
    let port = match port {
        "" => usual,
        port => port.strip_prefix(':')?.parse().ok()?,
    };
    (!name.is_empty()).then(|| Host { name: name.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(address: &Address) -> String {
        address.hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_url_says_where_and_who() {
        let address =
            Address::of(&RedisConfig::at("rediss://me:s%40y@a/3,rediss://b:7000,[::1]:7001"))
                .unwrap();
        assert!(address.tls);
        assert_eq!(address.username.as_deref(), Some("me"));
        assert_eq!(address.password.as_deref(), Some("s@y"));
        assert_eq!((hosts(&address).as_str(), address.database), ("a:6379 b:7000 [::1]:7001", 3));
        let address = Address::of(&RedisConfig::at("redis://:secret@h")).unwrap();
        assert_eq!((address.username, address.password.as_deref()), (None, Some("secret")));
        let mut sentinel = RedisConfig::at("redis://s1,redis://s2:5");
        sentinel.topology = Topology::Sentinel { master: "m".to_owned() };
        sentinel.password = Some("other".to_owned());
        let address = Address::of(&sentinel).unwrap();
        assert_eq!(hosts(&address), "s1:26379 s2:5");
        assert_eq!(address.password.as_deref(), Some("other"));
    }

    #[test]
    fn what_is_no_url_is_told_without_its_secret() {
        for url in [
            "",
            "h:1",
            "http://u:hunter2@h",
            "redis://u:hunter2@",
            "redis://u:hunter2@h:x",
            "redis://u:hunter2@h/x",
            "redis://u:hunter2@h:1,",
            "redis://u:hunter2@h,rediss://u:hunter2@h",
            "redis://u:hunter2@[::1",
        ] {
            let said = Address::of(&RedisConfig::at(url)).err().unwrap();
            assert!(said.starts_with("redis.url") && !said.contains("hunter2"), "{url}: {said}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        let mut cluster = RedisConfig::at("redis://h/1");
        cluster.topology = Topology::Cluster;
        assert!(Address::of(&cluster).err().unwrap().contains("database"));
        let mut half = RedisConfig::at("rediss://h");
        half.tls_cert = Some("c".into());
        assert!(Address::of(&half).err().unwrap().contains("tls_key"));
    }
}
