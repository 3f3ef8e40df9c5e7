//! What the run's service account may do, asked of the API server (P7).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::Notify;

use crate::engine::{Answer, Permission};

use super::client::ask;

/// An answer is asked for again after this long: a right that was taken away ends what is held within two seconds, and
/// a round of many targets asks once.
const FRESH: Duration = Duration::from_secs(1);
/// After a question without an answer, the next one waits this long.
const AGAIN: Duration = Duration::from_millis(250);

/// The answers of one run.
pub struct Permissions {
    client: Client,
    namespace: String,
    service_account: String,
    answers: Arc<Mutex<BTreeMap<Permission, Asked>>>,
    changed: Arc<Notify>,
}

enum Asked {
    /// Under way.
    Since(Instant),
    Answered(Instant, Answer),
    Unanswered(Instant),
}

impl Permissions {
    pub fn new(client: &Client, namespace: &str, service_account: &str, changed: &Arc<Notify>) -> Self {
        Permissions {
            client: client.clone(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            answers: Arc::default(),
            changed: Arc::clone(changed),
        }
    }

    /// The answers that are fresh, without waiting.
    pub fn answers(&self) -> BTreeMap<Permission, Answer> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = answers.iter().filter_map(|(permission, asked)| match asked {
            Asked::Answered(at, answer) if at.elapsed() < FRESH => Some((permission.clone(), answer.clone())),
            Asked::Answered(..) | Asked::Since(_) | Asked::Unanswered(_) => None,
        });
        fresh.collect()
    }

    /// Asks for those of these that have no fresh answer. The answers come later, and notify.
    pub fn ask(&self, permissions: impl IntoIterator<Item = Permission>) {
        for permission in permissions {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            let busy = answers.get(&permission).is_some_and(|asked| match asked {
                // Each question ends by itself; this is only for one whose task was lost.
                Asked::Since(at) => at.elapsed() < 5 * FRESH,
                Asked::Answered(at, _) => at.elapsed() < FRESH,
                Asked::Unanswered(at) => at.elapsed() < AGAIN,
            });
            if busy {
                continue;
            }
            answers.insert(permission.clone(), Asked::Since(Instant::now()));
            drop(answers);
            let question = review(&permission, &self.namespace, &self.service_account);
            let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
            let (answers, changed) = (Arc::clone(&self.answers), Arc::clone(&self.changed));
            tokio::spawn(async move {
                let asked = match ask(api.create(&PostParams::default(), &question)).await {
                    Ok(SubjectAccessReview { status: Some(status), .. }) if status.allowed => {
                        Asked::Answered(Instant::now(), Answer::Allowed)
                    }
                    // What the authorizer adds; often nothing.
                    Ok(review) => {
                        let why = review.status.and_then(|status| status.reason).unwrap_or_default();
                        Asked::Answered(Instant::now(), Answer::Denied(why))
                    }
                    Err(error) => {
                        tracing::warn!(%permission, %error, "the API server did not say whether this is allowed");
                        Asked::Unanswered(Instant::now())
                    }
                };
                let unanswered = matches!(asked, Asked::Unanswered(_));
                answers.lock().unwrap_or_else(PoisonError::into_inner).insert(permission, asked);
                if unanswered {
                    tokio::time::sleep(AGAIN).await;
                }
                changed.notify_one();
            });
        }
    }
}

/// The question, as the API server would put it if the service account itself came.
pub fn review(permission: &Permission, namespace: &str, service_account: &str) -> SubjectAccessReview {
    let Permission { verb, group, resource, subresource, namespaced } = permission;
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{namespace}:{service_account}")),
            groups: Some(vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ]),
            resource_attributes: Some(ResourceAttributes {
                verb: text(verb),
                group: text(group),
                resource: text(resource),
                subresource: text(subresource),
                namespace: namespaced.then(|| namespace.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}
