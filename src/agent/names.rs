//! What names in the DNS stand for, asked for from within a target: over its network, by its resolv.conf.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use tokio::sync::oneshot;

use super::proc;

/// They are asked for again this often: as long as a cluster's DNS is usually allowed to be believed.
const AGAIN: Duration = Duration::from_secs(5);
/// A name that has not been answered by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Addresses of one name. More than any service has; a name that changes with each question must not grow for ever.
const ADDRESSES_MAX: usize = 1_000;
/// A resolv.conf is a few lines.
const CONF_BYTES_MAX: u64 = 64 * 1024;

/// Every address that each name has had since it was asked for first.
pub type Answers = BTreeMap<String, BTreeSet<IpAddr>>;

/// Asks until it is dropped.
pub struct Names {
    _end: oneshot::Sender<()>,
    pub said: Option<Result<Answers, String>>,
}

impl Names {
    /// `told`: all of them, at first and whenever there are more; or why they are not known. Then it asks no more.
    pub fn ask(pid: i32, names: Vec<String>, told: impl Fn(Result<Answers, String>) + Send + 'static) -> Names {
        let (end, ended) = oneshot::channel();
        // A thread of its own, because only a thread can enter a network and no other may find itself there.
        let asking = std::thread::Builder::new().name("names".to_owned()).spawn(move || {
            if let Err(why) = ask(pid, &names, ended, &told) {
                told(Err(why));
            }
        });
        let said = asking.err().map(|error| Err(format!("no thread to ask the DNS with: {error}")));
        Names { _end: end, said }
    }
}

fn ask(pid: i32, names: &[String], ended: oneshot::Receiver<()>, told: &impl Fn(Result<Answers, String>)) -> Result<(), String> {
    let conf = proc::read_within(pid, "etc/resolv.conf", CONF_BYTES_MAX)
        .map_err(|error| format!("the target's resolv.conf cannot be read: {error}"))?;
    let (config, options) = parse_resolv_conf(&conf).map_err(|error| format!("the target's resolv.conf: {error}"))?;
    let network = std::fs::File::open(format!("/proc/{pid}/ns/net")).map_err(|error| format!("the target's network: {error}"))?;
    move_into_thread_name_spaces(network.as_fd(), ThreadNameSpaceType::NETWORK)
        .map_err(|error| format!("the target's network cannot be entered: {error}"))?;
    drop(network);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        // The agent's hosts are not the target's, and a cache would hide what is looked for.
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        builder.options_mut().cache_size = 0;
        let resolver = builder.build().map_err(|error| error.to_string())?;
        tokio::select! {
            why = ask_again(&resolver, names, told) => Err(why),
            // Nobody wants to know any more.
            _ = ended => Ok(()),
        }
    })
}

/// Returns only if a name was not answered the first time.
async fn ask_again(resolver: &TokioResolver, names: &[String], told: &impl Fn(Result<Answers, String>)) -> String {
    let mut answers = Answers::new();
    let mut first = true;
    loop {
        let mut news = first;
        for name in names {
            let known = answers.entry(name.clone()).or_default();
            match tokio::time::timeout(PATIENCE, resolver.lookup_ip(name.as_str())).await {
                Ok(Ok(found)) => {
                    for address in found.iter() {
                        news |= known.len() < ADDRESSES_MAX && known.insert(address);
                    }
                }
                // What is known stays: the fault itself may be why there is no answer.
                Ok(Err(error)) if first => return format!("{name} is not known in the DNS: {error}"),
                Err(_) if first => return format!("{name}: the DNS does not answer"),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        if news {
            told(Ok(answers.clone()));
        }
        first = false;
        tokio::time::sleep(AGAIN).await;
    }
}
