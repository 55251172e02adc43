//! A comparison as Markdown for people, and as CSV for programs. The forms are in `docs/compare.md`.

use super::plan::{Facts, Plan};
use super::report::{Choice, Column, Report, Stat};
use crate::data::Split;
use crate::log::console::table::number;

/// The whole comparison as Markdown, its tables aligned for terminals too.
pub fn markdown(plan: &Plan, facts: &Facts, report: &Report) -> String {
    let mut text = format!("# {}: methods compared\n\n", plan.config.run.name);
    let [done, all] = report.progress;
    if done < all {
        text += &format!("**Not complete: {done} of {all} runs.**\n\n");
    }
    text += &format!(
        "Mean ± standard deviation over {} {}, {}.\n\n",
        plan.seeds.len(),
        if plan.seeds.len() == 1 { "seed" } else { "seeds" },
        splits(plan, facts)
    );
    text += &methods(plan, report);
    text += "\n";
    text += &tasks(plan, report);
    if plan.tunes() {
        text += &format!("\nLearning rates, by the best validation score with seed {}:\n\n", plan.config.run.seed);
        text += &rates(plan, report);
    }
    text += "\n";
    for note in notes(plan, report) {
        text += &format!("- {note}\n");
    }
    text
}

/// One row per method.
fn methods(plan: &Plan, report: &Report) -> String {
    let mut header = vec!["method", "delta_m % ↓", "improvement % ↑", "ms / step", "× equal", "runs"];
    if plan.tunes() {
        header.insert(1, "lr");
    }
    let rows = report.rows.iter().zip(&plan.entrants).map(|(row, entrant)| {
        let runs = match row.runs {
            [well, 0] => well.to_string(),
            [well, failed] => format!("{well}, {failed} failed"),
        };
        let mut cells = vec![
            entrant.name.clone(),
            spread(&row.delta_m, &percent),
            spread(&row.improvement, &percent),
            row.step_ms.mean().map_or("-".into(), |ms| number(Some(ms))),
            row.relative.mean().map_or("-".into(), |ratio| format!("{ratio:.2}")),
            runs,
        ];
        if plan.tunes() {
            cells.insert(1, row.rate.map_or("-".into(), |rate| rate.to_string()));
        }
        cells
    });
    table(&header.iter().map(|h| h.to_string()).collect::<Vec<_>>(), &rows.collect::<Vec<_>>(), 1)
}

/// One row per task and metric, one column per method.
fn tasks(plan: &Plan, report: &Report) -> String {
    let mut header = vec!["task".to_string(), "metric".to_string(), "task alone".to_string()];
    header.extend(plan.entrants[..plan.n_methods].iter().map(|entrant| entrant.name.clone()));
    let rows = report.columns.iter().chain(&report.means).map(|column| {
        let arrow = if column.metric.higher_is_better() { "↑" } else { "↓" };
        let task = column.task.map_or("mean", |task| plan.config.tasks[task].0.as_str());
        let task = if column.index == 0 { task.to_string() } else { String::new() };
        let mut cells = vec![task, format!("{} {arrow}", column.metric.name())];
        cells.extend(std::iter::once(&column.single).chain(&column.methods).map(|stat| spread(stat, &number)));
        cells
    });
    table(&header, &rows.collect::<Vec<_>>(), 2)
}

/// Validation scores by learning rate; the chosen one in bold.
fn rates(plan: &Plan, report: &Report) -> String {
    let mut header = vec![String::new()];
    header.extend(plan.rates.iter().map(f64::to_string));
    let rows = report.choices.iter().zip(&plan.entrants).map(|(choice, entrant)| {
        let cell = |(rate, score): (usize, &Option<f64>)| {
            if choice.chosen == Some(rate) { format!("**{}**", number(*score)) } else { number(*score) }
        };
        let mut cells = vec![entrant.name.clone()];
        cells.extend(choice.scores.iter().enumerate().map(cell));
        cells
    });
    table(&header, &rows.collect::<Vec<_>>(), 1)
}

