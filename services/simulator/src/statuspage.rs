//! The status page: components and the incidents that are not over.

use serde_json::{Value, json};

use crate::organisation::{STATUS_COMPONENT, STATUS_COMPONENT_OTHER};
use crate::state::{Ids, Now};

/// Incidents that are remembered; the oldest go first.
const INCIDENTS_MAX: usize = 100;

const PAGE_ID: &str = "genesyspage1";

pub(crate) struct Statuspage {
    updated: String,
    /// Oldest first; resolved ones stay for a while.
    incidents: Vec<Incident>,
}

struct Incident {
    component: String,
    component_status: String,
    body: Value,
}

const COMPONENTS: [(&str, &str); 2] =
    [(STATUS_COMPONENT, "Americas (US East)"), (STATUS_COMPONENT_OTHER, "Europe (Dublin)")];

/// What a component's status says of the page.
struct Status {
    name: &'static str,
    indicator: &'static str,
    description: &'static str,
}

const OPERATIONAL: Status = status("operational", "none", "All Systems Operational");

/// Worst first.
const TROUBLE: [Status; 4] = [
    status("major_outage", "critical", "Major System Outage"),
    status("partial_outage", "major", "Partial System Outage"),
    status("degraded_performance", "minor", "Minor Service Outage"),
    status("under_maintenance", "maintenance", "Service Under Maintenance"),
];

const fn status(name: &'static str, indicator: &'static str, description: &'static str) -> Status {
    Status { name, indicator, description }
}

impl Statuspage {
    pub(crate) fn new(now: Now) -> Statuspage {
        Statuspage { updated: now.date(), incidents: vec![] }
    }

    /// Opens an incident on a component and gives its id; none for a component or status that does not exist.
    pub(crate) fn open(
        &mut self,
        name: &str,
        component: &str,
        status: &str,
        now: Now,
        ids: &mut Ids,
    ) -> Option<String> {
        let (_, component_name) = COMPONENTS.iter().find(|(id, _)| *id == component)?;
        let trouble = TROUBLE.iter().find(|trouble| trouble.name == status)?;
        let (id, date) = (ids.next(), now.date());
        let affected = json!([{
            "code": component, "name": component_name,
            "old_status": self.status(Some(component)).name, "new_status": status,
        }]);
        let body = json!({
            "id": id,
            "name": name,
            "status": "investigating",
            "impact": trouble.indicator,
            "created_at": date,
            "updated_at": date,
            "started_at": date,
            "monitoring_at": null,
            "resolved_at": null,
            "shortlink": format!("https://status.example.net/incidents/{id}"),
            "page_id": PAGE_ID,
            "incident_updates": [{
                "id": ids.next(),
                "incident_id": id,
                "status": "investigating",
                "body": format!("We are investigating: {name}."),
                "created_at": date,
                "updated_at": date,
                "display_at": date,
                "affected_components": affected,
            }],
        });
        if self.incidents.len() >= INCIDENTS_MAX {
            self.incidents.remove(0);
        }
        self.incidents.push(Incident { component: component.into(), component_status: status.into(), body });
        self.updated = date;
        Some(id)
    }

    /// Whether there was such an incident, open or not.
    pub(crate) fn resolve(&mut self, id: &str, now: Now) -> bool {
        self.updated = now.date();
        let incident = self.incidents.iter_mut().find(|incident| incident.body.get("id") == Some(&json!(id)));
        let Some(body) = incident.and_then(|incident| incident.body.as_object_mut()) else { return false };
        body.insert("status".into(), json!("resolved"));
        body.insert("resolved_at".into(), json!(now.date()));
        body.insert("updated_at".into(), json!(now.date()));
        true
    }

    fn unresolved(&self) -> impl Iterator<Item = &Incident> {
        self.incidents.iter().filter(|incident| incident.body.get("resolved_at").is_some_and(Value::is_null))
    }

    /// The worst that open incidents say of a component, or of all.
    fn status(&self, component: Option<&str>) -> &'static Status {
        let says = |trouble: &&Status| {
            self.unresolved().any(|incident| {
                incident.component_status == trouble.name
                    && component.is_none_or(|component| component == incident.component)
            })
        };
        TROUBLE.iter().find(says).unwrap_or(&OPERATIONAL)
    }

    fn page(&self) -> Value {
        json!({
            "id": PAGE_ID,
            "name": "Genesys Cloud",
            "url": "https://status.example.net",
            "time_zone": "Etc/UTC",
            "updated_at": self.updated,
        })
    }

    fn component_list(&self) -> Vec<Value> {
        let component = |(number, (id, name)): (usize, &(&str, &str))| {
            json!({
                "id": id,
                "name": name,
                "status": self.status(Some(id)).name,
                "created_at": "2020-01-01T00:00:00.000Z",
                "updated_at": self.updated,
                "position": number + 1,
                "description": null,
                "showcase": false,
                "page_id": PAGE_ID,
                "group_id": null,
            })
        };
        COMPONENTS.iter().enumerate().map(component).collect()
    }

    fn incident_list(&self) -> Vec<&Value> {
        self.unresolved().map(|incident| &incident.body).collect()
    }

    /// `summary.json`
    pub(crate) fn summary(&self) -> Value {
        let status = self.status(None);
        json!({
            "page": self.page(),
            "status": { "indicator": status.indicator, "description": status.description },
            "components": self.component_list(),
            "incidents": self.incident_list(),
            "scheduled_maintenances": [],
        })
    }

    /// `components.json`
    pub(crate) fn components(&self) -> Value {
        json!({ "page": self.page(), "components": self.component_list() })
    }

    /// `incidents/unresolved.json`
    pub(crate) fn unresolved_incidents(&self) -> Value {
        json!({ "page": self.page(), "incidents": self.incident_list() })
    }
}
