//! One run: a workload, in one order of events, with a crash after every event.

use dscow::engine::{Errno, Request, Token};

use crate::content::{ContentId, index};
use crate::disk::Disk;
use crate::driver::{Driver, Stage};
use crate::explorer::{Explorer, Scenario};
use crate::fault::{Faults, Io};
use crate::geometry::{Geometry, Value};
use crate::mutation::Mutation;
use crate::oracle::Oracle;
use crate::reopen::{self, Found};
use crate::schedule::{Options, Step};
use crate::workload::{Change, Kept, Op};

const OPEN: Token = Token(1000);
const CLOSE: Token = Token(1001);

/// A request under way, and what the oracle knows it by.
#[derive(Clone, Copy)]
enum Promised {
    Change(Value),
    Barrier(Value),
    Flush { submitted: u32, reported: bool },
    Grow(u64),
}

struct Run<'a, 'e> {
    geometry: &'a Geometry,
    scenario: &'a Scenario,
    explorer: &'a mut Explorer<'e>,
    driver: Driver<'a>,
    oracle: Oracle,
    under_way: Vec<(Token, Promised)>,
    next_op: usize,
    events: usize,
    /// The image did not open again; nothing can follow.
    broken: bool,
}

/// What a run met.
pub(crate) struct Course {
    /// Between how many choices its schedule chose at each step.
    pub(crate) choices: Vec<usize>,
    /// The I/O that was issued.
    pub(crate) issued: Vec<Io>,
}

/// Runs a scenario.
pub(crate) fn run(explorer: &mut Explorer<'_>, geometry: &Geometry, scenario: &Scenario) -> Course {
    explorer.counts.runs += 1;
    let pool = &mut explorer.pool;
    let fresh: Vec<_> = geometry.fresh().iter().map(|s| pool.id(s)).collect();
    let engine = reopen::load(geometry, pool, &fresh).expect("a fresh image is good");
    let found = reopen::read_all(geometry, pool, &fresh).expect("a fresh image is good");
    let faults = Faults::new(scenario.faults.clone());
    let disk = Disk::new(fresh);
    let mut run = Run {
        geometry,
        scenario,
        explorer,
        driver: Driver::new(geometry, engine, disk, faults, scenario.mutation),
        oracle: Oracle::new(geometry, found),
        under_way: Vec::new(),
        next_op: 0,
        events: 0,
        broken: false,
    };
    run.cut();
    run.open();
    run.after_event();
    let choices = run.go_on();
    Course {
        choices,
        issued: run.driver.faults.issued().to_vec(),
    }
}

impl Run<'_, '_> {
    fn go_on(&mut self) -> Vec<usize> {
        let mut counts = Vec::new();
        let mut step = 0;
        while !self.broken {
            let syncs = self.driver.syncs();
            let options = Options {
                can_submit: self.can_submit(),
                can_retry: self.driver.engine.stalled() > 0,
                outstanding: self.under_way.len(),
                syncs: &syncs,
            };
            let schedule = &self.scenario.schedule;
            let Some(chosen) = schedule.choose(step, &options, &mut counts) else {
                self.expect_all_answered();
                break;
            };
            match chosen {
                Step::Submit => self.submit(),
                Step::Complete(at) => self.driver.complete(&mut self.explorer.pool, at),
                Step::Retry => self.driver.retry(&mut self.explorer.pool),
            }
            self.after_event();
            step += 1;
        }
        counts
    }

    fn can_submit(&self) -> bool {
        let Some(op) = self.scenario.workload.get(self.next_op) else {
            return false;
        };
        let is_open = matches!(self.driver.stage, Stage::Open | Stage::Growing);
        match op {
            Op::PowerLoss(_) | Op::Kill => true,
            // Closing wants requests drained; flushes may be under way.
            Op::Reopen => {
                let is_flush = |p: &Promised| matches!(p, Promised::Flush { .. });
                is_open && self.under_way.iter().all(|(_, p)| is_flush(p))
            }
            _ => is_open,
        }
    }

    fn submit(&mut self) {
        let op = self.scenario.workload[self.next_op];
        let token = Token(self.next_op as u64);
        self.next_op += 1;
        let size = self.driver.engine.layout().virtual_size();
        if let Some(change) = op.change(self.geometry, size) {
            self.submit_change(op, token, &change);
        } else {
            self.submit_other(op, token);
        }
        self.driver.collect(&mut self.explorer.pool);
    }

    fn submit_change(&mut self, op: Op, token: Token, change: &Change) {
        let value = self.oracle.change_submitted(self.geometry, change);
        let promised = if op.is_barrier() {
            self.oracle.is_barrier(value);
            Promised::Barrier(value)
        } else {
            Promised::Change(value)
        };
        self.under_way.push((token, promised));
        let bytes = self.bytes_of(change, value);
        self.driver.submit(token, change, bytes);
    }

    /// What the guest has in the request's buffer.
    fn bytes_of(&self, change: &Change, value: Value) -> Vec<u8> {
        let data = change.data.into_iter();
        let sectors = data.flat_map(|range| (range.start.0..range.end()).step_by(512));
        let mut bytes: Vec<u8> = sectors
            .flat_map(|at| self.geometry.content(at, value))
            .collect();
        for zeros in &change.detected {
            bytes.resize(bytes.len() + index(zeros.len), 0);
        }
        bytes
    }

