//! The sink for Redis Streams against a real server: what an entry is, its order, and that nothing comes
//! twice.

use outboxd::lsn::{Lsn, Position};
use outboxd::outbox::HeaderList;
use outboxd::sink::{EventRef, Parcel, SendError, SinkError};

use crate::support::redis::{Hand, TempRedis, event_id, event_ids};

#[tokio::test]
async fn an_entry_has_the_events_fields_and_its_headers() {
    let redis = TempRedis::start(&[]).await;
    let mut hand = Hand::to(&redis.config(), "entries").await;
    let mut headers = HeaderList::default();
    for (name, value) in [
        ("event_id", Some(event_id(1))),
        ("key", Some("a header's own".to_owned())),
        ("traceparent", Some("00-ab".to_owned())),
        ("none", None),
    ] {
        headers.add(name, value.as_deref());
    }
    let value = b"{\"n\": 1,\r\n \"bytes\": \"\xc3\xa9\"}".to_vec();
    let parcel = Parcel {
        key: Some(b"k"[..].into()),
        value: Some(value.clone().into()),
        headers,
        ..Parcel::default()
    };
    let id = event_id(1);
    let position = Some(Position { commit: Lsn::from_wire(0x16_B374_D848), index: 2 });
    let event = EventRef { id: &id, event_type: Some("T"), position, is_redelivery: false };
    hand.send_parcel("entries", &parcel, event, 1).unwrap();
    // A tombstone without anything that need not be.
    let (bare, bare_id) = (Parcel::default(), event_id(2));
    let event = EventRef { id: &bare_id, ..EventRef::default() };
    hand.send_parcel("entries", &bare, event, 2).unwrap();
    hand.wait_for(2).await;
    let expected = [
        ("event_id", id.as_str()),
        ("event_type", "T"),
        ("key", "k"),
        ("data", std::str::from_utf8(&value).unwrap()),
        ("position", "16/B374D848/2"),
        ("header:key", "a header's own"),
        ("traceparent", "00-ab"),
        ("none", ""),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let bare = vec![("event_id".to_owned(), bare_id.clone())];
    assert_eq!(redis.entries("entries"), [expected.to_vec(), bare]);
    // An operator's wish is no duplicate, and is not taken for one by what follows.
    let again = EventRef { id: &id, is_redelivery: true, ..EventRef::default() };
    hand.send_parcel("entries", &parcel, again, 3).unwrap();
    hand.send_parcel("entries", &parcel, EventRef { is_redelivery: false, ..again }, 4).unwrap();
    hand.wait_for(4).await;
    assert_eq!(redis.ids("entries"), [id.clone(), bare_id, id]);
    hand.close().await;
}

#[tokio::test]
async fn all_of_a_stream_is_in_one_order_and_sessions_repeat_nothing() {
    let redis = TempRedis::start(&[]).await;
    let (config, all) = (redis.config(), 20_000);
    let (mut safe, mut sessions) = (0, 0);
    // Each session ends in the middle, without a word, and the next begins at what is not known to be safe.
    while safe < all {
        let mut hand = Hand::to(&config, "order").await;
        sessions += 1;
        hand.send("order", safe..all.min(safe + 6000)).await;
        let wanted = 1500.min(usize::try_from(all - safe).unwrap());
        hand.until("some", |hand| hand.delivered.len() >= wanted).await;
        // In order: so there is no gap among the delivered.
        let next = safe + hand.delivered.len() as u64;
        assert!((safe..next).all(|number| hand.delivered.contains(&number)));
        safe = next;
        drop(hand);
    }
    assert!(sessions > 2, "{sessions}");
    let mut hand = Hand::to(&config, "order").await;
    // Of what was sent in all, the last ten thousand and more are known.
    hand.send("order", all - 10_000..all).await;
    hand.wait_for(10_000).await;
    assert!(redis.ids("order") == event_ids(0..all), "not all, not once, or not in order");
    hand.close().await;
}

#[tokio::test]
async fn two_relays_may_write_to_one_stream_and_one_id_is_theirs() {
    let redis = TempRedis::start(&[]).await;
    let mut other = redis.config();
    other.relay_id = "other".to_owned();
    let mut first = Hand::to(&redis.config(), "shared").await;
    let mut second = Hand::to(&other, "shared").await;
    for round in 0..20 {
        first.send("shared", round * 10..round * 10 + 10).await;
        second.send("shared", 1000 + round * 10..1000 + round * 10 + 10).await;
    }
    first.wait_for(200).await;
    second.wait_for(200).await;
    let ids = redis.ids("shared");
    let of = |numbers: std::ops::Range<u64>| {
        let wanted = event_ids(numbers);
        (ids.iter().filter(|id| wanted.contains(id)).cloned().collect::<Vec<_>>(), wanted)
    };
    let ((first_ids, first_wanted), (second_ids, second_wanted)) = (of(0..200), of(1000..1200));
    assert_eq!((first_ids, second_ids), (first_wanted, second_wanted));
    // Both of one id, as a zombie and its successor: each goes on, nothing is lost, nothing comes twice.
    let mut zombie = Hand::to(&redis.config(), "shared").await;
    zombie.send("shared", 200..400).await;
    first.send("shared", 200..400).await;
    zombie.wait_for(200).await;
    first.wait_for(400).await;
    let ids: Vec<_> = redis.ids("shared").split_off(400);
    assert_eq!(ids, event_ids(200..400));
}

#[tokio::test]
async fn what_is_too_large_is_told_before_it_is_sent() {
    let redis = TempRedis::start(&["--proto-max-bulk-len", "1mb"]).await;
    let mut hand = Hand::to(&redis.config(), "large").await;
    let limit = hand.topics["large"].clone().unwrap().max_message_bytes;
    assert_eq!(limit, Some(1 << 20));
    let refused = hand.try_send("large", 1, 1 << 20);
    assert!(
        matches!(refused, Err(SendError::Refused(SinkError::TooLarge { limit: 1_048_576, .. }))),
        "{refused:?}"
    );
    for number in 2..6 {
        hand.try_send("large", number, (1 << 20) - 100).unwrap();
    }
    hand.wait_for(4).await;
    assert_eq!(redis.ids("large"), event_ids(2..6));
    hand.close().await;
}

#[tokio::test]
async fn a_key_of_another_type_stops_only_its_stream() {
    let redis = TempRedis::start(&[]).await;
    let mut hand = Hand::to(&redis.config(), "other").await;
    hand.may_send("stream").await;
    hand.send("stream", 0..10).await;
    hand.wait_for(10).await;
    // Somebody puts something else in its place while records are on their way.
    redis.cli(&["DEL", "stream"]);
    redis.cli(&["SET", "stream", "text"]);
    hand.send("stream", 10..20).await;
    hand.send("other", 20..30).await;
    hand.until("both", |hand| hand.delivered.len() == 20 && hand.failed.len() == 10).await;
    assert_eq!(redis.ids("other"), event_ids(20..30));
    for (place, (number, error)) in hand.failed.iter().enumerate() {
        assert_eq!(*number, 10 + place as u64, "in order");
        assert!(
            matches!(error, SinkError::WrongTopic(said) if said.contains("WRONGTYPE")),
            "{error}"
        );
    }
    let looked = hand.look_up("stream").await;
    assert!(
        matches!(&looked, Err(SinkError::WrongTopic(said)) if said.contains("string")),
        "{looked:?}"
    );
    assert!(hand.reachable.iter().all(Result::is_ok), "nothing is wrong with the server");
    redis.cli(&["DEL", "stream"]);
    hand.may_send("stream").await;
    hand.failed.clear();
    hand.send("stream", 10..20).await;
    hand.wait_for(30).await;
    assert_eq!(redis.ids("stream"), event_ids(10..20));
    hand.close().await;
}
