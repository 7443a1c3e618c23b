//! One run: a workload, in one order of events, with a crash after every event.

use dscow::engine::Token;

use crate::disk::Disk;
use crate::driver::Driver;
use crate::explorer::{Explorer, Scenario};
use crate::geometry::{Geometry, Value};
use crate::mutation::Mutation;
use crate::oracle::Oracle;
use crate::reopen;
use crate::schedule::{Options, Step};
use crate::workload::{Kept, Op};

const OPEN: Token = Token(1000);
const CLOSE: Token = Token(1001);

/// A request under way, and what the oracle knows it by.
enum Promise {
    Write(Value),
    Flush { submitted: u32, reported: bool },
}

struct Run<'a> {
    geometry: &'a Geometry,
    scenario: &'a Scenario,
    explorer: &'a mut Explorer,
    driver: Driver<'a>,
    oracle: Oracle,
    under_way: Vec<(Token, Promise)>,
    opened: bool,
    next_op: usize,
    events: usize,
    /// The image did not open again; nothing can follow.
    broken: bool,
}

/// Runs a scenario. Returns between how many choices its schedule chose at each step.
pub fn run(explorer: &mut Explorer, geometry: &Geometry, scenario: &Scenario) -> Vec<usize> {
    explorer.counts.runs += 1;
    let pool = &mut explorer.pool;
    let fresh: Vec<_> = geometry.fresh().iter().map(|s| pool.id(s)).collect();
    let engine = reopen::load(geometry, pool, &fresh).expect("a fresh image is good");
    let driver = Driver::new(geometry, engine, Disk::new(fresh), scenario.mutation);
    let mut run = Run {
        geometry,
        scenario,
        explorer,
        driver,
        oracle: Oracle::new(geometry),
        under_way: Vec::new(),
        opened: false,
        next_op: 0,
        events: 0,
        broken: false,
    };
    run.cut();
    run.open();
    run.after_event();
    let mut counts = Vec::new();
    let mut step = 0;
    while !run.broken {
        let syncs = run.driver.syncs();
        let options = Options {
            can_submit: run.can_submit(),
            outstanding: run.under_way.len(),
            syncs: &syncs,
        };
        let Some(chosen) = scenario.schedule.choose(step, &options, &mut counts) else {
            break;
        };
        match chosen {
            Step::Submit => run.submit(),
            Step::Complete(at) => run.driver.complete(&mut run.explorer.pool, at),
        }
        run.after_event();
        step += 1;
    }
    counts
}

