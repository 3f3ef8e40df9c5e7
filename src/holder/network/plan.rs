//! What a network fault takes: queues, a TAP, raw sockets, and the rules that send packets to them. No I/O.

use super::fate::Model;
use super::order::{Direction, Effect, NetworkOrder, QueueBy, Shape};
use super::ruleset::{Ruleset, Side, Strike};
use super::tap::Tap;

/// What an order takes.
pub struct Plan {
    pub shape: Option<Shape>,
    /// Directions whose packets wait in the kernel's queue.
    pub queued: Vec<Direction>,
    pub tap: bool,
    pub per_packet: bool,
    pub raw: bool,
}

impl Plan {
    pub fn of(order: &NetworkOrder) -> Self {
        let Effect::Shape(shape) = &order.effect else {
            return Plan { shape: None, queued: Vec::new(), tap: false, per_packet: false, raw: false };
        };
        let (incoming, outgoing) = directions(order.direction);
        let tap = outgoing && shape.delay.is_some();
        let mut queued = Vec::new();
        if incoming {
            queued.push(Direction::In);
        }
        if outgoing && !tap {
            queued.push(Direction::Out);
        }
        let raw = shape.duplicate_percent.is_some() && !queued.is_empty();
        Plan { queued, tap, per_packet: shape.is_per_packet(), raw, shape: Some(shape.clone()) }
    }

    pub fn model(&self, order: &NetworkOrder, direction: Direction) -> Model {
        Model::new(&self.shape.clone().unwrap_or_default(), order.seed, direction)
    }

    pub fn undetected(&self) -> bool {
        self.shape.as_ref().and_then(|shape| shape.corrupt).is_some_and(|corrupt| corrupt.undetected)
    }

    /// The rules. `numbers` are those of the queues, in the order of `queued`.
    pub fn rulesets(&self, order: &NetworkOrder, numbers: &[u16], tap: Option<&Tap>, by: QueueBy) -> Vec<Ruleset> {
        let side = |direction, strike| {
            let incoming = direction == Direction::In;
            Side { name: if incoming { "in" } else { "out" }, incoming, egress: None, strike }
        };
        let (incoming, outgoing) = directions(order.direction);
        let mut sides = Vec::new();
        match order.effect {
            Effect::Partition => {
                if incoming {
                    sides.push(side(Direction::In, Strike::Drop));
                }
                if outgoing {
                    sides.push(side(Direction::Out, Strike::Vanish { by }));
                }
            }
            Effect::Shape(_) => {
                let queued = self.queued.iter().zip(numbers);
                sides.extend(queued.map(|(direction, number)| side(*direction, Strike::Queue { number: *number, by })));
            }
        }
        let mut rulesets = Vec::new();
        if !sides.is_empty() {
            rulesets.push(Ruleset::new(sides, order.flows_percent, order.seed));
        }
        if let Some(tap) = tap {
            let strike = Strike::Tap { device: tap.index };
            let side = Side { name: "out", incoming: false, egress: Some(tap.device.clone()), strike };
            rulesets.push(Ruleset::new(vec![side], order.flows_percent, order.seed));
        }
        rulesets
    }
}

fn directions(direction: Direction) -> (bool, bool) {
    match direction {
        Direction::In => (true, false),
        Direction::Out => (false, true),
        Direction::Both => (true, true),
    }
}
