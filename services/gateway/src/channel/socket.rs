//! A channel's WebSocket.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use holdline_decide::playbook::Platform;
use holdline_proto::limits::BODY_BYTES_MAX;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async_tls_with_config, connect_async_with_config,
};

/// For the whole way to an open socket.
const OPEN_TIME_MAX: Duration = Duration::from_secs(10);

/// For a ping to leave.
const SEND_TIME_MAX: Duration = Duration::from_secs(5);

/// What a socket said.
pub(super) enum Heard {
    Text(Utf8Bytes),
    /// A sign of life without a message.
    Life,
    /// Its end, and why.
    Closed(String),
}

/// Why a socket cannot be opened.
pub(super) struct NotOpened {
    pub reason: String,
    /// The platform knows the channel no more.
    pub gone: bool,
}

pub(super) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Opens the socket of a channel, by way of the address that stands in for the platform, if any.
    pub(super) async fn open(connect_uri: &str, platform: &Platform) -> Result<Socket, NotOpened> {
        let opened = match tokio::time::timeout(OPEN_TIME_MAX, connect(connect_uri, platform)).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::Io(std::io::ErrorKind::TimedOut.into())),
        };
        // The address is what lets anybody listen: it stands in no message.
        opened.map(Socket).map_err(|error| NotOpened {
            gone: matches!(&error, Error::Http(answer) if answer.status().is_client_error()),
            reason: format!("the channel's socket: {error}"),
        })
    }

    /// Waits for whatever comes. What is interrupted loses nothing.
    pub(super) async fn hear(&mut self) -> Heard {
        match self.0.next().await {
            Some(Ok(Message::Text(text))) => Heard::Text(text),
            Some(Ok(Message::Close(frame))) => match frame {
                Some(frame) => {
                    Heard::Closed(format!("the platform closed it: {} {}", frame.code, frame.reason))
                }
                None => Heard::Closed("the platform closed it".into()),
            },
            Some(Ok(_)) => Heard::Life,
            Some(Err(error)) => Heard::Closed(error.to_string()),
            None => Heard::Closed("it is gone".into()),
        }
    }

    /// Asks for a sign of life, as the platform wants to be asked.
    pub(super) async fn ping(&mut self) -> Result<(), String> {
        let ping = Message::text(r#"{"message":"ping"}"#);
        match tokio::time::timeout(SEND_TIME_MAX, self.0.send(ping)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("a ping cannot be sent".into()),
        }
    }
}

async fn connect(
    connect_uri: &str,
    platform: &Platform,
) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, Error> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(BODY_BYTES_MAX))
        .max_frame_size(Some(BODY_BYTES_MAX));
    let Some(to) = &platform.connect_to else {
        let request = connect_uri.into_client_request()?;
        if request.uri().scheme_str() != Some("wss") {
            let refused = std::io::Error::other("the platform names one without TLS, and wss is expected");
            return Err(Error::Io(refused));
        }
        return Ok(connect_async_with_config(request, Some(config), true).await?.0);
    };
    let stream = TcpStream::connect(to.address).await?;
    stream.set_nodelay(true)?;
    let scheme = if to.tls { "wss" } else { "ws" };
    let rest = connect_uri.split_once("://").map_or(connect_uri, |(_, rest)| rest);
    let request = format!("{scheme}://{rest}").into_client_request()?;
    Ok(client_async_tls_with_config(request, stream, Some(config), None).await?.0)
}
