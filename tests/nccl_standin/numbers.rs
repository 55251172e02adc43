//! Sums of floats, in rank order.

/// `ncclDataType_t`, as far as we go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    F32,
    F64,
    Bf16,
}

/// How many of which.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Numbers {
    pub count: usize,
    pub kind: Kind,
}

impl Kind {
    pub fn of(kind: i32) -> Option<Kind> {
        match kind {
            7 => Some(Kind::F32),
            8 => Some(Kind::F64),
            9 => Some(Kind::Bf16),
            _ => None,
        }
    }

    pub fn size(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::F64 => 8,
            Kind::Bf16 => 2,
        }
    }

    /// The sum of all parts, which have equal lengths. Halves are summed in `f32` and rounded once.
    pub fn sum(self, parts: &[Vec<u8>]) -> Vec<u8> {
        match self {
            Kind::F32 => sum(parts, f32::from_le_bytes, f32::to_le_bytes),
            Kind::F64 => sum(parts, f64::from_le_bytes, f64::to_le_bytes),
            Kind::Bf16 => sum(parts, |half: [u8; 2]| widen(half), |wide| round(wide)),
        }
    }
}

fn sum<const N: usize, F: std::ops::Add<Output = F>>(
    parts: &[Vec<u8>],
    read: impl Fn([u8; N]) -> F,
    write: impl Fn(F) -> [u8; N],
) -> Vec<u8> {
    let number = |part: &[u8], i: usize| read(part[i..i + N].try_into().unwrap());
    let places = (0..parts[0].len()).step_by(N);
    places
        .flat_map(|i| write(parts[1..].iter().fold(number(&parts[0], i), |sum, part| sum + number(part, i))))
        .collect()
}

fn widen(half: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(half)) << 16)
}

/// To the nearest, ties to even.
fn round(wide: f32) -> [u8; 2] {
    let bits = wide.to_bits();
    (((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16).to_le_bytes()
}
