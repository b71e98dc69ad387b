//! Commands before the relay runs: `init`, `check`, `config show`, `doctor`.

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::{CommandResult, Output, print_json};
use crate::config::{self, Config, Sources};
use crate::failure::{Code, Failure, chain};
use crate::postgres::{Error, SqlSession};
use crate::relay::{Finding, Severity, preflight};
use crate::sink::{KafkaSink, Report, Sink as _};

pub(super) fn init(output: &Path) -> CommandResult {
    use std::io::Write as _;
    let fail = |error: std::io::Error| {
        let path = output.display();
        let text = match error.kind() {
            ErrorKind::AlreadyExists => {
                format!("{path} is there already, and stays as it is; --output names another")
            }
            _ => format!("write {path}: {error}"),
        };
        Failure::new(Code::Config, text)
    };
    let mut file = std::fs::File::create_new(output).map_err(fail)?;
    file.write_all(config::template().as_bytes()).map_err(fail)?;
    let path = output.display();
    println!("wrote {path}\n\nNext:");
    println!("  1. set postgres.url and kafka.bootstrap_servers in {path}");
    println!("  2. outboxd migrate      # as the database's owner: table, publication, role");
    println!("  3. outboxd doctor       # what is still missing, and what mends it");
    println!("  4. outboxd run");
    Ok(ExitCode::SUCCESS)
}

pub(super) fn show(sources: &Sources) -> CommandResult {
    let (text, _) = config::show(sources);
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

pub(super) fn check(sources: &Sources) -> CommandResult {
    let (text, failure) = config::show(sources);
    print!("{text}");
    match failure {
        Some(failure) => Err(failure),
        None => {
            println!("\nthe configuration is valid");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A broker that does not answer within this does not answer.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn doctor(config: Config, output: Output) -> CommandResult {
    let mut findings = match SqlSession::open(&config.relay.server, "doctor").await {
        Ok(session) => match preflight(&session.client, &config.relay).await {
            Ok(found) => found.findings,
            Err(error) => vec![unreachable(&config, &error)],
        },
        Err(error) => vec![unreachable(&config, &error)],
    };
    findings.extend(kafka_finding(&config).await);
    let is_ok = findings.iter().all(|finding| finding.severity != Severity::Error);
    if output.is_json() {
        print_json(&serde_json::json!({ "ok": is_ok, "findings": findings }));
    } else {
        for finding in &findings {
            let severity = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            println!("{severity} {} {}", finding.code, finding.title);
            println!("  observed: {}", finding.observed);
            println!("  required: {}", finding.required);
            println!("  fix:      {}", finding.fix);
        }
        if is_ok {
            println!("everything that the relay needs is there");
        }
    }
    let worst = findings.iter().find(|finding| finding.severity == Severity::Error);
    Ok(worst.map_or(ExitCode::SUCCESS, |finding| ExitCode::from(finding.code.exit_code())))
}

fn unreachable(config: &Config, error: &Error) -> Finding {
    let failure = config.relay.failure_of(error, "check the set-up");
    Finding::unreachable(failure.code, "PostgreSQL", &chain(error))
}

async fn kafka_finding(config: &Config) -> Option<Finding> {
    let mut sink = match KafkaSink::open(&config.relay.kafka) {
        Ok(sink) => sink,
        Err(text) => return Some(Finding::unreachable(Code::KafkaConfig, "Kafka", &text)),
    };
    sink.probe();
    let answer = async {
        let (mut delivered, mut reports) = (Vec::new(), Vec::new());
        loop {
            sink.reported().await;
            sink.take(&mut delivered, &mut reports);
            for report in reports.drain(..) {
                if let Report::Reachable(result) = report {
                    return result;
                }
            }
        }
    };
    let answer = tokio::time::timeout(KAFKA_TIMEOUT, answer).await;
    let result = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    sink.close().await;
    let servers = &config.relay.kafka.bootstrap_servers;
    let reason = result.err()?;
    Some(Finding::unreachable(Code::KafkaUnavailable, "Kafka", &format!("{servers}: {reason}")))
}
