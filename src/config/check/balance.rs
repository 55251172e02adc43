//! Section `balance`: options of surgery, and which of the general keys go with which surgery.

use super::super::fault::{Fault, quote};
use super::super::{Config, Gradients, Krum, Scope, Surgery, SurgeryKind, Weighting};
use super::{At, Checked, MANY};

pub(super) fn check(config: &Config) -> Checked {
    let at = At::key("balance");
    let surgery = &config.balance.surgery;
    options(&at.then("surgery"), surgery, config.tasks.len())?;
    let ahead = matches!(config.balance.weighting, Weighting::AutoLambda(_));
    if surgery.kind() == SurgeryKind::Cross {
        let both = at
            .then("weighting")
            .fault(format!("`auto_lambda` and surgery {} divide a step in different ways", quote(&surgery.name())));
        if ahead {
            return Err(both.hint("choose one of them"));
        }
        batches(&at.then("surgery").then(surgery.name()), config)?;
    } else if ahead {
        batches(&at.then("weighting").then("auto_lambda"), config)?;
    }
    at.then("every").within(config.balance.every, 1, MANY)?;
    at.then("smoothing").share(config.balance.smoothing)?;
    together(&at, config)
}

/// Ranges of a surgery's own options.
fn options(at: &At, surgery: &Surgery, n_tasks: usize) -> Checked {
    let at = at.then(surgery.name());
    match surgery {
        Surgery::None | Surgery::Pcgrad => Ok(()),
        Surgery::ImtlG | Surgery::Config | Surgery::AlignedMtl(_) => Ok(()),
        // These have a file of their own: see `shard_methods`.
        Surgery::Graddrop(_) | Surgery::TrimmedMean(_) => Ok(()),
        Surgery::ExcessMtl(_) | Surgery::Moco(_) | Surgery::DbMtl(_) => Ok(()),
        Surgery::Gradvac(o) => {
            let message = format!("must be between 0 and 1, found {}", o.beta);
            at.then("beta").need((0.0..=1.0).contains(&o.beta), message)
        }
        Surgery::Mgda(_) => Ok(()),
        Surgery::Cagrad(o) => at.then("c").not_negative(o.c),
        Surgery::NashMtl(o) => o.max_norm.map_or(Ok(()), |norm| at.then("max_norm").not_negative(norm)),
        Surgery::Fairgrad(o) => {
            let message = format!("must be between 0.01 and 100, found {}", o.alpha);
            at.then("alpha").need((0.01..=100.0).contains(&o.alpha), message)
        }
        Surgery::Upgrad(o) => at.then("reg").not_negative(o.reg),
        Surgery::Dualproj(o) => at.then("reg").not_negative(o.reg),
        Surgery::Krum(o) => krum(&at, o, n_tasks),
        Surgery::Gradnorm(o) => {
            at.then("alpha").not_negative(o.alpha)?;
            at.then("lr").positive(o.lr)
        }
        Surgery::Sdmgrad(o) => {
            at.then("lambda").not_negative(o.lambda)?;
            at.then("lr").positive(o.lr)?;
            at.then("momentum").share(o.momentum)?;
            at.then("iterations").within(o.iterations as u64, 1, 1 << 20)
        }
        Surgery::Modo(o) => {
            at.then("gamma").positive(o.gamma)?;
            at.then("rho").not_negative(o.rho)
        }
    }
}

/// Scores are sums over the `T - f - 2` closest gradients: at least one.
fn krum(at: &At, o: &Krum, n_tasks: usize) -> Checked {
    at.need(n_tasks >= 3, format_args!("compares at least 3 tasks, found {n_tasks}"))?;
    let most = n_tasks - 3;
    let message = format!("for {n_tasks} tasks, `n_byzantine` must be at most {most}, found {}", o.n_byzantine);
    let fault = at.then("n_byzantine").fault(message);
    let hint =
        format!("write `krum: {{n_byzantine: {most}}}`, or fewer: choosing takes 3 more tasks than may be wrong");
    (o.n_byzantine <= most).then_some(()).ok_or(fault.hint(hint))?;
    at.then("n_selected").within(o.n_selected as u64, 1, n_tasks as u64)
}

