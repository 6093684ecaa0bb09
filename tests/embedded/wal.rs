//! Tears a write-ahead log as a crash of the machine may leave it. What was committed was flushed, so it stays.
//! Anything may stand behind it.
//!
//! Source: "Database File Format", section 4, of the SQLite documentation.

use std::fs;
use std::path::Path;

use rand::Rng;
use rand::rngs::StdRng;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The running checksum of a log, in the byte order that the log's magic number names.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Checksum(u32, u32);

impl Checksum {
    fn over(self, bytes: &[u8], is_big: bool) -> Self {
        let read = |four: &[u8]| {
            let four = four.try_into().expect("four bytes");
            if is_big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
        };
        let Self(mut s0, mut s1) = self;
        for pair in bytes.chunks_exact(8) {
            s0 = s0.wrapping_add(read(&pair[..4])).wrapping_add(s1);
            s1 = s1.wrapping_add(read(&pair[4..])).wrapping_add(s0);
        }
        Self(s0, s1)
    }

    fn stands_at(self, bytes: &[u8], at: usize) -> bool {
        (word(bytes, at), word(bytes, at + 4)) == (self.0, self.1)
    }
}

/// The frames of a log.
struct Layout {
    /// The size of a frame with its header; 0 when the log has no valid header.
    frame: usize,
    /// The end of the last committed frame.
    committed: usize,
}

fn layout(log: &[u8]) -> Layout {
    let nothing = Layout { frame: 0, committed: 0 };
    if log.len() < HEADER {
        return nothing;
    }
    let is_big = word(log, 0) & 1 == 1;
    let mut checksum = Checksum::default().over(&log[..24], is_big);
    if !checksum.stands_at(log, 24) {
        return nothing;
    }
    let frame = FRAME_HEADER + usize::try_from(word(log, 8)).expect("a page size");
    let (mut at, mut committed) = (HEADER, HEADER);
    while at + frame <= log.len() {
        let one = &log[at..at + frame];
        checksum = checksum.over(&one[..8], is_big).over(&one[FRAME_HEADER..], is_big);
        if one[8..16] != log[16..24] || !checksum.stands_at(one, 16) {
            break;
        }
        at += frame;
        if word(one, 4) != 0 {
            committed = at;
        }
    }
    Layout { frame, committed }
}

/// How the tail of a log is torn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tear {
    /// Everything after the last commit, or a part of it, is gone.
    Cut,
    /// Only the beginning of a frame is there, as a write that was under way leaves it.
    Partial,
    /// Frames of random bytes follow, some with the right salt.
    Garbage,
    /// Frames of this very log follow once more, commit marks included. Their checksums do not continue the log's.
    Stale,
    /// Blocks of zeros follow, which were allocated and never written.
    Zeros,
}

pub const TEARS: [Tear; 5] = [Tear::Cut, Tear::Partial, Tear::Garbage, Tear::Stale, Tear::Zeros];

/// Tears the log of a folder that nobody serves. Returns whether there was a log with a commit in it.
pub fn tear(folder: &Path, how: Tear, dice: &mut StdRng) -> bool {
    let path = folder.join("seckill.db-wal");
    let Ok(mut log) = fs::read(&path) else { return false };
    let Layout { frame, committed } = layout(&log);
    if committed <= HEADER {
        return false;
    }
    if how == Tear::Cut {
        log.truncate(dice.random_range(committed..=log.len()));
        fs::write(&path, log).expect("written");
        return true;
    }
    log.truncate(committed);
    let salts = log[16..24].to_vec();
    let random =
        |dice: &mut StdRng, length: usize| -> Vec<u8> { (0..length).map(|_| dice.random()).collect() };
    for _ in 0..dice.random_range(1..4) {
        let at = HEADER + frame * dice.random_range(0..(committed - HEADER) / frame);
        let old = log[at..at + frame].to_vec();
        match how {
            Tear::Cut => {}
            Tear::Partial => {
                log.extend(&old[..dice.random_range(1..frame)]);
                break;
            }
            Tear::Garbage => {
                let mut bytes = random(dice, frame);
                if dice.random() {
                    bytes[8..16].copy_from_slice(&salts);
                }
                log.extend(bytes);
            }
            Tear::Stale => log.extend(old),
            Tear::Zeros => log.extend(vec![0; frame]),
        }
    }
    fs::write(&path, log).expect("written");
    true
}

/// Removes the index of the log. A crash of the machine takes it too, because it is never flushed.
pub fn lose_index(folder: &Path) {
    drop(fs::remove_file(folder.join("seckill.db-shm")));
}
