//! `holdline check DIR`

use std::path::PathBuf;

use holdline_decide::playbook::{self, Severity};
use serde_json::json;

use super::{No, files};
use crate::output::{self, Output, line};

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    folder: PathBuf,
    /// Refuse secrets written in place, and everything else that is only warned of
    #[arg(long)]
    strict: bool,
    /// Say every rule and default that applies
    #[arg(long)]
    explain: bool,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Check {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let bundle = files::read(&self.folder)?;
        let (set, findings) = playbook::load(&bundle);
        let errors = findings.iter().filter(|f| self.strict || f.severity == Severity::Error).count();
        let good = set.is_some() && errors == 0;
        match self.output {
            Output::Json => {
                let playbooks: Vec<&String> = set.iter().flat_map(|set| set.playbooks.keys()).collect();
                output::json(&json!({
                    "ok": good,
                    "set": set.as_ref().map(|set| set.hash.clone()),
                    "playbooks": playbooks,
                    "findings": findings,
                }));
            }
            Output::Text => {
                for finding in &findings {
                    line(format!("{finding}\n"));
                }
                if let Some(set) = &set {
                    if self.explain {
                        line(playbook::explain(set));
                    }
                    line(format!(
                        "{}: {} playbook(s), {} subscription(s), {} action(s), {} warning(s); set {}",
                        if good { "good" } else { "refused under --strict" },
                        set.playbooks.len(),
                        set.subscriptions.len(),
                        set.actions.len(),
                        findings.len(),
                        set.hash
                    ));
                } else {
                    line(format!("{errors} error(s)"));
                }
            }
        }
        if good { Ok(()) } else { Err(No.into()) }
    }
}
