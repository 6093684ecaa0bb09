// Plays a promoter in Chromium on /console: a sale is created, checked, run, paused, restocked, ended and read about,
// with no command line. And who has not the right for something is not shown it.
//
// ADMIN and SHOP are the origins of the listeners, KEY and VIEWER are keys, and SHOTS the folder of the screenshots.

import assert from "node:assert/strict";
import type { Page } from "playwright-core";
import { buys, complaints, fresh, isStill, launched, operate, played, shoot, signedIn } from "./browser.js";

const { SHOP, ADMIN, KEY, VIEWER, SHOTS } = process.env;
assert(SHOP && ADMIN && KEY && VIEWER && SHOTS, "SHOP, ADMIN, KEY, VIEWER and SHOTS are given");
const [shop, admin, key, viewer, shots] = [SHOP, ADMIN, KEY, VIEWER, SHOTS];
const browser = await launched();
const evil = `Saturday <script>document.title="broken"</script><img src=x onerror="document.title=1">`;

/** Presses a button, gives the reason, and says that it is meant. */
async function change(page: Page, name: string, fill: Record<string, string> = {}): Promise<void> {
  await page.getByRole("main").getByRole("button", { name, exact: true }).click();
  const dialog = page.getByRole("dialog");
  for (const [label, value] of Object.entries(fill)) await dialog.getByLabel(label).fill(value);
  await dialog.getByLabel("Reason").fill(`<b>${name}</b>`);
  await dialog.getByRole("button", { name, exact: true }).click();
  await dialog.waitFor({ state: "detached" });
  await page.getByRole("main").getByText("Done.").waitFor();
}

