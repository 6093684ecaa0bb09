// Plays shoppers in Chromium on /shop: who buys and pays, who comes too late, who loses the connection, and so on.
//
// SHOP, ADMIN and PAY are the origins of the listeners and of the payment page, KEY is an operator's key, and SHOTS the
// folder of the screenshots.

import assert from "node:assert/strict";
import type { BrowserContext, Page } from "playwright-core";
import { complaints, fresh, isStill, launched, makeSale, operate, played, shoot } from "./browser.js";

const { SHOP, ADMIN, PAY, KEY, SHOTS } = process.env;
assert(SHOP && ADMIN && PAY && KEY && SHOTS, "SHOP, ADMIN, PAY, KEY and SHOTS are given");
const [shop, admin, pay, key, shots] = [SHOP, ADMIN, PAY, KEY, SHOTS];

const browser = await launched();
const OFFLINE = [/ERR_INTERNET_DISCONNECTED/, /ERR_FAILED/, /ERR_NETWORK_CHANGED/];
const sale = (id: string, more: Record<string, unknown> = {}, beginsInMs = -1000) => makeSale(admin, key, id, { name: id, ...more }, beginsInMs);
const act = (id: string, action: string) => operate(admin, key, "POST", `/sales/${id}/${action}`, { reason: "a test" });
const end = (id: string) => act(id, "end");
const card = (page: Page, name: string) => page.getByRole("article", { name, exact: true });
const badge = (page: Page) => page.locator("#connection");
const orders = async (id: string): Promise<any[]> => (await operate(admin, key, "GET", `/orders?sale=${id}`)).orders;

const step = (name: string, work: () => Promise<void>) => played(browser, shots, name, work);

async function opened(context: BrowserContext, path = "/shop"): Promise<Page> {
  const page = await context.newPage();
  await page.goto(shop + path);
  return page;
}

await step("every word stands in every language", async () => {
  const load = async (name: string) => (await fetch(`${shop}/assets/${name}`)).text();
  const { words } = await import(`data:text/javascript,${encodeURIComponent(await load("words.js"))}`);
  const [en, zh] = [Object.keys(words.en).sort(), Object.keys(words.zh).sort()];
  assert.deepEqual(zh, en);
  const used = [...(await load("shop.js")).matchAll(/\bt\("([^"]+)"/g), ...(await load("ui.js")).matchAll(/\bt\("([^"]+)"/g)].map((found) => found[1]!);
  assert.deepEqual(used.filter((word) => !en.includes(word)), []);
});

await step("nothing is on sale", async () => {
  const page = await opened(await fresh(browser, [shop]));
  await page.getByText("There is no sale now.").waitFor();
  await shoot(page, shots, "shop-empty");
});

await step("who never read the docs buys and pays with three clicks", async () => {
  await sale("three-clicks", { name: "Friday drop", items: [{ sku_id: "phone", name: "Phone X", stock: 3, price: { amount: 19900, currency: "CNY" } }, { sku_id: "case", name: "Case", stock: 1, price: { amount: 2900, currency: "CNY" } }] });
  const page = await opened(await fresh(browser, [shop, pay]), "/");
  await page.getByRole("button", { name: "Buy: Phone X" }).click();
  await page.getByRole("button", { name: /^Pay / }).waitFor();
  await isStill(page, "before the payment");
  await page.locator("[data-left]", { hasText: /\d/ }).waitFor();
  await shoot(page, shots, "shop-yours");
  await page.getByRole("button", { name: /^Pay / }).click();
  await page.getByRole("button", { name: "Pay", exact: true }).click();
  await page.waitForURL(/\/shop\?order=ord_/);
  await page.getByText("Thank you. It is paid.").waitFor();
  await page.getByRole("button", { name: "You have yours: Phone X" }).waitFor();
  await shoot(page, shots, "shop-paid");
  // The session survives a reload, and the order is there.
  await page.reload();
  await page.getByText("Thank you. It is paid.").waitFor();
  const stored = await page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage, cookie: document.cookie }));
  assert.ok(!stored.includes("eyJ"), `a token is kept where scripts read it: ${stored}`);
  await end("three-clicks");
});

