-- Counts what a bucket has beside its holds, which the same transaction reads. From then on the bucket takes no units
-- that a bucket which is being rebuilt gave before. The script is idempotent.
--
-- KEYS (one hash tag)  1 gate   2 stock   3 orders   4 moves   5 received   6 outbox   7 outbox_orders   8 buyers
-- ARGV  per bucket that is being rebuilt: its number, its new epoch
-- Result: epoch, number of fields of `received`, the time in ms, number of orders in all outbox entries, the number
--   that `outbox_orders` says, then SKU, units, SKU, units, ...: for sale, and under way to other buckets; or false
--   when the bucket has no gate, has lost keys, or was put in place on another run of the server

local gate, stock, orders, moves, received, outbox, outbox_orders, buyers = unpack(KEYS)
local found = redis.call('HMGET', gate, 'epoch', 'lost', 'sold', 'run_id')
if not found[1] or found[2] then return false end
local needed = found[3] and {stock, buyers, orders, outbox, outbox_orders} or {stock}
if redis.call('EXISTS', unpack(needed)) < #needed then return false end
if found[4] and not string.find(redis.call('INFO', 'server'), found[4], 1, true) then return false end
for i = 1, #ARGV, 2 do redis.call('HSET', received, 'epoch|' .. ARGV[i], ARGV[i + 1]) end

local units = {}
local function add(sku, more) units[sku] = (units[sku] or 0) + tonumber(more) end
local in_stock = redis.call('HGETALL', stock)
for i = 1, #in_stock, 2 do add(in_stock[i], in_stock[i + 1]) end
for _, move in ipairs(redis.call('HVALS', moves)) do
  local sku, more = string.match(move, '^[^|]*|([^|]*)|(%d+)|')
  if sku then add(sku, more) end
end
local named = 0
for _, entry in ipairs(redis.call('XRANGE', outbox, '-', '+')) do
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == 'orders' then named = named + math.floor(#fields[i + 1] / 16) end
  end
end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local answer = {found[1], redis.call('HLEN', received), now_ms, named, redis.call('GET', outbox_orders) or '0'}
for i = 2, 4 do answer[i] = string.format('%d', answer[i]) end
for sku, sum in pairs(units) do
  answer[#answer + 1], answer[#answer + 2] = sku, string.format('%d', sum)
end
return answer
