-- Puts back what adjust.lua has taken out of a bucket by an id, for an adjustment that is refused. The script is
-- idempotent. An id by which nothing was taken takes nothing from then on, whoever comes late with it.
--
-- KEYS (one hash tag)  1 gate   2 stock   3 received
-- ARGV  1 id, 2 sku
-- Result: the units that came back
--
-- A bucket that is closed, or was rebuilt since, is filled without what was taken.

local gate = redis.call('HMGET', KEYS[1], 'epoch', 'lost')
if not gate[1] or gate[2] then return 0 end
local taken = -tonumber(redis.call('HGET', KEYS[3], ARGV[1]) or '0')
redis.call('HSET', KEYS[3], ARGV[1], '0')
if taken < 1 then return 0 end
redis.call('HINCRBY', KEYS[2], ARGV[2], string.format('%d', taken))
return taken
