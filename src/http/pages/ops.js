// The engineer's page: the processes, what this one measures, its background tasks, and what is out of order.

import { ATTEMPTS, beginPage, call, change, notice, now, showOperator, sumOf } from "./admin.js";
import { chart } from "./chart.js";
import { announce, chip, count, h, language, moment, put, span, t, table, unread } from "./ui.js";
import "./admin-words.js";

/** How often each part is read, in ms. A process is lost after 1.5 s, and is shown so within 2 s. */
const [NODES_MS, SECOND_MS, REST_MS] = [400, 1000, 4000];
const NODE_CHIPS = { serving: "good", draining: "warn", lost: "bad" };
const READY_CHIPS = { ready: "good", degraded: "warn", not_ready: "bad", draining: "warn" };
const TASK_CHIPS = { ok: "good", failing: "bad", starting: "" };
const BREAKER_CHIPS = { closed: "good", half_open: "warn", open: "bad" };

let [operator, word, drawn, heard, lostBefore] = [null, "", null, Date.now(), 0];
/** What was read last, by part; `{ problem }` when it could not be read. */
const seen = {};
const kept = { process: "", last: 0, spanMs: 900_000, at: [], lines: new Map() };
const places = ["notice", "state", "nodes", "charts", "tasks", "rest"];
const frame = Object.fromEntries(places.map((name) => [name, h("div", { class: "section" })]));
frame.charts.className = "charts";
frame.all = h("div", { class: "section" }, frame.notice, frame.state, frame.nodes, frame.charts, h("div", { class: "halves" }, frame.tasks, frame.rest));

const PARTS = ["ready", "nodes", "tasks", "figures", "breakers", "rules", "letters", "log"];

const may = (scope) => operator.scopes.includes(scope);

/** Reads a part again and again, as long as somebody looks. */
async function follow(ms, names, work) {
  for (;;) {
    // What goes wrong once is tried again.
    if (operator && !document.hidden) await once(names, work).catch((error) => console.error(error));
    await new Promise((done) => setTimeout(done, ms));
  }
}

async function once(names, work) {
  try {
    await work();
    [word, heard] = ["live", Date.now()];
  } catch (error) {
    if (!error.problem) throw error;
    if (error.problem.status === 401) leave();
    if (error.problem.code === "offline") word = "offline";
    else for (const name of names) seen[name] = { problem: error.problem };
  }
  render();
}

/** Forgets who was there, and what was shown. */
function leave() {
  operator = null;
  for (const name of PARTS) delete seen[name];
  Object.assign(kept, { process: "", last: 0, at: [], lines: new Map() });
}

/** Reads parts that do not depend on each other. What one may not see hides nothing of another. */
async function readEach(paths) {
  const whose = operator;
  const read = async ([name, path]) => {
    try {
      const found = await call("GET", path);
      if (whose === operator) seen[name] = found;
    } catch (error) {
      if (!error.problem || error.problem.status === 401 || error.problem.code === "offline") throw error;
      seen[name] = { problem: error.problem };
    }
  };
  await Promise.all(Object.entries(paths).map(read));
}

async function readReady() {
  // Not ready is an answer, too.
  const answer = await fetch("/readyz?verbose", { cache: "no-store" }).then((found) => found.json()).catch(() => null);
  if (answer) seen.ready = answer.duties ? answer : { problem: answer };
}

async function readFigures() {
  const known = kept.last;
  const read = await call("GET", `/figures?after=${known}`);
  if (read.process !== kept.process) {
    Object.assign(kept, { process: read.process, last: 0, at: [], lines: new Map() });
    if (known) return readFigures();
  }
  kept.last = read.last;
  const before = kept.at.length;
  kept.at.push(...read.at_ms);
  for (const { name, of = "", values } of read.figures) {
    const key = `${name} ${of}`;
    if (!kept.lines.has(key)) kept.lines.set(key, { name, of, values: Array(before).fill(null) });
    kept.lines.get(key).values.push(...values);
  }
  for (const line of kept.lines.values()) {
    while (line.values.length < kept.at.length) line.values.push(null);
    line.values.splice(0, Math.max(0, line.values.length - read.kept));
  }
  kept.at.splice(0, Math.max(0, kept.at.length - read.kept));
  kept.spanMs = read.kept * 1000;
  seen.figures = {};
}

