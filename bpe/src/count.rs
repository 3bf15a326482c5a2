//! How often each piece occurs in a corpus.
use crate::piece::{each_piece, hash, Key, Table};
use crate::split::Splitter;
use crate::Map;

pub struct Counter {
    short: Table<u64>,
    long: Map<Box<[u8]>, u64>,
}

impl Counter {
    pub fn new() -> Self {
        Counter { short: Table::new(1 << 14), long: Map::default() }
    }

    #[inline(always)]
    fn add(&mut self, key: Key, hash: usize, count: u64) {
        let slot = self.short.find(key, hash);
        match slot.key {
            0 => self.short.set(key, hash, count),
            _ => slot.value += count,
        }
    }

    pub fn document(&mut self, splitter: Splitter, text: &[u8]) {
        each_piece(splitter, text, self, |counter| &counter.short, |counter, key, hash, piece| {
            if key != 0 {
                counter.add(key, hash, 1);
            } else if let Some(count) = counter.long.get_mut(piece) {
                *count += 1;
            } else {
                counter.long.insert(piece.into(), 1);
            }
        });
    }

    fn absorb(mut self, other: Counter) -> Counter {
        other.short.entries().for_each(|(key, count)| self.add(key, hash(key), count));
        other.long.into_iter().for_each(|(piece, count)| *self.long.entry(piece).or_default() += count);
        self
    }

    /// Every piece of at least two bytes with its count, the frequent ones first (so that they share cache lines later).
    pub fn pieces(counters: Vec<Counter>) -> Vec<(Box<[u8]>, u64)> {
        let whole = counters.into_iter().reduce(Counter::absorb).unwrap();
        let bytes = |key: Key| key.to_le_bytes()[..(key >> 120) as usize].into();
        let short = whole.short.entries().map(|(key, count)| (bytes(key), count));
        let mut pieces: Vec<(Box<[u8]>, _)> = short.chain(whole.long).filter(|(piece, _)| piece.len() > 1).collect();
        pieces.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(*count));
        pieces
    }
}
