// The shop: what is on sale, buying it, paying it, and one's own orders. It uses only the public API.

import { Seckill } from "./seckill.js";
import { announce, chip, confirm, explain, h, money, moment, put, span, t, translate } from "./ui.js";

const api = new Seckill();
const sales = new Map();
const orders = new Map();
/** What is under way: the name of an action → true. */
const busy = new Set();
let [session, demo, notice, isRead, areOwnUnread] = [null, false, null, false, false];
/** What the stream says of itself, whether the shop was reached last, and what is followed. */
let [state, isReached, stopFollowing, followed] = ["", true, () => {}, undefined];
/** Whether the server's clock is known, and who buys. What could not be asked is asked again. */
const met = { clock: false, buyer: false };
const returned = new URLSearchParams(location.search).get("order");

const ENDED = ["rejected", "cancelled", "expired", "refunded"];
const BANDS = { plenty: "good", some: "good", low: "warn", last: "warn", sold_out: "bad" };
const STATES = { reserved: "warn", queued: "warn", awaiting_payment: "warn", paid: "good", rejected: "bad", expired: "bad" };
const PHASES = { live: "good", upcoming: "", delayed: "warn", paused: "warn", ended: "" };

/** Does something once at a time, and shows what went wrong. */
async function act(name, work) {
  if (busy.has(name)) return;
  busy.add(name);
  notice = null;
  render();
  try {
    await work();
  } catch (error) {
    if (!error.problem) throw error;
    tell("bad", explain(error.problem));
    if (error.problem.code === "unauthenticated") forget();
  } finally {
    busy.delete(name);
    render();
  }
}

function tell(kind, text) {
  notice = { kind, text };
  announce(text);
}

// ---- who buys

async function recognise() {
  try {
    session = await api.call("GET", "/session");
  } catch (error) {
    if (error.problem?.status !== 401) throw error;
    demo = error.problem.demo === true;
  }
}

async function signIn() {
  const before = session?.user_id;
  session = await api.call("POST", "/session");
  if (session.user_id !== before) orders.clear();
  met.buyer = true;
  follow();
}

/** Nobody is signed in any more: what was somebody's own is neither shown nor followed. */
function forget() {
  if (!session) return;
  session = null;
  met.buyer = false;
  orders.clear();
  areOwnUnread = false;
  follow();
}

const signOut = () =>
  act("sign", async () => {
    await api.call("DELETE", "/session");
    forget();
    await meet();
  });

/** Learns the clock and who buys, as long as one of them is not known. */
async function meet() {
  const learn = async (what, work) => {
    if (met[what]) return;
    await work();
    met[what] = true;
  };
  await Promise.all([learn("clock", () => api.sync()), learn("buyer", recognise)]);
}

// ---- buying

/** The key of a wish outlives a reload, so that a click counts once however often the page is loaded. */
const wishes = {
  name: (sale, sku) => `seckill-wish ${session.user_id} ${sale} ${sku}`,
  /** The key of a wish, and whether it is not older than two minutes: later nobody thinks of it any more. */
  of(sale, sku) {
    const [key, at, order] = (localStorage.getItem(wishes.name(sale, sku)) ?? "").split(" ");
    return { key, order, isNew: Date.now() - Number(at) < 120_000 };
  },
  make(sale, sku) {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    const { key: known, order, isNew } = wishes.of(sale, sku);
    const key = known && (isNew || order) ? known : Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    localStorage.setItem(wishes.name(sale, sku), `${key} ${Date.now()}`);
    return key;
  },
  /** Until its order is decided, or while nobody knows whether there is one, the next click is the same wish, whenever it comes. */
  keep: (name, key, order) => localStorage.setItem(name, `${key} ${Date.now()} ${order}`),
  decided(order) {
    if (session && wishes.of(order.sale_id, order.sku_id).order === order.id) wishes.end(wishes.name(order.sale_id, order.sku_id));
  },
  end: (name) => localStorage.removeItem(name),
};

