-- Keeps the copy of an order, if its caller may still make it: whoever changes the order takes that right away, and so
-- does time. Of a set with too many copies others go.
--
-- KEYS  1 a set of copies, as in read_copy.lua
-- ARGV  1 order id, 2 the caller's number, 3 most copies of the set, 4 the copy
-- Result: 1 when it was kept, 0 when not

local known = redis.call('HGET', KEYS[1], ARGV[1])
local number, until_ms = string.match(known or '', '^(%d+)|(%d+)$')
local clock = redis.call('TIME')
if number ~= ARGV[2] or tonumber(until_ms) < clock[1] * 1000 + math.floor(clock[2] / 1000) then
  return 0
end
local fields = redis.call('HGETALL', KEYS[1])
local others = {}
for at = 1, #fields, 2 do
  if string.sub(fields[at + 1], 1, 1) == '=' then
    others[#others + 1] = fields[at]
  end
end
for at = 1, #others + 1 - tonumber(ARGV[3]) do
  redis.call('HDEL', KEYS[1], others[at])
end
redis.call('HSET', KEYS[1], ARGV[1], '=' .. ARGV[4])
return 1
