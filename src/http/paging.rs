//! Pages of sales, ascending by start and then by id. The cursor is the place of the last sale of a page. Clients must
//! not look into it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::problem::Problem;
use crate::domain::{Sale, SaleId};
use utoipa::IntoParams;

/// The most sales of one page, and how many it has when the request does not say.
const PAGE_MAX: usize = 100;

/// The query string of a page of sales.
#[derive(Debug, Deserialize, IntoParams)]
pub struct SalesQuery {
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// The most of a page, 1 to 100 (100).
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
}

/// A page of sales.
#[derive(Debug)]
pub struct SalesPage<T> {
    /// What the page holds, ascending by start and then by id.
    pub sales: Vec<T>,
    /// The cursor of the next page; `None` on the last one.
    pub next: Option<String>,
}

impl SalesQuery {
    /// Cuts the page out of all sales, which come in any order. `sale_of` finds the sale of an entry.
    ///
    /// # Errors
    /// `validation_failed` when the cursor is not one of this API, or the limit is not from 1 to 100.
    pub fn page<T>(
        &self,
        all: impl IntoIterator<Item = T>,
        sale_of: impl Fn(&T) -> &Sale,
    ) -> Result<SalesPage<T>, Problem> {
        let limit = self.limit.unwrap_or(PAGE_MAX);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(Problem::invalid("/limit", format!("must be from 1 to {PAGE_MAX}")));
        }
        let not_ours = || Problem::invalid("/cursor", "is not a cursor of this API");
        let after = self.cursor.as_deref().map(|text| parse(text).ok_or_else(not_ours)).transpose()?;
        let is_after = |entry: &T| {
            let sale = sale_of(entry);
            after.as_ref().is_none_or(|(starts_ms, id)| (sale.starts_ms, &sale.id) > (*starts_ms, id))
        };
        let mut sales: Vec<T> = all.into_iter().filter(is_after).collect();
        sales.sort_unstable_by(|a, b| {
            let (a, b) = (sale_of(a), sale_of(b));
            (a.starts_ms, &a.id).cmp(&(b.starts_ms, &b.id))
        });
        let more = sales.len() > limit;
        sales.truncate(limit);
        let next = sales.last().filter(|_| more).map(|last| text(sale_of(last)));
        Ok(SalesPage { sales, next })
    }
}

fn text(sale: &Sale) -> String {
    URL_SAFE_NO_PAD.encode([&sale.starts_ms.to_be_bytes(), sale.id.as_str().as_bytes()].concat())
}

fn parse(text: &str) -> Option<(i64, SaleId)> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (starts_ms, id) = bytes.split_first_chunk::<8>()?;
    Some((i64::from_be_bytes(*starts_ms), SaleId::parse(std::str::from_utf8(id).ok()?).ok()?))
}
