-- wrk: people who look at their orders and at sales, for benches/run. Which they look at follows Zipf's law.
--
--   wrk … -s benches/browse.lua URL -- ORDERS SALES EXPONENT RATE
-- ORDERS has a line "token path" for each order, SALES a line "path" for each sale; the first are looked at most. Every
-- other look is at an order. RATE is in requests per second, 0 for as many as are answered; the generator waits by
-- being busy, so that it is awake at every answer. Prints one line of JSON.

dofile('benches/paced.lua')

local orders, sales = {}, {}
local is_order = false

-- Adds how often the first, the first two, … are looked at.
local function ranked(looks, exponent)
  local sum = 0
  looks.upto = {}
  for rank = 1, #looks do
    sum = sum + rank ^ -exponent
    looks.upto[rank] = sum
  end
end

local function drawn(looks)
  local wanted, low, high = math.random() * looks.upto[#looks], 1, #looks
  while low < high do
    local middle = math.floor((low + high) / 2)
    if looks.upto[middle] < wanted then low = middle + 1 else high = middle end
  end
  return looks[low]
end

function init(args)
  for line in io.lines(args[1]) do
    local token, path = line:match('^(%S+) (%S+)$')
    orders[#orders + 1] = wrk.format('GET', path, { ['Authorization'] = 'Bearer ' .. token })
  end
  for path in io.lines(args[2]) do
    sales[#sales + 1] = wrk.format('GET', path)
  end
  ranked(orders, tonumber(args[3]))
  ranked(sales, tonumber(args[3]))
  math.randomseed(os.time())
  pace(tonumber(args[4]))
end

function request()
  wait()
  is_order = not is_order
  return drawn(is_order and orders or sales)
end
