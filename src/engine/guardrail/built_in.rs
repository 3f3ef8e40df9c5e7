use crate::api::{Guardrail, GuardrailSpec};

/// The guardrail of this name holds where no other covers a namespace.
pub const BUILT_IN: &str = "built-in";

/// As `gameday install` shows and creates it. The platform team may edit it; where it is missing, this holds.
pub const BUILT_IN_YAML: &str = include_str!("built_in.yaml");

/// What holds where nobody has said anything.
pub fn built_in() -> GuardrailSpec {
    let guardrail: Guardrail = serde_saphyr::from_str(BUILT_IN_YAML).expect("the built-in guardrail is read by a test");
    guardrail.spec
}
