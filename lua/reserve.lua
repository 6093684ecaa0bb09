-- Reserves stock for up to 128 purchases of one (sale, bucket). Idempotent by order id.
--
-- KEYS (one hash tag)
--   1 gate    hash    epoch, state, opens_ms, closes_ms, buyer_limit, lease_ms
--   2 stock   hash    sku -> available units
--   3 buyers  hash    user -> live units
--   4 orders  hash    order id (16 bytes) -> state|fingerprint|quantity|reserved_ms|sku|user
--   5 outbox  stream  o = order id, r = order record
-- ARGV
--   1 epoch the caller believes in, then six per purchase:
--   order id, user, sku, quantity, fingerprint (16 hex digits), order record (JSON)
-- Result: one array per purchase, in order
--   {'reserved', outbox entry id}        {'replayed', value of orders}    {'key_reused'}
--   {'limit_reached', held}              {'sold_out', available, number of orders ever held}
--   {'not_started'} {'paused'} {'ended'} {'stale_epoch'} {'gate_shut'} {'unknown_sku'} {'invalid'}
--
-- An error does not roll back what a script wrote, so each purchase does all its checks before its first
-- write, and writes stock last: a hold without its stock taken is the harmless order of the two.

local gate, stock, buyers, orders, outbox = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local now_text = string.format('%.0f', now_ms)

-- The verdict that the gate gives to every new purchase of this call; nil when it is open.
local limit
local function gate_verdict()
  local g = redis.call('HMGET', gate, 'epoch', 'state', 'opens_ms', 'closes_ms', 'buyer_limit', 'lease_ms')
  if not g[1] then return 'gate_shut' end
  if g[1] ~= ARGV[1] then return 'stale_epoch' end
  limit = tonumber(g[5])
  local opens, closes, lease = tonumber(g[3]), tonumber(g[4]), tonumber(g[6])
  if not (limit and opens and closes and lease) then return 'gate_shut' end
  if g[2] == 'ended' or now_ms >= closes then return 'ended' end
  if g[2] == 'paused' then return 'paused' end
  if g[2] ~= 'open' then return 'gate_shut' end
  -- 0 means that no guard renews a lease for this gate.
  if lease > 0 and now_ms >= lease then return 'gate_shut' end
  if now_ms < opens then return 'not_started' end
  return nil
end
local shut = gate_verdict()

local function reserve(id, user, sku, quantity_text, fingerprint, record)
  local held_order = redis.call('HGET', orders, id)
  if held_order then
    if string.sub(held_order, 3, 18) == fingerprint then return {'replayed', held_order} end
    return {'key_reused'}
  end
  if shut then return {shut} end
  -- A negative quantity or 'nan' would add stock.
  if not string.match(quantity_text, '^[1-9][0-9]?$') or #id ~= 16 or #fingerprint ~= 16 then
    return {'invalid'}
  end
  local quantity = tonumber(quantity_text)
  local held = tonumber(redis.call('HGET', buyers, user) or '0')
  if held + quantity > limit then return {'limit_reached', held} end
  local available = tonumber(redis.call('HGET', stock, sku) or 'x')
  if not available then return {'unknown_sku'} end
  if available < quantity then return {'sold_out', available, redis.call('HLEN', orders)} end

  local entry = redis.call('XADD', outbox, '*', 'o', id, 'r', record)
  redis.call('HSET', orders, id,
    table.concat({'r', fingerprint, quantity_text, now_text, sku, user}, '|'))
  redis.call('HINCRBY', buyers, user, quantity)
  redis.call('HINCRBY', stock, sku, -quantity)
  return {'reserved', entry}
end

local answers = {}
for i = 2, #ARGV, 6 do
  answers[#answers + 1] = reserve(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
end
return answers
