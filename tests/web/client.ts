// Buys, pays and gives up as a shop's own program does, with a client that is generated from the contract.
//
// SHOP is the origin of the public listener, TOKEN a shopper's token. One unit of `phone` of `drop` costs money.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import createClient from "openapi-fetch";
import type { components, paths } from "./shopper.js";

type Order = components["schemas"]["Order"];

const { SHOP, TOKEN } = process.env;
assert(SHOP && TOKEN, "SHOP and TOKEN are given");
const shop = createClient<paths>({ baseUrl: SHOP, headers: { Authorization: `Bearer ${TOKEN}` } });

/** Takes what a call answered, or fails with the problem. */
function taken<T>({ data, error, response }: { data?: T; error?: unknown; response: Response }): T {
  assert(data !== undefined, `${response.url}: ${response.status} ${JSON.stringify(error)}`);
  return data;
}

async function buy(): Promise<string> {
  const order = taken(
    await shop.POST("/api/v1/sales/{sale}/orders", {
      params: { path: { sale: "drop" }, header: { "Idempotency-Key": randomUUID() } },
      body: { sku_id: "phone", quantity: 1 },
    }),
  );
  return order.id;
}

/** Reads an order until it has the status, for 20 s at most. */
async function until(id: string, status: Order["status"]): Promise<Order> {
  for (const began = Date.now(); ; ) {
    const order = taken(
      await shop.GET("/api/v1/orders/{order}", { params: { path: { order: id }, query: { wait: 1 } } }),
    );
    if (order.status === status) return order;
    assert(Date.now() - began < 20_000, `the order is ${order.status}, and never ${status}`);
    await new Promise((resume) => setTimeout(resume, order.poll_after_ms ?? 50));
  }
}

const sales = taken(await shop.GET("/api/v1/sales"));
assert.equal(sales.sales[0]?.id, "drop");

const kept = await buy();
await until(kept, "awaiting_payment");
const key = { "Idempotency-Key": randomUUID() };
const paying = taken(
  await shop.POST("/api/v1/orders/{order}/pay", { params: { path: { order: kept }, header: key } }),
);
const page = "payment" in paying ? paying.payment?.redirect_url : undefined;
assert(page, "an open payment has a page");
const form = new URLSearchParams({ action: "pay" });
const pressed = await fetch(page, { method: "POST", body: form, redirect: "manual" });
assert.equal(pressed.status, 303);
const paid = await until(kept, "paid");
assert.equal(paid.final, true);

const given = await buy();
await until(given, "awaiting_payment");
const cancelled = taken(
  await shop.POST("/api/v1/orders/{order}/cancel", {
    params: { path: { order: given }, header: { "Idempotency-Key": randomUUID() } },
  }),
);
assert.equal(cancelled.status, "cancelled");

const refused = await shop.POST("/api/v1/sales/{sale}/orders", {
  params: { path: { sale: "drop" }, header: { "Idempotency-Key": randomUUID() } },
  body: { sku_id: "phone", quantity: 2 },
});
assert.equal(refused.error?.code, "limit_reached");

console.log(JSON.stringify({ paid: kept, cancelled: given }));
