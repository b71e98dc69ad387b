//! NATS: whether it lets us in, and whether the stream of each subject is there, takes what the outbox
//! can hold, and keeps it as safe as the relay's promises assume.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::RelayConfig;
use super::super::finding::Finding;
use super::topics::{Known, Topics, Use};
use super::{AROUND, Entrance};
use crate::failure::Code;
use crate::sink::nats::{NatsFacts, StreamFacts, look};
use crate::sink::{NatsConfig, NoContact, SinkError, SinkName};

/// How long a server that does not answer is waited for before its messages go again.
const LATE: Duration = Duration::from_secs(10);

/// Looks at NATS, for about as long as that.
pub(super) async fn examine(
    nats: &NatsConfig,
    config: &RelayConfig,
    topics: &Topics,
    within: Duration,
) -> Vec<Finding> {
    let used = topics.all(config);
    let names: Vec<_> = used.keys().cloned().collect();
    let facts = match look(nats, &names, within).await {
        Ok(facts) => facts,
        Err(reason) => return vec![no_contact(reason, nats)],
    };
    let mut findings: Vec<_> = payload(&facts, topics.payload_limit).into_iter().collect();
    let mut streams: BTreeMap<&str, Stream<'_>> = BTreeMap::new();
    for (name, used) in &used {
        let subject = Subject { name, used, nats };
        match facts.streams.get(name) {
            Some(Ok(found)) => {
                findings.extend(subject.closed(found));
                let stream = Stream { found, known: used.known, config };
                let stream = streams.entry(&found.name).or_insert(stream);
                stream.known = stream.known.max(used.known);
            }
            Some(Err(error)) => findings.extend(subject.not_there(error)),
            None => {}
        }
    }
    for stream in streams.values() {
        findings.extend(stream.judge(&facts, topics.payload_limit));
    }
    findings
}

/// The largest message of a server is that of all streams.
fn payload(facts: &NatsFacts, payload: Option<usize>) -> Option<Finding> {
    let payload = payload.filter(|payload| *payload >= facts.max_payload)?;
    let observed = format!(
        "max_payload = {} of the servers, with headers and envelope, and the table takes payloads of \
         {payload} bytes: what lies between is committed, fails and holds up its key",
        facts.max_payload
    );
    let fix = format!("max_payload: {} in the servers' configuration", payload + AROUND);
    let required = "more than what the outbox takes";
    Some(Finding::error(Code::TopicRisky, "NATS", observed, required, fix).warning())
}

fn no_contact(reason: NoContact, nats: &NatsConfig) -> Finding {
    let servers = nats.describe();
    let entrance = Entrance {
        sink: SinkName::NATS,
        address: &servers,
        tls: [
            "a TLS connection, with a certificate that is valid for the server's name",
            "correct nats.tls_ca, nats.tls_cert and nats.tls_key, or the name in nats.url",
        ],
        login: [
            "a login that the servers take",
            "correct nats.user and nats.password, nats.token or nats.credentials_file; the user needs \
             to publish to the subjects and to $JS.API.>, and to subscribe to _INBOX.>",
        ],
    };
    match reason {
        // The client does not say which server it is that it cannot use.
        NoContact::Config(text) => {
            entrance.closed(&NoContact::Config(format!("{servers}: {text}")))
        }
        reason => entrance.closed(&reason),
    }
}

/// A subject, and what it is for.
struct Subject<'a> {
    name: &'a str,
    used: &'a Use,
    nats: &'a NatsConfig,
}