/** Asks again for what was clicked a moment ago and not answered: the page was loaded anew, or the network is back. */
function resume() {
  for (const sale of session ? sales.values() : []) {
    sale.items.filter((item) => wishes.of(sale.id, item.sku_id).isNew).forEach((item) => buy(sale, item));
  }
}

const buy = (sale, item) =>
  act(`buy ${sale.id} ${item.sku_id}`, async () => {
    await meet();
    if (!session) await signIn();
    const [key, name, buyer] = [wishes.make(sale.id, item.sku_id), wishes.name(sale.id, item.sku_id), session.user_id];
    try {
      const order = await api.buy(sale.id, item.sku_id, key, { token: sale.policy.purchase_token, wait: 0 });
      wishes.keep(name, key, order.id);
      if (session?.user_id !== buyer) return;
      note(order);
      announce(t("bought"));
      document.getElementById("orders-title").scrollIntoView({ block: "nearest" });
    } catch (error) {
      // What may have been done keeps its key, and is found by it.
      if (error.problem && !error.problem.retryable) wishes.end(name);
      else wishes.keep(name, key, "unknown");
      if (["sold_out", "sale_paused", "sale_ended"].includes(error.problem?.code)) refreshSale(sale.id);
      throw error;
    }
  });

const pay = (order) =>
  act(`pay ${order.id}`, async () => {
    const opening = api.pay(order.id);
    const { payment } = await opening;
    if (!payment) return noteFrom(opening);
    location.assign(payment.redirect_url);
  });

async function giveUp(order) {
  const isMeant = await confirm({ title: t("give_up.title"), text: t("give_up.text"), button: t("give_up.yes"), danger: true });
  if (isMeant) act(`give up ${order.id}`, () => noteFrom(api.cancel(order.id)));
}

// ---- what is known

/** How far an order is: a state comes after those of smaller numbers. */
const RANKS = { reserved: 0, queued: 0, awaiting_payment: 1, paid: 2, rejected: 2, cancelled: 2, expired: 2, refunded: 3 };

function note(order) {
  const before = orders.get(order.id);
  if (RANKS[order.status] > 0) wishes.decided(order);
  // What was asked for before the last news comes after them.
  if (before && RANKS[before.status] > RANKS[order.status]) return;
  if (before && before.status !== order.status) announce(t(`order.${order.status}`));
  const known = { ...order, expires_at: order.expires_at ?? before?.expires_at };
  // Until when it can be paid says only a read.
  const isUnclear = order.status === "awaiting_payment" && !known.expires_at;
  const wait = isUnclear ? (before?.isUnclear ? 5000 : 0) : (order.poll_after_ms ?? Infinity);
  orders.set(order.id, { ...known, isUnclear, due: order.final ? Infinity : Date.now() + wait });
  render();
}

/** Notes the order that a call answers, unless its buyer has left meanwhile. */
async function noteFrom(call) {
  const buyer = session?.user_id;
  const order = await call;
  if (session?.user_id === buyer) note(order);
}

/** Asks how an order stands. One that nobody knows any more was lost with the stock's data, and is told so. */
async function ask(order) {
  try {
    await noteFrom(api.order(order.id));
  } catch (error) {
    if (!error.problem) throw error;
    order.due = Date.now() + 5000;
    if (error.problem.code === "order_not_found" && orders.delete(order.id)) {
      tell("bad", t("order.lost"));
      render();
    } else if (error.problem.code === "unauthenticated") forget();
  }
}

function noteSale(sale) {
  sales.set(sale.id, sale);
  render();
}

function noteStock({ sale_id, items }) {
  const sale = sales.get(sale_id);
  if (!sale) return;
  const bands = new Map(items.map((item) => [item.sku_id, item.stock]));
  noteSale({ ...sale, items: sale.items.map((item) => ({ ...item, stock: bands.get(item.sku_id) ?? item.stock })) });
}

async function refreshSale(id) {
  try {
    noteSale(await api.sale(id));
  } catch (error) {
    if (error.problem?.status === 404 && sales.delete(id)) render();
  }
}

/** Reads everything anew. What cannot be read hides nothing of the rest. */
async function refresh() {
  const reached = await Promise.all([tried(meet), tried(readSales)]);
  if (session) reached.push(await tried(readOrders));
  isReached = reached.includes(true);
  render();
}

