//! The real Prometheus, scraping one relay with the project's rules, and promtool.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;

use super::relay::{http, http_get};
use super::wait::{SOON, eventually};
use super::{free_port, setting};

/// Where the configuration that users take lies.
pub fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn program(name: &str) -> Command {
    Command::new(Path::new(&setting("PROMETHEUS_BIN")).join(name))
}

/// Runs promtool with something to read: its exit code, and what it said.
pub fn promtool(arguments: &[&str], input: &str) -> (i32, String) {
    let mut command = program("promtool");
    command.args(arguments).current_dir(deployed("prometheus")).stdin(Stdio::piped());
    let mut running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    running.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = running.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(said).unwrap())
}

/// A Prometheus of a test's own.
pub struct Prometheus {
    process: Child,
    address: String,
    _home: TempDir,
}

impl Prometheus {
    /// With deploy/prometheus, but that it scrapes the relay at `target`, and every second.
    pub async fn start(target: &str) -> Self {
        let home = tempfile::Builder::new().prefix("outboxd-prometheus-").tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(deployed("prometheus").join(name)).unwrap();
        let config = read("prometheus.yml").replace("outboxd:9464", target).replace("15s", "1s");
        assert!(config.contains(target) && config.contains("interval: 1s"), "{config}");
        let file = home.path().join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        std::fs::write(home.path().join("alerts.yml"), read("alerts.yml")).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let log = std::fs::File::create(home.path().join("log")).unwrap();
        let process = program("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", home.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let prometheus = Self { process, address, _home: home };
        eventually("Prometheus to be ready", SOON, || async {
            let answer = http_get(&prometheus.address, "/-/ready", &[("host", "prometheus")]).await;
            answer.is_some_and(|(code, _)| code == 200)
        })
        .await;
        prometheus
    }

    /// What its API answers at `/api/v1/…`.
    pub async fn ask(&self, path: &str) -> Value {
        let path = format!("/api/v1/{path}");
        let (code, text) =
            http_get(&self.address, &path, &[("host", "prometheus")]).await.unwrap_or_default();
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        assert!(code == 200 && answer["status"] == "success", "{path}: {code} {text}");
        answer["data"].clone()
    }

    /// What an expression gives now: an error, or a list of samples.
    pub async fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let body = format!("query={}", utf8_percent_encode(expression, NON_ALPHANUMERIC));
        let form = ("content-type", "application/x-www-form-urlencoded");
        let headers = [("host", "prometheus"), form];
        let answer = http(&self.address, "POST", "/api/v1/query", &headers, &body).await;
        let (_, text) = answer.ok_or("no answer")?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if answer["status"] != "success" {
            return Err(answer["error"].to_string());
        }
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until an expression gives `value`.
    pub async fn reaches(&self, expression: &str, value: &str) {
        eventually(format!("{expression} to be {value}"), SOON, || async {
            let samples = self.query(expression).await.unwrap();
            samples.first().is_some_and(|sample| sample["value"][1] == value)
        })
        .await;
    }

    /// Waits until an alert is in that state, and gives it.
    pub async fn alert(&self, name: &str, state: &str) -> Value {
        super::wait::until(format!("{name} to be {state}"), SOON, || async {
            let alerts = self.ask("alerts").await;
            let mut alerts = alerts["alerts"].as_array()?.iter();
            alerts.find(|a| a["labels"]["alertname"] == name && a["state"] == state).cloned()
        })
        .await
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // What has ended cannot be ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
