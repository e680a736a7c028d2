//! Logs and metrics. Logs are human on a terminal and JSON lines otherwise; metrics are OpenTelemetry's,
//! shown as Prometheus text by [`crate::admin`].

use std::io::IsTerminal;
use std::sync::OnceLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::Registry;

/// Starts logging: `RUST_LOG` says what, `level` unless set. Harmless when called twice.
pub fn init(service: &str, level: &str) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},async_nats=warn")));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // It would complain to stderr about stderr, and panic: a full disk under the log must not end a task.
    let builder = builder.log_internal_errors(false);
    let started = if std::io::stderr().is_terminal() {
        builder.with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    if started.is_ok() {
        tracing::info!(service, version = env!("CARGO_PKG_VERSION"), "starting {service}");
    }
}

/// A metric's name, once. Each counts for the stage that its `stage` label names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Events answered with 200.
    EventsAccepted,
    /// Requests refused, by `reason`.
    RequestsRefused,
    /// Bodies that were understood and carry no state, such as heartbeats, by `subscription`.
    BodiesWithoutState,
    /// Looks at a status page, by `result`.
    Polls,
    /// Messages heard on channels of the gateway's own, by `subscription`.
    MessagesHeard,
    /// Channels that are connected, by `subscription`.
    ChannelsConnected,
    /// Ends of channels' sockets, each followed by another connection, by `reason`.
    Reconnects,
    /// Looks at the state of all entities of a channel, by `result`.
    Reconciles,
    /// Records committed.
    RecordsCommitted,
    /// Commits that were refused or not answered, each followed by a fresh start from the last record.
    CommitsFailed,
    /// Inputs that a record covers.
    InputsDecided,
    /// Inputs not yet read, per `partition`.
    Lag,
    /// Partitions owned by this process.
    PartitionsOwned,
    /// Calls made to targets, by `result`.
    Calls,
    /// From the acceptance of the deciding event to the target's answer, by whose `share` it was. Milliseconds.
    ActionLatency,
    /// Throttling, by `what`: `answer` (the target answered 429), `turn` (a call waited for its turn for longer
    /// than a second), `old` (its turn was too old once it could leave, and it took another).
    Throttled,
    /// Messages parked in the dead letters.
    Parked,
    /// Dead letters that went back or were discarded, by `what`.
    LettersResolved,
    /// Bytes in the gateway's spool.
    SpoolBytes,
    /// Events in the gateway's spool.
    SpoolEvents,
    /// Age of the oldest event in the gateway's spool, in seconds.
    SpoolAge,
    /// What the broker refused for lack of rights.
    PermissionsRefused,
}

impl Metric {
    fn name(self) -> &'static str {
        match self {
            Metric::EventsAccepted => "holdline_events_accepted",
            Metric::RequestsRefused => "holdline_requests_refused",
            Metric::BodiesWithoutState => "holdline_bodies_without_state",
            Metric::Polls => "holdline_polls",
            Metric::MessagesHeard => "holdline_messages_heard",
            Metric::ChannelsConnected => "holdline_channels_connected",
            Metric::Reconnects => "holdline_reconnects",
            Metric::Reconciles => "holdline_reconciles",
            Metric::RecordsCommitted => "holdline_records_committed",
            Metric::CommitsFailed => "holdline_commits_failed",
            Metric::InputsDecided => "holdline_inputs_decided",
            Metric::Lag => "holdline_lag",
            Metric::PartitionsOwned => "holdline_partitions_owned",
            Metric::Calls => "holdline_calls",
            Metric::ActionLatency => "holdline_action_latency_ms",
            Metric::Throttled => "holdline_throttled",
            Metric::Parked => "holdline_parked",
            Metric::LettersResolved => "holdline_letters_resolved",
            Metric::SpoolBytes => "holdline_spool_bytes",
            Metric::SpoolEvents => "holdline_spool_events",
            Metric::SpoolAge => "holdline_spool_age_seconds",
            Metric::PermissionsRefused => "holdline_permissions_refused",
        }
    }

    /// Adds to a counter.
    pub fn add(self, count: u64, stage: &'static str, label: Option<(&'static str, String)>) {
        let labels = labels(stage, label);
        counter(self).add(count, &labels);
    }

    /// Adds an observation to a histogram of milliseconds.
    pub fn observe(self, value_ms: u64, stage: &'static str, label: Option<(&'static str, String)>) {
        let labels = labels(stage, label);
        histogram(self).record(value_ms, &labels);
    }

    /// Sets a gauge.
    pub fn set(self, value: u64, stage: &'static str, label: Option<(&'static str, String)>) {
        let labels = labels(stage, label);
        gauge(self).record(value, &labels);
    }
}

fn labels(stage: &'static str, label: Option<(&'static str, String)>) -> Vec<KeyValue> {
    let mut labels = vec![KeyValue::new("stage", stage)];
    labels.extend(label.map(|(name, value)| KeyValue::new(name, value)));
    labels
}

struct Meters {
    registry: Registry,
    provider: SdkMeterProvider,
}

fn meters() -> &'static Meters {
    static METERS: OnceLock<Meters> = OnceLock::new();
    METERS.get_or_init(|| {
        let registry = Registry::new();
        let builder = SdkMeterProvider::builder();
        let provider = match opentelemetry_prometheus::exporter().with_registry(registry.clone()).build() {
            Ok(exporter) => builder.with_reader(exporter).build(),
            Err(error) => {
                tracing::error!("metrics cannot be exported: {error}");
                builder.build()
            }
        };
        Meters { registry, provider }
    })
}

type Instruments<T> = OnceLock<std::sync::Mutex<std::collections::HashMap<&'static str, T>>>;

fn instrument<T: Clone>(cache: &'static Instruments<T>, name: &'static str, make: impl FnOnce() -> T) -> T {
    let mut cache =
        cache.get_or_init(Default::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    cache.entry(name).or_insert_with(make).clone()
}

fn counter(metric: Metric) -> Counter<u64> {
    static COUNTERS: Instruments<Counter<u64>> = OnceLock::new();
    instrument(&COUNTERS, metric.name(), || {
        meters().provider.meter("holdline").u64_counter(metric.name()).build()
    })
}

fn gauge(metric: Metric) -> Gauge<u64> {
    static GAUGES: Instruments<Gauge<u64>> = OnceLock::new();
    instrument(&GAUGES, metric.name(), || {
        meters().provider.meter("holdline").u64_gauge(metric.name()).build()
    })
}

/// Bounds of a histogram's buckets: from what a share takes without trouble to more than an action may. Milliseconds.
const BOUNDS_MS: [f64; 13] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 10_000.0, 60_000.0];

fn histogram(metric: Metric) -> Histogram<u64> {
    static HISTOGRAMS: Instruments<Histogram<u64>> = OnceLock::new();
    instrument(&HISTOGRAMS, metric.name(), || {
        let meter = meters().provider.meter("holdline");
        meter.u64_histogram(metric.name()).with_boundaries(BOUNDS_MS.to_vec()).build()
    })
}

/// All metrics as Prometheus text.
pub fn prometheus_text() -> String {
    use prometheus::Encoder;
    let mut text = vec![];
    let families = meters().registry.gather();
    if let Err(error) = prometheus::TextEncoder::new().encode(&families, &mut text) {
        return format!("# metrics cannot be shown: {error}\n");
    }
    String::from_utf8_lossy(&text).into_owned()
}
