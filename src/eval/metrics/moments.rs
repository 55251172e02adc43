//! Sums that merge without losing digits.

/// A sum with the rounding error kept apart (Neumaier, 1974): any order and grouping gives the same to a rounding.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sum {
    high: f64,
    low: f64,
}

impl Sum {
    pub(super) fn add(&mut self, x: f64) {
        let sum = self.high + x;
        let (large, small) = if self.high.abs() >= x.abs() { (self.high, x) } else { (x, self.high) };
        self.low += (large - sum) + small;
        self.high = sum;
    }

    pub(super) fn get(self) -> f64 {
        self.high + self.low
    }

    pub(super) fn state(self) -> [f64; 2] {
        [self.high, self.low]
    }

    pub(super) fn merge(&mut self, state: [f64; 2]) {
        state.into_iter().for_each(|x| self.add(x));
    }
}

/// Means and centred second moments of pairs (Welford, 1962; merged by Chan, Golub and LeVeque, 1979): subtracting a
/// large mean afterwards would cost all digits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Moments {
    n: f64,
    mean: [f64; 2],
    /// Sums of `dx dx`, `dx dy`, `dy dy` about the means.
    centred: [f64; 3],
}

impl Moments {
    pub(super) fn add(&mut self, x: f64, y: f64) {
        self.merge([1.0, x, y, 0.0, 0.0, 0.0]);
    }

    pub(super) fn state(self) -> [f64; 6] {
        let ([x, y], [xx, xy, yy]) = (self.mean, self.centred);
        [self.n, x, y, xx, xy, yy]
    }

    /// Takes in the moments of other samples; with a single one it is Welford's update.
    pub(super) fn merge(&mut self, [n, x, y, xx, xy, yy]: [f64; 6]) {
        let total = self.n + n;
        if n == 0.0 {
            return;
        }
        let (dx, dy) = (x - self.mean[0], y - self.mean[1]);
        let share = n / total;
        let between = self.n * share;
        self.mean = [self.mean[0] + dx * share, self.mean[1] + dy * share];
        let [own_xx, own_xy, own_yy] = self.centred;
        self.centred =
            [own_xx + xx + dx * dx * between, own_xy + xy + dx * dy * between, own_yy + yy + dy * dy * between];
        self.n = total;
    }

    /// Sums of `dx dx`, `dx dy`, `dy dy` about the means.
    pub(super) fn centred(self) -> [f64; 3] {
        self.centred
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_keeps_what_plain_addition_loses() {
        let mut sum = Sum::default();
        [1.0, 1e100, 1.0, -1e100].into_iter().for_each(|x| sum.add(x));
        assert_eq!(sum.get(), 2.0);
    }

    #[test]
    fn moments_stand_a_large_mean_and_constants_are_exactly_constant() {
        let (mut moments, mut halves) = (Moments::default(), [Moments::default(); 2]);
        for i in 0..1000 {
            moments.add(1e9 + f64::from(i % 2), 0.1);
            halves[usize::from(i >= 300)].add(1e9 + f64::from(i % 2), 0.1);
        }
        halves[0].merge(halves[1].state());
        for moments in [moments, halves[0]] {
            let [xx, xy, yy] = moments.centred();
            assert!((xx - 250.0).abs() < 1e-6, "{xx}");
            assert_eq!((xy, yy), (0.0, 0.0));
        }
    }
}
