-- Closes a bucket whose books are wrong, so that it is rebuilt. The script is idempotent.
--
-- KEYS  1 gate
-- ARGV  1 the epoch in which the books were found wrong, 2 what is wrong
-- Result: 1, or 0 when the bucket has another epoch by now, or none

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
redis.call('HSETNX', KEYS[1], 'lost', ARGV[2])
return 1
