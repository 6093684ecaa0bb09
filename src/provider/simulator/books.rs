//! The books of the simulator: sessions, captures and refunds.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::chance;
use crate::clock::Clock;

/// Most objects of one page of a list.
const PAGE_MAX: usize = 100;
/// Most requests whose keys are kept.
const KEYS_MAX: usize = 100_000;

/// An answer to a request: the HTTP status, and the object or the error.
pub type Answer = (u16, Value);

/// What a buyer does on the payment page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Pays.
    Pay,
    /// Pays with a card that is declined.
    Decline,
}

/// What the payment page shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// What is bought.
    pub description: String,
    /// The amount in minor units.
    pub amount: i64,
    /// The currency, three letters in lower case.
    pub currency: String,
    /// `open`, `complete` or `expired`.
    pub status: String,
    /// Where the buyer goes afterwards.
    pub return_url: String,
}

/// The books. All methods may be called from several threads.
pub struct Books {
    state: Mutex<State>,
    clock: Clock,
    /// The address at which buyers reach the payment pages, without a slash at its end.
    public_url: String,
}

#[derive(Default)]
struct State {
    /// All objects by their id, as they are answered. Ids ascend with the time at which they were made.
    objects: BTreeMap<String, Value>,
    /// The ids of sessions by the token of their page.
    pages: HashMap<String, String>,
    /// Keys with the request that came with them and its answer.
    keys: HashMap<String, (String, Answer)>,
    key_order: VecDeque<String>,
    /// Events that wait to be sent.
    events: VecDeque<Value>,
    made: u64,
    /// Whether the next change under a key fails.
    fails_once: bool,
    journal: Option<File>,
}

/// What one request changes: a line of the file, so that all of it is there after a crash, or nothing.
#[derive(Default, Serialize, Deserialize)]
struct Change {
    objects: Vec<Value>,
    /// The key that came with it, the request, and the answer.
    key: Option<(String, String, Answer)>,
    /// Events that tell of it. After a crash they are lost, as events may be.
    #[serde(skip)]
    events: Vec<(&'static str, Value)>,
}

impl Books {
    /// Opens the books in a file, or new ones that are forgotten with the process.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds a line that is not one of the books.
    pub fn open(file: Option<&Path>, public_url: &str, clock: Clock) -> std::io::Result<Self> {
        let mut state = State::default();
        if let Some(path) = file {
            let mut journal =
                OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
            let mut text = String::new();
            journal.read_to_string(&mut text)?;
            // What stands after the last line's end was cut off by a crash, and was never answered.
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            for line in text[..whole].lines() {
                state.apply(serde_json::from_str(line)?);
            }
            let whole = u64::try_from(whole).unwrap_or(u64::MAX);
            journal.set_len(whole)?;
            journal.seek(SeekFrom::Start(whole))?;
            state.journal = Some(journal);
        }
        let public_url = public_url.trim_end_matches('/').to_owned();
        Ok(Self { state: Mutex::new(state), clock, public_url })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while holding it")
    }

    fn now_s(&self) -> i64 {
        self.clock.now_ms() / 1000
    }

    /// Fails at the next change under a key, and keeps that answer under it, as Stripe keeps its own failures.
    pub fn fail_once(&self) {
        self.state().fails_once = true;
    }

    /// Answers a change. `path` is below `/v1/`, and `key` the idempotency key.
    pub fn post(&self, path: &str, form: &[(String, String)], key: Option<&str>) -> Answer {
        let mut state = self.state();
        let asked = format!("{path} {form:?}");
        if let Some((first, answer)) = key.and_then(|key| state.keys.get(key)) {
            let other = "Keys for idempotent requests can only be used with the same parameters.";
            return if *first == asked { answer.clone() } else { refusal(400, "idempotency_error", other) };
        }
        let steps: Vec<&str> = path.split('/').collect();
        let mut change = Change::default();
        let answer = match steps[..] {
            _ if key.is_some() && std::mem::take(&mut state.fails_once) => {
                refusal(500, "api_error", "An unknown error occurred.")
            }
            ["checkout", "sessions"] => self.make_session(&mut state, form, &mut change),
            ["checkout", "sessions", id, "expire"] => self.expire(&state, id, &mut change),
            ["refunds"] => self.refund(&mut state, form, &mut change),
            _ => refusal(404, "resource_missing", &format!("Unrecognized request URL (/v1/{path}).")),
        };
        change.key = key.map(|key| (key.to_owned(), asked, answer.clone()));
        match state.commit(change, self.now_s()) {
            Ok(()) => answer,
            Err(error) => refusal(500, "api_error", &error.to_string()),
        }
    }

