use clap::Args;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::api::{Cord, GameDay, GameDayRun, Guardrail, Injection};

use super::{Exit, Failure, Output};

/// Write the custom resource definitions as YAML
#[derive(Debug, Args)]
pub struct Crds {}

impl Crds {
    pub fn run(self, output: &mut Output) -> Result<Exit, Failure> {
        let Crds {} = self;
        for crd in all() {
            output.text(&format!("---\n{}", super::install::yaml(&crd)))?;
        }
        Ok(Exit::Passed)
    }
}

/// In the order in which they are explained.
pub fn all() -> [CustomResourceDefinition; 5] {
    [GameDay::crd(), GameDayRun::crd(), Cord::crd(), Guardrail::crd(), Injection::crd()]
}