await step("a sale that begins soon counts down by the server's clock, and opens by itself", async () => {
  const context = await fresh(browser, [shop]);
  // The clock of this device is two minutes behind.
  await context.addInitScript(() => {
    const right = Date.now;
    Date.now = () => right.call(Date) - 120_000;
  });
  const began = Date.now();
  await sale("soon", {}, 6000);
  const page = await opened(context);
  const clock = card(page, "soon").locator(".clock .figures");
  await clock.waitFor();
  assert.match(await clock.innerText(), /^0:0[0-6]$/);
  assert.ok(await page.getByRole("button", { name: "Not yet: Phone X" }).isDisabled());
  await shoot(page, shots, "shop-soon");
  const buy = page.getByRole("button", { name: "Buy: Phone X" });
  await buy.waitFor();
  const late = Date.now() - began - 6000;
  assert.ok(late > -500 && late < 3000, `it opened ${late} ms late`);
  await buy.click();
  await page.getByRole("button", { name: /^Pay / }).waitFor();
  await end("soon");
});

await step("who comes too late hears it, and hears when units come back", async () => {
  await sale("scarce", { items: [{ sku_id: "phone", name: "Phone X", stock: 1, price: { amount: 19900, currency: "CNY" } }] });
  const first = await opened(await fresh(browser, [shop]));
  await first.getByRole("button", { name: "Buy: Phone X" }).click();
  await first.getByRole("button", { name: /^Pay / }).waitFor();
  const page = await opened(await fresh(browser, [shop]));
  await page.getByRole("button", { name: "Sold out. Try again: Phone X" }).click();
  await page.locator("#notice").getByText("Nothing is left just now.").waitFor();
  await shoot(page, shots, "shop-sold-out");
  const { items } = await operate(admin, key, "GET", "/sales/scarce/stock");
  await operate(admin, key, "POST", "/sales/scarce/stock/adjust", { sku_id: "phone", expected_stock: items[0].configured, stock: 5, reason: "more came" });
  await page.getByRole("button", { name: "Buy: Phone X" }).click();
  await page.getByRole("button", { name: /^Pay / }).waitFor();
  await end("scarce");
});

await step("who gives up asks for it twice, and may buy again", async () => {
  await sale("doubt");
  const page = await opened(await fresh(browser, [shop]));
  await page.getByRole("button", { name: "Buy: Phone X" }).click();
  await page.getByRole("button", { name: "Give up" }).click();
  await shoot(page, shots, "shop-confirm");
  await page.getByRole("button", { name: "Back" }).click();
  await page.getByRole("button", { name: "Give up" }).click();
  await page.getByRole("button", { name: "Give it up" }).click();
  await page.getByText("It was given up.").waitFor();
  await page.getByRole("button", { name: "Buy: Phone X" }).click();
  await page.getByRole("button", { name: /^Pay / }).waitFor();
  assert.equal((await orders("doubt")).length, 2);
  await end("doubt");
});

await step("a limit says what one may have", async () => {
  await sale("two", { buyer_limit: 2, items: [{ sku_id: "phone", name: "Phone X", stock: 9, price: { amount: 1, currency: "CNY" } }] });
  const context = await fresh(browser, [shop]);
  const [page, other] = [await opened(context), await opened(context)];
  await page.getByRole("button", { name: "Buy: Phone X" }).click();
  await page.getByRole("button", { name: /^Pay / }).waitFor();
  // Another page of the same browser hears of it over the one stream that they share.
  await other.bringToFront();
  await other.reload();
  await other.getByRole("button", { name: "Buy: Phone X" }).click();
  await other.getByRole("button", { name: "You have yours: Phone X" }).waitFor();
  await page.bringToFront();
  await page.getByRole("button", { name: "You have yours: Phone X" }).waitFor();
  await end("two");
});

await step("a sale that is paused while somebody waits says so, and goes on", async () => {
  await sale("pausing");
  const page = await opened(await fresh(browser, [shop]));
  await page.getByRole("button", { name: "Buy: Phone X" }).waitFor();
  await page.getByText("live", { exact: true }).waitFor();
  await act("pausing", "pause");
  await page.getByRole("button", { name: "Paused: Phone X" }).waitFor();
  await shoot(page, shots, "shop-paused");
  await act("pausing", "resume");
  await page.getByRole("button", { name: "Buy: Phone X" }).waitFor();
  await end("pausing");
});

