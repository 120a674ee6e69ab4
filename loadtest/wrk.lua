-- What wrk sends and counts, for loadtest/wrk.py: photos as raw bodies, in rotation.
-- Arguments: skip=SECONDS, if answers of the first seconds are to be counted apart; the photos' files.

local ffi = require("ffi")
ffi.cdef("struct moment { long s, us; }; int gettimeofday(struct moment *, void *);")
local threads, moment, begun = {}, ffi.new("struct moment"), 0

local function now()  -- in microseconds
   ffi.C.gettimeofday(moment, nil)
   return tonumber(moment.s) * 1e6 + tonumber(moment.us)
end

function setup(thread)
   thread:set("place", #threads)  -- each thread begins with another photo
   table.insert(threads, thread)
end

function init(files)
   sent, refused, wrong, early, skipped, first = 0, 0, 0, 0, 0, ""
   local seconds = (files[1] or ""):match("^skip=(%d+)$")
   if seconds then skipped = table.remove(files, 1) and tonumber(seconds) * 1e6 end
   requests = {}
   wrk.method = "POST"
   wrk.headers["Content-Type"] = wrk.headers["Content-Type"] or "application/octet-stream"
   for _, name in ipairs(files) do
      local file = assert(io.open(name, "rb"))
      table.insert(requests, wrk.format(nil, nil, nil, file:read("*all")))  -- once: later a request is one look-up
      file:close()
   end
   begun = now()
end

-- One counter for all connections of a thread: whichever is free takes the next photo, so that no two move in step.
function request()
   sent, place = sent + 1, place % #requests + 1
   return requests[place]
end

function response(status, headers, body)
   if status < 200 or status > 299 then
      refused = refused + 1
   elseif not body:find('"predictions"', 1, true) then
      wrong = wrong + 1
   else
      if skipped > 0 and now() - begun < skipped then early = early + 1 end
      return
   end
   if first == "" then first = status .. " " .. body:sub(1, 300) end
end

local function quoted(text)
   return '"' .. text:gsub('[%c"\\\128-\255]', function(one) return string.format("\\u%04x", one:byte()) end) .. '"'
end

-- The last line of the output: durations in microseconds.
function done(summary, latency, rates)
   local total, words = {sent = -1, refused = 0, wrong = 0, early = 0}, ""  -- wrk asks for one request at the start and drops it
   for _, thread in ipairs(threads) do
      for name, so_far in pairs(total) do total[name] = so_far + thread:get(name) end
      if words == "" then words = thread:get("first") end
   end
   local parts = {}
   local function put(name, value) table.insert(parts, string.format('"%s": %.0f', name, value)) end
   put("duration", summary.duration)
   put("skipped", threads[1]:get("skipped"))
   put("requests", summary.requests)
   for name, value in pairs(total) do put(name, value) end
   for name, value in pairs(summary.errors) do put(name, value) end
   if summary.requests > 0 then
      for _, share in ipairs({50, 90, 95, 99}) do put("p" .. share, latency:percentile(share)) end
      put("longest", latency.max)
   end
   print("\n{" .. table.concat(parts, ", ") .. ', "first": ' .. quoted(words) .. "}")
end
