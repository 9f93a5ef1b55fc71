//! `podgate top`.
//!
//! | module | topic |
//! |---|---|
//! | `updates` | threads that read counters and flows |
//! | `model` | what was read, and the tables of it |
//! | `latency` | how long requests took |
//! | `table` | rows, their order and their filter |
//! | `screen` | the screen and the keys |

mod latency;
mod model;
mod screen;
mod table;
#[cfg(test)]
mod tests;
mod updates;

use std::io::{self, IsTerminal};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use ratatui::crossterm::event;

use self::model::Model;
use self::screen::{Outcome, View, draw};
use self::table::Direction;
use self::updates::{Update, start};
use crate::cli::{Tab, TopArgs};
use crate::output::{exit_with_reader, print};

/// How long a key is waited for before updates are shown.
const FRAME: Duration = Duration::from_millis(100);

/// Shows tables until the user quits, or prints them.
pub(super) fn run(args: &TopArgs) -> Result<()> {
    exit_with_reader();
    let as_text = args.once || args.batch;
    ensure!(
        as_text || io::stdout().is_terminal(),
        "the output is not a terminal: use --once or --batch"
    );
    let updates = start(&args.source, Duration::from_secs(args.interval))?;
    if as_text {
        let count = if args.once { Some(1) } else { args.count };
        return as_plain_text(&updates, args, count);
    }
    let mut terminal = ratatui::try_init()?;
    let outcome = interact(&mut terminal, &updates, args.tab.unwrap_or_default());
    ratatui::try_restore()?;
    outcome
}

/// Prints tables after each interval, `count` times if it is given.
fn as_plain_text(updates: &Receiver<Update>, args: &TopArgs, count: Option<u64>) -> Result<()> {
    let mut model = Model::default();
    let mut printed = 0;
    while count.is_none_or(|count| printed < count) {
        let Ok(update) = updates.recv() else {
            bail!("the thread that reads from the agent has ended")
        };
        if let Update::Problem(problem) = &update {
            bail!("{problem}");
        }
        // The first sample has no rates.
        if model.update(update) && model.has_rates() {
            print(&plain_text(&model, args.tab, args.rows))?;
            printed += 1;
        }
    }
    Ok(())
}

fn plain_text(model: &Model, tab: Option<Tab>, rows: usize) -> String {
    let tabs = Tab::ALL.into_iter().filter(|shown| tab.is_none_or(|tab| tab == *shown));
    let table = |tab: Tab| {
        let text = model.table(tab).sorted(tab.sorted_by(), Direction::Usual).to_text(rows);
        format!("\n{}\n{text}", tab.title())
    };
    format!("{}\n", model.summary()) + &tabs.map(table).collect::<String>() + "\n"
}

fn interact(
    terminal: &mut ratatui::DefaultTerminal,
    updates: &Receiver<Update>,
    tab: Tab,
) -> Result<()> {
    let (mut model, mut view) = (Model::default(), View::new(tab));
    loop {
        for update in updates.try_iter() {
            model.update(update);
        }
        terminal.draw(|frame| draw(frame, &model, &mut view))?;
        if !event::poll(FRAME)? {
            continue;
        }
        if let event::Event::Key(key) = event::read()?
            && view.key(key, &model) == Outcome::Quit
        {
            return Ok(());
        }
    }
}
