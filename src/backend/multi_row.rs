//! Builds statements that insert many rows at once. They have few different texts, because a connection prepares each
//! text once.

/// Splits `rows` into runs whose lengths are powers of two, the largest first. No run is longer than `most`, which is
/// itself a power of two.
pub fn runs<T>(mut rows: &[T], most: usize) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = (1usize << rows.len().checked_ilog2()?).min(most);
        let (run, rest) = rows.split_at(size);
        rows = rest;
        Some(run)
    })
}

/// Answers `(?, ?, …), (?, ?, …)`: `rows` groups of `columns` placeholders.
pub fn placeholders(rows: usize, columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(", "));
    vec![row; rows].join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_all_rows_in_powers_of_two() {
        let rows: Vec<usize> = (0..1300).collect();
        let sizes: Vec<usize> = runs(&rows, 512).map(<[usize]>::len).collect();
        assert_eq!(sizes, [512, 512, 256, 16, 4]);
        assert_eq!(runs(&rows, 512).flatten().copied().collect::<Vec<_>>(), rows);
        assert_eq!(runs::<usize>(&[], 512).count(), 0);
    }
}
