//! `podgate capture`.

mod pcapng;

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use podgate_api::{CaptureItem, Client, Request};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use self::pcapng::{Summary, Writer};
use crate::cli::CaptureArgs;

type Output = BufWriter<Box<dyn Write + Send>>;

/// The file, until it is complete.
type Shared = Arc<Mutex<Option<Writer<Output>>>>;

/// Captures until the agent ends the capture, or a signal does; the file is complete then.
pub(super) fn run(args: &CaptureArgs) -> Result<()> {
    let request = args.request();
    request.check().map_err(anyhow::Error::msg)?;
    let mut client = Client::connect(&args.socket.socket)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        // Before the file is there, which a signal must not leave incomplete.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let writer = Writer::new(open(&args.write)?, args.snap_length)?;
        let file: Shared = Arc::new(Mutex::new(Some(writer)));
        let (done, read) = oneshot::channel();
        let reader = Arc::clone(&file);
        thread::spawn(move || {
            // Fails after a signal.
            let _ = done.send(read_packets(&mut client, &Request::Capture(request), &reader));
        });
        let reason = tokio::select! {
            reason = read => reason.context("the reader of packets panicked")?,
            _ = interrupt.recv() => Ok(None),
            _ = terminate.recv() => Ok(None),
        };
        let writer = file.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { bail!("the file is complete already") };
        let summary = writer.finish()?;
        anyhow::Ok((reason, summary))
    });
    // The thread may still wait for packets.
    runtime.shutdown_background();
    let (reason, summary) = ended?;
    if reason.is_err() && summary == Summary::default() && args.write.as_os_str() != "-" {
        // It has nothing; if it can't be removed, the next capture says so.
        let _ = fs::remove_file(&args.write);
    }
    if let Some(reason) = reason? {
        eprintln!("podgate: {reason}");
    }
    eprintln!(
        "{} packets before policy, {} after policy, {} bytes, {} lost",
        summary.before, summary.after, summary.bytes, summary.lost
    );
    Ok(())
}

/// Opens the file for its owner only, since it has payload.
fn open(path: &Path) -> Result<Output> {
    let out: Box<dyn Write + Send> = if path.as_os_str() == "-" {
        Box::new(io::stdout())
    } else {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        Box::new(file.with_context(|| format!("can't create {}", path.display()))?)
    };
    Ok(BufWriter::new(out))
}

/// Reads packets to the file until the agent ends. Returns why it did.
fn read_packets(client: &mut Client, request: &Request, file: &Shared) -> Result<Option<String>> {
    let mut end = None;
    client.stream(request, |item: CaptureItem| {
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = file.as_mut() else { return Ok(()) };
        match item {
            CaptureItem::Started {} => eprintln!("capturing; Ctrl-C ends"),
            CaptureItem::Packet(packet) => {
                let data = STANDARD.decode(&packet.data).context("the agent sent no Base64")?;
                writer.packet(&packet, &data)?;
            }
            CaptureItem::Ended { reason, lost } => {
                writer.set_lost(lost);
                end = Some(reason);
            }
        }
        anyhow::Ok(())
    })?;
    Ok(end)
}