// ---- what is done

async function takeOut(node, action) {
  const work = ({ reason }) => call("POST", `/nodes/${node.id}/${action}`, { reason });
  await change({ title: `${t(`node.${action}`)}: ${node.admin}`, text: t(`node.${action}.text`), button: t(`node.${action}`), danger: action === "drain", work });
}

// ---- what is seen

/** A card that says what could not be read, or shows what was. */
function card(key, title, read, show) {
  const inner = !read ? h("div", { class: "waits" }) : read.problem ? unread(read.problem) : show(read);
  return h("section", { class: "card", "data-key": key }, h("h2", {}, title), inner);
}

function list(label, heads, rows) {
  const texts = heads.map((name) => (name.startsWith("#") ? `#${t(`head.${name.slice(1)}`)}` : t(`head.${name}`)));
  return rows.length ? table(label, texts, rows) : h("p", { class: "empty" }, t("none"));
}

const clockOf = (ms) => new Intl.DateTimeFormat(language, { timeStyle: "medium" }).format(ms);
const when = (text) => h("time", { datetime: text }, moment(text));

const pair = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));

function stateCard({ status, duties, components, degraded }) {
  const bad = Object.entries({ ...duties, ...components }).filter(([, text]) => !["yes", "up"].includes(text));
  return h(
    "div",
    { class: "section" },
    h("div", { class: "row" }, chip(READY_CHIPS[status], t(`ready.${status}`)), h("code", { class: "small" }, kept.process)),
    bad.length || degraded.length
      ? h("ul", {}, bad.map(([name, text]) => h("li", {}, h("b", {}, name), ` ${text}`)), degraded.map((step) => h("li", {}, t("left_out", { step }))))
      : h("p", { class: "small" }, t("all_up", { names: Object.keys(components).join(", ") })),
  );
}

const lostOf = (nodes) => nodes.filter(({ status }) => status === "lost").length;

/** Says once that a process was lost. */
function announceLost(nodes) {
  const lost = lostOf(nodes);
  if (lost > lostBefore) announce(t("nodes.lost", { lost }));
  lostBefore = lost;
}

function nodesCard({ nodes }) {
  const all = (name) => nodes.filter(({ status }) => status !== "lost").reduce((sum, { load }) => sum + load[name], 0);
  const row = (node) => {
    const { load, status } = node;
    const isLost = status === "lost";
    const [action] = status === "draining" ? ["resume"] : ["drain"];
    return [
      h("span", {}, h("code", {}, node.id.slice(0, 8)), [node.admin, node.shopper].filter(Boolean).map((address) => h("small", { class: "line" }, address))),
      node.role,
      h("span", {}, chip(NODE_CHIPS[status], t(`node.${status}`)), isLost ? h("span", { class: "small" }, " ", t("heard", { s: Math.round(node.heard_ms_ago / 1000) })) : null),
      isLost ? null : count(load.attempts),
      isLost ? null : count(load.accepted),
      isLost ? null : count(load.written),
      isLost || load.purchase_p99_ms === undefined ? null : `${count(load.purchase_p99_ms)} ms`,
      load.failing.length ? h("span", { class: "words" }, chip("bad", String(load.failing.length)), " ", load.failing.join(", ")) : "–",
      node.version,
      when(node.started_at),
      may("ops:write") && !isLost ? h("button", { class: "bare", "data-key": `${action} ${node.id}`, onclick: () => takeOut(node, action) }, t(`node.${action}`)) : "",
    ];
  };
  const heads = ["node", "role", "status", "#attempts", "#accepted", "#written", "#p99", "failing", "version", "since", "do"];
  const lost = lostOf(nodes);
  return h(
    "div",
    { class: "section" },
    lost ? h("p", { class: "note bad" }, t("nodes.lost", { lost })) : null,
    h("dl", { class: "pairs" }, pair(t("head.attempts"), count(all("attempts"))), pair(t("head.accepted"), count(all("accepted"))), pair(t("head.written"), count(all("written")))),
    list(t("nodes"), heads, nodes.map(row)),
  );
}

