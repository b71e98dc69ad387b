//! The proxies that the faults are made with: they do what they say, before the real servers.

use std::sync::Mutex;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer,
};
use rdkafka::types::RDKafkaErrorCode;

use crate::support::database::{Database, try_connect};
use crate::support::kafka_proxy::{KafkaProxy, Wrong, code};
use crate::support::proxy::{Cut, Proxy};
use crate::support::records::Kafka;
use crate::support::unique;
use crate::support::wait::{SOON, eventually, until};

/// Keeps what became of the last record.
#[derive(Default)]
struct Told(Mutex<Option<Result<(), RDKafkaErrorCode>>>);

impl ClientContext for Told {}

impl ProducerContext for Told {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let result = result.as_ref().map(|_| ());
        let result = result.map_err(|(error, _)| error.rdkafka_error_code().unwrap());
        *self.0.lock().unwrap() = Some(result);
    }
}

/// Sends one record and tells what became of it.
async fn send(
    producer: &ThreadedProducer<Told>,
    topic: &str,
    value: &str,
) -> Result<(), RDKafkaErrorCode> {
    producer.send(BaseRecord::<(), _>::to(topic).partition(0).payload(value)).unwrap();
    let told = || async { producer.context().0.lock().unwrap().take() };
    until("what became of it", SOON, told).await
}

fn producer(kafka: &Kafka) -> ThreadedProducer<Told> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.servers).set("enable.idempotence", "true");
    config.create_with_context(Told::default()).unwrap()
}

fn values(kafka: &Kafka, topic: &str) -> Vec<String> {
    let records = kafka.read(&[topic]);
    records.into_iter().map(|record| String::from_utf8(record.value.unwrap()).unwrap()).collect()
}

#[tokio::test]
async fn a_produce_gets_the_answer_that_was_ordered() {
    let kafka = Kafka::shared();
    let topic = unique("proxied");
    kafka.create_topic(&topic, 1, &[]).await;
    let proxy = KafkaProxy::before(&kafka);
    let producer = producer(&proxy.kafka());
    send(&producer, &topic, "first").await.unwrap();
    assert_eq!((proxy.produced(), proxy.answered_wrong()), (1, 0), "it goes through the proxy");

    // The broker never sees it.
    proxy.go_wrong(Wrong::refuse("refused", code::MESSAGE_TOO_LARGE));
    let error = send(&producer, &topic, "refused").await.unwrap_err();
    assert_eq!(error, RDKafkaErrorCode::MessageSizeTooLarge);
    send(&producer, &topic, "other").await.unwrap();
    assert_eq!(values(&kafka, &topic), ["first", "other"]);

    // The broker has it; the producer is told so when it asks again.
    proxy.go_wrong(Wrong::refuse("lost", code::REQUEST_TIMED_OUT).times(1).though_appended());
    send(&producer, &topic, "lost answer").await.unwrap();
    assert_eq!(values(&kafka, &topic), ["first", "other", "lost answer"]);
    assert_eq!(proxy.answered_wrong(), 2);

    proxy.go_right();
    send(&producer, &topic, "refused no more").await.unwrap();
    assert_eq!(values(&kafka, &topic).len(), 4);
}

#[tokio::test]
async fn a_connection_is_cut_refused_frozen_slowed_and_healed() {
    let database = Database::new("proxied").await;
    let port = database.url.rsplit_once('/').unwrap().0.rsplit_once(':').unwrap().1;
    let proxy = Proxy::before(port.parse().unwrap());
    let url = proxy.url(&database.url);
    let sql = try_connect(&url).await.unwrap();
    let ask = async |sql: &tokio_postgres::Client| sql.query_one("SELECT 1", &[]).await.is_ok();
    assert!(ask(&sql).await);
    assert_eq!(proxy.connections(), 1);

    for cut in [Cut::Reset, Cut::End] {
        let sql = try_connect(&url).await.unwrap();
        proxy.cut(cut);
        assert!(!ask(&sql).await, "{cut:?}");
        eventually("no connections", SOON, || async { proxy.connections() == 0 }).await;
    }
    proxy.order(|orders| orders.refuses = true);
    assert!(try_connect(&url).await.is_err());
    proxy.heal();
    let sql = try_connect(&url).await.unwrap();

    // The request arrives and is carried out; only the answer does not come.
    proxy.order(|orders| orders.answers.frozen = true);
    database.execute("CREATE TABLE written (n int)").await;
    {
        let write = sql.batch_execute("INSERT INTO written VALUES (1)");
        let mut write = std::pin::pin!(write);
        let done = tokio::time::timeout(Duration::from_millis(300), &mut write).await;
        assert!(done.is_err(), "{done:?}");
        assert_eq!(database.count("SELECT count(*) FROM written").await, 1);
        proxy.heal();
        write.await.unwrap();
    }
    proxy.order(|orders| orders.requests.delay = Duration::from_millis(200));
    let began = std::time::Instant::now();
    assert!(ask(&sql).await);
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    proxy.heal();
    proxy.order(|orders| orders.answers.bytes_per_second = Some(50_000));
    let began = std::time::Instant::now();
    sql.query_one("SELECT repeat('x', 25000)", &[]).await.unwrap();
    let took = began.elapsed();
    assert!((Duration::from_millis(400)..Duration::from_secs(3)).contains(&took), "{took:?}");

    // Of two connections, one.
    proxy.heal();
    let other = database.url.clone() + "?application_name=chosen";
    let other = try_connect(&proxy.url(&other)).await.unwrap();
    proxy.order(|orders| orders.only = Some("chosen"));
    proxy.cut(Cut::Reset);
    assert!(!ask(&other).await);
    assert!(ask(&sql).await);
    drop((sql, other));
    database.clear().await;
}
