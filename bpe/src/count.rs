//! Pieces as fixed-size keys, and how often each occurs in a corpus.
use crate::split::Splitter;
use crate::{hash64, Map};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Pieces looked at together: their places in the table are prefetched while the text is still being cut.
pub const AHEAD: usize = 64;
pub const SHORT: usize = 15;

/// A piece of up to 15 bytes in one integer, its length in the top byte; 0 stands for a longer piece.
pub type Key = u128;

#[inline(always)]
fn key(text: &[u8], start: usize, end: usize) -> Key {
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

pub fn key_of(piece: &[u8]) -> Key {
    key(piece, 0, piece.len())
}

#[inline(always)]
pub fn hash_key(key: Key) -> usize {
    let mixed = (key as u64 ^ ((key >> 64) as u64).rotate_right(25)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ mixed >> 32) as usize
}

#[inline(always)]
pub fn prefetch<T>(table: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    // Sound: a prefetch is a hint and reads nothing.
    unsafe { std::arch::x86_64::_mm_prefetch(table.as_ptr().wrapping_add(index) as *const i8, 3) }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (table, index);
}

#[derive(Clone, Copy, Default)]
pub struct Piece {
    pub key: Key,
    pub hash: usize,
    pub end: usize,
}

/// Fills `pieces` with the next pieces of `text` from `*start` on, calls `seen` with the hash of each, returns how many.
#[inline(always)]
pub fn cut(splitter: &Splitter, text: &[u8], start: &mut usize, pieces: &mut [Piece; AHEAD], seen: impl Fn(usize)) -> usize {
    let mut count = 0;
    while count < AHEAD && *start < text.len() {
        let end = splitter.end(text, *start);
        let key = key(text, *start, end);
        let hash = hash_key(key);
        seen(hash);
        pieces[count] = Piece { key, hash, end };
        count += 1;
        *start = end;
    }
    count
}

/// How often each piece occurred. Short ones live in an open-addressing table whose length is a power of two.
pub struct Counter {
    table: Vec<(Key, u64)>,
    used: usize,
    long: Map<Box<[u8]>, u64>,
}

impl Counter {
    pub fn new() -> Self {
        Counter { table: vec![(0, 0); 1 << 14], used: 0, long: Map::default() }
    }

    #[inline(always)]
    fn add(&mut self, key: Key, hash: usize, count: u64) {
        let mask = self.table.len() - 1;
        let mut place = hash & mask;
        loop {
            let slot = &mut self.table[place & mask];
            if slot.0 == key {
                slot.1 += count;
                return;
            }
            if slot.0 == 0 {
                *slot = (key, count);
                self.used += 1;
                if self.used * 2 > mask {
                    self.grow();
                }
                return;
            }
            place += 1;
        }
    }

    #[cold]
    fn grow(&mut self) {
        let larger = vec![(0, 0); self.table.len() * 4];
        self.used = 0;
        for (key, count) in std::mem::replace(&mut self.table, larger) {
            if key != 0 {
                self.add(key, hash_key(key), count);
            }
        }
    }

    fn document(&mut self, splitter: &Splitter, text: &[u8]) {
        let mut pieces = [Piece::default(); AHEAD];
        let mut next = 0;
        while next < text.len() {
            let mut start = next;
            let mask = self.table.len() - 1;
            let count = cut(splitter, text, &mut next, &mut pieces, |hash| prefetch(&self.table, hash & mask));
            for piece in &pieces[..count] {
                if piece.key != 0 {
                    self.add(piece.key, piece.hash, 1);
                } else if let Some(count) = self.long.get_mut(&text[start..piece.end]) {
                    *count += 1;
                } else {
                    self.long.insert(text[start..piece.end].into(), 1);
                }
                start = piece.end;
            }
        }
    }

    fn absorb(&mut self, other: Counter) {
        for (key, count) in other.table {
            if key != 0 {
                self.add(key, hash_key(key), count);
            }
        }
        for (piece, count) in other.long {
            *self.long.entry(piece).or_default() += count;
        }
    }

    /// Adds the documents, one counter per thread.
    pub fn documents(counters: &mut [Counter], splitter: Splitter, documents: &[&[u8]]) {
        let next = AtomicUsize::new(0);
        let work = |counter: &mut Counter| loop {
            let first = next.fetch_add(16, Ordering::Relaxed);
            if first >= documents.len() {
                return;
            }
            for text in &documents[first..documents.len().min(first + 16)] {
                counter.document(&splitter, text);
            }
        };
        match counters {
            [one] => work(one),
            many => std::thread::scope(|scope| many.iter_mut().for_each(|counter| drop(scope.spawn(|| work(counter))))),
        }
    }

    /// Every piece of at least two bytes with its count, the frequent ones first (so that they share cache lines later).
    pub fn pieces(counters: Vec<Counter>) -> Vec<(Box<[u8]>, u64)> {
        let whole = counters.into_iter().reduce(|mut a, b| { a.absorb(b); a }).unwrap();
        let short = whole.table.into_iter().filter(|slot| slot.0 != 0);
        let mut pieces: Vec<(Box<[u8]>, u64)> =
            short.map(|(key, count)| (key.to_le_bytes()[..(key >> 120) as usize].into(), count)).collect();
        pieces.extend(whole.long);
        pieces.retain(|(piece, _)| piece.len() > 1);
        pieces.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(*count));
        pieces
    }
}

#[inline(always)]
pub fn hash_pair(pair: u64) -> usize {
    hash64(pair) as usize
}
