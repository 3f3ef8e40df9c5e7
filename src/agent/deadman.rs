//! Which holders must stop though nobody has ordered it. Pure: time is an argument.

use std::time::Duration;

use crate::api::Cord;
use crate::engine::Pulled;

/// The operator's Lease may stand still for so long. Another operator leads after about twenty seconds; half a minute
/// is promised, and the last seconds of it are for seeing and for ending.
pub const SILENCE: Duration = Duration::from_secs(25);

/// What is held, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order<'a> {
    pub name: &'a str,
    /// Of the run.
    pub namespace: &'a str,
}

/// Names and reasons. `lease`: how long the operator's Lease has not changed, by this process's own clock.
pub fn must_stop<'a>(orders: &[Order<'a>], lease: Duration, cords: &[Cord]) -> Vec<(&'a str, String)> {
    let why = |order: &Order<'a>| match Pulled::over(cords, order.namespace) {
        Some(pulled) => Some(pulled.to_string()),
        None if lease >= SILENCE => Some(format!("no operator has renewed its lease for {} s", lease.as_secs())),
        None => None,
    };
    orders.iter().filter_map(|order| Some((order.name, why(order)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::CordSpec;

    fn cord(namespaces: &[&str]) -> Cord {
        let namespaces = namespaces.iter().map(|name| (*name).to_owned()).collect();
        Cord::new("andon", CordSpec { reason: "enough".to_owned(), by: None, namespaces })
    }

    #[test]
    fn what_must_stop() {
        let orders = [Order { name: "one", namespace: "shop" }, Order { name: "two", namespace: "bank" }];
        let short = Duration::from_millis(24_999);
        let cases: [(&str, Duration, Vec<Cord>, &[&str]); 7] = [
            ("nothing is wrong", Duration::ZERO, vec![], &[]),
            ("the lease is late, and not too late", short, vec![], &[]),
            ("the lease is too late", SILENCE, vec![], &["one", "two"]),
            ("never seen to change", Duration::MAX, vec![], &["one", "two"]),
            ("a cord over everything", Duration::ZERO, vec![cord(&[])], &["one", "two"]),
            ("a cord over one namespace", Duration::ZERO, vec![cord(&["bank"])], &["two"]),
            ("a cord over another", Duration::ZERO, vec![cord(&["lab"])], &[]),
        ];
        for (what, lease, cords, expected) in cases {
            let stopped: Vec<&str> = must_stop(&orders, lease, &cords).into_iter().map(|(name, _)| name).collect();
            assert_eq!(stopped, expected, "{what}");
        }
    }
}
