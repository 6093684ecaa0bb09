-- Removes outbox entries whose record the order log has acknowledged, and marks their orders queued.
-- Idempotent: an entry that is gone is passed over, and an order that is further than reserved stays there.
--
-- KEYS (one hash tag)  1 outbox   2 orders
-- ARGV  per entry: outbox entry id, order id
-- Result: number of entries removed

local removed = 0
for i = 1, #ARGV, 2 do
  local value = redis.call('HGET', KEYS[2], ARGV[i + 1])
  if value and string.sub(value, 1, 1) == 'r' then
    redis.call('HSET', KEYS[2], ARGV[i + 1], 'q' .. string.sub(value, 2))
  end
  removed = removed + redis.call('XDEL', KEYS[1], ARGV[i])
end
return removed
