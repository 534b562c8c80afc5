"""The Lua scripts that the server runs: what has to be one step, and pages as one answer.

Those of consumers may run at the memory limit (`allow-oom`): what a consumer passes is what can be deleted.
"""

import hashlib

__all__ = ["APPEND", "COMMIT", "KEEP", "LAG", "LEAD", "PAGE", "PLACE", "PRUNE", "RELEASE", "STATE", "Script"]


class Script:
    """A script's text, and the digest by which the server knows it."""

    def __init__(self, flags: str, *parts: str) -> None:
        self.text = (f"#!lua flags={flags}\n" if flags else "#!lua\n") + "".join(parts)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


# A stream's last id, and the id up to which its entries are gone. What our own pruning deletes is noted, with how many
# have been deleted in all; when more have gone (MAXLEN of another program, XTRIM), that is all before the first one left.
_STATE = """
local function info(key)
  if redis.call('EXISTS', key) == 0 then return nil end
  local got, found = redis.call('XINFO', 'STREAM', key), {}
  for i = 1, #got, 2 do found[got[i]] = got[i + 1] end
  return found
end
local function before(id)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  if seq ~= '0' then return string.format('%s-%.0f', ms, tonumber(seq) - 1) end
  return string.format('%.0f-1048575', tonumber(ms) - 1)
end
local function state(key, notes, stream)
  local gone, counted = string.match(redis.call('HGET', notes, stream) or '0-0 0', '(%S+) (%d+)')
  local found = info(key)
  if not found then return {'0-0', gone} end
  local removed, last = found['entries-added'] - found['length'], found['last-generated-id']
  if removed ~= tonumber(counted) then
    if removed > tonumber(counted) then
      gone = found['length'] == 0 and last or before(found['recorded-first-entry-id'])
    end
    redis.call('HSET', notes, stream, gone .. ' ' .. string.format('%.0f', removed))
  end
  return {last, gone}
end
"""

# KEYS: stream, notes. ARGV: the stream's name.
STATE = Script("allow-oom", _STATE, "return state(KEYS[1], KEYS[2], ARGV[1])")

# KEYS: stream, notes. ARGV: the stream's name, behind which id, most entries, most bytes, 'apart' or ''.
# Gives one text, since a client takes long to read many small answers: a line of ids, one with the id up to which
# entries are gone, and the events as JSON; 'apart', the ids as one text, and the events one by one. An entry that another
# program has made of other fields is an object of them.
PAGE = Script(
    "allow-oom",
    _STATE,
    """
local ids, texts, bytes = {}, {}, 0
local from, left, most = '(' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
while left > 0 and bytes < most do
  local asked = math.min(left, 50)
  local got = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', asked)
  for _, entry in ipairs(got) do
    local fields, text = entry[2], nil
    if #fields == 2 and fields[1] == 'event' then
      text = fields[2]
    else
      local value = {}
      for i = 1, #fields, 2 do value[fields[i]] = fields[i + 1] end
      text = cjson.encode(value)
    end
    ids[#ids + 1], texts[#texts + 1], bytes = entry[1], text, bytes + #text
  end
  if #got < asked then break end
  from, left = '(' .. ids[#ids], left - asked
end
local line = table.concat(ids, ' ')
if ARGV[5] == 'apart' then return {line, texts} end
return table.concat({line, state(KEYS[1], KEYS[2], ARGV[1])[2], '[' .. table.concat(texts, ',') .. ']'}, '\\n')
""",
)

# KEYS: stream, notes. ARGV: the stream's name, behind which id, how many are counted.
# Beyond those it is estimated by the times in the ids: an exact count would hold up the server.
LAG = Script(
    "no-writes",
    _STATE,
    """
local count, from, most = 0, '(' .. ARGV[2], tonumber(ARGV[3])
while count < most do
  local got = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 50)
  count = count + #got
  if #got < 50 then return count end
  from = '(' .. got[50][1]
end
local found = info(KEYS[1])
local function at(id) return tonumber(string.match(id, '^%d+')) end
local first, last = at(found['recorded-first-entry-id']), at(found['last-generated-id'])
local share = (last - math.max(at(ARGV[2]), first)) / math.max(last - first, 1)
return math.min(found['length'], math.max(count, math.floor(found['length'] * share)))
""",
)

