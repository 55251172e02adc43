//! Section `model`: sizes, and whether the encoder can take what the sources give.

use super::super::{Cnn, Config, EmbeddingBag, Encoder, Gradients, Mlp, Source};
use super::{At, Checked, WIDE};

pub(super) fn check(config: &Config) -> Checked {
    let at = At::key("model").then("encoder");
    match &config.model.encoder {
        Encoder::Mlp(o) => mlp(&at.then("mlp"), o),
        Encoder::Cnn(o) => cnn(&at.then("cnn"), o),
        Encoder::EmbeddingBag(o) => embedding_bag(&at.then("embedding_bag"), o),
    }?;
    inputs(&at, config)?;
    same_inputs(config)?;
    stages(config)?;
    recompute(config)
}

/// Balancing on the representation keeps the encoder's graph until the coefficients are known.
fn recompute(config: &Config) -> Checked {
    if !config.model.recompute || config.balance.gradients == Gradients::Parameters {
        return Ok(());
    }
    let fault = At::key("model").then("recompute").fault("does not go with `balance.gradients: representation`");
    Err(fault.hint("`batch.accumulate` saves memory there: only the heads' graphs are kept of several micro-batches"))
}

fn mlp(at: &At, o: &Mlp) -> Checked {
    at.then("widths").need(!o.widths.is_empty(), "at least one layer is needed")?;
    at.then("widths").widths(&o.widths)?;
    at.then("dropout").share(o.dropout)?;
    o.embedding_dim.map_or(Ok(()), |dim| at.then("embedding_dim").within(dim as u64, 1, WIDE))
}

fn cnn(at: &At, o: &Cnn) -> Checked {
    at.then("channels").need(!o.channels.is_empty(), "at least one block is needed")?;
    at.then("channels").widths(&o.channels)?;
    at.then("kernel").within(o.kernel as u64, 1, 99)?;
    at.then("kernel").need(o.kernel % 2 == 1, format_args!("must be odd, found {}", o.kernel))?;
    let bad = o.channels.iter().find(|channels| o.groups > 0 && *channels % o.groups != 0);
    let message = bad.map(|channels| format!("{} groups do not divide {channels} channels evenly", o.groups));
    at.then("groups").need(bad.is_none(), message.unwrap_or_default())?;
    at.then("widths").widths(&o.widths)?;
    at.then("dropout").share(o.dropout)
}

fn embedding_bag(at: &At, o: &EmbeddingBag) -> Checked {
    at.then("dim").within(o.dim as u64, 1, WIDE)?;
    at.then("widths").widths(&o.widths)?;
    at.then("dropout").share(o.dropout)
}

/// Kinds of input that a source gives, as far as the configuration tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gives {
    numbers: bool,
    categories: usize,
    text: bool,
    image: bool,
}

impl Gives {
    fn of(source: &Source) -> Self {
        match source {
            Source::Csv(t) | Source::Parquet(t) | Source::Arff(t) => Gives {
                numbers: !t.numeric.is_empty() || !t.bits.is_empty(),
                categories: t.categorical.len(),
                text: !t.text.is_empty(),
                image: false,
            },
            Source::Arrays(a) => Gives {
                numbers: !a.numeric.is_empty() || !a.dense.is_empty(),
                categories: 0,
                text: false,
                image: a.image.is_some(),
            },
            Source::Idx(_) | Source::Multimnist(_) => Gives { numbers: false, categories: 0, text: false, image: true },
        }
    }

    fn kinds(self) -> [(&'static str, bool); 4] {
        [("numbers", self.numbers), ("categories", self.categories > 0), ("text", self.text), ("images", self.image)]
    }
}

/// The encoder takes every kind of input there is, and has what it needs.
fn inputs(at: &At, config: &Config) -> Checked {
    let (encoder, takes): (&str, &[&str]) = match config.model.encoder {
        Encoder::Mlp(_) => ("mlp", &["numbers", "categories"]),
        Encoder::Cnn(_) => ("cnn", &["images"]),
        Encoder::EmbeddingBag(_) => ("embedding_bag", &["text"]),
    };
    for (name, source) in &config.data.sources {
        let surplus = Gives::of(source).kinds().into_iter().find(|(kind, there)| *there && !takes.contains(kind));
        let Some((kind, _)) = surplus else { continue };
        let wants = takes.join(" and ");
        let fault = at.fault(format!("`{encoder}` takes {wants}, but source `{name}` gives {kind}"));
        return Err(match kind {
            "text" => fault.hint("`encoder: embedding_bag` takes text"),
            "images" => fault.hint("`encoder: cnn` takes images"),
            _ => fault.hint("`encoder: mlp` takes numbers and categories"),
        });
    }
    Ok(())
}

/// One encoder reads all sources, so they give the same inputs.
fn same_inputs(config: &Config) -> Checked {
    let Some(((first, source), rest)) = config.data.sources.split_first() else { return Ok(()) };
    let expected = Gives::of(source);
    for (name, other) in rest {
        let at = At::key("data").then("sources").then(name);
        let found = Gives::of(other);
        for ((kind, a), (_, b)) in expected.kinds().into_iter().zip(found.kinds()) {
            let (has, lacks) = if a { (first, name) } else { (name, first) };
            let message = format!("one encoder reads all sources, but `{has}` gives {kind} and `{lacks}` does not");
            at.need(a == b, message)?;
        }
        let (n, m) = (expected.categories, found.categories);
        at.need(n == m, counts(first, n, name, m, "categorical"))?;
        if let (Some(n), Some(m)) = (numeric(source), numeric(other)) {
            at.need(n == m, counts(first, n, name, m, "numeric"))?;
        }
    }
    Ok(())
}

fn counts(first: &str, n: usize, name: &str, m: usize, what: &str) -> String {
    format!("one encoder reads all sources, but `{first}` has {n} {what} columns and `{name}` has {m}")
}

/// Number of numeric inputs, where no other column adds to it by an unknown width.
fn numeric(source: &Source) -> Option<usize> {
    match source {
        Source::Csv(t) | Source::Parquet(t) | Source::Arff(t) if t.bits.is_empty() => Some(t.numeric.len()),
        _ => None,
    }
}

/// Heads are attached to stages that exist.
fn stages(config: &Config) -> Checked {
    let stages = match &config.model.encoder {
        Encoder::Mlp(o) => o.widths.len(),
        Encoder::Cnn(o) => o.channels.len() + o.widths.len(),
        Encoder::EmbeddingBag(o) => 1 + o.widths.len(),
    };
    for (name, task) in &config.tasks {
        let Some(stage) = task.head.stage else { continue };
        let at = At::key("tasks").then(name).then("head").then("stage");
        at.need(stage < stages, format_args!("the encoder has stages 0 to {}, found {stage}", stages - 1))?;
    }
    Ok(())
}
