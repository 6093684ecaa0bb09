// Plays the first minutes of somebody who has run `make demo`, as the README tells them: three clicks on the shop's page
// buy and pay, and the key that was printed opens the pages of the promoter and of the engineer.
//
// SHOP and CONSOLE are the addresses that the demo has printed, PAY is the origin of the payment's page, KEY the key, and
// SHOTS the folder of the screenshots.

import assert from "node:assert/strict";
import { complaints, fresh, launched, played, shoot, signedIn } from "./browser.js";

const { SHOP, CONSOLE, PAY, KEY, SHOTS } = process.env;
assert(SHOP && CONSOLE && PAY && KEY && SHOTS, "SHOP, CONSOLE, PAY, KEY and SHOTS are given");
const [shop, console_, pay, key, shots] = [SHOP, CONSOLE, PAY, KEY, SHOTS];
const browser = await launched();
const originOf = (url: string) => new URL(url).origin;

await played(browser, shots, "the first minutes", async () => {
  const page = await (await fresh(browser, [originOf(shop), pay])).newPage();
  await page.goto(shop);
  // A buyer who came too early is let in by the page, without a reload.
  await page.getByRole("button", { name: /^Buy: / }).click();
  await page.getByRole("button", { name: /^Pay / }).click();
  await page.getByRole("button", { name: "Pay", exact: true }).click();
  await page.waitForURL(/\/shop\?order=ord_/);
  await page.getByText("Thank you. It is paid.").waitFor();
  await shoot(page, shots, "minutes-paid");

  const desk = await (await fresh(browser, [originOf(console_)])).newPage();
  await signedIn(desk, console_, key);
  await desk.getByRole("button", { name: /^Drop 1/ }).click();
  await desk.getByText("100 in all · 99 for sale · 0 held · 1 sold").waitFor();
  const attempts = desk.locator("section.card", { has: desk.getByRole("heading", { name: "Attempts to buy" }) });
  await attempts.getByRole("row", { name: /^accepted 1 / }).waitFor();
  await shoot(desk, shots, "minutes-console");
  // The session holds for the engineer's page, too.
  await desk.getByRole("link", { name: "operations" }).click();
  await desk.getByRole("row", { name: /serving/ }).waitFor();
  await shoot(desk, shots, "minutes-ops");
});

await browser.close();
assert.deepEqual(complaints, []);
