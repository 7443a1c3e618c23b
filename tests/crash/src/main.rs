//! Enumerates crash states, and shows that broken rules would be noticed.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::thread::{self, ScopedJoinHandle};
use std::time::Instant;

use clap::Parser;
use crash::campaign::{BOUNDS, reproduce};
use crash::explorer::{Counts, Scenario, Seen, Violation};
use crash::mutation::Mutation;
use crash::plans;

/// Enumerates the states in which a power failure can leave an image, and checks every one.
#[derive(Parser)]
struct Args {
    /// Run only this, as a violation prints it.
    #[arg(long, value_name = "SCENARIO")]
    reproduce: Option<Scenario>,
    /// The engine was broken on purpose, under this name: look for a violation, and print a line of the table.
    #[arg(long, value_name = "NAME", conflicts_with = "reproduce")]
    hunt: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let good = match (args.reproduce, args.hunt) {
        (Some(scenario), _) => reproduce_one(&scenario),
        (_, Some(name)) => print_row(&name, plans::hunt(None)),
        _ => enumerate_all(),
    };
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn enumerate_all() -> bool {
    let start = Instant::now();
    let all_caught = mutations();
    let seen = Seen::default();
    let mut total = Counts::default();
    println!("\nworkloads");
    for plan in plans::all() {
        println!("{plan}");
        let start = Instant::now();
        let outcome = plan.run(BOUNDS, &seen);
        println!(
            "  {}, {:.1} s",
            outcome.counts,
            start.elapsed().as_secs_f64()
        );
        print_violations(&outcome.violations);
        total += outcome.counts;
    }
    println!("\ntime: {:.1} s", start.elapsed().as_secs_f64());
    print_total(total);
    total.violations == 0 && all_caught
}

fn print_violations(violations: &[Violation]) {
    for violation in violations {
        println!("VIOLATION: {violation}");
    }
}

fn print_total(total: Counts) {
    println!(
        "crash states: {}, violations: {}",
        total.states, total.violations
    );
}

/// Prints the table. Tells whether every mutation was caught.
fn mutations() -> bool {
    println!(
        "{:<30} {:>8}  caught by",
        "rule broken below the engine", "states"
    );
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut all_caught = true;
    for some in Mutation::ALL.chunks(threads) {
        let found: Vec<_> = thread::scope(|scope| {
            let hunts: Vec<_> = some
                .iter()
                .map(|mutation| scope.spawn(|| plans::hunt(Some(*mutation))))
                .collect();
            let joined = hunts.into_iter().map(ScopedJoinHandle::join);
            joined
                .map(|found| found.expect("it does not panic"))
                .collect()
        });
        for (mutation, found) in some.iter().zip(found) {
            all_caught &= print_row(&format!("{mutation:?}"), found);
        }
    }
    all_caught
}

/// Prints a line of the table. Tells whether there was a violation.
fn print_row(name: &str, (states, violation): (u64, Option<Violation>)) -> bool {
    match &violation {
        Some(Violation {
            scenario, problem, ..
        }) => println!("{name:<30} {states:>8}  {scenario}: {problem}"),
        None => println!("{name:<30} {states:>8}  SURVIVED"),
    }
    violation.is_some()
}

fn reproduce_one(scenario: &Scenario) -> bool {
    let outcome = reproduce(BOUNDS, scenario);
    print_violations(&outcome.violations);
    print_total(outcome.counts);
    outcome.counts.violations == 0
}
