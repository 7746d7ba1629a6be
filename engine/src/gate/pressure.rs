//! How hard the database is pressed, and how fast writers are let in then: pure functions of what waits to be written.

/// What waits to be written out or merged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Debt {
    /// Sets of memtables in memory, the active one by how full it is.
    pub(crate) memory: f64,
    /// Tables on the deepest level 0, as parts of what starts a merge there.
    pub(crate) level0: f64,
    /// Bytes that levels have beyond what they may.
    pub(crate) bytes: u64,
}

/// From where on writers are slowed, and where that ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bands {
    /// Sets of memtables that may wait to be written out.
    pub(crate) frozen_max: usize,
    /// Bytes of level 1, by which debt is judged.
    pub(crate) level1_bytes: u64,
}

/// Sets of memtables in memory from which on writers are slowed: one is written out, the next one is half full.
pub(crate) const MEMORY_SLOW: f64 = 1.5;
/// Tables of level 0 from which on writers are slowed, and at which they stop, in times of what starts a merge.
pub(crate) const LEVEL0_SLOW: f64 = 2.0;
pub(crate) const LEVEL0_MAX: f64 = 4.0;
/// Bytes above targets, in times of level 1, likewise. Nobody stops for bytes: they bound neither memory nor reads.
const DEBT_SLOW: u64 = 16;
const DEBT_MAX: u64 = 64;

/// Bytes a second that are let in where writers begin to be slowed, and at the other end.
const RATE_MAX: f64 = (1_u64 << 30) as f64;
const RATE_MIN: f64 = (1_u64 << 20) as f64;

impl Bands {
    /// How far between "let everybody in" (0) and the end of a band (1).
    pub(crate) fn pressure(&self, debt: &Debt) -> f64 {
        let within = |value: f64, slow: f64, max: f64| ((value - slow) / (max - slow)).clamp(0.0, 1.0);
        let level1 = self.level1_bytes as f64;
        let memory = within(debt.memory, MEMORY_SLOW, (self.frozen_max as f64).max(MEMORY_SLOW + 1.0));
        let level0 = within(debt.level0, LEVEL0_SLOW, LEVEL0_MAX);
        let bytes = within(debt.bytes as f64, DEBT_SLOW as f64 * level1, DEBT_MAX as f64 * level1);
        memory.max(level0).max(bytes)
    }

    /// How far merges are behind, as a part of where writers are slowed because of it; from 1 on they are.
    pub(crate) fn urgency(&self, debt: &Debt) -> f64 {
        (debt.level0 / LEVEL0_SLOW).max(debt.bytes as f64 / (DEBT_SLOW as f64 * self.level1_bytes as f64))
    }
}

/// Bytes a second that are let in at a pressure. Each step of pressure divides the rate by the same: where it settles
/// depends on what the disk and the merges can do, and nobody has to know that.
pub(crate) fn rate(pressure: f64) -> f64 {
    RATE_MAX * (RATE_MIN / RATE_MAX).powf(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANDS: Bands = Bands { frozen_max: 4, level1_bytes: 100 };

    #[test]
    fn nobody_is_slowed_while_tables_are_written_as_fast_as_memory_fills() {
        assert_eq!(BANDS.pressure(&Debt { memory: 1.4, level0: 1.9, bytes: 1_500 }), 0.0);
        assert!(rate(0.0) > 1e9);
    }

    #[test]
    fn the_greatest_pressure_counts_and_grows_without_steps() {
        let memory = |memory| BANDS.pressure(&Debt { memory, ..Debt::default() });
        assert_eq!([memory(1.5), memory(2.75), memory(4.0), memory(9.0)], [0.0, 0.5, 1.0, 1.0]);
        let level0 = |level0| BANDS.pressure(&Debt { level0, ..Debt::default() });
        assert_eq!([level0(2.0), level0(3.0), level0(4.0)], [0.0, 0.5, 1.0]);
        let bytes = |bytes| BANDS.pressure(&Debt { bytes, ..Debt::default() });
        assert_eq!([bytes(1_600), bytes(4_000), bytes(6_400)], [0.0, 0.5, 1.0]);
        assert_eq!(BANDS.pressure(&Debt { memory: 2.75, level0: 3.0, bytes: 0 }), 0.5);
    }

    #[test]
    fn equal_steps_of_pressure_divide_the_rate_by_the_same() {
        let halves = [rate(0.0) / rate(0.5), rate(0.5) / rate(1.0)];
        assert!((halves[0] - halves[1]).abs() < 1e-6 * halves[0], "{halves:?}");
        assert!((rate(1.0) - RATE_MIN).abs() < 1.0);
    }

    #[test]
    fn merges_hurry_before_writers_are_slowed() {
        assert_eq!(BANDS.urgency(&Debt { level0: 1.0, ..Debt::default() }), 0.5);
        assert_eq!(BANDS.urgency(&Debt { bytes: 1_600, ..Debt::default() }), 1.0);
    }
}
