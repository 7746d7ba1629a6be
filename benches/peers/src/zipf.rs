//! Numbers of which a few are asked for most of the time, as YCSB has them: the rank `r` with a weight of `1 / r^theta`,
//! by the method of Gray and others (SIGMOD 1994), which needs no table.

use crate::workload::Random;

/// YCSB's skew.
const THETA: f64 = 0.99;

/// Draws ranks below a bound; rank 0 is drawn most often.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    count: u64,
    alpha: f64,
    zeta: f64,
    eta: f64,
    /// Weight of the first two ranks.
    first_two: f64,
}

impl Zipf {
    /// Of ranks below `count`, which is at least 2.
    pub(crate) fn new(count: u64) -> Self {
        let zeta: f64 = (1..=count).map(|rank| (rank as f64).powf(-THETA)).sum();
        let first_two = 1.0 + 0.5_f64.powf(THETA);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - THETA)) / (1.0 - first_two / zeta);
        Self { count, alpha: 1.0 / (1.0 - THETA), zeta, eta, first_two }
    }

    /// The next rank.
    pub(crate) fn draw(&self, random: &mut Random) -> u64 {
        let unit = random.unit();
        let weight = unit * self.zeta;
        if weight < 1.0 {
            return 0;
        }
        if weight < self.first_two {
            return 1;
        }
        let rank = self.count as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ranks_are_drawn_as_often_as_their_weight_says() {
        const COUNT: u64 = 1000;
        const DRAWS: usize = 200_000;
        let (zipf, mut random) = (Zipf::new(COUNT), Random::new(1));
        let mut drawn = [0_u32; COUNT as usize];
        (0..DRAWS).for_each(|_| drawn[zipf.draw(&mut random) as usize] += 1);
        for rank in [0, 1] {
            let expected = DRAWS as f64 * ((rank + 1) as f64).powf(-THETA) / zipf.zeta;
            let share = f64::from(drawn[rank]) / expected;
            assert!((0.95..1.05).contains(&share), "rank {rank}: {share} of what it should be");
        }
        let top = drawn[..100].iter().sum::<u32>();
        assert!(f64::from(top) / DRAWS as f64 > 0.6, "a tenth of the keys gets most of the draws");
        assert!(drawn[500..].iter().sum::<u32>() > 0, "and the rest some");
    }
}
