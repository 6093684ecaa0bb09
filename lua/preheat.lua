-- Puts a sale's bucket in place. The script is idempotent: a gate that exists is left as it is. The gate is `placing`,
-- and nothing is sold, until gate.lua opens it, which happens when all buckets of the sale are in place.
--
-- KEYS (one hash tag)  1 gate   2 stock   3 orders   4 unpaid   5 references   6 rebuild
-- ARGV  1 epoch, 2 opens_ms, 3 closes_ms, 4 buyer_limit, 5 lease_ms, 6 unpaid_max, then per SKU: sku, units
-- Result: when the bucket was put in place, by this call or before, in us since 1970: whoever opens its gate has to say
--   it; or 'conflict' when a gate of another epoch is there, or the bucket is being rebuilt
--
-- The script writes the gate last. Nothing can be reserved until the gate stands. Orders that are there already were
-- held before a gate was lost: then the keys of what was sold have to be there, as after a sale (reserve.lua). Without
-- orders there is nothing that the references name.

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch and epoch ~= ARGV[1] or redis.call('EXISTS', KEYS[6]) == 1 then return 'conflict' end
local clock = redis.call('TIME')
local placed = string.format('%.0f', clock[1] * 1000000 + clock[2])
if epoch then
  -- A version before this one did not note it.
  redis.call('HSETNX', KEYS[1], 'placed', placed)
  return redis.call('HGET', KEYS[1], 'placed')
end
redis.call('DEL', KEYS[2])
for i = 7, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'state', 'placing', 'opens_ms', ARGV[2], 'closes_ms', ARGV[3],
  'buyer_limit', ARGV[4], 'lease_ms', ARGV[5], 'unpaid_max', ARGV[6], 'placed', placed, 'run_id',
  string.match(redis.call('INFO', 'server'), 'run_id:(%x+)'))
if redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('HSET', KEYS[1], 'sold', '1')
else
  redis.call('DEL', KEYS[5])
end
if redis.call('EXISTS', KEYS[4]) == 1 then redis.call('HSET', KEYS[1], 'given_up', '1') end
return placed
