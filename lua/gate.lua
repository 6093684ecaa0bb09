-- Sets the state of a bucket's gate. The script is idempotent and never goes backwards: of two nodes the one with the
-- older version of the sale changes nothing. The gate keeps its epoch, whatever it is.
--
-- KEYS  1 gate
-- ARGV  1 state: open | paused | ended, 2 version of the sale, 3 what preheat.lua answered, or ''
-- Result: 'set', 'older' when the gate knows a newer version, 'missing' when there is no gate, or 'placing' when the
--   bucket was put in place by somebody else
--
-- A gate that is `placing` is only ended, or opened by who has put the bucket in place and knows that all buckets are.
-- A process that was frozen may put a bucket in place once more after it was sold from and lost: nobody opens it then.

local found = redis.call('HMGET', KEYS[1], 'epoch', 'version', 'state', 'placed')
if not found[1] then return 'missing' end
if tonumber(ARGV[2]) < tonumber(found[2] or '0') then return 'older' end
if found[3] == 'placing' and ARGV[1] ~= 'ended' and found[4] ~= ARGV[3] then
  -- Who has put it in place must not open it for an older version of the sale.
  redis.call('HSET', KEYS[1], 'version', ARGV[2])
  return 'placing'
end
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'version', ARGV[2])
return 'set'
