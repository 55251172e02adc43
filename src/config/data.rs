//! Sections `data` and `batch`: sources, splits, and the mixture of the global batch.

use super::Named;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Section `data`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Sources by name, in the order of the file.
    #[serde(with = "super::ordered")]
    pub sources: Vec<(String, Source)>,
    /// Relative paths start here; default: the working directory.
    #[serde(default)]
    pub root: Option<PathBuf>,
    /// Text vocabulary, fitted on the training split of all sources together.
    #[serde(default)]
    pub vocab: Vocab,
    /// Seconds that a batch may be waited for before the job is ended (0: any time).
    #[serde(default = "five_minutes")]
    pub timeout: u64,
}

fn five_minutes() -> u64 {
    300
}

/// A dataset: its format with the format's options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// Delimited text, `.gz` too.
    Csv(Box<Table>),
    /// Apache Parquet.
    Parquet(Box<Table>),
    /// Attribute-Relation File Format (Weka, Mulan), `.gz` too.
    Arff(Box<Table>),
    /// `npy`, `npz` or `safetensors` arrays.
    Arrays(Box<Arrays>),
    /// IDX images and labels (MNIST), `.gz` too. Its label column is called `label`.
    Idx(Box<Idx>),
    /// Two overlapping MNIST digits, made at run time by a seeded recipe. Its label columns are `left` and `right`.
    Multimnist(Box<MultiMnist>),
}

/// A table of columns: CSV, Parquet or ARFF. A split is given by files, by a column, or by a seeded fraction;
/// with `split: {fraction: ..}` the splits without a file of their own are cut from the training file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Table {
    /// Files of the training split.
    pub train: Paths,
    /// Files of the validation split.
    pub val: Paths,
    /// Files of the test split.
    pub test: Paths,
    /// Files of all splits together; needs `split`.
    pub file: Paths,
    /// How rows of `file` (or of `train`) are divided.
    pub split: Option<Split>,
    /// Columns of numbers: standardised with mean and standard deviation of the training split.
    pub numeric: Vec<String>,
    /// Columns of categories: one embedding each; value 0 is "unknown".
    pub categorical: Vec<String>,
    /// Columns of hexadecimal bit strings: each digit gives four inputs 0/1, most significant bit first.
    pub bits: Vec<String>,
    /// Columns of text: lower-cased words, one vocabulary for all.
    pub text: Vec<String>,
    /// What a blank numeric cell becomes.
    pub missing: Missing,
    /// How delimited text is written (CSV only).
    pub dialect: Dialect,
}

/// One path or a list of paths.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Paths {
    /// No file.
    #[default]
    None,
    /// One file.
    One(PathBuf),
    /// Several files, read one after the other.
    Many(Vec<PathBuf>),
}

impl Paths {
    /// The files in order.
    pub fn list(&self) -> Vec<PathBuf> {
        match self {
            Paths::None => Vec::new(),
            Paths::One(path) => vec![path.clone()],
            Paths::Many(paths) => paths.clone(),
        }
    }
}

/// How rows are divided into training, validation and test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Split {
    /// By the value of a column.
    Column(SplitColumn),
    /// By a seeded random permutation.
    Fraction(SplitFraction),
}

/// Rows go where their value in `name` is listed; a value listed nowhere is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitColumn {
    /// The column.
    pub name: String,
    /// Values of the training split.
    pub train: Vec<String>,
    /// Values of the validation split.
    #[serde(default)]
    pub val: Vec<String>,
    /// Values of the test split.
    #[serde(default)]
    pub test: Vec<String>,
}

/// Shares of the rows, drawn by a permutation of (seed, source).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitFraction {
    /// Share of the validation split, in `[0, 1)`.
    pub val: f64,
    /// Share of the test split, in `[0, 1)`.
    pub test: f64,
    /// Seed of the permutation; its own, so that another `run.seed` keeps the split.
    pub seed: u64,
}

impl Default for SplitFraction {
    fn default() -> Self {
        SplitFraction { val: 0.0, test: 0.0, seed: 0 }
    }
}

/// What a blank numeric cell becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// An error that names file, row and column.
    #[default]
    Refuse,
    /// The mean of the training split (0 after standardisation).
    Mean,
}

/// How delimited text is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dialect {
    /// One ASCII character between fields; default: tab for `.tsv` and `.tsv.gz`, else comma.
    pub delimiter: Option<char>,
    /// Whether `"` quotes fields.
    pub quoting: bool,
    /// Names of the columns of files that have no header line.
    pub header: Option<Vec<String>>,
    /// Character encoding.
    pub encoding: Encoding,
    /// Cells that mean "missing", besides the empty one.
    pub na: Vec<String>,
    /// Strip blanks around cells.
    pub trim: bool,
}

