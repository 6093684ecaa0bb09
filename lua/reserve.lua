-- Reserves stock for up to 128 purchases of one (sale, bucket). The script is idempotent by order id.
--
-- KEYS (one hash tag)
--   1 gate    hash    epoch, state, opens_ms, closes_ms, buyer_limit, lease_ms, unpaid_max; sold: an order was ever
--                     held; given_up: one was left unpaid; lost: keys that were found missing; run_id: the run of
--                     the server on which the bucket was put in place
--   2 stock   hash    sku -> available units
--   3 buyers  hash    user -> live units
--   4 orders  hash    order id (16 bytes) -> state|fingerprint|quantity|reserved_ms|sku|user
--   5 outbox  stream  one entry per call: epoch, and the ids of all orders that it accepted, 16 bytes each
--   6 outbox_orders    number of orders in all outbox entries
--   7 unpaid  hash    user -> orders that expired or were given up
--   8 references hash order id -> the shop's own name for the order, of those that have one
-- ARGV, in columns, of n purchases
--   n order ids, n users, n times what is asked for: fingerprint (16 hex digits)|quantity|sku, and |reference if
--   there is one
-- Result: 'entry id|time in ms|epoch' of the outbox entry, or false when nothing was accepted; then per purchase, in
-- order, a word or an array
--   'reserved'      {'replayed', value of orders}      'key_reused'
--   {'limit_reached', held}      {'too_many_unpaid', how many}      {'sold_out', available, number of orders ever held}
--   'not_started' 'paused' 'ended' 'gate_shut' 'keys_lost' 'unknown_sku' 'invalid'
--
-- The script has three passes: it reads, decides and writes. An error does not roll back what a script wrote, so no
-- read and no check follows the first write. The outbox entry is written before its orders, and the stock last, because
-- a hold whose stock is not taken yet does less harm than taken stock without a hold.
--
-- A bucket whose keys are not all there closes itself for good: whoever removed `orders` or `buyers`, its winners would
-- buy again. Redis keeps no empty hash, so before the first order only `stock` has to be there. So does a bucket that
-- was put in place on another run of the server: what it has may be older than what it has sold (renew.lua).
--
-- Reads and writes of all purchases share one command each, and all purchases share one outbox entry. What a purchase
-- asks for is packed, and it is parsed once for all that ask for the same. No order record is written. Each of these
-- was measured (docs/benchmarks.md).

