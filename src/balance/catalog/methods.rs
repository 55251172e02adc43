//! The table, in the order in which it is shown.

use super::{Descends, Kind, Losses, Method, Order, Paper, Promises, Scale, Total};

const NOTHING: Promises = Promises {
    descends: Descends::Unpromised,
    without_conflict: None,
    scale: Scale::Linear,
    task_scale: false,
    order: Order::Equivariant,
};

/// Weights from losses: coefficients do not depend on gradients at all.
const LOSSES: Method = Method {
    name: "",
    kind: Kind::Losses,
    what: "",
    paper: None,
    rule: "",
    losses: Losses::Positive,
    more: "",
    state: "",
    cost: "one backward",
    promises: NOTHING,
    given: "",
    sets: &[],
};

const GRAM: Method = Method { kind: Kind::Gram, losses: Losses::Ignored, cost: "T backwards", ..LOSSES };

const BATCHES: Method = Method {
    kind: Kind::Batches,
    more: "3 independent batches",
    cost: "T backwards on each third of the batch",
    ..GRAM
};

const SHARD: Method = Method { kind: Kind::Shard, cost: "T backwards, passes over the shard", ..GRAM };

const WRAPPER: Method = Method { kind: Kind::Wrapper, ..GRAM };

const TURNS: Promises = Promises { order: Order::Listed, ..NOTHING };

const fn paper(authors: &'static str, title: &'static str, year: u16, arxiv: &'static str) -> Option<Paper> {
    Some(Paper { authors, title, year, arxiv })
}

const NASH: Option<Paper> = paper("Navon et al.", "Multi-Task Learning as a Bargaining Game", 2022, "2202.01017");
const IMTL: Option<Paper> = paper("Liu et al.", "Towards Impartial Multi-task Learning", 2021, "");
const MGDA: Option<Paper> =
    paper("Sener, Koltun", "Multi-Task Learning as Multi-Objective Optimization", 2018, "1810.04650");

