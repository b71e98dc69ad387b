//! Topics: by type, by the row, by a pattern, by a template; and those that are not allowed.

use super::*;

fn routed(change: impl FnOnce(&mut RouteConfig), table: Table) -> Result<String, MapError> {
    let mut table = table;
    change(&mut table.config.route);
    table.map().map(|published| published.topic)
}

fn topic(change: impl FnOnce(&mut RouteConfig)) -> Result<String, MapError> {
    routed(change, Table::ours())
}

fn by_type(config: &mut RouteConfig) {
    config.map = [("OrderCreated".to_owned(), "orders.v1".to_owned())].into();
}

#[test]
fn the_event_type_comes_first() {
    assert_eq!(topic(by_type), Ok("orders.v1".to_owned()));
    let named = || Table::ours().with("topic", Some("row.topic"));
    assert_eq!(routed(by_type, named()), Ok("orders.v1".to_owned()));
    let paid = || named().with("event_type", Some("OrderPaid"));
    assert_eq!(routed(by_type, paid()), Ok("row.topic".to_owned()));
    assert_eq!(
        routed(by_type, paid().with("topic", None)),
        Ok("outbox.order".to_owned()),
        "the others say where it goes"
    );
}

#[test]
fn an_unmapped_type_is_an_error_not_a_guess_where_that_is_said() {
    let only = |config: &mut RouteConfig| {
        by_type(config);
        config.only_mapped = true;
    };
    assert_eq!(topic(only), Ok("orders.v1".to_owned()));
    let paid = Table::ours().with("event_type", Some("OrderPaid")).with("topic", Some("t"));
    assert_eq!(routed(only, paid), Err(MapError::Unmapped));
    assert_eq!(routed(only, Table::ours().with("event_type", None)), Err(MapError::Unmapped));
}

#[test]
fn a_pattern_takes_the_place_of_the_default() {
    let pattern = |regex: &str, replacement: &str| {
        let (regex, replacement) = (regex.to_owned(), replacement.to_owned());
        move |config: &mut RouteConfig| (config.regex, config.replacement) = (regex, replacement)
    };
    let debezium = || pattern("(?<routedByValue>.*)", "outbox.event.${routedByValue}");
    assert_eq!(topic(debezium()), Ok("outbox.event.order".to_owned()));
    assert_eq!(
        routed(debezium(), Table::ours().with("topic", Some("own"))),
        Ok("own".to_owned()),
        "a row that names its topic wins"
    );
    assert_eq!(topic(pattern("(.*)-(v1)", "$1")), Ok("order".to_owned()), "no match");
    let none = Table::ours().with("aggregate_type", None);
    assert_eq!(routed(debezium(), none), Err(MapError::NoTopic));
    let by_column = |config: &mut RouteConfig| {
        debezium()(config);
        config.by = "seq".to_owned();
    };
    assert_eq!(topic(by_column), Ok("outbox.event.17".to_owned()), "by any column");
    let mut unknown = Table::ours();
    debezium()(&mut unknown.config.route);
    unknown.config.route.by = "nope".to_owned();
    assert_eq!(
        unknown.problems(),
        ["route.by: \"nope\" is neither a field of the event nor a column of the table"]
    );
}

#[test]
fn only_what_is_allowed_is_a_topic() {
    let allow = |patterns: &[&str]| {
        let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        move |config: &mut RouteConfig| config.allow = patterns
    };
    assert_eq!(
        topic(allow(&["identity\\..*", "outbox\\.(order|user)"])),
        Ok("outbox.order".to_owned())
    );
    assert_eq!(topic(allow(&["^outbox\\.order$"])), Ok("outbox.order".to_owned()));
    for not in ["outbox", "order", "outbox.orde", "utbox.order"] {
        assert_eq!(topic(allow(&[not])), Err(MapError::NotAllowed), "{not}");
    }
    let mut table = Table::ours();
    allow(&["other"])(&mut table.config.route);
    misfit(&table, MapError::NotAllowed, |misfit| assert_eq!(misfit.topic, None));
}

#[test]
fn a_name_that_is_refused_is_told_by_the_rule_of_its_sink() {
    for (names, bad, said) in [
        (TopicNames::Kafka, "a:b", "Kafka takes: 1 to 249 of A-Z a-z 0-9 . _ -"),
        (
            TopicNames::Redis,
            "a\nb",
            "Redis takes: 1 to 512 bytes of text, without control characters",
        ),
        (TopicNames::Nats, "a..b", "NATS takes: 1 to 249 of visible ASCII, without * and >"),
    ] {
        let of =
            |topic| routed(|config| config.names = names, Table::ours().with("topic", Some(topic)));
        assert_eq!(of("a.b"), Ok("a.b".to_owned()));
        let refused = of(bad).unwrap_err();
        assert_eq!(refused, MapError::BadTopic(names));
        let text = refused.to_string();
        assert!(text.starts_with(&format!("the topic is not a name that {said}")), "{text}");
    }
}
