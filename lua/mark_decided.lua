-- Marks what MySQL decided, so that polling is cheap and a buyer whose order holds nothing may buy again. The script is
-- idempotent and best effort: MySQL stays the truth.
--
-- KEYS  1 orders   2 buyers   3 gate   4 unpaid
-- ARGV  per order: order id, state letter (a awaiting_payment, p paid, c cancelled, e expired, f refunded, x
--       rejected), and the units that its buyer holds in MySQL when the order holds none, else ''
-- Result: number of orders marked
--
-- An order that is not there is passed over. A mark only moves a hold along the arrows of an order's life, because a
-- late mark must not hide a newer state. The units of an order that holds none are taken off its buyer with the mark,
-- and those that the buyer holds in MySQL stay. Orders that were left unpaid are counted, once each. A buyer without
-- units keeps a field of 0: Redis keeps no empty hash, and a missing one counts as lost.

local REACHES = {r = 'apcefx', q = 'apcefx', a = 'pcef', p = 'f'}

local marked, given_up = 0, false
for i = 1, #ARGV, 3 do
  local id, state, keeps = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]) or 0
  local hold = redis.call('HGET', KEYS[1], id)
  local reaches = hold and REACHES[string.sub(hold, 1, 1)]
  if reaches and string.find(reaches, state, 1, true) then
    redis.call('HSET', KEYS[1], id, state .. string.sub(hold, 2))
    local quantity, user = string.match(hold, '^%a|%x+|(%d+)|%d+|[^|]+|(.*)$')
    if user and (state == 'c' or state == 'e') then
      redis.call('HINCRBY', KEYS[4], user, 1)
      given_up = true
    end
    local holds_none = state == 'c' or state == 'e' or state == 'f' or state == 'x'
    local held = holds_none and user and tonumber(redis.call('HGET', KEYS[2], user) or 'x')
    if held then
      local left = math.max(held - tonumber(quantity), math.min(held, keeps))
      redis.call('HSET', KEYS[2], user, string.format('%d', left))
    end
    marked = marked + 1
  end
end
if given_up and redis.call('EXISTS', KEYS[3]) == 1 then redis.call('HSET', KEYS[3], 'given_up', '1') end
return marked
