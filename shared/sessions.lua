-- Append one click to one user's session and return the session's last items, oldest first.
-- Appending a click that is already held changes nothing and returns the history as it was
-- when that click was first applied. One key, so it also runs on Redis Cluster.
--
-- KEYS[1]  list of entries, oldest first
-- ARGV     event digest (8 bytes), item id, timestamp ms, gap ms (0 = never), ttl s,
--          history length, entries kept
-- An entry is: digest (8 bytes) | items in its history (1 byte) | session clock ms (double) | item.
local digest, item, timestamp = ARGV[1], ARGV[2], tonumber(ARGV[3])
local gap, ttl = tonumber(ARGV[4]), tonumber(ARGV[5])
local history_length, keep = tonumber(ARGV[6]), tonumber(ARGV[7])

local entries = redis.call('LRANGE', KEYS[1], 0, -1)

local function history_at(position)
  local items = {}
  for i = math.max(1, position - string.byte(entries[position], 9) + 1), position do
    items[#items + 1] = string.sub(entries[i], 18)
  end
  return items
end

for position = #entries, 1, -1 do
  if string.sub(entries[position], 1, 8) == digest then
    return history_at(position)
  end
end

local length, clock = 1, timestamp
if #entries > 0 then
  local last_length, last_clock = struct.unpack('>Bd', string.sub(entries[#entries], 9, 17))
  if not (gap > 0 and timestamp - last_clock > gap) then
    length = math.min(last_length + 1, history_length)
  end
  clock = math.max(last_clock, timestamp)
end
entries[#entries + 1] = digest .. struct.pack('>Bd', length, clock) .. item
redis.call('RPUSH', KEYS[1], entries[#entries])
redis.call('LTRIM', KEYS[1], -keep, -1)
redis.call('EXPIRE', KEYS[1], ttl)
return history_at(#entries)
