//! Tests against real services: `dev/test` starts them and says where they are.

#![allow(unreachable_pub, missing_docs, reason = "nothing here is a library")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a test fails by panicking"
)]

mod addresses;
mod admin;
mod admin_rules;
mod adopted;
#[cfg(feature = "redis")]
mod adopted_redis;
mod built;
mod checks;
mod cleanup;
mod cleanup_ledger;
mod commands;
mod completions;
mod configuration;
mod conformance;
mod console;
mod console_acts;
mod consumers;
#[cfg(all(feature = "redis", feature = "nats"))]
mod consumers_streams;
mod danger;
mod deferred;
mod demo;
#[cfg(all(feature = "redis", feature = "nats"))]
mod deploy_compose;
mod deploy_image;
mod deploy_kubernetes;
mod deploy_systemd;
mod doctor;
mod doctor_hazards;
mod doctor_kafka;
mod effects;
mod embedding;
mod failed_then_sent;
mod failover;
mod failpoints;
mod faults_acl;
mod faults_held;
mod faults_kafka;
mod faults_operators;
mod faults_postgres;
mod faults_publication;
mod faults_relay;
mod faults_sinks;
mod faults_slot;
mod formats;
mod golden;
mod happy_path;
mod holding;
mod inbox;
mod kafka_outage;
mod keepalive;
mod large;
mod logs;
mod manual;
mod mapping;
mod messages;
mod messages_held;
mod metrics;
mod misfits;
mod nats_cluster;
mod nats_delivery;
mod nats_doctor;
mod nats_login;
mod nats_streams;
mod negative_control;
mod no_unsent_rows;
mod operators;
mod operators_e2e;
mod operators_http;
mod padded;
mod partitioned;
mod postgres_outage;
mod prometheus;
mod proxies;
mod publication;
mod reconcile;
mod records;
mod recovery;
#[cfg(feature = "redis")]
mod redis_access;
#[cfg(feature = "redis")]
mod redis_faults;
#[cfg(feature = "redis")]
mod redis_relay;
#[cfg(feature = "redis")]
mod redis_sink;
#[cfg(feature = "redis")]
mod redis_topologies;
mod reload;
mod resumption;
mod retry_in_sql;
mod retrying;
mod route_command;
mod routing;
mod scheduled;
mod sinks;
mod sinks_canary;
mod sinks_configured;
mod sinks_reload;
mod standby;
mod statuses;
mod support;
mod sweep;
mod tables;
mod takeover_debezium;
mod tls;
mod tls_kafka;
mod tls_kafka_canary;
mod tls_kafka_reload;
mod topics;
mod versions;
mod watch;
mod writing;
