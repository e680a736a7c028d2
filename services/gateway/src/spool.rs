//! Frames that wait on this machine's disk while the broker does not answer (N1, F4, F9; architecture.md 12).
//!
//! [`Folder`] belongs to one gateway at a time; it also keeps what a gateway needs to begin without a broker.
//! [`Spool`] is the log of one partition in it: segments `<partition>-<number>.frames`, which are only ever
//! appended to. A record:
//!
//! | bytes | |
//! |---|---|
//! | 1 | `H`: held. `D`: the broker has it. Written in place and never synced: a mark that is lost repeats the frame under its id |
//! | 8 | start of SHA-256 over the rest of the head |
//! | 8 | start of SHA-256 over the id of its frame: neighbours with the same are of one frame |
//! | 4, 4, 8 | length of the content, its events, accept time of the oldest (Unix ms), big-endian |
//! | 8 | start of SHA-256 over the content |
//! | n | the content: a [`Held`] |
//!
//! While the broker is away every few events are synced by themselves, and sent by themselves they would take
//! longer to drain than others take to come. So what is appended joins the last frame, under its id, as long
//! as that is not full and not the oldest, which may be on its way. What a frame holds is thereby durable before
//! it is sent for the first time, and the same after any restart.
//!
//! What a crash cuts short was answered to nobody and is cut off at the next start. What was damaged otherwise
//! was answered: its bytes are set aside in a file of their own, loudly, and the rest goes on. No byte of a
//! content is ever taken for the beginning of a record: a content comes from outside.
//!
//! All of it blocks; [`crate::frame`] calls it on threads that may.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use holdline_proto::event::Accepted;
use holdline_proto::limits::{FRAME_BYTES_MAX, FRAME_EVENTS_MAX};
use holdline_proto::wire::{self, Wire};
use holdline_stage::crash::{self, Point};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A segment that has reached this is left for a new one, so that what is drained can be given back.
const SEGMENT_BYTES_MAX: u32 = 8 * 1024 * 1024;

/// Events of one frame were accepted within so long: how long they waited is said once for all of them.
/// Milliseconds.
const FRAME_SPAN_MS_MAX: i64 = 1_000;

const HELD: u8 = b'H';
const DRAINED: u8 = b'D';

/// A frame, or a part of one, as it is kept: what it holds, and the id under which it may have been published
/// already.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub id: String,
    /// Accept time of the oldest event. Unix milliseconds.
    pub since_ms: i64,
    pub events: Vec<Accepted>,
}

impl Wire for Held {
    const KIND: &'static str = "held-frame";
}

/// The folder of a gateway's spool, its own for as long as the value lives.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    bytes: AtomicU64,
    bytes_max: u64,
    _lock: File,
}

impl Folder {
    /// Makes the folder, readable by its owner alone, and takes it.
    ///
    /// # Errors
    /// When it cannot be made, or another gateway has it.
    pub(crate) fn open(path: &Path, bytes_max: u64) -> anyhow::Result<Folder> {
        let unusable = || format!("gateway.spool: {} cannot be used", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(unusable)?;
        let lock = private().create(true).open(path.join("lock")).with_context(unusable)?;
        lock.try_lock()
            .map_err(|_| anyhow::anyhow!("gateway.spool: {} is in use by another gateway", path.display()))?;
        Ok(Folder { path: path.into(), bytes: AtomicU64::new(0), bytes_max, _lock: lock })
    }

    /// Keeps a value under a name, all of it or none.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn remember<T: Wire>(&self, name: &str, value: &T) -> io::Result<()> {
        let fresh = self.path.join(format!("{name}.new"));
        let file = private().create(true).truncate(true).open(&fresh)?;
        file.write_all_at(&wire::encode(value), 0)?;
        file.sync_data()?;
        std::fs::rename(fresh, self.path.join(name))?;
        self.sync()
    }

    /// The value that was kept under a name, if there is one.
    pub(crate) fn recall<T: Wire>(&self, name: &str) -> Option<T> {
        let bytes = std::fs::read(self.path.join(name)).ok()?;
        let value = wire::decode(&bytes);
        value.map_err(|error| tracing::error!("{}: {name} is forgotten: {error}", self.path.display())).ok()
    }

