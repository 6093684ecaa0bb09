-- Marks what MySQL decided, so that polling is cheap. The script is idempotent and best effort: MySQL stays the truth.
--
-- KEYS  1 orders
-- ARGV  per order: order id, state letter (a awaiting_payment, p paid, c cancelled, e expired, x rejected)
-- Result: number of orders marked
--
-- An order that is not there is passed over. Only a pending order is marked, because a late mark must not hide a newer
-- state.

local marked = 0
for i = 1, #ARGV, 2 do
  local value = redis.call('HGET', KEYS[1], ARGV[i])
  local state = value and string.sub(value, 1, 1)
  if state == 'r' or state == 'q' then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. string.sub(value, 2))
    marked = marked + 1
  end
end
return marked
