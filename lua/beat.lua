-- Notes what a process tells of itself. The script is idempotent.
--
-- KEYS  1 nodes (a hash: id of the process → when it told, in ms since 1970, | and what it told)
-- ARGV  1 id of the process, 2 what it tells, as JSON, 3 after how many ms without any process all of it goes
-- Result: 1

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f|%s', now_ms, ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
