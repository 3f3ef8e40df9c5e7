//! From an Injection to what a holder is told.

use std::net::Ipv4Addr;

use crate::api::{Aim, Duration, InjectionSpec, Network, Percent};
use crate::holder::network::{self, Corrupt, Delay, Effect, Loss, NetworkOrder, PortRange, Shape};
use crate::holder::{self, Fault};

/// # Errors
/// It is not an order that a holder could follow.
pub fn of(spec: &InjectionSpec, pid: i32) -> Result<holder::Order, String> {
    let container = spec.container.clone().ok_or("the order names no container")?;
    let seed = u64::try_from(spec.seed).unwrap_or(0);
    let parent = i32::try_from(std::process::id()).ok();
    Ok(holder::Order { target: holder::Aim::Container(container), fault: fault(spec, seed, pid)?, hold: spec.hold, seed, parent })
}

fn fault(spec: &InjectionSpec, seed: u64, pid: i32) -> Result<Fault, String> {
    let fault = &spec.fault;
    if let Some(network) = &fault.network {
        return Ok(Fault::Network(network_order(network, spec.aim.as_ref(), seed, pid)?));
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

fn network_order(written: &Network, aim: Option<&Aim>, seed: u64, pid: i32) -> Result<NetworkOrder, String> {
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
    let mut except = peers(&aim.except)?;
    // The kubelet's probes come from the node's end of the pod's link.
    if written.kubelet != Some(true)
        && let Some(gateway) = gateway(pid)
    {
        except.push(network::Peers { addresses: Some(vec![std::net::IpAddr::V4(gateway).into()]), ..network::Peers::default() });
    }
    Ok(NetworkOrder {
        seed,
        direction: written.direction.unwrap_or(both),
        effect,
        flows_percent: written.flows.map(|part: Percent| f64::from(part.get())),
        aim: network::Aim { to: peers(&aim.to)?, except },
        queue_by: None,
    })
}

/// The same as peers of the engine.
///
/// # Errors
/// Something is not an address.
pub fn peers(written: &[crate::api::Peers]) -> Result<Vec<network::Peers>, String> {
    let ports = |ports: &[u16]| ports.iter().map(|port| PortRange::from(*port)).collect();
    written
        .iter()
        .map(|peers| {
            let addresses = peers.addresses.as_ref().map(|addresses| {
                addresses.iter().map(|address| address.parse().map_err(|why| format!("{address}: {why}"))).collect()
            });
            Ok(network::Peers {
                addresses: addresses.transpose()?,
                protocol: peers.protocol,
                ports: ports(&peers.ports),
                own_ports: ports(&peers.own_ports),
            })
        })
        .collect()
}

/// Where packets from outside come to a process's network, by its default route.
fn gateway(pid: i32) -> Option<Ipv4Addr> {
    let routes = std::fs::read_to_string(format!("/proc/{pid}/net/route")).ok()?;
    let default = routes.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let hex = default
        .filter(|fields| fields.get(1) == Some(&"00000000"))
        .find_map(|fields| fields.get(2).map(|hex| (*hex).to_owned()))?;
    u32::from_str_radix(&hex, 16).ok().map(|address| Ipv4Addr::from(address.to_le_bytes()))
}
