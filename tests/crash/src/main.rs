//! Enumerates crash states, and shows that broken rules would be noticed.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use crash::campaign::{BOUNDS, Orders, Plan, all_ops, core_ops, hunt};
use crash::explorer::{Explorer, Scenario};
use crash::geometry::Geometry;
use crash::mutation::Mutation;
use crash::run::run;

/// Enumerates the states in which a power failure can leave an image, and checks every one.
#[derive(Parser)]
struct Args {
    /// Run only this, as a violation prints it.
    #[arg(long, value_name = "SCENARIO")]
    reproduce: Option<Scenario>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let good = match args.reproduce {
        Some(scenario) => reproduce(&scenario),
        None => enumerate_all(),
    };
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn enumerate_all() -> bool {
    let start = Instant::now();
    let mut explorer = Explorer::new(BOUNDS);
    for plan in plans() {
        describe(&plan);
        let before = explorer.counts;
        plan.run(&mut explorer, None, false);
        let now = explorer.counts;
        println!(
            "  {} runs, {} cuts ({} bounded), {} new states, {:.1} s so far",
            now.runs - before.runs,
            now.cuts - before.cuts,
            now.bounded_cuts - before.bounded_cuts,
            now.states - before.states,
            start.elapsed().as_secs_f64(),
        );
    }
    print_violations(&explorer);
    let all_caught = mutations();
    let counts = explorer.counts;
    println!("time: {:.1} s", start.elapsed().as_secs_f64());
    println!(
        "crash states: {}, violations: {}",
        counts.states, counts.violations
    );
    counts.violations == 0 && all_caught
}

fn plans() -> Vec<Plan> {
    vec![
        Plan::interleavings(Geometry::compact(), 3),
        Plan::interleavings(Geometry::spread(), 2),
        Plan::policies(Geometry::compact(), all_ops(), 4),
        Plan::policies(Geometry::spread(), all_ops(), 3),
        Plan::policies(Geometry::compact(), core_ops(), 5),
    ]
}

fn describe(plan: &Plan) {
    let ops: Vec<String> = plan.ops.iter().map(ToString::to_string).collect();
    let orders = match plan.orders {
        Orders::All => "all orders",
        Orders::Policies => "some orders",
    };
    println!(
        "{}: up to {} of {}, {orders}",
        plan.geometry.name(),
        plan.max_len,
        ops.join(" "),
    );
}

fn print_violations(explorer: &Explorer) {
    for violation in &explorer.violations {
        println!("VIOLATION: {violation}");
    }
}

/// Prints the table. Tells whether every mutation was caught.
fn mutations() -> bool {
    println!("\n{:<28} {:>8}  caught by", "mutation", "states");
    let mut all_caught = true;
    for mutation in Mutation::ALL {
        let (states, violation) = hunt(mutation);
        let name = format!("{mutation:?}");
        match violation {
            Some(violation) => println!(
                "{name:<28} {states:>8}  {}: {}",
                violation.scenario, violation.problem
            ),
            None => {
                println!("{name:<28} {states:>8}  SURVIVED");
                all_caught = false;
            }
        }
    }
    all_caught
}

fn reproduce(scenario: &Scenario) -> bool {
    let Some(geometry) = Geometry::by_name(scenario.geometry) else {
        return false;
    };
    let mut explorer = Explorer::new(BOUNDS);
    run(&mut explorer, &geometry, scenario);
    print_violations(&explorer);
    let counts = explorer.counts;
    println!(
        "crash states: {}, violations: {}",
        counts.states, counts.violations
    );
    counts.violations == 0
}
