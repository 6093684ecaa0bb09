-- What is known of a payment is read with its order, and refunds that have failed are counted every few seconds.
CREATE INDEX payment_events_order ON payment_events (order_id, attempt);
CREATE INDEX refunds_failed ON refunds (state) WHERE state = 'failed';
