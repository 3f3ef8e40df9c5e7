//! Counting: of a workload, a namespace, a node, a zone or all nodes, how many there are, how many are hit,
//! missing or not ready, and how many ready ones nobody touches. A pod counts once, whatever happens to it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::picture::{Effect, Hit, Picture, PodShown, WorkloadKey};

/// A count of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub whole: usize,
    /// Hit, missing, not ready; of nodes also cordoned.
    pub affected: usize,
    /// Ready, and hit by nothing.
    pub ready_left: usize,
}

impl Tally {
    fn and(self, other: Tally) -> Tally {
        Tally {
            whole: self.whole + other.whole,
            affected: self.affected + other.affected,
            ready_left: self.ready_left + other.ready_left,
        }
    }
}

/// A pod that is hit, by a fault of its own or with its node.
#[derive(Clone, Copy, Debug)]
pub struct PodHit<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
    pub node: Option<&'a str>,
    pub owner: Option<&'a WorkloadKey>,
    pub labels: &'a BTreeMap<String, String>,
    pub takes_away: bool,
}

/// Faults sorted by what they hit: nobody is in it twice.
#[derive(Clone, Debug, Default)]
pub struct Hits<'a> {
    pub pods: BTreeMap<&'a str, PodHit<'a>>,
    pub nodes: BTreeSet<&'a str>,
    /// From and to.
    pub scales: BTreeMap<&'a WorkloadKey, (usize, usize)>,
}

impl<'a> Hits<'a> {
    pub fn of(index: &Index<'a>, hits: impl Iterator<Item = &'a Hit>) -> Self {
        let mut sorted = Hits::default();
        for hit in hits {
            sorted.add(index, hit);
        }
        sorted
    }

    fn add(&mut self, index: &Index<'a>, hit: &'a Hit) {
        match hit.effect {
            Effect::Disturbs | Effect::TakesAway => {
                let Some(namespace) = hit.namespace.as_deref() else { return };
                self.add_pod(
                    &hit.target.uid,
                    PodHit {
                        name: &hit.target.name,
                        namespace,
                        node: hit.node.as_deref(),
                        owner: hit.owner.as_ref(),
                        labels: &hit.labels,
                        takes_away: hit.effect == Effect::TakesAway,
                    },
                );
            }
            Effect::Scales { from, to } => {
                let Some(owner) = &hit.owner else { return };
                let (widest, lowest) = self.scales.entry(owner).or_insert((from, to));
                *widest = (*widest).max(from);
                *lowest = (*lowest).min(to);
            }
            Effect::Unschedulable => {
                self.nodes.insert(&hit.target.name);
            }
            Effect::NodeAway => {
                self.nodes.insert(&hit.target.name);
                for pod in index.on_node(&hit.target.name) {
                    self.add_pod(
                        &pod.uid,
                        PodHit {
                            name: &pod.name,
                            namespace: &pod.namespace,
                            node: pod.node.as_deref(),
                            owner: pod.owner.as_ref(),
                            labels: &pod.labels,
                            takes_away: true,
                        },
                    );
                }
            }
        }
    }

    fn add_pod(&mut self, uid: &'a str, hit: PodHit<'a>) {
        self.pods.entry(uid).and_modify(|known| known.takes_away |= hit.takes_away).or_insert(hit);
    }

    fn shrinks(&self, key: &WorkloadKey) -> usize {
        self.scales.get(key).map_or(0, |(from, to)| from.saturating_sub(*to))
    }

    /// Pods and replicas of a workload in these hits alone.
    pub fn of_workload(&self, key: &WorkloadKey) -> usize {
        self.pods.values().filter(|pod| pod.owner == Some(key)).count() + self.shrinks(key)
    }

    /// Pods and replicas of a namespace in these hits alone.
    pub fn of_namespace(&self, namespace: &str) -> usize {
        let pods = self.pods.values().filter(|pod| pod.namespace == namespace).count();
        pods + self.scales.keys().filter(|key| key.namespace == namespace).map(|key| self.shrinks(key)).sum::<usize>()
    }
}

/// The picture, sorted by what is asked of it.
pub struct Index<'a> {
    pub picture: &'a Picture,
    live: HashSet<&'a str>,
    by_owner: HashMap<&'a WorkloadKey, Vec<&'a PodShown>>,
    by_node: HashMap<&'a str, Vec<&'a PodShown>>,
    bare: Vec<&'a PodShown>,
    zones: BTreeMap<&'a str, &'a str>,
}

impl<'a> Index<'a> {
    pub fn new(picture: &'a Picture) -> Self {
        let mut index = Index {
            picture,
            live: HashSet::with_capacity(picture.pods.len()),
            by_owner: HashMap::new(),
            by_node: HashMap::new(),
            bare: Vec::new(),
            zones: picture.nodes.iter().filter_map(|node| Some((node.name.as_str(), node.zone.as_deref()?))).collect(),
        };
        for pod in picture.pods.iter().filter(|pod| !pod.terminating) {
            index.live.insert(&pod.uid);
            match &pod.owner {
                Some(owner) => index.by_owner.entry(owner).or_default().push(pod),
                None => index.bare.push(pod),
            }
            if let Some(node) = &pod.node {
                index.by_node.entry(node).or_default().push(pod);
            }
        }
        index
    }

