-- Gives tokens of buckets that all processes share to one process, which lets requests pass with them. A bucket is full
-- when nobody knows it. Source: GCRA, ATM Forum Traffic Management 4.1, §4.4.2.
--
-- KEYS  one for each bucket (when it is full again, in µs since 1970, | and how many tokens it has given)
-- ARGV  for each bucket: 1 tokens that come in a second, 2 tokens that it holds, 3 tokens that are wished for
-- Result: for each bucket: tokens given, µs until there is another one, how many it has given to all since it was
--         forgotten last, and how many are left

local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local result = {}
for number, key in ipairs(KEYS) do
  local each_us = 1000000 / ARGV[number * 3 - 2]
  local room_us = each_us * ARGV[number * 3 - 1]
  local wished = tonumber(ARGV[number * 3])
  local full_us, given = string.match(redis.call('GET', key) or '', '^(%d+%.%d+)|(%d+)$')
  -- It is full later than this only when the clock was set back. Then it is as good as empty.
  local ahead_us = math.min(math.max(tonumber(full_us or 0) - now_us, 0), room_us)
  -- A time of this size is exact to a quarter of a µs, which must not cost a token.
  local tokens = math.min(wished, math.floor((room_us - ahead_us + 0.5) / each_us))
  ahead_us = math.min(ahead_us + tokens * each_us, room_us)
  given = tonumber(given or 0) + tokens
  local keep_ms = math.ceil(ahead_us / 1000) + 60000
  redis.call('SET', key, string.format('%.2f|%.0f', now_us + ahead_us, given), 'PX', keep_ms)
  local wait_us = math.max(0, math.ceil(ahead_us + each_us - room_us - 0.5))
  local left = math.floor((room_us - ahead_us + 0.5) / each_us)
  result[#result + 1] = { tokens, wait_us, given, left }
end
return result