    /// The logs of all partitions, as an earlier run left them.
    ///
    /// # Errors
    /// When the disk refuses, or events are held for a partition that does not exist.
    pub(crate) fn spools(self: &Arc<Folder>, partitions: u16) -> anyhow::Result<Vec<Spool>> {
        let unreadable = || format!("gateway.spool: {} cannot be read", self.path.display());
        let mut numbers = vec![vec![]; usize::from(partitions)];
        for entry in std::fs::read_dir(&self.path).with_context(unreadable)? {
            let name = entry.with_context(unreadable)?.file_name();
            let Some((partition, number)) = name.to_str().and_then(parse_segment) else { continue };
            let segments = numbers.get_mut(usize::from(partition)).with_context(|| {
                let path = self.path.display();
                format!("gateway.spool: {path} holds events of partition {partition}; there are {partitions}")
            })?;
            segments.push(number);
        }
        let mut spools = vec![];
        for (partition, mut segments) in (0..partitions).zip(numbers) {
            segments.sort_unstable();
            spools.push(Spool::recover(self.clone(), partition, segments).with_context(unreadable)?);
        }
        Ok(spools)
    }

    fn segment(&self, partition: u16, number: u32) -> PathBuf {
        self.path.join(format!("{partition}-{number:010}.frames"))
    }

    /// Makes new names in the folder durable.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let within = |held: u64| held.checked_add(bytes).filter(|held| *held <= self.bytes_max);
        match self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within) {
            Ok(_) => Ok(()),
            Err(_) => {
                let reason = format!("gateway.spool_bytes_max ({} bytes) is reached", self.bytes_max);
                Err(io::Error::new(io::ErrorKind::StorageFull, reason))
            }
        }
    }

    fn release(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Keeps bytes that cannot be understood, for a person to look at.
    fn set_aside(&self, partition: u16, bytes: &[u8], why: &str) -> io::Result<()> {
        let path = self.path.join(format!("{partition}-{}.damaged", hex::encode(digest(bytes))));
        tracing::error!(
            partition,
            "what was accepted cannot be read any more ({why}); its {} bytes are set aside in {}",
            bytes.len(),
            path.display()
        );
        let file = private().create(true).truncate(true).open(path)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        self.sync()
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn parse_segment(name: &str) -> Option<(u16, u32)> {
    let (partition, number) = name.strip_suffix(".frames")?.split_once('-')?;
    Some((partition.parse().ok()?, number.parse().ok()?))
}

/// What a spool holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    pub frames: usize,
    pub events: u64,
    /// On disk, drained ones whose segment is not given back yet included.
    pub bytes: u64,
    /// Accept time of the oldest event, and of the oldest behind the first frame. Unix milliseconds.
    pub oldest_ms: Option<i64>,
    pub behind_ms: Option<i64>,
}

/// The frames of one partition that wait, in order.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: Arc<Folder>,
    partition: u16,
    /// Oldest first. All that is kept in memory.
    records: VecDeque<Record>,
    /// How many the records make.
    frames: usize,
    /// The last frame, if this run began it.
    last: Option<Last>,
    events: u64,
    bytes: u64,
    /// Where the next record goes, once there is a segment for it.
    tail: Option<Tail>,
    /// Segment from which the first record was read.
    front: Option<(u32, File)>,
    /// Number of the next segment.
    next: u32,
}

#[derive(Debug)]
struct Tail {
    number: u32,
    file: File,
    /// Up to here everything is synced.
    length: u32,
    /// Something may stand behind that.
    ragged: bool,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    segment: u32,
    offset: u32,
    head: Head,
    /// It cannot be read any more, and has been set aside.
    lost: bool,
}

impl Record {
    /// Whether both are of one frame.
    fn is_of(&self, other: &Record) -> bool {
        self.head.frame == other.head.frame
    }
}

/// A frame that may still be added to.
#[derive(Debug, Clone)]
struct Last {
    id: String,
    since_ms: i64,
    events: usize,
    bytes: usize,
}

impl Last {
    fn of(frame: &Held) -> Last {
        Last {
            id: frame.id.clone(),
            since_ms: frame.since_ms,
            events: frame.events.len(),
            bytes: body_bytes(frame),
        }
    }

    /// It and another, if the bounds allow.
    fn with(self, other: &Held) -> Option<Last> {
        let (events, bytes) = (self.events + other.events.len(), self.bytes + body_bytes(other));
        let span_ms = other.since_ms.saturating_sub(self.since_ms);
        let fits = events <= FRAME_EVENTS_MAX
            && bytes <= FRAME_BYTES_MAX
            && (0..FRAME_SPAN_MS_MAX).contains(&span_ms);
        fits.then_some(Last { events, bytes, ..self })
    }
}

fn body_bytes(frame: &Held) -> usize {
    frame.events.iter().map(|event| event.body.len()).sum()
}

