//! From an Injection to what a holder is told.

use std::net::IpAddr;

use crate::api::{Aim, Cidr, Duration, InjectionSpec, Network, Percent};
use crate::holder::network::{self, Corrupt, Delay, Effect, Loss, NetworkOrder, PortRange, Shape};
use crate::holder::{self, Fault};

use super::names::Answers;

/// What an order leaves open and its node knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Local {
    /// From where the kubelet probes the target.
    pub kubelet: Vec<IpAddr>,
    pub names: Answers,
}

/// Names that must be asked for before the order can be followed.
pub fn names(spec: &InjectionSpec) -> Vec<String> {
    let peers = spec.aim.iter().flat_map(|aim| aim.to.iter().chain(&aim.except));
    let mut names: Vec<String> = peers.filter_map(|peers| peers.dns.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// # Errors
/// It is not an order that a holder could follow.
pub fn of(spec: &InjectionSpec, pid: i32, local: &Local) -> Result<holder::Order, String> {
    let container = spec.container.clone().ok_or("the order names no container")?;
    let seed = u64::try_from(spec.seed).unwrap_or(0);
    let parent = i32::try_from(std::process::id()).ok();
    let target = holder::Aim::Process { container, pid };
    Ok(holder::Order { target, fault: fault(spec, local)?, hold: spec.hold, seed, parent })
}

/// # Errors
/// As [`of`].
pub fn fault(spec: &InjectionSpec, local: &Local) -> Result<Fault, String> {
    let fault = &spec.fault;
    if let Some(network) = &fault.network {
        return Ok(Fault::Network(network_order(network, spec.aim.as_ref(), local)?));
    }
    let found = [
        fault.cpu.clone().map(Fault::Cpu),
        fault.memory.clone().map(Fault::Memory),
        fault.disk_fill.clone().map(Fault::DiskFill),
        fault.disk_io.clone().map(Fault::DiskIo),
        fault.files.clone().map(Fault::Files),
        fault.processes.clone().map(Fault::Processes),
        fault.pause.clone().map(Fault::Pause),
        fault.container_kill.clone().map(Fault::ContainerKill),
    ];
    found.into_iter().flatten().next().ok_or_else(|| "the order names no fault that a node can hold".to_owned())
}

fn network_order(written: &Network, aim: Option<&Aim>, local: &Local) -> Result<NetworkOrder, String> {
    let us = |length: Duration| length.as_millis() * 1_000;
    let effect = if written.partition == Some(true) {
        Effect::Partition
    } else {
        Effect::Shape(Shape {
            delay: written.delay.map(|delay| Delay {
                mean_us: us(delay),
                jitter_us: written.jitter.map(us).unwrap_or(0),
                distribution: written.distribution.unwrap_or_default(),
                correlation: written.correlation.map(|part| f64::from(part.get()).min(99.0) / 100.0).unwrap_or(0.0),
            }),
            loss: written.loss.map(|loss| Loss { percent: loss.percent(), burst: f64::from(written.burst.unwrap_or(1)) }),
            duplicate_percent: written.duplicate.map(|chance| chance.percent()),
            corrupt: written
                .corrupt
                .map(|chance| Corrupt { percent: chance.percent(), undetected: written.undetected.unwrap_or(false) }),
            reorder_percent: written.reorder.map(|chance| chance.percent()),
            rate_bits_per_s: written.rate.map(|rate| rate.bits_per_s()),
        })
    };
    let both = if matches!(effect, Effect::Partition) { network::order::Direction::Both } else { network::order::Direction::In };
    let aim = aim.ok_or("a network fault without addresses")?;
    let mut except = peers(&aim.except, &local.names)?;
    if written.kubelet != Some(true) {
        let addresses = Some(local.kubelet.iter().map(|address| (*address).into()).collect());
        except.push(network::Peers { addresses, ..network::Peers::default() });
    }
    Ok(NetworkOrder {
        // The holder's own, which it has with the order.
        seed: 0,
        direction: written.direction.unwrap_or(both),
        effect,
        flows_percent: written.flows.map(|part: Percent| f64::from(part.get())),
        aim: network::Aim { to: peers(&aim.to, &local.names)?, except },
        queue_by: None,
    })
}

/// The same as peers of the engine.
///
/// # Errors
/// Something is not an address.
fn peers(written: &[crate::api::Peers], names: &Answers) -> Result<Vec<network::Peers>, String> {
    let ports = |ports: &[u16]| ports.iter().map(|port| PortRange::from(*port)).collect();
    written
        .iter()
        .map(|peers| {
            let parsed = peers.addresses.as_ref().map(|addresses| {
                let parse = |address: &String| address.parse().map_err(|why| format!("{address}: {why}"));
                addresses.iter().map(parse).collect::<Result<Vec<_>, String>>()
            });
            let mut addresses = parsed.transpose()?;
            if let Some(name) = &peers.dns {
                let found = names.get(name).into_iter().flatten().map(|address| Cidr::from(*address));
                addresses.get_or_insert_default().extend(found);
            }
            Ok(network::Peers {
                addresses,
                protocol: peers.protocol,
                ports: ports(&peers.ports),
                own_ports: ports(&peers.own_ports),
            })
        })
        .collect()
}
