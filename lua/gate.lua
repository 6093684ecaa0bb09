-- Sets the state of a bucket's gate. It opens a gate that is `placing`, so the caller knows that all buckets are in
-- place. The script is idempotent and never goes backwards: of two nodes the one with the older version of the sale
-- changes nothing. The gate keeps its epoch, whatever it is.
--
-- KEYS  1 gate
-- ARGV  1 state: open | paused | ended, 2 version of the sale
-- Result: 'set', 'older' when the gate knows a newer version, or 'missing' when there is no gate

local found = redis.call('HMGET', KEYS[1], 'epoch', 'version')
if not found[1] then return 'missing' end
if tonumber(ARGV[2]) < tonumber(found[2] or '0') then return 'older' end
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'version', ARGV[2])
return 'set'
