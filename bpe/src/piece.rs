//! Pieces of text as integers, a hash table for them, and threads that share documents.
use crate::split::Splitter;
use crate::{hash64, prefetch};
use std::sync::Mutex;

/// Pieces looked at together: their places in the table are prefetched while the text is still being cut.
const AHEAD: usize = 64;
pub const SHORT: usize = 15;

/// A piece of up to 15 bytes in one integer, its length in the top byte; 0 stands for a longer piece.
pub type Key = u128;

#[inline(always)]
pub fn key(text: &[u8], start: usize, end: usize) -> Key {
    let width = end - start;
    if width > SHORT {
        return 0;
    }
    let bytes = match text.get(start..start + 16) {
        Some(whole) => u128::from_le_bytes(whole.try_into().unwrap()),
        None => {
            let mut padded = [0; 16];
            padded[..width].copy_from_slice(&text[start..end]);
            u128::from_le_bytes(padded)
        }
    };
    bytes & (u128::MAX >> (128 - 8 * width)) | (width as u128) << 120
}

#[inline(always)]
pub fn hash(key: Key) -> usize {
    hash64(key as u64 ^ ((key >> 64) as u64).rotate_right(25)) as usize
}

#[derive(Clone, Copy, Default)]
#[repr(align(32))] // never across two cache lines, so that one prefetch brings all of a slot of 32 bytes
pub struct Slot<V> {
    pub key: Key,
    pub value: V,
}

/// A value for each short piece, by open addressing: a vector whose length is a power of two, at most half full.
#[derive(Clone)]
pub struct Table<V> {
    slots: Vec<Slot<V>>,
    pub used: usize,
}

impl<V: Copy + Default> Table<V> {
    /// length: slots to begin with, a power of two.
    pub fn new(length: usize) -> Self {
        Table { slots: vec![Slot::default(); length], used: 0 }
    }

    /// The slot of the key, or the empty one (key 0) where it belongs.
    #[inline(always)]
    pub fn find(&mut self, key: Key, hash: usize) -> &mut Slot<V> {
        let mask = self.slots.len() - 1;
        let mut place = hash & mask;
        while self.slots[place].key != key && self.slots[place].key != 0 {
            place = (place + 1) & mask;
        }
        &mut self.slots[place]
    }

    /// Fills the empty slot of the key.
    #[inline(never)] // keeps the growing, which is rare, out of the loops over pieces
    pub fn set(&mut self, key: Key, hash: usize, value: V) {
        *self.find(key, hash) = Slot { key, value };
        self.used += 1;
        if self.used * 2 > self.slots.len() {
            let larger = Table::new(self.slots.len() * 4);
            std::mem::replace(self, larger).entries().for_each(|(key, value)| self.set(key, crate::piece::hash(key), value));
        }
    }

    pub fn entries(self) -> impl Iterator<Item = (Key, V)> {
        self.slots.into_iter().filter(|slot| slot.key != 0).map(|slot| (slot.key, slot.value))
    }
}

/// Calls `visit` with the key, hash and bytes of each piece of a text; `table` says where it will look them up.
#[inline(always)]
pub fn each_piece<S, V>(
    splitter: Splitter, text: &[u8], state: &mut S, table: impl Fn(&S) -> &Table<V>, visit: impl Fn(&mut S, Key, usize, &[u8]),
) {
    let mut pieces = [(0, 0, 0); AHEAD];
    let mut next = 0;
    while next < text.len() {
        let (mut start, mut count) = (next, 0);
        let slots = &table(state).slots;
        while count < AHEAD && next < text.len() {
            let end = splitter.end(text, next);
            let key = key(text, next, end);
            let hash = hash(key);
            prefetch(slots, hash & (slots.len() - 1));
            pieces[count] = (key, hash, end);
            count += 1;
            next = end;
        }
        for &(key, hash, end) in &pieces[..count] {
            visit(state, key, hash, &text[start..end]);
            start = end;
        }
    }
}

/// Does all jobs; each worker has a thread and takes the next job when it is done with one.
pub fn share<W: Send, J>(workers: &mut [W], jobs: impl Iterator<Item = J> + Send, work: impl Fn(&mut W, J) + Sync) {
    let jobs = Mutex::new(jobs);
    let run = |worker: &mut W| loop {
        let Some(job) = jobs.lock().unwrap().next() else { return };
        work(worker, job);
    };
    match workers {
        [one] => run(one),
        many => std::thread::scope(|scope| many.iter_mut().for_each(|worker| drop(scope.spawn(|| run(worker))))),
    }
}
