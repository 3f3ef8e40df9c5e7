//! Whether the kubelet restarts a container under a fault that leaves its liveness probe without an answer. That ends
//! the fault before its time and is another experiment than the one that was written: worth a warning, and no reason
//! to refuse. Startup probes are over by then: only ready pods are hit.

use std::collections::BTreeMap;

use crate::api::{Duration, Network, Pause, PauseScope, Peer};

use super::admit::Planned;

/// A container's liveness probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Liveness {
    pub asks: Asks,
    pub period: Duration,
    pub timeout: Duration,
    /// So many in a row, and the container is restarted.
    pub failures: u32,
}

/// How a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    Http,
    Grpc,
    /// Whether a connection is taken, and nothing else.
    Tcp,
    /// A command in the container.
    Command,
}

/// What becomes of a probe while a fault is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probed {
    Answered,
    Perhaps,
    Unanswered,
}

impl Liveness {
    /// From the beginning of the silence to the kubelet's decision: at least, where a probe is due at once, and at most,
    /// where one has just been answered.
    pub fn patience(&self) -> (Duration, Duration) {
        // A probe that takes longer than the period delays the next.
        let between = self.period.max(self.timeout);
        let least = between.saturating_mul(self.failures.saturating_sub(1)).saturating_add(self.timeout);
        (least, least.saturating_add(self.period))
    }
}

/// A sentence for each container that the kubelet restarts, or may restart, before the fault is over.
///
/// `containers`: names in the order of the pod's spec; the first is meant where the experiment names none.
pub fn restarts<'a>(
    planned: &Planned,
    containers: impl IntoIterator<Item = &'a str>,
    liveness: &BTreeMap<String, Liveness>,
) -> Vec<String> {
    let Some(held) = planned.kind.held() else { return Vec::new() };
    let mut containers = containers.into_iter();
    let hit: Vec<(&str, &Liveness, Probed)> = match (&held.fault.pause, &held.fault.network) {
        (Some(pause), None) => {
            let container = held.container.as_deref().or_else(|| containers.next());
            let probe = container.and_then(|name| Some((name, liveness.get(name)?)));
            probe.into_iter().map(|(name, probe)| (name, probe, paused(pause, probe.asks))).collect()
        }
        // A pod has one network, whatever container is named.
        (None, Some(network)) => liveness.iter().map(|(name, probe)| (name.as_str(), probe, cut(network, probe.asks))).collect(),
        (None, None) | (Some(_), Some(_)) => Vec::new(),
    };
    hit.into_iter().filter_map(|(name, probe, probed)| sentence(name, probe, probed, planned.hold)).collect()
}

fn paused(pause: &Pause, asks: Asks) -> Probed {
    match (asks, pause.scope) {
        (Asks::Http | Asks::Grpc, None | Some(PauseScope::Cgroup)) => Probed::Unanswered,
        // Another process may be the one that answers.
        (Asks::Http | Asks::Grpc, Some(PauseScope::Process)) => Probed::Perhaps,
        // The kernel takes the connection for a process that is stopped.
        (Asks::Tcp, None | Some(PauseScope::Cgroup | PauseScope::Process)) => Probed::Answered,
        // It is stopped too, if it is not done before it is found; or it waits for a process that is.
        (Asks::Command, None | Some(PauseScope::Cgroup | PauseScope::Process)) => Probed::Perhaps,
    }
}

fn cut(network: &Network, asks: Asks) -> Probed {
    let Network { partition, kubelet, to, except, flows, .. } = network;
    // The kubelet asks from an address of its node.
    let may_be_the_node = |peer: &Peer| peer.pods.is_none() && peer.service.is_none() && peer.dns.is_none();
    let everybody = to.is_none() && except.is_none() && flows.is_none();
    let is_named = to.as_ref().is_none_or(|peers| peers.iter().any(may_be_the_node));
    match asks {
        Asks::Http | Asks::Grpc | Asks::Tcp if *partition == Some(true) && *kubelet == Some(true) && is_named => {
            if everybody {
                Probed::Unanswered
            } else {
                Probed::Perhaps
            }
        }
        Asks::Http | Asks::Grpc | Asks::Tcp | Asks::Command => Probed::Answered,
    }
}

