//! The journal of one ring: which requests were taken and how far each of them is.
//!
//! Responses are put on a ring in the order in which requests finish, and reuse the slots of requests. So from a ring
//! alone nobody can tell which of the requests that were taken are answered. The journal can:
//!
//! 1. A request that is taken is copied into a free place, which then becomes *live*; then the count of taken requests
//!    goes up.
//! 2. Before its response is put on the ring, the place notes the response's index, and becomes *answered*.
//! 3. The responses are published: the ring's producer index passes the noted one.
//! 4. The place becomes *free*.
//!
//! After a death between 2 and 3 the noted index is not below the published one, so nobody saw the response, and the
//! request is executed again. After a death between 3 and 4 it is below, so the frontend may have seen it, and the request
//! is done.

use std::cmp::Reverse;

use crate::fail_point;
use crate::words::Words;

/// Bytes of a request on the ring, in its widest layout.
pub const REQUEST_BYTES: usize = 112;

/// Most requests that a ring can hold: those of 16 pages.
pub const RING_SLOTS_MAX: u32 = 512;

/// Words of a place: state, index of the request, index of the response, a spare one, and the request.
const PLACE_WORDS: usize = 4 + REQUEST_BYTES / 4;
/// Words in front of the places; the first is the count of taken requests.
const HEAD_WORDS: usize = 16;

const STATE: usize = 0;
const REQUEST_INDEX: usize = 1;
const RESPONSE_INDEX: usize = 2;
const REQUEST: usize = 4;

const FREE: u32 = 0;
const LIVE: u32 = 1;
const ANSWERED: u32 = 2;

/// Where in the journal a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

/// A request that was taken and that nobody saw a response to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Where it is.
    pub place: Place,
    /// Its index on the ring.
    pub index: u32,
    /// The request as it was on the ring.
    pub request: [u8; REQUEST_BYTES],
}

/// What a killed process left of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// How many requests were taken: the index of the next.
    pub req_cons: u32,
    /// The requests that have to be executed again, in the order in which they were taken.
    pub unanswered: Vec<Taken>,
}

/// The ring and its journal do not belong together.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Mismatch {
    /// The ring has other responses than the journal knows of.
    #[error(
        "of {req_cons} requests taken, {unanswered} are not answered, but the ring has responses up to {rsp_prod}"
    )]
    Count {
        /// Requests taken.
        req_cons: u32,
        /// Requests in the journal that have no response.
        unanswered: u32,
        /// The published response producer index.
        rsp_prod: u32,
    },
    /// A place holds what no process has put there.
    #[error("place {0} of the journal is in no known state")]
    State(u32),
}

/// The journal of one ring with `slots` slots.
#[derive(Debug)]
pub struct Journal {
    /// Its first word.
    start: usize,
    slots: u32,
    req_cons: u32,
    free: Vec<u32>,
    /// Answered, and not published yet.
    answered: Vec<Place>,
}

impl Journal {
    /// How many words the journal of a ring takes.
    pub const fn words(slots: u32) -> usize {
        HEAD_WORDS + slots as usize * PLACE_WORDS
    }

    /// An empty journal in the words from `start` on, for a ring whose next request is `req_cons`.
    ///
    /// # Panics
    /// If a ring cannot have so many slots.
    pub fn begin(words: &impl Words, start: usize, slots: u32, req_cons: u32) -> Self {
        assert!(slots <= RING_SLOTS_MAX, "a ring of {slots} slots");
        let journal = Self::new(start, slots, req_cons);
        for place in 0..slots {
            words.store(word_of(start, Place(place), STATE), FREE);
        }
        journal.count(words);
        journal
    }

    fn new(start: usize, slots: u32, req_cons: u32) -> Self {
        Self {
            start,
            slots,
            req_cons,
            // Those at the beginning are used again and again, so that little memory is touched.
            free: (0..slots).rev().collect(),
            answered: Vec::new(),
        }
    }