/** Answers whether the shop was reached. */
async function tried(read) {
  try {
    await read();
  } catch (error) {
    if (!error.problem) throw error;
    if (read === readOrders && session) areOwnUnread = true;
    if (error.problem.code === "offline") return false;
    if (error.problem.code === "unauthenticated") forget();
    // That orders come later is said where they will stand.
    else if (read !== readOrders || !error.problem.retryable) tell("bad", explain(error.problem));
  }
  return true;
}

async function readSales() {
  const all = await api.sales();
  sales.clear();
  all.forEach((sale) => sales.set(sale.id, sale));
  isRead = true;
}

async function readOrders() {
  const buyer = session.user_id;
  const own = await api.orders();
  if (session?.user_id !== buyer) return;
  own.forEach(note);
  areOwnUnread = false;
}

// ---- what happens

function take(event, data) {
  if (event === "sale") noteSale(data);
  else if (event === "stock") noteStock(data);
  else if (event === "order") note(data);
  else if (event === "state" && state !== data) {
    state = data;
    render();
  }
  if (state === "live") isReached = true;
}

/** The sale that a shopper most likely waits for. */
function focus() {
  return [...sales.values()].filter((sale) => OPEN.includes(sale.status)).sort(bySoonest)[0];
}

/** What a stream has to tell: of which sale, and of whose orders. */
const wanted = () => `${focus()?.id ?? ""} ${session?.user_id ?? ""}`;

/** Follows what happens, with one stream for all pages of this browser that are seen. */
function follow() {
  stopFollowing();
  stopFollowing = () => {};
  state = "";
  if (document.hidden) return;
  const what = { sale: focus()?.id, own: session !== null };
  followed = wanted();
  if (!what.sale && !what.own) return;
  const name = `seckill-stream ${followed}`;
  const [channel, gone] = [new BroadcastChannel(name), new AbortController()];
  let leads = false;
  channel.onmessage = ({ data }) => {
    if (!data.hello) take(data.event, data.data);
    else if (leads) channel.postMessage({ event: "state", data: state });
  };
  const lead = () => {
    // The lock may come when nobody wants it any more.
    if (gone.signal.aborted) return undefined;
    leads = true;
    const end = api.watch({
      ...what,
      on: (event, data) => {
        take(event, data);
        channel.postMessage({ event, data });
      },
    });
    return new Promise((done) => gone.signal.addEventListener("abort", () => (end(), done())));
  };
  stopFollowing = () => {
    gone.abort();
    channel.close();
  };
  // Only pages of https, and of this machine, have locks.
  if (!navigator.locks) return lead();
  channel.postMessage({ hello: true });
  navigator.locks.request(name, { signal: gone.signal }, lead).catch(() => {});
}

// ---- what is seen

function clock(sale) {
  const [starts, ends] = [Date.parse(sale.starts_at), Date.parse(sale.ends_at)];
  if (sale.status === "upcoming") return [t("opens_in"), span(starts - api.now())];
  if (["live", "paused", "delayed"].includes(sale.status)) return [t("ends_in"), span(ends - api.now())];
  // One that was ended early says not when.
  return ends <= api.now() ? [t("ended_at"), moment(sale.ends_at)] : [t("ended_early"), ""];
}

const OPEN = ["live", "delayed", "paused", "upcoming"];

/** Sorts sales: what can be bought first, what is over last. */
function bySoonest(one, other) {
  const rank = (sale) => (OPEN.indexOf(sale.status) + OPEN.length + 1) % (OPEN.length + 1);
  return rank(one) - rank(other) || one.starts_at.localeCompare(other.starts_at);
}

/** Answers the orders of a sale that a buyer has. */
const owned = (sale) => [...orders.values()].filter((order) => order.sale_id === sale.id && !ENDED.includes(order.status));

