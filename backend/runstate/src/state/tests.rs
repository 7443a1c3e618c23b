use super::*;
use crate::journal::Taken;

fn identity() -> Identity {
    Identity {
        owner: Uuid::new_v4(),
        device: "backend/vbd3/1/51712".to_owned(),
        bits_len: 10_000,
    }
}

#[test]
fn what_one_process_leaves_another_one_finds() {
    let folder = tempfile::tempdir().unwrap();
    let identity = identity();
    let mut left = RunState::create(folder.path(), identity.clone()).unwrap();
    let rings = |first, second| {
        [(11, first), (12, second)].map(|(reference, index)| Ring {
            reference,
            channel: 5,
            index,
        })
    };
    left.connect(32, &rings(7, 8)).unwrap();
    let first = left.take(0, &[1; REQUEST_BYTES]);
    left.take(0, &[2; REQUEST_BYTES]);
    left.take(1, &[3; REQUEST_BYTES]);
    left.answer(0, first, 7);
    for (first, end) in [(5, 6), (30, 70), (32_767, 32_769)] {
        left.note_allocated(first, end).unwrap();
    }
    // It is gone without a word.
    std::mem::forget(left);

    let path = path_of(folder.path(), identity.owner);
    let mut found = RunState::open(&path).unwrap();
    assert_eq!(found.identity(), &identity);
    assert!(found.was_connected() && !found.is_broken());
    let lefts = found.resume(32, &rings(8, 8)).unwrap();
    let requests = |left: &Left| -> Vec<(u32, u8)> {
        let of = |taken: &Taken| (taken.index, taken.request[0]);
        left.unanswered.iter().map(of).collect()
    };
    assert_eq!(requests(&lefts[0]), [(8, 2)]);
    assert_eq!(requests(&lefts[1]), [(8, 3)]);
    let pieces = found.allocated().unwrap();
    assert_eq!(pieces.len(), 2);
    let bits: Vec<u64> = pieces
        .iter()
        .flat_map(|(at, bytes)| {
            (0..bytes.len() as u64 * 8)
                .filter(|bit| bytes[(bit / 8) as usize] & 1 << (bit % 8) != 0)
                .map(move |bit| at * 8 + bit)
        })
        .collect();
    let expected: Vec<u64> = [5]
        .into_iter()
        .chain(30..70)
        .chain([32_767, 32_768])
        .collect();
    assert_eq!(bits, expected);

    let mut others = rings(8, 8);
    others[1].reference = 13;
    for other in [&rings(8, 8)[..1], &others] {
        let error = found.resume(32, other).unwrap_err().to_string();
        assert!(error.contains("tells of other rings"), "{error}");
    }
    found.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn another_version_and_other_files_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let state = RunState::create(folder.path(), identity()).unwrap();
    let path = state.path().to_owned();
    state.memory.store(WORD_VERSION, 9);
    let error = RunState::open(&path).unwrap_err();
    let RunStateError::Version {
        version: 9,
        identity,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(identity.device, "backend/vbd3/1/51712");
    state.memory.store(WORD_MAGIC, 0);
    assert!(matches!(
        RunState::open(&path),
        Err(RunStateError::Foreign(_))
    ));
    fs::write(&path, "something else").unwrap();
    assert!(matches!(
        RunState::open(&path),
        Err(RunStateError::Foreign(_))
    ));
}

#[test]
fn a_closed_image_has_everything_that_was_noted() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = RunState::create(folder.path(), identity()).unwrap();
    state.note_opened(5);
    state.note_allocated(7, 9).unwrap();
    assert_eq!(state.closed_generation(), None);
    state.note_closing();
    let mut state = RunState::open(state.path()).unwrap();
    assert_eq!(state.closed_generation(), Some(5));
    state.forget_allocated().unwrap();
    assert!(state.allocated().unwrap().is_empty());
    state.note_opened(6);
    assert_eq!(state.closed_generation(), None);
}
