//! Byte-pair encoding for fledge: a trainer and an encoder behind a C interface, which src/fledge/text/native.py calls.
//!
//! Nothing here depends on a version of Python. The caller lets go of Python's lock around everything but `bpe_strings`.
//! A panic becomes the value FAILED; handles come from `*_new` (null: bad arguments) and go back to `*_free` once.
#![allow(clippy::missing_safety_doc)] // every function has the same contract: pointers are valid for the lengths given

mod count;
mod encode;
mod split;
mod train;

#[cfg(test)]
mod tests;

use count::Counter;
use encode::Encoder;
use split::Splitter;
use std::ffi::c_void;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice::from_raw_parts;
use train::Merger;

/// Raised whenever a signature below changes, so that a stale library is noticed.
const INTERFACE: usize = 1;
const FAILED: usize = usize::MAX;

#[inline(always)]
pub(crate) fn hash64(x: u64) -> u64 {
    let mixed = x.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ mixed >> 32
}

/// A fast hash for keys nobody chooses against us; std's SipHash takes a tenth of the training time on Chinese.
#[derive(Default)]
pub(crate) struct Hasher(u64);

impl std::hash::Hasher for Hasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = hash64(self.0.rotate_left(5) ^ u64::from_le_bytes(word));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

pub(crate) type Map<K, V> = std::collections::HashMap<K, V, std::hash::BuildHasherDefault<Hasher>>;

fn guard(work: impl FnOnce() -> usize) -> usize {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(FAILED)
}

unsafe fn texts<'a>(starts: *const *const u8, lengths: *const usize, count: usize) -> Vec<&'a [u8]> {
    let (starts, lengths) = (from_raw_parts(starts, count), from_raw_parts(lengths, count));
    starts.iter().zip(lengths).map(|(&start, &length)| from_raw_parts(start, length)).collect()
}

#[no_mangle]
pub extern "C" fn bpe_interface() -> usize {
    INTERFACE
}

/// Points at the UTF-8 of each string in a Python list and returns the bytes in all. It runs under Python's lock; the two
/// functions are PyList_GetItem and PyUnicode_AsUTF8AndSize, handed over so that nothing links to Python.
/// Stops at the first string without UTF-8 (Python's error is set then) and returns FAILED.
#[no_mangle]
pub unsafe extern "C" fn bpe_strings(
    list: *mut c_void, count: usize, item: extern "C" fn(*mut c_void, isize) -> *mut c_void,
    utf8: extern "C" fn(*mut c_void, *mut isize) -> *const u8, starts: *mut *const u8, lengths: *mut usize,
) -> usize {
    let mut total = 0;
    for k in 0..count {
        let mut length = 0;
        let start = utf8(item(list, k as isize), &mut length);
        if start.is_null() {
            return FAILED;
        }
        starts.add(k).write(start);
        lengths.add(k).write(length as usize);
        total += length as usize;
    }
    total
}

/// Writes where each piece of a text ends and returns the number of pieces.
#[no_mangle]
pub unsafe extern "C" fn bpe_split(digits: usize, text: *const u8, length: usize, ends: *mut u64) -> usize {
    guard(|| {
        let (splitter, text) = (Splitter::new(digits), from_raw_parts(text, length));
        let (mut end, mut count) = (0, 0);
        while end < length {
            end = splitter.end(text, end);
            ends.add(count).write(end as u64);
            count += 1;
        }
        count
    })
}

/// Counts pieces first and merges pairs afterwards.
pub struct Trainer {
    splitter: Splitter,
    counters: Vec<Counter>,
    merger: Option<Merger>,
}

#[no_mangle]
pub extern "C" fn bpe_trainer_new(digits: usize, threads: usize) -> *mut Trainer {
    let counters = (0..threads.max(1)).map(|_| Counter::new()).collect();
    Box::into_raw(Box::new(Trainer { splitter: Splitter::new(digits), counters, merger: None }))
}

#[no_mangle]
pub unsafe extern "C" fn bpe_trainer_count(
    trainer: *mut Trainer, starts: *const *const u8, lengths: *const usize, count: usize,
) -> usize {
    guard(|| {
        Counter::documents(&mut (*trainer).counters, (*trainer).splitter, &texts(starts, lengths, count));
        0
    })
}

/// Makes up to `limit` more merges, writes the pairs and returns their number; fewer than asked means that no pair is left.
#[no_mangle]
pub unsafe extern "C" fn bpe_trainer_merge(trainer: *mut Trainer, limit: usize, out: *mut [u32; 2]) -> usize {
    guard(|| {
        let trainer = &mut *trainer;
        if trainer.merger.is_none() {
            trainer.merger = Merger::new(Counter::pieces(std::mem::take(&mut trainer.counters)));
        }
        let Some(merger) = &mut trainer.merger else { return FAILED };
        for made in 0..limit {
            match merger.merge() {
                Some((a, b)) => out.add(made).write([a, b]),
                None => return made,
            }
        }
        limit
    })
}

#[no_mangle]
pub unsafe extern "C" fn bpe_trainer_free(trainer: *mut Trainer) {
    drop(Box::from_raw(trainer));
}

#[no_mangle]
pub unsafe extern "C" fn bpe_encoder_new(
    bytes: *const [u32; 256], merges: *const [u32; 3], count: usize, digits: usize,
) -> *mut Encoder {
    let build = || Encoder::new(&*bytes, from_raw_parts(merges, count), digits);
    match catch_unwind(AssertUnwindSafe(build)) {
        Ok(Some(encoder)) => Box::into_raw(Box::new(encoder)),
        _ => std::ptr::null_mut(),
    }
}

/// Writes the ids of all documents one after another and returns their number; `offsets[k]` says where document k begins.
/// `out` holds ids of 16 bits, or of 32 where `wide`, and has room for the bytes of all documents plus 7 for each.
#[no_mangle]
pub unsafe extern "C" fn bpe_encode(
    encoder: *const Encoder, starts: *const *const u8, lengths: *const usize, count: usize, threads: usize, wide: bool,
    out: *mut c_void, offsets: *mut u64,
) -> usize {
    guard(|| {
        let documents = texts(starts, lengths, count);
        let offsets = std::slice::from_raw_parts_mut(offsets, count + 1);
        match wide {
            true => (*encoder).batch(&documents, threads, out as *mut u32, offsets),
            false => (*encoder).batch(&documents, threads, out as *mut u16, offsets),
        }
    })
}

#[no_mangle]
pub unsafe extern "C" fn bpe_encoder_free(encoder: *mut Encoder) {
    drop(Box::from_raw(encoder));
}
