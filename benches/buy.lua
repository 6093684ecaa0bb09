-- wrk: clicks of many buyers, one after another, for benches/run. All requests are made before the first is
-- sent, so that the generator costs the same whatever it asks.
--
--   wrk … -s benches/buy.lua URL -- FILE PATH BODY RATE
-- FILE has a line "token key" for each buyer. RATE is in requests per second, 0 for as many as are answered; the
-- generator waits by being busy, so that it is awake at every answer. Prints one line of JSON.

local requests = {}
local last = 0
local pause, due = 0, 0

function init(args)
  for line in io.lines(args[1]) do
    local token, key = line:match('^(%S+) (%S+)$')
    requests[#requests + 1] = wrk.format('POST', args[2], {
      ['Authorization'] = 'Bearer ' .. token,
      ['Idempotency-Key'] = key,
      ['Content-Type'] = 'application/json',
    }, args[3])
  end
  local rate = tonumber(args[4])
  if rate > 0 then pause = 1 / rate end
end

function request()
  if pause > 0 then
    while os.clock() < due do end
    due = math.max(due, os.clock() - 0.001) + pause
  end
  last = last % #requests + 1
  return requests[last]
end

function done(summary)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"refusals":%d,"failures":%d,"microseconds":%d}\n',
    summary.requests, e.status, e.connect + e.read + e.write + e.timeout, summary.duration))
end
