-- Sets outbox entries aside that cannot be delivered, so that those behind them can. The script is idempotent: an entry
-- that is gone is passed over.
--
-- KEYS (one hash tag)  1 outbox   2 entries set aside   3 outbox_orders
-- ARGV  ids of entries
-- Result: number of entries set aside
--
-- Nothing of an entry is lost: its copy has all of its fields, and its old id in `entry`.

local set_aside = 0
for _, id in ipairs(ARGV) do
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if entry then
    local fields, orders = entry[2], 0
    for i = 1, #fields, 2 do
      if fields[i] == 'orders' then orders = math.floor(#fields[i + 1] / 16) end
    end
    redis.call('XADD', KEYS[2], '*', 'entry', id, unpack(fields))
    redis.call('XDEL', KEYS[1], id)
    -- An entry by another hand may never have been counted.
    orders = math.min(orders, tonumber(redis.call('GET', KEYS[3]) or 0))
    if orders > 0 then redis.call('DECRBY', KEYS[3], orders) end
    set_aside = set_aside + 1
  end
end
return set_aside
