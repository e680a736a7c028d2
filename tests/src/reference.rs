//! What must come of a history of events, computed from requirements.md alone and as naively as possible:
//! lists and counting, nothing shared with the machine.

/// What an event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Failed,
    Degraded,
    Healthy,
}

/// One event as it was delivered: in this order, for one entity.
#[derive(Debug, Clone)]
pub struct Delivered {
    pub id: String,
    pub status: Status,
    pub at_ms: i64,
}

/// Requirements D2, D3, T2 and O3 for one entity: (direction, id of the deciding event), in order.
/// `failures` in a row over `stable_ms` act; `healthy` in a row over `healthy_ms` revert.
pub fn actions(
    history: &[Delivered],
    failures: usize,
    stable_ms: i64,
    healthy: usize,
    healthy_ms: i64,
) -> Vec<(&'static str, String)> {
    let mut actions = vec![];
    let mut seen_ids: Vec<&str> = vec![];
    let mut newest = i64::MIN;
    // The events that counted since the last action, oldest first.
    let mut row: Vec<&Delivered> = vec![];
    let mut acted = false;
    for event in history {
        if seen_ids.contains(&event.id.as_str()) {
            continue;
        }
        seen_ids.push(&event.id);
        if event.at_ms < newest {
            continue;
        }
        newest = event.at_ms;
        let wanted = if acted { Status::Healthy } else { Status::Failed };
        if event.status == wanted {
            row.push(event);
        } else if acted || event.status == Status::Healthy {
            row.clear();
        }
        let (count, span) = if acted { (healthy, healthy_ms) } else { (failures, stable_ms) };
        let long_enough = row.first().is_some_and(|first| event.at_ms - first.at_ms >= span);
        if event.status == wanted && row.len() >= count && long_enough {
            actions.push((if acted { "revert" } else { "remediate" }, event.id.clone()));
            acted = !acted;
            row.clear();
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_says_what_the_requirements_say() {
        let check = |letters: &str, expected: &[(&str, &str)]| {
            let history: Vec<Delivered> = letters
                .chars()
                .enumerate()
                .map(|(n, letter)| Delivered {
                    id: n.to_string(),
                    status: match letter {
                        'F' => Status::Failed,
                        'D' => Status::Degraded,
                        _ => Status::Healthy,
                    },
                    at_ms: n as i64,
                })
                .collect();
            let found = actions(&history, 3, 0, 2, 0);
            let found: Vec<(&str, &str)> = found.iter().map(|(d, id)| (*d, id.as_str())).collect();
            assert_eq!(found, expected, "{letters}");
        };
        check("FFHFF", &[]);
        check("FDFDF", &[("remediate", "4")]);
        check("FFFHFHH", &[("remediate", "2"), ("revert", "6")]);
        check("FFFHDHH", &[("remediate", "2"), ("revert", "6")]);
        check("FFFFHHFFF", &[("remediate", "2"), ("revert", "5"), ("remediate", "8")]);
    }
}
