//! Byte-pair encoding by counts: the most frequent pair of neighbouring tokens becomes a token, again and again.
//!
//! All distinct pieces lie in one long row of bytes with a gap between them. A token of n bytes marks its first and its last
//! place in the row and leaves those between them dead, so both neighbours of a token are found without a linked list:
//! the right one starts n places on, the left one ends one place before. Each pair keeps the places where it occurs.
//! All places of a pair arise in the one step that made its younger token, so they are stored side by side, in order, and a
//! merge visits only its own places, however long the piece is.
use crate::count::{hash_pair, prefetch};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const GAP: u32 = u32::MAX;
const DEAD: u32 = u32::MAX - 1;

#[derive(Clone, Copy)]
struct Place {
    token: u32,
    piece: u32,
}

struct Pair {
    tokens: u64,
    count: i64,
    first: usize,
    places: u32,
}

/// What one merge does to the pairs with one neighbouring token.
#[derive(Clone, Copy, Default)]
struct Side {
    count: i64,
    places: u32,
    cursor: usize,
}

pub struct Merger {
    row: Vec<Place>,
    counts: Vec<i64>,
    widths: Vec<u32>,
    pairs: Vec<Pair>,
    index: Index,
    places: Vec<u32>,
    heap: BinaryHeap<(i64, Reverse<u64>, u32)>,
    left: Vec<Side>,
    right: Vec<Side>,
}

fn pair_of(a: u32, b: u32) -> u64 {
    (a as u64) << 32 | b as u64
}

impl Merger {
    /// None: the distinct pieces are longer than 4 GiB together.
    pub fn new(pieces: Vec<(Box<[u8]>, u64)>) -> Option<Self> {
        let length: usize = 1 + pieces.iter().map(|(piece, _)| piece.len() + 1).sum::<usize>();
        if length >= DEAD as usize {
            return None;
        }
        let mut row = Vec::with_capacity(length);
        row.push(Place { token: GAP, piece: 0 });
        for (k, (piece, _)) in pieces.iter().enumerate() {
            row.extend(piece.iter().map(|&byte| Place { token: byte as u32, piece: k as u32 }));
            row.push(Place { token: GAP, piece: 0 });
        }
        let counts = pieces.iter().map(|(_, count)| *count as i64).collect();
        let sides = vec![Side::default(); 256];
        let mut merger = Merger {
            row, counts, widths: vec![1; 256], pairs: vec![], index: Index::new(), places: vec![], heap: BinaryHeap::new(),
            left: sides.clone(), right: sides,
        };
        merger.find_byte_pairs();
        Some(merger)
    }

    fn find_byte_pairs(&mut self) {
        let mut sides = vec![Side::default(); 1 << 16];
        let neighbours = |row: &[Place]| match (row[0].token, row[1].token) {
            (GAP, _) | (_, GAP) => None,
            (a, b) => Some((a << 8 | b) as usize),
        };
        for two in self.row.windows(2) {
            if let Some(pair) = neighbours(two) {
                sides[pair].count += self.counts[two[0].piece as usize];
                sides[pair].places += 1;
            }
        }
        for (k, side) in sides.iter_mut().enumerate() {
            self.add(pair_of(k as u32 >> 8, k as u32 & 255), side);
        }
        for (place, two) in self.row.windows(2).enumerate() {
            if let Some(pair) = neighbours(two) {
                self.places[sides[pair].cursor] = place as u32;
                sides[pair].cursor += 1;
            }
        }
    }

    /// Makes room for a new pair and its places; `cursor` then says where the first of them goes.
    fn add(&mut self, tokens: u64, side: &mut Side) {
        side.cursor = self.places.len();
        self.places.resize(self.places.len() + side.places as usize, 0);
        if side.count > 0 {
            let id = self.pairs.len() as u32;
            self.pairs.push(Pair { tokens, count: side.count, first: side.cursor, places: side.places });
            self.index.insert(tokens, id);
            self.heap.push((side.count, Reverse(tokens), id));
        }
    }

    /// The most frequent pair; of equally frequent ones, that of the smallest ids. None: no pair is left.
    fn best(&mut self) -> Option<u32> {
        while let Some((count, tokens, id)) = self.heap.pop() {
            let now = self.pairs[id as usize].count;
            if now == count {
                return Some(id);
            }
            if now > 0 {
                self.heap.push((now, tokens, id));
            }
        }
        None
    }

