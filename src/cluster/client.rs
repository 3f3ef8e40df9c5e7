use std::future::Future;
use std::path::Path;
use std::time::Duration;

use kube::api::{ObjectMeta, PartialObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::core::response::Status;
use kube::{Client, Config};

/// A connection to an API server in the same cluster takes milliseconds; three seconds forgive one lost SYN and
/// its first two repeats.
const CONNECT: Duration = Duration::from_secs(3);
/// One answer. etcd elects a leader in about a second; an answer later than this leaves room for a second try
/// before the lease is given up (ten seconds).
const ANSWER: Duration = Duration::from_secs(4);
/// Who writes, for `managedFields`.
pub const FIELD_MANAGER: &str = "gameday";

/// Why a call to the API server brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server understood, and refused: nothing was done.
    #[error("{}", .0.message)]
    Refused(Box<Status>),
    /// No answer, or none to rely on: it may have been done.
    #[error("{0}")]
    Unclear(String),
}

impl Error {
    fn has_code(&self, code: u16) -> bool {
        matches!(self, Error::Refused(status) if status.code == code)
    }

    pub fn is_not_found(&self) -> bool {
        self.has_code(404)
    }

    pub fn is_conflict(&self) -> bool {
        self.has_code(409)
    }

    /// A 422: the object would not be one that its schema and rules allow.
    pub fn is_invalid(&self) -> bool {
        self.has_code(422)
    }

    /// It is asked too much.
    pub fn is_busy(&self) -> bool {
        self.has_code(429)
    }

    /// A 409 of a create: something of this name exists.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Error::Refused(status) if status.is_already_exists())
    }

    /// What the API server said, with the causes that it named.
    pub fn in_words(&self) -> String {
        let Error::Refused(status) = self else { return self.to_string() };
        let causes = status.details.iter().flat_map(|details| &details.causes).map(|cause| cause.message.as_str());
        let said = [status.message.as_str()].into_iter().chain(causes.filter(|cause| !status.message.contains(*cause)));
        said.filter(|said| !said.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 408 => Error::Refused(status),
            kube::Error::Api(status) => Error::Unclear(status.message.clone()),
            error => Error::Unclear(whole(&error)),
        }
    }
}

/// An error with its sources, each said once.
fn whole(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_said = inner.to_string();
        if !said.contains(&inner_said) {
            said = format!("{said}: {inner_said}");
        }
        source = inner.source();
    }
    said
}

/// The way to the API server could not be found out.
#[derive(Debug, thiserror::Error)]
#[error("no way to an API server: {0}")]
pub struct NoConnection(String);

/// A client that never repeats a request by itself: a refused eviction must be seen, and a late write must not
/// come later still (K1).
///
/// # Errors
/// Neither a kubeconfig nor a pod's service account was found, or they are not usable.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, NoConnection> {
    let no_way = |error: &dyn std::error::Error| NoConnection(whole(error));
    let mut config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).map_err(|error| no_way(&error))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(|error| no_way(&error))?
        }
        None => Config::infer().await.map_err(|error| no_way(&error))?,
    };
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(ANSWER);
    config
        .headers
        .push((http::header::USER_AGENT, http::HeaderValue::from_static(concat!("gameday/", env!("CARGO_PKG_VERSION")))));
    Client::try_from(config).map_err(|error| no_way(&error))
}

/// Writes an object's status and nothing else, if the object is still the one of this uid and version. Returns its new
/// version.
///
/// # Errors
/// A conflict, or as [`Error`] says.
pub async fn write_status<K: kube::Resource<DynamicType = ()>>(
    client: &Client,
    of: &ObjectMeta,
    status: &impl serde::Serialize,
) -> Result<Option<String>, Error> {
    let unclear = |error: &dyn std::error::Error| Error::Unclear(error.to_string());
    let ObjectMeta { namespace, name, uid, resource_version, .. } = of;
    // Not the typed object: only the status is ours to write, and the answer's metadata all that is needed of it.
    let body = serde_json::json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": resource_version},
        "status": status,
    });
    let body = serde_json::to_vec(&body).map_err(|error| unclear(&error))?;
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let request = Request::new(K::url_path(&(), namespace.as_deref()))
        .replace_subresource("status", name.as_deref().unwrap_or_default(), &params, body)
        .map_err(|error| unclear(&error))?;
    Ok(ask(client.request::<PartialObjectMeta<K>>(request)).await?.metadata.resource_version)
}

/// Waits for an answer, but not for ever. Not for watches, which have their own limit.
///
/// # Errors
/// As [`Error`] says.
pub async fn ask<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(answer) => answer.map_err(Error::from),
        Err(_) => Err(Error::Unclear(format!("the API server did not answer within {ANSWER:?}"))),
    }
}
