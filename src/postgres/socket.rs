//! A connection to PostgreSQL below its protocol: TCP, TLS or a Unix socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::Error;
use super::tls::{SslMode, is_offered};
use super::url::{Address, Server};

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// A peer that does not acknowledge what was sent for this long is gone.
const PEER_TIMEOUT: Duration = Duration::from_secs(20);

const NO_TLS: &str = "the server offers none: set ssl = on in postgresql.conf, or sslmode=disable in \
                      postgres.url where nobody can listen in";

/// `SO_RCVLOWAT`: a socket is readable only with this many bytes waiting.
#[derive(Debug, Clone, Copy)]
struct ReceiveLowWater;
nix::setsockopt_impl!(
    ReceiveLowWater,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    usize,
    sockopt::SetUsize
);

impl Socket {
    /// Connects to `address`, which is one of `server`'s.
    pub(crate) async fn open(server: &Server, address: &Address) -> Result<Self, Error> {
        let limit = server.connect_timeout;
        let connect = async {
            match address {
                Address::Unix(directory, port) => {
                    let path = directory.join(format!(".s.PGSQL.{port}"));
                    UnixStream::connect(path).await.map(Socket::Unix).map_err(Error::from)
                }
                Address::Tcp(host, port) => {
                    let mut tcp = TcpStream::connect((host.as_str(), *port)).await?;
                    tcp.set_nodelay(true)?;
                    watch_peer(&tcp)?;
                    let tls = server.tls_for(address).map_err(|e| Error::Tls(e.to_string()))?;
                    match tls.mode {
                        SslMode::Disable => Ok(Socket::Tcp(tcp)),
                        _ if is_offered(&mut tcp).await? => {
                            Ok(Socket::Tls(Box::new(tls.handshake(tcp, host).await?)))
                        }
                        SslMode::Prefer => Ok(Socket::Tcp(tcp)),
                        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
                            Err(Error::Tls(NO_TLS.to_owned()))
                        }
                    }
                }
            }
        };
        let connected = timeout(limit, connect).await;
        connected.unwrap_or(Err(Error::Timeout { limit })).map_err(|source| Error::Connect {
            address: address.to_string(),
            source: Box::new(source),
        })
    }

    /// Has the socket become readable only once `bytes` wait in it, so that a reader that falls
    /// behind is woken for many rows and not for each. False if this kind of socket cannot do it.
    pub(crate) fn set_receive_low_water(&self, bytes: usize) -> bool {
        match self {
            Socket::Tcp(stream) => setsockopt(stream, ReceiveLowWater, &bytes).is_ok(),
            Socket::Tls(stream) => setsockopt(stream.get_ref().0, ReceiveLowWater, &bytes).is_ok(),
            Socket::Unix(_) => false,
        }
    }
}

/// Notices a peer that is gone without a word: after idle time by probes, with data under way by
/// the missing acknowledgement.
fn watch_peer(tcp: &TcpStream) -> io::Result<()> {
    let fd: BorrowedFd<'_> = tcp.as_fd();
    let millis = u32::try_from(PEER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    setsockopt(&fd, sockopt::KeepAlive, &true)?;
    setsockopt(&fd, sockopt::TcpKeepIdle, &10)?;
    setsockopt(&fd, sockopt::TcpKeepInterval, &5)?;
    setsockopt(&fd, sockopt::TcpKeepCount, &2)?;
    setsockopt(&fd, sockopt::TcpUserTimeout, &millis)?;
    Ok(())
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
