//! Text into words, and words into indices.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The words that have an index of their own, with the rules that cut a text into them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    /// Longest run of words that forms one token.
    pub ngrams: usize,
    /// At most so many tokens of one text.
    pub max_tokens: usize,
    /// Tokens from the most frequent on (ties in alphabetical order); index 0 is the unknown word, so `words[i]` has `i + 1`.
    pub words: Vec<String>,
}

/// Cuts a text into tokens: lower-cased runs of letters, digits and apostrophes, and single punctuation marks. After
/// each word come the runs of 2, 3, .. `ngrams` words that end with it, joined by blanks.
///
/// `each` is called with at most `max_tokens` tokens and the number of words in each.
pub(crate) fn tokenize(text: &str, ngrams: usize, max_tokens: usize, mut each: impl FnMut(&str, usize)) {
    let text = text.to_lowercase();
    let mut words: Vec<Range<usize>> = Vec::new();
    let mut joined = String::new();
    let mut left = max_tokens;
    let mut rest = 0;
    while let Some(word) = next_word(&text, rest) {
        rest = word.end;
        words.push(word);
        for n in 1..=ngrams.min(words.len()) {
            if left == 0 {
                return;
            }
            left -= 1;
            let run = &words[words.len() - n..];
            if n == 1 {
                each(&text[run[0].clone()], 1);
                continue;
            }
            joined.clear();
            for (i, word) in run.iter().enumerate() {
                joined.push_str(if i > 0 { " " } else { "" });
                joined.push_str(&text[word.clone()]);
            }
            each(&joined, n);
        }
    }
}

fn next_word(text: &str, from: usize) -> Option<Range<usize>> {
    let in_word = |c: char| c.is_alphanumeric() || c == '\'';
    let rest = text[from..].trim_start();
    let start = text.len() - rest.len();
    let first = rest.chars().next()?;
    let whole = || rest.find(|c| !in_word(c)).unwrap_or(rest.len());
    let len = if in_word(first) { whole() } else { first.len_utf8() };
    Some(start..start + len)
}

/// Strings and their indices, found by a hash that is the same in every process.
#[derive(Debug)]
pub(crate) struct Index {
    buckets: Vec<Vec<(u32, u32)>>,
    words: Vec<Box<str>>,
}

/// Number of buckets: a power of two, about the size of a usual vocabulary.
const BUCKETS: usize = 1 << 16;

impl Index {
    pub fn new() -> Index {
        Index { buckets: vec![Vec::new(); BUCKETS], words: Vec::new() }
    }

    /// An index in which `words[i]` has `i`.
    pub fn of<'a>(words: impl IntoIterator<Item = &'a str>) -> Index {
        let mut index = Index::new();
        words.into_iter().for_each(|word| {
            index.insert(word);
        });
        index
    }

    pub fn get(&self, word: &str) -> Option<u32> {
        self.find(hash(word), word)
    }

    /// The index of a word, which is given the next free one if it is new.
    pub fn insert(&mut self, word: &str) -> u32 {
        let hash = hash(word);
        if let Some(found) = self.find(hash, word) {
            return found;
        }
        let id = self.words.len() as u32;
        self.words.push(word.into());
        self.buckets[hash as usize % BUCKETS].push((hash, id));
        id
    }

    fn find(&self, hash: u32, word: &str) -> Option<u32> {
        let bucket = &self.buckets[hash as usize % BUCKETS];
        bucket.iter().find(|(h, id)| *h == hash && &*self.words[*id as usize] == word).map(|(_, id)| *id)
    }
}

/// FNV-1a, folded to 32 bits.
fn hash(word: &str) -> u32 {
    let fold = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
    let h = word.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
    (h ^ (h >> 32)) as u32
}

/// Counts of tokens, from which a vocabulary is made.
#[derive(Debug)]
pub(crate) struct Counter {
    index: Index,
    counts: Vec<u64>,
}

impl Counter {
    pub fn new() -> Counter {
        Counter { index: Index::new(), counts: Vec::new() }
    }

    pub fn add(&mut self, token: &str) {
        let id = self.index.insert(token) as usize;
        if id == self.counts.len() {
            self.counts.push(0);
        }
        self.counts[id] += 1;
    }

    /// The tokens seen at least `min_count` times, most frequent first, at most `max_words`.
    pub fn most_frequent(self, min_count: usize, max_words: usize) -> Vec<String> {
        let seen = self.counts.into_iter().zip(self.index.words);
        let mut kept: Vec<(u64, Box<str>)> = seen.filter(|(count, _)| *count >= min_count as u64).collect();
        kept.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        kept.truncate(max_words);
        kept.into_iter().map(|(_, word)| word.into_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str, ngrams: usize, max_tokens: usize) -> Vec<String> {
        let mut out = Vec::new();
        tokenize(text, ngrams, max_tokens, |token, _| out.push(token.to_string()));
        out
    }

    #[test]
    fn words_are_runs_of_letters_digits_and_apostrophes_and_marks_stand_alone() {
        assert_eq!(tokens("Don't  STOP... 3.5%", 1, 99), ["don't", "stop", ".", ".", ".", "3", ".", "5", "%"]);
        assert_eq!(tokens("ÉTÉ à\u{a0}Noël, 東京", 1, 99), ["été", "à", "noël", ",", "東京"]);
        assert_eq!(tokens("a", 1, 99), ["a"]);
        assert_eq!(tokens(" \t ", 1, 99), Vec::<String>::new());
    }

    #[test]
    fn runs_of_words_follow_the_word_that_ends_them() {
        assert_eq!(tokens("a b c", 2, 99), ["a", "b", "a b", "c", "b c"]);
        assert_eq!(tokens("a b c", 3, 99), ["a", "b", "a b", "c", "b c", "a b c"]);
        assert_eq!(tokens("a b c", 2, 4), ["a", "b", "a b", "c"]);
    }

    #[test]
    fn frequent_words_come_first_and_ties_are_alphabetical() {
        let mut counter = Counter::new();
        "b a c b a d c e".split(' ').for_each(|w| counter.add(w));
        assert_eq!(counter.most_frequent(2, 10), ["a", "b", "c"]);
        let mut counter = Counter::new();
        "b a c b a d c c".split(' ').for_each(|w| counter.add(w));
        assert_eq!(counter.most_frequent(1, 2), ["c", "a"]);
    }

    #[test]
    fn an_index_finds_what_it_was_given_and_nothing_else() {
        let words: Vec<String> = (0..200_000).map(|i| format!("w{i}")).collect();
        let index = Index::of(words.iter().map(String::as_str));
        assert!(words.iter().enumerate().all(|(i, w)| index.get(w) == Some(i as u32)));
        assert_eq!(index.get("w200000"), None);
    }
}
