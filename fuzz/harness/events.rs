//! TensorBoard's events: our reader, and our writer read back by it.

use polytask::log::tensorboard::frame::{FrameError, events, frame, frames};
use polytask::log::tensorboard::proto::{Datum, Event, Image, Metadata, PluginData, Shape, Tensor, Value, What};
use polytask::log::tensorboard::writer::{EventWriter, Sink};
use polytask::log::tensorboard::{Start, TensorBoard};
use polytask::log::{EvalRecord, HParam, RankRecord, RunInfo, Status, TaskInfo, TrainRecord};
use prost::Message;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Any bytes as a file, and as the content of a record.
pub fn read(data: &[u8]) {
    whole(data);
    whole(&frame(data));
}

/// Events come until the first error, which stands within the file and ends the reading; they are written and read back
/// the same.
fn whole(bytes: &[u8]) {
    let items: Vec<Result<Event, FrameError>> = events(bytes).collect();
    let good = items.iter().take_while(|item| item.is_ok()).count();
    assert!(items.len() - good <= 1, "reading went on after an error");
    if let Some(Err(error)) = items.last() {
        let (FrameError::Torn { offset } | FrameError::Checksum { offset, .. } | FrameError::Event { offset, .. }) =
            error;
        assert!(*offset < bytes.len(), "{error}");
    }
    let payloads: Vec<&[u8]> = frames(bytes).map_while(Result::ok).collect();
    let framed: Vec<u8> = payloads.iter().flat_map(|payload| frame(payload)).collect();
    assert!(bytes.starts_with(&framed), "records do not lie end to end");
    for event in items.into_iter().flatten() {
        let again = frame(&event.encode_to_vec());
        let back: Vec<_> = events(&again).collect();
        let [Ok(back)] = &back[..] else { panic!("one event becomes {back:?}") };
        // By their bytes: NaN differs from itself.
        assert_eq!(back.encode_to_vec(), event.encode_to_vec());
    }
}

/// A file in memory.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no thread has panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Page {
    fn sink(&self) -> Sink {
        Sink { out: Box::new(self.clone()), path: None, flush: Duration::from_secs(5) }
    }

    fn events(&self) -> Vec<Event> {
        let bytes = self.0.lock().expect("no thread has panicked").clone();
        events(&bytes).map(|event| event.expect("what was written can be read")).collect()
    }
}

/// Arbitrary values under arbitrary tags come back equal; arbitrary records can be written and read.
pub fn write(data: &[u8]) {
    let mut source = Source(data);
    values(&mut source.clone());
    records(&mut source);
}

fn values(source: &mut Source) {
    let (page, mut sent) = (Page::default(), Vec::new());
    let mut writer = EventWriter::start(page.sink(), Some(3)).expect("memory takes all");
    while !source.is_empty() && sent.len() < 16 {
        let (step, value): (u64, Vec<Value>) =
            (source.number(), (0..source.byte() % 4).map(|_| source.value()).collect());
        writer.write(step, value.clone()).expect("the queue is long enough");
        sent.push((step, value));
    }
    writer.close().expect("memory takes all");
    let found = page.events();
    assert_eq!(found.len(), sent.len() + 2, "the version, the mark, and what was sent");
    for (event, (step, value)) in found[2..].iter().zip(sent) {
        let Some(What::Summary(summary)) = &event.what else { panic!("no summary: {event:?}") };
        assert_eq!(event.step as u64, step);
        let bytes = |values: &[Value]| values.iter().map(Message::encode_to_vec).collect::<Vec<_>>();
        assert_eq!(bytes(&summary.value), bytes(&value));
    }
}

