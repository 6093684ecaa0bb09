-- Does what the other scripts do, on keys of its own, to show that this user may do it and that the server writes. The
-- script is idempotent.
--
-- KEYS (one hash tag)  1 a hash   2 a number   3 a stream
-- ARGV  none
-- Result: 'ok'

redis.call('HSET', KEYS[1], 'field', '1')
redis.call('HMGET', KEYS[1], 'field')
redis.call('HGETALL', KEYS[1])
redis.call('HLEN', KEYS[1])
redis.call('HINCRBY', KEYS[1], 'number', 1)
redis.call('INCRBY', KEYS[2], 1)
redis.call('DECRBY', KEYS[2], 1)
redis.call('XADD', KEYS[3], 'MAXLEN', 1, '*', 'field', '1')
redis.call('XRANGE', KEYS[3], '-', '+')
redis.call('XDEL', KEYS[3], '0-1')
redis.call('EXISTS', KEYS[1], KEYS[2])
redis.call('TIME')
redis.call('INFO', 'server')
redis.call('SET', KEYS[2], '1')
redis.call('GET', KEYS[2])
redis.call('UNLINK', KEYS[2])
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return 'ok'
