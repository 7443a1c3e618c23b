//! What `cowback top` shows, and what keys do to it.

use clap::ValueEnum;
use ratatui::crossterm::event::KeyCode;

use super::rates::{self, Order, Rates};

/// What is on the screen.
#[derive(Default)]
pub(super) struct App {
    disks: Vec<Rates>,
    order: Order,
    reversed: bool,
    /// The device of the disk that the cursor is on.
    cursor: Option<String>,
    /// That disk alone is shown.
    detailed: bool,
    /// Why the daemon could not be asked the last time.
    problem: Option<String>,
}

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    Quit,
}

impl App {
    pub(super) fn new(order: Order) -> Self {
        Self {
            order,
            ..Self::default()
        }
    }

    /// Takes what was found, or why nothing was.
    pub(super) fn update(&mut self, found: Result<Vec<Rates>, String>) {
        match found {
            Ok(disks) => {
                self.problem = None;
                self.disks = disks;
                self.sort();
            }
            Err(problem) => self.problem = Some(problem),
        }
    }

    fn sort(&mut self) {
        rates::sort(&mut self.disks, self.order, self.reversed);
        if self.selected().is_none() {
            self.cursor = self.disks.first().map(|rates| rates.disk.device.clone());
            self.detailed = false;
        }
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyCode) -> Next {
        match key {
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Esc if !self.detailed => return Next::Quit,
            KeyCode::Esc | KeyCode::Backspace => self.detailed = false,
            KeyCode::Enter => self.detailed = self.cursor.is_some() && !self.detailed,
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char(letter) => {
                if let Some(order) = order_of(letter) {
                    self.order = order;
                }
            }
            _ => {}
        }
        self.sort();
        Next::GoOn
    }

    fn step(&mut self, by: isize) {
        let last = self.disks.len().saturating_sub(1);
        let to = self
            .selected()
            .unwrap_or(0)
            .saturating_add_signed(by)
            .min(last);
        self.cursor = self.disks.get(to).map(|rates| rates.disk.device.clone());
    }

    pub(super) fn disks(&self) -> &[Rates] {
        &self.disks
    }

    /// Which disk the cursor is on.
    pub(super) fn selected(&self) -> Option<usize> {
        let cursor = self.cursor.as_ref()?;
        self.disks
            .iter()
            .position(|rates| rates.disk.device == *cursor)
    }

    /// The disk that is shown alone.
    pub(super) fn detail(&self) -> Option<&Rates> {
        self.disks.get(self.selected()?).filter(|_| self.detailed)
    }

    pub(super) fn title(&self) -> String {
        if let Some(problem) = &self.problem {
            return format!("cowback top: {problem}");
        }
        let order = self.order.to_possible_value();
        let order = order.map_or_else(String::new, |order| order.get_name().to_owned());
        let reversed = if self.reversed { ", least first" } else { "" };
        let disks = match self.disks.len() {
            1 => "1 disk".to_owned(),
            many => format!("{many} disks"),
        };
        format!("cowback top: {disks} by {order}{reversed}")
    }

    pub(super) fn help(&self) -> &'static str {
        if self.detailed {
            "Esc back  up/down other disks  q quit"
        } else {
            "i requests  b bytes  l latency  f in flight  a allocated  n name  r reverse  Enter one disk  q quit"
        }
    }
}

/// What a letter orders disks by.
fn order_of(letter: char) -> Option<Order> {
    Some(match letter {
        'i' => Order::Requests,
        'b' => Order::Bytes,
        'l' => Order::Latency,
        'f' => Order::InFlight,
        'a' => Order::Allocated,
        'n' => Order::Name,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Cell;

    use super::super::rates::tests::disk;
    use super::super::view;
    use super::*;

    fn app() -> App {
        let before = [disk(1, 0, 0), disk(2, 0, 0)];
        let now = vec![disk(1, 10, 0), disk(2, 500, 9 << 20)];
        let second = std::time::Duration::from_secs(1);
        let mut app = App::new(Order::Requests);
        app.update(Ok(rates::between(&before, now, second)));
        app
    }

    fn screen(app: &App) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(110, 30)).unwrap();
        terminal.draw(|frame| view::draw(frame, app)).unwrap();
        let buffer = terminal.backend().buffer();
        let width = usize::from(buffer.area.width);
        let symbols: Vec<_> = buffer.content.iter().map(Cell::symbol).collect();
        symbols
            .chunks(width)
            .map(|row| row.concat().trim_end().to_owned())
            .collect()
    }

    #[test]
    fn keys_sort_and_drill_in() {
        let mut app = app();
        let rows = screen(&app);
        assert_eq!(rows[0], "cowback top: 2 disks by requests");
        assert!(
            rows[1].starts_with("DOM") && rows[1].ends_with("IMAGE"),
            "{rows:?}"
        );
        assert!(rows[2].starts_with("2     xvda   500"), "{rows:?}");
        assert!(
            rows[2].contains("9.0") && rows[2].ends_with("/images/2.cow"),
            "{rows:?}"
        );
        assert!(rows[3].starts_with("1     xvda   10"), "{rows:?}");
        app.key(KeyCode::Char('n'));
        assert!(screen(&app)[2].starts_with("1     xvda"));
        app.key(KeyCode::Char('r'));
        assert_eq!(screen(&app)[0], "cowback top: 2 disks by name, least first");
        assert!(screen(&app)[2].starts_with("2     xvda"));
        // The cursor has stayed on the disk that was first.
        assert_eq!(app.selected(), Some(0));
        app.key(KeyCode::Down);
        app.key(KeyCode::Down);
        assert_eq!(app.selected(), Some(1));
        app.key(KeyCode::Enter);
        assert!(screen(&app)[1].contains("xvda of domain 1"));
        assert_eq!(app.key(KeyCode::Esc), Next::GoOn);
        assert!(app.detail().is_none());
        assert_eq!(app.key(KeyCode::Esc), Next::Quit);
    }

    #[test]
    fn a_disk_that_goes_away_and_a_daemon_that_is_silent_are_no_trouble() {
        let mut app = app();
        app.key(KeyCode::Enter);
        app.update(Err("the daemon does not answer".to_owned()));
        assert!(screen(&app)[0].contains("does not answer"));
        app.update(Ok(Vec::new()));
        assert_eq!(screen(&app)[0], "cowback top: 0 disks by requests");
        app.key(KeyCode::Down);
        app.key(KeyCode::Enter);
        assert!(app.detail().is_none());
    }
}