    pub fn on_node(&self, node: &str) -> impl Iterator<Item = &'a PodShown> + use<'a> {
        self.by_node.get(node).cloned().unwrap_or_default().into_iter()
    }

    pub fn zone(&self, node: &str) -> Option<&'a str> {
        self.zones.get(node).copied()
    }

    fn live_of(&self, key: &WorkloadKey) -> &[&'a PodShown] {
        self.by_owner.get(key).map_or(&[], Vec::as_slice)
    }

    /// Pods of a workload that are there, ready or not.
    pub fn live_count(&self, key: &WorkloadKey) -> usize {
        self.live_of(key).len()
    }

    /// How many replicas a workload has when nobody touches it.
    pub fn replicas(&self, key: &WorkloadKey, hits: &Hits) -> usize {
        let asked = self.picture.workloads.get(key).map_or(0, |workload| workload.replicas);
        match hits.scales.get(key) {
            Some((from, _)) => *from,
            None if asked == 0 => self.live_of(key).len(),
            None => asked,
        }
    }

    pub fn workload(&self, key: &WorkloadKey, hits: &Hits) -> Tally {
        let live = self.live_of(key);
        let base = self.replicas(key, hits);
        let (from, to) = hits.scales.get(key).copied().unwrap_or_default();
        let is_hit = |pod: &&&PodShown| hits.pods.contains_key(pod.uid.as_str());
        let hit = live.iter().filter(is_hit).count();
        let ready = live.iter().filter(|pod| !is_hit(pod) && pod.ready).count();
        // Replicas that a fault added are not missing while they start.
        let not_ready = (live.len() - hit - ready).saturating_sub(to.saturating_sub(from));
        let missing = base.saturating_sub(live.len());
        let gone = hits.pods.iter().filter(|(uid, pod)| pod.owner == Some(key) && !self.live.contains(*uid)).count();
        // What was taken away is among what is missing or, once replaced, not ready yet: it counts once.
        let affected = hit + (missing + not_ready).max(gone + from.saturating_sub(to));
        let whole = base.max(live.len());
        Tally { whole, affected, ready_left: ready.min(whole.saturating_sub(affected)) }
    }

    pub fn namespace(&self, namespace: &str, hits: &Hits) -> Tally {
        let known = self.picture.workloads.keys().chain(self.by_owner.keys().copied());
        let gone = hits.pods.values().filter_map(|pod| pod.owner);
        let keys: BTreeSet<&WorkloadKey> =
            known.chain(gone).chain(hits.scales.keys().copied()).filter(|key| key.namespace == namespace).collect();
        let owned = keys.into_iter().map(|key| self.workload(key, hits)).fold(Tally::default(), Tally::and);
        let bare = self.bare.iter().copied().filter(|pod| pod.namespace == namespace);
        let gone = self.gone(hits, |pod| pod.namespace == namespace && pod.owner.is_none());
        owned.and(loose(bare, gone, hits))
    }

    /// The pods on some nodes, of some namespaces.
    pub fn pods_on(&self, nodes: impl Fn(&str) -> bool, covers: impl Fn(&str) -> bool, hits: &Hits) -> Tally {
        let there = self.by_node.iter().filter(|(node, _)| nodes(node)).flat_map(|(_, pods)| pods.iter().copied());
        let there = there.filter(|pod| covers(&pod.namespace));
        let gone = self.gone(hits, |pod| covers(pod.namespace) && pod.node.is_some_and(&nodes));
        loose(there, gone, hits)
    }

    /// Some nodes.
    pub fn nodes(&self, which: impl Fn(&str) -> bool, hits: &Hits) -> Tally {
        let nodes = self.picture.nodes.iter().filter(|node| which(&node.name));
        nodes.fold(Tally::default(), |sum, node| {
            let affected = hits.nodes.contains(node.name.as_str()) || !node.ready || !node.schedulable;
            sum.and(Tally { whole: 1, affected: usize::from(affected), ready_left: usize::from(!affected) })
        })
    }

    fn gone(&self, hits: &Hits, which: impl Fn(&PodHit) -> bool) -> usize {
        hits.pods.iter().filter(|(uid, pod)| which(pod) && !self.live.contains(*uid)).count()
    }
}

/// Pods without anything that would say how many there should be, and hit ones that are gone.
fn loose<'a>(pods: impl Iterator<Item = &'a PodShown>, gone: usize, hits: &Hits) -> Tally {
    let gone = Tally { whole: gone, affected: gone, ready_left: 0 };
    pods.fold(gone, |sum, pod| {
        let affected = hits.pods.contains_key(pod.uid.as_str()) || !pod.ready;
        sum.and(Tally { whole: 1, affected: usize::from(affected), ready_left: usize::from(!affected) })
    })
}
