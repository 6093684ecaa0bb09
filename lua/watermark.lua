-- Keeps the highest watermark that was seen of each MySQL instance. The script is idempotent.
--
-- KEYS  1 watermarks (a hash: number of the instance → its watermark)
-- ARGV  the watermark that the caller has seen of each instance, beginning with that of instance 0
-- Result: the highest watermark of each, in the same order

local highest = {}
for i = 1, #ARGV do
  local kept = tonumber(redis.call('HGET', KEYS[1], i - 1) or '0')
  local seen = tonumber(ARGV[i])
  if seen > kept then redis.call('HSET', KEYS[1], i - 1, ARGV[i]) end
  highest[i] = math.max(kept, seen)
end
return highest
