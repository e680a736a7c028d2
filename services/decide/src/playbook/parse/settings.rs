//! `holdline.yaml`: the installation's targets, its platform, whom to page, how large its groups are.

use std::collections::BTreeMap;

use super::{At, Fields};
use crate::playbook::finding::{Findings, Source};
use crate::playbook::node::{Entry, Kind, Node};
use crate::playbook::{Client, ConnectTo, Platform, Target};
use holdline_proto::limits::BUDGET_MAX;

/// The installation's settings.
#[derive(Debug, Default)]
pub(in crate::playbook) struct Settings {
    pub targets: Vec<Target>,
    pub platform: Option<Platform>,
    /// Name of the action that tells people of held incidents, and where it stands.
    pub pager: Option<At<String>>,
    /// Entities of each group.
    pub group_sizes: BTreeMap<String, u32>,
}

/// Reads the installation's settings.
pub(in crate::playbook) fn settings(source: Source<'_>, node: &Node, findings: &mut Findings) -> Settings {
    let planned = ["business_hours", "people", "vault"];
    let known = ["targets", "platform", "pager", "groups"];
    let Some(mut fields) = Fields::of(node, "holdline.yaml", &known, &planned, source, findings) else {
        return Settings::default();
    };
    let platform = fields.get("platform").and_then(|node| platform(source, node, fields.findings));
    let pager = fields.text("pager");
    let group_sizes = fields.get("groups").map(|node| group_sizes(source, node, fields.findings));
    let group_sizes = group_sizes.unwrap_or_default();
    let Some(list) = fields.get("targets") else {
        return Settings { targets: vec![], platform, pager, group_sizes };
    };
    let Kind::List(items) = &list.kind else {
        fields.findings.error(source, &list.at, format!("`targets`: expected a list, found {}", list.what()));
        return Settings { targets: vec![], platform, pager, group_sizes };
    };
    let targets = items.iter().filter_map(|item| target(source, item, fields.findings)).collect();
    Settings { targets, platform, pager, group_sizes }
}

fn group_sizes(source: Source<'_>, node: &Node, findings: &mut Findings) -> BTreeMap<String, u32> {
    let Kind::Map(entries) = &node.kind else {
        let message = format!("`groups`: expected a map, found {}", node.what());
        findings.error_with(source, &node.at, message, "as in `groups: {lisbon: 12}`, entities of each");
        return BTreeMap::new();
    };
    let mut sizes = BTreeMap::new();
    for Entry { key, value, .. } in entries {
        let size = match &value.kind {
            Kind::Scalar(size) => size.as_u64().and_then(|size| u32::try_from(size).ok()),
            _ => None,
        };
        match size.filter(|size| (1..=BUDGET_MAX).contains(size)) {
            Some(size) => drop(sizes.insert(key.clone(), size)),
            None => {
                let message = format!("group {key}: expected how many entities it has, 1 to {BUDGET_MAX}");
                findings.error(source, &value.at, message);
            }
        }
    }
    sizes
}

fn platform(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<Platform> {
    let known = ["region", "connect_to", "clients", "calls_per_second"];
    let mut fields = Fields::of(node, "`platform`", &known, &[], source, findings)?;
    let region = fields.needed_text("region")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    if !region.value.contains('.') || !region.value.chars().all(plain) {
        let message = format!("`region`: {:?} is no domain", region.value);
        fields.findings.error_with(
            source,
            &region.at,
            message,
            "the region's domain, such as mypurecloud.ie",
        );
    }
    let connect_to = fields.parsed("connect_to", connect_to).map(|to| to.value);
    let calls_per_second =
        fields.get("calls_per_second").is_some().then(|| fields.count("calls_per_second", 100, 1));
    let Some(list) = fields.get("clients") else {
        fields.missing("clients");
        return None;
    };
    let Kind::Map(entries) = &list.kind else {
        fields.wrong("clients", list, "a map from names to `id` and `secret`");
        return None;
    };
    let mut clients = BTreeMap::new();
    for entry in entries {
        let known = ["id", "secret"];
        let mut client = Fields::of(&entry.value, "a client", &known, &[], source, fields.findings)?;
        let (id, secret) = (client.reference("id"), client.reference("secret"));
        if let (Some(id), Some(secret)) = (id, secret) {
            clients.insert(entry.key.clone(), Client { id, secret });
        }
    }
    Some(Platform { region: region.value, connect_to, clients, calls_per_second })
}

fn target(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<Target> {
    let known = ["host", "calls_per_second", "connect_to"];
    let mut fields = Fields::of(node, "a target", &known, &[], source, findings)?;
    let host = fields.needed_text("host")?;
    let (name, port) = match host.value.rsplit_once(':') {
        Some((name, port)) => match port.parse() {
            Ok(port) => (name.to_string(), Some(port)),
            Err(_) => {
                fields.findings.error(
                    source,
                    &host.at,
                    format!("{:?}: expected HOST or HOST:PORT", host.value),
                );
                return None;
            }
        },
        None => (host.value, None),
    };
    let calls_per_second =
        fields.get("calls_per_second").is_some().then(|| fields.count("calls_per_second", 100, 1));
    let connect_to = fields.parsed("connect_to", connect_to).map(|to| to.value);
    Some(Target { host: name, port, calls_per_second, connect_to })
}

fn connect_to(text: &str) -> Result<ConnectTo, String> {
    let (tls, address) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(address), _) => (true, address),
        (None, Some(address)) => (false, address),
        (None, None) => (false, text),
    };
    let parsed = address.replace("localhost:", "127.0.0.1:").parse::<std::net::SocketAddr>();
    let address = parsed
        .map_err(|_| format!("{text:?}: expected IP:PORT, plain HTTP to loopback, or https://IP:PORT"))?;
    if !tls && !address.ip().is_loopback() {
        return Err(format!("{text:?}: plain HTTP goes to loopback only; write https:// for TLS"));
    }
    Ok(ConnectTo { tls, address })
}