impl Subject<'_> {
    fn title(&self) -> String {
        self.used.title("subject", self.name)
    }

    fn not_there(&self, error: &SinkError) -> Option<Finding> {
        let title = self.title();
        let (code, observed, required, fix) = match error {
            SinkError::TopicMissing | SinkError::NotCreated(_) => {
                if self.nats.create_streams.is_some() {
                    return None;
                }
                let observed = match self.used.known {
                    Known::Routed => "no stream takes it: its events are held",
                    Known::DeadLetters => {
                        "no stream takes it: the key of a dead letter waits for one"
                    }
                    Known::Former => "no stream takes it any more",
                };
                let stream = self.nats.stream.clone();
                let stream = stream.unwrap_or_else(|| self.name.replace('.', "_"));
                let fix = format!(
                    "nats stream add {stream} --subjects={} --storage=file --defaults; or set \
                     nats.create_streams",
                    self.name
                );
                (Code::TopicMissing, observed.to_owned(), "a stream with that subject", fix)
            }
            SinkError::TopicDenied => {
                let what = match &self.nats.stream {
                    Some(stream) => format!("$JS.API.STREAM.INFO.{stream}"),
                    None => "$JS.API.STREAM.NAMES and $JS.API.STREAM.INFO.*".to_owned(),
                };
                let observed = "the relay may not ask for its stream".to_owned();
                let fix = format!("let the user publish to {what}");
                (Code::TopicDenied, observed, "the right to ask for streams", fix)
            }
            SinkError::WrongTopic(problem) => {
                let fix = "correct the stream, or nats.stream".to_owned();
                (Code::TopicDenied, problem.clone(), "a stream that takes and acknowledges it", fix)
            }
            other => {
                let code = Code::SinkUnavailable;
                (code, other.to_string(), "an answer", code.remedy().to_owned())
            }
        };
        Some(self.used.weigh(Finding::error(code, &title, observed, required, fix)))
    }

    /// The stream is there, and takes nothing, or does not say that it does.
    fn closed(&self, stream: &StreamFacts) -> Option<Finding> {
        let name = &stream.name;
        let (observed, fix) = if stream.sealed {
            (format!("the stream {name} is sealed: it takes nothing"), "another stream".to_owned())
        } else if stream.no_ack {
            let observed = format!(
                "the stream {name} does not acknowledge (no_ack): nothing can be known to have arrived"
            );
            (observed, format!("nats stream edit {name} --ack"))
        } else {
            return None;
        };
        let required = "a stream that takes and acknowledges it";
        let finding = Finding::error(Code::TopicDenied, &self.title(), observed, required, fix);
        Some(self.used.weigh(finding))
    }
}

/// A stream, and the most that one of its subjects is for.
struct Stream<'a> {
    found: &'a StreamFacts,
    known: Known,
    config: &'a RelayConfig,
}

impl Stream<'_> {
    fn risky(&self, observed: String, required: &str, fix: String) -> Finding {
        let title = format!("stream {}", self.found.name);
        Finding::error(Code::TopicRisky, &title, observed, required, fix).warning()
    }

    fn edit(&self, setting: &str) -> String {
        format!("nats stream edit {} {setting}", self.found.name)
    }

    fn judge(&self, facts: &NatsFacts, payload: Option<usize>) -> Vec<Finding> {
        let mut findings = Vec::new();
        let again = |setting: &str| {
            let name = &self.found.name;
            format!("a stream in place of {name} with {setting}: it cannot be changed there")
        };
        if self.found.storage == "memory" {
            let observed = "storage = memory: what it has acknowledged is lost with its servers";
            findings.push(self.risky(observed.to_owned(), "file", again("--storage=file")));
        }
        if self.found.replicas < 2 {
            let alone = if facts.is_clustered { "" } else { ", which has no others beside it" };
            let observed =
                format!("one server keeps its messages, and they are lost with that one{alone}");
            let fix = match facts.is_clustered {
                true => self.edit("--replicas=3"),
                false => format!("a cluster of three servers; then {}", self.edit("--replicas=3")),
            };
            findings.push(self.risky(observed, "3 replicas", fix));
        }
        if self.found.retention != "limits" {
            let observed = format!(
                "retention = {}: it removes messages that its consumers have had, and with interest \
                 those that nobody waits for",
                self.found.retention
            );
            findings.push(self.risky(observed, "limits", again("--retention=limits")));
        }
        findings.extend(self.window());
        findings.extend(self.size(facts, payload));
        findings
    }

    /// A message that goes again is known by its id, as long as the stream remembers it.
    fn window(&self) -> Option<Finding> {
        let window = Duration::from_nanos(self.found.duplicate_window);
        let retry = self.config.flow.retry.backoff.wait(u32::MAX, 0.5);
        let needed = retry + self.config.reconnect.wait(u32::MAX, 0.5) + LATE;
        if window >= needed {
            return None;
        }
        let observed = format!(
            "duplicate_window = {window:?}: retry.max_backoff, relay.reconnect_max and a server that \
             does not answer take {needed:?} together, and what goes again later is there twice"
        );
        let fix = self.edit(&format!("--dupe-window={}s", needed.as_secs().max(120)));
        let required = format!("{needed:?}, and as long as an outage lasts");
        Some(self.risky(observed, &required, fix))
    }

    fn size(&self, facts: &NatsFacts, payload: Option<usize>) -> Option<Finding> {
        let (limit, payload) = (self.found.largest(facts.max_payload), payload?);
        // What the servers take is told once, of them.
        if payload < limit || limit == facts.max_payload {
            return None;
        }
        let observed = format!(
            "max_msg_size = {limit}, with headers and envelope, and the table takes payloads of \
             {payload} bytes: what lies between is committed, and {}",
            if self.known == Known::DeadLetters {
                "its dead letter comes without its value"
            } else {
                "fails and holds up its key"
            }
        );
        let fix = self.edit(&format!("--max-msg-size={}", payload + AROUND));
        Some(self.risky(observed, "more than what the outbox takes", fix))
    }
}
