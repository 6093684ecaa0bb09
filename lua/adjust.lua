-- Adds units to a bucket, or takes up to so many out of it, for an adjustment of the stock. The script is idempotent by
-- its id: the first answer stands until the bucket is rebuilt.
--
-- KEYS (one hash tag)  1 gate   2 stock   3 received
-- ARGV  1 id, 2 sku, 3 units, below 0 when they are taken, 4 the epoch in which the bucket has to be, or '' for any
-- Result: the units that came, or, below 0, that went, by this call or before; false when the bucket is not in place,
--   has lost keys, or is of another epoch
--
-- A bucket that was rebuilt has what the directory says, so what was to come in the epoch before is in it already.

local done = redis.call('HGET', KEYS[3], ARGV[1])
if done then return tonumber(done) end
local gate = redis.call('HMGET', KEYS[1], 'epoch', 'lost')
if not gate[1] or gate[2] or redis.call('EXISTS', KEYS[2]) == 0 then return false end
if ARGV[4] ~= '' and ARGV[4] ~= gate[1] then return false end
local units = tonumber(ARGV[3])
if units < 0 then units = -math.min(-units, tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or '0')) end
redis.call('HSET', KEYS[3], ARGV[1], string.format('%d', units))
redis.call('HINCRBY', KEYS[2], ARGV[2], string.format('%d', units))
return units
