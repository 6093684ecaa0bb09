// Opens the pages of both contracts in Chromium, tries an operation on each, and looks at the page of a problem.
//
// SHOP and ADMIN are the origins of the listeners, KEY is an operator's key, and SHOTS the folder of the screenshots.

import assert from "node:assert/strict";
import { chromium, type Page } from "playwright-core";

const { SHOP, ADMIN, KEY, SHOTS } = process.env;
assert(SHOP && ADMIN && KEY && SHOTS, "SHOP, ADMIN, KEY and SHOTS are given");

// The user root has no sandbox.
const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args });
const complaints: string[] = [];

/** Opens a page that may ask its own origin only, and notes what the browser complains about. */
async function open(origin: string, path: string): Promise<Page> {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  await page.route("**", (route) => {
    const url = route.request().url();
    if (url.startsWith(`${origin}/`) || url.startsWith("data:")) return route.continue();
    complaints.push(`${path} asks ${url}`);
    return route.abort();
  });
  page.on("console", (said) => {
    // The styles that the pages apply to single elements are left out, and nothing misses them.
    if (said.type() === "error" && !said.text().startsWith("Applying inline style")) complaints.push(`${path}: ${said.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`${path}: ${error.message}`));
  await page.goto(origin + path);
  return page;
}

/** Executes an operation on its page, and answers the status that the page shows. */
async function tried(page: Page, id: string): Promise<string> {
  const operation = page.locator(`.opblock[id$="-${id}"]`);
  await operation.locator(".opblock-summary").click();
  await operation.getByRole("button", { name: "Execute" }).click();
  const status = operation.locator(".live-responses-table .response-col_status").last();
  return (await status.innerText()).trim().split(/\s/)[0] ?? "";
}

const shopper = await open(SHOP, "/docs");
await shopper.getByText("seckill: the shopper API").waitFor();
assert.equal(await tried(shopper, "list_sales"), "200");
await shopper.screenshot({ path: `${SHOTS}/docs-shopper.png` });

const admin = await open(ADMIN, "/docs");
await admin.getByText("seckill: the admin API").waitFor();
await admin.getByRole("button", { name: "Authorize" }).first().click();
const bearer = admin.locator(".auth-container", { hasText: "operator (http, Bearer)" });
await bearer.locator("#auth-bearer-value").fill(KEY);
await bearer.getByRole("button", { name: "Apply credentials" }).click();
await admin.locator(".btn-done").first().click();
assert.equal(await tried(admin, "list_all_sales"), "200");
await admin.screenshot({ path: `${SHOTS}/docs-admin.png` });

const problem = await open(SHOP, "/problems/sold_out");
await problem.getByRole("heading", { name: "sold_out" }).waitFor();
await problem.screenshot({ path: `${SHOTS}/problem.png` });

await browser.close();
assert.deepEqual(complaints, []);
