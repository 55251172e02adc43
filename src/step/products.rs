//! Inner products of long rows, wherever they are.

use crate::ffi::in_full_precision;
use tch::{Kind, Tensor};

/// Columns whose products are added up in the rows' own precision; their sums are then added in 64 bits. Also the unit of
/// parallel work: a product of a few very long rows would keep a few of a GPU's processors busy.
const CHUNK: i64 = 1 << 15;

/// Inner products `[R, R]`, in 64 bits at the end, of rows `[R, n]` of 32 or 64 bits.
pub fn row_products(rows: &Tensor) -> Tensor {
    in_full_precision(|| in_chunks(rows))
}

fn in_chunks(rows: &Tensor) -> Tensor {
    let (n_rows, n) = (rows.size()[0], rows.size()[1]);
    let n_chunks = n / CHUNK;
    let rest = rows.narrow(1, n_chunks * CHUNK, n - n_chunks * CHUNK);
    let rest = rest.matmul(&rest.transpose(0, 1)).to_kind(Kind::Double);
    if n_chunks == 0 {
        return rest;
    }
    let chunks = rows.narrow(1, 0, n_chunks * CHUNK).reshape([n_rows, n_chunks, CHUNK]).transpose(0, 1);
    chunks.bmm(&chunks.transpose(1, 2)).sum_dim_intlist([0i64].as_slice(), false, Kind::Double) + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn long_rows_are_multiplied_in_chunks() {
        for n in [1, CHUNK - 1, CHUNK, 2 * CHUNK + 17] {
            // Columns out of the middle of a wider matrix: the rows of a shard are as far apart as whole rows.
            let wide = Tensor::randn([3, n + 5], (Kind::Float, Device::Cpu));
            let rows = wide.narrow(1, 3, n);
            let exact = rows.to_kind(Kind::Double);
            let exact = exact.matmul(&exact.transpose(0, 1));
            let error = (row_products(&rows) - &exact).abs().max().double_value(&[]);
            assert!(error < 1e-6 * exact.abs().max().double_value(&[]), "{n}: {error}");
        }
    }
}
