//! Settings: from a YAML file (`--config`) and from `HOLDLINE_<SECTION>_<NAME>`, the environment winning.
//!
//! Each service reads one small struct per concern through a [`Reader`], which collects every problem, so
//! that all of them are reported together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use holdline_proto::topology::Topology;

use crate::tls::{self, Pair};

/// Everything that was wrong with the settings; a process that meets it exits with 64.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BadSettings(pub Vec<String>);

type Environment = Box<dyn Fn(&str) -> Option<String>>;

/// Looks settings up and collects what is wrong with them.
pub struct Reader {
    file: BTreeMap<(String, String), String>,
    file_name: String,
    environment: Environment,
    asked: BTreeSet<(String, String)>,
    problems: Vec<String>,
}

impl Reader {
    /// Reads from a file, if there is one, and from the process's environment.
    pub fn of_process(file: Option<&Path>) -> Reader {
        #[allow(clippy::disallowed_methods, reason = "the one place where the environment is read")]
        Reader::new(file, Box::new(|name| std::env::var(name).ok()))
    }

    /// Reads from a file, if there is one, and an environment given as a function.
    pub fn new(file: Option<&Path>, environment: Environment) -> Reader {
        let mut reader = Reader {
            file: BTreeMap::new(),
            file_name: file.map(|f| f.display().to_string()).unwrap_or_default(),
            environment,
            asked: BTreeSet::new(),
            problems: vec![],
        };
        if let Some(path) = file {
            reader.read_file(path);
        }
        reader
    }

    fn read_file(&mut self, path: &Path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return self.problems.push(format!("{}: cannot be read: {error}", path.display())),
        };
        let parsed: Result<BTreeMap<String, BTreeMap<String, serde_json::Value>>, _> =
            serde_saphyr::from_str(&text);
        match parsed {
            Ok(sections) => {
                for (section, names) in sections {
                    for (name, value) in names {
                        let text = match value {
                            serde_json::Value::String(text) => text,
                            other => other.to_string(),
                        };
                        self.file.insert((section.clone(), name), text);
                    }
                }
            }
            Err(error) => self.problems.push(format!(
                "{}: expected `section:` with `name: value` lines below it: {error}",
                path.display()
            )),
        }
    }

    /// A setting with a default.
    pub fn or<T>(&mut self, section: &str, name: &str, default: T) -> T
    where
        T: FromStr,
        T::Err: Display,
    {
        self.optional(section, name).unwrap_or(default)
    }

    /// A setting that may be absent.
    pub fn optional<T>(&mut self, section: &str, name: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let key = (section.to_string(), name.to_string());
        self.asked.insert(key.clone());
        let variable = format!("HOLDLINE_{section}_{name}").to_uppercase().replace('-', "_");
        let (text, place) = match (self.environment)(&variable) {
            Some(text) => (text, variable.clone()),
            None => (self.file.get(&key)?.clone(), format!("{}: {section}.{name}", self.file_name)),
        };
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems.push(format!("{place}: {text:?} cannot be used: {error}"));
                None
            }
        }
    }

    /// Notes a problem that a service found itself.
    pub fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Every problem met, keys of the file that nobody asked for included.
    pub fn finish(mut self) -> Result<(), BadSettings> {
        for (section, name) in self.file.keys() {
            if !self.asked.contains(&(section.clone(), name.clone())) {
                let known = self.asked.iter().map(|(s, n)| format!("{s}.{n}")).collect::<Vec<_>>().join(", ");
                self.problems.push(format!(
                    "{}: {section}.{name} is no setting of this program; it has {known}",
                    self.file_name
                ));
            }
        }
        if self.problems.is_empty() { Ok(()) } else { Err(BadSettings(self.problems)) }
    }
}

/// How to reach the broker.
#[derive(Debug, Clone)]
pub struct Nats {
    /// One or more URLs, separated by commas.
    pub url: String,
    /// File with the nkey seed of this role; without one no credentials are sent.
    pub seed_file: Option<PathBuf>,
    pub tls: NatsTls,
    pub topology: Topology,
    /// How long a start waits for the broker before it gives up with exit code 69.
    pub patience: Duration,
}

