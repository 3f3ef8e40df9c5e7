//! The list of mechanisms: how each is prepared, and whether it can be done here.

use serde::{Deserialize, Serialize};

use crate::api::FaultPart;

use super::frame::{Ground, Hold, Refusal};
use super::order::Fault;
use super::{container_kill, cpu, disk_fill, disk_io, files, memory, network, pause, processes};

/// Whether this kernel and these capabilities can hold a kind of fault, or one with a part that not every kernel can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    pub fault: String,
    /// [`FaultPart::name`]; absent: all the rest of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Why not; absent where it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cannot: Option<String>,
}

/// Parts of a fault that not every kernel can do, and why this one cannot.
pub type Parts = Vec<(FaultPart, Result<(), String>)>;

/// Opens what the fault needs and refuses what cannot be. Injects nothing.
pub fn prepare(fault: &Fault, ground: &Ground<'_>) -> Result<Box<dyn Hold>, Refusal> {
    Ok(match fault {
        Fault::Cpu(cpu) => Box::new(cpu::prepare(cpu, ground)?),
        Fault::Memory(memory) => Box::new(memory::prepare(memory, ground)?),
        Fault::DiskFill(fill) => disk_fill::prepare(fill, ground)?,
        Fault::DiskIo(io) => Box::new(disk_io::prepare(io, ground)?),
        Fault::Files(files) => Box::new(files::prepare(files, ground)?),
        Fault::Processes(processes) => Box::new(processes::prepare(processes, ground)?),
        Fault::Pause(pause) => Box::new(pause::prepare(pause, ground)?),
        Fault::ContainerKill(kill) => Box::new(container_kill::prepare(kill, ground)?),
        Fault::Network(order) => Box::new(network::hold::prepare(order, ground)?),
    })
}

/// What this machine and this process can do, each mechanism tried as far as it can be without a target.
pub fn checks() -> Vec<Check> {
    let check = |fault: &str, able: Result<(), String>| Check { fault: fault.to_owned(), part: None, cannot: able.err() };
    let (network, parts_of_network) = network::hold::checks();
    let part = |(part, able): (FaultPart, Result<(), String>)| {
        let fault = part.kind().name().to_owned();
        Check { fault, part: Some(part.name().to_owned()), cannot: able.err() }
    };
    let parts = parts_of_network.into_iter().chain(files::checks_of_parts()).map(part);
    let kinds = [
        check("cpu", cpu::check()),
        check("memory", memory::check()),
        check("diskFill", disk_fill::check()),
        check("diskIo", disk_io::check()),
        check("files", files::check()),
        check("processes", processes::check()),
        check("pause", pause::check()),
        check("containerKill", container_kill::check()),
        check("network", network),
    ];
    kinds.into_iter().chain(parts).collect()
}
