// What the operators' pages share: the session, calls of the admin API with it, and words for what was answered.

import { ApiError } from "./seckill.js";
import { announce, confirm, explain, h, put, t, translate } from "./ui.js";

let [csrf, offset] = ["", 0];

/** The server's time in ms, to the second, whatever the clock of this device says. */
export const now = () => Date.now() + offset;

/** Calls the admin API. @returns {Promise<any>} */
export async function call(method, path, body, headers = {}) {
  const init = { method, headers: { ...headers }, cache: "no-store" };
  if (method !== "GET") init.headers["X-CSRF-Token"] = csrf;
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers["Content-Type"] = "application/json";
  }
  let answer, data;
  try {
    answer = await fetch(`/api/v1/admin${path}`, init);
    offset = Math.round((Date.parse(answer.headers.get("Date")) - Date.now()) / 1000) * 1000 || 0;
    data = answer.status === 204 ? null : await answer.json();
  } catch {
    throw new ApiError({ code: "offline", title: t("problem.offline"), status: 0, retryable: true });
  }
  if (!answer.ok) throw new ApiError(data);
  return data;
}

/** Begins a page in its language. Answers whose session this is; `null` without one. */
export async function beginPage() {
  translate();
  return session().catch((error) => (tell("bad", explain(error.problem)), null));
}

async function session() {
  try {
    const found = await call("GET", "/session");
    csrf = found.csrf_token;
    return found;
  } catch (error) {
    if (error.problem?.status === 401) return null;
    throw error;
  }
}

/** Gives a key away for a session. The key is kept nowhere. */
async function signIn(key) {
  const begun = await call("POST", "/session", undefined, { Authorization: `Bearer ${key}` });
  csrf = begun.csrf_token;
  return begun;
}

const signOut = () => call("DELETE", "/session");

/** What purchases were answered, in groups that people tell apart. */
export const ATTEMPTS = {
  accepted: ["reserved", "queued"],
  repeated: ["replayed"],
  sold_out: ["sold_out", "fewer_left"],
  buyer_limit: ["limit_reached", "too_many_unpaid", "key_reused"],
  not_open: ["not_started", "delayed", "paused", "ended", "unknown_sale", "unknown_sku"],
  refused: ["token_required", "token_invalid", "throttled", "blocked", "switched_off"],
  failed: ["overloaded", "unavailable", "outcome_unknown"],
};

/** Adds up what is known; `null` when nothing is. */
export const sumOf = (values) => values.reduce((sum, value) => (value === null || value === undefined ? sum : (sum ?? 0) + value), null);

/** Shows who is signed in and whether the page hears, or the form to sign in. Answers whether somebody is. */
export function showOperator(operator, word, { begun, ended }) {
  const badge = document.getElementById("connection");
  badge.className = `chip ${{ live: "good", polling: "warn", offline: "bad" }[word] ?? "none"}`;
  badge.textContent = t(`connection.${word || "none"}`);
  const leave = async () => {
    try {
      await signOut();
    } catch (error) {
      // A session that is over is none.
      if (error.problem?.status !== 401) return said(error);
    }
    ended();
  };
  const said = async (error) => {
    if (!error.problem) throw error;
    tell("bad", explain(error.problem));
    // Another page of this browser may have signed in since, with another key.
    const found = error.problem.status === 403 ? await session().catch(() => operator) : operator;
    if (found) begun(found);
    else ended();
  };
  put(document.getElementById("operator"), operator ? [h("span", { class: "small", "data-key": "who" }, [operator.operator, operator.role].filter(Boolean).join(" · ")), h("button", { class: "bare", "data-key": "out", onclick: leave }, t("sign_out"))] : []);
  const main = document.getElementById("main");
  if (!operator && !main.querySelector("#key")) put(main, [signInForm(begun)]);
  return operator !== null;
}

/** Makes the form in which an operator gives a key away. */
function signInForm(done) {
  const said = h("p", { class: "note bad", hidden: true });
  const key = h("input", { name: "key", type: "password", autocomplete: "off", required: true, id: "key" });
  const form = h(
    "form",
    {
      class: "card",
      onsubmit: async (event) => {
        event.preventDefault();
        try {
          const begun = await signIn(key.value.trim());
          key.value = "";
          done(begun);
        } catch (error) {
          said.hidden = false;
          said.textContent = error.problem?.status === 401 ? t("key.wrong") : explain(error.problem);
          announce(said.textContent);
        }
      },
    },
    h("h1", {}, t("sign_in")),
    h("label", { for: "key" }, t("key"), key, h("small", {}, t("key.hint"))),
    said,
    h("button", {}, t("sign_in")),
  );
  return h("div", { class: "page", "data-key": "sign-in" }, form);
}

/** Asks for a reason, does it, and says what came of it. Answers whether it was done. */
export async function change({ title, text, button, fields = [], danger, done, work }) {
  const reason = { name: "reason", label: t("reason"), hint: t("reason.hint") };
  const filled = await confirm({ title, text, button, danger, fields: [...fields, reason] });
  if (!filled) return false;
  try {
    await work(filled);
    tell("good", done ?? t("done"));
    return true;
  } catch (error) {
    if (!error.problem) throw error;
    tell("bad", explain(error.problem));
    return false;
  }
}

let shown = null;
/** What was said last, to be shown. */
export const notice = () => shown;

export function tell(kind, text) {
  shown = { kind, text };
  announce(text);
}
