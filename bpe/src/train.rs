//! Byte-pair encoding by counts: the most frequent pair of neighbouring tokens becomes a token, again and again.
//!
//! All distinct pieces lie in one long row of bytes with a gap between them. A token of n bytes marks its first and its last
//! place in the row and leaves those between them dead, so both neighbours of a token are found without a linked list:
//! the right one starts n places on, the left one ends one place before. Each pair keeps the places where it occurs.
//! All places of a pair arise in the one step that made its younger token, so they are stored side by side, in order, and a
//! merge visits only its own places, however long the piece is.
use crate::count::Counter;
use crate::piece::share;
use crate::split::Splitter;
use crate::{pair_of, prefetch, Map};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::mem::take;
use std::ops::Range;

const GAP: u32 = u32::MAX;
const DEAD: u32 = u32::MAX - 1;

/// Counts pieces first and merges pairs afterwards.
pub struct Trainer {
    splitter: Splitter,
    counters: Vec<Counter>,
    merger: Option<Merger>,
}

impl Trainer {
    pub fn new(digits: usize, threads: usize) -> Self {
        let counters = (0..threads.max(1)).map(|_| Counter::new()).collect();
        Trainer { splitter: Splitter::new(digits), counters, merger: None }
    }

    pub fn count(&mut self, documents: &[&[u8]]) {
        share(&mut self.counters, documents.chunks(16), |counter, some| {
            some.iter().for_each(|text| counter.document(self.splitter, text));
        });
    }

    /// Up to `limit` more merges; fewer mean that no pair is left.
    pub fn merge(&mut self, limit: usize) -> Vec<[u32; 2]> {
        let merger = self.merger.get_or_insert_with(|| Merger::new(Counter::pieces(take(&mut self.counters))));
        (0..limit).map_while(|_| merger.merge()).collect()
    }
}

#[derive(Clone, Copy)]
struct Place {
    token: u32,
    piece: u32,
}

struct Pair {
    count: i64,
    places: Range<usize>,
}

/// What one step adds to one pair.
#[derive(Clone, Copy, Default)]
struct Gain {
    count: i64,
    places: usize,
    cursor: usize,
}

/// Where a pair arises: the number of its Gain, the place, and how often its piece occurs.
type Found = (u32, u32, i64);

#[derive(Default)]
struct Merger {
    row: Vec<Place>,
    counts: Vec<i64>,
    widths: Vec<u32>,
    pairs: Map<u64, Pair>,
    places: Vec<u32>,
    heap: BinaryHeap<(i64, Reverse<u64>)>,
    gains: Vec<Gain>,
}

impl Merger {
    fn new(pieces: Vec<(Box<[u8]>, u64)>) -> Self {
        let length: usize = 1 + pieces.iter().map(|(piece, _)| piece.len() + 1).sum::<usize>();
        assert!(length < DEAD as usize, "the distinct pieces are longer than 4 GiB together");
        let mut row = Vec::with_capacity(length);
        row.push(Place { token: GAP, piece: 0 });
        for (k, (piece, _)) in pieces.iter().enumerate() {
            row.extend(piece.iter().map(|&byte| Place { token: byte as u32, piece: k as u32 }));
            row.push(Place { token: GAP, piece: 0 });
        }
        let counts: Vec<i64> = pieces.iter().map(|(_, count)| *count as i64).collect();
        let found = row.windows(2).enumerate().filter_map(|(place, two)| match (two[0].token, two[1].token) {
            (GAP, _) | (_, GAP) => None,
            (a, b) => Some((a << 8 | b, place as u32, counts[two[0].piece as usize])),
        });
        let gains = vec![Gain::default(); 1 << 16]; // by two bytes now, by a neighbour's token later
        let mut merger = Merger { widths: vec![1; 256], gains, ..Merger::default() };
        merger.gain(found, |_, pair, _| pair_of(pair >> 8, pair & 255));
        Merger { row, counts, ..merger }
    }

