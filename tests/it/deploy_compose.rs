//! docker-compose.yml, as Compose itself reads it, and what it sets, against real services.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use outboxd::demo::TempPostgres;
use serde_json::Value;

use crate::support::database::connect;
use crate::support::deploy::{printed, read, tool};
use crate::support::nats::TempNats;
use crate::support::records::Kafka;
use crate::support::redis::TempRedis;
use crate::support::relay::RelayOptions;
use crate::support::wait::{SOON, eventually};
use crate::support::{free_port, pg_bin, unique};

/// What Compose makes of a file, with these variables and no others.
fn compose(text: &str, variables: &[(&str, &str)]) -> Result<Value, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("docker-compose.yml");
    std::fs::write(&path, text).unwrap();
    let mut command = tool("docker-compose");
    command.env_clear().envs(variables.iter().copied()).arg("--project-directory").arg(".");
    let text = printed(command.arg("--file").arg(path).args(["config", "--format", "json"]))?;
    Ok(serde_json::from_str(&text).unwrap())
}

/// With what nobody has to have: every profile.
fn ours() -> Value {
    compose(&read("docker-compose.yml"), &[("COMPOSE_PROFILES", "redis,nats")]).unwrap()
}

#[test]
fn compose_takes_the_file_and_a_planted_mistake_is_caught() {
    let text = read("docker-compose.yml");
    compose(&text, &[]).unwrap();
    for (from, to) in [
        ("stop_grace_period", "stop_grace"),
        ("condition: service_healthy", "condition: healthy"),
        ("      kafka: { condition", "      kafak: { condition"),
        ("volumes: [\"secrets:", "volumes: [\"secrtes:"),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(compose(&text.replacen(from, to, 1), &[]).is_err(), "{to}");
    }
}

#[test]
fn everything_is_there_healthy_in_order_and_closed() {
    let file = ours();
    let services = file["services"].as_object().unwrap();
    let relays = ["outboxd", "outboxd-redis", "outboxd-nats"];
    let others = ["postgres", "kafka", "redis", "nats", "prometheus", "grafana"];
    for name in relays.into_iter().chain(others) {
        let service = &services[name];
        assert!(service["healthcheck"]["test"].is_array(), "{name} has no health check");
    }
    for name in relays {
        let health = &services[name]["healthcheck"]["test"];
        assert_eq!(health, &serde_json::json!(["CMD", "/usr/local/bin/outboxd", "healthcheck"]));
        assert_eq!(services[name]["stop_grace_period"], "30s", "{name}");
    }
    for (name, service) in services {
        let image = service["image"].as_str().unwrap();
        let (_, tag) = image.split_once(':').expect("a tag");
        assert!(tag != "latest", "{name}");
        for (other, dependency) in service["depends_on"].as_object().into_iter().flatten() {
            let ends = services[other].get("restart").is_none();
            let expected = if ends { "service_completed_successfully" } else { "service_healthy" };
            assert_eq!(dependency["condition"], expected, "{name} waits for {other}");
        }
        let options = service["security_opt"].as_array().expect("security_opt");
        assert!(options.contains(&"no-new-privileges:true".into()), "{name}");
        for port in service["ports"].as_array().into_iter().flatten() {
            assert_eq!(port["host_ip"], "127.0.0.1", "{name}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            if volume["type"] == "bind" {
                let source = volume["source"].as_str().unwrap();
                assert!(Path::new(source).exists(), "{name}: there is no {source}");
                assert_eq!(volume["read_only"], true, "{name}: {source}");
            }
        }
    }
    for name in relays.into_iter().chain(["migrate"]) {
        let service = &services[name];
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], serde_json::json!(["ALL"]), "{name}");
    }
}

/// A profile adds its server and a relay to it, which takes nothing from the one to Kafka and can do without
/// both.
#[test]
fn another_sink_is_a_profile_with_a_relay_of_its_own() {
    let text = read("docker-compose.yml");
    let names = |profile: &str| -> BTreeSet<String> {
        let file = compose(&text, &[("COMPOSE_PROFILES", profile)]).unwrap();
        file["services"].as_object().unwrap().keys().cloned().collect()
    };
    let default = names("");
    let all = ours();
    let mut seen = BTreeSet::new();
    for kind in ["kafka", "redis", "nats"] {
        let relay = match kind {
            "kafka" => "outboxd".to_owned(),
            other => format!("outboxd-{other}"),
        };
        if kind != "kafka" {
            let added: BTreeSet<_> = names(kind).difference(&default).cloned().collect();
            assert_eq!(added, BTreeSet::from([kind.to_owned(), relay.clone()]));
        }
        let service = &all["services"][&relay];
        let needs = service["depends_on"].as_object().unwrap().keys().map(String::as_str);
        assert_eq!(needs.collect::<BTreeSet<_>>(), BTreeSet::from(["migrate", "token", kind]));
        let environment = &service["environment"];
        let said = |name: &str, default: &str| -> String {
            environment[name].as_str().unwrap_or(default).to_owned()
        };
        assert_eq!(said("OUTBOXD__SINK__KIND", "kafka"), kind);
        for own in [
            said("OUTBOXD__RELAY__ID", "outboxd"),
            format!("slot {}", said("OUTBOXD__POSTGRES__SLOT", "outboxd")),
            format!("port {}", service["ports"][0]["published"]),
        ] {
            assert!(seen.insert(own.clone()), "two relays have the {own}");
        }
    }
}

