//! `balance.weighting`: options in range, names of tasks that exist.

use super::super::fault::Fault;
use super::super::{Config, Named, StchForm, Weighting};
use super::batch::{known_name, named};
use super::{At, Checked, MANY};

pub(super) fn check(config: &Config) -> Checked {
    let tasks: Vec<&str> = config.tasks.iter().map(|(name, _)| name.as_str()).collect();
    let at = At::key("balance").then("weighting");
    match &config.balance.weighting {
        Weighting::Equal | Weighting::Random | Weighting::ScaleInvariant | Weighting::Gls => Ok(()),
        Weighting::Fixed(weights) => named(&at.then("fixed"), weights, "task", &tasks),
        Weighting::Uncertainty(o) => learned(&at.then("uncertainty"), o.lr, o.init),
        Weighting::Dwa(o) => at.then("dwa").then("temperature").positive(o.temperature),
        Weighting::ImtlL(o) => learned(&at.then("imtl_l"), o.lr, o.init),
        Weighting::Stch(o) => {
            let at = at.then("stch");
            at.then("mu").positive(o.mu)?;
            at.then("warmup_epochs").within(o.warmup_epochs, 0, MANY)?;
            for (key, map) in [("preferences", &o.preferences), ("ideal", &o.ideal)] {
                at.then(key).need(map.is_empty() || o.form == StchForm::Linear, "needs `form: linear`")?;
            }
            preferences(&at, &o.preferences, &tasks)?;
            names(&at.then("ideal"), &o.ideal, &tasks)
        }
        Weighting::Famo(o) => {
            let at = at.then("famo");
            at.then("lr").positive(o.lr)?;
            at.then("gamma").not_negative(o.gamma)?;
            names(&at.then("min_losses"), &o.min_losses, &tasks)
        }
        Weighting::AutoLambda(o) => {
            let at = at.then("auto_lambda");
            at.then("lr").positive(o.lr)?;
            at.then("init").positive(o.init)?;
            let primary = at.then("primary");
            o.primary.iter().enumerate().try_for_each(|(i, name)| known_name(&primary.then(i), name, "task", &tasks))
        }
        Weighting::Cosmos(o) => {
            let at = at.then("cosmos");
            at.then("lambda").not_negative(o.lambda)?;
            preferences(&at, &o.preferences, &tasks)
        }
        Weighting::Pbi(o) => {
            let at = at.then("pbi");
            at.then("theta").not_negative(o.theta)?;
            preferences(&at, &o.preferences, &tasks)?;
            names(&at.then("ideal"), &o.ideal, &tasks)
        }
        Weighting::Go4align(o) => {
            let at = at.then("go4align");
            at.then("groups").within(o.groups as u64, 1, MANY)?;
            at.then("step_size").not_negative(o.step_size)
        }
        Weighting::LdcMtl(o) => {
            let at = at.then("ldc_mtl");
            at.then("lambda").not_negative(o.lambda)?;
            at.then("lr").positive(o.lr)
        }
    }
}

/// Numbers that are learned in the exponent.
fn learned(at: &At, lr: f64, init: f64) -> Checked {
    at.then("lr").positive(lr)?;
    at.then("init").need((-20.0..=20.0).contains(&init), format!("must be between -20 and 20, found {init}"))
}

fn preferences(at: &At, preferences: &Named, tasks: &[&str]) -> Checked {
    if preferences.is_empty() { Ok(()) } else { named(&at.then("preferences"), preferences, "task", tasks) }
}

fn names(at: &At, by_task: &Named, tasks: &[&str]) -> Checked {
    by_task.keys().try_for_each(|name| known_name(&at.then(name), name, "task", tasks).map_err(Fault::on_key))
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigError, load, load_str};
    use std::path::Path;

    fn with(set: &str) -> Result<Config, ConfigError> {
        load(Path::new("tests/broken_configs/base.yaml"), &[format!("balance.{set}")])
    }

    #[test]
    fn every_choice_is_read_back_as_it_is_written() {
        let choices = [
            "weighting=random",
            "weighting=scale_invariant",
            "weighting={uncertainty: {form: revised}}",
            "weighting={dwa: {temperature: 1}}",
            "weighting=gls",
            "weighting={imtl_l: {lr: 0.1, init: -1}}",
            "weighting={stch: {mu: 0.1, warmup_epochs: 0}}",
            "weighting={stch: {form: linear, preferences: {income: 2}, ideal: {hours: -1}}}",
            "weighting={famo: {gamma: 0, min_losses: {income: -0.5}}}",
            "weighting={cosmos: {lambda: 0, preferences: {income: 0}}}",
            "weighting={pbi: {theta: 1, ideal: {hours: 0.1}}}",
            "weighting={go4align: {groups: 1, step_size: 0}}",
            "weighting={ldc_mtl: {lambda: 0.1, normalize: none, tau: ones}}",
            "tasks=alternating",
            "tasks={grouped: {groups: [[income, hours], [hours]]}}",
            "tasks={curriculum: {income: {from: 5}, hours: {until: 9}}}",
        ];
        for choice in choices {
            let config = with(choice).unwrap_or_else(|e| panic!("{choice}: {e}"));
            let again = load_str("again.yaml", &config.to_yaml().unwrap(), &[]).unwrap();
            assert_eq!(again.balance, config.balance, "{choice}");
        }
    }

    #[test]
    fn options_out_of_range_and_unknown_tasks_are_refused() {
        let refused = [
            ("weighting={dwa: {temperature: 0}}", "must be greater than 0"),
            ("weighting={imtl_l: {init: 21}}", "must be between -20 and 20"),
            ("weighting={imtl_l: {lr: -1}}", "must be greater than 0"),
            ("weighting={stch: {mu: 0}}", "must be greater than 0"),
            ("weighting={stch: {ideal: {hours: 1}}}", "needs `form: linear`"),
            ("weighting={stch: {form: linear, ideal: {hour: 1}}}", "no task is called `hour`"),
            ("weighting={famo: {gamma: -1}}", "must be 0 or greater"),
            ("weighting={famo: {min_losses: {incom: 1}}}", "did you mean `income`?"),
            ("weighting={cosmos: {preferences: {income: 0, hours: 0}}}", "must not all be 0"),
            ("weighting={cosmos: {lambda: -1}}", "must be 0 or greater"),
            ("weighting={pbi: {preferences: {income: -1}}}", "must be 0 or greater"),
            ("weighting={pbi: {theta: -1}}", "must be 0 or greater"),
            ("weighting={go4align: {groups: 0}}", "must be at least 1"),
            ("weighting={ldc_mtl: {lr: 0}}", "must be greater than 0"),
            ("tasks={alternating: {every: 0}}", "must be at least 1"),
            ("tasks=grouped", "missing field `groups`"),
            ("tasks={grouped: {groups: [[income]]}}", "task `hours` is in no group"),
            ("tasks={curriculum: {income: {from: 1}, hours: {from: 2}}}", "no task is active in step 0"),
        ];
        for (set, expected) in refused {
            let message = with(set).map_or_else(|e| e.to_string(), |_| "accepted".into());
            assert!(message.contains(expected), "{set}: {message}");
        }
    }
}