local gate, stock, buyers, orders, outbox, outbox_orders, unpaid, references = unpack(KEYS)

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Answers the names of the keys that have to be there and are not, or nil.
local function missing_keys(sold)
  local needed = sold and {stock, buyers, orders, outbox, outbox_orders} or {stock}
  if redis.call('EXISTS', unpack(needed)) == #needed then return nil end
  local missing = {}
  for _, key in ipairs(needed) do
    if redis.call('EXISTS', key) == 0 then missing[#missing + 1] = string.match(key, '[^:]*$') end
  end
  return table.concat(missing, ',')
end

-- Answers the verdict that the gate gives to every new purchase of this call, or nil when the gate is open.
local epoch, limit, sold, lost, unpaid_max
local function gate_verdict()
  local g = redis.call('HMGET', gate, 'epoch', 'state', 'opens_ms', 'closes_ms', 'buyer_limit', 'lease_ms',
    'sold', 'lost', 'given_up', 'unpaid_max', 'run_id')
  if not g[1] then return 'gate_shut' end
  epoch = g[1]
  limit = tonumber(g[5])
  local opens, closes, lease = tonumber(g[3]), tonumber(g[4]), tonumber(g[6])
  if not (limit and opens and closes and lease) then return 'gate_shut' end
  if g[2] == 'ended' or now_ms >= closes then return 'ended' end
  if g[2] == 'paused' then return 'paused' end
  if g[2] ~= 'open' then return 'gate_shut' end
  -- 0 means that no guard renews a lease for this gate.
  if lease > 0 and now_ms >= lease then return 'gate_shut' end
  if now_ms < opens then return 'not_started' end
  if g[8] then return 'keys_lost' end
  sold = g[7]
  -- Gates that were put in place before there was a limit have none.
  unpaid_max = g[9] and tonumber(g[10] or 0) or 0
  lost = missing_keys(sold)
  -- Gates that were put in place before there was a lease name no run until it is prolonged.
  if g[11] and not string.find(redis.call('INFO', 'server'), g[11], 1, true) then lost = 'run_id' end
  return lost and 'keys_lost' or nil
end
local shut = gate_verdict()

-- These are the columns of ARGV: purchase i has its user at USERS + i, and so on.
local count = math.floor(#ARGV / 3)
if count == 0 then return {false} end
local IDS, USERS, ASKED = 0, count, 2 * count

-- The first pass reads.
local known = redis.call('HMGET', orders, unpack(ARGV, IDS + 1, IDS + count))
local held, seen, left_unpaid
if not shut then
  held = redis.call('HMGET', buyers, unpack(ARGV, USERS + 1, USERS + count))
  seen = redis.call('HLEN', orders)
  if unpaid_max > 0 then left_unpaid = redis.call('HMGET', unpaid, unpack(ARGV, USERS + 1, USERS + count)) end
end

-- `asked` maps what is asked for to its units, its SKU and what its hold begins with, or to false when it is malformed.
-- A negative quantity or 'nan' would add stock.
local available, asked = {}, {}
for i = ASKED + 1, ASKED + count do
  local text = ARGV[i]
  if not shut and asked[text] == nil then
    local fingerprint, quantity, sku, reference = string.match(text, '^(%x+)|([1-9][0-9]?)|([^|]+)|?(.*)$')
    if fingerprint and #fingerprint == 16 then
      local hold = string.format('r|%s|%s|%.0f|%s|', fingerprint, quantity, now_ms, sku)
      asked[text] = {units = tonumber(quantity), sku = sku, hold = hold, reference = reference}
      if not available[sku] then available[sku] = tonumber(redis.call('HGET', stock, sku) or 'x') end
    else
      asked[text] = false
    end
  end
end

-- The second pass decides. A purchase sees what the ones before it took in `made`, `live`, `available` and `seen`.
local made, live = {}, {}
local accepted, new_holds, new_live, new_references, units_of = {}, {}, {}, {}, {}
local function decide(i)
  local id, user = ARGV[IDS + i], ARGV[USERS + i]
  local order = made[id] or known[i]
  if order then
    if string.sub(order, 3, 19) ~= string.sub(ARGV[ASKED + i], 1, 17) then return 'key_reused' end
    return {'replayed', order}
  end
  if shut then return shut end
  local wish = asked[ARGV[ASKED + i]]
  if not wish or #id ~= 16 then return 'invalid' end
  local units, sku = wish.units, wish.sku
  local given_up = left_unpaid and tonumber(left_unpaid[i] or 0) or 0
  if left_unpaid and given_up >= unpaid_max then return {'too_many_unpaid', given_up} end
  local before = live[user] or tonumber(held[i] or 0)
  if before + units > limit then return {'limit_reached', before} end
  local left = available[sku]
  if not left then return 'unknown_sku' end
  if left < units then return {'sold_out', left, seen} end
  made[id], live[user] = wish.hold .. user, before + units
  available[sku], seen = left - units, seen + 1
  units_of[sku] = (units_of[sku] or 0) + units
  accepted[#accepted + 1] = id
  local n = #new_holds
  new_holds[n + 1], new_holds[n + 2] = id, made[id]
  if wish.reference ~= '' then
    local n = #new_references
    new_references[n + 1], new_references[n + 2] = id, wish.reference
  end
  -- A buyer who comes twice is written twice, with the sum last.
  new_live[n + 1], new_live[n + 2] = user, string.format('%d', live[user])
  return 'reserved'
end

local answers = {false}
for i = 1, count do answers[i + 1] = decide(i) end
if lost then redis.call('HSET', gate, 'lost', lost) end
if #accepted == 0 then return answers end

-- The third pass writes. The count comes first: one that is too high refuses purchases early, and one that is too low
-- refuses them late.
redis.call('INCRBY', outbox_orders, #accepted)
answers[1] = redis.call('XADD', outbox, '*', 'epoch', epoch, 'orders', table.concat(accepted))
  .. string.format('|%.0f|%s', now_ms, epoch)
if #new_references > 0 then redis.call('HSET', references, unpack(new_references)) end
redis.call('HSET', orders, unpack(new_holds))
redis.call('HSET', buyers, unpack(new_live))
for sku, units in pairs(units_of) do redis.call('HINCRBY', stock, sku, -units) end
if not sold then redis.call('HSET', gate, 'sold', '1') end
return answers
