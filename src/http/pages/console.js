// The promoter's console: create, check, run, pause, restock and end sales, and read what came of them.

import { ATTEMPTS, beginPage, call, change, notice, now, showOperator, sumOf, tell } from "./admin.js";
import { chip, count, explain, h, moment, money, put, smallest, span, svg, t, table, unread } from "./ui.js";
import "./admin-words.js";

const PHASES = { draft: "", published: "", preheated: "warn", live: "good", paused: "warn", ended: "bad", settled: "" };
const LEVELS = { ok: "good", warning: "warn", error: "bad" };
let [operator, sales, chosen, word, creating, begun] = [null, null, decodeURIComponent(location.hash.slice(1)), "", false, 0];
/** What is known of the chosen sale. */
let about = {};
let wanted = {};

/** What stays while its parts change. */
const frame = { notice: h("div"), list: h("section", { class: "section" }), right: h("section", { class: "section" }) };
frame.all = h("div", { class: "section" }, frame.notice, h("div", { class: "split" }, frame.list, frame.right));

/** Answers how a sale stands: one that is in place is live between its times. */
function stateOf(sale) {
  const isOn = Date.parse(sale.starts_at) <= now() && now() < Date.parse(sale.ends_at);
  return sale.state === "preheated" && isOn ? "live" : sale.state;
}

const may = (scope) => operator.scopes.includes(scope);

async function refresh() {
  if (!operator || document.hidden) return;
  try {
    const whose = operator;
    const found = await allSales();
    if (whose !== operator) return;
    sales = found;
    if (chosen) await refreshChosen();
    word = "live";
  } catch (error) {
    if (!error.problem) throw error;
    if (error.problem.status === 401) leave();
    word = error.problem.code === "offline" ? "offline" : "polling";
    if (word === "polling" && operator) tell("bad", explain(error.problem));
  }
  render();
}

/** Forgets who was there, and what was shown. */
function leave() {
  [operator, sales, about, wanted, creating] = [null, null, {}, {}, false];
}

/** Reads all sales, the latest first. */
async function allSales() {
  const all = [];
  for (let cursor = ""; cursor !== null; ) {
    const page = await call("GET", `/sales?limit=100${cursor}`);
    all.push(...page.sales);
    cursor = page.next_cursor && `&cursor=${encodeURIComponent(page.next_cursor)}`;
  }
  return all.reverse();
}

async function refreshChosen() {
  const id = chosen;
  const sale = sales.find((one) => one.id === id);
  if (!sale) {
    chosen = "";
    return;
  }
  const read = (path) => call("GET", path).catch((error) => ({ problem: error.problem }));
  const [stock, view, attempts, checks] = await Promise.all([
    ["draft", "settled"].includes(sale.state) ? null : read(`/sales/${id}/stock`),
    sale.state === "draft" ? null : read(`/sales/${id}/view`),
    sale.state === "draft" ? null : read(`/sales/${id}/attempts`),
    ["draft", "published", "preheated"].includes(sale.state) ? read(`/sales/${id}/preflight`) : null,
  ]);
  if (id !== chosen || !operator) return;
  about = { ...(about.sale?.id === id ? about : {}), sale, stock, view, attempts, checks };
  track();
}

/** How far back rates look, in ms. */
const RATE_MS = 30_000;

/** Keeps what was read of late, for rates. */
function track() {
  const { stock, attempts } = about;
  // Sums that have begun anew say nothing of how fast they grow.
  const before = about.countedSince === attempts?.since ? (about.before ?? []) : [];
  about.countedSince = attempts?.since;
  const items = stock?.items ?? [];
  const available = items.length && items.every((item) => item.available !== null) ? sumOf(items.map((item) => item.available)) : null;
  const at = Date.now();
  about.before = [...before.filter((one) => at - one.at <= RATE_MS), { at, available, attempts: attempts?.attempts ?? null }];
}

/** Answers what a number has grown by in a second, of late; `null` when that is not known yet. */
function rateOf(pick) {
  const known = (about.before ?? []).filter((one) => pick(one) !== null);
  const [first, last] = [known[0], known.at(-1)];
  return known.length > 1 && last.at > first.at ? (1000 * (pick(last) - pick(first))) / (last.at - first.at) : null;
}