const inMs = (seconds) => `${count(Math.round(seconds * 10_000) / 10)} ms`;
const whole = (value) => count(Math.round(value * 10) / 10);

/** Draws lines over as much time as is known: a minute at least. */
function figuresOf(key, write, lines) {
  const known = (kept.at.at(-1) ?? 0) - (kept.at[0] ?? 0);
  const spanMs = Math.min(kept.spanMs, Math.max(60_000, known));
  // Of many lines those are left out that were never above nothing.
  const numbered = lines.map((line, look) => ({ ...line, look }));
  const seenLines = lines.length > 4 ? numbered.filter(({ values, look }) => look === 0 || values.some((value) => value > 0)) : numbered;
  return chart({ key, title: t(`chart.${key}`), at: kept.at, spanMs, lines: seenLines, write, least: key === "attempts" || key === "orders" || key === "waiting" ? 5 : 0, empty: t("chart.empty"), most: t("chart.most"), ago: t("minutes.ago", { n: Math.round(spanMs / 60_000) }), now: t("now") });
}

function charts() {
  const line = (name, of = "") => kept.lines.get(`${name} ${of}`)?.values ?? kept.at.map(() => null);
  const simple = (...names) => names.map((name) => ({ name: t(`figure.${name}`), values: line(name) }));
  const attempts = Object.entries(ATTEMPTS).map(([group, outcomes]) => {
    const parts = outcomes.map((outcome) => line("attempts", outcome));
    return { name: t(`attempts.${group}`), values: kept.at.map((_, n) => sumOf(parts.map((values) => values[n]))) };
  });
  const systems = [...kept.lines.values()].filter(({ name }) => name === "call_p99");
  return [
    figuresOf("attempts", whole, attempts),
    figuresOf("orders", whole, [{ name: t("attempts.accepted"), values: attempts[0].values }, ...simple("orders_written")]),
    figuresOf("purchase", inMs, simple("purchase_p50", "purchase_p99")),
    figuresOf("persist", inMs, simple("persist_p99", "commit_p99")),
    figuresOf("calls", inMs, systems.map(({ of, values }) => ({ name: of, values }))),
    figuresOf("waiting", whole, simple("orders_pending", "outbox_orders", "purchases_in_flight", "streams")),
  ];
}

function tasksCard({ tasks }) {
  const sorted = [...tasks].sort((a, b) => a.name.localeCompare(b.name));
  const [failing, others] = [sorted.filter((task) => task.failures), sorted.filter((task) => !task.failures)];
  const row = (task) => [
    h("code", {}, task.name),
    chip(TASK_CHIPS[task.status], t(`task.${task.status}`)),
    task.ended_at ? t("s.ago", { s: count(Math.max(0, Math.round((now() - Date.parse(task.ended_at)) / 1000))) }) : null,
    task.done === undefined ? null : count(task.done),
    h("span", { class: "words" }, task.failures ? `${count(task.failures)} × ` : "", task.error ?? ""),
  ];
  const rows = (some) => list(t("tasks"), ["task", "status", "#ended", "#done", "error"], some.map(row));
  return h(
    "div",
    { class: "section" },
    failing.length ? rows(failing) : null,
    h("details", { "data-key": "tasks well" }, h("summary", { "data-key": "show tasks" }, t("tasks.well", { n: others.length })), rows(others)),
  );
}

