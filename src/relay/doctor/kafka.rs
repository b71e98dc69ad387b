//! Kafka: whether it lets us in, and whether each topic is there, ours to write to, and as safe as the
//! relay's promises assume.

use std::time::Duration;

use super::super::RelayConfig;
use super::super::finding::Finding;
use super::topics::{Known, Topics, Use};
use super::{AROUND, Entrance};
use crate::failure::Code;
use crate::outbox::RecordTimestamp;
use crate::sink::{ClusterFacts, KafkaConfig, NoContact, SinkError, SinkName, TopicFacts, look};

/// Looks at Kafka, for about as long as that.
pub(super) async fn examine(
    kafka: &KafkaConfig,
    config: &RelayConfig,
    topics: &Topics,
    within: Duration,
) -> Vec<Finding> {
    let used = topics.all(config);
    let names: Vec<_> = used.keys().cloned().collect();
    let facts = match look(kafka, &names, within).await {
        Ok(facts) => facts,
        Err(reason) => return vec![no_contact(&reason, kafka)],
    };
    let mut findings = brokers(&facts, kafka);
    let mut unseen = Vec::new();
    for (name, used) in &used {
        let Some(found) = facts.topics.get(name) else { continue };
        let topic = Topic { name, used, kafka, config };
        match found {
            Ok(found) => {
                findings.extend(topic.judge(found, facts.brokers, topics.payload_limit));
                if found.settings.is_none() && kafka.ask_limits {
                    unseen.push(name.as_str());
                }
            }
            Err(error) => findings.extend(topic.not_there(error)),
        }
    }
    findings.extend(settings_unseen(&unseen, kafka));
    findings
}

fn no_contact(reason: &NoContact, kafka: &KafkaConfig) -> Finding {
    let servers = &kafka.bootstrap_servers;
    let entrance = Entrance {
        sink: SinkName::KAFKA,
        address: servers,
        tls: [
            "a TLS connection, with a certificate that is valid for the broker's name",
            &format!(
                "correct security.protocol, ssl.ca.location or ssl.certificate.location in \
                 kafka.properties; see: openssl s_client -connect {servers} </dev/null"
            ),
        ],
        login: [
            "a login that the brokers take",
            "correct sasl.mechanism, sasl.username or sasl.password in kafka.properties; or set the \
             password: kafka-configs.sh --alter --entity-type users --entity-name … --add-config \
             'SCRAM-SHA-512=[password=…]'",
        ],
    };
    entrance.closed(reason)
}

/// Brokers tell their clients an address each, which need not be one that we can reach.
fn brokers(facts: &ClusterFacts, kafka: &KafkaConfig) -> Vec<Finding> {
    let finding = |address: &String| {
        let observed = format!(
            "{address}: nobody answers at this address, which the brokers tell their clients; {} \
             answers",
            kafka.bootstrap_servers
        );
        let required = "an address that the relay can reach";
        let fix = "start that broker, or correct its advertised.listeners";
        Finding::error(Code::SinkUnavailable, "broker", observed, required, fix)
    };
    // With another one left, the partitions that it leads go on there.
    let is_all = facts.unreachable.len() == facts.brokers;
    let findings = facts.unreachable.iter().map(finding);
    findings.map(|finding| if is_all { finding } else { finding.warning() }).collect()
}

fn settings_unseen(names: &[&str], kafka: &KafkaConfig) -> Option<Finding> {
    let first = names.first()?;
    let observed = format!(
        "the settings of {} cannot be seen: the usual size limit is assumed, and what puts records at \
         risk is not known",
        named(names)
    );
    let fix = format!(
        "kafka-acls.sh --bootstrap-server {} --add --allow-principal {} --operation DescribeConfigs \
         --topic {first}",
        kafka.bootstrap_servers,
        principal(kafka)
    );
    let required = "DescribeConfigs on the topics";
    let finding = Finding::error(Code::TopicDenied, "settings of topics", observed, required, fix);
    Some(finding.warning())
}

