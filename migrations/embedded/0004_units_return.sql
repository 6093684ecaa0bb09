-- Units that an order gets no more go back on sale with the decision, so nothing is owed any longer. What was owed when
-- this shop did not do that goes back here. Orders that were sold out are owed nothing (docs/adr/0019).
UPDATE stock SET available = available + (
  SELECT COALESCE(SUM(r.quantity), 0) FROM reservations r
  WHERE r.sale_id = stock.sale_id AND r.bucket = stock.bucket AND r.sku_id = stock.sku_id
    AND r.order_id IN (SELECT o.order_id FROM orders o JOIN release_outbox w ON w.order_id = o.order_id
      WHERE o.reason = 'limit'));
DROP TABLE release_outbox;
