//! Each law is checked against the slow, obvious way to do the same.
use crate::count::Counter;
use crate::encode::Encoder;
use crate::split::Splitter;
use crate::train::Merger;
use crate::*;
use std::collections::BTreeMap;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = hash64(self.0.wrapping_add(0x9E37_79B9_7F4A_7C15)) ^ self.0 << 7;
        (self.0 >> 20) as usize % limit
    }

    /// Few letters, so that runs and repeated pairs are frequent.
    fn word(&mut self, letters: usize, longest: usize) -> Vec<u8> {
        (0..1 + self.below(longest)).map(|_| b'a' + self.below(letters) as u8).collect()
    }
}

fn join(word: &[u32], a: u32, b: u32, new: u32) -> Vec<u32> {
    let (mut out, mut k) = (vec![], 0);
    while k < word.len() {
        let found = word[k..].starts_with(&[a, b]);
        out.push(if found { new } else { word[k] });
        k += 1 + found as usize;
    }
    out
}

/// Counts all pairs anew for every merge.
fn train_slowly(pieces: &[(Box<[u8]>, u64)], limit: usize) -> Vec<(u32, u32)> {
    let mut words: Vec<(Vec<u32>, u64)> = pieces.iter().map(|(piece, n)| (piece.iter().map(|&b| b as u32).collect(), *n)).collect();
    let mut merges = vec![];
    while merges.len() < limit {
        let mut counts = BTreeMap::new();
        for (word, times) in &words {
            word.windows(2).for_each(|two| *counts.entry((two[0], two[1])).or_insert(0) += times);
        }
        let Some((&(a, b), _)) = counts.iter().min_by_key(|(&pair, &count)| (std::cmp::Reverse(count), pair)) else { break };
        let new = 256 + merges.len() as u32;
        words.iter_mut().for_each(|(word, _)| *word = join(word, a, b, new));
        merges.push((a, b));
    }
    merges
}

fn encode_slowly(piece: &[u8], merges: &[(u32, u32)]) -> Vec<u32> {
    let bytes = piece.iter().map(|&byte| byte as u32).collect();
    merges.iter().enumerate().fold(bytes, |word, (rank, &(a, b))| join(&word, a, b, 256 + rank as u32))
}

fn some_pieces(random: &mut Random, letters: usize, longest: usize) -> Vec<(Box<[u8]>, u64)> {
    let mut pieces = BTreeMap::new();
    for _ in 0..40 {
        let count = 1 + random.below(5) as u64;
        *pieces.entry(random.word(letters, longest).into_boxed_slice()).or_insert(0) += count;
    }
    pieces.into_iter().collect()
}

fn train(pieces: Vec<(Box<[u8]>, u64)>, limit: usize) -> Vec<(u32, u32)> {
    let mut merger = Merger::new(pieces).unwrap();
    (0..limit).map_while(|_| merger.merge()).collect()
}

fn encoder(merges: &[(u32, u32)]) -> Encoder {
    let triples: Vec<[u32; 3]> = merges.iter().enumerate().map(|(k, &(a, b))| [a, b, 256 + k as u32]).collect();
    Encoder::new(&std::array::from_fn(|byte| byte as u32), &triples, 3).unwrap()
}

fn encode(encoder: &Encoder, documents: &[&[u8]], threads: usize) -> (Vec<u32>, Vec<u64>) {
    let room = documents.iter().map(|text| text.len() + 7).sum();
    let (mut ids, mut offsets) = (vec![0u32; room], vec![0; documents.len() + 1]);
    let count = unsafe { encoder.batch(documents, threads, ids.as_mut_ptr(), &mut offsets) };
    ids.truncate(count);
    (ids, offsets)
}

#[test]
fn merges_equal_those_of_counting_anew_each_time() {
    let mut random = Random(1);
    for round in 0..60 {
        let pieces = some_pieces(&mut random, 1 + round % 4, 1 + round);
        assert_eq!(train(pieces.clone(), 60), train_slowly(&pieces, 60), "round {round}");
    }
}

