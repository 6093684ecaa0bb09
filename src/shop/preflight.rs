//! What an operator wants to know before a sale opens: whether anything is missing that it needs.

use std::collections::BTreeSet;

use super::{Failure, Shop};
use crate::domain::check::Check;
use crate::domain::node::Node;
use crate::domain::rule::{Gives, Limit, Rule, RuleMode, RuleTerms, Switch, Way};
use crate::domain::{Sale, SaleId, SaleState};
use crate::memory::health::Ability;
use crate::ports::Duty;

/// How shortly before the opening a sale that is not in place is told, in ms.
const SOON_MS: i64 = 600_000;
/// How far the clock of this machine may be from that of the inventory, in ms.
const CLOCK_OFF_MS: i64 = 1000;

impl Shop {
    /// Looks whether anything is missing that a sale needs to sell; `None` for an unknown sale. It changes nothing.
    ///
    /// # Errors
    /// When the directory could not be read. Whatever else cannot be read is told by its check.
    pub async fn preflight(&self, id: &SaleId) -> Result<Option<Vec<Check>>, Failure> {
        let Some(sale) = self.sale(id).await? else { return Ok(None) };
        let mut checks =
            vec![self.check_definition(&sale), self.check_window(&sale), self.check_state(&sale)];
        checks.push(self.check_tables(&sale).await);
        checks.push(self.check_clock());
        checks.push(self.check_payment(&sale));
        checks.extend(self.check_nodes().await);
        checks.extend(self.check_rules(&sale));
        checks.extend(self.check_duties());
        checks.extend(self.check_stock(&sale).await);
        Ok(Some(checks))
    }

    fn check_definition(&self, sale: &Sale) -> Check {
        match self.check(sale) {
            Ok(()) => Check::ok("definition", "is sound"),
            Err(invalid) => Check::error(
                "definition",
                format!("{} {}", invalid.pointer, invalid.detail),
                "Patch the sale; once it is in place, end it and clone it.",
            ),
        }
    }

    fn check_window(&self, sale: &Sale) -> Check {
        let now_ms = self.now_ms();
        let seconds = |ms: i64| ms / 1000;
        if sale.ends_ms <= now_ms {
            let detail = format!("ended {} s ago", seconds(now_ms - sale.ends_ms));
            return Check::error("window", detail, "Patch starts_at and ends_at, or clone the sale.");
        }
        match sale.starts_ms - now_ms {
            to_come if to_come > 0 => Check::ok("window", format!("opens in {} s", seconds(to_come))),
            _ => Check::ok("window", format!("is open for {} s", seconds(sale.ends_ms - now_ms))),
        }
    }

    fn check_state(&self, sale: &Sale) -> Check {
        let is_soon = sale.starts_ms - self.now_ms() < SOON_MS;
        match sale.state {
            SaleState::Draft => Check::error("state", "is a draft: nobody sees it", "Publish it."),
            SaleState::Published if is_soon => {
                Check::error("state", "opens soon, and its stock is not in place", "Preheat it.")
            }
            SaleState::Published => Check::ok("state", "is published; its stock is put in place later"),
            SaleState::Preheated if sale.in_place => Check::ok("state", "is in place"),
            SaleState::Preheated => Check::error(
                "state",
                "its stock is not all in place",
                "Preheat it once more: that finishes it.",
            ),
            SaleState::Paused => Check::error("state", "is paused", "Resume it."),
            SaleState::Ended | SaleState::Settled => {
                Check::error("state", "was ended", "Clone it: a sale that was ended stays so.")
            }
        }
    }

    /// Looks how far the clock of this machine is from that of the inventory, which is followed.
    fn check_clock(&self) -> Check {
        let off_ms = self.clock.offset_ms();
        let detail = format!("this machine's clock is {} ms from the inventory's", off_ms.saturating_abs());
        if off_ms.saturating_abs() <= CLOCK_OFF_MS {
            return Check::ok("clock", detail);
        }
        Check::warning(
            "clock",
            detail,
            "Set it by NTP: sales open by the inventory's clock, tokens expire by this one.",
        )
    }

    async fn check_tables(&self, sale: &Sale) -> Check {
        let yyyymm = sale.month().yyyymm();
        match self.ports.orders.holds_month(sale.month()).await {
            Ok(true) => Check::ok("tables", format!("the orders tables of {yyyymm} are there")),
            Ok(false) => Check::error(
                "tables",
                format!("the orders tables of {yyyymm} are missing"),
                "Run `seckill migrate`.",
            ),
            Err(_) => Check::error("tables", "a database does not answer", "Look at /readyz?verbose."),
        }
    }

    fn check_payment(&self, sale: &Sale) -> Check {
        let costs = sale.items.iter().any(|item| item.price.amount() > 0);
        match (&self.till, costs) {
            (None, true) => Check::error(
                "payment",
                "nobody can pay: there is no payment provider",
                "Set payment.provider, and restart.",
            ),
            (None, false) => Check::ok("payment", "costs nothing"),
            (Some(_), _) => {
                let seconds = sale.payment_window_ms / 1000;
                Check::ok("payment", format!("orders wait {seconds} s for their payment"))
            }
        }
    }

