-- Counts the units of a bucket, wherever they are. From then on the bucket takes no units that a bucket which is being
-- rebuilt gave before. The script is idempotent.
--
-- KEYS (one hash tag)  1 gate   2 stock   3 orders   4 moves   5 received
-- ARGV  per bucket that is being rebuilt: its number, its new epoch
-- Result: number of fields of `received`, then SKU, units, SKU, units, ...: for sale, under way to other buckets, and
--   in holds whose units have not gone back; or false when the bucket has no gate

local gate, stock, orders, moves, received = unpack(KEYS)
if redis.call('EXISTS', gate) == 0 then return false end
for i = 1, #ARGV, 2 do redis.call('HSET', received, 'epoch|' .. ARGV[i], ARGV[i + 1]) end
local units = {}
local function add(sku, more) units[sku] = (units[sku] or 0) + tonumber(more) end
local found = redis.call('HGETALL', stock)
for i = 1, #found, 2 do add(found[i], found[i + 1]) end
for _, move in ipairs(redis.call('HVALS', moves)) do
  local sku, more = string.match(move, '^[^|]*|([^|]*)|(%d+)|')
  if sku then add(sku, more) end
end
for _, hold in ipairs(redis.call('HVALS', orders)) do
  -- A hold that is settled has its state in upper case.
  local more, sku = string.match(hold, '^%l|%x+|(%d+)|%d+|([^|]+)|')
  if sku then add(sku, more) end
end
local answer = {tostring(redis.call('HLEN', received))}
for sku, sum in pairs(units) do
  answer[#answer + 1], answer[#answer + 2] = sku, string.format('%d', sum)
end
return answer
