// What all tests of pages share: a browser that may ask our own origins only, and what must be true of every page.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { chromium, type Browser, type BrowserContext, type BrowserContextOptions, type Page } from "playwright-core";

/** What must not have happened in any page. */
export const complaints: string[] = [];

export async function launched(): Promise<Browser> {
  // The user root has no sandbox.
  const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
  return chromium.launch({ executablePath: "/usr/bin/chromium", args });
}

/** Opens a window whose pages may ask `origins` only. What the browser complains about is noted, but for `expected`. */
export async function fresh(browser: Browser, origins: string[], options: BrowserContextOptions = {}, expected: RegExp[] = []): Promise<BrowserContext> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, locale: "en-GB", ...options });
  context.setDefaultTimeout(20_000);
  await context.route("**", (route) => {
    const url = route.request().url();
    if (origins.some((origin) => url.startsWith(`${origin}/`)) || url.startsWith("data:")) return route.fallback();
    complaints.push(`a page asks ${url}`);
    return route.abort();
  });
  context.on("page", (page) => {
    const complain = (text: string) => {
      if (!expected.some((known) => known.test(text))) complaints.push(text);
    };
    // Refusals are answers, and the browser calls each of them an error.
    page.on("console", (said) => said.type() === "error" && !/status of (4|5)\d\d/.test(said.text()) && complain(said.text()));
    page.on("pageerror", (error) => complain(`${error.message}\n${error.stack}`));
  });
  await context.addInitScript(() => {
    const shifts: { value: number; moved: string[] }[] = [];
    Object.assign(window, { shifts });
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        const shift = entry as PerformanceEntry & { value: number; hadRecentInput: boolean; sources: { node: Node; previousRect: DOMRect; currentRect: DOMRect }[] };
        const moved = shift.sources.map(({ node, previousRect, currentRect }) => `${String((node as Element | null)?.outerHTML ?? node?.textContent).slice(0, 200)} by ${currentRect.x - previousRect.x}, ${currentRect.y - previousRect.y}`);
        if (!shift.hadRecentInput) shifts.push({ value: shift.value, moved });
      }
    }).observe({ type: "layout-shift", buffered: true });
  });
  return context;
}

const AXE = readFileSync("node_modules/axe-core/axe.min.js", "utf8");

/** Finds what keeps people out: with a screen reader, with a keyboard, with weak eyes. */
export async function isForEverybody(page: Page, where: string): Promise<void> {
  await page.evaluate(AXE);
  const found = await page.evaluate(async () => {
    const axe = (window as unknown as { axe: { run(): Promise<{ violations: { id: string; impact: string; nodes: { html: string; failureSummary: string }[] }[] }> } }).axe;
    const { violations } = await axe.run();
    return violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  });
  const told = found.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join("; ")}`);
  assert.deepEqual(told, [], where);
}

/** Takes the screenshots of a page: light and dark, wide and narrow. Nothing may stick out on the right. */
export async function shoot(page: Page, shots: string, name: string): Promise<void> {
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    for (const width of [1280, 360]) {
      await page.setViewportSize({ width, height: width === 360 ? 740 : 900 });
      const out = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(out, 0, `${name} is ${out} px too wide at ${width} px`);
      await page.screenshot({ path: `${shots}/${name}-${colorScheme}-${width}.png`, fullPage: true });
    }
    await isForEverybody(page, `${name}, ${colorScheme}`);
  }
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.emulateMedia({ colorScheme: "light", reducedMotion: null });
}

/** Nothing has moved under the reader's eyes since the first paint. */
export async function isStill(page: Page, where: string): Promise<void> {
  const shifts = await page.evaluate(() => (window as unknown as { shifts: { value: number; moved: string[] }[] }).shifts);
  const moved = shifts.reduce((sum, shift) => sum + shift.value, 0);
  assert.ok(moved < 0.01, `${where}: the layout has shifted by ${moved}: ${JSON.stringify(shifts)}`);
}

/** An operator's call of the admin API. */
export async function operate(admin: string, key: string, method: string, path: string, body?: unknown): Promise<any> {
  const init: RequestInit = { method, headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" } };
  if (body !== undefined) init.body = JSON.stringify(body);
  const answer = await fetch(`${admin}/api/v1/admin${path}`, init);
  const data = answer.status === 204 ? null : await answer.json();
  assert.ok(answer.ok, `${method} ${path}: ${JSON.stringify(data)}`);
  return data;
}

/** Opens an operators' page, and gives a key for a session. */
export async function signedIn(page: Page, url: string, key: string): Promise<void> {
  await page.goto(url);
  await page.getByLabel("API key").fill(key);
  await page.getByRole("button", { name: "Sign in" }).click();
}

/** Has a buyer of a test buy a phone. What is refused for a moment is tried again. */
export async function buys(shop: string, sale: string, key: string): Promise<any> {
  const begun = await fetch(`${shop}/api/v1/session`, { method: "POST", headers: { Origin: shop } });
  const cookie = begun.headers.get("set-cookie")!.split(";")[0]!;
  const headers = { Cookie: cookie, Origin: shop, "Content-Type": "application/json", "Idempotency-Key": key, Prefer: "wait=5" };
  const body = JSON.stringify({ sku_id: "phone", quantity: 1 });
  for (let n = 0; ; n += 1) {
    const bought = await (await fetch(`${shop}/api/v1/sales/${sale}/orders`, { method: "POST", headers, body })).json();
    if (!bought.retryable || n === 10) return bought;
    await new Promise((done) => setTimeout(done, 200));
  }
}

/** Makes a sale that begins in so many ms, and puts it in place. */
export async function makeSale(admin: string, key: string, id: string, more: Record<string, unknown>, beginsInMs: number): Promise<void> {
  const at = (ms: number) => new Date(Date.now() + ms).toISOString();
  const body = {
    id, name: id, starts_at: at(beginsInMs), ends_at: at(beginsInMs + 3_600_000), buyer_limit: 1,
    items: [{ sku_id: "phone", name: "Phone X", stock: 3, price: { amount: 19900, currency: "CNY" } }], reason: "a test", ...more,
  };
  await operate(admin, key, "POST", "/sales", body);
  for (const action of ["publish", "preheat"]) await operate(admin, key, "POST", `/sales/${id}/${action}`, { reason: "a test" });
}

/** Plays a scene. What a page looked like when it failed is kept. */
export async function played(browser: Browser, shots: string, name: string, work: () => Promise<void>): Promise<void> {
  const began = Date.now();
  try {
    await work();
  } catch (error) {
    for (const [n, page] of browser.contexts().flatMap((context) => context.pages()).entries()) {
      await page.screenshot({ path: `${shots}/failed-${n}.png`, fullPage: true }).catch(() => {});
    }
    throw new Error(`${name}: ${(error as Error).message}; ${complaints.join("; ")}`, { cause: error });
  }
  for (const context of browser.contexts()) await context.close();
  assert.deepEqual(complaints, [], name);
  console.log(`${name}: ${Date.now() - began} ms`);
}