function choose(id) {
  [chosen, creating, about, wanted] = [id, false, {}, {}];
  history.replaceState(null, "", id ? `#${encodeURIComponent(id)}` : location.pathname);
  render();
  refresh();
}

// ---- what is done

const DANGER = new Set(["end", "settle"]);
/** What leads on from a state. The API allows repetitions, too. */
const NEXT = { draft: ["publish"], published: ["preheat", "end"], preheated: ["pause", "end"], paused: ["resume", "end"], ended: ["settle"] };

async function act(action) {
  // As the operator sees it: a button that looks the same as before is the one from before.
  const sale = about.sale;
  const work = ({ reason }) => call("POST", `/sales/${sale.id}/${action}`, { reason }, { "If-Match": `"${sale.version}"` });
  await change({ title: `${t(`action.${action}`)}: ${sale.name}`, text: t(`action.${action}.text`), button: t(`action.${action}`), danger: DANGER.has(action), work });
  refresh();
}

async function restock(sale, item) {
  const field = { name: "stock", label: t("stock.new"), hint: t("stock.hint", { now: item.configured }), type: "number", min: 0, value: item.configured };
  const work = ({ stock, reason }) =>
    call("POST", `/sales/${sale.id}/stock/adjust`, { sku_id: item.sku_id, expected_stock: item.configured, stock: Number(stock), reason });
  await change({ title: `${t("stock.adjust")}: ${item.sku_id}`, fields: [field], button: t("stock.adjust"), work });
  refresh();
}

async function endOrder(order, action) {
  const work = ({ reason }) => call("POST", `/orders/${order.id}/${action}`, action === "refund" ? { reason, restock: false } : { reason });
  const title = `${t(`order.do.${action}`)}: ${order.id}`;
  await change({ title, text: t(`order.do.${action}.text`), button: t(`order.do.${action}`), danger: true, work });
  search();
}

async function search() {
  const query = new URLSearchParams({ sale: chosen, limit: 20 });
  for (const [name, value] of Object.entries(wanted)) if (value) query.set(name, value);
  const id = chosen;
  try {
    const found = (await call("GET", `/orders?${query}`)).orders;
    if (id === chosen && operator) about.orders = found;
  } catch (error) {
    tell("bad", explain(error.problem));
  }
  render();
}

const iso = (text) => new Date(text).toISOString();
/** Writes a time as a field of local times wants it. */
const local = (ms) => new Date(ms - new Date(ms).getTimezoneOffset() * 60000).toISOString().slice(0, 16);

async function create(event) {
  event.preventDefault();
  const form = Object.fromEntries(new FormData(event.target));
  const item = creating === true && { sku_id: form.sku_id, name: form.item, stock: Number(form.stock), price: smallest(form.price, form.currency.toUpperCase()) };
  try {
    if (creating === true) {
      const body = { id: form.id, name: form.name, starts_at: iso(form.starts_at), ends_at: iso(form.ends_at), buyer_limit: Number(form.buyer_limit), items: [item], reason: form.reason };
      await call("POST", "/sales", body);
    } else {
      const body = { id: form.id, name: form.name, starts_at: iso(form.starts_at), ends_at: iso(form.ends_at), reason: form.reason };
      await call("POST", `/sales/${creating}/clone`, body);
    }
    tell("good", t("created"));
    choose(form.id);
  } catch (error) {
    if (!error.problem) throw error;
    tell("bad", explain(error.problem));
    render();
  }
}

// ---- what is seen

const field = (name, label, more = {}) => h("label", {}, label, h("input", { name, required: true, ...more }));

/** Begins a new sale: `true`, or the id of the sale that it is like. */
function begin(like) {
  [creating, begun] = [like, now()];
  render();
}

