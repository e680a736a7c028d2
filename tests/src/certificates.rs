//! Certificates of a test's own, made with the `openssl` command line.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate is good for, unless a test says otherwise.
const DAYS: u32 = 2;

/// The authority's own is.
const DAYS_OF_AUTHORITY: u32 = 400;

/// Who signs certificates; its own is `ca.pem` in its folder.
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    pub fn new(folder: &Path) -> Authority {
        std::fs::create_dir_all(folder).unwrap();
        openssl(folder, "ca", DAYS_OF_AUTHORITY, &[]);
        Authority { folder: folder.into() }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A new certificate for loopback, of a server or a client, and its key: `NAME.pem` and `NAME.key`.
    pub fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        self.issue_for(name, DAYS)
    }

    /// The same, good for so many days.
    pub fn issue_for(&self, name: &str, days: u32) -> (PathBuf, PathBuf) {
        let extensions =
            ["subjectAltName=IP:127.0.0.1", "basicConstraints=critical,CA:FALSE"].map(|e| ["-addext", e]);
        let signed = ["-CA", "ca.pem", "-CAkey", "ca.key"];
        openssl(&self.folder, name, days, &[extensions.as_flattened(), &signed].concat());
        (self.folder.join(format!("{name}.pem")), self.folder.join(format!("{name}.key")))
    }
}

fn openssl(folder: &Path, name: &str, days: u32, more: &[&str]) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", &days.to_string(), "-subj", &format!("/CN={name}")])
        .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")])
        .args(more)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
