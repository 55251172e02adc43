//! Sections `balance`, `optim`, `schedule`, `train`, `comm`, `checkpoint` and `log`.

use super::super::fault::{any_of, quote};
use super::super::{Adam, Config, Layout, Optim, Reduction, Schedule, Sgd, Spike, Train, hints};
use super::{At, Checked, MANY};

/// Longest time-out in seconds.
const YEAR: u64 = 365 * 24 * 3600;

pub(super) fn check(config: &Config) -> Checked {
    super::weighting::check(config)?;
    super::active::check(config)?;
    super::shard_methods::check(config)?;
    optim(&At::key("optim"), &config.optim)?;
    schedule(&At::key("schedule"), config)?;
    train(&At::key("train"), &config.train)?;
    super::comm::check(config)?;
    best_by(&At::key("train").then("best_by"), config)?;
    At::key("data").then("timeout").within(config.data.timeout, 0, YEAR)?;
    At::key("comm").then("timeout").within(config.comm.timeout, 0, YEAR)?;
    At::key("comm").then("init_timeout").within(config.comm.init_timeout, 0, YEAR)?;
    checkpoint(&At::key("checkpoint"), config)?;
    At::key("log").then("every").within(config.log.every, 1, MANY)?;
    At::key("log").then("image_every").within(config.log.image_every, 0, MANY)?;
    let factor = config.log.straggler;
    let message = format!("must be 0 (off) or greater than 1, found {factor}");
    At::key("log").then("straggler").need(factor == 0.0 || (factor > 1.0 && factor.is_finite()), message)
}

fn checkpoint(at: &At, config: &Config) -> Checked {
    let checkpoint = &config.checkpoint;
    at.then("every").within(checkpoint.every, 0, MANY)?;
    checkpoint.every_minutes.map_or(Ok(()), |minutes| at.then("every_minutes").positive(minutes))?;
    at.then("keep").within(checkpoint.keep as u64, 1, MANY)?;
    at.then("keep_every").within(checkpoint.keep_every, 0, MANY)?;
    let possible = checkpoint.layout != Layout::Sharded || config.comm.reduction == Reduction::Sharded;
    let message = "needs `comm.reduction: sharded`: with `all_reduce` every rank has all states";
    at.then("layout").need(possible, message)
}

fn optim(at: &At, optim: &Optim) -> Checked {
    match optim {
        Optim::Sgd(o) => sgd(&at.then("sgd"), o),
        Optim::Adam(o) => adam(&at.then("adam"), o),
        Optim::Adamw(o) => adam(&at.then("adamw"), o),
    }
}

fn sgd(at: &At, o: &Sgd) -> Checked {
    at.then("lr").positive(o.lr)?;
    at.then("momentum").share(o.momentum)?;
    at.then("nesterov").need(!o.nesterov || o.momentum > 0.0, "needs `momentum`")?;
    at.then("weight_decay").not_negative(o.weight_decay)?;
    o.clip_norm.map_or(Ok(()), |norm| at.then("clip_norm").positive(norm))
}

fn adam(at: &At, o: &Adam) -> Checked {
    at.then("lr").positive(o.lr)?;
    o.betas.iter().enumerate().try_for_each(|(i, beta)| at.then("betas").then(i).share(*beta))?;
    at.then("eps").positive(o.eps)?;
    at.then("weight_decay").not_negative(o.weight_decay)?;
    o.clip_norm.map_or(Ok(()), |norm| at.then("clip_norm").positive(norm))
}

fn schedule(at: &At, config: &Config) -> Checked {
    let (at, warmup) = match &config.schedule {
        Schedule::Constant(o) => (at.then("constant"), o.warmup),
        Schedule::Cosine(o) => (at.then("cosine"), o.warmup),
        Schedule::Linear(o) => (at.then("linear"), o.warmup),
        Schedule::Step(o) => (at.then("step"), o.warmup),
    };
    at.then("warmup").within(warmup, 0, MANY)?;
    if let Some(steps) = config.train.steps {
        let message = format!("must be below `train.steps` ({steps}), found {warmup}");
        at.then("warmup").need(warmup < steps || steps == 0, message)?;
    }
    match &config.schedule {
        Schedule::Constant(_) => Ok(()),
        Schedule::Cosine(o) | Schedule::Linear(o) => {
            let message = format!("must be between 0 and 1, found {}", o.floor);
            at.then("floor").need((0.0..=1.0).contains(&o.floor), message)
        }
        Schedule::Step(o) => {
            at.then("every").within(o.every, 1, MANY)?;
            let message = format!("must be greater than 0 and at most 1, found {}", o.gamma);
            at.then("gamma").need(o.gamma > 0.0 && o.gamma <= 1.0, message)
        }
    }
}

