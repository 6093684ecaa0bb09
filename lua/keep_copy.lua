-- Keeps the copy of an order, if its caller may still make it: whoever changes the order takes that right away. Of a
-- set with too many copies another one goes.
--
-- KEYS  1 a set of copies, as in read_copy.lua
-- ARGV  1 order id, 2 the caller's number, 3 most copies of the set, 4 the copy
-- Result: 1 when it was kept, 0 when not

local known = redis.call('HGET', KEYS[1], ARGV[1])
if not known or string.match(known, '^(%d+)|') ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], '=' .. ARGV[4])
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[3]) then
  local some = redis.call('HRANDFIELD', KEYS[1], 2)
  redis.call('HDEL', KEYS[1], some[1] == ARGV[1] and some[2] or some[1])
end
return 1
