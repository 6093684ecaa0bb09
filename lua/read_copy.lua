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
-- Until a time that lies further ahead it was only when the clock was set back.
local function is_made(value)
  local until_ms = tonumber(string.match(value, '|(%d+)$') or 0)
  return until_ms > now_ms and until_ms <= now_ms + tonumber(ARGV[3])
end
if known and is_made(known) then
  return 0
end
local fields = redis.call('HGETALL', KEYS[1])
local makers = 0
for at = 1, #fields, 2 do
  if string.sub(fields[at + 1], 1, 1) ~= '=' then
    if is_made(fields[at + 1]) then
      makers = makers + 1
    else
      redis.call('HDEL', KEYS[1], fields[at])
    end
  end
end
if makers >= tonumber(ARGV[4]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%s|%.0f', ARGV[2], now_ms + ARGV[3]))
if redis.call('PTTL', KEYS[1]) < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end
return 1
