//! The way to the cluster. Nothing is retried silently: a person waits for the answer and can ask again.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::response::Status;
use kube::{Client, Config};

use crate::api::GameDayRun;

use super::{Cluster, Failure};

/// A healthy API server answers in milliseconds; after this long a person wants to know that it does not.
const CONNECT: Duration = Duration::from_secs(5);
pub const ANSWER: Duration = Duration::from_secs(15);

/// A cluster that may be asked.
#[derive(Clone)]
pub struct Connection {
    pub client: Client,
    /// As asked for on the command line.
    asked: Option<String>,
    /// The context's.
    default: String,
}

impl Connection {
    /// # Errors
    /// When no cluster is configured. Whether it answers is found when it is asked.
    pub async fn open(cluster: &Cluster) -> Result<Self, Failure> {
        let options = KubeConfigOptions { context: cluster.context.clone(), ..KubeConfigOptions::default() };
        // A snippet of a kubeconfig may show a token: its first line is enough.
        let unusable =
            |error: &dyn Error| Failure::alone(format!("no cluster: {}", error.to_string().lines().next().unwrap_or_default()));
        let mut config = match &cluster.kubeconfig {
            Some(file) => {
                let kubeconfig = Kubeconfig::read_from(file).map_err(|error| unusable(&error))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| unusable(&error))?
            }
            None if cluster.context.is_some() => Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error))?,
            None => match Config::infer().await {
                Ok(config) => config,
                // Outside of a cluster, only the kubeconfig is of interest.
                Err(error) => return Err(unusable(error.source().unwrap_or(&error))),
            },
        };
        // Otherwise kube repeats 429 and 503 for minutes, writes too.
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT);
        let default = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|error| unusable(&error))?;
        Ok(Connection { client, asked: cluster.namespace.clone(), default })
    }

    /// The namespace: the command line's, else the file's, else the context's.
    pub fn namespace<'a>(&'a self, of_file: Option<&'a str>) -> &'a str {
        self.asked.as_deref().or(of_file).unwrap_or(&self.default)
    }
}

/// A run by its name. One that is not there is told with where it was looked for.
pub async fn find_run(client: &Client, namespace: &str, name: &str) -> Result<GameDayRun, Failure> {
    let runs: Api<GameDayRun> = Api::namespaced(client.clone(), namespace);
    let found = ask(async {
        match runs.get(name).await {
            Ok(run) => Ok(Some(run)),
            // Not where the cluster does not know of runs at all.
            Err(kube::Error::Api(status)) if status.code == 404 && names(&status, name) => Ok(None),
            Err(error) => Err(error),
        }
    });
    let missing =
        || Failure::invalid(format!("no run {name} in namespace {namespace}: gameday -n {namespace} runs lists those there are"));
    found.await?.ok_or_else(missing)
}

fn names(status: &Status, name: &str) -> bool {
    status.details.as_ref().is_some_and(|details| details.name == name)
}

/// Waits for an answer, but not for ever.
pub async fn ask<T>(question: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER, question).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::alone(format!("no answer from the cluster within {} s", ANSWER.as_secs()))),
    }
}
