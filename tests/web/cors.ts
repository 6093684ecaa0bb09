// A page of another origin buys with a token of its own, when the shop lets it, and else reads nothing.
//
// SHOP is the origin of the shop, GOOD and BAD are those of two pages of which the shop knows the first, TOKEN is a
// shopper's token.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { complaints, fresh, launched } from "./browser.js";

const { SHOP, GOOD, BAD, TOKEN } = process.env;
assert(SHOP && GOOD && BAD && TOKEN, "SHOP, GOOD, BAD and TOKEN are given");

const client = await (await fetch(`${SHOP}/assets/seckill.js`)).text();
const served = [GOOD, BAD].map((origin) =>
  createServer((request, response) => {
    const isScript = request.url === "/seckill.js";
    response.setHeader("Content-Type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? client : "<!doctype html><title>another shop</title>");
  }).listen(Number(new URL(origin).port), "127.0.0.1"),
);
const browser = await launched();

/** Buys, pays attention to the stream, and answers what came of it. */
async function buys(origin: string): Promise<string> {
  const context = await fresh(browser, [SHOP!, origin], {}, [/CORS policy/, /ERR_FAILED/, /Failed to load resource/]);
  const page = await context.newPage();
  await page.goto(`${origin}/`);
  return page.evaluate(
    async ([base, token]) => {
      const module = "/seckill.js";
      const { Seckill } = await import(module);
      const shop = new Seckill({ base, token });
      try {
        const told = new Promise<string>((done) => {
          const end = shop.watch({ sale: "drop", own: true, on: (event: string, data: { status?: string }) => {
            if (event === "order" && data.status === "awaiting_payment") (end(), done("told"));
          } });
        });
        const order = await shop.buy("drop", "phone", "a-page-elsewhere", { wait: 5 });
        return `${order.status} ${await told}`;
      } catch (error) {
        return (error as { problem?: { code: string } }).problem?.code ?? String(error);
      }
    },
    [SHOP!, TOKEN!] as const,
  );
}

assert.equal(await buys(GOOD), "awaiting_payment told");
assert.equal(await buys(BAD), "offline");
await browser.close();
for (const server of served) server.close();
assert.deepEqual(complaints, []);
