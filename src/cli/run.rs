//! `outboxd run`: the start-up log of the process, in order.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::complain;
use super::reload::Reloader;
use crate::admin::{self, Pages};
use crate::built;
use crate::config::{Config, LogConfig, LogFormat, Reading, Sources};
use crate::failpoint;
use crate::failure::{Code, Failure};
use crate::metrics::{BATCH_BUCKETS, BATCH_SIZE, SECONDS_BUCKETS, show_build};
use crate::postgres;
use crate::relay::{Outcome, Relay};

/// Samples of histograms are gathered this often.
const UPKEEP: Duration = Duration::from_secs(1);

pub(super) fn run(sources: &Sources, takeover: bool) -> ExitCode {
    let reading = match Reading::of(sources) {
        Ok(reading) => reading,
        Err(failure) => return end_with(&failure),
    };
    let mut config = reading.config.clone();
    config.relay.takeover = takeover;
    init_log(config.log);
    warn_of(&config.warnings);
    if let Err(text) = failpoint::arm() {
        return end_with(&Failure::new(Code::Config, text));
    }
    let metrics = match init_metrics() {
        Ok(metrics) => metrics,
        Err(failure) => return end_with(&failure),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return end_with(&Failure::new(Code::Bug, format!("start the runtime: {error}")));
        }
    };
    match runtime.block_on(serve(config, metrics, sources.clone(), reading)) {
        Ok(code) => code,
        Err(failure) => {
            tracing::error!(
                code = %failure.code,
                error = failure.message,
                remedy = failure.remedy,
                "halted"
            );
            end_with(&failure)
        }
    }
}

fn end_with(failure: &Failure) -> ExitCode {
    complain(failure);
    ExitCode::from(failure.code.exit_code())
}

/// What the configuration leaves open that could be guarded.
pub(super) fn warn_of<'a>(warnings: impl IntoIterator<Item = &'a String>) {
    for warning in warnings {
        tracing::warn!(code = %Code::Unprotected, warning, "the configuration");
    }
}

async fn serve(
    config: Config,
    metrics: PrometheusHandle,
    sources: Sources,
    reading: Reading,
) -> Result<ExitCode, Failure> {
    let bug = |error: std::io::Error| Failure::new(Code::Bug, error.to_string());
    let mut terminate = signal(SignalKind::terminate()).map_err(bug)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(bug)?;
    let hangup = signal(SignalKind::hangup()).map_err(bug)?;
    let listener = match config.admin.listen {
        Some(address) => Some(admin::bind(address).await?),
        None => None,
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        relay = config.relay.id,
        postgres = config.relay.server.describe(),
        sink = config.relay.sink.name().label,
        address = config.relay.sink.describe(),
        "outboxd"
    );
    let known = Arc::new(config.relay.clone());
    let mut relay = Relay::start(config.relay).map_err(bug)?;
    let credentials = relay.credentials();
    let shown = credentials.subscribe();
    let reloader = Reloader::new(sources, reading, credentials, relay.status());
    tokio::spawn(reloader.at(hangup));
    if let Some(listener) = listener {
        let (status, pulse) = (relay.status(), relay.pulse());
        let metrics = Some(metrics.clone());
        let pages = Pages { status, pulse, relay: known, credentials: shown, metrics };
        let admin = config.admin.clone();
        tokio::spawn(async move { admin::serve(listener, &admin, pages).await });
    }
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            metrics.run_upkeep();
        }
    });
    let mut asked = false;
    let outcome = loop {
        let signalled = async {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        tokio::select! {
            outcome = relay.ended() => break outcome,
            signal = signalled => {
                if asked {
                    tracing::warn!(signal, "ending at once");
                    relay.stop_now();
                } else {
                    tracing::info!(signal, grace = ?config.shutdown_grace, "stopping");
                    relay.stop_within(config.shutdown_grace);
                }
                asked = true;
            }
        }
    };
    match outcome {
        Outcome::Stopped { drained: true } => {
            tracing::info!("stopped: everything that was read is settled and confirmed");
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Stopped { drained: false } => {
            let text = "stopped before everything that was read was settled";
            Err(Failure::new(Code::GraceExceeded, text))
        }
        Outcome::Halted(failure) | Outcome::Fenced(failure) => Err(failure),
    }
}

fn init_metrics() -> Result<PrometheusHandle, Failure> {
    let bug = |error: &dyn std::error::Error| Failure::new(Code::Bug, error.to_string());
    let recorder = PrometheusBuilder::new()
        .set_buckets(&SECONDS_BUCKETS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Full(BATCH_SIZE.to_owned()), &BATCH_BUCKETS)
        })
        .map_err(|error| bug(&error))?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| bug(&error))?;
    show_build(&built::facts());
    Ok(handle)
}

pub(super) fn init_log(config: LogConfig) {
    let is_terminal = std::io::stderr().is_terminal();
    let as_text = match config.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(config.level)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .with_target(config.level > tracing::Level::INFO);
    // At debug the driver would print the parameters of every statement.
    let filter = Targets::new()
        .with_default(config.level)
        .with_target(postgres::DRIVER, config.level.min(tracing::Level::INFO))
        // What it has to say is told in our words, and at debug it would name every message.
        .with_target(
            crate::sink::NATS_CLIENT,
            match config.level {
                tracing::Level::DEBUG | tracing::Level::TRACE => LevelFilter::INFO,
                _ => LevelFilter::OFF,
            },
        );
    // Whoever set a logger before, in a test, keeps it.
    let _ = if as_text {
        log.finish().with(filter).try_init()
    } else {
        log.json().flatten_event(true).finish().with(filter).try_init()
    };
}
