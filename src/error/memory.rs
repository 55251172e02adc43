//! Memory that is not there: libtorch's words for it, and what a user is told instead.

use crate::comm;
use std::fmt::Write;

/// libtorch's words for memory that is not there, on a GPU or on the host, and those of C++.
const WORDS: [&str; 4] = ["out of memory", "ried to allocate", "CUBLAS_STATUS_ALLOC_FAILED", "bad_alloc"];

/// What to say about a message of libtorch, if it says that memory is short: where this rank is, how much was missing, and
/// what to change. `None` for any other message.
pub fn shortage(message: &str) -> Option<String> {
    WORDS.iter().any(|words| message.contains(words)).then(|| words(message, comm::place()))
}

fn words(message: &str, place: Option<(u64, &str)>) -> String {
    let on_gpu = ["CUDA", "CUBLAS", "GPU"].iter().any(|word| message.contains(word));
    let mut text = format!("not enough memory {}", if on_gpu { "on the GPU" } else { "on this node" });
    // Writing into a string does not fail.
    let _ = match place {
        Some((step, phase)) => write!(text, " in step {step} ({phase})"),
        None => write!(text, " before the first step"),
    };
    if let Some(asked) = asked(message) {
        let _ = write!(text, ", for {asked} more");
    }
    let (gpu_or_node, bf16) = if on_gpu { ("GPU", ", `train.precision: bf16`") } else { ("node", "") };
    let hint = match place.map(|(_, phase)| phase) {
        Some("evaluation") => "a smaller `train.eval_batch`: samples per rank in one forward pass".to_string(),
        Some("checkpoint") => {
            "parameters and states of the optimizer are copied, on rank 0 all of them: give its node more memory".into()
        }
        Some("data") => "a smaller `batch.per_task` or `batch.prefetch`; a node with more memory".into(),
        Some(_) => format!(
            "a smaller `batch.per_task`, the same batch in parts (`batch.accumulate: 4`), `model.recompute: true`{bf16}, \
             `comm.reduction: sharded` and more ranks, or a {gpu_or_node} with more memory"
        ),
        None => format!("a smaller model (`model.encoder`, `tasks.*.head`), or a {gpu_or_node} with more memory"),
    };
    let _ = write!(text, "\n  hint: {hint}; `polytask check` estimates what a rank holds");
    text
}

/// How much memory was asked for, if the message tells.
fn asked(message: &str) -> Option<String> {
    let mut words = message.split_once("ried to allocate ")?.1.split_whitespace();
    let (number, unit) = (words.next()?, words.next()?.trim_end_matches(['.', ',', ')']));
    let bytes = match unit {
        "bytes" => number.parse::<f64>().ok()?,
        _ => return Some(format!("{number} {unit}")),
    };
    let (mib, gib) = (bytes / f64::from(1 << 20), bytes / f64::from(1 << 30));
    Some(if gib >= 1.0 { format!("{gib:.1} GiB") } else { format!("{mib:.1} MiB") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUDA: &str = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.25 GiB of which \
                        1.10 GiB is free. Including non-PyTorch memory, this process has 78.13 GiB memory in use.";
    const HOST: &str = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you \
                        tried to allocate 17179869184 bytes. Error code 12 (Cannot allocate memory)";

    #[test]
    fn a_shortage_names_place_and_size_and_what_to_change() {
        let text = words(CUDA, Some((12, "compute")));
        assert!(
            text.starts_with("not enough memory on the GPU in step 12 (compute), for 2.50 GiB more\n  hint: "),
            "{text}"
        );
        for key in ["batch.per_task", "batch.accumulate", "train.precision: bf16", "model.recompute", "comm.reduction"]
        {
            assert!(text.contains(key), "{key}: {text}");
        }
        let text = words(HOST, Some((3, "evaluation")));
        assert!(text.starts_with("not enough memory on this node in step 3 (evaluation), for 16.0 GiB more"), "{text}");
        assert!(text.contains("`train.eval_batch`") && !text.contains("per_task"), "{text}");
        let text = words(HOST, None);
        assert!(
            text.contains(" before the first step, for 16.0 GiB more") && text.contains("`model.encoder`"),
            "{text}"
        );
    }

    #[test]
    fn every_wording_is_known_and_nothing_else() {
        let told =
            ["CUDA error: out of memory", "std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED when calling x", CUDA, HOST];
        assert!(told.iter().all(|message| shortage(message).is_some()));
        assert!(shortage("The size of tensor a (3) must match the size of tensor b (4)").is_none());
        assert!(!words("std::bad_alloc", None).contains(" more\n"), "no size is known");
        assert_eq!(asked("you tried to allocate 1048576 bytes."), Some("1.0 MiB".into()));
    }
}
