//! References to secrets: whether each leads to one, as this environment has it. What a secret is, or how long, is
//! told nowhere.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use holdline_decide::playbook::{Set, was_literal};
use holdline_proto::secret::SecretRef;

use super::Scene;
use super::finding::Finding;

pub(super) async fn look(scene: &Scene) -> anyhow::Result<Vec<Finding>> {
    let Ok(set) = &scene.set else {
        return Ok(vec![Finding::unknown("secrets", "not known: there is no set of playbooks", "push one")]);
    };
    let references = references(set);
    if references.is_empty() {
        return Ok(vec![Finding::well("secrets", "none is needed")]);
    }
    let mut found = vec![];
    for (reference, users) in &references {
        found.push(look_up(scene, reference, &users.join(" and ")).await);
    }
    found.extend(literals(set));
    Ok(found)
}

/// Every reference of a set, and what needs it.
fn references(set: &Set) -> BTreeMap<SecretRef, Vec<String>> {
    let mut references: BTreeMap<SecretRef, Vec<String>> = BTreeMap::new();
    for subscription in set.subscriptions.values() {
        for reference in &subscription.secrets {
            let user = format!("subscription {}", subscription.name);
            references.entry(reference.clone()).or_default().push(user);
        }
    }
    for (user, reference) in set.credentials() {
        let users = references.entry(reference.clone()).or_default();
        if !users.contains(&user) {
            users.push(user);
        }
    }
    references
}

async fn look_up(scene: &Scene, reference: &SecretRef, users: &str) -> Finding {
    let what = format!("secret {reference}");
    let why = match scene.secrets.fetch(reference).await {
        Ok(_) => return Finding::well(what, format!("of {users}: there is one, as this environment has it")),
        Err(why) => why,
    };
    let found = format!("of {users}: {why}");
    let todo = "put it there: docs/secrets.md";
    match reference {
        // The services have environments of their own.
        SecretRef::Env(_) => Finding::unknown(
            what,
            format!("of {users}: not known here: {why}"),
            "what a service misses its /readyz says (--admin); or call this with the services' environment",
        ),
        SecretRef::File(path) if scene.data.is_some() && is_absent(path) => {
            Finding::person(what, found, todo)
        }
        SecretRef::Vault { .. } if scene.secrets.has_vault() => Finding::person(what, found, todo),
        SecretRef::File(_) => Finding::unknown(
            what,
            format!("{found} (from here)"),
            "where services run on other machines or as another user, their /readyz says whether they have it (--admin)",
        ),
        SecretRef::Vault { .. } => Finding::unknown(
            what,
            format!("of {users}: not known here: {why}"),
            "call this with the services' HOLDLINE_VAULT_… variables, or look at their /readyz (--admin)",
        ),
    }
}

/// Whether there is certainly no such file.
fn is_absent(path: &str) -> bool {
    std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Secrets that were written in place.
fn literals(set: &Set) -> Option<Finding> {
    let names = set.subscriptions.values().filter(|subscription| {
        let mut references = subscription.secrets.iter().enumerate();
        references.any(|(index, reference)| was_literal(&subscription.name, index, reference))
    });
    let names: Vec<&str> = names.map(|subscription| subscription.name.as_str()).collect();
    (!names.is_empty()).then(|| {
        Finding::note(
            "secrets in place",
            format!("written in the files of subscription {}, and stored nowhere else", names.join(", ")),
            "refer to it: `env:NAME`, `file:PATH` or `vault:PATH#KEY`; whoever may read the files has it",
        )
    })
}
