//! What functions belong to, by the beginning of their names.

use super::perf::{Samples, Symbol};

const KERNEL: &str = "the kernel";
const LIBC: &str = "copying and allocation (libc)";
const SIMULATED: &str = "the simulated Xen's event channels and grants";
const CLOCK: &str = "looking at the clock";
const TAKING: &str = "taking requests and checking them";
const ANSWERING: &str = "answering, and notifying the guest";
const MEMORY: &str = "grants and guest memory";
const LOOP: &str = "the worker's loop, and its looks at the ring";
const JOURNAL: &str = "the journal of taken requests";
const ENGINE: &str = "the copy-on-write engine";
const DISK: &str = "disk and executor";
const NOTHING: &str = "the storage that does nothing";
const RUST: &str = "Rust's collections, not put into their callers";
const OTHERS: &str = "everything else";

/// Functions of these libraries, whatever their names are.
const BY_OBJECT: [(&str, &str); 4] = [
    ("[vdso]", CLOCK),
    ("libc.so", LIBC),
    ("libc-", LIBC),
    ("libsimxen_shim", SIMULATED),
];

/// Functions of all else. The first that fits counts, so what is more exact comes first.
const BY_NAME: [(&str, &str); 25] = [
    // How the loop looks at a ring, most of all while there is nothing on it.
    (
        "cowbackd::worker::vbd::take::<impl cowbackd::worker::vbd::Vbd>::has_requests",
        LOOP,
    ),
    ("cowbackd::worker::vbd::take", TAKING),
    ("cowbackd::worker::vbd::answer", ANSWERING),
    ("cowbackd::worker::channel", ANSWERING),
    ("cowbackd::worker::guest_pages", MEMORY),
    ("cowbackd::worker::foreign", MEMORY),
    ("cowbackd::", LOOP),
    ("blkif::", TAKING),
    ("xenevtchn::", ANSWERING),
    ("runstate::", JOURNAL),
    ("xengnttab::", MEMORY),
    ("dscow::", ENGINE),
    ("blockio::", DISK),
    ("io_uring::", DISK),
    ("bench::null", NOTHING),
    ("std::time", CLOCK),
    ("std::sys::pal::unix::time", CLOCK),
    // Only the loop has one on the worker's way: the look at all rings (`worker/run/sleep.rs`).
    ("alloc::vec::Vec<T,A>::retain", LOOP),
    ("alloc::", RUST),
    ("core::", RUST),
    ("std::", RUST),
    ("hashbrown::", RUST),
    ("slab::", RUST),
    ("smallvec::", RUST),
    ("__rust", LIBC),
];

/// How much of the time is a group's.
#[derive(Debug, PartialEq)]
pub(super) struct Share {
    /// What it is, in words.
    pub(super) group: &'static str,
    /// Of all samples.
    pub(super) percent: f64,
    /// The function that has the most of it.
    pub(super) largest: String,
}

