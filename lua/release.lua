-- Settles orders that hold nothing any more: their units leave their buyers and go back on sale. The script is
-- idempotent: a hold that is settled has its state letter in upper case.
--
-- KEYS (one hash tag)  1 gate   2 stock   3 buyers   4 orders   5 unpaid
-- ARGV  per order: order id, state letter that MySQL says (c cancelled, e expired, f refunded, x rejected), the units
--       that its buyer holds in MySQL, and 1 when its units go back on sale, or 0 when they are gone
-- Result: 'gate_shut' when there is no gate, 'keys_lost' when keys of the bucket are missing, or an array with a number
--   per order: 1 it is settled now, 0 it was settled before or is not here, -1 the hold says that its buyer has the
--   units, or is damaged
--
-- A mark may have been lost, and then the units are still the buyer's here. They leave the buyer with the state, as in
-- mark_decided.lua, so they leave once. The stock comes last, because a hold whose units did not come back does less
-- harm than units that come back twice.

local gate, stock, buyers, orders, unpaid = unpack(KEYS)
local REACHES = {r = 'cefx', q = 'cefx', a = 'cef', p = 'f', c = 'c', e = 'e', f = 'f', x = 'x'}

local found = redis.call('HMGET', gate, 'epoch', 'lost', 'sold')
if not found[1] then return 'gate_shut' end
-- A bucket that has sold nothing has no buyers and no orders yet.
local needed = found[3] and {stock, buyers, orders} or {stock}
if found[2] or redis.call('EXISTS', unpack(needed)) < #needed then return 'keys_lost' end

local function release(id, state, keeps, restock)
  local hold = redis.call('HGET', orders, id)
  if not hold then return 0 end
  local before = string.sub(hold, 1, 1)
  if before == 'C' or before == 'E' or before == 'F' or before == 'X' then return 0 end
  if not string.find(REACHES[before] or '', state, 1, true) then return -1 end
  local quantity, sku, user = string.match(hold, '^%a|%x+|(%d+)|%d+|([^|]+)|(.*)$')
  if not quantity then return -1 end
  redis.call('HSET', orders, id, string.upper(state) .. string.sub(hold, 2))
  if before ~= state and (state == 'c' or state == 'e') then
    redis.call('HINCRBY', unpaid, user, 1)
    redis.call('HSET', gate, 'given_up', '1')
  end
  local held = before ~= state and tonumber(redis.call('HGET', buyers, user) or 'x')
  if held then
    local left = math.max(held - tonumber(quantity), math.min(held, keeps))
    redis.call('HSET', buyers, user, string.format('%d', left))
  end
  if restock then redis.call('HINCRBY', stock, sku, quantity) end
  return 1
end

local answers = {}
for i = 1, #ARGV, 4 do
  answers[#answers + 1] = release(ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]) or 0, ARGV[i + 3] == '1')
end
return answers