    /// What is not a change; a change of blocks that are not there is left out.
    fn submit_other(&mut self, op: Op, token: Token) {
        match op {
            Op::Flush => {
                self.flush_submitted(token);
                self.driver.engine.submit(token, Request::Flush);
            }
            Op::IdleCommit => self.driver.engine.commit_idle(),
            Op::Grow if self.driver.stage == Stage::Open => {
                if let Some(size) = self.geometry.grown_size() {
                    self.oracle.growing(size);
                    self.under_way.push((token, Promised::Grow(size)));
                    self.driver.stage = Stage::Growing;
                    self.driver.engine.grow(token, size);
                }
            }
            Op::GiveUp => {
                self.driver.faults.told |= self.driver.engine.stalled() > 0;
                self.driver.engine.fail_stalled();
            }
            Op::Reopen => {
                self.flush_submitted(CLOSE);
                self.driver.stage = Stage::Closing;
                self.driver.engine.close(CLOSE);
            }
            Op::Kill => self.kill(),
            Op::PowerLoss(kept) => self.power_loss(kept),
            _ => {}
        }
    }

    fn flush_submitted(&mut self, token: Token) {
        let submitted = self.oracle.flush_submitted();
        let reported = token != CLOSE && self.is(Mutation::FlushReportedAtOnce);
        if reported {
            self.oracle.flush_finished(self.geometry, submitted);
        }
        let promised = Promised::Flush {
            submitted,
            reported,
        };
        self.under_way.push((token, promised));
    }

    /// Tells the oracle what is finished, and lets the power fail in every way.
    fn after_event(&mut self) {
        if self.is(Mutation::FlushReportedEarly) && self.driver.is_syncing_bitmap() {
            self.report_first_flush();
        }
        let finished = std::mem::take(&mut self.driver.finished);
        for (token, result) in finished {
            self.finished(token, result);
        }
        self.events += 1;
        self.cut();
    }

    fn cut(&mut self) {
        let promise = self.oracle.promise(self.geometry);
        let at = (self.scenario, self.events);
        self.explorer
            .cut(self.geometry, &self.driver.disk, &promise, at);
    }

    fn finished(&mut self, token: Token, result: Result<(), Errno>) {
        if result.is_err() && !self.driver.faults.told {
            self.fail(format!(
                "{token:?} ended with {result:?}, but nothing failed"
            ));
        }
        if token == OPEN {
            if result.is_ok() {
                self.driver.stage = Stage::Open;
            }
            return;
        }
        let at = self.under_way.iter().position(|(known, _)| *known == token);
        let promised = self.under_way.remove(at.expect("it is under way")).1;
        if result.is_ok() {
            self.kept(promised);
        } else {
            self.failed(promised);
        }
        if token == CLOSE {
            self.reopen(result.is_ok());
        }
    }

    fn kept(&mut self, promised: Promised) {
        match promised {
            Promised::Change(value) => self.oracle.change_finished(value),
            Promised::Barrier(value) => self.oracle.barrier_finished(self.geometry, value),
            Promised::Flush { reported: true, .. } => {}
            Promised::Flush { submitted, .. } => {
                self.oracle.flush_finished(self.geometry, submitted);
            }
            Promised::Grow(size) => {
                self.driver.stage = Stage::Open;
                self.oracle.grown(size);
            }
        }
    }

    fn failed(&mut self, promised: Promised) {
        match promised {
            Promised::Change(value) => self.oracle.change_failed(value),
            Promised::Barrier(value) => self.oracle.barrier_failed(value),
            Promised::Flush { .. } => {}
            Promised::Grow(_) => self.driver.stage = Stage::Open,
        }
    }

    fn report_first_flush(&mut self) {
        let flushes = self.under_way.iter_mut();
        let first = flushes.filter_map(|(_, promised)| match promised {
            Promised::Flush {
                submitted,
                reported,
            } => Some((*submitted, reported)),
            _ => None,
        });
        if let Some((submitted, reported)) = first.min_by_key(|(submitted, _)| *submitted)
            && !std::mem::replace(reported, true)
        {
            self.oracle.flush_finished(self.geometry, submitted);
        }
    }

    /// Nothing is left to do, so nobody may be waiting.
    fn expect_all_answered(&mut self) {
        if let Some((token, _)) = self.under_way.first() {
            self.fail(format!("{token:?} is never answered"));
        }
    }

    /// The image was closed, well or not, and is opened again. If well, an overlay may have been made on it.
    fn reopen(&mut self, well: bool) {
        let view = self.driver.disk.view();
        match self.look_at(view) {
            Ok(found) => {
                if well {
                    let lost = self.driver.disk.lost();
                    let lost = lost.filter_map(|s| self.geometry.data_sector_of_kept(s));
                    self.oracle.closed(found, lost);
                    self.cut();
                } else {
                    self.oracle.abandoned();
                }
                self.restart();
            }
            Err(problem) => self.fail(problem),
        }
    }

    fn kill(&mut self) {
        self.under_way.clear();
        // What is in flight lands before the image's lock is free.
        self.driver.disk.settle();
        match self.look_at(self.driver.disk.view()) {
            Ok(_) => {
                self.oracle.abandoned();
                self.restart();
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
        match self.look_at(&sectors) {
            Ok(found) => {
                self.oracle.power_lost(&found);
                self.driver.power_lost(Disk::new(sectors));
                self.restart();
            }
            Err(problem) => self.fail(problem),
        }
    }

    fn look_at(&self, sectors: &[ContentId]) -> Result<Found, String> {
        let found = reopen::read_all(self.geometry, &self.explorer.pool, sectors)?;
        self.oracle.promise(self.geometry).check(&found)?;
        Ok(found)
    }

    /// A new process opens what is on the disk.
    fn restart(&mut self) {
        let engine = reopen::load(self.geometry, &self.explorer.pool, self.driver.disk.view());
        self.driver.restart(engine.expect("it was looked at"));
        self.open();
    }

    fn open(&mut self) {
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
