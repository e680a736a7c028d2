//! How others are reached: a connection and a handshake, and not a byte of a request. What the other side shows is
//! kept, so that its certificate can be looked at.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use holdline_decide::playbook::ConnectTo;
use reqwest::Url;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ProtocolVersion, SignatureScheme};
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Finding out a host's addresses.
const LOOK_UP_TIME_MAX: Duration = Duration::from_secs(3);

/// A connection to one address.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);

/// A TLS handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 4;

/// Where somebody should answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub host: String,
    pub port: u16,
    pub tls: Tls,
    /// It is reached there instead.
    pub address: Option<SocketAddr>,
}

/// What is spoken, and whom we believe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tls {
    None,
    /// The certificate has to come from an issuer that this machine trusts.
    Trusted,
    /// Any certificate: it is only looked at.
    Any,
}

impl Place {
    /// Where a URL leads.
    pub(super) fn of(url: &Url, to: Option<&ConnectTo>) -> Result<Place, String> {
        let host = url.host_str().ok_or_else(|| format!("{url} names no host"))?;
        let port = url.port_or_known_default().ok_or_else(|| format!("{url} names no port"))?;
        let tls = match (to, url.scheme()) {
            (Some(to), _) => to.tls,
            (None, "https") => true,
            (None, "http") => false,
            (None, other) => return Err(format!("{url}: {other} cannot be called; https can")),
        };
        Ok(Place {
            host: host.into(),
            port,
            tls: if tls { Tls::Trusted } else { Tls::None },
            address: to.map(|to| to.address),
        })
    }

    /// A gateway as somebody types it. By an address its certificate has no name to be held against, so that one is
    /// only looked at.
    pub(super) fn of_gateway(text: &str) -> Result<Place, String> {
        let url = Url::parse(text).map_err(|error| format!("expected https://HOST:PORT: {error}"))?;
        let place = Place::of(&url, None)?;
        let tls = if place.is_address() && place.tls == Tls::Trusted { Tls::Any } else { place.tls };
        Ok(Place { tls, ..place })
    }

    fn bare(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    fn is_address(&self) -> bool {
        self.bare().parse::<IpAddr>().is_ok()
    }

    /// Whether it is this machine, as far as its name says.
    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.bare().parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        if let Some(address) = self.address {
            return Ok(vec![address]);
        }
        let looking = tokio::net::lookup_host((self.bare(), self.port));
        let found = tokio::time::timeout(LOOK_UP_TIME_MAX, looking).await;
        let found = found.map_err(|_| format!("no answer about its address in {LOOK_UP_TIME_MAX:?}"))?;
        let found = found.map_err(|error| format!("its address is not found: {error}"))?;
        Ok(found.take(ADDRESSES_MAX).collect())
    }

    /// A connection to the first of its addresses that takes one.
    pub(super) async fn connect(&self) -> Result<(SocketAddr, TcpStream), String> {
        let mut last = "it has no address".into();
        for address in self.addresses().await? {
            match tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok((address, stream)),
                Ok(Err(error)) => last = format!("no connection to {address}: {error}"),
                Err(_) => last = format!("no connection to {address} in {CONNECT_TIME_MAX:?}"),
            }
        }
        Err(last)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What was found behind a door.
#[derive(Debug)]
pub(super) struct Reached {
    pub address: SocketAddr,
    /// `None`: TLS is not spoken.
    pub over_tls: Option<Shown>,
}

/// What the other side of a handshake shows.
#[derive(Debug)]
pub(super) struct Shown {
    pub version: &'static str,
    /// The certificate of the other side, then those of its issuers.
    pub chain: Vec<CertificateDer<'static>>,
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spoken = self.over_tls.as_ref().map_or("without TLS", |shown| shown.version);
        write!(f, "answers at {}, {spoken}", self.address)
    }
}

/// Opens connections.
pub(super) struct Doors {
    /// As the executor's client has it; or why this machine trusts nobody.
    trusted: Result<TlsConnector, rustls::Error>,
    any: TlsConnector,
}

impl Doors {
    /// # Errors
    /// When TLS cannot be spoken at all.
    pub(super) fn new() -> anyhow::Result<Doors> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trusted = Verifier::new(provider.clone())
            .and_then(|verifier| config(&provider, Arc::new(verifier)))
            .map(|builder| TlsConnector::from(Arc::new(builder.with_no_client_auth())));
        Ok(Doors { trusted, any: TlsConnector::from(Arc::new(believing(None)?)) })
    }

    /// Connects, and shakes hands where TLS is spoken.
    ///
    /// # Errors
    /// How far it came.
    pub(super) async fn open(&self, place: &Place) -> Result<Reached, String> {
        let (address, stream) = place.connect().await?;
        let connector = match place.tls {
            Tls::None => return Ok(Reached { address, over_tls: None }),
            Tls::Trusted => match &self.trusted {
                Ok(trusted) => trusted,
                Err(error) => return Err(format!("this machine trusts no issuer of certificates: {error}")),
            },
            Tls::Any => &self.any,
        };
        let shown = handshake(connector, place.bare(), stream).await;
        let shown = shown.map_err(|why| format!("no TLS with {address}: {why}"))?;
        Ok(Reached { address, over_tls: Some(shown) })
    }
}

/// A configuration that takes any certificate, and shows one if it is asked for it.
pub(super) fn believing(
    own: Option<Arc<dyn rustls::client::ResolvesClientCert>>,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = config(&provider, Arc::new(Anybody(provider.clone())))?;
    Ok(match own {
        Some(own) => builder.with_client_cert_resolver(own),
        None => builder.with_no_client_auth(),
    })
}

type Verified = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

/// TLS 1.2 and 1.3: what is older the guide forbids.
fn config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<Verified, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

/// Shakes hands and says goodbye.
pub(super) async fn handshake(
    connector: &TlsConnector,
    host: &str,
    stream: TcpStream,
) -> Result<Shown, String> {
    let name = ServerName::try_from(host.to_string()).map_err(|_| format!("{host} is no name for it"))?;
    let shaking = Box::pin(tokio::time::timeout(HANDSHAKE_TIME_MAX, connector.connect(name, stream)));
    let stream = shaking.await.map_err(|_| format!("not in {HANDSHAKE_TIME_MAX:?}"))?;
    let stream = stream.map_err(|error| error.to_string())?;
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().unwrap_or_default();
    Ok(Shown {
        version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
            _ => "TLS 1.2",
        },
        chain: chain.to_vec(),
    })
}

/// Believes everybody, so that a certificate can be looked at that has expired. Nothing is sent to whom it leads.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
