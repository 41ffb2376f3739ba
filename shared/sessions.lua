-- Append one click to one user's session and return the session's last items, oldest first.
-- Appending a click that is already held changes nothing and returns the history as it was
-- when that click was first applied. A click that was applied before and is not held with its
-- whole history any more returns nothing. One key, so it also runs on Redis Cluster.
--
-- KEYS[1]  list: the fence, then entries, oldest first
-- ARGV     event digest (8 bytes), item id, timestamp ms, gap ms (0 = never), ttl s,
--          history length, entries kept, partition and offset of the click (-1 = of no topic)
-- The fence is where the newest entry lay: partition (4 bytes) | offset (double).
-- An entry is: digest (8 bytes) | items in its history (1 byte) | session clock ms (double) | item.
local digest, item, timestamp = ARGV[1], ARGV[2], tonumber(ARGV[3])
local gap, ttl = tonumber(ARGV[4]), tonumber(ARGV[5])
local history_length, keep = tonumber(ARGV[6]), tonumber(ARGV[7])
local partition, offset = tonumber(ARGV[8]), tonumber(ARGV[9])

local list = redis.call('LRANGE', KEYS[1], 0, -1)
local newest = #list

local function history_at(position)
  local items = {}
  local first = position - string.byte(list[position], 9) + 1
  if first > 1 then
    for i = first, position do
      items[#items + 1] = string.sub(list[i], 18)
    end
  end
  return items
end

for position = newest, 2, -1 do
  if string.sub(list[position], 1, 8) == digest then
    return history_at(position)
  end
end

local length, clock = 1, timestamp
if newest > 1 then
  local last_length, last_clock = struct.unpack('>Bd', string.sub(list[newest], 9, 17))
  local last_partition, last_offset = struct.unpack('>i4d', list[1])
  -- What lies behind the fence was seen then, and its time is in the clock. A click that is newer
  -- than the clock is no repetition: the topic was made anew and counts from 0 again.
  if partition == last_partition and offset <= last_offset and offset >= 0
    and timestamp <= last_clock then
    return {}
  end
  if not (gap > 0 and timestamp - last_clock > gap) then
    length = math.min(last_length + 1, history_length)
  end
  clock = math.max(last_clock, timestamp)
end

local fence = struct.pack('>i4d', partition, offset)
if newest == 0 then
  redis.call('RPUSH', KEYS[1], fence)
elseif newest > keep then  -- the oldest entry makes room: the fence takes its place
  redis.call('LSET', KEYS[1], 1, fence)
  redis.call('LPOP', KEYS[1])
else
  redis.call('LSET', KEYS[1], 0, fence)
end
local entry = digest .. struct.pack('>Bd', length, clock) .. item
redis.call('RPUSH', KEYS[1], entry)
redis.call('EXPIRE', KEYS[1], ttl)
newest = math.max(newest, 1) + 1
list[newest] = entry
return history_at(newest)
