//! What happens to a subscription, in the SQL that both kinds of databases know.

use std::fmt::Display;

use crate::domain::subscription::SubscriptionChange;

/// Most characters of a text that is stored with a subscription.
const TEXT_MAX: usize = 200;

/// Answers what an UPDATE of `subscriptions` sets, the condition under which it does beside the id, and the text that
/// is bound before the id. `now_ms` is the database's time, ms since 1970.
pub fn update(change: &SubscriptionChange, now_ms: impl Display) -> (String, String, Option<String>) {
    let (mut condition, mut text) = (String::new(), None);
    let set = match change {
        SubscriptionChange::Pause(why) => {
            text = Some(why);
            // Somebody knows of it, whatever it has failed to take.
            "state = 'paused', why = ?, failing_since_ms = NULL".to_owned()
        }
        SubscriptionChange::GiveUp { failing_since_ms, why } => {
            text = Some(why);
            condition = format!(" AND state = 'active' AND failing_since_ms = {failing_since_ms}");
            "state = 'paused', why = ?".to_owned()
        }
        SubscriptionChange::Resume => "state = 'active', why = '', failing_since_ms = NULL".to_owned(),
        SubscriptionChange::Rotate(secret) => {
            text = Some(secret);
            "previous_secret = secret, secret = ?".to_owned()
        }
        SubscriptionChange::Failed => format!("failing_since_ms = COALESCE(failing_since_ms, {now_ms})"),
        SubscriptionChange::Taken => "failing_since_ms = NULL".to_owned(),
    };
    (set, condition, text.map(|text| text.chars().take(TEXT_MAX).collect()))
}