impl Default for Dialect {
    fn default() -> Self {
        Dialect { delimiter: None, quoting: true, header: None, encoding: Encoding::Utf8, na: Vec::new(), trim: true }
    }
}

/// Character encoding of a text file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// UTF-8; any other byte sequence is an error that names the row.
    #[default]
    Utf8,
    /// UTF-8; each bad byte sequence becomes U+FFFD.
    Utf8Lossy,
    /// ISO 8859-1.
    Latin1,
}

/// Arrays in `npy`, `npz` or `safetensors` files; the first axis counts samples. An array of an `npy` file is
/// called by the file's stem. Every array that is a task's `target` must be there too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Arrays {
    /// Files of the training split.
    pub train: Paths,
    /// Files of the validation split.
    pub val: Paths,
    /// Files of the test split.
    pub test: Paths,
    /// Files of all splits together; needs `split`.
    pub file: Paths,
    /// How rows of `file` (or of `train`) are divided; a `column` is an integer array.
    pub split: Option<Split>,
    /// Float arrays `[n]` or `[n, d]`, standardised per column.
    pub numeric: Vec<String>,
    /// Arrays taken as they are, `[n]` or `[n, d]`.
    pub dense: Vec<String>,
    /// One image array: `[n, h, w]` or `[n, c, h, w]`; `u8` is divided by 255.
    pub image: Option<String>,
}

/// IDX files (MNIST and its kin).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idx {
    /// Training images and labels.
    pub train: IdxPair,
    /// Validation images and labels.
    #[serde(default)]
    pub val: Option<IdxPair>,
    /// Test images and labels.
    #[serde(default)]
    pub test: Option<IdxPair>,
    /// Cuts the splits without files from the training files.
    #[serde(default)]
    pub split: Option<Split>,
}

/// Images and their labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdxPair {
    /// `u8` images `[n, h, w]`.
    pub images: PathBuf,
    /// `u8` labels `[n]`.
    pub labels: PathBuf,
}

/// MultiMNIST: two digits on one canvas, the first towards the upper left, the second towards the lower right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultiMnist {
    /// MNIST files from which training (and validation) pairs are drawn.
    pub train: IdxPair,
    /// MNIST files from which test pairs are drawn.
    pub test: IdxPair,
    /// Number of training pairs.
    #[serde(default = "n_train")]
    pub n_train: usize,
    /// Number of validation pairs, from MNIST training digits that no training pair uses.
    #[serde(default)]
    pub n_val: usize,
    /// Number of test pairs.
    #[serde(default = "n_test")]
    pub n_test: usize,
    /// Seed of the recipe.
    #[serde(default)]
    pub seed: u64,
}

/// Text vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vocab {
    /// Keep at most so many words, the most frequent first (ties in alphabetical order).
    pub max_words: usize,
    /// Drop words seen fewer times.
    pub min_count: usize,
    /// Longest run of words that forms one token: 1 for words, 2 adds pairs of neighbours.
    pub ngrams: usize,
    /// Keep at most so many tokens of one text.
    pub max_tokens: usize,
}

impl Default for Vocab {
    fn default() -> Self {
        Vocab { max_words: 50_000, min_count: 2, ngrams: 1, max_tokens: 1024 }
    }
}

/// Section `batch`: the global batch of one optimizer step, over all ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batch {
    /// Mean number of samples per source in a global step. Tasks on one source share its samples.
    pub per_task: usize,
    /// How the `per_task * sources` samples of a step are divided over sources.
    pub mix: Mix,
    /// Each rank works through its slice in so many parts; gradients add up before balancing.
    pub accumulate: usize,
    /// Batches prepared ahead by the loader's thread (0: load in the training thread).
    pub prefetch: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Batch { per_task: 256, mix: Mix::Balanced, accumulate: 1, prefetch: 2 }
    }
}

/// How the samples of a global step are divided over sources.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mix {
    /// The same number from every source.
    #[default]
    Balanced,
    /// In proportion to the sources' training sizes; at least one each.
    Proportional,
    /// In proportion to `size^(1/t)`: 1 is proportional, large is balanced; at least one each.
    Temperature(Temperature),
    /// In proportion to explicit weights by source; at least one each where the weight is not 0.
    Weights(Named),
    /// One shuffled pool of all samples: how many come from a source varies from step to step.
    Uniform,
    /// `per_task` samples of this source and none of the others: a baseline of one task keeps splits and transforms.
    Only(String),
}

/// Options of [`Mix::Temperature`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Temperature {
    /// At least 1.
    pub t: f64,
}

fn n_train() -> usize {
    60_000
}

fn n_test() -> usize {
    10_000
}