/// All methods, by kind.
pub static METHODS: &[Method] = &[
    Method {
        name: "equal",
        what: "1 for every task",
        rule: "w_t = 1",
        losses: Losses::Ignored,
        promises: Promises { without_conflict: Some(Total::Sum), ..NOTHING },
        ..LOSSES
    },
    Method {
        name: "fixed",
        what: "weights given by task",
        rule: "w_t as given, 1 for tasks that are not named",
        losses: Losses::Ignored,
        given: "a weight by task",
        sets: &["balance.weighting.fixed={'0': 1}"],
        ..LOSSES
    },
    Method {
        name: "random",
        what: "random loss weighting (RLW)",
        paper: paper(
            "Lin et al.",
            "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning",
            2022,
            "2111.10603",
        ),
        rule: "w = softmax(z), z ~ N(0, I) anew in every step",
        losses: Losses::Ignored,
        promises: Promises { order: Order::Random, ..NOTHING },
        ..LOSSES
    },
    Method {
        name: "scale_invariant",
        what: "sum of the logarithms of losses",
        paper: NASH,
        rule: "w_t = 1 / L_t",
        ..LOSSES
    },
    Method {
        name: "uncertainty",
        what: "uncertainty weighting (UW): learned log-variances",
        paper: paper(
            "Kendall, Gal, Cipolla",
            "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics",
            2018,
            "1705.07115",
        ),
        rule: "w_t = exp(-s_t) / 2, s_t minimises L_t exp(-s_t) / 2 + s_t / 2",
        state: "log-variances and Adam's moments, [T]",
        ..LOSSES
    },
    Method {
        name: "dwa",
        what: "dynamic weight average: by the pace of each loss",
        paper: paper("Liu, Johns, Davison", "End-to-End Multi-Task Learning with Attention", 2019, "1803.10704"),
        rule: "w = T softmax(r / temperature), r_t = mean L_t of the last epoch / of the one before",
        state: "mean losses of the last epochs, [T]",
        ..LOSSES
    },
    Method {
        name: "gls",
        what: "geometric mean of losses",
        paper: paper(
            "Chennupati et al.",
            "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task Learning",
            2019,
            "1904.08492",
        ),
        rule: "w_t = (prod L)^(1/T) / (T L_t)",
        ..LOSSES
    },
    Method {
        name: "imtl_l",
        what: "impartial losses: all weighted losses alike",
        paper: IMTL,
        rule: "w_t = exp(s_t), s_t minimises exp(s_t) L_t - s_t",
        state: "scales and their optimizer's moments, [T]",
        ..LOSSES
    },
    Method {
        name: "stch",
        what: "smooth Tchebycheff scalarisation: the worst task counts most",
        paper: paper(
            "Lin et al.",
            "Smooth Tchebycheff Scalarization for Multi-Objective Optimization",
            2024,
            "2402.19078",
        ),
        rule: "gradient of T mu logsumexp(log(L / nadir) / mu); during the warm-up, which finds the nadir, of sum log L",
        state: "sums of losses of the warm-up's last epoch, nadir, [T]",
        ..LOSSES
    },
    Method {
        name: "famo",
        what: "equal rate of improvement for all tasks",
        paper: paper("Liu et al.", "FAMO: Fast Adaptive Multitask Optimization", 2023, "2306.03792"),
        rule: "w = c z / (L - b), z = softmax(xi), c = 1 / sum z / (L - b); xi follows the change of log(L - b)",
        state: "xi and Adam's moments, [T]",
        cost: "one backward, one more forward",
        ..LOSSES
    },
    Method {
        name: "cosmos",
        what: "linear, with a penalty that keeps losses near a preference",
        paper: paper(
            "Ruchte, Grabocka",
            "Scalable Pareto Front Approximation for Deep Multi-Objective Learning",
            2021,
            "2103.13392",
        ),
        rule: "gradient of r . L - lambda cos(r, L)",
        losses: Losses::AnySign,
        ..LOSSES
    },
    Method {
        name: "pbi",
        what: "penalty-based boundary intersection",
        paper: paper("Zhang, Li", "MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition", 2007, ""),
        rule: "gradient of d1 + theta d2: L along the preference, and away from it",
        losses: Losses::AnySign,
        ..LOSSES
    },
    Method {
        name: "go4align",
        what: "weights by groups of tasks with alike loss trajectories",
        paper: paper("Shen et al.", "GO4Align: Group Optimization for Multi-Task Alignment", 2024, "2404.06486"),
        rule: "k-means groups indicators p_t sum L / L_t, p_t <- p_t exp(-step_size L_t); w_t is the mean of t's group",
        state: "logarithms of p, [T]",
        ..LOSSES
    },
    Method {
        name: "ldc_mtl",
        what: "loss discrepancy control: learned weights that close the gaps between losses",
        paper: paper(
            "Xiao et al.",
            "LDC-MTL: Balancing Multi-Task Learning through Scalable Loss Discrepancy Control",
            2025,
            "2502.08585",
        ),
        rule: "gradient of sum_t s_t l_t + lambda sum_t |s_t l_t - s_(t+1) l_(t+1)|, l = L / first L, s = softmax(learned)",
        state: "logits, Adam's moments, first losses, [T]",
        promises: Promises { order: Order::Listed, ..NOTHING },
        ..LOSSES
    },
    Method {
        name: "auto_lambda",
        what: "weights that a second batch learns, one step ahead",
        paper: paper("Liu et al.", "Auto-Lambda: Disentangling Dynamic Task Relationships", 2022, "2202.03091"),
        rule: "w follows the gradient of the primary tasks' losses on other data after a step along sum_t w_t g_t",
        losses: Losses::Ignored,
        more: "2 independent batches",
        state: "weights and Adam's moments, [T]",
        cost: "one backward, and two more with two forwards on half of the batch",
        ..LOSSES
    },
    Method {
        name: "pcgrad",
        what: "projecting conflicting gradients",
        paper: paper("Yu et al.", "Gradient Surgery for Multi-Task Learning", 2020, "2001.06782"),
        rule: "for each i, for j in random order: if g_i' . g_j < 0, g_i' -= (g_i' . g_j / |g_j|^2) g_j; d = sum g_i'",
        promises: Promises {
            descends: Descends::TwoTasks,
            without_conflict: Some(Total::Sum),
            order: Order::Random,
            ..NOTHING
        },
        ..GRAM
    },
    Method {
        name: "gradvac",
        what: "gradient vaccine: cosines are raised to their running mean",
        paper: paper(
            "Wang et al.",
            "Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively Multilingual Models",
            2021,
            "2010.05874",
        ),
        rule: "as pcgrad, where cos(g_i', g_j) is below rho_ij, which follows the cosines",
        state: "running cosines, [T, T]",
        promises: Promises { without_conflict: Some(Total::Sum), order: Order::Random, ..NOTHING },
        ..GRAM
    },
    Method {
        name: "mgda",
        what: "shortest convex combination",
        paper: MGDA,
        rule: "c minimises |J^T c| over the simplex",
        promises: Promises { descends: Descends::Always, ..NOTHING },
        ..GRAM
    },
    Method {
        name: "cagrad",
        what: "conflict-averse: the worst task, near the mean gradient",
        paper: paper("Liu et al.", "Conflict-Averse Gradient Descent for Multi-task Learning", 2021, "2110.14048"),
        rule: "d maximises min_t g_t . d with |d - g_0| <= c |g_0|, g_0 the mean",
        ..GRAM
    },
    Method {
        name: "nash_mtl",
        what: "the Nash bargaining solution",
        paper: NASH,
        rule: "G c = 1 / c, c > 0; d is clipped",
        state: "the last solution, [T]",
        promises: Promises { descends: Descends::Always, scale: Scale::Invariant, task_scale: true, ..NOTHING },
        ..GRAM
    },
    Method {
        name: "imtl_g",
        what: "impartial gradients: equal projections on every task",
        paper: IMTL,
        rule: "d . g_t / |g_t| alike for all t, sum c = 1",
        promises: Promises { descends: Descends::Always, task_scale: true, ..NOTHING },
        ..GRAM
    },
    Method {
        name: "aligned_mtl",
        what: "aligned principal components: condition number 1",
        paper: paper("Senushkin et al.", "Independent Component Alignment for Multi-Task Learning", 2023, "2305.19000"),
        rule: "c = sqrt(s_min) V S^(-1/2) V^T 1 with G = V S V^T",
        ..GRAM
    },
    Method {
        name: "upgrad",
        what: "each task projected on the cone where none ascends, then the mean",
        paper: paper("Quinton, Rey", "Jacobian Descent for Multi-Objective Optimization", 2024, "2406.16232"),
        rule: "d = 1/T sum_t (projection of g_t on {d : J d >= 0})",
        promises: Promises { descends: Descends::Always, without_conflict: Some(Total::Mean), ..NOTHING },
        ..GRAM
    },
    Method {
        name: "dualproj",
        what: "the mean, projected on the cone where no task ascends (GEM)",
        paper: paper("Lopez-Paz, Ranzato", "Gradient Episodic Memory for Continual Learning", 2017, "1706.08840"),
        rule: "d = projection of 1/T sum_t g_t on {d : J d >= 0}",
        promises: Promises { descends: Descends::Always, without_conflict: Some(Total::Mean), ..NOTHING },
        ..GRAM
    },
    Method {
        name: "fairgrad",
        what: "alpha-fair resource allocation",
        paper: paper("Ban, Ji", "Fair Resource Allocation in Multi-Task Learning", 2024, "2402.15638"),
        rule: "G c = c^(-1/alpha), c > 0",
        promises: Promises { descends: Descends::Always, scale: Scale::Invariant, task_scale: true, ..NOTHING },
        ..GRAM
    },
    Method {
        name: "config",
        what: "conflict-free inverse gradient (ConFIG)",
        paper: paper(
            "Liu, Chu, Thuerey",
            "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks",
            2024,
            "2408.11104",
        ),
        rule: "d along U^+ 1 (U: unit gradients), of length sum_t g_t . d / |d|",
        promises: Promises { descends: Descends::Always, task_scale: true, ..NOTHING },
        ..GRAM
    },
    Method {
        name: "krum",
        what: "the gradients nearest to their neighbours (Krum, Multi-Krum)",
        paper: paper(
            "Blanchard et al.",
            "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
            2017,
            "1703.02757",
        ),
        rule: "mean of the gradients with the smallest sums of squared distances to their nearest neighbours",
        // The two nearest of four tasks have the same score: the first one is taken.
        promises: Promises { order: Order::Listed, ..NOTHING },
        ..GRAM
    },
    Method {
        name: "gradnorm",
        what: "gradient norms follow the relative pace of tasks",
        paper: paper(
            "Chen et al.",
            "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks",
            2018,
            "1711.02257",
        ),
        rule: "c minimises sum_t |c_t |g_t| - mean(c |g|) r_t^alpha|, r_t = (L_t / L_t(0)) / mean; sum c = T",
        losses: Losses::Positive,
        state: "coefficients, first losses, [T]",
        ..GRAM
    },
    Method {
        name: "sdmgrad",
        what: "direction-oriented, from two independent Gram matrices",
        paper: paper(
            "Xiao, Ban, Ji",
            "Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms",
            2023,
            "2305.18409",
        ),
        rule: "c by projected descent along J_1 J_2^T (c + lambda / T); d = J_3^T (c + lambda / T) / (1 + lambda)",
        state: "coefficients, [T]",
        ..BATCHES
    },
    Method {
        name: "modo",
        what: "multi-objective gradient with double sampling",
        paper: paper(
            "Chen et al.",
            "Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and Conflict-Avoidance",
            2023,
            "2305.20057",
        ),
        rule: "c <- simplex(c - gamma (J_1 J_2^T c + rho c)); d = J_3^T c",
        state: "coefficients, [T]",
        promises: Promises { scale: Scale::Unpromised, ..NOTHING },
        ..BATCHES
    },
    Method {
        name: "graddrop",
        what: "at each coordinate one sign, drawn by its share",
        paper: paper(
            "Chen et al.",
            "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout",
            2020,
            "2010.06808",
        ),
        rule: "positive parts are kept where U < (1 + sum g / sum |g|) / 2, else negative ones",
        ..SHARD
    },
    Method {
        name: "trimmed_mean",
        what: "mean without the extremes, coordinate by coordinate",
        paper: paper(
            "Yin et al.",
            "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
            2018,
            "1803.01498",
        ),
        rule: "d_p = mean of g_tp without the largest and the smallest few",
        ..SHARD
    },
    Method {
        name: "excess_mtl",
        what: "weights by estimated excess risks",
        paper: paper("He et al.", "Robust Multi-Task Learning with Excess Risks", 2024, "2402.02009"),
        rule: "c_t <- c_t exp(eta e_t / e_t(0)), normalised; e_t = sum_p g_tp^2 / sqrt(S_tp), S += g^2",
        state: "sums of squares, [T, P/W]; coefficients, first risks, [T]",
        ..SHARD
    },
    Method {
        name: "moco",
        what: "multi-objective gradient correction: tracked gradients",
        paper: paper(
            "Fernando et al.",
            "Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent Approach",
            2023,
            "2210.12624",
        ),
        rule: "Y follows g; c <- simplex(c - gamma (Y Y^T + rho I) c); d = Y^T c",
        state: "tracked gradients, [T, P/W]; coefficients, [T]",
        promises: Promises { scale: Scale::Unpromised, ..NOTHING },
        ..SHARD
    },
    Method {
        name: "db_mtl",
        what: "dual balancing: logarithms of losses, equal gradient norms",
        paper: paper("Lin et al.", "Dual-Balancing for Multi-Task Learning", 2023, "2308.12029"),
        rule: "Y follows g_t / L_t; d = sum_t (max_s |Y_s| / |Y_t|) Y_t",
        losses: Losses::AnySign,
        state: "tracked gradients, [T, P/W]",
        promises: Promises { task_scale: true, ..NOTHING },
        ..SHARD
    },
    Method {
        name: "representation",
        what: "gradients of the encoder's output instead of the parameters (MGDA-UB)",
        paper: MGDA,
        rule: "G = sum over samples of Z_n Z_n^T, Z_n the gradients with respect to the representation of sample n",
        cost: "T backwards through the heads, one through the encoder",
        sets: &["balance.surgery=mgda", "balance.gradients=representation"],
        ..WRAPPER
    },
    Method {
        name: "smoothing",
        what: "coefficients follow those of the method slowly (CR-MOGM)",
        paper: paper(
            "Zhou et al.",
            "On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond",
            2022,
            "",
        ),
        rule: "c_k = alpha c_(k-1) + (1 - alpha) c of the method",
        state: "the last coefficients, [T]",
        cost: "nothing",
        sets: &["balance.surgery=mgda", "balance.smoothing=0.9"],
        ..WRAPPER
    },
    Method {
        name: "alternating",
        what: "one task at a time",
        rule: "step k has task (k / every) mod T alone",
        cost: "less: only active tasks are computed",
        promises: TURNS,
        sets: &["balance.tasks=alternating"],
        ..WRAPPER
    },
    Method {
        name: "grouped",
        what: "groups of tasks take turns",
        rule: "step k has the tasks of group (k / every) mod (number of groups)",
        cost: "less: only active tasks are computed",
        promises: TURNS,
        given: "groups: lists of tasks; every: 1",
        sets: &["balance.tasks.grouped.groups=[['0'], ['1']]"],
        ..WRAPPER
    },
    Method {
        name: "curriculum",
        what: "tasks enter and leave at given steps",
        rule: "step k has the tasks with from <= k < until",
        cost: "less: only active tasks are computed",
        promises: TURNS,
        given: "from: 0 and until, by task",
        sets: &["balance.tasks.curriculum={'0': {from: 10}}"],
        ..WRAPPER
    },
];
