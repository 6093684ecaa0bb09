-- Sets the state of a bucket's gate. Idempotent.
--
-- KEYS  1 gate
-- ARGV  1 epoch, 2 state: open | paused | ended
-- Result: 'set', 'missing' when there is no gate, or 'conflict' when it has another epoch

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return 'missing' end
if epoch ~= ARGV[1] then return 'conflict' end
redis.call('HSET', KEYS[1], 'state', ARGV[2])
return 'set'
