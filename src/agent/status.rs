//! Writes what became of each order, again and again until it is written.

use std::collections::HashMap;
use std::time::Duration;

use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::{Injection, InjectionStatus};
use crate::cluster::client::ask;

/// A write without an answer is tried again this soon: an end that nobody knows of keeps a run waiting.
const AGAIN: Duration = Duration::from_millis(500);
/// What is not over is written so much later, with what comes next, which is its bite most often. Orders to many targets
/// arrive while those before them have begun: fewer writes then, and none ahead of them.
const TOGETHER: Duration = Duration::from_millis(200);

pub struct Statuses {
    api: Api<Injection>,
    of: HashMap<String, watch::Sender<InjectionStatus>>,
    writers: JoinSet<()>,
}

impl Statuses {
    pub fn new(client: &Client, namespace: &str) -> Self {
        Statuses { api: Api::namespaced(client.clone(), namespace), of: HashMap::new(), writers: JoinSet::new() }
    }

    pub fn write(&mut self, name: &str, status: InjectionStatus) {
        // One whose order was gone does not write any more, and another may have its name now.
        if let Some(sender) = self.of.get(name).filter(|sender| !sender.is_closed()) {
            sender.send_replace(status);
            return;
        }
        let (sender, wanted) = watch::channel(status);
        while self.writers.try_join_next().is_some() {}
        self.writers.spawn(keep_writing(self.api.clone(), name.to_owned(), wanted));
        self.of.insert(name.to_owned(), sender);
    }

    pub fn forget(&mut self, name: &str) {
        self.of.remove(name);
    }

    /// Until all that is known is written.
    pub async fn finish(&mut self) {
        self.of.clear();
        while self.writers.join_next().await.is_some() {}
    }
}

async fn keep_writing(api: Api<Injection>, name: String, mut wanted: watch::Receiver<InjectionStatus>) {
    loop {
        // Over, or nobody has more to say: at once.
        let _ = tokio::time::timeout(TOGETHER, wanted.wait_for(|status| status.phase.is_over())).await;
        let status = wanted.borrow_and_update().clone();
        let change = serde_json::json!({"status": status});
        match ask(api.patch_status(&name, &PatchParams::default(), &Patch::Merge(change))).await {
            Ok(_) => {
                if wanted.changed().await.is_err() {
                    return;
                }
            }
            Err(error) if error.is_not_found() => return,
            // Over already, by the word of an agent before this one, or not a status at all: the same again would not help.
            Err(error) if error.is_invalid() => {
                tracing::warn!(injection = name, error = error.in_words(), "its status was refused");
                if wanted.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(injection = name, %error, "its status could not be written; it is tried again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
