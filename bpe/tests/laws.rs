//! Each law is checked against the slow, obvious way to do the same.
use bpe::encode::{room, Encoder, Id};
use bpe::train::Trainer;
use std::collections::BTreeMap;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); // Knuth's MMIX
        (self.0 >> 33) as usize % limit
    }

    /// One piece of few letters, so that runs and repeated pairs are frequent.
    fn word(&mut self, letters: usize, longest: usize) -> Vec<u8> {
        (0..1 + self.below(longest)).map(|_| b'a' + self.below(letters) as u8).collect()
    }

    fn words(&mut self, letters: usize, longest: usize) -> Vec<Vec<u8>> {
        (0..100).map(|_| self.word(letters, longest)).collect()
    }
}

fn slices(texts: &[Vec<u8>]) -> Vec<&[u8]> {
    texts.iter().map(Vec::as_slice).collect()
}

fn train(texts: &[Vec<u8>], limit: usize, threads: usize) -> Vec<[u32; 2]> {
    let mut trainer = Trainer::new(3, threads);
    trainer.count(&slices(texts));
    trainer.merge(limit)
}

fn encode<T: Id>(encoder: &Encoder<T>, texts: &[Vec<u8>], threads: usize) -> (Vec<T>, Vec<u64>) {
    let texts = slices(texts);
    let (mut ids, mut offsets) = (vec![T::default(); room(&texts)], vec![0; texts.len() + 1]);
    let count = encoder.batch(&texts, threads, &mut ids, &mut offsets);
    ids.truncate(count);
    (ids, offsets)
}

fn join(word: &[u32], pair: [u32; 2], new: u32) -> Vec<u32> {
    let (mut out, mut k) = (vec![], 0);
    while k < word.len() {
        let found = word[k..].starts_with(&pair);
        out.push(if found { new } else { word[k] });
        k += 1 + found as usize;
    }
    out
}

fn encode_slowly(word: &[u8], merges: &[[u32; 2]]) -> Vec<u32> {
    let bytes = word.iter().map(|&byte| byte as u32).collect();
    merges.iter().zip(256..).fold(bytes, |word, (&pair, new)| join(&word, pair, new))
}

#[test]
fn merges_equal_those_of_counting_anew_each_time() {
    let mut random = Random(1);
    for round in 0..60 {
        let words = random.words(1 + round % 4, 1 + round);
        let mut merges = vec![];
        while merges.len() < 60 {
            let mut counts = BTreeMap::new();
            for word in words.iter().map(|word| encode_slowly(word, &merges)) {
                word.windows(2).for_each(|two| *counts.entry([two[0], two[1]]).or_insert(0) += 1);
            }
            let Some((&pair, _)) = counts.iter().min_by_key(|(&pair, &count)| (-count, pair)) else { break };
            merges.push(pair);
        }
        assert_eq!(train(&words, 60, 1), merges, "round {round}");
    }
}

#[test]
fn encoding_equals_applying_the_merges_one_after_another() {
    let mut random = Random(2);
    for round in 0..30 {
        let letters = 1 + round % 3;
        let merges = train(&random.words(letters, 30), 40, 1);
        let encoder = Encoder::<u32>::new(&merges, 3).unwrap();
        for longest in [5, 14, 40, 300, 300] {
            let word = random.word(letters, longest);
            let (ids, _) = encode(&encoder, &[word.clone(), word.clone()], 1); // merged first, looked up then
            assert_eq!(ids, encode_slowly(&word, &merges).repeat(2), "round {round}, {word:?}");
        }
    }
}

#[test]
fn full_caches_are_emptied_and_go_on() {
    let merges = [[b'a' as u32, b'b' as u32]];
    let letters = |k: u32| (0..5).map(|place| b'a' + (k / 20u32.pow(place) % 20) as u8).collect::<Vec<u8>>();
    for repeats in [1, 4] { // short pieces and long ones
        let texts: Vec<Vec<u8>> = (0..600_000).map(|k| letters(k).repeat(repeats)).collect();
        let (ids, offsets) = encode(&Encoder::<u16>::new(&merges, 3).unwrap(), &texts, 1);
        for k in (0..texts.len()).step_by(999) {
            let found: Vec<u32> = ids[offsets[k] as usize..offsets[k + 1] as usize].iter().map(|&id| id.into()).collect();
            assert_eq!(found, encode_slowly(&texts[k], &merges));
        }
    }
}

#[test]
fn threads_change_nothing_whatever_the_bytes() {
    let mut random = Random(3);
    let texts: Vec<Vec<u8>> = (0..900).map(|k| (0..k).map(|_| b"ab '\n1\xc5\xbf\xe9\xff"[random.below(10)]).collect()).collect();
    let merges = train(&texts, 500, 1);
    assert_eq!(train(&texts, 500, 3), merges);
    let encoder = Encoder::<u32>::new(&merges, 3).unwrap();
    assert_eq!(encode(&encoder, &texts, 1), encode(&encoder, &texts, 3));
}
