//! Hosts that are called: actions' targets, pages that are asked, the platform. A connection is made and closed.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use holdline_decide::playbook::{Doing, Platform, Set};
use holdline_stage::clock;
use reqwest::Url;

use super::Scene;
use super::certificates::{Validity, judge};
use super::connect::{Doors, Place};
use super::finding::{Finding, State};

/// Hosts that are looked at; the rest is counted.
const HOSTS_MAX: usize = 200;

/// Hosts that are looked at at once.
const AT_ONCE_MAX: usize = 16;

pub(super) async fn look(scene: &Scene) -> anyhow::Result<Vec<Finding>> {
    let Ok(set) = &scene.set else {
        return Ok(vec![Finding::unknown("targets", "not known: there is no set of playbooks", "push one")]);
    };
    let (mut places, mut found) = places(set);
    let more = places.split_off(HOSTS_MAX.min(places.len())).len();
    if places.is_empty() && found.is_empty() {
        return Ok(vec![Finding::well("targets", "nobody is called")]);
    }
    let doors = Doors::new()?;
    let now_ms = clock::wall_ms();
    let reached: Vec<Finding> = stream::iter(places)
        .map(|(place, what)| reach(&doors, place, what, now_ms))
        .buffered(AT_ONCE_MAX)
        .collect()
        .await;
    found.splice(0..0, reached);
    if more > 0 {
        found.push(Finding::unknown(
            "targets",
            format!("{more} host(s) beyond the first {HOSTS_MAX} were not looked at"),
            "push sets with fewer, or look at them by hand",
        ));
    }
    Ok(found)
}

/// Every host with what it is to us, each once; and what names none.
fn places(set: &Set) -> (Vec<(Place, String)>, Vec<Finding>) {
    let (mut places, mut found) = (BTreeMap::new(), vec![]);
    let mut add = |what: String, address: &str, connect_to: bool| {
        let url = Url::parse(address).map_err(|error| error.to_string());
        let place = url.and_then(|url| {
            let port = url.port_or_known_default().unwrap_or_default();
            let target = set.target(url.host_str().unwrap_or_default(), port).filter(|_| connect_to);
            Place::of(&url, target.and_then(|target| target.connect_to.as_ref()))
        });
        match place {
            Ok(place) => {
                places.entry(place).or_insert(what);
            }
            Err(why) => found.push(Finding::person(what, format!("{address}: {why}"), "correct its URL")),
        }
    };
    for action in set.actions.values() {
        if let Doing::Webhook(webhook) = &action.what {
            add("target".into(), webhook.origin(), true);
        }
    }
    for subscription in set.subscriptions.values() {
        if let Some(poll) = &subscription.poll {
            // The gateway asks the page itself.
            add("status page".into(), &poll.url, false);
        }
    }
    let mut all: Vec<(Place, String)> =
        places.into_iter().map(|(place, what)| (place.clone(), format!("{what} {place}"))).collect();
    all.extend(set.platform.iter().flat_map(platform));
    (all, found)
}

/// The platform's API, and where its tokens come from.
fn platform(platform: &Platform) -> Vec<(Place, String)> {
    let hosts = ["api", "login"].map(|name| format!("{name}.{}", platform.region));
    let place = |host: String| {
        let url = Url::parse(&format!("https://{host}/")).ok()?;
        Some((Place::of(&url, platform.connect_to.as_ref()).ok()?, format!("platform {host}")))
    };
    hosts.into_iter().filter_map(place).collect()
}

async fn reach(doors: &Doors, place: Place, what: String, now_ms: i64) -> Finding {
    let reached = match doors.open(&place).await {
        Ok(reached) => reached,
        Err(why) => {
            let todo = "nothing can be done there until it answers: start it, open the way, or correct its certificate \
                        or its URL. Where executors run on other machines, look from there, too";
            return Finding::person(what, why, todo);
        }
    };
    let Some(shown) = &reached.over_tls else {
        if reached.address.ip().is_loopback() {
            return Finding::well(what, reached.to_string());
        }
        let todo = "call it by https: everyone on the way sees what is done";
        return Finding::note(what, reached.to_string(), todo);
    };
    match Validity::of_server(&shown.chain) {
        Ok(validity) => {
            let certificate = judge(&what, validity, now_ms);
            let found = format!("{reached}; {}", certificate.found);
            let todo = match certificate.state {
                State::Well => String::new(),
                _ => "whoever runs it has to renew its certificate: calls fail once it has expired".into(),
            };
            Finding::new(what, certificate.state, found, todo)
        }
        Err(why) => Finding::unknown(
            what,
            format!("{reached}; how long its certificate is good is not known: {why}"),
            "look at it with `openssl s_client`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::set_with;
    use super::*;

    #[test]
    fn every_host_is_named_once_and_reached_as_the_executor_does() {
        let action = |name: &str, url: &str| {
            let text =
                format!(r#"{{"name": "{name}", "actionType": "WEBHOOK", "url": "{url}", "method": "POST"}}"#);
            (format!("actions/{name}.json"), text)
        };
        let settings = "targets: [{host: aside.example.com, connect_to: 127.0.0.1:9}]\nplatform: {region: \
                        mypurecloud.ie, clients: {one: {id: env:A, secret: env:B}}}\n";
        let set = set_with(vec![
            action("a", "https://one.example.com/a/{{data.x}}"),
            action("b", "https://one.example.com/b?c"),
            action("c", "https://one.example.com:8443"),
            action("d", "https://aside.example.com/{{event.id}}"),
            ("holdline.yaml".into(), settings.into()),
        ]);
        let (places, wrong) = places(&set);
        assert_eq!(wrong, []);
        let told: Vec<String> = places
            .iter()
            .map(|(place, what)| format!("{what} {:?} {:?}", place.tls, place.address))
            .collect();
        assert_eq!(
            told,
            [
                "target 127.0.0.1:1 None None",
                "target aside.example.com:443 None Some(127.0.0.1:9)",
                "target one.example.com:443 Trusted None",
                "target one.example.com:8443 Trusted None",
                "platform api.mypurecloud.ie Trusted None",
                "platform login.mypurecloud.ie Trusted None",
            ]
        );
    }
}
