-- Fills fields into a hash of a bucket that is being rebuilt. The script is idempotent.
--
-- KEYS (one hash tag)  1 rebuild   2 hash
-- ARGV  1 the bucket's new epoch, then fields and values
-- Result: 1, or 0 when the bucket is not being rebuilt for this epoch any more

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], unpack(ARGV, 2))
return 1
