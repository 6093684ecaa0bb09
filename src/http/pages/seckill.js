// A client of the public API of seckill: no dependencies, no build. This file is what /shop uses, and a tutorial.

/** @typedef {{code: string, title: string, status: number, retryable: boolean, retry_after_ms?: number} & Record<string, any>} Problem */
/** @typedef {{id: string, sale_id: string, sku_id: string, status: string, final: boolean, poll_after_ms?: number} & Record<string, any>} Order */

/** The API said no, or could not be reached (`code` is then `offline`). */
export class ApiError extends Error {
  /** @param {Problem} problem */
  constructor(problem) {
    super(problem.title);
    this.problem = problem;
  }
}

/** @param {number} ms */
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export class Seckill {
  /** @param {{base?: string, token?: string}} [options] where the API is, and a shopper token; without one the session is used */
  constructor({ base = "", token } = {}) {
    this.base = base;
    this.token = token;
    this.offset = 0;
  }

  /** Calls the API. @returns {Promise<any>} */
  async call(method, path, body, headers = {}) {
    const init = { method, headers: { ...headers }, cache: /** @type {const} */ ("no-cache") };
    if (this.token) init.headers.Authorization = `Bearer ${this.token}`;
    if (body !== undefined) {
      init.body = JSON.stringify(body);
      init.headers["Content-Type"] = "application/json";
    }
    let answer, data;
    try {
      answer = await fetch(`${this.base}/api/v1${path}`, init);
      data = answer.status === 204 ? null : await answer.json();
    } catch {
      throw new ApiError({ code: "offline", title: "The shop cannot be reached.", status: 0, retryable: true });
    }
    if (!answer.ok) throw new ApiError(data);
    return data;
  }

  /** Repeats a call that may succeed later. What is repeated has the same key, so nothing is done twice. */
  async patiently(call, tries = 5) {
    for (let n = 1; ; n += 1) {
      try {
        return await call();
      } catch (error) {
        const problem = error.problem;
        if (!problem?.retryable || n === tries) throw error;
        await sleep(problem.retry_after_ms ?? Math.min(250 * 2 ** n, 4000) * (0.8 + 0.4 * Math.random()));
      }
    }
  }

  /** Learns the server's clock, by the quickest of three looks. */
  async sync() {
    let best = Infinity;
    for (let n = 0; n < 3; n += 1) {
      const before = performance.now();
      const { now_ms } = await this.call("GET", "/time");
      const took = performance.now() - before;
      if (took < best) [best, this.offset] = [took, now_ms + took / 2 - Date.now()];
    }
  }

  /** The server's time in ms, whatever the clock of this device says. */
  now() {
    return Date.now() + this.offset;
  }

  async sales() {
    return (await this.call("GET", "/sales")).sales;
  }

  sale(id) {
    return this.call("GET", `/sales/${id}`);
  }

  /** Buys. `key` is one for each wish, and the same for each repetition of it. @returns {Promise<Order>} */
  async buy(sale, sku, key, { quantity = 1, token = false, wait = 5 } = {}) {
    const body = { sku_id: sku, quantity };
    if (token) body.purchase_token = (await this.call("POST", `/sales/${sale}/token`)).purchase_token;
    const headers = { "Idempotency-Key": key, Prefer: `wait=${wait}` };
    return this.patiently(() => this.call("POST", `/sales/${sale}/orders`, body, headers));
  }

  /** @returns {Promise<Order>} */
  order(id) {
    return this.call("GET", `/orders/${id}`);
  }

  async orders() {
    return (await this.call("GET", "/orders")).orders;
  }

  /** Opens a payment: send the buyer to `payment.redirect_url`. An order that costs nothing is paid by it. */
  pay(id) {
    return this.patiently(() => this.call("POST", `/orders/${id}/pay`, undefined, { "Idempotency-Key": `pay-${id}` }));
  }

  cancel(id) {
    return this.patiently(() => this.call("POST", `/orders/${id}/cancel`, undefined, { "Idempotency-Key": `cancel-${id}` }));
  }

  /**
   * Tells what happens to a sale, its stock and one's own orders. It comes again by itself with what was not seen, and
   * says by `state` whether it is "live" or "polling" (then ask for what you need yourself).
   * @param {{sale?: string, own?: boolean, on: (event: string, data: any) => void}} what
   * @returns {() => void} ends it
   */
  watch({ sale, own = false, on }) {
    let [source, ended, last, failures] = [/** @type {EventSource | null} */ (null), false, "", 0];
    const open = async () => {
      const query = new URLSearchParams(sale ? { sale } : {});
      try {
        if (own) query.set("ticket", (await this.call("POST", "/stream-tickets")).ticket);
      } catch {
        return again();
      }
      if (ended) return;
      if (last) query.set("last_event_id", last);
      source = new EventSource(`${this.base}/api/v1/stream?${query}`);
      source.onopen = () => {
        failures = 0;
        on("state", "live");
      };
      for (const name of ["sale", "stock", "order"]) {
        source.addEventListener(name, (event) => {
          last = event.lastEventId;
          on(name, JSON.parse(event.data));
        });
      }
      source.addEventListener("bye", (event) => again(JSON.parse(event.data).retry_ms));
      // It would come again by itself with a ticket that was taken.
      source.onerror = () => again();
    };
    const again = (ms) => {
      source?.close();
      if (ended) return;
      on("state", "polling");
      failures += 1;
      setTimeout(open, ms ?? Math.min(500 * 2 ** failures, 15000) * (0.5 + Math.random()));
    };
    open();
    return () => {
      ended = true;
      source?.close();
    };
  }
}