fn records(source: &mut Source) {
    let page = Page::default();
    let tasks: Vec<String> = (0..source.byte() % 5).map(|_| source.text()).collect();
    let info = RunInfo {
        name: source.text(),
        tasks: tasks.iter().map(|name| TaskInfo { name: name.clone(), metrics: vec![] }).collect(),
        world_size: source.byte().into(),
        device: source.text(),
        n_params_shared: source.number(),
        n_params_private: source.number(),
        total_steps: source.number(),
        config_yaml: source.text(),
        hparams: vec![(source.text(), HParam::Text(source.text())), (source.text(), HParam::Number(source.float()))],
        libtorch: source.text(),
    };
    let start = Start { resumed: None, every: source.byte().into(), image_every: source.byte().into() };
    let mut board = TensorBoard::over(page.sink(), true, &info, start).expect("memory takes all");
    let record = source.record(&tasks);
    board.train(&record).expect("the queue is long enough");
    let metrics = tasks.iter().map(|t| (t.clone(), vec![(source.text(), Some(source.float()))])).collect();
    let (score, split) = (Some(source.float()), "val".to_string());
    let eval = EvalRecord { step: record.step, epoch: 0.5, split, metrics, score, best: true, seconds: 1.0 };
    board.eval(&eval).expect("the queue is long enough");
    board.finish(record.step, Status::Done).expect("memory takes all");
    let found = page.events();
    assert_eq!(found.len(), 6, "the version, the mark, the head, two records, the end");
    let loss = |event: &Event| match &event.what {
        Some(What::Summary(summary)) => summary.value.iter().filter(|v| v.tag.starts_with("train/loss/")).count(),
        _ => 0,
    };
    assert_eq!(loss(&found[3]), tasks.len());
}

/// Parts of an input, one after the other; zeros and nothing where it ends.
#[derive(Clone)]
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn number(&mut self) -> u64 {
        self.take(8).iter().fold(0, |n, b| n << 8 | u64::from(*b))
    }

    fn float(&mut self) -> f64 {
        f64::from_bits(self.number())
    }

    fn bytes(&mut self) -> Vec<u8> {
        let n = self.byte().into();
        self.take(n)
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    fn value(&mut self) -> Value {
        let metadata = (self.byte() & 1 == 1).then(|| Metadata {
            plugin_data: Some(PluginData { plugin_name: self.text(), content: self.bytes() }),
            description: self.text(),
            data_class: self.byte().into(),
        });
        let datum = match self.byte() % 4 {
            0 => None,
            1 => Some(Datum::Scalar(self.float() as f32)),
            2 => Some(Datum::Image(Image { height: 1, width: 2, colorspace: 3, png: self.bytes() })),
            _ => Some(Datum::Tensor(Tensor {
                dtype: self.byte().into(),
                shape: Some(Shape::default()),
                strings: (0..self.byte() % 4).map(|_| self.bytes()).collect(),
            })),
        };
        Value { tag: self.text(), metadata, datum }
    }

    fn record(&mut self, tasks: &[String]) -> TrainRecord {
        let t = tasks.len();
        TrainRecord {
            step: self.number(),
            epoch: self.float(),
            lr: self.float(),
            tasks: tasks.to_vec(),
            loss: (0..t).map(|_| Some(self.float())).collect(),
            weight: (0..t).map(|_| self.float()).collect(),
            coef: (0..self.byte() % 5).map(|_| self.float()).collect(),
            grad_norm: Some((0..t).map(|_| self.float()).collect()),
            cosine: Some((0..t * t).map(|_| self.float()).collect()),
            conflict_rate: Some(self.float()),
            update_norm: self.float(),
            time_ms: vec![("forward", self.float())],
            samples_per_s: self.float(),
            bytes_per_step: self.number(),
            skipped: self.number(),
            checkpoint_ms: Some(self.float()),
            device: None,
            ranks: self.byte().is_multiple_of(2).then(|| self.ranks()),
        }
    }

    fn ranks(&mut self) -> RankRecord {
        let own_ms: Vec<f64> = (0..1 + self.byte() % 20).map(|_| self.float()).collect();
        let slowest = usize::from(self.byte()) % own_ms.len();
        RankRecord { slowest, slowdown: self.float(), slow: vec![slowest], own_ms }
    }
}
