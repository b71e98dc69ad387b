//! A look at Kafka from outside: does it let us in, what are its topics like, may we write to them.
//! Nothing is sent and nothing is created.

use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use super::describe::{Described, WRITE, describe};
use super::properties::KafkaConfig;
use super::reports::{classify, log, no_contact};
use super::{NoContact, SinkError};
use super::{client_config, without_value};

/// What was seen.
#[derive(Debug, Default)]
pub struct ClusterFacts {
    /// How many brokers there are; 0 where that is not known.
    pub brokers: usize,
    /// The addresses that the brokers tell their clients, and that nobody answers at.
    pub unreachable: Vec<String>,
    /// The topics that were asked for.
    pub topics: BTreeMap<String, Result<TopicFacts, SinkError>>,
}

/// What a topic is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFacts {
    /// How many partitions it has.
    pub partitions: usize,
    /// The partitions without a leader.
    pub leaderless: Vec<usize>,
    /// How many brokers keep its records: of the partition with the fewest.
    pub replicas: usize,
    /// How many of them are up to date: of the partition with the fewest.
    pub in_sync: usize,
    /// Whether we may write to it, where the brokers say so.
    pub may_write: Option<bool>,
    /// Its settings, where we may see them.
    pub settings: Option<BTreeMap<String, String>>,
}

impl TopicFacts {
    /// A setting that is a number.
    pub fn number(&self, name: &str) -> Option<usize> {
        self.text(name)?.parse().ok()
    }

    /// A setting.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.settings.as_ref()?.get(name).map(String::as_str)
    }
}

/// After an error that says what is wrong, others are waited for no longer than this.
const LAST_CHANCE: Duration = Duration::from_secs(2);
/// How long the client's events are served at a time: with `debug` there are thousands of them, and an
/// error comes behind.
const SERVE: Duration = Duration::from_millis(20);
/// A broker that does not accept a connection within this does not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// As many brokers are tried.
const BROKERS_TRIED: usize = 12;
/// Topics whose settings are asked for in one request.
const TOPICS_AT_ONCE: usize = 250;

/// Looks at Kafka, for at most that long: whether it lets us in, and at these topics.
///
/// # Errors
/// It cannot be asked.
pub async fn look(
    kafka: &KafkaConfig,
    topics: &[String],
    within: Duration,
) -> Result<ClusterFacts, NoContact> {
    let (kafka, topics) = (kafka.clone(), topics.to_vec());
    let looked = tokio::task::spawn_blocking(move || ask(&kafka, &topics, within)).await;
    looked.unwrap_or_else(|_| Err(NoContact::Unreachable("no answer".to_owned())))
}

/// The same, on a thread of its own: the client's calls block.
fn ask(
    kafka: &KafkaConfig,
    topics: &[String],
    within: Duration,
) -> Result<ClusterFacts, NoContact> {
    let config = client_config(kafka);
    let deadline = Instant::now() + within;
    let client = Asking::open(&config, deadline)?;
    if !client.contact() {
        return Err(client.reason());
    }
    let described = client.describe(topics)?;
    let mut facts = ClusterFacts::default();
    let mut there = Vec::new();
    for Described { name, result } in described {
        let result = result.map_err(|code| classify(code, code.to_string()));
        let result = result.and_then(|shape| match shape.partitions.is_empty() {
            true => Err(SinkError::TopicMissing),
            false => Ok(shape),
        });
        let topic = result.map(|shape| {
            there.push(name.clone());
            let leaderless = shape.partitions.iter().enumerate();
            let leaderless = leaderless.filter(|(_, partition)| !partition.has_leader);
            let fewest = |count: fn(&super::describe::PartitionShape) -> usize| {
                shape.partitions.iter().map(count).min().unwrap_or_default()
            };
            TopicFacts {
                partitions: shape.partitions.len(),
                leaderless: leaderless.map(|(index, _)| index).collect(),
                replicas: fewest(|partition| partition.replicas),
                in_sync: fewest(|partition| partition.in_sync),
                may_write: shape.allowed.map(|allowed| allowed.contains(&WRITE)),
                settings: None,
            }
        });
        facts.topics.insert(name, topic);
    }
    if kafka.ask_limits && !there.is_empty() {
        for (name, settings) in client.settings(&config, &there) {
            if let Some(Ok(topic)) = facts.topics.get_mut(&name) {
                topic.settings = Some(settings);
            }
        }
    }
    if let Some(brokers) = client.brokers(there.first().map(String::as_str)) {
        facts.brokers = brokers.len();
        facts.unreachable = unreachable(&brokers, client.left().unwrap_or_default());
    }
    Ok(facts)
}

/// The addresses that nobody answers at. Without any time left, none is tried.
fn unreachable(brokers: &[(String, u16)], left: Duration) -> Vec<String> {
    if left.is_zero() {
        return Vec::new();
    }
    let answers = |(host, port): &(String, u16)| {
        let addresses = (host.as_str(), *port).to_socket_addrs();
        let limit = CONNECT_TIMEOUT.min(left);
        addresses.is_ok_and(|mut found| {
            found.any(|address| TcpStream::connect_timeout(&address, limit).is_ok())
        })
    };
    std::thread::scope(|scope| {
        let tried = brokers.iter().take(BROKERS_TRIED);
        let tried: Vec<_> =
            tried.map(|broker| (broker, scope.spawn(move || answers(broker)))).collect();
        let silent = tried.into_iter().filter_map(|((host, port), attempt)| {
            let answers = attempt.join().unwrap_or(true);
            (!answers).then(|| format!("{host}:{port}"))
        });
        silent.collect()
    })
}

