-- Adds records to a stream: all of them, in order, or those that it has not had.
--
-- KEYS: the stream; the relay's state beside it (a hash); two sets with the ids of its last records.
-- ARGV: the call before this one; this call; how many ids a set holds; how long the stream may be
-- (0: any length); what may be trimmed; then, per record: its id, how many arguments follow, its fields.

local state = redis.call('HMGET', KEYS[2], 'chain', 'young')
-- The call before this one was not carried out, or another session has begun.
if state[1] ~= ARGV[1] then
  return {-1, state[1] or ''}
end

local young, old = KEYS[3], KEYS[4]
if state[2] == 'b' then
  young, old = old, young
end

local ids, from, at = {}, {}, 6
while ARGV[at] do
  ids[#ids + 1] = ARGV[at]
  from[#from + 1] = at + 2
  at = at + 2 + ARGV[at + 1]
end
from[#from + 1] = at + 2

local in_young = redis.call('SMISMEMBER', young, unpack(ids))
local in_old = redis.call('SMISMEMBER', old, unpack(ids))
local fresh, seen, refused = {}, {}, nil
for i, id in ipairs(ids) do
  if in_young[i] == 0 and in_old[i] == 0 and not seen[id] then
    local added = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, from[i], from[i + 1] - 3))
    if type(added) == 'table' and added.err then
      refused = added
      break
    end
    seen[id] = true
    fresh[#fresh + 1] = id
  end
end

-- Also if one was refused: what was added is in the stream.
if #fresh > 0 then
  if redis.call('SCARD', young) >= tonumber(ARGV[3]) then
    redis.call('UNLINK', old)
    young, old = old, young
    redis.call('HSET', KEYS[2], 'young', young == KEYS[3] and 'a' or 'b')
  end
  redis.call('SADD', young, unpack(fresh))
end
if refused then
  return refused
end
redis.call('HSET', KEYS[2], 'chain', ARGV[2])

local limit = tonumber(ARGV[4])
if limit > 0 then
  local excess = redis.call('XLEN', KEYS[1]) - limit
  -- Whole nodes are trimmed, of about a hundred entries.
  if excess >= 100 then
    local groups = ARGV[5] == 'force' and {} or redis.call('XINFO', 'GROUPS', KEYS[1])
    local oldest, oldest_ms, oldest_seq = nil, 0, 0
    for _, group in ipairs(groups) do
      local facts = {}
      for i = 1, #group, 2 do
        facts[group[i]] = group[i + 1]
      end
      local needed = facts['last-delivered-id']
      if facts['pending'] > 0 then
        needed = redis.call('XPENDING', KEYS[1], facts['name'])[2]
      end
      local ms, seq = string.match(needed, '^(%d+)-(%d+)$')
      ms, seq = tonumber(ms), tonumber(seq)
      if not oldest or ms < oldest_ms or (ms == oldest_ms and seq < oldest_seq) then
        oldest, oldest_ms, oldest_seq = needed, ms, seq
      end
    end
    if oldest then
      redis.call('XTRIM', KEYS[1], 'MINID', '~', oldest, 'LIMIT', excess)
    else
      redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', limit)
    end
  end
end
return {#fresh, #ids - #fresh}