    /// Answers a read. `path` is below `/v1/`.
    pub fn get(&self, path: &str, query: &[(String, String)]) -> Answer {
        let state = self.state();
        let steps: Vec<&str> = path.split('/').collect();
        match steps[..] {
            ["checkout", "sessions", id] | ["refunds", id] | ["payment_intents", id] => {
                let object = state.objects.get(id).map(|object| self.now(object));
                object.map_or_else(
                    || refusal(404, "resource_missing", "No such object."),
                    |object| (200, object),
                )
            }
            ["checkout", "sessions"] => self.list(&state, "checkout.session", query),
            ["refunds"] => self.list(&state, "refund", query),
            ["payment_intents"] => self.list(&state, "payment_intent", query),
            _ => refusal(404, "resource_missing", "Unrecognized request URL."),
        }
    }

    /// Answers an object as it is now: a session whose time is over has expired.
    fn now(&self, object: &Value) -> Value {
        let mut object = object.clone();
        if object["status"] == "open" && object["expires_at"].as_i64().is_some_and(|at| at <= self.now_s()) {
            object["status"] = "expired".into();
            object["url"] = Value::Null;
        }
        object
    }

    fn list(&self, state: &State, kind: &str, query: &[(String, String)]) -> Answer {
        let of = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let bound = |name: &str| of(name).and_then(|text| text.parse::<i64>().ok());
        let limit = of("limit").and_then(|text| text.parse().ok()).unwrap_or(10_usize).clamp(1, PAGE_MAX);
        let created = |object: &Value| object["created"].as_i64().unwrap_or(0);
        let mut matching = state.objects.iter().rev().filter(|(id, object)| {
            object["object"] == kind
                && bound("created[gte]").is_none_or(|least| created(object) >= least)
                && bound("created[lte]").is_none_or(|most| created(object) <= most)
                && of("payment_intent").is_none_or(|intent| object["payment_intent"] == intent)
                && of("starting_after").is_none_or(|after| id.as_str() < after)
        });
        let data: Vec<Value> = matching.by_ref().take(limit).map(|(_, object)| self.now(object)).collect();
        let has_more = matching.next().is_some();
        (200, json!({ "object": "list", "data": data, "has_more": has_more }))
    }

    fn make_session(&self, state: &mut State, form: &[(String, String)], change: &mut Change) -> Answer {
        let of = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let item = |name: &str| of(&format!("line_items[0][price_data]{name}"));
        let (now_s, expires_at) = (self.now_s(), of("expires_at").and_then(|text| text.parse::<i64>().ok()));
        let amount =
            item("[unit_amount]").and_then(|text| text.parse::<i64>().ok()).filter(|amount| *amount > 0);
        let fields = (amount, item("[currency]"), of("success_url"), item("[product_data][name]"));
        let (Some(amount), Some(currency), Some(success_url), Some(name)) = fields else {
            return refusal(400, "parameter_missing", "Missing required param.");
        };
        let Some(expires_at) = expires_at.filter(|at| (now_s + 1_800..=now_s + 86_400).contains(at)) else {
            let rule =
                "The `expires_at` timestamp must be at least 30 minutes and at most 24 hours from now.";
            return refusal(400, "parameter_invalid", rule);
        };
        let token = Self::token();
        let session = json!({
            "id": state.id("cs"), "object": "checkout.session", "created": now_s, "livemode": false,
            "status": "open", "payment_status": "unpaid", "payment_intent": null, "amount_total": amount,
            "currency": currency, "client_reference_id": of("client_reference_id"), "success_url": success_url,
            "expires_at": expires_at, "metadata": metadata(form, "metadata"),
            "intent_metadata": metadata(form, "payment_intent_data[metadata]"),
            "description": name, "page": token, "url": format!("{}/pay/{token}", self.public_url),
        });
        change.objects.push(session.clone());
        (200, session)
    }