    async fn check_nodes(&self) -> Vec<Check> {
        let Ok(nodes) = self.nodes().await else {
            let detail = "nobody knows which processes there are";
            return vec![Check::warning("nodes", detail, "Look at /readyz?verbose.")];
        };
        let serving: Vec<&Node> = nodes.iter().filter(|node| !node.is_lost()).collect();
        // A worker that is out of service writes on.
        let of = |role: &str| {
            let has_role = |node: &&&Node| [role, "all"].contains(&node.beat.role.as_str());
            serving.iter().filter(has_role).filter(|node| role == "worker" || !node.beat.draining).count()
        };
        let count = |name: &'static str, count: usize, none: &'static str, fix: &'static str| match count {
            0 => Check::error(name, none, fix),
            count => Check::ok(name, format!("{count} serve")),
        };
        let versions: BTreeSet<&str> = serving.iter().map(|node| node.beat.version.as_str()).collect();
        let newest = self.known_rules().version;
        let behind = serving.iter().filter(|node| node.beat.rules_version < newest).count();
        vec![
            count("fronts", of("api"), "nobody sells", "Start `seckill serve --role api`."),
            count("workers", of("worker"), "nobody writes orders", "Start `seckill serve --role worker`."),
            match versions.len() {
                0 | 1 => Check::ok("versions", "are one"),
                _ => Check::warning(
                    "versions",
                    format!("are several: {}", versions.into_iter().collect::<Vec<_>>().join(", ")),
                    "Finish the upgrade before the sale opens.",
                ),
            },
            match behind {
                0 => Check::ok("rules", "are followed by all"),
                behind => Check::warning(
                    "rules",
                    format!("{behind} processes do not follow the newest rules"),
                    "Look at the log of those processes.",
                ),
            },
        ]
    }

    fn check_rules(&self, sale: &Sale) -> Vec<Check> {
        let now_ms = self.now_ms();
        let (set, configured) = self.memory.rules.rules();
        let off = [Switch::ReadOnly, Switch::NoPurchases];
        let off = off.into_iter().find(|switch| self.memory.rules.is_off(*switch, now_ms));
        let switches = match off {
            None => Check::ok("switches", "purchases are on"),
            Some(switch) => Check::error(
                "switches",
                format!("{} is on: nobody can buy", switch.as_str()),
                "Turn it off: `seckill switch off`.",
            ),
        };
        let enforced = |rule: &&Rule| rule.terms.mode == RuleMode::Enforce && rule.terms.holds_at(now_ms);
        let holding = || set.rules.iter().filter(enforced);
        let is_grey = |terms: &RuleTerms| matches!(&terms.limit, Limit::Grey(grey) if grey.gives == Gives::Sale(sale.id.clone()));
        let grey = match holding().find(|rule| is_grey(&rule.terms)) {
            None => Check::ok("visibility", "everybody sees it"),
            Some(rule) => Check::warning(
                "visibility",
                format!("only some see it: rule {}", rule.id),
                "Remove the rule when everybody may.",
            ),
        };
        let limits = |rule: &Rule| {
            let is_limit = matches!(rule.terms.limit, Limit::TokenBucket(_) | Limit::LeakyBucket(_));
            let about = &rule.terms.about;
            let is_of_sale = about.sale.as_ref().is_none_or(|of| *of == sale.id);
            is_limit && is_of_sale && about.route.is_none_or(|way| way == Way::Purchase)
        };
        let is_limited = holding().chain(&configured).any(limits);
        let limits = match is_limited {
            true => Check::ok("limits", "purchases are limited"),
            false => Check::warning(
                "limits",
                "nothing limits purchases: bots may take them all",
                "Set limits.user_per_s and limits.address_per_s, or put a rule in place.",
            ),
        };
        vec![switches, grey, limits]
    }

    fn check_duties(&self) -> Vec<Check> {
        let readiness = self.readiness();
        let check = |(duty, ability): (Duty, Ability)| match ability {
            Ability::Yes => Check::ok(duty.as_str(), "can be done"),
            Ability::InPart(why) => Check::warning(duty.as_str(), why, "Look at /readyz?verbose."),
            Ability::No(why) => Check::error(duty.as_str(), why, "Look at /readyz?verbose."),
        };
        readiness.duties.into_iter().map(check).collect()
    }

    /// Looks at the stock of a sale that is in place.
    async fn check_stock(&self, sale: &Sale) -> Option<Check> {
        if !sale.in_place {
            return None;
        }
        let stock = match self.stock(&sale.id).await {
            Ok(stock) => stock.unwrap_or_default(),
            Err(_) => return Some(Check::error("stock", "cannot be read", "Look at /readyz?verbose.")),
        };
        if let Some(view) = stock.iter().find(|view| view.available.iter().any(Option::is_none)) {
            let detail = format!("a bucket of {} is not in place", view.sku);
            return Some(Check::error("stock", detail, "Wait for its rebuild, and look at /readyz?verbose."));
        }
        let left: i64 = stock.iter().flat_map(|view| view.available.iter().flatten()).sum();
        Some(match left {
            0 => Check::warning(
                "stock",
                "nothing is left",
                "Give it more units, if there are more: seckill stock adjust.",
            ),
            left => Check::ok("stock", format!("{left} units are for sale")),
        })
    }
}
