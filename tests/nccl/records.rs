//! A recorder that keeps everything.

use polytask::comm::nccl::Recorder;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

type Poll = Box<dyn Fn() -> Result<bool, String> + Send>;

/// What was launched, in order.
#[derive(Default)]
pub struct Records(Mutex<Vec<(&'static str, usize, Poll)>>);

impl Recorder for Records {
    fn begin_async(&self, plane: &'static str, op: &'static str, bytes: usize, poll: Poll) {
        assert_eq!(plane, "nccl");
        self.0.lock().unwrap().push((op, bytes, poll));
    }
}

impl Records {
    pub fn new() -> Arc<Records> {
        Arc::default()
    }

    pub fn launched(&self) -> Vec<(&'static str, usize)> {
        self.0.lock().unwrap().iter().map(|(op, bytes, _)| (*op, *bytes)).collect()
    }

    /// Drops everything, as a watchdog does with what is done.
    pub fn forget(&self) {
        self.0.lock().unwrap().clear();
    }

    pub fn poll(&self, i: usize) -> Result<bool, String> {
        (self.0.lock().unwrap()[i].2)()
    }

    /// As a watchdog asks: from a thread of its own, again and again.
    pub fn wait(&self, i: usize) -> Result<(), String> {
        let ask = || {
            let start = Instant::now();
            while !self.poll(i)? {
                assert!(start.elapsed() < Duration::from_secs(30), "exchange {i} is never done");
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        };
        std::thread::scope(|scope| scope.spawn(ask).join().unwrap())
    }
}