/// What the values were measured on.
fn splits(plan: &Plan, facts: &Facts) -> String {
    let of = |split: Split| -> Vec<&str> {
        let on = plan.config.tasks.iter().zip(&facts.splits).filter(|(_, on)| **on == split);
        on.map(|((name, _), _)| name.as_str()).collect()
    };
    let best = if facts.validates { "at the best validation score" } else { "at the end of training" };
    match (of(Split::Test), of(Split::Val)) {
        (_, val) if val.is_empty() => format!("test split, {best}"),
        (test, _) if test.is_empty() => format!("validation split, {best}"),
        (_, val) => format!("test split ({}: validation split), {best}", val.join(", ")),
    }
}

fn notes(plan: &Plan, report: &Report) -> Vec<String> {
    let mut notes = vec![
        "delta_m: 100 × mean over all metrics of the relative change from the single tasks, signed so that lower is \
         better (Nash-MTL, FAMO, FairGrad)"
            .to_string(),
        "improvement: the same with the other sign, averaged within each task first, then over tasks; positive is \
         better (LibMTL, times 100)"
            .to_string(),
        "ms / step: median of the records of a run, without evaluations; × equal: mean of the ratios of runs with the \
         same seed. Figures of a busy machine are no benchmark (`polytask bench` is)"
            .to_string(),
    ];
    for reason in &report.undefined {
        notes.push(format!("no delta_m and no improvement: {reason}"));
    }
    for (entrant, failed) in plan.entrants[plan.n_methods..].iter().zip(&report.failed_alone) {
        if *failed > 0 {
            notes.push(format!("{}: {failed} of {} runs failed", entrant.name, plan.seeds.len()));
        }
    }
    let chosen = |choice: &Choice| choice.chosen.is_none() && choice.scores.iter().all(Option::is_none);
    if plan.tunes() && report.progress[0] == report.progress[1] {
        for (entrant, _) in plan.entrants.iter().zip(&report.choices).filter(|(_, choice)| chosen(choice)) {
            notes.push(format!("{}: no learning rate led to the end of training", entrant.name));
        }
    }
    notes
}

/// `mean ± sd`, both with as many decimals, and the number of values in parentheses where some are missing.
fn spread(stat: &Stat, show: &dyn Fn(Option<f64>) -> String) -> String {
    let Some(mean) = stat.mean().map(|mean| show(Some(mean))) else { return "-".into() };
    let decimals = mean.split_once('.').filter(|(_, after)| !after.contains('e')).map(|(_, after)| after.len());
    let sd = match (stat.sd(), decimals) {
        (None, _) => String::new(),
        (Some(sd), Some(decimals)) => format!(" ± {sd:.decimals$}"),
        (Some(sd), None) => format!(" ± {}", show(Some(sd))),
    };
    let missing = if stat.n() < stat.values.len() { format!(" ({})", stat.n()) } else { String::new() };
    format!("{mean}{sd}{missing}")
}

fn percent(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.2}"))
}

/// A Markdown table with aligned columns, the first `left` ones to the left.
fn table(header: &[String], rows: &[Vec<String>], left: usize) -> String {
    let escaped = |row: &[String]| row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<String>>();
    let rows: Vec<Vec<String>> = std::iter::once(escaped(header)).chain(rows.iter().map(|row| escaped(row))).collect();
    let width = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(|c| width(c).max(3)).collect();
    let mut text = String::new();
    for (r, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate().map(|(c, (cell, width))| {
            let pad = " ".repeat(width - cell.chars().count());
            if c < left { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        });
        text += &format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
        if r == 0 {
            let rule = |(c, width): (usize, &usize)| {
                if c < left { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) }
            };
            text += &format!("| {} |\n", widths.iter().enumerate().map(rule).collect::<Vec<_>>().join(" | "));
        }
    }
    text
}

/// Every number as a line of CSV, with its value per seed.
pub fn csv(plan: &Plan, facts: &Facts, report: &Report) -> String {
    let mut lines = Lines(String::new());
    let mut header: Vec<String> =
        ["method", "learning_rate", "quantity", "task", "metric", "split", "higher_is_better", "mean", "sd", "n"]
            .map(String::from)
            .to_vec();
    header.extend(plan.seeds.iter().map(|seed| format!("seed_{seed}")));
    lines.push(&header);
    let of = |entrant: usize| report.choices[entrant].chosen.map_or(String::new(), |rate| plan.rates[rate].to_string());
    for column in report.columns.iter().chain(&report.means) {
        let rate = column.task.map_or(String::new(), |task| of(plan.n_methods + task));
        lines.stat("single_task", &rate, of_column(plan, facts, column), &column.single);
    }
    for (m, row) in report.rows.iter().enumerate() {
        let (name, rate) = (plan.entrants[m].name.as_str(), of(m));
        for column in report.columns.iter().chain(&report.means) {
            lines.stat(name, &rate, of_column(plan, facts, column), &column.methods[m]);
        }
        let failed = row.failed.iter().map(|failed| failed.map(|failed| f64::from(u8::from(failed)))).collect();
        for (quantity, higher, stat) in [
            ("delta_m_percent", false, &row.delta_m),
            ("improvement_percent", true, &row.improvement),
            ("step_ms", false, &row.step_ms),
            ("relative_step_time", false, &row.relative),
            ("failed", false, &Stat { values: failed }),
        ] {
            lines.stat(name, &rate, [quantity, "", "", "", yes(higher)], stat);
        }
    }
    lines.0
}

