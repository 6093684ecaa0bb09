-- Puts the units of orders that hold nothing any more back on sale. The script is idempotent: a hold whose units went
-- back has its state letter in upper case.
--
-- KEYS (one hash tag)  1 gate   2 stock   3 buyers   4 orders
-- ARGV  per order: order id, state letter that MySQL says (c cancelled, e expired, x rejected)
-- Result: 'gate_shut' when there is no gate, 'keys_lost' when keys of the bucket are missing, or an array with a number
--   per order: 1 its units went back now, 0 they went back before or the order is not here, -1 the hold says that its
--   buyer has them
--
-- A mark may have been lost, and then the units are still the buyer's here. They leave the buyer with the state, as in
-- mark_decided.lua, so they leave once. The stock comes last, because a hold whose units did not come back does less
-- harm than units that come back twice.

local gate, stock, buyers, orders = unpack(KEYS)
local REACHES = {r = 'cex', q = 'cex', a = 'ce', c = 'c', e = 'e', x = 'x'}

local found = redis.call('HMGET', gate, 'epoch', 'lost')
if not found[1] then return 'gate_shut' end
if found[2] or redis.call('EXISTS', stock, buyers, orders) < 3 then return 'keys_lost' end

local function release(id, state)
  local hold = redis.call('HGET', orders, id)
  if not hold then return 0 end
  local before = string.sub(hold, 1, 1)
  if string.upper(before) == before then return 0 end
  if not string.find(REACHES[before] or '', state, 1, true) then return -1 end
  local quantity, sku, user = string.match(hold, '^%a|%x+|(%d+)|%d+|([^|]+)|(.*)$')
  if not quantity then return -1 end
  redis.call('HSET', orders, id, string.upper(state) .. string.sub(hold, 2))
  local held = before ~= state and tonumber(redis.call('HGET', buyers, user) or 'x')
  if held then redis.call('HSET', buyers, user, string.format('%d', math.max(held - tonumber(quantity), 0))) end
  redis.call('HINCRBY', stock, sku, quantity)
  return 1
end

local answers = {}
for i = 1, #ARGV, 2 do answers[#answers + 1] = release(ARGV[i], ARGV[i + 1]) end
return answers
