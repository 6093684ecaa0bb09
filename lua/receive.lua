-- Puts units that another bucket gave into a bucket. The script is idempotent by the move's id, whoever repeats it and
-- whenever, so the ids are kept.
--
-- KEYS (one hash tag)  1 gate   2 stock   3 received
-- ARGV  1 id of the move, 2 sku, 3 units, 4 number of the bucket that gave them, 5 its epoch then, 6 epoch of this
--   bucket then; the epochs are '' when the move's note is of a version that did not note them
-- Result: 1 when the bucket has the units now or had them before, 0 when it cannot take them now: it is not in place,
--   or has lost keys, or -1 when it never will, because one of the two buckets was rebuilt since
--
-- A bucket that is rebuilt forgets which moves it received, and what it gave is part of what it is filled with. So a
-- move is for the two epochs that it was made in (books.lua notes those of the giving buckets).

if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then return 1 end
local gate = redis.call('HMGET', KEYS[1], 'epoch', 'lost')
if not gate[1] then return 0 end
if ARGV[6] ~= '' then
  local since = tonumber(redis.call('HGET', KEYS[3], 'epoch|' .. ARGV[4]) or '0')
  if gate[1] ~= ARGV[6] or tonumber(ARGV[5]) < since then return -1 end
end
if gate[2] or redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
redis.call('HINCRBY', KEYS[2], ARGV[2], ARGV[3])
return 1
