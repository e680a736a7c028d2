//! What an answer's headers say about limits: `Retry-After`, and the platform's `inin-ratelimit-*`.

use holdline_decide::execute::RETRY_AFTER_MS_MAX;
use holdline_decide::rate::Limits;
use reqwest::header::HeaderMap;

/// How long the target asks to be left alone, milliseconds, and what it allows.
pub fn limits(status: u16, headers: &HeaderMap) -> (Option<u64>, Limits) {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let count = |name: &str| number(name).map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    let retry_after_ms =
        number("retry-after").map(|seconds| seconds.saturating_mul(1_000).min(RETRY_AFTER_MS_MAX));
    let throttled = status == 429;
    let limits = Limits {
        allowed: count("inin-ratelimit-allowed"),
        count: count("inin-ratelimit-count"),
        reset_ms: number("inin-ratelimit-reset").map(|seconds| seconds.saturating_mul(1_000)),
        carried_out: (200..300).contains(&status),
        throttled,
        retry_after_ms: retry_after_ms.filter(|_| throttled),
    };
    (retry_after_ms, limits)
}
