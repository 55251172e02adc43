//! The T x T matrix of gradient cosines as a picture: blue -1, white 0, red +1, grey where not defined.

use super::font::{self, glyph};
use super::proto::Image;

type Rgb = [u8; 3];

const PAPER: Rgb = [255, 255, 255];
const INK: Rgb = [40, 40, 40];
const GRID: Rgb = [200, 200, 200];
const UNDEFINED: Rgb = [150, 150, 150];
/// Ends of the scale: -1, 0, +1.
const SCALE: [Rgb; 3] = [[33, 102, 172], [247, 247, 247], [178, 24, 43]];

/// Everything below is in dots. A dashboard card is about 350 pixels wide and drops pixels to fit a picture in: twelve
/// tasks take 350 dots, and a dot of two by two pixels survives that.
const DOT: usize = 2;
/// Up to so many tasks a cell shows two decimals.
const TWO_DECIMALS: usize = 8;
/// Up to so many tasks a cell shows one decimal.
const ONE_DECIMAL: usize = 16;
/// Up to so many tasks rows and columns are named.
const NAMES: usize = 64;
/// Longest name shown, in letters.
const NAME: usize = 14;
/// Room around everything.
const MARGIN: usize = 4;
/// Width of the colour bar.
const BAR: usize = 10;
/// From one letter to the next.
const STEP: usize = font::WIDTH + 1;

/// Draws cosines `[T * T]`, row-major. `None` if there are fewer than two tasks, if the matrix does not fit the names,
/// or if it cannot be encoded.
pub fn picture(tasks: &[String], cosine: &[f64]) -> Option<Image> {
    let t = tasks.len();
    if t < 2 || cosine.len() != t * t {
        return None;
    }
    let plan = Plan::of(tasks);
    let mut canvas = Canvas::new(plan.width, plan.height);
    plan.cells(&mut canvas, cosine);
    plan.names(&mut canvas, tasks);
    plan.bar(&mut canvas);
    canvas.encode()
}