function buttonOf(sale, item) {
  const name = `buy ${sale.id} ${item.sku_id}`;
  const [opens, isBusy] = [Date.parse(sale.starts_at) <= api.now(), busy.has(name)];
  const is = { live: sale.status === "live" || (sale.status === "upcoming" && opens), out: item.stock === "sold_out" };
  const own = owned(sale);
  const isFull = own.reduce((sum, order) => sum + order.quantity, 0) >= sale.policy.buyer_limit;
  let [text, off] = [t("buy"), false];
  if (isBusy) [text, off] = [t("buying"), true];
  else if (isFull) [text, off] = [t(own.some((order) => order.sku_id === item.sku_id) ? "have_yours" : "have_all"), true];
  else if (sale.status === "paused") [text, off] = [t("paused"), true];
  else if (!is.live) [text, off] = [t("not_yet"), true];
  else if (is.out) [text, off] = [t("try_again"), false];
  const label = `${text}: ${item.name}`;
  return h("button", { class: is.out ? "quiet" : "", disabled: off, "aria-label": label, "data-key": name, onclick: () => buy(sale, item) }, text);
}

function saleCard(sale) {
  const [what, time] = clock(sale);
  const isOver = !OPEN.includes(sale.status);
  return h(
    "article",
    { class: "card", "data-key": `sale ${sale.id}`, "aria-label": sale.name },
    h("div", { class: "row apart" }, h("h2", {}, sale.name), chip(PHASES[sale.status], t(`phase.${sale.status}`))),
    h("p", { class: isOver ? "" : "clock", "data-clock": sale.id }, h("small", {}, what), h("span", { class: "figures" }, time)),
    sale.items.map((item) =>
      h(
        "div",
        { class: "item" },
        h("div", { class: "what" }, h("h3", {}, item.name), h("p", { class: "price" }, money(item.price))),
        isOver ? null : chip(BANDS[item.stock], t(`stock.${item.stock}`)),
        isOver ? null : buttonOf(sale, item),
      ),
    ),
    isOver ? null : h("p", { class: "small" }, t("limit", { units: sale.policy.buyer_limit })),
  );
}

function orderCard(order) {
  const sale = sales.get(order.sale_id);
  const item = sale?.items.find((one) => one.sku_id === order.sku_id);
  const isPending = ["reserved", "queued"].includes(order.status);
  const left = order.expires_at ? span(Date.parse(order.expires_at) - api.now()) : "–:––";
  const [paying, leaving] = [busy.has(`pay ${order.id}`), busy.has(`give up ${order.id}`)];
  const total = { ...order.price, amount: order.price.amount * order.quantity };
  return h(
    "article",
    { class: "card", "data-key": order.id, "aria-label": `${item?.name ?? order.sku_id}: ${t(`order.${order.status}`)}` },
    h("div", { class: "row apart" }, h("h3", {}, `${order.quantity} × ${item?.name ?? order.sku_id}`), chip(STATES[order.status] ?? "", t(`order.${order.status}`))),
    h("p", {}, t(`order.${order.delayed ? "delayed" : order.status}.text`)),
    isPending ? h("div", { class: "waits" }) : null,
    order.status === "awaiting_payment" && order.id === returned ? h("p", { class: "note" }, t("returned")) : null,
    order.status === "awaiting_payment" ? h("p", { class: "clock" }, h("small", {}, t("pay_within")), h("span", { class: "figures", "data-left": order.id }, left)) : null,
    order.status === "awaiting_payment"
      ? h(
          "div",
          { class: "row fill" },
          h("button", { disabled: paying || leaving, "data-key": `pay ${order.id}`, onclick: () => pay(order) }, paying ? t("paying") : `${t("pay")} ${money(total)}`),
          h("button", { class: "quiet", disabled: paying || leaving, "data-key": `give up ${order.id}`, onclick: () => giveUp(order) }, t("give_up")),
        )
      : null,
    h("p", { class: "small" }, moment(order.accepted_at), h("code", { class: "line" }, order.id)),
  );
}