impl Spool {
    fn recover(folder: Arc<Folder>, partition: u16, segments: Vec<u32>) -> io::Result<Spool> {
        let next = segments.last().map_or(0, |last| last + 1);
        let mut spool = Spool {
            folder,
            partition,
            records: VecDeque::new(),
            frames: 0,
            last: None,
            events: 0,
            bytes: 0,
            tail: None,
            front: None,
            next,
        };
        for number in segments {
            spool.recover_segment(number)?;
        }
        if !spool.records.is_empty() {
            let (frames, events) = (spool.frames, spool.events);
            tracing::warn!(partition, "the spool holds {frames} frames with {events} events");
        }
        Ok(spool)
    }

    fn recover_segment(&mut self, number: u32) -> io::Result<()> {
        let path = self.folder.segment(self.partition, number);
        let mut bytes = vec![];
        let file = private().open(&path)?;
        (&file).read_to_end(&mut bytes)?;
        let found = self.records.len();
        let mut rest = bytes.as_slice();
        while let Some(next) = Next::of(rest) {
            let offset = bytes.len() - rest.len();
            let at = u32::try_from(offset).map_err(io::Error::other)?;
            match next {
                Next::Intact(mark, head) => {
                    if mark == HELD {
                        self.push(Record { segment: number, offset: at, head, lost: false });
                    }
                    rest = rest.get(head.record_bytes()..).unwrap_or_default();
                }
                Next::Damaged(length) => {
                    let (damaged, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
                    self.folder.set_aside(self.partition, damaged, "a checksum differs")?;
                    rest = after;
                    if rest.is_empty() {
                        file.set_len(at.into())?;
                    }
                }
                Next::Torn => {
                    tracing::warn!(
                        partition = self.partition,
                        "{}: {} bytes of a frame that a crash cut short are cut off; nobody was answered for it",
                        path.display(),
                        rest.len()
                    );
                    file.set_len(at.into())?;
                    break;
                }
            }
        }
        let length = file.metadata()?.len();
        if self.records.len() == found {
            return std::fs::remove_file(path);
        }
        self.bytes += length;
        // Not refused even beyond the bound: it is here.
        self.folder.bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    fn push(&mut self, record: Record) {
        self.events += u64::from(record.head.events);
        self.frames += usize::from(!self.records.back().is_some_and(|last| last.is_of(&record)));
        self.records.push_back(record);
    }

    pub(crate) fn depth(&self) -> Depth {
        let since_ms = |record: &Record| record.head.since_ms;
        let front = self.records.front();
        let mut behind = self.records.iter().skip_while(|record| front.is_some_and(|f| f.is_of(record)));
        Depth {
            frames: self.frames,
            events: self.events,
            bytes: self.bytes,
            oldest_ms: front.map(since_ms),
            behind_ms: behind.next().map(since_ms),
        }
    }

    /// Appends frames and syncs once. All of them are durable then, or none is held.
    ///
    /// # Errors
    /// When the bound is reached or the disk refuses.
    pub(crate) fn append(&mut self, frames: Vec<Held>) -> io::Result<()> {
        let mut bytes = vec![];
        let mut heads = vec![];
        let (mut waiting, mut last) = (self.frames, self.last.clone());
        for mut frame in frames {
            // The oldest may be on its way.
            let joined = last.filter(|_| waiting > 1).and_then(|last| last.with(&frame));
            match &joined {
                Some(joined) => frame.id.clone_from(&joined.id),
                None => waiting += 1,
            }
            last = Some(joined.unwrap_or_else(|| Last::of(&frame)));
            let content = wire::encode(&frame);
            let head = Head::of(&frame, &content)?;
            heads.push((bytes.len(), head));
            bytes.push(HELD);
            bytes.extend(head.encode());
            bytes.extend(content);
        }
        let length = bytes.len() as u64;
        self.folder.reserve(length)?;
        let written = self.write(&bytes);
        let (segment, begin) = written.inspect_err(|_| self.folder.release(length))?;
        self.bytes += length;
        for (offset, head) in heads {
            let offset = begin.saturating_add(u32::try_from(offset).map_err(io::Error::other)?);
            self.push(Record { segment, offset, head, lost: false });
        }
        self.last = last;
        Ok(())
    }

    /// Writes and syncs behind what is there; gives the segment and the offset.
    fn write(&mut self, bytes: &[u8]) -> io::Result<(u32, u32)> {
        let mut tail = match self.tail.take() {
            Some(tail) if tail.ragged || tail.length < SEGMENT_BYTES_MAX => tail,
            _ => self.new_segment()?,
        };
        let place = (tail.number, tail.length);
        let written = tail.write(bytes);
        let path = self.folder.segment(self.partition, tail.number);
        // A segment in which nothing is held is worth nothing.
        if tail.length > 0 || std::fs::remove_file(path).is_err() {
            self.tail = Some(tail);
        }
        written.map(|()| place)
    }

    fn new_segment(&mut self) -> io::Result<Tail> {
        let number = self.next;
        let file = private().create_new(true).open(self.folder.segment(self.partition, number))?;
        self.next += 1;
        self.folder.sync()?;
        Ok(Tail { number, file, length: 0, ragged: false })
    }

    /// The oldest frame that waits. What cannot be read any more is set aside on the way.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn head(&mut self) -> io::Result<Option<Held>> {
        while self.frames > 0 {
            if let Some(whole) = self.front_frame()? {
                return Ok(Some(whole));
            }
            self.drained();
        }
        Ok(None)
    }

    /// The oldest frame, as far as it can be read.
    fn front_frame(&mut self) -> io::Result<Option<Held>> {
        let Some(front) = self.records.front().copied() else { return Ok(None) };
        let of_it: Vec<Record> =
            self.records.iter().take_while(|record| front.is_of(record)).copied().collect();
        let mut whole: Option<Held> = None;
        for (index, record) in of_it.into_iter().enumerate() {
            match if record.lost { None } else { self.part(record)? } {
                Some(part) => match &mut whole {
                    Some(whole) => whole.events.extend(part.events),
                    None => whole = Some(part),
                },
                None => self.records.iter_mut().skip(index).take(1).for_each(|record| record.lost = true),
            }
        }
        Ok(whole)
    }

    /// What a record holds, unless it cannot be read any more; then that is told, and its bytes are set aside.
    fn part(&mut self, record: Record) -> io::Result<Option<Held>> {
        let bytes = match self.read(record) {
            // Somebody has taken it away.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                tracing::error!(partition = self.partition, "what was accepted is gone: {error}");
                return Ok(None);
            }
            read => read?,
        };
        let content = bytes.get(HEAD_BYTES..).unwrap_or_default();
        let why = match Next::of(&bytes) {
            Some(Next::Intact(_, head)) if head == record.head => match wire::decode(content) {
                Ok(held) => return Ok(Some(held)),
                Err(error) => error.to_string(),
            },
            _ => "a checksum differs".into(),
        };
        self.folder.set_aside(self.partition, &bytes, &why)?;
        Ok(None)
    }

