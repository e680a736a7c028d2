//! What a run leaves behind and shows, to be searched: files, messages of every stream and bucket, pages, command
//! lines, and what commands have printed.

use std::collections::BTreeMap;
use std::path::Path;

use crate::programs::Installation;
use crate::secrecy::needles;

/// Pieces by where they were found, such as `file data/nats/…`. What is no text in them is lost; no secret is.
#[derive(Default)]
pub struct Traces {
    pieces: BTreeMap<String, String>,
}

impl Traces {
    pub fn add(&mut self, place: impl Into<String>, piece: impl AsRef<[u8]>) {
        self.pieces.entry(place.into()).or_default().push_str(&String::from_utf8_lossy(piece.as_ref()));
    }

    /// Every file below a folder but those that are there to hold a secret.
    pub fn add_files(&mut self, folder: &Path, holds_secrets: impl Fn(&Path) -> bool + Copy) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.add_files(&path, holds_secrets);
            } else if path.is_file() && !holds_secrets(&path) {
                // One that is gone by now is another's business.
                let kind =
                    if path.extension().is_some_and(|extension| extension == "log") { "log" } else { "file" };
                self.add(format!("{kind} {}", path.display()), std::fs::read(&path).unwrap_or_default());
            }
        }
    }

    /// Every message of every stream, and so of every bucket.
    pub async fn add_streams(&mut self, installation: &Installation) {
        let client = installation.client("provisioner").await;
        let context = async_nats::jetstream::new(client);
        let topology = holdline_proto::topology::Topology::default();
        let streams = topology.streams().into_iter().map(|spec| ("stream", spec.name));
        let buckets =
            topology.buckets().into_iter().map(|spec| ("bucket", topology.bucket_stream(spec.bucket)));
        for (kind, name) in streams.chain(buckets) {
            let stream = context.get_stream(&name).await.unwrap();
            let state = &stream.cached_info().state;
            for sequence in state.first_sequence..=state.last_sequence {
                // One that is gone leaves a gap.
                let Ok(message) = stream.get_raw_message(sequence).await else { continue };
                let headers = format!("{} {:?}\n", message.subject, message.headers);
                self.add(format!("{kind} {name}"), [headers.as_bytes(), &message.payload, b"\n"].concat());
            }
        }
    }

    /// What everybody on this machine sees of a process.
    pub fn add_command_line(&mut self, name: &str, process: u32) {
        self.add(format!("command line {name}"), std::fs::read(format!("/proc/{process}/cmdline")).unwrap());
    }

    /// Where a text is, however it is written.
    pub fn find(&self, text: &str) -> Vec<&str> {
        let needles = needles(text);
        let has = |piece: &str| needles.iter().any(|needle| piece.contains(needle));
        self.pieces.iter().filter(|(_, piece)| has(piece)).map(|(place, _)| place.as_str()).collect()
    }

    /// How much there is to be searched, for whoever reads the log of a test.
    pub fn size(&self) -> String {
        let bytes: usize = self.pieces.values().map(String::len).sum();
        format!("{} places, {} KiB", self.pieces.len(), bytes / 1_024)
    }
}

#[test]
fn what_is_there_is_found_however_it_is_written() {
    use base64::Engine;
    let text = "planted-marker";
    for before in ["", "a", "ab", "abc", "user:"] {
        let mut traces = Traces::default();
        let whole = format!("{before}{text} and more");
        traces.add("plain", &whole);
        traces.add("hex", hex::encode(&whole));
        traces.add("base64", base64::engine::general_purpose::STANDARD.encode(&whole));
        traces.add("another", whole.replace("planted", "planned"));
        assert_eq!(traces.find(text), ["base64", "hex", "plain"], "{before:?}");
    }
}
