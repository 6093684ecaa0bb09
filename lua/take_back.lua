-- Takes units back that the bucket for which they were meant will never take. The script is idempotent by the move's
-- id: a move that is not noted any more changes nothing.
--
-- KEYS (one hash tag)  1 stock   2 moves
-- ARGV  1 id of the move
-- Result: number of units that are for sale here again

local sku, units = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^[^|]*|([^|]*)|(%d+)|')
if not sku then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HINCRBY', KEYS[1], sku, units)
return tonumber(units)