/// Quantity, task, metric, split, direction; of a mean over tasks, neither task nor split.
fn of_column<'a>(plan: &'a Plan, facts: &Facts, column: &Column) -> [&'a str; 5] {
    let (metric, up) = (column.metric.name(), yes(column.metric.higher_is_better()));
    match column.task {
        Some(task) => ["metric", &plan.config.tasks[task].0, metric, facts.splits[task].name(), up],
        None => ["mean_metric", "", metric, "", up],
    }
}

fn yes(is: bool) -> &'static str {
    if is { "true" } else { "false" }
}

/// CSV in the making.
struct Lines(String);

impl Lines {
    fn push(&mut self, fields: &[String]) {
        let quoted = fields.iter().map(|field| {
            let special = field.contains([',', '"', '\n', '\r']);
            if special { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.clone() }
        });
        self.0 += &(quoted.collect::<Vec<_>>().join(",") + "\n");
    }

    fn stat(&mut self, method: &str, rate: &str, what: [&str; 5], stat: &Stat) {
        let shown = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let mut fields = vec![method.to_string(), rate.to_string()];
        fields.extend(what.map(String::from));
        fields.extend([shown(stat.mean()), shown(stat.sd()), stat.n().to_string()]);
        fields.extend(stat.values.iter().map(|value| shown(*value)));
        self.push(&fields);
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::Outcome;
    use super::super::samples::{outcome, plan, sample};
    use super::*;
    use crate::config::Metric;

    #[test]
    fn a_whole_comparison_as_markdown() {
        let (plan, facts, known) = sample();
        let text = markdown(&plan, &facts, &Report::new(&plan, &known));
        let expected = "\
# sample: methods compared

Mean ± standard deviation over 2 seeds, test split (b: validation split), at the best validation score.

| method |    delta_m % ↓ | improvement % ↑ | ms / step | × equal | runs |
| ------ | -------------: | --------------: | --------: | ------: | ---: |
| equal  |  20.00 ± 42.43 |  -20.00 ± 42.43 |    3.0000 |    1.00 |    2 |
| pcgrad | -22.50 ± 10.61 |   22.50 ± 10.61 |    5.5000 |    1.75 |    2 |

| task | metric |      task alone |           equal |          pcgrad |
| ---- | ------ | --------------: | --------------: | --------------: |
| a    | auc ↑  | 0.5000 ± 0.0000 | 0.5500 ± 0.0707 | 0.6000 ± 0.0707 |
| b    | rmse ↓ | 3.0000 ± 1.4142 | 4.5000 ± 2.1213 | 2.2500 ± 1.0607 |

- delta_m: 100 × ";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("- ")).count(), 3);
    }

    #[test]
    fn what_is_missing_or_failed_is_said() {
        let (plan, facts, mut known) = sample();
        known.get_mut(&(1, 0, 2)).unwrap().failed = true;
        known.remove(&(0, 0, 2));
        known.get_mut(&(2, 0, 1)).unwrap().failed = true;
        let text = markdown(&plan, &facts, &Report::new(&plan, &known));
        for part in ["**Not complete: 7 of 8 runs.**", "1, 1 failed |", "0.6000 (1)", "- a alone: 1 of 2 runs failed\n"]
        {
            assert!(text.contains(part), "`{part}` is missing\n{text}");
        }
        known.insert((3, 0, 1), outcome(&[&[None]], 1.0));
        known.insert((3, 0, 2), outcome(&[&[None]], 1.0));
        let text = markdown(&plan, &facts, &Report::new(&plan, &known));
        assert!(text.contains("- no delta_m and no improvement: there is no single-task value of b/rmse\n"), "{text}");
    }

    #[test]
    fn tuned_learning_rates_are_shown_with_their_scores() {
        let (_, facts, first) = sample();
        let plan = plan(&[0.1, 0.2]);
        let mut known = first.clone();
        for entrant in 0..4 {
            let other = &first[&(entrant, 0, 1)];
            known.insert((entrant, 1, 1), Outcome { score: Some(0.25 * entrant as f64), ..other.clone() });
            known.insert((entrant, 1, 2), other.clone());
        }
        (0..2).for_each(|rate| known.get_mut(&(1, rate, 1)).unwrap().failed = true);
        let text = markdown(&plan, &facts, &Report::new(&plan, &known));
        let expected = "
Learning rates, by the best validation score with seed 1:

|         |        0.1 |        0.2 |
| ------- | ---------: | ---------: |
| equal   | **0.5000** |          0 |
| pcgrad  |          - |          - |
| a alone | **0.5000** |     0.5000 |
| b alone |     0.5000 | **0.7500** |
";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("| equal  | 0.1 | ") && text.contains("| pcgrad |   - | "), "{text}");
        assert!(text.contains("- pcgrad: no learning rate led to the end of training\n"), "{text}");
    }

    #[test]
    fn deviations_have_the_decimals_of_their_mean() {
        let of = |values: &[f64]| spread(&Stat { values: values.iter().map(|v| Some(*v)).collect() }, &number);
        assert_eq!(of(&[0.5, 0.5001]), "0.5000 ± 0.0001");
        assert_eq!(of(&[500.0, 501.0]), "500.5 ± 0.7");
        assert_eq!(of(&[1e-6, 2e-6]), "1.50e-6 ± 7.07e-7");
        assert_eq!(of(&[0.0, 0.0]), "0 ± 0");
        assert_eq!(of(&[2.0]), "2.0000");
    }

    #[test]
    fn means_over_tasks_are_rows_of_their_own() {
        let (mut plan, facts, known) = sample();
        plan.config.tasks[0].1.metrics = vec![Metric::Loss];
        plan.config.tasks[1].1.metrics = vec![Metric::Loss];
        let report = Report::new(&plan, &known);
        let text = markdown(&plan, &facts, &report);
        assert!(text.contains("\n| mean | loss ↓ | 1.7500 ± 0.7071 | 2.5250 ± 1.0253 | "), "{text}");
        let text = csv(&plan, &facts, &report);
        assert!(text.contains("\nsingle_task,,mean_metric,,loss,,false,1.75,"), "{text}");
        assert!(text.contains("\nequal,0.001,mean_metric,,loss,,false,2.525,"), "{text}");
    }

    #[test]
    fn every_number_is_in_the_csv_with_its_seeds() {
        let (mut plan, facts, known) = sample();
        plan.entrants[1].name = "{a: 1, b: 2}".into();
        let text = csv(&plan, &facts, &Report::new(&plan, &known));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "method,learning_rate,quantity,task,metric,split,higher_is_better,mean,sd,n,seed_1,seed_2"
        );
        assert_eq!(lines[1], "single_task,0.001,metric,a,auc,test,true,0.5,0,2,0.5,0.5");
        assert!(lines.contains(&"equal,0.001,metric,b,rmse,val,false,4.5,2.1213203435596424,2,3,6"), "{text}");
        assert!(lines.contains(&"\"{a: 1, b: 2}\",0.001,failed,,,,false,0,0,2,0,0"), "{text}");
        assert!(lines.iter().any(|line| line.starts_with("equal,0.001,delta_m_percent,,,,false,2")), "{text}");
        // Two baselines; two methods with two metrics and five other quantities each.
        assert_eq!(lines.len(), 1 + 2 + 2 * 7);
    }

    #[test]
    fn cells_are_escaped_and_counted_in_characters() {
        let rows = [vec!["a|b".to_string(), "±".to_string()], vec!["é".to_string(), "12345".to_string()]];
        let header = ["x".to_string(), "y".to_string()];
        assert_eq!(
            table(&header, &rows, 1),
            "| x    |     y |\n| ---- | ----: |\n| a\\|b |     ± |\n| é    | 12345 |\n"
        );
    }
}
