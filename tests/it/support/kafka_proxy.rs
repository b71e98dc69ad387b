//! A proxy that understands enough of Kafka's protocol to put errors into answers to Produce.
//!
//! Clients find brokers by the addresses in Metadata answers; the proxy puts its own ports there,
//! so it can stand before any broker of loopback. A request is refused without the broker having
//! seen it, or its answer is replaced after the broker has appended it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::proxy::{Conversation, Proxy, listener};
use super::records::Kafka;

/// The errors that a broker can answer a Produce with, by Kafka's numbers.
pub mod code {
    pub const CORRUPT_MESSAGE: i16 = 2;
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub const NOT_LEADER: i16 = 6;
    pub const REQUEST_TIMED_OUT: i16 = 7;
    pub const MESSAGE_TOO_LARGE: i16 = 10;
    pub const INVALID_TOPIC: i16 = 17;
    pub const RECORD_LIST_TOO_LARGE: i16 = 18;
    pub const NOT_ENOUGH_REPLICAS: i16 = 19;
    pub const NOT_ENOUGH_REPLICAS_AFTER_APPEND: i16 = 20;
    pub const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
    pub const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
    pub const INVALID_TIMESTAMP: i16 = 32;
    pub const UNSUPPORTED_FOR_MESSAGE_FORMAT: i16 = 43;
    pub const INVALID_REQUEST: i16 = 42;
    pub const POLICY_VIOLATION: i16 = 44;
    pub const OUT_OF_ORDER_SEQUENCE: i16 = 45;
    pub const INVALID_PRODUCER_EPOCH: i16 = 47;
    pub const KAFKA_STORAGE_ERROR: i16 = 56;
    pub const UNKNOWN_PRODUCER_ID: i16 = 59;
    pub const INVALID_RECORD: i16 = 87;
}

/// An error in the place of an answer.
#[derive(Debug, Clone)]
pub struct Wrong {
    /// Which Produce requests: those whose records contain this; all where it is empty.
    pub marker: Vec<u8>,
    /// So many of them get the error.
    pub times: usize,
    pub code: i16,
    /// Whether the broker has appended them.
    pub appended: bool,
    /// The records of the batch that the broker blames; nothing blames the batch.
    pub blamed: Vec<i32>,
}

impl Wrong {
    /// Every Produce whose records contain `marker` is refused.
    pub fn refuse(marker: &str, code: i16) -> Self {
        let marker = marker.as_bytes().to_vec();
        Self { marker, times: usize::MAX, code, appended: false, blamed: Vec::new() }
    }

    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    pub fn blaming(mut self, records: &[i32]) -> Self {
        self.blamed = records.to_vec();
        self
    }

    /// The broker has taken it; only the answer is wrong.
    pub fn though_appended(mut self) -> Self {
        self.appended = true;
        self
    }
}

/// What is to go wrong, and what was seen.
#[derive(Debug, Default)]
struct Rules {
    wrongs: Vec<Wrong>,
    produced: usize,
    answered_wrong: usize,
}

/// Each broker's port, and the one that clients are told.
type Ports = Vec<(u16, u16)>;

/// A proxy before all brokers of a cluster.
pub struct KafkaProxy {
    pub proxy: Proxy,
    rules: Arc<Mutex<Rules>>,
    servers: String,
}

impl KafkaProxy {
    pub fn before(kafka: &Kafka) -> Self {
        Self::advertising(kafka, None)
    }

    /// The same before brokers that tell their clients another port than the proxy's.
    pub fn advertising(kafka: &Kafka, told: Option<u16>) -> Self {
        let port = |server: &str| server.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
        let routes: Vec<_> = kafka.servers.split(',').map(|s| (listener(), port(s))).collect();
        let ports = routes.iter().map(|(l, port)| (*port, l.local_addr().unwrap().port()));
        let mut ports: Ports = ports.collect();
        let servers: Vec<_> = ports.iter().map(|(_, ours)| format!("127.0.0.1:{ours}")).collect();
        for (_, ours) in &mut ports {
            *ours = told.unwrap_or(*ours);
        }
        let rules = Arc::new(Mutex::new(Rules::default()));
        let seen = Arc::clone(&rules);
        let interpreter = move || -> Box<dyn Conversation> {
            Box::new(Kafkaesque::new(Arc::clone(&seen), ports.clone()))
        };
        let proxy = Proxy::listening(routes, Arc::new(interpreter));
        Self { proxy, rules, servers: servers.join(",") }
    }