#[test]
fn encoding_equals_applying_the_merges_one_after_another() {
    let mut random = Random(2);
    for round in 0..30 {
        let merges = train(some_pieces(&mut random, 1 + round % 3, 30), 40);
        let encoder = encoder(&merges);
        for longest in [5, 14, 40, 300, 300] {
            let word = random.word(1 + round % 3, longest);
            for _ in 0..2 {
                assert_eq!(encode(&encoder, &[&word], 1).0, encode_slowly(&word, &merges), "round {round}, {word:?}");
            }
        }
    }
}

#[test]
fn threads_change_neither_counts_nor_ids() {
    let mut random = Random(3);
    let texts: Vec<Vec<u8>> = (0..300).map(|_| {
        let words: Vec<Vec<u8>> = (0..random.below(400)).map(|_| random.word(4, 20)).collect();
        words.join(&b' ')
    }).collect();
    let documents: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
    let count = |threads: usize| {
        let mut counters: Vec<Counter> = (0..threads).map(|_| Counter::new()).collect();
        Counter::documents(&mut counters, Splitter::new(3), &documents);
        let mut pieces = Counter::pieces(counters);
        pieces.sort();
        pieces
    };
    assert_eq!(count(1), count(3));
    let encoder = encoder(&train(count(1), 300));
    assert_eq!(encode(&encoder, &documents, 1), encode(&encoder, &documents, 3));
}

#[test]
fn a_full_cache_is_emptied_and_goes_on() {
    let encoder = encoder(&[(b'a' as u32, b'b' as u32)]);
    let texts: Vec<String> = (0..if cfg!(debug_assertions) { 600_000 } else { 1_200_000 }).map(|k| format!(" {k:x}").replace(|c: char| c.is_ascii_digit(), "ab")).collect();
    let documents: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
    let (ids, offsets) = encode(&encoder, &documents, 1);
    assert_eq!(ids.len() as u64, offsets[documents.len()]);
    let last = &ids[offsets[documents.len() - 1] as usize..];
    assert_eq!(last, encode_slowly(documents[documents.len() - 1], &[(b'a' as u32, b'b' as u32)]));
}

#[test]
fn the_c_functions_survive_random_bytes() {
    let mut random = Random(4);
    let bytes: [u32; 256] = std::array::from_fn(|byte| byte as u32);
    unsafe {
        let trainer = bpe_trainer_new(3, 2);
        let texts: Vec<Vec<u8>> = (0..200).map(|k| (0..k).map(|_| random.below(256) as u8).collect()).collect();
        let starts: Vec<*const u8> = texts.iter().map(|text| text.as_ptr()).collect();
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        assert_eq!(bpe_trainer_count(trainer, starts.as_ptr(), lengths.as_ptr(), 200), 0);
        let mut pairs = vec![[0; 2]; 500];
        let made = bpe_trainer_merge(trainer, 500, pairs.as_mut_ptr());
        bpe_trainer_free(trainer);
        let triples: Vec<[u32; 3]> = (0..made).map(|k| [pairs[k][0], pairs[k][1], 256 + k as u32]).collect();
        let encoder = bpe_encoder_new(&bytes, triples.as_ptr(), made, 3);
        let room: usize = lengths.iter().map(|length| length + 7).sum();
        for (threads, wide) in [(1, false), (2, false), (1, true), (2, true)] {
            let (mut ids, mut offsets) = (vec![0u32; room], vec![0; 201]);
            let out = ids.as_mut_ptr() as *mut c_void;
            let count = bpe_encode(encoder, starts.as_ptr(), lengths.as_ptr(), 200, threads, wide, out, offsets.as_mut_ptr());
            assert!(count > 0 && count < room && offsets[200] == count as u64);
        }
        bpe_encoder_free(encoder);
        assert!(bpe_encoder_new(&bytes, [[300, 1, 256]].as_ptr(), 1, 3).is_null());
    }
}