/// Where everything is, in dots.
struct Plan {
    t: usize,
    cell: usize,
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl Plan {
    fn of(tasks: &[String]) -> Plan {
        let t = tasks.len();
        let cell = if t <= TWO_DECIMALS {
            (228 / t).clamp(26, 40)
        } else if t <= ONE_DECIMAL {
            19
        } else {
            // Beyond 64 tasks the picture stays about as large and the cells shrink instead.
            (12 * NAMES / t).clamp(1, 12)
        };
        let longest = tasks.iter().map(|name| name.chars().count().min(NAME)).max().unwrap_or(0);
        let label = if t <= NAMES { longest * STEP + 2 } else { 0 };
        let (left, top) = (MARGIN + label, MARGIN + label);
        let width = left + t * cell + 1 + 2 * MARGIN + BAR + 2 + 2 * STEP + MARGIN;
        Plan { t, cell, left, top, width, height: top + t * cell + 1 + MARGIN }
    }

    fn cells(&self, canvas: &mut Canvas, cosine: &[f64]) {
        for (i, &c) in cosine.iter().enumerate() {
            // What is no cosine must not need more room than one.
            let c = if c.is_finite() { c.clamp(-1.0, 1.0) } else { f64::NAN };
            let (x, y) = (self.left + i % self.t * self.cell, self.top + i / self.t * self.cell);
            canvas.fill(x, y, self.cell, self.cell, if self.cell >= 8 { GRID } else { colour(c) });
            if self.cell >= 8 {
                canvas.fill(x + 1, y + 1, self.cell - 1, self.cell - 1, colour(c));
            }
            if self.t <= ONE_DECIMAL {
                let text = number(c, if self.t <= TWO_DECIMALS { 2 } else { 1 });
                let ink = if c.abs() > 0.6 { PAPER } else { INK };
                let (w, h) = (text.len() * STEP - 1, font::HEIGHT);
                canvas.text(x + (self.cell + 1 - w) / 2, y + (self.cell + 1 - h) / 2, &text, ink);
            }
        }
        let side = self.t * self.cell + 1;
        canvas.fill(self.left, self.top + side - 1, side, 1, GRID);
        canvas.fill(self.left + side - 1, self.top, 1, side, GRID);
    }

    fn names(&self, canvas: &mut Canvas, tasks: &[String]) {
        if self.t > NAMES {
            return;
        }
        let middle = (self.cell + 1 - font::HEIGHT) / 2;
        for (i, name) in tasks.iter().enumerate() {
            let name = shorten(name);
            let length = name.chars().count() * STEP;
            let at = i * self.cell + middle;
            canvas.text(self.left - 1 - length, self.top + at, &name, INK);
            canvas.text_up(self.left + at, self.top - 2, &name, INK);
        }
    }

    fn bar(&self, canvas: &mut Canvas) {
        let (x, side) = (self.left + self.t * self.cell + 1 + 2 * MARGIN, self.t * self.cell + 1);
        for y in 0..side {
            canvas.fill(x, self.top + y, BAR, 1, colour(1.0 - 2.0 * y as f64 / (side - 1) as f64));
        }
        let letters = font::HEIGHT;
        for (text, y) in [("+1", 0), (" 0", (side - letters) / 2), ("-1", side - letters)] {
            canvas.text(x + BAR + 2, self.top + y, text, INK);
        }
    }
}

/// A cosine without the leading zero: `.31`, `-.07`, `1`.
fn number(c: f64, decimals: usize) -> String {
    if !c.is_finite() {
        return "-".into();
    }
    let text = format!("{c:.decimals$}");
    match text.trim_end_matches('0').trim_end_matches('.') {
        "-0" | "0" => "0".into(),
        whole @ ("1" | "-1") => whole.into(),
        _ => text.replacen("0.", ".", 1),
    }
}

/// Long names keep both ends: what tells them apart may be at either.
fn shorten(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= NAME {
        return name.into();
    }
    let half = (NAME - 2) / 2;
    letters[..half].iter().chain(&['.', '.']).chain(&letters[letters.len() - half..]).collect()
}

fn colour(c: f64) -> Rgb {
    if !c.is_finite() {
        return UNDEFINED;
    }
    let (end, part) = (if c < 0.0 { SCALE[0] } else { SCALE[2] }, c.abs().min(1.0));
    std::array::from_fn(|i| (SCALE[1][i] as f64 + part * (end[i] as f64 - SCALE[1][i] as f64)).round() as u8)
}

/// RGB dots, row-major. Drawing outside is ignored.
struct Canvas {
    width: usize,
    height: usize,
    dots: Vec<u8>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Canvas {
        Canvas { width, height, dots: PAPER.repeat(width * height) }
    }

    fn fill(&mut self, x: usize, y: usize, w: usize, h: usize, rgb: Rgb) {
        for y in y..(y + h).min(self.height) {
            for x in x..(x + w).min(self.width) {
                let at = 3 * (y * self.width + x);
                self.dots[at..at + 3].copy_from_slice(&rgb);
            }
        }
    }

    fn text(&mut self, x: usize, y: usize, text: &str, rgb: Rgb) {
        for (i, c) in text.chars().enumerate() {
            dots(c, |column, row| self.fill(x + i * STEP + column, y + row, 1, 1, rgb));
        }
    }

    /// Text that reads upwards and starts at the bottom `y`.
    fn text_up(&mut self, x: usize, y: usize, text: &str, rgb: Rgb) {
        for (i, c) in text.chars().enumerate() {
            dots(c, |column, row| {
                self.fill(x + row, y.saturating_sub(i * STEP + column + 1), 1, 1, rgb);
            });
        }
    }

