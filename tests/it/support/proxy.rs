//! A TCP proxy on loopback that cuts, refuses, delays, throttles and freezes what passes through it.
//!
//! It runs on a thread of its own, because a test's reader of Kafka blocks the test's runtime.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::{Mutex as SlowMutex, watch};
use tokio::time::{Instant, timeout};

/// What happens to bytes that go one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Way {
    /// They wait until it is not.
    pub frozen: bool,
    /// They wait for so long.
    pub delay: Duration,
    /// Up to so much longer, at random.
    pub jitter: Duration,
    /// They pass this fast.
    pub bytes_per_second: Option<usize>,
}

/// What the proxy does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Orders {
    /// From the client to the server.
    pub requests: Way,
    /// From the server to the client.
    pub answers: Way,
    /// New connections are reset.
    pub refuses: bool,
    /// Only for connections whose first bytes contain this; for all where it is nothing.
    pub only: Option<&'static str>,
    /// Connections that were made under an earlier number are cut.
    cuts: u64,
    /// Whether a cut is a reset; otherwise it is an orderly end.
    resets: bool,
}

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// RST: whatever was on its way is lost.
    Reset,
    /// FIN, on both sides.
    End,
}

/// What one connection's bytes mean; the plain proxy does not ask.
pub trait Conversation: Send {
    /// The client has said `bytes`. What the server and the client get because of it.
    fn said(&mut self, bytes: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
        (bytes, Vec::new())
    }
    /// The server has answered `bytes`. What the client gets.
    fn answered(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

/// Bytes are bytes.
pub struct Plain;

impl Conversation for Plain {}

type Interpreter = Arc<dyn Fn() -> Box<dyn Conversation> + Send + Sync>;

/// A proxy in front of one or more servers of loopback.
pub struct Proxy {
    ports: Vec<u16>,
    orders: watch::Sender<Orders>,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    /// In front of a server.
    pub fn before(port: u16) -> Self {
        let listener = listener();
        Self::listening(vec![(listener, port)], Arc::new(|| Box::new(Plain)))
    }

    /// From each listener to its port.
    pub fn listening(routes: Vec<(std::net::TcpListener, u16)>, interpreter: Interpreter) -> Self {
        let (orders, obeyed) = watch::channel(Orders::default());
        let connections = Arc::new(AtomicUsize::new(0));
        let ports = routes.iter().map(|(l, _)| l.local_addr().unwrap().port()).collect();
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let mut listeners = tokio::task::JoinSet::new();
                for (listener, port) in routes {
                    let listener = TcpListener::from_std(listener).unwrap();
                    let (obeyed, count) = (obeyed.clone(), Arc::clone(&count));
                    listeners.spawn(listen(
                        listener,
                        port,
                        obeyed,
                        Arc::clone(&interpreter),
                        count,
                    ));
                }
                // Ends with the proxy, and with it all connections.
                let mut obeyed = obeyed;
                while obeyed.changed().await.is_ok() {}
            });
        });
        Self { ports, orders, connections }
    }

    /// Where clients find it.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// `url`, with the proxy's port.
    pub fn url(&self, url: &str) -> String {
        let (base, database) = url.rsplit_once('/').unwrap();
        let (base, _) = base.rsplit_once(':').unwrap();
        super::conduct::with_secret(&format!("{base}:{}/{database}", self.port()))
    }

    /// Changes what it does from now on.
    pub fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_modify(change);
    }

    /// Does nothing any more.
    pub fn heal(&self) {
        self.order(|orders| *orders = Orders { cuts: orders.cuts, ..Orders::default() });
    }

    /// Cuts every connection that there is (or those that the orders are for).
    pub fn cut(&self, how: Cut) {
        self.order(|orders| {
            orders.cuts += 1;
            orders.resets = how == Cut::Reset;
        });
    }

    /// Nothing passes, in neither direction; nobody is told.
    pub fn silence(&self) {
        self.order(|orders| (orders.requests.frozen, orders.answers.frozen) = (true, true));
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A listener on a port of loopback.
pub fn listener() -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

async fn listen(
    listener: TcpListener,
    port: u16,
    obeyed: watch::Receiver<Orders>,
    interpreter: Interpreter,
    count: Arc<AtomicUsize>,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let orders = obeyed.borrow().clone();
        if orders.refuses && orders.only.is_none() {
            let _ = client.set_zero_linger();
            continue;
        }
        let (obeyed, count, talk) = (obeyed.clone(), Arc::clone(&count), interpreter());
        tokio::spawn(async move {
            count.fetch_add(1, Ordering::Relaxed);
            connection(client, port, obeyed, talk).await;
            count.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// One connection, from its first byte to its end.
async fn connection(
    mut client: TcpStream,
    port: u16,
    obeyed: watch::Receiver<Orders>,
    talk: Box<dyn Conversation>,
) {
    let born = obeyed.borrow().cuts;
    let mut first = vec![0; 65_536];
    let Ok(length @ 1..) = client.read(&mut first).await else { return };
    first.truncate(length);
    let watched = Watched { obeyed, born, first: Mutex::default(), talk: Mutex::new(talk) };
    let server = TcpStream::connect(("127.0.0.1", port)).await.ok();
    let Some(server) = server.filter(|_| !watched.orders().is_some_and(|o| o.refuses)) else {
        // As a server that is not there.
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let to_client = SlowMutex::new(to_client);
    let resets = tokio::select! {
        _ = watched.requests(first, &mut from_client, &mut to_server, &to_client) => false,
        _ = watched.answers(&mut from_server, &to_client) => false,
        resets = watched.cut() => resets,
    };
    if resets {
        let to_client = to_client.into_inner();
        for (reader, writer) in [(from_client, to_client), (from_server, to_server)] {
            if let Ok(stream) = reader.reunite(writer) {
                let _ = stream.set_zero_linger();
            }
        }
    }
}

/// The next bytes, when they are due.
async fn arrived(arriving: &mut Receiver<(Instant, Vec<u8>)>) -> Option<Vec<u8>> {
    let (due, bytes) = arriving.recv().await?;
    pause(due.saturating_duration_since(Instant::now())).await;
    Some(bytes)
}

async fn read(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 65_536];
    let length = from.read(&mut bytes).await.ok().filter(|length| *length > 0)?;
    bytes.truncate(length);
    Some(bytes)
}

/// The orders, as they are for one connection.
struct Watched {
    obeyed: watch::Receiver<Orders>,
    born: u64,
    first: Mutex<Vec<u8>>,
    talk: Mutex<Box<dyn Conversation>>,
}

/// Pieces that can be under way at once, each way.
const UNDER_WAY_MAX: usize = 256;
/// Who a client is, it says within this many bytes.
const FIRST_MAX: usize = 1024;
/// How often bytes that are throttled pass.
const BEAT: Duration = Duration::from_millis(20);

impl Watched {
    fn is_for_us(&self, orders: &Orders) -> bool {
        let first = self.first.lock().unwrap();
        let named = |text: &str| first.windows(text.len()).any(|w| w == text.as_bytes());
        orders.only.is_none_or(named)
    }

    /// Remembers the client's first words: before its name can come the question for TLS.
    fn learn(&self, bytes: &[u8]) {
        let mut first = self.first.lock().unwrap();
        if first.len() < FIRST_MAX {
            first.extend_from_slice(bytes);
        }
    }

    fn orders(&self) -> Option<Orders> {
        let orders = self.obeyed.borrow().clone();
        self.is_for_us(&orders).then_some(orders)
    }

    fn way(&self, choose: impl Fn(&Orders) -> Way) -> Way {
        self.orders().map(|orders| choose(&orders)).unwrap_or_default()
    }

    /// Hands on what the client says, until one side ends.
    async fn requests(
        &self,
        first: Vec<u8>,
        from_client: &mut OwnedReadHalf,
        to_server: &mut OwnedWriteHalf,
        to_client: &SlowMutex<OwnedWriteHalf>,
    ) -> Option<Infallible> {
        let (under_way, mut arriving) = channel(UNDER_WAY_MAX);
        let leave = async {
            let mut bytes = first;
            loop {
                self.learn(&bytes);
                under_way.send((self.due(|orders| orders.requests), bytes)).await.ok()?;
                bytes = read(from_client).await?;
            }
        };
        let arrive = async {
            loop {
                let bytes = arrived(&mut arriving).await?;
                let (to_pass, at_once) = self.talk.lock().unwrap().said(bytes);
                self.pass(&to_pass, |orders| orders.requests, to_server).await?;
                if !at_once.is_empty() {
                    let mut to_client = to_client.lock().await;
                    self.pass(&at_once, |orders| orders.answers, &mut to_client).await?;
                }
            }
        };
        tokio::select! {
            end = leave => end,
            end = arrive => end,
        }
    }

    /// Hands on what the server answers, until one side ends.
    async fn answers(
        &self,
        from_server: &mut OwnedReadHalf,
        to_client: &SlowMutex<OwnedWriteHalf>,
    ) -> Option<Infallible> {
        let (under_way, mut arriving) = channel(UNDER_WAY_MAX);
        let leave = async {
            loop {
                let bytes = read(from_server).await?;
                let bytes = self.talk.lock().unwrap().answered(bytes);
                under_way.send((self.due(|orders| orders.answers), bytes)).await.ok()?;
            }
        };
        let arrive = async {
            loop {
                let bytes = arrived(&mut arriving).await?;
                let mut to_client = to_client.lock().await;
                self.pass(&bytes, |orders| orders.answers, &mut to_client).await?;
            }
        };
        tokio::select! {
            end = leave => end,
            end = arrive => end,
        }
    }

    /// When bytes arrive that leave now.
    fn due(&self, choose: impl Fn(&Orders) -> Way) -> Instant {
        let way = self.way(choose);
        Instant::now() + way.delay + way.jitter.mul_f64(fastrand::f64())
    }

    /// Waits until the connection is to be cut. Whether by a reset.
    async fn cut(&self) -> bool {
        let mut obeyed = self.obeyed.clone();
        let cut = |orders: &Orders| orders.cuts > self.born && self.is_for_us(orders);
        obeyed.wait_for(cut).await.is_ok_and(|orders| orders.resets)
    }

    /// Hands `bytes` on, as ordered.
    async fn pass(
        &self,
        bytes: &[u8],
        choose: impl Fn(&Orders) -> Way + Copy,
        to: &mut OwnedWriteHalf,
    ) -> Option<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.thawed(choose).await?;
            let rate = self.way(choose).bytes_per_second;
            let beat = rate.map_or(rest.len(), |rate| (rate / 50).max(1)).min(rest.len());
            to.write_all(&rest[..beat]).await.ok()?;
            rest = &rest[beat..];
            if rate.is_some() {
                pause(BEAT).await;
            }
        }
        Some(())
    }

    async fn thawed(&self, choose: impl Fn(&Orders) -> Way) -> Option<()> {
        let mut obeyed = self.obeyed.clone();
        let moves = |orders: &Orders| !(self.is_for_us(orders) && choose(orders).frozen);
        obeyed.wait_for(moves).await.ok().map(|_| ())
    }
}

/// What the proxy is asked to do takes time.
async fn pause(time: Duration) {
    let _ = timeout(time, std::future::pending::<()>()).await;
}
