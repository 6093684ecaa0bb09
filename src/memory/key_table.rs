//! What is known of many keys, in memory of a fixed size.
//!
//! Invariant: a table takes the same memory however many keys are asked for. When more keys than it has room for are of
//! interest at once, that is forgotten which is of no interest soonest.

use std::sync::Mutex;

/// Values of one set. A key belongs to one set, and to any place of it.
pub const PLACES: usize = 8;

/// What is known of a key. The default is what is known of a key that was never asked for.
pub trait Fading: Copy + Default {
    /// Answers when it says no more than the default, in ns of a clock that never goes back.
    fn fades_at_ns(&self) -> u64;
}

/// Keys, and what is known of them.
type Set<V> = Mutex<[(u64, V); PLACES]>;

/// A table.
pub struct KeyTable<V> {
    sets: Box<[Set<V>]>,
    /// Selects a set by the key's low bits.
    mask: u64,
}

impl<V: Fading> KeyTable<V> {
    /// Makes room for about so many keys: the next power of two, and at least [`PLACES`].
    pub fn new(keys: usize) -> Self {
        let sets = keys.div_ceil(PLACES).next_power_of_two();
        let set = || Mutex::new([(0, V::default()); PLACES]);
        let mask = u64::try_from(sets - 1).expect("an address");
        Self { sets: std::iter::repeat_with(set).take(sets).collect(), mask }
    }

    /// Lets `act` see and change what is known of a key, which is a hash that is spread over all of its bits. Keys with
    /// the same hash are one key. Other keys may wait meanwhile.
    pub fn with<R>(&self, key: u64, act: impl FnOnce(&mut V) -> R) -> R {
        let set = usize::try_from(key & self.mask).expect("a set");
        let mut places = self.sets[set].lock().expect("no code panics while holding it");
        let own = places.iter().position(|(of, _)| *of == key);
        let place = own.unwrap_or_else(|| {
            let first = places.iter().enumerate().min_by_key(|(_, (_, value))| value.fades_at_ns());
            first.map_or(0, |(index, _)| index)
        });
        if own.is_none() {
            places[place] = (key, V::default());
        }
        act(&mut places[place].1)
    }
}