    fn read(&mut self, record: Record) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; record.head.record_bytes()];
        self.front(record.segment)?.read_exact_at(&mut bytes, record.offset.into())?;
        Ok(bytes)
    }

    fn front(&mut self, segment: u32) -> io::Result<&File> {
        let front = match self.front.take() {
            Some(front) if front.0 == segment => front,
            _ => (segment, private().open(self.folder.segment(self.partition, segment))?),
        };
        Ok(&self.front.insert(front).1)
    }

    /// The broker has the oldest frame.
    pub(crate) fn drained(&mut self) {
        let Some(front) = self.records.front().copied() else { return };
        self.frames -= 1;
        while let Some(record) = self.records.pop_front_if(|record| front.is_of(record)) {
            self.forget(record);
        }
    }

    fn forget(&mut self, record: Record) {
        self.events -= u64::from(record.head.events);
        let marked =
            self.front(record.segment).and_then(|f| f.write_all_at(&[DRAINED], record.offset.into()));
        if let Err(error) = marked {
            tracing::warn!(
                partition = self.partition,
                "what is drained cannot be marked; a restart sends it again, under its id: {error}"
            );
        }
        if self.records.front().is_none_or(|next| next.segment != record.segment) {
            self.give_back(record.segment);
        }
    }

    /// Removes a segment of which everything is drained.
    fn give_back(&mut self, segment: u32) {
        self.tail.take_if(|tail| tail.number == segment);
        self.front = None;
        let path = self.folder.segment(self.partition, segment);
        let length = std::fs::metadata(&path).map_or(0, |file| file.len()).min(self.bytes);
        self.bytes -= length;
        self.folder.release(length);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::error!("{} is drained and cannot be removed: {error}", path.display());
        }
    }
}

impl Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let added = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        if self.ragged {
            self.cut()?;
        }
        let written = self.file.write_all_at(bytes, self.length.into()).and_then(|()| {
            crash::point(Point::GatewaySpoolWritten);
            self.file.sync_data()
        });
        if written.is_err() {
            // Nobody is answered for it, so nothing of it may stay.
            self.ragged = true;
            if let Err(error) = self.cut() {
                tracing::error!("a segment of the spool cannot be cut back, so nothing is added: {error}");
            }
            return written;
        }
        crash::point(Point::GatewaySpoolSynced);
        self.length += added;
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.length.into())?;
        self.ragged = false;
        Ok(())
    }
}

