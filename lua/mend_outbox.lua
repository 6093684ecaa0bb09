-- Names every order in the outbox that was not sent and that no entry names, and counts the orders in the entries anew.
-- The script is idempotent.
--
-- KEYS (one hash tag)  1 gate   2 orders   3 outbox   4 outbox_orders   5 set_aside
-- ARGV  1 the age, in ms, from which on an order should have been sent
-- Result: number of orders that are named now and were not
--
-- The relay delivers them like those of a front that died. An order that was sent after all, and whose mark was lost,
-- is written once, whoever sends it again. What was set aside waits for a person, and is not named again.

local gate, orders, outbox, outbox_orders, set_aside = unpack(KEYS)
local found = redis.call('HMGET', gate, 'epoch', 'lost')
if not found[1] or found[2] then return 0 end
local clock = redis.call('TIME')
local sent_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) - tonumber(ARGV[1])

local named = {}
-- Notes the orders that a stream names, and answers how many there are.
local function read(stream)
  local count = 0
  for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+')) do
    local fields = entry[2]
    for i = 1, #fields, 2 do
      if fields[i] == 'orders' then
        for at = 1, #fields[i + 1], 16 do
          named[string.sub(fields[i + 1], at, at + 15)] = true
          count = count + 1
        end
      end
    end
  end
  return count
end
local count = read(outbox)
read(set_aside)
local unnamed = {}
local holds = redis.call('HGETALL', orders)
for i = 1, #holds, 2 do
  local id, hold = holds[i], holds[i + 1]
  if string.sub(hold, 1, 2) == 'r|' and not named[id] then
    local reserved_ms = tonumber(string.match(hold, '^r|%x+|%d+|(%d+)|') or 'x')
    if reserved_ms and reserved_ms <= sent_ms then unnamed[#unnamed + 1] = id end
  end
end
for first = 1, #unnamed, 128 do
  local last = math.min(first + 127, #unnamed)
  redis.call('XADD', outbox, '*', 'epoch', found[1], 'orders', table.concat(unnamed, '', first, last))
end
if count + #unnamed ~= tonumber(redis.call('GET', outbox_orders) or '0') then
  redis.call('SET', outbox_orders, string.format('%d', count + #unnamed))
end
return #unnamed
