//! The text that the demo prints: what runs, where it runs, and lines that work when they are pasted.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::backend::embedded::Found;

/// The facts that the text needs.
pub struct Guide<'a> {
    /// How long the start took.
    pub took: Duration,
    /// The data folder.
    pub folder: &'a Path,
    /// What the folder held at the start; `None` when it held no sale.
    pub found: Option<Found>,
    /// The address on which shoppers are served.
    pub shopper: SocketAddr,
    /// The address on which operators are served.
    pub admin: SocketAddr,
    /// The sale's id.
    pub sale: &'a str,
    /// The sale's only SKU.
    pub sku: &'a str,
    /// Units for sale.
    pub units: u32,
    /// Seconds until the sale opens.
    pub opens_in_s: u32,
    /// The opening, as RFC 3339.
    pub opens_at: &'a str,
    /// A token with which the reader can buy.
    pub token: &'a str,
    /// A key with which the reader can operate the sale.
    pub api_key: &'a str,
    /// Whether a purchase needs a purchase token.
    pub purchase_token: bool,
    /// Whether the demo sends a crowd by itself.
    pub rush: bool,
}

impl Guide<'_> {
    /// Writes the text.
    pub fn text(&self) -> String {
        let Self { shopper, admin, sale, sku, units, opens_in_s, api_key, token, .. } = self;
        let (took_ms, folder) = (self.took.as_millis(), quoted(self.folder.as_os_str().to_owned()));
        let seckill = program();
        let clock = self.opens_at.get(11..19).unwrap_or(self.opens_at);
        let mut text = String::new();
        let mut line = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        let version = env!("CARGO_PKG_VERSION");
        line(&format!("seckill {version}, embedded: one process, one SQLite file; ready in {took_ms} ms"));
        line(&format!("  folder     {}", self.folder.display()));
        line(&format!("  found      {}", self.found.map_or("nothing yet".to_owned(), recovered)));
        line(&format!("  shop       http://{shopper}/shop   open it in a browser: buy, pay, watch"));
        line(&format!("  shoppers   http://{shopper}/docs   every call, to try"));
        line(&format!("  operators  http://{admin}/console   http://{admin}/ops   http://{admin}/docs"));
        line(&format!(
            "  sale       {sale}: {units} units of {sku}, one per buyer, opens in {opens_in_s} s ({clock} UTC)"
        ));
        line("\nIn another terminal, buy one (409 sale_not_started before the opening):");
        line(&format!("export TOKEN={token}"));
        line(&format!("curl -sw '\\n' http://{shopper}/api/v1/sales/{sale}"));
        let mut more = "";
        if self.purchase_token {
            line(&format!(
                "PURCHASE_TOKEN=$(curl -s -X POST http://{shopper}/api/v1/sales/{sale}/token \
                 -H \"Authorization: Bearer $TOKEN\" | sed 's/.*\"purchase_token\":\"\\([^\"]*\\)\".*/\\1/')"
            ));
            more = ",\"purchase_token\":\"'$PURCHASE_TOKEN'\"";
        }
        line(&format!(
            "curl -sw '\\n' -X POST http://{shopper}/api/v1/sales/{sale}/orders -H \"Authorization: Bearer $TOKEN\" \
             -H 'Idempotency-Key: my-first-click' -H 'Content-Type: application/json' -H 'Prefer: wait=5' \
             -d '{{\"sku_id\":\"{sku}\",\"quantity\":1{more}}}'"
        ));
        line(
            "\nThen pay it: open the redirect_url that this prints in a browser, and press Pay (play money):",
        );
        line(&format!(
            "ORDER=$(curl -s http://{shopper}/api/v1/orders -H \"Authorization: Bearer $TOKEN\" | \
             grep -o 'ord_[0-9a-z]*' | head -n 1)"
        ));
        line(&format!(
            "curl -sw '\\n' -X POST http://{shopper}/api/v1/orders/$ORDER/pay -H \"Authorization: Bearer $TOKEN\" \
             -H 'Idempotency-Key: my-first-payment'"
        ));
        line("and then look at the order:");
        line(&format!(
            "curl -sw '\\n' http://{shopper}/api/v1/orders/$ORDER -H \"Authorization: Bearer $TOKEN\""
        ));
        line("\nAs the operator:");
        line(&format!("export SECKILL_API_KEY={api_key} SECKILL_ADMIN={admin}"));
        line(&format!("{seckill} stock show {sale}"));
        line(&format!("{seckill} sale end {sale} --reason 'enough'"));
        line("");
        if !self.rush {
            line(&format!("20,000 buyers at once, and the audit:  {seckill} demo --rush"));
        }
        line(&format!("Ctrl-C ends it. The same shop again:  {seckill} demo --data {folder}"));
        text
    }
}

/// Says what a folder that was used before has brought back.
fn recovered(found: Found) -> String {
    let many = |count: i64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let unwritten = match found.unwritten {
        0 => "all of them written".to_owned(),
        unwritten => format!("{unwritten} of them accepted and still to be written, which goes on now"),
    };
    let orders = many(found.orders, "order");
    format!("recovered {}, {orders}; {unwritten}", many(found.sales, "sale"))
}

/// Returns the name by which this program was called, so that a pasted line finds it.
fn program() -> String {
    quoted(std::env::args_os().next().unwrap_or_else(|| "seckill".into()))
}

/// Quotes a text when a shell would not take it for one word.
fn quoted(word: OsString) -> String {
    let word = word.to_string_lossy().into_owned();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_a_space_or_a_quote_is_one_word() {
        assert_eq!(quoted("/tmp/demo-1".into()), "/tmp/demo-1");
        assert_eq!(quoted("/tmp/my demo".into()), "'/tmp/my demo'");
        assert_eq!(quoted("it's".into()), r"'it'\''s'");
    }

    #[test]
    fn what_was_recovered_reads_as_a_sentence() {
        let found = |unwritten| Found { sales: 1, orders: 57, unwritten, newest_ms: 1 };
        assert_eq!(recovered(found(0)), "recovered 1 sale, 57 orders; all of them written");
        assert!(recovered(found(3)).contains("3 of them accepted and still to be written"));
    }
}
