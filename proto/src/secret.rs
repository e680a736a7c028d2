//! Where a secret is to be had. Only references travel; the secret itself stays in the process that uses it.

/// A reference to a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretRef {
    /// An environment variable of the process that uses it.
    Env(String),
    /// A file, read by the process that uses it.
    File(String),
    /// A key of a secret in Vault's KV engine, asked for by the process that uses it.
    Vault {
        /// Below the engine's mount.
        path: String,
        key: String,
    },
}

impl std::fmt::Display for SecretRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SecretRef::Env(name) => write!(f, "env:{name}"),
            SecretRef::File(path) => write!(f, "file:{path}"),
            SecretRef::Vault { path, key } => write!(f, "vault:{path}#{key}"),
        }
    }
}
