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
const WIDE: u8 = 5; // not ASCII: look the code point up
const END: u8 = 6;

struct Classes {
    byte: [u8; 256],
    /// By code point. Long enough for whatever four bytes can spell, so that malformed UTF-8 cannot reach outside.
    code: Vec<u8>,
}

fn classes() -> &'static Classes {
    static CLASSES: OnceLock<Classes> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let mut code = vec![OTHER; 1 << 21];
        for line in include_str!("../../src/fledge/text/unicode.txt").lines() {
            let mut fields = line.split(' ');
            let class = match fields.next() { Some("L") => LETTER, Some("N") => NUMBER, _ => SPACE };
            let mut hex = || usize::from_str_radix(fields.next().unwrap(), 16).unwrap();
            let (first, last) = (hex(), hex());
            code[first..=last].fill(class);
        }
        code[b'\r' as usize] = NEWLINE;
        code[b'\n' as usize] = NEWLINE;
        let mut byte = [WIDE; 256];
        byte[..128].copy_from_slice(&code[..128]);
        Classes { byte, code }
    })
}

#[derive(Clone, Copy)]
pub struct Splitter {
    classes: &'static Classes,
    digits: usize,
}

impl Splitter {
    /// digits: how many numerals a piece may hold.
    pub fn new(digits: usize) -> Self {
        Splitter { classes: classes(), digits }
    }

    /// The class of the character that starts at `i`, and its width in bytes; (END, 0) behind the text.
    #[inline(always)]
    fn at(&self, text: &[u8], i: usize) -> (u8, usize) {
        let Some(&lead) = text.get(i) else { return (END, 0) };
        match self.classes.byte[lead as usize] {
            WIDE => self.wide(&text[i..]),
            class => (class, 1),
        }
    }

    #[inline(never)]
    fn wide(&self, text: &[u8]) -> (u8, usize) {
        let low = |k: usize| (text[k] & 0x3f) as usize;
        let lead = text[0] as usize;
        let (code, width) = match text.len() {
            2.. if (0xc0..0xe0).contains(&lead) => ((lead & 0x1f) << 6 | low(1), 2),
            3.. if (0xe0..0xf0).contains(&lead) => ((lead & 0x0f) << 12 | low(1) << 6 | low(2), 3),
            4.. if lead >= 0xf0 => ((lead & 0x07) << 18 | low(1) << 12 | low(2) << 6 | low(3), 4),
            _ => return (OTHER, 1), // malformed; Python never sends it
        };
        (self.classes.code[code], width)
    }

    #[inline(always)]
    fn run(&self, text: &[u8], mut i: usize, class: u8) -> usize {
        loop {
            let (found, width) = self.at(text, i);
            if found != class {
                return i;
            }
            i += width;
        }
    }

    /// The same for letters, eight ASCII ones at a time: most words end within one step, which the processor predicts well.
    #[inline(always)]
    fn letters(&self, text: &[u8], mut i: usize) -> usize {
        const EACH: u64 = 0x0101_0101_0101_0101;
        loop {
            if let Some(eight) = text.get(i..i + 8) {
                let raw = u64::from_le_bytes(eight.try_into().unwrap());
                let lower = (raw | EACH * 0x20) & (EACH * 0x7f);
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
            let mut end = self.run(text, after, OTHER);
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
        loop {
            let (class, width) = self.at(text, end);
            if class != SPACE && class != NEWLINE {
                return match () {
                    _ if line > start => line,
                    _ if class == END || last == start => end,
                    _ => last,
                };
            }
            last = end;
            end += width;
            if class == NEWLINE {
                line = end;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str, digits: usize) -> Vec<&str> {
        let (splitter, mut start, mut out) = (Splitter::new(digits), 0, vec![]);
        while start < text.len() {
            let end = splitter.end(text.as_bytes(), start);
            out.push(&text[start..end]);
            start = end;
        }
        out
    }

    #[test]
    fn text_is_cut_as_the_regex_cuts_it() {
        assert_eq!(pieces("I'll pay $1234.50,\n\n  OK?!\n", 3), ["I", "'ll", " pay", " $", "123", "4", ".", "50", ",\n\n", " ", " OK", "?!\n"]);
        assert_eq!(pieces("don'T 12\t\tx  \n y   ", 1), ["don", "'T", " ", "1", "2", "\t", "\tx", "  \n", " y", "   "]);
        assert_eq!(pieces("안녕 é'ſ٣٤٥٦", 3), ["안녕", " é", "'ſ", "٣٤٥", "٦"]);
    }

    #[test]
    fn malformed_bytes_never_leave_the_text() {
        let splitter = Splitter::new(3);
        for seed in 0..2000u64 {
            let mut state = seed;
            let text: Vec<u8> = (0..seed % 40).map(|_| { state = crate::hash64(state + 1); (state >> 40) as u8 }).collect();
            let mut i = 0;
            while i < text.len() {
                let end = splitter.end(&text, i);
                assert!(end > i && end <= text.len());
                i = end;
            }
        }
    }
}