function createForm() {
  const [starts, ends] = [begun + 3_600_000, begun + 7_200_000];
  const isNew = creating === true;
  return h(
    "form",
    { class: "card", "data-key": `create ${creating}`, onsubmit: create },
    h("h2", {}, isNew ? t("create") : t("clone.of", { sale: creating })),
    h(
      "div",
      { class: "fields" },
      field("id", t("field.id"), { pattern: "[a-z0-9\\-]+", maxlength: 64 }),
      field("name", t("field.name"), { maxlength: 120 }),
      field("starts_at", t("field.starts_at"), { type: "datetime-local", value: local(starts) }),
      field("ends_at", t("field.ends_at"), { type: "datetime-local", value: local(ends) }),
      isNew ? field("buyer_limit", t("field.buyer_limit"), { type: "number", min: 1, value: 1 }) : null,
    ),
    isNew
      ? h(
          "div",
          { class: "fields" },
          field("sku_id", t("field.sku"), { maxlength: 64 }),
          field("item", t("field.item"), { maxlength: 120 }),
          field("stock", t("field.stock"), { type: "number", min: 1, value: 100 }),
          field("price", t("field.price"), { type: "number", min: 0, step: "any", value: 199 }),
          field("currency", t("field.currency"), { maxlength: 3, value: "CNY" }),
        )
      : null,
    field("reason", t("reason"), { maxlength: 500 }),
    h("div", { class: "row" }, h("button", {}, t("create")), h("button", { type: "button", class: "quiet", onclick: () => choose(chosen) }, t("back"))),
  );
}

function saleRow(sale) {
  return h(
    "button",
    { class: "quiet full", "data-key": `choose ${sale.id}`, "aria-current": sale.id === chosen ? "true" : null, onclick: () => choose(sale.id) },
    h("span", {}, sale.name),
    chip(PHASES[stateOf(sale)], t(`state.${stateOf(sale)}`)),
  );
}

const pair = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));

function board(sale, { stock, view }) {
  // What could not be read is not known, which is something else than none.
  const orders = (...states) => (view?.states ? count(states.reduce((all, state) => all + (view.states[state]?.orders ?? 0), 0)) : "–");
  const items = stock?.items ?? [];
  const sum = (name) => (items.length && items.every((item) => item[name] !== null) ? count(items.reduce((all, item) => all + item[name], 0)) : "–");
  const isOpen = Date.parse(sale.starts_at) <= now();
  const left = Date.parse(isOpen ? sale.ends_at : sale.starts_at) - now();
  return h(
    "section",
    { class: "card", "data-key": "board" },
    h("h3", {}, t("board")),
    h(
      "dl",
      { class: "pairs" },
      ["ended", "settled"].includes(sale.state) ? null : [pair(isOpen ? t("ends_in") : t("opens_in"), left > 0 ? span(left) : "–"), pair(t("available"), sum("available")), pair(t("sold_out_in"), soldOutIn())],
      stock ? [pair(t("held"), sum("held")), pair(t("sold"), sum("sold"))] : null,
      pair(t("orders.awaiting"), orders("awaiting_payment")),
      pair(t("orders.paid"), orders("paid")),
      pair(t("orders.ended"), orders("cancelled", "expired", "rejected")),
      Object.entries(view?.revenue ?? {}).map(([currency, { net }]) => pair(t("revenue"), money({ amount: net, currency }))),
    ),
    items.map((item) => itemBar(sale, item)),
    [stock, view].map((read) => (read?.problem ? unread(read.problem) : null)),
    stock?.under_way ? h("p", { class: "note warn" }, t("stock.under_way")) : null,
    funnel(view),
  );
}

/** Says when nothing is left, when it goes on as of late. */
function soldOutIn() {
  const [available, rate] = [about.before?.at(-1)?.available ?? null, rateOf((one) => one.available)];
  return available > 0 && rate !== null && rate < 0 ? span((1000 * available) / -rate) : "–";
}

