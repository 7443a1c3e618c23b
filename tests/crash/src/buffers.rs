//! The memory that actions name: buffers of requests, and bounce buffers.

use dscow::engine::{BounceId, Memory, Token};
use rustc_hash::FxHashMap;

use crate::content::{SECTOR, index};

/// What a buffer holds that nothing was put into.
const GARBAGE: u8 = 0xbb;

#[derive(Default)]
pub(crate) struct Buffers {
    requests: FxHashMap<Token, Vec<u8>>,
    bounces: FxHashMap<BounceId, Bounce>,
}

struct Bounce {
    bytes: Vec<u8>,
    /// For each sector, whether the guest's was copied over it.
    overlaid: Vec<bool>,
}

impl Buffers {
    pub(crate) fn insert(&mut self, token: Token, bytes: Vec<u8>) {
        self.requests.insert(token, bytes);
    }

    /// A request's buffer is not used any more.
    pub(crate) fn remove(&mut self, token: Token) -> Option<Vec<u8>> {
        self.requests.remove(&token)
    }

    pub(crate) fn alloc(&mut self, bounce: BounceId, len: u64) {
        let len = index(len);
        let garbage = Bounce {
            bytes: vec![GARBAGE; len],
            overlaid: vec![false; len / SECTOR],
        };
        let before = self.bounces.insert(bounce, garbage);
        assert!(before.is_none(), "{bounce:?} is allocated twice");
    }

    pub(crate) fn free(&mut self, bounce: BounceId) {
        self.bounces.remove(&bounce).expect("it is freed once");
    }

    /// Copies memory, or only notes that it should be.
    pub(crate) fn copy(&mut self, from: Memory, to: Memory, len: u64, really: bool) {
        if let Memory::Bounce { bounce, offset } = to {
            let first = index(offset) / SECTOR;
            let bounce = self.bounces.get_mut(&bounce).expect("it is allocated");
            bounce.overlaid[first..first + index(len) / SECTOR].fill(true);
        }
        if really {
            let bytes = self.get(from, len).to_vec();
            self.get(to, len).copy_from_slice(&bytes);
        }
    }

    /// For each sector of a bounce buffer, whether the guest's was copied over it.
    pub(crate) fn overlaid(&self, bounce: BounceId) -> &[bool] {
        &self.bounces[&bounce].overlaid
    }

    pub(crate) fn get(&mut self, memory: Memory, len: u64) -> &mut [u8] {
        let (bytes, offset) = match memory {
            Memory::Request { token, offset } => {
                let bytes = self.requests.get_mut(&token);
                (bytes.expect("the request is under way"), offset)
            }
            Memory::Bounce { bounce, offset } => {
                let bounce = self.bounces.get_mut(&bounce).expect("it is allocated");
                (&mut bounce.bytes, offset)
            }
        };
        &mut bytes[index(offset)..index(offset + len)]
    }
}