/// A step is divided into independent batches along its micro-batches.
fn batches(at: &At, config: &Config) -> Checked {
    let (found, n) = (config.batch.accumulate, config.balance.independent_batches());
    let fits = (found / n + 1) * n;
    let message = format!(
        "takes gradients on {n} independent batches per step, and `batch.accumulate` ({found}) does not divide into {n}"
    );
    let part = if n == 2 { "half" } else { "third" };
    let hint = format!("write `batch: {{accumulate: {fits}}}`: every {part} of a step's samples is one of the batches");
    let fault = at.fault(message).hint(hint);
    if found.is_multiple_of(n) { Ok(()) } else { Err(fault) }
}

/// General keys that do not go with every surgery, or not with each other.
fn together(at: &At, config: &Config) -> Checked {
    let balance = &config.balance;
    let (kind, name) = (balance.surgery.kind(), quote(&balance.surgery.name()).to_string());
    let on_products = matches!(kind, SurgeryKind::Gram | SurgeryKind::Cross);
    let layers = balance.scope == Scope::PerLayerGroup;
    let needs = |key: &str, what: &str| -> Fault {
        let fault = at.then(key).fault(format!("{what}, and surgery {name} does not"));
        fault.hint("leave it out, or choose a surgery such as `pcgrad`")
    };
    let need = |ok: bool, fault: Fault| if ok { Ok(()) } else { Err(fault) };

    let keeps = "above 1 needs a surgery that chooses coefficients, which the steps between can keep";
    need(balance.every == 1 || on_products, needs("every", keeps))?;
    let one_set =
        at.then("every").fault("above 1 keeps one set of coefficients, and `scope: per_layer_group` has many");
    need(balance.every == 1 || !layers, one_set.hint("leave out one of them"))?;

    let smooths = "needs a surgery that chooses coefficients, or none at all";
    need(balance.smoothing == 0.0 || kind != SurgeryKind::Shard, needs("smoothing", smooths))?;

    let in_one_batch = "needs a surgery on the inner products of one batch";
    need(!layers || kind == SurgeryKind::Gram, needs("scope", in_one_batch))?;
    if balance.gradients == Gradients::Representation {
        need(kind == SurgeryKind::Gram, needs("gradients", in_one_batch))?;
        let no_layers = at.then("gradients").fault("one representation has no layers for `scope: per_layer_group`");
        need(!layers, no_layers.hint("leave out one of them"))?;
        one_source(&at.then("gradients"), config)?;
    }
    Ok(())
}

/// Gradients with respect to representations meet sample by sample.
fn one_source(at: &At, config: &Config) -> Checked {
    let Some((first, task)) = config.tasks.first() else { return Ok(()) };
    let Some((other, its)) = config.tasks.iter().find(|(_, other)| other.source != task.source) else { return Ok(()) };
    let fault = at.fault(format!(
        "compares tasks on the same samples, but task {} learns from {} and task {} from {}",
        quote(first),
        quote(&task.source),
        quote(other),
        quote(&its.source)
    ));
    Err(fault.hint("use `gradients: parameters`"))
}

#[cfg(test)]
mod tests {
    use crate::config::load_str;

    /// What is wrong with these settings, for 4 tasks of one source unless they say otherwise.
    fn fault(sets: &[&str]) -> Option<String> {
        let yaml = "
run: {name: a}
data:
  sources:
    s: {csv: {train: a.csv, numeric: [x]}}
    r: {csv: {train: b.csv, numeric: [x]}}
tasks:
  a: {source: s, target: a, kind: binary}
  b: {source: s, target: b, kind: binary}
  c: {source: s, target: c, kind: binary}
  d: {source: s, target: d, kind: binary}
model: {encoder: mlp}
train: {epochs: 1}
";
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        load_str("a.yaml", yaml, &sets).err().map(|error| error.to_string())
    }

    #[test]
    fn every_surgery_has_good_defaults() {
        for surgery in ["none", "pcgrad", "gradvac", "imtl_g", "aligned_mtl", "config", "krum", "gradnorm"] {
            assert_eq!(fault(&[&format!("balance.surgery={surgery}")]), None);
        }
        for surgery in ["sdmgrad", "modo"] {
            assert_eq!(fault(&[&format!("balance.surgery={surgery}"), "batch.accumulate=6"]), None);
        }
        for scale in ["min", "median", "rmse"] {
            assert_eq!(fault(&[&format!("balance.surgery.aligned_mtl.scale={scale}")]), None);
        }
    }

