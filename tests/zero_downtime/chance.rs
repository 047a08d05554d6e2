//! Chance that can be had again: `CHANCE=SEED` repeats a run's choices.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

pub struct Chance(u64);

impl Chance {
    /// Says the seed, for a run that failed.
    pub fn new() -> Self {
        let given = std::env::var("CHANCE").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(std::process::id()));
        println!("CHANCE={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `most`, to the microsecond.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64((self.next() >> 11) as f64 / (1_u64 << 53) as f64)
    }
}