    /// Makes the secret part of a page's address, of 128 random bits.
    fn token() -> String {
        let bytes: [u8; 16] = chance::bytes();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn expire(&self, state: &State, id: &str, change: &mut Change) -> Answer {
        let Some(mut session) = state.objects.get(id).map(|session| self.now(session)) else {
            return refusal(404, "resource_missing", "No such checkout session.");
        };
        if session["status"] != "open" {
            return refusal(400, "", "Only Checkout Sessions with a status in [\"open\"] can be expired.");
        }
        session["status"] = "expired".into();
        session["url"] = Value::Null;
        change.objects.push(session.clone());
        change.events.push(("checkout.session.expired", session.clone()));
        (200, session)
    }

    fn refund(&self, state: &mut State, form: &[(String, String)], change: &mut Change) -> Answer {
        let of = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let intent = of("payment_intent").and_then(|id| state.objects.get(id));
        let Some(mut intent) = intent.filter(|intent| intent["object"] == "payment_intent").cloned() else {
            return refusal(404, "resource_missing", "No such payment_intent.");
        };
        let captured = intent["amount_received"].as_i64().unwrap_or(0);
        let left = captured - intent["latest_charge"]["amount_refunded"].as_i64().unwrap_or(0);
        let amount = of("amount").map_or(Some(left), |text| text.parse().ok()).unwrap_or(0);
        if left == 0 {
            return refusal(400, "charge_already_refunded", "The charge has already been refunded.");
        }
        if !(1..=left).contains(&amount) {
            return refusal(400, "parameter_invalid", "The refund amount is greater than what is left.");
        }
        intent["latest_charge"]["amount_refunded"] = (captured - left + amount).into();
        let refund = json!({
            "id": state.id("re"), "object": "refund", "created": self.now_s(), "status": "succeeded",
            "amount": amount, "currency": intent["currency"], "payment_intent": intent["id"],
            "metadata": metadata(form, "metadata"),
        });
        change.objects.extend([refund.clone(), intent]);
        change.events.push(("refund.updated", refund.clone()));
        (200, refund)
    }

    /// Reads what the page of a token shows; `None` for a token that is none.
    pub fn page(&self, token: &str) -> Option<Page> {
        let state = self.state();
        let session = self.now(state.objects.get(state.pages.get(token)?)?);
        let text = |member: &str| session[member].as_str().unwrap_or_default().to_owned();
        Some(Page {
            description: text("description"),
            amount: session["amount_total"].as_i64().unwrap_or(0),
            currency: text("currency"),
            status: text("status"),
            return_url: text("success_url"),
        })
    }

    /// Lets a buyer act on the page of a token. A page that is not open any more changes nothing. Answers the page as
    /// it is then; `None` for a token that is none.
    ///
    /// # Errors
    /// When the books cannot be written.
    pub fn act(&self, token: &str, action: Action) -> std::io::Result<Option<Page>> {
        {
            let mut state = self.state();
            let session = state.pages.get(token).and_then(|id| state.objects.get(id));
            let Some(session) = session.map(|session| self.now(session)) else { return Ok(None) };
            if action == Action::Pay && session["status"] == "open" {
                self.capture(&mut state, session)?;
            }
        }
        Ok(self.page(token))
    }

    fn capture(&self, state: &mut State, mut session: Value) -> std::io::Result<()> {
        let (intent, charge) = (state.id("pi"), state.id("ch"));
        let captured = json!({
            "id": intent, "object": "payment_intent", "created": self.now_s(), "livemode": false,
            "status": "succeeded", "amount_received": session["amount_total"], "currency": session["currency"],
            "metadata": session["intent_metadata"],
            "latest_charge": { "id": charge, "object": "charge", "amount_refunded": 0 },
        });
        session["status"] = "complete".into();
        session["payment_status"] = "paid".into();
        session["payment_intent"] = intent.into();
        session["url"] = Value::Null;
        let events = vec![("checkout.session.completed", session.clone())];
        state.commit(Change { objects: vec![captured, session], key: None, events }, self.now_s())
    }

    /// Lets a refund fail that had succeeded, as a bank may send it back. A refund that is not there changes nothing.
    ///
    /// # Errors
    /// When the books cannot be written.
    pub fn fail_refund(&self, id: &str) -> std::io::Result<()> {
        let mut state = self.state();
        let Some(mut refund) = state.objects.get(id).cloned() else { return Ok(()) };
        let mut change = Change::default();
        let intent = refund["payment_intent"].as_str().and_then(|id| state.objects.get(id)).cloned();
        if let Some(mut intent) = intent {
            let refunded = intent["latest_charge"]["amount_refunded"].as_i64().unwrap_or(0);
            let left = refunded - refund["amount"].as_i64().unwrap_or(0);
            intent["latest_charge"]["amount_refunded"] = left.into();
            change.objects.push(intent);
        }
        refund["status"] = "failed".into();
        change.objects.push(refund.clone());
        change.events.push(("refund.failed", refund));
        state.commit(change, self.now_s())
    }

    /// Takes the events that wait to be sent, oldest first.
    pub fn take_events(&self) -> Vec<Value> {
        self.state().events.drain(..).collect()
    }
}

impl State {
    /// Makes an id that comes after all others of its kind.
    fn id(&mut self, prefix: &str) -> String {
        self.made += 1;
        format!("{prefix}_test_{:012}", self.made)
    }

