-- Marks orders queued whose records the order log has acknowledged. Then it removes those of the given outbox entries
-- in which no order waits any more. The script is idempotent: an entry that is gone is passed over, and an order that
-- is further than reserved keeps its state. A count that is lost stays lost: made anew it would hide the loss.
--
-- KEYS (one hash tag)  1 outbox   2 orders   3 outbox_orders
-- ARGV  1 number of orders, then their ids, then ids of entries whose orders the caller saw acknowledged, all of them
-- Result: number of entries removed
--
-- An entry names the orders of a whole reserve call. It is removed only when none of them is merely reserved, whatever
-- the caller saw. If the front of such an order dies, the entry is all that brings the order into the log.

local outbox, orders, outbox_orders = KEYS[1], KEYS[2], KEYS[3]
local count = tonumber(ARGV[1])

local function holds_of(ids) return redis.call('HMGET', orders, unpack(ids)) end
local function is_reserved(hold) return hold and string.sub(hold, 1, 1) == 'r' end

if count > 0 then
  local ids, queued = {unpack(ARGV, 2, count + 1)}, {}
  for i, hold in ipairs(holds_of(ids)) do
    if is_reserved(hold) then
      queued[#queued + 1] = ids[i]
      queued[#queued + 1] = 'q' .. string.sub(hold, 2)
    end
  end
  if #queued > 0 then redis.call('HSET', orders, unpack(queued)) end
end

local removed = 0
for at = count + 2, #ARGV do
  local entry = redis.call('XRANGE', outbox, ARGV[at], ARGV[at])[1]
  if entry then
    local packed, ids, waits = entry[2][4], {}, false
    for i = 1, #packed, 16 do ids[#ids + 1] = string.sub(packed, i, i + 15) end
    for _, hold in ipairs(holds_of(ids)) do waits = waits or is_reserved(hold) end
    if not waits then
      removed = removed + redis.call('XDEL', outbox, ARGV[at])
      if redis.call('EXISTS', outbox_orders) == 1 then redis.call('DECRBY', outbox_orders, #ids) end
    end
  end
end
return removed
