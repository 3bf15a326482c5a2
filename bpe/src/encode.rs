//! Text to token ids: pieces seen before are looked up, others are merged by rank.
use crate::count::{cut, hash_key, key_of, prefetch, Key, Piece, AHEAD, SHORT};
use crate::split::Splitter;
use crate::train::Index;
use crate::Map;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

/// Slots of a thread's cache at most: 32 MB for ids of 16 bits.
const CACHE: usize = 1 << 20;
/// Pieces of 16 bytes and more are kept apart from the others, up to this length and number.
const LONG: usize = 128;
const LONG_PIECES: usize = 1 << 16;
/// Ids a slot holds; a piece of more tokens is merged anew each time.
const HELD: usize = 7;
/// Up to here the smallest rank is searched by scanning, which is quadratic but without any bookkeeping.
const SCAN: usize = 48;
const NONE: u32 = u32::MAX;

/// The type of the ids in the output: 16 bits where the vocabulary allows.
pub trait Id: Copy + Send + 'static {
    fn of(id: u32) -> Self;
    fn caches(encoder: &Encoder) -> &Mutex<Vec<Cache<Self>>>;
}

impl Id for u16 {
    fn of(id: u32) -> u16 { id as u16 }
    fn caches(encoder: &Encoder) -> &Mutex<Vec<Cache<u16>>> { &encoder.narrow }
}

impl Id for u32 {
    fn of(id: u32) -> u32 { id }
    fn caches(encoder: &Encoder) -> &Mutex<Vec<Cache<u32>>> { &encoder.wide }
}

pub struct Encoder {
    splitter: Splitter,
    bytes: [u32; 256],
    ranks: Index,
    byte_ranks: Vec<u32>,
    whole: Vec<(Key, u32)>, // tokens of up to 15 bytes
    narrow: Mutex<Vec<Cache<u16>>>,
    wide: Mutex<Vec<Cache<u32>>>,
}

impl Encoder {
    /// bytes: the id of each byte value. merges: (left, right, their token), by rank, where a token's id is its rank.
    /// None: a merge uses a token before it is made.
    pub fn new(bytes: &[u32; 256], merges: &[[u32; 3]], digits: usize) -> Option<Self> {
        let mut spelled = std::collections::HashMap::new();
        let mut whole = vec![];
        for (byte, &id) in bytes.iter().enumerate() {
            spelled.insert(id, vec![byte as u8]);
        }
        let mut ranks = Index::new();
        for &[a, b, id] in merges {
            let text = [spelled.get(&a)?.as_slice(), spelled.get(&b)?.as_slice()].concat();
            if text.len() <= SHORT {
                whole.push((key_of(&text), id));
            }
            spelled.insert(id, text);
            ranks.insert((a as u64) << 32 | b as u64, id);
        }
        let rank = |pair: usize| ranks.get((bytes[pair >> 8] as u64) << 32 | bytes[pair & 255] as u64).unwrap_or(NONE);
        let byte_ranks = (0..1 << 16).map(rank).collect();
        let splitter = Splitter::new(digits);
        Some(Encoder { splitter, bytes: *bytes, ranks, byte_ranks, whole, narrow: Mutex::default(), wide: Mutex::default() })
    }

    #[inline(always)]
    fn rank(&self, a: u32, b: u32) -> u32 {
        self.ranks.get((a as u64) << 32 | b as u64).unwrap_or(NONE)
    }

    /// The tokens of one piece, in `ids`.
    fn merge(&self, piece: &[u8], ids: &mut Vec<u32>) {
        ids.clear();
        ids.extend(piece.iter().map(|&byte| self.bytes[byte as usize]));
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

    /// Writes the ids of `text` from `out` on and returns how many.
    ///
    /// # Safety
    /// `out` must have room for text.len() + HELD ids: a token takes at least one byte, and a slot is copied whole.
    unsafe fn encode<T: Id>(&self, text: &[u8], cache: &mut Cache<T>, out: *mut T) -> usize {
        let mut pieces = [Piece::default(); AHEAD];
        let mut written = out;
        let mut next = 0;
        while next < text.len() {
            let mut start = next;
            let mask = cache.slots.len() - 1;
            let count = cut(&self.splitter, text, &mut next, &mut pieces, |hash| prefetch(&cache.slots, hash & mask));
            for piece in &pieces[..count] {
                let place = cache.find(piece.key, piece.hash);
                let slot = cache.slots.get_unchecked(place);
                if piece.key != 0 && slot.key == piece.key {
                    written.cast::<[T; HELD]>().write_unaligned(slot.ids);
                    written = written.add(slot.count as usize);
                } else {
                    let text = &text[start..piece.end];
                    let known = if piece.key == 0 { cache.long.get(text) } else { None };
                    let merged: &[u32] = match known {
                        Some(ids) => ids,
                        None => {
                            self.merge(text, &mut cache.scratch);
                            &cache.scratch
                        }
                    };
                    for &id in merged {
                        written.write(T::of(id));
                        written = written.add(1);
                    }
                    if known.is_none() {
                        cache.insert(place, piece.key, text, &self.whole);
                    }
                }
                start = piece.end;
            }
        }
        written.offset_from(out) as usize
    }

    /// The ids of all documents one after another; returns their number. `offsets[k]` says where document k begins.
    ///
    /// # Safety
    /// `out` must have room for the bytes of all documents plus HELD for each of them, `offsets` for one more than documents.
    pub unsafe fn batch<T: Id>(&self, documents: &[&[u8]], threads: usize, out: *mut T, offsets: &mut [u64]) -> usize {
        let total: usize = documents.iter().map(|text| text.len() + HELD).sum();
        let groups = group(documents, if threads > 1 { (total / (threads * 8)).max(1 << 16) } else { usize::MAX });
        let (shared, starts) = (Shared(out), Shared(offsets.as_mut_ptr()));
        let next = AtomicUsize::new(0);
        // Each group writes at the place where its text begins in bytes: always enough room, and nobody waits.
        let work = || {
            let mut cache = lock(T::caches(self)).pop().unwrap_or_else(|| Cache::new(&self.whole));
            while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut written = 0;
                for k in group.first..group.end {
                    starts.at(k).write(written as u64);
                    written += self.encode(documents[k], &mut cache, shared.at(group.room + written));
                }
                group.written.store(written, Ordering::Relaxed);
            }
            lock(T::caches(self)).push(cache);
        };
        if threads > 1 && groups.len() > 1 {
            std::thread::scope(|scope| (0..threads.min(groups.len())).for_each(|_| drop(scope.spawn(work))));
        } else {
            work();
        }
        let mut written = 0;
        for group in &groups {
            let count = group.written.load(Ordering::Relaxed);
            std::ptr::copy(out.add(group.room), out.add(written), count);
            offsets[group.first..group.end].iter_mut().for_each(|offset| *offset += written as u64);
            written += count;
        }
        offsets[documents.len()] = written as u64;
        written
    }
}

