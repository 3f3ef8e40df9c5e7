//! A run's record: the status of its object, written by compare-and-swap.

use kube::api::{Api, ObjectMeta};
use kube::{Client, ResourceExt};

use crate::api::{GameDayRun, GameDayRunStatus};
use crate::engine::{Run, RunId};
use crate::turn::{Loaded, RecordError, Trouble};

use super::client::{Error, ask, write_status};

/// A run's object as the engine sees it.
pub fn loaded(object: GameDayRun) -> Loaded {
    let version = object.resource_version().unwrap_or_default();
    let id = RunId {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
    };
    let generation = object.metadata.generation.unwrap_or_default();
    Loaded { run: Run::new(id, generation, object.spec, object.status.unwrap_or_default()), version }
}

/// The run as it is now. `None`: it is gone, or another run has its name.
pub async fn load(client: &Client, id: &RunId) -> Result<Option<Loaded>, Trouble> {
    let api: Api<GameDayRun> = Api::namespaced(client.clone(), &id.namespace);
    match ask(api.get_opt(&id.name)).await {
        Ok(object) => Ok(object.map(loaded).filter(|loaded| loaded.run.id == *id)),
        Err(error) => Err(Trouble::NoAnswer(error.to_string())),
    }
}

/// Writes the status, if the object is still the one of this version.
pub async fn record(client: &Client, id: &RunId, version: &str, status: &GameDayRunStatus) -> Result<String, RecordError> {
    let no_answer = |said: String| RecordError::Trouble(Trouble::NoAnswer(said));
    let of = ObjectMeta {
        namespace: Some(id.namespace.clone()),
        name: Some(id.name.clone()),
        uid: Some(id.uid.clone()),
        resource_version: Some(version.to_owned()),
        ..ObjectMeta::default()
    };
    match write_status::<GameDayRun>(client, &of, status).await {
        Ok(written) => Ok(written.unwrap_or_default()),
        Err(error) if error.is_conflict() => Err(RecordError::Conflict),
        Err(error) if error.is_not_found() => Err(RecordError::Gone),
        Err(Error::Refused(status)) => {
            tracing::error!(run = id.name, namespace = id.namespace, said = status.message, "the record was refused");
            Err(no_answer(status.message))
        }
        Err(Error::Unclear(said)) => Err(no_answer(said)),
    }
}