impl Nats {
    /// Reads `nats.url`, `nats.seed_file`, `nats.prefix`, `nats.patience_s` and the files of [`NatsTls`].
    pub fn read(reader: &mut Reader) -> Nats {
        let prefix: String = reader.or("nats", "prefix", "hl".into());
        Nats {
            url: reader.or("nats", "url", "nats://127.0.0.1:4222".into()),
            seed_file: reader.optional("nats", "seed_file"),
            tls: NatsTls::read(reader),
            topology: Topology::new(&prefix).unwrap_or_else(|problem| {
                reader.problem(format!("nats.prefix: {problem}"));
                Topology::default()
            }),
            patience: Duration::from_secs(reader.or("nats", "patience_s", 60)),
        }
    }
}

/// TLS to the broker; with none of it, only where the broker asks for it. The files are read anew for every
/// connection, so that they can be replaced.
#[derive(Debug, Clone, Default)]
pub struct NatsTls {
    /// Certificates that the broker's must come from; without them those that this machine trusts.
    pub ca_file: Option<PathBuf>,
    /// Who we are, to a broker that asks.
    pub certificate: Option<Pair>,
}

impl NatsTls {
    /// Reads `nats.tls_ca_file`, `nats.tls_certificate_file` and `nats.tls_key_file`.
    fn read(reader: &mut Reader) -> NatsTls {
        let tls = NatsTls {
            ca_file: reader.optional("nats", "tls_ca_file"),
            certificate: Pair::read(reader, "nats"),
        };
        tls.problems().into_iter().for_each(|problem| reader.problem(problem));
        tls
    }

    /// Whether the connection must be over TLS, whatever the broker says.
    pub fn is_set(&self) -> bool {
        self.ca_file.is_some() || self.certificate.is_some()
    }

    /// What is wrong with the files at the moment.
    pub fn problems(&self) -> Vec<String> {
        let roots = self.ca_file.as_ref().and_then(|file| tls::roots("nats.tls_ca_file", file).err());
        let certificate = self.certificate.as_ref().and_then(|pair| pair.load().err());
        roots.into_iter().chain(certificate).collect()
    }
}

/// What every service has besides its own settings.
#[derive(Debug, Clone)]
pub struct Common {
    pub nats: Nats,
    /// Where `/livez`, `/readyz` and `/metrics` answer; none: nowhere.
    pub admin: Option<SocketAddr>,
    /// Name of this replica in leases and records. Unique among the replicas of a stage.
    pub replica: String,
}

impl Common {
    /// Reads the `nats` section, `admin.listen` and `replica.name`.
    pub fn read(reader: &mut Reader) -> Common {
        let replica: Option<String> = reader.optional("replica", "name");
        if let Some(name) = &replica
            && (name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        {
            reader.problem(format!("replica.name: {name:?}: expected letters, digits and hyphens"));
        }
        Common {
            nats: Nats::read(reader),
            admin: reader.optional("admin", "listen"),
            replica: replica.unwrap_or_else(|| format!("{}-{}", host_name(), std::process::id())),
        }
    }
}

/// The host's name, made safe for subjects; `host` where it cannot be read.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String =
        name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    if name.is_empty() { "host".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(variables: &'static [(&'static str, &'static str)]) -> Reader {
        Reader::new(
            None,
            Box::new(move |name| {
                variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_string())
            }),
        )
    }

    #[test]
    fn the_environment_wins_and_every_problem_is_told() {
        let mut good =
            reader(&[("HOLDLINE_NATS_URL", "nats://h:1"), ("HOLDLINE_ADMIN_LISTEN", "127.0.0.1:9")]);
        let common = Common::read(&mut good);
        good.finish().unwrap();
        assert_eq!(common.nats.url, "nats://h:1");
        assert_eq!(common.admin.unwrap().port(), 9);

        let mut bad = reader(&[
            ("HOLDLINE_ADMIN_LISTEN", "nowhere"),
            ("HOLDLINE_NATS_PATIENCE_S", "soon"),
            ("HOLDLINE_NATS_PREFIX", "Not OK"),
        ]);
        Common::read(&mut bad);
        let problems = bad.finish().unwrap_err().to_string();
        for part in ["HOLDLINE_ADMIN_LISTEN", "HOLDLINE_NATS_PATIENCE_S", "nats.prefix"] {
            assert!(problems.contains(part), "{problems}");
        }
    }
}