/// What the client had to complain about.
#[derive(Debug, Default)]
struct Complaints {
    tls: Option<NoContact>,
    login: Option<NoContact>,
    other: Option<NoContact>,
    /// When the first of them came.
    since: Option<Instant>,
}

/// Keeps the complaints.
struct Listening(Arc<Mutex<Complaints>>);

impl ClientContext for Listening {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        log(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log(&error.to_string(), reason);
        let mut complaints = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.since.get_or_insert_with(Instant::now);
        let code = error.rdkafka_error_code();
        // Follows each of the others, and says nothing of its own.
        if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            return;
        }
        let contact = no_contact(code, reason);
        let place = match contact {
            NoContact::Tls(_) => &mut complaints.tls,
            NoContact::Login(_) => &mut complaints.login,
            NoContact::Config(_) | NoContact::Unreachable(_) => &mut complaints.other,
        };
        place.get_or_insert(contact);
    }
}

impl ProducerContext for Listening {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// A client that only asks.
struct Asking {
    client: BaseProducer<Listening>,
    complaints: Arc<Mutex<Complaints>>,
    deadline: Instant,
}

impl Asking {
    fn open(config: &ClientConfig, deadline: Instant) -> Result<Self, NoContact> {
        let complaints = Arc::default();
        let context = Listening(Arc::clone(&complaints));
        let client = BaseProducer::from_config_and_context(config, context)
            .map_err(|error| NoContact::Config(without_value(&error)))?;
        Ok(Self { client, complaints, deadline })
    }

    /// Serves the client's events. How long is left, if anything is.
    fn left(&self) -> Option<Duration> {
        self.client.poll(SERVE);
        let left = self.deadline.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// The same, as long as nobody has answered.
    fn left_for_contact(&self) -> Option<Duration> {
        let left = self.left()?;
        let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = complaints.since.map_or(Duration::ZERO, |since| since.elapsed());
        (waited < LAST_CHANCE).then_some(left)
    }

    /// Whether anybody answers.
    fn contact(&self) -> bool {
        while self.left_for_contact().is_some() {
            if self.client.client().fetch_cluster_id(Duration::from_millis(100)).is_some() {
                // What comes from now on is of the addresses that the brokers told us.
                self.complaints.lock().unwrap_or_else(PoisonError::into_inner).other = None;
                return true;
            }
        }
        false
    }

    /// Why nobody does: what says most.
    fn reason(&self) -> NoContact {
        let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let Complaints { tls, login, other, .. } = &*complaints;
        let told = login.as_ref().or(tls.as_ref()).or(other.as_ref()).cloned();
        told.unwrap_or_else(|| NoContact::Unreachable("no answer in time".to_owned()))
    }

    fn describe(&self, topics: &[String]) -> Result<Vec<Described>, NoContact> {
        let described = describe(self.client.client(), topics, || self.left());
        described.map_err(|error| {
            let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(NoContact::Unreachable(reason)) = &complaints.other else {
                return NoContact::Unreachable(error);
            };
            NoContact::Unreachable(format!(
                "it answers, and sends its clients to an address that does not \
                 (advertised.listeners): {reason}"
            ))
        })
    }

    /// The addresses of the brokers, as they tell them with a topic. Asking for all topics would be
    /// dear, and for a missing one could create it.
    fn brokers(&self, topic: Option<&str>) -> Option<Vec<(String, u16)>> {
        let metadata = self.client.client().fetch_metadata(Some(topic?), self.left()?).ok()?;
        let address = |broker: &rdkafka::metadata::MetadataBroker| {
            Some((broker.host().to_owned(), u16::try_from(broker.port()).ok()?))
        };
        Some(metadata.brokers().iter().filter_map(address).collect())
    }

    /// The topics' settings, of those whose settings we may see.
    fn settings(
        &self,
        config: &ClientConfig,
        topics: &[String],
    ) -> Vec<(String, BTreeMap<String, String>)> {
        let mut found = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (Ok(runtime), Ok(admin)) = (runtime, config.create::<AdminClient<_>>()) else {
            return found;
        };
        for topics in topics.chunks(TOPICS_AT_ONCE) {
            let Some(left) = self.left() else { break };
            let options = AdminOptions::new().request_timeout(Some(left));
            let asked: Vec<_> =
                topics.iter().map(|name| ResourceSpecifier::Topic(name.as_str())).collect();
            let answer = admin.describe_configs(&asked, &options);
            let answer = runtime.block_on(async { tokio::time::timeout(left, answer).await });
            let resources = answer.ok().and_then(Result::ok).unwrap_or_default();
            for resource in resources.into_iter().flatten() {
                let OwnedResourceSpecifier::Topic(name) = resource.specifier else { continue };
                let entries = resource.entries.into_iter();
                let settings = entries.filter_map(|entry| Some((entry.name, entry.value?)));
                let settings: BTreeMap<_, _> = settings.collect();
                // Of a topic whose settings we may not see, the crate says that it has none.
                if !settings.is_empty() {
                    found.push((name, settings));
                }
            }
        }
        found
    }
}