/// The shares of all groups that there are samples of, largest first. They add up to 100.
pub(super) fn shares(samples: &Samples) -> Vec<Share> {
    let mut groups: Vec<(&'static str, u64, &Symbol)> = Vec::new();
    for symbol in &samples.symbols {
        let group = group_of(symbol);
        match groups.iter_mut().find(|(name, ..)| *name == group) {
            None => groups.push((group, symbol.period, symbol)),
            Some((_, period, largest)) => {
                *period += symbol.period;
                if symbol.period > largest.period {
                    *largest = symbol;
                }
            }
        }
    }
    groups.sort_by_key(|(_, period, _)| std::cmp::Reverse(*period));
    let share = |(group, period, largest): (_, _, &Symbol)| Share {
        group,
        percent: samples.percent(period),
        largest: short(&largest.name),
    };
    groups.into_iter().map(share).collect()
}

fn group_of(symbol: &Symbol) -> &'static str {
    if symbol.is_kernel {
        return KERNEL;
    }
    let starts_with = |text: &str, table: &[(&str, &'static str)]| {
        let found = table.iter().find(|(prefix, _)| text.starts_with(prefix));
        found.map(|(_, group)| *group)
    };
    starts_with(&symbol.object, &BY_OBJECT)
        .or_else(|| starts_with(path(&symbol.name), &BY_NAME))
        .unwrap_or(OTHERS)
}

/// The name from where it says what the function belongs to: the type of `<Type as Trait>::method`, and what is dropped.
fn path(name: &str) -> &str {
    let name = name.strip_prefix(DROPPING).unwrap_or(name);
    name.trim_start_matches(['<', '&', '['])
}

const DROPPING: &str = "core::ptr::drop_in_place<";

/// A name that is short enough for a table: without types' parameters, and the last parts of its path.
fn short(name: &str) -> String {
    const PARTS: usize = 3;
    if let Some(dropped) = name.strip_prefix(DROPPING) {
        return format!("drop of {}", short(dropped.trim_end_matches('>')));
    }
    // `<Type as Trait>::method` is a `Type::method`.
    let method = name.rsplit("::").next().unwrap_or_default();
    let plain = match name
        .strip_prefix('<')
        .and_then(|name| name.split_once(" as "))
    {
        Some((of, _)) => format!("{}::{method}", without_parameters(of)),
        None => without_parameters(name),
    };
    let parts: Vec<&str> = plain.split("::").filter(|part| !part.is_empty()).collect();
    parts[parts.len().saturating_sub(PARTS)..].join("::")
}

/// Leaves out whatever is between `<` and `>`.
fn without_parameters(name: &str) -> String {
    let mut depth = 0_usize;
    let is_kept = |letter: &char| {
        match letter {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    };
    name.chars().filter(is_kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(object: &str, is_kernel: bool, name: &str) -> Symbol {
        Symbol {
            period: 1,
            samples: 1,
            object: object.to_owned(),
            is_kernel,
            name: name.to_owned(),
        }
    }

    #[test]
    fn functions_belong_to_what_their_names_begin_with() {
        let of = |name| group_of(&symbol("cowbackd", false, name));
        for (name, group) in [
            (
                "cowbackd::worker::vbd::take::<impl cowbackd::worker::vbd::Vbd>::serve",
                TAKING,
            ),
            (
                "cowbackd::worker::vbd::take::<impl cowbackd::worker::vbd::Vbd>::has_requests",
                LOOP,
            ),
            ("blkif::request::validate_transfer", TAKING),
            (
                "cowbackd::worker::vbd::answer::<impl cowbackd::worker::vbd::Vbd>::settle",
                ANSWERING,
            ),
            ("cowbackd::worker::run::Worker::run", LOOP),
            (
                "core::ptr::drop_in_place<cowbackd::worker::foreign::GuestMemory>",
                MEMORY,
            ),
            ("xengnttab::cache::PersistentGrants<M>::lookup", MEMORY),
            ("runstate::journal::Journal::take", JOURNAL),
            (
                "dscow::engine::read::<impl dscow::engine::Engine>::end_read",
                ENGINE,
            ),
            (
                "<blockio::executor::uring::UringExecutor as blockio::executor::Executor>::poll",
                DISK,
            ),
            (
                "<bench::null::NullExecutor as blockio::executor::Executor>::poll",
                NOTHING,
            ),
            ("<std::sys::pal::unix::time::Timespec>::now", CLOCK),
            (
                "<alloc::vec::Vec<T,A> as core::ops::drop::Drop>::drop",
                RUST,
            ),
            ("alloc::vec::Vec<T,A>::retain", LOOP),
            ("main", OTHERS),
            ("0x00000000000a1b2c", OTHERS),
        ] {
            assert_eq!(of(name), group, "{name}");
        }
    }

    #[test]
    fn libraries_and_the_kernel_count_whatever_their_functions_are_called() {
        let of =
            |object, is_kernel| group_of(&symbol(object, is_kernel, "std::thread::local::with"));
        assert_eq!(of("libsimxen_shim.so", false), SIMULATED);
        assert_eq!(of("libc.so.6", false), LIBC);
        assert_eq!(of("[vdso]", false), CLOCK);
        assert_eq!(of("[ext4]", true), KERNEL);
        assert_eq!(of("cowbackd", false), RUST);
    }

    #[test]
    fn names_are_made_short() {
        for (name, expected) in [
            (
                "cowbackd::worker::vbd::take::<impl cowbackd::worker::vbd::Vbd>::serve",
                "vbd::take::serve",
            ),
            ("alloc::vec::Vec<T,A>::retain", "vec::Vec::retain"),
            (
                "<smallvec::SmallVec<A> as core::iter::traits::collect::Extend<<A as smallvec::Array>::Item>>::extend",
                "smallvec::SmallVec::extend",
            ),
            (
                "core::ptr::drop_in_place<cowbackd::worker::foreign::GuestMemory>",
                "drop of worker::foreign::GuestMemory",
            ),
            ("finish_task_switch.isra.0", "finish_task_switch.isra.0"),
        ] {
            assert_eq!(short(name), expected);
        }
    }
}
