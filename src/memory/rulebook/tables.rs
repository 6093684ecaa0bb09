//! What the rules of all versions use.

use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, OnceLock};

use foldhash::quality::RandomState;

use crate::memory::token_buckets::Buckets;
use crate::memory::token_leases::Leases;

/// Users, and addresses, whose buckets are not full. They take some nine megabytes each.
const KEYS: usize = 1 << 19;
/// Keys whose leases of shared buckets are known. They take some ten megabytes, once there is a rule that needs them.
const LEASES: usize = 1 << 16;

/// What the rules of all versions use.
pub struct Tables {
    /// Whether there may be other processes.
    pub is_shared: bool,
    /// The buckets of users.
    pub users: Arc<Buckets>,
    /// The buckets of addresses.
    pub addresses: Arc<Buckets>,
    leases: OnceLock<Arc<Leases>>,
    hasher: RandomState,
}

impl Tables {
    /// Makes tables in which nothing is known.
    pub fn new(is_shared: bool) -> Self {
        Self {
            is_shared,
            users: Arc::new(Buckets::new(KEYS)),
            addresses: Arc::new(Buckets::new(KEYS)),
            leases: OnceLock::new(),
            hasher: RandomState::default(),
        }
    }

    /// Answers the hash of a key, which is another one in each process. Nobody sees it, and who guesses two keys of one
    /// hash has them share a bucket. It takes a quarter of the time of a hash for tables that grow.
    pub fn hash(&self, key: &(impl Hash + ?Sized)) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Answers the leases of keys.
    pub fn leases(&self) -> &Arc<Leases> {
        self.leases.get_or_init(|| Arc::new(Leases::new(LEASES)))
    }
}
