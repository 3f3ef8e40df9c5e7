use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::NoAnswer;

/// Lookups of one probe's name under way at once. One that hangs keeps a thread until the resolver gives up,
/// which can be half a minute after the sample has; the threads are shared with everything else.
const LOOKUPS_MAX: usize = 8;

/// Where a probe connects to.
#[derive(Debug)]
pub(super) struct Host {
    name: String,
    port: u16,
    lookups: Arc<Semaphore>,
}

impl Host {
    /// `name` may be an IPv6 address in brackets.
    pub(super) fn new(name: &str, port: u16) -> Self {
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        Host { name: bare.to_owned(), port, lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }

    /// A name or an address, without brackets.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn address(&self) -> Option<SocketAddr> {
        self.name.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }

    /// Whether it has to be looked up.
    pub(super) fn is_name(&self) -> bool {
        self.address().is_none()
    }

    /// Asks the resolver, anew each time.
    pub(super) async fn look_up(&self) -> Result<Vec<SocketAddr>, NoAnswer> {
        if let Some(address) = self.address() {
            return Ok(vec![address]);
        }
        let gave_up = |why: &dyn std::fmt::Display| NoAnswer::Ours(format!("the lookup was given up: {why}"));
        let permit = self.lookups.clone().acquire_owned().await.map_err(|why| gave_up(&why))?;
        let asked = (self.name.clone(), self.port);
        // A task of its own, so that the permit is held as long as the thread, not as long as the sample.
        let lookup = tokio::spawn(async move {
            let _permit = permit;
            let found = tokio::net::lookup_host(asked).await.map(Vec::from_iter);
            // A resolver without a socket says that there is no such name.
            if found.is_err() {
                std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
            }
            found
        });
        match lookup.await.map_err(|why| gave_up(&why))? {
            Ok(addresses) => Ok(addresses),
            // The resolver's own refusals carry no error number; what carries one happened on this machine.
            Err(error) if error.raw_os_error().is_some() => Err(NoAnswer::Ours(format!("this machine could not ask: {error}"))),
            Err(error) => Err(NoAnswer::Theirs(refusal(&error.to_string()))),
        }
    }

    /// Connects to the first of the addresses that answers.
    pub(super) async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, NoAnswer> {
        let mut failure = NoAnswer::Theirs("name does not resolve".to_owned());
        for (index, address) in addresses.iter().enumerate() {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // A sample is one small request: nothing may wait for more to send.
                    stream.set_nodelay(true).map_err(|error| NoAnswer::from_io(&error))?;
                    return Ok(stream);
                }
                Err(error) => {
                    let why = NoAnswer::from_io(&error);
                    // One address that was reached says more than another for which there is no way.
                    if index == 0 || matches!((&failure, &why), (NoAnswer::Ours(_), NoAnswer::Theirs(_))) {
                        failure = why;
                    }
                }
            }
        }
        Err(failure)
    }
}

fn refusal(said: &str) -> String {
    match said.rsplit_once(": ") {
        // "Name or service not known" is what it means.
        Some((_, why)) if !why.starts_with("Name or service") => super::short(&format!("name does not resolve: {why}")),
        Some(_) | None => "name does not resolve".to_owned(),
    }
}
