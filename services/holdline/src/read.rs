//! Reading a subject of a log from a position to its present end.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::bail;
use holdline_proto::topology::{Role, Stream, subject_matches};
use holdline_stage::bus::{Bus, StoreError};
use holdline_stage::clock;
use holdline_stage::pipe::{Message, Reader};

/// A replica that does not have yet what the leader has is asked again after this, and so often.
const BEHIND_WAIT: Duration = Duration::from_millis(100);
const BEHIND_LOOKS_MAX: u32 = 50;

/// Reads a subject (or a pattern) from a sequence to its end, or until `take` says that it is enough.
///
/// # Errors
/// When the broker does not answer, or `take` fails.
pub(crate) async fn each(
    bus: &Bus,
    stream: Stream,
    subject: &str,
    from: u64,
    mut take: impl FnMut(&Message) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let Some(last) = bus.last(stream, subject).await? else { return Ok(()) };
    let mut log = Log::open(bus, stream, vec![subject.into()], from).await?;
    loop {
        let message = log.next().await?;
        if take(&message)? || message.sequence >= last.sequence {
            log.close().await;
            return Ok(());
        }
    }
}

/// An open reading: by a consumer, or page by page for whoever may make none.
pub(crate) enum Log {
    Consumer(Box<Reader>),
    Pages(Box<Pages>),
}

impl Log {
    /// Reads `subjects` of a stream from a sequence on.
    ///
    /// # Errors
    /// When the broker does not answer or refuses.
    pub(crate) async fn open(
        bus: &Bus,
        stream: Stream,
        subjects: Vec<String>,
        from: u64,
    ) -> Result<Log, StoreError> {
        if bus.role() == Role::Viewer {
            let pages = Pages { bus: bus.clone(), stream, subjects, from, page: VecDeque::new() };
            return Ok(Log::Pages(Box::new(pages)));
        }
        Ok(Log::Consumer(Box::new(Reader::open(bus, stream, subjects, from).await?)))
    }

    /// The next message; waits for it.
    ///
    /// # Errors
    /// When the reading is broken.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Message> {
        match self {
            Log::Consumer(reader) => Ok(reader.next().await?),
            Log::Pages(pages) => pages.next().await,
        }
    }

    pub(crate) async fn close(self) {
        if let Log::Consumer(reader) = self {
            reader.close().await;
        }
    }
}

/// See [`Bus::page`].
pub(crate) struct Pages {
    bus: Bus,
    stream: Stream,
    subjects: Vec<String>,
    from: u64,
    page: VecDeque<Message>,
}

impl Pages {
    async fn next(&mut self) -> anyhow::Result<Message> {
        // The broker takes one filter for a page.
        let filter = match self.subjects.as_slice() {
            [subject] => subject.clone(),
            _ => ">".into(),
        };
        let mut looks = 0;
        loop {
            while let Some(message) = self.page.pop_front() {
                self.from = message.sequence + 1;
                if self.subjects.iter().any(|subject| subject_matches(subject, &message.subject)) {
                    return Ok(message);
                }
            }
            let page = self.bus.page(self.stream, &filter, self.from).await?;
            if page.is_empty() {
                looks += 1;
                if looks > BEHIND_LOOKS_MAX {
                    bail!("the broker shows nothing of {filter} from {} on, though it has more", self.from);
                }
                clock::sleep(BEHIND_WAIT).await;
            }
            self.page.extend(page.into_iter().map(|message| Message {
                subject: message.subject.to_string(),
                sequence: message.sequence,
                published_ms:
                    i64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX),
                payload: message.payload,
            }));
        }
    }
}