    /// What another process left in the words from `start` on, and the journal to go on with. `rsp_prod` is the response
    /// producer index that is on the ring.
    ///
    /// # Errors
    /// If it cannot be what a process of ours left: the frontend can write to the ring.
    ///
    /// # Panics
    /// If a ring cannot have so many slots.
    pub fn resume(
        words: &impl Words,
        start: usize,
        slots: u32,
        rsp_prod: u32,
    ) -> Result<(Self, Left), Mismatch> {
        assert!(slots <= RING_SLOTS_MAX, "a ring of {slots} slots");
        let mut journal = Self::new(start, slots, words.load(start));
        let mut unanswered = Vec::new();
        for place in (0..slots).map(Place) {
            match journal.get(words, place, STATE) {
                FREE => {}
                LIVE => unanswered.push(journal.taken(words, place)),
                ANSWERED => {
                    let noted = journal.get(words, place, RESPONSE_INDEX);
                    let published = rsp_prod.wrapping_sub(noted);
                    if published == 0 || published > slots {
                        unanswered.push(journal.taken(words, place));
                    }
                }
                _ => return Err(Mismatch::State(place.0)),
            }
        }
        // It died after a request was in its place, and before it was counted.
        if unanswered
            .iter()
            .any(|taken| taken.index == journal.req_cons)
        {
            journal.req_cons = journal.req_cons.wrapping_add(1);
        }
        let req_cons = journal.req_cons;
        let count = u32::try_from(unanswered.len()).unwrap_or(u32::MAX);
        if req_cons.wrapping_sub(rsp_prod) != count {
            return Err(Mismatch::Count {
                req_cons,
                unanswered: count,
                rsp_prod,
            });
        }
        // The oldest first; how old one is has no bound, since others are answered before it.
        unanswered.sort_by_key(|taken| Reverse(req_cons.wrapping_sub(taken.index)));
        journal.adopt(words, &unanswered);
        let left = Left {
            req_cons,
            unanswered,
        };
        Ok((journal, left))
    }

    /// Makes the places say what they mean now. A process that is killed on the way leaves the same meaning.
    fn adopt(&mut self, words: &impl Words, unanswered: &[Taken]) {
        self.count(words);
        for place in (0..self.slots).map(Place) {
            let is_live = unanswered.iter().any(|taken| taken.place == place);
            self.set(words, place, STATE, if is_live { LIVE } else { FREE });
        }
        let is_free = |place: &u32| unanswered.iter().all(|taken| taken.place.0 != *place);
        self.free.retain(is_free);
    }

    /// Whether there is a place for another request. If not, there is after the responses so far are
    /// [published](Self::published): until then they take the places of their requests.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Notes a request that was taken from the ring: the next one.
    ///
    /// # Panics
    /// If there is no [room](Self::has_room).
    pub fn take(&mut self, words: &impl Words, request: &[u8; REQUEST_BYTES]) -> Place {
        let place = Place(
            self.free
                .pop()
                .expect("no more requests than the ring holds"),
        );
        for (i, bytes) in request.chunks_exact(4).enumerate() {
            let word = u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
            self.set(words, place, REQUEST + i, word);
        }
        self.set(words, place, REQUEST_INDEX, self.req_cons);
        self.set(words, place, STATE, LIVE);
        self.req_cons = self.req_cons.wrapping_add(1);
        self.count(words);
        place
    }

    /// Notes that the response with this index is about to be put on the ring.
    pub fn answer(&mut self, words: &impl Words, place: Place, response_index: u32) {
        self.set(words, place, RESPONSE_INDEX, response_index);
        self.set(words, place, STATE, ANSWERED);
        self.answered.push(place);
    }

    /// Notes that all responses so far are published.
    pub fn published(&mut self, words: &impl Words) {
        for place in std::mem::take(&mut self.answered) {
            self.set(words, place, STATE, FREE);
            self.free.push(place.0);
        }
    }

    /// Stores how many requests were taken.
    fn count(&self, words: &impl Words) {
        fail_point::pass();
        words.store(self.start, self.req_cons);
    }

    fn taken(&self, words: &impl Words, place: Place) -> Taken {
        let mut request = [0; REQUEST_BYTES];
        for (i, bytes) in request.chunks_exact_mut(4).enumerate() {
            bytes.copy_from_slice(&self.get(words, place, REQUEST + i).to_ne_bytes());
        }
        Taken {
            place,
            index: self.get(words, place, REQUEST_INDEX),
            request,
        }
    }

    fn get(&self, words: &impl Words, place: Place, field: usize) -> u32 {
        words.load(word_of(self.start, place, field))
    }

    fn set(&self, words: &impl Words, place: Place, field: usize, value: u32) {
        // The words of a request mean nothing before its place is live.
        if field < REQUEST {
            fail_point::pass();
        }
        words.store(word_of(self.start, place, field), value);
    }
}

fn word_of(start: usize, place: Place, field: usize) -> usize {
    start + HEAD_WORDS + place.0 as usize * PLACE_WORDS + field
}

#[cfg(test)]
mod tests;
