//! A network fault from flags, for `gameday hold network` by hand.

use clap::{ArgMatches, Args, Command, Error, FromArgMatches};
use serde::de::DeserializeOwned;

use crate::api::{Cidr, Direction, Distribution, Duration, Protocol, Rate};

use super::order::{Aim, Corrupt, Delay, Effect, Loss, NetworkOrder, Peers, Shape};

#[derive(Args)]
struct Flags {
    /// Packets that the target receives, that it sends, or both: In, Out, Both
    #[arg(long, value_parser = named::<Direction>, default_value = "In")]
    direction: Direction,
    /// Let nothing pass, and reset the target's connections
    #[arg(long, conflicts_with_all = ["delay", "loss", "duplicate", "corrupt", "rate"])]
    partition: bool,
    /// Hold every packet this long
    #[arg(long)]
    delay: Option<Duration>,
    /// Let the delay vary by this
    #[arg(long, requires = "delay")]
    jitter: Option<Duration>,
    /// How: Uniform, Normal, Pareto
    #[arg(long, value_parser = named::<Distribution>, requires = "jitter", default_value = "Uniform")]
    distribution: Distribution,
    /// Lose this percentage of the packets
    #[arg(long)]
    loss: Option<f64>,
    /// In rows of this many on average
    #[arg(long, requires = "loss", default_value_t = 1.0)]
    burst: f64,
    /// Deliver this percentage of the packets twice
    #[arg(long)]
    duplicate: Option<f64>,
    /// Flip a bit in this percentage of the packets
    #[arg(long)]
    corrupt: Option<f64>,
    /// With a checksum that fits
    #[arg(long, requires = "corrupt")]
    undetected: bool,
    /// Let this percentage of the packets overtake those that are delayed
    #[arg(long, requires = "delay")]
    reorder: Option<f64>,
    /// Let no more pass than this, like 10Mbit
    #[arg(long, value_parser = named::<Rate>)]
    rate: Option<Rate>,
    /// Hit only this percentage of the connections, whole ones
    #[arg(long)]
    flows: Option<f64>,
    /// Only traffic with these addresses; without, with everyone
    #[arg(long, value_name = "CIDR")]
    to: Vec<Cidr>,
    /// Only with these ports of theirs
    #[arg(long)]
    port: Vec<u16>,
    /// Only with this protocol: TCP, UDP, SCTP, ICMP
    #[arg(long, value_parser = named::<Protocol>)]
    protocol: Option<Protocol>,
    /// Never traffic with these addresses
    #[arg(long, value_name = "CIDR")]
    except: Vec<Cidr>,
}

/// A word as the resources write it.
fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|error| error.to_string())
}

impl From<Flags> for NetworkOrder {
    fn from(flags: Flags) -> Self {
        let micros = |length: Duration| length.as_millis() * 1_000;
        let delay = flags.delay.map(|delay| Delay {
            mean_us: micros(delay),
            jitter_us: flags.jitter.map_or(0, micros),
            distribution: flags.distribution,
            correlation: 0.0,
        });
        let shape = Shape {
            delay,
            loss: flags.loss.map(|percent| Loss { percent, burst: flags.burst }),
            duplicate_percent: flags.duplicate,
            corrupt: flags.corrupt.map(|percent| Corrupt { percent, undetected: flags.undetected }),
            reorder_percent: flags.reorder,
            rate_bits_per_s: flags.rate.map(Rate::bits_per_s),
        };
        let some = |addresses: Vec<Cidr>| Peers { addresses: Some(addresses), ..Peers::default() };
        let to = Peers {
            addresses: (!flags.to.is_empty()).then_some(flags.to),
            protocol: flags.protocol,
            ports: flags.port.into_iter().map(Into::into).collect(),
            own_ports: Vec::new(),
        };
        let except = if flags.except.is_empty() { Vec::new() } else { vec![some(flags.except)] };
        NetworkOrder {
            seed: 0,
            direction: flags.direction,
            effect: if flags.partition { Effect::Partition } else { Effect::Shape(shape) },
            flows_percent: flags.flows,
            aim: Aim { to: vec![to], except },
            queue_by: None,
        }
    }
}

impl FromArgMatches for NetworkOrder {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Flags::from_arg_matches(matches).map(Into::into)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = NetworkOrder::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for NetworkOrder {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args_for_update(command)
    }
}
