// Plays an engineer in Chromium on /ops: what the processes do, what this one measures, which of its tasks fail, which
// rules hold for how long, and that a killed worker is seen at once.
//
// ADMIN and SHOP are the origins of the listeners, KEY is a key, WORKER is the process that is killed (empty where
// there is none), and SHOTS the folder of the screenshots.

import assert from "node:assert/strict";
import type { Locator, Page } from "playwright-core";
import { buys, complaints, fresh, isStill, launched, makeSale, operate, played, shoot, signedIn } from "./browser.js";

const { SHOP, ADMIN, KEY, WORKER, SHOTS } = process.env;
assert(SHOP && ADMIN && KEY && SHOTS, "SHOP, ADMIN, KEY and SHOTS are given");
const [shop, admin, key, shots] = [SHOP, ADMIN, KEY, SHOTS];
const browser = await launched();
const evil = `<script>document.title="broken"</script><img src=x onerror="document.title=1">`;

const part = (page: Page, name: string) => page.locator("section.card", { has: page.getByRole("heading", { name, level: 2, exact: true }) });

/** Presses a button and holds it. Until it is down the page may move under the mouse, so a press beside it is another try. */
async function press(page: Page, button: Locator): Promise<void> {
  for (let n = 0; n < 10; n += 1) {
    await button.hover();
    await page.mouse.down();
    if (await page.evaluate(() => document.querySelector("button:active") !== null)) return;
    await page.mouse.up();
  }
  assert.fail("the button is never under the mouse");
}

await played(browser, shots, "an engineer looks", async () => {
  await makeSale(admin, key, "friday", {}, -60_000);
  await operate(admin, key, "PUT", "/rules/calm", { scope: "all", match: { route: "purchase" }, kind: "token_bucket", value: { rate: 1000, burst: 1000 }, until: new Date(Date.now() + 600_000).toISOString(), reason: evil });
  const context = await fresh(browser, [admin], {}, [/ERR_INTERNET_DISCONNECTED/]);
  const page = await context.newPage();
  await signedIn(page, `${admin}/ops`, key);
  await part(page, "Processes").getByText("serving").first().waitFor();
  await part(page, "Background tasks of this process").getByText(/^\d+ tasks are well$/).click();
  await part(page, "Background tasks of this process").getByText("order_writer", { exact: true }).waitFor();
  assert.equal(await part(page, "Background tasks of this process").getByText("failing").count(), 0);
  await part(page, "This process").getByText("ready", { exact: true }).waitFor();
  // A rule is there with its reason, which is text, and says how long it holds.
  const rule = part(page, "Rules of traffic").getByRole("row", { name: /calm/ });
  await rule.getByText(evil).waitFor();
  await rule.getByText(/^9:\d\d$/).waitFor();
  await part(page, "What was done").getByRole("cell", { name: "rule_put" }).waitFor();
  await part(page, "Circuit breakers").getByText("closed").first().waitFor();
  await part(page, "Dead letters").getByText("There is none.").waitFor();

  // What happens is drawn within seconds.
  const drawn = (title: string) => page.getByRole("img", { name: new RegExp(`^${title}:`) });
  for (const title of ["Attempts a second", "Orders a second", "Time of a purchase", "Calls, 99 of 100 within", "Waiting"]) await drawn(title).waitFor();
  const bought = await buys(shop, "friday", "ada");
  assert.equal(bought.status, "awaiting_payment", JSON.stringify(bought));
  await page.getByRole("img", { name: /^Time of a purchase: half within [\d.]+ ms/ }).waitFor();
  // Another process may have written it.
  if (!WORKER) await page.getByRole("img", { name: /^From acceptance to its row: 99 of 100 within [\d.]+ ms/ }).waitFor();
  await isStill(page, "/ops");
  await shoot(page, shots, "ops");

  // A breaker that somebody has forced open is seen to be open.
  const dependency = (await operate(admin, key, "GET", "/breakers")).breakers.at(-1).dependency;
  const force = (forced: string | null) => operate(admin, key, "POST", `/breakers/${dependency}`, { forced, reason: "a test" });
  await force("open");
  await part(page, "Circuit breakers").getByRole("row", { name: new RegExp(`^${dependency} open`) }).waitFor();
  await force(null);
  await part(page, "Circuit breakers").getByRole("row", { name: new RegExp(`^${dependency} closed`) }).waitFor();

  // What somebody has opened stays open, and a button that is held while the page goes on is pressed all the same.
  await part(page, "Background tasks of this process").getByText("order_writer", { exact: true }).waitFor();
  const held = part(page, "Processes").getByRole("button", { name: "Take out" }).first();
  await press(page, held);
  // What the process does is told twice a second, so its card is another one meanwhile.
  await buys(shop, "friday", "bob");
  await page.waitForTimeout(2500);
  await page.mouse.up();
  await page.getByRole("dialog").getByRole("button", { name: "Back" }).click();

  // A process is taken out of service and back, with a reason.
  const own = (await operate(admin, key, "GET", "/tasks")).process.slice(0, 8);
  const row = part(page, "Processes").getByRole("row", { name: new RegExp(own) });
  for (const [button, state] of [["Take out", "out of service"], ["Take back", "serving"]] as const) {
    await row.getByRole("button", { name: button }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Reason").fill(evil);
    await dialog.getByRole("button", { name: button }).click();
    await row.getByText(state).waitFor();
  }

  if (WORKER) {
    await page.getByRole("main").getByText("Lost: ").waitFor({ state: "detached" });
    const began = Date.now();
    process.kill(Number(WORKER), "SIGKILL");
    await page.getByRole("main").getByText("Lost: 1.").waitFor();
    console.log(`a killed worker is seen after ${Date.now() - began} ms`);
    await part(page, "Processes").getByText(/silent for \d+\ss/).waitFor();
    await shoot(page, shots, "ops-lost");
  }
  // Without the server the page says so, and goes on when it is back.
  await context.setOffline(true);
  await page.getByRole("status").getByText("offline").waitFor();
  await shoot(page, shots, "ops-offline");
  await context.setOffline(false);
  await page.getByRole("status").getByText("live").waitFor();
  await page.getByLabel("Language").selectOption("zh");
  await page.getByRole("heading", { name: "熔断器" }).waitFor();
  await shoot(page, shots, "ops-zh");
});

await played(browser, shots, "who may only read", async () => {
  const viewer = (await operate(admin, key, "POST", "/keys", { name: "watcher", scopes: ["limits:read"] })).key;
  const page = await (await fresh(browser, [admin])).newPage();
  await signedIn(page, `${admin}/ops`, viewer);
  await part(page, "Processes").getByText("serving").first().waitFor();
  assert.equal(await page.getByRole("button", { name: "Take out" }).count(), 0);
  // Who may not see the log of changes is told so, and sees the rest.
  await part(page, "What was done").locator(".note").waitFor();
  await part(page, "Rules of traffic").getByRole("row", { name: /calm/ }).waitFor();
  await shoot(page, shots, "ops-viewer");
});

assert.equal((await fetch(`${shop}/ops`)).status, 404);
await browser.close();
assert.deepEqual(complaints, []);