await step("without a stream the page asks again and again", async () => {
  await sale("cut");
  const context = await fresh(browser, [shop], {}, OFFLINE);
  await context.route("**/api/v1/stream?**", (route) => route.abort());
  const page = await opened(context);
  await page.getByText("asking again").waitFor();
  await page.getByRole("button", { name: "Buy: Phone X" }).click();
  await page.getByRole("button", { name: /^Pay / }).waitFor();
  await act("cut", "pause");
  await page.getByText("paused", { exact: true }).waitFor();
  await end("cut");
});

await step("without a network the page says so, and goes on by itself", async () => {
  await sale("tunnel");
  const context = await fresh(browser, [shop], {}, OFFLINE);
  const page = await opened(context);
  await page.getByRole("button", { name: "Be a test buyer" }).click();
  await page.getByText("You are guest-").waitFor();
  await context.setOffline(true);
  await page.getByText("offline", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Buy: Phone X" }).click();
  await shoot(page, shots, "shop-offline");
  await context.setOffline(false);
  await page.getByRole("button", { name: /^Pay / }).waitFor();
  assert.equal((await orders("tunnel")).length, 1, "one click, one order");
  await end("tunnel");
});

await step("a reload in the middle of a click makes no second order", async () => {
  await sale("reload", { buyer_limit: 5, items: [{ sku_id: "phone", name: "Phone X", stock: 9, price: { amount: 1, currency: "CNY" } }] });
  const context = await fresh(browser, [shop], {}, OFFLINE);
  const page = await opened(context);
  await page.getByRole("button", { name: "Be a test buyer" }).click();
  await page.getByText("You are guest-").waitFor();
  let answers = 0;
  await context.route("**/api/v1/sales/reload/orders", async (route) => {
    answers += 1;
    if (answers > 1) return route.fallback();
    // It is done, and nobody hears of it.
    await route.fetch();
    await page.reload();
  });
  await page.getByRole("button", { name: "Buy: Phone X" }).click();
  await page.getByRole("button", { name: /^Pay / }).waitFor();
  assert.equal((await orders("reload")).length, 1);
  await end("reload");
});

const json = (status: number, body: unknown) => ({ status, contentType: "application/problem+json", body: JSON.stringify(body) });

await step("what cannot be read hides nothing of the rest, and is asked for again", async () => {
  await sale("rush");
  const context = await fresh(browser, [shop], {}, OFFLINE);
  await (await opened(context)).getByRole("button", { name: "Be a test buyer" }).click();
  // A crowd is served its sales, and no lists of orders; and the first call that asks who this is gets lost.
  let asked = 0;
  await context.route("**/api/v1/orders", (route) => route.fulfill(json(503, { code: "overloaded", title: "Too many", status: 503, retryable: true })));
  await context.route("**/api/v1/session", (route) => ((asked += 1) === 1 ? route.abort() : route.fallback()));
  const page = await opened(context);
  await page.getByRole("button", { name: "Buy: Phone X" }).waitFor();
  await page.getByText("You are guest-").waitFor();
  await page.getByText("Your orders cannot be read at the moment.").waitFor();
  assert.equal(await page.locator("#notice").innerText(), "");
  await shoot(page, shots, "shop-rush");
  await context.unroute("**/api/v1/orders");
  await page.getByText("Nothing yet.").waitFor({ timeout: 60_000 });
  await end("rush");
});

await step("an order that was lost is told, and is bought again with the same click", async () => {
  await sale("lost");
  const context = await fresh(browser, [shop]);
  const keys: string[] = [];
  // It is accepted, and then nobody knows it any more.
  const id = `ord_${"0".repeat(26)}`;
  await context.route("**/api/v1/sales/lost/orders", (route) => {
    keys.push(route.request().headers()["idempotency-key"]!);
    if (keys.length > 1) return route.fallback();
    const accepted = new Date().toISOString();
    return route.fulfill(json(202, { id, sale_id: "lost", sku_id: "phone", quantity: 1, price: { amount: 19900, currency: "CNY" }, status: "reserved", final: false, poll_after_ms: 500, accepted_at: accepted }));
  });
  const page = await opened(context);
  await page.getByRole("button", { name: "Buy: Phone X" }).click();
  await page.locator("#notice").getByText("An order was lost before it was confirmed").waitFor();
  await page.getByRole("button", { name: "Buy: Phone X" }).click();
  await page.getByRole("button", { name: /^Pay / }).waitFor();
  assert.equal(new Set(keys).size, 1, String(keys));
  await end("lost");
});

await step("who leaves takes the orders along, also those whose answer comes late", async () => {
  await sale("leaving");
  const context = await fresh(browser, [shop]);
  const page = await opened(context);
  await page.getByRole("button", { name: "Buy: Phone X" }).click();
  await page.getByRole("button", { name: /^Pay / }).waitFor();
  let [held, release] = [0, () => {}];
  const gate = new Promise<void>((done) => (release = done));
  await context.route("**/api/v1/orders", async (route) => {
    const answer = await route.fetch();
    held += 1;
    await gate;
    await route.fulfill({ response: answer });
  });
  // The page reads everything anew when it is seen again.
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  await page.waitForTimeout(200);
  for (let n = 0; n < 50 && held === 0; n += 1) await page.waitForTimeout(100);
  assert.ok(held > 0, "it reads its orders");
  await page.getByRole("button", { name: "Leave" }).click();
  await page.getByRole("button", { name: "Be a test buyer" }).waitFor();
  release();
  await page.waitForTimeout(500);
  assert.equal(await page.getByRole("button", { name: /^Pay / }).count(), 0);
  await end("leaving");
});

await step("a keyboard is enough", async () => {
  await sale("keys");
  const page = await opened(await fresh(browser, [shop, pay]));
  await page.getByRole("button", { name: "Buy: Phone X" }).waitFor();
  const reach = async (name: RegExp) => {
    for (let n = 0; n < 40; n += 1) {
      await page.keyboard.press("Tab");
      const label = await page.evaluate(() => document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent ?? "");
      if (name.test(label)) return;
    }
    assert.fail(`${name} cannot be reached`);
  };
  await reach(/^Buy: Phone X/);
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: /^Pay / }).waitFor();
  await page.locator("#said", { hasText: /\S/ }).waitFor({ state: "attached" });
  await reach(/^Pay /);
  await page.keyboard.press("Enter");
  await page.waitForURL(`${pay}/**`);
  await end("keys");
});