# A consumer's place is the last id of its group. It reads alone and in order, so nothing has to be pending.
_PLACE = """
local function place(key, group)
  if redis.call('EXISTS', key) == 0 then return false end
  for _, got in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local found = {}
    for i = 1, #got, 2 do found[got[i]] = got[i + 1] end
    if found['name'] == group then return found['last-delivered-id'] end
  end
  return false
end
"""

# KEYS: stream. ARGV: group.
PLACE = Script("no-writes", _PLACE, "return place(KEYS[1], ARGV[1])")

# KEYS: lease. ARGV: owner, milliseconds.
LEAD = Script("allow-oom", "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0")
KEEP = Script("allow-oom", "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0")
RELEASE = Script("allow-oom", "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0")

# KEYS: those that ARGV[1] names by number, then the dead letters and their counter. ARGV[1]: JSON of
# `leases` [[key, owner]], `places` [[key, group, before, after]], `letters` [text]. All or nothing.
COMMIT = Script(
    "allow-oom",
    _PLACE,
    """
local work = cjson.decode(ARGV[1])
for _, lease in ipairs(work.leases) do
  if redis.call('GET', KEYS[lease[1]]) ~= lease[2] then return 0 end
end
for _, moved in ipairs(work.places) do
  if place(KEYS[moved[1]], moved[2]) ~= moved[3] then return 0 end
end
for _, moved in ipairs(work.places) do redis.call('XGROUP', 'SETID', KEYS[moved[1]], moved[2], moved[4]) end
for _, text in ipairs(work.letters) do
  redis.call('HSET', KEYS[#KEYS - 1], redis.call('INCR', KEYS[#KEYS]), text)
end
return 1
""",
)

# A stream's ids grow within one millisecond while the server's clock is behind; offsets have 20 bits for that.
_STEP = """
local function step(key, id)
  if #id > 20 then
    redis.call('XSETID', key, string.format('%.0f-0', tonumber(string.match(id, '^%d+')) + 1))
  end
end
"""

# KEYS: stream, what was forwarded. ARGV: relay, what is expected there ('' for nothing), what is there afterwards,
# then the events, a line each (JSON has no line breaks), many in one text: a client takes long to send many small ones.
# Gives 0 when another was there.
APPEND = Script(
    "",
    _STEP,
    """
if (redis.call('HGET', KEYS[2], ARGV[1]) or '') ~= ARGV[2] then return 0 end
local stream, add = KEYS[1], redis.call
for i = 4, #ARGV do
  for text in string.gmatch(ARGV[i], '[^\\n]+') do step(stream, add('XADD', stream, '*', 'event', text)) end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return 1
""",
)

# KEYS: stream, notes. ARGV: the stream's name, most age in milliseconds or '', most entries or '', 1 to keep what a
# group has not passed, how many at once. Gives how many were deleted.
PRUNE = Script(
    "allow-oom",
    _STATE,
    """
local found = info(KEYS[1])
if not found or found['length'] == 0 then return 0 end
local function parts(id)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  return tonumber(ms), tonumber(seq)
end
local function is_behind(one, other)
  local ms, seq = parts(one)
  local other_ms, other_seq = parts(other)
  return ms > other_ms or (ms == other_ms and seq > other_seq)
end
local passed
for _, got in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #got, 2 do group[got[i]] = got[i + 1] end
  local at = group['last-delivered-id']
  if not passed or is_behind(passed, at) then passed = at end
end
local age, most = tonumber(ARGV[2]), tonumber(ARGV[3])
if not age and not most and not passed then return 0 end -- nobody has passed anything
local now = redis.call('TIME')
local before = age and now[1] * 1000 + math.floor(now[2] / 1000) - age
local last, count = nil, 0
for number, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[5])) do
  local id = entry[1]
  local is_old = before and parts(id) < before
  local is_too_many = most and found['length'] - number >= most
  if not (is_old or is_too_many or not (age or most)) then break end
  if ARGV[4] == '1' and passed and is_behind(id, passed) then break end
  last, count = id, number
end
if not last then return 0 end
local ms, seq = string.match(last, '(%d+)-(%d+)')
redis.call('XTRIM', KEYS[1], 'MINID', '=', string.format('%s-%.0f', ms, tonumber(seq) + 1))
found = info(KEYS[1])
redis.call('HSET', KEYS[2], ARGV[1], last .. ' ' .. string.format('%.0f', found['entries-added'] - found['length']))
return count
""",
)
