-- Takes units out of a bucket for another bucket of the same sale, and notes them as under way. The script is
-- idempotent by the move's id.
--
-- KEYS (one hash tag)  1 gate   2 stock   3 moves
-- ARGV  1 id of the move, 2 sku, 3 most units, 4 number of the other bucket, 5 its epoch
-- Result: what stands of the move: number of the other bucket|sku|units|since, in ms|epoch of the other bucket|epoch of
--   this one; or false when the bucket has nothing to give
--
-- The note stands until the other bucket has the units (receive.lua), or refuses them for good (take_back.lua). Whoever
-- finds an old one finishes it.

local under_way = redis.call('HGET', KEYS[3], ARGV[1])
if under_way then return under_way end
local gate = redis.call('HMGET', KEYS[1], 'epoch', 'lost')
if not gate[1] or gate[2] then return false end
local units = math.min(tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or '0'), tonumber(ARGV[3]))
if units < 1 then return false end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local note = string.format('%s|%s|%d|%.0f|%s|%s', ARGV[4], ARGV[2], units, now_ms, ARGV[5], gate[1])
redis.call('HSET', KEYS[3], ARGV[1], note)
redis.call('HINCRBY', KEYS[2], ARGV[2], -units)
return note
