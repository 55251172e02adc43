//! What stands at the head of a run in TensorBoard: the configuration as text, the hyper-parameters, the dashboard.

use super::proto::*;
use super::writer::now;
use crate::log::{HParam, RunInfo, Status};
use prost::Message;

const TENSOR: i32 = 2;

/// Everything that is written once per file.
pub fn head(info: &RunInfo) -> Vec<Value> {
    vec![
        text("run", facts(info)),
        text("config", verbatim(&info.config_yaml)),
        hparams("_hparams_/experiment", HParamsData::Experiment(experiment(info))),
        hparams("_hparams_/session_start_info", HParamsData::Start(session_start(info))),
        layout(info),
    ]
}

/// How the run ended; none for a run that will be continued.
pub fn tail(status: Status) -> Option<Value> {
    let status = match status {
        Status::Done => 1,
        Status::Failed => 2,
        Status::Stopped => return None,
    };
    Some(hparams("_hparams_/session_end_info", HParamsData::End(SessionEnd { status, end: now() })))
}

fn text(tag: &str, markdown: String) -> Value {
    let shape = Some(Shape { dim: vec![Dim { size: 1 }] });
    plugin(tag, "text", Vec::new(), Tensor { dtype: DT_STRING, shape, strings: vec![markdown.into_bytes()] })
}

fn hparams(tag: &str, data: HParamsData) -> Value {
    let content = HParamsContent { data: Some(data) }.encode_to_vec();
    let shape = Some(Shape { dim: vec![Dim { size: 0 }] });
    plugin(tag, "hparams", content, Tensor { dtype: DT_FLOAT, shape, strings: Vec::new() })
}

fn plugin(tag: &str, name: &str, content: Vec<u8>, tensor: Tensor) -> Value {
    let plugin_data = Some(PluginData { plugin_name: name.into(), content });
    let metadata = Some(Metadata { plugin_data, description: String::new(), data_class: TENSOR });
    Value { tag: tag.into(), metadata, datum: Some(Datum::Tensor(tensor)) }
}

/// Indented by four, Markdown shows text as it is, whatever fences it holds.
fn verbatim(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

fn facts(info: &RunInfo) -> String {
    let tasks = info.task_names().join(", ").replace('|', "\\|");
    let rows = [
        ("run", info.name.clone()),
        ("tasks", format!("{} ({tasks})", info.tasks.len())),
        ("shared parameters", info.n_params_shared.to_string()),
        ("task-specific parameters", info.n_params_private.to_string()),
        ("ranks", info.world_size.to_string()),
        ("device", info.device.clone()),
        ("steps", info.total_steps.to_string()),
        ("polytask", env!("CARGO_PKG_VERSION").into()),
        ("libtorch", info.libtorch.clone()),
    ];
    let rows: String = rows.iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
    rows.replacen('\n', "\n|---|---|\n", 1)
}

fn experiment(info: &RunInfo) -> Experiment {
    let kind = |value: &HParam| match value {
        HParam::Text(_) => 1,
        HParam::Flag(_) => 2,
        HParam::Number(_) => 3,
    };
    let metric = |tag: String, title: String| MetricInfo { name: Some(MetricName { tag }), title };
    let mut metrics = vec![
        metric("eval/val/best_score".into(), "val best score".into()),
        metric("eval/val/score".into(), "val last score".into()),
    ];
    for split in ["val", "test"] {
        metrics.extend(info.metrics().iter().map(|m| {
            let name = m.name();
            metric(format!("eval/{split}/{name}/mean"), format!("{split} mean {name}"))
        }));
    }
    Experiment {
        created: now(),
        hparams: info.hparams.iter().map(|(name, v)| HParamInfo { name: name.clone(), kind: kind(v) }).collect(),
        metrics,
    }
}

fn session_start(info: &RunInfo) -> SessionStart {
    let scalar = |value: &HParam| {
        let kind = match value.clone() {
            HParam::Number(v) => ScalarKind::Number(v),
            HParam::Text(v) => ScalarKind::Text(v),
            HParam::Flag(v) => ScalarKind::Flag(v),
        };
        Scalar { kind: Some(kind) }
    };
    let hparams = info.hparams.iter().map(|(name, value)| (name.clone(), scalar(value))).collect();
    SessionStart { hparams, group: info.name.clone(), start: now() }
}

/// All tasks in one chart per quantity, so that the dashboard is there at once.
fn layout(info: &RunInfo) -> Value {
    let metrics = info.metrics();
    let of_metric =
        metrics.iter().map(|m| chart(&format!("{} (val)", m.name()), &[&format!("eval/val/{}/.*", m.name())]));
    let score = chart("score", &["eval/val/score$", "eval/val/best_score$", "eval/test/score$"]);
    let category = vec![
        Category {
            title: "Tasks".into(),
            chart: vec![
                chart("training loss", &["train/loss/.*"]),
                chart("weights", &["train/weight/.*"]),
                chart("coefficients", &["train/coef/.*"]),
            ],
            closed: false,
        },
        Category {
            title: "Evaluation".into(),
            chart: std::iter::once(score).chain(of_metric).collect(),
            closed: false,
        },
        Category {
            title: "Gradients".into(),
            chart: vec![
                chart("gradient norms", &["grad/norm/.*"]),
                chart("cosines", &["grad/cosine/.*", "grad/cosine_mean$", "grad/cosine_min$"]),
                chart("conflict rate", &["grad/conflict_rate$"]),
            ],
            closed: false,
        },
        Category {
            title: "Speed".into(),
            chart: vec![
                chart("milliseconds per phase", &["perf/time_ms/.*", "perf/step_ms$"]),
                chart("samples per second", &["perf/samples_per_s$"]),
            ],
            closed: true,
        },
    ];
    let strings = vec![Layout { category }.encode_to_vec()];
    let tensor = Tensor { dtype: DT_STRING, shape: Some(Shape::default()), strings };
    plugin("custom_scalars__config__", "custom_scalars", Vec::new(), tensor)
}

fn chart(title: &str, tags: &[&str]) -> Chart {
    Chart { title: title.into(), multiline: Some(Multiline { tag: tags.iter().map(|t| t.to_string()).collect() }) }
}
