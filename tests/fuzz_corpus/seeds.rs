//! What fuzzing starts from: small inputs of every kind that a target knows.

#[path = "../broken_data/files.rs"]
mod files;

use crate::harness::entry;
use polytask::log::tensorboard::frame::frame;
use polytask::log::tensorboard::proto::{Datum, Event, SessionLog, Summary, Value, What};
use prost::Message;
use std::io::Write;

/// Target, name of the file, content.
pub fn all() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let text = |target, name, text: &str| (target, name, text.as_bytes().to_vec());
    let mut seeds = vec![
        ("parquet", "good", files::parquet()),
        ("parquet", "busy_footer", busy_footer()),
        ("csv_gz", "good.gz", files::gzip(b"a\nb\nc\n")),
        ("events_read", "good", events()),
        ("events_write", "bytes", (0..=255).collect()),
        ("checkpoint", "good", good_checkpoint()),
        ("checkpoint", "in_parts", checkpoint_in_parts()),
        ("checkpoint", "links", links()),
        ("checkpoint", "huge_sizes", huge_sizes()),
        ("npy", "vector", npy("<f4", "(2,)", &[0; 8])),
        ("npy", "columns", npy("|u1", "(2, 2, 2)", &[7; 8]).into_iter().collect()),
        ("npz", "good", npz()),
        ("idx", "pair", idx()),
        ("safetensors", "good", safetensors()),
    ];
    seeds.extend([
        text("arff", "good", "@relation r\n@attribute a numeric\n@attribute 'b c' {x, 'y z'}\n@data\n1,x\n?,'y z'\n% end\n"),
        text("csv", "good", "\0a,b,c\n1,\"x\"\"y\",ff\n?,,0f\n"),
        text("csv", "header", "\x11\u{31}\t2\t3\r\n"),
        text("jsonl", "good", "{\"a\": 1, \"b\": \"x\"}\n\n{\"b\": true}\n{\"a\": null, \"b\": 1e400}\n"),
        text("fault", "list", "kill@10:1, sleep=1.5@2:0,ckpt:renamed=2@4:0"),
        text("fault", "odd", "ckpt:@1:0,sleep=1e999@1:1,skip@18446744073709551616:0"),
        text("overrides", "good", "optim.adamw.lr=1e-3\nbalance.surgery=mgda\ntasks.b.c.source=s\ndata.sources.s.csv.numeric.0=z\n"),
        text("overrides", "odd", "=\na\na.=1\ntrain={epochs: 1}\nrun.name=\u{1b}]0;x\u{7}\nmodel=&a [*a]\n"),
        text("config", "repeated_text", &repeated_text()),
        text("flight", "three", &flights()),
        text("flight", "many_ranks", &flights().replace("\"size\":3", "\"size\":1048576")),
        text("resume", "as_it_is", ""),
        text("resume", "step", "step / 18446744073709551615\nstate /progress/step 18446744073709551615\n"),
        text("resume", "seconds", "state /progress/seconds -1\nstate /updates 18446744073709551615\n"),
        text("resume", "long", "state /progress/seconds 1e300\nstate /progress/samples 18446744073709551615\n"),
        text("resume", "transforms", "transforms /numeric/0/std []\ntransforms /tasks/0/outputs []\ntransforms /image [9,9,9]\n"),
        text("resume", "scales", "transforms /tasks/2/std [0.0]\ntransforms /tasks/1/outputs [\"a\",\"a\"]\n"),
        text("resume", "widths", "transforms /bits/0/width 18446744073709551615\ntransforms /categorical/0/values [\"red\"]\n"),
        text("resume", "balancer", "state /balancer/weighting/history []\nstate /balancer/smooth/0 [null,1.0,2.0]\nstate /balancer/kept [[1.0]]\n"),
        text("resume", "counts", "state /balancer/weighting/running/tasks/0/count 18446744073709551615\n"),
        text("resume", "best", "state /progress/best_score 1e308\nstate /source_sizes [18446744073709551615]\n"),
        text("resume", "config", "config /tasks []\nconfig /batch/per_task 0\nstate /version \"\"\n"),
    ]);
    seeds
}