fn train(at: &At, train: &Train) -> Checked {
    if train.epochs.is_none() && train.steps.is_none() {
        return Err(at.fault("how long to train is not given").hint("add `epochs: 10` or `steps: 1000` to `train`"));
    }
    let optional = [
        ("epochs", train.epochs, 1 << 32),
        ("steps", train.steps, MANY),
        ("eval_every_steps", train.eval_every_steps, MANY),
        ("patience", train.patience, MANY),
        ("threads", train.threads.map(|n| n as u64), 4096),
    ];
    for (key, value, most) in optional {
        value.map_or(Ok(()), |value| at.then(key).within(value, 1, most))?;
    }
    let evaluates = train.eval_every_epochs > 0 || train.eval_every_steps.is_some();
    let message = "needs evaluations during training, but `eval_every_epochs` is 0";
    at.then("patience").need(train.patience.is_none() || evaluates, message)?;
    at.then("eval_every_epochs").within(train.eval_every_epochs, 0, MANY)?;
    at.then("eval_batch").within(train.eval_batch as u64, 1, MANY)?;
    at.then("replica_check_every").within(train.replica_check_every, 0, MANY)?;
    at.then("max_skipped").within(train.max_skipped, 1, MANY)?;
    at.then("max_rollbacks").within(train.max_rollbacks, 1, MANY)?;
    train.spike.map_or(Ok(()), |s| spike(&at.then("spike"), &s))?;
    time_limit(at, train)?;
    device(&at.then("device"), &train.device)
}

fn spike(at: &At, spike: &Spike) -> Checked {
    at.then("sigmas").positive(spike.sigmas)?;
    at.then("window").within(spike.window, 4, 1 << 16)
}

fn time_limit(at: &At, train: &Train) -> Checked {
    let margin = train.stop_margin;
    at.then("stop_margin").within(margin.seconds, 0, YEAR)?;
    let Some(limit) = train.max_time else { return Ok(()) };
    at.then("max_time").within(limit.seconds, 1, YEAR)?;
    if limit > margin {
        return Ok(());
    }
    let fault = at.then("max_time").fault(format!("must be longer than `train.stop_margin` ({margin}), found {limit}"));
    Err(fault.hint("a run stops so long before its time is up; a plain number is in seconds"))
}

fn device(at: &At, device: &str) -> Checked {
    let index = device.strip_prefix("cuda:").map(|index| {
        !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit()) && index.parse::<u32>().is_ok_and(|i| i < 1024)
    });
    let fault = at.fault(format!("expected `auto`, `cpu`, `cuda` or `cuda:N`, found {}", quote(device)));
    let fits = index.unwrap_or(matches!(device, "auto" | "cpu" | "cuda"));
    if fits { Ok(()) } else { Err(hints::similar(fault, device, &["auto", "cpu", "cuda"])) }
}

/// `mean`, or `task/metric` of a task that reports this metric.
fn best_by(at: &At, config: &Config) -> Checked {
    let best_by = config.train.best_by.as_str();
    if best_by == "mean" {
        return Ok(());
    }
    let Some((name, metric)) = best_by.rsplit_once('/') else {
        let fault = at.fault(format!("expected `mean` or `task/metric`, found {}", quote(best_by)));
        return Err(hints::similar(fault, best_by, &["mean"]));
    };
    let tasks: Vec<&str> = config.tasks.iter().map(|(name, _)| name.as_str()).collect();
    let Some((_, task)) = config.tasks.iter().find(|(task, _)| task == name) else {
        let fault = at.fault(format!("no task is called {}", quote(name)));
        return Err(hints::similar(fault, name, &tasks));
    };
    let reported: Vec<&str> = task.metrics().iter().map(|m| m.name()).collect();
    if reported.contains(&metric) {
        return Ok(());
    }
    let fault = at.fault(format!("task `{name}` does not report {}, only {}", quote(metric), any_of(&reported)));
    Err(fault.hint(format!("add it to `tasks.{name}.metrics`")))
}
