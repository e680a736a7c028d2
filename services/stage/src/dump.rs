//! What a process holds in memory stays there: no core file, and no look into it by other processes of its user.

/// Forbids both for this process, from now on. Other processes of the same user can neither trace it nor read its
/// memory or its environment from `/proc` then; root can. Programs that it starts are not covered by that, but make no
/// core files either.
///
/// # Errors
/// What is not forbidden, and what to do instead.
#[cfg(target_os = "linux")]
pub fn forbid() -> Result<(), String> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| {
        format!("other processes of this user may read our memory (PR_SET_DUMPABLE: {error})")
    })?;
    // Where the kernel pipes cores to a program, this limit alone would forbid nothing.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|error| format!("the limit of core files cannot be set (RLIMIT_CORE: {error})"))
}

/// # Errors
/// Always: this system has no such call.
#[cfg(not(target_os = "linux"))]
pub fn forbid() -> Result<(), String> {
    Err("on this system a core file of holdline, and whoever traces it, sees its secrets; switch core files off".into())
}
