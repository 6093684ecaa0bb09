-- Opens a bucket that was rebuilt, when it has what was filled in. It does that once.
--
-- KEYS (one hash tag)  1 gate   2 rebuild   3 stock   4 buyers   5 orders   6 outbox   7 outbox_orders   8 unpaid
-- ARGV  1 the bucket's new epoch, 2 state: open | paused | ended, 3 version of the sale, 4 opens_ms, 5 closes_ms,
--       6 buyer_limit, 7 unpaid_max, 8 length of the lease in ms, then how many fields there have to be: 9 stock,
--       10 buyers, 11 orders
-- Result: 'open', 'overtaken' when the bucket is not being rebuilt for this epoch any more, or 'differs'
--
-- The script writes the gate last, because nothing is reserved before it stands.

local gate, rebuild, stock, buyers, orders, outbox, outbox_orders, unpaid = unpack(KEYS)
if redis.call('GET', rebuild) ~= ARGV[1] then return 'overtaken' end
for i, key in ipairs({stock, buyers, orders}) do
  if redis.call('HLEN', key) ~= tonumber(ARGV[8 + i]) then return 'differs' end
end
local has_sold = tonumber(ARGV[11]) > 0
if has_sold then
  -- Every key that a bucket has after its first order. The outbox is empty.
  redis.call('XDEL', outbox, redis.call('XADD', outbox, '*', 'epoch', ARGV[1]))
  redis.call('SET', outbox_orders, '0')
end
local clock = redis.call('TIME')
local lease_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(ARGV[8])
redis.call('DEL', rebuild)
if has_sold then redis.call('HSET', gate, 'sold', '1') end
if redis.call('EXISTS', unpaid) == 1 then redis.call('HSET', gate, 'given_up', '1') end
redis.call('HSET', gate, 'epoch', ARGV[1], 'state', ARGV[2], 'version', ARGV[3], 'opens_ms', ARGV[4], 'closes_ms',
  ARGV[5], 'buyer_limit', ARGV[6], 'unpaid_max', ARGV[7], 'lease_ms', string.format('%.0f', lease_ms), 'run_id',
  string.match(redis.call('INFO', 'server'), 'run_id:(%x+)'))
return 'open'
