//! Text to token ids: pieces seen before are looked up, others are merged by rank.
//!
//! The token of a byte is its value, and the k-th merge makes token 256 + k: a token's id is also its rank.
use crate::piece::{each_piece, hash, key, share, Key, Table, SHORT};
use crate::split::Splitter;
use crate::{pair_of, Map};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::mem::take;
use std::sync::Mutex;

/// Short pieces a thread keeps at most: 64 MB with ids of 16 bits.
const SHORT_PIECES: usize = 1 << 19;
/// Pieces of 16 bytes and more are kept apart from the others, up to this length and number.
const LONG: usize = 128;
const LONG_PIECES: usize = 1 << 16;
/// Ids a slot holds; a piece of more tokens is merged anew each time. With 16-bit ids a slot is 32 bytes, half a cache line.
pub const HELD: usize = 7;
/// Up to here the smallest rank is searched by scanning, which is quadratic but without any bookkeeping.
const SCAN: usize = 48;
const NONE: u32 = u32::MAX;

/// The type of the ids in the output: 16 bits where the vocabulary allows, else 32.
pub trait Id: Copy + Default + Send + Sync + TryFrom<u32> {}
impl<T: Copy + Default + Send + Sync + TryFrom<u32>> Id for T {}

fn id<T: Id>(token: u32) -> T {
    T::try_from(token).ok().expect("a token beyond the type of ids")
}

/// The ids of a short piece and their number.
type Held<T> = ([T; HELD], u16);

fn held<T: Id>(tokens: &[u32]) -> Held<T> {
    let mut ids = [T::default(); HELD];
    ids.iter_mut().zip(tokens).for_each(|(place, &token)| *place = id(token));
    (ids, tokens.len() as u16)
}

/// What one thread has merged before. It starts with the vocabulary itself and is emptied to that when full.
struct Cache<T> {
    short: Table<Held<T>>,
    long: Map<Box<[u8]>, Box<[u32]>>,
    scratch: Vec<u32>,
}

pub struct Encoder<T> {
    splitter: Splitter,
    ranks: Map<u64, u32>,
    byte_ranks: Vec<u32>,
    vocabulary: Table<Held<T>>, // tokens of up to 15 bytes
    caches: Mutex<Vec<Cache<T>>>,
}

impl<T: Id> Encoder<T> {
    /// None: a merge uses a token that is made later or not at all.
    pub fn new(merges: &[[u32; 2]], digits: usize) -> Option<Self> {
        let mut spelled: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        let mut ranks = Map::default();
        let mut vocabulary = Table::new((merges.len() * 4).next_power_of_two().max(1 << 12));
        for &[a, b] in merges {
            let token = spelled.len() as u32;
            let text = [spelled.get(a as usize)?.as_slice(), spelled.get(b as usize)?].concat();
            ranks.entry(pair_of(a, b)).or_insert(token);
            if text.len() <= SHORT {
                let key = key(&text, 0, text.len());
                if vocabulary.find(key, hash(key)).key == 0 {
                    vocabulary.set(key, hash(key), held(&[token]));
                }
            }
            spelled.push(text);
        }
        let rank = |pair: u32| *ranks.get(&pair_of(pair >> 8, pair & 255)).unwrap_or(&NONE);
        let byte_ranks = (0..1 << 16).map(rank).collect();
        Some(Encoder { splitter: Splitter::new(digits), ranks, byte_ranks, vocabulary, caches: Mutex::default() })
    }

    #[inline(always)]
    fn rank(&self, a: u32, b: u32) -> u32 {
        *self.ranks.get(&pair_of(a, b)).unwrap_or(&NONE)
    }

    /// The tokens of one piece, in `ids`.
    fn merge(&self, piece: &[u8], ids: &mut Vec<u32>) {
        ids.clear();
        ids.extend(piece.iter().map(|&byte| byte as u32));
        if piece.len() > SCAN {
            return self.merge_long(ids);
        }
        let mut ranks = [NONE; SCAN];
        for (rank, two) in ranks.iter_mut().zip(piece.windows(2)) {
            *rank = self.byte_ranks[(two[0] as usize) << 8 | two[1] as usize];
        }
        let mut count = ids.len();
        while count > 1 {
            // Rank and place in one integer: the minimum is the leftmost of the lowest rank, found without a branch.
            let lowest = ranks[..count - 1].iter().zip(0..).map(|(&rank, k)| (rank as u64) << 8 | k).min().unwrap();
            let (rank, at) = ((lowest >> 8) as u32, (lowest & 255) as usize);
            if rank == NONE {
                break;
            }
            ids[at] = rank;
            ids.copy_within(at + 2..count, at + 1);
            ranks.copy_within(at + 1..count - 1, at);
            count -= 1;
            if at > 0 {
                ranks[at - 1] = self.rank(ids[at - 1], rank);
            }
            if at + 1 < count {
                ranks[at] = self.rank(rank, ids[at + 1]);
            }
        }
        ids.truncate(count);
    }

