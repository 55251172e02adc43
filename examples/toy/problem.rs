//! The two-task problem of CAGrad (Liu et al., 2021, arXiv:2110.14048) and Nash-MTL (Navon et al., 2022,
//! arXiv:2202.01017): two parameters, a valley that swallows whoever listens to one task only, and a line of optima.

/// Scale of the first task's loss, as in Nash-MTL and FAMO.
const SCALE: f64 = 0.1;
/// Smallest argument of the logarithms: below it the losses are flat.
const KINK: f64 = 5e-6;
/// Where the runs start.
pub const STARTS: [[f64; 2]; 5] = [[-8.5, 7.5], [0.0, 0.0], [9.0, 9.0], [-7.5, -0.5], [9.0, -1.0]];
/// The Pareto front: `x2` of it, for `x1` in `-7 ..= 7`.
pub const FRONT: f64 = -8.3552;
/// Just below both losses.
pub const FLOOR: [f64; 2] = [-2.1, -21.0];

/// Losses `[2]` at a point.
pub fn losses(x: [f64; 2]) -> [f64; 2] {
    at(x).0
}

/// Losses `[2]` and their gradients `[2, 2]`.
pub fn at([x1, x2]: [f64; 2]) -> ([f64; 2], [[f64; 2]; 2]) {
    let t = x2.tanh();
    let slope = 1.0 - t * t;
    let (f1, df1) = log(0.5 * (-x1 - 7.0) + t, [-0.5, slope]);
    let (f2, df2) = log(0.5 * (-x1 + 3.0) - t + 2.0, [-0.5, -slope]);
    let bowl = |centre: f64| {
        let value = ((x1 - centre).powi(2) + 0.1 * (x2 + 8.0).powi(2)) / 10.0 - 20.0;
        (value, [0.2 * (x1 - centre), 0.02 * (x2 + 8.0)])
    };
    let (q1, dq1) = bowl(7.0);
    let (q2, dq2) = bowl(-7.0);
    let h = (0.5 * x2).tanh();
    let bend = 0.5 * (1.0 - h * h);
    // At x2 = 0 the maximum of 0 and tanh has two branches, and each gets half of the gradient, as in PyTorch.
    let (up, down) = if x2 == 0.0 { (0.5, 0.5) } else { (f64::from(x2 > 0.0), f64::from(x2 < 0.0)) };
    let (c1, dc1) = (h.max(0.0), up * bend);
    let (c2, dc2) = ((-h).max(0.0), -down * bend);
    let mix = |f: f64, df: [f64; 2], q: f64, dq: [f64; 2]| {
        (f * c1 + q * c2, [df[0] * c1 + dq[0] * c2, df[1] * c1 + dq[1] * c2 + f * dc1 + q * dc2])
    };
    let (l1, g1) = mix(f1, df1, q1, dq1);
    let (l2, g2) = mix(f2, df2, q2, dq2);
    ([SCALE * l1, l2], [g1.map(|g| SCALE * g), g2])
}

/// `log max(|h|, KINK) + 6` and its gradient.
fn log(h: f64, dh: [f64; 2]) -> (f64, [f64; 2]) {
    let gradient = if h.abs() > KINK { dh.map(|d| d / h) } else { [0.0; 2] };
    (h.abs().max(KINK).ln() + 6.0, gradient)
}

/// Whether a run has arrived: on the front, where no direction improves both tasks.
pub fn arrived(x: [f64; 2]) -> bool {
    let (_, [a, b]) = at(x);
    let dot = |u: [f64; 2], v: [f64; 2]| u[0] * v[0] + u[1] * v[1];
    let difference = [b[0] - a[0], b[1] - a[1]];
    let length = dot(difference, difference);
    // The shortest point of the segment from a to b.
    let share = if length > 0.0 { (-dot(a, difference) / length).clamp(0.0, 1.0) } else { 0.0 };
    let shortest = [a[0] + share * difference[0], a[1] + share * difference[1]];
    let larger = dot(a, a).max(dot(b, b)).sqrt();
    x[1] < -7.9 && dot(shortest, shortest).sqrt() < 0.02 * larger
}
