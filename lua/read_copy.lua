-- Reads the copy of an order, or lets one caller make it. Who makes it takes no other copy's place before it is there.
--
-- KEYS  1 a set of copies (order id -> = and the copy, or the number of who makes it, |, and until when, in ms since
--       1970)
-- ARGV  1 order id, 2 the caller's number, 3 ms that the caller has to make the copy, 4 most copies of the set,
--       5 ms that a set lives
-- Result: the copy with its =; else 1 when the caller makes it, and 0 when not: another one does, or too many do

local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and string.sub(known, 1, 1) == '=' then
  return known
end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local until_ms = known and tonumber(string.match(known, '|(%d+)$')) or 0
-- Until a time that lies further ahead it was only when the clock was set back.
if until_ms > now_ms and until_ms <= now_ms + tonumber(ARGV[3]) then
  return 0
end
local orders = redis.call('HLEN', KEYS[1])
if not known and orders >= 2 * tonumber(ARGV[4]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%s|%.0f', ARGV[2], now_ms + ARGV[3]))
if orders == 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end
return 1