/// Prometheus scrapes the relay, Grafana asks Prometheus and finds the dashboards, by the names that they
/// have here.
#[test]
fn the_parts_find_each_other() {
    let file = ours();
    let services = file["services"].as_object().unwrap();
    let scraped = read("deploy/prometheus/prometheus.yml");
    assert!(scraped.contains("\"outboxd:9464\"") && services.contains_key("outboxd"));
    assert_eq!(services["outboxd"]["environment"]["OUTBOXD__ADMIN__LISTEN"], "0.0.0.0:9464");
    let rules = scraped.lines().filter_map(|line| line.trim().strip_prefix("- alerts"));
    assert_eq!(rules.collect::<Vec<_>>(), [".yml"]);
    let source = read("deploy/grafana/provisioning/datasources/prometheus.yml");
    assert!(source.contains("http://prometheus:9090") && services.contains_key("prometheus"));
    let provider = read("deploy/grafana/provisioning/dashboards/outboxd.yml");
    let path = provider.lines().find_map(|line| line.trim().strip_prefix("path: ")).unwrap();
    let mounts = services["grafana"]["volumes"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["target"] == path).expect("the dashboards");
    let boards = std::fs::read_dir(mount["source"].as_str().unwrap()).unwrap();
    let names = boards.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().any(|name| name.ends_with(".json")), "there is no dashboard");
}

#[test]
fn the_example_names_every_variable_with_its_default() {
    let text = read("docker-compose.yml");
    let mut asked = BTreeMap::new();
    for rest in text.split("${").skip(1) {
        let (name, default) = rest.split('}').next().unwrap().split_once(":-").expect("a default");
        let known = asked.insert(name.to_owned(), default.to_owned());
        assert!(known.is_none_or(|known| known == default), "{name} has two defaults");
    }
    let example = read(".env.example");
    let named = example.lines().filter_map(|line| line.strip_prefix('#')?.split_once('='));
    let named = named.filter(|(name, _)| !name.contains(' '));
    let named: BTreeMap<_, _> =
        named.map(|(name, default)| (name.to_owned(), default.to_owned())).collect();
    assert_eq!(named, asked);
    let changed = compose(&text, &[("OUTBOXD_PORT", "1234"), ("OUTBOXD_PASSWORD", "other")]);
    let changed = changed.unwrap()["services"]["outboxd"].clone();
    assert_eq!(changed["ports"][0]["published"], "1234");
    let url = changed["environment"]["OUTBOXD__POSTGRES__URL"].as_str().unwrap();
    assert_eq!(url, "postgres://outboxd:other@postgres/app?sslmode=disable");
    // What a relay reads by itself is none of these.
    assert!(!named.keys().any(|name| name.starts_with("OUTBOXD__")));
}

/// The services' environments, with nothing changed but addresses.
#[tokio::test]
async fn what_compose_sets_migrates_and_makes_relays_ready() {
    let file = ours();
    let settings = [("wal_level", "logical")];
    let server = TempPostgres::start(&pg_bin(), &settings).unwrap();
    let kafka = Kafka::shared();
    let redis = TempRedis::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let nats = TempNats::start("").await;
    connect(&server.url("postgres")).await.batch_execute("CREATE DATABASE app").await.unwrap();
    let mut role = std::process::Command::new("sh");
    role.arg("deploy/compose/role.sh").env("POSTGRES_DB", "app").env("OUTBOXD_PASSWORD", "it's");
    role.env("PGHOST", "127.0.0.1").env("PGPORT", server.port().to_string());
    printed(&mut role).unwrap();

    let admin = format!("127.0.0.1:{}", free_port());
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "a-token\n").unwrap();
    let places = [
        ("@postgres/", format!("@127.0.0.1:{}/", server.port())),
        ("kafka:9092", kafka.servers.clone()),
        ("redis://redis:6379", redis.url()),
        ("nats://nats:4222", nats.url()),
        ("0.0.0.0:9464", admin),
        ("/secrets/admin-token", token.path().to_str().unwrap().to_owned()),
    ];
    let options = |service: &str| {
        let mut options = RelayOptions::bare();
        let environment = &file["services"][service]["environment"];
        for (name, value) in environment.as_object().expect("an environment") {
            let value = value.as_str().unwrap().to_owned();
            let moved = places.iter().fold(value, |value, (from, to)| value.replace(from, to));
            options = options.variable(name, &moved);
        }
        options
    };
    let (code, _, said) = options("migrate").command_output(&["migrate"]);
    assert_eq!(code, 0, "{said}");
    let sql = connect(&server.url("app")).await;
    let kind = unique("compose");
    for (number, service) in (1_i64..).zip(["outboxd", "outboxd-redis", "outboxd-nats"]) {
        let mut relay = options(service).set("log.format", "json").start();
        relay.wait_until_ready().await;
        let write =
            format!("SELECT outboxd.emit('{kind}', 'o-1', 'OrderCreated', '{{\"total\": 42}}')");
        sql.batch_execute(&write).await.unwrap();
        eventually(format!("the row to be SENT by {service}"), SOON, || async {
            let sent = "SELECT count(*) FROM outbox WHERE status = 'SENT'";
            sql.query_one(sent, &[]).await.unwrap().get::<_, i64>(0) == number
        })
        .await;
        let (code, _, said) = options(service).command_output(&["healthcheck"]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(relay.stop().await, 0);
    }
    let topic = format!("outbox.{kind}");
    assert_eq!(redis.entries(&topic).len(), 1);
    assert_eq!(nats.count(&topic.replace('.', "_")).await, 1);
}