/** Shows how many came, how many of them bought, and what the others heard. */
function attemptsCard({ attempts, view }) {
  if (!attempts) return null;
  if (attempts.problem) return h("div", { "data-key": "attempts" }, unread(attempts.problem));
  const of = (counts, outcomes) => sumOf(outcomes.map((outcome) => counts[outcome])) ?? 0;
  const groups = Object.entries(ATTEMPTS).map(([group, outcomes]) => {
    const rate = rateOf((one) => (one.attempts ? of(one.attempts, outcomes) : null));
    return { group, all: of(attempts.attempts, outcomes), rate };
  });
  const all = sumOf(groups.map((one) => one.all));
  const row = ({ group, all: of_, rate }) => [t(`attempts.${group}`), count(of_), rate === null ? null : count(Math.round(rate * 10) / 10)];
  const orders = (states) => (view?.states ? states.reduce((sum, state) => sum + (view.states[state]?.orders ?? 0), 0) : null);
  const written = orders(Object.keys(view?.states ?? {}));
  const steps = [
    ["attempts.all", all],
    ["attempts.accepted", groups[0].all],
    ["attempts.written", written],
    ["orders.paid", orders(["paid", "refunded"])],
  ];
  // What was counted is a second late.
  const most = Math.max(...steps.map(([, number]) => number ?? 0));
  const step = ([name, number]) =>
    h("li", {}, h("div", { class: "row apart" }, h("span", {}, t(name)), h("b", { class: "number" }, number === null ? "–" : count(number))), bar([{ units: number ?? 0, kind: "plain" }], most));
  const heads = [t("head.answer"), `#${t("head.all")}`, `#${t("head.per_second")}`];
  return h(
    "section",
    { class: "card", "data-key": "attempts" },
    h("h3", {}, t("attempts")),
    h("ol", { class: "section" }, steps.map(step)),
    table(t("attempts"), heads, groups.map(row)),
    h("p", { class: "small" }, attempts.since ? t("attempts.since", { at: moment(attempts.since) }) : t("attempts.none")),
  );
}

/** Draws parts of a whole. */
function bar(parts, all) {
  const drawn = svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  let from = 0;
  for (const { units, kind = "" } of parts) {
    const width = all ? Math.min(100, (100 * units) / all) : 0;
    drawn.append(svg("rect", { class: kind, x: from, width, height: 10 }));
    from += width;
  }
  return h("div", { class: "bar" }, drawn);
}

function itemBar(sale, item) {
  const canAdjust = may("stock:write") && ["preheated", "paused"].includes(sale.state);
  return h(
    "div",
    { class: "section" },
    h("div", { class: "row apart" }, h("b", {}, item.sku_id), h("span", { class: "small" }, t("stock.line", { ...item, available: item.available ?? "–" }))),
    bar([{ units: item.sold, kind: "second" }, { units: item.held }], item.configured),
    canAdjust ? h("div", {}, h("button", { class: "quiet", "data-key": `restock ${item.sku_id}`, onclick: () => restock(sale, item) }, t("stock.adjust"))) : null,
  );
}

