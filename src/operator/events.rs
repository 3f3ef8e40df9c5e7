//! Kubernetes events on the game day, for those who use `kubectl describe`: started, refused, breached,
//! finished, each at most once for a run or an experiment.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::api::{Entry, EntryKind, Verdict};

/// Events on their way. The record has everything; an event more or less may be lost when the API server is
/// slow.
const QUEUE: usize = 256;
/// What the API server takes of a note, less some room.
const NOTE_BYTES_MAX: usize = 1_000;

#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<(Event, ObjectReference)>,
}

/// Which of a run's entries were told already.
pub type Told = BTreeSet<(&'static str, Option<String>)>;

impl Events {
    /// Publishes until all that can send are gone.
    pub fn start(client: &Client, identity: &str) -> Self {
        let reporter = Reporter { controller: "gameday".to_owned(), instance: Some(identity.to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        let (queue, mut waiting) = mpsc::channel::<(Event, ObjectReference)>(QUEUE);
        tokio::spawn(async move {
            while let Some((event, regarding)) = waiting.recv().await {
                if let Err(error) = crate::cluster::client::ask(recorder.publish(&event, &regarding)).await {
                    tracing::warn!(%error, reason = event.reason, "an event could not be published");
                }
            }
        });
        Events { queue }
    }

    /// Tells of an entry, if it is one of those that are told, and was not told yet.
    pub fn tell(
        &self,
        entry: &Entry,
        verdict: Option<Verdict>,
        regarding: &ObjectReference,
        run: &ObjectReference,
        told: &mut Told,
    ) {
        let Some((type_, reason)) = worth_telling(entry.kind, verdict) else { return };
        if !told.insert((reason, entry.experiment.clone())) {
            return;
        }
        let about = entry.experiment.iter().chain(&entry.target).map(|about| format!("{about}: "));
        let name = run.name.as_deref().unwrap_or_default();
        let note = format!("{name}: {}{}", about.collect::<String>(), entry.text);
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(shortened(note)),
            action: "Run".to_owned(),
            secondary: (regarding != run).then(|| run.clone()),
        };
        if self.queue.try_send((event, regarding.clone())).is_err() {
            tracing::warn!(run = name, reason, "too many events are waiting; this one is left out");
        }
    }
}

fn worth_telling(kind: EntryKind, verdict: Option<Verdict>) -> Option<(EventType, &'static str)> {
    match kind {
        EntryKind::Started => Some((EventType::Normal, "Started")),
        EntryKind::Refused => Some((EventType::Warning, "Refused")),
        EntryKind::Breach => Some((EventType::Warning, "Breach")),
        EntryKind::Finished => Some(match verdict {
            Some(Verdict::Failed) => (EventType::Warning, "Failed"),
            Some(Verdict::Passed) => (EventType::Normal, "Passed"),
            Some(Verdict::Inconclusive) | None => (EventType::Normal, "Inconclusive"),
        }),
        EntryKind::Waiting
        | EntryKind::Phase
        | EntryKind::Ordered
        | EntryKind::Bite
        | EntryKind::Cut
        | EntryKind::Clean
        | EntryKind::Steady
        | EntryKind::Note
        | EntryKind::Judged => None,
    }
}

fn shortened(mut note: String) -> String {
    if note.len() > NOTE_BYTES_MAX {
        let end = (0..=NOTE_BYTES_MAX).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    note
}
