//! Cuts text into pieces exactly as GPT-4's regex does, with a state machine over UTF-8 instead of a regex engine:
//!
//! ```text
//! (?i:'s|'t|'re|'ve|'m|'ll|'d) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N}{1,DIGITS}
//!   | ?[^\s\p{L}\p{N}]+[\r\n]* | \s*[\r\n]+ | \s+(?!\S) | \s+
//! ```
//!
//! Every branch decides on the class of one or two characters and then runs forward, so the time is linear in the text.
use std::sync::OnceLock;

const OTHER: u8 = 0;
const LETTER: u8 = 1;
const NUMBER: u8 = 2;
const SPACE: u8 = 3;
const NEWLINE: u8 = 4;
const END: u8 = 5;
/// Whatever four bytes can spell, so that malformed UTF-8 cannot reach outside.
const CODES: usize = 1 << 21;

#[derive(Clone, Copy)]
pub struct Splitter {
    /// The class of each code point.
    classes: &'static [u8; CODES],
    digits: usize,
}

impl Splitter {
    /// digits: how many numerals a piece may hold.
    pub fn new(digits: usize) -> Self {
        static CLASSES: OnceLock<Box<[u8; CODES]>> = OnceLock::new();
        let read = || {
            let mut classes: Box<[u8; CODES]> = vec![OTHER; CODES].try_into().unwrap();
            for line in include_str!("../../src/fledge/text/unicode.txt").lines() {
                let mut fields = line.split(' ');
                let class = match fields.next() { Some("L") => LETTER, Some("N") => NUMBER, _ => SPACE };
                let mut hex = || usize::from_str_radix(fields.next().unwrap(), 16).unwrap();
                let (first, last) = (hex(), hex());
                classes[first..=last].fill(class);
            }
            classes[b'\r' as usize] = NEWLINE;
            classes[b'\n' as usize] = NEWLINE;
            classes
        };
        Splitter { classes: CLASSES.get_or_init(read), digits }
    }

    /// The class of the character that starts at `i`, and its width in bytes; (END, 0) behind the text.
    #[inline(always)]
    fn at(&self, text: &[u8], i: usize) -> (u8, usize) {
        match text.get(i) {
            None => (END, 0),
            Some(&byte) if byte < 0x80 => (self.classes[byte as usize], 1),
            _ => self.wide(&text[i..]),
        }
    }

    #[inline(never)]
    fn wide(&self, text: &[u8]) -> (u8, usize) {
        let low = |k: usize| (text[k] & 0x3f) as usize;
        let (code, width) = match (text[0] as usize, text.len()) {
            (lead @ 0xc0..=0xdf, 2..) => ((lead & 0x1f) << 6 | low(1), 2),
            (lead @ 0xe0..=0xef, 3..) => ((lead & 0x0f) << 12 | low(1) << 6 | low(2), 3),
            (lead @ 0xf0.., 4..) => ((lead & 0x07) << 18 | low(1) << 12 | low(2) << 6 | low(3), 4),
            _ => return (OTHER, 1), // malformed; Python never sends it
        };
        (self.classes[code], width)
    }

    /// Where a run of letters ends, read eight ASCII ones at a time: most words end within one step, which the processor predicts well.
    #[inline(always)]
    fn letters(&self, text: &[u8], mut i: usize) -> usize {
        const EACH: u64 = 0x0101_0101_0101_0101;
        loop {
            if let Some(eight) = text.get(i..i + 8) {
                let raw = u64::from_le_bytes(eight.try_into().unwrap());
                let lower = (raw | (EACH * 0x20)) & (EACH * 0x7f);
                let from_a = lower + EACH * (0x80 - b'a' as u64); // the top bit of each byte says whether it is at least "a"
                let past_z = lower + EACH * (0x7f - b'z' as u64);
                let others = (!from_a | past_z | raw) & (EACH * 0x80);
                if others == 0 {
                    i += 8;
                    continue;
                }
                i += others.trailing_zeros() as usize / 8;
                if text[i] < 0x80 {
                    return i;
                }
            }
            let (class, width) = self.at(text, i);
            if class != LETTER {
                return i;
            }
            i += width;
        }
    }

    /// Where the piece that starts at `i` ends. Requires i < text.len().
    #[inline(always)]
    pub fn end(&self, text: &[u8], i: usize) -> usize {
        let (class, width) = self.at(text, i);
        let after = i + width;
        match class {
            LETTER => return self.letters(text, after),
            NUMBER => {
                let mut end = after;
                for _ in 1..self.digits {
                    match self.at(text, end) { (NUMBER, width) => end += width, _ => break }
                }
                return end;
            }
            _ => {}
        }
        if text[i] == b'\'' {
            if let Some(width) = contraction(&text[after..]) {
                return after + width;
            }
        }
        let (next, next_width) = self.at(text, after);
        if next == LETTER && class != NEWLINE {
            return self.letters(text, after + next_width);
        }
        if class == OTHER || (text[i] == b' ' && next == OTHER) {
            let mut end = after;
            while let (OTHER, width) = self.at(text, end) {
                end += width;
            }
            while end < text.len() && matches!(text[end], b'\r' | b'\n') {
                end += 1;
            }
            return end;
        }
        self.spaces(text, i)
    }

    /// A run of white space ends behind its last line break; without one, before its last character, which then belongs to
    /// the next piece, unless it is the only one or the text ends.
    #[inline(always)]
    fn spaces(&self, text: &[u8], start: usize) -> usize {
        let (mut end, mut last, mut line) = (start, start, start);
        while let (class @ (SPACE | NEWLINE), width) = self.at(text, end) {
            last = end;
            end += width;
            if class == NEWLINE {
                line = end;
            }
        }
        match () {
            _ if line > start => line,
            _ if end == text.len() || last == start => end,
            _ => last,
        }
    }
}

/// Bytes of s, t, m, d, ll, ve, re behind an apostrophe, in either case. U+017F is a long s: case folding makes it one.
#[inline(always)]
fn contraction(text: &[u8]) -> Option<usize> {
    let lower = |k: usize| text.get(k).map(u8::to_ascii_lowercase);
    match (lower(0)?, lower(1)) {
        (b's' | b't' | b'm' | b'd', _) => Some(1),
        (b'l', Some(b'l')) | (b'v' | b'r', Some(b'e')) | (0xc5, Some(0xbf)) => Some(2),
        _ => None,
    }
}
