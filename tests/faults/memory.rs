//! Memory that is not there, on a node that limits it (`ulimit -v`, in KiB; far more than the program needs by itself).

use crate::process::Output;
use crate::sandbox::{Sandbox, train_args};

const LIMIT: &str = "ulimit -v 6000000";

fn limited(set: &[&str]) -> Output {
    let args: Vec<String> = train_args("x", set).iter().map(|arg| format!("'{arg}'")).collect();
    Sandbox::new().shell(&format!("{LIMIT}; $polytask {}", args.join(" ")))
}

#[test]
fn a_step_that_does_not_fit_names_itself_and_what_to_change() {
    // Activations of 50000 x 65536 numbers.
    let output = limited(&["batch.per_task=50000", "model.encoder.mlp.widths=[65536]"]).exits_with(3);
    output.complains_once(&[
        "[rank 0] error: not enough memory on this node in step 1 (compute), for 12.2 GiB more",
        "`batch.per_task`",
        "`batch.accumulate: 4`",
        "`model.recompute: true`",
    ]);
}

#[test]
fn an_evaluation_that_does_not_fit_names_its_own_key() {
    let rows = "0.1,0.2,0.3,0.4,p,1,red,1.0,1,0\n".repeat(60_000);
    let sandbox = Sandbox::new();
    sandbox.write("one_test.csv", &format!("x1,x2,x3,x4,c,a,b,r,m1,m2\n{rows}"));
    let set = ["train.eval_batch=60000", "model.encoder.mlp.widths=[65536]", "batch.per_task=4", "train.steps=1"];
    let args: Vec<String> = train_args("x", &set).iter().map(|arg| format!("'{arg}'")).collect();
    let output = sandbox.shell(&format!("{LIMIT}; $polytask {}", args.join(" "))).exits_with(3);
    output.complains_once(&[
        "not enough memory on this node in step 1 (evaluation), for 14.6 GiB more",
        "`train.eval_batch`",
    ]);
}

#[test]
fn a_model_that_does_not_fit_says_so() {
    let output = limited(&["model.encoder.mlp.widths=[65536, 65536]"]).exits_with(3);
    output.complains_once(&[
        "not enough memory on this node before the first step, for 16.0 GiB more",
        "`model.encoder`",
    ]);
}
