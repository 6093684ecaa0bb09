// What all pages share: elements, words, money, times, and what a person is told.

import { words } from "./words.js";

const KNOWN = Object.keys(words);

/** The language of this page: the one that was chosen, or the browser's. */
export let language = choose(localStorage.getItem("seckill-language") ?? navigator.language);

function choose(wanted) {
  const short = String(wanted).slice(0, 2);
  return KNOWN.includes(short) ? short : "en";
}

/** Shows the page in another language. */
export function speak(wanted) {
  localStorage.setItem("seckill-language", choose(wanted));
  location.reload();
}

/** Answers a text in the page's language; `{name}` in it stands for a value. */
export function t(key, values = {}) {
  const text = words[language][key] ?? words.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** Says what a problem means to whoever reads it. */
export function explain(problem) {
  if (!problem) return t("problem.unknown");
  const known = words[language][`problem.${problem.code}`];
  const text = known ? t(`problem.${problem.code}`, problem) : problem.title;
  const errors = (problem.errors ?? []).map((error) => `${error.pointer}: ${error.detail}`);
  return [text, known ? "" : problem.detail, ...errors].filter(Boolean).join(" ");
}

/** Makes an element. Texts are texts: nothing in them becomes markup. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Makes an element of SVG. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** Whether a button of the mouse or a finger is down. What is under it stays until it is up, or the click would be lost. */
let isPressed = false;
const waiting = new Map();
addEventListener("pointerdown", (event) => (isPressed = event.button === 0), true);
// An element that loses the focus is no window that does.
for (const end of ["pointerup", "pointercancel", "blur"]) addEventListener(end, ({ target }) => (end !== "blur" || target === window) && setTimeout(released), true);

function released() {
  isPressed = false;
  const late = [...waiting];
  waiting.clear();
  for (const [parent, children] of late) put(parent, children);
}

/**
 * Puts children into an element in place of those that were there, and leaves those alone that have not changed. So the
 * focus stays, what is open or scrolled stays so, and nothing jumps. Elements are told apart by `data-key`.
 */
export function put(parent, children) {
  if (isPressed) {
    waiting.set(parent, children);
    return;
  }
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = children.filter(Boolean).map((child) => {
    const known = child.dataset.key && before.get(child.dataset.key);
    if (!known) return child;
    const twin = (one) => (one === known ? child : child.querySelector(`[data-key="${CSS.escape(one.dataset.key)}"]`));
    const kept = [known, ...known.querySelectorAll("[data-key]")].filter((one) => one.dataset.key && twin(one));
    for (const one of kept) if (one.matches("details")) twin(one).open = one.open;
    if (known.isEqualNode(child)) return known;
    const focused = kept.find((one) => one === document.activeElement);
    const scrolled = kept.filter((one) => one.scrollLeft > 0).map((one) => [twin(one), one.scrollLeft]);
    known.replaceWith(child);
    if (focused) twin(focused).focus();
    for (const [one, left] of scrolled) one.scrollLeft = left;
    return child;
  });
  if (wanted.length !== parent.childNodes.length || wanted.some((child, n) => parent.childNodes[n] !== child)) {
    parent.replaceChildren(...wanted);
  }
}

const moneyForm = (currency) => new Intl.NumberFormat(language, { style: "currency", currency });
const digits = (form) => form.resolvedOptions().maximumFractionDigits;

export function money({ amount, currency }) {
  const form = moneyForm(currency);
  return form.format(amount / 10 ** digits(form));
}

/** Makes an amount in the smallest unit of its currency, as the API has it. */
export function smallest(text, currency) {
  return { amount: Math.round(Number(text) * 10 ** digits(moneyForm(currency))), currency };
}

export function count(number) {
  return new Intl.NumberFormat(language).format(number);
}

export function moment(text) {
  const form = { dateStyle: "medium", timeStyle: "short" };
  return new Intl.DateTimeFormat(language, form).format(new Date(text));
}

/** Writes how long something lasts: `1:02:03`, and days in front. */
export function span(ms) {
  const s = Math.max(0, Math.ceil(ms / 1000));
  const two = (number) => String(number).padStart(2, "0");
  const [days, hours, minutes] = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  const clock = hours || days ? `${hours}:${two(minutes)}:${two(s % 60)}` : `${minutes}:${two(s % 60)}`;
  return days ? t("days", { days, clock }) : clock;
}

/** Has a screen reader say something, without moving the focus. The same is said again when it happens again. */
export function announce(text) {
  const place = document.getElementById("said");
  if (place) place.textContent = place.textContent === text ? `${text}\u00a0` : text;
}

/**
 * Makes a table that scrolls on its own; on a narrow screen each row of more than three cells stands as a block, with
 * the head beside each cell. A head that begins with `#` is of numbers. A cell that is empty or unknown is a dash, and one of `""` is left out.
 */
export function table(label, heads, rows) {
  const [texts, kinds] = [heads.map((head) => head.replace("#", "")), heads.map((head) => (head.startsWith("#") ? "number" : null))];
  const head = texts.map((text, n) => h("th", { scope: "col", class: kinds[n] }, text));
  const cells = (row) => row.map((cell, n) => h("td", { class: kinds[n], "data-label": texts[n] }, cell ?? "–"));
  return h("div", { class: heads.length > 3 ? "scroll stacks" : "scroll", "data-key": `table ${label}`, tabindex: 0, role: "region", "aria-label": label }, h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows.map((row) => h("tr", {}, cells(row))))));
}

/** Says what could not be read, and why. What one may not see is no fault. */
export const unread = (problem) => h("p", { class: problem.status === 403 ? "note" : "note bad" }, explain(problem));

export const chip = (kind, text) => h("span", { class: `chip ${kind}` }, text);

/** Writes the words of a page that stand in its HTML. */
export function translate() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  const menu = document.getElementById("language");
  if (!menu) return;
  menu.value = language;
  menu.addEventListener("change", () => speak(menu.value));
}

/** Asks for a reason and whether it is meant. Answers what was filled in, or `null`. */
export function confirm({ title, text, fields = [], button, danger = false }) {
  return new Promise((done) => {
    const inputs = fields.map((field) => {
      const input = h("input", { name: field.name, value: field.value, type: field.type ?? "text", required: true, maxlength: 500, min: field.min });
      return h("label", {}, field.label, input, field.hint ? h("small", {}, field.hint) : null);
    });
    const dialog = h(
      "dialog",
      { "aria-label": title },
      h(
        "form",
        { method: "dialog" },
        h("h2", {}, title),
        text ? h("p", {}, text) : null,
        inputs,
        h(
          "div",
          { class: "row" },
          h("button", { value: "yes", class: danger ? "danger" : "" }, button),
          h("button", { value: "", class: "quiet", type: "button", onclick: () => dialog.close("") }, t("back")),
        ),
      ),
    );
    dialog.addEventListener("close", () => {
      const filled = Object.fromEntries(new FormData(dialog.querySelector("form")));
      dialog.remove();
      done(dialog.returnValue === "yes" ? filled : null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
