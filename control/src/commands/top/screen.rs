//! The screen and the keys.

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell as ScreenCell, Row, Table as ScreenTable, TableState};

use super::model::Model;
use super::table::{Cell, Direction, Table};
use crate::cli::Tab;

/// The keys, for the last line.
const KEYS: &str = "q quit  Tab/1-5 table  s sort  r reverse  / filter  p pause  ↑↓ scroll";

/// What to do after a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The program continues.
    Continue,
    /// The program ends.
    Quit,
}

/// What the user chose.
#[derive(Debug)]
pub(super) struct View {
    tab: Tab,
    /// The column by which each table is sorted, and in which direction.
    order: [(usize, Direction); Tab::ALL.len()],
    filter: String,
    /// Whether keys are part of the filter.
    is_typing: bool,
    /// What is shown while it is paused.
    frozen: Option<(String, Vec<Table>)>,
    position: TableState,
}

impl View {
    /// Begins with this table.
    pub(super) fn new(tab: Tab) -> Self {
        Self {
            tab,
            order: Tab::ALL.map(|tab| (tab.sorted_by(), Direction::Usual)),
            filter: String::new(),
            is_typing: false,
            frozen: None,
            position: TableState::new().with_selected(0),
        }
    }

    fn index(&self) -> usize {
        Tab::ALL.iter().position(|tab| *tab == self.tab).unwrap_or(0)
    }

    fn choose(&mut self, index: usize) {
        self.tab = Tab::ALL[index % Tab::ALL.len()];
        self.position = TableState::new().with_selected(0);
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: KeyEvent, model: &Model) -> Outcome {
        if key.kind == KeyEventKind::Release {
            return Outcome::Continue;
        }
        let is_interrupt =
            key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if is_interrupt {
            return Outcome::Quit;
        }
        if self.is_typing {
            self.type_filter(key.code);
            return Outcome::Continue;
        }
        let (index, tabs) = (self.index(), Tab::ALL.len());
        match key.code {
            KeyCode::Char('q') => return Outcome::Quit,
            KeyCode::Tab | KeyCode::Right => self.choose(index + 1),
            KeyCode::BackTab | KeyCode::Left => self.choose(index + tabs - 1),
            KeyCode::Char(digit @ '1'..='5') => self.choose(digit as usize - '1' as usize),
            KeyCode::Char('s') => {
                let columns = model.table(self.tab).heading.len();
                let (column, _) = self.order[index];
                self.order[index] = ((column + 1) % columns, Direction::Usual);
            }
            KeyCode::Char('r') => self.order[index].1 = self.order[index].1.reversed(),
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('p' | ' ') => {
                self.frozen = match self.frozen.take() {
                    Some(_) => None,
                    None => Some((model.summary(), Tab::ALL.map(|tab| model.table(tab)).into())),
                };
            }
            KeyCode::Down | KeyCode::Char('j') => self.position.select_next(),
            KeyCode::Up | KeyCode::Char('k') => self.position.select_previous(),
            KeyCode::PageDown => self.position.scroll_down_by(10),
            KeyCode::PageUp => self.position.scroll_up_by(10),
            KeyCode::Home => self.position.select_first(),
            KeyCode::End => self.position.select_last(),
            _ => {}
        }
        Outcome::Continue
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.is_typing = false;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(character) => self.filter.push(character),
            _ => {}
        }
    }
}

/// Draws all of the screen.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, view: &mut View) {
    let parts = [1, 1, 0, 1].map(|height| match height {
        0 => Constraint::Fill(1),
        height => Constraint::Length(height),
    });
    let [summary, tabs, rows, keys] = Layout::vertical(parts).areas(frame.area());
    let index = view.index();
    let (line, table) = match &view.frozen {
        Some((line, tables)) => (format!("PAUSED  {line}"), tables[index].clone()),
        None => (model.summary(), model.table(view.tab)),
    };
    frame.render_widget(Line::from(line).style(Modifier::BOLD), summary);
    frame.render_widget(tab_line(view.tab), tabs);
    let (column, direction) = view.order[index];
    let table = table.filtered(&view.filter).sorted(column, direction);
    let (widget, count) = (screen_table(&table, column, direction), table.rows.len());
    if view.position.selected().is_some_and(|selected| selected >= count) {
        view.position.select(count.checked_sub(1));
    }
    frame.render_stateful_widget(widget, rows, &mut view.position);
    let last = match (view.is_typing, view.filter.as_str()) {
        (true, filter) => format!("/{filter}▏ Enter applies, Esc clears"),
        (false, "") => KEYS.to_owned(),
        (false, filter) => format!("/{filter}  {count} rows, Esc clears  {KEYS}"),
    };
    frame.render_widget(Line::from(last).style(Modifier::DIM), keys);
}

fn tab_line(chosen: Tab) -> Line<'static> {
    let span = |(index, tab): (usize, Tab)| {
        let text = format!(" {} {} ", index + 1, tab.title());
        let style = if tab == chosen { Style::new().reversed() } else { Style::new() };
        Span::styled(text, style)
    };
    Tab::ALL.into_iter().enumerate().map(span).collect()
}

/// The table, with columns as wide as their cells; those with numbers are aligned to the right.
fn screen_table(table: &Table, sorted: usize, direction: Direction) -> ScreenTable<'static> {
    let heading = table.heading.iter().enumerate().map(|(index, name)| match index == sorted {
        true => format!("{name}{}", if direction == Direction::Usual { "▼" } else { "▲" }),
        false => (*name).to_owned(),
    });
    let heading: Vec<_> = heading.collect();
    let is_number = |column: usize| {
        let first = table.rows.first().and_then(|row| row.get(column));
        matches!(first, Some(Cell::Number(..)))
    };
    let align = |column: usize, text: &str| {
        let line = Line::from(text.to_owned());
        ScreenCell::from(if is_number(column) { line.right_aligned() } else { line })
    };
    let widths = heading.iter().enumerate().map(|(column, name)| {
        let cells = table.rows.iter().filter_map(|row| row.get(column));
        let cells = cells.map(|cell| cell.printed().chars().count());
        let width = cells.chain([name.chars().count()]).max().unwrap_or(0);
        Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX))
    });
    let widths: Vec<_> = widths.collect();
    let cells = |texts: Vec<&str>| {
        Row::new(
            texts
                .into_iter()
                .enumerate()
                .map(|(column, text)| align(column, text))
                .collect::<Vec<_>>(),
        )
    };
    let rows = table.rows.iter().map(|row| cells(row.iter().map(Cell::printed).collect()));
    let rows: Vec<_> = rows.collect();
    let head = cells(heading.iter().map(String::as_str).collect());
    ScreenTable::new(rows, widths)
        .header(head.style(Modifier::BOLD))
        .column_spacing(2)
        .row_highlight_style(Modifier::REVERSED)
}
