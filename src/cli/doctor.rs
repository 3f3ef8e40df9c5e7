use std::collections::BTreeMap;

use clap::Args;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};

use crate::api::{ANNOTATION_CANNOT, ANNOTATION_FAULTS, FaultKind, GameDay};
use crate::report;

use super::connect::{Connection, ask};
use super::{Cluster, Exit, Failure, Output};

/// Say what this cluster and its nodes can do, as the agents last reported it
#[derive(Debug, Args)]
pub struct Doctor {
    /// Where the operator is
    #[arg(long, value_name = "NAME", default_value = "gameday")]
    operator_namespace: String,
}

impl Doctor {
    pub async fn run(self, cluster: &Cluster, output: &mut Output) -> Result<Exit, Failure> {
        let client = Connection::open(cluster).await?.client;
        let game_days: Api<GameDay> = Api::all(client.clone());
        ask(game_days.list(&ListParams::default().limit(1))).await?;
        output.line(format!("the resources of {} are installed", GameDay::group(&())))?;
        let operator: Api<Lease> = Api::namespaced(client.clone(), &self.operator_namespace);
        let lease = ask(operator.get_opt(crate::cluster::leader::LEASE)).await?;
        let holder = lease.and_then(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty());
        let leads = holder.is_some();
        output.line(match holder {
            Some(holder) => format!("operator: {holder} leads"),
            None => "operator: nobody leads; a run would wait".to_owned(),
        })?;
        let nodes = ask(Api::<Node>::all(client.clone()).list(&ListParams::default())).await?;
        let leases: Api<Lease> = Api::namespaced(client, &format!("{}-agents", self.operator_namespace));
        let mut reports: BTreeMap<String, Lease> = BTreeMap::new();
        for lease in ask(leases.list(&ListParams::default())).await? {
            reports.insert(lease.name_any(), lease);
        }
        let mut rows = vec![vec!["NODE".to_owned(), "FAULTS THAT IT HOLDS".to_owned()]];
        for node in nodes {
            let name = node.name_any();
            let says = match reports.get(&name) {
                None => vec!["not known: no agent has been there yet; a run that needs one finds out in Arming".to_owned()],
                Some(lease) => said(lease),
            };
            for (index, line) in says.into_iter().enumerate() {
                rows.push(vec![if index == 0 { name.clone() } else { String::new() }, line]);
            }
        }
        for line in report::table(&rows) {
            output.line(line)?;
        }
        Ok(if leads { Exit::Passed } else { Exit::Alone })
    }
}

/// What an agent found when it was started.
fn said(lease: &Lease) -> Vec<String> {
    let annotation = |name: &str, default: &'static str| lease.annotations().get(name).map_or(default, String::as_str);
    let cannot = match serde_json::from_str::<BTreeMap<String, String>>(annotation(ANNOTATION_CANNOT, "{}")) {
        Ok(cannot) => cannot,
        Err(error) => return vec![format!("its report cannot be read: {error}")],
    };
    let made_for: Vec<&str> = annotation(ANNOTATION_FAULTS, "").split(',').collect();
    let (tried, untried): (Vec<_>, Vec<_>) = FaultKind::held().map(FaultKind::name).partition(|name| made_for.contains(name));
    let can: Vec<&str> = tried.into_iter().filter(|name| !cannot.contains_key(*name)).collect();
    let mut said = Vec::new();
    if !can.is_empty() {
        said.push(can.join(", "));
    }
    said.extend(cannot.into_iter().map(|(fault, why)| format!("not {fault}: {why}")));
    if !untried.is_empty() {
        said.push(format!("not tried yet, because no run has needed them there: {}", untried.join(", ")));
    }
    said
}
