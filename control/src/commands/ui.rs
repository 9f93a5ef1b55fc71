//! `podgate ui`.

use anyhow::Result;
use podgate_ui::{Config, Exposure, Server};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{UiArgs, read_filters};
use crate::output::print;

/// Serves the page until SIGINT or SIGTERM.
pub(super) fn run(args: &UiArgs) -> Result<()> {
    let config = Config {
        listen: args.listen,
        exposure: if args.allow_remote { Exposure::Any } else { Exposure::Loopback },
        hubble: args.source.address(),
        tls: args.source.client_tls(),
        socket: args.source.socket.socket.clone(),
        read_filters,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let server = Server::open(config).await?;
        print(&format!("{}\n", server.url()))?;
        let mut stop = signal(SignalKind::terminate())?;
        tokio::select! {
            served = server.serve() => Ok(served?),
            _ = tokio::signal::ctrl_c() => Ok(()),
            _ = stop.recv() => Ok(()),
        }
    });
    // A request to an agent that doesn't answer is not waited for.
    runtime.shutdown_background();
    result
}
