//! G7: no secret shows, whatever a test is about. Every secret that a program is given by a test is known here, and
//! what programs print, answer and leave behind is searched for all of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use holdline_simulator::organisation::{CLIENT_SECRET, TELEPHONY_CLIENT_SECRET};

use crate::sender::SECRET;

/// Bytes of the shortest secret that is searched for: a shorter one could be anywhere.
const SECRET_BYTES_MIN: usize = 8;

static GIVEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What was said to those who cannot say so at once.
static OVERHEARD: Mutex<Vec<String>> = Mutex::new(vec![]);

/// Has a secret searched for from now on.
pub fn give(secret: &str) {
    if secret.len() >= SECRET_BYTES_MIN {
        GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(secret.into());
    }
}

/// The same for what a variable of a program holds, if its name says that it is a secret.
pub fn give_variable(name: &str, value: &str) {
    let holds = ["SECRET", "TOKEN", "KEY", "PASSWORD"].iter().any(|part| name.contains(part));
    if holds && !name.ends_with("_FILE") && !name.ends_with("_ID") {
        give(value);
    }
}

/// Every secret that was given, and those that every test has.
fn known() -> BTreeSet<String> {
    let mut known = GIVEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    known.extend([SECRET, CLIENT_SECRET, TELEPHONY_CLIENT_SECRET].map(str::to_string));
    known
}

/// A text as it is, in hexadecimal, and within something in base64.
pub(crate) fn needles(text: &str) -> Vec<String> {
    assert!(text.len() >= SECRET_BYTES_MIN, "{text:?} could be anywhere");
    let plain = [text.to_string(), hex::encode(text)];
    plain.into_iter().chain((0..3).map(|shift| in_base64(text, shift))).collect()
}

/// What is certain of a text in base64 that has so many bytes more than a multiple of three before it.
fn in_base64(text: &str, shift: usize) -> String {
    let encoded = STANDARD_NO_PAD.encode([vec![0; shift].as_slice(), text.as_bytes()].concat());
    let (begin, end) = ((shift * 8).div_ceil(6), (shift + text.len()) * 8 / 6);
    encoded[begin..end].to_string()
}

/// The first known secret that shows in what a program has said.
fn shown_in(told: &str) -> Option<String> {
    known().into_iter().find(|secret| needles(secret).iter().any(|needle| told.contains(needle)))
}

/// Holds what a program has said against every known secret.
pub fn assert_untold(what: &str, told: impl AsRef<[u8]>) {
    let told = String::from_utf8_lossy(told.as_ref());
    if let Some(secret) = shown_in(&told) {
        panic!("{what} shows the secret {secret}: {told}");
    }
}

/// The same where nobody hears a panic: [`told_in`] tells.
pub(crate) fn overhear(what: &str, told: &str) {
    if let Some(secret) = shown_in(told) {
        let found = format!("{what} shows the secret {secret}: {told}");
        OVERHEARD.lock().unwrap_or_else(PoisonError::into_inner).push(found);
    }
}

/// Where a known secret shows: files below a folder, of which those with the seeds of `keys` are there to hold one, and
/// whatever a target of this process was sent.
pub fn told_in(folder: &Path, keys: &Path) -> Vec<String> {
    let mut secrets = known();
    for entry in std::fs::read_dir(keys).into_iter().flatten().flatten() {
        let seed = std::fs::read_to_string(entry.path()).unwrap_or_default().trim().to_string();
        secrets.extend(Some(seed).filter(|seed| seed.starts_with('S') && seed.len() > SECRET_BYTES_MIN));
    }
    let lines: Vec<String> = secrets.iter().flat_map(|secret| needles(secret)).collect();
    let needles = std::env::temp_dir().join(format!(
        "holdline-needles-{}-{}",
        std::process::id(),
        folder.file_name().unwrap_or_default().to_string_lossy()
    ));
    std::fs::write(&needles, lines.join("\n")).unwrap();
    // A store of hundreds of megabytes is nothing to it.
    let output = Command::new("grep")
        .args([
            "--recursive",
            "--text",
            "--fixed-strings",
            "--files-with-matches",
            "--exclude=*.nk",
            "--file",
        ])
        .args([&needles, folder])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    std::fs::remove_file(needles).ok();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stderr));
    let files = String::from_utf8_lossy(&output.stdout).into_owned();
    let overheard = OVERHEARD.lock().unwrap_or_else(PoisonError::into_inner);
    files.lines().map(str::to_string).chain(overheard.iter().cloned()).collect()
}

#[test]
fn a_secret_is_found_wherever_it_shows() {
    let folder = crate::programs::scratch("secrecy");
    let keys = folder.join("keys");
    std::fs::create_dir_all(&keys).unwrap();
    std::fs::write(keys.join("gateway.nk"), "SUA-seed-of-a-role\n").unwrap();
    give_variable("A_SECRET", "planted-in-a-variable");
    give_variable("A_TOKEN_FILE", "/path/to/a/token");
    let check = |name: &str, bytes: &[u8], shows: bool| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        let expected: Vec<String> = shows.then(|| path.display().to_string()).into_iter().collect();
        assert_eq!(told_in(&folder, &keys), expected, "{name}");
        std::fs::remove_file(path).unwrap();
    };
    check("clean.log", b"nothing to see but /path/to/a/token", false);
    check("plain.log", b"\x00\xff planted-in-a-variable \x00", true);
    check("1.blk", format!("\x00{}", hex::encode("planted-in-a-variable")).as_bytes(), true);
    check("base64", STANDARD_NO_PAD.encode("user:planted-in-a-variable").as_bytes(), true);
    check("of-every-test", format!("x{SECRET}x").as_bytes(), true);
    check("seed.json", b"{\"seed\":\"SUA-seed-of-a-role\"}", true);
    check("seed.nk", b"SUA-seed-of-a-role", false);
    std::fs::remove_dir_all(&folder).unwrap();
}
