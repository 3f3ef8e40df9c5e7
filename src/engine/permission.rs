use crate::api::{Fault, FaultKind, GROUP, Targets, WorkloadKind};

/// A right that the run's service account must have, because the fault is done in its name (P7): the real
/// verb on the real object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permission {
    pub verb: &'static str,
    pub group: &'static str,
    pub resource: &'static str,
    pub subresource: &'static str,
    /// Nodes have no namespace.
    pub namespaced: bool,
}

/// The group of the resources that consent is about. There are no such objects.
pub const FAULTS: &str = "faults.gameday.dev";

impl Permission {
    /// What a fault needs.
    pub fn of(fault: &Fault, targets: &Targets) -> Vec<Permission> {
        let held = fault.kinds().into_iter().any(FaultKind::is_held);
        let Fault { pod_kill, pod_evict, scale, cordon, .. } = fault;
        let namespaced = |verb, group, resource, subresource| Permission { verb, group, resource, subresource, namespaced: true };
        // The namespace's consent to this kind of fault, granted by an ordinary role. A node belongs to no namespace.
        let inject = |kind: FaultKind| Permission {
            verb: "inject",
            group: FAULTS,
            resource: kind.name(),
            subresource: "",
            namespaced: targets.nodes.is_none(),
        };
        let mut needed: Vec<Permission> = fault.kinds().into_iter().map(inject).collect();
        if pod_kill.is_some() {
            needed.push(namespaced("delete", "", "pods", ""));
        }
        if pod_evict.is_some() {
            needed.push(namespaced("create", "", "pods", "eviction"));
        }
        if scale.is_some() {
            let resource = match targets.workload.as_ref().map(|workload| workload.kind) {
                Some(WorkloadKind::StatefulSet) => "statefulsets",
                Some(WorkloadKind::Deployment) | None => "deployments",
            };
            needed.push(namespaced("patch", "apps", resource, "scale"));
        }
        if cordon.is_some() {
            needed.push(Permission { verb: "patch", group: "", resource: "nodes", subresource: "", namespaced: false });
        }
        if held {
            // The object that orders it, in the namespace of those that it hits.
            needed.push(namespaced("create", GROUP, "injections", ""));
        }
        needed
    }
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}
