//! `cowback top`

mod app;
mod rates;
mod view;

use std::io::{self, IsTerminal};
use std::thread;
use std::time::{Duration, Instant};

use control_api::Disk;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::app::{App, Next};
use self::rates::{Order, Rates};
use crate::client::{Client, ClientError, SocketArg};
use crate::error::{CommandError, CommandResult, Outcome};
use crate::output::Output;

/// Watch the disks that the running daemon serves
///
/// Shows what each did since the last look. On a terminal, keys order the disks and show one of them alone; otherwise, or with
/// --batch, lines of text are printed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds between two looks
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = seconds)]
    interval: Duration,
    /// What to order disks by
    #[arg(long, value_enum, default_value = "requests")]
    sort: Order,
    /// Print lines of text
    #[arg(long)]
    batch: bool,
    /// End after so many looks; 0 is never
    #[arg(long, default_value = "0", value_name = "N")]
    count: u64,
    #[command(flatten)]
    socket: SocketArg,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if !(0.1..=3600.0).contains(&seconds) {
        return Err("it is not between 0.1 and 3600".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let mut looks = Looks {
        client: Client::new(&args.socket),
        last: None,
    };
    // Who starts it without a daemon is told so at once.
    looks.look()?;
    if args.batch || !io::stdout().is_terminal() {
        print(args, &mut looks)?;
    } else {
        let mut terminal = ratatui::try_init().map_err(CommandError::Print)?;
        let watched = watch(args, &mut looks, &mut terminal);
        ratatui::try_restore().map_err(CommandError::Print)?;
        watched.map_err(CommandError::Print)?;
    }
    Ok(Outcome::Done)
}

/// Looks at the disks again and again.
struct Looks<'a> {
    client: Client<'a>,
    last: Option<(Instant, Vec<Disk>)>,
}

impl Looks<'_> {
    /// What has happened since the last look.
    fn look(&mut self) -> Result<Vec<Rates>, ClientError> {
        let disks: Vec<Disk> = self.client.get("/v1/devices")?;
        let now = Instant::now();
        let (before, time) = match self.last.take() {
            Some((then, disks)) => (disks, now - then),
            None => (Vec::new(), Duration::ZERO),
        };
        self.last = Some((now, disks.clone()));
        Ok(rates::between(&before, disks, time))
    }
}

fn print(args: &Args, looks: &mut Looks<'_>) -> Result<(), CommandError> {
    for look in 1.. {
        thread::sleep(args.interval);
        let mut disks = looks.look()?;
        rates::sort(&mut disks, args.sort, false);
        let mut output = Output::stdout();
        for line in view::plain(&disks) {
            output.line(&line)?;
        }
        output.finish()?;
        if look == args.count {
            break;
        }
    }
    Ok(())
}

fn watch(args: &Args, looks: &mut Looks<'_>, terminal: &mut DefaultTerminal) -> io::Result<()> {
    let mut app = App::new(args.sort);
    let mut due = Instant::now();
    let mut look = 0;
    loop {
        if Instant::now() >= due {
            if look > 0 && look == args.count {
                return Ok(());
            }
            look += 1;
            due = Instant::now() + args.interval;
            app.update(looks.look().map_err(|error| error.to_string()));
        }
        terminal.draw(|frame| view::draw(frame, &app))?;
        if event::poll(due.saturating_duration_since(Instant::now()))?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
            && app.key(key.code) == Next::Quit
        {
            return Ok(());
        }
    }
}
