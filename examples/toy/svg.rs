//! The picture: a panel per method with its paths over the contours of `L1 + L2`.

use super::problem::{FRONT, losses};
use std::fmt::Write;

/// What one panel shows.
pub struct Panel {
    /// Its heading.
    pub title: String,
    /// By start: the points passed, and whether the run arrived.
    pub paths: Vec<(Vec<[f64; 2]>, bool)>,
}

/// Half the width of the square that is shown, in parameters.
const REACH: f64 = 10.0;
const SIDE: f64 = 200.0;
const GAP: f64 = 12.0;
const HEAD: f64 = 20.0;
const COLUMNS: usize = 5;
const COLOURS: [&str; 5] = ["#d1495b", "#edae49", "#00798c", "#5f4bb6", "#3a7d44"];
const GRID: usize = 80;

fn place([x1, x2]: [f64; 2]) -> [f64; 2] {
    let scale = SIDE / (2.0 * REACH);
    [(x1 + REACH) * scale, (REACH - x2) * scale]
}

/// A number with one decimal, as short as SVG allows.
fn short(x: f64) -> String {
    let text = format!("{x:.1}");
    let text = text.strip_suffix(".0").map(str::to_owned).unwrap_or(text);
    if text == "-0" { "0".into() } else { text }
}

/// The whole picture.
pub fn draw(panels: &[Panel]) -> String {
    let rows = panels.len().div_ceil(COLUMNS);
    let columns = panels.len().min(COLUMNS);
    let width = GAP + columns as f64 * (SIDE + GAP);
    let height = GAP + rows as f64 * (SIDE + HEAD + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    let _ = writeln!(
        svg,
        "<defs><clipPath id=\"b\"><rect width=\"{SIDE}\" height=\"{SIDE}\"/></clipPath>\n<g id=\"p\"><rect \
         width=\"{SIDE}\" height=\"{SIDE}\" fill=\"#fafafa\" stroke=\"#999\"/><path d=\"{}\" fill=\"none\" \
         stroke=\"#ccc\" stroke-width=\".6\"/><path d=\"{}\" stroke=\"#888\" stroke-width=\"4\" fill=\"none\" \
         stroke-linecap=\"round\"/></g></defs>",
        contours(),
        line(&[[-7.0, FRONT], [7.0, FRONT]])
    );
    for (k, panel) in panels.iter().enumerate() {
        let left = GAP + (k % COLUMNS) as f64 * (SIDE + GAP);
        let top = GAP + HEAD + (k / COLUMNS) as f64 * (SIDE + HEAD + GAP);
        let _ = writeln!(svg, "<g transform=\"translate({left} {top})\"><text y=\"-6\">{}</text>", panel.title);
        svg.push_str("<use href=\"#p\"/><g clip-path=\"url(#b)\">\n");
        for ((points, arrived), colour) in panel.paths.iter().zip(COLOURS) {
            let (Some(&start), Some(&end)) = (points.first(), points.last()) else { continue };
            let _ = writeln!(
                svg,
                "<path d=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" stroke-linejoin=\"round\"/>",
                line(&thinned(points, 0.04))
            );
            let [x, y] = place(start).map(short);
            let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"#fff\" stroke=\"{colour}\"/>");
            let [x, y] = place(end).map(short);
            let _ = if *arrived {
                writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"4\" fill=\"{colour}\" stroke=\"#000\"/>")
            } else {
                writeln!(svg, "<path d=\"M{x} {y}m-4-4l8 8m0-8l-8 8\" stroke=\"#000\" stroke-width=\"2\"/>")
            };
        }
        svg.push_str("</g></g>\n");
    }
    svg + "</svg>\n"
}

fn line(points: &[[f64; 2]]) -> String {
    let mut d = String::new();
    for (k, point) in points.iter().enumerate() {
        let [x, y] = place(*point).map(short);
        let _ = write!(d, "{}{x} {y}", if k == 0 { 'M' } else { 'L' });
    }
    d
}

/// The points of a path that are needed to stay within `tolerance` of it (Ramer, Douglas and Peucker).
fn thinned(points: &[[f64; 2]], tolerance: f64) -> Vec<[f64; 2]> {
    let (Some(&first), Some(&last)) = (points.first(), points.last()) else { return Vec::new() };
    let along = [last[0] - first[0], last[1] - first[1]];
    let length = along[0].hypot(along[1]);
    let away = |p: &[f64; 2]| {
        let from = [p[0] - first[0], p[1] - first[1]];
        if length == 0.0 { from[0].hypot(from[1]) } else { (along[0] * from[1] - along[1] * from[0]).abs() / length }
    };
    let farthest = points.iter().map(away).enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    match farthest {
        Some((at, distance)) if distance > tolerance && at > 0 && at + 1 < points.len() => {
            let mut kept = thinned(&points[..=at], tolerance);
            kept.pop();
            kept.extend(thinned(&points[at..], tolerance));
            kept
        }
        _ if points.len() > 1 => vec![first, last],
        _ => vec![first],
    }
}

/// Contours of `L1 + L2`, a piece per cell of the grid.
fn contours() -> String {
    let coordinate = |k: usize| -REACH + 2.0 * REACH * k as f64 / GRID as f64;
    let value = |i: usize, j: usize| losses([coordinate(i), coordinate(j)]).iter().sum::<f64>();
    let values: Vec<Vec<f64>> = (0..=GRID).map(|i| (0..=GRID).map(|j| value(i, j)).collect()).collect();
    let mut d = String::new();
    for level in (-20..=8).step_by(2).map(f64::from) {
        for i in 0..GRID {
            for j in 0..GRID {
                let corners = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)];
                let mut crossings = Vec::new();
                for k in 0..4 {
                    let ((ai, aj), (bi, bj)) = (corners[k], corners[(k + 1) % 4]);
                    let (a, b) = (values[ai][aj] - level, values[bi][bj] - level);
                    if (a < 0.0) != (b < 0.0) {
                        let share = a / (a - b);
                        let between = |p: usize, q: usize| coordinate(p) + share * (coordinate(q) - coordinate(p));
                        crossings.push([between(ai, bi), between(aj, bj)]);
                    }
                }
                for pair in crossings.chunks_exact(2) {
                    let ([x, y], [u, v]) = (place(pair[0]), place(pair[1]));
                    let _ = write!(d, "M{} {}l{} {}", short(x), short(y), short(u - x), short(v - y));
                }
            }
        }
    }
    d
}
