-- Removes what is left of a bucket that is to be rebuilt, and notes for which epoch. The script is idempotent.
--
-- KEYS (one hash tag)  1 gate   2 rebuild, then all other keys of the bucket
-- ARGV  1 the bucket's new epoch
-- Result: 1, or 0 when a rebuild for a newer epoch has begun, or the bucket has this epoch or a newer one
--
-- Without its gate a bucket reserves and releases nothing. What the databases owe it waits until it is open again.

local epoch = tonumber(ARGV[1])
if (tonumber(redis.call('GET', KEYS[2])) or 0) > epoch then return 0 end
if (tonumber(redis.call('HGET', KEYS[1], 'epoch')) or 0) >= epoch then return 0 end
redis.call('SET', KEYS[2], ARGV[1])
redis.call('UNLINK', KEYS[1], unpack(KEYS, 3))
return 1
