-- Marks what MySQL decided, so that polling is cheap and a rejected buyer may buy again. The script is idempotent and
-- best effort: MySQL stays the truth.
--
-- KEYS  1 orders   2 buyers
-- ARGV  per order: order id, state letter (a awaiting_payment, p paid, c cancelled, e expired, x rejected), and of a
--       rejected one the units that its buyer holds in MySQL, else ''. Its own are taken off the buyer, and these stay.
-- Result: number of orders marked
--
-- An order that is not there is passed over. Only a pending order is marked, because a late mark must not hide a newer
-- state. A buyer without units keeps a field of 0: Redis keeps no empty hash, and a missing one counts as lost.

local marked = 0
for i = 1, #ARGV, 3 do
  local value = redis.call('HGET', KEYS[1], ARGV[i])
  local state = value and string.sub(value, 1, 1)
  if state == 'r' or state == 'q' then
    local quantity, user = string.match(value, '^%a|%x+|(%d+)|%d+|[^|]+|(.*)$')
    local keeps = tonumber(ARGV[i + 2])
    local held = keeps and user and tonumber(redis.call('HGET', KEYS[2], user) or 'x')
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. string.sub(value, 2))
    if held then
      local left = math.max(held - tonumber(quantity), math.min(held, keeps))
      redis.call('HSET', KEYS[2], user, string.format('%d', left))
    end
    marked = marked + 1
  end
end
return marked