function render() {
  const badge = document.getElementById("connection");
  const word = navigator.onLine && isReached ? state : "offline";
  badge.className = `chip ${{ live: "good", polling: "warn", offline: "bad" }[word] ?? "none"}`;
  badge.textContent = t(`connection.${word || "none"}`);
  const buyer = session
    ? [h("span", { "data-key": "who" }, t("you_are", { user: session.user_id })), h("button", { class: "bare", "data-key": "out", onclick: signOut }, t("sign_out"))]
    : demo && [h("button", { class: "quiet", "data-key": "in", onclick: () => act("sign", async () => (await signIn(), await refresh())) }, t("be_a_buyer"))];
  put(document.getElementById("buyer"), buyer || [h("span", { class: "small", "data-key": "none" }, met.buyer ? t("not_signed_in") : "")]);
  const said = word === "offline" ? { kind: "bad", text: t("problem.offline") } : notice;
  put(document.getElementById("notice"), said ? [h("p", { class: `note ${said.kind}`, "data-key": "notice" }, said.text)] : []);
  const known = [...sales.values()].sort(bySoonest);
  const loading = h("div", { class: "card loading", "data-key": "loading" }, h("div", { class: "waits" }));
  const none = h("p", { class: "empty", "data-key": "none" }, word === "offline" ? t("problem.offline") : t("no_sales"));
  const [open, over] = [known.filter((sale) => OPEN.includes(sale.status)), known.filter((sale) => !OPEN.includes(sale.status))];
  put(document.getElementById("sales"), open.length ? open.map(saleCard) : [isRead || word === "offline" ? none : loading]);
  document.getElementById("over").hidden = over.length === 0;
  put(document.getElementById("over-sales"), over.map(saleCard));
  // What stands below comes when it is known where it will stay.
  document.getElementById("own").hidden = !isRead;
  document.getElementById("own").classList.toggle("urgent", [...orders.values()].some((order) => order.status === "awaiting_payment"));
  const own = [...orders.values()].sort((a, b) => b.accepted_at.localeCompare(a.accepted_at));
  const noOrders = h("p", { class: "empty", "data-key": "none" }, session && areOwnUnread ? t("orders.unread") : t("no_orders"));
  put(document.getElementById("orders"), own.length ? own.map(orderCard) : [noOrders]);
}

/** Moves the clocks, and nothing else. */
function tick() {
  let turned = false;
  for (const place of document.querySelectorAll("[data-clock]")) {
    const sale = sales.get(place.dataset.clock);
    if (!sale) continue;
    const [what, time] = clock(sale);
    [place.firstChild.textContent, place.lastChild.textContent] = [what, time];
    turned ||= sale.status === "upcoming" && Date.parse(sale.starts_at) <= api.now() && !sale.turned;
    if (Date.parse(sale.starts_at) <= api.now()) sale.turned = true;
  }
  for (const place of document.querySelectorAll("[data-left]")) {
    const due = orders.get(place.dataset.left)?.expires_at;
    if (due) place.textContent = span(Date.parse(due) - api.now());
  }
  if (turned) {
    announce(t("opens_now"));
    render();
  }
  // Who is not told asks, and what is not decided is asked for all the same, if not as often.
  const patience = state === "live" ? 5000 : 0;
  for (const order of orders.values()) {
    if (Date.now() < order.due + (order.isUnclear ? 0 : patience)) continue;
    order.due = Infinity;
    ask(order);
  }
}

let asked = Date.now() + 5000;
/** Asks for everything: soon while nobody tells of it, and now and then for what nobody tells of, such as new sales. */
async function poll() {
  const isWell = state === "live" && isReached && met.buyer && !areOwnUnread;
  if (document.hidden || busy.size || Date.now() < asked - (isWell ? 0 : 35_000)) return;
  // A crowd that has lost its streams at once does not come back at once.
  asked = Date.now() + 39_000 + 4000 * Math.random();
  await refresh();
  if (wanted() !== followed) follow();
}

async function start() {
  translate();
  render();
  await refresh();
  follow();
  // A page that does not lead has missed what was told between the two.
  await refresh();
  resume();
  setInterval(tick, 250);
  setInterval(poll, 1000);
  document.addEventListener("visibilitychange", () => {
    follow();
    if (!document.hidden) refresh();
  });
  window.addEventListener("offline", render);
  window.addEventListener("online", async () => (render(), asked = 0, await poll(), resume()));
}

start();
