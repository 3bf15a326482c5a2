//! Byte-pair encoding for fledge: a trainer and an encoder behind a C interface, which src/fledge/text/native.py calls.
//!
//! Nothing here depends on a version of Python. The caller lets go of Python's lock around everything but `bpe_strings`.
//! A panic becomes the value FAILED; handles come from `*_new` (null: bad arguments) and go back to `*_free` once.
#![allow(clippy::missing_safety_doc)] // every function has the same contract: pointers are valid for the lengths given

mod count;
pub mod encode;
mod piece;
mod split;
pub mod train;

use encode::{room, Encoder, Id};
use std::ffi::c_void;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice::{from_raw_parts, from_raw_parts_mut};
use train::Trainer;

/// Raised whenever a signature below changes, so that a stale library is noticed.
const INTERFACE: usize = 2;
const FAILED: usize = usize::MAX;

fn pair_of(a: u32, b: u32) -> u64 {
    (a as u64) << 32 | b as u64
}

/// Fibonacci hashing (Knuth, The Art of Computer Programming 6.4): the golden ratio spreads neighbouring keys.
#[inline(always)]
fn hash64(x: u64) -> u64 {
    let mixed = x.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ mixed >> 32
}

type Map<K, V> = std::collections::HashMap<K, V, std::hash::BuildHasherDefault<Hasher>>;

/// A fast hash for keys nobody chooses against us; std's SipHash takes a tenth of the training time on Chinese.
#[derive(Default)]
struct Hasher(u64);

impl std::hash::Hasher for Hasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline(always)]
    fn write_u64(&mut self, word: u64) {
        self.0 = hash64(self.0.rotate_left(5) ^ word);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Asks for the memory of an entry that is needed soon.
#[inline(always)]
fn prefetch<T>(entries: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    // Sound: a prefetch is a hint and reads nothing.
    unsafe { std::arch::x86_64::_mm_prefetch(entries.as_ptr().wrapping_add(index) as *const i8, 3) }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (entries, index);
}

fn guard(work: impl FnOnce() -> usize) -> usize {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(FAILED)
}

/// Texts arrive as the addresses of them all, followed by their lengths.
unsafe fn texts<'a>(places: *const usize, count: usize) -> Vec<&'a [u8]> {
    let (starts, lengths) = from_raw_parts(places, 2 * count).split_at(count);
    starts.iter().zip(lengths).map(|(&start, &length)| from_raw_parts(start as *const u8, length)).collect()
}

#[no_mangle]
pub extern "C" fn bpe_interface() -> usize {
    INTERFACE
}

/// Finds the UTF-8 of each of Python's strings, as `texts` takes it, and returns the bytes in all. It runs under Python's lock; `utf8` is
/// PyUnicode_AsUTF8AndSize, handed over so that nothing links to Python.
/// Stops at the first string without UTF-8 (Python's error is set then) and returns FAILED.
#[no_mangle]
pub unsafe extern "C" fn bpe_strings(
    strings: *const *mut c_void, count: usize, utf8: extern "C" fn(*mut c_void, *mut isize) -> *const u8, places: *mut usize,
) -> usize {
    let mut total = 0;
    for k in 0..count {
        let mut length = 0;
        let start = utf8(*strings.add(k), &mut length);
        if start.is_null() {
            return FAILED;
        }
        places.add(k).write(start as usize);
        places.add(count + k).write(length as usize);
        total += length as usize;
    }
    total
}

#[no_mangle]
pub extern "C" fn bpe_trainer_new(digits: usize, threads: usize) -> *mut Trainer {
    Box::into_raw(Box::new(Trainer::new(digits, threads)))
}

#[no_mangle]
pub unsafe extern "C" fn bpe_trainer_count(trainer: *mut Trainer, places: *const usize, count: usize) -> usize {
    guard(|| {
        (*trainer).count(&texts(places, count));
        0
    })
}

/// Makes up to `limit` more merges, writes the pairs and returns their number; fewer than asked means that no pair is left.
#[no_mangle]
pub unsafe extern "C" fn bpe_trainer_merge(trainer: *mut Trainer, limit: usize, out: *mut [u32; 2]) -> usize {
    guard(|| {
        let merges = (*trainer).merge(limit);
        out.copy_from_nonoverlapping(merges.as_ptr(), merges.len());
        merges.len()
    })
}

#[no_mangle]
pub unsafe extern "C" fn bpe_trainer_free(trainer: *mut Trainer) {
    drop(Box::from_raw(trainer));
}

/// Documents, threads, and where to write ids and offsets.
type Encode = Box<dyn Fn(&[&[u8]], usize, *mut c_void, &mut [u64]) -> usize>;

fn encoder<T: Id + 'static>(merges: &[[u32; 2]], digits: usize) -> Option<Encode> {
    let encoder = Encoder::<T>::new(merges, digits)?;
    Some(Box::new(move |documents, threads, out, offsets| {
        let out = unsafe { from_raw_parts_mut(out.cast(), room(documents)) };
        encoder.batch(documents, threads, out, offsets)
    }))
}

/// Its ids have 16 bits, or 32 where `wide`.
#[no_mangle]
pub unsafe extern "C" fn bpe_encoder_new(merges: *const [u32; 2], count: usize, digits: usize, wide: bool) -> *mut Encode {
    let new = if wide { encoder::<u32> } else { encoder::<u16> };
    match catch_unwind(|| new(from_raw_parts(merges, count), digits)) {
        Ok(Some(encoder)) => Box::into_raw(Box::new(encoder)),
        _ => std::ptr::null_mut(),
    }
}

/// Writes the ids of all documents one after another and returns their number; `offsets[k]` says where document k begins.
/// `out` has room for the bytes of all documents plus 7 for each.
#[no_mangle]
pub unsafe extern "C" fn bpe_encode(
    encoder: *const Encode, places: *const usize, count: usize, threads: usize, out: *mut c_void, offsets: *mut u64,
) -> usize {
    guard(|| (*encoder)(&texts(places, count), threads, out, from_raw_parts_mut(offsets, count + 1)))
}

#[no_mangle]
pub unsafe extern "C" fn bpe_encoder_free(encoder: *mut Encode) {
    drop(Box::from_raw(encoder));
}