await step("names are texts, however long and whatever is in them", async () => {
  const evil = `<img src=x onerror="document.title='broken'"><script>document.title='broken'</script>`;
  const long = "Extraordinarilylongnamewithoutanyspacethatnobodywouldevertypebuteverybodywillpaste".slice(0, 80);
  await sale("names", { name: evil, items: [{ sku_id: "phone", name: `${long} ${evil}`.slice(0, 120), stock: 3, price: { amount: 123456789, currency: "JPY" } }] });
  const page = await opened(await fresh(browser, [shop]));
  await page.getByRole("heading", { name: evil, exact: true }).waitFor();
  await page.getByRole("button", { name: /^Buy/ }).click();
  await page.getByRole("button", { name: /^Pay / }).waitFor();
  assert.equal(await page.title(), "seckill");
  await shoot(page, shots, "shop-long");
  await end("names");
});

await step("the page speaks Chinese", async () => {
  await sale("zh", { name: "双十一秒杀" });
  const page = await opened(await fresh(browser, [shop], { locale: "zh-CN" }));
  await page.getByRole("button", { name: "立即抢购: Phone X" }).click();
  await page.getByRole("button", { name: /^支付 / }).waitFor();
  assert.equal(await page.locator("html").getAttribute("lang"), "zh");
  await shoot(page, shots, "shop-zh");
  await page.locator("#language").selectOption("en");
  await page.getByRole("button", { name: /^Pay / }).waitFor();
  await end("zh");
});

await step("a page that loads and a sale that is over", async () => {
  const context = await fresh(browser, [shop], {}, OFFLINE);
  await context.route("**/api/v1/sales", async (route) => {
    await new Promise((done) => setTimeout(done, 1500));
    return route.fallback();
  });
  const page = await opened(context);
  await page.locator(".loading").waitFor();
  await page.screenshot({ path: `${shots}/shop-loading.png` });
  await page.getByText("There is no sale now.").waitFor();
  await page.getByText("Sales that are over").click();
  await page.getByText("over", { exact: true }).first().waitFor();
  await shoot(page, shots, "shop-over");
});

await browser.close();
assert.deepEqual(complaints, []);
