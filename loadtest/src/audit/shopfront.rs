//! Checks what shoppers read over HTTP against the rows.

use super::index::Index;
use super::{Findings, Rule};

/// Checks the answers, when they were read. Only the answers to strangers are checked while all is not quiet.
pub fn check(index: &Index<'_>, found: &mut Findings) {
    let Some(http) = &index.evidence.http else { return };
    for (id, status) in &http.strangers {
        found.check(*status == 404, Rule::HttpOrderLeaks, || {
            format!("{id} asked for by another buyer: {status} instead of 404")
        });
    }
    if !index.is_quiet() {
        return;
    }
    for answer in &http.orders {
        let row = index.rows.get(&answer.order);
        let agrees = row.is_some_and(|row| {
            let said = (answer.http_status, answer.status.as_str(), answer.sku.as_str(), answer.quantity);
            said == (200, row.state.as_str(), row.sku.as_str(), row.quantity)
        });
        found.check(agrees, Rule::HttpOrderDiffers, || {
            let row = row.map(|row| (row.state.as_str(), &row.sku, row.quantity));
            format!("{answer:?}, row {row:?}")
        });
    }
    for list in &http.lists {
        let rows = index.rows.iter().filter(|(_, row)| row.user == list.user);
        let missing = rows.filter(|(id, _)| !list.orders.contains(&id.to_string())).count();
        let is_whole = list.http_status == 200 && (missing == 0 || !list.complete);
        found.check(is_whole, Rule::HttpListIncomplete, || {
            format!("{}: status {}, {missing} orders missing", list.user, list.http_status)
        });
    }
}
