-- Append clicks of one user to the session, in order; returns the history of each click, oldest item
-- first. Idempotent: a click that the list still holds is not appended again, and gets the history
-- of its first append. A replayed click that the list no longer holds with its whole history gets an
-- empty one. The script uses one key, so it also runs on Redis Cluster; all clicks of a user are in
-- one call, so that a click is never appended without those before it. A value at the key that is
-- not a session (a foreign or damaged value) is replaced.
--
-- KEYS[1]  list: the fence, then entries, oldest first
-- ARGV     gap ms (0 = never), ttl s, history length, entries kept, most entries that anybody keeps,
--          newest entries that a replayed click is looked for in, entries to return (0: histories),
--          1 to write or 0 to change nothing and only return what writing would; then for each click
--          event digest (8 bytes), item id, timestamp ms, partition and offset (-1 = not from
--          Kafka), 1 if the item was bought, else 0
-- The fence is the position of the newest entry: partition (4 bytes) | offset (double).
-- An entry is: digest (8 bytes) | history length (1 byte; and 128 if the item was bought) |
--              session clock ms (double) | item.
-- Returns     1 if a foreign value was replaced, else 0; the number of clicks that came on another
--             partition than the click before them; then for each click its history, or one string
--             of so many entries that end with its own, each after its length (2 bytes): it is
--             parsed much faster than as many strings
local gap, ttl = tonumber(ARGV[1]), tonumber(ARGV[2])
local history_length, keep, longest = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local searched, entries_returned = tonumber(ARGV[6]), tonumber(ARGV[7])
local writes = ARGV[8] == '1'

local function is_session(list)
  if #list == 0 then return true end
  if #list == 1 or #list > longest + 1 or #list[1] ~= 12 then return false end
  for i = 2, #list do
    if #list[i] < 18 then return false end
  end
  local length, clock = struct.unpack('>Bd', string.sub(list[#list], 9, 17))
  length = length % 128
  return length >= 1 and length <= history_length and clock >= 0 and clock <= 2^53  -- no NaN
end

-- Reads one element more than a session can have, so that a huge foreign list is not read whole.
local list = redis.pcall('LRANGE', KEYS[1], 0, longest + 1)
local wrong_type = list.err ~= nil and string.find(list.err, 'WRONGTYPE', 1, true)
if list.err and not wrong_type then
  return redis.error_reply(list.err)
end
local replaced, moved = 0, 0
if wrong_type or not is_session(list) then
  if writes then
    redis.call('EXPIRE', KEYS[1], 0)  -- deletes the key without the permission for DEL
  end
  list, replaced = {}, 1
end

local function history_at(position)
  local items = {}
  local first = position - string.byte(list[position], 9) % 128 + 1
  if first > 1 and entries_returned > 0 then
    for i = math.max(2, position - entries_returned + 1), position do
      items[#items + 1] = struct.pack('>H', #list[i]) .. list[i]
    end
  elseif first > 1 then
    for i = first, position do
      items[#items + 1] = string.sub(list[i], 18)
    end
  end
  return entries_returned > 0 and table.concat(items) or items
end

local function append(digest, item, timestamp, partition, offset, bought)
  local newest = #list
  for position = newest, math.max(2, newest - searched + 1), -1 do
    if string.sub(list[position], 1, 8) == digest then
      return history_at(position)
    end
  end

  local length, clock = 1, timestamp
  if newest > 1 then
    local last_length, last_clock = struct.unpack('>Bd', string.sub(list[newest], 9, 17))
    local last_partition, last_offset = struct.unpack('>i4d', list[1])
    -- A click behind the fence was appended before, and the clock includes its time. If it is newer
    -- than the clock, it is not a replay: the topic was recreated, and its offsets restarted at 0.
    if partition == last_partition and offset <= last_offset and offset >= 0
      and timestamp <= last_clock then
      return entries_returned > 0 and '' or {}
    end
    if partition ~= last_partition and partition >= 0 and last_partition >= 0 then
      moved = moved + 1
    end
    if not (gap > 0 and timestamp - last_clock > gap) then
      length = math.min(last_length % 128 + 1, history_length)
    end
    clock = math.max(last_clock, timestamp)
  end

  local fence = struct.pack('>i4d', partition, offset)
  local entry = digest .. struct.pack('>Bd', length + 128 * bought, clock) .. item
  local dropped = math.max(0, newest - keep)
  if writes then
    if newest == 0 then
      redis.call('RPUSH', KEYS[1], fence)
    else  -- the oldest entries are dropped: the fence takes the place of the last of them
      redis.call('LSET', KEYS[1], dropped, fence)
      if dropped > 0 then redis.call('LPOP', KEYS[1], dropped) end
    end
    redis.call('RPUSH', KEYS[1], entry)
    redis.call('EXPIRE', KEYS[1], ttl)
  end
  list[1] = fence
  for _ = 1, dropped do table.remove(list, 2) end
  list[#list + 1] = entry
  return history_at(#list)
end

local histories = {replaced, 0}
for i = 9, #ARGV, 6 do
  histories[#histories + 1] = append(
    ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]),
    tonumber(ARGV[i + 5]))
end
histories[2] = moved
return histories
