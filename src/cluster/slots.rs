//! Slots of guardrails, taken and given back by compare-and-swap on their status.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use crate::api::{GameDayRunStatus, Guardrail, GuardrailStatus};
use crate::engine::guardrail::slots::{self, Board, Next, Ticket};
use crate::engine::{RunId, SlotSeen};
use crate::turn::{RecordError, Trouble};

use super::client::{Error, ask, write_status};
use super::{record, sweep};

/// Boards are read and written so often before somebody else's turn is waited for.
const TRIES: usize = 16;

/// A run that may begin but for its slots.
pub struct Applicant<'a> {
    pub id: &'a RunId,
    /// When it was created: its place in every queue.
    pub created: Timestamp,
    /// Of the run, as it was loaded before any board is read here.
    pub version: &'a str,
    pub status: &'a GameDayRunStatus,
}

/// Takes a slot of each of these guardrails, or says for whom the run waits. The second is the run's new version, where
/// it had to be written.
///
/// `seen`: the guardrails as a watch last showed them. Who waits asks again and again, and by that asks nobody: only
/// what was read anew, or written on what was seen, counts as taken.
///
/// # Errors
/// The run was changed, or the API server did not answer: nothing is known then, and the next turn asks again.
pub async fn take(
    client: &Client,
    applicant: &Applicant<'_>,
    wanted: &[(String, usize)],
    seen: &[Guardrail],
    now: Timestamp,
) -> Result<(SlotSeen, Option<String>), RecordError> {
    let no_answer = |error: Error| RecordError::Trouble(Trouble::NoAnswer(error.to_string()));
    let api: Api<Guardrail> = Api::all(client.clone());
    let Applicant { id, created, version, status } = *applicant;
    let ticket = Ticket { namespace: id.namespace.clone(), run: id.name.clone(), uid: id.uid.clone(), since: created };
    let mut written = None;
    let mut read: Vec<(Guardrail, usize)> = Vec::new();
    for (name, limit) in wanted {
        let Some(found) = seen.iter().find(|guardrail| guardrail.name_any() == *name) else {
            return Ok((SlotSeen::Waiting(format!("the guardrail {name} is not in the cluster yet")), written));
        };
        read.push((found.clone(), *limit));
    }
    let mut sure = false;
    for _ in 0..TRIES {
        let empty = GuardrailStatus::default();
        let boards: Vec<Board> = read
            .iter()
            .zip(wanted)
            .map(|((guardrail, limit), (name, _))| Board {
                name,
                limit: *limit,
                status: guardrail.status.as_ref().unwrap_or(&empty),
            })
            .collect();
        let (name, changed) = match slots::turn(&boards, &ticket, &BTreeSet::new(), now) {
            Next::Taken if sure => return Ok((SlotSeen::Taken, written)),
            Next::Taken => {
                for (guardrail, _) in &mut read {
                    *guardrail = ask(api.get(&guardrail.name_any())).await.map_err(no_answer)?;
                }
                sure = true;
                continue;
            }
            Next::Wait(waits) => return Ok((SlotSeen::Waiting(waits.to_string()), written)),
            Next::Write { guardrail, status } => (guardrail, status),
            Next::GiveBack { guardrail, status: board } => {
                let known = written.as_deref().unwrap_or(version);
                written = Some(record::record(client, id, known, status).await?);
                (guardrail, board)
            }
        };
        let Some((guardrail, _)) = read.iter_mut().find(|(guardrail, _)| guardrail.name_any() == name) else { continue };
        match write_status::<Guardrail>(client, &guardrail.metadata, &changed).await {
            Ok(version) => {
                guardrail.metadata.resource_version = version;
                guardrail.status = Some(changed);
                // With one guardrail all is known now: nobody has written since.
                sure = wanted.len() == 1;
            }
            // Somebody came before: what there is now counts.
            Err(error) if error.is_conflict() => *guardrail = ask(api.get(&name)).await.map_err(no_answer)?,
            Err(error) => return Err(no_answer(error)),
        }
    }
    Ok((SlotSeen::Waiting("for a slot: too many ask at once".to_owned()), written))
}

/// Gives back what a run that is over holds of these guardrails.
///
/// # Errors
/// The API server did not answer; the sweep goes on trying.
pub async fn leave(client: &Client, names: &BTreeSet<String>, uid: &str) -> Result<(), Error> {
    let api: Api<Guardrail> = Api::all(client.clone());
    for name in names {
        for _ in 0..TRIES {
            let Some(guardrail) = ask(api.get_opt(name)).await? else { break };
            let Some(status) = guardrail.status.as_ref().and_then(|status| slots::leave(status, uid)) else { break };
            match write_status::<Guardrail>(client, &guardrail.metadata, &status).await {
                Ok(_) => break,
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Gives back what is held by runs that are finished or gone. Returns how much that was.
///
/// # Errors
/// The API server did not answer; the next sweep goes on.
pub async fn sweep(client: &Client) -> Result<usize, Error> {
    let api: Api<Guardrail> = Api::all(client.clone());
    let mut given_back = 0;
    for guardrail in ask(api.list(&ListParams::default().match_any())).await? {
        let Some(status) = &guardrail.status else { continue };
        let slots = status.runs.iter().map(|slot| (&slot.namespace, &slot.run, &slot.uid));
        let queue = status.waiting.iter().map(|queued| (&queued.namespace, &queued.run, &queued.uid));
        let mut over = BTreeSet::new();
        for (namespace, name, uid) in slots.chain(queue) {
            let run = RunId { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
            if !sweep::holds(client, &run).await? {
                over.insert(uid.clone());
            }
        }
        let Some(swept) = slots::sweep(status, &over) else { continue };
        match write_status::<Guardrail>(client, &guardrail.metadata, &swept).await {
            Ok(_) => {
                given_back += over.len();
                tracing::info!(guardrail = guardrail.name_any(), runs = over.len(), "slots of runs that are over are free again");
            }
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(given_back)
}
