-- Puts units that another bucket gave into a bucket. The script is idempotent by the move's id, whoever repeats it and
-- whenever, so the ids are kept.
--
-- KEYS (one hash tag)  1 gate   2 stock   3 received
-- ARGV  1 id of the move, 2 sku, 3 units
-- Result: 1 when the bucket has the units now or had them before, 0 when it cannot take them: it is not in place, or
--   has lost keys

if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then return 1 end
local gate = redis.call('HMGET', KEYS[1], 'epoch', 'lost')
if not gate[1] or gate[2] or redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
redis.call('HINCRBY', KEYS[2], ARGV[2], ARGV[3])
return 1
