//! An exported trail: a line that says what the stream said, a line for each entry with its bytes as they are stored,
//! and a line that closes it. The last line has the hash of the last entry, and of the whole file before it; so a change
//! of any byte is found even where JSON would mean the same.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use holdline_decide::audit::Bounds;
use holdline_proto::audit::{Witness, hash};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What the first line says.
const FORMAT: &str = "holdline audit trail, 1";

/// The first line. Times: Unix milliseconds, broker's clock.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Opening {
    format: String,
    first: u64,
    last: u64,
    made_ms: i64,
    read_ms: i64,
    witness: Option<Witness>,
}

/// An entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    sequence: u64,
    /// Its bytes, in hex.
    stored: String,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Closing {
    /// Hash of the last entry; none where there is none.
    hash: Option<String>,
    /// SHA-256 of the lines before this one.
    file: String,
}

/// Writes one.
pub(super) struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    digest: Sha256,
}

impl Writer {
    /// Begins a new file.
    ///
    /// # Errors
    /// When it is there already, or cannot be written.
    pub(super) fn create(path: &Path, bounds: &Bounds) -> anyhow::Result<Writer> {
        let file = File::options().write(true).create_new(true).open(path);
        let file =
            file.with_context(|| format!("{} cannot be made; it must be a new file", path.display()))?;
        let mut writer = Writer { path: path.into(), file: BufWriter::new(file), digest: Sha256::new() };
        let Bounds { first, last, made_ms, read_ms, witness } = bounds.clone();
        writer.line(&Opening { format: FORMAT.into(), first, last, made_ms, read_ms, witness })?;
        Ok(writer)
    }

    pub(super) fn entry(&mut self, sequence: u64, stored: &[u8]) -> anyhow::Result<()> {
        self.line(&Line { sequence, stored: hex::encode(stored) })
    }

    /// Closes it, once everything is on disk.
    pub(super) fn finish(mut self, hash: Option<&str>) -> anyhow::Result<()> {
        let file = hex::encode(self.digest.clone().finalize());
        self.line(&Closing { hash: hash.map(str::to_string), file })?;
        let done = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        done.with_context(|| format!("{} cannot be written", self.path.display()))
    }

    fn line(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let line = rendered(line)?;
        self.digest.update(&line);
        self.file.write_all(&line).with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

fn rendered(line: &impl Serialize) -> anyhow::Result<Vec<u8>> {
    let mut rendered = serde_json::to_vec(line)?;
    rendered.push(b'\n');
    Ok(rendered)
}

/// An exported trail, as it was read.
pub(super) struct Export {
    pub bounds: Bounds,
    pub entries: Vec<(u64, Vec<u8>)>,
    /// What is wrong with the file itself.
    pub problems: Vec<String>,
}

impl Export {
    /// # Errors
    /// When it cannot be read, or its first line is not that of an exported trail.
    pub(super) fn read(path: &Path) -> anyhow::Result<Export> {
        let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Export::parse(&bytes).with_context(|| format!("{} is no exported audit trail", path.display()))
    }

    fn parse(bytes: &[u8]) -> anyhow::Result<Export> {
        let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        let closing = lines.pop().context("it is empty")?;
        let before = bytes.split_at(bytes.len() - closing.len()).0;
        let opening: Opening = serde_json::from_slice(lines.first().copied().unwrap_or(closing))?;
        let Opening { format, first, last, made_ms, read_ms, witness } = opening;
        if format != FORMAT {
            bail!("its format is {format:?}; this version reads {FORMAT:?}");
        }
        let mut export = Export {
            bounds: Bounds { first, last, made_ms, read_ms, witness },
            entries: vec![],
            problems: vec![],
        };
        for (number, line) in (1..).zip(lines).skip(1) {
            match entry(line) {
                Ok(entry) => export.entries.push(entry),
                Err(error) => export.problems.push(format!("line {number} is no entry: {error}")),
            }
        }
        let expected = Closing {
            hash: export.entries.last().map(|(_, stored)| hash(stored)),
            file: hex::encode(Sha256::digest(before)),
        };
        if rendered(&expected)? != closing {
            export.problems.push(
                "its last line does not fit what stands before it: the file was changed, or its end cut off"
                    .into(),
            );
        }
        Ok(export)
    }
}

fn entry(line: &[u8]) -> anyhow::Result<(u64, Vec<u8>)> {
    let Line { sequence, stored } = serde_json::from_slice(line)?;
    Ok((sequence, hex::decode(stored)?))
}

#[cfg(test)]
mod tests {
    use holdline_decide::audit::Chain;
    use holdline_proto::audit::{Act, Deed, Entry, Previous, seal};

    use super::*;

    fn exported(entries: u64) -> Vec<u8> {
        let path = std::env::temp_dir().join(format!("holdline-export-{}-{entries}", std::process::id()));
        std::fs::remove_file(&path).ok();
        let bounds = Bounds { first: 1, last: entries, made_ms: 0, read_ms: 9, witness: None };
        let mut writer = Writer::create(&path, &bounds).unwrap();
        let mut last: Option<Vec<u8>> = None;
        for number in 1..=entries {
            let previous = last.as_ref().map(|stored| Previous { hash: hash(stored), stored_ms: 1 });
            let deed = Deed::new("ada", Act::Pause, "everything", "maintenance");
            let stored = seal(&Entry { number, at_ms: 1, previous, id: "i".into(), deed });
            writer.entry(number, &stored).unwrap();
            last = Some(stored);
        }
        writer.finish(last.map(|stored| hash(&stored)).as_deref()).unwrap();
        assert!(Writer::create(&path, &bounds).is_err(), "it is there already");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).ok();
        bytes
    }

    fn is_whole(bytes: &[u8]) -> bool {
        Export::parse(bytes).is_ok_and(|export| {
            let mut chain = Chain::new(export.bounds);
            export.entries.iter().for_each(|(sequence, stored)| chain.take(*sequence, stored));
            chain.end().whole && export.problems.is_empty()
        })
    }

    #[test]
    fn every_changed_byte_of_an_exported_trail_is_found() {
        for entries in [0, 3] {
            let whole = exported(entries);
            assert!(is_whole(&whole));
            for at in 0..whole.len() {
                // The case of a letter, too: hex digits mean the same in both.
                for change in [0x01, 0x20, 0x80] {
                    let mut changed = whole.clone();
                    changed[at] ^= change;
                    assert!(!is_whole(&changed), "byte {at} of {}", whole.len());
                }
                assert!(!is_whole(&whole[..at]), "cut off at {at}");
            }
            assert!(!is_whole(&[whole.as_slice(), b"\n"].concat()));
        }
    }

    #[test]
    fn a_line_taken_out_or_moved_is_found_whatever_the_last_line_says() {
        let whole = exported(4);
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        let check = |order: &[usize]| {
            let body: Vec<u8> = order.iter().flat_map(|line| lines[*line]).copied().collect();
            let entries = Export::parse(&[body.as_slice(), b"{}\n"].concat()).unwrap().entries;
            let closing = Closing {
                hash: entries.last().map(|(_, stored)| hash(stored)),
                file: hex::encode(Sha256::digest(&body)),
            };
            is_whole(&[body, rendered(&closing).unwrap()].concat())
        };
        assert!(check(&[0, 1, 2, 3, 4]));
        for order in
            [[0, 1, 3, 2, 4].as_slice(), &[0, 1, 2, 3], &[0, 2, 3, 4], &[0, 1, 3, 4], &[0, 1, 1, 2, 3, 4]]
        {
            assert!(!check(order), "{order:?}");
        }
    }
}