function breakersCard({ breakers }) {
  // What an operator has forced holds, whatever the breaker would do by itself.
  const stateOf = (one) => one.forced ?? one.state;
  const row = (one) => [
    h("code", {}, one.dependency),
    h("span", {}, chip(BREAKER_CHIPS[stateOf(one)], t(`breaker.${stateOf(one)}`)), one.forced ? ` ${t("breaker.forced")}` : ""),
    one.in_flight_max === undefined ? count(one.in_flight) : `${count(one.in_flight)} / ${count(one.in_flight_max)}`,
    count(one.calls),
    count(one.failed),
    count(one.slow),
  ];
  return list(t("breakers"), ["dependency", "status", "#in_flight", "#calls", "#failed", "#slow"], breakers.map(row));
}

function rulesCard({ rules }) {
  const left = (until) => (until ? span(Date.parse(until) - now()) : t("for_ever"));
  const row = (rule) => [h("code", {}, rule.id), rule.origin, rule.mode, rule.is_over ? t("is_over") : left(rule.until), h("span", { class: "words" }, rule.reason)];
  return list(t("rules"), ["rule", "origin", "mode", "left", "reason"], rules.map(row));
}

function lettersCard({ dead_letters: letters, next_cursor: more }) {
  const row = (letter) => [h("code", {}, letter.id), letter.reason, letter.order_id ? h("code", {}, letter.order_id) : null, letter.sale_id, when(letter.at)];
  const rows = list(t("letters"), ["letter", "reason", "order", "sale", "at"], letters.map(row));
  return letters.length ? h("div", { class: "section" }, h("p", { class: "note warn" }, t("letters.open", { n: `${letters.length}${more ? "+" : ""}` })), rows) : rows;
}

function logCard({ rows }) {
  const row = (one) => [when(one.at), one.actor, h("code", {}, one.action), one.sale_id, h("span", { class: "words" }, one.reason)];
  return list(t("log"), ["at", "actor", "action", "sale", "reason"], rows.map(row));
}

function render() {
  const ended = () => {
    leave();
    render();
  };
  if (!showOperator(operator, word, { begun: (begun) => ((operator = begun), render()), ended })) return;
  const main = document.getElementById("main");
  // Everything is shown at once, so that nothing moves when a part comes later.
  if (!PARTS.every((name) => seen[name])) return put(main, [h("div", { class: "card loading", "data-key": "loading" }, h("div", { class: "waits" }))]);
  if (!main.contains(frame.all)) main.replaceChildren(frame.all);
  const said = notice();
  const late = word === "offline" ? h("p", { class: "note bad", "data-key": "offline" }, t("ops.offline", { at: clockOf(heard) })) : null;
  put(frame.notice, [late, said && !late ? h("p", { class: `note ${said.kind}`, "data-key": "notice" }, said.text) : null]);
  put(frame.state, [card("state", t("this_process"), seen.ready, stateCard)]);
  if (seen.nodes.nodes) announceLost(seen.nodes.nodes);
  put(frame.nodes, [card("nodes", t("nodes"), seen.nodes, nodesCard)]);
  // Thousands of points are drawn when one is new.
  if (drawn !== kept.last || seen.figures?.problem) {
    drawn = kept.last;
    put(frame.charts, seen.figures?.problem ? [card("figures", t("figures"), seen.figures, null)] : charts());
  }
  put(frame.tasks, [card("tasks", t("tasks"), seen.tasks, tasksCard)]);
  put(frame.rest, [
    card("breakers", t("breakers"), seen.breakers, breakersCard),
    card("rules", t("rules"), seen.rules, rulesCard),
    card("letters", t("letters"), seen.letters, lettersCard),
    card("log", t("log"), seen.log, logCard),
  ]);
}

async function start() {
  operator = await beginPage();
  render();
  follow(NODES_MS, ["nodes"], () => readEach({ nodes: "/nodes" }));
  follow(SECOND_MS, ["figures"], readFigures);
  follow(SECOND_MS, ["tasks"], () => Promise.all([readReady(), readEach({ tasks: "/tasks" })]));
  follow(REST_MS, [], () => readEach({ breakers: "/breakers", rules: "/rules", letters: "/dead-letters?status=open&limit=20", log: "/audit?limit=20" }));
}

start();