/// A footer that keeps a reader busy which takes no byte for a boolean: see `src/data/sources/parquet/footer.rs`.
fn busy_footer() -> Vec<u8> {
    let list: [u8; 7] = [0xf9, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07];
    let footer = [&list.repeat(50)[..], &[0]].concat();
    [b"PAR1", &footer[..], &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat()
}

fn events() -> Vec<u8> {
    let value = vec![Value { tag: "train/loss/a".into(), metadata: None, datum: Some(Datum::Scalar(0.25)) }];
    let events = [
        Event { wall_time: 1.5, step: 0, what: Some(What::FileVersion("brain.Event:2".into())) },
        Event { wall_time: 2.5, step: 7, what: Some(What::Summary(Summary { value })) },
        Event { wall_time: 3.0, step: 8, what: Some(What::SessionLog(SessionLog { status: 1 })) },
    ];
    events.iter().flat_map(|event| frame(&event.encode_to_vec())).collect()
}

const HEADER: &[u8] = br#"{"__metadata__":{"format":"pt"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

fn good_checkpoint() -> Vec<u8> {
    let model = [HEADER, b"\0", &[0; 8]].concat();
    let state = br#"{"progress":{"step":10,"samples":1,"seconds":1.0,"skipped":0,"skipped_in_a_row":0,"best_score":null,"best":[],"evaluated":[],"evaluations_since_best":0},"balancer":null,"updates":1,"source_sizes":[18446744073709551615],"version":"0"}"#;
    [
        entry(1, "step_00000010/model.safetensors", &model),
        entry(1, "step_00000010/optim.safetensors", b"{}\0"),
        entry(0, "step_00000010/state.json", state),
        entry(0, "step_00000010/config.json", br#"{"run":{"name":"x"}}"#),
        entry(3, "step_00000010", b""),
        entry(0, "latest", b"step_00000010\n"),
        entry(0, "best", b"step_00000010\n"),
        entry(5, ".tmp-step_00000030-4294967295", b""),
    ]
    .concat()
}

/// As two ranks write it, each its own states.
fn checkpoint_in_parts() -> Vec<u8> {
    let part = |start: usize, n: usize| {
        let pieces = format!(r#"{{"m":[{start},[2]]}}"#).replace('"', "\\\"");
        let tensor = format!(r#"{{"dtype":"F32","shape":[{n}],"data_offsets":[0,{}]}}"#, 4 * n);
        let header = format!(r#"{{"__metadata__":{{"format":"pt","pieces":"{pieces}"}},"m":{tensor}}}"#);
        [header.as_bytes(), b"\0", &vec![0; 4 * n]].concat()
    };
    [
        entry(1, "step_00000010/optim.rank00000-of-00002.safetensors", &part(0, 1)),
        entry(1, "step_00000010/optim.rank00001-of-00002.safetensors", &part(1, 1)),
        entry(0, "step_00000010/state.json", b"{}"),
        entry(3, "step_00000010", b""),
        entry(0, "latest", b"step_00000010\n"),
    ]
    .concat()
}

fn links() -> Vec<u8> {
    [
        entry(0, "step_00000010/state.json", b"1"),
        entry(2, "step_00000010/model.safetensors", b""),
        entry(3, "step_00000010", br#"[{"name":"../../outside/precious.txt","bytes":9,"sha256":""}]"#),
        entry(4, "step_00000020", b""),
        entry(4, ".tmp-step_00000030-4294967295", b""),
        entry(2, ".tmp-latest", b""),
        entry(2, "best", b""),
        entry(0, "latest", b"../outside/folder\n"),
    ]
    .concat()
}

fn huge_sizes() -> Vec<u8> {
    let more =
        br#"[{"name":"a.json","bytes":18446744073709551615,"sha256":"x"},{"name":"b.json","bytes":9,"sha256":"x"}]"#;
    [
        entry(
            1,
            "step_00000010/model.safetensors",
            br#"{"x":{"dtype":"F64","shape":[4611686018427387904,4],"data_offsets":[0,8]}}"#,
        ),
        entry(0, "step_18446744073709551615/state.json", b"{}"),
        entry(3, "step_18446744073709551615", b""),
        entry(3, "step_00000010", more),
        entry(0, "latest", b"step_18446744073709551615\n"),
    ]
    .concat()
}

fn npy(kind: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': True, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), values].concat()
}

fn npz() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut archive = npyz::zip::ZipWriter::new(&mut bytes);
    archive.start_file("a.npy", npyz::zip::write::FileOptions::default()).expect("memory");
    archive.write_all(&npy("<f4", "(2,)", &[0; 8])).expect("memory");
    archive.finish().expect("memory");
    drop(archive);
    bytes.into_inner()
}

fn idx() -> Vec<u8> {
    let images = [&[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1][..], &[5, 6]].concat();
    let labels = [0, 0, 8, 1, 0, 0, 0, 1, 3];
    [&[images.len() as u8][..], &images, &labels].concat()
}

fn safetensors() -> Vec<u8> {
    [&(HEADER.len() as u64).to_le_bytes()[..], HEADER, &[0; 8]].concat()
}

fn flights() -> String {
    let record = |rank: usize, ended: &str| {
        format!(
            r#"{{"format":1,"run":"a","rank":{rank},"size":3,"host":"n","pid":7,"at":130.0,"deadline_s":30.0,"cause":{{"expired":{{"plane":"mpi","seq":2}}}},"place":{{"step":17,"phase":"data","since":99.5}},"planes":[{{"plane":"mpi","entered":2,"ops":[{{"seq":1,"op":"broadcast","bytes":8,"begun":99.0,"ended":99.5}},{{"seq":2,"op":"all_reduce","bytes":96,"begun":99.7,"ended":{ended}}}]}}]}}"#
        )
    };
    [record(0, "null"), record(1, "100.0"), record(2, "null")].join("\n---\n")
}

/// A text that aliases repeat: a small file that would take a large memory.
fn repeated_text() -> String {
    format!("a: &a \"{}\"\nb: [{}*a]\n", "x".repeat(4000), "*a, ".repeat(1500))
}
