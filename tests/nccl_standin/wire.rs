//! Bytes between ranks: all send to rank 0, which computes and answers. The id is the address at which rank 0 listens.

use crate::numbers::{Kind, Numbers};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// An exchange.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    AllReduce,
    ReduceScatter,
    AllGather,
    Broadcast,
}

impl What {
    pub fn name(self) -> &'static str {
        match self {
            What::AllReduce => "all_reduce",
            What::ReduceScatter => "reduce_scatter",
            What::AllGather => "all_gather",
            What::Broadcast => "broadcast",
        }
    }

    /// Blocks of `count` numbers that a rank sends and receives.
    pub fn blocks(self, rank: usize, ranks: usize) -> (usize, usize) {
        match self {
            What::AllReduce => (1, 1),
            What::ReduceScatter => (ranks, 1),
            What::AllGather => (1, ranks),
            What::Broadcast => (usize::from(rank == 0), 1),
        }
    }
}

/// Rank 0's sockets between the making of the id and the joining.
static LISTENING: Mutex<Vec<TcpListener>> = Mutex::new(Vec::new());

/// The id: a mark and a port of this machine.
pub fn listen() -> [u8; 128] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut id = [0; 128];
    id[..8].copy_from_slice(b"stand-in");
    id[8..10].copy_from_slice(&listener.local_addr().unwrap().port().to_le_bytes());
    LISTENING.lock().unwrap().push(listener);
    id
}

/// This rank's connections: rank 0 has one to each other rank, in their order, the others one to rank 0.
pub struct Wire {
    rank: usize,
    ranks: usize,
    peers: Vec<TcpStream>,
}

impl Wire {
    /// Waits for all ranks.
    pub fn join(ranks: usize, rank: usize, id: [u8; 128]) -> io::Result<Wire> {
        if &id[..8] != b"stand-in" {
            return Err(io::Error::other("the id is not one of this library"));
        }
        let port = u16::from_le_bytes([id[8], id[9]]);
        let mut wire = Wire { rank, ranks, peers: Vec::new() };
        if rank == 0 {
            wire.accept(port)?;
            wire.peers.iter_mut().try_for_each(|peer| peer.write_all(b"go"))?;
        } else {
            let mut hub = connect(port)?;
            hub.write_all(&(rank as u64).to_le_bytes())?;
            hub.read_exact(&mut [0; 2])?;
            wire.peers.push(hub);
        }
        Ok(wire)
    }

    fn accept(&mut self, port: u16) -> io::Result<()> {
        let listener = {
            let mut all = LISTENING.lock().unwrap();
            let found = all.iter().position(|socket| socket.local_addr().is_ok_and(|at| at.port() == port));
            all.swap_remove(found.ok_or_else(|| io::Error::other("the id was not made here"))?)
        };
        let mut found: Vec<(u64, TcpStream)> = Vec::new();
        while found.len() + 1 < self.ranks {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            found.push((u64::from_le_bytes(take(&mut stream)?), stream));
        }
        found.sort_by_key(|(rank, _)| *rank);
        self.peers = found.into_iter().map(|(_, stream)| stream).collect();
        Ok(())
    }

    /// Sends this rank's bytes and returns what it receives.
    pub fn exchange(&mut self, what: What, numbers: Numbers, mine: Vec<u8>) -> io::Result<Vec<u8>> {
        let head = head(what, numbers);
        if self.rank > 0 {
            let received = what.blocks(self.rank, self.ranks).1 * numbers.count * numbers.kind.size();
            let hub = &mut self.peers[0];
            hub.write_all(&head)?;
            hub.write_all(&mine)?;
            let mut bytes = vec![0; received];
            hub.read_exact(&mut bytes)?;
            return Ok(bytes);
        }
        let mut parts = vec![mine];
        for (i, peer) in self.peers.iter_mut().enumerate() {
            let theirs: [u8; 24] = take(peer)?;
            if theirs != head {
                return Err(io::Error::other(format!("rank {} called another exchange than rank 0", i + 1)));
            }
            let sent = what.blocks(i + 1, self.ranks).0 * numbers.count * numbers.kind.size();
            let mut bytes = vec![0; sent];
            peer.read_exact(&mut bytes)?;
            parts.push(bytes);
        }
        let mut results = answer(what, numbers.kind, parts);
        for (peer, result) in self.peers.iter_mut().zip(&results[1..]) {
            peer.write_all(result)?;
        }
        Ok(results.swap_remove(0))
    }
}

/// What each rank receives.
fn answer(what: What, kind: Kind, parts: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let ranks = parts.len();
    match what {
        What::AllReduce => vec![kind.sum(&parts); ranks],
        What::ReduceScatter => {
            let sum = kind.sum(&parts);
            sum.chunks(sum.len() / ranks).map(<[u8]>::to_vec).collect()
        }
        What::AllGather => vec![parts.concat(); ranks],
        What::Broadcast => vec![parts[0].clone(); ranks],
    }
}

fn head(what: What, numbers: Numbers) -> [u8; 24] {
    let mut head = [0; 24];
    head[0] = what as u8;
    head[8] = numbers.kind as u8;
    head[16..].copy_from_slice(&(numbers.count as u64).to_le_bytes());
    head
}

fn take<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let start = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return stream.set_nodelay(true).map(|()| stream),
            Err(error) if start.elapsed() > Duration::from_secs(5) => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