    /// The cluster, as it is found through the proxy.
    pub fn kafka(&self) -> Kafka {
        Kafka::at(self.servers.clone())
    }

    /// From now on this goes wrong, too.
    pub fn go_wrong(&self, wrong: Wrong) {
        self.rules.lock().unwrap().wrongs.push(wrong);
    }

    /// Nothing goes wrong any more.
    pub fn go_right(&self) {
        self.rules.lock().unwrap().wrongs.clear();
    }

    /// How many Produce requests there were.
    pub fn produced(&self) -> usize {
        self.rules.lock().unwrap().produced
    }

    /// How many of them got a wrong answer.
    pub fn answered_wrong(&self) -> usize {
        self.rules.lock().unwrap().answered_wrong
    }
}

const PRODUCE: i16 = 0;
const METADATA: i16 = 3;

/// One connection's requests and answers.
struct Kafkaesque {
    rules: Arc<Mutex<Rules>>,
    ports: Ports,
    said: Vec<u8>,
    answered: Vec<u8>,
    /// By correlation id: what to do with the answer.
    awaited: HashMap<i32, Answer>,
}

enum Answer {
    /// Instead of the broker's.
    Replaced(Vec<u8>),
    Metadata {
        version: i16,
    },
}

impl Kafkaesque {
    fn new(rules: Arc<Mutex<Rules>>, ports: Ports) -> Self {
        Self { rules, ports, said: Vec::new(), answered: Vec::new(), awaited: HashMap::new() }
    }

    /// The error that this Produce gets, if any.
    fn judge(&self, request: &[u8]) -> Option<Wrong> {
        let mut rules = self.rules.lock().unwrap();
        rules.produced += 1;
        let wrong = rules.wrongs.iter_mut().find(|wrong| {
            let marker = &wrong.marker;
            let is_meant = || request.windows(marker.len()).any(|bytes| bytes == marker);
            wrong.times > 0 && (marker.is_empty() || is_meant())
        })?;
        wrong.times -= 1;
        let wrong = wrong.clone();
        rules.answered_wrong += 1;
        Some(wrong)
    }
}

impl Conversation for Kafkaesque {
    fn said(&mut self, bytes: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
        self.said.extend(bytes);
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        for frame in frames(&mut self.said) {
            let mut cursor = Cursor { bytes: &frame[4..] };
            let (api, version, correlation) = (cursor.i16(), cursor.i16(), cursor.i32());
            match api {
                PRODUCE => {
                    if let Some(wrong) = self.judge(&frame) {
                        let answer = produce_answer(cursor, version, correlation, &wrong);
                        if !wrong.appended {
                            to_client.extend(answer);
                            continue;
                        }
                        self.awaited.insert(correlation, Answer::Replaced(answer));
                    }
                }
                METADATA => {
                    self.awaited.insert(correlation, Answer::Metadata { version });
                }
                _ => {}
            }
            to_server.extend(frame);
        }
        (to_server, to_client)
    }

    fn answered(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        self.answered.extend(bytes);
        let mut to_client = Vec::new();
        for mut frame in frames(&mut self.answered) {
            let correlation = Cursor { bytes: &frame[4..] }.i32();
            match self.awaited.remove(&correlation) {
                Some(Answer::Replaced(answer)) => to_client.extend(answer),
                Some(Answer::Metadata { version }) => {
                    readdress(&mut frame, version, &self.ports);
                    to_client.extend(frame);
                }
                None => to_client.extend(frame),
            }
        }
        to_client
    }
}

