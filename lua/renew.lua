-- Prolongs the lease of a bucket: until it is over, the bucket sells. The script is idempotent. Also a clock that was
-- set back is followed, because all times are the server's own.
--
-- KEYS  1 gate
-- ARGV  1 length of the lease in ms
-- Result: 'renewed', 'missing' when there is no gate, or 'other_run' when the bucket was put in place on another run of
--   the server: what it has may be older than what it has sold. It is lost then, and sells nothing
--
-- A server gives itself another `run_id` with every start, and a replica has one of its own. A gate that was put in
-- place before there were leases takes that of the run on which it is found.

local gate = redis.call('HMGET', KEYS[1], 'epoch', 'run_id')
if not gate[1] then return 'missing' end
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if not gate[2] then redis.call('HSET', KEYS[1], 'run_id', run_id) end
if gate[2] and gate[2] ~= run_id then
  redis.call('HSETNX', KEYS[1], 'lost', 'run_id')
  return 'other_run'
end
local clock = redis.call('TIME')
local until_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(ARGV[1])
redis.call('HSET', KEYS[1], 'lease_ms', string.format('%.0f', until_ms))
return 'renewed'