    #[test]
    fn what_goes_together_is_taken() {
        let pcgrad = "balance.surgery=pcgrad";
        for sets in [
            &["balance.every=5", pcgrad][..],
            &["balance.every=5", "balance.surgery=modo", "batch.accumulate=3"],
            &["balance.smoothing=0.9"],
            &["balance.smoothing=0.9", pcgrad],
            &["balance.scope=per_layer_group", "balance.surgery=krum"],
            &["balance.gradients=representation", pcgrad],
            &["balance.every=5", "balance.gradients=representation", pcgrad],
            &["tasks.d.source=r", pcgrad],
        ] {
            assert_eq!(fault(sets), None, "{sets:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let (pcgrad, modo) = ("balance.surgery=pcgrad", "balance.surgery=modo");
        let (layers, representation) = ("balance.scope=per_layer_group", "balance.gradients=representation");
        for (sets, expected) in [
            (&["balance.surgery.gradvac.beta=1.5"][..], "beta=1.5: must be between 0 and 1, found 1.5"),
            (&["balance.surgery.gradnorm.alpha=-1"], "alpha=-1: must be 0 or greater, found -1"),
            (&["balance.surgery.gradnorm.lr=0"], "lr=0: must be greater than 0, found 0"),
            (&["balance.surgery.krum.n_byzantine=2"], "for 4 tasks, `n_byzantine` must be at most 1, found 2"),
            (&["balance.surgery.krum.n_selected=5"], "n_selected=5: must be at most 4, found 5"),
            (&["balance.surgery.krum.n_selected=0"], "n_selected=0: must be at least 1, found 0"),
            (&["balance.surgery.sdmgrad.lambda=-1"], "lambda=-1: must be 0 or greater"),
            (&["balance.surgery.sdmgrad.momentum=1"], "momentum=1: must be at least 0 and below 1"),
            (&["balance.surgery.sdmgrad.iterations=0"], "iterations=0: must be at least 1"),
            (&["balance.surgery.modo.gamma=0"], "gamma=0: must be greater than 0"),
            (&["balance.surgery.modo.rho=-0.1"], "rho=-0.1: must be 0 or greater"),
            (&[modo], "modo: takes gradients on 3 independent batches per step, and `batch.accumulate` (1) does not"),
            (&[modo], "write `batch: {accumulate: 3}`"),
            (&[modo, "batch.accumulate=4"], "write `batch: {accumulate: 6}`"),
            (&["balance.every=0", pcgrad], "every=0: must be at least 1, found 0"),
            (&["balance.every=2000000000000", pcgrad], "every=2000000000000: must be at most 1099511627776"),
            (&["balance.smoothing=1"], "smoothing=1: must be at least 0 and below 1, found 1"),
            (&["balance.every=2"], "every=2: above 1 needs a surgery that chooses coefficients"),
            (&["balance.every=2", layers, pcgrad], "every=2: above 1 keeps one set of coefficients"),
            (
                &[layers],
                "scope=per_layer_group: needs a surgery on the inner products of one batch, and surgery `none` does",
            ),
            (
                &[layers, modo, "batch.accumulate=3"],
                "scope=per_layer_group: needs a surgery on the inner products of one batch",
            ),
            (&[representation], "gradients=representation: needs a surgery on the inner products of one batch"),
            (&[representation, modo, "batch.accumulate=3"], "and surgery `modo` does not"),
            (&[representation, layers, pcgrad], "gradients=representation: one representation has no layers"),
            (&[representation, pcgrad, "tasks.d.source=r"], "task `a` learns from `s` and task `d` from `r`"),
        ] {
            let found = fault(sets).unwrap_or_default();
            assert!(found.contains(expected), "{sets:?}: {found:?} lacks {expected:?}");
        }
    }

    #[test]
    fn krum_says_how_many_tasks_it_takes() {
        let yaml = "
run: {name: a}
data: {sources: {s: {csv: {train: a.csv, numeric: [x]}}}}
tasks: {t: {source: s, target: y, kind: binary}}
model: {encoder: mlp}
train: {epochs: 1}
balance: {surgery: krum}
";
        let found = load_str("a.yaml", yaml, &[]).unwrap_err().to_string();
        assert!(found.contains("a.yaml:7:20: balance.surgery.krum: compares at least 3 tasks, found 1"), "{found}");
    }
}
