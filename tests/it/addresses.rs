//! Where PostgreSQL can be: Unix sockets, IPv6, several hosts.

use std::net::TcpListener;

use outboxd::demo::TempPostgres;

use crate::support::database::Database;
use crate::support::pg_bin;
use crate::support::records::Kafka;
use crate::support::stage::Stage;

/// Relays some events through this URL, from the first connection to a stop that repeats nothing.
async fn relays_through(stage: &Stage, url: &str) {
    let relay = stage.options().set("postgres.url", url).start_ready().await;
    stage.workload.write(&stage.database, 200).await;
    stage.check(0).await;
    assert_eq!(relay.stop().await, 0, "{url}");
}

#[tokio::test]
async fn a_unix_socket_is_an_address_in_both_forms_of_a_url() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "socket").await;
    let stage = Stage::at(database, Kafka::shared(), "socket", 10).await;
    let (directory, port) = (server.socket_directory().display(), server.port());
    let name = &stage.database.name;
    // The certificates of TCP do not matter here, whatever is asked for.
    let url =
        format!("postgres:///{name}?host={directory}&port={port}&user=postgres&sslmode=require");
    relays_through(&stage, &url).await;
    let pairs = format!("host={directory} port={port} user=postgres dbname={name}");
    relays_through(&stage, &pairs).await;
    let local = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'outboxd%' \
                 AND client_addr IS NOT NULL";
    assert_eq!(stage.database.count(local).await, 0);
}

#[tokio::test]
async fn of_several_hosts_the_one_that_answers_is_taken() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "hosts").await;
    let stage = Stage::at(database, Kafka::shared(), "hosts", 10).await;
    let nobody = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let (port, name) = (server.port(), &stage.database.name);
    let url = format!("postgres://postgres@127.0.0.1:{nobody},127.0.0.1:{port}/{name}");
    relays_through(&stage, &url).await;
}

/// Where the machine has no IPv6, the address is named in the refusal at least.
#[tokio::test]
async fn an_ipv6_address_stands_in_brackets() {
    let has_ipv6 = TcpListener::bind(("::1", 0)).is_ok();
    let settings = [("listen_addresses", "127.0.0.1,::1")];
    let server = TempPostgres::start(&pg_bin(), if has_ipv6 { &settings } else { &[] }).unwrap();
    let database = Database::new_at(&server.url("postgres"), "ipv6").await;
    let stage = Stage::at(database, Kafka::shared(), "ipv6", 10).await;
    let (port, name) = (server.port(), &stage.database.name);
    let url = format!("postgres://postgres@[::1]:{port}/{name}");
    if has_ipv6 {
        relays_through(&stage, &url).await;
        return;
    }
    let options = stage.options().set("postgres.url", &url);
    let (code, _, said) = options.command_output(&["status"]);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains(&format!("[::1]:{port}")), "{said}");
}