impl Run<'_> {
    fn can_submit(&self) -> bool {
        let Some(op) = self.scenario.workload.get(self.next_op) else {
            return false;
        };
        match op {
            Op::PowerLoss(_) => true,
            _ if !self.opened || self.driver.closing => false,
            // Closing wants requests drained; flushes may be under way.
            Op::Reopen => !self
                .under_way
                .iter()
                .any(|(_, p)| matches!(p, Promise::Write(_))),
            _ => true,
        }
    }

    fn submit(&mut self) {
        let op = self.scenario.workload[self.next_op];
        let token = Token(self.next_op as u64);
        self.next_op += 1;
        match op {
            Op::Whole(_) | Op::Partial(_) | Op::Spanning(_) => self.submit_write(op, token),
            Op::Flush => {
                let submitted = self.oracle.flush_submitted();
                let reported = self.is(Mutation::FlushReportedAtOnce);
                if reported {
                    self.oracle.flush_finished(self.geometry, submitted);
                }
                let promise = Promise::Flush {
                    submitted,
                    reported,
                };
                self.under_way.push((token, promise));
                self.driver
                    .engine
                    .submit(token, dscow::engine::Request::Flush);
            }
            Op::IdleCommit => self.driver.engine.commit_idle(),
            Op::Reopen => {
                let submitted = self.oracle.flush_submitted();
                let reported = false;
                let promise = Promise::Flush {
                    submitted,
                    reported,
                };
                self.under_way.push((CLOSE, promise));
                self.driver.closing = true;
                self.driver.engine.close(CLOSE);
            }
            Op::PowerLoss(kept) => self.power_loss(kept),
        }
        self.driver.collect(&mut self.explorer.pool);
    }

    fn submit_write(&mut self, op: Op, token: Token) {
        let range = op.written(self.geometry).expect("a write has a range");
        let value = self.oracle.write_submitted(self.geometry, range);
        let sectors = (range.start.0..range.end()).step_by(512);
        let bytes = sectors.flat_map(|at| self.geometry.content(at, value));
        let bytes = bytes.collect();
        self.under_way.push((token, Promise::Write(value)));
        self.driver.write(token, range, bytes);
    }

    /// Tells the oracle what is finished, and lets the power fail in every way.
    fn after_event(&mut self) {
        if self.is(Mutation::FlushReportedEarly) && self.driver.is_syncing_bitmap() {
            self.report_first_flush();
        }
        let finished = std::mem::take(&mut self.driver.finished);
        for token in finished {
            self.finished(token);
        }
        self.events += 1;
        self.cut();
    }

    fn cut(&mut self) {
        let at = (self.scenario, self.events);
        self.explorer
            .cut(self.geometry, &self.driver.disk, &self.oracle, at);
    }

    fn finished(&mut self, token: Token) {
        if token == OPEN {
            self.opened = true;
            return;
        }
        let at = self.under_way.iter().position(|(known, _)| *known == token);
        match self.under_way.remove(at.expect("it is under way")).1 {
            Promise::Write(value) => self.oracle.write_finished(value),
            Promise::Flush { reported: true, .. } => {}
            Promise::Flush { submitted, .. } => {
                self.oracle.flush_finished(self.geometry, submitted);
            }
        }
        if token == CLOSE {
            self.reopen();
        }
    }

    fn report_first_flush(&mut self) {
        let flushes = self.under_way.iter_mut();
        let first = flushes.filter_map(|(_, promise)| match promise {
            Promise::Flush {
                submitted,
                reported,
            } => Some((*submitted, reported)),
            Promise::Write(_) => None,
        });
        if let Some((submitted, reported)) = first.min_by_key(|(submitted, _)| *submitted)
            && !std::mem::replace(reported, true)
        {
            self.oracle.flush_finished(self.geometry, submitted);
        }
    }

    /// The image was closed: an overlay may be made on it now. Then it is opened again.
    fn reopen(&mut self) {
        let view = self.driver.disk.view();
        let pool = &self.explorer.pool;
        let found = reopen::read_all(self.geometry, pool, view).and_then(|found| {
            self.oracle.check(&found)?;
            Ok((found, reopen::load(self.geometry, pool, view)?))
        });
        match found {
            Ok((found, engine)) => {
                self.oracle.closed(found);
                self.cut();
                self.driver.restart(engine);
                self.open();
            }
            Err(problem) => self.fail(problem),
        }
    }

    fn power_loss(&mut self, kept: Kept) {
        let mut sectors = self.driver.disk.durable().to_vec();
        if kept == Kept::Everything {
            for (sector, content) in self.driver.disk.unsynced().flat_map(|w| &w.sectors) {
                sectors[*sector] = *content;
            }
        }
        self.under_way.clear();
        self.opened = false;
        let pool = &self.explorer.pool;
        let found = reopen::read_all(self.geometry, pool, &sectors).and_then(|found| {
            self.oracle.check(&found)?;
            Ok((found, reopen::load(self.geometry, pool, &sectors)?))
        });
        match found {
            Ok((found, engine)) => {
                self.oracle.power_lost(&found.values);
                let disk = Disk::new(sectors);
                self.driver = Driver::new(self.geometry, engine, disk, self.scenario.mutation);
                self.open();
            }
            Err(problem) => self.fail(problem),
        }
    }

    fn open(&mut self) {
        self.opened = false;
        self.oracle.opening();
        self.driver.engine.open(OPEN);
        self.driver.collect(&mut self.explorer.pool);
    }

    fn fail(&mut self, problem: String) {
        self.broken = true;
        self.explorer.broken((self.scenario, self.events), problem);
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.scenario.mutation == Some(mutation)
    }
}
