//! What names stand for, as a target sees it: by its hosts file, then in the DNS over its network, by its resolv.conf.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use tokio::sync::oneshot;

use super::proc::Files;

/// They are asked for again this often: as long as a cluster's DNS is usually allowed to be believed.
const AGAIN: Duration = Duration::from_secs(5);
/// A name that has not been answered by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Addresses of one name. More than any service has; a name that changes with each question must not grow for ever.
const ADDRESSES_MAX: usize = 1_000;
/// A resolv.conf is a few lines; a hosts file that blocks all advertisers may have more.
const CONF_BYTES_MAX: u64 = 64 * 1024;
const HOSTS_BYTES_MAX: u64 = 4 << 20;

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
    let files = Files::of(pid).map_err(|error| format!("process {pid}: {error}"))?;
    let conf = files
        .read("etc/resolv.conf", CONF_BYTES_MAX)
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
            why = ask_again(&resolver, &files, names, told) => Err(why),
            // Nobody wants to know any more.
            _ = ended => Ok(()),
        }
    })
}

fn parse_hosts(text: &[u8]) -> Hosts {
    let mut hosts = Hosts::default();
    // Only reading fails, and this is read already. Lines that are none are left out.
    let _ = hosts.read_hosts_conf(String::from_utf8_lossy(text).as_bytes());
    hosts
}

fn in_hosts(hosts: &Hosts, name: &str) -> Vec<IpAddr> {
    let Ok(name) = Name::from_utf8(name) else { return Vec::new() };
    let of = |kind| hosts.lookup_static_host(&Query::query(name.clone(), kind));
    let found = [RecordType::A, RecordType::AAAA].into_iter().filter_map(of);
    found.flat_map(|found| found.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>()).collect()
}

/// Returns only if a name was not answered the first time.
async fn ask_again(resolver: &TokioResolver, files: &Files, names: &[String], told: &impl Fn(Result<Answers, String>)) -> String {
    let mut answers = Answers::new();
    let mut first = true;
    let mut hosts = Hosts::default();
    loop {
        let mut news = first;
        // Anew each time: the kubelet writes it, and so may the target. One that is gone says nothing new.
        match files.read("etc/hosts", HOSTS_BYTES_MAX) {
            Ok(text) => hosts = parse_hosts(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => hosts = Hosts::default(),
            Err(error) => tracing::debug!(%error, "the target's hosts file cannot be read"),
        }
        for name in names {
            let known = answers.entry(name.clone()).or_default();
            let mut found = in_hosts(&hosts, name);
            if found.is_empty() {
                match tokio::time::timeout(PATIENCE, resolver.lookup_ip(name.as_str())).await {
                    Ok(Ok(answer)) => found.extend(answer.iter()),
                    Ok(Err(error)) if first => return format!("{name} is not known in the DNS: {error}"),
                    Err(_) if first => return format!("{name}: the DNS does not answer"),
                    // What is known stays: the fault itself may be why there is no answer.
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            for address in found {
                news |= known.len() < ADDRESSES_MAX && known.insert(address);
            }
        }
        if news {
            told(Ok(answers.clone()));
        }
        first = false;
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_is_read_as_the_target_reads_it() {
        let hosts = parse_hosts(b"127.0.0.1\tlocalhost\n10.1.2.3 ledger ledger.bank # \xfcber\nno address\nfd00::7 ledger\n");
        let addresses = |name: &str| in_hosts(&hosts, name).iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(addresses("ledger"), ["10.1.2.3", "fd00::7"]);
        assert_eq!(addresses("LEDGER.bank."), ["10.1.2.3"]);
        assert!(addresses("bank").is_empty());
    }
}
