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
-- Three passes: read, decide, write. An error does not roll back what a script wrote, so no read and no check
-- follows the first write; and stock is written last: a hold without its stock taken is the harmless order of the
-- two. What the purchases of one call do to each other happens in the tables `known`, `held` and `available`. One
-- command for all of them and not one each: measured, docs/benchmarks.md.

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

local FIELDS = 6
local last = #ARGV - FIELDS + 1
if last < 2 then return {} end

-- Read. By order id, user and SKU; false for what is not there.
local known, held, available = {}, {}, {}
local function read_all(key, field, into)
  local names = {}
  for at = 2, last, FIELDS do
    local name = ARGV[at + field]
    if into[name] == nil then
      into[name] = false
      names[#names + 1] = name
    end
  end
  local values = redis.call('HMGET', key, unpack(names))
  for i = 1, #names do into[names[i]] = values[i] end
end
local seen = 0
read_all(orders, 0, known)
if not shut then
  read_all(buyers, 1, held)
  read_all(stock, 2, available)
  seen = redis.call('HLEN', orders)
end

-- Decide. `taken` lists where the purchases stand that are to be written.
local taken = {}
local function decide(at)
  local id, user, sku, quantity_text, fingerprint =
    ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local order = known[id]
  if order then
    if string.sub(order, 3, 18) ~= fingerprint then return {'key_reused'} end
    return {'replayed', order}
  end
  if shut then return {shut} end
  -- A negative quantity or 'nan' would add stock.
  if not string.match(quantity_text, '^[1-9][0-9]?$') or #id ~= 16 or #fingerprint ~= 16 then
    return {'invalid'}
  end
  local quantity = tonumber(quantity_text)
  local units = tonumber(held[user] or '0')
  if units + quantity > limit then return {'limit_reached', units} end
  local left = tonumber(available[sku] or 'x')
  if not left then return {'unknown_sku'} end
  if left < quantity then return {'sold_out', left, seen} end
  known[id] = 'r|' .. fingerprint .. '|' .. quantity_text .. '|' .. now_text .. '|' .. sku .. '|' .. user
  held[user], available[sku], seen = units + quantity, left - quantity, seen + 1
  taken[#taken + 1] = at
  return {'reserved'}
end

local answers = {}
for at = 2, last, FIELDS do answers[#answers + 1] = decide(at) end
if #taken == 0 then return answers end

-- Write.
local new_orders, new_held, units_of = {}, {}, {}
for i, at in ipairs(taken) do
  local id, user, sku = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  answers[(at - 2) / FIELDS + 1][2] = redis.call('XADD', outbox, '*', 'o', id, 'r', ARGV[at + 5])
  -- A buyer who is here twice is written twice, with the same sum.
  new_orders[2 * i - 1], new_orders[2 * i] = id, known[id]
  new_held[2 * i - 1], new_held[2 * i] = user, held[user]
  units_of[sku] = (units_of[sku] or 0) + tonumber(ARGV[at + 3])
end
redis.call('HSET', orders, unpack(new_orders))
redis.call('HSET', buyers, unpack(new_held))
for sku, units in pairs(units_of) do redis.call('HINCRBY', stock, sku, -units) end
return answers
