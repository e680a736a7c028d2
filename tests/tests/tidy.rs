//! House rules: the arrows between crates, names that are written once, licences, and docs that agree with
//! the tree.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use holdline_proto::topology::Topology;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Files below a folder, build output left out.
fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && !name.starts_with('.') && name != "holdline-data" {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

fn metadata() -> Value {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// proto ← decide ← services, proto ← stage ← services; never service → service, never decide ↔ stage.
#[test]
fn the_arrows_between_crates_hold() {
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata()["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if !name.starts_with("holdline") {
            continue;
        }
        let normal = package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].is_null());
        arrows.insert(name.into(), normal.map(|d| d["name"].as_str().unwrap().to_string()).collect());
    }
    let ours = |name: &str| -> Vec<String> {
        arrows[name].iter().filter(|to| to.starts_with("holdline")).cloned().collect()
    };
    assert_eq!(ours("holdline-proto"), [""; 0]);
    assert_eq!(ours("holdline-decide"), ["holdline-proto"]);
    assert_eq!(ours("holdline-stage"), ["holdline-proto"]);
    for service in ["gateway", "classifier", "debouncer", "executor", "dlq-replayer"] {
        let allowed = ["holdline-decide", "holdline-platform", "holdline-proto", "holdline-stage"];
        let to = ours(&format!("holdline-{service}"));
        assert!(to.iter().all(|to| allowed.contains(&to.as_str())), "{service} → {to:?}");
    }
    // The simulator plays somebody else: of holdline it knows the clocks and the way a program runs.
    assert_eq!(ours("holdline-simulator"), ["holdline-stage"]);
    // Purity: no runtime, no clock, no client below the services.
    for pure in ["holdline-proto", "holdline-decide"] {
        for runtime in ["tokio", "futures-util", "async-nats", "reqwest", "axum", "tracing"] {
            assert!(!arrows[pure].contains(runtime), "{pure} → {runtime}");
        }
    }
}

/// Subjects, streams and buckets are named in proto and nowhere else.
#[test]
fn names_of_the_broker_are_written_once() {
    let mut sources = vec![];
    files(&root().join("services"), "rs", &mut sources);
    for path in sources {
        let text = std::fs::read_to_string(&path).unwrap();
        for raw in
            ["\"hl.", "\"$KV", "\"$JS", "\"KV_", "\"EVENTS", "\"INPUTS", "\"JOURNAL", "\"COMMANDS", "\"AUDIT"]
        {
            assert!(
                !text.contains(raw),
                "{}: {raw}… is written in place; proto::topology has it",
                path.display()
            );
        }
    }
}

/// Every file of our own says in its first lines what it is.
#[test]
fn every_module_says_what_it_is() {
    let mut sources = vec![];
    for folder in ["proto", "services", "tests", "benches"] {
        files(&root().join(folder), "rs", &mut sources);
    }
    for path in sources {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} begins without a word on what it is", path.display());
    }
}

/// ARCHITECTURE.md lists every flow, and every path that a document names exists.
#[test]
fn the_documents_agree_with_the_tree() {
    let architecture = read("ARCHITECTURE.md");
    let topology = Topology::default();
    for spec in topology.streams() {
        for subject in spec.subjects {
            assert!(architecture.contains(&format!("`{subject}`")), "ARCHITECTURE.md lacks {subject}");
        }
    }
    for spec in topology.buckets() {
        assert!(architecture.contains(&spec.name), "ARCHITECTURE.md lacks {}", spec.name);
    }
    let mut documents = vec![root().join("README.md"), root().join("ARCHITECTURE.md")];
    files(&root().join("docs"), "md", &mut documents);
    let mut named = 0;
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        for word in text.split('`').skip(1).step_by(2) {
            let first = word.split('/').next().unwrap();
            let ours = ["proto", "services", "tests", "benches", "docs", "deploy", "playbooks", ".ci"];
            if word.contains('/') && ours.contains(&first) && !word.contains(['*', ' ', '<']) {
                named += 1;
                assert!(
                    root().join(word).exists(),
                    "{} names {word}, which is not there",
                    document.display()
                );
            }
        }
    }
    assert!(named > 20, "only {named} paths were found in the documents");
}

/// Licences that may be linked. A new one is a decision, not an accident.
#[test]
fn licences_are_known() {
    const ALLOWED: [&str; 13] = [
        "MIT",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "Zlib",
        "Unicode-3.0",
        "Unlicense",
        "0BSD",
        "CC0-1.0",
        "BSL-1.0",
        // The bundled root certificates.
        "CDLA-Permissive-2.0",
    ];
    let mut unknown = vec![];
    for package in metadata()["packages"].as_array().unwrap() {
        let licence = package["license"].as_str().unwrap_or("none").replace('/', " OR ");
        if !known(&licence, &ALLOWED) {
            unknown.push(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

/// One alternative of which every part is known; where brackets mix the two, every name has to be.
fn known(licence: &str, allowed: &[&str]) -> bool {
    let all = |text: &str, by: &str| text.split(by).all(|name| allowed.contains(&name.trim()));
    if licence.contains('(') {
        return all(&licence.replace(['(', ')'], "").replace(" AND ", " OR "), " OR ");
    }
    licence.split(" OR ").any(|alternative| all(alternative, " AND "))
}

/// One crypto provider: with two compiled in, TLS panics at its first use.
#[test]
fn there_is_one_crypto_provider() {
    let lock = read("Cargo.lock");
    for banned in ["aws-lc-sys", "openssl-sys"] {
        assert!(!lock.contains(&format!("name = \"{banned}\"")), "{banned} is in the tree");
    }
}

/// docs/limits.md and the code hold each other: a row's constant stands in the file that the row names, and every
/// limit and every time in the code has its row.
#[test]
fn every_limit_is_in_the_table() {
    let table = read("docs/limits.md");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).collect();
    let mut named = BTreeSet::new();
    for row in rows.iter().filter(|row| row.contains(".rs`")) {
        let place = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        let mut words = place.split('`').skip(1).step_by(2);
        let file = words.next().unwrap().to_string();
        let text = read(&file);
        for name in words {
            assert!(
                text.contains(&format!("const {name}: ")),
                "{file} has no {name}, which docs/limits.md names"
            );
            named.insert((file.clone(), name.to_string()));
        }
    }
    assert!(named.len() > 100, "only {} constants were found in the table", named.len());
    let mut sources = vec![];
    for folder in ["proto", "services"] {
        files(&root().join(folder), "rs", &mut sources);
    }
    for path in sources {
        let file = path.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for declared in code.split("const ").skip(1) {
            let Some((name, kind)) = declared.split_once(": ") else { continue };
            let is_name = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
            let limits = name.ends_with("_MAX") || kind.starts_with("Duration ");
            if is_name && limits && !file.contains("/tests") {
                assert!(
                    named.contains(&(file.clone(), name.to_string())),
                    "{file} {name} has no row in docs/limits.md"
                );
            }
        }
    }
}
