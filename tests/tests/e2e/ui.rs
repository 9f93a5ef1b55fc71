//! The page of `podgate ui`, in headless Chromium, which Playwright drives.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podgate_tests::checkout::{in_checkout, python};
use podgate_tests::lab::{Agent, Daemon, Family, Get, Lab, Outcome, program};
use podgate_tests::scenario::MANIFESTS;

const BOUND: Duration = Duration::from_secs(180);

/// Starts `podgate ui` in the node's namespace, with a control socket and flows from `server`.
/// Returns the URL of the page, too.
fn start_page(lab: &Lab, server: &str) -> Result<(Daemon, String)> {
    let mut command = lab.node().netns.daemon(program()?);
    command.args(["ui", "--listen", "127.0.0.1:0", "--server", server]);
    command.arg("--socket").arg(lab.state_dir().join("podgate.sock"));
    let mut page = Daemon::start("podgate ui", command, lab.file("ui.log"))?;
    let url = page.wait_until("its URL", BOUND, |page| {
        // The whole line.
        Ok(page.log().split_once('\n').map(|(url, _)| url.to_owned()))
    })?;
    Ok((page, url))
}

/// Starts a scenario of `ui.mjs`.
fn start_browser(lab: &Lab, scenario: &str, url: &str) -> Result<Daemon> {
    let packages = in_checkout("control/ui/page/node_modules");
    ensure!(packages.exists(), "scripts/ui installs {}", packages.display());
    let mut command = lab.node().netns.daemon("node".as_ref());
    command.arg(in_checkout("tests/tests/e2e/ui.mjs")).args([scenario, url]);
    command.arg(&packages).arg(lab.file("chromium"));
    // Screenshots are for people.
    command.arg(std::env::var_os("PODGATE_SCREENSHOTS").unwrap_or_default());
    Daemon::start("the browser", command, lab.file("browser.log"))
}

/// Waits until the scenario has come to a step that needs something.
fn wait_for_step(browser: &mut Daemon, step: &str) -> Result<()> {
    let line = format!("step {step}\n");
    browser.wait_until(step, BOUND, |browser| Ok(browser.log().contains(&line).then_some(())))
}

/// Waits for the end of the scenario.
fn wait_for_end(browser: &mut Daemon) -> Result<()> {
    let status = browser.wait_exit(BOUND)?;
    ensure!(status.success(), "{}", browser.log());
    Ok(())
}

fn get(lab: &Lab, from: &str, to: &str, path: &str) -> Result<Outcome> {
    Get::path(path).fetch(lab.host(from)?, lab.host(to)?, Family::V4)
}

#[test]
fn the_page_shows_flows_explains_denials_and_says_what_is_not_ready() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("wrong.yaml", WRONG)?;
    let agent = Agent::start_with(&lab, 1, &["--node-name", "node-1"])?;
    for (from, to, path) in [
        ("other/stranger", "backend/nginx", "/docs"),
        ("backend/nginx", "office", "/"),
        ("admin/adminapp", "backend/nginx", "/secret"),
        ("admin/adminapp", "backend/nginx", "/docs"),
    ] {
        // Denied ones have another outcome.
        let _ = get(&lab, from, to, path)?;
    }
    lab.delete_link(lab.host("backend/store")?)?;
    let server = format!("unix://{}", lab.state_dir().join("hubble.sock").display());
    let (page, url) = start_page(&lab, &server)?;
    let mut browser = start_browser(&lab, "agent", &url)?;
    wait_for_step(&mut browser, "new flow")?;
    get(&lab, "user/userapp", "backend/nginx", "/api/v1/users")?;
    wait_for_step(&mut browser, "agent stops")?;
    drop(agent);
    wait_for_step(&mut browser, "page stops")?;
    drop(page);
    wait_for_end(&mut browser)
}

/// A policy that is rejected.
const WRONG: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: mistyped, namespace: backend }
spec:
  podSelector: {}
  policyTypes: [Both]
";

#[test]
fn the_page_follows_ten_thousand_flows_a_second_in_bounded_memory() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let socket = lab.file("flood.sock");
    let mut command = lab.node().netns.daemon(python().as_ref());
    command.arg(in_checkout("tests/tests/e2e/ui_flood.py"));
    command.arg(in_checkout("control/hubble/proto")).arg(&socket);
    let mut server = Daemon::start("the server of flows", command, lab.file("flood.log"))?;
    server.wait_until("its socket", BOUND, |server| {
        Ok(server.log().contains("ready\n").then_some(()))
    })?;
    let socket = socket.to_str().context("a path")?;
    let (_page, url) = start_page(&lab, &format!("unix://{socket}"))?;
    let mut browser = start_browser(&lab, "flood", &url)?;
    wait_for_end(&mut browser)
}

#[test]
fn the_page_is_served_on_loopback_unless_asked_otherwise() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let address = format!("{}:0", lab.node().addresses.v4);
    let rejected = lab.podgate(&["ui", "--listen", &address])?;
    let text = String::from_utf8_lossy(&rejected.stderr).into_owned();
    ensure!(rejected.status.code() == Some(1), "{rejected:?}");
    ensure!(text.contains("is not a loopback address"), "{text}");
    let log = fs::read_to_string(lab.file("ui.log")).unwrap_or_default();
    ensure!(log.is_empty(), "{log}");
    Ok(())
}
