//! What the brokers say of topics, and what our principal may do with each of them.
//!
//! librdkafka can ask for that in one request, which writes nothing and creates nothing. The crate
//! that we know it by has no such call, so this file makes it by the C interface: the only one that
//! does (docs/adr/0021). Everything that comes back is copied before it is given back.

#![allow(unsafe_code, reason = "calls into librdkafka, each with its reason")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::bindings as sys;
use rdkafka::client::Client;
use rdkafka::types::RDKafkaErrorCode;

/// A topic as the brokers describe it.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) name: String,
    pub(super) result: Result<Shape, RDKafkaErrorCode>,
}

/// How a topic lies on the brokers.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) partitions: Vec<PartitionShape>,
    /// What we may do with it, by Kafka's numbers; none where the brokers do not say.
    pub(super) allowed: Option<Vec<u32>>,
}

/// One partition.
#[derive(Debug)]
pub(super) struct PartitionShape {
    pub(super) has_leader: bool,
    pub(super) replicas: usize,
    pub(super) in_sync: usize,
}

/// The number of the right to write.
pub(super) const WRITE: u32 = sys::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE as u32;

/// How long one look at the queue of answers takes, so that events of the client are served, too.
const LOOK: Duration = Duration::from_millis(50);

/// Asks for these topics, once each. `meanwhile` is called again and again; it says how long is left.
pub(super) fn describe<C: ClientContext>(
    client: &Client<C>,
    topics: &[String],
    meanwhile: impl Fn() -> Option<Duration>,
) -> Result<Vec<Described>, String> {
    let names: Vec<_> = topics.iter().filter_map(|name| CString::new(name.as_str()).ok()).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let handle = client.native_ptr();
    // SAFETY: the names outlive the call, which copies them.
    let collection = unsafe {
        let made = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), names.len());
        Owned::new(made, sys::rd_kafka_TopicCollection_destroy)
    };
    // SAFETY: the client is borrowed, so it is there for as long as what is made of it here.
    let (options, queue) = unsafe {
        let api = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = sys::rd_kafka_AdminOptions_new(handle, api);
        let queue = sys::rd_kafka_queue_new(handle);
        let options = Owned::new(options, sys::rd_kafka_AdminOptions_destroy);
        (options, Owned::new(queue, sys::rd_kafka_queue_destroy))
    };
    let (Some(collection), Some(options), Some(queue)) = (collection, options, queue) else {
        return Err("librdkafka has no memory left".to_owned());
    };
    let limit = meanwhile().unwrap_or_default().max(LOOK);
    // SAFETY: all of them are alive; a refused option gives an error that is ours to free.
    unsafe {
        let (options, none) = (options.0.as_ptr(), std::ptr::null_mut());
        // Without this option the usual time holds, and the loop below ends before it.
        let _ = sys::rd_kafka_AdminOptions_set_request_timeout(options, millis(limit), none, 0);
        let refused = sys::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
        if !refused.is_null() {
            sys::rd_kafka_error_destroy(refused);
        }
        sys::rd_kafka_DescribeTopics(handle, collection.0.as_ptr(), options, queue.0.as_ptr());
    }
    let asked = Instant::now();
    while meanwhile().is_some() {
        // SAFETY: the queue is alive, and the event is ours.
        let event = unsafe {
            let event = sys::rd_kafka_queue_poll(queue.0.as_ptr(), millis(LOOK));
            Owned::new(event, sys::rd_kafka_event_destroy)
        };
        if let Some(event) = event {
            return read(&event);
        }
    }
    Err(format!("no answer within {:?}", Duration::from_secs(asked.elapsed().as_secs())))
}

fn millis(duration: Duration) -> c_int {
    c_int::try_from(duration.as_millis()).unwrap_or(c_int::MAX)
}

fn read(event: &Owned<sys::rd_kafka_event_t>) -> Result<Vec<Described>, String> {
    let event = event.0.as_ptr();
    // SAFETY: what the event has is there for as long as the event, and is copied.
    unsafe {
        let code = RDKafkaErrorCode::from(sys::rd_kafka_event_error(event));
        if code != RDKafkaErrorCode::NoError {
            return Err(text(sys::rd_kafka_event_error_string(event)));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err("an answer to another question".to_owned());
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        Ok(list(topics, count).iter().map(|topic| described(*topic)).collect())
    }
}

/// # Safety
/// The topic is alive.
unsafe fn described(topic: *const sys::rd_kafka_TopicDescription_t) -> Described {
    // SAFETY: as for the caller: all of it belongs to the topic.
    unsafe {
        let name = text(sys::rd_kafka_TopicDescription_name(topic));
        let error = sys::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            let code = RDKafkaErrorCode::from(sys::rd_kafka_error_code(error));
            if code != RDKafkaErrorCode::NoError {
                return Described { name, result: Err(code) };
            }
        }
        let mut count = 0;
        let partitions = sys::rd_kafka_TopicDescription_partitions(topic, &raw mut count);
        let partitions = list(partitions, count).iter().map(|it| partition(*it)).collect();
        let allowed = sys::rd_kafka_TopicDescription_authorized_operations(topic, &raw mut count);
        // As numbers: a broker may know operations that the library has no name for.
        let allowed = (!allowed.is_null()).then(|| list(allowed.cast::<u32>(), count).to_vec());
        Described { name, result: Ok(Shape { partitions, allowed }) }
    }
}

/// # Safety
/// The partition is alive.
unsafe fn partition(partition: *const sys::rd_kafka_TopicPartitionInfo_t) -> PartitionShape {
    let (mut replicas, mut in_sync) = (0, 0);
    // SAFETY: as for the caller; only the counts are used.
    unsafe {
        let leader = sys::rd_kafka_TopicPartitionInfo_leader(partition);
        sys::rd_kafka_TopicPartitionInfo_replicas(partition, &raw mut replicas);
        sys::rd_kafka_TopicPartitionInfo_isr(partition, &raw mut in_sync);
        let has_leader = !leader.is_null() && sys::rd_kafka_Node_id(leader) >= 0;
        PartitionShape { has_leader, replicas, in_sync }
    }
}

/// # Safety
/// There are `count` of them, or the pointer is null.
unsafe fn list<'a, T>(pointer: *const T, count: usize) -> &'a [T] {
    if pointer.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: as for the caller.
    unsafe { std::slice::from_raw_parts(pointer, count) }
}

/// # Safety
/// It is null, or ends with a zero.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as for the caller.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// Something of librdkafka's that is ours to free.
struct Owned<T>(NonNull<T>, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    /// # Safety
    /// The pointer is null, or to be freed once, by `free`.
    unsafe fn new(pointer: *mut T, free: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        NonNull::new(pointer).map(|pointer| Self(pointer, free))
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: as said when it was made; nothing uses it any more.
        unsafe { (self.1)(self.0.as_ptr()) }
    }
}
