//! What a holder may still do once it holds.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
};

use super::frame::Refusal;

/// Drops every capability but these, for good: nothing that is executed later can bring one back.
///
/// # Errors
/// The kernel still reports more than was to be kept.
pub fn keep_only(keep: CapabilitySet) -> Result<(), Refusal> {
    let refuse = |error: std::io::Error| Refusal::new(format!("cannot drop capabilities: {error}"));
    let has = capabilities(None).map_err(|error| refuse(error.into()))?;
    let kept = has.permitted & keep;
    set_no_new_privs(true).map_err(|error| refuse(error.into()))?;
    clear_ambient_capability_set().map_err(|error| refuse(error.into()))?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(|error| refuse(error.into()))?;
    let now = capabilities(None).map_err(|error| refuse(error.into()))?;
    if now.permitted != kept || now.effective != kept {
        return Err(Refusal::new(format!("capabilities that should be gone are still there: {:?}", now.permitted - kept)));
    }
    Ok(())
}

/// # Errors
/// This process lacks one of these.
pub fn need(wanted: CapabilitySet, names: &str, what: &str) -> Result<(), String> {
    let has = capabilities(None).map_err(|error| format!("cannot read the capabilities: {error}"))?;
    if has.effective.contains(wanted) { Ok(()) } else { Err(format!("{what} needs the capability {names}")) }
}