    /// The same in n log n for pieces of any length: a heap of candidate merges and links to both neighbours.
    fn merge_long(&self, ids: &mut Vec<u32>) {
        let count = ids.len() as u32;
        let mut next: Vec<u32> = (1..=count).collect();
        let mut previous: Vec<u32> = (0..count).map(|k| k.wrapping_sub(1)).collect();
        // A candidate is its rank and place in one integer, so that the smallest is the leftmost of the lowest rank.
        let candidate = |ids: &[u32], left: u32, right: u32| {
            let rank = self.rank(*ids.get(left as usize)?, *ids.get(right as usize)?);
            (rank != NONE).then_some(Reverse((rank as u64) << 32 | left as u64))
        };
        let mut heap: BinaryHeap<_> = (0..count).filter_map(|k| candidate(ids, k, k + 1)).collect();
        while let Some(lowest) = heap.pop() {
            let at = lowest.0 as u32;
            let second = next[at as usize];
            if ids[at as usize] == NONE || candidate(ids, at, second) != Some(lowest) {
                continue; // one of the two was merged meanwhile
            }
            ids[at as usize] = (lowest.0 >> 32) as u32;
            ids[second as usize] = NONE;
            let third = next[second as usize];
            next[at as usize] = third;
            if third < count {
                previous[third as usize] = at;
            }
            heap.extend(candidate(ids, previous[at as usize], at));
            heap.extend(candidate(ids, at, third));
        }
        ids.retain(|&id| id != NONE);
    }

    /// Writes the ids of a piece that `cache.short` does not hold from `out` on, keeps them, returns where they end.
    unsafe fn write_new(&self, cache: &mut Cache<T>, key: Key, hash: usize, piece: &[u8], out: *mut T) -> *mut T {
        let known = if key == 0 { cache.long.get(piece) } else { None };
        let ids: &[u32] = match known {
            Some(ids) => ids,
            None => {
                self.merge(piece, &mut cache.scratch);
                &cache.scratch
            }
        };
        ids.iter().enumerate().for_each(|(k, &token)| out.add(k).write(id(token)));
        let end = out.add(ids.len());
        if key != 0 && ids.len() <= HELD {
            if cache.short.used >= SHORT_PIECES.max(self.vocabulary.used * 2) {
                cache.short.clone_from(&self.vocabulary);
            }
            cache.short.set(key, hash, held(ids));
        } else if key == 0 && known.is_none() && piece.len() <= LONG {
            if cache.long.len() >= LONG_PIECES {
                cache.long.clear();
            }
            cache.long.insert(piece.into(), cache.scratch.as_slice().into());
        }
        end
    }

    /// Writes the ids of `text` to the beginning of `out` and returns how many.
    fn encode(&self, text: &[u8], cache: &mut Cache<T>, out: &mut [T]) -> usize {
        assert!(out.len() >= room(&[text]));
        let start = out.as_mut_ptr();
        let mut state = (cache, start);
        each_piece(self.splitter, text, &mut state, |state| &state.0.short, |(cache, out), key, hash, piece| {
            let found = cache.short.find(key, hash);
            // Sound: `out` has room, see above.
            unsafe {
                if key != 0 && found.key == key {
                    out.cast::<[T; HELD]>().write_unaligned(found.value.0);
                    *out = out.add(found.value.1 as usize);
                } else {
                    *out = self.write_new(cache, key, hash, piece, *out);
                }
            }
        });
        // Sound: both point into `out`.
        unsafe { state.1.offset_from(start) as usize }
    }

    /// Writes the ids of all documents one after another and returns their number. `offsets` has one entry more than there
    /// are documents: document k begins at offsets[k] and ends at offsets[k + 1]. `out` must have the `room` of them all.
    pub fn batch(&self, documents: &[&[u8]], threads: usize, out: &mut [T], offsets: &mut [u64]) -> usize {
        let threads = threads.min(room(documents) >> 16).max(1);
        let each = if threads > 1 { documents.len().div_ceil(threads * 8) } else { documents.len().max(1) };
        offsets[0] = 0;
        let ends = &mut offsets[1..];
        // Each group of documents is written where its text begins in bytes: always enough room, and nobody waits.
        let mut rest = &mut *out;
        let jobs = documents.chunks(each).zip(ends.chunks_mut(each)).map(|(group, ends)| {
            let (mine, others) = take(&mut rest).split_at_mut(room(group));
            rest = others;
            (group, ends, mine)
        });
        let new = || Cache { short: self.vocabulary.clone(), long: Map::default(), scratch: vec![] };
        let mut caches: Vec<_> = (0..threads).map(|_| self.caches.lock().unwrap().pop().unwrap_or_else(new)).collect();
        share(&mut caches, jobs, |cache, (group, ends, out)| {
            let mut written = 0;
            for (text, end) in group.iter().zip(ends) {
                written += self.encode(text, cache, &mut out[written..]);
                *end = written as u64;
            }
        });
        self.caches.lock().unwrap().extend(caches);
        let (mut from, mut written) = (0, 0);
        for (group, ends) in documents.chunks(each).zip(ends.chunks_mut(each)) {
            let count = ends[group.len() - 1] as usize;
            out.copy_within(from..from + count, written);
            ends.iter_mut().for_each(|end| *end += written as u64);
            from += room(group);
            written += count;
        }
        written
    }
}

/// Ids of room that documents need: a token takes at least one byte, and a slot is copied whole.
pub fn room(documents: &[&[u8]]) -> usize {
    documents.iter().map(|text| text.len() + HELD).sum()
}