    /// Adds the pairs that arise at the places found, with the places of each side by side.
    /// `name` says which two tokens a Gain's number stands for, and may change what is gained.
    fn gain(&mut self, found: impl Iterator<Item = Found> + Clone, mut name: impl FnMut(&mut Self, u32, &mut Gain) -> u64) {
        let mut gains = take(&mut self.gains);
        let mut touched = vec![];
        for (number, _, count) in found.clone() {
            let gain = &mut gains[number as usize];
            if gain.places == 0 {
                touched.push(number);
            }
            gain.count += count;
            gain.places += 1;
        }
        for &number in &touched {
            let gain = &mut gains[number as usize];
            let tokens = name(self, number, gain);
            gain.cursor = self.places.len();
            let places = gain.cursor..gain.cursor + gain.places;
            self.places.resize(places.end, 0);
            if gain.count > 0 {
                self.pairs.insert(tokens, Pair { count: gain.count, places });
                self.heap.push((gain.count, Reverse(tokens)));
            }
        }
        for (number, place, _) in found {
            let gain = &mut gains[number as usize];
            self.places[gain.cursor] = place;
            gain.cursor += 1;
        }
        touched.iter().for_each(|&number| gains[number as usize] = Gain::default());
        self.gains = gains;
    }

    fn lose(&mut self, tokens: u64, count: i64) {
        if let Some(pair) = self.pairs.get_mut(&tokens) {
            pair.count -= count;
        }
    }

    /// The most frequent pair; of equally frequent ones, that of the smallest ids. None: no pair is left.
    fn best(&mut self) -> Option<(u64, Range<usize>)> {
        while let Some((count, Reverse(tokens))) = self.heap.pop() {
            let pair = self.pairs.get_mut(&tokens).unwrap();
            if pair.count == count {
                pair.count = 0;
                return Some((tokens, pair.places.clone()));
            }
            if pair.count > 0 {
                self.heap.push((pair.count, Reverse(tokens))); // it was lost in part since it was pushed
            }
        }
        None
    }

    /// Makes one token of the best pair and returns the pair.
    fn merge(&mut self) -> Option<[u32; 2]> {
        let (tokens, places) = self.best()?;
        let (a, b, new) = ((tokens >> 32) as u32, tokens as u32, self.widths.len() as u32);
        let (width_a, width_b) = (self.widths[a as usize] as usize, self.widths[b as usize] as usize);
        self.widths.push((width_a + width_b) as u32);
        if self.gains.len() < self.widths.len() {
            self.gains.push(Gain::default());
        }

        let (mut lefts, mut rights): (Vec<Found>, Vec<Found>) = (vec![], vec![]); // by the neighbour's token
        for k in places {
            if let Some(&ahead) = self.places.get(k + 12) {
                prefetch(&self.row, ahead as usize);
            }
            let place = self.places[k] as usize;
            let middle = place + width_a;
            if self.row[place].token != a || self.row[middle].token != b {
                continue; // merged with another neighbour meanwhile
            }
            let end = middle + width_b;
            self.row[middle - 1].token = DEAD;
            self.row[middle].token = DEAD;
            self.row[place].token = new;
            self.row[end - 1].token = new;
            let count = self.counts[self.row[place].piece as usize];
            let (left, right) = (self.row[place - 1].token, self.row[end].token);
            if left != GAP {
                lefts.push((left, place as u32 - self.widths[left as usize], count));
            }
            if right != GAP {
                rights.push((right, place as u32, count));
            }
        }

        // Pairs are gained, (left, new) and (new, right), and as often lost, (left, a) and (b, right). But in "abab" the second
        // merge finds the first one's token to its left: (new, a) was gained and is lost again, and (b, a) lost once, not twice.
        let mut repeated = 0;
        self.gain(lefts.iter().copied(), |merger, left, gain| {
            match left == new {
                true => repeated = gain.count,
                false => merger.lose(pair_of(left, a), gain.count),
            }
            pair_of(left, new)
        });
        self.gain(rights.iter().copied(), |merger, right, gain| {
            merger.lose(pair_of(b, right), gain.count);
            gain.count -= if right == a { repeated } else { 0 };
            pair_of(new, right)
        });
        Some([a, b])
    }
}
