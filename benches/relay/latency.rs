//! From commit to acknowledgement, event by event, at a steady rate; beside the broker's own time
//! from produce to acknowledgement, measured at the same time with the same settings.
//!
//! The relay runs in this process, so that every sample of its own histogram can be kept.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use outboxd::config::{Config, Sources};
use outboxd::demo::TempPostgres;
use outboxd::relay::{Outcome, Relay};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval_at};

use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::wait::{LATER, eventually};

/// Keeps every sample of one histogram.
#[derive(Clone, Default)]
struct Samples(Arc<Mutex<Vec<f64>>>);

impl HistogramFn for Samples {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

impl Recorder for Samples {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match key.name() {
            "outbox_publish_latency_seconds" => Histogram::from_arc(Arc::new(self.clone())),
            _ => Histogram::noop(),
        }
    }
}

static RELAY_SAMPLES: std::sync::OnceLock<Samples> = std::sync::OnceLock::new();

fn relay_samples() -> &'static Samples {
    RELAY_SAMPLES.get_or_init(|| {
        let samples = Samples::default();
        metrics::set_global_recorder(samples.clone()).unwrap();
        samples
    })
}

const TOPIC: &str = "latency";
const PROBE_TOPIC: &str = "latency_probe";
const WRITERS: u64 = 8;
/// Probes of the broker per second.
const PROBES: u64 = 200;

pub fn print_head() {
    println!("\nLatency in ms: events/s, what, samples, p50, p99, p99.9, max");
}

pub async fn measure(rate: u64, seconds: u64, server: &TempPostgres, kafka: &Kafka) -> Vec<Value> {
    let samples = relay_samples();
    let database = Database::new_at(&server.url("postgres"), "latency").await;
    for topic in [TOPIC, PROBE_TOPIC] {
        if !kafka.exists(topic) {
            kafka.create_topic(topic, 6, &[]).await;
        }
    }
    let setting = |key: &str, value: &str| format!("{key}={value}");
    let sources = Sources {
        flags: vec![
            setting("postgres.url", &database.url),
            setting("postgres.slot", &database.name),
            setting("kafka.bootstrap_servers", &kafka.servers),
            setting("outbox.start", "stream"),
        ],
        ..Sources::default()
    };
    let relay = Relay::start(Config::load(&sources).unwrap().relay).unwrap();
    let status = relay.status();
    eventually("the relay to stream", LATER, || async {
        status.borrow().state.name() == "streaming"
    })
    .await;

    // A run first: connections, caches, topics and the broker's compiler are warm.
    write(&database, rate, 10).await;
    samples.0.lock().unwrap().clear();
    let probes = Arc::new(Mutex::new(Vec::new()));
    let probing = std::thread::spawn({
        let (kafka, probes) = (kafka.clone(), Arc::clone(&probes));
        move || probe(&kafka, seconds, &probes)
    });
    write(&database, rate, seconds).await;
    eventually("everything to be acknowledged", LATER, || async {
        samples.0.lock().unwrap().len() as u64 >= rate * seconds
    })
    .await;
    probing.join().unwrap();
    let outcome = relay.stop(Duration::from_secs(20)).await;
    assert_eq!(outcome, Outcome::Stopped { drained: true });
    let ours = std::mem::take(&mut *samples.0.lock().unwrap());
    let brokers = std::mem::take(&mut *probes.lock().unwrap());
    let figures = vec![
        report(rate, "outboxd, commit to ack", ours),
        report(rate, "broker, produce to ack", brokers),
    ];
    database.clear().await;
    figures
}

fn report(rate: u64, what: &str, mut samples: Vec<f64>) -> Value {
    samples.sort_by(f64::total_cmp);
    let at = |part: f64| samples[((samples.len() - 1) as f64 * part) as usize] * 1e3;
    let (p50, p99, p999, max) = (at(0.5), at(0.99), at(0.999), at(1.0));
    println!(
        "{rate:>6}  {what:<24} {:>7} {p50:>7.2} {p99:>7.2} {p999:>7.2} {max:>7.2}",
        samples.len()
    );
    json!({ "events_per_second": rate, "what": what, "samples": samples.len(),
            "p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "max_ms": max })
}

/// One event per transaction, `rate` of them per second, spread over some connections.
async fn write(database: &Database, rate: u64, seconds: u64) {
    let mut writers = tokio::task::JoinSet::new();
    let period = Duration::from_nanos(1_000_000_000 * WRITERS / rate);
    let start = tokio::time::Instant::now() + Duration::from_millis(100);
    for writer in 0..WRITERS {
        let sql = database.connect().await;
        writers.spawn(async move {
            let insert = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic) \
                          VALUES ('order', $1, 'OrderCreated', jsonb_build_object('pad', repeat('x', 280)), $2)";
            let insert = sql.prepare(insert).await.unwrap();
            // Evenly spread: eight commits at one moment would measure their queue.
            let offset = period * u32::try_from(writer).unwrap() / u32::try_from(WRITERS).unwrap();
            let mut ticks = interval_at(start + offset, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for n in 0..rate * seconds / WRITERS {
                ticks.tick().await;
                let key = format!("order-{}", (n * WRITERS + writer) % 10_000);
                sql.execute(&insert, &[&key, &TOPIC]).await.unwrap();
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
}

struct Probe {
    samples: Arc<Mutex<Vec<f64>>>,
}

impl rdkafka::ClientContext for Probe {}

impl ProducerContext for Probe {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Instant>) {
        assert!(result.is_ok());
        self.samples.lock().unwrap().push(sent.elapsed().as_secs_f64());
    }
}

fn probe(kafka: &Kafka, seconds: u64, samples: &Arc<Mutex<Vec<f64>>>) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.servers).set("enable.idempotence", "true");
    config.set("acks", "all").set("linger.ms", "0").set("socket.nagle.disable", "true");
    let context = Probe { samples: Arc::new(Mutex::new(Vec::new())) };
    let kept = Arc::clone(&context.samples);
    let producer = ThreadedProducer::from_config_and_context(&config, context).unwrap();
    let value = vec![b'x'; 600];
    let began = Instant::now();
    for n in 0..PROBES * seconds {
        let due = began + Duration::from_nanos(1_000_000_000 / PROBES * n);
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(wait);
        }
        let key = n.to_string();
        let record = BaseRecord::with_opaque_to(PROBE_TOPIC, Box::new(Instant::now()));
        producer.send(record.key(&key).payload(&value).partition((n % 6) as i32)).ok().unwrap();
    }
    while (kept.lock().unwrap().len() as u64) < PROBES * seconds {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    // The first ones find the connection and the topic.
    let mut all = std::mem::take(&mut *kept.lock().unwrap());
    all.drain(..all.len().min(PROBES as usize));
    *samples.lock().unwrap() = all;
}
