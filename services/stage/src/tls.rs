//! Certificates and their private keys, in PEM files that settings name. Whatever is wrong with one is told by the
//! setting, the file and what was expected; what stands in a file is never told, it may be a key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::settings::Reader;

/// The files of a certificate and of its private key.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The section whose settings name them.
    section: &'static str,
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
}

impl Pair {
    /// Reads `tls_certificate_file` and `tls_key_file` of a section.
    pub fn read(reader: &mut Reader, section: &'static str) -> Option<Pair> {
        let certificate_file = reader.optional(section, "tls_certificate_file");
        let key_file = reader.optional(section, "tls_key_file");
        Pair::of(section, certificate_file, key_file).unwrap_or_else(|problem| {
            reader.problem(problem);
            None
        })
    }

    /// Both files or neither.
    ///
    /// # Errors
    /// What is wrong when there is one of them.
    pub fn of(
        section: &'static str,
        certificate_file: Option<PathBuf>,
        key_file: Option<PathBuf>,
    ) -> Result<Option<Pair>, String> {
        let (given, file, absent) = match (certificate_file, key_file) {
            (Some(certificate_file), Some(key_file)) => {
                return Ok(Some(Pair { section, certificate_file, key_file }));
            }
            (None, None) => return Ok(None),
            (Some(file), None) => ("tls_certificate_file", file, "tls_key_file"),
            (None, Some(file)) => ("tls_key_file", file, "tls_certificate_file"),
        };
        Err(format!(
            "{section}.{absent}: expected beside {section}.{given}, which is {}; set both, or neither",
            file.display()
        ))
    }

    /// The certificate with its chain and its key, as they stand in the files now.
    ///
    /// # Errors
    /// What is wrong with the files, or that they do not belong together.
    pub fn load(&self) -> Result<Arc<CertifiedKey>, String> {
        let Pair { section, certificate_file, key_file } = self;
        let chain = certificates(&format!("{section}.tls_certificate_file"), certificate_file)?;
        let setting = format!("{section}.tls_key_file");
        let key = PrivateKeyDer::from_pem_slice(&read(&setting, key_file)?).map_err(|_| {
            format!(
                "{setting}: {} holds no private key that can be read; expected one in PEM, without a password",
                key_file.display()
            )
        })?;
        match CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()) {
            Ok(certified) => Ok(Arc::new(certified)),
            Err(error) => Err(format!(
                "{setting}: {} does not belong to the certificate in {} ({error}); expected its private key, and \
                 the certificate before those of its issuers: put both files of one pair there",
                key_file.display(),
                certificate_file.display()
            )),
        }
    }
}

/// What others' certificates may come from: the certificates of a file.
///
/// # Errors
/// What is wrong with the file.
pub fn roots(setting: &str, file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(setting, file)? {
        roots.add(certificate).map_err(|error| {
            format!("{setting}: {} holds what is no issuer's certificate: {error}", file.display())
        })?;
    }
    Ok(roots)
}

/// The certificates of a file.
///
/// # Errors
/// What is wrong with the file.
pub fn certificates(setting: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    match CertificateDer::pem_slice_iter(&read(setting, file)?).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        // The error's own words repeat a line of the file.
        _ => Err(format!(
            "{setting}: {} holds no certificate that can be read; expected certificates in PEM",
            file.display()
        )),
    }
}

fn read(setting: &str, file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| {
        format!("{setting}: {} cannot be read: {error}; put it there, readable for this user", file.display())
    })
}
