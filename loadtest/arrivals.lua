-- As wrk.lua, at a given rate, for loadtest/arrivals.py.
-- Arguments: mean pause in ms, seed, seconds to leave out, connections, the photos' files.

local ffi = require("ffi")
ffi.cdef("struct instant { long s, ns; }; int clock_gettime(int, struct instant *);")
dofile(debug.getinfo(1, "S").source:match("^@(.*)arrivals%.lua$") .. "wrk.lua")
local wrk_setup, wrk_init, wrk_request, wrk_response, wrk_done = setup, init, request, response, done
local workers, instant = {}, ffi.new("struct instant")
local MONOTONIC = 1

local function now()  -- in microseconds
   ffi.C.clock_gettime(MONOTONIC, instant)
   return tonumber(instant.s) * 1e6 + tonumber(instant.ns) / 1e3
end

function setup(thread)
   table.insert(workers, thread)
   wrk_setup(thread)
end

function init(words)
   mean_ms = tonumber(table.remove(words, 1))
   math.randomseed(tonumber(table.remove(words, 1)))
   left_out = tonumber(table.remove(words, 1)) * 1e6
   out, took, opened, number, begun = {}, {}, 0, 0, now()
   connections = tonumber(table.remove(words, 1))
   wrk_init(words)
   hello = wrk.format("GET", "/health/live", {})
end

-- A connection that says nothing at first holds a thread of the service, as a slow sender does. So each begins with a small
-- request at once. Pauses of many connections, exponentially distributed, are then arrivals at Poisson times.
function delay()
   opened = opened + 1
   if opened <= connections then return 0 end
   return math.floor(0.5 - mean_ms * math.log(1 - math.random()))
end

local greeted = 0

function request()
   if greeted < connections then
      greeted = greeted + 1
      return hello
   end
   number = number + 1
   local id = "arrival-" .. number  -- comes back with the answer, for wrk doesn't say which request an answer belongs to
   out[id] = now()
   return (wrk_request():gsub("\r\n\r\n", "\r\nX-Request-Id: " .. id .. "\r\n\r\n", 1))
end

function response(status, headers, body)
   local id = headers["X-Request-Id"]
   local start = id and out[id]
   if not start then
      if status ~= 200 then wrk_response(status, headers, body) end
      return
   end
   out[id] = nil
   wrk_response(status, headers, body)
   if start - begun >= left_out then table.insert(took, now() - start) end
end

-- Percentiles of what began after the greetings; what is still out counts where it waited for longer than p99 already.
function done(summary, latency, rates)
   local all, waiting, ending, beginning = {}, {}, now(), math.huge
   for _, thread in ipairs(workers) do
      local skipped = thread:get("begun") + thread:get("left_out")
      beginning = math.min(beginning, skipped)
      for _, each in ipairs(thread:get("took")) do table.insert(all, each) end
      for _, start in pairs(thread:get("out")) do
         if start >= skipped then table.insert(waiting, ending - start) end
      end
   end
   local answered = #all
   table.sort(all)
   local function place(share) return all[math.max(1, math.ceil(#all * share / 100))] end
   local late = place(99) or 0
   for _, each in ipairs(waiting) do
      if each > late then table.insert(all, each) end
   end
   table.sort(all)
   local seen = {percentile = function(_, share) return place(share) end, max = all[#all] or 0}
   wrk_done({duration = ending - beginning, requests = answered, errors = summary.errors}, seen, rates)
end