/** Draws the orders of each minute. */
function funnel(view) {
  const minutes = view?.minutes ?? [];
  if (minutes.length < 2) return null;
  const rows = minutes.slice(-60).map((minute) => minute.steps.persisted ?? 0);
  const most = Math.max(1, ...rows);
  const points = rows.map((rows_, n) => `${(100 * n) / (rows.length - 1)},${30 - (28 * rows_) / most}`).join(" ");
  const label = t("minutes", { most: count(most) });
  return h("figure", { class: "chart" }, svg("svg", { class: "line", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": label }, svg("polyline", { points })), h("figcaption", { class: "small" }, label));
}

function checksCard(checks, isOn) {
  if (!checks) return null;
  if (checks.problem) return h("div", { "data-key": "checks" }, unread(checks.problem));
  const of = (level) => checks.checks.filter((check) => check.level === level);
  const row = (check) => h("li", { class: "check" }, chip(LEVELS[check.level], check.name), h("div", {}, check.detail, check.fix ? h("p", { class: "small" }, check.fix) : null));
  const passed = of("ok");
  return h(
    "details",
    { class: "card", "data-key": "checks", open: checks.level !== "ok" && !isOn },
    h("summary", { "data-key": "show checks" }, h("b", {}, t("preflight")), " ", chip(LEVELS[checks.level], t(`level.${checks.level}`))),
    h("ul", { class: "section" }, [...of("error"), ...of("warning")].map(row)),
    h("details", { "data-key": "passed" }, h("summary", { "data-key": "show passed" }, t("checks.passed", { n: passed.length })), h("ul", { class: "section" }, passed.map(row))),
  );
}

function ordersCard(sale) {
  const orders = about.orders;
  const input = (name, label) => h("label", {}, label, h("input", { name, value: wanted[name] ?? "", maxlength: 255 }));
  const form = h(
    "form",
    {
      class: "fields",
      onsubmit: (event) => {
        event.preventDefault();
        wanted = Object.fromEntries(new FormData(event.target));
        search();
      },
    },
    input("user", t("field.user")),
    input("reference", t("field.reference")),
    h("button", { class: "quiet" }, t("search")),
  );
  const ends = { awaiting_payment: "cancel", paid: "refund" };
  const row = (order) => {
    const end = may("orders:write") && ends[order.status];
    return [
      h("code", {}, order.id),
      order.user_id,
      `${order.quantity} × ${order.sku_id}`,
      t(`order.${order.status}`),
      moment(order.accepted_at),
      end ? h("button", { class: "bare", onclick: () => endOrder(order, end) }, t(`order.do.${end}`)) : "",
    ];
  };
  const heads = ["field.order", "field.user", "field.item", "field.state", "field.time", "field.do"].map((name) => t(name));
  return h(
    "section",
    { class: "card", "data-key": `orders ${sale.id}` },
    h("h3", {}, t("orders.all")),
    form,
    !orders ? null : orders.length ? table(t("orders.all"), heads, orders.map(row)) : h("p", { class: "empty" }, t("none_found")),
  );
}

function detail() {
  const { sale, checks } = about;
  if (!sale) return [h("div", { class: "card loading", "data-key": "loading" }, h("div", { class: "waits" }))];
  const actions = (NEXT[sale.state] ?? []).filter((action) => may("sales:write") && sale.allowed.includes(action));
  const isOn = ["live", "paused"].includes(stateOf(sale));
  const looks = (action) => (DANGER.has(action) ? "danger quiet" : action === "pause" ? "quiet" : "");
  const button = (action) => h("button", { class: looks(action), "data-key": action, onclick: () => act(action) }, t(`action.${action}`));
  return [
    h(
      "section",
      { class: "card", "data-key": "head" },
      h("div", { class: "row apart" }, h("h1", {}, sale.name), chip(PHASES[stateOf(sale)], t(`state.${stateOf(sale)}`))),
      h("p", { class: "small" }, h("code", {}, sale.id), ` · ${moment(sale.starts_at)} – ${moment(sale.ends_at)} · ${t("limit", { units: sale.buyer_limit })}`),
      h(
        "div",
        { class: "row" },
        actions.filter((action) => !DANGER.has(action)).map(button),
        may("sales:write") ? h("button", { class: "quiet", "data-key": "clone", onclick: () => begin(sale.id) }, t("clone")) : null,
        sale.state === "settled" ? h("a", { class: "button quiet", href: `/api/v1/admin/sales/${sale.id}/report?format=html` }, t("report")) : null,
        actions.filter((action) => DANGER.has(action)).map(button),
      ),
    ),
    isOn ? null : checksCard(checks, isOn),
    sale.state === "draft" ? null : board(sale, about),
    sale.state === "settled" ? null : attemptsCard(about),
    isOn ? checksCard(checks, isOn) : null,
    may("orders:read") && sale.state !== "draft" ? ordersCard(sale) : null,
  ];
}

function render() {
  const ended = () => {
    leave();
    render();
  };
  if (!showOperator(operator, word, { begun: (begun) => ((operator = begun), refresh()), ended })) return;
  const main = document.getElementById("main");
  if (!main.contains(frame.all)) main.replaceChildren(frame.all);
  const said = notice();
  put(frame.notice, said ? [h("p", { class: `note ${said.kind}`, "data-key": "notice" }, said.text)] : []);
  const title = h("div", { class: "row apart", "data-key": "title" }, h("h2", {}, t("sales")), may("sales:write") ? h("button", { "data-key": "new", onclick: () => begin(true) }, t("create")) : null);
  const rows = sales === null ? [h("div", { class: "waits", "data-key": "waits" })] : sales.map(saleRow);
  put(frame.list, [title, ...rows, sales?.length === 0 ? h("p", { class: "empty", "data-key": "none" }, t("no_sales.console")) : null]);
  const none = h("p", { class: "empty", "data-key": "none" }, t("choose"));
  // What is being filled in is left alone.
  if (creating && frame.right.firstElementChild?.dataset.key === `create ${creating}`) return;
  put(frame.right, creating ? [createForm()] : chosen ? detail() : [none]);
}

async function start() {
  operator = await beginPage();
  render();
  refresh();
  setInterval(refresh, 1000);
  document.addEventListener("visibilitychange", refresh);
}

start();