/// What stands before a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    /// Of its id.
    frame: [u8; 8],
    length: u32,
    events: u32,
    since_ms: i64,
    content: [u8; 8],
}

/// The mark, the head's own digest, and the head.
const HEAD_BYTES: usize = 1 + 8 + HEAD_FIELDS_BYTES;
const HEAD_FIELDS_BYTES: usize = 32;

impl Head {
    fn of(frame: &Held, content: &[u8]) -> io::Result<Head> {
        Ok(Head {
            frame: digest(frame.id.as_bytes()),
            length: u32::try_from(content.len()).map_err(io::Error::other)?,
            events: u32::try_from(frame.events.len()).map_err(io::Error::other)?,
            since_ms: frame.since_ms,
            content: digest(content),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut fields = vec![];
        fields.extend(self.frame);
        fields.extend(self.length.to_be_bytes());
        fields.extend(self.events.to_be_bytes());
        fields.extend(self.since_ms.to_be_bytes());
        fields.extend(self.content);
        [digest(&fields).as_slice(), &fields].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Head> {
        let (own, fields) = bytes.split_first_chunk::<8>()?;
        let fields = fields.first_chunk::<HEAD_FIELDS_BYTES>()?;
        let (frame, rest) = fields.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (events, rest) = rest.split_first_chunk()?;
        let (since_ms, rest) = rest.split_first_chunk()?;
        (digest(fields) == *own).then_some(Head {
            frame: *frame,
            length: u32::from_be_bytes(*length),
            events: u32::from_be_bytes(*events),
            since_ms: i64::from_be_bytes(*since_ms),
            content: *rest.first_chunk()?,
        })
    }

    fn record_bytes(&self) -> usize {
        HEAD_BYTES + self.length as usize
    }
}

fn digest(bytes: &[u8]) -> [u8; 8] {
    let mut start = [0; 8];
    for (to, from) in start.iter_mut().zip(Sha256::digest(bytes)) {
        *to = from;
    }
    start
}

/// What stands at a place of a segment.
enum Next {
    /// A record, with its mark.
    Intact(u8, Head),
    /// So many bytes that were a record, or that nobody can say anything about.
    Damaged(usize),
    /// The beginning of a record, or nothing that was ever written.
    Torn,
}

impl Next {
    fn of(bytes: &[u8]) -> Option<Next> {
        let (mark, rest) = bytes.split_first()?;
        if bytes.len() < HEAD_BYTES || bytes.iter().all(|byte| *byte == 0) {
            return Some(Next::Torn);
        }
        let Some(head) = Head::decode(rest) else { return Some(Next::Damaged(bytes.len())) };
        let Some(content) = bytes.get(HEAD_BYTES..head.record_bytes()) else { return Some(Next::Torn) };
        Some(match mark {
            _ if digest(content) != head.content => Next::Damaged(head.record_bytes()),
            &DRAINED => Next::Intact(DRAINED, head),
            // A mark that is neither was a mark: better sent twice than not at all.
            _ => Next::Intact(HELD, head),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// A folder that is gone with the value.
    pub(crate) struct Scratch(pub(crate) PathBuf);

    impl Scratch {
        pub(crate) fn new() -> Scratch {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::SeqCst);
            let path = std::env::temp_dir().join(format!("holdline-spool-{}-{number}", std::process::id()));
            std::fs::remove_dir_all(&path).ok();
            Scratch(path)
        }

        /// The only partition's log, as a new start finds it.
        pub(crate) fn open(&self, bytes_max: u64) -> Spool {
            let folder = Arc::new(Folder::open(&self.0, bytes_max).unwrap());
            folder.spools(1).unwrap().pop().unwrap()
        }

        fn files(&self, ending: &str) -> Vec<PathBuf> {
            let entries = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
            let mut files: Vec<_> = entries.filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
            files.sort();
            files
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    /// A frame that was accepted too long after the one before to join it.
    fn frame(number: usize, bytes: usize) -> Held {
        let event = Accepted {
            accept_id: number.to_string(),
            accepted_ms: 0,
            subscription: "s".into(),
            body: vec![b'x'; bytes],
            origin: None,
        };
        Held { id: format!("id-{number}"), since_ms: since_ms(number), events: vec![event] }
    }

    fn since_ms(number: usize) -> i64 {
        (number as i64 + 1_000) * FRAME_SPAN_MS_MAX
    }

    fn frames(numbers: std::ops::Range<usize>) -> Vec<Held> {
        numbers.map(|number| frame(number, 10)).collect()
    }

    /// Every frame that it holds, oldest first.
    fn drain(spool: &mut Spool) -> Vec<Held> {
        let mut drained = vec![];
        while let Some(held) = spool.head().unwrap() {
            assert_eq!(spool.depth().oldest_ms, Some(held.since_ms));
            drained.push(held);
            spool.drained();
        }
        assert_eq!(spool.depth(), Depth::default());
        drained
    }

    #[test]
    fn n1_what_is_held_survives_a_restart_in_order_and_what_is_drained_does_not_come_again() {
        let scratch = Scratch::new();
        let mut spool = scratch.open(u64::MAX);
        spool.append(frames(0..3)).unwrap();
        spool.append(frames(3..5)).unwrap();
        let depth = spool.depth();
        assert_eq!((depth.frames, depth.events), (5, 5));
        assert_eq!((depth.oldest_ms, depth.behind_ms), (Some(since_ms(0)), Some(since_ms(1))));
        assert_eq!(depth.bytes, std::fs::metadata(&scratch.files(".frames")[0]).unwrap().len());
        assert_eq!(spool.head().unwrap(), Some(frame(0, 10)));
        spool.drained();
        drop(spool);

        let mut spool = scratch.open(u64::MAX);
        assert_eq!(
            spool.depth(),
            Depth {
                frames: 4,
                events: 4,
                oldest_ms: Some(since_ms(1)),
                behind_ms: Some(since_ms(2)),
                ..depth
            }
        );
        spool.append(frames(5..6)).unwrap();
        assert_eq!(drain(&mut spool), frames(1..6));
        assert_eq!(
            scratch.files(".frames"),
            [""; 0].map(PathBuf::from),
            "nothing is left of what is drained"
        );
        assert_eq!(spool.folder.bytes.load(Ordering::Relaxed), 0);
        spool.append(frames(6..7)).unwrap();
        drop(spool);
        assert_eq!(drain(&mut scratch.open(u64::MAX)), frames(6..7));
    }

    /// `frames`: size and accept time of each. Gives how many events each frame has that goes out.
    fn joined(spool: &mut Spool, appends: &[&[(usize, i64)]]) -> Vec<usize> {
        let mut number = 0;
        for append in appends {
            let frames = append.iter().map(|(bytes, since_ms)| {
                number += 1;
                Held { since_ms: *since_ms, ..frame(number, *bytes) }
            });
            spool.append(frames.collect()).unwrap();
        }
        let drained = drain(spool);
        let numbers = drained.iter().flat_map(|held| &held.events).map(|event| event.accept_id.clone());
        assert!(numbers.eq((1..=number).map(|number| number.to_string())), "in the order of acceptance");
        drained.iter().map(|held| held.events.len()).collect()
    }

    #[test]
    fn what_queues_joins_the_last_frame_within_its_bounds_unless_that_may_be_on_its_way() {
        let scratch = Scratch::new();
        let mut spool = scratch.open(u64::MAX);
        let mut check = |appends: &[&[(usize, i64)]], expected: &[usize]| {
            assert_eq!(joined(&mut spool, appends), expected, "{appends:?}");
        };
        check(&[&[(10, 0)], &[(10, 0)], &[(10, 0)], &[(10, 999)]], &[1, 3]);
        check(&[&[(10, 0), (10, 0), (10, 0)]], &[1, 2]);
        check(&[&[(10, 0)], &[(10, 0)], &[(10, 1_000)], &[(10, 1_999)]], &[1, 1, 2]);
        check(&[&[(10, 5)], &[(10, 5)], &[(10, 4)]], &[1, 1, 1]);
        check(&[&[(10, 0)], &[(FRAME_BYTES_MAX - 10, 0)], &[(10, 0)], &[(1, 0)]], &[1, 2, 1]);
        check(&[&[(10, 0); 2 * FRAME_EVENTS_MAX + 2]], &[1, FRAME_EVENTS_MAX, FRAME_EVENTS_MAX, 1]);
    }

    #[test]
    fn a_frame_is_the_same_after_a_restart_whatever_comes_then() {
        let scratch = Scratch::new();
        let near = |number| Held { since_ms: 0, ..frame(number, 10) };
        let mut spool = scratch.open(u64::MAX);
        spool.append((0..4).map(near).collect()).unwrap();
        spool.drained();
        let sent = spool.head().unwrap().unwrap();
        assert_eq!((sent.id.as_str(), sent.events.len()), ("id-1", 3));
        // The broker may have it: what comes now is none of it.
        spool.append(vec![near(4)]).unwrap();
        assert_eq!(spool.head().unwrap(), Some(sent.clone()));
        drop(spool);
        let mut spool = scratch.open(u64::MAX);
        spool.append(vec![near(5)]).unwrap();
        assert_eq!(spool.depth().frames, 3);
        assert_eq!(spool.head().unwrap(), Some(sent));
        spool.drained();
        assert_eq!(drain(&mut spool), [near(4), near(5)]);
    }

    #[test]
    fn n3_a_damaged_part_costs_a_frame_no_more_than_that() {
        let scratch = Scratch::new();
        let near = |number| Held { since_ms: 0, ..frame(number, 10) };
        for (damaged, running) in [(1, false), (2, false), (3, false), (1, true), (2, true), (3, true)] {
            let mut spool = scratch.open(u64::MAX);
            spool.append((0..4).map(near).collect()).unwrap();
            let path = scratch.files(".frames").remove(0);
            let mut bytes = std::fs::read(&path).unwrap();
            let last_of = (damaged + 1) * bytes.len() / 4 - 1;
            bytes[last_of] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            if !running {
                drop(spool);
                spool = scratch.open(u64::MAX);
            }
            let whole = drain(&mut spool).pop().unwrap();
            assert_eq!(whole.id, "id-1");
            let left: Vec<String> = whole.events.into_iter().map(|event| event.accept_id).collect();
            let expected: Vec<String> =
                (1..4).filter(|number| *number != damaged).map(|number: usize| number.to_string()).collect();
            assert_eq!(left, expected, "{damaged}, running: {running}");
            std::fs::remove_file(scratch.files(".damaged").remove(0)).unwrap();
        }
    }

    #[test]
    fn n1_a_torn_tail_is_cut_off_at_whatever_byte_it_ends() {
        let scratch = Scratch::new();
        scratch.open(u64::MAX).append(frames(0..3)).unwrap();
        let path = scratch.files(".frames").remove(0);
        let whole = std::fs::read(&path).unwrap();
        let record = whole.len() / 3;
        let check = |bytes: Vec<u8>, expected: usize| {
            let length = bytes.len();
            std::fs::write(&path, bytes).unwrap();
            let mut spool = scratch.open(u64::MAX);
            let left = if expected == 0 { 0 } else { (expected * record) as u64 };
            assert_eq!(spool.depth().bytes, left, "{length} bytes");
            assert_eq!(drain(&mut spool), frames(0..expected), "{length} bytes");
            assert_eq!(scratch.files(".damaged").len(), 0, "{length} bytes: nobody was answered for it");
        };
        for length in 0..=whole.len() {
            let kept = whole[..length].to_vec();
            check(kept.clone(), length / record);
            // What a power cut may leave: the length, and nothing in it.
            check([kept[..length / record * record].to_vec(), vec![0; 100]].concat(), length / record);
        }
    }

    #[test]
    fn n3_a_damaged_byte_costs_no_other_frame_and_its_bytes_are_kept() {
        let scratch = Scratch::new();
        let check = |at: usize, expected: &[usize], damaged: bool, running: bool| {
            let mut spool = scratch.open(u64::MAX);
            spool.append(frames(0..3)).unwrap();
            let path = scratch.files(".frames").remove(0);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            if !running {
                drop(spool);
                spool = scratch.open(u64::MAX);
            }
            let expected: Vec<Held> = expected.iter().map(|number| frame(*number, 10)).collect();
            assert_eq!(drain(&mut spool), expected, "byte {at}");
            let aside = scratch.files(".damaged");
            assert_eq!(aside.len(), usize::from(damaged), "byte {at}");
            for path in aside {
                let kept = std::fs::read(&path).unwrap();
                assert!(bytes.windows(kept.len()).any(|window| window == kept), "byte {at}");
                std::fs::remove_file(path).unwrap();
            }
        };
        let record = wire::encode(&frame(1, 10)).len() + HEAD_BYTES;
        check(record, &[0, 1, 2], false, false); // a mark that is none: sent rather than forgotten
        for at in record + 1..record + HEAD_BYTES {
            // Where the next record begins is not known any more.
            check(at, &[0], true, false);
            check(at, &[0, 2], true, true);
        }
        for at in record + HEAD_BYTES..2 * record {
            check(at, &[0, 2], true, false);
            check(at, &[0, 2], true, true);
        }
    }

    /// A content comes from outside: what looks like a record in it is none, wherever a crash has cut.
    #[test]
    fn n1_a_record_inside_a_content_is_never_taken_for_one() {
        let scratch = Scratch::new();
        scratch.open(u64::MAX).append(vec![frame(7, 10)]).unwrap();
        let path = scratch.files(".frames").remove(0);
        let forged = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut outer = frame(0, 10);
        outer.events[0].body = [forged.clone(), forged].concat();
        scratch.open(u64::MAX).append(vec![outer]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(drain(&mut scratch.open(u64::MAX)), [], "{length} bytes");
        }
        let mut damaged = whole;
        damaged[1] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert_eq!(drain(&mut scratch.open(u64::MAX)), []);
    }

    #[test]
    fn f9_order_holds_over_segments_and_they_are_given_back_one_by_one() {
        let scratch = Scratch::new();
        let large = |numbers: std::ops::Range<usize>| -> Vec<Held> {
            numbers.map(|number| frame(number, 1024 * 1024)).collect()
        };
        let mut spool = scratch.open(u64::MAX);
        for number in 0..12 {
            spool.append(large(2 * number..2 * number + 2)).unwrap();
        }
        assert_eq!(scratch.files(".frames").len(), 3);
        drop(spool);
        let mut spool = scratch.open(u64::MAX);
        spool.append(large(24..26)).unwrap();
        for held in large(0..8) {
            assert_eq!(spool.head().unwrap(), Some(held));
            spool.drained();
        }
        assert_eq!(scratch.files(".frames").len(), 3, "the first is given back, the last is new");
        assert!(spool.depth().bytes < 19 * 1024 * 1024);
        assert_eq!(drain(&mut spool), large(8..26));
    }

    #[test]
    fn f9_at_the_bound_nothing_is_held_and_there_is_room_again_after_draining() {
        let scratch = Scratch::new();
        let mut spool = scratch.open(4_096);
        let mut held = 0;
        let error = loop {
            match spool.append(frames(held..held + 1)) {
                Ok(()) => held += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(held > 10, "{held}");
        assert!(spool.append(frames(held..held + 1)).is_err());
        assert_eq!(drain(&mut spool), frames(0..held));
        spool.append(frames(0..1)).unwrap();
        drop(spool);
        // What is there is kept, even beyond a bound that was lowered.
        let mut spool = scratch.open(10);
        assert!(spool.append(frames(1..2)).is_err());
        assert_eq!(drain(&mut spool), frames(0..1));
    }

    #[test]
    fn f9_a_failed_write_leaves_nothing_and_a_tail_that_cannot_be_cut_is_not_added_to() {
        let scratch = Scratch::new();
        let mut spool = scratch.open(u64::MAX);
        spool.append(frames(0..1)).unwrap();
        let path = scratch.files(".frames").remove(0);
        let length = std::fs::metadata(&path).unwrap().len();
        // A file that may only be read fails the write and the cut alike.
        let writable = std::mem::replace(&mut spool.tail.as_mut().unwrap().file, File::open(&path).unwrap());
        for _ in 0..2 {
            assert!(spool.append(frames(1..2)).is_err());
            assert!(spool.tail.as_ref().unwrap().ragged);
        }
        // What a failed write may have left.
        writable.write_all_at(b"half a frame", length).unwrap();
        spool.tail.as_mut().unwrap().file = writable;
        spool.append(frames(1..2)).unwrap();
        assert_eq!(spool.depth().bytes, 2 * length);
        assert_eq!(spool.depth().bytes, std::fs::metadata(&path).unwrap().len());
        assert_eq!(drain(&mut spool), frames(0..2));
    }

    #[test]
    fn two_gateways_never_share_a_folder_and_partitions_are_not_mixed_up() {
        let scratch = Scratch::new();
        let folder = Arc::new(Folder::open(&scratch.0, u64::MAX).unwrap());
        let told = Folder::open(&scratch.0, u64::MAX).unwrap_err().to_string();
        assert!(told.contains("in use by another gateway"), "{told}");
        let mut spools = folder.spools(3).unwrap();
        for (number, spool) in spools.iter_mut().enumerate() {
            spool.append(frames(number..number + 1)).unwrap();
        }
        drop(spools);
        let told = folder.spools(2).unwrap_err().to_string();
        assert!(told.contains("holds events of partition 2; there are 2"), "{told}");
        for (number, mut spool) in folder.spools(3).unwrap().into_iter().enumerate() {
            assert_eq!(drain(&mut spool), frames(number..number + 1));
        }
    }

    #[test]
    fn what_is_remembered_is_recalled() {
        let scratch = Scratch::new();
        let folder = Folder::open(&scratch.0, u64::MAX).unwrap();
        assert_eq!(folder.recall::<Held>("thing"), None);
        folder.remember("thing", &frame(1, 1)).unwrap();
        folder.remember("thing", &frame(2, 2)).unwrap();
        assert_eq!(folder.recall("thing"), Some(frame(2, 2)));
        std::fs::write(scratch.0.join("thing"), b"else").unwrap();
        assert_eq!(folder.recall::<Held>("thing"), None);
    }
}