    /// Writes a change to the file, applies it, and tells of it.
    fn commit(&mut self, change: Change, now_s: i64) -> std::io::Result<()> {
        if let Some(journal) = &mut self.journal {
            let mut line = serde_json::to_string(&change)?;
            line.push('\n');
            journal.write_all(line.as_bytes())?;
        }
        for (kind, object) in &change.events {
            let id = self.id("evt");
            self.events.push_back(json!({
                "id": id, "object": "event", "type": kind, "created": now_s, "livemode": false,
                "data": { "object": object },
            }));
        }
        self.apply(change);
        Ok(())
    }

    fn apply(&mut self, change: Change) {
        for object in change.objects {
            let id = object["id"].as_str().unwrap_or_default().to_owned();
            let number = id.rsplit('_').next().and_then(|number| number.parse().ok()).unwrap_or(0);
            self.made = self.made.max(number);
            if let Some(page) = object["page"].as_str() {
                self.pages.insert(page.to_owned(), id.clone());
            }
            self.objects.insert(id, object);
        }
        if let Some((key, asked, answer)) = change.key {
            self.keys.insert(key.clone(), (asked, answer));
            self.key_order.push_back(key);
            if self.key_order.len() > KEYS_MAX
                && let Some(oldest) = self.key_order.pop_front()
            {
                self.keys.remove(&oldest);
            }
        }
    }
}

/// Collects the entries `prefix[name]` of a form.
fn metadata(form: &[(String, String)], prefix: &str) -> Value {
    let entry = |(key, value): &(String, String)| {
        let name = key.strip_prefix(prefix)?.strip_prefix('[')?.strip_suffix(']')?;
        Some((name.to_owned(), Value::from(value.as_str())))
    };
    Value::Object(form.iter().filter_map(entry).collect::<Map<_, _>>())
}

fn refusal(status: u16, code: &str, message: &str) -> Answer {
    (status, json!({ "error": { "type": "invalid_request_error", "code": code, "message": message } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(books: &Books, key: &str, amount: &str) -> Answer {
        let expires_at = (books.now_s() + 3_600).to_string();
        let form = [
            ("line_items[0][price_data][currency]", "cny"),
            ("line_items[0][price_data][unit_amount]", amount),
            ("line_items[0][price_data][product_data][name]", "a phone"),
            ("success_url", "https://shop.example"),
            ("expires_at", &expires_at),
            ("payment_intent_data[metadata][of]", "x"),
        ];
        let form = form.map(|(name, value)| (name.to_owned(), value.to_owned()));
        books.post("checkout/sessions", &form, Some(key))
    }

    fn token(session: &Value) -> String {
        session["url"].as_str().and_then(|url| url.rsplit('/').next()).expect("a page").to_owned()
    }

    #[test]
    fn a_page_is_paid_once_and_paid_back_once() {
        let books = Books::open(None, "http://127.0.0.1:1", Clock::manual(0)).expect("books");
        let (status, opened) = session(&books, "k", "5");
        assert_eq!(status, 200);
        let page = token(&opened);
        assert_eq!(books.act(&page, Action::Decline).expect("written").expect("a page").status, "open");
        for _ in 0..2 {
            assert_eq!(books.act(&page, Action::Pay).expect("written").expect("a page").status, "complete");
        }
        let (_, list) = books.get("payment_intents", &[]);
        assert_eq!(
            (list["data"][0]["metadata"]["of"].as_str(), list["data"][1].is_null()),
            (Some("x"), true)
        );
        let intent = list["data"][0]["id"].as_str().expect("an id").to_owned();
        let refund = |key| books.post("refunds", &[("payment_intent".to_owned(), intent.clone())], Some(key));
        let (status, refunded) = refund("r");
        assert_eq!((status, refunded["amount"].as_i64()), (200, Some(5)));
        assert_eq!(refund("r"), (status, refunded), "the same key finds the same refund");
        assert_eq!(refund("r2").1["error"]["code"], "charge_already_refunded");
        let told: Vec<Value> = books.take_events().iter().map(|event| event["type"].clone()).collect();
        assert_eq!(told, ["checkout.session.completed", "refund.updated"]);
        assert_eq!(books.act("nothing", Action::Pay).expect("read"), None);
    }

    #[test]
    fn a_key_with_another_request_and_a_life_out_of_bounds_are_refused() {
        let clock = Clock::manual(0);
        let books = Books::open(None, "http://127.0.0.1:1", clock.clone()).expect("books");
        let first = session(&books, "k", "5");
        assert_eq!(session(&books, "k", "5"), first);
        assert_eq!(session(&books, "k", "6").1["error"]["code"], "idempotency_error");
        assert_eq!(session(&books, "k2", "0").0, 400);
        clock.advance_ms(3_600_000);
        let id = first.1["id"].as_str().expect("an id");
        assert_eq!(books.get(&format!("checkout/sessions/{id}"), &[]).1["status"], "expired");
        assert_eq!(books.post(&format!("checkout/sessions/{id}/expire"), &[], None).0, 400);
        assert_eq!(
            books.act(&token(&first.1), Action::Pay).expect("read").expect("a page").status,
            "expired"
        );
    }

    #[test]
    fn what_stands_in_the_file_is_there_again_and_what_was_cut_off_is_not() {
        let path = std::env::temp_dir().join(format!("seckill-books-{}", std::process::id()));
        let open = || Books::open(Some(&path), "http://127.0.0.1:1", Clock::manual(0));
        let books = open().expect("books");
        let first = session(&books, "k", "5");
        books.act(&token(&first.1), Action::Pay).expect("written");
        drop(books);
        let whole = std::fs::read_to_string(&path).expect("a file");
        std::fs::write(&path, format!("{whole}{{\"objects\":[{{\"id\":\"cs_te")).expect("torn");
        let books = open().expect("books");
        assert_eq!(session(&books, "k", "5"), first, "the key is known");
        assert_eq!(books.page(&token(&first.1)).expect("a page").status, "complete");
        session(&books, "k2", "6");
        drop(books);
        let again = open().expect("books");
        assert_eq!(again.get("checkout/sessions", &[]).1["data"].as_array().map(Vec::len), Some(2));
        drop(again);
        std::fs::write(&path, "nonsense\n").expect("damaged");
        assert!(open().is_err());
        std::fs::remove_file(&path).expect("removed");
    }
}