struct Group {
    first: usize,
    end: usize,
    room: usize,
    written: AtomicUsize,
}

/// Neighbouring documents in groups of about `size` bytes.
fn group(documents: &[&[u8]], size: usize) -> Vec<Group> {
    let (mut groups, mut first, mut room, mut bytes) = (vec![], 0, 0, 0);
    for (k, text) in documents.iter().enumerate() {
        bytes += text.len() + HELD;
        if bytes >= size || k + 1 == documents.len() {
            groups.push(Group { first, end: k + 1, room, written: AtomicUsize::new(0) });
            (first, room, bytes) = (k + 1, room + bytes, 0);
        }
    }
    groups
}

/// A pointer that threads share, each writing places of its own.
struct Shared<T>(*mut T);
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    unsafe fn at(&self, k: usize) -> *mut T {
        self.0.add(k)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[derive(Clone, Copy)]
#[repr(align(32))] // within one cache line, so that one prefetch brings it all
struct Slot<T> {
    key: Key,
    ids: [T; HELD],
    count: u16,
}

/// The ids of short pieces, by open addressing. It starts with the vocabulary itself and is emptied to that when full.
pub struct Cache<T> {
    slots: Vec<Slot<T>>,
    used: usize,
    long: Map<Box<[u8]>, Box<[u32]>>,
    scratch: Vec<u32>,
}

impl<T: Id> Cache<T> {
    fn new(whole: &[(Key, u32)]) -> Self {
        let mut cache = Cache { slots: vec![], used: 0, long: Map::default(), scratch: vec![] };
        cache.reset((whole.len() * 4).next_power_of_two().max(1 << 12), whole);
        cache
    }

    fn reset(&mut self, length: usize, whole: &[(Key, u32)]) {
        self.slots = vec![Slot { key: 0, ids: [T::of(0); HELD], count: 0 }; length];
        self.used = 0;
        for &(key, id) in whole {
            let place = self.find(key, hash_key(key));
            if self.slots[place].key == 0 {
                self.slots[place] = Slot { key, ids: [T::of(id); HELD], count: 1 };
                self.used += 1;
            }
        }
    }

    /// The slot of the key, or the empty one where it belongs. (Key 0, a long piece, finds some empty slot.)
    #[inline(always)]
    fn find(&self, key: Key, hash: usize) -> usize {
        let mask = self.slots.len() - 1;
        let mut place = hash & mask;
        loop {
            let found = self.slots[place].key;
            if found == key || found == 0 {
                return place;
            }
            place = (place + 1) & mask;
        }
    }

    /// Keeps what `scratch` holds, the ids of this piece.
    fn insert(&mut self, place: usize, key: Key, text: &[u8], whole: &[(Key, u32)]) {
        if key == 0 {
            if text.len() <= LONG {
                if self.long.len() >= LONG_PIECES {
                    self.long.clear();
                }
                self.long.insert(text.into(), self.scratch.as_slice().into());
            }
            return;
        }
        if self.scratch.len() > HELD {
            return;
        }
        let mut held = [T::of(0); HELD];
        held.iter_mut().zip(&self.scratch).for_each(|(slot, &id)| *slot = T::of(id));
        self.slots[place] = Slot { key, ids: held, count: self.scratch.len() as u16 };
        self.used += 1;
        if self.used * 2 <= self.slots.len() {
            return;
        }
        if self.slots.len() >= CACHE.max(whole.len() * 4) {
            return self.reset(self.slots.len(), whole);
        }
        let larger = vec![Slot { key: 0, ids: held, count: 0 }; self.slots.len() * 4];
        for slot in std::mem::replace(&mut self.slots, larger) {
            if slot.key != 0 {
                let place = self.find(slot.key, hash_key(slot.key));
                self.slots[place] = slot;
            }
        }
    }
}
