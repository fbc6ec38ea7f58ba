#!lua name=opscore_v1

-- The server side of redisstore, in the subset of Lua 5.1 that Redis 7.0 and Valkey share.
-- Whoever changes this file raises the version in the three names and in library.go: a function name is global to
-- the server, and an older release of Ops-Core may still be calling it. Note that redis.call does not exist while the
-- library is being loaded.

-- incarnation names the running server. After a restart or a fail-over it is another one, which may lack the last writes. It cannot change while
-- the library is loaded, so it is asked for once. Behind it comes the fence, which is another one after the whole content was replaced.
local running
local function incarnation(fence)
  running = running or redis.call('INFO', 'server'):match('run_id:(%x+)') or ''
  return running .. fence
end

-- commit executes one transaction, or leaves no trace.
--
-- KEYS  documents to put, documents to delete, documents only compared,
--       indexes added to, indexes removed from, logs appended to, logs to delete, the fence
-- ARGV  1  the revision of the transaction
--       2  the incarnation of the store it is for, or '' for any
--       3… seven numbers: how many KEYS stand in each of the seven groups before the fence
--       then, in the order of KEYS
--         document to put         expected revision ('' = absent), data
--         document to delete      expected revision
--         document only compared  expected revision
--         index added to          score, member
--         index removed from      score, member
--         log appended to         cap, data
-- Returns 1  applied, now or by an earlier call: a document to be put already has the revision
--         0  a condition does not hold; nothing was written
--        -1  this is not the incarnation that was meant; nothing was written
--        -2  the store is held: its fence begins with '!'; nothing was written
--
-- Without any document it removes index members that still have the given score, and returns 1.
-- A transaction is never half done: whatever could fail is checked before the first write, and Redis refuses for
-- want of memory, disk or mastership only before a script's first write.
local function commit(keys, argv)
  local call = redis.call
  local rev = argv[1]
  local puts, deletes, compares = tonumber(argv[3]), tonumber(argv[4]), tonumber(argv[5])
  local adds, removes, appends = tonumber(argv[6]), tonumber(argv[7]), tonumber(argv[8])
  local drops = tonumber(argv[9])
  local docs = puts + deletes + compares
  local fenced = table.remove(keys) -- the last one
  if #keys ~= docs + adds + removes + appends + drops or #argv ~= 9 + docs + puts + 2 * (adds + removes + appends) then
    return redis.error_reply('ERR opscore: KEYS and ARGV do not match')
  end

  local fence = call('GET', fenced) or ''
  if fence:byte(1) == 33 then return -2 end
  if argv[2] ~= '' and argv[2] ~= incarnation(fence) then return -1 end

  local holds, a = true, 10
  for k = 1, puts do
    local have = call('HGET', keys[k], 'r') or ''
    if have == rev then return 1 end
    if have ~= argv[a] then holds = false end
    a = a + 2
  end
  if not holds then return 0 end
  for k = puts + 1, docs do
    if (call('HGET', keys[k], 'r') or '') ~= argv[a] then return 0 end
    a = a + 1
  end

  for k = 1, puts do call('HSET', keys[k], 'r', rev, 'd', argv[9 + 2 * k]) end
  for k = puts + 1, puts + deletes do call('DEL', keys[k]) end
  for k = docs + 1, docs + adds do
    call('ZADD', keys[k], argv[a], argv[a + 1])
    a = a + 2
  end
  for k = docs + adds + 1, docs + adds + removes do
    if puts > 0 or tonumber(call('ZSCORE', keys[k], argv[a + 1]) or -1) == tonumber(argv[a]) then
      call('ZREM', keys[k], argv[a + 1])
    end
    a = a + 2
  end
  local k = docs + adds + removes + 1
  while k <= #keys - drops do -- entries of one log that follow each other go in together
    local log, cap, entries = keys[k], argv[a], {}
    repeat
      entries[#entries + 1] = argv[a + 1]
      k, a = k + 1, a + 2
    until k > #keys - drops or keys[k] ~= log or argv[a] ~= cap or #entries == 256
    if call('RPUSH', log, unpack(entries)) > tonumber(cap) then
      call('LTRIM', log, '-' .. cap, -1)
    end
  end
  for d = k, #keys do call('DEL', keys[d]) end
  return 1
end

-- before compares bytes, as sorted sets do. The operator < would compare by the server's locale.
local function before(x, y)
  for i = 1, math.min(#x, #y) do
    local b, c = x:byte(i), y:byte(i)
    if b ~= c then return b < c end
  end
  return #x < #y
end

-- behind returns how many members of the sorted set stand at or before (score, member), in O(log n).
local function behind(key, score, member)
  local low = redis.call('ZCOUNT', key, '-inf', '(' .. score)
  if member == '' then return low end
  if tonumber(redis.call('ZSCORE', key, member) or -1) == tonumber(score) then
    return redis.call('ZRANK', key, member) + 1
  end
  -- The member is gone or moved: search its place among those of equal score.
  local high = redis.call('ZCOUNT', key, '-inf', score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if before(member, redis.call('ZRANGE', key, middle, middle)[1]) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

-- range reads a page of an index in O(log n + limit), however many members share a score.
--
-- KEYS  the sorted set
-- ARGV  score and member of the cursor, highest score, limit (at least 1)
-- Returns member, score, member, score, … of the members that stand behind the cursor
local function range(keys, argv)
  local first = behind(keys[1], argv[1], argv[2])
  local last = math.min(first + tonumber(argv[4]), redis.call('ZCOUNT', keys[1], '-inf', argv[3])) - 1
  if last < first then return {} end
  return redis.call('ZRANGE', keys[1], first, last, 'WITHSCORES')
end

redis.register_function('opscore_v1_commit', commit)
redis.register_function{function_name = 'opscore_v1_range', callback = range, flags = {'no-writes'}}