    fn encode(&self) -> Option<Image> {
        let (width, height) = (u32::try_from(DOT * self.width).ok()?, u32::try_from(DOT * self.height).ok()?);
        let row = |row: &[u8]| row.chunks(3).flat_map(|dot| dot.repeat(DOT)).collect::<Vec<u8>>().repeat(DOT);
        let pixels: Vec<u8> = self.dots.chunks(3 * self.width).flat_map(row).collect();
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header().ok()?.write_image_data(&pixels).ok()?;
        let (height, width) = (i32::try_from(height).ok()?, i32::try_from(width).ok()?);
        Some(Image { height, width, colorspace: 3, png: bytes })
    }
}

fn dots(c: char, mut dot: impl FnMut(usize, usize)) {
    for (row, bits) in glyph(c).into_iter().enumerate() {
        for column in (0..font::WIDTH).filter(|column| bits >> (font::WIDTH - 1 - column) & 1 == 1) {
            dot(column, row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(t: usize) -> Vec<String> {
        (0..t).map(|i| format!("task_{i}")).collect()
    }

    fn pixels(image: &Image) -> Vec<u8> {
        let mut reader = png::Decoder::new(std::io::Cursor::new(&image.png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (image.width as u32, image.height as u32));
        pixels
    }

    #[test]
    fn cells_have_the_colour_of_their_value() {
        let tasks = names(3);
        let image = picture(&tasks, &[1.0, -1.0, 0.0, -1.0, 1.0, f64::NAN, 0.0, f64::NAN, 1.0]).unwrap();
        let (plan, pixels) = (Plan::of(&tasks), pixels(&image));
        // The corner of a cell: inside the grid line, outside the number.
        let corner = |row: usize, column: usize| -> Rgb {
            let (x, y) = (plan.left + column * plan.cell + 2, plan.top + row * plan.cell + 2);
            let at = 3 * DOT * (y * DOT * plan.width + x);
            [pixels[at], pixels[at + 1], pixels[at + 2]]
        };
        assert_eq!(corner(0, 0), SCALE[2]);
        assert_eq!(corner(0, 1), SCALE[0]);
        assert_eq!(corner(0, 2), SCALE[1]);
        assert_eq!(corner(1, 2), UNDEFINED);
    }

    #[test]
    fn every_number_of_tasks_has_a_picture_of_sane_size() {
        for t in [2, 5, 16, 17, 40, 64, 65, 300, 1000] {
            let image = picture(&names(t), &vec![0.5; t * t]).unwrap();
            assert!(image.width < 3300 && image.height < 3300, "{t} tasks: {} x {}", image.width, image.height);
            assert!(t > NAMES || image.width as usize >= 24 * t);
        }
    }

    #[test]
    fn what_is_no_cosine_is_drawn_as_the_nearest_one_or_as_undefined() {
        let edges = |ends: [f64; 2]| picture(&names(2), &[ends[0], ends[1], ends[1], ends[0]]).unwrap();
        assert_eq!(pixels(&edges([1e300, -7.5e9])), pixels(&edges([1.0, -1.0])));
        assert_eq!(pixels(&edges([f64::INFINITY, f64::NEG_INFINITY])), pixels(&edges([f64::NAN; 2])));
    }

    #[test]
    fn nothing_to_compare_is_no_picture() {
        assert!(picture(&names(1), &[1.0]).is_none());
        assert!(picture(&names(3), &[1.0; 4]).is_none());
    }

    #[test]
    fn numbers_and_names_are_short() {
        let texts: Vec<_> =
            [0.314, -0.066, 1.0, -1.0, 0.001, -0.004, f64::NAN].into_iter().map(|c| number(c, 2)).collect();
        assert_eq!(texts, [".31", "-.07", "1", "-1", "0", "0", "-"]);
        assert_eq!([0.96, -0.44, 0.06, 0.5].map(|c| number(c, 1)), ["1", "-.4", ".1", ".5"]);
        assert_eq!(shorten("education_level_of_mother"), "educat..mother");
        assert_eq!(shorten("sr_p53"), "sr_p53");
    }
}