    /// Makes one token of the best pair and returns the pair.
    pub fn merge(&mut self) -> Option<(u32, u32)> {
        let id = self.best()?;
        let Pair { tokens, first, places, .. } = self.pairs[id as usize];
        let (a, b, new) = ((tokens >> 32) as u32, tokens as u32, self.widths.len() as u32);
        let (width_a, width_b) = (self.widths[a as usize] as usize, self.widths[b as usize] as usize);
        self.widths.push((width_a + width_b) as u32);
        self.left.push(Side::default());
        self.right.push(Side::default());

        let (mut lefts, mut rights) = (vec![], vec![]);
        let mut merged = vec![]; // (left neighbour, right neighbour, place)
        for k in first..first + places as usize {
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
            for (token, sides, touched) in [(left, &mut self.left, &mut lefts), (right, &mut self.right, &mut rights)] {
                if token != GAP {
                    let side = &mut sides[token as usize];
                    if side.places == 0 {
                        touched.push(token);
                    }
                    side.count += count;
                    side.places += 1;
                }
            }
            merged.push((left, right, place as u32));
        }
        self.pairs[id as usize].count = 0;

        // In "abab" the second merge has the first one's token to its left: (new, a) was gained and is lost again.
        let repeated = self.left[new as usize].count;
        if repeated > 0 {
            self.right[a as usize].count -= repeated;
        }
        // The pairs a merge removes: (left, a) and (b, right). With a twin to the left, (b, a) is removed by the right side.
        for &left in &lefts {
            let mut side = std::mem::take(&mut self.left[left as usize]);
            if left != new {
                self.lose(pair_of(left, a), side.count);
            }
            self.add(pair_of(left, new), &mut side);
            self.left[left as usize] = side;
        }
        for &right in &rights {
            let mut side = std::mem::take(&mut self.right[right as usize]);
            let lost = side.count + if right == a { repeated } else { 0 };
            self.lose(pair_of(b, right), lost);
            self.add(pair_of(new, right), &mut side);
            self.right[right as usize] = side;
        }
        for (left, right, place) in merged {
            if left != GAP {
                let side = &mut self.left[left as usize];
                self.places[side.cursor] = place - self.widths[left as usize];
                side.cursor += 1;
            }
            if right != GAP {
                let side = &mut self.right[right as usize];
                self.places[side.cursor] = place;
                side.cursor += 1;
            }
        }
        lefts.iter().for_each(|&token| self.left[token as usize] = Side::default());
        rights.iter().for_each(|&token| self.right[token as usize] = Side::default());
        Some((a, b))
    }

    fn lose(&mut self, tokens: u64, count: i64) {
        if let Some(id) = self.index.get(tokens) {
            self.pairs[id as usize].count -= count;
        }
    }
}

/// From two tokens to a number: open addressing, power-of-two length, nothing is ever removed.
pub struct Index {
    slots: Vec<(u64, u32)>,
    used: usize,
}

const FREE: u64 = u64::MAX;

impl Index {
    pub fn new() -> Self {
        Index { slots: vec![(FREE, 0); 1 << 10], used: 0 }
    }

    #[inline(always)]
    fn slot(&self, pair: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut place = hash_pair(pair) & mask;
        while self.slots[place].0 != pair && self.slots[place].0 != FREE {
            place = (place + 1) & mask;
        }
        place
    }

    #[inline(always)]
    pub fn get(&self, pair: u64) -> Option<u32> {
        let (found, value) = self.slots[self.slot(pair)];
        (found == pair).then_some(value)
    }

    /// Keeps the older value of a pair that is there already.
    pub fn insert(&mut self, pair: u64, value: u32) {
        if self.used * 2 >= self.slots.len() {
            let larger = vec![(FREE, 0); self.slots.len() * 4];
            for (pair, value) in std::mem::replace(&mut self.slots, larger) {
                if pair != FREE {
                    let place = self.slot(pair);
                    self.slots[place] = (pair, value);
                }
            }
        }
        let place = self.slot(pair);
        if self.slots[place].0 == FREE {
            self.slots[place] = (pair, value);
            self.used += 1;
        }
    }
}
