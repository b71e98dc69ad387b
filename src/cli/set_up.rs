//! Commands before the relay runs: `init`, `check`, `config show`, `doctor`.

use std::cmp::Reverse;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use super::{CommandResult, Output, print_json};
use crate::config::{self, Config, Sources};
use crate::failure::{Code, Failure, chain};
use crate::postgres::{Error, SqlSession};
use crate::relay::{
    Finding, RelayConfig, Severity, Topics, examine_postgres, examine_sink, preflight,
};
use crate::sink::LOOK_WITHIN;

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
    let (text, config) = config::show(sources);
    print!("{text}");
    let config = config?;
    for warning in &config.warnings {
        println!("\nwarning {} {warning}", Code::Unprotected);
    }
    println!("\nthe configuration is valid");
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn doctor(config: Config, output: Output) -> CommandResult {
    let relay = &config.relay;
    let mut topics = Topics::configured(relay);
    let mut findings = match look_at_postgres(relay, &mut topics).await {
        Ok(findings) => findings,
        Err(error) => {
            let failure = relay.failure_of(&error, "check the set-up");
            vec![Finding::unreachable(failure.code, "PostgreSQL", &chain(&error))]
        }
    };
    findings.extend(examine_sink(relay, &topics, LOOK_WITHIN).await);
    findings.extend(config.warnings.iter().map(|warning| Finding::unprotected(warning)));
    // Errors first; otherwise in the order to mend them in.
    findings.sort_by_key(|finding| Reverse(finding.severity));
    let is_ok = findings.iter().all(|finding| finding.severity != Severity::Error);
    if output.is_json() {
        print_json(&serde_json::json!({ "ok": is_ok, "findings": findings }));
    } else {
        findings.iter().for_each(print);
        if is_ok {
            println!("everything that the relay needs is there");
        }
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let worst = errors.map(|finding| finding.code.exit_code()).max_by_key(|code| gravity(*code));
    Ok(worst.map_or(ExitCode::SUCCESS, ExitCode::from))
}

async fn look_at_postgres(relay: &RelayConfig, topics: &mut Topics) -> Result<Vec<Finding>, Error> {
    let session = SqlSession::open(&relay.server, "doctor").await?;
    let found = preflight(&session.client, relay).await?;
    let more = examine_postgres(&session.client, relay, &found, topics).await;
    Ok(found.findings.into_iter().chain(more).collect())
}

fn print(finding: &Finding) {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    println!("{severity} {} {}", finding.code, finding.title);
    println!("  observed: {}", finding.observed);
    println!("  required: {}", finding.required);
    println!("  fix:      {}", finding.fix);
}

/// Which exit code is told, if there are errors of several: first what a person has to set right, then
/// what is lost, last what may pass by itself.
fn gravity(exit_code: u8) -> u8 {
    match exit_code {
        78 => 4,
        73 => 3,
        77 => 2,
        70 => 1,
        _ => 0,
    }
}