/// Whom Kafka takes the relay for: known where it logs in by name.
fn principal(kafka: &KafkaConfig) -> String {
    let name = kafka.properties.get("sasl.username").map_or("…", String::as_str);
    format!("User:{name}")
}

/// Some names of many.
fn named(names: &[&str]) -> String {
    let shown: Vec<_> = names.iter().take(5).copied().collect();
    let more = names.len() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// A topic, and what it is for.
struct Topic<'a> {
    name: &'a str,
    used: &'a Use,
    kafka: &'a KafkaConfig,
    config: &'a RelayConfig,
}

impl Topic<'_> {
    fn is_for_letters(&self) -> bool {
        self.used.known == Known::DeadLetters
    }

    fn title(&self) -> String {
        self.used.title("topic", self.name)
    }

    fn risky(&self, observed: String, required: &str, fix: String) -> Finding {
        let title = self.title();
        Finding::error(Code::TopicRisky, &title, observed, required, fix).warning()
    }

    fn tool(&self, name: &str) -> String {
        format!("{name} --bootstrap-server {}", self.kafka.bootstrap_servers)
    }

    fn alter(&self, setting: &str) -> String {
        format!(
            "{} --alter --entity-type topics --entity-name {} --add-config {setting}",
            self.tool("kafka-configs.sh"),
            self.name
        )
    }

    fn not_there(&self, error: &SinkError) -> Option<Finding> {
        let title = self.title();
        Some(match error {
            SinkError::TopicMissing | SinkError::NotCreated(_) => {
                let shape = self.kafka.create_topics;
                if shape.is_some() {
                    return None;
                }
                let observed = match self.used.known {
                    Known::Routed => "it does not exist: its events are held",
                    Known::DeadLetters => {
                        "it does not exist: the key of a dead letter waits for it"
                    }
                    Known::Former => "it does not exist any more",
                };
                let partitions = if self.is_for_letters() { 1 } else { 6 };
                let fix = format!(
                    "{} --create --topic {} --partitions {partitions}",
                    self.tool("kafka-topics.sh"),
                    self.name
                );
                let code = Code::TopicMissing;
                self.used.weigh(Finding::error(code, &title, observed, "a topic of that name", fix))
            }
            SinkError::TopicDenied => self.denied("the relay may not see it"),
            other => {
                let code = match other {
                    SinkError::Unavailable(_) => Code::SinkUnavailable,
                    _ => Code::EventRefused,
                };
                let observed = other.to_string();
                self.used.weigh(Finding::error(code, &title, observed, "a topic", code.remedy()))
            }
        })
    }

    fn denied(&self, observed: &str) -> Finding {
        let fix = format!(
            "{} --add --allow-principal {} --operation Write --operation Describe --operation \
             DescribeConfigs --topic {}",
            self.tool("kafka-acls.sh"),
            principal(self.kafka),
            self.name
        );
        let required = "Write and Describe on the topic";
        self.used.weigh(Finding::error(Code::TopicDenied, &self.title(), observed, required, fix))
    }

    fn judge(&self, found: &TopicFacts, brokers: usize, largest: Option<usize>) -> Vec<Finding> {
        let mut findings = Vec::new();
        if found.may_write == Some(false) {
            findings.push(self.denied("the relay may not write to it"));
        }
        findings.extend(self.partitions(found));
        findings.extend(self.replication(found, brokers));
        findings.extend(self.size(found, largest));
        if found.text("unclean.leader.election.enable") == Some("true") {
            let observed =
                "unclean.leader.election.enable = true: a broker that was away can become \
                            leader, and takes back records that were acknowledged"
                    .to_owned();
            let fix = self.alter("unclean.leader.election.enable=false");
            findings.push(self.risky(observed, "false", fix));
        }
        let is_compacted =
            found.text("cleanup.policy").is_some_and(|policy| policy.contains("compact"));
        if self.is_for_letters() && is_compacted {
            let observed =
                "cleanup.policy = compact: of the dead letters of a key only the last stays"
                    .to_owned();
            findings.push(self.risky(observed, "delete", self.alter("cleanup.policy=delete")));
        }
        let is_stamped = self.config.events.record_timestamp != RecordTimestamp::Publish;
        if is_stamped && found.text("message.timestamp.type") == Some("LogAppendTime") {
            let observed =
                "message.timestamp.type = LogAppendTime: what envelope.record_timestamp says \
                            is not what consumers see"
                    .to_owned();
            let fix = self.alter("message.timestamp.type=CreateTime");
            findings.push(self.risky(observed, "CreateTime", fix));
        }
        findings
    }

    fn partitions(&self, found: &TopicFacts) -> Vec<Finding> {
        let mut findings = Vec::new();
        let count = found.partitions;
        if let Some(known) = self.used.partitions.filter(|known| *known != count) {
            let observed = format!(
                "it has {count} partitions, and had {known}: keys would go to others than before, so \
                 its events are held"
            );
            let fix = format!("if that is meant: outboxd resume --topic {}", self.name);
            let (code, title) = (Code::PartitionsChanged, self.title());
            let finding = Finding::error(code, &title, observed, "as many as before", fix);
            findings.push(self.used.weigh(finding));
        }
        let least = found.number("min.insync.replicas").unwrap_or(1);
        let has_enough = found.in_sync >= least || least > found.replicas;
        if !found.leaderless.is_empty() || !has_enough {
            let observed = match found.leaderless.as_slice() {
                [] => format!(
                    "{} replicas are in sync, min.insync.replicas is {least}: nothing is acknowledged",
                    found.in_sync
                ),
                without => format!("{} of {count} partitions have no leader", without.len()),
            };
            let fix = "start the brokers that are away";
            let (code, title) = (Code::SinkUnavailable, self.title());
            let finding = Finding::error(code, &title, observed, "brokers that can write", fix);
            findings.push(self.used.weigh(finding));
        }
        findings
    }

    /// Acknowledged means: by as many replicas as `min.insync.replicas` says. A cluster of one broker
    /// has no other to ask.
    fn replication(&self, found: &TopicFacts, brokers: usize) -> Option<Finding> {
        let (least, replicas) = (found.number("min.insync.replicas")?, found.replicas);
        let fix = |least: usize| self.alter(&format!("min.insync.replicas={least}"));
        if least > replicas {
            let observed = format!(
                "min.insync.replicas = {least} with {replicas} replicas: no record is ever taken"
            );
            let fix = fix(replicas.min(2));
            let title = self.title();
            let required = "no more than there are replicas";
            let finding = Finding::error(Code::TopicRisky, &title, observed, required, fix);
            return Some(self.used.weigh(finding));
        }
        if replicas >= 2 && least < 2 {
            let observed = format!(
                "min.insync.replicas = {least} with {replicas} replicas: a record counts as safe when \
                 one broker has it, and is lost with that one"
            );
            return Some(self.risky(observed, "2", fix(2)));
        }
        if replicas == 1 && brokers >= 2 {
            let observed = format!(
                "one of {brokers} brokers keeps its records, and they are lost with that one"
            );
            let fix = format!(
                "{} --reassignment-json-file … --execute, with 3 replicas; then {}",
                self.tool("kafka-reassign-partitions.sh"),
                fix(2)
            );
            return Some(self.risky(observed, "3 replicas, min.insync.replicas = 2", fix));
        }
        None
    }

    fn size(&self, found: &TopicFacts, largest: Option<usize>) -> Option<Finding> {
        let (limit, largest) = (found.number("max.message.bytes")?, largest?);
        if largest <= limit {
            return None;
        }
        let observed = format!(
            "max.message.bytes = {limit}, and the table takes payloads of {largest} bytes: what lies \
             between is committed, and {}",
            if self.is_for_letters() {
                "its dead letter comes without its value"
            } else {
                "fails and holds up its key"
            }
        );
        let fix = self.alter(&format!("max.message.bytes={}", largest + AROUND));
        Some(self.risky(observed, "at least what the outbox takes", fix))
    }
}