fn sentence(container: &str, probe: &Liveness, probed: Probed, hold: Duration) -> Option<String> {
    let (least, most) = probe.patience();
    let does = match probed {
        Probed::Answered => return None,
        Probed::Perhaps | Probed::Unanswered if hold <= least => return None,
        Probed::Unanswered if hold > most => "restarts",
        Probed::Perhaps | Probed::Unanswered => "may restart",
    };
    let Liveness { asks: _, period, timeout, failures } = probe;
    Some(format!(
        "the kubelet {does} container {container} before the fault is over: its liveness probe is patient for {least} to {most} \
         ({failures} times {period}, timeout {timeout}), and the hold is {hold}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::GameDaySpec;
    use crate::engine::admit;

    fn planned(fault: &str, hold: &str) -> Planned {
        let spec: GameDaySpec = serde_saphyr::from_str(&format!(
            "hypothesis: h\nsteadyState: [{{name: n, tcp: {{address: 'a:1'}}}}]\nexperiments:\n- name: e\n  hold: {hold}\n  \
             targets: {{pods: {{matchLabels: {{app: a}}}}}}\n  fault: {fault}\n"
        ))
        .unwrap();
        admit::admit(&spec).unwrap().experiments.remove(0)
    }

    /// As Kubernetes has it where nothing is said: 3 times 10 s, and 1 s.
    fn default(asks: Asks) -> Liveness {
        Liveness { asks, period: Duration::from_secs(10), timeout: Duration::from_secs(1), failures: 3 }
    }

    fn of_app(probe: Liveness) -> BTreeMap<String, Liveness> {
        BTreeMap::from([("app".to_owned(), probe)])
    }

    /// `restarts`, `may`, or nothing.
    fn says(fault: &str, hold: &str, asks: Asks) -> &'static str {
        let said = restarts(&planned(fault, hold), ["app"], &of_app(default(asks)));
        match said.first() {
            None => "",
            Some(one) if one.starts_with("the kubelet restarts container app ") => "restarts",
            Some(one) if one.starts_with("the kubelet may restart container app ") => "may",
            Some(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_probe_is_patient_until_the_last_of_its_failures_has_timed_out() {
        let cases = [((10, 1, 3), (21, 31)), ((1, 1, 1), (1, 2)), ((5, 2, 2), (7, 12)), ((2, 10, 3), (30, 32))];
        for ((period, timeout, failures), (least, most)) in cases {
            let [period, timeout] = [period, timeout].map(Duration::from_secs);
            let wanted = (Duration::from_secs(least), Duration::from_secs(most));
            assert_eq!(Liveness { asks: Asks::Http, period, timeout, failures }.patience(), wanted);
        }
    }

    #[test]
    fn a_pause_is_warned_of_from_the_patience_of_its_probe_on() {
        let cases = [
            ("{pause: {}}", "21s", Asks::Http, ""),
            ("{pause: {}}", "22s", Asks::Http, "may"),
            ("{pause: {}}", "31s", Asks::Grpc, "may"),
            ("{pause: {}}", "32s", Asks::Grpc, "restarts"),
            ("{pause: {scope: cgroup}}", "2m", Asks::Http, "restarts"),
            ("{pause: {scope: process}}", "2m", Asks::Http, "may"),
            ("{pause: {}}", "2m", Asks::Command, "may"),
            ("{pause: {}}", "2m", Asks::Tcp, ""),
            ("{containerKill: {}}", "2m", Asks::Http, ""),
            ("{cpu: {percent: 100}}", "2m", Asks::Http, ""),
            ("{podKill: {}}", "2m", Asks::Http, ""),
        ];
        for (fault, hold, asks, wanted) in cases {
            assert_eq!(says(fault, hold, asks), wanted, "{fault} {hold} {asks:?}");
        }
    }

    #[test]
    fn a_partition_is_warned_of_where_the_kubelet_is_cut_off_too() {
        let cases = [
            ("partition: true, kubelet: true", Asks::Http, "restarts"),
            ("partition: true, kubelet: true", Asks::Tcp, "restarts"),
            ("partition: true, kubelet: true", Asks::Command, ""),
            ("partition: true", Asks::Http, ""),
            ("partition: true, kubelet: false", Asks::Http, ""),
            ("delay: 2s, kubelet: true", Asks::Http, ""),
            ("partition: true, kubelet: true, flows: 50", Asks::Http, "may"),
            ("partition: true, kubelet: true, except: [{service: a}]", Asks::Http, "may"),
            ("partition: true, kubelet: true, to: [{service: a}]", Asks::Http, ""),
            ("partition: true, kubelet: true, to: [{service: a}, {cidr: 10.0.0.0/8}]", Asks::Http, "may"),
            ("partition: true, kubelet: true, to: [{ownPorts: [80]}]", Asks::Http, "may"),
        ];
        for (words, asks, wanted) in cases {
            assert_eq!(says(&format!("{{network: {{{words}}}}}"), "2m", asks), wanted, "{words} {asks:?}");
        }
    }

    #[test]
    fn a_pause_is_of_one_container_and_a_partition_of_all() {
        let patient = Liveness { failures: 99, ..default(Asks::Http) };
        let both = BTreeMap::from([("app".to_owned(), patient), ("proxy".to_owned(), default(Asks::Http))]);
        let hit = |fault: &str, containers: [&str; 2]| restarts(&planned(fault, "2m"), containers, &both).len();
        assert_eq!(hit("{pause: {}}", ["app", "proxy"]), 0);
        assert_eq!(hit("{pause: {}}", ["proxy", "app"]), 1);
        assert_eq!(hit("{network: {partition: true, kubelet: true}}", ["app", "proxy"]), 1);
        assert_eq!(restarts(&planned("{pause: {}}", "2m"), ["other"], &both), Vec::<String>::new());
    }

    #[test]
    fn the_warning_has_the_sum_in_it() {
        let said = restarts(&planned("{pause: {}}", "2m"), ["app"], &of_app(default(Asks::Http)));
        let wanted = "the kubelet restarts container app before the fault is over: its liveness probe is patient for 21s to 31s \
                      (3 times 10s, timeout 1s), and the hold is 2m";
        assert_eq!(said, [wanted]);
    }
}
