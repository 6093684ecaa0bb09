-- Closes a bucket that is to be rebuilt. The script is idempotent.
--
-- KEYS  1 gate
-- ARGV  1 the newest epoch in which it is closed, 2 why
-- Result: 1, or 0 when the bucket has a newer epoch by now, or none

local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 'x')
if not epoch or epoch > tonumber(ARGV[1]) then return 0 end
redis.call('HSETNX', KEYS[1], 'lost', ARGV[2])
return 1