await played(browser, shots, "a promoter runs a sale", async () => {
  const context = await fresh(browser, [admin], {}, [/ERR_FAILED/]);
  const page = await context.newPage();
  await page.goto(`${admin}/`);
  await page.waitForURL(`${admin}/console`);
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await shoot(page, shots, "console-sign-in");
  await page.getByLabel("API key").fill("sk_nobody");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("main").getByText("This key is not known").waitFor();
  await signedIn(page, `${admin}/console`, key);
  await page.getByText("There is no sale yet.").waitFor();
  await isStill(page, "the console");
  await shoot(page, shots, "console-empty");
  const stored = await page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage, cookie: document.cookie, html: document.documentElement.outerHTML }));
  assert.ok(!stored.includes(key), "the key is kept where scripts read it");

  await page.getByRole("button", { name: "Create a sale" }).click();
  await page.getByLabel("Id (a-z, 0-9, -)").fill("friday");
  await page.getByLabel("Name").fill("Friday drop");
  const local = (ms: number) => new Date(ms - new Date(ms).getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
  await page.getByLabel("Begins").fill(local(Date.now() - 60_000));
  await page.getByLabel("Ends").fill(local(Date.now() + 3_600_000));
  await page.getByLabel("SKU").fill("phone");
  await page.getByLabel("Item").fill("Phone X");
  await page.getByLabel("Units", { exact: true }).fill("3");
  await page.getByLabel("Reason").fill("black friday");
  await shoot(page, shots, "console-create");
  await page.getByRole("main").locator("form").getByRole("button", { name: "Create a sale" }).click();
  await page.getByRole("heading", { name: "Friday drop", level: 1 }).waitFor();
  await page.getByText("not ready").waitFor();
  await shoot(page, shots, "console-draft");
  await change(page, "Publish");
  await change(page, "Put in place");
  await page.getByText("live", { exact: true }).first().waitFor();
  const first = await buys(shop, "friday", "ada");
  assert.equal(first.status, "awaiting_payment", JSON.stringify(first));
  await page.getByText("3 in all · 2 for sale · 1 held · 0 sold").waitFor();
  await page.locator("div", { has: page.locator("dt", { hasText: "orders to be paid" }) }).locator("dd", { hasText: "1" }).first().waitFor();
  await shoot(page, shots, "console-live");
  await change(page, "Change the stock", { "Units in all": "5" });
  await page.getByText("5 in all · 4 for sale · 1 held · 0 sold").waitFor();
  await change(page, "Pause");
  await page.getByText("paused", { exact: true }).first().waitFor();
  assert.equal((await buys(shop, "friday", "bob")).code, "sale_paused");
  await change(page, "Go on");
  // What a promoter does is undone as easily: fewer units again, and an order given up.
  await change(page, "Change the stock", { "Units in all": "4" });
  await page.getByText("4 in all · 3 for sale · 1 held · 0 sold").waitFor();
  await page.getByRole("button", { name: "Search" }).click();
  await page.getByRole("cell", { name: first.id }).waitFor();
  await shoot(page, shots, "console-orders");
  await change(page, "Cancel");
  await page.getByRole("cell", { name: "given up" }).waitFor();
  await page.getByText("4 in all · 4 for sale · 0 held · 0 sold").waitFor();
  // Too few units are refused, and nothing is changed.
  await page.getByRole("button", { name: "Change the stock" }).click();
  await page.getByRole("dialog").getByLabel("Units in all").fill("0");
  await page.getByRole("dialog").getByLabel("Reason").fill("a mistake");
  await page.getByRole("dialog").getByRole("button", { name: "Change the stock" }).click();
  await page.locator(".note").waitFor();
  await change(page, "End");
  await page.getByText("ended", { exact: true }).first().waitFor();
  await change(page, "Settle");
  await page.getByRole("link", { name: "Report" }).waitFor();
  await shoot(page, shots, "console-settled");
  await page.getByRole("link", { name: "Report" }).click();
  await page.getByText("friday").first().waitFor();
  await page.screenshot({ path: `${shots}/console-report.png`, fullPage: true });
  await page.goBack();
  await page.getByRole("button", { name: "Clone" }).click();
  await page.getByLabel("Id (a-z, 0-9, -)").fill("saturday");
  await page.getByLabel("Name").fill(evil);
  await page.getByLabel("Reason").fill("once more");
  await page.getByRole("main").locator("form").getByRole("button", { name: "Create a sale" }).click();
  await page.getByRole("heading", { name: evil, level: 1 }).waitFor();
  const rows = (await operate(admin, key, "GET", "/audit?limit=100")).rows.map((row: { action: string }) => row.action);
  for (const action of ["sale_create", "sale_publish", "sale_pause", "sale_end"]) assert.ok(rows.some((row: string) => row.includes(action.split("_")[1]!)), `${action}: ${rows}`);

  // The session ends with the button, and the page asks for a key again; when it does not end, that is told.
  await page.route("**/api/v1/admin/session", (route) => (route.request().method() === "DELETE" ? route.abort() : route.fallback()));
  await page.getByRole("button", { name: "Leave" }).click();
  await page.getByText("The shop cannot be reached.").first().waitFor();
  assert.equal(await page.getByRole("heading", { name: "Sign in" }).count(), 0);
  await page.unroute("**/api/v1/admin/session");
  await page.getByRole("button", { name: "Leave" }).click();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await page.reload();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
});

await played(browser, shots, "who may only read", async () => {
  // Who may only read is shown nothing that changes.
  const watching = await (await fresh(browser, [admin])).newPage();
  await signedIn(watching, `${admin}/console`, viewer);
  await watching.getByRole("button", { name: /^Saturday/ }).click();
  await watching.getByRole("heading", { name: evil, level: 1 }).waitFor();
  for (const name of ["Create a sale", "Publish", "Clone"]) assert.equal(await watching.getByRole("button", { name }).count(), 0, name);
  await shoot(watching, shots, "console-viewer");
});

// A page of another origin sends no cookie that this listener takes, and the shop's listener has no console.
assert.equal((await fetch(`${shop}/console`)).status, 404);
assert.equal((await fetch(`${admin}/shop`)).status, 404);
await browser.close();
assert.deepEqual(complaints, []);
