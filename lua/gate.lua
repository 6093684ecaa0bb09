-- Sets the state of a bucket's gate. It opens a gate that is `placing`, so the caller knows that all buckets are in
-- place. The script is idempotent and never goes backwards: of two nodes the one with the older version of the sale
-- changes nothing.
--
-- KEYS  1 gate
-- ARGV  1 epoch, 2 state: open | paused | ended, 3 version of the sale
-- Result: 'set', 'older' when the gate knows a newer version, 'missing' when there is no gate, or 'conflict'
--   when it has another epoch

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return 'missing' end
if epoch ~= ARGV[1] then return 'conflict' end
if tonumber(ARGV[3]) < tonumber(redis.call('HGET', KEYS[1], 'version') or '0') then return 'older' end
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'version', ARGV[3])
return 'set'
