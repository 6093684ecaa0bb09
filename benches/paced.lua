-- wrk: what the scripts of benches/run have in common. They are started in the folder of the repository.

local pause, due = 0, 0

-- Says how many requests are sent a second; 0 for as many as are answered.
function pace(rate)
  if rate > 0 then pause = 1 / rate end
end

-- Waits until the next request is due. The generator waits by being busy, so that it is awake at every answer.
function wait()
  if pause > 0 then
    while os.clock() < due do end
    due = math.max(due, os.clock() - 0.001) + pause
  end
end

-- Prints one line of JSON.
function done(summary)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"refusals":%d,"failures":%d,"microseconds":%d}\n',
    summary.requests, e.status, e.connect + e.read + e.write + e.timeout, summary.duration))
end
