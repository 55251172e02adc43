use super::super::frame::events;
use super::super::proto::Datum;
use super::*;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A disk that holds so many bytes, then is full.
#[derive(Clone, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    room: Option<usize>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut held = self.bytes.lock().unwrap();
        let room = self.room.map_or(bytes.len(), |room| bytes.len().min(room.saturating_sub(held.len())));
        if room == 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        held.extend_from_slice(&bytes[..room]);
        Ok(room)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn sink(out: impl Write + Send + 'static, flush: Duration) -> Sink {
    Sink { out: Box::new(out), path: None, flush }
}

fn scalar(value: f32) -> Vec<Value> {
    vec![Value { tag: "a".into(), metadata: None, datum: Some(Datum::Scalar(value)) }]
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn events_come_back_in_order_after_version_and_session() {
    let disk = Disk::default();
    let mut writer = EventWriter::start(sink(disk.clone(), FLUSH), Some(8)).unwrap();
    for step in 8..108 {
        writer.write(step, scalar(step as f32)).unwrap();
    }
    writer.close().unwrap();
    let bytes = disk.bytes.lock().unwrap();
    let read: Vec<Event> = events(&bytes).map(|event| event.unwrap()).collect();
    assert_eq!(read[0].what, Some(What::FileVersion("brain.Event:2".into())));
    assert_eq!((read[1].step, &read[1].what), (8, &Some(What::SessionLog(SessionLog { status: 1 }))));
    assert_eq!(read[2..].iter().map(|e| e.step).collect::<Vec<_>>(), (8..108).collect::<Vec<_>>());
    assert!(read.iter().all(|event| event.wall_time > 1.7e9));
}

#[test]
fn a_full_disk_ends_the_writer_with_its_reason_and_nothing_panics() {
    let disk = Disk { room: Some(100), ..Disk::default() };
    let mut writer = EventWriter::start(sink(disk.clone(), FLUSH), None).unwrap();
    let mut error = None;
    until("the disk to fill", || {
        error = writer.write(1, scalar(1.0)).err();
        error.is_some()
    });
    assert_eq!(error.unwrap().kind(), io::ErrorKind::StorageFull);
    assert!(writer.write(2, scalar(1.0)).is_err());
    let bytes = disk.bytes.lock().unwrap();
    assert!(events(&bytes).filter(|event| event.is_ok()).count() >= 2, "what was written before stays readable");
}

#[test]
fn a_disk_full_at_the_end_is_reported_by_close() {
    let room = Some(50);
    let mut writer = EventWriter::start(sink(Disk { room, ..Disk::default() }, FLUSH), None).unwrap();
    writer.write(1, scalar(1.0)).unwrap();
    assert_eq!(writer.close().unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_disk_full_at_the_start_is_an_error_of_opening() {
    let room = Some(0);
    assert!(EventWriter::start(sink(Disk { room, ..Disk::default() }, FLUSH), None).is_err());
}

#[test]
fn a_stalled_disk_never_blocks_the_caller() {
    struct Stalled(Arc<Mutex<()>>);
    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            drop(self.0.lock());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let gate = Arc::new(Mutex::new(()));
    let mut writer = EventWriter::start(sink(Stalled(gate.clone()), FLUSH), None).unwrap();
    let stall = gate.lock().unwrap();
    let start = Instant::now();
    let failed = (0..ROOM as u64 + 2).find_map(|step| writer.write(step, scalar(0.0)).err());
    assert_eq!(failed.unwrap().kind(), io::ErrorKind::TimedOut);
    drop(writer);
    assert!(start.elapsed() < Duration::from_secs(10), "neither writing nor dropping waits for the disk");
    drop(stall);
}

#[test]
fn an_event_is_flushed_in_time_without_any_later_event() {
    let disk = Disk::default();
    let buffered = BufWriter::with_capacity(1 << 20, disk.clone());
    let mut writer = EventWriter::start(sink(buffered, Duration::from_millis(50)), None).unwrap();
    let before = disk.bytes.lock().unwrap().len();
    writer.write(1, scalar(1.0)).unwrap();
    until("the flush", || disk.bytes.lock().unwrap().len() > before);
    assert!(FLUSH <= Duration::from_secs(10));
}

#[test]
fn a_removed_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("tensorboard");
    let mut sink = Sink::file(&folder).unwrap();
    sink.flush = Duration::from_millis(10);
    let mut writer = EventWriter::start(sink, None).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    let mut error = None;
    until("the loss to be noticed", || {
        error = writer.write(1, scalar(1.0)).err();
        error.is_some()
    });
    assert_eq!(error.unwrap().kind(), io::ErrorKind::NotFound);
}

#[test]
fn files_of_one_second_differ_and_a_later_one_sorts_last() {
    let dir = tempfile::tempdir().unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let dir = dir.path().to_path_buf();
            std::thread::spawn(move || create_unique(&dir).unwrap().1)
        })
        .collect();
    let paths: BTreeSet<PathBuf> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(paths.len(), 4);
    let ahead = dir.path().join("events.out.tfevents.4000000000.elsewhere.1.0");
    fs::write(&ahead, "").unwrap();
    let (_, last) = create_unique(dir.path()).unwrap();
    assert_eq!(events_files(dir.path()).unwrap().last(), Some(&last));
}
