//! What is to go wrong: the words of `STANDIN_NCCL`, separated by blanks.
//!
//! * `version=22700`: of the library.
//! * `bus=0000:01:00.0`: of the GPU that every rank of this process seems to have.
//! * `id_error=2`, `init_error=2:1`: result of making the id; of joining, on rank 1.
//! * `inprogress=3`: calls answer "in progress", and so do the next 3 questions.
//! * `stuck@2`: the second launch of each rank stays in progress.
//! * `async=20`: exchanges take 20 ms longer.
//! * `error=all_reduce@5:1`: rank 1's fifth all-reduce is refused.
//! * `hang=all_reduce@5:1`: rank 1's fifth all-reduce never runs; `hang=init@1:1`: rank 1 never comes.
//! * `async_error@4`: the fourth exchange of each rank fails after its launch.
//! * `log=/a/file`: calls are written there.

use crate::Code;
use std::ffi::CString;
use std::sync::OnceLock;
use std::time::Duration;

#[derive(Debug)]
pub struct Plan {
    pub version: i32,
    pub bus: Option<CString>,
    pub id_error: Option<Code>,
    pub init_error: Option<(Code, usize)>,
    pub in_progress: u32,
    pub delay: Duration,
    pub error: Option<Place>,
    pub hang: Option<Place>,
    pub async_error: Option<u64>,
    pub stuck: Option<u64>,
    pub log: Option<String>,
}

/// The `n`-th exchange of this name on this rank, from 1.
#[derive(Debug)]
pub struct Place {
    pub name: String,
    pub nth: u64,
    pub rank: usize,
}

pub fn plan() -> &'static Plan {
    static PLAN: OnceLock<Plan> = OnceLock::new();
    PLAN.get_or_init(|| read(&std::env::var("STANDIN_NCCL").unwrap_or_default()))
}

fn read(text: &str) -> Plan {
    let mut plan = Plan {
        version: 22809,
        bus: None,
        id_error: None,
        init_error: None,
        in_progress: 0,
        delay: Duration::ZERO,
        error: None,
        hang: None,
        async_error: None,
        stuck: None,
        log: None,
    };
    for word in text.split_whitespace() {
        let (name, value) = word.split_once(['=', '@']).unwrap_or_else(|| panic!("STANDIN_NCCL: `{word}`"));
        match name {
            "version" => plan.version = number(value),
            "bus" => plan.bus = Some(CString::new(value).unwrap()),
            "id_error" => plan.id_error = Some(number(value)),
            "init_error" => {
                let (code, rank) = value.split_once(':').expect("init_error=code:rank");
                plan.init_error = Some((number(code), number(rank)));
            }
            "inprogress" => plan.in_progress = number(value),
            "async" => plan.delay = Duration::from_millis(number(value)),
            "error" => plan.error = Some(place(value)),
            "hang" => plan.hang = Some(place(value)),
            "async_error" => plan.async_error = Some(number(value)),
            "stuck" => plan.stuck = Some(number(value)),
            "log" => plan.log = Some(value.to_owned()),
            _ => panic!("STANDIN_NCCL: `{word}`"),
        }
    }
    plan
}

fn place(text: &str) -> Place {
    let (name, rest) = text.split_once('@').expect("name@n:rank");
    let (nth, rank) = rest.split_once(':').expect("name@n:rank");
    Place { name: name.to_owned(), nth: number(nth), rank: number(rank) }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("STANDIN_NCCL: `{text}` is no number"))
}
