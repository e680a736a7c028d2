//! Reads a folder of playbooks.

use std::path::Path;

use anyhow::{Context, bail};
use holdline_decide::playbook::belongs;
use holdline_proto::limits::BUNDLE_BYTES_MAX;
use holdline_proto::playbooks::Bundle;

/// Folders within folders that are followed.
const DEPTH_MAX: usize = 8;

/// Every file of the folder that belongs to a set, by its path below it.
pub(crate) fn read(folder: &Path) -> anyhow::Result<Bundle> {
    if !folder.is_dir() {
        bail!(
            "{} is no folder; it should hold *.playbook.yaml, subscriptions/ and actions/ (`holdline up --demo` \
             needs none)",
            folder.display()
        );
    }
    let mut bundle = Bundle::default();
    visit(folder, folder, 0, &mut bundle)?;
    Ok(bundle)
}

fn visit(root: &Path, folder: &Path, depth: usize, bundle: &mut Bundle) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && depth < DEPTH_MAX {
            visit(root, &path, depth + 1, bundle)?;
            continue;
        }
        let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) else { continue };
        if !belongs(name) {
            continue;
        }
        if path.metadata()?.len() > BUNDLE_BYTES_MAX as u64 {
            bail!("{} is larger than a whole set may be ({BUNDLE_BYTES_MAX} bytes)", path.display());
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        bundle.files.insert(name.into(), text);
    }
    Ok(())
}
