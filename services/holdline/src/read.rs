//! Reading a subject of a log from a position to its present end.

use holdline_proto::topology::Stream;
use holdline_stage::bus::Bus;
use holdline_stage::pipe::{Message, Reader};

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
    let mut reader = Reader::open(bus, stream, vec![subject.into()], from).await?;
    loop {
        let message = reader.next().await?;
        if take(&message)? || message.sequence >= last.sequence {
            reader.close().await;
            return Ok(());
        }
    }
}
