//! Section `tasks`: names, target columns, options of the kind, metrics.

use super::super::fault::{Fault, any_of, quote};
use super::super::{Config, Head, Kind, Metric, Source, Split, Table, Target, Task, hints};
use super::{At, Checked};

pub(super) fn check(config: &Config) -> Checked {
    let at = At::key("tasks");
    at.need(!config.tasks.is_empty(), "at least one task is needed")?;
    for (name, task) in &config.tasks {
        let at = at.then(name);
        self::name(&at, name)?;
        target(&at, config, task)?;
        kind(&at.then("kind").then(task.kind.name()), task)?;
        metrics(&at.then("metrics"), task)?;
        head(&at.then("head"), &task.head)?;
    }
    Ok(())
}

impl Kind {
    /// Name of the kind, as written in the configuration.
    pub(in crate::config) fn name(&self) -> &'static str {
        match self {
            Kind::Binary(_) => "binary",
            Kind::Multiclass(_) => "multiclass",
            Kind::Multilabel(_) => "multilabel",
            Kind::Regression(_) => "regression",
        }
    }
}

/// Task names become tags and file names.
fn name(at: &At, name: &str) -> Checked {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    at.need(!name.is_empty(), "a task needs a name").map_err(Fault::on_key)?;
    at.need(name.chars().all(allowed), "a task name is made of letters, digits, `_`, `-` and `.`")
        .map_err(Fault::on_key)?;
    at.need(!name.starts_with(['.', '-']), "a task name starts with a letter, a digit or `_`").map_err(Fault::on_key)
}

fn target(at: &At, config: &Config, task: &Task) -> Checked {
    let sources: Vec<&str> = config.data.sources.iter().map(|(name, _)| name.as_str()).collect();
    let Some((_, source)) = config.data.sources.iter().find(|(name, _)| *name == task.source) else {
        let fault = at.then("source").fault(format!("no source is called {}", quote(&task.source)));
        return Err(match hints::nearest(&task.source, &sources) {
            Some(near) => fault.hint(format!("did you mean {}?", quote(near))),
            None => fault.hint(format!("`data.sources` has {}", any_of(&sources))),
        });
    };
    let at = at.then("target");
    let columns = task.target.columns();
    at.need(!columns.is_empty(), "at least one column is needed")?;
    at.names(&columns).map_err(|fault| match task.target {
        Target::One(_) => at.fault(fault.message),
        Target::Many(_) => fault,
    })?;
    for column in columns {
        target_column(&at, &task.source, source, column)?;
    }
    Ok(())
}

fn target_column(at: &At, name: &str, source: &Source, column: &str) -> Checked {
    let listed = |lists: &[(&str, &[String])]| {
        let list = lists.iter().find(|(_, columns)| columns.iter().any(|c| c == column)).map(|(list, _)| *list);
        let message = |list| format!("{} is an input of source `{name}` too (`{list}`)", quote(column));
        list.map_or(Ok(()), |list| Err(at.fault(message(list))))
    };
    let only = |labels: &[&str]| {
        let message = format!("source `{name}` has no column {}, only {}", quote(column), any_of(labels));
        at.need(labels.contains(&column), message)
    };
    match source {
        Source::Csv(t) | Source::Parquet(t) | Source::Arff(t) => {
            listed(&[("numeric", &t.numeric), ("categorical", &t.categorical), ("bits", &t.bits), ("text", &t.text)])?;
            header(at, t, column)?;
            not_split(at, t.split.as_ref(), column)
        }
        Source::Arrays(a) => {
            listed(&[("numeric", &a.numeric), ("dense", &a.dense), ("image", a.image.as_slice())])?;
            not_split(at, a.split.as_ref(), column)
        }
        Source::Idx(_) => only(&["label"]),
        Source::Multimnist(_) => only(&["left", "right"]),
    }
}

fn header(at: &At, table: &Table, column: &str) -> Checked {
    let known = table.dialect.header.as_ref().is_none_or(|header| header.iter().any(|name| name == column));
    at.need(known, format_args!("{} is not in the `header` that the source gives", quote(column)))
}

fn not_split(at: &At, split: Option<&Split>, column: &str) -> Checked {
    match split {
        Some(Split::Column(by)) => at.need(by.name != column, format_args!("{} is the split column", quote(column))),
        _ => Ok(()),
    }
}

fn kind(at: &At, task: &Task) -> Checked {
    let columns = task.target.columns().len();
    match &task.kind {
        Kind::Binary(o) => {
            one_column(at, columns)?;
            at.then("positive").names(&o.positive)?;
            o.pos_weight.map_or(Ok(()), |weight| at.then("pos_weight").positive(weight))?;
            at.then("label_smoothing").share(o.label_smoothing)
        }
        Kind::Multiclass(o) => {
            one_column(at, columns)?;
            o.classes.map_or(Ok(()), |n| at.then("classes").within(n as u64, 2, 1 << 24))?;
            class_weights(&at.then("class_weights"), &o.class_weights, o.classes)?;
            at.then("label_smoothing").share(o.label_smoothing)
        }
        Kind::Multilabel(o) => {
            let given = o.pos_weight.len();
            let at_weights = at.then("pos_weight");
            let message = format!("needs one entry per target column ({columns}), found {given}");
            at_weights.need(given == 0 || given == columns, message)?;
            o.pos_weight.iter().enumerate().try_for_each(|(i, weight)| at_weights.then(i).positive(*weight))?;
            at.then("label_smoothing").share(o.label_smoothing)
        }
        Kind::Regression(o) => at.then("delta").positive(o.delta),
    }
}

fn one_column(at: &At, columns: usize) -> Checked {
    let fault = at.fault(format!("takes one target column, found {columns}"));
    if columns == 1 { Ok(()) } else { Err(fault.hint("several yes/no columns make a `multilabel` task")) }
}

fn class_weights(at: &At, weights: &[f64], classes: Option<usize>) -> Checked {
    weights.iter().enumerate().try_for_each(|(i, weight)| at.then(i).not_negative(*weight))?;
    at.need(weights.is_empty() || weights.iter().sum::<f64>() > 0.0, "must not all be 0")?;
    at.need(weights.len() != 1, "needs one entry per class, found 1")?;
    match classes {
        Some(n) if !weights.is_empty() => {
            at.need(weights.len() == n, format_args!("needs one entry per class ({n}), found {}", weights.len()))
        }
        _ => Ok(()),
    }
}

impl Kind {
    /// Metrics that judge this kind.
    fn allows(&self) -> &'static [Metric] {
        use Metric::*;
        match self {
            Kind::Binary(_) | Kind::Multiclass(_) | Kind::Multilabel(_) => {
                &[Accuracy, Auc, AveragePrecision, F1, Mcc, Loss]
            }
            Kind::Regression(_) => &[Mae, Rmse, Rrmse, R2, Pearson, Spearman, Loss],
        }
    }
}

fn metrics(at: &At, task: &Task) -> Checked {
    for (i, metric) in task.metrics.iter().enumerate() {
        let allowed = task.kind.allows();
        let names: Vec<&str> = allowed.iter().map(|m| m.name()).collect();
        let (kind, name) = (task.kind.name(), metric.name());
        let message = format!("`{name}` does not judge a {kind} task, expected {}", any_of(&names));
        at.then(i).need(allowed.contains(metric), message)?;
        at.then(i).need(!task.metrics[..i].contains(metric), format_args!("`{name}` is listed twice"))?;
    }
    Ok(())
}

fn head(at: &At, head: &Head) -> Checked {
    at.then("widths").widths(&head.widths)?;
    at.then("dropout").share(head.dropout)
}
