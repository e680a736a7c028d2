//! What a call is answered when it is not carried out: the platform's ErrorBody.

use serde_json::{Map, Value, json};

/// The namespace and key of the limit that a client's calls come under.
const LIMIT_KEY: &str = "client.credentials.token.rate.per.minute";

/// The message with a placeholder, and what stands in the placeholder's place.
#[derive(Debug, Clone, PartialEq)]
struct Parameter {
    with: &'static str,
    name: &'static str,
    value: String,
}

/// Why a call is not carried out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    code: &'static str,
    message: String,
    /// `messageWithParams` and its parameter, where the platform gives them.
    parameter: Option<Box<Parameter>>,
    limit: Option<u32>,
    pub(crate) retry_after_s: Option<u64>,
}

impl Refusal {
    fn new(status: u16, code: &'static str, message: String) -> Refusal {
        Refusal { status, code, message, parameter: None, limit: None, retry_after_s: None }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Refusal {
        Refusal::new(400, "bad.request", message.into())
    }

    /// The token is none, or none any more.
    pub(crate) fn unauthorised() -> Refusal {
        Refusal::new(401, "bad.credentials", "Invalid login credentials.".into())
    }

    pub(crate) fn forbidden(any_of: &[&str]) -> Refusal {
        let missing = format!("[{}]", any_of.join(", "));
        let with = "Unable to perform the requested action. You must have at least one of the following \
                    permissions assigned: {missingPermissions}";
        let message = with.replace("{missingPermissions}", &missing);
        let parameter = Some(Box::new(Parameter { with, name: "missingPermissions", value: missing }));
        Refusal { parameter, ..Refusal::new(403, "missing.any.permissions", message) }
    }

    pub(crate) fn not_found() -> Refusal {
        Refusal::new(404, "not.found", "The requested resource could not be found.".into())
    }

    pub(crate) fn stale(given: i64, current: i64, status: u16) -> Refusal {
        let code = if status == 409 { "general.conflict" } else { "bad.request" };
        Refusal::new(status, code, format!("Version {given} does not match the current version {current}"))
    }

    pub(crate) fn too_many(allowed: u32, reset_s: u64) -> Refusal {
        let with = "Rate limit exceeded the maximum. Retry the request in [{seconds}] seconds";
        let message = with.replace("{seconds}", &reset_s.to_string());
        Refusal {
            parameter: Some(Box::new(Parameter { with, name: "seconds", value: reset_s.to_string() })),
            limit: Some(allowed),
            retry_after_s: Some(reset_s),
            ..Refusal::new(429, "too.many.requests", message)
        }
    }

    /// A fault that a test has ordered.
    pub(crate) fn injected(status: u16, retry_after_s: Option<u64>) -> Refusal {
        let (code, message) = match status {
            429 => ("too.many.requests", "Rate limit exceeded the maximum."),
            503 => ("service.unavailable", "Service Unavailable - The server is currently unavailable."),
            504 => ("gateway.timeout", "The request timed out."),
            _ => ("internal.server.error", "The server encountered an unexpected condition."),
        };
        Refusal { retry_after_s, ..Refusal::new(status, code, message.into()) }
    }

    /// The answer's body.
    pub(crate) fn body(&self, context: &str) -> Value {
        let mut body = json!({
            "message": self.message,
            "code": self.code,
            "status": self.status,
            "messageParams": {},
            "contextId": context,
            "details": [],
            "errors": [],
        });
        let Some(fields) = body.as_object_mut() else { return body };
        if let Some(Parameter { with, name, value }) = self.parameter.as_deref() {
            fields.insert("messageWithParams".into(), json!(with));
            fields.insert(
                "messageParams".into(),
                Value::Object(Map::from_iter([(String::from(*name), json!(value))])),
            );
        }
        if let Some(value) = self.limit {
            let limit = json!({ "key": LIMIT_KEY, "namespace": "platform.api", "value": value });
            fields.insert("limit".into(), limit);
        }
        body
    }
}
