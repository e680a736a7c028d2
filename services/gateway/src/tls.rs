//! TLS 1.2 and 1.3 on the gateway's own listener, and the certificate that it shows, which can be replaced while it
//! serves. Invariant: files that cannot be used never take the place of a certificate that can.

use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use holdline_stage::clock;
use holdline_stage::run::Shell;
use holdline_stage::settings::Reader;
use holdline_stage::tls::Pair;
use rustls::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};

/// A connection whose handshake takes longer is closed.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// How often the files are looked at again.
const CERTIFICATE_EVERY: Duration = Duration::from_secs(2);

/// What is wrong with the files is told from this look on: the two are replaced one after the other.
const TOLD_FROM_LOOK: u32 = 2;

/// What is missing, as readiness has it, while there are files that cannot be used.
const NEW: &str = "new certificate";

/// A certificate, and how connections are served with it.
#[derive(Clone)]
pub struct Tls {
    files: Pair,
    shown: Arc<CertifiedKey>,
    config: RustlsConfig,
}

impl Tls {
    /// Reads `gateway.tls_certificate_file` and `gateway.tls_key_file`, and what stands there.
    pub(crate) fn read(reader: &mut Reader) -> Option<Tls> {
        let files = Pair::read(reader, "gateway")?;
        let read = files.load().and_then(|shown| {
            let config = RustlsConfig::from_config(config(shown.clone())?);
            Ok(Tls { files, shown, config })
        });
        read.map_err(|problem| reader.problem(problem)).ok()
    }

    /// Makes TLS of what is accepted.
    pub(crate) fn acceptor(&self) -> RustlsAcceptor {
        RustlsAcceptor::new(self.config.clone()).handshake_timeout(HANDSHAKE_TIME_MAX)
    }

    /// Looks at the files again and again, until the service stops. Only new connections see what changes.
    pub(crate) fn keep(mut self, shell: &Shell) {
        let shell = shell.clone();
        shell.tasks.clone().spawn(async move {
            let mut looks_in_vain = 0;
            loop {
                tokio::select! {
                    () = clock::sleep(CERTIFICATE_EVERY) => {}
                    () = shell.tasks.stopping() => return,
                }
                match self.look() {
                    Ok(()) => {
                        looks_in_vain = 0;
                        shell.health.present(NEW);
                    }
                    Err(why) => {
                        looks_in_vain += 1;
                        if looks_in_vain == TOLD_FROM_LOOK {
                            tracing::error!("the certificate is not replaced: {why}");
                            shell.health.cover(NEW, "the one from before");
                        }
                        if looks_in_vain >= TOLD_FROM_LOOK {
                            shell.health.missing(NEW, why);
                        }
                    }
                }
            }
        });
    }

    fn look(&mut self) -> Result<(), String> {
        let found = self.files.load()?;
        if found.cert != self.shown.cert {
            self.config.reload_from_config(config(found.clone())?);
            self.shown = found;
            tracing::info!("new connections are shown the certificate that replaces the one before");
        }
        Ok(())
    }
}

fn config(shown: Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| error.to_string())?;
    let mut config =
        builder.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
