//! What buyers do with their orders, and how it is drawn. The draw is made up front from the run's seed, so nothing
//! that the server does can change who pays.

use fastrand::Rng;

/// Keeps this draw apart from that of the schedule, which has the same seed.
const SALT: u64 = 0x6265_6861_7669_6f72;
/// How far a sum of percentages may be beyond 100, because most decimal fractions have no exact binary form.
const ROUNDING: f64 = 1e-6;

/// What a buyer does with an order that waits for its payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Pays.
    Pay,
    /// Opens the payment twice at once, and presses the button twice at once.
    PayTwice,
    /// Opens the payment at once, and pays when the order's time is over.
    PayLate,
    /// Cancels.
    Cancel,
    /// Does nothing.
    Abandon,
}

/// How many of the accepted buyers do what, in percent. The rest abandons.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shares {
    /// Buyers who pay.
    pub pay: f64,
    /// Buyers who pay twice at once.
    pub pay_twice: f64,
    /// Buyers who pay when the time is over.
    pub pay_late: f64,
    /// Buyers who cancel.
    pub cancel: f64,
    /// Buyers who do nothing.
    pub abandon: f64,
}

impl Shares {
    /// Checks that the shares fit together. `None` means that no share was given.
    ///
    /// # Errors
    /// When the shares add up to more than 100.
    pub fn checked(self) -> Result<Option<Self>, String> {
        let sum = self.pay + self.pay_twice + self.pay_late + self.cancel + self.abandon;
        if sum > 100.0 + ROUNDING {
            return Err(format!("what buyers do adds up to {sum} %, which is more than 100 %"));
        }
        Ok((sum > 0.0).then_some(self))
    }

    /// Draws what each of `buyers` does. The same seed draws the same, and more buyers change nothing for the first
    /// ones.
    pub fn draw(&self, seed: u64, buyers: u32) -> Vec<Behaviour> {
        let mut dice = Rng::with_seed(seed ^ SALT);
        (0..buyers).map(|_| self.at(dice.f64() * 100.0)).collect()
    }

    fn at(&self, roll: f64) -> Behaviour {
        let mut bound = 0.0;
        for (share, behaviour) in [
            (self.pay, Behaviour::Pay),
            (self.pay_twice, Behaviour::PayTwice),
            (self.pay_late, Behaviour::PayLate),
            (self.cancel, Behaviour::Cancel),
        ] {
            bound += share;
            if roll < bound {
                return behaviour;
            }
        }
        Behaviour::Abandon
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARES: Shares = Shares { pay: 55.0, pay_twice: 5.0, pay_late: 5.0, cancel: 10.0, abandon: 25.0 };

    #[test]
    fn a_seed_decides_the_same_behaviours_again() {
        let drawn = SHARES.draw(7, 2000);
        assert_eq!(SHARES.draw(7, 2000), drawn);
        assert_eq!(SHARES.draw(7, 50), drawn[..50]);
        assert_ne!(SHARES.draw(8, 2000), drawn);
    }

    #[test]
    fn the_shares_are_kept_and_the_rest_abandons() {
        let count = |shares: Shares, wanted: Behaviour| {
            shares.draw(3, 10_000).into_iter().filter(|drawn| *drawn == wanted).count()
        };
        assert!((5_300..5_700).contains(&count(SHARES, Behaviour::Pay)));
        assert!((400..600).contains(&count(SHARES, Behaviour::PayLate)));
        assert!((2_300..2_700).contains(&count(SHARES, Behaviour::Abandon)));
        let few = Shares { cancel: 10.0, ..Shares::default() };
        assert!((8_800..9_200).contains(&count(few, Behaviour::Abandon)));
    }

    #[test]
    fn more_than_all_buyers_are_refused_and_no_share_is_no_behaviour() {
        assert!(Shares { pay: 60.0, cancel: 50.0, ..Shares::default() }.checked().is_err());
        assert_eq!(SHARES.checked(), Ok(Some(SHARES)));
        let thirds = Shares { pay: 33.3, cancel: 33.3, abandon: 33.4, ..Shares::default() };
        assert_eq!(thirds.checked(), Ok(Some(thirds)));
        assert_eq!(Shares::default().checked(), Ok(None));
    }
}
