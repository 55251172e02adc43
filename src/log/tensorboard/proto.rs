//! The few protocol-buffer messages of TensorBoard that we write and read, as plain Rust structs.
//!
//! Field numbers are those of TensorBoard 2.x (`event.proto`, `summary.proto`, `tensor.proto`,
//! `plugins/hparams/{plugin_data,api}.proto`, `plugins/custom_scalar/layout.proto`). Written by hand on `prost`'s
//! derive: twenty small messages are not worth a protocol compiler on every user's machine.

use std::collections::BTreeMap;

/// One record of an events file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    /// Optimizer steps done.
    #[prost(int64, tag = "2")]
    pub step: i64,
    /// What the record says.
    #[prost(oneof = "What", tags = "3, 5, 7")]
    pub what: Option<What>,
}

/// What an event says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum What {
    /// First record of a file: `brain.Event:2`.
    #[prost(string, tag = "3")]
    FileVersion(String),
    /// Values under tags.
    #[prost(message, tag = "5")]
    Summary(Summary),
    /// Start of a session: points of this step and later ones, written before, are void.
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

/// Start or stop of a session.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SessionLog {
    /// 1: start.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// Values under tags.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Summary {
    /// The values.
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Value>,
}

/// One value under a tag.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    /// The tag; `/` groups the dashboard.
    #[prost(string, tag = "1")]
    pub tag: String,
    /// Which plugin shows it; only the first one of a tag counts.
    #[prost(message, optional, tag = "9")]
    pub metadata: Option<Metadata>,
    /// The value.
    #[prost(oneof = "Datum", tags = "2, 4, 8")]
    pub datum: Option<Datum>,
}

/// The kinds of value.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Datum {
    /// A scalar.
    #[prost(float, tag = "2")]
    Scalar(f32),
    /// A picture.
    #[prost(message, tag = "4")]
    Image(Image),
    /// A tensor: text, hparams, layout.
    #[prost(message, tag = "8")]
    Tensor(Tensor),
}

/// Which plugin shows a tag, and how.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metadata {
    /// Plugin and its content.
    #[prost(message, optional, tag = "1")]
    pub plugin_data: Option<PluginData>,
    /// Text shown beside the chart.
    #[prost(string, tag = "3")]
    pub description: String,
    /// 1: scalar, 2: tensor.
    #[prost(int32, tag = "4")]
    pub data_class: i32,
}

/// A plugin and its content.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PluginData {
    /// `text`, `hparams`, `custom_scalars`.
    #[prost(string, tag = "1")]
    pub plugin_name: String,
    /// A message of the plugin's own.
    #[prost(bytes = "vec", tag = "2")]
    pub content: Vec<u8>,
}

/// A picture.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Image {
    /// Rows of pixels.
    #[prost(int32, tag = "1")]
    pub height: i32,
    /// Columns of pixels.
    #[prost(int32, tag = "2")]
    pub width: i32,
    /// 3: RGB.
    #[prost(int32, tag = "3")]
    pub colorspace: i32,
    /// A PNG file.
    #[prost(bytes = "vec", tag = "4")]
    pub png: Vec<u8>,
}

/// `Tensor::dtype` of 32-bit floats.
pub const DT_FLOAT: i32 = 1;
/// `Tensor::dtype` of strings.
pub const DT_STRING: i32 = 7;

/// A tensor of strings, or an empty one of floats.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tensor {
    /// [`DT_FLOAT`] or [`DT_STRING`].
    #[prost(int32, tag = "1")]
    pub dtype: i32,
    /// Shape; none: a scalar.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
    /// Strings, row-major.
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub strings: Vec<Vec<u8>>,
}

/// Shape of a tensor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Shape {
    /// Axes.
    #[prost(message, repeated, tag = "2")]
    pub dim: Vec<Dim>,
}

/// One axis.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dim {
    /// Length.
    #[prost(int64, tag = "1")]
    pub size: i64,
}

/// Content of the `hparams` plugin.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HParamsContent {
    /// Which of the three records it is.
    #[prost(oneof = "HParamsData", tags = "2, 3, 4")]
    pub data: Option<HParamsData>,
}

/// The three records of the `hparams` plugin.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum HParamsData {
    /// Which hyper-parameters and metrics there are.
    #[prost(message, tag = "2")]
    Experiment(Experiment),
    /// The values of this run.
    #[prost(message, tag = "3")]
    Start(SessionStart),
    /// How this run ended.
    #[prost(message, tag = "4")]
    End(SessionEnd),
}

/// Which hyper-parameters and metrics there are.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Experiment {
    /// Seconds since 1970.
    #[prost(double, tag = "3")]
    pub created: f64,
    /// The hyper-parameters.
    #[prost(message, repeated, tag = "4")]
    pub hparams: Vec<HParamInfo>,
    /// The metrics.
    #[prost(message, repeated, tag = "5")]
    pub metrics: Vec<MetricInfo>,
}

/// A hyper-parameter.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HParamInfo {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// 1: string, 2: bool, 3: number.
    #[prost(int32, tag = "4")]
    pub kind: i32,
}

/// A metric: the last scalar of a tag.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricInfo {
    /// Where it is.
    #[prost(message, optional, tag = "1")]
    pub name: Option<MetricName>,
    /// Title of the column.
    #[prost(string, tag = "3")]
    pub title: String,
}

/// Where a metric is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricName {
    /// The tag of its scalars.
    #[prost(string, tag = "2")]
    pub tag: String,
}

/// The hyper-parameters of a run.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SessionStart {
    /// Values by name.
    #[prost(btree_map = "string, message", tag = "1")]
    pub hparams: BTreeMap<String, Scalar>,
    /// Name of the group of sessions.
    #[prost(string, tag = "4")]
    pub group: String,
    /// Seconds since 1970.
    #[prost(double, tag = "5")]
    pub start: f64,
}

/// `google.protobuf.Value`, as far as hyper-parameters need it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Scalar {
    /// The value.
    #[prost(oneof = "ScalarKind", tags = "2, 3, 4")]
    pub kind: Option<ScalarKind>,
}

/// The kinds of hyper-parameter.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ScalarKind {
    /// A number.
    #[prost(double, tag = "2")]
    Number(f64),
    /// A string.
    #[prost(string, tag = "3")]
    Text(String),
    /// Yes or no.
    #[prost(bool, tag = "4")]
    Flag(bool),
}

/// How a run ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SessionEnd {
    /// 1: success, 2: failure.
    #[prost(int32, tag = "1")]
    pub status: i32,
    /// Seconds since 1970.
    #[prost(double, tag = "2")]
    pub end: f64,
}

/// Layout of the custom-scalars dashboard.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Layout {
    /// Groups of charts.
    #[prost(message, repeated, tag = "2")]
    pub category: Vec<Category>,
}

/// A group of charts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Category {
    /// Title.
    #[prost(string, tag = "1")]
    pub title: String,
    /// Its charts.
    #[prost(message, repeated, tag = "2")]
    pub chart: Vec<Chart>,
    /// Folded at first.
    #[prost(bool, tag = "3")]
    pub closed: bool,
}

/// A chart of many lines.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Chart {
    /// Title.
    #[prost(string, tag = "1")]
    pub title: String,
    /// Its lines.
    #[prost(message, optional, tag = "2")]
    pub multiline: Option<Multiline>,
}

/// The lines of a chart.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Multiline {
    /// Regular expressions, matched from the start of a tag.
    #[prost(string, repeated, tag = "1")]
    pub tag: Vec<String>,
}
