-- wrk: clicks of many buyers, one after another, for benches/run. All requests are made before the first is
-- sent, so that the generator costs the same whatever it asks.
--
--   wrk … -s benches/buy.lua URL -- FILE PATH BODY RATE
-- FILE has a line "token key" for each buyer. RATE is in requests per second, 0 for as many as are answered; the
-- generator waits by being busy, so that it is awake at every answer. Prints one line of JSON.

dofile('benches/paced.lua')

local requests = {}
local last = 0

function init(args)
  for line in io.lines(args[1]) do
    local token, key = line:match('^(%S+) (%S+)$')
    requests[#requests + 1] = wrk.format('POST', args[2], {
      ['Authorization'] = 'Bearer ' .. token,
      ['Idempotency-Key'] = key,
      ['Content-Type'] = 'application/json',
    }, args[3])
  end
  pace(tonumber(args[4]))
end

function request()
  wait()
  last = last % #requests + 1
  return requests[last]
end