/// Takes the whole frames, with their lengths, from the front of `bytes`.
fn frames(bytes: &mut Vec<u8>) -> VecDeque<Vec<u8>> {
    let mut found = VecDeque::new();
    while bytes.len() >= 4 {
        let length = 4 + usize::try_from(Cursor { bytes }.i32()).unwrap();
        if bytes.len() < length {
            break;
        }
        let rest = bytes.split_off(length);
        found.push_back(std::mem::replace(bytes, rest));
    }
    found
}

/// The answer to a Produce of version 9 or later: this error for every partition in it.
fn produce_answer(
    mut request: Cursor<'_>,
    version: i16,
    correlation: i32,
    wrong: &Wrong,
) -> Vec<u8> {
    assert!((9..=12).contains(&version), "Produce {version} is not known here");
    request.old_text();
    request.tags();
    request.text();
    // Acknowledgements, and for how long to wait for them.
    request.i16();
    request.i32();
    let mut answer = Vec::new();
    answer.extend(correlation.to_be_bytes());
    answer.push(0);
    let topics = request.varint();
    put_varint(&mut answer, topics);
    for _ in 1..topics {
        let name = request.text();
        put_varint(&mut answer, name.len() + 1);
        answer.extend(name);
        let partitions = request.varint();
        put_varint(&mut answer, partitions);
        for _ in 1..partitions {
            answer.extend(request.i32().to_be_bytes());
            // The records.
            request.text();
            request.tags();
            answer.extend(wrong.code.to_be_bytes());
            // Offset, time of appending, first offset: none.
            answer.extend([0xFF; 24]);
            put_varint(&mut answer, wrong.blamed.len() + 1);
            for record in &wrong.blamed {
                answer.extend(record.to_be_bytes());
                // No message, no tags.
                answer.extend([0, 0]);
            }
            answer.extend([0, 0]);
        }
        request.tags();
        answer.push(0);
    }
    // Not throttled; no tags.
    answer.extend([0; 5]);
    let mut frame = i32::try_from(answer.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(answer);
    frame
}

/// Puts the proxy's ports in the place of the brokers'.
fn readdress(frame: &mut [u8], version: i16, ports: &Ports) {
    assert!((9..=13).contains(&version), "Metadata {version} is not known here");
    let length = frame.len();
    let mut cursor = Cursor { bytes: &frame[8..] };
    cursor.tags();
    // For how long we are throttled.
    cursor.i32();
    let mut places = Vec::new();
    for _ in 1..cursor.varint() {
        cursor.i32();
        cursor.text();
        places.push(length - cursor.bytes.len());
        // Port, rack.
        cursor.i32();
        cursor.text();
        cursor.tags();
    }
    for place in places {
        let port = &mut frame[place..place + 4];
        let theirs = i32::from_be_bytes((&*port).try_into().unwrap());
        let ours = ports.iter().find(|(known, _)| i32::from(*known) == theirs);
        let (_, ours) = ours.unwrap_or_else(|| panic!("a broker at port {theirs} is not known"));
        port.copy_from_slice(&i32::from(*ours).to_be_bytes());
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut number: usize) {
    while number > 0x7F {
        bytes.push(0x80 | (number & 0x7F) as u8);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Reads Kafka's types, as its versions since 2.4 write them.
struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(count);
        self.bytes = rest;
        taken
    }

    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn varint(&mut self) -> usize {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.take(1)[0];
            number |= usize::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return number;
            }
            shift += 7;
        }
    }

    /// Text or bytes; none is empty.
    fn text(&mut self) -> &'a [u8] {
        let length = self.varint().saturating_sub(1);
        self.take(length)
    }

    /// Text as request headers still have it.
    fn old_text(&mut self) {
        let length = usize::try_from(self.i16()).unwrap_or(0);
        self.take(length);
    }

    fn tags(&mut self) {
        for _ in 0..self.varint() {
            self.varint();
            let length = self.varint();
            self.take(length);
        }
    }
}
